"""The resynchronised one-step check: both sides from the same weights and moments, compared piece by piece."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from crosstrain.data.sources import Arrays
from crosstrain.parity import causes
from crosstrain.parity.findings import Channel, Finding, differences, exceeding, tensor_difference
from crosstrain.parity.forward import Origin, backward_order, compare_forward, origins, resized
from crosstrain.parity.rounding import uncertain, vanishing
from crosstrain.parity.side import Live
from crosstrain.probe import Probe
from crosstrain.snapshot import Snapshot
from crosstrain.step import StepOptions

_VANISHING = 1e-3
"""Gradients are measured against at least this share of the largest gradient: below it they may be all cancellation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Relative limits of one precision.

    Attributes:
        loss: of the loss.
        activation: of every module's output, against its largest element.
        gradient: of every gradient, against its largest element.
        update: of every update, moment and buffer.
    """

    loss: float
    activation: float
    gradient: float
    update: float


FLOAT64 = Limits(loss=1e-12, activation=1e-12, gradient=1e-12, update=1e-10)
"""Clean engines measure 7e-16, 1e-15 and 2e-13 in float64 over 200 steps, planted bugs 1e-5 and more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OneStep:
    """What one resynchronised step measured, as relative differences by name.

    Attributes:
        step: 0-based optimizer step whose rate and bias correction were used.
        loss: of the loss.
        activations: outputs by module path, in the order of execution, without modules that are cut elsewhere.
        gradients: by parameter, in the order in which the backward pass reaches them.
        updates: by parameter, from the same gradients.
        moments: by `slot/parameter`, from the same gradients; averages of the weights have the slot `average`.
        whole: what the whole step (accumulation, clipping, buffers) changed differently although its parts agree.
        idle: whether every gradient is exactly 0 on both sides, so that there is nothing to compare in them.
        resized: modules whose inputs have other sizes although their outputs agree.
        findings: what exceeds the limits, in causal order.
    """

    step: int
    loss: float
    activations: Mapping[str, float]
    gradients: Mapping[str, float]
    updates: Mapping[str, float]
    moments: Mapping[str, float]
    whole: Mapping[str, float]
    idle: bool
    resized: frozenset[str]
    findings: tuple[Finding, ...]


def one_step(a: Live, b: Live, start: Snapshot, batch: Arrays, limits: Limits) -> OneStep:
    """Takes one step on both sides from `start` and compares everything in it.

    Args:
        a: the reference.
        b: the other side.
        start: the state both begin with.
        batch: the batch both see.
        limits: what rounding may explain.
    """
    a.load(start)
    b.load(start)
    x, y = a.probe(batch), b.probe(batch)
    forward = compare_forward(x, y)
    loss = abs(x.loss - y.loss) / max(abs(x.loss), abs(y.loss), np.finfo(float).tiny)
    backward = backward_order(list(x.gradients), forward.order)
    nothing = vanishing(x.gradients, y.gradients, limits.gradient)
    mine, theirs = ({name: np.where(nothing[name], 0.0, each.gradients[name]) for name in backward} for each in (x, y))
    gradients = differences(mine, theirs, share=_VANISHING)

    # The update is computed from the same gradients on both sides: after the first step of Adam, whose update is
    # nearly a sign, it would otherwise hide wrong gradients, or be blamed for them.
    a.apply(x.gradients)
    b.apply(x.gradients)
    after_a, after_b = a.snapshot(), b.snapshot()
    updates = _updates(start, after_a, after_b)
    moments = differences(_flat_moments(after_a), _flat_moments(after_b), share=1e-12)
    # Half of what may differ in an update is left to its own rounding.
    unsure = uncertain(x.gradients, y.gradients, limits.update / 2)
    whole = _whole_step(a, b, start, batch, {name: unsure[name] | each for name, each in nothing.items()})
    measured = OneStep(
        step=start.step,
        loss=loss if np.isfinite(loss) else float("inf"),
        activations=forward.outputs,
        gradients=gradients,
        updates=updates,
        moments=moments,
        whole=whole,
        idle=not any(np.any(values) for each in (x, y) for values in each.gradients.values()),
        resized=resized(forward, x, y, limits.activation),
        findings=(),
    )
    parted = origins(forward, x, y, limits.activation, measured.resized)
    cut = _harmless(measured, limits, after_a.buffers)
    evidence = Evidence(
        start=start,
        a=after_a,
        b=after_b,
        probes=(x, y),
        inputs=forward.inputs,
        roles=a.roles,
        options=(a.side.options, b.side.options),
    )
    findings = tuple(_findings(measured, evidence, limits, parted, cut=cut))
    kept = {name: value for name, value in forward.outputs.items() if not (cut and name and value > limits.activation)}
    return replace(measured, activations=kept, findings=findings)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """The arrays behind a one-step check, from which causes are read."""

    start: Snapshot
    a: Snapshot
    b: Snapshot
    probes: tuple[Probe, Probe]
    inputs: Mapping[str, float]
    roles: Mapping[str, str]
    options: tuple[StepOptions, StepOptions]


def _updates(
    start: Snapshot, a: Snapshot, b: Snapshot, left_out: Mapping[str, np.ndarray] | None = None
) -> dict[str, float]:
    """Relative differences of the updates; elements that are left out count as equal."""
    measured: dict[str, float] = {}
    for name, old in start.params.items():
        # A new weight is rounded to 1e-16 of itself, which is 1e-11 of an update 1e-5 times its size: updates that are
        # smaller still are measured against that size, so that their rounding is not taken for a difference.
        floor = 1e-5 * float(np.abs(old).max(initial=0.0))
        x, y = a.params[name] - old, b.params[name] - old
        out = (left_out or {}).get(name)
        if out is not None:
            x, y = np.where(out, 0.0, x), np.where(out, 0.0, y)
        measured[name] = tensor_difference(x, y, floor=floor)
    return measured


def _flat_moments(snapshot: Snapshot) -> dict[str, np.ndarray]:
    kept = {**snapshot.moments, "average": snapshot.averages}
    return {f"{slot}/{name}": values for slot, each in kept.items() for name, values in each.items()}


def _whole_step(
    a: Live, b: Live, start: Snapshot, batch: Arrays, left_out: Mapping[str, np.ndarray]
) -> dict[str, float]:
    results = []
    for side in (a, b):
        side.load(start)
        metrics = side.step(batch)
        values = {"loss": np.array(metrics["loss"]), "grad_norm": np.array(metrics["grad_norm"])}
        results.append((values, side.snapshot()))
    (x, after_a), (y, after_b) = results
    measured = {name: differences({name: x[name]}, {name: y[name]})[name] for name in x}
    updates = _updates(start, after_a, after_b, left_out)
    measured |= {f"update of {name}": value for name, value in updates.items()}
    measured |= differences(dict(after_a.buffers), after_b.buffers, share=1e-12)
    return measured


def _findings(
    measured: OneStep, evidence: Evidence, limits: Limits, parted: list[Origin], *, cut: bool
) -> list[Finding]:
    def found(channel: Channel, where: str, value: float, limit: float, cause: str = "") -> Finding:
        return Finding(channel=channel, where=where, difference=value, limit=limit, step=measured.step, cause=cause)

    wrong = dict(exceeding(measured.gradients, limits.gradient))
    follows = f"follows from {parted[0].where}" if parted else "the order of execution is not known"
    parts = _returned(measured, limits) if cut else _parts(measured, limits, parted, follows)
    activations = [found("activation", place, value, limits.activation, cause) for place, value, cause in parts]
    # A layer that is given other values has other statistics of them.
    given = {
        name for name in evidence.a.buffers if evidence.inputs.get(name.rpartition(".")[0], 0.0) > limits.activation
    }
    buffers = [
        found("activation", name, value, limits.update, follows if name in given else causes.buffer(name, evidence))
        for name, value in exceeding(_only(measured.whole, evidence.a.buffers), limits.update)
    ]
    loss = (
        [found("loss", "loss", measured.loss, limits.loss, causes.loss(activations != []))]
        if not measured.loss <= limits.loss
        else []
    )
    order = list(measured.gradients)
    backward = [
        found(
            "backward",
            name,
            value,
            limits.gradient,
            follows if parted else _gradient(name, evidence, order, wrong, loss != []),
        )
        for name, value in wrong.items()
    ]
    optimizer = [
        found("optimizer", name, value, limits.update, causes.update(name, evidence, measured.moments, limits.update))
        for name, value in exceeding(measured.updates, limits.update)
    ]
    optimizer += [
        found("optimizer", name, value, limits.update, causes.moment(name, measured.updates, limits.update))
        for name, value in exceeding(measured.moments, limits.update)
    ]
    before = [*activations, *loss, *backward, *optimizer]
    # What the whole step does wrong follows from what its parts do wrong; only where they agree is it news.
    step = [
        found("step", name, value, limits.update, causes.whole(measured.whole, limits.update, evidence.options))
        for name, value in exceeding(measured.whole, limits.update)
        if not before and name not in evidence.a.buffers
    ]
    return [*before, *step, *buffers]


def _parts(measured: OneStep, limits: Limits, parted: list[Origin], follows: str) -> list[Origin]:
    """Where the forward passes part, and then what follows from it."""
    places = {origin.where.partition(",")[0] for origin in parted}
    rest = [(name or "(model)", value) for name, value in exceeding(measured.activations, limits.activation)]
    return [*parted, *(Origin(name, value, follows) for name, value in rest if name not in places)]


def _harmless(measured: OneStep, limits: Limits, buffers: Iterable[str]) -> bool:
    """Whether loss, gradients and running statistics agree, whatever the modules inside the model return.

    One that returns something else is then cut elsewhere, such as before an activation that follows it in the other
    model. Without the statistics, a constant in front of a BatchNorm, which takes it out again, would be so, too.
    """
    wrong = [
        *exceeding(measured.gradients, limits.gradient),
        *exceeding(_only(measured.whole, buffers), limits.update),
    ]
    return measured.loss <= limits.loss and not wrong and not measured.idle


def _returned(measured: OneStep, limits: Limits) -> list[Origin]:
    """What counts where loss and gradients agree: what the model returns."""
    cause = "loss and gradients agree: the same values in another form, such as logits against log-probabilities"
    value = measured.activations.get("", 0.0)
    return [] if value <= limits.activation else [Origin("(model)", value, cause)]


def _only(measured: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
    return {name: value for name, value in measured.items() if name in names}


def _gradient(name: str, evidence: Evidence, order: list[str], wrong: Mapping[str, float], losses_differ: bool) -> str:
    index = order.index(name)
    before = order[index - 1] if index else None
    return causes.gradient(name, evidence, before if before not in wrong else None, losses_differ)
