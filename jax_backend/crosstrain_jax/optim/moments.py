"""Canonical slots of the moments: read from a chain of optax states, and put back."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from crosstrain_jax.naming import Leaf
from crosstrain_jax.optim.adafactor import AdafactorState
from crosstrain_jax.optim.adam_variants import NAdamState
from crosstrain_jax.optim.adaptive import AdagradState
from crosstrain_jax.optim.base import Leaves, Optimizer
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


def slots(optimizer: Optimizer, opt_state: Any) -> dict[str, Slot]:
    """Canonical slot -> moments; slots that no parameter has are left out."""
    found = {}
    for part in opt_state:
        for slot, field in _SLOTS.get(type(part), {}).items():
            pairs = [
                (_laid_out(slot, leaf, value), value)
                for leaf, value in zip(optimizer.leaves, getattr(part, field), strict=True)
                if value is not None
            ]
            if pairs:
                found[slot] = Slot([leaf for leaf, _ in pairs], tuple(value for _, value in pairs))
    return found


def with_slots(optimizer: Optimizer, opt_state: Any, values: Mapping[str, Leaves], step: int) -> Any:
    """The chain of optax states with its moments replaced, `step` updates old."""
    counters = {"count": step} | optimizer.spec.carried(step)
    return tuple(_with_slots(part, values, counters) for part in opt_state)


def _with_slots(part: Any, values: Mapping[str, Leaves], counters: Mapping[str, float]) -> Any:
    fields: dict[str, Any] = {}
    for slot, field in _SLOTS.get(type(part), {}).items():
        new = iter(values.get(slot, ()))
        fields[field] = tuple(None if old is None else next(new) for old in getattr(part, field))
    for name in set(counters) & set(getattr(part, "_fields", ())):
        fields[name] = jnp.asarray(counters[name], getattr(part, name).dtype)
    return part._replace(**fields) if fields else part


def _laid_out(slot: str, leaf: Leaf, value: Any) -> Leaf:
    if slot not in _CANONICAL:
        return leaf
    return Leaf(leaf.name, tuple(range(value.ndim)), leaf.role, tuple(value.shape))
