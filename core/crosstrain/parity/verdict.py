"""The verdict: do two runs execute the same algorithm, and if not, where do they part first?

In order: what can be read without running; float64, resynchronised at several points of the schedule; float64, free
running. Only float64 can say 'the same algorithm': in float32 a correct run may leave any envelope that a few seeds
draw, and in bfloat16 planted bugs vanish in the rounding (docs/numerics.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from crosstrain.parity.compare import FLOAT64_LIMIT, relative_difference
from crosstrain.parity.findings import Finding
from crosstrain.parity.onestep import FLOAT64, OneStep, one_step
from crosstrain.parity.side import Live, Side
from crosstrain.parity.static import compare_static, kept_moments
from crosstrain.snapshot import Snapshot

_ORDER = ("data", "settings", "schedule", "activation", "loss", "backward", "optimizer", "step")


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What was compared, and what came out.

    Attributes:
        backends: the two engines; the first is the reference.
        static: findings of the static comparison.
        checks: the resynchronised steps, in order.
        loss: free-running float64 losses of both sides, each of shape (steps,); empty when they were not run.
        findings: everything that rounding does not explain, most fundamental first.
    """

    backends: tuple[str, str]
    static: tuple[Finding, ...]
    checks: tuple[OneStep, ...]
    loss: tuple[np.ndarray, np.ndarray]
    findings: tuple[Finding, ...]

    @property
    def same_algorithm(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def first(self) -> Finding | None:
        """Where the runs part first, in causal order."""
        return self.findings[0] if self.findings else None

    @property
    def free_difference(self) -> float:
        """Largest relative loss difference of the free run; NaN when there was none."""
        a, b = self.loss
        return float(relative_difference(a, b).max()) if len(a) else float("nan")

    def also(self, findings: Sequence[Finding]) -> "Verdict":
        """This verdict with findings that were made elsewhere, in causal order."""
        return replace(self, findings=_ordered([*findings, *self.findings]))


def compare(a: Side, b: Side, *, total_steps: int, free_steps: int = 100) -> Verdict:
    """Compares two sides in float64.

    Args:
        a: the reference.
        b: the other side.
        total_steps: length of the whole run, for the schedule tables and the choice of checked steps.
        free_steps: free-running steps.

    Returns:
        The verdict. Where the models have other parameters, nothing is run: the structure is the finding.
    """
    return compare_open(a.open("fp64"), b.open("fp64"), total_steps=total_steps, free_steps=free_steps)


def compare_open(
    a: Live, b: Live, *, total_steps: int, free_steps: int = 100, start: Snapshot | None = None
) -> Verdict:
    """As `compare`, for sides that are open already, so that many comparisons share their compiled programs.

    Args:
        a: the reference.
        b: the other side.
        total_steps: as for `compare`.
        free_steps: as for `compare`.
        start: the state both begin with; by default the reference's own.
    """
    static = compare_static(a, b, steps=total_steps)
    start = a.snapshot() if start is None else start
    if not exchangeable(a, b, start):
        return _verdict(a, b, static, (), (np.zeros(0), np.zeros(0)), [])
    points = checked_steps(a.side, total_steps)
    losses, snapshots = _run_free(a, b, start, free_steps, len(points))
    broken = _broken(a, b, *losses)
    if broken is not None:
        return _verdict(a, b, static, (), losses, [broken])
    checks = tuple(
        one_step(a, b, replace(snapshot, step=step), a.side.batches(step), FLOAT64)
        for step, snapshot in zip(points, snapshots, strict=True)
    )
    static = [each for each in static if not _is_made_up_for(each, checks)]
    return _verdict(a, b, static, checks, losses, [*_idle(checks), *_free_findings(*losses, checks)])


def exchangeable(a: Live, b: Live, start: Snapshot) -> bool:
    """Whether one side can go on from the other's state `start`: both hold the same arrays."""
    buffers = start.buffers.keys() == b.snapshot().buffers.keys()
    return a.shapes == b.shapes and buffers and kept_moments(a) == kept_moments(b)


def checked_steps(side: Side, total_steps: int) -> list[int]:
    """0-based steps at the start, in the warm-up, at the peak rate and at the end of a schedule."""
    table = side.optimizer.learning_rate.table(total_steps)
    peak = int(np.argmax(table))
    last = int(np.flatnonzero(table)[-1]) if table.any() else total_steps - 1
    return sorted({0, 1 if peak == 0 else max(1, peak // 2), peak, last} & set(range(total_steps)))


def _run_free(
    a: Live, b: Live, start: Snapshot, steps: int, snapshots: int
) -> tuple[tuple[np.ndarray, np.ndarray], list[Snapshot]]:
    """Runs both sides from the same start, each on its own batches; keeps states of the reference on the way."""
    kept_at = np.linspace(0, max(steps - 1, 0), snapshots).astype(int).tolist()
    losses: tuple[list[float], list[float]] = ([], [])
    kept: list[Snapshot] = []
    a.load(start)
    b.load(start)
    for step in range(steps):
        kept += [a.snapshot()] * kept_at.count(step)
        for live, values in zip((a, b), losses, strict=True):
            values.append(live.step(live.side.batches(step))["loss"])
    kept += [start] * (snapshots - len(kept))
    return (np.array(losses[0]), np.array(losses[1])), kept


def _broken(a: Live, b: Live, x: np.ndarray, y: np.ndarray) -> Finding | None:
    """The step from which neither loss is finite: no state after it can be compared. One such loss is a difference."""
    finite = [np.isfinite(each) for each in (x, y)]
    first = int(np.argmin(finite[0])) if len(x) else 0
    if not len(x) or finite[0][first] or finite[1][first] or not finite[1][:first].all():
        return None
    cause = (
        f"no loss is finite from batch {first} on ({x[first]} on {a.side.backend}, {y[first]} on {b.side.backend}): "
        "labels out of range, a division by 0, or a rate that is too high for both"
    )
    return Finding(
        channel="loss",
        where="loss of the free run",
        difference=float("inf"),
        limit=FLOAT64_LIMIT,
        step=first,
        cause=cause,
    )


def _is_made_up_for(finding: Finding, checks: Sequence[OneStep]) -> bool:
    """Whether a layer pads otherwise on the two sides, and is given what makes up for it in every step."""
    layer, _, name = finding.where.rpartition(".")
    return name in ("padding", "padding_mode") and bool(checks) and all(layer in check.resized for check in checks)


def _idle(checks: Sequence[OneStep]) -> list[Finding]:
    """A loss that no parameter changes is the same for any two models: that it agrees says nothing."""
    if not checks or not all(check.idle for check in checks):
        return []
    cause = (
        "every gradient is exactly 0 on both engines in every step that was looked at: the loss does not depend on the "
        "parameters, so that nothing was trained"
    )
    return [
        Finding(
            channel="backward",
            where="all gradients",
            difference=float("inf"),
            limit=FLOAT64.gradient,
            step=checks[0].step,
            cause=cause,
        )
    ]


def _free_findings(a: np.ndarray, b: np.ndarray, checks: Sequence[OneStep]) -> list[Finding]:
    difference = relative_difference(a, b)
    if not len(difference) or difference.max() <= FLOAT64_LIMIT:
        return []
    first = int(np.argmax(~(difference <= FLOAT64_LIMIT)))
    clean = not any(check.findings for check in checks)
    cause = (
        "every resynchronised step agrees: the schedule, the data, or randomness"
        if clean
        else "follows from the differences within a step"
    )
    return [
        Finding(
            channel="schedule" if clean else "step",
            where="loss of the free run",
            difference=float(difference.max()),
            limit=FLOAT64_LIMIT,
            step=first,
            cause=cause,
        )
    ]


def _verdict(
    a: Live,
    b: Live,
    static: Sequence[Finding],
    checks: tuple[OneStep, ...],
    losses: tuple[np.ndarray, np.ndarray],
    free: Sequence[Finding],
) -> Verdict:
    found = [*static, *(finding for check in checks for finding in check.findings), *free]
    return Verdict(
        backends=(a.side.backend, b.side.backend),
        static=tuple(static),
        checks=checks,
        loss=losses,
        findings=_ordered(found),
    )


def _ordered(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """In causal order; within a channel in that of discovery: forward order of layers, then steps."""
    return tuple(sorted(findings, key=lambda finding: _ORDER.index(finding.channel)))
