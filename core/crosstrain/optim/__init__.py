"""Optimizer specs: which update, with which numbers. The engines build optax and torch.optim from them.

Each spec's docstring is the definition both engines are held to, for one parameter `p` with gradient `g` at rate
`lr` and (1-based) update count `t`. Moments start at zero. Where a momentum or first beta follows a schedule, every
formula takes the value of its own step.
"""

from crosstrain.optim.adafactor import Adafactor, adafactor
from crosstrain.optim.adam import Adam, AdamW, adam, adamw
from crosstrain.optim.adam_variants import NAdam, RAdam, nadam, radam
from crosstrain.optim.adaptive import Adagrad, RmsProp, adagrad, rmsprop
from crosstrain.optim.average import Averaging, Ema, Lookahead, Swa, ema, lookahead, swa
from crosstrain.optim.base import Hyper, OptimizerSpec, ParamGroup, undecayed
from crosstrain.optim.clipping import Clipping
from crosstrain.optim.lamb import Lamb, lamb
from crosstrain.optim.layers import LayerGroup, ParamSettings
from crosstrain.optim.lion import Lion, lion
from crosstrain.optim.muon import Muon, muon
from crosstrain.optim.outer import DiLoCo
from crosstrain.optim.roles import Role
from crosstrain.optim.sgd import Sgd, sgd

__all__ = [
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Averaging",
    "Clipping",
    "DiLoCo",
    "Ema",
    "Hyper",
    "Lamb",
    "LayerGroup",
    "Lion",
    "Lookahead",
    "Muon",
    "NAdam",
    "OptimizerSpec",
    "ParamGroup",
    "ParamSettings",
    "RAdam",
    "RmsProp",
    "Role",
    "Sgd",
    "Swa",
    "adafactor",
    "adagrad",
    "adam",
    "adamw",
    "ema",
    "lamb",
    "lion",
    "lookahead",
    "muon",
    "nadam",
    "radam",
    "rmsprop",
    "sgd",
    "swa",
    "undecayed",
]
