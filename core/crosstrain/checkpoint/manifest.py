"""`checkpoint.json`: what a checkpoint is of, and which files hold it. Plain JSON, checked before anything is used."""

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from crosstrain._version import __version__
from crosstrain.checkpoint.files import FileRecord, sync, verify_file
from crosstrain.checkpoint.shards import Shard
from crosstrain.errors import CheckpointError
from crosstrain.metrics import plain

NAME = "checkpoint.json"
FORMAT = 1
_MAX_BYTES = 64 << 20
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors")
_SECTION = re.compile(r"params|buffers|averages|native|moments/[a-z0-9_]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What `checkpoint.json` says.

    Attributes:
        step: optimizer steps taken.
        backend: the engine that wrote it.
        seed: of the run: weights, data order, dropout.
        precision: the types of the run.
        optimizer: the spec, as `describe` writes it; None for a state without one.
        average: of the weights, likewise.
        model: the config of a paired model, likewise; None for a model of the user's own.
        sections: of a portable checkpoint: `params`, `buffers`, `averages`, `native` or `moments/SLOT` -> its files.
        files: of a native checkpoint: everything the engine wrote.
        shapes: of a native checkpoint: `Snapshot.shapes`, to refuse another model before anything is read.
        data: position in the data, as `Loader.state_dict` gives it; None where no loader was given.
        metrics: values that `keep_best` compares. The file has text for those that are not finite, as trackers do.
        progress: where `Trainer.fit` was.
        config: whatever the run wanted to keep.
        crosstrain: the version that wrote it.
        format: version of this file's form.
    """

    step: int
    backend: str
    seed: int
    precision: Mapping[str, Any]
    optimizer: Mapping[str, Any] | None
    average: Mapping[str, Any] | None = None
    model: Mapping[str, Any] | None = None
    sections: Mapping[str, tuple[Shard, ...]] = field(default_factory=dict)
    files: tuple[FileRecord, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    data: Mapping[str, Any] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    progress: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    crosstrain: str = __version__
    format: int = FORMAT

    def to_json(self) -> str:
        """The text of the file.

        Raises:
            CheckpointError: `config` or `data` holds what JSON cannot.
        """
        try:
            values = {**dataclasses.asdict(self), "metrics": plain(self.metrics)}
            return json.dumps(values, indent=1, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"config must hold only what JSON can (dicts, lists, strings, finite numbers), got {error}."
            ) from error

    @property
    def all_files(self) -> tuple[FileRecord, ...]:
        """Every file beside `checkpoint.json`."""
        return (*self.files, *(shard for shards in self.sections.values() for shard in shards))


def read_manifest(folder: Path, step: int | None = None) -> Manifest:
    """The manifest of a checkpoint's directory.

    Args:
        folder: the directory.
        step: that it is named after; None for a name that says nothing.

    Raises:
        CheckpointError: no such checkpoint, one of another step, or a manifest that is damaged or from a later version.
    """
    path = folder / NAME
    if not path.is_file():
        raise CheckpointError(f"a checkpoint must be a directory with a {NAME}, got {folder}, which has none.")
    if path.stat().st_size > _MAX_BYTES:
        raise CheckpointError(f"{path} must have at most {_MAX_BYTES} bytes, got {path.stat().st_size}.")
    try:
        manifest = _parse(json.loads(path.read_text(encoding="utf-8")))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} must be what crosstrain wrote, got {type(error).__name__}: {str(error)[:200]}. "
            "It is damaged: restore an earlier checkpoint."
        ) from error
    if step not in (None, manifest.step):
        raise CheckpointError(
            f"{folder} must hold a checkpoint of step {step}, got one of step {manifest.step}. Give the directory the "
            "name that it had."
        )
    return manifest


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Reads every file of a checkpoint and compares its checksum.

    Raises:
        CheckpointError: names the file that is missing or damaged.
    """
    for record in manifest.all_files:
        verify_file(folder, record)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes `checkpoint.json`, in the place of an old one or not at all.

    Raises:
        CheckpointError: see `Manifest.to_json`.
    """
    draft = folder / f".{NAME}.tmp"
    draft.write_text(manifest.to_json(), encoding="utf-8")
    sync(draft)
    draft.replace(folder / NAME)


def _parse(values: dict[str, Any]) -> Manifest:
    if values["format"] != FORMAT:
        raise CheckpointError(
            f"format must be {FORMAT}, got format={values['format']!r}, written by crosstrain {values['crosstrain']}. "
            "Use that version or a later one."
        )
    if type(values["step"]) is not int or values["step"] < 0:
        raise CheckpointError(f"step must be an integer of at least 0, got step={values['step']!r}.")
    for name in ("optimizer", "data", "progress"):
        if not isinstance(values.get(name), dict | None):
            raise CheckpointError(f"{name} must hold names and values, got {name}={values[name]!r}. It is damaged.")
    sections = {name: tuple(map(_shard, shards)) for name, shards in values["sections"].items()}
    unknown = [name for name in sections if not _SECTION.fullmatch(name)]
    if unknown or ("params" not in sections and not values["files"]):
        raise CheckpointError(f"sections must be params and others that crosstrain knows, got {sorted(sections)}.")
    files = tuple(map(_file, values["files"]))
    shapes = {name: tuple(map(int, shape)) for name, shape in values["shapes"].items()}
    metrics = {name: float(value) if isinstance(value, str) else value for name, value in values["metrics"].items()}
    return Manifest(**{**values, "sections": sections, "files": files, "shapes": shapes, "metrics": metrics})


def _file(values: dict[str, Any]) -> FileRecord:
    path = PurePosixPath(values["file"])
    if path.is_absolute() or ".." in path.parts or "\\" in values["file"] or "\0" in values["file"]:
        raise CheckpointError(f"file must lie in the checkpoint's directory, got file={values['file']!r}.")
    return FileRecord(**values)


def _shard(values: dict[str, Any]) -> Shard:
    if not _FILE.fullmatch(values["file"]):
        raise CheckpointError(f"file must be a safetensors file in this directory, got file={values['file']!r}.")
    return Shard(**{**values, "names": tuple(map(str, values["names"]))})
