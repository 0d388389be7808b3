"""Work on a checkpoint that all processes take part in: where one of them fails, all of them raise, and none waits."""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from crosstrain.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from crosstrain.accelerator import Accelerator
    from crosstrain.processes import Processes

_Result = TypeVar("_Result")


def require_together(accelerator: "Accelerator") -> None:
    """Refuses islands, whose states differ.

    Raises:
        ConfigError: says what to keep instead.
    """
    if accelerator.islands:
        raise ConfigError(
            "checkpoints of a run must be of processes that train together, got islands=True. Keep each island's "
            "state.snapshot() and the outer steps' state_dict(), or export the weights at the end."
        )


def on_all(processes: "Processes", work: Callable[[], _Result]) -> _Result:
    """What `work` returns on this process, once it is done on all of them.

    Raises:
        CheckpointError: `work` failed on another process. Where it failed here, its own error.
    """
    if processes.process_count == 1:
        return work()
    try:
        result = work()
    except Exception as error:
        processes.gather_object(_in_words(error))
        raise
    failed = {index: words for index, words in enumerate(processes.gather_object(None)) if words is not None}
    if failed:
        index = min(failed)
        raise CheckpointError(f"every process must come through, got process {index}: {failed[index]}")
    return result


def on_main(processes: "Processes", work: Callable[[], _Result]) -> _Result:
    """What `work` returns on the main process, on every process.

    Raises:
        CheckpointError: `work` failed. The main process raises its own error.
    """
    if processes.process_count == 1:
        return work()
    if not processes.is_main_process:
        failed, result = processes.broadcast_object(None)
        if failed is not None:
            raise CheckpointError(f"the main process must come through, got: {failed}")
        return result
    try:
        result = work()
    except Exception as error:
        processes.broadcast_object((_in_words(error), None))
        raise
    processes.broadcast_object((None, result))
    return result


def _in_words(error: Exception) -> str:
    """Errors of frameworks are not always picklable; crosstrain's own say all by themselves."""
    return f"{error}" if isinstance(error, CheckpointError) else f"{type(error).__name__}: {error}"
