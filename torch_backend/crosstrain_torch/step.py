"""The torch engine's steps: forward, backward, exact reduction, clipping, update."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from crosstrain.errors import DataError
from crosstrain.loss import Loss
from crosstrain.metrics import Metrics
from crosstrain.precision import Precision
from crosstrain.random import WORD_MASK, StepRandom, seed_key, threefry2x32
from crosstrain.state import require_trainable
from crosstrain.step import LossFn, Remat, StepHyper, StepOptions
from crosstrain_torch import ddp, fsdp, optim
from crosstrain_torch.collectives import all_reduce
from crosstrain_torch.objective import Batch, Objective, Outputs, add, call, detach, read_losses
from crosstrain_torch.pipeline import Pipelined, require_alone
from crosstrain_torch.precision import forward_scope
from crosstrain_torch.remat import rematerialised
from crosstrain_torch.sharding import Mesh
from crosstrain_torch.state import TorchGradients, TorchState


class Runtime:
    """What every step of one accelerator shares: precision, device, mesh, seed, and which island it is on.

    `group` has the processes that see different examples or positions; without a mesh beyond `data`, DDP adds up their
    gradients. `first_part` says where this process's examples begin in the batch, in parts of their number.
    """

    def __init__(self, precision: Precision, device: torch.device, mesh: Mesh, seed: int, island: int = 0) -> None:
        self.precision, self.device, self.mesh = precision, device, mesh
        self.group, (self.part, self.parts) = mesh.losses, mesh.batch_part
        self.first_part = island if mesh.world is None else self.part
        self.uses_ddp = mesh.native is None and mesh.world is not None
        self._dropout_key = seed_key(seed, "dropout")

    def bind_random(self, state: TorchState, step: int, rows: torch.Tensor) -> None:
        """Gives the model's dropout layers the randomness of the step that `step` updates came before."""
        if not state.dropouts:
            return
        key = threefry2x32(self._dropout_key, step & WORD_MASK, 0, wrap=_wrap)
        for dropout in state.dropouts:
            dropout.random = StepRandom(key, rows, _wrap)

    def fetch(self, outputs: Mapping[str, Loss]) -> np.ndarray:
        """Sums and weights on the host, (n, 2). Waits."""
        pairs = [
            torch.as_tensor(part, dtype=torch.float64, device=self.device) for loss in outputs.values() for part in loss
        ]
        return torch.stack(pairs).reshape(-1, 2).cpu().numpy()

    def reduce(self, outputs: Outputs) -> Outputs:
        """Sums and weights over all processes; of stages, those of the last one."""
        stage = self.mesh.stage
        if self.group is None and stage is None:
            return outputs
        dtype = torch.float64 if self.precision.loss_dtype == "float64" else torch.float32
        parts = [torch.as_tensor(part, dtype=dtype, device=self.device) for loss in outputs.values() for part in loss]
        flat = torch.stack(parts)
        total = (flat if self.group is None else all_reduce(flat, self.group)).reshape(-1, 2)
        if stage is not None:
            dist.broadcast(total, group=stage.group, group_src=stage.count - 1)
        return {name: Loss(total[index, 0], total[index, 1]) for index, name in enumerate(outputs)}

    def metrics(self, outputs: Outputs, known: Mapping[str, float] | None = None) -> Metrics:
        """Wraps outputs; nothing is copied before somebody reads."""
        return Metrics(tuple(outputs), outputs, self.fetch, known)


def _wrap(word: Any) -> Any:
    return word & WORD_MASK


class Gradient:
    """Runs a loss function forward and backward over micro-batches: leaves exact gradients in the parameters."""

    def __init__(self, loss_fn: LossFn, runtime: Runtime, accumulate_steps: int = 1, remat: Remat = "none") -> None:
        self._loss_fn, self._runtime, self._count, self._remat = loss_fn, runtime, accumulate_steps, remat
        self._pipelined = Pipelined(loss_fn, read_losses, runtime, remat=remat)
        self._positions: dict[int, torch.Tensor] = {}
        self._objectives: WeakKeyDictionary[TorchState, dict[Any, Objective | ddp.Replicas]] = WeakKeyDictionary()

    def __call__(self, state: TorchState, batch: Batch, others: tuple[TorchState, ...]) -> Outputs:
        """Gradients of sum / weight over the global batch; returns the global sums and weights."""
        state.learning.hold(state.frozen)
        if self._runtime.mesh.stage is not None:
            require_alone(others)
            with fsdp.gathered_no_longer([state.model]):
                parts = list(self._micro_batches(batch, self._rows(batch)))
                return self._finish(state, self._pipelined.gradients(state, parts))
        objective = self._objective(state, others)
        with fsdp.gathered_no_longer([each.model for each in (state, *others)]):
            if self._count > 1 or self._runtime.group is not None:
                return self._accumulate(objective, state, batch, others)
            assert isinstance(objective, Objective)
            outputs = self._forward(objective, state, batch, others, self._rows(batch))
            loss = outputs["loss"]
            (loss.sum / loss.weight).backward()
            state.collect_gradients()
            return detach(outputs)

    def _accumulate(
        self, made: Objective | ddp.Replicas, state: TorchState, batch: Batch, others: tuple[TorchState, ...]
    ) -> Outputs:
        replicas = made if isinstance(made, ddp.Replicas) else None
        objective = made if isinstance(made, Objective) else made.objective(batch)
        finds_out = replicas is not None and isinstance(objective, Objective)
        total: Outputs = {}
        reaches_all = True
        rows = self._rows(batch)
        for index, (part, part_rows) in enumerate(self._micro_batches(batch, rows)):
            last = index == self._count - 1
            fsdp.set_sync(state.model, last)
            with contextlib.nullcontext() if last else ddp.without_sync(objective):
                outputs = self._forward(objective, state, part, others, part_rows)
                if finds_out and replicas is not None:
                    reaches_all = reaches_all and replicas.reaches_all(outputs["loss"].sum)
                outputs["loss"].sum.backward()
            total = add(total, detach(outputs))
        if replicas is not None:
            replicas.settle(batch, reaches_all) if finds_out else replicas.require_reached(objective)
        return self._finish(state, total, reduced=replicas is not None and not finds_out)

    def _finish(self, state: TorchState, total: Outputs, reduced: bool = False) -> Outputs:
        total = self._runtime.reduce(total)
        grads = state.collect_gradients()
        if not reduced:
            state.reduce_gradients()
        # DDP averages over processes; the definition is the sum over all examples by the sum of all weights.
        scale = self._runtime.parts if reduced else 1
        if grads:  # on a stage of a pipeline all may stand still
            torch._foreach_mul_(grads, scale / total["loss"].weight)
        return total

    def _forward(
        self,
        objective: nn.Module,
        state: TorchState,
        batch: Batch,
        others: tuple[TorchState, ...],
        rows: torch.Tensor,
    ) -> Outputs:
        runtime = self._runtime
        # Also for the others, whose own count may stand still: the step is that of the state in training.
        for owner in (state, *others):
            runtime.bind_random(owner, state.step, rows)
        with forward_scope(runtime.precision, runtime.device), rematerialised(state.model, self._remat):
            result = call(objective, batch, runtime.precision, state=state, others=others)
        return read_losses(result, batch, len(rows))

    def _rows(self, batch: Batch) -> torch.Tensor:
        """Which examples of the global batch these are; the same tensor for every batch of one size."""
        size = len(next(iter(batch.values())))
        if size not in self._positions:
            start = self._runtime.first_part * size
            self._positions[size] = torch.arange(start, start + size, device=self._runtime.device)
        return self._positions[size]

    def _micro_batches(self, batch: Batch, rows: torch.Tensor) -> Iterator[tuple[Batch, torch.Tensor]]:
        if len(rows) % self._count:
            raise micro_batch_error(len(rows), self._count)
        for index in range(self._count):
            part = slice(index, None, self._count)
            yield {name: values[part] for name, values in batch.items()}, rows[part]

    def _objective(self, state: TorchState, others: tuple[TorchState, ...]) -> Objective | ddp.Replicas:
        cache = self._objectives.setdefault(state, {})
        # DistributedDataParallel reduces what had a gradient when it was made.
        key = (*state.learning.held, *(id(other) for other in others))
        if key not in cache:
            model, models = state.model, tuple(other.model for other in others)

            def make(kind: type[Objective]) -> Objective:
                return kind(self._loss_fn, model, models)

            world = self._runtime.mesh.world
            if self._runtime.uses_ddp and world is not None:
                frozen = [param for other in models for param in other.parameters()]
                cache[key] = ddp.Replicas(
                    make, state.learning.now, frozen, self._runtime.precision, self._runtime.device, world
                )
            else:
                cache[key] = make(Objective)
        return cache[key]


def micro_batch_error(examples: int, count: int) -> DataError:
    """The error for a batch that does not split into micro-batches."""
    return DataError(
        f"the batch must be a multiple of accumulate_steps on every process, got {examples} examples for "
        f"accumulate_steps={count}. Use a batch size that accumulate_steps times the data axis divides."
    )


class TrainRun:
    """One optimizer step; see `crosstrain.step.RunStep`."""

    def __init__(self, loss_fn: LossFn, options: StepOptions, runtime: Runtime) -> None:
        self._gradient = Gradient(loss_fn, runtime, options.accumulate_steps, options.remat)
        self._options, self._runtime = options, runtime
        self._clipping = options.clipping
        self._looks_at_gradients = options.wants_norm or options.clip_value is not None

    def __call__(self, state: TorchState, batch: Batch, hyper: StepHyper, others: tuple[TorchState, ...]) -> Metrics:
        """Forward, backward, clip, update."""
        outputs = self._gradient(state, batch, others)
        if self._looks_at_gradients:
            norm = None
            if self._options.wants_norm:
                norm = optim.global_norm(state.learning.now, state.shards)
                outputs["grad_norm"] = Loss(norm, 1.0)
            state.clip(self._clipping, norm)
        state.update(*hyper)
        return self._runtime.metrics(outputs, {"learning_rate": hyper[0]})


def gradient_step(
    loss_fn: LossFn, runtime: Runtime, to_device: Callable[..., Batch], remat: Remat = "none"
) -> Callable[..., Any]:
    """See `Accelerator.value_and_grad`."""
    gradient = Gradient(loss_fn, runtime, remat=remat)

    def run(state: TorchState, batch: Batch, *others: TorchState) -> tuple[Metrics, TorchGradients]:
        require_trainable(state, others)
        outputs = gradient(state, to_device(batch), others)
        return runtime.metrics(outputs), state.take_gradients()

    return run
