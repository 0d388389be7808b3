"""Plans against what is known: collectives written by hand, and the formulas of each kind of parallelism."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

DEVICES, LAYERS, DIM, TOKENS, VOCAB, MLP = 8, 2, 32, 16 * 16, 64, 96
FLOAT = 4
ACTIVATIONS = TOKENS * DIM * FLOAT
OPERAND = 64 * 16 * FLOAT / DEVICES
"""Bytes that one device gives in the programs written by hand."""


@pytest.fixture(scope="module")
def facts() -> dict:
    worker = Path(__file__).parent / "planned.py"
    ran = subprocess.run([sys.executable, str(worker)], capture_output=True, text=True, timeout=420, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def sent(step: dict, kind: str | None = None) -> float:
    return sum(each["sent_bytes"] for each in step["collectives"] if kind in (None, each["kind"]))


@pytest.mark.parametrize(
    ("program", "axes", "group_size", "count", "sent_bytes"),
    [
        ("sum over tensor", ["tensor"], 4, 1, 2 * OPERAND * 3 / 4),
        ("sum over data", ["data"], 2, 1, 2 * OPERAND / 2),
        ("sum over both", ["data", "tensor"], 8, 1, 2 * OPERAND * 7 / 8),
        ("gather", ["tensor"], 4, 1, OPERAND * 3),
        ("scatter", ["tensor"], 4, 1, OPERAND * 3 / 4),
        ("swap", ["tensor"], 4, 1, OPERAND * 3 / 4),
        ("ring", ["tensor"], 4, 1, OPERAND),
        ("loop", ["tensor"], 4, 5, 5 * 2 * OPERAND * 3 / 4),
    ],
)
def test_what_a_program_exchanges(
    facts: dict, program: str, axes: list, group_size: int, count: int, sent_bytes: float
) -> None:
    read = facts["known"][program]
    assert read["complete"]
    assert {tuple(each["axes"]) for each in read["collectives"]} == {tuple(axes)}
    assert {each["group_size"] for each in read["collectives"]} == {group_size}
    assert sum(each["count"] for each in read["collectives"]) == count
    assert sent(read) == sent_bytes


def test_a_program_without_exchanges(facts: dict) -> None:
    assert facts["known"]["local"]["collectives"] == []


@pytest.mark.parametrize("optimizer", ["AdamW", "Adafactor"])
@pytest.mark.parametrize("mesh", ["data", "fsdp", "tensor", "pipeline"])
def test_an_estimate_is_what_a_device_holds(facts: dict, mesh: str, optimizer: str) -> None:
    """To the byte, with factored moments, which are whole on every device."""
    real, estimate = facts["estimated"][f"{mesh}, {optimizer}"]
    assert real == estimate
    if mesh != "data":
        assert real["parameters"] < facts["estimated"][f"data, {optimizer}"][0]["parameters"] / 4


def test_the_plan_compiles_the_program_that_training_runs(facts: dict) -> None:
    assert facts["same program"]


def test_fsdp_gathers_every_parameter_and_holds_a_part(facts: dict) -> None:
    step = facts["planned"]["fsdp"]
    weights = step["parameters"] * FLOAT
    batch = 2 * TOKENS * FLOAT / DEVICES
    # Weights and both moments of Adam, and besides them the batch and a few counters and rates.
    assert 3 * weights / DEVICES + batch <= step["state"] <= 3 * weights / DEVICES + batch + 64
    gathered = sent(step, "all-gather") / (weights * (DEVICES - 1) / DEVICES)
    # Gathered for the forward pass, and again for the backward pass where the compiler does not keep them.
    assert 1 <= gathered <= 2.01
    assert sent(step) - sent(step, "all-gather") >= weights * (DEVICES - 1) / DEVICES


def test_data_parallel_gathers_no_parameter_and_adds_up_every_gradient(facts: dict) -> None:
    step = facts["planned"]["data"]
    weights = step["parameters"] * FLOAT
    assert sent(step, "all-gather") == 0
    assert step["state"] >= 3 * weights
    assert sent(step) == pytest.approx(2 * weights * (DEVICES - 1) / DEVICES, rel=1e-3)


def test_tensor_parallel_moves_activations_only(facts: dict) -> None:
    step = facts["planned"]["tensor"]
    assert {tuple(each["axes"]) for each in step["collectives"]} == {("tensor",)}
    # Forward: the embedding, and two sums per block. Backward: one per block and input of a matrix that is split by
    # columns, five at most, and the head's.
    ring = 2 * (DEVICES - 1) / DEVICES
    least, most = ring * ACTIVATIONS * (2 + 4 * LAYERS), ring * ACTIVATIONS * (2 + 7 * LAYERS)
    per_token = 3 * ring * TOKENS * FLOAT
    assert least <= sent(step) <= most + per_token + ring * 8
    largest = max(each["operand_bytes"] / each["count"] for each in step["collectives"])
    assert largest % ACTIVATIONS == 0 or largest - ACTIVATIONS * round(largest / ACTIVATIONS) <= TOKENS * FLOAT


def test_tokens_go_to_their_experts_and_back_and_so_do_gradients(facts: dict) -> None:
    """Four all-to-alls per block, of a place for every expert and token; nothing else of activations moves."""
    step, number = facts["planned"]["expert"], 4
    exchanges = [each for each in step["collectives"] if each["kind"] == "all-to-all" and each["axes"] == ["expert"]]
    assert sum(each["count"] for each in exchanges) == 4 * LAYERS
    operands = 4 * LAYERS * number * TOKENS / DEVICES * DIM * FLOAT
    assert sum(each["operand_bytes"] for each in exchanges) == operands
    assert sent({"collectives": exchanges}) == operands / 2
    gathered = {tuple(each["axes"]) for each in step["collectives"] if each["kind"] == "all-gather"}
    assert gathered == {("fsdp",)}


def test_flops_are_those_of_the_formula(facts: dict) -> None:
    """Three times the forward pass's: 2 per weight and token, and 4 T per token and element of the stream."""
    matrices = LAYERS * (4 * DIM * DIM + 3 * DIM * MLP) + DIM * VOCAB
    forward = 2 * TOKENS * matrices + LAYERS * 4 * TOKENS * 16 * DIM
    for step in (facts["planned"][name] for name in ("fsdp", "data", "tensor")):
        assert math.isclose(step["flops"], 3 * forward / DEVICES)


def test_with_reduce_dtype_gradients_are_written_as_sums_of_bfloat16(facts: dict) -> None:
    """One sum for every gradient, and one for losses and weights; without it the compiler writes them itself."""
    assert facts["narrow"] == {"bf16": facts["planned"]["data"]["parameters"], "f32": 2}
    assert facts["plain"] == {}
