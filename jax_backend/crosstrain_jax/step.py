"""The JAX engine's steps: one compiled program per structure of state and batch, over flat donated leaves."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crosstrain.data.stacks import Stack
from crosstrain.errors import DataError
from crosstrain.metrics import Metrics
from crosstrain.state import require_trainable
from crosstrain.step import LossFn, Remat, StepHyper, StepOptions
from crosstrain_jax import optim
from crosstrain_jax.layout import Layout, Leaves
from crosstrain_jax.objective import Batch, Program, Programs, Runtime, arrays, examples
from crosstrain_jax.precision import scope
from crosstrain_jax.sharding import batch_devices
from crosstrain_jax.state import JaxGradients, JaxState


class TrainRun:
    """One optimizer step; see `crosstrain.step.RunStep`."""

    def __init__(self, loss_fn: LossFn, options: StepOptions, runtime: Runtime) -> None:
        self._loss_fn, self._options, self._runtime = loss_fn, options, runtime
        self._programs = Programs(self._compile)

    def __call__(self, state: JaxState, batch: Batch, hyper: StepHyper, others: tuple[JaxState, ...]) -> Metrics:
        """Forward, backward, clip, update: one call of a compiled program."""
        program = self._programs.get(state, others)
        state.params, state.buffers, state.moments, state.averages, state.count, table = program.run(
            *self._arguments(state, batch, hyper, others)
        )
        return table.metrics({"learning_rate": hyper[0]})

    def many(
        self, state: JaxState, batches: Sequence[Batch], hypers: Sequence[StepHyper], others: tuple[JaxState, ...]
    ) -> list[Metrics]:
        """As many steps, one call of a compiled scan; nothing of it waits for the device."""
        program = self._programs.get(state, others)
        leaves = (state.params, state.buffers, state.moments, state.averages, state.count)
        rates = np.array(hypers, self._runtime.float_type)
        given = batches.fields if isinstance(batches, Stack) else tuple(batches)
        *leaves, tables = program.run_many(*leaves, rates, given, arrays(others))
        state.params, state.buffers, state.moments, state.averages, state.count = leaves
        return [tables.metrics({"learning_rate": hyper[0]}, step=index) for index, hyper in enumerate(hypers)]

    def trace(self, state: Any, batch: Batch, others: tuple[Any, ...] = ()) -> jax.stages.Traced:
        """The very program that training runs, for states and a batch of shapes: it is lowered, not run."""
        hyper = (0.0, 0.0, 0.0)
        with scope(self._runtime.precision):
            return self._programs.get(state, others).jitted.trace(*self._arguments(state, batch, hyper, others))

    def _arguments(self, state: Any, batch: Batch, hyper: StepHyper, others: tuple[Any, ...]) -> tuple[Any, ...]:
        leaves = (state.params, state.buffers, state.moments, state.averages, state.count)
        return *leaves, np.array(hyper, self._runtime.float_type), batch, arrays(others)

    def _compile(self, layouts: tuple[Layout, ...]) -> Program:
        program, options = Program(self._runtime, self._loss_fn, layouts, self._options.remat), self._options

        def step(
            params: Leaves,
            buffers: Leaves,
            moments: Leaves,
            averages: Leaves,
            count: Any,
            hyper: Any,
            batch: Batch,
            others: Any,
        ) -> Any:
            self._check_micro_batches(batch)
            grads, buffers, table = program.gradients(params, buffers, count, batch, others, options.accumulate_steps)
            norm = None
            if options.wants_norm:
                norm = optim.global_norm(grads)
                table = table.with_norm(norm)
            grads = optim.clip(grads, options.clipping, norm)
            params, moments, averages = program.layout.update(params, moments, averages, grads, hyper)
            return params, buffers, moments, averages, count + 1, table

        layout = program.layout
        out = (*layout.out_shardings, layout.shardings.whole)
        program.jitted = jax.jit(step, donate_argnums=(0, 1, 2, 3, 4), out_shardings=out)
        program.run = self._runtime.in_scope(program.jitted)

        def steps(
            params: Leaves,
            buffers: Leaves,
            moments: Leaves,
            averages: Leaves,
            count: Any,
            hypers: Any,
            batches: Batch | tuple[Batch, ...],
            others: Any,
        ) -> Any:
            def one(carry: tuple[Leaves, Leaves, Leaves, Leaves, Any], given: tuple[Any, Batch]) -> tuple[Any, Any]:
                *after, table = step(*carry, *given, others)
                return tuple(after), table

            stacked = batches if isinstance(batches, dict) else jax.tree.map(lambda *each: jnp.stack(each), *batches)
            carry, tables = jax.lax.scan(one, (params, buffers, moments, averages, count), (hypers, stacked))
            return *carry, tables

        program.jitted_many = jax.jit(steps, donate_argnums=(0, 1, 2, 3, 4), out_shardings=out)
        program.run_many = self._runtime.in_scope(program.jitted_many)
        return program

    def _check_micro_batches(self, batch: Batch) -> None:
        count, devices = self._options.accumulate_steps, batch_devices(self._runtime.mesh)
        if examples(batch) % (count * devices):
            raise DataError(
                f"the batch must be a multiple of accumulate_steps on every device, got {examples(batch)} examples "
                f"for accumulate_steps={count} on {devices} devices. Use a batch size that {count * devices} divides."
            )


def gradient_step(
    loss_fn: LossFn, runtime: Runtime, to_device: Callable[..., Batch], remat: Remat = "none"
) -> Callable[..., Any]:
    """See `Accelerator.value_and_grad`."""

    def compile_program(layouts: tuple[Layout, ...]) -> Program:
        program = Program(runtime, loss_fn, layouts, remat)
        shardings = program.layout.shardings
        out = (shardings.params, shardings.whole, shardings.whole)
        compiled = jax.jit(program.gradients, donate_argnums=(1,), out_shardings=out)
        program.run = runtime.in_scope(compiled)
        return program

    programs = Programs(compile_program)

    def run(state: JaxState, batch: Batch, *others: JaxState) -> tuple[Metrics, JaxGradients]:
        require_trainable(state, others)
        program = programs.get(state, others)
        grads, state.buffers, table = program.run(
            state.params, state.buffers, state.count, to_device(batch), arrays(others)
        )
        return table.metrics(), JaxGradients(state.layout, grads)

    return run
