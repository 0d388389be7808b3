"""A model card at the end of a run."""

import dataclasses
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from crosstrain.callbacks.base import Record, Run
from crosstrain.callbacks.recorder import Recorder
from crosstrain.metrics import Metrics

if TYPE_CHECKING:
    from crosstrain.cards import CardSpec
    from crosstrain.cards.facts import CardFacts, EpochEnd

logger = logging.getLogger("crosstrain")


class ModelCard(Recorder):
    """Writes a README.md in Hugging Face's form at the end of every `fit`, also of one that raises.

    It holds the model, all settings, a table of epochs, curves (where matplotlib is installed), the machine, and how to
    load what was saved. Give it after callbacks that put other weights into the state, such as `BestModel`: the result
    is the evaluation of the weights that it finds. The main process writes. A card that cannot be written at the end is
    a warning in the log, so that it costs no run.

    Args:
        path: a `.md` file, or the directory of a README.md.
        spec: what only people know.
        overwrite: also write over a file that crosstrain did not write.

    Raises:
        ConfigError: in `fit`, before the first step, on every process: a file is there that crosstrain did not write.
    """

    def __init__(self, path: Path | str, spec: "CardSpec | None" = None, *, overwrite: bool = False) -> None:
        from crosstrain.cards.spec import CardSpec
        from crosstrain.cards.writing import CardFile

        super().__init__()
        self._file, self._spec = CardFile(path, overwrite), spec or CardSpec()
        self._ends: dict[int, EpochEnd] = {}
        self._offset = self._next_epoch = 0
        self._calls, self._seconds = 0, 0.0
        self._epoch_began: float | None = None
        self._writes = False

    def on_fit_begin(self, run: Run) -> None:
        """See `Callback`."""
        from crosstrain.trackers import hyperparameters

        self._writes = False
        self._file.require_free(run.trainer.accelerator)
        self._writes = run.is_main_process
        self._calls += 1
        self._error: BaseException | None = None
        self._resumed_at: int | None = run.state.step if run.step else None
        if self._resumed_at is None:  # else it goes on in an epoch that it may have seen the beginning of
            self._offset = self._next_epoch
        if self._writes:
            self._settings, self._model = hyperparameters(run), type(run.state.model).__name__

    def on_epoch_begin(self, run: Run) -> None:
        """See `Callback`."""
        self._epoch_began = time.perf_counter()

    def on_step_end(self, run: Run, metrics: Metrics) -> None:
        """See `Callback`."""
        if self._writes:
            super().on_step_end(run, metrics)

    def on_log(self, run: Run, record: Record) -> None:
        """See `Callback`."""
        super().on_log(run, self._numbered(record))

    def on_evaluate_end(self, run: Run, record: Record) -> None:
        """See `Callback`."""
        super().on_evaluate_end(run, self._numbered(record))

    def on_epoch_end(self, run: Run) -> None:
        """See `Callback`."""
        self._end_epoch(run)

    def on_exception(self, run: Run, error: BaseException) -> None:
        """See `Callback`."""
        self._error = error

    def on_fit_end(self, run: Run) -> None:
        """See `Callback`."""
        if self._epoch_began is not None:
            self._end_epoch(run)
        self._seconds += time.perf_counter() - run.started
        writes, self._writes = self._writes, False
        # A script that is started again after its end trains nothing, and has nothing to say.
        if not writes or (not self._ends and self._file.card.exists()):
            return
        try:
            self._file.write(self._facts(run), self._spec, self)
        except Exception as error:
            logger.warning("could not write the model card: %s", error)

    def _numbered(self, record: Record) -> Record:
        """Epochs over all calls of `fit`. The values stay shared, for callbacks that add to them."""
        return dataclasses.replace(record, epoch=self._offset + record.epoch)

    def _end_epoch(self, run: Run) -> None:
        from crosstrain.cards.facts import EpochEnd

        assert self._epoch_began is not None
        epoch = self._offset + run.epoch
        before = self._ends[epoch].seconds if epoch in self._ends else 0.0
        self._ends[epoch] = EpochEnd(run.state.step, before + time.perf_counter() - self._epoch_began)
        self._next_epoch, self._epoch_began = epoch + 1, None

    def _facts(self, run: Run) -> "CardFacts":
        from crosstrain.cards.facts import CardFacts, epoch_rows

        return CardFacts(
            settings=self._settings,
            model=self._model,
            config=run.state.model_config,
            step=run.state.step,
            epochs=epoch_rows(self.records, self.evaluations, self._ends),
            notes=self._notes(run),
            seconds=self._seconds,
            checkpoints=None if run.checkpoints is None else f"{run.checkpoints.root}",
        )

    def _notes(self, run: Run) -> tuple[str, ...]:
        notes = [f"Settings are those of the last of {self._calls} calls of `fit`."] if self._calls > 1 else []
        if self._resumed_at is not None:
            notes.append(
                f"The run was resumed at optimizer step {self._resumed_at}: table and curves hold what this process "
                "logged."
            )
        if run.stop_reason is not None:
            notes.append(f"It ended early: {' '.join(run.stop_reason.split())}.")
        if self._error is not None:
            notes.append(f"It was ended by a {type(self._error).__name__}.")
        return tuple(notes)
