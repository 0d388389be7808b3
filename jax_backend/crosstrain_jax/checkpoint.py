"""Native checkpoints of the JAX engine: orbax, written in the background.

Orbax copies the arrays of accelerators to the host before it returns. On the CPU it would write from the arrays
themselves; a step that donates them meanwhile would have to allocate all of them anew, which takes XLA seconds per
gigabyte, so there they are copied first, into memory that is kept. Without OCDBT, which is several times slower.
"""

import contextlib
import functools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from crosstrain_jax.state import JaxState


class JaxWriter:
    """See `crosstrain.checkpoint.Writer`."""

    def __init__(self) -> None:
        self._checkpointer = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False))
        self._copies: Any = None

    def start(self, state: JaxState, folder: Path) -> None:
        """See `crosstrain.checkpoint.Writer`."""
        self.wait()
        with _quiet(), state.scope():
            arrays = state.arrays()
            if all(device.platform == "cpu" for device in state.count.devices()):
                arrays = self._copies = self._copy(arrays)
            self._checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave(arrays))

    def wait(self) -> None:
        """See `crosstrain.checkpoint.Writer`."""
        with _quiet():
            self._checkpointer.wait_until_finished()
            self._checkpointer.check_for_errors()

    def close(self) -> None:
        """See `crosstrain.checkpoint.Writer`."""
        self._copies = None
        self._checkpointer.close()

    def _copy(self, arrays: Any) -> Any:
        if jax.tree.map(jnp.shape, self._copies) != jax.tree.map(jnp.shape, arrays):
            self._copies = jax.tree.map(lambda array: jnp.zeros_like(array, device=array.sharding), arrays)
        return _copy_into(arrays, self._copies)


@functools.partial(jax.jit, donate_argnums=1, keep_unused=True)
def _copy_into(arrays: Any, copies: Any) -> Any:
    # Behind the barrier the result is no argument any more, so it goes to the donated memory.
    return jax.lax.optimization_barrier(arrays)


def read(state: JaxState, folder: Path, step: int) -> None:
    """Replaces what a state holds by what `JaxWriter` wrote of one like it."""
    with _quiet(), state.scope():
        like = state.arrays()
        args = ocp.args.PyTreeRestore(like, restore_args=ocp.checkpoint_utils.construct_restore_args(like))
        with contextlib.closing(ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False))) as checkpointer:
            state.set_arrays(checkpointer.restore(folder.absolute(), args=args), step)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orbax warns of what is meant, such as no OCDBT files to merge."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
