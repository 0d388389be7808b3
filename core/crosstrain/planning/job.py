"""What is planned: one training step, read from the Python file that trains it.

The file defines, at its top level, what a file for `crosstrain parity` does (both commands read the same file):

    config = ct.models.GPTConfig(...)           # a paired model; or
    def jax_model(): ...                        # a flax.nnx.Module, of which only shapes are made
    def torch_model(): ...                      # a torch.nn.Module, likewise
    def loss_fn(model, batch, ops): ...         # as for Accelerator.train_step; or `jax_loss`, `torch_loss`
    def batches(step): ...                      # dict of NumPy arrays, the global batch
    optimizer = ct.adamw(1e-3)
    precision = "bf16"                          # optional, as of Accelerator
    sharding = ct.ShardingRules(...)            # optional, as of Accelerator
    average = ct.ema(0.999)                     # optional, as of Accelerator.prepare
    step_options = {"accumulate_steps": 4}      # optional, as of Accelerator.train_step
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from crosstrain.data.placement import Placement
from crosstrain.data.sources import Arrays
from crosstrain.errors import ConfigError
from crosstrain.models.spec import ModelConfig
from crosstrain.optim import Averaging, OptimizerSpec
from crosstrain.precision import Precision
from crosstrain.scripts import load_script
from crosstrain.sharding import BATCH_AXES, ShardingRules
from crosstrain.step import LossFn, StepOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What a state is made of.

    Attributes:
        model: a paired model's config, or what makes the user's own.
    """

    model: ModelConfig | Callable[[], Any]
    optimizer: OptimizerSpec
    precision: Precision = field(default_factory=Precision)
    sharding: ShardingRules = field(default_factory=ShardingRules)
    average: Averaging | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Job(Setup):
    """One training step. See the module for the meaning of the fields.

    Attributes:
        batch: the global batch; only its shapes and types count.
    """

    loss_fn: LossFn
    batch: Arrays
    options: StepOptions = field(default_factory=StepOptions)

    def placed_batch(self, mesh: Mapping[str, int], *, wide_integers: bool) -> Arrays:
        """The batch in the types in which it reaches the devices of a mesh.

        Raises:
            DataError: no dict of arrays with one number of examples, or one that the mesh does not divide.
        """
        parts = math.prod(mesh[axis] for axis in BATCH_AXES) * self.options.accumulate_steps
        placement = Placement(
            part=0,
            parts=1,
            data_size=parts,
            float_dtype=self.precision.loss_dtype,
            wide_integers=wide_integers,
            put=dict,
        )
        return placement.check(self.batch)


def load_job(path: Path, backend: str) -> Job:
    """Runs a file and reads the step it defines.

    Raises:
        ConfigError: the file is missing, or does not define what it has to.
    """
    module = load_script(path, "the script")
    found: dict[str, Any] = {
        f"{backend}_model, or config": getattr(module, "config", getattr(module, f"{backend}_model", None)),
        f"loss_fn, or {backend}_loss": getattr(module, f"{backend}_loss", getattr(module, "loss_fn", None)),
        "batches": getattr(module, "batches", None),
        "optimizer": getattr(module, "optimizer", None),
    }
    missing = [name for name, value in found.items() if value is None]
    if missing:
        raise ConfigError(
            f"{path.name} must define {'; '.join(found)}, got a file without {'; '.join(missing)}. "
            "See `help(crosstrain.planning.job)` for a template."
        )
    model, loss_fn, batches, optimizer = found.values()
    _require("optimizer", optimizer, OptimizerSpec, "ct.adamw(1e-3)")
    if not isinstance(model, ModelConfig) and not callable(model):
        raise ConfigError(f"config must be a config of ct.models, got {type(model).__name__}. Use ct.models.GPTConfig.")
    batch = batches(0) if callable(batches) else batches
    if not (callable(batches) and isinstance(batch, Mapping)):
        raise ConfigError(
            f"batches must be a function of the step that returns a dict of arrays, got {type(batch).__name__}. "
            "Write: def batches(step): return {...}"
        )
    return Job(
        model=model,
        loss_fn=loss_fn,
        batch={name: np.asarray(values) for name, values in batch.items()},
        optimizer=optimizer,
        precision=Precision.parse(getattr(module, "precision", "fp32")),
        options=_step_options(module),
        **_optional(module),
    )


def _optional(module: ModuleType) -> dict[str, Any]:
    kinds = {"sharding": (ShardingRules, "ct.ShardingRules()"), "average": (Averaging, "ct.ema(0.999)")}
    given = {name: getattr(module, name) for name in kinds if getattr(module, name, None) is not None}
    for name, value in given.items():
        _require(name, value, *kinds[name])
    return given


def _step_options(module: ModuleType) -> StepOptions:
    options = getattr(module, "step_options", {})
    try:
        return StepOptions(**options)
    except TypeError as error:
        names = ", ".join(StepOptions.__dataclass_fields__)
        raise ConfigError(f"step_options must be a dict of {names}, got {options!r}.") from error


def _require(name: str, value: Any, kind: type, example: str) -> None:
    if not isinstance(value, kind):
        raise ConfigError(f"{name} must be a {kind.__name__}, got {type(value).__name__}. Use for example {example}.")
