"""Continuous operation in real time: random actions, resets, rig moves, recorder on, until the time is over.

It goes through the same door as a policy does (``backend="robot"``). Without a robot's file it starts an
emulated one in a second process. What is reported: everything that could creep in over hours. Any fault that
held the arm makes it fail, for none is injected here. So that none is earned either, the random actions are
drawn back to the start and up: whoever presses a plug blindly against the panel for minutes is rightly held.
Every fourth episode the scripted expert plugs in, which tries contact, sensor and the way out.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

import meld_envs  # noqa: F401 - registers the environments
from hardware_bridge.cameras import CameraError
from hardware_bridge.config import ConfigError
from hardware_bridge.faults import KINDS, FaultError, Response
from hardware_bridge.insertion import SensorError
from hardware_bridge.process import DriverGone
from hardware_bridge.recorder import RecorderError, records
from hardware_bridge.rig import RigError
from hardware_bridge.robot import PERIOD, Robot
from meld_envs.families import widowx_ethernet as scene
from meld_envs.robots import widowx

TASK = "meld/WidowXEthernet-v0"
#: A line about progress so often (s).
PROGRESS = 60.0
#: What ends an operation, or is one of its faults.
FAILURES = (FaultError, RigError, DriverGone, CameraError, SensorError, RecorderError)
#: So many failures in a row that a reset did not mend end it.
GIVE_UP = 3
#: Every so many episodes the expert plugs in.
PLUGGED = 4
#: How strongly random actions are drawn to the start (per rad); below which height the hand goes up (m).
PULL, LOW = 5.0, scene.FACE + 0.045
INSTALL = 'pip install "meld-suite[bench]"'


class Row(NamedTuple):
    """A line of the report."""

    what: str
    value: float | int | str
    unit: str = ""


@dataclass
class Log:
    """What happened so far; times in s."""

    began: float = field(default_factory=time.monotonic)
    steps: int = 0
    episodes: int = 0
    failures: list[str] = field(default_factory=list)
    insertions: int = 0
    attempts: int = 0
    held: Counter[str] = field(default_factory=Counter)
    jitter: list[float] = field(default_factory=list)
    lateness: list[float] = field(default_factory=list)
    missed: int = 0
    stepping: float = 0.0
    stolen: list[float] = field(default_factory=list)

    def take(self, info: Mapping[str, Any], stolen: float = 0.0) -> None:
        """A step, and the CPU time that was stolen during it (s)."""
        self.stolen.append(stolen)
        self.steps += 1
        self.missed += int(info["missed"])
        self.jitter.append(abs(float(info["jitter"])))
        self.lateness.append(float(info["lateness"]))
        self.stepping += PERIOD + float(info["jitter"])
        for name in filter(None, info["fault"].split(", ")):
            self.held[name] += 1


def stolen() -> float:
    """CPU time (s) that a hypervisor gave to others while this computer wanted it; 0 where none is told."""
    try:
        words = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
        return int(words[8]) / float(os.sysconf("SC_CLK_TCK"))
    except (OSError, IndexError, ValueError):
        return 0.0


class Usage:
    """CPU time and memory of a process, from the system's own books."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._start, self._began = self._cpu(), time.monotonic()
        self.memory_at_start = self.memory()

    def _cpu(self) -> float:
        words = Path(f"/proc/{self._pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / float(os.sysconf("SC_CLK_TCK"))

    def share(self) -> float:
        """Of one core, since this was made."""
        return (self._cpu() - self._start) / (time.monotonic() - self._began)

    def memory(self) -> float:
        """Resident (MB)."""
        pages = Path(f"/proc/{self._pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6


class Soak:
    """One operation over one robot's file.

    Args:
        config: the robot's file.
        seed: of tasks and actions.
        others: further processes whose use of the computer is reported, by name.
    """

    def __init__(self, config: str | os.PathLike[str], seed: int, others: Mapping[str, int]) -> None:
        self._env = gym.make(TASK, backend="robot", config=os.fspath(config))
        self._rng = np.random.default_rng(seed)
        self._seed: int | None = seed
        self._others = dict(others)
        self._usages: dict[str, Usage] = {}
        self._use: dict[str, tuple[float, float, float]] = {}
        self._statistics: dict[str, Any] = {}
        self._dropped: dict[str, int] = {}
        self._recorded = math.nan
        self.log = Log()
        self._bus: list[str] = []  # before the last hold
        self.held: list[str] = []  # of each time: what held the arm, and what the bus was doing before
        self.stop = False

    @property
    def _robot(self) -> Robot:
        backend = self._env.unwrapped._batch._backend  # type: ignore[attr-defined]
        assert isinstance(backend, Robot)
        return backend

    def run(self, seconds: float) -> None:
        """Until the time is over, somebody asks to stop, or resets mend nothing any more."""
        log, in_a_row, told = self.log, 0, time.monotonic()
        until = log.began + seconds
        while time.monotonic() < until and not self.stop and in_a_row < GIVE_UP:
            try:
                self._episode(until)
                in_a_row = 0
            except FAILURES as error:
                in_a_row += 1
                log.failures.append(f"{type(error).__name__}: {error}")
                print(f"FAILED: {error}", flush=True)
                self._keep_bus(f"FAILED: {error}")
                session = self._robot.session
                if session is None or not session.door.alive:
                    break
            if time.monotonic() - told >= PROGRESS:
                told = time.monotonic()
                self._look()
                print(self._progress(), flush=True)
        with contextlib.suppress(*FAILURES):
            self._look()

    def _episode(self, until: float) -> None:
        """One with a task of its own, cut short when the time is over."""
        self._env.reset(seed=self._seed)
        self._seed = None
        self.log.episodes += 1
        if not self._usages:
            assert self._robot.session is not None
            pids = {"policy": os.getpid(), "driver": self._robot.session.door.pid, **self._others}
            self._usages = {name: Usage(pid) for name, pid in pids.items()}
        expert = self.log.episodes % PLUGGED == 0
        start, truncated = self._angles(), False
        info: Mapping[str, Any] = {}
        while not truncated and not self.stop and time.monotonic() < until:
            action = self._env.unwrapped.expert_action() if expert else self._random(start)  # type: ignore[attr-defined]
            faults, before = info.get("fault", ""), stolen()
            *_, truncated, info = self._env.step(action)
            self.log.take(info, stolen() - before)
            if info["fault"] and not faults:
                self._tell_held(info["fault"])
        self.log.attempts += expert and truncated
        self.log.insertions += bool(expert and truncated and info["success"])
        if not truncated:
            self._robot.end_episode(self._env.unwrapped._batch._world)  # type: ignore[attr-defined]

    def _tell_held(self, what: str) -> None:
        minutes, lost = (time.monotonic() - self.log.began) / 60.0, 1000.0 * self.log.stolen[-1]
        text = f"{minutes:6.1f} min  HELD: {what}  (stolen by the hypervisor: {lost:.0f} ms)"
        print(text, flush=True)
        self._keep_bus(text)

    def _keep_bus(self, what: str) -> None:
        session = self._robot.session
        with contextlib.suppress(*FAILURES):  # a driver that is gone tells nothing
            if session is not None and session.door.alive:
                bus, before = session.door.bus_before_hold(), self._bus
                self._bus = bus
                # A failure that held nothing, or follows from the hold above, has no bus of its own.
                self.held += [what, *(bus if bus != before else ["  the arm was not held anew"]), ""]

    def _angles(self) -> np.ndarray:
        """Of the joints, ``(5,)`` rad, as measured."""
        return np.array(self._env.unwrapped.state()[: widowx.NUM_JOINTS])  # type: ignore[attr-defined]

    def _random(self, start: np.ndarray) -> np.ndarray:
        """Random velocities ``(5,)`` in [-1, 1], drawn to the start; straight up where the hand is low."""
        angles = self._angles()
        if widowx.tip_place(angles)[2] < LOW:
            up = widowx.actions_towards(angles[np.newaxis], widowx.lifted(angles, 0.015)[np.newaxis], PERIOD)
            return up[0].astype(np.float32)
        action = self._rng.uniform(-1.0, 1.0, widowx.NUM_JOINTS) + PULL * (start - angles)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def _look(self) -> None:
        session = self._robot.session
        if session is not None:
            self._statistics = session.door.statistics()
            cameras = session.senses.cameras.cameras
            self._dropped = {name: camera.missed for name, camera in cameras.items()}

    def _progress(self) -> str:
        log, trip = self.log, self._statistics["round_trip"]
        late = 1000 * np.percentile(log.lateness, 99) if log.lateness else math.nan
        return (
            f"{(time.monotonic() - log.began) / 60:6.1f} min  {log.steps} steps  {log.episodes} episodes  "
            f"faults: {_named(self.faults()[0]) or len(log.failures)}  step late p99 {late:.1f} ms  "
            f"round trip p50 {1000 * trip['p50']:.1f} ms  "
            f"dropped frames {sum(self._dropped.values())}"
        )

    def close(self) -> None:
        """Rest pose, torque off; then the recording is read again, whether every step is on the disk."""
        recording = self._robot.recording
        try:
            self._env.close()
        except (DriverGone, RuntimeError) as error:  # it does not end, or a fault holds the arm
            self.log.failures.append(f"{type(error).__name__}: {error}")
        if recording is not None:
            try:
                self._recorded = sum(record.kind == "step" for record in records(recording))
            except RecorderError as error:
                self.log.failures.append(f"RecorderError: {error}")

    # ------------------------------------------------------------ results

    def faults(self) -> tuple[Counter[str], Counter[str]]:
        """How often each kind began: those that held the arm, and those that were borne."""
        held, borne = Counter[str](), Counter[str]()
        for kind, count in self._statistics.get("faults", {}).items():
            (held if KINDS[kind].response > Response.CARRY_ON else borne)[kind] += count
        return held, borne

    @property
    def sound(self) -> bool:
        """Whether nothing failed, nothing held the arm, and every step is on the disk."""
        log = self.log
        return not (log.failures or log.held or self.faults()[0]) and self._recorded == log.steps > 0

    def rows(self) -> list[Row]:
        """The report."""
        log, told = self.log, self._statistics
        held, borne = self.faults()
        rate = log.steps / log.stepping if log.stepping else math.nan
        rows = [
            Row("operation", round((time.monotonic() - log.began) / 60.0, 1), "min"),
            Row("steps", log.steps),
            Row("steps on the disk", self._recorded),
            Row("episodes", log.episodes),
            Row("rig moves", log.episodes),
            Row("insertions, of those tried", f"{log.insertions} of {log.attempts}"),
            Row("faults that held the arm", _named(held) or 0),
            Row("steps in which they did", _named(log.held) or 0),
            Row("faults that were borne", _named(borne) or 0),
            Row("failures", "; ".join(log.failures) or 0),
            Row("step rate", round(rate, 4), "Hz"),
            *_percentiles("step jitter", log.jitter),
            *_percentiles("step lateness", log.lateness),
            Row("periods missed", log.missed),
            Row("CPU time stolen by a hypervisor", round(sum(log.stolen), 2), "s"),
            Row("CPU time stolen in one step, most", round(1000.0 * max(log.stolen, default=0.0)), "ms"),
        ]
        for name, what in (("late", "inner loop lateness"), ("cycle", "cycle"), ("round_trip", "round trip")):
            if name in told:
                rows += [
                    Row(f"{what} {of}", round(1000.0 * told[name][of], 3), "ms")
                    for of in ("p50", "p99", "max")
                ]
        if told:
            link = told["link"]
            rows += [
                Row("inner loop cycles", told["cycles"]),
                Row("transactions", link.get("attempts", link.get("ok", 0))),
                Row("replies that did not come in time", link.get("timeout", 0)),
                Row("messages that the policy did not take", told["unsent"]),
            ]
        rows += [Row(f"dropped frames, {name}", count) for name, count in self._dropped.items()]
        for name, (share, before, after) in self._use.items():
            rows += [
                Row(f"CPU, {name}", round(100.0 * share, 1), "% of a core"),
                Row(f"memory, {name}, at first", round(before, 1), "MB"),
                Row(f"memory, {name}, at last", round(after, 1), "MB"),
            ]
        return rows

    def look_at_use(self) -> None:
        """Reads what the processes have used: share of a core, memory at first and at last (MB)."""
        for name, usage in self._usages.items():
            with contextlib.suppress(OSError):  # it has died
                self._use[name] = (usage.share(), usage.memory_at_start, usage.memory())

    def draw(self, path: Path) -> None:
        """Histograms of steps' jitter and of round trips on the bus, as PNG."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.0, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.hist(1000.0 * np.array(self.log.jitter or [0.0]), bins=60, color="tab:blue")
        left.set(xlabel="step jitter (ms)", ylabel="steps", yscale="log")
        told = self._statistics.get("round_trip", {})
        if told:
            edges, counts = 1000.0 * np.array(told["edges"]), np.array(told["histogram"])
            right.stairs(counts, edges, fill=True, color="tab:orange")
        right.set(xlabel="round trip on the bus (ms)", ylabel="transactions", xscale="log", yscale="log")
        figure.savefig(path, dpi=120)


def _named(counts: Counter[str]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))


def _percentiles(what: str, values: Sequence[float]) -> list[Row]:
    if not values:
        return []
    p50, p99 = np.percentile(values, (50, 99))
    return [
        Row(f"{what} {name}", round(1000.0 * float(value), 3), "ms")
        for name, value in (("p50", p50), ("p99", p99), ("max", max(values)))
    ]


def write(rows: Sequence[Row], folder: Path) -> None:
    """The report as ``soak.csv`` and ``soak.md``."""
    with open(folder / "soak.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows(rows)
    lines = ["| what | value | unit |", "|---|---|---|", *(f"| {a} | {b} | {c} |" for a, b, c in rows)]
    (folder / "soak.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _emulated() -> Iterator[tuple[Path, int]]:
    """The twin in a second process: its configuration, and its process id."""
    with tempfile.TemporaryDirectory(prefix="widowx-soak-") as folder:
        command = [sys.executable, "-m", "hardware_bridge", "twin", "--folder", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as twin:
            try:
                assert twin.stdout is not None
                for line in twin.stdout:
                    if line.startswith("configuration"):
                        break
                else:
                    raise RuntimeError("the twin did not start; see what it said above")
                yield Path(folder) / "twin.yaml", twin.pid
            finally:
                twin.send_signal(signal.SIGINT)


def add_command(commands: Any) -> None:
    """``soak`` for the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "soak", help="continuous operation in real time; exit code 1 on any fault"
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--config", metavar="FILE", help="the robot (default: an emulated one, started here)")
    parser.add_argument(
        "--out", default="soak", metavar="FOLDER", help="for the report (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of tasks and actions")
    parser.set_defaults(run=command)


def command(options: argparse.Namespace) -> int:
    """Runs it; 0 if nothing went wrong."""
    try:
        import matplotlib  # noqa: F401 - said now, and not in an hour
    except ImportError:
        print(f"soak draws its histogram with matplotlib: {INSTALL}", file=sys.stderr)
        return 2
    if not options.minutes > 0:
        print(f"--minutes: must be above 0, got {options.minutes}", file=sys.stderr)
        return 2
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        others: dict[str, int] = {}
        config = options.config
        if config is None:
            config, others["twin"] = stack.enter_context(_emulated())
        try:
            soak = Soak(config, options.seed, others)
        except ConfigError as error:
            print(error, file=sys.stderr)
            return 2
        _operate(soak, 60.0 * options.minutes)
    rows = soak.rows()
    write(rows, folder)
    if soak.held:
        (folder / "held.txt").write_text("\n".join(soak.held), encoding="utf-8")
    soak.draw(folder / "soak.png")
    print((folder / "soak.md").read_text(encoding="utf-8"))
    print("sound" if soak.sound else "NOT SOUND")
    return 0 if soak.sound else 1


def _operate(soak: Soak, seconds: float) -> None:
    def stop(*_: object) -> None:
        soak.stop = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        soak.run(seconds)
        soak.look_at_use()
    finally:
        soak.close()
        for number, handler in before.items():
            signal.signal(number, handler)
