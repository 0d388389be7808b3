"""Native torch optimizers from specs, and the canonical names of their moments.

Where `torch.optim` has the definition, a rule configures it; where it has another or none, the optimizer stands here,
a `torch.optim.Optimizer` over foreach operations. One file for each family of `crosstrain.optim`.
"""

from crosstrain_torch.optim.average import pull, update_average
from crosstrain_torch.optim.clipping import clip, global_norm, limit, norm_of
from crosstrain_torch.optim.moments import set_counter, set_counters, slots
from crosstrain_torch.optim.rules import RULES, build, set_hyper, start
from crosstrain_torch.optim.traced import traced

__all__ = [
    "RULES",
    "build",
    "clip",
    "global_norm",
    "limit",
    "norm_of",
    "pull",
    "set_counter",
    "set_counters",
    "set_hyper",
    "slots",
    "start",
    "traced",
    "update_average",
]
