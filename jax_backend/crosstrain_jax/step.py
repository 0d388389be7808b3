"""The JAX engine's steps: one compiled program per structure of state and batch, over flat donated leaves."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from crosstrain.data.loader import WEIGHT
from crosstrain.errors import DataError
from crosstrain.loss import Loss
from crosstrain.metrics import Metrics
from crosstrain.objective import drop_padding, read_outputs, read_predictions
from crosstrain.precision import Precision
from crosstrain.random import StepRandom, seed_key, threefry2x32
from crosstrain.step import LossFn, StepOptions
from crosstrain_jax import optim
from crosstrain_jax.collectives import all_gather
from crosstrain_jax.ops import JaxOps
from crosstrain_jax.precision import casts, compute_batch, compute_params, forward_scope, needs_x64, scope
from crosstrain_jax.sharding import replicated
from crosstrain_jax.state import JaxGradients, JaxState, Layout, Leaves, bind_random, update

Batch = dict[str, jax.Array]
Arrays = tuple[Leaves, Leaves]


class Runtime:
    """What every step of one accelerator shares: precision, mesh, seed."""

    def __init__(self, precision: Precision, mesh: Mesh, seed: int) -> None:
        self.precision, self.mesh = precision, mesh
        self.replicated = replicated(mesh)
        self.rate_type = np.float64 if needs_x64(precision) else np.float32
        self._dropout_key = seed_key(seed, "dropout")

    def step_random(self, count: jax.Array, rows: jax.Array) -> StepRandom:
        """Randomness of the step that `count` updates came before."""
        key = (jnp.uint32(self._dropout_key[0]), jnp.uint32(self._dropout_key[1]))
        return StepRandom(threefry2x32(key, count, count ^ count), rows)

    def in_scope(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, called in 64-bit mode where the run needs it."""
        if not needs_x64(self.precision):
            return function

        def scoped(*args: Any) -> Any:
            with scope(self.precision):
                return function(*args)

        return scoped


class Program:
    """A compiled function for one structure of states; knows the names of the metrics once it was traced."""

    def __init__(self, runtime: Runtime, loss_fn: LossFn, layouts: tuple[Layout, ...]) -> None:
        self.runtime, self.loss_fn = runtime, loss_fn
        self.layout, self.others = layouts[0], layouts[1:]
        self.names: tuple[str, ...] = ()
        self.run: Callable[..., Any] = _not_compiled

    def forward(
        self,
        params: Leaves,
        buffers: Leaves,
        batch: Batch,
        random: StepRandom | None,
        others: tuple[Arrays, ...],
    ) -> tuple[Any, Leaves]:
        """What the loss function returns, and the buffers it left behind. `random` is None in evaluation."""
        precision = self.runtime.precision
        train = random is not None
        cast = compute_params if casts(precision) else lambda leaves, _: leaves
        model = self.layout.merge(cast(params, precision), buffers, train=train)
        models = [
            layout.merge(cast(arrays[0], precision), arrays[1], train=train)
            for layout, arrays in zip(self.others, others, strict=True)
        ]
        for each in (model, *models):
            bind_random(each, random)
        if casts(precision):
            batch = compute_batch(batch, precision)
        with forward_scope(precision):
            result = self.loss_fn(model, batch, JaxOps(batch.get(WEIGHT)), *models)
        bind_random(model, None)
        return result, self.layout.read_buffers(model, buffers)

    def table(self, result: Any, batch: Batch) -> tuple[Loss, jax.Array]:
        """The loss, and sums and weights of loss and metrics as one array of shape (n, 2)."""
        loss, metrics = read_outputs(result, examples=_examples(batch), padded=WEIGHT in batch)
        self.names = ("loss", *metrics)
        dtype = self.runtime.rate_type
        pairs = [jnp.asarray(part, dtype) for each in (loss, *metrics.values()) for part in each]
        return loss, jnp.stack(pairs).reshape(-1, 2)

    def gradients(
        self,
        params: Leaves,
        buffers: Leaves,
        count: jax.Array,
        batch: Batch,
        others: tuple[Arrays, ...],
        steps: int = 1,
    ) -> tuple[Leaves, Leaves, jax.Array]:
        """Gradients of sum / weight over the batch in `steps` micro-batches, new buffers, and the table."""

        def objective(params: Leaves, buffers: Leaves, batch: Batch, rows: jax.Array) -> Any:
            random = self.runtime.step_random(count, rows)
            result, buffers = self.forward(params, buffers, batch, random, others)
            loss, table = self.table(result, batch)
            return (loss.sum / loss.weight if steps == 1 else loss.sum), (buffers, table)

        rows = jnp.arange(_examples(batch), dtype=jnp.uint32)
        differentiate = jax.grad(objective, has_aux=True)
        if steps == 1:
            grads, (buffers, table) = differentiate(params, buffers, batch, rows)
            return grads, buffers, table

        def add(carry: Any, micro: Any) -> Any:
            grads, buffers, table = carry
            more, (buffers, part) = differentiate(params, buffers, *micro)
            return (jax.tree.map(jnp.add, grads, more), buffers, table + part), None

        micro = jax.tree.map(lambda values: _micro_batches(values, steps), (batch, rows))
        first = jax.tree.map(lambda values: values[0], micro)
        _, (_, shape) = jax.eval_shape(objective, params, buffers, *first)
        start = (jax.tree.map(jnp.zeros_like, params), buffers, jnp.zeros(shape.shape, shape.dtype))
        (grads, buffers, table), _ = jax.lax.scan(add, start, micro)
        return jax.tree.map(lambda grad: grad / table[0, 1].astype(grad.dtype), grads), buffers, table

    def metrics(self, table: jax.Array, extra: tuple[str, ...] = (), known: dict[str, float] | None = None) -> Metrics:
        """Wraps the table; nothing is copied before somebody reads."""
        return Metrics(self.names + extra, table, np.asarray, known)


def _not_compiled(*_: Any) -> Any:
    raise RuntimeError("the program was not compiled")


def _examples(batch: Batch) -> int:
    return next(iter(batch.values())).shape[0]


def _micro_batches(values: jax.Array, count: int) -> jax.Array:
    """(B, ...) -> (count, B / count, ...): example r goes to micro-batch r mod count, so devices keep their rows."""
    return values.reshape(values.shape[0] // count, count, *values.shape[1:]).swapaxes(0, 1)


class _Programs:
    """Programs by the layouts of the states they run on."""

    def __init__(self, make: Callable[[tuple[Layout, ...]], Program]) -> None:
        self._make = make
        self._programs: dict[tuple[Layout, ...], Program] = {}

    def get(self, state: JaxState, others: tuple[JaxState, ...]) -> Program:
        key = (state.layout, *(other.layout for other in others))
        program = self._programs.get(key)
        if program is None:
            program = self._programs[key] = self._make(key)
        return program


def _arrays(others: tuple[JaxState, ...]) -> tuple[Arrays, ...]:
    return tuple((other.params, other.buffers) for other in others)


class TrainRun:
    """One optimizer step; see `crosstrain.step.RunStep`."""

    def __init__(self, loss_fn: LossFn, options: StepOptions, runtime: Runtime) -> None:
        self._loss_fn, self._options, self._runtime = loss_fn, options, runtime
        self._programs = _Programs(self._compile)
        self._extra = ("grad_norm",) if options.wants_norm else ()

    def __call__(self, state: JaxState, batch: Batch, rate: float, others: tuple[JaxState, ...]) -> Metrics:
        """Forward, backward, clip, update: one call of a compiled program."""
        program = self._programs.get(state, others)
        state.params, state.buffers, state.moments, state.count, table = program.run(
            state.params,
            state.buffers,
            state.moments,
            state.count,
            self._runtime.rate_type(rate),
            batch,
            _arrays(others),
        )
        return program.metrics(table, self._extra, {"learning_rate": rate})

    def _compile(self, layouts: tuple[Layout, ...]) -> Program:
        program, options = Program(self._runtime, self._loss_fn, layouts), self._options

        def step(
            params: Leaves, buffers: Leaves, moments: Leaves, count: Any, rate: Any, batch: Batch, others: Any
        ) -> Any:
            self._check_micro_batches(batch)
            grads, buffers, table = program.gradients(params, buffers, count, batch, others, options.accumulate_steps)
            if options.wants_norm:
                norm = optim.global_norm(grads)
                table = jnp.concatenate([table, jnp.stack([norm, jnp.ones_like(norm)])[None].astype(table.dtype)])
                if options.clip_norm is not None:
                    grads = optim.clip_by_global_norm(grads, norm, options.clip_norm)
            params, moments = update(program.layout, params, moments, grads, rate)
            return params, buffers, moments, count + 1, table

        compiled = jax.jit(step, donate_argnums=(0, 1, 2, 3), out_shardings=self._runtime.replicated)
        program.run = self._runtime.in_scope(compiled)
        return program

    def _check_micro_batches(self, batch: Batch) -> None:
        count, devices = self._options.accumulate_steps, self._runtime.mesh.shape["data"]
        if _examples(batch) % (count * devices):
            raise DataError(
                f"the batch must be a multiple of accumulate_steps on every device, got {_examples(batch)} examples "
                f"for accumulate_steps={count} on {devices} devices. Use a batch size that {count * devices} divides."
            )


def gradient_step(loss_fn: LossFn, runtime: Runtime, to_device: Callable[..., Batch]) -> Callable[..., Any]:
    """See `Accelerator.value_and_grad`."""

    def compile_program(layouts: tuple[Layout, ...]) -> Program:
        program = Program(runtime, loss_fn, layouts)
        compiled = jax.jit(program.gradients, donate_argnums=(1,), out_shardings=runtime.replicated)
        program.run = runtime.in_scope(compiled)
        return program

    programs = _Programs(compile_program)

    def run(state: JaxState, batch: Batch, *others: JaxState) -> tuple[Metrics, JaxGradients]:
        program = programs.get(state, others)
        grads, state.buffers, table = program.run(
            state.params, state.buffers, state.count, to_device(batch), _arrays(others)
        )
        return program.metrics(table), JaxGradients(state.layout, grads)

    return run


def eval_step(loss_fn: LossFn, runtime: Runtime, to_device: Callable[..., Batch]) -> Callable[..., Metrics]:
    """See `Accelerator.eval_step`."""

    def compile_program(layouts: tuple[Layout, ...]) -> Program:
        program = Program(runtime, loss_fn, layouts)

        def evaluate(params: Leaves, buffers: Leaves, batch: Batch, others: Any) -> jax.Array:
            result, _ = program.forward(params, buffers, batch, None, others)
            return program.table(result, batch)[1]

        program.run = runtime.in_scope(jax.jit(evaluate, out_shardings=runtime.replicated))
        return program

    programs = _Programs(compile_program)

    def run(state: JaxState, batch: Batch, *others: JaxState) -> Metrics:
        program = programs.get(state, others)
        return program.metrics(program.run(state.params, state.buffers, to_device(batch), _arrays(others)))

    return run


def predict_step(
    predict_fn: Callable[..., Any], runtime: Runtime, to_device: Callable[..., Batch]
) -> Callable[..., dict[str, np.ndarray]]:
    """See `Accelerator.predict_step`."""

    def compile_program(layouts: tuple[Layout, ...]) -> Program:
        program = Program(runtime, predict_fn, layouts)

        def predict(params: Leaves, buffers: Leaves, batch: Batch, others: Any) -> dict[str, jax.Array]:
            result, _ = program.forward(params, buffers, batch, None, others)
            return read_predictions(result, batch, WEIGHT)

        program.run = runtime.in_scope(jax.jit(predict))
        return program

    programs = _Programs(compile_program)

    def run(state: JaxState, batch: Batch, *others: JaxState) -> dict[str, np.ndarray]:
        program = programs.get(state, others)
        arrays = program.run(state.params, state.buffers, to_device(batch), _arrays(others))
        return drop_padding({name: _host(all_gather(values)) for name, values in arrays.items()}, WEIGHT)

    return run


def _host(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32) if values.dtype.kind == "V" else values
