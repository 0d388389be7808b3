"""Where a card goes, what it may write over, and `model_card` for loops of one's own."""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crosstrain.callbacks.recorder import Recorder
from crosstrain.cards.facts import CardFacts, epoch_rows
from crosstrain.cards.render import MARK, render
from crosstrain.cards.spec import CardSpec
from crosstrain.errors import ConfigError

if TYPE_CHECKING:
    from crosstrain.accelerator import Accelerator
    from crosstrain.state import TrainState
    from crosstrain.training.history import History


@dataclass(frozen=True, slots=True)
class CardFile:
    """A card and its plots.

    Args:
        path: a `.md` file, or the directory of a README.md.
        overwrite: also write over what crosstrain did not write.
    """

    path: Path | str
    overwrite: bool = False

    @property
    def card(self) -> Path:
        """The Markdown file."""
        path = Path(self.path)
        return path if path.suffix == ".md" else path / "README.md"

    @property
    def image(self) -> Path:
        """The plots, beside it."""
        return self.card.with_name(f"{self.card.stem}_training.png")

    @property
    def name(self) -> str:
        """The title by default: of the directory, or of the file when it is no README."""
        path = self.card.resolve()
        return path.parent.name or "model" if path.stem == "README" else path.stem

    def require_free(self, accelerator: "Accelerator") -> None:
        """Makes the directory. Every process calls this, and comes to the same end.

        Raises:
            ConfigError: a file is there that crosstrain did not write, or the directory cannot be made.
        """
        refused = accelerator.broadcast_object(self._refused() if accelerator.is_main_process else None)
        if refused is not None:
            raise ConfigError(refused)

    def write(self, facts: CardFacts, spec: CardSpec, curves: Recorder) -> None:
        """Writes the card, all at once, and before it the plots where matplotlib is installed.

        Raises:
            ConfigError: as `require_free`; a file may have come in the meantime.
            OSError: the disk is full, or the place cannot be written.
        """
        if (refused := self._refused()) is not None:
            raise ConfigError(refused)
        plots = importlib.util.find_spec("matplotlib") is not None
        if plots:
            curves.plot(self.image)
        text = render(facts, spec, spec.name or self.name, self.image.name if plots else None)
        draft = self.card.with_name(f".{self.card.name}.{os.getpid()}")
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, self.card)

    def _refused(self) -> str | None:
        try:
            self.card.parent.mkdir(parents=True, exist_ok=True)
            if not self.overwrite:
                # Without its card a picture is somebody else's.
                there = [each for each in (self.card, self.image) if each.exists()]
                if there and not (self.card.is_file() and MARK in self.card.read_text(encoding="utf-8").splitlines()):
                    return (
                        f"path must be free or a card that crosstrain wrote, got path={there[0]}, which is neither. "
                        "Give another path, or pass overwrite=True."
                    )
        except (OSError, UnicodeDecodeError) as error:
            return f"path must be a place for a card, got path={self.card}: {error}."
        return None


def model_card(
    path: Path | str,
    accelerator: "Accelerator",
    state: "TrainState",
    history: "History",
    spec: CardSpec | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Writes the card of a loop of one's own; every process calls this, the main process writes.

    Args:
        path: a `.md` file, or the directory of a README.md.
        accelerator: of the run.
        state: as trained.
        history: `ct.callbacks.Record`s of logged steps and of evaluations, each with a `loss`; a row for each `epoch`.
        spec: what only people know.
        overwrite: also write over a file that crosstrain did not write.

    Returns:
        The Markdown file.

    Raises:
        ConfigError: a file is there that crosstrain did not write, or a record has no `loss`.
        OSError: as `CardFile.write`.
    """
    from crosstrain.trackers import settings

    file = CardFile(path, overwrite)
    file.require_free(accelerator)
    if not accelerator.is_main_process:
        return file.card
    curves = Recorder()
    curves.records, curves.evaluations = history.train, history.evaluations
    if state.is_trainable:
        curves.note(state, range(state.step))
    facts = CardFacts(
        settings=settings(accelerator, state),
        model=type(state.model).__name__,
        config=state.model_config,
        step=state.step,
        epochs=epoch_rows(history.train, history.evaluations, {}),
    )
    file.write(facts, spec or CardSpec(), curves)
    return file.card
