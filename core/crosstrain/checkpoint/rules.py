"""Which checkpoints of a run stay: `Best`, and what rules must be."""

from dataclasses import dataclass
from typing import Literal

from crosstrain.errors import ConfigError, require_count, require_spec


@dataclass(frozen=True, slots=True)
class Best:
    """Which checkpoints are best.

    Attributes:
        metric: a name among the `metrics` of `save`; a value that is not finite is never the best.
        mode: whether the largest or the smallest value is best.
        count: how many are kept.
    """

    metric: str
    mode: Literal["max", "min"] = "min"
    count: int = 1


def require_rules(keep_last: int, keep_every: int | None, keep_best: Best | None) -> None:
    """Refuses rules that cannot decide what stays.

    Raises:
        ConfigError: a count below 1, an unknown mode, or a `keep_best` that is no `Best`.
    """
    require_count("keep_last", keep_last)
    if keep_every is not None:
        require_count("keep_every", keep_every)
    require_spec("keep_best", keep_best, Best, "keep_best=ct.Best('loss')")
    if keep_best is None:
        return
    require_count("count", keep_best.count)
    if keep_best.mode not in ("max", "min"):
        raise ConfigError(f"mode must be 'max' or 'min', got mode={keep_best.mode!r}.")
