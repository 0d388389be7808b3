"""Plans: what `fit_one_cycle`, `fit_flat_cos` and `fine_tune` make of an optimizer spec. Plain data, no devices.

A plan replaces rate, momentum and frozen layers for its own steps only, and counts the steps of the state: a run that
is killed and started again makes the same plan, and goes on in the middle of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Literal, get_args

from crosstrain.data.phases import Batches
from crosstrain.errors import ConfigError, require_count
from crosstrain.optim import LayerGroup, OptimizerSpec, Role
from crosstrain.schedules import (
    Override,
    Schedule,
    as_schedule,
    flat_cos,
    one_cycle,
    one_cycle_momentum,
    smith_one_cycle,
    smith_one_cycle_momentum,
    torch_one_cycle,
    torch_one_cycle_momentum,
)

Form = Literal["fastai", "torch", "smith"]
Rate = float | slice
"""A peak rate; `slice(low, high)` for rates of layer groups from first to last in equal factors, `slice(high)` for
`high` in the last and a tenth of it in the others, as in fastai."""

Momentum = tuple[float, float] | Literal["auto"] | None
"""High and low; `auto` is (0.95, 0.85) where the optimizer has a momentum; None leaves it."""

_RATES: Mapping[Form, Callable[..., Schedule]] = {
    "fastai": one_cycle,
    "torch": torch_one_cycle,
    "smith": smith_one_cycle,
}
_MOMENTA: Mapping[Form, Callable[..., Schedule]] = {
    "fastai": one_cycle_momentum,
    "torch": torch_one_cycle_momentum,
    "smith": smith_one_cycle_momentum,
}
NOT_NORMS: tuple[Role, ...] = ("weight", "bias", "embedding", "experts")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cycle:
    """The shape of one cycle; None takes the form's own default.

    Attributes:
        form: whose parametrisation: `one_cycle`, `torch_one_cycle` or `smith_one_cycle`.
        div: peak / first rate.
        final_div: see the form's schedule.
        pct_start: share of the run spent going up; of `smith` half of its `cycle`.
        momentum: high and low.

    Raises:
        ConfigError: an unknown form, or a momentum that is no pair.
    """

    form: Form = "fastai"
    div: float | None = None
    final_div: float | None = None
    pct_start: float | None = None
    momentum: Momentum = "auto"

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise ConfigError(f"form must be one of {', '.join(get_args(Form))}, got form={self.form!r}.")
        pair = isinstance(self.momentum, tuple | list) and len(self.momentum) == 2
        if not (pair or self.momentum in ("auto", None)):
            raise ConfigError(f"momentum must be (high, low), 'auto' or None, got momentum={self.momentum!r}.")

    def rate(self, peak: float, steps: int) -> Schedule:
        """The schedule of the rate over `steps` steps."""
        found = {name: each for name in ("div", "final_div") if (each := getattr(self, name)) is not None}
        return _RATES[self.form](peak, steps, **found, **self._start())

    def momenta(self, optimizer: OptimizerSpec, steps: int) -> Schedule | None:
        """The schedule of the momentum; None where it stays as it is."""
        if self.momentum is None or (self.momentum == "auto" and optimizer.momentum_value is None):
            return None
        high, low = (0.95, 0.85) if self.momentum == "auto" else self.momentum
        return _MOMENTA[self.form](steps, high=high, low=low, **self._start())

    def _start(self) -> dict[str, float]:
        if self.pct_start is None:
            return {}
        return {"cycle": 2.0 * self.pct_start} if self.form == "smith" else {"pct_start": self.pct_start}


def one_cycle_plan(
    optimizer: OptimizerSpec, max_lr: Rate, cycle: Cycle, layers: Sequence[str], start: int, steps: int
) -> OptimizerSpec:
    """fastai's `fit_one_cycle` for `steps` steps from `start`; `layers` as in `Trainer`."""
    if not isinstance(cycle, Cycle):
        raise ConfigError(
            f"cycle must be a Cycle or None, got cycle={cycle!r}. Use for example ct.Cycle(form='torch')."
        )
    peak, scales = layer_rates(max_lr, layers)
    planned = _with_layers(optimizer, layers, scales, start)
    return _during(planned, start, steps, cycle.rate(peak, steps), cycle.momenta(optimizer, steps))


def flat_cos_plan(
    optimizer: OptimizerSpec,
    learning_rate: Rate,
    layers: Sequence[str],
    start: int,
    steps: int,
    *,
    final_div: float,
    pct_start: float,
) -> OptimizerSpec:
    """fastai's `fit_flat_cos` for `steps` steps from `start`."""
    peak, scales = layer_rates(learning_rate, layers)
    planned = _with_layers(optimizer, layers, scales, start)
    return _during(planned, start, steps, flat_cos(peak, steps, final_div=final_div, pct_start=pct_start), None)


def fine_tune_plan(
    optimizer: OptimizerSpec,
    base_lr: float,
    layers: Sequence[str],
    start: int,
    steps: tuple[int, int],
    *,
    lr_mult: float,
    pct_start: float,
    div: float,
) -> OptimizerSpec:
    """fastai's `fine_tune`: `steps[0]` steps of the last layer group (and of norms) alone, then `steps[1]` of all.

    What was frozen before learns again.

    Source: fastai's `Learner.fine_tune`: `fit_one_cycle(freeze_epochs, slice(base_lr), pct_start=0.99)`, then with half
    the rate `fit_one_cycle(epochs, slice(base_lr / lr_mult, base_lr), pct_start=pct_start, div=div)`.
    There norms of frozen layer groups learn at a tenth of `base_lr` in the first part; here at their group's share of
    the rate, in both parts.
    """
    require_several(layers, "to fine-tune")
    if not (isinstance(base_lr, Real) and lr_mult > 0):
        raise ConfigError(
            f"base_lr must be a number and lr_mult above 0, got base_lr={base_lr!r} and lr_mult={lr_mult}. "
            "The rates of layers are base_lr / lr_mult to base_lr."
        )
    middle = start + steps[0]
    _, scales = layer_rates(slice(1.0 / lr_mult, 1.0), layers)
    past = tuple(past for group in optimizer.layers if (past := group.history(start)))
    planned = _with_layers(replace(optimizer, layers=past), layers, scales, start)
    frozen = tuple(LayerGroup(match=each, roles=NOT_NORMS, frozen=((start, middle),)) for each in layers[:-1])
    planned = replace(planned, layers=(*planned.layers, *frozen))
    first, second = Cycle(pct_start=0.99), Cycle(pct_start=pct_start, div=div)
    halves = ((first, base_lr, start, steps[0]), (second, base_lr / 2.0, middle, steps[1]))
    for cycle, peak, begin, count in halves:
        planned = _during(planned, begin, count, cycle.rate(peak, count), cycle.momenta(optimizer, count))
    return planned


def require_several(layers: Sequence[str], purpose: str) -> None:
    """Refuses a single layer group, where a first one is to be told from the last.

    Raises:
        ConfigError: says how to name them.
    """
    if len(layers) < 2:
        raise ConfigError(
            f"layers must be at least two groups {purpose}, got layers={tuple(layers)}. "
            "Name them: ct.Trainer(..., layers=(r'^(?!head)', '^head'))."
        )


def cut(optimizer: OptimizerSpec, step: int) -> OptimizerSpec:
    """A plan that ends at `step`, where training stopped before its end."""
    layers = tuple(
        replace(
            group, frozen=tuple((a, b if b is None else min(b, step)) for a, b in group.frozen if b is None or a < step)
        )
        for group in optimizer.layers
    )
    found = replace(optimizer, layers=layers, learning_rate=_cut(optimizer.learning_rate, step))
    momentum = optimizer.momentum_value
    if isinstance(momentum, Override):
        value = _cut(momentum, step)
        found = found.with_momentum(value)
    return found


def give_back(optimizer: OptimizerSpec, before: OptimizerSpec) -> OptimizerSpec:
    """After a plan: layers have the shares of the rate that they had before it; which steps were frozen stays known."""
    frozen = tuple(replace(group, rate_scale=1.0) for group in optimizer.layers if group.frozen)
    shares = tuple(replace(group, frozen=()) for group in before.layers if group.rate_scale != 1.0)
    return replace(optimizer, layers=(*shares, *frozen))


def planned_steps(loader: Batches, epochs: int, first: int, name: str = "epochs") -> int:
    """Optimizer steps of so many passes, from epoch `first` of the loader.

    Raises:
        ConfigError: less than one pass, or a loader without length.
    """
    require_count(name, epochs)
    try:
        return loader.steps(epochs, first)
    except TypeError as error:
        raise ConfigError(
            "the loader must have a length to plan the rates of its steps, got an iterable without. "
            "Use Trainer.fit(steps=...) with a schedule such as ct.one_cycle(rate, steps)."
        ) from error


def layer_rates(rate: Rate, layers: Sequence[str]) -> tuple[float, tuple[float, ...]]:
    """The rate of the last layer group, and every group's share of it.

    Raises:
        ConfigError: no number, or a slice without an end, or with one that is not above 0.
    """
    count = max(len(layers), 1)
    given = [each for each in (rate.start, rate.stop) if each is not None] if isinstance(rate, slice) else [rate]
    if not all(isinstance(each, Real) for each in given):
        raise ConfigError(f"a rate must be a number, slice(high) or slice(low, high), got {rate!r}.")
    if not isinstance(rate, slice):
        return float(rate), (1.0,) * count
    if rate.stop is None or rate.step is not None or not rate.stop > 0 or (rate.start is not None and rate.start <= 0):
        raise ConfigError(f"a rate must be a number, slice(high) or slice(low, high) with both above 0, got {rate}.")
    if rate.start is None:
        return float(rate.stop), (0.1,) * (count - 1) + (1.0,)
    low = rate.start / rate.stop
    return float(rate.stop), tuple(low ** ((count - 1 - index) / max(count - 1, 1)) for index in range(count))


def _with_layers(optimizer: OptimizerSpec, layers: Sequence[str], scales: Sequence[float], start: int) -> OptimizerSpec:
    """The plan's rates of layers in the place of former ones; which steps were frozen stays known, and open ones do."""
    kept = tuple(replace(group, rate_scale=1.0) for group in optimizer.layers if group.frozen)
    new = tuple(
        LayerGroup(match=match, rate_scale=scale) for match, scale in zip(layers, scales, strict=False) if scale != 1.0
    )
    return replace(optimizer, layers=(*kept, *new))


def _during(
    optimizer: OptimizerSpec, start: int, steps: int, rate: Schedule, momentum: Schedule | None
) -> OptimizerSpec:
    end = start + steps
    planned = replace(optimizer, learning_rate=Override(base=optimizer.learning_rate, part=rate, start=start, end=end))
    before = optimizer.momentum_value
    if momentum is None or before is None:
        return planned if momentum is None else planned.with_momentum(momentum)  # which refuses it
    return planned.with_momentum(Override(base=as_schedule(before), part=momentum, start=start, end=end))


def _cut(schedule: Schedule, step: int) -> Schedule:
    if not isinstance(schedule, Override) or schedule.end <= step:
        return schedule
    base = _cut(schedule.base, step)
    if schedule.start >= step:
        return base
    return Override(base=base, part=schedule.part, start=schedule.start, end=step)
