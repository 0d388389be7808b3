"""Planted differences: what is changed on the torch side, and which channel and place the report has to name."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

import crosstrain as ct
from crosstrain.loss import Loss
from crosstrain.optim import ParamGroup
from crosstrain.parity.side import Live, Side
from crosstrain.schedules import Schedule
from crosstrain.step import StepOptions

from . import patches as p
from .bases import BASES, TOTAL_STEPS, batch_of, loss_fn


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """One planted bug.

    Attributes:
        name: what was planted.
        base: the pair it is planted in.
        change: clean torch side -> changed one.
        live: changes the open side, for bugs in the optimizer or the step.
        channel: where the report has to say that the runs part first.
        where: a part of the place that it has to name.
    """

    name: str
    base: str
    channel: str
    where: str
    change: Callable[[Side], Side] = lambda side: side
    live: Callable[[Live], None] = lambda live: None

    def open(self) -> Live:
        live = self.change(BASES[self.base].side("torch")).open("fp64")
        self.live(live)
        return live


def config(**changes: Any) -> Callable[[Side], Side]:
    def change(side: Side) -> Side:
        kind, old = side.model.args
        return replace(side, model=functools.partial(ct.models.build, kind, dataclasses.replace(old, **changes)))

    return change


def spec(**changes: Any) -> Callable[[Side], Side]:
    return lambda side: replace(side, optimizer=dataclasses.replace(side.optimizer, **changes))


def patch(*changes: p.Patch) -> Callable[[Side], Side]:
    def change(side: Side) -> Side:
        def model(accelerator: ct.Accelerator) -> Any:
            made = side.model(accelerator)
            for each in changes:
                each(made)
            return made

        return replace(side, model=model)

    return change


def forward(path: str, function: Callable[..., Any]) -> Callable[[Side], Side]:
    return patch(p.forward(path, function))


def loss(function: Callable[..., Any]) -> Callable[[Side], Side]:
    return lambda side: replace(side, loss_fn=function)


def options(**changes: Any) -> Callable[[Side], Side]:
    return lambda side: replace(side, options=dataclasses.replace(side.options, **changes))


def data(function: Callable[[dict[str, np.ndarray], int], dict[str, np.ndarray]]) -> Callable[[Side], Side]:
    return lambda side: replace(side, batches=lambda step: function(side.batches(step), step))


@dataclass(frozen=True, kw_only=True, slots=True)
class Shifted(Schedule):
    """Another schedule, `by` steps late; from step `since` on."""

    inner: Schedule
    by: int = 1
    since: int = 0

    def rate(self, step: int) -> float:
        return self.inner(max(0, step - self.by) if step >= self.since else step)


def shifted(by: int = 1, since: int = 0) -> Callable[[Side], Side]:
    def change(side: Side) -> Side:
        rate = Shifted(inner=side.optimizer.learning_rate, by=by, since=since)
        return replace(side, optimizer=dataclasses.replace(side.optimizer, learning_rate=rate))

    return change


def groups(**values: Any) -> Callable[[Live], None]:
    """Changes the native optimizer behind the spec's back."""

    def change(live: Live) -> None:
        for group in live.state.native_optimizer.param_groups:
            group.update(values)

    return change


def around_step(function: Callable[[Any, Callable[[], Any]], None]) -> Callable[[Live], None]:
    """Wraps the native optimizer's step: `function(optimizer, step)`."""

    def change(live: Live) -> None:
        optimizer = live.state.native_optimizer
        original = optimizer.step
        optimizer.step = lambda *_: function(optimizer, original)

    return change


def no_bias_correction(optimizer: Any, step: Callable[[], Any]) -> None:
    for state in optimizer.state.values():
        state["step"].fill_(1e6)
    step()


@torch.no_grad()
def decay_after_update(optimizer: Any, step: Callable[[], Any]) -> None:
    step()
    for group in optimizer.param_groups:
        for param in group["params"]:
            param.mul_(1 - group["lr"] * 0.01)


@torch.no_grad()
def first_parameter_twice(optimizer: Any, step: Callable[[], Any]) -> None:
    param = optimizer.param_groups[0]["params"][0]
    old = param.clone()
    step()
    param.add_(param - old)


def clip(limit: float) -> Callable[[Live], None]:
    def change(live: Live) -> None:
        live._step._run._options = StepOptions(
            accumulate_steps=live.side.options.accumulate_steps, clip_norm=limit, grad_norm=True
        )

    return change


def summed_gradients(live: Live) -> None:
    """Gradients of micro-batches are added up, as a bare loop of `backward` does."""
    gradient = live._step._run._gradient
    accumulate = gradient._accumulate

    def run(objective: Any, state: Any, batch: Any, others: Any) -> Any:
        outputs = accumulate(objective, state, batch, others)
        torch._foreach_mul_(state.gradient_list(), 2.0)
        return outputs

    gradient._accumulate = run


def smoothed(model: Any, batch: Any, ops: Any) -> Any:
    return ops.cross_entropy(model(batch["image"]), batch["label"], label_smoothing=0.1)


def counts_ignored(model: Any, batch: Any, ops: Any) -> Any:
    value = loss_fn(model, batch, ops)
    return Loss(value.sum, float(batch["label"].numel()))


def mean_of_means(model: Any, batch: Any, ops: Any) -> Any:
    value = loss_fn(model, batch, ops)
    return value.sum / value.weight


def summed(model: Any, batch: Any, ops: Any) -> Any:
    value = loss_fn(model, batch, ops)
    return Loss(value.sum * len(batch["label"]), value.weight)


def gradient_times(factor: float) -> Callable[..., Any]:
    def run(model: Any, batch: Any, ops: Any) -> Any:
        value = loss_fn(model, batch, ops)
        return Loss(value.sum * factor - (value.sum * (factor - 1)).detach(), value.weight)

    return run


def shift_labels(batch: dict[str, np.ndarray], step: int) -> dict[str, np.ndarray]:
    return {**batch, "label": np.roll(batch["label"], 1, axis=-1)}


CYCLE, WARM = BASES["mlp"].optimizer.learning_rate, BASES["gpt"].optimizer.learning_rate
M = Mutation

CATALOGUE = (
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
    # Forward pass.
    M(name="GELU tanh", base="mlp", channel="activation", where="dropouts.0", change=config(activation="gelu_tanh")),
    M(
        name="seed of dropout",
        base="mlp",
        channel="activation",
        where="dropouts.0",
        change=lambda s: replace(s, seed=1, model=lambda a: ct.models.build(*s.model.args, a, seed=0)),
    ),
    M(
        name="transposed square matrix",
        base="mlp",
        channel="activation",
        where="layers.1",
        change=forward("layers.1", p.transposed),
    ),
    M(
        name="dropped bias",
        base="mlp",
        channel="activation",
        where="layers.1",
        change=forward("layers.1", p.without_bias),
    ),
    M(name="flatten order", base="mlp", channel="activation", where="layers.0", change=forward("", p.transposed_image)),
    M(
        name="RoPE on halves",
        base="gpt",
        channel="activation",
        where="layers.0.attention",
        change=forward("layers.0.attention", p.attention(halves=True)),
    ),
    M(
        name="attention scale",
        base="gpt",
        channel="activation",
        where="layers.1.attention",
        change=forward("layers.1.attention", p.attention(scale=1 / 8)),
    ),
    M(
        name="causal mask off by one",
        base="gpt",
        channel="activation",
        where="layers.0.attention",
        change=forward("layers.0.attention", p.attention(shift=1)),
    ),
    M(name="missing final norm", base="gpt", channel="activation", where="norm", change=forward("norm", p.identity)),
    M(
        name="LayerNorm for RMSNorm",
        base="gpt",
        channel="activation",
        where="layers.1.ffn_norm",
        change=forward("layers.1.ffn_norm", p.scale_before_cast),
    ),
    M(
        name="GELU in SwiGLU",
        base="gpt",
        channel="activation",
        where="layers.0.feed_forward",
        change=forward("layers.0.feed_forward", p.gelu_in_swiglu),
    ),
    M(
        name="swapped gates",
        base="gpt",
        channel="activation",
        where="layers.1.feed_forward",
        change=forward("layers.1.feed_forward", p.swapped_gates),
    ),
    M(
        name="missing residual",
        base="gpt",
        channel="activation",
        where="layers.0",
        change=forward("layers.0", p.without_residual),
    ),
    M(
        name="scaled embedding",
        base="gpt",
        channel="activation",
        where="tok_embeddings",
        change=forward("tok_embeddings", p.scaled(4.0)),
    ),
    M(
        name="average for maximum pooling",
        base="resnet9",
        channel="activation",
        where="layer2",
        change=forward("layer2", p.average_pool),
    ),
    M(name="leaky ReLU", base="resnet9", channel="activation", where="prep", change=forward("prep", p.leaky)),
    M(name="head scale", base="resnet9", channel="activation", where="(model)", change=config(head_scale=0.25)),
    M(
        name="BatchNorm in evaluation mode",
        base="resnet9",
        channel="activation",
        where="layer1.norm",
        change=forward("layer1.norm", p.running_statistics),
    ),
    M(
        name="biased running variance",
        base="resnet9",
        channel="activation",
        where="prep.norm.running_var",
        change=forward("prep.norm", p.biased_running_variance),
    ),
    # Loss.
    M(name="label smoothing", base="mlp", channel="loss", where="loss", change=loss(smoothed)),
    M(name="ignored labels count", base="gpt", channel="loss", where="loss", change=loss(counts_ignored)),
    M(name="sum for mean", base="mlp", channel="loss", where="loss", change=loss(summed)),
    # Backward pass.
    M(
        name="gradient four times as large",
        base="mlp",
        channel="backward",
        where="layers.2",
        change=loss(gradient_times(4.0)),
    ),
    M(
        name="detached attention",
        base="gpt",
        channel="backward",
        where="layers.1.attention",
        change=forward("layers.1.attention", p.detached),
    ),
    M(
        name="detached feed-forward input",
        base="gpt",
        channel="backward",
        where="layers.0",
        change=forward("layers.0.feed_forward", p.detached_input),
    ),
    M(
        name="float32 gradient",
        base="resnet9",
        channel="backward",
        where="layer2",
        change=forward("layer2", p.rounded_gradient),
    ),
    M(
        name="gradient of one layer scaled",
        base="mlp",
        channel="backward",
        where="layers.0",
        change=forward("layers.0", p.scaled_gradient(1.01)),
    ),
    # Optimizer: the same numbers, another update.
    M(
        name="missing bias correction",
        base="mlp",
        channel="optimizer",
        where="layers",
        live=around_step(no_bias_correction),
    ),
    M(name="native beta2 differs", base="gpt", channel="optimizer", where="weight", live=groups(betas=(0.9, 0.99))),
    M(
        name="decay applied twice",
        base="gpt",
        channel="optimizer",
        where="weight",
        live=around_step(decay_after_update),
    ),
    M(name="native decay differs", base="resnet9", channel="optimizer", where="weight", live=groups(weight_decay=2e-3)),
    M(name="native eps differs", base="gpt", channel="optimizer", where="weight", live=groups(eps=1e-6)),
    M(name="dampening", base="resnet9", channel="optimizer", where="weight", live=groups(dampening=0.1)),
    M(
        name="one parameter moves twice as far",
        base="resnet9",
        channel="optimizer",
        where="prep.conv.weight",
        live=around_step(first_parameter_twice),
    ),
    # The whole step: its parts agree.
    M(name="mean of means", base="gpt", channel="step", where="loss", change=loss(mean_of_means)),
    M(name="summed accumulation", base="gpt", channel="step", where="grad_norm", live=summed_gradients),
    M(name="clip limit inside the step", base="gpt", channel="step", where="update of", live=clip(0.4)),
)
