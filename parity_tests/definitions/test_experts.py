"""Mixtures of experts, their gradients and their balance on both engines against the NumPy reference."""

from typing import Any

import numpy as np
import pytest

import crosstrain as ct
from parity_tests.reference import experts as reference
from parity_tests.tolerances import assert_close, bound, difference

from .common import Arrays, native, set_params

NAMES = {"router": "layer.router.weight", **{name: f"layer.experts.{name}" for name in ("w1", "w2", "w3")}}


def project_both(model: Any, batch: Any, ops: ct.Ops) -> Any:
    """A loss with the gradient `g` at the layer's output, and `h` at the balance of its rows."""
    y, balance = model()
    return ct.Loss((y * batch["g"]).sum() + (balance * batch["h"]).sum(), 1.0)


def probe(backend: str, experts: ct.Experts, rows: int, length: int, seed: int) -> tuple[Any, Any, Arrays, Arrays]:
    """An accelerator, a state over one mixture, its weights and input, and the gradients of what it returns."""
    config = ct.models.GPTConfig(dim=4, n_layers=1, n_heads=1, mlp_dim=3, experts=experts)
    accelerator = ct.Accelerator(backend, precision="fp64")
    state = accelerator.prepare(native(backend).mixture((rows, length, 4), config), ct.sgd(0.1))
    generator = np.random.default_rng(seed)
    params = {name: generator.normal(size=shape) for name, shape in state.parameter_shapes.items()}
    set_params(state, params)
    return accelerator, state, params, {"g": generator.normal(size=(rows, length, 4)), "h": generator.normal(size=rows)}


@pytest.mark.parametrize(
    ("number", "active", "capacity", "length"),
    [
        (4, 2, None, 6),
        (4, 2, 0.8, 6),
        (5, 1, 1.0, 7),
        pytest.param(3, 3, None, 5, marks=pytest.mark.slow),
        pytest.param(3, 2, 9.0, 5, marks=pytest.mark.slow),
        pytest.param(1, 1, None, 1, marks=pytest.mark.slow),
    ],
)
def test_a_mixture(backend: str, number: int, active: int, capacity: float | None, length: int) -> None:
    experts = ct.Experts(number=number, active=active, capacity=capacity)
    accelerator, state, params, batch = probe(backend, experts, 3, length, number)
    own = {name: params[full] for name, full in NAMES.items()}
    routes = reference.route(params["x"], own["router"], active=active, capacity=capacity)
    assert routes.kept.all() == (capacity in (None, 9.0))
    y, back = reference.mixture(params["x"], own, routes), reference.gradients(params["x"], own, routes, **batch)

    found = accelerator.probe_step(project_both)(state, batch)
    assert difference(found.activations[""], y) <= bound("activation")
    assert_close(dict(found.gradients), {NAMES.get(name, name): each for name, each in back.items()}, "gradient")
    terms = np.concatenate([(y * batch["g"]).ravel(), reference.balance(routes) * batch["h"]])
    assert abs(found.loss - terms.sum()) <= bound("loss") * np.abs(terms).sum()


def test_tokens_over_the_capacity_are_dropped_by_row_in_order(backend: str) -> None:
    """All tokens want expert 1, which takes two of a row: the others add nothing, and no row takes another's places."""
    experts = ct.Experts(number=4, active=1, capacity=1.0)
    accelerator, state, params, batch = probe(backend, experts, 3, 8, 0)
    params["x"] = np.abs(params["x"])
    params["layer.router.weight"] = np.zeros((4, 4))
    params["layer.router.weight"][1] = 1.0
    set_params(state, params)
    y = accelerator.probe_step(project_both)(state, batch).activations[""]
    assert (y[:, :2] != 0).any(-1).all()
    assert (y[:, 2:] == 0).all()


def test_equal_probabilities_choose_the_first_experts(backend: str) -> None:
    accelerator, state, params, batch = probe(backend, ct.Experts(number=5), 1, 3, 0)
    params["layer.router.weight"] = np.zeros((5, 4))
    set_params(state, params)
    back = accelerator.probe_step(project_both)(state, batch).gradients["layer.experts.w1"]
    assert [bool(each.any()) for each in back] == [True, True, False, False, False]


def gpt_step(backend: str, weights: np.ndarray | None, **options: Any) -> tuple[ct.Metrics, Any]:
    config = ct.models.GPTConfig(
        vocab_size=8, dim=4, n_layers=2, n_heads=1, mlp_dim=3, max_seq_len=4, experts=ct.Experts(number=3, balance=0.5)
    )
    accelerator = ct.Accelerator(backend, precision="fp64")
    state = accelerator.prepare(ct.models.build("gpt", config, accelerator), ct.sgd(0.1))
    tokens = np.random.default_rng(0).integers(0, 8, (4, 4)).astype(np.int32)
    batch = {"tokens": tokens, "label": np.roll(tokens, -1, axis=1)}
    if weights is not None:
        batch["weight"] = weights

    def loss_fn(model: Any, batch: Any, ops: ct.Ops) -> Any:
        loss = ops.cross_entropy(model(batch["tokens"]), batch["label"])
        return loss, {"alone": loss}

    plain = accelerator.eval_step(loss_fn)(state, batch)
    return accelerator.train_step(loss_fn, **options)(state, batch), plain


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "options",
    [{}, pytest.param({"accumulate_steps": 2}, marks=SLOW), pytest.param({"remat": "full"}, marks=SLOW)],
    ids=str,
)
def test_a_training_step_adds_the_balance_to_the_loss(backend: str, options: dict[str, Any]) -> None:
    """Evaluation does not."""
    metrics, plain = gpt_step(backend, None, **options)
    assert abs(metrics["loss"] - metrics["alone"] - 0.5 * metrics["expert_balance"]) <= 1e-14
    assert abs(plain["loss"] - metrics["alone"]) <= 1e-14
    assert 1.9 < metrics["expert_balance"] < 2.1  # two layers that choose nearly at random
    assert "expert_balance" not in plain


@pytest.mark.slow
def test_padding_has_no_balance(backend: str) -> None:
    some, _ = gpt_step(backend, np.array([1.0, 1.0, 0.0, 0.0]))
    every, _ = gpt_step(backend, None)
    none, _ = gpt_step(backend, np.array([1.0, 1.0, 0.0, 0.0]), accumulate_steps=2)
    assert some["expert_balance"] != every["expert_balance"]
    assert abs(some["expert_balance"] - none["expert_balance"]) <= 1e-14
