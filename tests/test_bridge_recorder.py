"""The recorder: lossless, on the disk before a step is acknowledged, and honest about damage."""

from __future__ import annotations

import itertools
import math
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from hardware_bridge.recorder import (
    HEADER,
    KINDS,
    MARK,
    Damaged,
    Recorder,
    RecorderError,
    episodes,
    export_minari,
    export_npz,
    records,
    replay,
)


def values_of(number: int) -> dict:
    rng = np.random.default_rng(number)
    return {
        "image": rng.integers(0, 256, (64, 128, 3), dtype=np.uint8),
        "action": rng.normal(size=5).astype(np.float32),
        "reward": np.float32(rng.normal()),
        "episode_start": number % 4 == 0,
        "number": number,
    }


def same(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, (np.ndarray, np.generic)):
        one = np.asarray(one)
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return type(one) is type(other) and (one == other or (one != one and other != other))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.rec"


def filled(path, steps=6):
    with Recorder(path) as recorder:
        recorder.append("meta", {"profile": "widowx_mk2"})
        for number in range(steps):
            recorder.step(values_of(number))
    return list(records(path))


# ---------------------------------------------------------------- lossless


@pytest.mark.parametrize("compress", [True, False])
def test_everything_comes_back_as_it_was(path, compress):
    kept = [
        ("meta", {"name": "Jörg", "list": [1, None, [True, "x"]], "nested": {"a": {"b": 2.5}}}),
        ("command", {"goal": np.array([0.1, -0.0, math.nan, math.inf, 1e-310]), "v": np.zeros(5, "f4")}),
        ("reading", {"big": 2**70, "tiny": 5e-324, "nan": math.nan, "ticks": np.arange(6, dtype=">i2")}),
        ("frame", {"image": np.zeros((64, 128, 3), np.uint8), "noise": values_of(1)["image"]}),
        ("frame", {"view": np.arange(4096).reshape(64, 64)[::2, ::-3], "empty": np.zeros((0, 3))}),
        ("packet", {"raw": np.frombuffer(b"\xff\xff\x01\x02\x01\xfb", np.uint8), "scalar": np.int16(-3)}),
        ("fault", {}),
        ("note", {"text": "c3 52 45 43 " + MARK.decode("latin-1")}),
        ("step", values_of(3)),
    ]  # fmt: skip
    with Recorder(path, compress=compress) as recorder:
        for kind, values in kept:
            recorder.step(values) if kind == "step" else recorder.append(kind, values)
    found = list(records(path))
    assert [record.kind for record in found] == [kind for kind, _ in kept]
    assert [record.sequence for record in found] == list(range(len(kept)))
    for (_, values), record in zip(kept, found):
        assert same(values, dict(record.values))
        assert abs(record.wall - time.time()) < 60 and abs(record.at - time.monotonic()) < 60
    assert set(KINDS) == {kind for kind, _ in kept}


def test_deflating_pays_for_smooth_frames_only(path, tmp_path):
    smooth, noise = np.zeros((64, 128, 3), np.uint8), values_of(0)["image"]
    sizes = {}
    for name, image in (("smooth", smooth), ("noise", noise)):
        with Recorder(tmp_path / name) as recorder:
            recorder.step({"image": image})
        sizes[name] = (tmp_path / name).stat().st_size
        assert same(image, next(records(tmp_path / name)).values["image"])
    assert sizes["smooth"] < 1000 and noise.nbytes < sizes["noise"] < noise.nbytes + 200


def test_times_come_from_the_clocks_that_were_given(path):
    ticks = itertools.count(5_000_000_000, 1_000_001)
    with Recorder(path, clock=lambda: next(ticks), wall_clock=lambda: 1_600_000_000_000_000_000) as recorder:
        recorder.append("note", {})
        recorder.append("note", {})
    assert [(r.at, r.wall) for r in records(path)] == [(5.0, 1.6e9), (5.001000001, 1.6e9)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"a": {"b": [1, object()]}}, r"note.a.b\[1\]: object cannot be recorded"),
        ({"a": np.array([None])}, "note.a: an array of object"),
        ({3: 1}, "3 cannot be a name"),
        ({"__array__": 1}, "cannot be a name"),
    ],
)
def test_what_cannot_be_recorded_is_refused_and_leaves_the_file_good(path, values, message):
    with Recorder(path) as recorder:
        with pytest.raises(TypeError, match=message):
            recorder.append("note", values)
        with pytest.raises(KeyError, match="no record of kind 'steps'"):
            recorder.append("steps", {})
        assert recorder.step({}) == 0
    assert len(list(records(path))) == 1


# ---------------------------------------------------------------- opened again


def test_it_goes_on_where_it_ended(path):
    filled(path, 3)
    with Recorder(path) as recorder:
        assert recorder.recovered is None and recorder.next_sequence == 4
        recorder.step(values_of(9))
    assert [record.sequence for record in records(path)] == list(range(5))


def test_a_tail_torn_anywhere_is_cut_and_kept(path):
    found = filled(path, 3)
    whole, last = path.read_bytes(), found[-1].offset
    for end in [last + 1, last + 3, last + 11, last + 12, last + 40, len(whole) - 1]:
        path.write_bytes(whole[:end])
        with pytest.raises(Damaged, match="its end was torn off") as error:
            list(records(path))
        assert error.value.offset == last and error.value.torn
        with Recorder(path) as recorder:
            assert (recorder.recovered.offset, recorder.recovered.length) == (last, end - last)
            assert recorder.recovered.kept.read_bytes() == whole[last:end]
            assert recorder.step(values_of(2)) == 3
        assert len(list(records(path))) == 4


def test_a_torn_tail_that_cannot_be_kept_is_not_cut(path):
    last = filled(path, 3)[-1].offset
    torn = path.read_bytes()[:-4]
    path.write_bytes(torn)
    path.with_name(f"{path.name}.torn-{last}").mkdir()
    with pytest.raises(RecorderError, match="its torn end cannot be cut and kept"):
        Recorder(path)
    assert path.read_bytes() == torn


@pytest.mark.parametrize("length", range(len(HEADER)))
def test_a_torn_header_is_begun_again(path, length):
    path.write_bytes(HEADER[:length])
    with Recorder(path) as recorder:
        recorder.step({})
    assert len(list(records(path))) == 1


def test_what_is_no_recording_is_left_alone(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\n and so on")
    for attempt in (lambda: Recorder(path), lambda: list(records(path))):
        with pytest.raises(RecorderError, match="is no recording"):
            attempt()
    assert path.read_bytes().startswith(b"\x89PNG")


def test_two_recorders_do_not_share_a_file(path):
    with Recorder(path), pytest.raises(RecorderError, match="another program records"):
        Recorder(path)


# ---------------------------------------------------------------- damage


def test_every_flipped_byte_is_found_and_named(path):
    """In each place of a record in the middle; in the large array at some places."""
    with Recorder(path) as recorder:
        for number in range(4):
            recorder.step({"number": number, "image": values_of(number)["image"][:8, :8]})
    whole = path.read_bytes()
    good = list(records(path))
    begin, end = good[1].offset, good[2].offset
    for place in [*range(begin, begin + 110), *range(begin + 110, end, 13), end - 1]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        seen = []
        with pytest.raises(Damaged) as error:
            seen.extend(record.sequence for record in records(path))
        assert error.value.offset == begin and error.value.after == 0 and not error.value.torn, place
        assert f"damaged at byte {begin}, after record 0" in str(error.value)
        with pytest.raises(Damaged, match="good records follow"):
            Recorder(path)  # appending to it would hide the damage
        assert path.read_bytes() == damaged
        assert [r.sequence for r in records(path, skip_damaged=True)] == [0, 2, 3]


def test_records_that_were_taken_out_are_missed(path):
    good = filled(path, 4)
    whole = path.read_bytes()
    path.write_bytes(whole[: good[2].offset] + whole[good[3].offset :])
    with pytest.raises(Damaged, match="it is record 3, should be 2"):
        list(records(path))


# ---------------------------------------------------------------- acknowledged is safe

WRITER = """
import sys
import numpy as np
from hardware_bridge.recorder import Recorder
recorder = Recorder(sys.argv[1])
image = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
while True:
    recorder.append("reading", {"position": np.zeros(5)})
    number = recorder.step({"image": image, "number": recorder.next_sequence})
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


@pytest.mark.parametrize("attempt", range(3))
def test_p6_kill_9_loses_at_most_the_step_in_flight(path, attempt):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, cwd=os.getcwd()
    )
    acknowledged = [int(process.stdout.readline()) for _ in range(5 + 3 * attempt)]
    time.sleep(0.003 * attempt)
    process.send_signal(signal.SIGKILL)
    acknowledged += [int(line) for line in process.stdout.read().splitlines()]
    process.wait()
    process.stdout.close()
    with Recorder(path):  # cuts a torn tail
        pass
    steps = [record.sequence for record in records(path) if record.kind == "step"]
    assert steps[: len(acknowledged)] == acknowledged
    assert len(steps) - len(acknowledged) in (0, 1)
    for record in records(path):
        if record.kind == "step":
            assert record.values["number"] == record.sequence and record.values["image"].shape == (64, 128, 3)


def test_a_step_is_synced_before_it_is_acknowledged(path, monkeypatch):
    calls, sync, write = [], os.fsync, os.write
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("sync"), sync(fd))[1])
    monkeypatch.setattr(os, "write", lambda fd, data: (calls.append("write"), write(fd, data))[1])
    with Recorder(path) as recorder:
        calls.clear()
        recorder.append("command", {})
        recorder.step({})
        assert calls == ["write", "write", "sync"]


FULL = """
import resource, sys
from hardware_bridge.recorder import Recorder, RecorderError, records
recorder = Recorder(sys.argv[1], compress=False)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
import numpy as np
written = 0
try:
    while True:
        recorder.step({"image": np.zeros(30_000, np.uint8)})
        written += 1
except RecorderError as error:
    print(error)
try:
    recorder.append("note", {})
except RecorderError as error:
    print(error)
recorder.close()
print(written, len(list(records(sys.argv[1]))))
"""


def test_a_full_disk_stops_the_recording_and_leaves_what_was_acknowledged(path, run_python):
    result = run_python("-c", FULL, str(path))
    first, second, last = result.stdout.splitlines()
    assert "writing failed at byte" in first and "make room and open it again" in first
    assert "writing failed" in second
    assert last == "3 3"
    with Recorder(path) as recorder:
        assert recorder.recovered is None and recorder.next_sequence == 3


def test_a_device_that_is_full(monkeypatch, path):
    with Recorder(path) as recorder:
        recorder.step({})

        def fails(fd):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", fails)
        with pytest.raises(RecorderError, match="No space left"):
            recorder.step({})
        monkeypatch.undo()
        with pytest.raises(RecorderError, match="open it again"):  # a second fsync would say that all is well
            recorder.step({})


def test_no_folder_no_file(tmp_path):
    with pytest.raises(RecorderError, match="No such file or directory"):
        Recorder(tmp_path / "none" / "run.rec")


# ---------------------------------------------------------------- replay and export


class Clock:
    def __init__(self):
        self.now, self.slept = 100.0, []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


def timed(path, times):
    moment = [0]
    with Recorder(path, clock=lambda: moment[0]) as recorder:
        for item in times:
            if item is None:
                recorder.append("meta", {})
                continue
            moment[0] = round(item * 1e9)
            recorder.append("command", {})
            recorder.step({"t": item})


def test_replay_keeps_the_times_and_lateness_does_not_add_up(path):
    timed(path, [5.0, 5.3, 5.6, 5.9])
    clock, seen = Clock(), []
    for record in replay(path, clock=clock, sleep=clock.sleep):
        seen.append(clock.now - 100.0)
        clock.now += 0.4 if record.values["t"] == 5.3 else 0.0  # the consumer is late once
    np.testing.assert_allclose(seen, [0.0, 0.3, 0.7, 0.9])


def test_replay_faster_and_over_two_sessions(path):
    timed(path, [5.0, 5.4, None, 9000.0, 9000.2, None, 3.0])
    clock = Clock()
    steps = list(replay(path, speed=2.0, clock=clock, sleep=clock.sleep))
    assert [step.values["t"] for step in steps] == [5.0, 5.4, 9000.0, 9000.2, 3.0]
    assert clock.now - 100.0 == pytest.approx(0.3)
    with pytest.raises(ValueError, match="speed"):
        next(replay(path, speed=math.nan))


def test_export_of_episodes(path, tmp_path):
    filled(path, 10)
    assert [len(episode["at"]) for episode in episodes(path)] == [4, 4, 2]
    files = export_npz(path, tmp_path / "out")
    assert [file.name for file in files] == [f"episode_{n:05d}.npz" for n in range(3)]
    with np.load(files[1]) as episode:
        for index, number in enumerate(range(4, 8)):
            for name, value in values_of(number).items():
                assert same(np.asarray(value), episode[name][index]), name
    with pytest.raises(FileExistsError):
        export_npz(path, tmp_path / "out")


def test_episodes_of_unlike_steps_are_refused(path):
    with Recorder(path) as recorder:
        recorder.step({"a": 1})
        recorder.step({"a": 1, "b": 2})
    with pytest.raises(RecorderError, match=re.escape("step 1 differs from its episode's first in ['b']")):
        list(episodes(path))


def test_export_to_minari_is_lossless(path, tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    filled(path, 10)
    dataset = export_minari(path, "widowx/test-v0", observation="image", author="A")
    loaded = minari.load_dataset("widowx/test-v0")
    assert dataset.total_episodes == loaded.total_episodes == 3
    for first, episode in zip((0, 4, 8), loaded.iterate_episodes()):
        length = len(episode.actions)
        assert (
            length == (3, 3, 1)[first // 4] and episode.truncations[-1] and not episode.truncations[:-1].any()
        )
        for step in range(length + 1):
            values = values_of(first + step)
            np.testing.assert_array_equal(episode.observations[step], values["image"])
            if step:
                np.testing.assert_array_equal(episode.actions[step - 1], values["action"])
                assert episode.rewards[step - 1] == values["reward"]


def test_export_to_minari_without_it_says_what_to_install(path, run_python):
    filled(path, 2)
    code = "import sys; sys.modules['minari'] = None\nfrom hardware_bridge.recorder import export_minari\n"
    result = run_python("-c", code + f"export_minari({str(path)!r}, 'x/y-v0')")
    assert 'pip install "meld-suite[minari]"' in result.stderr


def test_export_to_minari_names_what_is_missing(path):
    pytest.importorskip("minari")
    filled(path, 2)
    with pytest.raises(RecorderError, match="steps hold no 'observation'; they hold action, at, "):
        export_minari(path, "widowx/test-v0")
