"""Steps over a pipeline: micro-batches travel through the stages, with torch's schedules, one forward and one backward.

A loss function calls the whole model, once. So it is called twice for a micro-batch: on every process with a stand-in
that notes the model's inputs and goes no further, and on the last stage with one that returns what came out of the
pipeline. Both calls draw the same random numbers.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.utils._pytree import tree_map_only

from crosstrain.data.loader import WEIGHT
from crosstrain.errors import ConfigError, LossError
from crosstrain.loss import Loss
from crosstrain.step import LossFn, Remat
from crosstrain_torch.host import generators, set_generators
from crosstrain_torch.objective import Batch, Objective, Outputs, add, call, detach
from crosstrain_torch.ops import TorchOps
from crosstrain_torch.precision import DTYPES, casts, compute_batch, forward_scope
from crosstrain_torch.remat import rematerialised
from crosstrain_torch.state import TorchState

if TYPE_CHECKING:
    from crosstrain_torch.step import Runtime

Read = Callable[[Any, Batch, int], dict[str, Any]]
Part = tuple[Batch, torch.Tensor]


class _Noted(BaseException):
    """Ends a call of a loss function when the inputs of its model are known; no `except Exception` is to catch it."""


class StandIn:
    """What a loss function gets for a model that no process has whole.

    Args:
        model: what it stands for.
        output: what a call returns; None where the call is to be noted and the function left.
    """

    def __init__(self, model: nn.Module, output: torch.Tensor | None = None) -> None:
        self._model, self._output = model, output
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Notes the call.

        Raises:
            LossError: a second call.
        """
        self.calls.append((args, kwargs))
        if len(self.calls) > 1:
            raise _not_once("a second call")
        if self._output is None:
            raise _Noted
        return self._output

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._model, name)
        if isinstance(found, nn.Module | torch.Tensor) or callable(found):
            raise LossError(
                f"a loss or prediction function must call the model itself on a pipeline, got a use of its {name}. No "
                "process has all of it: call model(...), once; for a penalty on weights use weight_decay."
            )
        return found


def _not_once(what: str) -> LossError:
    return LossError(
        f"a loss or prediction function must call the model exactly once on a pipeline, got {what}. "
        "Put what it is called with into one batch, or use pipeline=1."
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _MicroBatch:
    """One part of a batch, and what the loss function calls the model with for it.

    Attributes:
        batch: in the compute type.
        rows: which examples of the global batch these are.
        args: of the model.
        kwargs: of the model.
        stream: shape of what stages hand on.
        outputs: shape of what the model returns.
        random: states of torch's generators before the loss function was called.
    """

    batch: Batch
    rows: torch.Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    stream: torch.Size
    outputs: torch.Size
    random: dict[str, torch.Tensor]


class _Stage(PipelineStage):
    """torch's stage, which asks for a forward pass where it would call its module itself, and for the loss.

    Attributes:
        run: index of a micro-batch, and what the stage before has returned -> what this one returns.
        measure: index of a micro-batch, and what the last stage has returned -> the loss.
    """

    run: Callable[[int, tuple[torch.Tensor, ...]], torch.Tensor]
    measure: Callable[[int, torch.Tensor], torch.Tensor]

    def forward_maybe_with_nosync(self, *received: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """See `PipelineStage`."""
        return self.run(int(index), received)

    def loss(self, output: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """What a schedule calls on the last stage."""
        return self.measure(int(index), output)

    def perform_reduce_grad(self, grad_scale_factor: int) -> None:
        """See `PipelineStage`."""
        if self.has_backward:
            super().perform_reduce_grad(grad_scale_factor)


class Pipelined:
    """A function over a model, as the stages of a pipeline compute it.

    Args:
        function: `loss_fn(model, batch, ops)`, or one that predicts.
        read: what the function returned, the batch and its number of examples -> values by name.
        runtime: of the accelerator.
        remat: see `StepOptions`.
        averaged: whether the averages stand in for the weights.
    """

    def __init__(
        self, function: LossFn, read: Read, runtime: "Runtime", *, remat: Remat = "none", averaged: bool = False
    ) -> None:
        self._function, self._read, self._runtime = function, read, runtime
        self._remat, self._averaged = remat, averaged
        self._forms: dict[Any, dict[str, Any]] = {}
        self._schedules: WeakKeyDictionary[TorchState, dict[Any, tuple[_Stage, Any]]] = WeakKeyDictionary()

    def gradients(self, state: TorchState, parts: Sequence[Part]) -> Outputs:
        """Forward and backward of all micro-batches: leaves this stage's gradients of the sum of the losses.

        Args:
            state: in training.
            parts: of the batch, with the positions of their examples in the global one.

        Returns:
            Sums and weights over this process's examples on the last stage; on the others zeros.
        """
        noted = [self._note(state, *part) for part in parts]
        total: Outputs = {name: Loss(0.0, 0.0) for name in self._try(state, noted[0])}

        def measure(index: int, output: torch.Tensor) -> torch.Tensor:
            nonlocal total
            outputs = self._values(state, noted[index], output)
            total = add(total, detach(outputs))
            return outputs["loss"].sum

        self._step(state, noted, measure)
        return total

    def values(self, state: TorchState, batch: Batch) -> dict[str, Any]:
        """What the function comes to, without gradients; on all but the last stage zeros in its place."""
        noted = self._note(state, batch, torch.arange(len(next(iter(batch.values())))))
        form = self._try(state, noted)
        output = self._step(state, [noted], None)
        if output is not None:
            return self._values(state, noted, output)
        return tree_map_only(torch.Tensor, lambda each: torch.zeros_like(each, device=self._runtime.device), form)

    def _note(self, state: TorchState, batch: Batch, rows: torch.Tensor) -> _MicroBatch:
        precision, device = self._runtime.precision, self._runtime.device
        if precision.casts_batch:
            batch = compute_batch(batch, precision)
        random, stand_in = generators(device), StandIn(state.model)
        with contextlib.suppress(_Noted), forward_scope(precision, device):
            self._function(stand_in, batch, TorchOps(batch.get(WEIGHT)))
        if not stand_in.calls:
            raise _not_once("no call")
        args, kwargs = stand_in.calls[0]
        stream, outputs = state.model.stage_shapes(*args, **kwargs)
        return _MicroBatch(
            batch=batch, rows=rows, args=args, kwargs=kwargs, stream=stream, outputs=outputs, random=random
        )

    def _try(self, state: TorchState, part: _MicroBatch) -> dict[str, Any]:
        """The form of what the function comes to, on the meta device: once for each form of a batch, from zeros.

        What is wrong with the function is found on every process, so that none waits for one that has stopped.
        """
        key = (part.outputs, *((name, values.shape) for name, values in part.batch.items()))
        if key not in self._forms:
            blank = torch.zeros(part.outputs, dtype=self._stream_dtype, device=self._runtime.device)
            with torch.no_grad():
                values = self._values(state, part, blank)
            self._forms[key] = tree_map_only(torch.Tensor, lambda each: each.to("meta"), values)
        return self._forms[key]

    def _values(self, state: TorchState, part: _MicroBatch, output: torch.Tensor) -> dict[str, Any]:
        device = self._runtime.device
        now = generators(device)
        set_generators(part.random, device)
        with forward_scope(self._runtime.precision, device):
            result = self._function(StandIn(state.model, output), part.batch, TorchOps(part.batch.get(WEIGHT)))
        set_generators(now, device)
        return self._read(result, part.batch, len(part.rows))

    def _step(self, state: TorchState, noted: Sequence[_MicroBatch], measure: Any) -> torch.Tensor | None:
        """Sends micro-batches through the stages; what comes out of the last one where there is no backward pass."""
        stage, schedule = self._schedule(state, noted, trains=measure is not None)
        stage.run, stage.measure = functools.partial(self._run, state, noted), measure
        indices = torch.arange(len(noted))
        target = indices if measure is not None and stage.is_last else None
        try:
            return schedule.step(index=indices, target=target, return_outputs=measure is None)
        finally:
            stage.clear_runtime_states()
            del stage.run, stage.measure

    def _run(
        self, state: TorchState, noted: Sequence[_MicroBatch], index: int, received: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        runtime, part = self._runtime, noted[index]
        runtime.bind_random(state, state.step, part.rows)

        def forward(model: nn.Module, batch: Batch, ops: TorchOps) -> torch.Tensor:
            return model(*part.args, **part.kwargs, received=received)

        with forward_scope(runtime.precision, runtime.device), rematerialised(state.model, self._remat):
            objective = Objective(forward, state.model, ())
            output = call(objective, {}, runtime.precision, state=state, others=(), averaged=self._averaged)
        # The stage before sends its gradients even where nothing here depends on anything that learns.
        return output if output.requires_grad or not torch.is_grad_enabled() else output.requires_grad_()

    def _schedule(self, state: TorchState, noted: Sequence[_MicroBatch], *, trains: bool) -> tuple[_Stage, Any]:
        shapes = {part.stream for part in noted}
        if len(shapes) > 1:
            raise LossError(
                "a loss function must call the model with equal shapes for every micro-batch of a pipeline, got "
                f"{', '.join(str(tuple(shape)) for shape in shapes)}. Cut or pad in the data."
            )
        cache = self._schedules.setdefault(state, {})
        key = (len(noted), *shapes, trains)
        if key not in cache:
            stage = self._new_stage(state, noted[0], trains)
            kind = Schedule1F1B if trains and len(noted) >= stage.num_stages else ScheduleGPipe
            cache[key] = stage, kind(stage, len(noted), loss_fn=stage.loss if trains else None, scale_grads=False)
        return cache[key]

    def _new_stage(self, state: TorchState, part: _MicroBatch, trains: bool) -> _Stage:
        here = self._runtime.mesh.stage
        assert here is not None
        stream = torch.empty(part.stream, dtype=self._stream_dtype, device="meta", requires_grad=trains)
        return _Stage(
            state.model,
            here.index,
            here.count,
            self._runtime.device,
            input_args=() if here.is_first else stream,
            output_args=stream,  # of the last stage too, whose outputs are not sent: torch asks for some
            group=here.group,
        )

    @property
    def _stream_dtype(self) -> torch.dtype:
        precision = self._runtime.precision
        return DTYPES[precision.compute_dtype if casts(precision) else precision.param_dtype]


def require_alone(others: Sequence[TorchState]) -> None:
    """Refuses further states in a step over a pipeline.

    Raises:
        ConfigError: says how many there are.
    """
    if others:
        raise ConfigError(
            f"a step over a pipeline must be given one state, got {len(others)} more after the batch. Use pipeline=1."
        )
