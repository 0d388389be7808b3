"""Every norm layer of the JAX engine, crosstrain's and flax's own, behind a linear layer that decays."""

import jax
from flax import nnx

from crosstrain_jax import models

CHANNELS = 8


class Norms(nnx.Module):
    """Norms over 8 channels with this `eps` and these `groups`; an empty `eps` leaves each layer its default."""

    def __init__(self, eps: dict[str, float], groups: int) -> None:
        rngs = nnx.Rngs(0)
        theirs = {"epsilon": eps["eps"]} if eps else {}
        self.head = nnx.Linear(CHANNELS, CHANNELS, rngs=rngs)
        self.own = nnx.Dict(
            layer=models.LayerNorm(CHANNELS, **eps),
            group=models.GroupNorm(groups, CHANNELS, **eps),
            rms=models.RMSNorm(CHANNELS, **eps),
            batch=models.BatchNorm(CHANNELS, **({"eps": 1e-5} | eps), momentum=0.1),
        )
        self.native = nnx.Dict(
            layer=nnx.LayerNorm(CHANNELS, **theirs, rngs=rngs),
            group=nnx.GroupNorm(CHANNELS, num_groups=groups, **theirs, rngs=rngs),
            rms=nnx.RMSNorm(CHANNELS, **theirs, rngs=rngs),
            batch=nnx.BatchNorm(CHANNELS, momentum=0.9, **theirs, rngs=rngs),
            instance=nnx.InstanceNorm(CHANNELS, **theirs, rngs=rngs),
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(x)
