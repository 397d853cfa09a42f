"""Files that survive a kill at any moment: whole-file replacement, append-only tables, locks."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.errors import RequestError


def write_whole(path: Path, content: str | bytes) -> None:
    """Replaces a file in one step: a reader, or a kill, sees the old content or the new."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Replaces a JSON file in one step."""
    write_whole(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The file's value, or None where there is no such file or it is not JSON."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def write_yaml(path: Path, value: Any) -> None:
    """Replaces a YAML file in one step."""
    write_whole(path, yaml.safe_dump(value, sort_keys=False, width=110, allow_unicode=True))


def sync_folder(folder: Path) -> None:
    """Makes renames inside the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def text_of(value: Any) -> str:
    """A cell's text: floats so that they read back exactly, truth values as 0 and 1."""
    if isinstance(value, (bool, np.bool_)):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        return repr(float(value))
    if value is None:
        return ""
    return str(value)


class Table:
    """A CSV file that only grows; every append is on the disk before the call returns.

    Opening an existing file drops a torn last line (a kill in the middle of a write).

    Args:
        path: the file; it is created with its header at the first append.
        columns: the header. An ``extensible`` table gains columns as rows bring new names.
    """

    def __init__(self, path: Path, columns: Sequence[str], extensible: bool = False) -> None:
        self.path = path
        self.columns = list(columns)
        self._extensible = extensible
        self.rows = 0
        if path.exists():
            self._reopen()

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds rows; a failed write (a full disk) leaves the file as it was.

        Raises:
            OSError: the rows could not be written.
        """
        if not rows:
            return
        new = [name for row in rows for name in row if name not in self.columns]
        if new and not self._extensible:
            raise ValueError(f"{self.path}: no column {new[0]!r}")
        if new:
            self._extend(list(dict.fromkeys(new)))
        text = "" if self.path.exists() else _line(self.columns)
        text += "".join(_line([text_of(row.get(name)) for name in self.columns]) for row in rows)
        _append_durably(self.path, text.encode())
        self.rows += len(rows)

    def cut(self, rows: int) -> None:
        """Keeps the first ``rows`` rows.

        Raises:
            ValueError: the file has fewer.
        """
        if rows > self.rows:
            raise ValueError(f"{self.path} has {self.rows} rows, {rows} were expected")
        if rows == self.rows:
            return
        self._rewrite(self._lines()[: rows + 1])
        self.rows = rows

    def _lines(self) -> list[list[str]]:
        with open(self.path, newline="") as file:
            return list(csv.reader(file))

    def _reopen(self) -> None:
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if not whole:
            self.path.unlink()
            return
        if whole != data:
            write_whole(self.path, whole)
        lines = list(csv.reader(io.StringIO(whole.decode(errors="replace"))))
        header = lines[0]
        if header[: len(self.columns)] != self.columns or (
            len(header) > len(self.columns) and not self._extensible
        ):
            raise ValueError(f"{self.path}: the columns are {header}, expected {self.columns}")
        self.columns = header
        self.rows = len(lines) - 1

    def _extend(self, names: list[str]) -> None:
        lines = self._lines() if self.path.exists() else []
        self.columns += names
        if lines:
            self._rewrite(
                [self.columns] + [line + [""] * (len(self.columns) - len(line)) for line in lines[1:]]
            )

    def _rewrite(self, lines: Sequence[Sequence[str]]) -> None:
        write_whole(self.path, "".join(map(_line, lines)))


def _line(cells: Sequence[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()


def _append_durably(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        before = os.fstat(descriptor).st_size
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Replaces a CSV file in one step."""
    lines = [_line([text_of(row.get(name)) for name in columns]) for row in rows]
    write_whole(path, "".join([_line(list(columns)), *lines]))


def read_rows(path: Path) -> list[dict[str, str]]:
    """All rows of a CSV file by column; empty where there is no file. A torn last line is left out."""
    try:
        data = path.read_bytes()
    except OSError:
        return []
    whole = data[: data.rfind(b"\n") + 1].decode(errors="replace")
    return [row for row in csv.DictReader(io.StringIO(whole)) if None not in row and None not in row.values()]


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Holds an exclusive lock that ends with the process, however it ends.

    Raises:
        RequestError: another live process holds it.
    """
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RequestError(
                f"{what} is in use by another process that is still running; wait for it or end it"
            ) from None
        yield
