"""Models made by a function: shapes first, then every array where it lies, so that no device ever holds one whole."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from crosstrain.sharding import ShardingPlan
from crosstrain_jax import naming
from crosstrain_jax.sharding import obey


def materialise(make: Callable[[], Any], plan: Callable[[nnx.Module], ShardingPlan], mesh: Mesh) -> Any:
    """What `make` returns, with parameters that were drawn in parts, as `plan` says of the model without values."""
    model = nnx.eval_shape(make)
    if not isinstance(model, nnx.Module):
        return make()
    _, params, others = nnx.split(model, nnx.Param, ...)
    shardings = obey(plan(model), naming.leaves(model, nnx.Param), mesh)
    places = jax.tree.unflatten(jax.tree.structure(params), shardings.params)

    def values() -> Any:
        return nnx.split(make(), nnx.Param, ...)[1:]

    params, others = jax.jit(values, out_shardings=(places, shardings.whole))()
    nnx.update(model, params, others)
    return model
