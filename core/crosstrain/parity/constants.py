"""Buffers that no training step changes (masks, tables of positions): constants of one model, not part of its state."""

from collections.abc import Collection, Mapping

import numpy as np

from crosstrain.parity.findings import tensor_difference
from crosstrain.parity.matching import Matching
from crosstrain.parity.side import Side

_STEPS = 2
"""Training steps that a constant has to outlast: what is exactly 0 in one batch need not be so in the next."""

_SAME = 1e-6
"""Of the largest value: two tables of one formula, each computed in float32, differ by less."""


def constant_buffers(side: Side) -> dict[str, np.ndarray]:
    """The side's own names and values of the buffers that training steps leave as they are."""
    live = side.open("fp32")
    before = {name: np.array(values) for name, values in live.state.view().buffers.items()}
    if not before:
        return {}
    try:
        for step in range(_STEPS):
            live.step(side.batches(step))
    # A user's model may fail in any way; the comparison itself says how.
    except Exception:
        return {}
    after = live.state.view().buffers
    return {name: values for name, values in before.items() if _equal(values, np.array(after[name]))}


def left_out(
    matching: Matching, a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], hinted: Collection[str]
) -> tuple[frozenset[str], frozenset[str]]:
    """Which constants each model keeps for itself: those without a partner, or with a partner of other values.

    Partners of the same values stay matched: the other model gets the reference's, so that tables which each framework
    computed in float32 do not make a difference. A constant whose partner changes is no constant: one side forgets to
    update it.

    Args:
        matching: of everything.
        a: constants of the reference, by name.
        b: constants of the other model.
        hinted: names in hints, which are matched whatever they are.
    """
    partners = {pair.reference: pair.other[0] for pair in matching.pairs}
    kept = {
        (mine, theirs)
        for mine, theirs in partners.items()
        if mine in hinted or (mine in a) != (theirs in b) or (mine in a and _alike(a[mine], b[theirs]))
    }
    mine, theirs = {name for name, _ in kept}, {name for _, name in kept}
    return frozenset(a.keys() - mine), frozenset(b.keys() - theirs)


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.tobytes() == b.tobytes()


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    return tensor_difference(a.astype(np.float64), b.astype(np.float64)) <= _SAME
