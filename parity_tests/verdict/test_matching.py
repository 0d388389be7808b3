"""Parameters are matched by name, packing, similarity and structure; what is ambiguous is reported, never guessed."""

import pytest

import crosstrain as ct
from crosstrain.parity.matching import Matching, Parameter, match
from crosstrain.parity.names import Names, Part


def weights(*names: str, shape: tuple[int, ...] = (4, 4)) -> list[Parameter]:
    return [Parameter(name, shape, "weight") for name in names]


def biases(*names: str) -> list[Parameter]:
    return [Parameter(name, (4,), "bias") for name in names]


def pairs(matching: Matching) -> dict[str, tuple[str, ...]]:
    return {pair.reference: pair.other for pair in matching.pairs}


def test_equal_names_come_first() -> None:
    matching = match(weights("a.weight", "b.weight"), weights("b.weight", "a.weight"))
    assert pairs(matching) == {"a.weight": ("a.weight",), "b.weight": ("b.weight",)}
    assert matching.complete


def test_similar_names_with_the_same_numbers() -> None:
    mine = weights("blocks.0.attn.q_proj.weight", "blocks.1.attn.q_proj.weight", "blocks.0.attn.k_proj.weight")
    theirs = weights("layers.0.attention.wk.weight", "layers.1.attention.wq.weight", "layers.0.attention.wq.weight")
    assert pairs(match(mine, theirs)) == {
        "blocks.0.attn.q_proj.weight": ("layers.0.attention.wq.weight",),
        "blocks.1.attn.q_proj.weight": ("layers.1.attention.wq.weight",),
        "blocks.0.attn.k_proj.weight": ("layers.0.attention.wk.weight",),
    }


def test_packed_attention_is_put_together_from_three() -> None:
    mine = weights("attn.in_proj_weight", shape=(12, 4))
    theirs = weights("mha.value.weight", "mha.query.weight", "mha.key.weight")
    matching = match(mine, theirs)
    assert pairs(matching) == {"attn.in_proj_weight": ("mha.query.weight", "mha.key.weight", "mha.value.weight")}
    names = Names(matching.names_of_other())
    assert names.shapes({name: (4, 4) for name, _, _ in theirs}) == {"attn.in_proj_weight": (12, 4)}


def test_the_order_of_definition_decides_where_names_say_nothing() -> None:
    mine = [*weights("0.weight"), Parameter("2.weight", (2, 4), "weight"), *weights("4.weight")]
    theirs = [*weights("first.weight"), Parameter("second.weight", (2, 4), "weight"), *weights("third.weight")]
    matching = match(mine, theirs)
    assert pairs(matching)["4.weight"] == ("third.weight",)
    assert {pair.how for pair in matching.pairs} >= {"structure"}


def test_ambiguity_is_reported() -> None:
    matching = match(weights("a.weight", "b.weight", "c.weight"), weights("x.weight", "y.weight"))
    assert not matching.complete
    assert matching.ambiguous["a.weight"] == ("x.weight", "y.weight")
    words = "give hints for a.weight, b.weight, c.weight (3 in the torch model, 2 in the jax model)"
    assert matching.problem("torch", "jax") == words
    assert matching.pairs == ()


def test_a_hint_settles_it() -> None:
    hints = {"a.weight": "y.weight", "b.weight": "x.weight"}
    matching = match(weights("a.weight", "b.weight"), weights("x.weight", "y.weight"), hints)
    assert pairs(matching) == {"a.weight": ("y.weight",), "b.weight": ("x.weight",)}
    with pytest.raises(ct.ConfigError, match=r"a hint must name a parameter of the other model, got 'z.weight'"):
        match(weights("a.weight"), weights("x.weight"), {"a.weight": "z.weight"})


def test_a_hint_joins_equal_shapes() -> None:
    """Else the report would say of their true partners that they have none."""
    other = [Parameter("x.weight", (8, 4), "weight")]
    with pytest.raises(ct.ConfigError, match=r"got 'a.weight' of shape .* and 'x.weight' of shape \(8, 4\)"):
        match(weights("a.weight"), other, {"a.weight": "x.weight"})


def test_what_has_no_partner_is_named() -> None:
    matching = match(weights("a.weight"), [*weights("a.weight"), Parameter("a.bias", (4,), "bias")])
    assert matching.unmatched == ("a.bias",)
    assert match([Parameter("a.bias", (4,), "bias")], []).missing == ("a.bias",)


def test_layers_belong_together_as_a_whole() -> None:
    """A bias goes where its weight went, though another bias has its shape."""
    mine = [*weights("down.weight", shape=(4, 8)), *biases("down.bias"), *weights("up.weight"), *biases("up.bias")]
    theirs = [*weights("a.weight"), *biases("a.bias"), *weights("b.weight", shape=(4, 8)), *biases("b.bias")]
    assert pairs(match(mine, theirs)) == {
        "down.weight": ("b.weight",),
        "down.bias": ("b.bias",),
        "up.weight": ("a.weight",),
        "up.bias": ("a.bias",),
    }


def test_what_is_alone_of_its_shape_needs_no_hint() -> None:
    mine = [*weights("weight_ih_l0"), *weights("weight_hh_l0", shape=(4, 2))]
    theirs = [*weights("hh.kernel", shape=(4, 2)), *weights("ih.kernel")]
    assert pairs(match(mine, theirs)) == {"weight_ih_l0": ("ih.kernel",), "weight_hh_l0": ("hh.kernel",)}


def test_a_norm_that_is_written_by_hand_has_another_role() -> None:
    """Its weight is matched with a norm's all the same, as a hint could do."""
    mine = weights("layers.0.1.weight", "layers.1.0.weight", shape=(4,))
    theirs = [Parameter(f"layers.{i}.layers.{j}.weight", (4,), "norm") for i, j in ((0, 1), (1, 0))]
    assert pairs(match(mine, theirs)) == {
        "layers.0.1.weight": ("layers.0.layers.1.weight",),
        "layers.1.0.weight": ("layers.1.layers.0.weight",),
    }


def test_one_parameter_too_many_leaves_the_others_as_they_are() -> None:
    """A head that is tied in one model alone is all that is named, not every layer after it."""
    mine = weights("gate.weight", "up.weight")
    theirs = [*weights("w1.weight"), *weights("output.weight", shape=(9, 4)), *weights("w3.weight")]
    matching = match(mine, theirs)
    assert pairs(matching) == {"gate.weight": ("w1.weight",), "up.weight": ("w3.weight",)}
    assert (matching.unmatched, matching.ambiguous) == (("output.weight",), {})


def test_modules_are_the_same_where_they_hold_the_same() -> None:
    """Half of a recurrent layer is not that layer, nor a `Sequential` within another the outer one."""
    names = Names(
        {
            "ih.weight": Part("rnn.weight_ih_l0"),
            "hh.weight": Part("rnn.weight_hh_l0"),
            "net.layers.0.layers.0.weight": Part("net.0.0.weight"),
            "net.layers.0.layers.2.weight": Part("net.0.2.weight"),
            "net.layers.1.weight": Part("net.1.0.weight"),
        }
    )
    shared = {
        own: names.module(own) for own in ("ih", "net", "net.layers.0", "net.layers.0.layers.2#1", "net.layers.1")
    }
    assert shared == {
        "ih": "ih",
        "net": "net",
        "net.layers.0": "net.0",
        "net.layers.0.layers.2#1": "net.0.2#1",
        "net.layers.1": "net.1.0",
    }
