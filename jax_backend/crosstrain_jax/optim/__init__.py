"""optax transformations from specs, and the canonical names of their moments.

A rule gives a direction; the step multiplies it by the rate. Rate and momentum arrive as data, so rules are made anew
inside every trace, around the traced numbers. One file for each family of `crosstrain.optim`.
"""

from crosstrain_jax.optim.average import pull, update_average
from crosstrain_jax.optim.base import Grouped, Leaves
from crosstrain_jax.optim.clipping import clip, global_norm
from crosstrain_jax.optim.moments import Slot, slots, with_slots
from crosstrain_jax.optim.rules import build

__all__ = [
    "Grouped",
    "Leaves",
    "Slot",
    "build",
    "clip",
    "global_norm",
    "pull",
    "slots",
    "update_average",
    "with_slots",
]
