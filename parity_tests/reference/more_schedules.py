"""Schedules in float64 NumPy over a whole table of steps, from their formulas. Imports nothing of crosstrain."""

import numpy as np

Array = np.ndarray


def warmed(steps: int, peak: float, warmup: int, end: int, final: float, share: Array) -> Array:
    """A ramp from 0 until `warmup`, then `share` of the way from `final` to `peak`; `final` from `end` on."""
    i = np.arange(steps)
    ramp = np.linspace(0.0, peak, warmup + 1)[np.minimum(i, warmup)]
    return np.where(i < warmup, ramp, np.where(i >= end, final, peak * share + final * (1.0 - share)))


def progress(steps: int, start: int, end: int) -> Array:
    return np.clip((np.arange(steps) - start) / (end - start), 0.0, 1.0)


def polynomial(steps: int, peak: float, total: int, power: float, warmup: int, final: float) -> Array:
    """peak to final along (1 - p)^power, through exp and log."""
    p = progress(steps, warmup, total)
    with np.errstate(divide="ignore"):
        share = np.exp(power * np.log1p(-p))
    return warmed(steps, peak, warmup, total, final, share)


def warmup_stable_decay(
    steps: int, peak: float, total: int, warmup: int, decay: int, shape: str, final: float
) -> Array:
    """Hu et al. 2024; 1 - sqrt: Haegele et al. 2024."""
    p = progress(steps, total - decay, total)
    share = {"linear": 1.0 - p, "cosine": np.cos(0.5 * np.pi * p) ** 2, "1-sqrt": 1.0 - p**0.5}[shape]
    return warmed(steps, peak, warmup, total, final, share)


def step_decay(steps: int, peak: float, every: int, factor: float) -> Array:
    """Each step multiplies what the one before had, once in `every` steps."""
    factors = np.where((np.arange(steps) % every == 0) & (np.arange(steps) > 0), factor, 1.0)
    return peak * np.cumprod(factors)


def multi_step_decay(steps: int, peak: float, milestones: list[int], factor: float) -> Array:
    passed = (np.arange(steps)[:, None] >= np.array(milestones, dtype=int)[None, :]).sum(1)
    return peak * factor**passed


def through(turns: list[float], levels: list[float], steps: int, shape: str) -> Array:
    """Values `levels` at `turns`, with sine-squared or straight pieces between them; constant after the last."""
    i = np.arange(steps, dtype=float)
    table = np.full(steps, levels[-1])
    for start, end, a, b in reversed(list(zip(turns, turns[1:], levels, levels[1:], strict=False))):
        q = (i - start) / (end - start)
        piece = a + (b - a) * q if shape == "linear" else a + (b - a) * np.sin(0.5 * np.pi * q) ** 2
        table = np.where(i <= end, piece, table)
    return table


def one_cycle(steps: int, total: int, pct: float, levels: list[float]) -> Array:
    """fastai: three levels at 0, pct N and N (Smith and Topin 2018)."""
    return through([0.0, pct * total, total], levels, steps, "cosine")


def optax_one_cycle(steps: int, total: int, pct: float, levels: list[float]) -> Array:
    """The first turn comes at a whole step, rounded down; without one the run starts at the top."""
    turn = int(np.floor(pct * total))
    return (
        through([0, turn, total], levels, steps, "cosine") if turn else through([0, total], levels[1:], steps, "cosine")
    )


def torch_one_cycle(steps: int, total: int, pct: float, levels: list[float], shape: str) -> Array:
    """Two phases for three levels, three for four."""
    turns = (
        [0.0, pct * total - 1, total - 1]
        if len(levels) == 3
        else [0.0, pct * total - 1, 2 * pct * total - 2, total - 1]
    )
    return through(turns, levels, steps, shape)


def triangular(steps: int, base: float, peak: float, half: int, halving: bool) -> Array:
    """Smith 2017: cycle = floor(1 + i / 2h), x = |i / h - 2 cycle + 1|, base + (peak - base) max(0, 1 - x)."""
    i = np.arange(steps)
    cycle = np.floor(1 + i / (2 * half))
    x = np.abs(i / half - 2 * cycle + 1)
    return base + (peak - base) * np.maximum(0.0, 1.0 - x) / (2 ** (cycle - 1) if halving else 1.0)


def lr_range(steps: int, start: float, end: float, count: int) -> Array:
    """Equal ratios, by logarithms."""
    return np.geomspace(start, end, count)[np.minimum(np.arange(steps), count - 1)]
