"""What a flax model may hold besides parameters: arrays that are attributes themselves, and nothing new in a step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import crosstrain as ct

RANDOM = np.random.default_rng(0)
BATCH = {"x": RANDOM.normal(size=(8, 4)), "label": RANDOM.integers(0, 3, 8)}
TABLES = {
    "jax": jnp.arange(4.0),
    "numpy": np.arange(4.0),
    "integers": np.arange(4),
    "mask": np.array([True, False, True, True]),
}


class Table(nnx.Module):
    def __init__(self, table: Any) -> None:
        self.fc = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
        self.table = table

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(x + self.table)


class Sowing(nnx.Module):
    def __init__(self) -> None:
        self.blocks = nnx.List([nnx.Linear(4, 3, rngs=nnx.Rngs(0))])

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.blocks[0](x)
        self.sow(nnx.Intermediate, "seen", y)
        return y


def loss_fn(model: Any, batch: Any, ops: ct.Ops) -> Any:
    return ops.cross_entropy(model(batch["x"]), batch["label"])


@pytest.mark.parametrize("kind", TABLES)
def test_an_array_that_is_an_attribute_goes_with_the_model(kind: str) -> None:
    """It takes part in the forward pass, does not learn, and is in the snapshots."""
    accelerator = ct.Accelerator("jax", precision="fp64")
    state = accelerator.prepare(Table(TABLES[kind]), ct.adamw(0.1, weight_decay=0.1))
    assert list(state.parameter_shapes) == ["fc.bias", "fc.weight"]
    before = state.snapshot()
    step = accelerator.train_step(loss_fn, accumulate_steps=2)
    losses = [step(state, BATCH)["loss"] for _ in range(3)]
    assert losses[2] < losses[0]
    np.testing.assert_array_equal(state.model.table, TABLES[kind])
    x = BATCH["x"] + np.asarray(TABLES[kind])
    logits = x @ before.params["fc.weight"].T + before.params["fc.bias"]
    expected = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(8), BATCH["label"]])
    assert losses[0] == pytest.approx(expected, rel=1e-12)
    state.load(before)
    assert [step(state, BATCH)["loss"] for _ in range(3)] == losses
    if kind in ("jax", "numpy"):  # as torch's buffers are
        assert before.buffers["table"].tolist() == [0, 1, 2, 3]
        state.load(dataclasses.replace(before, buffers={"table": np.ones(4)}))
        np.testing.assert_array_equal(state.model.table, np.ones(4))


@pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")
@pytest.mark.parametrize("step", ["train_step", "value_and_grad", "eval_step"])
def test_a_variable_that_a_forward_pass_adds_is_named(step: str) -> None:
    accelerator = ct.Accelerator("jax")
    state = accelerator.prepare(Sowing(), ct.sgd(0.1))
    with pytest.raises(ct.ModelError, match=r"got another one after its forward pass: seen \(Intermediate\)"):
        getattr(accelerator, step)(loss_fn)(state, BATCH)


class Recurrent(nnx.Module):
    def __init__(self, cell: Any) -> None:
        self.rnn = nnx.RNN(cell(4, 4, rngs=nnx.Rngs(0)))
        self.fc = nnx.Linear(4, 3, rngs=nnx.Rngs(1))

    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = self.rnn(jnp.stack([x, -x], axis=1))[:, -1]
        SEEN.append(str(hidden.dtype))
        return self.fc(hidden)


SEEN: list[str] = []


@pytest.mark.parametrize("cell", [nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell])
def test_recurrent_cells_compute_in_the_type_of_the_run(cell: Any) -> None:
    losses = {}
    for precision, kind in (("fp32", "float32"), ("fp64", "float64"), ("bf16", "bfloat16")):
        accelerator = ct.Accelerator("jax", precision=precision)
        state, step = accelerator.prepare(Recurrent(cell), ct.sgd(0.5)), accelerator.train_step(loss_fn)
        SEEN.clear()
        losses[precision] = [step(state, BATCH)["loss"] for _ in range(3)]
        assert set(SEEN) == {kind}
    assert losses["fp64"] == pytest.approx(losses["fp32"], rel=1e-5)
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=3e-2)
