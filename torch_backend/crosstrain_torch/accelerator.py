"""`TorchAccelerator`: the torch engine of crosstrain's `Accelerator`."""

import platform as host_platform
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from crosstrain.accelerator import Accelerator, Platform
from crosstrain.checkpoint import Writer
from crosstrain.errors import ConfigError
from crosstrain.models.spec import ModelConfig
from crosstrain.optim import Averaging, OptimizerSpec
from crosstrain.precision import Casting
from crosstrain.probe import ModuleSettings, Probe
from crosstrain.sharding import PIPELINE_AXIS, SEQUENCE_AXIS, plan_model
from crosstrain.step import EvalStep, GradientStep, LossFn, PredictStep, Remat, RunStep, StepOptions, require_remat
from crosstrain_torch import capture, compiled, evaluation, memory, models, naming, profiler, sharding, step
from crosstrain_torch.collectives import all_gather
from crosstrain_torch.host import copy_beside, from_numpy, tensors_of, to_numpy
from crosstrain_torch.pixels import Augment
from crosstrain_torch.precision import param_dtype
from crosstrain_torch.program_cache import keep_programs
from crosstrain_torch.state import TorchState
from crosstrain_torch.zero import ZeroRun, ZeroState, apart


class TorchAccelerator(Accelerator):
    """See `crosstrain.Accelerator`. One device per process; `crosstrain launch` or torchrun starts the processes."""

    backend: ClassVar[str] = "torch"
    _native_model: ClassVar[str] = "torch.nn.Module"
    _wide_integers: ClassVar[bool] = True
    _has_deepspeed: ClassVar[bool] = True
    _castings: ClassVar[tuple[Casting, ...]] = ("cast", "autocast")
    _mesh_axes: ClassVar[tuple[str, ...]] = ("data", "fsdp", "tensor", "context", "expert", "pipeline")
    _group: Any

    def value_and_grad(self, loss_fn: LossFn, *, remat: Remat = "none") -> GradientStep:
        """See `crosstrain.Accelerator`."""
        require_remat(remat)
        if self._splits_by_zero():
            raise apart()
        return step.gradient_step(loss_fn, self._runtime, self.to_device, remat)

    def eval_step(self, loss_fn: LossFn, *, averaged: bool = False) -> EvalStep:
        """See `crosstrain.Accelerator`."""
        return evaluation.eval_step(loss_fn, self._runtime, self.to_device, averaged)

    def predict_step(self, predict_fn: Callable[..., Any], *, averaged: bool = False) -> PredictStep:
        """See `crosstrain.Accelerator`."""
        return evaluation.predict_step(predict_fn, self._runtime, self._to_devices, averaged)

    def probe_step(self, loss_fn: LossFn) -> Callable[..., Probe]:
        """See `crosstrain.Accelerator`."""
        for axis in ("tensor", SEQUENCE_AXIS, PIPELINE_AXIS):
            if self.mesh_sizes[axis] > 1:
                raise ConfigError(
                    f"probe_step must see whole activations, got {axis}={self.mesh_sizes[axis]}, over which a process "
                    f"has parts of them. Use {axis}=1."
                )
        return capture.probe_step(loss_fn, self._runtime, self.to_device)

    def module_settings(self, model: Any) -> dict[str, ModuleSettings]:
        """See `crosstrain.Accelerator`."""
        return capture.module_settings(model)

    def definition_order(self, model: Any) -> list[str]:
        """See `crosstrain.Accelerator`."""
        return naming.definition_order(model)

    def change_setting(self, model: Any, path: str, name: str, value: Any) -> bool:
        """See `crosstrain.Accelerator`."""
        return capture.change_setting(model, path, name, value)

    def trace(self, folder: Path | str) -> AbstractContextManager[Any]:
        """See `crosstrain.Accelerator`."""
        return profiler.trace(Path(folder), self.process_index)

    def synchronize(self) -> None:
        """See `crosstrain.Accelerator`."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def describe(self) -> dict[str, str]:
        """See `crosstrain.Accelerator`."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else host_platform.machine()
        return {
            "torch": torch.__version__,
            "devices": f"{self.device_count} x {self.device.type} ({name})",
            "processes": f"{self.process_count}",
            "threads": f"{torch.get_num_threads()}",
        }

    def close(self) -> None:
        """See `crosstrain.Accelerator`."""
        if self._group is not None:
            self.wait_for_everyone()
            dist.destroy_process_group()
            self._group = None

    def _is_out_of_memory(self, error: BaseException) -> bool:
        return memory.is_out_of_memory(error)

    def _free_memory(self) -> None:
        memory.free()

    def _all_gather(self, values: np.ndarray) -> np.ndarray:
        return all_gather(values[np.newaxis], self._group, self.device)

    def _read(self, values: torch.Tensor) -> np.ndarray:
        return to_numpy(values)

    def _open(self, platform: Platform | None) -> None:
        self.device = sharding.choose_device(platform)
        self._group = sharding.join_processes(self.device)
        self.process_count = dist.get_world_size(self._group) if self._group is not None else 1
        self.process_index = dist.get_rank(self._group) if self._group is not None else 0
        self.device_count = 1 if self.islands else self.process_count
        self._array_type = torch.Tensor
        # User models draw their initial weights and dropout from torch's own generators.
        torch.manual_seed(self.seed)

    def _build_mesh(self) -> None:
        self.mesh = sharding.build_mesh(self.mesh_sizes, None if self.islands else self._group, self.device)
        index, parts = self.mesh.batch_part
        self._batch_part = (index,), parts
        island = self.process_index if self.islands else 0
        self._runtime = step.Runtime(self.precision, self.device, self.mesh, self.seed, island)
        self._augment = Augment()

    def _prepare(self, model: nn.Module, optimizer: OptimizerSpec | None, average: Averaging | None) -> TorchState:
        plan = plan_model(model, naming.shapes(naming.parameters(model)), self.mesh_sizes, self.sharding)
        places = {"precision": self.precision, "device": self.device, "mesh": self.mesh, "plan": plan}
        if optimizer is None or self.deepspeed is None:
            return TorchState(model, optimizer, average, **places)
        self.deepspeed.require(optimizer, self.precision, averages=average is not None)
        if not self._splits_by_zero():
            return TorchState(model, optimizer, **places)
        return ZeroState(model, optimizer, self.deepspeed, **places)

    def _splits_by_zero(self) -> bool:
        return self.deepspeed is not None and self._group is not None

    def _put(self, batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        return self._put_whole(self.mesh.own_positions(batch))

    def _put_whole(self, arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        tensors = {name: from_numpy(values) for name, values in arrays.items()}
        return tensors if self.device.type == "cpu" else copy_beside(tensors, self.device)

    def _apart_placer(self) -> Callable[[dict[str, np.ndarray]], list[dict[str, torch.Tensor]]] | None:
        return None if self.mesh.sequence is not None or self.device.type != "cpu" else tensors_of

    def _train_step(self, loss_fn: LossFn, options: StepOptions) -> RunStep:
        if self._splits_by_zero():
            return ZeroRun(loss_fn, options, self._runtime)
        compiled.require_compilable(options, self.mesh)
        if options.compile:
            keep_programs(self._cache_folder)
        run = compiled.CompiledRun if options.compile == "step" else step.TrainRun
        return run(loss_fn, options, self._runtime)

    def _checkpoint_writer(self) -> Writer:
        from crosstrain_torch.checkpoint import TorchWriter

        return TorchWriter(self._group)

    def _read_checkpoint(self, state: TorchState, folder: Path, step: int) -> None:
        from crosstrain_torch.checkpoint import read

        read(state, folder, step, self._group)

    def _build_model(self, config: ModelConfig, weights: Mapping[str, np.ndarray]) -> nn.Module:
        return models.build(config, weights, param_dtype(self.precision))

    def _config_of(self, model: nn.Module) -> ModelConfig | None:
        return models.config_of(model)

    def _make_model(self, make: Callable[[], Any]) -> Any:
        with torch.device("meta"):
            return make()

    def _is_native_model(self, model: Any) -> bool:
        return isinstance(model, nn.Module)
