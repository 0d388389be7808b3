"""Writes the definitions of docs/numerics.md: the docstrings of what both engines are held to, in one place to read.

`python -m parity_tests.architecture.definitions` writes them; a test holds the page to the docstrings.
"""

import inspect
from pathlib import Path
from typing import Any

from crosstrain import init, optim, scores
from crosstrain.models.experts import Experts
from crosstrain.ops import Ops
from crosstrain.random import StepRandom
from crosstrain.schedules.base import Constant
from crosstrain.schedules.cyclical import LrRange, Triangular
from crosstrain.schedules.one_cycle import OneCycle, OneCycleMomentum, OptaxOneCycle
from crosstrain.schedules.override import Override
from crosstrain.schedules.smith_one_cycle import SmithOneCycle, SmithOneCycleMomentum
from crosstrain.schedules.step import MultiStepDecay, StepDecay
from crosstrain.schedules.torch_one_cycle import TorchOneCycle, TorchOneCycleMomentum, _Phases
from crosstrain.schedules.warmed import Cosine, Linear, Polynomial, WarmupStableDecay, _Warmed
from crosstrain.step import StepOptions
from crosstrain_torch.models import layers

PAGE = Path(__file__).parents[2] / "docs" / "numerics.md"
BEGIN, END = "<!-- definitions: begin -->", "<!-- definitions: end -->"
_NO_DEFINITION = ("Args:", "Returns:", "Raises:")

SECTIONS: dict[str, list[Any]] = {
    "Optimizers": [
        *(optim.Sgd, optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam, optim.Adagrad, optim.RmsProp),
        *(optim.Adafactor, optim.Lion, optim.Lamb, optim.Muon),
    ],
    "Parameter groups, clipping, accumulation, averages": [
        *(optim.ParamGroup, optim.undecayed, optim.LayerGroup, optim.Clipping, StepOptions),
        *(optim.Ema, optim.Swa, optim.Lookahead, optim.DiLoCo),
    ],
    "Schedules": [
        *(Constant, _Warmed, Linear, Cosine, Polynomial, WarmupStableDecay, StepDecay, MultiStepDecay),
        *(OneCycle, OneCycleMomentum, OptaxOneCycle, _Phases, TorchOneCycle, TorchOneCycleMomentum),
        *(SmithOneCycle, SmithOneCycleMomentum, Triangular, LrRange, Override),
    ],
    "Losses": [Ops.cross_entropy, Ops.bce_with_logits, Ops.mse, Ops.mae, Ops.huber, Ops.kl_div],
    "Metrics": [Ops.accuracy, Ops.top_k_accuracy, scores.perplexity, Ops.f1_counts, scores.f1],
    "Norms": [layers.LayerNorm, layers.RMSNorm, layers.BatchNorm, layers.GroupNorm],
    "Initialisers": [
        *(init.kaiming_normal, init.kaiming_uniform, init.xavier_normal, init.xavier_uniform, init.lecun_normal),
        *(init.lecun_uniform, init.fan_in_uniform, init.VarianceScaling, init.TruncatedNormal, init.Orthogonal),
    ],
    "Dropout": [StepRandom],
    "Mixtures of experts": [Experts],
}


def definitions() -> str:
    """All sections, in Markdown."""
    return "\n".join(f"### {title}\n\n{''.join(map(_entry, entries))}" for title, entries in SECTIONS.items())


def _entry(value: Any) -> str:
    text = inspect.getdoc(value)
    assert text, value
    kept = [part for part in text.split("\n\n") if not part.startswith(_NO_DEFINITION)]
    return "\n\n".join([f"**{value.__name__.lstrip('_')}**", "```text\n" + "\n\n".join(kept)]) + "\n```\n\n"


def page() -> str:
    """The page with the definitions of now."""
    text = PAGE.read_text(encoding="utf-8")
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    return f"{before}\n\n{definitions()}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
