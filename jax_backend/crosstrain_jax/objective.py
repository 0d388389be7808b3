"""A loss function over models as a program to compile: forward pass, exact gradients over micro-batches, metrics."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from crosstrain.data.loader import WEIGHT
from crosstrain.loss import Loss
from crosstrain.metrics import Metrics
from crosstrain.models.experts import Balances, balances_of, reported
from crosstrain.objective import BALANCE, read_outputs
from crosstrain.precision import Precision
from crosstrain.random import StepRandom, seed_key, threefry2x32
from crosstrain.step import LossFn, Remat
from crosstrain_jax import reduction
from crosstrain_jax.layout import Layout, Leaves, bind_random
from crosstrain_jax.models.blocks import bind
from crosstrain_jax.ops import JaxOps
from crosstrain_jax.precision import casts, compute_batch, compute_params, forward_scope, needs_x64, scope
from crosstrain_jax.remat import rematerialised
from crosstrain_jax.sharding import Shardings, is_pipelined, replicated
from crosstrain_jax.state import JaxState

Batch = dict[str, jax.Array]
Arrays = tuple[Leaves, Leaves]


class Runtime:
    """What every step of one accelerator shares: precision, mesh, seed, and which island it is on."""

    def __init__(self, precision: Precision, mesh: Mesh, seed: int, island: int = 0) -> None:
        self.precision, self.mesh, self._island = precision, mesh, island
        self.replicated = replicated(mesh)
        self.float_type = np.float64 if needs_x64(precision) else np.float32
        self._dropout_key = seed_key(seed, "dropout")

    def rows(self, batch: Batch) -> jax.Array:
        """Which examples of the batch of all islands these are."""
        count = examples(batch)
        return jnp.arange(self._island * count, (self._island + 1) * count, dtype=jnp.uint32)

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


class _Balanced(NamedTuple):
    """What a loss function returned, and the balance of experts that comes to it."""

    outputs: Any
    balances: Balances
    balance: Loss


@jax.tree_util.register_dataclass
@dataclass(slots=True)  # one is made in every step, and a frozen one takes twice the time
class Table:
    """Loss and metrics of a step, or of several: what compiled programs return of them.

    One program has a compiled form for each structure of batches, whose metrics may be others: so the names belong to
    what the form returns, and are no array.

    Attributes:
        sums: sums and weights, shape (n, 2), or (steps, n, 2).
        names: of the n.
    """

    sums: jax.Array
    names: tuple[str, ...] = field(metadata={"static": True})

    @property
    def weight(self) -> jax.Array:
        """The weight of the loss."""
        return self.sums[0, 1]

    def with_norm(self, norm: jax.Array) -> "Table":
        """With the norm of the gradients after the metrics."""
        row = jnp.stack([norm, jnp.ones_like(norm)])[None].astype(self.sums.dtype)
        return Table(jnp.concatenate([self.sums, row]), (*self.names, "grad_norm"))

    def metrics(self, known: dict[str, float] | None = None, step: int | None = None) -> Metrics:
        """Of the step, or of one of several; nothing is copied before somebody reads."""
        # JAX keeps the copy that the first read makes, so the sums of several steps are copied once.
        fetch = np.asarray if step is None else lambda sums: np.asarray(sums)[step]
        return Metrics(self.names, self.sums, fetch, known)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class Sums:
    """Loss and metrics inside a program, each by itself: around one array of them XLA makes slower loops on a CPU.

    Attributes:
        losses: sums and weights, scalars; the loss is the first.
        names: of the losses.
    """

    losses: tuple[Loss, ...]
    names: tuple[str, ...] = field(metadata={"static": True})

    def table(self) -> Table:
        """All in one array."""
        return Table(jnp.stack([part for loss in self.losses for part in loss]).reshape(-1, 2), self.names)


class Program:
    """A compiled function for one structure of states."""

    def __init__(
        self,
        runtime: Runtime,
        loss_fn: LossFn,
        layouts: tuple[Layout, ...],
        remat: Remat = "none",
        *,
        stacked: bool = True,
    ) -> None:
        """`stacked` is False for a program that looks into the blocks of a model: they run one by one then."""
        self.runtime, self.loss_fn, self.remat, self.stacked = runtime, loss_fn, remat, stacked
        self.layout, self.others = layouts[0], layouts[1:]
        self.run: Callable[..., Any] = _not_compiled
        self.run_many: Callable[..., Any] = _not_compiled
        self.jitted: Any = _not_compiled
        self.jitted_many: Any = _not_compiled

    def forward(
        self,
        params: Leaves,
        buffers: Leaves,
        batch: Batch,
        random: StepRandom | None,
        others: tuple[Arrays, ...],
        *,
        whole: bool = False,
    ) -> tuple[Any, Leaves]:
        """What the loss function returns, and the buffers it left behind. `random` is None in evaluation.

        `whole` for arrays that a device has gathered, to run the model on its examples.
        """
        precision = self.runtime.precision
        train = random is not None
        cast = compute_params if casts(precision) else lambda leaves, _: leaves
        held = cast(self.layout.hold(params), precision)
        lists, shardings = self.layout.stacked if self.stacked else {}, _shardings(self.layout, whole)
        gathered = shardings.gather(held, [place for places in lists.values() for place in places.all])
        model = self.layout.merge(gathered, buffers, train=train)
        bind(model, shardings, lists)
        models = [
            layout.merge(_shardings(layout, whole).gather(cast(arrays[0], precision)), arrays[1], train=train)
            for layout, arrays in zip(self.others, others, strict=True)
        ]
        for each in (model, *models):
            bind_random(each, random)
        balances = balances_of(model) if train else None
        if precision.casts_batch:
            batch = compute_batch(batch, precision)
        remat = rematerialised(model, self.remat if train else "none")
        mesh = jax.sharding.get_abstract_mesh() if whole else self.runtime.mesh.abstract_mesh
        on_mesh = jax.sharding.use_abstract_mesh(mesh)
        with reported(model, balances), remat, forward_scope(precision), on_mesh:
            result = self.loss_fn(model, batch, JaxOps(batch.get(WEIGHT)), *models)
        bind_random(model, None)
        if balances is not None and (balance := balances.total(batch.get(WEIGHT))) is not None:
            result = _Balanced(result, balances, balance)
        return result, self.layout.read_buffers(model, buffers)

    def sums(self, result: Any, batch: Batch) -> tuple[Loss, Sums]:
        """The loss, and what is reported of it and of the metrics."""
        balanced, result = (result, result.outputs) if isinstance(result, _Balanced) else (None, result)
        loss, metrics = read_outputs(result, examples=examples(batch), padded=WEIGHT in batch)
        if balanced is not None:
            _, balances, balance = balanced
            loss = loss._replace(sum=loss.sum + balances.part(balance, loss.weight, balance.weight))
            metrics[BALANCE] = balance
        dtype = self.runtime.float_type
        losses = (Loss(*(jnp.asarray(part, dtype) for part in each)) for each in (loss, *metrics.values()))
        return loss, Sums(tuple(losses), ("loss", *metrics))

    def gradients(
        self,
        params: Leaves,
        buffers: Leaves,
        count: jax.Array,
        batch: Batch,
        others: tuple[Arrays, ...],
        steps: int = 1,
    ) -> tuple[Leaves, Leaves, Table]:
        """Gradients of sum / weight over the batch in `steps` micro-batches, new buffers, and the table."""
        if is_pipelined(self.runtime.mesh):
            return self._pipelined(params, buffers, count, batch, others, steps)

        rows = self.runtime.rows(batch)
        if reduction.applies(self.runtime.precision, self.runtime.mesh):
            return self._reduced(params, buffers, count, batch, rows, others, steps)
        grads, buffers, table = self._local(params, buffers, count, batch, rows, others, steps)
        if steps > 1:
            grads = jax.tree.map(lambda grad: grad / table.weight.astype(grad.dtype), grads)
        return grads, buffers, table

    def _local(
        self,
        params: Leaves,
        buffers: Leaves,
        count: jax.Array,
        batch: Batch,
        rows: jax.Array,
        others: tuple[Arrays, ...],
        steps: int,
        whole: bool = False,
    ) -> tuple[Leaves, Leaves, Table]:
        """Gradients, of the sum for several micro-batches and in a part of the batch; new buffers, and the table."""

        def objective(params: Leaves, buffers: Leaves, batch: Batch, rows: jax.Array) -> Any:
            random = self.runtime.step_random(count, rows)
            result, buffers = self.forward(params, buffers, batch, random, others, whole=whole)
            loss, sums = self.sums(result, batch)
            if steps > 1 or whole:
                return loss.sum, (buffers, sums)
            # A weight is a constant, also one that a loss function computes from parameters.
            return loss.sum / jax.lax.stop_gradient(loss.weight), (buffers, sums)

        differentiate = jax.grad(objective, has_aux=True)
        if steps == 1:
            grads, (buffers, sums) = differentiate(params, buffers, batch, rows)
            return grads, buffers, sums.table()

        micro = jax.tree.map(lambda values: _micro_batches(values, steps), (batch, rows))

        # Cut out in the loop: arrays with micro-batches first would be copies.
        def cut(index: Any) -> Any:
            return jax.tree.map(lambda values: jax.lax.dynamic_index_in_dim(values, index, 1, keepdims=False), micro)

        def add(carry: Any, index: Any) -> Any:
            grads, sums, buffers = carry
            more, (buffers, part) = differentiate(params, buffers, *cut(index))
            return (*jax.tree.map(jnp.add, (grads, sums), (more, part)), buffers), None

        _, (_, outline) = jax.eval_shape(objective, params, buffers, *cut(0))
        start = (*jax.tree.map(jnp.zeros_like, (params, outline)), buffers)
        (grads, sums, buffers), _ = jax.lax.scan(add, start, jnp.arange(steps))
        return grads, buffers, sums.table()

    def _reduced(
        self,
        params: Leaves,
        buffers: Leaves,
        count: jax.Array,
        batch: Batch,
        rows: jax.Array,
        others: tuple[Arrays, ...],
        steps: int,
    ) -> tuple[Leaves, Leaves, Table]:
        """As `gradients`, added up over the devices in `Precision.reduce_dtype`, once for all micro-batches."""
        layouts = (self.layout, *self.others)
        reduction.require_no_buffers(layouts)

        def sums(params: Leaves, count: Any, batch: Batch, rows: Any, others: Any) -> tuple[Leaves, Table]:
            grads, _, table = self._local(params, (), count, batch, rows, others, steps, whole=True)
            return grads, table

        whole = reduction.reduced(sums, layouts, self.runtime.precision, self.runtime.mesh)
        grads, table = whole(params, count, batch, rows, others)
        return grads, buffers, table

    def _pipelined(
        self, params: Leaves, buffers: Leaves, count: jax.Array, batch: Batch, others: tuple[Arrays, ...], steps: int
    ) -> tuple[Leaves, Leaves, Table]:
        """As `gradients`, with all micro-batches in one forward pass: they follow each other through the stages."""
        rows = self.runtime.rows(batch)
        micro = jax.tree.map(lambda values: _micro_batches(values, steps), (batch, rows))

        def objective(params: Leaves) -> Any:
            def one(batch: Batch, rows: jax.Array) -> Any:
                result, kept = self.forward(params, buffers, batch, self.runtime.step_random(count, rows), others)
                loss, sums = self.sums(result, batch)
                return (loss.sum, sums), kept

            (losses, sums), kept = jax.vmap(one, in_axes=1, out_axes=(0, None))(*micro)
            return losses.sum(), (kept, jax.tree.map(lambda each: each.sum(0), sums))

        grads, (buffers, sums) = jax.grad(objective, has_aux=True)(params)
        table = sums.table()
        return jax.tree.map(lambda grad: grad / table.weight.astype(grad.dtype), grads), buffers, table


def _shardings(layout: Layout, whole: bool) -> Shardings:
    return layout.shardings.as_whole() if whole else layout.shardings


def _not_compiled(*_: Any) -> Any:
    raise RuntimeError("the program was not compiled")


def examples(batch: Batch) -> int:
    """Rows of a batch."""
    return next(iter(batch.values())).shape[0]


def _micro_batches(values: jax.Array, count: int) -> jax.Array:
    """(B, ...) -> (B / count, count, ...): example r goes to micro-batch r mod count, so devices keep their rows."""
    return values.reshape(values.shape[0] // count, count, *values.shape[1:])


class Programs:
    """Programs by the layouts of the states they run on."""

    def __init__(self, make: Callable[[tuple[Layout, ...]], Program]) -> None:
        self._make = make
        self._programs: dict[tuple[Layout, ...], Program] = {}

    def get(self, state: JaxState, others: tuple[JaxState, ...]) -> Program:
        """The program for states of these structures; made when it is new."""
        key = (state.layout, *(other.layout for other in others))
        program = self._programs.get(key)
        if program is None:
            program = self._programs[key] = self._make(key)
        return program


def arrays(others: tuple[JaxState, ...]) -> tuple[Arrays, ...]:
    """Parameters and buffers of the states that are not trained."""
    return tuple((other.params, other.buffers) for other in others)
