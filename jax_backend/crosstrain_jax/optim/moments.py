"""Canonical slots of the moments: read from a chain of optax states, and put back."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from crosstrain.optim import OptimizerSpec
from crosstrain_jax.naming import Leaf
from crosstrain_jax.optim.adafactor import AdafactorState
from crosstrain_jax.optim.adam_variants import NAdamState
from crosstrain_jax.optim.adaptive import AdagradState
from crosstrain_jax.optim.base import Grouped, Leaves, Optimizer
from crosstrain_jax.optim.muon import MuonState

# State -> canonical slot -> field.
_SLOTS: Mapping[type, Mapping[str, str]] = {
    optax.TraceState: {"momentum": "trace"},
    optax.ScaleByAdamState: {"first_moment": "mu", "second_moment": "nu"},
    optax.ScaleByRmsState: {"second_moment": "nu"},
    optax.ScaleByLionState: {"momentum": "mu"},
    AdagradState: {"sum_of_squares": "sum_of_squares"},
    NAdamState: {"first_moment": "first_moment", "second_moment": "second_moment"},
    AdafactorState: {slot: slot for slot in ("row_moment", "column_moment", "second_moment")},
    MuonState: {slot: slot for slot in ("momentum", "first_moment", "second_moment")},
}
# Moments of another shape than their parameter's, which rules keep in the canonical layout.
_CANONICAL = ("row_moment", "column_moment")


class Slot(NamedTuple):
    """One slot over the parameters that have it.

    Attributes:
        names: names and layouts of the moments.
        values: the moments.
    """

    names: list[Leaf]
    values: Leaves


def slots(optimizer: Grouped, states: Any) -> dict[str, Slot]:
    """Canonical slot -> moments, part after part; slots that no parameter has are left out."""
    found: dict[str, Slot] = {}
    for part, state in zip(optimizer.parts, states, strict=True):
        for slot, names, values in _of_part(part, state):
            before = found.get(slot, Slot([], ()))
            found[slot] = Slot(before.names + names, before.values + values)
    return found


def with_slots(optimizer: Grouped, spec: OptimizerSpec, states: Any, values: Mapping[str, Leaves], step: int) -> Any:
    """States with their moments replaced, part after part as `slots` gives them, after `step` steps of `spec`."""
    remaining = {slot: iter(moments) for slot, moments in values.items()}
    return tuple(
        tuple(_with_slots(each, remaining, _counters(spec, part.settings[0].updates(step))) for each in state)
        for part, state in zip(optimizer.parts, states, strict=True)
    )


def _of_part(optimizer: Optimizer, state: Any) -> Iterator[tuple[str, list[Leaf], Leaves]]:
    for each in state:
        for slot, field in _SLOTS.get(type(each), {}).items():
            pairs = [
                (_laid_out(slot, leaf, value), value)
                for leaf, value in zip(optimizer.leaves, getattr(each, field), strict=True)
                if value is not None
            ]
            if pairs:
                yield slot, [leaf for leaf, _ in pairs], tuple(value for _, value in pairs)


def _counters(spec: OptimizerSpec, updates: Sequence[int]) -> dict[str, float]:
    return {"count": len(updates)} | spec.carried(updates)


def _with_slots(part: Any, values: Mapping[str, Iterator[Any]], counters: Mapping[str, float]) -> Any:
    fields: dict[str, Any] = {}
    for slot, field in _SLOTS.get(type(part), {}).items():
        if slot in values:
            new = values[slot]
            fields[field] = tuple(None if old is None else next(new) for old in getattr(part, field))
    for name in set(counters) & set(getattr(part, "_fields", ())):
        fields[name] = jnp.asarray(counters[name], getattr(part, name).dtype)
    return part._replace(**fields) if fields else part


def _laid_out(slot: str, leaf: Leaf, value: Any) -> Leaf:
    if slot not in _CANONICAL:
        return leaf
    return Leaf(leaf.name, tuple(range(value.ndim)), leaf.role, tuple(value.shape))
