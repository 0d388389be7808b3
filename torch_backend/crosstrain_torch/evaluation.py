"""The torch engine's evaluation and prediction: no gradients, evaluation mode, nothing changes."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from crosstrain.data.loader import WEIGHT
from crosstrain.metrics import Metrics
from crosstrain.objective import drop_padding, read_outputs, read_predictions
from crosstrain.state import require_states
from crosstrain.step import LossFn
from crosstrain_torch import fsdp
from crosstrain_torch.collectives import all_gather
from crosstrain_torch.objective import Batch, Objective, call
from crosstrain_torch.precision import forward_scope
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

    def run(state: TorchState, batch: Batch, *others: TorchState) -> Metrics:
        require_states(state, *others)
        batch = to_device(batch)
        result = _evaluate(loss_fn, runtime, state, batch, others, averaged)
        loss, metrics = read_outputs(result, examples=len(next(iter(batch.values()))), padded=WEIGHT in batch)
        return runtime.metrics(runtime.reduce({"loss": loss, **metrics}))

    return run


def predict_step(
    predict_fn: Callable[..., Any], runtime: Runtime, to_device: Callable[..., Batch], averaged: bool
) -> Callable[..., dict[str, np.ndarray]]:
    """See `Accelerator.predict_step`."""

    def run(state: TorchState, batch: Batch, *others: TorchState) -> dict[str, np.ndarray]:
        require_states(state, *others)
        batch = to_device(batch)
        result = _evaluate(predict_fn, runtime, state, batch, others, averaged)
        arrays = read_predictions(result, batch, WEIGHT)
        host = {name: (v.float() if v.dtype == torch.bfloat16 else v).cpu().numpy() for name, v in arrays.items()}
        return drop_padding({name: _gather(values, runtime) for name, values in host.items()}, WEIGHT)

    return run


def _gather(values: np.ndarray, runtime: Runtime) -> np.ndarray:
    """All positions, along the second dimension if there is one, of all examples."""
    sequence, batch = runtime.mesh.sequence, runtime.mesh.batch
    if sequence is not None and values.ndim > 1:
        values = all_gather(values.swapaxes(0, 1), sequence.group, runtime.device).swapaxes(0, 1)
    return values if batch is None else all_gather(values, batch, runtime.device)


def _evaluate(
    function: Callable[..., Any],
    runtime: Runtime,
    state: TorchState,
    batch: Batch,
    others: tuple[TorchState, ...],
    averaged: bool,
) -> Any:
    state.require_average(averaged)
    objective = Objective(function, state.model, tuple(other.model for other in others))
    with evaluation((state, *others)), forward_scope(runtime.precision, runtime.device):
        return call(objective, batch, runtime.precision, state=state, others=others, averaged=averaged)
