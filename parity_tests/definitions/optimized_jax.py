"""A flax module with a parameter of every shape and role that optimizers tell apart."""

import jax.numpy as jnp
from flax import nnx

ZEROS = nnx.initializers.zeros_init()


def build(a: int, b: int, c: int) -> nnx.Module:
    rngs = nnx.Rngs(0)
    model = nnx.Module()
    model.wide = nnx.Linear(a + b, a, kernel_init=ZEROS, rngs=rngs)
    model.tall = nnx.Linear(a, a + b, use_bias=False, kernel_init=ZEROS, rngs=rngs)
    model.square = nnx.Linear(a, a, use_bias=False, kernel_init=ZEROS, rngs=rngs)
    model.conv = nnx.Conv(b, a, (2, c), kernel_init=ZEROS, rngs=rngs)
    model.heads = nnx.LinearGeneral(a, (2, c), kernel_init=ZEROS, rngs=rngs)
    model.embed = nnx.Embed(b, c, embedding_init=ZEROS, rngs=rngs)
    model.norm = nnx.RMSNorm(c, rngs=rngs)
    model.stack = nnx.Module()
    model.stack.stacked_experts = True
    model.stack.experts = nnx.Param(jnp.zeros((c, a, b)))
    return model
