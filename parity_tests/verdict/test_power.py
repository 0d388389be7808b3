"""Bugs that are planted in a run are bugs there, on both engines."""

import dataclasses

import pytest

import crosstrain as ct
from crosstrain.parity.power import planted_bugs
from parity_tests.verdict.small_port import small_port

LATE = "schedule one step late"


@pytest.mark.parametrize("engine", ["torch", "jax"])
def test_a_schedule_is_late_only_where_its_table_changes(engine: str) -> None:
    torch, jax, _ = small_port().sides()
    side = torch if engine == "torch" else jax

    def planted(rate: ct.Schedule | float, total_steps: int) -> bool:
        optimizer = ct.adamw(rate)
        return LATE in planted_bugs(dataclasses.replace(side, optimizer=optimizer), total_steps)

    assert planted(ct.cosine(1e-2, 8, warmup_steps=2), 8)
    assert not planted(1e-2, 8)
    assert not planted(ct.step_decay(1e-2, every=10, factor=0.1), 10)
    assert planted(ct.step_decay(1e-2, every=10, factor=0.1), 12)
