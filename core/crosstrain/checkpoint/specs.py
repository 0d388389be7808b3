"""Specs as JSON and back: plain data in, and only classes of a fixed table out."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from crosstrain import optim, schedules
from crosstrain.errors import CheckpointError, ConfigError
from crosstrain.models import CONFIGS, Experts

_Spec = TypeVar("_Spec")

_OPTIMIZERS = (
    optim.Adafactor,
    optim.Adagrad,
    optim.Adam,
    optim.AdamW,
    optim.Lamb,
    optim.Lion,
    optim.Muon,
    optim.NAdam,
    optim.RAdam,
    optim.RmsProp,
    optim.Sgd,
)
_SCHEDULES = (
    schedules.Constant,
    schedules.Cosine,
    schedules.Linear,
    schedules.LrRange,
    schedules.MultiStepDecay,
    schedules.OneCycle,
    schedules.OneCycleMomentum,
    schedules.OptaxOneCycle,
    schedules.Override,
    schedules.Polynomial,
    schedules.SmithOneCycle,
    schedules.SmithOneCycleMomentum,
    schedules.StepDecay,
    schedules.TorchOneCycle,
    schedules.TorchOneCycleMomentum,
    schedules.Triangular,
    schedules.WarmupStableDecay,
)
_OTHERS = (optim.Ema, optim.Lookahead, optim.Swa, optim.ParamGroup, optim.LayerGroup, Experts)
_ALL = (*CONFIGS.values(), *_OPTIMIZERS, *_SCHEDULES, *_OTHERS)
KNOWN: Mapping[str, type] = {known.__name__: known for known in _ALL}
"""Name -> class of everything that `rebuild` makes."""


def describe(spec: Any) -> Any:
    """A spec as JSON: its type and fields, all the way down."""
    if dataclasses.is_dataclass(spec) and not isinstance(spec, type):
        values = {each.name: describe(getattr(spec, each.name)) for each in dataclasses.fields(spec)}
        return {"type": type(spec).__name__, **values}
    if isinstance(spec, list | tuple):
        return [describe(each) for each in spec]
    if isinstance(spec, np.generic):
        return spec.item()
    return spec if isinstance(spec, str | int | float | bool | None) else repr(spec)


def rebuild(what: str, values: Any, kind: type[_Spec]) -> _Spec:
    """The spec that `describe` wrote.

    Args:
        what: names it in errors.
        values: what `describe` returned.
        kind: the base that the spec must have.

    Raises:
        CheckpointError: a class that crosstrain does not have, or values that it refuses; says to pass the state.
    """
    try:
        spec = _rebuild(values)
        if not isinstance(spec, kind):
            raise ConfigError(f"it is no {kind.__name__}")
    except (ConfigError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{what} must be a spec that this version of crosstrain can rebuild, got one that it cannot: {error}. "
            "Prepare the state and pass it: accelerator.restore(path, state)."
        ) from error
    return spec


def _rebuild(values: Any) -> Any:
    if isinstance(values, list):
        return tuple(map(_rebuild, values))
    if not isinstance(values, Mapping):
        return values
    known = KNOWN.get(str(values.get("type")))
    if known is None:
        raise ConfigError(f"no spec is called {values.get('type')!r}")
    fields = {name: _rebuild(each) for name, each in values.items() if name != "type"}
    hints = get_type_hints(known)
    for name, value in fields.items():
        if name not in hints:
            raise ConfigError(f"{known.__name__} has no field {name}")
        if not _fits(value, hints[name]):
            raise ConfigError(f"{known.__name__} has no {name}={value!r}")
    return known(**fields)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has the type that a field of a spec was declared with."""
    inner = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, each) for each in inner)
    if get_origin(hint) is Literal:
        return value in inner
    if get_origin(hint) is tuple:
        wanted = inner[:1] * len(value) if isinstance(value, tuple) and inner[-1] is ... else inner
        return isinstance(value, tuple) and len(value) == len(wanted) and all(map(_fits, value, wanted))
    if hint in (int, float):
        return not isinstance(value, bool) and isinstance(value, int | hint)
    return isinstance(value, hint)
