"""What every rule is made of: the optimizer over one model's leaves, weight decay, and 1 - beta^t."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from crosstrain.optim import Hyper, OptimizerSpec, ParamSettings
from crosstrain_jax.naming import Leaf

Leaves = tuple[jax.Array, ...]
Some: TypeAlias = tuple[Any, ...]
"""One array for each parameter, or None where a rule keeps none for it."""

Transformation: TypeAlias = optax.GradientTransformation
Rule: TypeAlias = "Callable[[Optimizer, Hyper], Transformation]"


class Optimizer(NamedTuple):
    """A spec over parameters that share their settings.

    Attributes:
        spec: the numbers.
        rule: from this and the numbers of a step, the optax transformation from gradients to directions.
        leaves: names, layouts and roles of the parameters.
        settings: what holds for each of them.
    """

    spec: OptimizerSpec
    rule: Rule
    leaves: tuple[Leaf, ...]
    settings: tuple[ParamSettings, ...]

    def init(self, params: Leaves) -> Any:
        """Moments before the first step."""
        return self.rule(self, self.spec.hyper(0)).init(params)

    def update(self, params: Leaves, state: Any, grads: Leaves, rate: Any, momentum: Any) -> tuple[Leaves, Any]:
        """One update inside a compiled step: p = p - rate * scale * direction."""
        directions, new_state = self.rule(self, Hyper(rate, momentum)).update(grads, state, params)
        new_params = tuple(
            (p - rate * each.rate_scale * u).astype(p.dtype)
            for p, u, each in zip(params, directions, self.settings, strict=True)
        )
        return new_params, jax.tree.map(lambda new, old: new.astype(old.dtype), new_state, state)


class Grouped(NamedTuple):
    """A spec over all parameters of one model.

    Attributes:
        parts: one optimizer, with moments and an update count of its own, for each settings.
        where: which parameters, by their place in the state, each part has.
    """

    parts: tuple[Optimizer, ...]
    where: tuple[tuple[int, ...], ...]

    def init(self, params: Leaves) -> Any:
        """Moments before the first step, for each part."""
        return tuple(part.init(_at(params, where)) for part, where in zip(self.parts, self.where, strict=True))

    def update(
        self, params: Leaves, states: Any, grads: Leaves, hyper: tuple[Any, Any], frozen: tuple[bool, ...]
    ) -> tuple[Leaves, Any]:
        """One update inside a compiled step; of frozen parts nothing changes."""
        new_params, new_states = list(params), list(states)
        for index, (part, where) in enumerate(zip(self.parts, self.where, strict=True)):
            if not frozen[index]:
                found, new_states[index] = part.update(_at(params, where), states[index], _at(grads, where), *hyper)
                for place, param in zip(where, found, strict=True):
                    new_params[place] = param
        return tuple(new_params), tuple(new_states)

    def key(self) -> Any:
        """What of it is compiled."""
        scales = tuple(tuple((each.rate_scale, each.weight_decay) for each in part.settings) for part in self.parts)
        return self.parts[0].spec.compiled() if self.parts else None, self.where, scales

    def frozen_at(self, step: int) -> tuple[bool, ...]:
        """Which parts a 0-based optimizer step leaves as they are."""
        return tuple(part.settings[0].frozen_at(step) for part in self.parts)

    def held(self, frozen: tuple[bool, ...]) -> frozenset[int]:
        """Which parameters these parts have."""
        return frozenset(place for yes, where in zip(frozen, self.where, strict=True) if yes for place in where)


def _at(leaves: Leaves, where: tuple[int, ...]) -> Leaves:
    return tuple(leaves[place] for place in where)


def decay(optimizer: Optimizer) -> Transformation:
    """u + weight_decay p, with each parameter's own coefficient."""

    def add(updates: Leaves, params: Leaves | None) -> Leaves:
        assert params is not None
        return tuple(
            u + each.weight_decay * p if each.weight_decay else u
            for u, p, each in zip(updates, params, optimizer.settings, strict=True)
        )

    return optax.stateless(add)


def one_minus_power(beta: Any, count: jax.Array, dtype: Any) -> jax.Array:
    """1 - beta^count without cancellation, which in float32 costs 1 - 0.999^t three digits."""
    log = (math.log(beta) if beta else -math.inf) if isinstance(beta, float | int) else jnp.log(beta)
    return -jnp.expm1(count.astype(dtype) * log)


def zeros(params: Sequence[Any], where: Sequence[bool] | None = None) -> Some:
    """Zeros like each parameter, None where it is not in `where`."""
    covered = where if where is not None else [True] * len(params)
    return tuple(jnp.zeros_like(p) if yes else None for p, yes in zip(params, covered, strict=True))


def start_count() -> jax.Array:
    """No updates yet."""
    return jnp.zeros((), jnp.int32)
