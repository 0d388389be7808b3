"""`TorchState`: a live nn.Module and its native optimizer."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from crosstrain.optim import Averaging, Clipping, OptimizerSpec, Role
from crosstrain.precision import Precision
from crosstrain.snapshot import Snapshot, check_names, check_slots
from crosstrain.state import Gradients, TrainState, foreign_gradients
from crosstrain_torch import naming, optim
from crosstrain_torch.host import copy_into, generators, lazily, set_generators, to_numpy
from crosstrain_torch.models.layers import BatchNorm, Dropout, synchronise
from crosstrain_torch.precision import param_dtype


class TorchGradients(Gradients):
    """Gradients in the order of the state's parameters; None where a parameter had none."""

    def __init__(self, names: list[str], grads: list[torch.Tensor | None]) -> None:
        self.names, self.grads = names, grads

    def to_host(self) -> dict[str, np.ndarray]:
        """See `crosstrain.Gradients`."""
        return {name: to_numpy(grad) for name, grad in zip(self.names, self.grads, strict=True) if grad is not None}


class TorchState(TrainState):
    """See `crosstrain.TrainState`. Steps update the module that was prepared in place."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerSpec | None,
        average: Averaging | None = None,
        *,
        precision: Precision,
        device: torch.device,
        group: Any,
    ) -> None:
        super().__init__(optimizer, average)
        model.to(device=device, dtype=param_dtype(precision))
        if any(isinstance(module, nn.Conv2d) for module in model.modules()):
            model.to(memory_format=torch.channels_last)
        self._model, self._device = model.train(), device
        for module in model.modules():
            if isinstance(module, BatchNorm):
                module.group = group
            elif group is not None and isinstance(module, _BatchNorm) and not _is_synchronised(module, device):
                synchronise(module, group)
        self.dropouts = [m for m in model.modules() if isinstance(m, Dropout) and m.rate]
        self.params = naming.parameters(model)
        self._trainable = {name: param for name, param in self.params.items() if param.requires_grad}
        self.trained = list(self._trainable.values())
        self.native_optimizer = optim.build(optimizer, model, self._trainable) if optimizer is not None else None
        self.frozen_groups: tuple[bool, ...] = ()
        self.reading: Future[None] | None = None
        self.averages = {name: p.detach().clone() for name, p in self.params.items()} if average is not None else {}

    @property
    def model(self) -> nn.Module:
        """The module itself."""
        return self._model

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """See `crosstrain.TrainState`."""
        return _shapes(self.params)

    @property
    def parameter_roles(self) -> dict[str, Role]:
        """See `crosstrain.TrainState`."""
        roles = naming.roles(self._model)
        return {name: roles[name] for name in self.params}

    def hold(self) -> None:
        """Asks for no gradients of the parameters that the next step leaves as they are, and again for the others'."""
        if self.native_optimizer is None:
            return
        groups = self.native_optimizer.param_groups
        frozen = tuple(group["settings"].frozen_at(self._step) for group in groups) if self.optimizer.layers else ()
        frozen = frozen if any(frozen) else ()
        if frozen == self.frozen_groups:
            return
        self.frozen_groups = frozen
        held = {param for yes, group in zip(frozen, groups, strict=False) if yes for param in group["params"]}
        self.trained = [param for param in self._trainable.values() if param not in held]
        for param in self._trainable.values():
            param.requires_grad_(param not in held)

    def take_gradients(self) -> TorchGradients:
        """Moves the gradients out of the parameters."""
        grads = [param.grad for param in self.params.values()]
        for param in self.params.values():
            param.grad = None
        return TorchGradients(list(self.params), grads)

    def apply_gradients(
        self, gradients: Gradients, *, clip_norm: float | None = None, clip_value: float | None = None
    ) -> None:
        """See `crosstrain.TrainState`."""
        if not isinstance(gradients, TorchGradients) or not self._owns(gradients):
            raise foreign_gradients(gradients)
        clipping = Clipping(norm=clip_norm, value=clip_value)
        self.hold()
        for param, grad in zip(self.params.values(), gradients.grads, strict=True):
            param.grad = grad if param.requires_grad else None
        optim.clip(self.gradient_list(), clipping)
        self.update(*self.hyper())
        self._step += 1

    def gradient_list(self) -> list[torch.Tensor]:
        """The gradients that are there."""
        return [param.grad for param in self.trained if param.grad is not None]

    def fill_missing_gradients(self) -> None:
        """Gives parameters that the loss does not depend on their gradient, which is zero.

        torch leaves it out, and its optimizers then skip the parameter's weight decay and momentum.
        """
        for param in self.trained:
            if param.grad is None:
                param.grad = torch.zeros_like(param)

    def update(self, rate: float, momentum: float, average: float) -> None:
        """One native optimizer step, then the average; the gradients are gone after it."""
        optimizer = self.native_optimizer
        assert optimizer is not None
        self._wait_for_readers()
        optim.set_hyper(self.optimizer, optimizer, rate, momentum)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if self.averages and average:
            params = [param.detach() for param in self.params.values()]
            optim.update_average(list(self.averages.values()), params, average)

    def to_gradients(self, values: Mapping[str, np.ndarray]) -> TorchGradients:
        """See `crosstrain.TrainState`."""
        trained = self._trainable
        check_names("gradients", {name: tuple(param.shape) for name, param in trained.items()}, values)
        grads = {name: torch.empty_like(param.detach()) for name, param in trained.items()}
        copy_into(grads, values)
        return TorchGradients(list(self.params), [grads.get(name) for name in self.params])

    def view(self) -> Snapshot:
        """See `crosstrain.TrainState`."""
        return Snapshot.from_sections(self._step, {name: lazily(each) for name, each in self._sections().items()})

    def load(self, snapshot: Snapshot) -> None:
        """See `crosstrain.TrainState`."""
        buffers = naming.buffers(self._model)
        check_names("params", self.parameter_shapes, snapshot.params)
        check_names("buffers", _shapes(buffers), snapshot.buffers)
        check_slots({slot: _shapes(kept) for slot, kept in self._moments().items()}, snapshot)
        self._wait_for_readers()
        if snapshot.averages and self.averages:
            check_names("averages", self.parameter_shapes, snapshot.averages)
            copy_into(self.averages, snapshot.averages)
        copy_into(self.params, snapshot.params)
        copy_into(buffers, snapshot.buffers)
        self._load_moments(snapshot)
        self._load_native(snapshot)
        self._step = snapshot.step

    def tensors(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Everything this state holds, by name: what a forward pass changes, and what only an update does."""
        changing: dict[str, torch.Tensor] = {}
        steady: dict[str, torch.Tensor] = {}
        for section, kept in self._sections().items():
            found = changing if section in ("buffers", "native") else steady
            found |= {f"{section}/{name}": tensor for name, tensor in kept.items()}
        return changing, steady

    @torch.no_grad()
    def set_tensors(self, values: Mapping[str, torch.Tensor], step: int) -> None:
        """Replaces all of `tensors`."""
        self._wait_for_readers()
        changing, steady = self.tensors()
        for name, target in (changing | steady).items():
            target.copy_(values[name])
        set_generators({name.removeprefix("native/torch/"): each for name, each in values.items()}, self._device)
        if self.native_optimizer is not None:
            optim.set_counters(self.optimizer, self.native_optimizer, step)
        self._step = step

    def keep(self) -> Callable[[], None]:
        """See `crosstrain.TrainState`."""
        optimizer, step = self.native_optimizer, self._step
        changing, steady = self.tensors()
        live = {**changing, **steady}
        copies = {name: tensor.clone() for name, tensor in live.items()}
        kept = [] if optimizer is None else [each for state in optimizer.state.values() for each in state.values()]
        own = [tensor.clone() for tensor in kept]

        def put_back() -> None:
            self.set_tensors(copies, step)
            with torch.no_grad():
                for target, values in zip(kept, own, strict=True):
                    target.copy_(values)

        return put_back

    def _sections(self) -> dict[str, dict[str, torch.Tensor]]:
        """The live tensors under the names of `Snapshot.sections`."""
        counters = naming.counters(self._model) | generators(self._device)
        return {
            "params": {name: param.detach() for name, param in self.params.items()},
            "buffers": naming.buffers(self._model),
            "averages": self.averages,
            **{f"moments/{slot}": kept for slot, kept in self._moments().items()},
            "native": {f"torch/{name}": values for name, values in counters.items()},
        }

    def _regroup(self) -> None:
        old = self.native_optimizer
        assert old is not None
        self.native_optimizer = new = optim.build(self.optimizer, self._model, self._trainable)
        for param, kept in old.state.items():
            new.state[param] = kept
        optim.set_counters(self.optimizer, new, self._step)
        self.frozen_groups = ()
        self.trained = list(self._trainable.values())
        for param in self.trained:
            param.requires_grad_(True)

    def _wait_for_readers(self) -> None:
        reading, self.reading = self.reading, None
        if reading is not None:
            reading.result()

    def _owns(self, gradients: TorchGradients) -> bool:
        return gradients.names == list(self.params) and all(
            grad is None or grad.shape == param.shape
            for grad, param in zip(gradients.grads, self.params.values(), strict=True)
        )

    def _moments(self) -> dict[str, dict[str, torch.Tensor]]:
        if self.native_optimizer is None:
            return {}
        return optim.slots(self.optimizer, self.native_optimizer, self.params)

    def _load_moments(self, snapshot: Snapshot) -> None:
        if self.native_optimizer is None or not snapshot.moments:
            return
        for slot, kept in self._moments().items():
            copy_into(kept, snapshot.moments[slot])
        optim.set_counters(self.optimizer, self.native_optimizer, snapshot.step)

    def _load_native(self, snapshot: Snapshot) -> None:
        given = {name.removeprefix("torch/"): values for name, values in snapshot.native.items()}
        counters = naming.counters(self._model)
        copy_into({name: each for name, each in counters.items() if name in given}, given)
        set_generators({name: torch.from_numpy(np.array(values)) for name, values in given.items()}, self._device)


def _is_synchronised(module: _BatchNorm, device: torch.device) -> bool:
    """torch's SyncBatchNorm works on CUDA devices only."""
    return isinstance(module, nn.SyncBatchNorm) and device.type == "cuda"


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
