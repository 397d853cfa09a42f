"""TensorBoard's event files, made from the tables, so that a resumed run shows no point twice."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Events:
    """Scalars for TensorBoard, written at once (no thread that could swallow a full disk's error).

    Without the package tensorboard nothing is written; the tables hold the same numbers.

    Args:
        folder: where older event files are replaced by a new one.
    """

    def __init__(self, folder: Path) -> None:
        self._records: Any = None
        try:
            from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
            from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
        except ImportError:
            return
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._event = Event
        self._file = open(folder / f"events.out.tfevents.{int(time.time())}.run", "wb")  # noqa: SIM115 (closed by close)
        self._records = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def scalars(self, step: int, values: Mapping[str, Any], wall_time: float | None = None) -> None:
        """Adds one point to each named curve."""
        if self._records is None or not values:
            return
        event = self._event(wall_time=time.time() if wall_time is None else wall_time, step=step)
        for name, value in values.items():
            event.summary.value.add(tag=name, simple_value=float(value))
        self._write(event)

    def flush(self) -> None:
        """Hands everything written so far to the system."""
        if self._records is not None:
            self._file.flush()

    def close(self) -> None:
        """Ends the file."""
        if self._records is not None:
            self._file.close()

    def _write(self, event: Any) -> None:
        self._records.write(event.SerializeToString())
