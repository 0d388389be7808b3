"""Dropout whose masks each framework draws: a port that drops otherwise is no port, on both engines."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

import crosstrain as ct
from crosstrain.parity import Port, Report, assert_same_training, examine
from crosstrain.parity.dropout import Call, compare_calls
from parity_tests.verdict.small_port import small_port

FEATURES, CLASSES = 6, 3


class TorchNet(nn.Module):
    """Dropout before the layers and between them."""

    def __init__(self, first: nn.Module | None, second: nn.Module | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.head = nn.Linear(FEATURES, 8), nn.Linear(8, CLASSES)
        self.first, self.second = first, second

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.fc(x if self.first is None else self.first(x)))
        return self.head(x if self.second is None else self.second(x))


class FlaxNet(nnx.Module):
    """The same, also with the second layer's dropout before tanh."""

    def __init__(self, rates: Sequence[float | None], *, early: bool = False) -> None:
        rngs = nnx.Rngs(0)
        self.fc, self.head = nnx.Linear(FEATURES, 8, rngs=rngs), nnx.Linear(8, CLASSES, rngs=rngs)
        self.first, self.second = (None if rate is None else nnx.Dropout(rate, rngs=rngs) for rate in rates)
        self.early = early

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.fc(x if self.first is None else self.first(x))
        x = jax.nn.tanh(self.second(x)) if self.early else jax.nn.tanh(x)
        return self.head(x if self.early or self.second is None else self.second(x))


class TorchImages(nn.Module):
    def __init__(self, drop: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.drop, self.head = nn.Conv2d(2, 4, 3), drop, nn.Linear(4, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(torch.tanh(self.conv(x))).mean((2, 3)))


class FlaxImages(nnx.Module):
    def __init__(self, broadcast_dims: tuple[int, ...]) -> None:
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(2, 4, (3, 3), padding="VALID", rngs=rngs)
        self.drop = nnx.Dropout(0.3, broadcast_dims=broadcast_dims, rngs=rngs)
        self.head = nnx.Linear(4, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.drop(jax.nn.tanh(self.conv(x.transpose(0, 2, 3, 1)))).mean((1, 2)))


def port_of(torch_model: Callable[[], Any], jax_model: Callable[[], Any], shape: tuple[int, ...]) -> Port:
    def batches(step: int) -> dict[str, np.ndarray]:
        draw = np.random.default_rng(step)
        return {"x": draw.normal(size=(8, *shape)), "label": draw.integers(0, CLASSES, 8).astype(np.int32)}

    return small_port(
        torch_model=torch_model,
        jax_model=jax_model,
        batches=batches,
        optimizer=ct.adamw(1e-3),
        total_steps=2,
    )


def report_of(port: Port) -> Report:
    return examine(port, free_steps=2, low_precision=False)


def nets(rates: Sequence[float | None], others: Sequence[float | None], **options: Any) -> Port:
    def layers() -> list[nn.Module | None]:
        return [None if rate is None else nn.Dropout(rate) for rate in rates]

    return port_of(lambda: TorchNet(*layers()), lambda: FlaxNet(others, **options), (FEATURES,))


def report(rates: Sequence[float | None], others: Sequence[float | None], **options: Any) -> Report:
    return report_of(nets(rates, others, **options))


def causes(found: Report) -> dict[str, str]:
    return {finding.where: finding.cause for finding in found.verdict.findings}


def test_the_same_dropout_is_the_same_algorithm() -> None:
    assert report((0.1, 0.5), (0.1, 0.5)).same


def test_a_test_suite_compares_dropout_too() -> None:
    assert_same_training(nets((0.1, 0.5), (0.1, 0.5)), free_steps=2)
    with pytest.raises(AssertionError, match="dropout second"):
        assert_same_training(nets((0.1, 0.1), (0.1, None)), free_steps=2)


def test_a_missing_layer_of_the_same_rate_is_found() -> None:
    assert list(causes(report((0.1, 0.1), (0.1, None)))) == ["dropout second"]


def test_rates_that_changed_places_are_found() -> None:
    assert causes(report((0.1, 0.5), (0.5, 0.1))) == {
        "dropout first": "rate 0.1 of elements against rate 0.5 of elements",
        "dropout second": "rate 0.5 of elements against rate 0.1 of elements",
    }


def test_another_place_is_found() -> None:
    found = causes(report((None, 0.5), (None, 0.5), early=True))
    assert found["dropout second"] == "another place in the model: rate 0.5 of elements, of other values"


def test_no_fix_closes_a_gap_that_is_the_dropout() -> None:
    found = report((None, 0.1), (None, 0.2))
    assert found.fixes == ()
    assert list(causes(found)) == ["dropout second"]
    assert not found.fixed.same_algorithm


@pytest.mark.parametrize(
    ("drop", "dims", "drops"),
    [
        (nn.Dropout(0.3), (), None),
        (nn.Dropout2d(0.3), (1, 2), None),
        (nn.Dropout2d(0.3), (), ("channels over 2 dimensions", "elements")),
        (nn.Dropout2d(0.3), (1,), ("channels over 2 dimensions", "channels over 1 dimension")),
        (nn.Dropout(0.3), (0, 1), ("elements", "one mask over the dimensions (0, 1)")),
        (nn.AlphaDropout(0.3), (), ("another value put in (AlphaDropout)", "elements")),
    ],
    ids=["elements", "channels", "channels against elements", "another dimension", "batch", "alpha"],
)
def test_what_is_dropped_as_one(drop: nn.Module, dims: tuple[int, ...], drops: tuple[str, str] | None) -> None:
    found = causes(report_of(port_of(lambda: TorchImages(drop), lambda: FlaxImages(dims), (2, 5, 4))))
    wanted = {} if drops is None else {"dropout drop": f"rate 0.3 of {drops[0]} against rate 0.3 of {drops[1]}"}
    assert found == wanted


def test_dropout_of_attention_is_not_that_of_a_layer_that_drops_other_values() -> None:
    values = {"rate": 0.1, "drops": "elements"}
    attention = Call("attn", values, attention=True)
    weights = np.full((2, 3, 4, 4), 0.25)
    for other, message in ((weights, []), (np.ones((2, 4, 6)), ["another place in the model"])):
        for pair in ((attention, Call("drop", values, other)), (Call("drop", values, other), attention)):
            found = compare_calls([pair[0]], [pair[1]], backends=("torch", "jax"), same_values=True)
            assert [finding.cause.partition(":")[0] for finding in found] == message
