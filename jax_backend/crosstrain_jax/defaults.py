"""Defaults of JAX that differ from torch's, as contexts in which JAX behaves as torch does. For diagnosis only.

A function that a model imported by name (`from jax.nn import gelu`) is out of reach.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import jax
from flax import nnx


@contextlib.contextmanager
def _default(name: str, **arguments: Any) -> Iterator[None]:
    original = getattr(jax.nn, name)

    @functools.wraps(original)
    def changed(*args: Any, **given: Any) -> Any:
        return original(*args, **{**arguments, **given})

    with contextlib.ExitStack() as stack:
        for module in (jax.nn, nnx):
            if hasattr(module, name):
                stack.enter_context(patch.object(module, name, changed))
        yield


AS_TORCH: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "jax.nn.gelu(approximate=False), torch's default": lambda: _default("gelu", approximate=False),
    "jax.nn.leaky_relu(negative_slope=0.01), torch's default": lambda: _default("leaky_relu", negative_slope=0.01),
}
