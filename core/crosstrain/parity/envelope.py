"""Low precision: how far a side drifts from itself when rounding is nudged, and whether the other stays within that.

No tolerance is tuned by hand. A step is repeated with weights moved by one unit in the last place of the compute type
and, without dropout, with the examples of the batch in another order; the largest change is the envelope. A
resynchronised step outside four envelopes is a difference; a free run outside is only a warning, since correct runs
leave it, too (docs/numerics.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from crosstrain.data.sources import Arrays
from crosstrain.errors import ConfigError
from crosstrain.parity.compare import relative_difference
from crosstrain.parity.findings import Finding, differences
from crosstrain.parity.free_run import FACTOR, FLOOR_ULPS, FreeRun
from crosstrain.parity.side import Live, Side
from crosstrain.parity.verdict import checked_steps
from crosstrain.random import philox, uniform
from crosstrain.snapshot import Snapshot

ULP = {"fp32": 2.0**-23, "bf16": 2.0**-8}
UPDATE = "update of "
_VANISHING = 1e-3
_UPDATE_SEEDS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCheck:
    """One resynchronised step in low precision.

    Attributes:
        step: 0-based optimizer step.
        multiples: `loss`, parameter name (its gradient) or `update of` parameter -> difference as a multiple of what
            is allowed; above 1 is a finding.
    """

    step: int
    multiples: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class LowPrecision:
    """What one low precision showed.

    Attributes:
        precision: `fp32` or `bf16`.
        checks: the resynchronised steps.
        free: the free run, or None when it was not asked for.
        seeds: nudges of each side behind each envelope.
    """

    precision: str
    checks: tuple[StepCheck, ...]
    free: FreeRun | None
    seeds: int

    @property
    def worst(self) -> float:
        """Largest multiple of what is allowed in the resynchronised steps."""
        return max((value for check in self.checks for value in check.multiples.values()), default=0.0)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Resynchronised differences that rounding does not explain."""
        return tuple(
            Finding(
                channel="loss" if name == "loss" else "optimizer" if name.startswith(UPDATE) else "backward",
                where=name,
                difference=value,
                limit=1.0,
                step=check.step,
                cause=f"{self.precision}, as a multiple of four envelopes",
            )
            for check in self.checks
            for name, value in check.multiples.items()
            if not value <= 1.0
        )

    @property
    def warning(self) -> str | None:
        """What the free run shows, where it leaves the envelope."""
        if self.free is None or self.free.multiple <= 1.0:
            return None
        return (
            f"{self.precision}: the free run leaves the envelope of {self.seeds} nudged runs "
            f"({self.free.multiple:.1f} times what is allowed within {self.free.horizon} steps). "
            "That alone proves nothing: correct runs do so, too."
        )


def compare_low_precision(
    a: Side, b: Side, *, precision: str, total_steps: int, seeds: int = 16, free_steps: int = 0
) -> LowPrecision:
    """Compares two sides in float32 or bfloat16 against envelopes of the first.

    Args:
        a: the reference.
        b: the other side.
        precision: `fp32` or `bf16`.
        total_steps: as for `crosstrain.parity.compare`.
        seeds: nudges per envelope.
        free_steps: steps of the free run; 0 leaves it out.

    Raises:
        ConfigError: fewer than two seeds make no envelope; another precision.
    """
    if precision not in ULP:
        raise ConfigError(
            f"precision must be one of {', '.join(ULP)}, got precision={precision!r}. float64 is for "
            "crosstrain.parity.compare."
        )
    return compare_low_precision_open(
        a.open(precision),
        b.open(precision),
        precision=precision,
        total_steps=total_steps,
        seeds=seeds,
        free_steps=free_steps,
    )


def compare_low_precision_open(
    a: Live, b: Live, *, precision: str, total_steps: int, seeds: int = 16, free_steps: int = 0
) -> LowPrecision:
    """As `compare_low_precision`, for sides that are open already."""
    if seeds < 2:
        raise ConfigError(f"seeds must be at least 2, got seeds={seeds}: one nudged run draws no envelope.")
    start, ulp = a.snapshot(), ULP[precision]
    points = checked_steps(a.side, total_steps)
    states = _trained_states(a, start, len(points), apart=5)
    checks = tuple(
        _check(a, b, replace(state, step=step), a.side.batches(step), ulp, seeds)
        for step, state in zip(points, states, strict=True)
    )
    free = _free_run(a, b, start, free_steps, ulp, seeds) if free_steps else None
    a.load(start)
    return LowPrecision(precision=precision, checks=checks, free=free, seeds=seeds)


def nudged(snapshot: Snapshot, ulp: float, seed: int) -> Snapshot:
    """A state whose weights are moved up or down by one unit in the last place of the compute type."""
    return replace(snapshot, params=_nudged(snapshot.params, ulp, seed))


def _nudged(arrays: Mapping[str, np.ndarray], ulp: float, seed: int) -> dict[str, np.ndarray]:
    moved = {}
    for name, values in arrays.items():
        signs = np.where(uniform(seed, f"nudge/{name}", values.shape) < 0.5, -1.0, 1.0)
        moved[name] = (values * (1.0 + ulp * signs)).astype(values.dtype)
    return moved


def _trained_states(a: Live, start: Snapshot, count: int, apart: int) -> list[Snapshot]:
    a.load(start)
    states = [start]
    for step in range((count - 1) * apart):
        a.step(a.side.batches(step))
        if (step + 1) % apart == 0:
            states.append(a.snapshot())
    return states


def _check(a: Live, b: Live, state: Snapshot, batch: Arrays, ulp: float, seeds: int) -> StepCheck:
    a.load(state)
    b.load(state)
    base, other = a.probe(batch), b.probe(batch)
    allowed = {"loss": 0.0, **dict.fromkeys(base.gradients, 0.0)}
    dropout = any(each.values.get("rate") for each in a.module_settings().values())
    # Each engine rounds in its own way, so each is nudged against itself.
    for live, own in ((a, base), (b, other)):
        for seed in range(seeds):
            live.load(nudged(state, ulp, seed))
            probe = live.probe(batch if dropout else _reordered(batch, seed))
            for name, value in _against(own.loss, own.gradients, probe.loss, probe.gradients).items():
                allowed[name] = max(allowed[name], value)
    measured = _against(base.loss, base.gradients, other.loss, other.gradients)
    multiples = {name: value / (FACTOR * allowed[name] + FLOOR_ULPS * ulp) for name, value in measured.items()}
    return StepCheck(step=state.step, multiples=multiples | _updates(a, b, state, base.gradients, seeds))


def _updates(a: Live, b: Live, state: Snapshot, gradients: Mapping[str, np.ndarray], seeds: int) -> dict[str, float]:
    """Updates from the same gradients, against the rounding of weights and update, and what nudged gradients make.

    Newton-Schulz in Muon enlarges small singular values, and their rounding, several hundred times.
    """
    ulp = ULP["fp32"]
    own = [_update(live, state, gradients) for live in (a, b)]
    moved = dict.fromkeys(state.params, 0.0)
    for live, update in zip((a, b), own, strict=True):
        for seed in range(min(seeds, _UPDATE_SEEDS)):
            for name, other in _update(live, state, _nudged(gradients, ulp, seed)).items():
                moved[name] = max(moved[name], float(np.abs(other - update[name]).max(initial=0.0)))
    multiples = {}
    for name, old in state.params.items():
        x, y = own[0][name], own[1][name]
        rounding = ulp * np.abs(old).max(initial=0.0) + FLOOR_ULPS * ulp * np.abs(x).max(initial=0.0)
        allowed = FACTOR * (rounding + moved[name])
        multiples[f"{UPDATE}{name}"] = float(np.abs(x - y).max(initial=0.0) / allowed) if allowed else 0.0
    return multiples


def _update(live: Live, state: Snapshot, gradients: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    live.load(state)
    live.apply(gradients)
    after = live.snapshot().params
    return {name: after[name].astype(np.float64) - old for name, old in state.params.items()}


def _against(
    loss: float, gradients: Mapping[str, np.ndarray], other: float, others: Mapping[str, np.ndarray]
) -> dict[str, float]:
    return {
        "loss": float(relative_difference(np.array(loss), np.array(other))),
        **differences(gradients, others, share=_VANISHING),
    }


def _reordered(batch: Arrays, seed: int) -> Arrays:
    order = np.argsort(philox(seed, "reorder").random_raw(len(next(iter(batch.values())))))
    return {name: values[order] for name, values in batch.items()}


def _free_run(a: Live, b: Live, start: Snapshot, steps: int, ulp: float, seeds: int) -> FreeRun:
    base, other = _losses(a, start, steps), _losses(b, start, steps)
    runs = [relative_difference(base, _losses(a, nudged(start, ulp, seed), steps)) for seed in range(seeds)]
    return FreeRun(difference=relative_difference(base, other), nudged=np.stack(runs), ulp=ulp)


def _losses(live: Live, start: Snapshot, steps: int) -> np.ndarray:
    live.load(start)
    metrics = [live.step(live.side.batches(step)) for step in range(steps)]
    return np.array([each["loss"] for each in metrics])
