"""`HandOver`: an accelerator's portable checkpoints, which the other engine, too, goes on from."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

from crosstrain.state import TrainState

if TYPE_CHECKING:
    from crosstrain import checkpoint
    from crosstrain.accelerator import Accelerator


class HandOver:
    """What every accelerator writes for another one, and reads from it."""

    def export(
        self,
        state: TrainState,
        path: Path | str,
        *,
        loader: "checkpoint.Positioned | None" = None,
        config: Mapping[str, Any] | None = None,
    ) -> Path:
        """Writes a portable checkpoint, which either engine can `restore`; every process calls this.

        Args:
            state: weights, buffers, moments, averages, step and random state are written.
            path: a directory that does not exist yet; it appears when all of it is on the disk.
            loader: the training batches, to go on where they are.
            config: what else to keep; JSON.

        Raises:
            CheckpointError: the place exists or cannot be written, or `config` is no JSON.
        """
        from crosstrain import checkpoint

        return checkpoint.export(cast("Accelerator", self), state, path, loader=loader, config=config)

    @overload
    def restore(
        self, path: Path | str, state: TrainState, *, loader: "checkpoint.Positioned | None" = ..., verify: bool = ...
    ) -> "checkpoint.Portable": ...

    @overload
    def restore(
        self, path: Path | str, state: None = ..., *, loader: "checkpoint.Positioned | None" = ..., verify: bool = ...
    ) -> TrainState: ...

    def restore(
        self,
        path: Path | str,
        state: TrainState | None = None,
        *,
        loader: "checkpoint.Positioned | None" = None,
        verify: bool = True,
    ) -> "checkpoint.Portable | TrainState":
        """Reads what `export` wrote at `path`, on either engine: into a state, or into one that it makes.

        Args:
            path: directory of the checkpoint.
            state: prepared from the same model and optimizer; changed only when everything fits. Without it the model
                (one of `ct.models`), the optimizer and the average are made anew, as the checkpoint describes them.
            loader: continues where the exported one was.
            verify: compare checksums before anything is loaded.

        Returns:
            With a state the open checkpoint, whose `manifest.config` is what `export` was given; else the new state.

        Raises:
            CheckpointError: damaged, or of another model or optimizer; names the file or the parameter. Without a
                state also a checkpoint of a model of the user's own.
        """
        from crosstrain import checkpoint

        accelerator = cast("Accelerator", self)
        if state is None:
            return checkpoint.revive(accelerator, path, loader=loader, verify=verify)
        return checkpoint.restore(accelerator, path, state, loader=loader, verify=verify)
