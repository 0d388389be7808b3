"""Whole training steps by `torch.compile`: forward, backward, clipping and update of one step in one compiled call."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from crosstrain.errors import ConfigError
from crosstrain.loss import Loss
from crosstrain.metrics import Metrics
from crosstrain.step import LossFn, StepHyper, StepOptions
from crosstrain_torch import optim
from crosstrain_torch.objective import (
    Batch,
    Objective,
    Outputs,
    add,
    call_alone,
    detach,
    micro_batches,
    note_newcomers,
    read_losses,
)
from crosstrain_torch.precision import forward_scope
from crosstrain_torch.sharding import Mesh
from crosstrain_torch.state import TorchState, update_averages
from crosstrain_torch.step import COMPILE_OPTIONS, Runtime, require_no_experts

Grads = list[torch.Tensor]


def require_compilable(options: StepOptions, mesh: Mesh) -> None:
    """Refuses to compile what torch cannot.

    Raises:
        ConfigError: says what can be compiled.
    """
    given, wide = f"compile={options.compile!r}", ", ".join(f"{a}={size}" for a, size in mesh.sizes.items() if size > 1)
    if options.compile and mesh.native is not None:
        raise ConfigError(f"compile must be False on a mesh beyond data, got {given} with {wide}. Use compile=False.")
    if options.compile and options.remat != "none":
        raise ConfigError(
            f"compile must be False with remat, got {given} and remat={options.remat!r}. Use remat='none': the "
            "compiler decides itself what it computes again."
        )
    if options.compile == "step" and mesh.world is not None:
        raise ConfigError(
            f"compile must be False or 'model' in several processes, got {given} with {wide}. Use compile='model', "
            "whose gradients are added up while they are computed."
        )
    if options.compile == "step" and not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        raise ConfigError(
            f"compile must be False or 'model' with torch {torch.__version__}, which cannot trace gradients, got "
            f"{given}. Use a newer torch."
        )


class CompiledRun:
    """One optimizer step in one compiled call; with micro-batches a call for each of them, and one for the update.

    Optimizers without a rule for compilers update as they do otherwise. See `crosstrain.step.RunStep`.
    """

    def __init__(self, loss_fn: LossFn, options: StepOptions, runtime: Runtime) -> None:
        # For the process, as torch has it: set around each call it would cost a tenth of a small step.
        torch._dynamo.config.trace_autograd_ops = True
        self._loss_fn, self._options, self._runtime = loss_fn, options, runtime
        self._programs: WeakKeyDictionary[TorchState, dict[Any, _Program]] = WeakKeyDictionary()

    def __call__(self, state: TorchState, batch: Batch, hyper: StepHyper, others: tuple[TorchState, ...]) -> Metrics:
        """Forward, backward, clip, update."""
        if others:
            raise ConfigError(
                f"compile must be False or 'model' with further states, got compile='step' and {len(others)} of them. "
                "Use compile='model'."
            )
        state.learning.hold(state.frozen)
        state.wait_for_readers()
        program, count = self._program(state), self._options.accumulate_steps
        rows = self._runtime.rows(batch)
        numbers = program.numbers(hyper, state.step)
        try:
            if count == 1:
                self._runtime.bind_random(state, state.step, rows, compiled=True)
                outputs = program.whole(batch, numbers)
            else:
                outputs = program.accumulate(self._parts(state, batch, rows, count), numbers)
        except RuntimeError:
            state.learning.require_asking(state.learning.now)
            raise
        if not program.updates:
            state.update(*hyper)
        elif not program.averages:
            update_averages(state, hyper[2])
        return self._runtime.metrics(outputs, {"learning_rate": hyper[0]})

    def _parts(self, state: TorchState, batch: Batch, rows: torch.Tensor, count: int) -> Iterator[Batch]:
        """Micro-batches, each with the randomness of its rows."""
        for part, own in micro_batches(batch, rows, count):
            self._runtime.bind_random(state, state.step, own, compiled=True)
            yield part

    def _program(self, state: TorchState) -> "_Program":
        cache = self._programs.setdefault(state, {})
        # A plan may change the optimizer, and every set of parameters that learn is another program.
        key = (state.native_optimizer, *state.learning.held)
        if key not in cache:
            require_no_experts(state)
            note_newcomers(state)
            cache[key] = _Program(self._loss_fn, self._options, self._runtime, state)
        return cache[key]


class _Program:
    """What is compiled for one state and one set of parameters that learn: plain functions over its tensors.

    Attributes:
        updates: whether the update is part of it.
        averages: whether the average of the weights is, too: one that pulls does so at some steps only.
    """

    def __init__(self, loss_fn: LossFn, options: StepOptions, runtime: Runtime, state: TorchState) -> None:
        assert state.native_optimizer is not None
        self._objective, self._runtime = Objective(loss_fn, state.model, ()), runtime
        self._clipping, self._wants_norm = options.clipping, options.wants_norm
        self._learning = state.learning.now
        self._update = optim.traced(state.optimizer, state.native_optimizer, self._learning)
        self.updates = self._update is not None
        self.averages = self.updates and state.average is not None and not state.average.pulls
        self._averages = list(state.averages.values()) if self.averages else []
        self._averaged = list(state.params.values())
        self._dtype = runtime.precision.loss_dtype
        settings: dict[str, Any] = {"guard_filter_fn": _can_change}
        if runtime.device.type == "cuda":
            settings |= torch._inductor.list_mode_options("reduce-overhead")  # CUDA graphs
            for tensor in (*self._averages, *(self._update.kept if self._update else ())):
                torch._dynamo.mark_static_address(tensor)
        self._whole, self._part, self._rest = (
            torch.compile(each, options=dict(settings), **COMPILE_OPTIONS)
            for each in (self._one, self._gradients, self._finish)
        )

    def numbers(self, hyper: StepHyper, step: int) -> torch.Tensor:
        """What the update is given as data, so that a new rate compiles nothing: shape (n,)."""
        found = [hyper[2], *(self._update.numbers(hyper[0], hyper[1], step) if self._update else ())]
        # In a third of the time that `torch.tensor` takes for a list.
        return torch.from_numpy(np.array(found, self._dtype)).to(self._runtime.device)

    def whole(self, batch: Batch, numbers: torch.Tensor) -> Outputs:
        """A step over one batch."""
        return self._end(self._whole(batch, numbers))

    def accumulate(self, parts: Iterable[Batch], numbers: torch.Tensor) -> Outputs:
        """A step over micro-batches."""
        total: Outputs = {}
        grads = [torch.zeros_like(param) for param in self._learning]
        for part in parts:
            grads, outputs = self._part(part, grads)
            grads = [self._own(each) for each in grads]
            total = add(total, self._owned(outputs))
        return self._end(self._rest(grads, total, numbers))

    # What is compiled.

    def _one(self, batch: Batch, numbers: torch.Tensor) -> tuple[Outputs, Grads]:
        return self._finish(*self._gradients(batch, None), numbers)

    def _gradients(self, batch: Batch, before: Grads | None) -> tuple[Grads, Outputs]:
        """Of the sum of the losses, added to those before."""
        precision = self._runtime.precision
        with forward_scope(precision, self._runtime.device):
            outputs = read_losses(call_alone(self._objective, batch, precision), batch, len(next(iter(batch.values()))))
        grads = list(torch.autograd.grad(outputs["loss"].sum, self._learning, materialize_grads=True))
        outputs = detach(outputs)
        with torch.no_grad():
            return grads if before is None else list(torch._foreach_add(before, grads)), outputs

    def _finish(self, grads: Grads, outputs: Outputs, numbers: torch.Tensor) -> tuple[Outputs, Grads]:
        """Clips and updates; the gradients where the update is not part of it."""
        with torch.no_grad():
            grads = list(torch._foreach_div(grads, outputs["loss"].weight))
            norm = optim.norm_of(grads) if self._wants_norm else None
            if norm is not None:
                outputs = {**outputs, "grad_norm": Loss(norm, 1.0)}
            optim.limit(grads, self._clipping, norm)
            if self._update is None:
                return outputs, grads
            self._update(grads, numbers[1:])
            if self._averages:
                optim.update_average(self._averages, self._averaged, numbers[0])
            return outputs, []

    # What comes after it.

    def _end(self, found: tuple[Outputs, Grads]) -> Outputs:
        outputs, grads = found
        for param, grad in zip(self._learning, grads, strict=False):
            param.grad = grad
        return self._owned(outputs)

    def _owned(self, outputs: Outputs) -> Outputs:
        if self._runtime.device.type != "cuda":
            return outputs
        return {name: Loss(self._own(loss.sum), self._own(loss.weight)) for name, loss in outputs.items()}

    def _own(self, value: Any) -> Any:
        """A copy where the next run of a CUDA graph overwrites what this one returned."""
        return value.clone() if self._runtime.device.type == "cuda" and torch.is_tensor(value) else value


def _can_change(guards: Sequence[Any]) -> list[bool]:
    """Which of a compiler's guards are looked at in every step: all but those of what stays as it is.

    That is what a `_Program` keeps, and functions of torch and of crosstrain: several for each moment of a parameter
    and for each function, a fifth of a small step.
    """
    return [_CONSTANT.search(guard.name) is None for guard in guards]


_CONSTANT = re.compile(
    r"(^|\()self\._(update|averages|averaged|learning|runtime|clipping|wants_norm)\b"
    r"|G\['__import_(torch|crosstrain|crosstrain_torch)_dot_"
    r"|G\['(__builtins_dict\w*|optim|detach|call_alone|read_losses|forward_scope)'\]"
)
