"""Portable checkpoints: safetensors and JSON, canonical names and layouts, readable by either engine and by others.

DIRECTORY/checkpoint.json                step, seed, specs, data position; the files and their checksums
DIRECTORY/params-00001.safetensors       weights; buffers, averages and each moment in files of their own
"""

import contextlib
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import safetensors

from crosstrain.checkpoint.manifest import NAME, Manifest, describe, read_manifest
from crosstrain.checkpoint.shards import Shard, read_shards, sync, verify_shard, write_shards
from crosstrain.errors import CheckpointError
from crosstrain.snapshot import LazyArrays, Snapshot
from crosstrain.state import TrainState

if TYPE_CHECKING:
    from crosstrain.accelerator import Accelerator

SHARD_BYTES = 1 << 30


class Positioned(Protocol):
    """What has a place in the data: a `Loader`."""

    def state_dict(self) -> dict[str, Any]:
        """The position, as JSON."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues there; `ValueError` where it cannot, and nothing changes."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Portable:
    """An open portable checkpoint.

    Attributes:
        path: its directory.
        manifest: what `checkpoint.json` says.
        snapshot: its arrays, each read when it is asked for.
    """

    path: Path
    manifest: Manifest
    snapshot: Snapshot

    def verify(self) -> None:
        """Reads every file and compares its checksum.

        Raises:
            CheckpointError: names the file that is missing or damaged.
        """
        for shard in self.manifest.shards:
            verify_shard(self.path, shard)


def open_portable(path: Path | str) -> Portable:
    """Opens a checkpoint; arrays stay in their files until asked for.

    Raises:
        CheckpointError: no checkpoint, or a damaged one; names the file.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    found = {name: read_shards(folder, shards) for name, shards in manifest.sections.items()}
    empty = LazyArrays({})
    prefix = "moments/"
    return Portable(
        path=folder,
        manifest=manifest,
        snapshot=Snapshot(
            step=manifest.step,
            params=found["params"],
            buffers=found.get("buffers", empty),
            moments={name.removeprefix(prefix): each for name, each in found.items() if name.startswith(prefix)},
            averages=found.get("averages", empty),
            native=found.get("native", empty),
        ),
    )


def export(
    accelerator: "Accelerator",
    state: TrainState,
    path: Path | str,
    *,
    loader: Positioned | None = None,
    config: Mapping[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """See `Accelerator.export`."""
    folder = Path(path)
    try:
        if not accelerator.is_main_process:
            _read_all(state.view())
            return folder
        if folder.exists():
            raise CheckpointError(f"path must not exist yet, got {folder}, which does. Choose another, or remove it.")
        with committed(folder) as draft:
            manifest = Manifest(
                step=state.step,
                backend=accelerator.backend,
                seed=accelerator.seed,
                precision=asdict(accelerator.precision),
                optimizer=describe(state.optimizer) if state.is_trainable else None,
                sections=_write(draft, state.view(), shard_bytes),
                data=loader.state_dict() if loader is not None else None,
                config=dict(config or {}),
            )
            (draft / NAME).write_text(manifest.to_json(), encoding="utf-8")
            sync(draft / NAME)
    finally:
        accelerator.wait_for_everyone()
    return folder


def restore(path: Path | str, state: TrainState, *, loader: Positioned | None = None, verify: bool = True) -> Portable:
    """See `Accelerator.restore`."""
    opened, before = open_portable(path), None
    if verify:
        opened.verify()
    if loader is not None and opened.manifest.data is None:
        raise CheckpointError(f"{path} must hold a position in the data, got none. Export with loader=..., too.")
    try:
        if loader is not None and opened.manifest.data is not None:
            before = loader.state_dict()
            loader.load_state_dict(dict(opened.manifest.data))
        state.load(opened.snapshot)
    except ValueError as error:
        if before is not None and loader is not None:
            loader.load_state_dict(before)
        raise CheckpointError(f"{path} does not fit: {error}") from error
    return opened


@contextlib.contextmanager
def committed(folder: Path) -> Iterator[Path]:
    """A directory beside `folder` that takes its name when all is written, and goes away when anything fails.

    Raises:
        CheckpointError: the disk is full, or the place cannot be written.
    """
    draft = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp"
        draft.mkdir()
        yield draft
        sync(draft)
        draft.rename(folder)
        draft = None
        sync(folder.parent)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{folder} must be a place to write to, got: {error}. Earlier checkpoints are as they were. "
            "Free space or permissions, or choose another directory."
        ) from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)


def _write(folder: Path, snapshot: Snapshot, shard_bytes: int) -> dict[str, tuple[Shard, ...]]:
    return {
        name: tuple(write_shards(folder, name.replace("/", "-"), arrays.items(), shard_bytes))
        for name, arrays in sections(snapshot).items()
        if len(arrays)
    }


def _read_all(snapshot: Snapshot) -> None:
    """Reading an array that is split over processes takes all of them."""
    for arrays in sections(snapshot).values():
        for name in arrays:
            arrays[name]


def sections(snapshot: Snapshot) -> dict[str, Mapping[str, Any]]:
    """Section -> arrays, in the order in which they are written."""
    return {
        "params": snapshot.params,
        "buffers": snapshot.buffers,
        "averages": snapshot.averages,
        **{f"moments/{slot}": values for slot, values in snapshot.moments.items()},
        "native": snapshot.native,
    }
