"""Optimizer specs: which update, with which numbers. The engines build optax and torch.optim from them.

Each spec's docstring is the definition both engines are held to, for one parameter `p` with gradient `g` at rate
`lr` and (1-based) update count `t`. Moments start at zero.
"""

from crosstrain.optim.adam import Adam, AdamW, adam, adamw
from crosstrain.optim.average import Averaging, Ema, Swa, ema, swa
from crosstrain.optim.base import Hyper, OptimizerSpec, ParamGroup, ParamSettings, Role, undecayed
from crosstrain.optim.sgd import Sgd, sgd

__all__ = [
    "Adam",
    "AdamW",
    "Averaging",
    "Ema",
    "Hyper",
    "OptimizerSpec",
    "ParamGroup",
    "ParamSettings",
    "Role",
    "Sgd",
    "Swa",
    "adam",
    "adamw",
    "ema",
    "sgd",
    "swa",
    "undecayed",
]
