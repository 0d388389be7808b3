"""ZeRO by DeepSpeed: a state whose moments, gradients and parameters lie in flat parts, and the step on it.

DeepSpeed owns backward pass, reduction, clipping and when the optimizer runs; the loss, its weight, the optimizer and
its numbers are crosstrain's.
"""

import importlib
import os
from collections.abc import Mapping
from functools import partial
from typing import Any, NoReturn

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from crosstrain.deepspeed import DeepSpeed
from crosstrain.errors import BackendError, ConfigError
from crosstrain.loss import Loss
from crosstrain.metrics import Metrics
from crosstrain.optim import Clipping, OptimizerSpec
from crosstrain.snapshot import LazyArrays, Snapshot, check_names, check_slots
from crosstrain.state import Gradients
from crosstrain.step import LossFn, StepHyper, StepOptions
from crosstrain_torch import naming, optim
from crosstrain_torch.host import copy_into, set_generators, to_numpy
from crosstrain_torch.objective import Batch, Outputs, add, detach
from crosstrain_torch.state import TorchGradients, TorchState
from crosstrain_torch.step import Gradient, Runtime

_LAST = 3  # the stage that splits parameters, too


class ZeroState(TorchState):
    """A state of several processes that DeepSpeed splits; see `crosstrain.DeepSpeed`."""

    def __init__(self, model: nn.Module, optimizer: OptimizerSpec, zero: DeepSpeed, **options: Any) -> None:
        super().__init__(model, optimizer, **options)
        self._shapes, self._stage = naming.shapes(self.params), zero.stage
        frozen = [name for name, param in self.params.items() if not param.requires_grad]
        if frozen:
            raise ConfigError(f"every parameter must be trained with deepspeed, got {', '.join(frozen)} that is not.")
        self.engine = _initialise(model, self.native_optimizer, zero)
        for flat, group in self._parts():
            optim.start(optimizer, self._inner, group, [flat])
        if zero.stage < _LAST:
            # It links moments to parameters after the first update of the first group, when the others have none yet.
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """See `crosstrain.TrainState`."""
        return dict(self._shapes)

    @property
    def device_bytes(self) -> NoReturn:
        """Refused: DeepSpeed keeps copies of its own."""
        raise ConfigError(
            "device_bytes must be asked of a state that crosstrain splits, got one with deepspeed. Use "
            "deepspeed.runtime.utils.see_memory_usage, or mesh=ct.MeshSpec(fsdp=N) in place of deepspeed."
        )

    def change_optimizer(self, optimizer: OptimizerSpec) -> None:
        """See `crosstrain.TrainState`; flat parts stay as they are grouped."""
        old = self.optimizer
        if isinstance(optimizer, OptimizerSpec) and (optimizer.groups, optimizer.layers, optimizer.weight_decay) != (
            old.groups,
            old.layers,
            old.weight_decay,
        ):
            raise ConfigError(
                "groups, layers and weight_decay must stay with deepspeed, which groups its flat parts once, got "
                f"{optimizer}. Use mesh=ct.MeshSpec(fsdp=N) to freeze parameters."
            )
        super().change_optimizer(optimizer)

    def take_gradients(self) -> NoReturn:
        """Refused: gradients lie in flat parts."""
        raise apart()

    def drop_gradients(self) -> None:
        """See `Shards`; stages 1 and 2 add up outside of parameters too."""
        wrapper = self.engine.optimizer
        wrapper.zero_grad()
        if self._stage < _LAST:
            wrapper.averaged_gradients.clear()
            wrapper.all_grad_tensors.clear()

    def to_gradients(self, values: Mapping[str, np.ndarray]) -> TorchGradients:
        """Refused: gradients lie in flat parts."""
        raise apart()

    def apply_gradients(
        self, gradients: Gradients, *, clip_norm: float | None = None, clip_value: float | None = None
    ) -> None:
        """Refused: gradients lie in flat parts."""
        raise apart()

    def step_zero(self, hyper: StepHyper, scale: float, clipping: Clipping) -> float:
        """Divides what backward passes have added up by `scale`, clips and updates; the norm before clipping."""
        optim.set_hyper(self.optimizer, self._inner, hyper[0], hyper[1], self._step)
        self.wait_for_readers()
        wrapper = self.engine.optimizer
        wrapper.override_loss_scale(scale)
        wrapper.clip_grad = clipping.norm or 0.0
        self.engine.step()
        return float(self.engine.get_global_grad_norm())

    def view(self) -> Snapshot:
        """See `crosstrain.TrainState`."""
        snapshot = super().view()
        params = self._lazily(None)
        moments = {slot: self._lazily(key) for slot, key in self._slots().items()}
        sections = {**snapshot.sections(), "params": params}
        return Snapshot.from_sections(
            snapshot.step, sections | {f"moments/{slot}": each for slot, each in moments.items()}
        )

    @torch.no_grad()
    def load(self, snapshot: Snapshot) -> None:
        """See `crosstrain.TrainState`."""
        buffers = naming.buffers(self._model)
        check_names("params", self.parameter_shapes, snapshot.params)
        check_names("buffers", naming.shapes(buffers), snapshot.buffers)
        check_slots(dict.fromkeys(self._slots(), self.parameter_shapes), snapshot)
        self.wait_for_readers()
        for name in self._shapes:
            self._write(name, None, snapshot.params[name])
            for slot, key in self._slots().items() if snapshot.moments else ():
                self._write(name, key, snapshot.moments[slot][name])
        copy_into(buffers, snapshot.buffers)
        self._refresh()
        self._count(snapshot.step)
        self._load_native(snapshot)
        self._step = snapshot.step

    def tensors(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Everything this process holds: its flat parts under its own names, so that as many processes go on."""
        changing, _ = super().tensors()
        rank = dist.get_rank()
        steady: dict[str, torch.Tensor] = {}
        for index, (flat, _) in enumerate(self._parts()):
            kept = {"params": flat, **{slot: self._inner.state[flat][key] for slot, key in self._slots().items()}}
            steady |= {f"zero{self._stage}/{rank}/{index}/{slot}": each.detach() for slot, each in kept.items()}
        return changing, steady

    @torch.no_grad()
    def set_tensors(self, values: Mapping[str, torch.Tensor], step: int) -> None:
        """Replaces all of `tensors`."""
        self.wait_for_readers()
        changing, steady = self.tensors()
        for name, target in (changing | steady).items():
            target.copy_(values[name])
        set_generators({name.removeprefix("native/torch/"): each for name, each in values.items()}, self._device)
        self._refresh()
        self._count(step)
        self._step = step

    def _build_optimizer(self) -> torch.optim.Optimizer:
        return optim.build(self.optimizer, self.shards, self.parameter_roles, self.learning.trainable, moments=False)

    def _moments(self) -> dict[str, dict[str, torch.Tensor]]:
        return {}  # no process has them by name

    @property
    def _inner(self) -> torch.optim.Optimizer:
        assert self.native_optimizer is not None
        return self.native_optimizer

    def _parts(self) -> list[tuple[torch.Tensor, dict[str, Any]]]:
        """The flat parts that are updated here, each with its group."""
        wrapper, groups = self.engine.optimizer, self._inner.param_groups
        if self._stage < _LAST:
            return list(zip(wrapper.single_partition_of_fp32_groups, groups, strict=True))
        flats = wrapper.fp32_partitioned_groups_flat
        return [(flat, groups[wrapper.sub_group_to_group_id[index]]) for index, flat in enumerate(flats)]

    def _slots(self) -> dict[str, str]:
        kept = self._inner.state[self._parts()[0][0]]
        return {slot: key for slot, key in optim.RULES[type(self.optimizer)].slots.items() if key in kept}

    def _lazily(self, key: str | None) -> LazyArrays:
        def read(name: str) -> np.ndarray:
            return to_numpy(self._whole(name, key))

        return LazyArrays({name: (shape, partial(read, name)) for name, shape in self._shapes.items()})

    def _whole(self, name: str, key: str | None) -> torch.Tensor:
        """A parameter or a moment of it. Every process calls this."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        param = self.params[name]
        return safe_get_full_fp32_param(param) if key is None else safe_get_full_optimizer_state(param, key)

    def _write(self, name: str, key: str | None, array: np.ndarray) -> None:
        from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

        param, values = self.params[name], torch.from_numpy(np.array(array, dtype=np.float32)).to(self._device)
        if self._stage < _LAST:
            param.set_full_hp_param(values, key)
            return
        # Its own writer of whole values takes no parameter that the processes do not divide.
        size, rank = param.ds_tensor.ds_numel, dist.get_rank()
        padded = nn.functional.pad(values.flatten(), (0, size * dist.get_world_size() - values.numel()))
        mine = padded[size * rank : size * (rank + 1)]
        if key is None:
            safe_set_local_fp32_param(param, mine)
        else:
            safe_set_local_optimizer_state(param, mine, key)

    def _refresh(self) -> None:
        """Brings the parameters that the model computes with to the flat ones that updates change."""
        wrapper = self.engine.optimizer
        if self._stage < _LAST:
            wrapper.update_lp_params()
            return
        for flat, own in zip(wrapper.fp32_partitioned_groups_flat, wrapper.fp16_partitioned_groups_flat, strict=True):
            own.copy_(flat)
        # Small parameters stay whole between steps, so they are gathered again, as after an update.
        whole = wrapper.persistent_parameters
        if whole:
            whole[0].partition(whole)
            whole[0].all_gather(whole)

    def _count(self, step: int) -> None:
        for flat, group in self._parts():
            optim.set_counter(self.optimizer, group, self._inner.state[flat], step)


class ZeroRun:
    """One optimizer step by DeepSpeed; see `crosstrain.step.RunStep`."""

    def __init__(self, loss_fn: LossFn, options: StepOptions, runtime: Runtime) -> None:
        if options.clip_value is not None:
            raise ConfigError(f"clip_value must be None with deepspeed, got {options.clip_value}. Use clip_norm.")
        if options.compile:
            raise ConfigError(f"compile must be False with deepspeed, got compile={options.compile!r}.")
        self._gradient = Gradient(loss_fn, runtime, options.accumulate_steps, options.remat)
        self._options, self._runtime = options, runtime

    def __call__(self, state: ZeroState, batch: Batch, hyper: StepHyper, others: tuple[TorchState, ...]) -> Metrics:
        """Forward, backward, clip, update."""
        state.drop_gradients()
        state.engine.optimizer.override_loss_scale(1.0)
        total: Outputs = {}
        for outputs in self._gradient.passes(state, state.engine, batch, others):
            state.engine.backward(outputs["loss"].sum, scale_wrt_gas=False)
            total = add(total, detach(outputs))
        total = self._runtime.reduce(total)
        # DeepSpeed averages over processes; the definition is the sum over all examples by the sum of all weights.
        norm = state.step_zero(hyper, float(total["loss"].weight) / self._runtime.parts, self._options.clipping)
        if self._options.wants_norm:
            total["grad_norm"] = Loss(norm, 1.0)
        return self._runtime.metrics(total, {"learning_rate": hyper[0]})


def apart() -> ConfigError:
    """The error for gradients by name."""
    return ConfigError(
        "gradients must stay inside of a step with deepspeed, which keeps them in flat parts, got a call that asks for "
        "them. Use accelerator.train_step, or mesh=ct.MeshSpec(fsdp=N) in place of deepspeed."
    )


def _initialise(model: nn.Module, optimizer: Any, zero: DeepSpeed) -> Any:
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # the only way to tell it
    try:
        deepspeed = importlib.import_module("deepspeed")
    except ImportError as error:
        raise BackendError(
            f"deepspeed must be installed for Accelerator(deepspeed=...), got ImportError: {error}. "
            "Run pip install 'crosstrain[deepspeed]'."
        ) from error
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        dist_init_required=False,
        config={
            "train_micro_batch_size_per_gpu": 1,  # asked for, and not used: loss and weight are crosstrain's
            "managed_gradient_accumulation": False,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": {"stage": zero.stage, **(zero.zero or {})},
        },
    )
    return engine
