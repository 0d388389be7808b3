"""The sharding plan: rules, the automatic split, and what it refuses."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import crosstrain as ct
from crosstrain.mesh import AXES
from crosstrain.sharding import ShardingRules, plan_model, plan_parameters


def mesh(**sizes):
    return {axis: sizes.get(axis, 1) for axis in AXES}


class Paired:
    def __init__(self, config):
        self.config = config


GPT = ct.models.GPTConfig(vocab_size=64, dim=32, n_layers=2, n_heads=4, n_kv_heads=2, mlp_dim=48, max_seq_len=8)


def plan_gpt(rules=None, config=GPT, **sizes):
    shapes = {name: param.shape for name, param in config.parameters().items()}
    return plan_model(Paired(config), shapes, mesh(**sizes), rules or ShardingRules())


def test_a_paired_model_is_split_as_megatron_and_zero3_split_it():
    params = plan_gpt(fsdp=4, tensor=2).params
    assert params["layers.0.attention.wq.weight"].axes == (("tensor",), ("fsdp",))
    assert params["layers.0.attention.wo.weight"].axes == (("fsdp",), ("tensor",))
    assert params["layers.1.feed_forward.w2.weight"].axes == (("fsdp",), ("tensor",))
    assert params["tok_embeddings.weight"].axes == (("tensor",), ("fsdp",))
    assert params["norm.weight"].axes == (("fsdp",),)


def test_the_data_axis_splits_no_parameter():
    plan = plan_gpt(data=8)
    assert plan.is_trivial
    assert plan.local_size == plan.size


def test_what_a_device_holds_adds_up():
    plan = plan_gpt(fsdp=4, tensor=2)
    assert plan.local_size == sum(
        math.prod(param.shape) // (4 if len(param.shape) == 1 else 8) for param in plan.params.values()
    )


def test_a_model_without_logical_axes_is_split_along_its_largest_dimension_that_divides():
    shapes = {"a": (3, 8, 4), "b": (10, 6), "c": (7,), "d": (), "e": (4, 4), "f": (0, 4)}
    params = plan_parameters(shapes, mesh(fsdp=4), ShardingRules(), logical_axes={}).params
    found = {name: param.dimension("fsdp") for name, param in params.items()}
    assert found == {"a": 1, "b": None, "c": None, "d": None, "e": 0, "f": 1}


@given(
    shapes=st.lists(st.lists(st.integers(1, 24), max_size=4).map(tuple), min_size=1, max_size=6),
    fsdp=st.integers(1, 8),
)
def test_an_automatic_plan_always_divides(shapes, fsdp):
    named = {f"p{index}": shape for index, shape in enumerate(shapes)}
    plan = plan_parameters(named, mesh(fsdp=fsdp), ShardingRules(), logical_axes={})
    for name, param in plan.params.items():
        local = param.local_shape(plan.mesh)
        split = [a // b for a, b in zip(named[name], local, strict=True)]
        assert math.prod(split) == (fsdp if param.dimension("fsdp") is not None else 1)
        assert all(b * s == a for a, b, s in zip(named[name], local, split, strict=True))
        if fsdp > 1 and param.dimension("fsdp") is None:
            assert all(size % fsdp for size in named[name])


def test_small_parameters_can_stay_whole():
    params = plan_gpt(ShardingRules(min_size=100), fsdp=4).params
    assert params["norm.weight"].axes == ((),)
    assert params["output.weight"].dimension("fsdp") is not None


def test_axes_of_a_users_model_are_named_by_pattern():
    rules = ShardingRules(logical_axes={"*.up.weight": ("mlp", "embed"), "*.down.weight": ("embed", "mlp")})
    shapes = {"0.up.weight": (8, 4), "0.down.weight": (4, 8), "norm.weight": (4,)}
    params = plan_parameters(shapes, mesh(tensor=2, fsdp=2), rules, logical_axes={}).params
    assert params["0.up.weight"].axes == (("tensor",), ("fsdp",))
    assert params["0.down.weight"].axes == (("fsdp",), ("tensor",))
    assert params["norm.weight"].axes == (("fsdp",),)


def test_a_rule_can_be_replaced():
    params = plan_gpt(ShardingRules(rules={"vocab": None}), tensor=2).params
    assert params["output.weight"].axes == ((), ())


def test_heads_are_not_cut():
    with pytest.raises(ct.ConfigError, match=r"tensor must divide the kv_heads axis of layers.0.attention.wk.weight"):
        plan_gpt(tensor=4)


def test_a_dimension_that_does_not_divide_is_refused_with_the_fix():
    config = ct.models.GPTConfig(vocab_size=63, dim=32, n_layers=1, n_heads=4, max_seq_len=8)
    with pytest.raises(ct.ConfigError, match=r"tensor=2 for 63 .*rules=\{'vocab': None\}"):
        plan_gpt(config=config, tensor=2)


def test_an_axis_that_nothing_uses_is_refused():
    with pytest.raises(ct.ConfigError, match=r"tensor=2 must split some parameter.*logical_axes"):
        plan_parameters({"w": (4, 4)}, mesh(tensor=2), ShardingRules(), logical_axes={})


def test_axes_of_another_number_than_dimensions_are_refused():
    with pytest.raises(ct.ConfigError, match=r"every dimension of w, got \('mlp',\) for shape \(4, 4\)"):
        plan_parameters({"w": (4, 4)}, mesh(tensor=2), ShardingRules(logical_axes={"w": ("mlp",)}), logical_axes={})


def test_one_axis_for_two_dimensions_is_refused():
    rules = ShardingRules(logical_axes={"w": ("mlp", "heads")})
    with pytest.raises(ct.ConfigError, match="one mesh axis must split one dimension of w"):
        plan_parameters({"w": (4, 4)}, mesh(tensor=2), rules, logical_axes={})


@pytest.mark.parametrize("axis", ["data", "context", "pipeline", "model"])
def test_a_rule_to_an_axis_that_splits_no_parameter_is_refused(axis):
    with pytest.raises(ct.ConfigError, match=f"'embed': '{axis}'"):
        ShardingRules(rules={"embed": axis})


def test_blocks_are_cut_into_stages_of_neighbours_and_the_rest_stands_on_all():
    deep = dataclasses.replace(GPT, n_layers=4)
    plan = plan_gpt(config=deep, pipeline=2, fsdp=2)
    stages = {name: param.stage for name, param in plan.params.items()}
    assert [stages[f"layers.{index}.attention.wq.weight"] for index in range(4)] == [0, 0, 1, 1]
    assert {stages[name] for name in ("tok_embeddings.weight", "norm.weight", "output.weight")} == {None}
    assert plan.params["layers.3.attention.wq.weight"].axes == ((), ("fsdp",))
    blocks = sum(math.prod(param.shape) for param in plan.params.values() if param.stage is not None)
    assert plan.local_size == (plan.size - blocks) // 2 + blocks // 4
    assert plan.of_stage(1).keys() == {name for name, stage in stages.items() if stage != 0}
    assert not plan_gpt(pipeline=2).is_trivial
    row = next(line for line in plan.table().splitlines() if line.startswith("layers.*.attention.wq.weight (4)"))
    assert "-, fsdp; 2 on each stage" in row
    assert row.endswith("4.00 KiB")  # 4 layers x 32 x 32 / 4 devices x 4 bytes


MIXTURE = dataclasses.replace(GPT, experts=ct.Experts(number=4))


def test_experts_are_split_and_their_router_is_not():
    params = plan_gpt(config=MIXTURE, data=2, fsdp=2, expert=2, tensor=2).params
    assert params["layers.0.feed_forward.experts.w1"].axes == (("expert",), ("tensor",), ("fsdp",))
    assert params["layers.0.feed_forward.experts.w2"].axes == (("expert",), ("fsdp",), ("tensor",))
    assert params["layers.0.feed_forward.router.weight"].axes == ((), ("fsdp",))
    assert params["layers.0.attention.wq.weight"].dimension("expert") is None
    table = plan_gpt(config=MIXTURE, expert=2).table()
    row = next(line for line in table.splitlines() if line.startswith("layers.*.feed_forward.experts.w1 (2)"))
    assert "experts, mlp, embed  expert, -, -" in row
    assert row.endswith("24.00 KiB")  # 2 layers x 4 x 48 x 32 / 2 devices x 4 bytes


@pytest.mark.parametrize(
    ("experts", "sizes", "message"),
    [
        (None, {"expert": 2}, r"expert=2 must split some parameter.*\('experts', 'mlp', 'embed'\).*expert=1"),
        ({"number": 4}, {"expert": 3}, r"expert must divide the experts axis of .*experts.w1, got expert=3 for 4"),
        ({"number": 4}, {"pipeline": 2}, r"pipeline must be 1 for a model with experts, got pipeline=2"),
        ({"number": 4, "capacity": 1.5}, {"context": 2}, r"capacity must be None .*capacity=1.5 with context=2"),
    ],
)
def test_meshes_that_experts_do_not_go_over_are_refused(experts, sizes, message):
    config = dataclasses.replace(GPT, experts=None if experts is None else ct.Experts(**experts))
    with pytest.raises(ct.ConfigError, match=message):
        plan_gpt(config=config, **sizes)


def test_stages_that_do_not_divide_the_blocks_are_refused():
    with pytest.raises(ct.ConfigError, match=r"pipeline=4 for the 6 blocks of layers. Use pipeline=1 or 2 or 3 or 6"):
        plan_gpt(config=dataclasses.replace(GPT, n_layers=6), pipeline=4)


@pytest.mark.parametrize("config", [ct.models.MLPConfig(), ct.models.ResNet9Config(), None])
def test_a_model_without_equal_blocks_has_no_stages(config):
    shapes = {"w": (4, 4)} if config is None else {name: p.shape for name, p in config.parameters().items()}
    with pytest.raises(ct.ConfigError, match=r"pipeline=2 must cut a sequence of equal blocks into stages"):
        plan_model(Paired(config), shapes, mesh(pipeline=2), ShardingRules())


def test_the_table_groups_layers_and_counts_bytes():
    table = plan_gpt(fsdp=4, tensor=2).table(bytes_per_element=4, copies=4)
    assert "mesh: fsdp=4, tensor=2" in table
    row = next(line for line in table.splitlines() if line.startswith("layers.*.attention.wq.weight (2)"))
    assert "32 x 32" in row
    assert "heads, embed" in row
    assert "tensor, fsdp" in row
    assert row.endswith("4.00 KiB")  # 2 layers x 32 x 32 / 8 devices x 16 bytes
