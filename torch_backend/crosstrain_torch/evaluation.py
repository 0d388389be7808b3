"""The torch engine's evaluation and prediction: no gradients, evaluation mode, nothing changes."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from crosstrain.data.loader import WEIGHT
from crosstrain.metrics import Metrics
from crosstrain.objective import drop_padding, read_predictions
from crosstrain.state import require_states
from crosstrain.step import LossFn
from crosstrain_torch import fsdp
from crosstrain_torch.collectives import all_gather
from crosstrain_torch.objective import Batch, Objective, call, read_losses
from crosstrain_torch.pipeline import Pipelined, Read, require_alone
from crosstrain_torch.precision import forward_scope
from crosstrain_torch.sharding import Stage
from crosstrain_torch.state import TorchState
from crosstrain_torch.step import Runtime


@contextlib.contextmanager
def evaluation(states: tuple[TorchState, ...]) -> Iterator[None]:
    """Evaluation mode without gradients; every module's own mode comes back afterwards."""
    modes = [(module, module.training) for state in states for module in state.model.modules()]
    for state in states:
        state.model.eval()
    try:
        with torch.no_grad(), fsdp.gathered_no_longer([state.model for state in states]):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def eval_step(
    loss_fn: LossFn, runtime: Runtime, to_device: Callable[..., Batch], averaged: bool
) -> Callable[..., Metrics]:
    """See `Accelerator.eval_step`."""

    compute = _compute(loss_fn, read_losses, runtime, averaged)

    def run(state: TorchState, batch: Batch, *others: TorchState) -> Metrics:
        require_states(state, *others)
        return runtime.metrics(runtime.reduce(compute(state, to_device(batch), others)))

    return run


def predict_step(
    predict_fn: Callable[..., Any], runtime: Runtime, to_device: Callable[..., Batch], averaged: bool
) -> Callable[..., dict[str, np.ndarray]]:
    """See `Accelerator.predict_step`."""

    def read(result: Any, batch: Batch, examples: int) -> dict[str, torch.Tensor]:
        return read_predictions(result, batch, WEIGHT)

    compute = _compute(predict_fn, read, runtime, averaged)

    def run(state: TorchState, batch: Batch, *others: TorchState) -> dict[str, np.ndarray]:
        require_states(state, *others)
        arrays = _from_last(compute(state, to_device(batch), others), runtime.mesh.stage)
        host = {name: (v.float() if v.dtype == torch.bfloat16 else v).cpu().numpy() for name, v in arrays.items()}
        return drop_padding({name: _gather(values, runtime) for name, values in host.items()}, WEIGHT)

    return run


def _from_last(arrays: dict[str, torch.Tensor], stage: Stage | None) -> dict[str, torch.Tensor]:
    """What came out of the last stage, on every stage."""
    if stage is None:
        return arrays
    whole = {name: values.contiguous() for name, values in arrays.items()}
    for values in whole.values():
        dist.broadcast(values, group=stage.group, group_src=stage.count - 1)
    return whole


def _gather(values: np.ndarray, runtime: Runtime) -> np.ndarray:
    """All positions, along the second dimension if there is one, of all examples."""
    sequence, batch = runtime.mesh.sequence, runtime.mesh.batch
    if sequence is not None and values.ndim > 1:
        values = all_gather(values.swapaxes(0, 1), sequence.group, runtime.device).swapaxes(0, 1)
    return values if batch is None else all_gather(values, batch, runtime.device)


def _compute(
    function: Callable[..., Any], read: Read, runtime: Runtime, averaged: bool
) -> Callable[[TorchState, Batch, tuple[TorchState, ...]], dict[str, Any]]:
    """What a function comes to for the examples of this process."""
    pipelined = None if runtime.mesh.stage is None else Pipelined(function, read, runtime, averaged=averaged)

    def compute(state: TorchState, batch: Batch, others: tuple[TorchState, ...]) -> dict[str, Any]:
        state.require_average(averaged)
        if pipelined is not None:
            require_alone(others)
            with evaluation((state,)):
                return pipelined.values(state, batch)
        objective = Objective(function, state.model, tuple(other.model for other in others))
        with evaluation((state, *others)), forward_scope(runtime.precision, runtime.device):
            result = call(objective, batch, runtime.precision, state=state, others=others, averaged=averaged)
        return read(result, batch, len(next(iter(batch.values()))))

    return compute
