"""optax transformations from specs, and the canonical names of their moments.

The transformation gives a direction; the step multiplies it by the rate, which arrives as data.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from crosstrain.errors import ConfigError
from crosstrain.optim import Adam, AdamW, OptimizerSpec, Sgd

Leaves = tuple[jax.Array, ...]


def build(spec: OptimizerSpec) -> optax.GradientTransformation:
    """The optax transformation of a spec, without the rate.

    Raises:
        ConfigError: a spec this engine does not know.
    """
    if type(spec) not in _BUILDERS:
        raise ConfigError(f"optimizer must be one of {_known()} on the jax engine, got {type(spec).__name__}.")
    return _BUILDERS[type(spec)](spec)


def slots(opt_state: Any) -> dict[str, Leaves]:
    """Canonical slot -> one leaf per parameter, found in a chain of optax states."""
    found: dict[str, Leaves] = {}
    for part in opt_state:
        if isinstance(part, optax.TraceState):
            found["momentum"] = part.trace
        elif isinstance(part, optax.ScaleByAdamState):
            found |= {"first_moment": part.mu, "second_moment": part.nu}
    return found


def with_slots(opt_state: Any, values: dict[str, Leaves], step: int) -> Any:
    """The chain of optax states with its moments replaced, `step` updates old."""
    return tuple(_with_slots(part, values, step) for part in opt_state)


def _with_slots(part: Any, values: dict[str, Leaves], step: int) -> Any:
    if isinstance(part, optax.TraceState):
        return part._replace(trace=values["momentum"])
    if isinstance(part, optax.ScaleByAdamState):
        count = jnp.asarray(step, part.count.dtype)
        return part._replace(count=count, mu=values["first_moment"], nu=values["second_moment"])
    return part


def _sgd(spec: Any) -> optax.GradientTransformation:
    momentum = [optax.trace(spec.momentum, nesterov=spec.nesterov)] if spec.momentum else []
    return optax.chain(optax.identity(), *_coupled_decay(spec), *momentum)


def _adam(spec: Any) -> optax.GradientTransformation:
    return optax.chain(*_coupled_decay(spec), optax.scale_by_adam(*spec.betas, eps=spec.eps))


def _adamw(spec: Any) -> optax.GradientTransformation:
    return optax.chain(optax.scale_by_adam(*spec.betas, eps=spec.eps), optax.add_decayed_weights(spec.weight_decay))


def _coupled_decay(spec: OptimizerSpec) -> list[optax.GradientTransformation]:
    return [optax.add_decayed_weights(spec.weight_decay)] if spec.weight_decay else []


_BUILDERS: dict[type[OptimizerSpec], Callable[[Any], optax.GradientTransformation]] = {
    Sgd: _sgd,
    Adam: _adam,
    AdamW: _adamw,
}


def _known() -> str:
    return ", ".join(spec.__name__ for spec in _BUILDERS)


def global_norm(grads: Leaves) -> jax.Array:
    """L2 norm over all gradients together."""
    return optax.tree.norm(grads)


def clip_by_global_norm(grads: Leaves, norm: jax.Array, clip_norm: float) -> Leaves:
    """g = g min(1, clip_norm / norm) (Pascanu et al. 2013)."""
    scale = jnp.minimum(clip_norm / norm, 1.0)
    return tuple(grad * scale.astype(grad.dtype) for grad in grads)
