"""Differences that can be read without running anything: settings, schedules, data."""

from dataclasses import replace

import numpy as np
import torch

import crosstrain as ct
from crosstrain.optim import ParamGroup, undecayed

from . import patches as p
from .bases import BASES, TOTAL_STEPS, batch_of
from .planting import Mutation, config, data, options, patch, shifted, spec


def shift_labels(batch: dict[str, np.ndarray], step: int) -> dict[str, np.ndarray]:
    return {**batch, "label": np.roll(batch["label"], 1, axis=-1)}


CYCLE = BASES["mlp"].optimizer.learning_rate

M = Mutation

IN_SETTINGS = (
    # Settings: what can be read without running.
    M(name="RMSNorm eps", base="gpt", channel="settings", where="norm.eps", change=config(norm_eps=1e-6)),
    M(name="BatchNorm eps", base="resnet9", channel="settings", where="norm.eps", change=config(norm_eps=1e-6)),
    M(
        name="BatchNorm momentum convention",
        base="resnet9",
        channel="settings",
        where="norm.momentum",
        change=config(norm_momentum=0.9),
    ),
    M(name="dropout rate", base="mlp", channel="settings", where="dropouts.0.rate", change=config(dropout=0.2)),
    M(name="untied head", base="gpt", channel="settings", where="output.weight", change=config(tie_embeddings=True)),
    M(name="Adam eps", base="mlp", channel="settings", where="optimizer.eps", change=spec(eps=1e-7)),
    M(name="beta1", base="mlp", channel="settings", where="optimizer.betas", change=spec(betas=(0.95, 0.999))),
    M(name="beta2", base="gpt", channel="settings", where="optimizer.betas", change=spec(betas=(0.9, 0.999))),
    M(
        name="weight decay value",
        base="gpt",
        channel="settings",
        where="optimizer.weight_decay",
        change=spec(weight_decay=0.05),
    ),
    M(name="decay on biases", base="mlp", channel="settings", where="optimizer.groups", change=spec(groups=())),
    M(
        name="no decay on norms",
        base="gpt",
        channel="settings",
        where="optimizer.groups",
        change=spec(groups=(undecayed("norm"),)),
    ),
    M(
        name="LayerNorm eps",
        base="native",
        channel="settings",
        where="norm.eps",
        change=patch(p.attribute("norm", eps=1e-6)),
    ),
    M(
        name="decay of the average",
        base="muon",
        channel="settings",
        where="average",
        change=lambda s: replace(s, average=ct.ema(0.99)),
    ),
    M(
        name="Lion betas swapped",
        base="lion",
        channel="settings",
        where="optimizer.betas",
        change=spec(betas=(0.99, 0.9)),
    ),
    M(
        name="Muon without Nesterov",
        base="muon",
        channel="settings",
        where="optimizer.nesterov",
        change=spec(nesterov=False),
    ),
    M(
        name="Muon on the embedding",
        base="muon",
        channel="settings",
        where="optimizer for tok_embeddings.weight",
        change=patch(p.unknown_embedding),
    ),
    M(
        name="NAdam momentum decay",
        base="nadam",
        channel="settings",
        where="optimizer.momentum_decay",
        change=spec(momentum_decay=8e-3),
    ),
    M(name="RMSprop alpha", base="rmsprop", channel="settings", where="optimizer.alpha", change=spec(alpha=0.9)),
    M(
        name="Adafactor clip threshold",
        base="adafactor",
        channel="settings",
        where="optimizer.clip_threshold",
        change=spec(clip_threshold=2.0),
    ),
    M(
        name="coupled decay",
        base="mlp",
        channel="settings",
        where="optimizer",
        change=lambda s: replace(s, optimizer=ct.adam(CYCLE, weight_decay=0.01, groups=s.optimizer.groups)),
    ),
    M(name="momentum", base="resnet9", channel="settings", where="optimizer.momentum", change=spec(momentum=0.8)),
    M(name="nesterov off", base="resnet9", channel="settings", where="optimizer.nesterov", change=spec(nesterov=False)),
    M(
        name="head learns faster",
        base="resnet9",
        channel="settings",
        where="optimizer.groups",
        change=spec(groups=(ParamGroup(match="head", rate_scale=10.0),)),
    ),
    M(name="clip limit", base="gpt", channel="settings", where="clip_norm", change=options(clip_norm=1.0)),
    M(
        name="convolution without padding",
        base="resnet9",
        channel="settings",
        where="prep.conv.padding",
        change=patch(
            lambda m: setattr(m.prep.conv, "padding", (0, 0)),
            p.forward("prep.conv", lambda _, original, x: original(torch.nn.functional.pad(x, (2, 0, 2, 0)))),
        ),
    ),
    # Schedules: whole tables.
    M(name="schedule off by one", base="mlp", channel="schedule", where="learning_rate", change=shifted()),
    M(
        name="schedule off by one near the end",
        base="mlp",
        channel="schedule",
        where="learning_rate",
        change=shifted(since=TOTAL_STEPS - 3),
    ),
    M(
        name="one-cycle ends too high",
        base="mlp",
        channel="schedule",
        where="learning_rate",
        change=spec(learning_rate=ct.one_cycle(3e-3, TOTAL_STEPS, final_div=1e4)),
    ),
    M(
        name="one-cycle peak",
        base="resnet9",
        channel="schedule",
        where="learning_rate",
        change=spec(learning_rate=ct.one_cycle(0.1, TOTAL_STEPS, pct_start=0.3)),
    ),
    M(
        name="linear for cosine",
        base="gpt",
        channel="schedule",
        where="learning_rate",
        change=spec(learning_rate=ct.linear(3e-3, TOTAL_STEPS, warmup_steps=8)),
    ),
    M(
        name="no warm-up",
        base="gpt",
        channel="schedule",
        where="learning_rate",
        change=spec(learning_rate=ct.cosine(3e-3, TOTAL_STEPS)),
    ),
    # Data.
    M(
        name="seed of the data",
        base="mlp",
        channel="data",
        where="image",
        change=lambda s: replace(s, batches=lambda step: batch_of("mlp", step + 1000)),
    ),
    M(
        name="order within the batch",
        base="resnet9",
        channel="data",
        where="image",
        change=data(lambda b, _: {name: values[::-1] for name, values in b.items()}),
    ),
    M(
        name="inputs not normalised",
        base="mlp",
        channel="data",
        where="image",
        change=data(lambda b, _: {**b, "image": b["image"] * 2 + 1}),
    ),
    M(name="labels shifted", base="gpt", channel="data", where="label", change=data(shift_labels)),
    M(
        name="images transposed",
        base="resnet9",
        channel="data",
        where="image",
        change=data(lambda b, _: {**b, "image": b["image"].swapaxes(1, 2).copy()}),
    ),
)
