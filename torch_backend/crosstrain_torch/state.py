"""`TorchState`: a live nn.Module and its native optimizer."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from crosstrain.errors import require_instance
from crosstrain.models.experts import balances_of
from crosstrain.optim import Averaging, Clipping, OptimizerSpec, Role
from crosstrain.precision import Precision
from crosstrain.sharding import ShardingPlan
from crosstrain.snapshot import Snapshot, check_names, check_slots
from crosstrain.state import Gradients, StateBytes, TrainState, foreign_gradients
from crosstrain_torch import experts, naming, optim
from crosstrain_torch.host import copy_into, generators, lazily, set_generators, to_numpy
from crosstrain_torch.models.layers import Dropout
from crosstrain_torch.placing import place
from crosstrain_torch.reduction import reduce_dtype, reduce_sum
from crosstrain_torch.sharding import Mesh
from crosstrain_torch.shards import Learning, Shards, local, wrap
from crosstrain_torch.stages import Holders


class TorchGradients(Gradients):
    """Gradients by name of the state's parameters, as far as this process holds them; None where there is none."""

    def __init__(self, grads: dict[str, torch.Tensor | None], state: "TorchState") -> None:
        self.grads, self._params, self._holders = grads, state.params, state.holders
        self._trainable = frozenset(state.learning.trainable)

    def to_host(self) -> dict[str, np.ndarray]:
        """See `crosstrain.Gradients`."""
        trained = {name: grad for name, grad in self.grads.items() if name in self._trainable}
        return {name: to_numpy(self._whole(name, grad)) for name, grad in trained.items()}

    def _whole(self, name: str, grad: torch.Tensor | None) -> torch.Tensor:
        param = self._params[name]
        if grad is None:
            return torch.zeros(param.shape, dtype=param.dtype)
        return self._holders.whole(name, wrap(grad, param))


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
        mesh: Mesh,
        plan: ShardingPlan,
    ) -> None:
        super().__init__(optimizer, average, plan)
        self.gathered = place(model, plan, mesh, precision, device)
        self._model, self._device, self._mesh = model.train(), device, mesh
        self._reduce_dtype = reduce_dtype(precision)
        self.sequence, self.stage = mesh.sequence, mesh.stage
        self.dropouts = [m for m in model.modules() if isinstance(m, Dropout) and m.rate]
        self.params = naming.parameters(model)
        self._experts = frozenset(experts.names(plan))
        self.has_experts = balances_of(model) is not None
        self.holders = Holders(plan=plan, stage=mesh.stage, device=device)
        self.shards = Shards(self.params, mesh, [name for name in self.params if self.holders.is_shared(name)])
        self.learning = Learning(self.shards)
        self.native_optimizer = None if optimizer is None else self._build_optimizer()
        self.reading: Future[None] | None = None
        self.averages = {name: p.detach().clone() for name, p in self.params.items()} if average is not None else {}
        self.local_averages = [local(average) for average in self.averages.values() if not average.is_meta]

    @property
    def model(self) -> nn.Module:
        """The module itself."""
        return self._model

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """See `crosstrain.TrainState`."""
        return naming.shapes(self.params)

    @property
    def parameter_roles(self) -> dict[str, Role]:
        """See `crosstrain.TrainState`."""
        roles = naming.roles(self._model)
        return {name: roles[name] for name in self.params}

    @property
    def device_bytes(self) -> StateBytes:
        """See `crosstrain.TrainState`."""
        kept = () if self.native_optimizer is None else self.native_optimizer.state.values()
        return StateBytes(
            parameters=_bytes(self.params.values()),
            gradients=0,
            optimizer=_bytes(each for of_one in kept for each in of_one.values()),
            average=_bytes(self.averages.values()),
            buffers=_bytes(self._model.buffers()),
        )

    def take_gradients(self) -> TorchGradients:
        """Moves the gradients out of the parameters."""
        grads = {name: param.grad for name, param in self.shards.local.items()}
        grads |= {name: torch.empty_like(param) for name, param in self.learning.elsewhere.items()}
        for param in self.shards.local.values():
            param.grad = None
        return TorchGradients(grads, self)

    def apply_gradients(
        self, gradients: Gradients, *, clip_norm: float | None = None, clip_value: float | None = None
    ) -> None:
        """See `crosstrain.TrainState`."""
        if not isinstance(gradients, TorchGradients) or not self._owns(gradients):
            raise foreign_gradients(gradients)
        clipping = Clipping(norm=clip_norm, value=clip_value)
        self.learning.hold(self.frozen)
        for name, param in self.shards.local.items():
            param.grad = gradients.grads[name]
        self.learning.drop_others(self.shards.local.values())
        self._complete_gradients()  # of parameters that stood still when these were computed
        optim.clip(self.learning.now, clipping, self.shards)
        self.update(*self.hyper())
        self._step += 1

    def collect_gradients(self) -> list[torch.Tensor]:
        """This process's part of every gradient, after the last backward pass.

        Parameters that the loss does not depend on get theirs, which is zero: torch leaves it out, and its optimizers
        then skip the parameter's weight decay and momentum.

        Raises:
            ConfigError: see `Learning.require_asking`.
        """
        self.shards.collect_gradients()
        if self.learning.held:
            self.learning.drop_others(self.shards.local.values())
        self._complete_gradients()
        return [param.grad for param in self.learning.now if param.grad is not None]

    def _complete_gradients(self) -> None:
        missing = [param for param in self.learning.now if param.grad is None]
        if missing:
            self.learning.require_asking(missing)
            for param in missing:
                param.grad = torch.zeros_like(param)

    def reduce_gradients(self) -> None:
        """Adds up over examples, positions and stages what neither FSDP nor DDP adds up."""
        for gathered, own_experts, group in self._sums():
            reduce_sum(
                (
                    param.grad
                    for name, param in self.shards.local.items()
                    if param.grad is not None
                    and not param.is_meta
                    and (self.params[name] in self.gathered, name in self._experts) == (gathered, own_experts)
                ),
                group,
                None if gathered else self._reduce_dtype,
            )
        if self._mesh.stage is not None:
            shared = (param.grad for name, param in self.shards.local.items() if self.holders.is_shared(name))
            reduce_sum((grad for grad in shared if grad is not None), self._mesh.stage.group)

    def _sums(self) -> Iterator[tuple[bool, bool, dist.ProcessGroup]]:
        """Of parameters that FSDP gathers or not, and that are experts or not: whose gradients are added up."""
        mesh = self._mesh
        # FSDP has added up over data and fsdp; an expert has seen the tokens of all processes along `expert`.
        sequence = None if mesh.sequence is None else mesh.sequence.group
        experts = mesh.losses if mesh.experts is None else mesh.same_experts
        groups = {
            (False, False): [mesh.losses],
            (False, True): [experts],
            (True, False): [sequence, None if mesh.experts is None else mesh.experts.group],
            (True, True): [sequence],
        }
        for (gathered, own_experts), each in groups.items():
            yield from ((gathered, own_experts, group) for group in each if group is not None)

    def update(self, rate: float, momentum: float, average: float) -> None:
        """One native optimizer step, then the average; the gradients are gone after it."""
        optimizer = self.native_optimizer
        assert optimizer is not None
        self.wait_for_readers()
        optim.set_hyper(self.optimizer, optimizer, rate, momentum, self._step)
        optimizer.step()
        for param in self.learning.now:
            param.grad = None
        update_averages(self, average)

    def to_gradients(self, values: Mapping[str, np.ndarray]) -> TorchGradients:
        """See `crosstrain.TrainState`."""
        trained = {name: param for name, param in self.params.items() if name in self.learning.trainable}
        check_names("gradients", {name: tuple(param.shape) for name, param in trained.items()}, values)
        grads = {name: torch.empty_like(param.detach()) for name, param in trained.items()}
        copy_into(grads, values)
        return TorchGradients({n: local(grads[n]) if n in grads else None for n in self.params}, self)

    def view(self) -> Snapshot:
        """See `crosstrain.TrainState`."""
        sections = {name: lazily(each, self.holders.whole) for name, each in self._sections().items()}
        return Snapshot.from_sections(self._step, sections)

    def load(self, snapshot: Snapshot) -> None:
        """See `crosstrain.TrainState`."""
        require_instance("snapshot", snapshot, Snapshot, "dataclasses.replace(state.snapshot(), params=weights)")
        buffers = naming.buffers(self._model)
        check_names("params", self.parameter_shapes, snapshot.params)
        check_names("buffers", naming.shapes(buffers), snapshot.buffers)
        check_slots({slot: naming.shapes(kept) for slot, kept in self._moments().items()}, snapshot)
        self.wait_for_readers()
        if snapshot.averages and self.averages:
            check_names("averages", self.parameter_shapes, snapshot.averages)
            copy_into(self.averages, snapshot.averages)
        copy_into(self.params, snapshot.params)
        copy_into(buffers, snapshot.buffers)
        self._load_moments(snapshot)
        self._load_native(snapshot)
        self._step = snapshot.step

    def tensors(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Everything this process holds, by name: what a forward pass changes, and what only an update does."""
        changing: dict[str, torch.Tensor] = {}
        steady: dict[str, torch.Tensor] = {}
        for section, kept in self._sections().items():
            found = changing if section in ("buffers", "native") else steady
            found |= {f"{section}/{name}": tensor for name, tensor in kept.items() if not tensor.is_meta}
        return changing, steady

    @torch.no_grad()
    def set_tensors(self, values: Mapping[str, torch.Tensor], step: int) -> None:
        """Replaces all of `tensors`."""
        self.wait_for_readers()
        changing, steady = self.tensors()
        for name, target in (changing | steady).items():
            local(target).copy_(local(values[name]))
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

    def _build_optimizer(self) -> torch.optim.Optimizer:
        return optim.build(self.optimizer, self.shards, self.parameter_roles, self.learning.trainable)

    def _regroup(self) -> None:
        old = self.native_optimizer
        assert old is not None
        self.native_optimizer = new = self._build_optimizer()
        for param, kept in old.state.items():
            new.state[param] = kept
        optim.set_counters(self.optimizer, new, self._step)

    def wait_for_readers(self) -> None:
        """Returns once a checkpoint has copied what the next update changes."""
        reading, self.reading = self.reading, None
        if reading is not None:
            reading.result()

    def _owns(self, gradients: TorchGradients) -> bool:
        own = self.shards.local
        return list(gradients.grads) == list(own) and all(
            grad is None or grad.shape == own[name].shape for name, grad in gradients.grads.items()
        )

    def _moments(self) -> dict[str, dict[str, torch.Tensor]]:
        if self.native_optimizer is None:
            return {}
        return optim.slots(self.optimizer, self.native_optimizer, self.shards)

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


def update_averages(state: TorchState, share: float) -> None:
    """Takes the weights into their average with this share; from an average that pulls, they come back."""
    if state.averages and share:
        here, kept = state.shards.here, state.local_averages
        optim.update_average(kept, [param.detach() for param in here], share)
        if state.average is not None and state.average.pulls:
            optim.pull(here, kept, set(here) - set(state.learning.now))


@contextlib.contextmanager
def with_averages(state: TorchState) -> Iterator[None]:
    """A state's averages in the place of its weights; they change places."""
    state.wait_for_readers()
    params = [param.detach() for param in state.shards.here]

    def swap() -> None:
        for param, average in zip(params, state.local_averages, strict=True):
            kept = param.clone()
            param.copy_(average)
            average.copy_(kept)

    swap()
    try:
        yield
    finally:
        swap()


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Of this process's parts; the tensors of other stages are on the meta device."""
    return sum(local(tensor).nbytes for tensor in tensors if not tensor.is_meta)
