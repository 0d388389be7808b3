"""`Checkpoints`: the step directories of a run, written in the background, committed whole, kept by rule."""

import contextlib
import dataclasses
import logging
import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from crosstrain.checkpoint.files import commit, lock, record_file, refused_writes
from crosstrain.checkpoint.folders import committed_steps, drop_drafts, folder_of, remove, set_aside, taken_steps
from crosstrain.checkpoint.manifest import NAME, Manifest, read_manifest, verify_files, write_manifest
from crosstrain.checkpoint.matching import note_differences, require_optimizer
from crosstrain.checkpoint.portable import Positioned, make_manifest, put_back
from crosstrain.checkpoint.rules import Best, require_rules
from crosstrain.checkpoint.together import on_all, on_main, require_together
from crosstrain.checkpoint.writer import Writer, written
from crosstrain.errors import CheckpointError
from crosstrain.snapshot import check_shapes
from crosstrain.state import TrainState

if TYPE_CHECKING:
    from crosstrain.accelerator import Accelerator

_NATIVE = "native"
logger = logging.getLogger("crosstrain")


class Checkpoints:
    """Checkpoints of one run under one directory, `step_00000100` and so on.

    A directory has its name only when every file in it is on the disk, with its checksum in `checkpoint.json`. Only
    one job may write to a directory at a time.

    Steps that are there already, beyond the one that a run begins at, are of a run that was given up: when this one
    first commits a checkpoint, they are moved to `set_aside_1` and so on, which is a root like this one.

    Args:
        accelerator: of the run.
        root: made when it is missing; every process must see the same one.
        keep_last: how many of the newest stay.
        keep_every: steps that are multiples of it stay, too.
        keep_best: the best by a metric stay, too.

    Raises:
        ConfigError: as `require_rules`.
    """

    def __init__(
        self,
        accelerator: "Accelerator",
        root: Path | str,
        *,
        keep_last: int = 3,
        keep_every: int | None = None,
        keep_best: Best | None = None,
    ) -> None:
        require_rules(keep_last, keep_every, keep_best)
        require_together(accelerator)
        self.root = Path(root)
        self._accelerator = accelerator
        self._keep_last, self._keep_every, self._keep_best = keep_last, keep_every, keep_best
        self._writer: Writer | None = None
        self._lock: IO[str] | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._began: int | None = None  # the step that this run began at
        self._own: set[int] = set()  # what this object committed, or restored and so verified
        self._newest: int | None = None  # the last of them

    def steps(self) -> list[int]:
        """Steps of all committed checkpoints, oldest first."""
        return committed_steps(self.root)

    def beginning(self) -> tuple[int, int | None] | None:
        """Step of the state, and epoch of the loader, at which the run of the newest checkpoint began.

        None where there is no checkpoint; no epoch where it holds no position in the data.

        Raises:
            CheckpointError: none of them can be read.
        """
        manifest = on_main(self._accelerator, lambda: self._newest_whole(None, verify=False))
        if manifest is None:
            return None
        done = manifest.progress
        epoch = None if manifest.data is None else manifest.data["epoch"] - done.get("epoch", manifest.data["epoch"])
        return manifest.step - done.get("step", manifest.step), epoch

    def prepare(self, state: TrainState) -> None:
        """Before the first step: takes the directory, and in the background the host memory that `save` copies to.

        Without it the first save does so, and takes longer than those that follow. `Trainer.fit` calls it.

        Raises:
            CheckpointError: the directory cannot be written, or another job writes there.
        """
        on_main(self._accelerator, self._take_root)
        if self._began is None:
            self._began = state.step
        self._open_writer().prepare(state)

    def save(
        self,
        state: TrainState,
        *,
        loader: Positioned | None = None,
        metrics: Mapping[str, float] | None = None,
        progress: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Begins to write a checkpoint of `state.step`; training goes on meanwhile.

        Where the last checkpoint that was saved or restored here is of this step, only what `checkpoint.json` says
        besides is written anew.

        Args:
            state: what to write, as it is now.
            loader: the training batches.
            metrics: values for `keep_best`.
            progress: where the loop is; JSON.
            config: what else to keep; JSON.

        Raises:
            CheckpointError: the directory cannot be written, another job writes there, or the save *before* failed.
        """
        self.wait()
        manifest = make_manifest(
            self._accelerator,
            state,
            loader,
            shapes=state.view().shapes(),
            metrics=dict(metrics or {}),
            progress=dict(progress or {}),
            config=dict(config or {}),
        )
        draft = self.root / f".step_{state.step:08d}.tmp"
        if not on_main(self._accelerator, lambda: self._begin(draft, manifest)):
            return
        writer = self._open_writer()
        on_all(self._accelerator, lambda: writer.start(state, draft / _NATIVE))
        self._thread = threading.Thread(target=self._finish, args=(writer, draft, manifest), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Returns once the last `save` is committed.

        Raises:
            CheckpointError: it failed; earlier checkpoints are as they were.
        """
        if self._thread is None:
            return
        try:
            on_all(self._accelerator, self._join)
        except Exception:
            # The writers may have come to different points, and say again what went wrong.
            with contextlib.suppress(Exception):
                self._close_writer()
            if self._accelerator.is_main_process:
                drop_drafts(self.root)  # not before: one that still wrote would miss its directory, and say that
            raise

    def restore(
        self, state: TrainState, *, loader: Positioned | None = None, step: int | None = None
    ) -> Manifest | None:
        """Loads the newest whole checkpoint, or that of `step`; damaged ones are named in the log and passed over.

        Returns:
            Its manifest; None where there is no checkpoint.

        Raises:
            CheckpointError: it belongs to another model, optimizer or engine; or all there are, or that of `step`, are
                damaged.
        """
        manifest = on_main(self._accelerator, lambda: self._newest_whole(step))
        if manifest is None:
            return None
        folder = self._folder(manifest.step)
        if manifest.backend != self._accelerator.backend:
            raise CheckpointError(
                f"{folder} was written by the {manifest.backend} engine, got {self._accelerator.backend}. "
                "Restore it there, and hand over with accelerator.export and accelerator.restore."
            )
        require_optimizer(folder, manifest, state)

        def load() -> None:
            check_shapes(state.view().shapes(), manifest.shapes)
            self._accelerator._read_checkpoint(state, folder / _NATIVE, manifest.step)

        put_back(self._accelerator, folder, load, loader, manifest)
        if self._accelerator.is_main_process:
            note_differences(folder, manifest, state, self._accelerator.precision)
        self._began = self._newest = manifest.step
        self._own = {manifest.step}
        return manifest

    def close(self, *, together: bool = True) -> None:
        """Waits for the last save and lets another job write here.

        Args:
            together: False after an exception that other processes may not have met. This one then waits for its own
                part of the save only.

        Raises:
            CheckpointError: the save failed.
        """
        try:
            (self.wait if together or self._accelerator.process_count == 1 else self._join)()
        finally:
            self._close_writer()
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    def _newest_whole(self, wanted: int | None, *, verify: bool = True) -> Manifest | None:
        damaged: CheckpointError | None = None
        for step in reversed(self.steps() if wanted is None else [wanted]):
            folder = self._folder(step)
            try:
                manifest = read_manifest(folder, step)
                if verify:
                    verify_files(folder, manifest)
            except CheckpointError as error:
                if wanted is not None:
                    raise
                damaged = error
                logger.warning("passing over a damaged checkpoint: %s", error)
            else:
                return manifest
        if damaged is not None:
            raise damaged
        return None

    def _begin(self, draft: Path, manifest: Manifest) -> bool:
        """On the main process: makes room for a checkpoint, or renews what is there. Whether arrays are to follow."""
        manifest.to_json()
        folder = self._folder(manifest.step)
        self._take_root()
        if self._newest == manifest.step and (folder / NAME).is_file():
            with refused_writes(folder):
                old = read_manifest(folder)
                metrics = {**old.metrics, **manifest.metrics}
                write_manifest(folder, dataclasses.replace(manifest, files=old.files, metrics=metrics))
            return False
        if self._began is None:
            self._began = manifest.step
        with refused_writes(self.root):
            drop_drafts(self.root)
            draft.mkdir()
        return True

    def _take_root(self) -> None:
        with refused_writes(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            if self._lock is None:
                self._lock = lock(self.root)

    def _open_writer(self) -> Writer:
        if self._writer is None:
            self._writer = self._accelerator._checkpoint_writer()
        return self._writer

    def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _join(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _finish(self, writer: Writer, draft: Path, manifest: Manifest) -> None:
        try:
            with refused_writes(self.root):
                written(writer)
                if self._accelerator.is_main_process:
                    self._commit(draft, manifest)
        except BaseException as error:
            self._error = error

    def _commit(self, draft: Path, manifest: Manifest) -> None:
        files = tuple(record_file(draft, path) for path in sorted(draft.rglob("*")) if path.is_file())
        write_manifest(draft, dataclasses.replace(manifest, files=files))
        # Before the commit: a kill in between must not leave the run that was given up with the newest checkpoint.
        set_aside(self.root, self._given_up(manifest.step))
        commit(draft, self._folder(manifest.step))
        self._own.add(manifest.step)
        self._newest = manifest.step
        steps = self.steps()
        for step in set(steps) - self._kept(steps):
            remove(self._folder(step))

    def _given_up(self, now: int) -> list[int]:
        """Steps under the root that do not lead to the state that is committed now."""
        began = now if self._began is None else min(self._began, now)
        return [step for step in taken_steps(self.root) if step >= now or (step > began and step not in self._own)]

    def _folder(self, step: int) -> Path:
        return folder_of(self.root, step)

    def _kept(self, steps: list[int]) -> set[int]:
        kept = set(steps[-self._keep_last :])
        if self._keep_every is not None:
            kept |= {step for step in steps if step % self._keep_every == 0}
        if self._keep_best is not None:
            kept |= self._best(steps, self._keep_best)
        return kept

    def _best(self, steps: list[int], best: Best) -> set[int]:
        scores = {}
        for step in steps:
            with contextlib.suppress(CheckpointError, KeyError):
                scores[step] = read_manifest(self._folder(step)).metrics[best.metric]
        scores = {step: score for step, score in scores.items() if math.isfinite(score)}
        ranked = sorted(scores, key=lambda step: (scores[step], step), reverse=best.mode == "max")
        return set(ranked[: best.count])
