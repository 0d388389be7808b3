"""Runs as files that need no library: JSON lines and CSV."""

import csv
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from crosstrain.errors import ConfigError
from crosstrain.metrics import plain
from crosstrain.trackers.base import Value


class _File:
    """A file of records, one a line, that is whole after every one of them.

    A run that begins at step 0 moves an older file aside, to the first free of NAME.1.EXT, NAME.2.EXT and so on. One
    that goes on drops the records of steps that it takes again, and a last line that was not finished.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise ConfigError(f"path must be a file, got {self.path}, which is a directory.")
        self._file: IO[str] | None = None

    def finish(self, error: BaseException | None) -> None:
        """See `Tracker`."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, step: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            if step == 0:
                self._move_aside()
            else:
                self._rewrite(each for each in self._read() if int(each["step"]) <= step)
        self._file = self.path.open("a", newline="", encoding="utf-8")

    def _move_aside(self) -> int:
        number = 1
        while (aside := self.path.with_suffix(f".{number}{self.path.suffix}")).exists():
            number += 1
        self.path.rename(aside)
        return number

    def _rewrite(self, records: Iterable[Mapping[str, Any]]) -> None:
        """All at once or not at all."""
        with tempfile.NamedTemporaryFile(
            "w", prefix=self.path.name, dir=self.path.parent, newline="", encoding="utf-8", delete=False
        ) as file:
            self._write(file, list(records))
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(self.path, file.name)  # a temporary file is its owner's alone
        os.replace(file.name, self.path)

    def _read(self) -> list[dict[str, Any]]:
        raise NotImplementedError

    def _write(self, file: IO[str], records: list[Mapping[str, Any]]) -> None:
        raise NotImplementedError


class JsonLines(_File):
    """One JSON object per line: `{"step": 10, "epoch": 0, "train/loss": 1.5, ...}`.

    Before them stands `{"step": 0, "config": {...}}`, and again when a run goes on with other settings. Numbers that
    are not finite are strings, `"nan"` or `"inf"`, which Python's `float` reads.

    Args:
        path: the file; its directory is made.

    Raises:
        ConfigError: the path is a directory.
    """

    def start(self, config: Mapping[str, Value], step: int) -> None:
        """See `Tracker`."""
        self._open(step)
        known = [each["config"] for each in self._read() if "config" in each]
        if not known or known[-1] != plain(config):
            self._append({"step": step, "config": plain(config)})

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._append({"step": step, **plain(values)})

    def _append(self, record: Mapping[str, Any]) -> None:
        assert self._file is not None
        self._write(self._file, [record])
        self._file.flush()

    def _read(self) -> list[dict[str, Any]]:
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def _write(self, file: IO[str], records: list[Mapping[str, Any]]) -> None:
        file.writelines(json.dumps(each, allow_nan=False) + "\n" for each in records)


class Csv(_File):
    """One row per logged step or evaluation; what it does not have is empty. The settings go to NAME.config.json.

    An older file that is moved aside takes its settings with it, to NAME.1.config.json and so on.

    A metric that comes later becomes a column of the whole file.

    Args:
        path: the file; its directory is made.

    Raises:
        ConfigError: the path is a directory.
    """

    def start(self, config: Mapping[str, Value], step: int) -> None:
        """See `Tracker`."""
        self._open(step)
        self._read()
        self._settings.write_text(json.dumps(plain(config), indent=2) + "\n", encoding="utf-8")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        record = {"step": step, **plain(values)}
        assert self._file is not None
        if not record.keys() <= set(self._columns):
            records = self._read()
            self._columns += [name for name in record if name not in self._columns]
            self._file.close()
            self._rewrite([*records, record])
            self._file = self.path.open("a", newline="", encoding="utf-8")
        else:
            csv.DictWriter(self._file, self._columns).writerow(record)
            self._file.flush()

    @property
    def _settings(self) -> Path:
        return self.path.with_suffix(".config.json")

    def _move_aside(self) -> int:
        number = super()._move_aside()
        if self._settings.exists():
            self._settings.rename(self._settings.with_suffix("").with_suffix(f".{number}.config.json"))
        return number

    def _read(self) -> list[dict[str, Any]]:
        with self.path.open(newline="", encoding="utf-8") as file:
            text = file.read()
        rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
        self._columns = list(rows.fieldnames or [])
        return list(rows)

    def _write(self, file: IO[str], records: list[Mapping[str, Any]]) -> None:
        writer = csv.DictWriter(file, self._columns)
        writer.writeheader()
        writer.writerows(records)
