"""`JaxAccelerator`: the JAX engine of crosstrain's `Accelerator`."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import flax
import jax
import numpy as np
import optax
from flax import nnx

from crosstrain.accelerator import Accelerator, Platform
from crosstrain.checkpoint import Writer
from crosstrain.collectives import Extent
from crosstrain.models.spec import ModelConfig
from crosstrain.optim import Averaging, OptimizerSpec
from crosstrain.probe import ModuleSettings, Probe
from crosstrain.sharding import ShardingPlan, plan_model
from crosstrain.step import EvalStep, GradientStep, LossFn, PredictStep, Remat, RunStep, StepOptions, require_remat
from crosstrain_jax import capture, defaults, evaluation, memory, models, naming, objective, profiler, sharding, step
from crosstrain_jax.collectives import all_gather, read
from crosstrain_jax.host import Placer
from crosstrain_jax.layout import LayoutCache
from crosstrain_jax.materialise import materialise
from crosstrain_jax.pixels import Augment
from crosstrain_jax.precision import param_dtype, scope
from crosstrain_jax.program_cache import keep_programs
from crosstrain_jax.state import JaxState


class JaxAccelerator(Accelerator):
    """See `crosstrain.Accelerator`. `crosstrain launch` starts several processes, or `jax.distributed.initialize`."""

    backend: ClassVar[str] = "jax"
    _native_model: ClassVar[str] = "flax.nnx.Module"
    _wide_integers: ClassVar[bool] = False
    _mesh_axes: ClassVar[tuple[str, ...]] = ("data", "fsdp", "tensor", "context", "expert", "pipeline")

    def value_and_grad(self, loss_fn: LossFn, *, remat: Remat = "none") -> GradientStep:
        """See `crosstrain.Accelerator`."""
        require_remat(remat)
        return step.gradient_step(loss_fn, self._runtime, self.to_device, remat)

    def eval_step(self, loss_fn: LossFn, *, averaged: bool = False) -> EvalStep:
        """See `crosstrain.Accelerator`."""
        return evaluation.eval_step(loss_fn, self._runtime, self.to_device, averaged)

    def predict_step(self, predict_fn: Callable[..., Any], *, averaged: bool = False) -> PredictStep:
        """See `crosstrain.Accelerator`."""
        return evaluation.predict_step(predict_fn, self._runtime, self._to_devices, averaged)

    def probe_step(self, loss_fn: LossFn) -> Callable[..., Probe]:
        """See `crosstrain.Accelerator`."""
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

    def framework_defaults(self) -> dict[str, Callable[[], AbstractContextManager[Any]]]:
        """See `crosstrain.Accelerator`."""
        return defaults.AS_TORCH

    def trace(self, folder: Path | str) -> AbstractContextManager[Any]:
        """See `crosstrain.Accelerator`."""
        return profiler.trace(Path(folder), self.process_index)

    def synchronize(self) -> None:
        """See `crosstrain.Accelerator`."""
        # Devices run what they are sent in order, so the newest computation is the last to finish.
        for device in self.mesh.local_devices:
            (jax.device_put(np.float32(0), device) + 0).block_until_ready()

    def describe(self) -> dict[str, str]:
        """See `crosstrain.Accelerator`."""
        device = self._devices[0]
        return {
            "jax": jax.__version__,
            "flax": flax.__version__,
            "optax": optax.__version__,
            "devices": f"{self.device_count} x {device.platform} ({device.device_kind})",
            "processes": f"{self.process_count}",
        }

    def close(self) -> None:
        """See `crosstrain.Accelerator`."""
        self.wait_for_everyone()

    def _is_out_of_memory(self, error: BaseException) -> bool:
        return memory.is_out_of_memory(error)

    def _free_memory(self) -> None:
        memory.free()

    def _all_gather(self, values: np.ndarray) -> np.ndarray:
        return all_gather(values)

    def _read(self, values: jax.Array) -> np.ndarray:
        return read(values)

    def _extent(self, values: jax.Array) -> Extent:
        if values.is_fully_addressable:
            return "process"
        return "replicated" if values.is_fully_replicated else "sharded"

    def _open(self, platform: Platform | None) -> None:
        keep_programs(self._cache_folder)
        self._devices = sharding.choose_devices(platform, own=self.islands)
        self.process_count = jax.process_count()
        self.process_index = jax.process_index()
        self.device_count = len(self._devices)
        self._array_type = jax.Array
        self._layouts = LayoutCache()

    def _build_mesh(self) -> None:
        self.mesh = sharding.build_mesh(self._devices, self.mesh_sizes)
        held, parts = sharding.batch_parts(self.mesh)
        self._batch_part = held[self.process_index], parts
        self._place = Placer(self.precision, self.mesh, *self._batch_part)
        island = self.process_index if self.islands else 0
        self._runtime = objective.Runtime(self.precision, self.mesh, self.seed, island)
        self._augment = Augment(self.mesh, self.precision)

    def _prepare(self, model: nnx.Module, optimizer: OptimizerSpec | None, average: Averaging | None) -> JaxState:
        plan = self._plan(model)
        return JaxState(
            model, optimizer, average, precision=self.precision, mesh=self.mesh, layouts=self._layouts, plan=plan
        )

    def _plan(self, model: nnx.Module) -> ShardingPlan:
        shapes = naming.shapes(naming.leaves(model, nnx.Param))
        return plan_model(model, shapes, self.mesh_sizes, self.sharding)

    def _make_model(self, make: Callable[[], Any]) -> Any:
        with scope(self.precision):
            return materialise(make, self._plan, self.mesh)

    def _put(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        return self._place(batch)

    def _put_whole(self, arrays: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        return self._place.whole(arrays)

    def _stack_placer(self) -> Callable[[dict[str, np.ndarray]], dict[str, jax.Array]]:
        return self._place.stack

    def _apart_placer(self) -> Callable[[dict[str, np.ndarray]], list[dict[str, jax.Array]]]:
        return self._place.apart

    def _train_step(self, loss_fn: LossFn, options: StepOptions) -> RunStep:
        return step.TrainRun(loss_fn, options, self._runtime)

    def _checkpoint_writer(self) -> Writer:
        from crosstrain_jax.checkpoint import JaxWriter

        return JaxWriter()

    def _read_checkpoint(self, state: JaxState, folder: Path, step: int) -> None:
        from crosstrain_jax.checkpoint import read

        read(state, folder, step)

    def _build_model(self, config: ModelConfig, weights: Mapping[str, np.ndarray]) -> nnx.Module:
        with scope(self.precision):
            split = any(self.mesh_sizes[axis] > 1 for axis in ("fsdp", "tensor", "expert", "pipeline"))
            return models.build(config, weights, param_dtype(self.precision), on_host=split)

    def _config_of(self, model: nnx.Module) -> ModelConfig | None:
        return models.config_of(model)

    def _is_placed(self, values: Any) -> bool:
        # Of several processes an array of this one's devices alone holds its rows, which jit would take for all.
        alone = self.process_count == 1 or self.islands
        return isinstance(values, jax.Array) and (alone or not values.is_fully_addressable)

    def _is_native_model(self, model: Any) -> bool:
        return isinstance(model, nnx.Module)
