"""Portable checkpoints: safetensors and JSON, canonical names and layouts, readable by either engine and by others.

DIRECTORY/checkpoint.json                step, seed, specs, data position; the files and their checksums
DIRECTORY/params-00001.safetensors       weights; buffers, averages and each moment in files of their own
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from crosstrain.checkpoint.files import committed
from crosstrain.checkpoint.manifest import Manifest, read_manifest, verify_files, write_manifest
from crosstrain.checkpoint.matching import note_differences, require_optimizer
from crosstrain.checkpoint.shards import Shard, read_shards, write_shards
from crosstrain.checkpoint.specs import describe, rebuild
from crosstrain.checkpoint.together import on_all
from crosstrain.errors import CheckpointError
from crosstrain.models.spec import ModelConfig
from crosstrain.optim import Averaging, OptimizerSpec
from crosstrain.snapshot import Snapshot, check_names
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
        verify_files(self.path, self.manifest)


def open_portable(path: Path | str) -> Portable:
    """Opens a checkpoint; arrays stay in their files until asked for.

    Raises:
        CheckpointError: no checkpoint, a native one, or a damaged one; names the file.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    if manifest.files:
        raise CheckpointError(
            f"{folder} must be a portable checkpoint, got a native one of the {manifest.backend} engine. "
            "Restore it there with crosstrain.checkpoint.Checkpoints, and hand over with accelerator.export."
        )
    found = {name: read_shards(folder, shards) for name, shards in manifest.sections.items()}
    return Portable(path=folder, manifest=manifest, snapshot=Snapshot.from_sections(manifest.step, found))


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

    def write() -> None:
        if folder.exists():
            raise CheckpointError(f"path must not exist yet, got {folder}, which does. Choose another, or remove it.")
        with committed(folder) as draft:
            files = _write(draft, state.view(), shard_bytes)
            manifest = make_manifest(accelerator, state, loader, sections=files, config=dict(config or {}))
            write_manifest(draft, manifest)

    on_all(accelerator, write if accelerator.is_main_process else lambda: _read_all(state.view()))
    return folder


def restore(
    accelerator: "Accelerator",
    path: Path | str,
    state: TrainState,
    *,
    loader: Positioned | None = None,
    verify: bool = True,
) -> Portable:
    """See `Accelerator.restore` with a state."""
    opened = on_all(accelerator, lambda: _open(path, verify))
    require_optimizer(opened.path, opened.manifest, state)
    put_back(accelerator, path, lambda: state.load(opened.snapshot), loader, opened.manifest)
    if accelerator.is_main_process:
        note_differences(opened.path, opened.manifest, state, accelerator.precision)
    return opened


def revive(
    accelerator: "Accelerator", path: Path | str, *, loader: Positioned | None = None, verify: bool = True
) -> TrainState:
    """See `Accelerator.restore` without a state."""

    def read() -> tuple[Portable, TrainState]:
        opened = _open(path, verify)
        return opened, _state_of(accelerator, path, opened)

    opened, state = on_all(accelerator, read)
    put_back(accelerator, path, lambda: state.load(opened.snapshot), loader, opened.manifest)
    return state


def _open(path: Path | str, verify: bool) -> Portable:
    opened = open_portable(path)
    if verify:
        opened.verify()
    return opened


def _state_of(accelerator: "Accelerator", path: Path | str, opened: Portable) -> TrainState:
    """A state of the model, optimizer and average that a checkpoint describes.

    Raises:
        CheckpointError: it is of a model of the user's own, or describes what crosstrain cannot make.
    """
    manifest, weights = opened.manifest, opened.snapshot.params
    if manifest.model is None:
        raise CheckpointError(
            f"{path} must be of a model of ct.models to be restored without a state, got one of a model of your own. "
            "Prepare that model and pass the state: accelerator.restore(path, state)."
        )
    config = rebuild("model", manifest.model, ModelConfig)  # type: ignore[type-abstract]
    optimizer = None if manifest.optimizer is None else rebuild("optimizer", manifest.optimizer, OptimizerSpec)
    average = None if manifest.average is None else rebuild("average", manifest.average, Averaging)
    shapes = {name: each.shape for name, each in config.parameters().items()}
    _fit(path, lambda: check_names("params", shapes, weights))
    return accelerator.prepare(accelerator._build_model(config, weights), optimizer, average=average)


def put_back(
    accelerator: "Accelerator",
    path: Path | str,
    load: Callable[[], None],
    loader: Positioned | None,
    manifest: Manifest,
) -> None:
    """Moves the loader and loads the state, or neither. No process loads before all have moved their loaders.

    Raises:
        CheckpointError: it does not fit; says what.
    """
    if loader is None:
        on_all(accelerator, lambda: _fit(path, load))
        return
    position = manifest.data
    if position is None:
        raise CheckpointError(f"{path} must hold a position in the data, got none. Save with loader=..., too.")
    before = loader.state_dict()
    try:
        on_all(accelerator, lambda: _fit(path, lambda: loader.load_state_dict(dict(position))))
        on_all(accelerator, lambda: _fit(path, load))
    except Exception:
        loader.load_state_dict(before)
        raise


def _fit(path: Path | str, work: Callable[[], None]) -> None:
    try:
        work()
    except ValueError as error:
        raise CheckpointError(f"{path} does not fit: {error}") from error


def make_manifest(accelerator: "Accelerator", state: TrainState, loader: Positioned | None, **others: Any) -> Manifest:
    """What is known of a state at this moment; `others` as in `Manifest`."""
    return Manifest(
        step=state.step,
        backend=accelerator.backend,
        seed=accelerator.seed,
        precision=asdict(accelerator.precision),
        optimizer=describe(state.optimizer) if state.is_trainable else None,
        average=describe(state.average),
        model=describe(state.model_config),
        data=loader.state_dict() if loader is not None else None,
        **others,
    )


def _write(folder: Path, snapshot: Snapshot, shard_bytes: int) -> dict[str, tuple[Shard, ...]]:
    return {
        name: tuple(write_shards(folder, name.replace("/", "-"), arrays, shard_bytes))
        for name, arrays in snapshot.sections().items()
        if len(arrays)
    }


def _read_all(snapshot: Snapshot) -> None:
    """Reading an array that is split over processes takes all of them."""
    for arrays in snapshot.sections().values():
        for name in arrays:
            arrays[name]
