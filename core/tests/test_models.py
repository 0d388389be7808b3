"""The paired models' configs: names, shapes, axes, counts, initial values, and what they refuse."""

import dataclasses
from typing import Any

import numpy as np
import pytest

import crosstrain as ct
from crosstrain import init
from crosstrain.models.spec import ParamSpec

CONFIGS = [
    ct.models.MLPConfig(),
    ct.models.ResNet9Config(),
    ct.models.ResNet9Config(whitening=2),
    ct.models.GPTConfig(n_kv_heads=2),
    ct.models.GPTConfig(tie_embeddings=True),
    ct.models.GPTConfig(experts=ct.Experts(number=3)),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_every_parameter_has_axes_a_role_and_a_start(config: Any) -> None:
    weights = config.initial_weights(3)
    for name, spec in config.parameters().items():
        assert len(spec.axes) == len(spec.shape)
        assert weights[name].shape == spec.shape
        assert weights[name].dtype == np.float64
        assert (spec.role == "norm") == ("norm" in name)


def test_sizes_are_those_of_the_papers() -> None:
    # DAWNBench's ResNet-9 has 6.57 million parameters; a dim-4096 Llama block of 32 heads has 4 d^2 + 3 d h + 2 d.
    assert ct.models.ResNet9Config().parameter_count == 6_573_120
    llama = ct.models.GPTConfig(vocab_size=32_000, dim=4096, n_layers=32, n_heads=32, mlp_dim=11_008)
    assert llama.parameter_count == 6_738_415_616


def test_whitening_splits_the_first_convolution() -> None:
    config = ct.models.ResNet9Config(whitening=3, width=8)
    shapes = {name: spec.shape for name, spec in config.parameters().items()}
    assert list(shapes)[:2] == ["whiten.weight", "prep.conv.weight"]
    assert shapes["whiten.weight"] == (27, 3, 3, 3)
    assert shapes["prep.conv.weight"] == (8, 27, 1, 1)
    start = config.initial_weights(0)["whiten.weight"].reshape(27, 27)
    np.testing.assert_allclose(start @ start.T, np.eye(27), atol=1e-12)
    images = np.zeros((2, 7, 9, 3))
    with pytest.raises(ct.ModelError, match=r"image must have sides of at least 8 .*got \(2, 7, 9, 3\)"):
        dataclasses.replace(config, image_size=None).check(images, True)
    with pytest.raises(ct.ModelError, match=r"image must have shape \(B, 32, 32, 3\), got \(2, 7, 9, 3\)"):
        config.check(images, True)


def test_names_follow_metas_llama() -> None:
    names = list(ct.models.GPTConfig(n_layers=1).parameters())
    assert names == [
        "tok_embeddings.weight",
        "layers.0.attention_norm.weight",
        *(f"layers.0.attention.w{letter}.weight" for letter in "qkvo"),
        "layers.0.ffn_norm.weight",
        *(f"layers.0.feed_forward.w{number}.weight" for number in (1, 3, 2)),
        "norm.weight",
        "output.weight",
    ]
    assert "output.weight" not in ct.models.GPTConfig(tie_embeddings=True).parameters()


def test_initial_weights_are_a_function_of_seed_and_name() -> None:
    small, deep = ct.models.GPTConfig(n_layers=1), ct.models.GPTConfig(n_layers=1, tie_embeddings=True)
    a, b = small.initial_weights(1), deep.initial_weights(1)
    assert all((a[name] == values).all() for name, values in b.items())
    other = small.initial_weights(2)
    assert (a["layers.0.attention.wq.weight"] != other["layers.0.attention.wq.weight"]).all()
    assert (a["layers.0.attention.wq.weight"] != a["layers.0.attention.wk.weight"]).all()


def test_initialisers_have_the_spread_they_say() -> None:
    weights = ct.models.MLPConfig(in_features=400, hidden=(500,)).initial_weights(0)["layers.0.weight"]
    assert np.abs(weights).max() <= 1 / 20
    assert weights.std() == pytest.approx(1 / 20 / np.sqrt(3), rel=0.01)
    normal = ct.models.GPTConfig().initial_weights(0)["tok_embeddings.weight"]
    assert normal.std() == pytest.approx(0.02, rel=0.01)


def test_rope_turns_the_first_pair_by_one_radian_a_step() -> None:
    angles = ct.models.GPTConfig(dim=64, n_heads=4, max_seq_len=7).rope_angles()
    assert angles.shape == (7, 8)
    assert angles[:, 0].tolist() == list(range(7))
    assert angles[1, -1] == pytest.approx(10_000 ** (-14 / 16), rel=1e-14)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ct.models.MLPConfig(in_features=0), "in_features must be at least 1, got in_features=0"),
        (lambda: ct.models.MLPConfig(hidden=(8, 0)), r"hidden must be positive widths, got hidden=\(8, 0\)"),
        (lambda: ct.models.MLPConfig(activation="swish"), "activation must be one of relu, gelu, gelu_tanh"),
        (lambda: ct.models.MLPConfig(dropout=1.0), r"dropout must be in \[0, 1\), got dropout=1.0"),
        (lambda: ct.models.ResNet9Config(image_size=4), r"image_size must be at least 8 .*got image_size=4"),
        (lambda: ct.models.ResNet9Config(whitening=-1), "whitening must be at least 1, got whitening=-1"),
        (lambda: ct.models.GPTConfig(dim=100, n_heads=3), "even multiple of n_heads, got dim=100 and n_heads=3"),
        (lambda: ct.models.GPTConfig(n_heads=4, n_kv_heads=3), "n_kv_heads must divide n_heads"),
        (lambda: ct.models.GPTConfig(vocab_size=0), "vocab_size must be at least 1"),
        (lambda: ct.models.GPTConfig(experts=ct.Experts(number=2), scan_layers=True), "scan_layers must be False"),
        (lambda: ct.Experts(number=0), "experts.number must be at least 1"),
        (lambda: ct.Experts(number=2, active=3), "at most experts.number, got active=3 and number=2"),
        (lambda: ct.Experts(number=2, capacity=0.0), "capacity must be above 0, got capacity=0.0"),
        (lambda: ct.Experts(number=2, balance=-1.0), "balance must be at least 0, got balance=-1.0"),
    ],
)
def test_configs_refuse_what_cannot_be_built(make: Any, message: str) -> None:
    with pytest.raises(ct.ConfigError, match=message):
        make()


def test_axes_must_name_every_dimension() -> None:
    with pytest.raises(ct.ConfigError, match=r"axes must name every dimension, got axes=\('embed',\)"):
        ParamSpec(shape=(2, 3), axes=("embed",), init=init.constant(0.0), role="weight")


def test_configs_are_values() -> None:
    assert dataclasses.replace(ct.models.GPTConfig(), dim=64) == ct.models.GPTConfig(dim=64)
    assert hash(ct.models.ResNet9Config()) == hash(ct.models.ResNet9Config())


def test_a_capacity_counts_places_in_a_row():
    experts = ct.Experts(number=4, active=2, capacity=1.25)
    assert [experts.places(length) for length in (8, 7, 1)] == [5, 5, 1]
    assert ct.Experts(number=4, capacity=9.0).places(8) == 8
    assert ct.Experts(number=4).places(8) == 8
