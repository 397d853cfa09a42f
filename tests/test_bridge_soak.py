"""``soak``: a short operation is sound and reported; what goes wrong is named, and fails it."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from hardware_bridge.__main__ import main
from hardware_bridge.process import Durations
from hardware_bridge.soak import Log, Soak

pytestmark = pytest.mark.real_time


def report(folder):
    with open(folder / "soak.csv", encoding="utf-8", newline="") as file:
        return {row["what"]: row["value"] for row in csv.DictReader(file)}


def test_a_short_operation_is_sound_and_reported(tmp_path, capsys):
    code, rows = main(["soak", "--minutes", "0.35", "--out", str(tmp_path)]), report(tmp_path)
    # A computer that stands still for 0.1 s is a fault here as on a robot; what it says must be so.
    sound = rows["faults that held the arm"] == rows["failures"] == "0"
    assert code == (0 if sound else 1)
    assert int(rows["steps"]) == int(rows["steps on the disk"]) >= 15
    assert float(rows["step rate"]) == pytest.approx(1 / 0.3, rel=0.02)
    assert 0.0 < float(rows["round trip p50"]) <= float(rows["round trip p99"]) < 50.0
    for name in ("policy", "driver", "twin"):
        assert 0.5 < float(rows[f"CPU, {name}"]) < 100.0
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")
    assert "| steps on the disk |" in (tmp_path / "soak.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.endswith("\nsound\n" if sound else "\nNOT SOUND\n")


def test_a_fault_is_named_and_fails_it(twin, tmp_path, root):
    """The robot's process is stopped for a while, from outside: the arm is held, then goes on."""
    soak = subprocess.Popen(
        [sys.executable, "-m", "hardware_bridge", "soak", "--config", str(twin.config),
         "--out", str(tmp_path)],
        cwd=root, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    recordings, end = twin.config.parent / "recordings", time.monotonic() + 60.0
    while sum(path.stat().st_size for path in recordings.glob("*.rec")) < 50_000:
        assert time.monotonic() < end, "no step was recorded"
        time.sleep(0.1)
    twin.process.send_signal(signal.SIGSTOP)
    time.sleep(1.0)
    twin.process.send_signal(signal.SIGCONT)
    time.sleep(1.0)
    soak.send_signal(signal.SIGINT)
    assert soak.communicate(timeout=90)[0].endswith("NOT SOUND\n") and soak.returncode == 1
    named = report(tmp_path)["faults that held the arm"]
    assert "servo missing" in named or "readings stale" in named, named


def test_what_is_not_sound():
    soak = Soak.__new__(Soak)
    soak.log, soak._statistics, soak._recorded = Log(), {"faults": {"packet lost": 2}}, 3
    step = {"missed": 0, "jitter": 0.0, "lateness": 0.0, "fault": ""}
    for _ in range(3):
        soak.log.take(step)
    assert soak.sound, "a packet that was asked for again is no fault"
    soak._statistics["faults"]["overload"] = 1
    assert not soak.sound
    del soak._statistics["faults"]["overload"]
    soak.log.take(step)
    assert not soak.sound, "a step is not on the disk"
    soak._recorded = 4
    assert soak.sound
    soak.log.take(step | {"fault": "image stale: front, follow error: joint_1"})
    soak._recorded = 5
    assert not soak.sound and soak.log.held == {"image stale: front": 1, "follow error: joint_1": 1}


def test_durations_cost_little_and_know_their_percentiles():
    times, kept = np.random.default_rng(0).lognormal(-6.0, 1.0, 5000), Durations()
    for value in times:
        kept.add(float(value))
    summary = kept.summary()
    assert summary["count"] == 5000 and summary["max"] == times.max()
    for percent in (50, 99):
        assert summary[f"p{percent}"] == pytest.approx(np.percentile(times, percent), rel=0.06)
    assert sum(summary["histogram"]) == 5000
    assert len(summary["edges"]) == len(summary["histogram"]) + 1
    assert sorted(summary["edges"]) == summary["edges"]
    assert Durations().summary()["p99"] == 0.0
    assert len(Durations().summary()["edges"]) == 2


def test_a_wrong_wish_is_refused(tmp_path, capsys):
    assert main(["soak", "--minutes", "0", "--out", str(tmp_path)]) == 2
    assert "must be above 0" in capsys.readouterr().err
    assert main(["soak", "--config", str(tmp_path / "none.yaml"), "--out", str(tmp_path)]) == 2
    assert "cannot be read" in capsys.readouterr().err
