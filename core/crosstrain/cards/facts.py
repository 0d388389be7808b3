"""What a card says of a run, as plain data: settings, epochs, where it stands. Nothing here knows Markdown."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from crosstrain.callbacks.base import Record

if TYPE_CHECKING:
    from crosstrain.models.spec import ModelConfig

Value = str | int | float | bool | None


class EpochEnd(NamedTuple):
    """Where an epoch ended.

    Attributes:
        step: optimizer steps that the state had taken.
        seconds: that the epoch took, its evaluation included.
    """

    step: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochRow:
    """One epoch, or as much of it as was trained.

    Attributes:
        epoch: 0-based.
        step: optimizer steps that the state had taken at its end, or at its last record where the end is not known.
        train: name -> mean over its logged steps; the last `learning_rate`, and the median of `examples_per_second`.
        evaluation: name -> value; empty without one.
        seconds: None where nobody measured.
    """

    epoch: int
    step: int
    train: Mapping[str, float]
    evaluation: Mapping[str, float]
    seconds: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CardFacts:
    """What is known of a run.

    Attributes:
        settings: flat names, as trackers are told; see `ct.trackers.hyperparameters`.
        model: class of the native model.
        config: what a paired model was built from; None for a model of the user's own.
        step: optimizer steps that the state has taken.
        epochs: in order.
        notes: sentences about a run that did not go straight from its beginning to its end.
        seconds: of training, evaluations included; None where nobody measured.
        checkpoints: directory of the run's native checkpoints; None when it saves none.
    """

    settings: Mapping[str, Value]
    model: str
    config: "ModelConfig | None"
    step: int
    epochs: tuple[EpochRow, ...]
    notes: tuple[str, ...] = ()
    seconds: float | None = None
    checkpoints: str | None = None

    @property
    def result(self) -> EpochRow | None:
        """The evaluation of the weights that the state has now; the last one where these were not evaluated."""
        evaluated = [row for row in self.epochs if row.evaluation]
        present = [row for row in evaluated if row.step == self.step]
        return next(reversed(present or evaluated), None)


def epoch_rows(
    records: Iterable[Record], evaluations: Iterable[Record], ends: Mapping[int, EpochEnd]
) -> tuple[EpochRow, ...]:
    """A row for each epoch that anything is known of; of a step that was taken twice the second record counts."""
    trained: defaultdict[int, dict[int, Record]] = defaultdict(dict)
    evaluated: dict[int, Record] = {}
    for record in records:
        trained[record.epoch][record.step] = record
    for record in evaluations:
        evaluated[record.epoch] = record
    epochs = sorted(trained.keys() | evaluated.keys() | ends.keys())
    return tuple(_row(each, trained[each], evaluated.get(each), ends.get(each)) for each in epochs)


def _row(epoch: int, trained: Mapping[int, Record], evaluation: Record | None, end: EpochEnd | None) -> EpochRow:
    last = max([*trained, *([evaluation.step] if evaluation else [])], default=0)
    return EpochRow(
        epoch=epoch,
        step=end.step if end else last,
        train=_means([trained[step].values for step in sorted(trained)]),
        evaluation=dict(evaluation.values) if evaluation else {},
        seconds=end.seconds if end else None,
    )


def _means(logged: list[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for values in logged for name in values)
    found = {name: [values[name] for values in logged if name in values] for name in names}
    return {name: _OTHERS.get(name, statistics.fmean)(values) for name, values in found.items()}


# The lap before the last step of a run may be a moment, when the device was done long before.
_OTHERS: dict[str, Callable[[list[float]], float]] = {
    "learning_rate": lambda rates: rates[-1],
    "examples_per_second": statistics.median,
}
