"""`DeepSpeed`: what it refuses before DeepSpeed is imported."""

import pytest

import crosstrain as ct

FP32 = ct.Precision()


@pytest.mark.parametrize(
    ("attempt", "named", "fix"),
    [
        (lambda: ct.DeepSpeed(stage=0), "stage=0", "leave out deepspeed"),
        (lambda: ct.DeepSpeed(zero={"stage": 3}), "'stage': 3", "leave the stage to stage="),
        (lambda: ct.DeepSpeed().require_mesh({"data": 2, "tensor": 2}), "tensor=2", "fsdp splits what ZeRO does"),
        (lambda: ct.DeepSpeed().require(ct.muon(1e-3), FP32, averages=False), "Muon", "fsdp=N"),
        (lambda: ct.DeepSpeed().require(ct.adamw(1e-3), FP32, averages=True), "average must be None", "fsdp=N"),
        (
            lambda: ct.DeepSpeed().require(ct.adamw(1e-3), ct.Precision.parse("bf16"), averages=False),
            "bfloat16",
            "'fp32' or 'bf16-autocast'",
        ),
        (lambda: ct.Accelerator("jax", deepspeed=ct.DeepSpeed()), "jax engine", "fsdp=N"),
    ],
)
def test_what_it_cannot_do_is_refused(attempt, named, fix):
    with pytest.raises(ct.ConfigError) as error:
        attempt()
    assert named in str(error.value)
    assert fix in str(error.value)


def test_a_mesh_of_data_is_taken():
    ct.DeepSpeed(stage=3, zero={"overlap_comm": True}).require_mesh({"data": 8, "fsdp": 1})
