"""Schedules as float64 NumPy tables, from their formulas. Imports nothing of crosstrain."""

import numpy as np

Array = np.ndarray


def constant(rate: float, steps: int) -> Array:
    """rate(i) = rate."""
    return np.full(steps, rate)


def linear(peak: float, steps: int, *, total: int, warmup: int = 0, final: float = 0.0) -> Array:
    """Ramp from 0 to `peak` over `warmup` steps, a straight line to `final` at `total`, then `final`."""
    return _warmed(steps, warmup, peak, peak + (final - peak) * _progress(steps, warmup, total))


def cosine(peak: float, steps: int, *, total: int, warmup: int = 0, final: float = 0.0) -> Array:
    """As `linear`, along half a cosine (Loshchilov and Hutter 2017, eq. 5)."""
    down = (1 + np.cos(np.pi * _progress(steps, warmup, total))) / 2
    return _warmed(steps, warmup, peak, final + (peak - final) * down)


def one_cycle(
    peak: float, steps: int, *, total: int, pct_start: float = 0.25, div: float = 25.0, final_div: float = 1e5
) -> Array:
    """fastai: half a cosine up from peak / div over `pct_start`, half a cosine down to peak / final_div."""
    p = np.minimum(np.arange(steps) / total, 1.0)
    first, last = peak / div, peak / final_div
    up = first + (peak - first) * (1 - np.cos(np.pi * p / pct_start)) / 2
    down = last + (peak - last) * (1 + np.cos(np.pi * (p - pct_start) / (1 - pct_start))) / 2
    return np.where(p < pct_start, up, down)


def _progress(steps: int, warmup: int, total: int) -> Array:
    return np.clip((np.arange(steps) - warmup) / (total - warmup), 0.0, 1.0)


def _warmed(steps: int, warmup: int, peak: float, decayed: Array) -> Array:
    index = np.arange(steps)
    return np.where(index < warmup, peak * index / max(warmup, 1), decayed)
