"""Elements of gradients that are rounding, or so near to it that no update made of them can be judged."""

from collections.abc import Mapping

import numpy as np


def vanishing(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], share: float) -> dict[str, np.ndarray]:
    """Which elements are nothing but cancellation: too small on both sides, beside the largest gradient of the model.

    The true gradient of a bias before a BatchNorm, or of attention's bias of keys, is 0: sums of the size of other
    gradients cancel. What is left of them is their rounding, 1e-17 to 3e-14 of the largest gradient (a convolution
    before a BatchNorm, 16,384 terms in XLA's order), which nothing in a model depends on.

    Args:
        a: one side's gradients.
        b: the other's, from the same weights; of the same shapes.
        share: of the largest gradient that counts as nothing.

    Returns:
        Parameter -> True for the elements that vanish. A parameter whose gradient is exactly 0 on both sides has none:
        it is unused or frozen, nothing is rounded, and its update is decay and momentum alone.
    """
    sizes = {name: np.maximum(np.abs(values), np.abs(b[name])) for name, values in a.items()}
    limit = share * max((float(size.max(initial=0.0)) for size in sizes.values()), default=0.0)
    return {name: (size <= limit) & bool(size.any()) for name, size in sizes.items()}


def uncertain(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], share: float) -> dict[str, np.ndarray]:
    """Which elements are too small for their rounding, which is taken to be the largest gap of their parameter.

    Adam and Lion divide a gradient by its own size, so that their update is as uncertain as the gradient, relative to
    each element and not to the largest one.

    Args:
        a: one side's gradients.
        b: the other's, from the same weights; of the same shapes.
        share: of an element that may be rounding.
    """
    gaps = {name: float(np.abs(values - b[name]).max(initial=0.0)) for name, values in a.items()}
    return {name: gaps[name] > share * np.maximum(np.abs(values), np.abs(b[name])) for name, values in a.items()}
