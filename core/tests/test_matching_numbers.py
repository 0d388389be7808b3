"""Layers that two models number otherwise: by rank where the order of definition agrees, else a hint is asked for."""

import pytest

from crosstrain.parity.matching import Matching, Parameter, match


def weights(*names: str, shape: tuple[int, ...] = (4, 4)) -> list[Parameter]:
    return [Parameter(name, shape, "weight") for name in names]


def pairs(matching: Matching) -> dict[str, str]:
    return {pair.reference: " + ".join(pair.other) for pair in matching.pairs}


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (("0.w", "2.w", "4.w"), ("layers.0.w", "layers.1.w", "layers.2.w")),
        (("layers.0.w", "layers.2.w", "layers.4.w"), ("layers.0.w", "layers.1.w", "layers.2.w")),
        (("fc1.w", "fc2.w", "fc3.w"), ("dense_0.w", "dense_1.w", "dense_2.w")),
        (("layer8.w", "layer9.w", "layer10.w"), ("blocks.0.w", "blocks.1.w", "blocks.2.w")),
        (
            ("blocks.1.fc1.w", "blocks.1.fc2.w", "blocks.2.fc1.w", "blocks.2.fc2.w"),
            ("layers.0.dense_0.w", "layers.0.dense_1.w", "layers.1.dense_0.w", "layers.1.dense_1.w"),
        ),
    ],
    ids=["Sequential", "the same words", "from 1", "ten", "nested"],
)
def test_other_numbers_are_matched_by_their_rank(mine: tuple[str, ...], theirs: tuple[str, ...]) -> None:
    matching = match(weights(*mine), weights(*theirs))
    assert pairs(matching) == dict(zip(mine, theirs, strict=True))
    assert {pair.how for pair in matching.pairs} == {"rank of numbers"}


def test_ranks_are_those_of_the_same_words() -> None:
    mine = weights("conv1.w", "conv2.w", "fc1.w", "fc2.w")
    theirs = weights("conv_0.w", "conv_1.w", "dense_0.w", "dense_1.w")
    assert pairs(match(mine, theirs)) == {
        "conv1.w": "conv_0.w",
        "conv2.w": "conv_1.w",
        "fc1.w": "dense_0.w",
        "fc2.w": "dense_1.w",
    }


def test_another_order_of_definition_is_ambiguous() -> None:
    matching = match(weights("fc1.w", "fc2.w"), weights("dense_1.w", "dense_0.w"))
    assert matching.pairs == ()
    assert matching.ambiguous == dict.fromkeys(("fc1.w", "fc2.w"), ("dense_1.w", "dense_0.w"))
    hinted = match(weights("fc1.w", "fc2.w"), weights("dense_1.w", "dense_0.w"), {"fc1.w": "dense_0.w"})
    assert pairs(hinted) == {"fc1.w": "dense_0.w", "fc2.w": "dense_1.w"}


def test_equal_numbers_mean_the_same_in_any_order_of_definition() -> None:
    matching = match(weights("fc0.w", "fc1.w"), weights("dense_1.w", "dense_0.w"))
    assert pairs(matching) == {"fc0.w": "dense_0.w", "fc1.w": "dense_1.w"}


def test_a_last_layer_of_another_name_is_matched_by_the_order_of_definition() -> None:
    mine, theirs = weights("layers.0.w", "layers.2.w", "head.w"), weights("layers.0.w", "layers.1.w", "layers.2.w")
    matching = match(mine, theirs)
    assert pairs(matching) == {"layers.0.w": "layers.0.w", "layers.2.w": "layers.1.w", "head.w": "layers.2.w"}
    assert {pair.how for pair in matching.pairs} == {"structure"}


def test_a_missing_layer_is_named() -> None:
    matching = match(weights("layers.0.w", "layers.1.w", "layers.2.w"), weights("blocks.0.w", "blocks.1.w"))
    assert matching.missing == ("layers.2.w",)
    assert not matching.complete


def test_packed_attention_of_layers_with_other_numbers() -> None:
    mine = weights("1.attn.in_proj_weight", "3.attn.in_proj_weight", shape=(12, 4))
    theirs = weights(*(f"layers.{layer}.mha.{part}.weight" for layer in (0, 1) for part in ("query", "key", "value")))
    assert pairs(match(mine, theirs)) == {
        "1.attn.in_proj_weight": "layers.0.mha.query.weight + layers.0.mha.key.weight + layers.0.mha.value.weight",
        "3.attn.in_proj_weight": "layers.1.mha.query.weight + layers.1.mha.key.weight + layers.1.mha.value.weight",
    }
