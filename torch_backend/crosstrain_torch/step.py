"""The torch engine's steps: forward, backward, exact reduction, clipping, update."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.graph import _engine_run_backward

from crosstrain.data.loader import WEIGHT
from crosstrain.errors import ConfigError, LossError
from crosstrain.loss import Loss
from crosstrain.metrics import Metrics
from crosstrain.models.experts import Balances, balances_of, reported
from crosstrain.objective import BALANCE
from crosstrain.precision import Precision
from crosstrain.random import WORD_MASK, StepRandom, seed_key, threefry2x32
from crosstrain.state import require_trainable
from crosstrain.step import LossFn, Remat, StepHyper, StepOptions
from crosstrain_torch import ddp, fsdp, optim
from crosstrain_torch.collectives import all_reduce
from crosstrain_torch.objective import (
    Batch,
    Objective,
    Outputs,
    Plain,
    add,
    call,
    detach,
    is_plain,
    micro_batches,
    note_newcomers,
    read_losses,
    require_apart,
)
from crosstrain_torch.pipeline import Pipelined, require_alone
from crosstrain_torch.precision import DTYPES, forward_scope
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
        self._rows: dict[int, torch.Tensor] = {}

    def rows(self, batch: Batch) -> torch.Tensor:
        """Which examples of the global batch these are; the same tensor for every batch of one size."""
        size = next(iter(batch.values())).shape[0]
        if size not in self._rows:
            start = self.first_part * size
            self._rows[size] = torch.arange(start, start + size, device=self.device)
        return self._rows[size]

    def bind_random(self, state: TorchState, step: int, rows: torch.Tensor, *, compiled: bool = False) -> None:
        """Gives the model's dropout layers the randomness of the step that `step` updates came before.

        A compiled model takes its key as data, for which nothing is compiled anew.
        """
        if not state.dropouts:
            return
        key: tuple[Any, Any] = threefry2x32(self._dropout_key, step & WORD_MASK, 0, wrap=_wrap)
        if compiled:
            key = tuple(torch.tensor(key, device=self.device).unbind())
        for dropout in state.dropouts:
            dropout.random = StepRandom(key, rows, _wrap)

    def fetch(self, outputs: Mapping[str, Loss]) -> np.ndarray:
        """Sums and weights on the host, (n, 2). Waits."""
        parts = [part for loss in outputs.values() for part in loss]
        if self.device.type == "cpu":  # nothing to copy, and a number is read in less time than one operation takes
            return np.array([float(part) for part in parts]).reshape(-1, 2)
        pairs = [torch.as_tensor(part, dtype=torch.float64, device=self.device) for part in parts]
        return torch.stack(pairs).reshape(-1, 2).cpu().numpy()

    def reduce(self, outputs: Outputs) -> Outputs:
        """Sums and weights over all processes; of stages, those of the last one."""
        stage = self.mesh.stage
        if self.group is None and stage is None:
            return outputs
        dtype = DTYPES[self.precision.loss_dtype]
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

    def __init__(
        self,
        loss_fn: LossFn,
        runtime: Runtime,
        accumulate_steps: int = 1,
        remat: Remat = "none",
        *,
        compiled: bool = False,
    ) -> None:
        self._loss_fn, self._runtime, self._count, self._remat = loss_fn, runtime, accumulate_steps, remat
        self._compiled = compiled
        self._pipelined = Pipelined(loss_fn, read_losses, runtime, remat=remat)
        self._objectives: WeakKeyDictionary[TorchState, dict[Any, Made]] = WeakKeyDictionary()

    def __call__(self, state: TorchState, batch: Batch, others: tuple[TorchState, ...]) -> Outputs:
        """Gradients of sum / weight over the global batch; returns the global sums and weights."""
        state.learning.hold(state.frozen)
        state.shards.drop_gradients()
        try:
            return self._gradients(state, batch, others)
        except (RuntimeError, LossError):
            state.learning.require_asking(state.learning.now)  # torch says that something has no gradient, not what
            raise

    def _gradients(self, state: TorchState, batch: Batch, others: tuple[TorchState, ...]) -> Outputs:
        if self._runtime.mesh.stage is not None:
            require_alone(others)
            with fsdp.gathered_no_longer([state.model]):
                parts = list(micro_batches(batch, self._runtime.rows(batch), self._count))
                return self._finish(state, self._pipelined.gradients(state, parts))
        objective = self._objective(state, others)
        with fsdp.gathered_no_longer([each.model for each in (state, *others)]):
            if self._count > 1 or self._runtime.group is not None:
                return self._accumulate(objective, state, batch, others)
            assert not isinstance(objective, ddp.Replicas)
            outputs = self._forward(objective, state, batch, others, self._runtime.rows(batch))
            backward(outputs["loss"])
            state.collect_gradients()
            return detach(outputs)

    def passes(
        self, state: TorchState, model: nn.Module, batch: Batch, others: tuple[TorchState, ...]
    ) -> Iterator[Outputs]:
        """The outputs of each micro-batch, by `model` around the state's own; their backward pass is the caller's."""
        require_apart(state, others)
        objective = Objective(self._loss_fn, model, tuple(other.model for other in others))
        for part, rows in micro_batches(batch, self._runtime.rows(batch), self._count):
            yield self._forward(objective, state, part, others, rows)

    def _accumulate(self, made: "Made", state: TorchState, batch: Batch, others: tuple[TorchState, ...]) -> Outputs:
        replicas = made if isinstance(made, ddp.Replicas) else None
        objective = made.objective(batch) if isinstance(made, ddp.Replicas) else made
        finds_out = replicas is not None and isinstance(objective, Objective)
        total: Outputs = {}
        reaches_all = True
        rows = self._runtime.rows(batch)
        for index, (part, part_rows) in enumerate(micro_batches(batch, rows, self._count)):
            last = index == self._count - 1
            fsdp.set_sync(state.model, last)
            with contextlib.nullcontext() if last or replicas is None else ddp.without_sync(objective):
                outputs = self._forward(objective, state, part, others, part_rows)
                if finds_out and replicas is not None:
                    reaches_all = reaches_all and replicas.reaches_all(outputs["loss"].sum)
                total_loss = outputs["loss"].sum
                _require_gradient(total_loss)
                run_backward(total_loss, torch.ones_like(total_loss))
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
        objective: nn.Module | Plain,
        state: TorchState,
        batch: Batch,
        others: tuple[TorchState, ...],
        rows: torch.Tensor,
    ) -> Outputs:
        runtime = self._runtime
        # Also for the others, whose own count may stand still: the step is that of the state in training.
        for owner in (state, *others):
            runtime.bind_random(owner, state.step, rows, compiled=self._compiled)
        if isinstance(objective, Plain):
            return read_losses(objective(batch), batch, rows.shape[0])
        balances = balances_of(state.model) if state.has_experts else None
        scope = forward_scope(runtime.precision, runtime.device)
        with reported(state.model, balances), scope, rematerialised(state.model, self._remat):
            result = call(objective, batch, runtime.precision, state=state, others=others)
        outputs = read_losses(result, batch, rows.shape[0])
        return outputs if balances is None else self._balanced(outputs, balances, batch)

    def _balanced(self, outputs: Outputs, balances: Balances, batch: Batch) -> Outputs:
        """With the balance of experts in the loss: its mean over the rows of all processes, by their loss's weight."""
        balance, loss = balances.total(batch.get(WEIGHT)), outputs["loss"]
        if balance is None:
            return outputs
        weights = Loss(loss.weight, balance.weight)
        if self._runtime.group is not None:
            weights = self._runtime.reduce({"weights": weights})["weights"]
        loss = loss._replace(sum=loss.sum + balances.part(balance, *weights))
        return outputs | {"loss": loss, BALANCE: balance}

    def _objective(self, state: TorchState, others: tuple[TorchState, ...]) -> "Made":
        cache = self._objectives.setdefault(state, {})
        # DistributedDataParallel reduces what had a gradient when it was made.
        key = (*state.learning.held, *(id(other) for other in others))
        if key not in cache:
            require_apart(state, others)
            note_newcomers(state)
            model, models = state.model, tuple(other.model for other in others)
            if self._compiled:
                require_no_experts(state)

            def make(kind: type[Objective]) -> Objective:
                made = kind(self._loss_fn, model, models)
                if self._compiled:
                    made.compile(**COMPILE_OPTIONS)  # at its first call, with its backward pass
                return made

            world = self._runtime.mesh.world
            if self._runtime.uses_ddp and world is not None:
                frozen = [param for other in models for param in other.parameters()]
                cache[key] = ddp.Replicas(
                    make, state.learning.now, frozen, self._runtime.precision, self._runtime.device, world
                )
            elif (
                self._remat == "none"
                and not self._compiled
                and is_plain(state, others, self._runtime.precision, self._runtime.device)
            ):
                cache[key] = Plain(self._loss_fn, model)
            else:
                cache[key] = make(Objective)
        return cache[key]


Made = Objective | Plain | ddp.Replicas
"""What stands for a loss function over models."""


def require_no_experts(state: TorchState) -> None:
    """Refuses to compile a mixture: how many tokens an expert is given differs from step to step.

    Raises:
        ConfigError: says so.
    """
    if state.has_experts:
        raise ConfigError(
            "compile must be False for a model with experts on the torch engine, whose shapes are new in every step. "
            "Use compile=False, or the jax engine."
        )


# Each compiled step with a limit of its own on how often it is compiled.
COMPILE_OPTIONS: dict[str, Any] = (
    {"isolate_recompiles": True} if "isolate_recompiles" in inspect.signature(torch.compile).parameters else {}
)


def backward(loss: Loss) -> None:
    """Adds the gradients of sum / weight to the parameters: those of the sum, which begin with 1 / weight."""
    total, weight = loss
    _require_gradient(total)
    run_backward(total, torch.as_tensor(weight, dtype=total.dtype, device=total.device).reciprocal())


def _require_gradient(total: object) -> None:
    if not getattr(total, "requires_grad", False):
        raise LossError(
            "loss_fn must return a loss that depends on parameters that learn, got one without a gradient. Return a "
            "tensor of the model's outputs: neither .item() nor .detach(), nothing made in torch.no_grad()."
        )


def run_backward(total: torch.Tensor, start: torch.Tensor) -> None:
    """`total.backward(start)` without its checks of arguments, which cost a tenth of a small step."""
    _engine_run_backward((total,), (start,), False, False, (), allow_unreachable=True, accumulate_grad=True)


class TrainRun:
    """One optimizer step; see `crosstrain.step.RunStep`."""

    def __init__(self, loss_fn: LossFn, options: StepOptions, runtime: Runtime) -> None:
        self._gradient = Gradient(
            loss_fn, runtime, options.accumulate_steps, options.remat, compiled=options.compile == "model"
        )
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
            optim.clip(state.learning.now, self._clipping, state.shards, norm)
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
