"""crosstrain: one training interface, two native engines (JAX and PyTorch), and a proof that they agree.

Importing this package loads neither framework; `Accelerator("jax")` and `Accelerator("torch")` do.
"""

import importlib
from typing import TYPE_CHECKING, Any

from crosstrain import data, models, random
from crosstrain._version import __version__
from crosstrain.accelerator import Accelerator
from crosstrain.callbacks import Callback
from crosstrain.deepspeed import DeepSpeed
from crosstrain.errors import (
    BackendError,
    CheckpointError,
    CollectiveError,
    ConfigError,
    CrosstrainError,
    DataError,
    LaunchError,
    LossError,
    ModelError,
    NonFiniteLossError,
    OutOfMemoryError,
)
from crosstrain.loss import Loss
from crosstrain.memory import find_batch_size
from crosstrain.mesh import MeshSpec
from crosstrain.metrics import Metrics, MetricSum
from crosstrain.models.experts import Experts
from crosstrain.ops import Ops
from crosstrain.optim import (
    Averaging,
    DiLoCo,
    LayerGroup,
    OptimizerSpec,
    ParamGroup,
    adafactor,
    adagrad,
    adam,
    adamw,
    ema,
    lamb,
    lion,
    lookahead,
    muon,
    nadam,
    radam,
    rmsprop,
    sgd,
    swa,
    undecayed,
)
from crosstrain.precision import Precision
from crosstrain.schedules import (
    Schedule,
    constant,
    cosine,
    flat_cos,
    linear,
    lr_range,
    multi_step_decay,
    one_cycle,
    one_cycle_momentum,
    optax_one_cycle,
    polynomial,
    smith_one_cycle,
    smith_one_cycle_momentum,
    step_decay,
    torch_one_cycle,
    torch_one_cycle_momentum,
    triangular,
    triangular2,
    warmup_stable_decay,
)
from crosstrain.scores import f1, perplexity
from crosstrain.sharding import ShardingPlan, ShardingRules
from crosstrain.snapshot import Snapshot
from crosstrain.state import Gradients, StateBytes, TrainState
from crosstrain.trainer import Trainer
from crosstrain.training import History

if TYPE_CHECKING:
    from crosstrain import callbacks, trackers
    from crosstrain.cards import CardSpec, model_card
    from crosstrain.checkpoint import Best, CheckpointSpec
    from crosstrain.launch.notebook import notebook_launcher
    from crosstrain.planning.estimate import MemoryEstimate, estimate_memory
    from crosstrain.training.config import RunConfig
    from crosstrain.training.lr_find import RangeCurve, RangeTest
    from crosstrain.training.plans import Cycle

__all__ = [
    "Accelerator",
    "Averaging",
    "BackendError",
    "Best",
    "Callback",
    "CardSpec",
    "CheckpointError",
    "CheckpointSpec",
    "CollectiveError",
    "ConfigError",
    "CrosstrainError",
    "Cycle",
    "DataError",
    "DeepSpeed",
    "DiLoCo",
    "Experts",
    "Gradients",
    "History",
    "LaunchError",
    "LayerGroup",
    "Loss",
    "LossError",
    "MemoryEstimate",
    "MeshSpec",
    "MetricSum",
    "Metrics",
    "ModelError",
    "NonFiniteLossError",
    "Ops",
    "OptimizerSpec",
    "OutOfMemoryError",
    "ParamGroup",
    "Precision",
    "RangeCurve",
    "RangeTest",
    "RunConfig",
    "Schedule",
    "ShardingPlan",
    "ShardingRules",
    "Snapshot",
    "StateBytes",
    "TrainState",
    "Trainer",
    "__version__",
    "adafactor",
    "adagrad",
    "adam",
    "adamw",
    "callbacks",
    "constant",
    "cosine",
    "data",
    "ema",
    "estimate_memory",
    "f1",
    "find_batch_size",
    "flat_cos",
    "lamb",
    "linear",
    "lion",
    "lookahead",
    "lr_range",
    "model_card",
    "models",
    "multi_step_decay",
    "muon",
    "nadam",
    "notebook_launcher",
    "one_cycle",
    "one_cycle_momentum",
    "optax_one_cycle",
    "perplexity",
    "polynomial",
    "radam",
    "random",
    "rmsprop",
    "sgd",
    "smith_one_cycle",
    "smith_one_cycle_momentum",
    "step_decay",
    "swa",
    "torch_one_cycle",
    "torch_one_cycle_momentum",
    "trackers",
    "triangular",
    "triangular2",
    "undecayed",
    "warmup_stable_decay",
]


_HOMES = {
    "Best": "checkpoint",
    "CardSpec": "cards",
    "CheckpointSpec": "checkpoint",
    "Cycle": "training.plans",
    "RangeCurve": "training.lr_find",
    "RangeTest": "training.lr_find",
    "MemoryEstimate": "planning.estimate",
    "estimate_memory": "planning.estimate",
    "notebook_launcher": "launch.notebook",
    "RunConfig": "training.config",
    "model_card": "cards",
}


def __getattr__(name: str) -> Any:
    """Checkpoints and what only some calls need are imported when they are first asked for."""
    if name == "trackers":
        return importlib.import_module(f"{__name__}.trackers")
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
