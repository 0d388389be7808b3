"""What the torch engine cannot split of a mixture is refused before anything is placed."""

from typing import Any

import pytest

import crosstrain as ct
from crosstrain.mesh import AXES
from crosstrain.sharding import plan_model
from crosstrain_torch import naming
from crosstrain_torch.experts import require_experts
from crosstrain_torch.models.gpt import GPT
from crosstrain_torch.sharding import Mesh


def refuse(config: ct.models.GPTConfig, rules: ct.ShardingRules, **wide: int) -> None:
    model = GPT(config)
    sizes = {axis: wide.get(axis, 1) for axis in AXES}
    plan = plan_model(model, naming.shapes(naming.parameters(model)), sizes, rules)
    alone: Any = {"native": None, "world": None, "batch": None, "batch_part": (0, 1), "losses": None}
    require_experts(model, plan, Mesh(sizes=sizes, **alone))


MIXTURE = ct.models.GPTConfig(vocab_size=8, dim=4, n_layers=1, n_heads=2, mlp_dim=4, experts=ct.Experts(number=2))
DENSE = ct.models.GPTConfig(vocab_size=8, dim=4, n_layers=1, n_heads=2, mlp_dim=4)


@pytest.mark.parametrize(
    ("config", "rules", "wide", "message"),
    [
        (MIXTURE, {}, {"tensor": 2}, "tensor must be 1 for a model with experts .*, got tensor=2 for layers.0"),
        (MIXTURE, {"experts": None, "mlp": "expert"}, {"expert": 2}, "got dimension 1 of .*experts.w1 in a Mixture"),
        (
            DENSE,
            {"mlp": "expert"},
            {"expert": 2},
            "got dimension 0 of layers.0.feed_forward.w1.weight in a FeedForward",
        ),
    ],
)
def test_what_cannot_be_split_is_refused(config: Any, rules: Any, wide: dict[str, int], message: str) -> None:
    with pytest.raises(ct.ConfigError, match=message):
        refuse(config, ct.ShardingRules(rules=rules), **wide)


def test_what_can_is_not() -> None:
    refuse(MIXTURE, ct.ShardingRules(), expert=2, fsdp=2)
