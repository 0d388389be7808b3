"""Defaults of JAX that differ from torch's, as contexts in which JAX behaves as torch does. For diagnosis only.

A function that a model imported by name (`from jax.nn import gelu`) is out of reach.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import normalization


@contextlib.contextmanager
def _default(owners: Sequence[Any], *names: str, **arguments: Any) -> Iterator[None]:
    """Gives functions other defaults; arguments that a caller gives stay."""
    with contextlib.ExitStack() as stack:
        for owner in owners:
            for name in (name for name in names if hasattr(owner, name)):
                original = getattr(owner, name)
                changed = functools.partial(_called, original, arguments)
                stack.enter_context(patch.object(owner, name, functools.wraps(original)(changed)))
        yield


def _called(original: Callable[..., Any], defaults: dict[str, Any], *args: Any, **given: Any) -> Any:
    return original(*args, **{**defaults, **given})


@contextlib.contextmanager
def _slow_variance() -> Iterator[None]:
    original = normalization._compute_stats

    @functools.wraps(original)
    def changed(*args: Any, **given: Any) -> Any:
        return original(*args, **{**given, "use_fast_variance": False})

    with patch.object(normalization, "_compute_stats", changed):
        yield


@contextlib.contextmanager
def _unbiased_running_variance() -> Iterator[None]:
    original = nnx.BatchNorm.__call__

    @functools.wraps(original)
    def changed(self: nnx.BatchNorm, x: jax.Array, *args: Any, **given: Any) -> jax.Array:
        old = self.var[...]
        y = original(self, x, *args, **given)
        n = x.size / x.shape[-1]
        # What was added is (1 - momentum) times the biased variance; nothing was in evaluation mode.
        kept = old * self.momentum
        self.var[...] = jnp.where(self.var[...] == old, old, kept + (self.var[...] - kept) * (n / (n - 1)))
        return y

    with patch.object(nnx.BatchNorm, "__call__", changed):
        yield


AS_TORCH: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "jax.nn.gelu(approximate=False), torch's default": lambda: _default((jax.nn, nnx), "gelu", approximate=False),
    "jax.nn.leaky_relu(negative_slope=0.01), torch's default": lambda: _default(
        (jax.nn, nnx), "leaky_relu", negative_slope=0.01
    ),
    "running variance n / (n - 1) in nnx.BatchNorm, torch's definition": _unbiased_running_variance,
    "jnp.std and jnp.var with ddof=1, torch's default": lambda: _default((jnp,), "std", "var", ddof=1),
    "use_fast_variance=False in nnx norms (E[x^2] - E[x]^2 loses digits)": _slow_variance,
}
