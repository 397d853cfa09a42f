"""``record`` and ``export``: whole sessions of a robot on disk, step by step, and what others read of them.

An episode begins at the ready pose. Each step holds what was seen and measured, and the action, what was
really sent of it, and the reward that led there; it is on the disk before the next action goes out.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardware_bridge import recorder as tape
from hardware_bridge.arm import NotReadyError, ServoArm
from hardware_bridge.calibration.hand import CalibrationError, Patience, hand
from hardware_bridge.cameras import CameraError, Frame
from hardware_bridge.config import ConfigError, Configuration, load, read
from hardware_bridge.errors import LinkError
from hardware_bridge.faults import FaultError
from hardware_bridge.insertion import Insertion, SensorError
from hardware_bridge.process import DriverGone, Tick
from hardware_bridge.recorder import Recorder, RecorderError
from hardware_bridge.rig import RigError
from hardware_bridge.session import Senses, Session
from hardware_bridge.watches import recorded

#: What ends a recording, and is told.
FAILURES = (
    RecorderError, ConfigError, CameraError, SensorError, CalibrationError, NotReadyError,
    FaultError, RigError, LinkError, DriverGone, RuntimeError, ValueError,
)  # fmt: skip

#: What of a driver's cycle is a record of its own.
_COMMAND = ("number", "at", "mode", "torque", "goal", "speed", "velocity", "reference", "changes")
_READING = ("measured_at", "position", "rates", "rig")

Policy = Callable[[int], np.ndarray]


# Policies ------------------------------------------------------------------------------------------


def policy(name: str, joints: int, rng: np.random.Generator) -> Policy:
    """Actions ``(joints,)`` in −1 to 1, by the number of the step in its episode.

    Args:
        name: ``zero``, ``random``, or a file of actions: .npy, text with a line per step, or a recording,
            whose actions are done again. A file that is over gives zeros.
        joints: how many.
        rng: for random ones.

    Raises:
        ValueError: the file holds no such actions.
    """
    if name == "zero":
        return lambda step: np.zeros(joints)
    if name == "random":
        return lambda step: rng.uniform(-1.0, 1.0, joints)
    actions = _script(Path(name))
    if actions.ndim != 2 or actions.shape[1] != joints or not np.isfinite(actions).all():
        raise ValueError(f"{name}: expected finite actions (steps, {joints}), got {actions.shape}")
    return lambda step: actions[step] if step < len(actions) else np.zeros(joints)


def _script(path: Path) -> np.ndarray:
    if not path.exists():
        raise ValueError(f"no policy {str(path)!r}: there are zero, random, hand, and files of actions")
    if path.suffix == ".npy":
        return np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)
    if path.suffix == ".rec":
        first = next(tape.episodes(path), None)
        if first is None or "action" not in first:
            raise ValueError(f"{path}: holds no episode with actions")
        return np.asarray(first["action"][1:], dtype=np.float64)  # that of the first step led to nothing
    return np.loadtxt(path, delimiter="," if path.suffix == ".csv" else None, ndmin=2)


# Steps ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """So many episodes of so many steps; ``port``: only a plug in this one is rewarded; None: any."""

    episodes: int = 1
    steps: int = 40
    port: int | None = None

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.steps < 1:
            raise ValueError(f"episodes and steps must be at least 1, got {self.episodes} and {self.steps}")

    def reward(self, insertion: Insertion) -> float:
        """1 if the plug is where it should be; a sensor that knows no ports is believed."""
        wrong = None not in (self.port, insertion.port) and insertion.port != self.port
        return float(insertion.inserted and not wrong)


def _step(
    image: np.ndarray, frames: dict[str, Frame], insertion: Insertion, plan: Plan, now: float, **more: Any
) -> dict[str, Any]:
    """What a step holds, as far as the senses tell; times are monotonic (s)."""
    return {
        "observation": image,
        "reward": plan.reward(insertion),
        "inserted": insertion.inserted,
        "port": -1 if insertion.port is None else insertion.port,
        "inserted_since": insertion.since,
        **{f"{name}_captured": frame.captured for name, frame in frames.items()},
        "observed": now,
        **more,
    }


def _meta(config: str, robot: Configuration, **more: Any) -> dict[str, Any]:
    version = importlib.metadata.version("meld-suite")
    return {"configuration": read(config), "profile": robot.profile, "version": version, **more}


def record_policy(
    session: Session, out: Recorder, act: Policy, plan: Plan, tell: Callable[[str], None]
) -> int:
    """Records episodes of a policy; how many were whole, not ended by a fault.

    Raises:
        FAILURES: what keeps the robot from going on.
    """
    log, whole = _Log(session, out), 0
    with recorded(out, session.report):
        for number in range(plan.episodes):
            session.begin_episode()
            log.drain()
            faults = _episode(session, log, act, plan)
            session.door.end_episode()
            whole += not faults
            time.sleep(session.senses.sensor.dwell)  # what a late sensor says still belongs to this episode
            insertion = session.senses.insertion()
            values = {"inserted": insertion.inserted, "inserted_since": insertion.since, "faults": faults}
            out.append("note", {"episode": number, **values})
            tell(f"episode {number}: reward {plan.reward(insertion):.0f}, {'; '.join(faults) or 'whole'}")
    return whole


def _episode(session: Session, log: _Log, act: Policy, plan: Plan) -> list[str]:
    """One episode; the faults that ended it, none if it is whole."""
    speed = np.array(session.configuration.arm.speed)
    period, due = session.configuration.safety.period, time.monotonic()
    action = sent = np.zeros(len(speed))
    for number in range(plan.steps + 1):
        seen = session.observe(timeout=session.configuration.safety.images_age)
        tick = seen.tick
        log.drain()
        log.out.step(_step(
            seen.image, seen.frames, seen.insertion, plan, time.monotonic(),
            position=tick.position, velocity=tick.rates, measured=tick.measured_at, rig=tick.rig,
            action=action, sent=sent, episode_start=number == 0,
        ))  # fmt: skip
        if tick.mode != "POLICY":
            return [f"{fault.kind}, {fault.where}" for fault in tick.faults] or [tick.mode]
        if number < plan.steps:
            action, asked = act(number), time.monotonic()
            session.door.act(action * speed)
            due = max(due + period, asked)  # a period that was missed is not made up for
            time.sleep(max(0.0, due - time.monotonic()))
            ticks = session.door.ticks(asked)
            sent = (
                np.mean([tick.velocity for tick in ticks], axis=0) / speed if ticks else np.zeros_like(speed)
            )
    return []


class _Log:
    """What the driver does between steps, into the recording: every cycle's command and reading, faults."""

    def __init__(self, session: Session, out: Recorder) -> None:
        self._door, self.out = session.door, out
        self._last = self._read = -np.inf
        self._known: set[tuple[str, str, float]] = set()

    def drain(self) -> None:
        """Writes what came since the last time."""
        for tick in self._door.ticks(self._last):
            self._last = tick.at
            self._command(tick)

    def _command(self, tick: Tick) -> None:
        self.out.append("command", {name: getattr(tick, name) for name in _COMMAND})
        if tick.measured_at > self._read:
            self._read = tick.measured_at
            self.out.append("reading", {name: getattr(tick, name) for name in _READING})
        for fault in tick.faults:
            key = fault.kind, fault.where, fault.since
            if key not in self._known:
                self._known.add(key)
                self.out.append("fault", {"kind": fault.kind, "where": fault.where, "detail": fault.detail})


def record_hand(robot: Configuration, out: Recorder, plan: Plan, tell: Callable[[str], None]) -> int:
    """Records an arm that somebody moves by hand, torque off; nothing is sent. How many episodes.

    The action is the motion that was measured, in the policy's units, beyond −1 to 1 where it was faster.

    Raises:
        CalibrationError: torque is on.
        LinkError, CameraError, SensorError, RecorderError: a device failed.
    """
    profile, speed, period = robot.arm_profile(), np.array(robot.arm.speed), robot.safety.period
    with Senses(robot) as senses, hand(robot, profile.joints, Patience()) as held:
        arm = ServoArm(held.link, profile)
        for number in range(plan.episodes):
            tell(f"episode {number}: move the arm")
            before, due = arm.read(), time.monotonic()
            for step in range(plan.steps + 1):
                image, frames = senses.pictures(timeout=robot.safety.images_age)
                reading = arm.read()
                moved = (reading.position - before.position) / max(reading.at - before.at, 1e-3) / speed
                out.step(_step(
                    image, frames, senses.insertion(), plan, time.monotonic(),
                    position=reading.position, velocity=reading.velocity, measured=reading.at,
                    rig=np.array([arm.position(axis) for axis in profile.rig]),
                    action=moved if step else np.zeros_like(speed), sent=np.zeros_like(speed),
                    episode_start=step == 0,
                ))  # fmt: skip
                before, due = reading, max(due + period, time.monotonic())
                if step < plan.steps:
                    time.sleep(max(0.0, due - time.monotonic()))
    return plan.episodes


# Commands ------------------------------------------------------------------------------------------


def add_parsers(commands: Any) -> None:
    """Adds the commands to the parser of all."""
    record = commands.add_parser(
        "record", help="records episodes of a robot, each step on disk before the next"
    )
    record.add_argument("config", metavar="CONFIG", help="the robot's file")
    record.add_argument("--out", required=True, metavar="FOLDER", help="gets a new file, session_00000.rec")
    record.add_argument(
        "--policy", default="zero", metavar="NAME",
        help="zero (default), random, hand (torque off, you move it), or a file of actions in -1 to 1 "
        "(.npy, .csv, .txt, or a recording)",
    )  # fmt: skip
    record.add_argument("--episodes", type=int, default=1)
    record.add_argument("--steps", type=int, default=40, help="actions in an episode (default: 40)")
    record.add_argument("--seed", type=int, default=0, help="of random actions")
    record.add_argument("--port", type=int, help="the port of the panel that is rewarded (default: any)")
    record.set_defaults(run=_record)
    export = commands.add_parser("export", help="a recording's episodes for other programs")
    export.add_argument("file")
    where = export.add_mutually_exclusive_group(required=True)
    where.add_argument("--npz", metavar="FOLDER", help="a file of numpy's for each episode")
    where.add_argument("--minari", metavar="NAME", help="a Minari dataset, such as widowx/ethernet-v0")
    export.set_defaults(run=_export)


def _record(options: argparse.Namespace) -> int:
    """Exit code 0: every episode is whole; 1: a fault ended one, or all."""
    try:
        robot, plan = load(options.config), Plan(options.episodes, options.steps, options.port)
        rng, by_hand = np.random.default_rng(options.seed), options.policy == "hand"
        act = None if by_hand else policy(options.policy, len(robot.arm.joints), rng)
        with contextlib.ExitStack() as opened:
            session = None if by_hand else opened.enter_context(Session(options.config))
            out = opened.enter_context(_new(Path(options.out)))
            print(out.path, flush=True)
            asked = {name: getattr(options, name) for name in ("policy", "episodes", "steps", "seed", "port")}
            out.append("meta", _meta(options.config, robot, **asked))
            if session is None or act is None:
                whole = record_hand(robot, out, plan, _say)
            else:
                whole = record_policy(session, out, act, plan, _say)
    except FAILURES as error:
        print(*_reasons(error), sep="\n", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; every step that was recorded is on the disk", file=sys.stderr)
        return 130
    print(f"{whole} of {plan.episodes} episodes are whole")
    return 0 if whole == plan.episodes else 1


def _reasons(error: BaseException | None) -> Iterator[str]:
    """What went wrong, and before it what was wrong already: closing may fail because of the same fault."""
    if error is not None:
        yield from () if error.__suppress_context__ else _reasons(error.__context__)
        yield str(error)


def _say(line: str) -> None:
    print(line, flush=True)


def _new(folder: Path) -> Recorder:
    """A recorder on a file that was not there."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in _numbered(folder):
        with contextlib.suppress(FileExistsError):
            path.touch(exist_ok=False)
            return Recorder(path)
    raise AssertionError("unreachable: numbers do not end")


def _numbered(folder: Path) -> Iterator[Path]:
    number = 0
    while True:
        yield folder / f"session_{number:05d}.rec"
        number += 1


def _export(options: argparse.Namespace) -> int:
    try:
        if options.npz:
            print(*tape.export_npz(options.file, options.npz), sep="\n")
        else:
            dataset = tape.export_minari(options.file, options.minari)
            print(f"{options.minari}: {dataset.total_episodes} episodes, {dataset.total_steps} steps")
    except (RecorderError, ValueError, FileExistsError, ImportError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0
