"""Native checkpoints of the JAX engine: orbax, written in the background.

Orbax copies the arrays of accelerators to the host before it returns. On the CPU it would write from the arrays
themselves; a step that donates them meanwhile would have to allocate all of them anew, which takes XLA seconds per
gigabyte, so there they are copied first, into memory that is kept. Without OCDBT, which is several times slower, and
without compression, which takes twice the time for a tenth of the bytes.

The operating system hands out that memory page by page when it is first written to, which takes several times as long
as the copy. A thread does that beforehand, and compiles the copy.
"""

import contextlib
import functools
import itertools
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint import multihost
from orbax.checkpoint._src.futures import future, synchronization

from crosstrain_jax.state import JaxState


class JaxWriter:
    """See `crosstrain.checkpoint.Writer`."""

    def __init__(self) -> None:
        self._barriers = _Barriers() if jax.process_count() > 1 else None
        options = ocp.options.AsyncOptions(barrier_sync_fn=self._barriers)
        handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_compression=False)
        self._checkpointer = ocp.AsyncCheckpointer(handler, async_options=options)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="crosstrain-checkpoint")
        self._forms: Any = None
        self._memory: Future[_Memory] | None = None

    def prepare(self, state: JaxState) -> None:
        """See `crosstrain.checkpoint.Writer`."""
        forms = jax.tree.map(_form, state.arrays())
        if forms != self._forms and all(device.platform == "cpu" for device in state.count.devices()):
            self._forms = forms
            self._memory = self._threads.submit(_Memory, forms, state.scope)

    def start(self, state: JaxState, folder: Path) -> None:
        """See `crosstrain.checkpoint.Writer`."""
        self.wait()
        self.prepare(state)
        with _quiet(), state.scope():
            arrays = state.arrays()
            if self._memory is not None:
                arrays = self._memory.result().copy(arrays)
            self._checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave(arrays))

    def wait(self) -> None:
        """See `crosstrain.checkpoint.Writer`."""
        try:
            with _quiet():
                self._checkpointer.wait_until_finished()
                self._checkpointer.check_for_errors()
        except Exception as error:
            if self._barriers is not None:
                self._barriers.fail(f"{type(error).__name__}: {error}")
            raise

    def close(self) -> None:
        """See `crosstrain.checkpoint.Writer`."""
        self._threads.shutdown()
        self._memory = None
        self._checkpointer.close()


class _Memory:
    """Memory for arrays of these forms, which is kept from save to save, and the compiled copy into it."""

    def __init__(self, forms: Any, scope: Callable[[], contextlib.AbstractContextManager[Any]]) -> None:
        # 64-bit mode is a switch of the thread.
        with scope():
            self._copy: Callable[[Any, Any], Any] = _copy_into.lower(forms, forms).compile()
            self._copies = jax.tree.map(lambda form: jnp.zeros(form.shape, form.dtype, device=form.sharding), forms)

    def copy(self, arrays: Any) -> Any:
        """Copies of arrays, valid until the next call."""
        self._copies = self._copy(arrays, self._copies)
        return self._copies


class _Barriers:
    """Where the processes' background threads meet: one that has failed says so, and no other waits for it.

    Orbax's own barriers wait twenty minutes for a process that could not write.
    """

    _numbers = itertools.count()

    def __init__(self) -> None:
        # Every process makes its writers in the same order.
        self._prefix = f"crosstrain/checkpoint/{next(self._numbers)}"
        self._count = 0
        self._client = multihost.get_jax_distributed_client()

    def __call__(self, *, key: str, timeout_ms: int) -> None:
        """Returns once every process is here; raises what another one said instead of coming."""
        here = f"{self._prefix}/{self._count}"
        self._say("here")
        for index in range(jax.process_count()):
            said = self._client.blocking_key_value_get(f"{here}/{index}", timeout_ms)
            if said != "here":
                raise RuntimeError(f"process {index} {said}")

    def fail(self, reason: str) -> None:
        """Says to those who will wait at this process's next barrier that it does not come."""
        self._say(f"failed, {reason}")
        # Threads may still wait for a directory that could not be made: they find that it is not there.
        made = synchronization.HandlerAwaitableSignal.STEP_DIRECTORY_CREATION
        operation = synchronization.OperationIdGenerator.get_current_operation_id()
        future.set_signals([made], operation_id=operation)

    def _say(self, said: str) -> None:
        self._client.key_value_set(f"{self._prefix}/{self._count}/{jax.process_index()}", said)
        self._count += 1


def _form(array: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)


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
