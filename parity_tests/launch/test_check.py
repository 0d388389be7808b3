"""The built-in check can fail: an accelerator with a planted fault is found out, and named."""

from typing import Any

import numpy as np
import pytest

import crosstrain as ct
from crosstrain.launch import check


def broken(backend: str, method: str, change: Any) -> ct.Accelerator:
    """An accelerator of one process whose `method` gives something else."""
    accelerator = ct.Accelerator(backend)
    right = getattr(accelerator, method)
    setattr(accelerator, method, lambda *arguments, **options: change(right(*arguments, **options)))
    return accelerator


def problems(accelerator: ct.Accelerator) -> dict[str, str]:
    return {each.name: each.problem for each in check.run(accelerator) if each.problem}


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_good_accelerator_has_no_problems(backend: str) -> None:
    accelerator = ct.Accelerator(backend)
    assert problems(accelerator) == {}
    names = {each.name.partition("(")[0] for each in check.checks(accelerator)}
    assert names >= {"gather", "reduce", "broadcast", "gather_object", "broadcast_object", "pad_across_processes"}
    assert names >= {"wait_for_everyone", "gather_for_metrics", "check_trigger", "training step"}


@pytest.mark.parametrize(
    ("method", "change", "found"),
    [
        ("broadcast", lambda rows: rows + 1, {"broadcast": "differs by 1.0e+00, at most 0.0e+00 is rounding"}),
        ("gather_object", lambda objects: objects * 2, {"gather_object": "got [{'index': 0}, {'index': 0}], expected"}),
        (
            "pad_across_processes",
            lambda rows: np.append(rows, 0),
            {"pad_across_processes": "got shape (2,), expected (1,)"},
        ),
        ("gather_for_metrics", lambda rows: rows[1:], {"gather_for_metrics": "got shape (6,), expected (7,)"}),
        ("check_trigger", lambda triggered: False, {"check_trigger": "got [False, False], expected [True, False]"}),
    ],
)
def test_a_wrong_collective_is_named(method: str, change: Any, found: dict[str, str]) -> None:
    said = problems(broken("torch", method, change))
    assert said.keys() == found.keys()
    assert all(said[name].startswith(found[name]) for name in found)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_training_step_that_misses_an_example_is_found(backend: str) -> None:
    def without_one(loader: Any) -> Any:
        batches = list(loader)
        for batch in batches:
            if "x" in batch:
                batch["y"] = batch["y"] * 1.001
        return batches

    accelerator = broken(backend, "loader", without_one)
    assert problems(accelerator).keys() == {"training step"}


def test_an_exchange_that_raises_ends_the_checks_and_says_what_to_do() -> None:
    def raising(rows: Any) -> Any:
        raise ct.CollectiveError("planted")

    accelerator = broken("torch", "gather_object", raising)
    results = check.run(accelerator)
    assert results[-1].name == "gather_object"
    assert results[-1].problem == "CollectiveError: planted"
    table, fixes = check.report([results, results[:-1]], "title")
    assert "GLOO_SOCKET_IFNAME" in fixes
    assert table.row_count == len(results)
