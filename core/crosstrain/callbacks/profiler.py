"""A trace of a few steps by the engine's own profiler."""

import contextlib
from pathlib import Path
from typing import Any

from crosstrain.callbacks.base import Callback, Run
from crosstrain.errors import ConfigError, require_count
from crosstrain.metrics import Metrics


class Profile(Callback):
    """Traces some steps of the first `fit` that comes so far, on every process, into one folder.

    Both engines write what Perfetto, TensorBoard and XProf read: `FOLDER/jax/...` from `jax.profiler`,
    `FOLDER/torch/*.pt.trace.json.gz` from `torch.profiler`. It ends when the device has done the last of its steps.

    Args:
        folder: where traces go; made when it is not there.
        first: optimizer steps of the run before the trace, so that compilation is over.
        steps: how many to trace.

    Raises:
        ConfigError: a number out of range.
    """

    def __init__(self, folder: Path | str, *, first: int = 10, steps: int = 3) -> None:
        require_count("steps", steps)
        if first < 0:
            raise ConfigError(f"first must be at least 0, got first={first}.")
        self._folder, self._first, self._steps = Path(folder), first, steps
        self._open: contextlib.ExitStack | None = None
        self._over = False

    def on_step_begin(self, run: Run, batch: dict[str, Any]) -> None:
        """See `Callback`."""
        if not self._over and self._open is None and run.step >= self._first:
            self._until = run.step + self._steps
            run.trainer.accelerator.synchronize()
            self._open = contextlib.ExitStack()
            self._open.enter_context(run.trainer.accelerator.trace(self._folder))

    def on_step_end(self, run: Run, metrics: Metrics) -> None:
        """See `Callback`."""
        if self._open is not None and run.step >= self._until:
            self._close(run)

    def on_fit_end(self, run: Run) -> None:
        """See `Callback`."""
        self._close(run)

    def _close(self, run: Run) -> None:
        if self._open is None:
            return
        stack, self._open, self._over = self._open, None, True
        with stack:
            run.trainer.accelerator.synchronize()
