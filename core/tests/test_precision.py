"""`Precision`: the presets, and what is refused."""

import pytest

import crosstrain as ct
from crosstrain.meshes import require_reducible


@pytest.mark.parametrize(
    ("preset", "param", "compute", "loss", "casting"),
    [
        ("fp64", "float64", "float64", "float64", "cast"),
        ("fp32", "float32", "float32", "float32", "cast"),
        ("bf16", "float32", "bfloat16", "float32", "cast"),
        ("bf16-autocast", "float32", "bfloat16", "float32", "autocast"),
        ("bf16-pure", "bfloat16", "bfloat16", "float32", "cast"),
    ],
)
def test_presets(preset, param, compute, loss, casting):
    precision = ct.Precision.parse(preset)
    assert (precision.param_dtype, precision.compute_dtype) == (param, compute)
    assert (precision.loss_dtype, precision.casting) == (loss, casting)


def test_parse_returns_a_precision_as_it_is():
    precision = ct.Precision(param_dtype="bfloat16", compute_dtype="bfloat16")
    assert ct.Precision.parse(precision) is precision


def test_losses_are_float32_where_weights_are_bfloat16():
    assert ct.Precision(param_dtype="bfloat16", compute_dtype="bfloat16").loss_dtype == "float32"


def test_inputs_are_cast_where_the_types_of_computing_and_losses_differ():
    casts = {preset: ct.Precision.parse(preset).casts_batch for preset in ("fp64", "fp32", "bf16", "bf16-pure")}
    assert casts == {"fp64": False, "fp32": False, "bf16": True, "bf16-pure": True}
    assert not ct.Precision.parse("bf16-autocast").casts_batch


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ct.Precision.parse("fp16"), "precision='fp16'"),
        (lambda: ct.Precision(param_dtype="float16"), "param_dtype='float16'"),
        (lambda: ct.Precision(compute_dtype="int8"), "compute_dtype='int8'"),
        (lambda: ct.Precision(casting="maybe"), "casting='maybe'"),
        (lambda: ct.Precision(reduce_dtype="float16"), "reduce_dtype='float16'"),
        (lambda: ct.Precision(compute_dtype="float64"), "Make param_dtype 'float64'"),
        (lambda: ct.Precision(param_dtype="bfloat16"), "Make param_dtype 'float32'"),
    ],
)
def test_a_precision_that_cannot_be_is_refused(make, named):
    with pytest.raises(ct.ConfigError, match=named):
        make()


def test_an_unknown_preset_lists_the_presets():
    with pytest.raises(ct.ConfigError, match="fp64, fp32, bf16, bf16-autocast"):
        ct.Precision.parse("half")


def test_reduce_dtype_is_for_data_and_fsdp():
    precision = ct.Precision(reduce_dtype="bf16")
    require_reducible(precision, ct.MeshSpec(fsdp=2).resolve(4))
    require_reducible(ct.Precision(), ct.MeshSpec(tensor=2).resolve(4))
    with pytest.raises(ct.ConfigError, match="mesh axes other than data, fsdp must be 1 with reduce_dtype='bf16'"):
        require_reducible(precision, ct.MeshSpec(tensor=2).resolve(4))
