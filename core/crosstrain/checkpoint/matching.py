"""Whether a run goes on with a checkpoint's optimizer: another kind is refused, other numbers and types are named."""

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from crosstrain.checkpoint.manifest import Manifest
from crosstrain.checkpoint.specs import describe
from crosstrain.errors import CheckpointError
from crosstrain.precision import Precision
from crosstrain.state import TrainState

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
logger = logging.getLogger("crosstrain")


def require_optimizer(path: Path, manifest: Manifest, state: TrainState) -> None:
    """Refuses an optimizer of another kind. Moments of the same names may mean something else to it.

    Raises:
        CheckpointError: says both kinds, and what else differs.
    """
    if manifest.optimizer is None or not state.is_trainable:
        return
    found, wanted = describe(state.optimizer), manifest.optimizer
    if found["type"] != wanted["type"]:
        others = ", ".join(differences({**wanted, "type": None}, {**found, "type": None}, ""))
        got = f"{found['type']} with {others}" if others else found["type"]
        instead = (
            "train anew in another root"
            if manifest.files
            else (
                "take over all but the moments: state.load(dataclasses.replace("
                "crosstrain.checkpoint.open_portable(path).snapshot, moments={}))"
            )
        )
        raise CheckpointError(
            f"{path} must be resumed with {wanted['type']}, which it was trained with, got {got}. "
            f"Prepare the model with that optimizer, or {instead}."
        )


def note_differences(path: Path, manifest: Manifest, state: TrainState, precision: Precision) -> None:
    """Names in the log what a resumed run does from here on in another way than the one that was saved."""
    found = list(differences(manifest.average, describe(state.average), "average"))
    if manifest.optimizer is not None and state.is_trainable:
        found += differences(manifest.optimizer, describe(state.optimizer), "optimizer")
    found += differences(manifest.precision, asdict(precision), "precision")
    if found:
        logger.warning("going on from %s with %s", path, ", ".join(found))


def differences(saved: Any, now: Any, name: str) -> Iterator[str]:
    """What differs between two described specs, all the way down; fields that one does not have do not count."""
    if isinstance(saved, Mapping) and isinstance(now, Mapping) and saved.get("type") == now.get("type"):
        for each in saved:
            if each in now:
                yield from differences(saved[each], now[each], f"{name}.{each}" if name else each)
    elif isinstance(saved, list) and isinstance(now, list) and len(saved) == len(now):
        for index, pair in enumerate(zip(saved, now, strict=True)):
            yield from differences(*pair, f"{name}[{index}]")
    elif _short(saved) != _short(now):
        yield f"{name}={_short(now)} for {_short(saved)}"


def _short(value: Any) -> str:
    """A spec by its kind, and what only Python can say without its place in memory."""
    if isinstance(value, Mapping):
        return str(value.get("type"))
    if isinstance(value, list):
        return f"[{', '.join(map(_short, value))}]"
    return _ADDRESS.sub("", str(value))
