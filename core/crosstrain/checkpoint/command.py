"""`crosstrain checkpoint inspect|verify|diff|convert`: portable and native checkpoints from the command line."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.table import Table
from rich.text import Text

from crosstrain.checkpoint.files import committed
from crosstrain.checkpoint.manifest import Manifest, read_manifest, verify_files
from crosstrain.checkpoint.portable import SHARD_BYTES, open_portable
from crosstrain.checkpoint.shards import write_shards
from crosstrain.errors import CheckpointError
from crosstrain.snapshot import LazyArrays, shape_of
from crosstrain.terminal import plain_console

_SHOWN = 20
Folder = Annotated[Path, tyro.conf.Positional]


def inspect(path: Folder) -> int:
    """Shows what a checkpoint is of.

    Args:
        path: its directory.
    """
    manifest = read_manifest(path)
    console = plain_console()
    facts = Table(show_header=False, title=str(path), title_justify="left")
    for name, value in _facts(manifest).items():
        facts.add_row(name, Text(value))
    console.print(facts)
    arrays = Table(title="arrays", title_justify="left")
    for head in ("section", "arrays", "numbers", "bytes"):
        arrays.add_column(head, justify="left" if head == "section" else "right")
    for row in _sizes(path, manifest):
        arrays.add_row(*row)
    console.print(arrays)
    return 0


def verify(path: Folder) -> int:
    """Reads every file of a checkpoint and compares its checksum.

    Args:
        path: its directory.

    Returns:
        The exit status: 0 when it is whole.
    """
    manifest = read_manifest(path)
    verify_files(path, manifest)
    size = sum(record.size for record in manifest.all_files)
    plain_console().print(f"whole: {len(manifest.all_files)} files, {size:,} bytes, step {manifest.step}")
    return 0


def diff(a: Folder, b: Folder) -> int:
    """Compares two portable checkpoints, of either engine, array by array.

    Args:
        a: directory of the one.
        b: directory of the other, the reference of relative differences.

    Returns:
        The exit status: 0 when all arrays are equal.
    """
    one, other = (open_portable(path).snapshot.sections() for path in (a, b))
    names = [name for name in {**one, **other} if name != "native"]  # each engine has its own
    rows = [row for name in names for row in _differences(name, one.get(name, {}), other.get(name, {}))]
    console = plain_console()
    if not rows:
        console.print("equal in every array")
        return 0
    table = Table(title=f"{len(rows)} arrays differ", title_justify="left")
    for head in ("array", "largest difference", "relative"):
        table.add_column(head, overflow="fold")
    for row in rows[:_SHOWN]:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
    if len(rows) > _SHOWN:
        console.print(f"and {len(rows) - _SHOWN} more")
    return 1


def convert(
    path: Folder,
    out: Folder,
    /,
    what: Literal["params", "averages"] = "params",
    dtype: Literal["float64", "float32", "float16", "same"] = "same",
    shard_bytes: int = SHARD_BYTES,
) -> int:
    """Writes the weights of a portable checkpoint as plain safetensors files, with the index that other tools read.

    Args:
        path: directory of the checkpoint.
        out: directory that does not exist yet.
        what: the weights, or their average.
        dtype: type of floating arrays in the new files.
        shard_bytes: size of a file.
    """
    if out.exists():
        raise CheckpointError(f"out must not exist yet, got {out}, which does. Choose another, or remove it.")
    arrays = open_portable(path).snapshot.sections()[what]
    if not len(arrays):
        raise CheckpointError(f"{path} must hold {what}, got none. It was trained without an average.")
    converted = LazyArrays({name: (shape_of(arrays, name), partial(_as_type, arrays, name, dtype)) for name in arrays})
    with committed(out) as draft:
        shards = write_shards(draft, "model", converted, shard_bytes)
        where = {name: shard.file for shard in shards for name in shard.names}
        index = {"metadata": {"total_size": sum(shard.size for shard in shards)}, "weight_map": where}
        (draft / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
    plain_console().print(f"wrote {out}: {len(shards)} files, {len(where)} arrays")
    return 0


def _facts(manifest: Manifest) -> dict[str, str]:
    facts: dict[str, Any] = {
        "kind": "native" if manifest.files else "portable",
        "step": manifest.step,
        "written by": f"crosstrain {manifest.crosstrain}, {manifest.backend} engine",
        "seed": manifest.seed,
        "precision": json.dumps(dict(manifest.precision)),
        "model": _spec(manifest.model),
        "optimizer": _spec(manifest.optimizer),
        "average": _spec(manifest.average),
        "data": "none" if manifest.data is None else json.dumps(dict(manifest.data)),
        "progress": json.dumps(dict(manifest.progress)),
        "metrics": json.dumps(dict(manifest.metrics)),
        "config": json.dumps(dict(manifest.config)),
    }
    return {name: str(value) for name, value in facts.items()}


def _spec(values: Mapping[str, Any] | None) -> str:
    fields = dict(values or {"type": "none"})
    return f"{fields.pop('type')} {json.dumps(fields) if fields else ''}"


def _sizes(path: Path, manifest: Manifest) -> list[list[str]]:
    if manifest.files:
        tables: dict[str, list[tuple[int, ...]]] = {}
        for name, shape in manifest.shapes.items():
            tables.setdefault(name.rpartition("/")[0], []).append(shape)
        rows = [[name, f"{len(shapes):,}", f"{_count(shapes):,}", ""] for name, shapes in tables.items()]
        return [*rows, ["all files", "", "", f"{sum(record.size for record in manifest.files):,}"]]
    found = open_portable(path).snapshot.sections()
    return [
        [
            name,
            f"{len(arrays):,}",
            f"{_count([shape_of(arrays, each) for each in arrays]):,}",
            f"{sum(shard.size for shard in manifest.sections[name]):,}",
        ]
        for name, arrays in found.items()
        if len(arrays)
    ]


def _count(shapes: list[tuple[int, ...]]) -> int:
    return sum(int(np.prod(shape)) for shape in shapes)


def _differences(section: str, a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> list[list[str]]:
    rows = [[f"{section}/{name}", "only in one", ""] for name in sorted(set(a) ^ set(b))]
    for name in sorted(set(a) & set(b)):
        x, y = a[name], b[name]
        if x.shape != y.shape:
            rows.append([f"{section}/{name}", f"{x.shape} against {y.shape}", ""])
        elif not np.array_equal(x, y, equal_nan=x.dtype.kind == "f"):
            apart = float(np.abs(x.astype(np.float64) - y.astype(np.float64)).max())
            scale = float(np.abs(y.astype(np.float64)).max())
            rows.append([f"{section}/{name}", f"{apart:.3g}", f"{apart / scale:.3g}" if scale else ""])
    return rows


def _as_type(arrays: Mapping[str, np.ndarray], name: str, dtype: str) -> np.ndarray:
    array = arrays[name]
    return array if dtype == "same" or array.dtype.kind != "f" else array.astype(dtype)
