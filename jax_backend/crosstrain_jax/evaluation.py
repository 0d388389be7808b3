"""The JAX engine's evaluation and prediction: no gradients, evaluation mode, nothing changes."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from crosstrain.data.loader import WEIGHT
from crosstrain.metrics import Metrics
from crosstrain.objective import drop_padding, read_predictions
from crosstrain.state import require_states
from crosstrain.step import LossFn
from crosstrain_jax.collectives import read
from crosstrain_jax.layout import Layout, Leaves
from crosstrain_jax.objective import Batch, Program, Programs, Runtime, Table, arrays
from crosstrain_jax.state import JaxState


def eval_step(
    loss_fn: LossFn, runtime: Runtime, to_device: Callable[..., Batch], averaged: bool
) -> Callable[..., Metrics]:
    """See `Accelerator.eval_step`."""

    def compile_program(layouts: tuple[Layout, ...]) -> Program:
        program = Program(runtime, loss_fn, layouts)

        def evaluate(params: Leaves, buffers: Leaves, batch: Batch, others: Any) -> Table:
            result, _ = program.forward(params, buffers, batch, None, others)
            return program.sums(result, batch)[1].table()

        program.run = runtime.in_scope(jax.jit(evaluate, out_shardings=runtime.replicated))
        return program

    programs = Programs(compile_program)

    def run(state: JaxState, batch: Batch, *others: JaxState) -> Metrics:
        require_states(state, *others)
        program = programs.get(state, others)
        table = program.run(_weights(state, averaged), state.buffers, to_device(batch), arrays(others))
        return table.metrics()

    return run


def predict_step(
    predict_fn: Callable[..., Any], runtime: Runtime, to_device: Callable[..., Batch], averaged: bool
) -> Callable[..., dict[str, np.ndarray]]:
    """See `Accelerator.predict_step`."""

    def compile_program(layouts: tuple[Layout, ...]) -> Program:
        program = Program(runtime, predict_fn, layouts)

        def predict(params: Leaves, buffers: Leaves, batch: Batch, others: Any) -> dict[str, jax.Array]:
            result, _ = program.forward(params, buffers, batch, None, others)
            return read_predictions(result, batch, WEIGHT)

        program.run = runtime.in_scope(jax.jit(predict))
        return program

    programs = Programs(compile_program)

    def run(state: JaxState, batch: Batch, *others: JaxState) -> dict[str, np.ndarray]:
        require_states(state, *others)
        program = programs.get(state, others)
        result = program.run(_weights(state, averaged), state.buffers, to_device(batch), arrays(others))
        return drop_padding({name: read(values) for name, values in result.items()}, WEIGHT)

    return run


def _weights(state: JaxState, averaged: bool) -> Leaves:
    state.require_average(averaged)
    return state.averages if averaged else state.params
