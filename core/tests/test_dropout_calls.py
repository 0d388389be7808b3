"""Calls of dropout layers are compared one by one: their number, their settings, and the values that they drop."""

import numpy as np
import pytest

from crosstrain.parity.dropout import Call, compare_calls

X, Y = np.linspace(-1.0, 2.0, 12).reshape(3, 4), np.linspace(3.0, 7.0, 12).reshape(3, 4) ** 2


def call(path: str, rate: float = 0.1, dropped: np.ndarray | None = None, drops: str = "elements") -> Call:
    return Call(path, {"rate": rate, "drops": drops}, dropped)


def causes(a: list[Call], b: list[Call], *, same_values: bool = True) -> dict[str, str]:
    found = compare_calls(a, b, backends=("torch", "jax"), same_values=same_values)
    return {finding.where: finding.cause for finding in found}


@pytest.mark.parametrize("same_values", [True, False])
def test_rates_are_compared_by_path_with_multiplicity(same_values: bool) -> None:
    mine = [call("a", 0.1), call("b", 0.5)]
    assert causes(mine, [call("b", 0.5), call("a", 0.1)], same_values=same_values) == {}
    assert causes(mine, [call("a", 0.5), call("b", 0.1)], same_values=same_values) == {
        "dropout a": "rate 0.1 of elements against rate 0.5 of elements",
        "dropout b": "rate 0.5 of elements against rate 0.1 of elements",
    }
    lacks = "the jax model has no such layer, or does not call it"
    one = causes([call("a"), call("b")], [call("a")], same_values=same_values)
    assert one == {"dropout b": f"rate 0.1 of elements against none: {lacks}"}


def test_a_layer_that_only_the_other_side_calls_is_named() -> None:
    lacks = "the torch model has no such layer, or does not call it"
    assert causes([], [call("a")]) == {"dropout a": f"none against rate 0.1 of elements: {lacks}"}


def test_other_names_are_compared_in_the_order_of_execution() -> None:
    """One layer that is called twice is two layers of other names."""
    assert causes([call("drop", 0.1), call("drop#1", 0.1)], [call("d1", 0.1), call("d2", 0.1)]) == {}
    assert causes([call("a", 0.1), call("b", 0.2)], [call("c", 0.2), call("d", 0.1)]) == {
        "dropout a": "rate 0.1 of elements against rate 0.2 of elements in c",
        "dropout b": "rate 0.2 of elements against rate 0.1 of elements in d",
    }


def test_what_is_dropped_as_one_is_compared() -> None:
    found = causes([call("a", drops="channels over 2 dimensions")], [call("a")])
    assert found == {"dropout a": "rate 0.1 of channels over 2 dimensions against rate 0.1 of elements"}


@pytest.mark.parametrize("other", [X.T, X.reshape(-1), 3.0 * X, np.maximum(X, 0.0)])
def test_layout_a_factor_and_relu_are_the_same_place(other: np.ndarray) -> None:
    assert causes([call("a", dropped=X)], [call("b", dropped=other)]) == {}


def test_another_place_is_found_only_where_both_models_compute_the_same() -> None:
    mine, theirs = [call("a", dropped=X)], [call("a", dropped=Y)]
    assert causes(mine, theirs)["dropout a"].startswith("another place in the model")
    assert causes(mine, theirs, same_values=False) == {}
    assert causes(mine, [call("a")]) == {}


def test_the_same_place_counts_more_than_the_same_name() -> None:
    mine, theirs = [call("a", dropped=X), call("b", dropped=Y)], [call("b", dropped=X), call("a", dropped=Y)]
    assert causes(mine, theirs) == {}
