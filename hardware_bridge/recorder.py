r"""Everything that happened, on disk before it is acknowledged: commands, readings, frames, faults, steps.

A file is a header and then records, each framed by its length and a checksum, only ever appended. ``step``
returns when what it wrote is on the disk, so a step that was acknowledged survives ``kill -9`` and a power
cut; the records between two steps are with the next step's. A tail that was torn off while being written is
cut when the file is opened again, and kept beside it. Damage anywhere else is never repaired silently: it is
named with its offset.

::

    header   8 bytes   b"MELDREC1"
    record   4 bytes   b"\xc3REC", by which reading finds its feet again after damage
             4         length of the body
             4         CRC-32 of the body
             body      kind (1), sequence (8), monotonic ns (8), wall-clock ns (8), length of the text (4),
                       text (JSON: the values; of arrays type, shape, place), bytes of the arrays
    all numbers little-endian

Time is monotonic; the wall clock stands beside it as a note and is used for nothing.

Arrays are stored as they are. Deflating them (level 1) is tried, and kept where it saves a quarter: of frames
of 64×128×3 bytes it left 28 % of rendered ones, in 0.2 ms, and 87 % of ones with a camera's noise (standard
deviation 3), in 0.5 ms. Recording a step with a frame of noise took 12 ms (median of 300; p99 24 ms), nearly
all of it waiting for a virtual disk (appending and syncing alone: 7 ms), of the 303 ms of a step at 3.3 Hz;
reading goes at 190 MB/s. All on a busy machine with two cores.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

HEADER = b"MELDREC1"
MARK = b"\xc3REC"
_FRAME = struct.Struct("<4sII")
_BODY = struct.Struct("<BQqqI")
#: A length beyond this is damage, and not a record.
MAX_BODY = 1 << 28

#: What a record may be; the file holds the number.
KINDS = {"meta": 0, "command": 1, "reading": 2, "frame": 3, "fault": 4, "step": 5, "packet": 6, "note": 7}
_NAMES = {number: name for name, number in KINDS.items()}


class RecorderError(Exception):
    """Recording cannot go on, or a recording cannot be read: what, where, and what to do."""


class Damaged(RecorderError):  # noqa: N818 - what it says of the file
    """Bytes that are no record. ``offset``: of the damage in the file; ``after``: the last good sequence."""

    def __init__(self, path: Path, offset: int, why: str, after: int, torn: bool) -> None:
        self.path, self.offset, self.why, self.after, self.torn = path, offset, why, after, torn
        place = "its end was torn off" if torn else "good records follow"
        super().__init__(
            f"{path}: damaged at byte {offset}, after record {after}: {why}; {place}. "
            "Copy the file before anything else; `records(path, skip_damaged=True)` reads what is good"
        )


@dataclass(frozen=True)
class Record:
    """One record.

    Attributes:
        kind: one of ``KINDS``.
        sequence: 0, 1, 2, ... in the file.
        at: monotonic (s); of one boot of one machine.
        wall: seconds since 1970 by the wall clock, for people.
        values: what was recorded; arrays as numpy arrays, read-only.
        offset: where it begins in the file.
    """

    kind: str
    sequence: int
    at: float
    wall: float
    values: Mapping[str, Any]
    offset: int


@dataclass(frozen=True)
class Recovery:
    """What was cut when a file was opened again. ``kept``: the file that holds the bytes that were cut."""

    offset: int
    length: int
    why: str
    kept: Path


# Writing -------------------------------------------------------------------------------------------


class Recorder:
    """Appends to one file; opened again, it goes on after the last good record.

    Args:
        path: the file; its folder must exist.
        compress: whether to try to deflate arrays.
        clock: monotonic time (ns).
        wall_clock: wall-clock time (ns).

    Attributes:
        next_sequence: of the record that comes next.
        recovered: what was cut on opening, or None.

    Raises:
        RecorderError: it cannot be opened or written.
        Damaged: it is damaged elsewhere than at its end.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        compress: bool = True,
        clock: Callable[[], int] = time.monotonic_ns,
        wall_clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.path = Path(path)
        self._compress, self._clock, self._wall_clock = compress, clock, wall_clock
        self.recovered: Recovery | None = None
        self._failed = ""
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise RecorderError(f"{self.path}: cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._end, self.next_sequence = self._take_up()
        except BlockingIOError:
            os.close(self._file)
            raise RecorderError(
                f"{self.path}: another program records into it; choose another file"
            ) from None
        except BaseException:
            os.close(self._file)
            raise

    def _take_up(self) -> tuple[int, int]:
        """Where to go on: the file's good end and the next sequence number."""
        if os.fstat(self._file).st_size == 0:
            self._end = 0
            self._append(HEADER)
            self._sync()
            _sync_folder(self.path.parent)
            return len(HEADER), 0
        end, sequence = len(HEADER), -1
        try:
            for record, after in _scan(self.path):
                end, sequence = after, record.sequence
        except Damaged as damage:
            if not damage.torn:
                raise
            self._cut(damage)
            if damage.offset == 0:  # not even the header was written
                return self._take_up()
            end = damage.offset
        return end, sequence + 1

    def _cut(self, damage: Damaged) -> None:
        kept = self.path.with_name(f"{self.path.name}.torn-{damage.offset}")
        with open(self.path, "rb") as file:
            file.seek(damage.offset)
            torn = file.read()
        try:
            with open(kept, "wb") as copy:  # on the disk before it is cut from the file
                copy.write(torn)
                copy.flush()
                os.fsync(copy.fileno())
            _sync_folder(kept.parent)
            os.ftruncate(self._file, damage.offset)
            os.fsync(self._file)
        except OSError as error:
            raise RecorderError(
                f"{self.path}: its torn end cannot be cut and kept as {kept.name}: {error.strerror}"
            ) from error
        self.recovered = Recovery(damage.offset, len(torn), damage.why, kept)

    def close(self) -> None:
        """Waits until all is on the disk."""
        if self._file >= 0:
            try:
                if not self._failed:
                    self._sync()
            finally:
                os.close(self._file)
                self._file = -1

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def append(self, kind: str, values: Mapping[str, Any]) -> int:
        """Records values; they are on the disk with the next step. Returns the record's sequence number.

        Args:
            kind: one of ``KINDS``.
            values: JSON's types, and numpy arrays and numbers, nested in dictionaries and lists.

        Raises:
            KeyError: an unknown kind.
            TypeError: a value that cannot be recorded; says which.
            RecorderError: it could not be written, or something before it could not.
        """
        if kind not in KINDS:
            raise KeyError(f"no record of kind {kind!r}; there are {', '.join(KINDS)}")
        if self._file < 0 or self._failed:
            raise RecorderError(f"{self.path}: {self._failed or 'it is closed'}; open it again")
        buffers: list[bytes] = []
        text = json.dumps(self._plain(values, buffers, kind), separators=(",", ":")).encode()
        sequence = self.next_sequence
        prefix = _BODY.pack(KINDS[kind], sequence, self._clock(), self._wall_clock(), len(text))
        body = b"".join((prefix, text, *buffers))
        if len(body) > MAX_BODY:
            raise RecorderError(f"{self.path}: a record of {len(body)} bytes is larger than {MAX_BODY}")
        self._append(_FRAME.pack(MARK, len(body), zlib.crc32(body)) + body)
        self.next_sequence += 1
        return sequence

    def step(self, values: Mapping[str, Any]) -> int:
        """Records a step; when it returns, the step and everything before it is on the disk.

        Only then may the step be given to a learner. See ``append``.
        """
        sequence = self.append("step", values)
        self._sync()
        return sequence

    def _append(self, data: bytes) -> None:
        """Writes all of it or nothing."""
        start = self._end
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            self._fail(error)
        self._end = start + len(data)

    def _sync(self) -> None:
        try:
            os.fsync(self._file)
        except OSError as error:
            # After a failed fsync the kernel may have dropped the pages: trying again would lie.
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self._failed = f"writing failed at byte {self._end}: {error.strerror}"
        with contextlib.suppress(OSError):  # else the torn tail is cut on opening again
            os.ftruncate(self._file, self._end)
        raise RecorderError(
            f"{self.path}: {self._failed}. What was acknowledged is safe; make room and open it again"
        ) from error

    def _plain(self, value: Any, buffers: list[bytes], where: str) -> Any:
        """``value`` in JSON's types, its arrays replaced by their descriptions."""
        if isinstance(value, Mapping):
            bad = [key for key in value if not isinstance(key, str) or key == "__array__"]
            if bad:
                raise TypeError(f"{where}: {bad[0]!r} cannot be a name in a record")
            return {key: self._plain(item, buffers, f"{where}.{key}") for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._plain(item, buffers, f"{where}[{i}]") for i, item in enumerate(value)]
        if isinstance(value, np.ndarray):
            return self._array(value, buffers, where)
        if isinstance(value, np.generic):
            return self._array(np.asarray(value), buffers, where)
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, (bytes, bytearray)):
            return self._array(np.frombuffer(bytes(value), dtype=np.uint8), buffers, where)
        raise TypeError(f"{where}: {type(value).__name__} cannot be recorded")

    def _array(self, array: np.ndarray, buffers: list[bytes], where: str) -> dict[str, Any]:
        if array.dtype.hasobject or array.dtype.names is not None:
            raise TypeError(f"{where}: an array of {array.dtype} cannot be recorded")
        data, codec = np.ascontiguousarray(array).tobytes(), "raw"
        if self._compress and len(data) >= 1024:
            deflated = zlib.compress(data, 1)
            if len(deflated) <= 0.75 * len(data):
                data, codec = deflated, "zlib"
        place = sum(map(len, buffers))
        buffers.append(data)
        return {"__array__": [array.dtype.str, list(array.shape), codec, place, len(data)]}


def _sync_folder(folder: Path) -> None:
    """A new file is on the disk only when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Reading -------------------------------------------------------------------------------------------


def records(path: str | os.PathLike[str], *, skip_damaged: bool = False) -> Iterator[Record]:
    """All records of a file, in order, as they were recorded.

    Args:
        path: the file; it may be written to meanwhile.
        skip_damaged: pass over damage to the next good record; the sequence numbers show the gap.

    Raises:
        RecorderError: it is no recording, or cannot be opened.
        Damaged: at the first damage, all good records before it having been given; a torn tail included.
    """
    for record, _ in _scan(Path(path), skip_damaged):
        yield record


def _scan(path: Path, skip_damaged: bool = False) -> Iterator[tuple[Record, int]]:
    """Records with the offsets of their ends."""
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below, when the generator ends
    except OSError as error:
        raise RecorderError(f"{path}: cannot be opened: {error.strerror}") from error
    with file:
        size = os.fstat(file.fileno()).st_size
        header = file.read(len(HEADER))
        if header != HEADER:
            if HEADER.startswith(header):
                raise Damaged(path, 0, "the header is incomplete", -1, torn=True)
            raise RecorderError(f"{path}: is no recording: it begins with {header!r}, not {HEADER!r}")
        offset, expected = len(HEADER), 0
        while offset < size:
            file.seek(offset)
            body, why = _read_body(file, size - offset)
            if not why:
                record, why = _parse(body, offset, None if skip_damaged else expected)
            if why:
                following = _find_good(path, offset + 1)
                if skip_damaged and following is not None:
                    offset = following
                    continue
                if skip_damaged:
                    return
                raise Damaged(path, offset, why, expected - 1, torn=following is None)
            assert record is not None
            offset += _FRAME.size + len(body)
            expected = record.sequence + 1
            yield record, offset


def _read_body(file: Any, left: int) -> tuple[bytes, str]:
    """A record's body, checked, and "" or what is wrong with it."""
    frame = file.read(_FRAME.size)
    if len(frame) < _FRAME.size:
        return b"", f"{len(frame)} bytes of a record's first {_FRAME.size}"
    mark, length, checksum = _FRAME.unpack(frame)
    if mark != MARK:
        return b"", f"no record begins with {mark.hex(' ')}"
    if not _BODY.size <= length <= MAX_BODY:
        return b"", f"no record has {length} bytes"
    if length > left - _FRAME.size:
        return b"", f"{left - _FRAME.size} of a record's {length} bytes"
    body = file.read(length)
    found = zlib.crc32(body)
    if found != checksum:
        return b"", f"the checksum is {found:08x}, should be {checksum:08x}"
    return body, ""


def _find_good(path: Path, offset: int) -> int | None:
    """Where the next good record begins, at or after an offset."""
    data = np.memmap(path, mode="r", dtype=np.uint8)
    size = len(data)
    with open(path, "rb") as file:
        while True:
            offset = _find_mark(data, offset)
            if offset < 0:
                return None
            file.seek(offset)
            if not _read_body(file, size - offset)[1]:
                return offset
            offset += 1


def _find_mark(data: np.ndarray, start: int) -> int:
    """Offset of the next mark, −1 if there is none; in blocks that overlap by a mark."""
    block = 1 << 20
    while start < len(data):
        found = data[start : start + block + len(MARK)].tobytes().find(MARK)
        if found >= 0:
            return start + found
        start += block
    return -1


def _parse(body: bytes, offset: int, expected: int | None) -> tuple[Record | None, str]:
    number, sequence, at, wall, length = _BODY.unpack_from(body)
    if number not in _NAMES:
        return None, f"there is no kind {number}"
    if expected is not None and sequence != expected:
        return None, f"it is record {sequence}, should be {expected}"
    start = _BODY.size + length
    try:
        values = _restore(json.loads(body[_BODY.size : start]), memoryview(body)[start:])
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        return None, f"its checksum is right, its contents are not: {error}"
    return Record(_NAMES[number], sequence, at / 1e9, wall / 1e9, values, offset), ""


def _restore(value: Any, buffers: memoryview) -> Any:
    if isinstance(value, list):
        return [_restore(item, buffers) for item in value]
    if not isinstance(value, dict):
        return value
    if "__array__" not in value:
        return {key: _restore(item, buffers) for key, item in value.items()}
    kind, shape, codec, place, length = value["__array__"]
    data: Any = buffers[place : place + length]
    if codec == "zlib":
        data = zlib.decompress(data)
    elif codec != "raw":
        raise ValueError(f"unknown codec {codec!r}")
    array = np.frombuffer(bytes(data), dtype=np.dtype(kind)).reshape(shape)
    return array  # read-only, for it shares the bytes


# Uses ----------------------------------------------------------------------------------------------


def replay(
    path: str | os.PathLike[str],
    *,
    speed: float = 1.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Record]:
    """The steps of a recording, each when it was recorded, counted from the first.

    A step that the consumer is too late for comes at once; lateness does not add up. After a record of kind
    ``meta``, with which a session begins, time is counted anew: nobody waits for what lay between two.

    Args:
        path: the file.
        speed: 2 is twice as fast; infinite is as fast as can be.
        clock: monotonic time (s).
        sleep: waits so many s.

    Raises:
        ValueError: a speed that is not above 0.
    """
    if not speed > 0:
        raise ValueError(f"speed: must be above 0, got {speed!r}")
    first: float | None = None
    began = 0.0
    for record in records(path):
        if record.kind == "meta":
            first = None
        if record.kind != "step":
            continue
        if first is None:
            first, began = record.at, clock()
        wait = began + (record.at - first) / speed - clock()
        if wait > 0:
            sleep(wait)
        yield record


def episodes(path: str | os.PathLike[str]) -> Iterator[dict[str, np.ndarray]]:
    """The steps of a recording as episodes: each named value stacked along the first axis.

    A step whose value ``episode_start`` is true begins an episode. ``at`` and ``sequence`` are added.

    Raises:
        RecorderError: steps of one episode hold different values; says where.
    """
    steps: list[Record] = []
    for record in records(path):
        if record.kind != "step":
            continue
        if steps and bool(record.values.get("episode_start", False)):
            yield _stack(path, steps)
            steps = []
        steps.append(record)
    if steps:
        yield _stack(path, steps)


def _stack(path: str | os.PathLike[str], steps: list[Record]) -> dict[str, np.ndarray]:
    names = set(steps[0].values)
    stacked = {
        "at": np.array([step.at for step in steps]),
        "sequence": np.array([step.sequence for step in steps]),
    }
    for step in steps:
        if set(step.values) != names:
            differing = sorted(set(step.values) ^ names)
            raise RecorderError(
                f"{path}: step {step.sequence} differs from its episode's first in {differing}"
            )
    for name in sorted(names):
        try:
            stacked[name] = np.stack([np.asarray(step.values[name]) for step in steps])
        except ValueError as error:
            raise RecorderError(f"{path}: {name} changes its shape within an episode: {error}") from None
    return stacked


def export_npz(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> list[Path]:
    """Writes each episode of a recording as a file of numpy's, and returns the files.

    Raises:
        RecorderError: a value of a step is neither a number, a text nor an array of these.
        FileExistsError: the folder holds such files already.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, episode in enumerate(episodes(path)):
        objects = [name for name, array in episode.items() if array.dtype.hasobject]
        if objects:
            raise RecorderError(
                f"{path}: {objects[0]} cannot be exported: it is no array of numbers or texts"
            )
        file = folder / f"episode_{number:05d}.npz"
        with open(file, "xb") as stream:
            np.savez_compressed(stream, **episode)  # type: ignore[arg-type]
        files.append(file)
    return files


def export_minari(
    path: str | os.PathLike[str],
    dataset: str,
    *,
    observation: str = "observation",
    action: str = "action",
    reward: str = "reward",
    description: str = "",
    **more: Any,
) -> Any:
    """Makes a Minari dataset of a recording, frames as they are (Minari's default would store lossy JPEGs).

    A step holds what was seen, and the action and the reward that led to it; those of an episode's first step
    led to nothing and are left out. Minari keeps datasets under ``MINARI_DATASETS_PATH``.

    Args:
        path: the file.
        dataset: Minari's name for it, such as ``"widowx/ethernet-v0"``.
        observation: its name in a step.
        action: its name in a step.
        reward: its name in a step.
        description: for people.
        **more: further arguments of ``minari.create_dataset_from_buffers``, such as ``author``.

    Returns:
        The ``minari.MinariDataset``.

    Raises:
        ImportError: Minari is not installed; says how to.
        RecorderError: no episode of two steps, or one without these values.
    """
    try:
        import minari
        from minari.data_collector import EpisodeBuffer
    except ImportError as error:
        raise ImportError(f'{error}: the export needs `pip install "meld-suite[minari]"`') from error
    buffers: list[Any] = []
    for episode in episodes(path):
        missing = [name for name in (observation, action, reward) if name not in episode]
        if missing:
            raise RecorderError(
                f"{path}: steps hold no {missing[0]!r}; they hold {', '.join(sorted(episode))}"
            )
        length = len(episode["at"]) - 1
        if length < 1:
            continue  # begun, and nothing done
        ended = [step == length - 1 for step in range(length)]
        buffers.append(
            EpisodeBuffer(
                id=len(buffers),
                observations=list(episode[observation]),
                actions=list(episode[action][1:]),
                rewards=list(episode[reward][1:].astype(np.float64)),
                terminations=[False] * length,
                truncations=ended,
            )
        )
    if not buffers:
        raise RecorderError(f"{path}: holds no episode of two steps or more")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of what is not named: an author, an environment, ...
        return minari.create_dataset_from_buffers(
            dataset,
            buffers,
            observation_space=_space(buffers[0].observations[0]),
            action_space=_space(buffers[0].actions[0]),
            description=description or f"recorded by meld-suite's hardware bridge ({Path(path).name})",
            data_format="hdf5",
            jpeg_encoding=False,
            **more,
        )


def _space(example: np.ndarray) -> Any:
    from gymnasium.spaces import Box

    low, high = (0, 255) if example.dtype == np.uint8 else (-np.inf, np.inf)
    return Box(low, high, example.shape, example.dtype.type)
