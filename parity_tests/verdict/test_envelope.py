"""Low precision: clean pairs stay inside the envelope, planted bugs leave it, and what cannot be seen is said."""

import dataclasses
from dataclasses import replace

import pytest

import crosstrain as ct
from crosstrain.parity import compare_low_precision, detection
from crosstrain.parity.envelope import nudged
from parity_tests.mutations.bases import BASES, PAIRED, TOTAL_STEPS, start


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "resnet9" else ()) for name in PAIRED]
)
def test_clean_pairs_stay_inside(name: str, precision: str) -> None:
    base = BASES[name]
    report = compare_low_precision(
        base.side("torch"), base.side("jax"), precision=precision, total_steps=TOTAL_STEPS, seeds=8, free_steps=6
    )
    assert report.findings == ()
    assert 0 < report.worst <= 1
    assert report.free.difference.shape == (6,)


def test_other_precisions_are_refused() -> None:
    side = BASES["mlp"].side("torch")
    with pytest.raises(ct.ConfigError, match="precision must be one of fp32, bf16, got precision='bf16-pure'"):
        compare_low_precision(side, side, precision="bf16-pure", total_steps=TOTAL_STEPS)


def test_a_planted_difference_leaves_the_envelope() -> None:
    base = BASES["gpt"]
    side = base.side("jax")
    wrong = replace(side, optimizer=dataclasses.replace(side.optimizer, weight_decay=0.11))
    report = compare_low_precision(base.side("torch"), wrong, precision="fp32", total_steps=TOTAL_STEPS, seeds=4)
    assert {finding.channel for finding in report.findings} == {"optimizer"}


def test_detection_says_what_a_precision_cannot_see() -> None:
    side = BASES["gpt"].side("torch")
    seen = {
        precision: {
            bug.name: bug.seen for bug in detection(side, precision=precision, total_steps=TOTAL_STEPS, seeds=4)
        }
        for precision in ("fp64", "bf16")
    }
    assert all(seen["fp64"].values())
    norm = next(name for name in seen["bf16"] if name.startswith("rms_norm eps"))
    assert not seen["bf16"][norm]


def test_nudging_moves_weights_by_one_unit_in_the_last_place() -> None:
    snapshot = start("mlp")
    moved = nudged(snapshot, 2.0**-23, seed=1)
    for name, values in snapshot.params.items():
        ratio = moved.params[name][values != 0] / values[values != 0] - 1
        assert set((ratio * 2.0**23).round(6).tolist()) <= {-1.0, 1.0}
