"""Files of a checkpoint: checksums, and directories that appear under their name only when all of them are there."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from crosstrain.errors import CheckpointError


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRecord:
    """One file.

    Attributes:
        file: its path in the checkpoint's directory.
        sha256: of its bytes, hexadecimal.
        size: in bytes.
    """

    file: str
    sha256: str
    size: int


def record_file(folder: Path, path: Path) -> FileRecord:
    """The record of a file in `folder`."""
    return FileRecord(file=path.relative_to(folder).as_posix(), sha256=_digest(path), size=path.stat().st_size)


def verify_file(folder: Path, record: FileRecord) -> None:
    """Reads a file and compares its size and checksum.

    Raises:
        CheckpointError: names the file that is missing or damaged.
    """
    path = folder / record.file
    if not path.is_file():
        raise CheckpointError(f"{path} must exist, but is missing. Restore an earlier checkpoint.")
    if path.stat().st_size != record.size:
        raise CheckpointError(
            f"{path} must have {record.size} bytes, got {path.stat().st_size}: it is truncated or was written over. "
            "Restore an earlier checkpoint."
        )
    found = _digest(path)
    if found != record.sha256:
        raise CheckpointError(
            f"{path} must have the checksum {record.sha256[:12]}, got {found[:12]}: it is damaged. "
            "Restore an earlier checkpoint."
        )


@contextlib.contextmanager
def committed(folder: Path) -> Iterator[Path]:
    """A directory beside `folder` that takes its name when all is written, and goes away when anything fails.

    Raises:
        CheckpointError: the disk is full, or the place cannot be written.
    """
    draft = None
    with refused_writes(folder):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            draft = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp"
            draft.mkdir()
            yield draft
            commit(draft, folder)
        except BaseException:
            if draft is not None:
                shutil.rmtree(draft, ignore_errors=True)
            raise


@contextlib.contextmanager
def refused_writes(folder: Path) -> Iterator[None]:
    """Turns what the system says of a failed write into an error that says what to do.

    Raises:
        CheckpointError: the disk is full, or the place cannot be written.
    """
    import safetensors

    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{folder} must be a place to write to, got: {error}. Earlier checkpoints are as they were. "
            "Free space or permissions, or choose another directory."
        ) from error


def lock(root: Path) -> IO[str]:
    """Keeps other jobs from writing to a directory until the file is closed, or this process ends in any way.

    Raises:
        CheckpointError: another job writes there.
    """
    file = (root / ".lock").open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise CheckpointError(
            f"only one job may write to {root}, got a second one. Wait for the other to end, or use another directory."
        ) from error
    return file


def commit(draft: Path, folder: Path) -> None:
    """Gives a written directory its name, in one operation of the file system."""
    sync(draft)
    draft.rename(folder)
    sync(folder.parent)


def sync(path: Path) -> None:
    """Returns once a file or a directory is on the disk, as far as the system says."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
