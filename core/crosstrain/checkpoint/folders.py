"""The step directories under one root: their names, and how they are listed, set aside and removed."""

import logging
import re
import shutil
from collections.abc import Collection
from pathlib import Path

from crosstrain.checkpoint.files import sync
from crosstrain.checkpoint.manifest import NAME

_STEP = re.compile(r"step_(\d{8,})")
_ASIDE = re.compile(r"set_aside_(\d+)")
logger = logging.getLogger("crosstrain")


def folder_of(root: Path, step: int) -> Path:
    """The directory of a step."""
    return root / f"step_{step:08d}"


def taken_steps(root: Path) -> list[int]:
    """Steps whose name is taken, oldest first, whatever is in the directory."""
    if not root.is_dir():
        return []
    return sorted(int(match[1]) for path in root.iterdir() if (match := _STEP.fullmatch(path.name)))


def committed_steps(root: Path) -> list[int]:
    """Steps of all committed checkpoints, oldest first."""
    return [step for step in taken_steps(root) if (folder_of(root, step) / NAME).is_file()]


def set_aside(root: Path, steps: Collection[int]) -> None:
    """Moves directories of a run that was given up to a new one where no run looks, and says where in the log."""
    if not steps:
        return
    numbers = [int(match[1]) for path in root.iterdir() if (match := _ASIDE.fullmatch(path.name))]
    place = root / f"set_aside_{max(numbers, default=0) + 1}"
    place.mkdir()
    for step in sorted(steps):
        folder_of(root, step).rename(folder_of(place, step))
    sync(place)
    sync(root)
    logger.warning(
        "checkpoints of step %s are damaged or of a run that was given up, and were moved to %s",
        ", ".join(map(str, sorted(steps))),
        place,
    )


def remove(folder: Path) -> None:
    """A directory that is half removed has no name that is ever offered."""
    doomed = folder.with_name(f".{folder.name}.removed")
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def drop_drafts(root: Path) -> None:
    """Under the lock all of these are left over: from a job that was killed, or a save that failed."""
    for left in (*root.glob(".step_*.tmp"), *root.glob(".step_*.removed")):
        shutil.rmtree(left, ignore_errors=True)
