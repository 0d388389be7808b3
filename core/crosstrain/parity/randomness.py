"""Random numbers that a model draws by itself: two frameworks draw others, so they have to go before a comparison."""

import math

from crosstrain.parity.side import Live

_REPEATS = 1e-12


def own_randomness(live: Live) -> str:
    """The sentence that says why the losses of a model cannot be compared, or nothing.

    The same batch and state are run before and after a step: functional dropout gives another loss on torch each time,
    and on JAX once the step has moved the model's random state on.
    """
    start, batch = live.snapshot(), live.side.batches(0)
    before = live.probe(batch).loss
    live.step(batch)
    live.load(start)
    after = live.probe(batch).loss
    # NaN is not equal to itself, which says nothing about random numbers.
    if not math.isfinite(before) and not math.isfinite(after):
        return (
            f"the loss of the {live.side.backend} model must be finite, got {before} on batch 0, before any step, so "
            "there is nothing to compare. Look for labels out of range, a division by 0, or inputs that are not finite."
        )
    if abs(before - after) <= _REPEATS * max(abs(before), abs(after)):
        return ""
    return (
        f"the {live.side.backend} model draws random numbers of its own: the same batch and weights give the losses "
        f"{before:.6g} and {after:.6g}, so there is nothing to compare. Switch them off in the port (a dropout rate of "
        "0), or use crosstrain's Dropout layers, whose masks are the same on both engines."
    )
