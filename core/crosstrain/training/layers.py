"""Layer groups of a trainer: one regular expression each, from the first layers to the last."""

import re
from collections.abc import Iterable, Sequence

from crosstrain.errors import ConfigError
from crosstrain.state import TrainState

_HEADS = ("head", "lm_head", "classifier", "fc")
_NUMBERED = re.compile(r"(.*?)(\d+)\.")


def default_layers(state: TrainState) -> tuple[str, ...]:
    """Everything before the last layer, and the last layer; one group where names do not tell which is the last.

    By names only, since engines order modules in their own ways: the last layer is the only one at the top that is
    called head, lm_head, classifier or fc; or, where all layers are numbered, the one with the highest number.
    """
    names = list(state.parameter_shapes)
    heads = {name.partition(".")[0] for name in names} & set(_HEADS)
    numbered = [_NUMBERED.match(name) for name in names]
    last = next(iter(heads)) if len(heads) == 1 else ""
    if not last and all(numbered) and len({found[1] for found in numbered if found}) == 1:
        last = max((found for found in numbered if found), key=lambda found: int(found[2]))[0].rstrip(".")
    if not last or all(name.startswith(f"{last}.") for name in names):
        return ("",)
    head = re.escape(last) + r"\."
    return (f"^(?!{head})", f"^{head}")


def check_layers(layers: Sequence[str], state: TrainState) -> tuple[str, ...]:
    """The groups as they are.

    Raises:
        ConfigError: no list, an invalid expression, a group without parameters, or a parameter in none or
            several groups.
    """
    if isinstance(layers, str) or not isinstance(layers, Iterable) or not all(isinstance(each, str) for each in layers):
        raise ConfigError(
            f"layers must be a list of regular expressions, got {layers!r}. Use for example ['^(?!fc)', '^fc']."
        )
    for match in layers:
        try:
            found = any(re.search(match, name) for name in state.parameter_shapes)
        except re.error as error:
            raise ConfigError(f"layers must be regular expressions, got {match!r}: {error}.") from error
        if not found:
            raise ConfigError(
                f"every layer group must have a parameter, got {match!r}, which matches none of "
                f"{', '.join(state.parameter_shapes)}."
            )
    for name in state.parameter_shapes:
        groups = [match for match in layers if re.search(match, name)]
        if len(groups) != 1:
            raise ConfigError(
                f"every parameter must belong to one layer group, got {name} in {groups or 'none'} "
                f"of layers={tuple(layers)}."
            )
    return tuple(layers)
