"""Both engines train mixtures of experts to the same losses, norms and weights, in float64."""

import dataclasses
from dataclasses import dataclass

import pytest

import crosstrain as ct
from crosstrain.parity.compare import FLOAT64_LIMIT

from .matrix import Case, run

STEPS = 200


@dataclass(frozen=True, kw_only=True)
class Mixture(Case):
    experts: ct.Experts

    def config(self) -> ct.models.GPTConfig:
        return dataclasses.replace(Case.config(self), experts=self.experts, mlp_dim=16)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["accumulation", "dropout"])
@pytest.mark.parametrize("optimizer", ["adamw, cosine", "muon, warm-up-stable-decay"])
@pytest.mark.parametrize(
    "experts", [ct.Experts(number=4), ct.Experts(number=8, active=1, capacity=1.25)], ids=["Mixtral", "Switch"]
)
def test_whole_runs(experts: ct.Experts, optimizer: str, variant: str) -> None:
    found = run(Mixture(model="gpt", optimizer=optimizer, variant=variant, experts=experts), STEPS)
    assert found.worst <= FLOAT64_LIMIT
    assert found.last_loss < 4.5
