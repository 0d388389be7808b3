"""Arrays in safetensors files: written one file at a time, read one array at a time."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from crosstrain.checkpoint.files import FileRecord, record_file, sync
from crosstrain.errors import CheckpointError
from crosstrain.snapshot import LazyArrays, shape_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard(FileRecord):
    """One file of arrays.

    Attributes:
        names: of the arrays in it.
    """

    names: tuple[str, ...]


def write_shards(folder: Path, stem: str, arrays: Mapping[str, np.ndarray], shard_bytes: int) -> list[Shard]:
    """Writes arrays to `stem-00001.safetensors` and so on, each of at most `shard_bytes` (or one array).

    Memory holds one file's arrays at a time: the next array is read when the file before it is written. Where a wider
    type follows a narrower one, a file can be larger by that.
    """
    shards: list[Shard] = []
    group: dict[str, np.ndarray] = {}
    width = 0
    for name in arrays:
        size = sum(array.nbytes for array in group.values()) + width * math.prod(shape_of(arrays, name))
        if group and size > shard_bytes:
            shards.append(_write(folder / f"{stem}-{len(shards) + 1:05d}.safetensors", group))
            group.clear()
        group[name] = arrays[name]
        width = max(width, group[name].itemsize)
    if group:
        shards.append(_write(folder / f"{stem}-{len(shards) + 1:05d}.safetensors", group))
    return shards


def read_shards(folder: Path, shards: Iterable[Shard]) -> LazyArrays:
    """All arrays of some files, read from them when asked for.

    Raises:
        CheckpointError: a file that is missing, truncated or no safetensors file, or arrays that are not in it.
    """
    readers: dict[str, tuple[tuple[int, ...], Callable[[], np.ndarray]]] = {}
    for shard in shards:
        path = folder / shard.file
        shapes = _shapes(path)
        missing = sorted(set(shard.names) - set(shapes))
        if missing:
            raise CheckpointError(f"{path} must hold the arrays {', '.join(missing[:3])}, got a file without them.")
        readers |= {name: (shapes[name], partial(_read, path, name)) for name in shard.names}
    return LazyArrays(readers)


def _write(path: Path, arrays: dict[str, np.ndarray]) -> Shard:
    import safetensors.numpy

    # The library writes memory as it lies, whatever the strides say.
    safetensors.numpy.save_file({name: np.require(array, requirements="C") for name, array in arrays.items()}, path)
    # The library makes files that only their owner may read; the directory knows who may.
    path.chmod(path.parent.stat().st_mode & 0o666)
    sync(path)
    record = record_file(path.parent, path)
    return Shard(file=record.file, sha256=record.sha256, size=record.size, names=tuple(arrays))


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} must exist, but is missing. Restore an earlier checkpoint.") from error
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} must be a safetensors file, got one that cannot be read ({error}): it is truncated or damaged. "
            "Restore an earlier checkpoint."
        ) from error


def _read(path: Path, name: str) -> np.ndarray:
    import safetensors

    with safetensors.safe_open(path, framework="numpy") as file:
        return file.get_tensor(name)
