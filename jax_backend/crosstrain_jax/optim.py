"""optax transformations from specs, and the canonical names of their moments.

A rule gives a direction; the step multiplies it by the rate. Rate and momentum arrive as data, so rules are made anew
inside every trace, around the traced momentum.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from crosstrain.errors import ConfigError
from crosstrain.optim import Adam, AdamW, OptimizerSpec, ParamSettings, Sgd

Leaves = tuple[jax.Array, ...]
Transformation: TypeAlias = optax.GradientTransformation


class Optimizer(NamedTuple):
    """A spec over the parameters of one model.

    Attributes:
        spec: the numbers.
        settings: what holds for each parameter, in the order of the leaves.
    """

    spec: OptimizerSpec
    settings: tuple[ParamSettings, ...]

    def transformation(self, momentum: Any) -> Transformation:
        """The optax transformation from gradients to directions, with this momentum."""
        return _RULES[type(self.spec)](self.spec, momentum, _decay(self.settings))

    def init(self, params: Leaves) -> Any:
        """Moments before the first step."""
        return self.transformation(self.spec.momentum_at(0)).init(params)

    def update(self, params: Leaves, state: Any, grads: Leaves, rate: Any, momentum: Any) -> tuple[Leaves, Any]:
        """One update inside a compiled step: p = p - rate * scale * direction."""
        directions, state = self.transformation(momentum).update(grads, state, params)
        new = tuple(
            p - (rate * each.rate_scale).astype(p.dtype) * u
            for p, u, each in zip(params, directions, self.settings, strict=True)
        )
        return new, state


def build(spec: OptimizerSpec, names: Sequence[Any]) -> Optimizer:
    """A spec over parameters with these names and roles.

    Raises:
        ConfigError: a spec this engine does not know.
    """
    if type(spec) not in _RULES:
        known = ", ".join(kind.__name__ for kind in _RULES)
        raise ConfigError(f"optimizer must be one of {known} on the jax engine, got {type(spec).__name__}.")
    return Optimizer(spec, tuple(spec.settings(leaf.name, leaf.role) for leaf in names))


def _sgd(spec: Sgd, momentum: Any, decay: Transformation) -> Transformation:
    return optax.chain(decay, optax.trace(momentum, nesterov=spec.nesterov) if spec.momentum != 0 else optax.identity())


def _adam(spec: Adam, momentum: Any, decay: Transformation) -> Transformation:
    return optax.chain(decay, _scale_by_adam(spec, momentum))


def _adamw(spec: AdamW, momentum: Any, decay: Transformation) -> Transformation:
    return optax.chain(_scale_by_adam(spec, momentum), decay)


def _scale_by_adam(spec: Adam, momentum: Any) -> Transformation:
    """`optax.scale_by_adam`, whose state it keeps, with a 1 - beta^t that float32 does not spoil.

    optax subtracts in float32, where 1 - 0.999^t loses three digits to cancellation: 1e-5 of an update, a hundred times
    the rounding of the rest.
    """
    b1, b2 = momentum, spec.betas[1]
    log_b2 = math.log(b2) if b2 else -math.inf

    def update(grads: Leaves, state: optax.ScaleByAdamState, params: Leaves | None = None) -> tuple[Leaves, Any]:
        count = state.count + 1
        mu = tuple(b1 * m + (1 - b1) * g for m, g in zip(state.mu, grads, strict=True))
        nu = tuple(b2 * v + (1 - b2) * jnp.square(g) for v, g in zip(state.nu, grads, strict=True))
        directions = tuple(
            m
            / _one_minus_exp(count, jnp.log(b1), m.dtype)
            / (jnp.sqrt(v / _one_minus_exp(count, log_b2, v.dtype)) + spec.eps)
            for m, v in zip(mu, nu, strict=True)
        )
        return directions, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return Transformation(optax.scale_by_adam(b1, b2).init, update)


def _one_minus_exp(count: jax.Array, log_beta: Any, dtype: Any) -> jax.Array:
    """1 - beta^count without cancellation."""
    return -jnp.expm1(count.astype(dtype) * log_beta)


def _decay(settings: Sequence[ParamSettings]) -> Transformation:
    """u + weight_decay p, with each parameter's own coefficient."""

    def add(updates: Leaves, params: Leaves | None) -> Leaves:
        assert params is not None
        return tuple(
            u + each.weight_decay * p if each.weight_decay else u
            for u, p, each in zip(updates, params, settings, strict=True)
        )

    return optax.stateless(add)


_RULES: Mapping[type[OptimizerSpec], Callable[[Any, Any, Transformation], Transformation]] = {
    Sgd: _sgd,
    Adam: _adam,
    AdamW: _adamw,
}


def slots(opt_state: Any) -> dict[str, Leaves]:
    """Canonical slot -> one leaf per parameter, found in a chain of optax states."""
    found: dict[str, Leaves] = {}
    for part in opt_state:
        found |= {slot: getattr(part, field) for slot, field in _fields(part).items()}
    return found


def with_slots(opt_state: Any, values: Mapping[str, Leaves], step: int) -> Any:
    """The chain of optax states with its moments replaced, `step` updates old."""
    return tuple(_with_slots(part, values, step) for part in opt_state)


def _with_slots(part: Any, values: Mapping[str, Leaves], step: int) -> Any:
    fields = {field: values[slot] for slot, field in _fields(part).items()}
    if "count" in getattr(part, "_fields", ()):
        fields["count"] = jnp.asarray(step, part.count.dtype)
    return part._replace(**fields) if fields else part


def _fields(part: Any) -> Mapping[str, str]:
    return _SLOTS.get(type(part), {})


_SLOTS: Mapping[type, Mapping[str, str]] = {
    optax.TraceState: {"momentum": "trace"},
    optax.ScaleByAdamState: {"first_moment": "mu", "second_moment": "nu"},
}


def global_norm(grads: Leaves) -> jax.Array:
    """L2 norm over all gradients together."""
    return optax.tree.norm(grads)


def clip_by_global_norm(grads: Leaves, norm: jax.Array, clip_norm: float) -> Leaves:
    """g = g min(1, clip_norm / norm) (Pascanu et al. 2013)."""
    scale = jnp.minimum(clip_norm / norm, 1.0)
    return tuple(grad * scale.astype(grad.dtype) for grad in grads)


def update_average(averages: Leaves, params: Leaves, weight: Any) -> Leaves:
    """a = a + weight (p - a); nothing where no average is kept."""
    return tuple(a + weight.astype(a.dtype) * (p - a) for a, p in zip(averages, params, strict=False))
