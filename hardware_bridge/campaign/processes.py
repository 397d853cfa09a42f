"""Faults of processes and of the computer, in real time: killed, stopped, starved; and the bus' worst, again.

The twin's servos are served by a thread of this process, which has nothing else to do meanwhile; policy and
driver are processes of their own, as on a robot. What the arm does is measured in the twin itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hardware_bridge.backend import TWIN
from hardware_bridge.campaign.audit import Audit, Logged
from hardware_bridge.campaign.catalogue import Outcome, real_row
from hardware_bridge.campaign.mover import PACE, up
from hardware_bridge.campaign.stand import REST
from hardware_bridge.faults import Fault
from hardware_bridge.process import AT_REST, DriverGone, DriverProcess, child_environment
from hardware_bridge.recorder import Recorder, records
from hardware_bridge.twin.robot import EmulatedRobot

#: How often what is measured in real time is measured: the worst counts.
TIMES = 3


class RealStand(EmulatedRobot):
    """The emulated robot, with a log of its packets and of how fast its joints really are."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, TWIN)
        self.log: list[Logged] = []
        self.trace: list[tuple[float, float]] = []  # of the line's time (s), fastest joint (rad/s)
        self.line.tap = lambda at, by, raw: self.log.append(Logged(at, by, raw))
        step = self.world.step

        def traced(dt: float) -> None:
            step(dt)
            self.trace.append((self.line.now, float(np.abs(self.world.data.qvel).max())))

        self.world.step = traced  # type: ignore[method-assign]

    def __enter__(self) -> RealStand:
        super().__enter__()
        return self

    def do(self, action: Callable[[], object]) -> float:
        """Does something between two steps of the line; when (its time, s)."""
        with self.line.lock:
            action()
            return self.line.due

    def still(self, since: float, quiet: float = 0.1) -> float | None:
        """From a time of the line until all joints stood still for so long (s), as far as is known."""
        with self.line.lock:
            trace = [item for item in self.trace if item[0] > since]
        began: float | None = None
        for at, speed in trace:
            began = (at if began is None else began) if speed <= REST else None
            if began is not None and at - began >= quiet:
                return began - since
        return None

    def wait_still(self, since: float, timeout: float = 3.0) -> float | None:
        """The same, waiting for it."""
        end = time.monotonic() + timeout
        while (found := self.still(since)) is None and time.monotonic() < end:
            time.sleep(0.02)
        return found

    def torque(self) -> list[bool]:
        """Of the five joints."""
        with self.line.lock:
            return [bool(servo.table["torque_enable"]) for servo in self.line.servos[:5]]

    def audit(self, outcome: Outcome) -> None:
        """Looks the log through."""
        audit = Audit(self.configuration)
        with self.line.lock:
            audit.feed(self.log)
        outcome.count(audit)


def until(condition: Callable[[], bool], timeout: float) -> bool:
    """Whether it becomes true in time."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@contextlib.contextmanager
def acting(robot: RealStand) -> Iterator[DriverProcess]:
    """A driver whose base moves; killed afterwards if it is still there."""
    door = DriverProcess(robot.config)
    try:
        door.start()
        up(door)
        door.act([PACE, 0.0, 0.0, 0.0, 0.0])
        until(lambda: door.latest.rates[0] > 0.75 * PACE, 2.0)
        door.act([PACE, 0.0, 0.0, 0.0, 0.0])
        yield door
    finally:
        door.kill()


def named(door: DriverProcess, kind: str, timeout: float = 2.0) -> Fault | None:
    """A fault that the driver tells of."""
    found: list[Fault] = []

    def look() -> bool:
        found[:] = [fault for fault in door.latest.faults if fault.kind == kind]
        return bool(found)

    until(look, timeout)
    return found[0] if found else None


def worst(outcome: Outcome, after: float | None, within: float, what: str) -> None:
    """Takes in one of several measurements."""
    outcome.expect(after is not None and after <= within, f"{what} after {after}")
    if after is not None:
        outcome.after = max(outcome.after or 0.0, after)


# The driver ----------------------------------------------------------------------------------------


@real_row(
    32, "kill -9 of the driver in motion", "SIGKILL, as the kernel sends it when memory is out; three times",
    "the arm is at rest within 150 ms, torque on; the policy is told", 0.15,
)  # fmt: skip
def driver_killed(folder: Path, within: float) -> Outcome:
    outcome = Outcome()
    with RealStand(folder) as robot:
        for _ in range(TIMES):
            with acting(robot) as door:
                pid = door.pid
                at = robot.do(lambda pid=pid: os.kill(pid, signal.SIGKILL))  # type: ignore[misc]
                worst(outcome, robot.wait_still(at), within, "at rest")
                outcome.expect(all(robot.torque()), "torque went off")
                try:
                    until(lambda: not door.alive, 2.0)
                    door.act([0.0] * 5)
                    outcome.expect(False, "the policy was not told")
                except DriverGone as error:
                    outcome.named = f"driver gone ({str(error).partition(str(pid))[0].strip()} …)"
        robot.audit(outcome)
    outcome.reaction = f"at rest by itself after at most {1000 * (outcome.after or 0):.0f} ms, torque on"
    return outcome


@real_row(
    32, "the driver is stopped and goes on", "SIGSTOP for 1 s, then SIGCONT",
    "at rest within 150 ms; afterwards held: no old command moves it again", 0.15,
)  # fmt: skip
def driver_stopped(folder: Path, within: float) -> Outcome:
    outcome = Outcome()
    with RealStand(folder) as robot, acting(robot) as door:
        at = robot.do(lambda: os.kill(door.pid, signal.SIGSTOP))
        time.sleep(1.0)
        worst(outcome, robot.still(at), within, "at rest")
        before = robot.world.data.qpos[0]
        os.kill(door.pid, signal.SIGCONT)
        fault = named(door, "loop late")
        outcome.expect(fault is not None, "loop late was not named")
        time.sleep(0.5)
        outcome.expect(abs(robot.world.data.qpos[0] - before) < 0.01, "it went on")
        outcome.expect(door.latest.mode == "HOLDING", f"the arm is {door.latest.mode}")
        outcome.named = f"loop late (driver): {fault.detail}" if fault else ""
        outcome.reaction = (
            f"at rest after {1000 * (outcome.after or 0):.0f} ms; held after SIGCONT, torque on"
        )
        robot.audit(outcome)
    return outcome


def leaves(folder: Path, within: float, signals: tuple[signal.Signals, ...]) -> Outcome:
    """The driver is asked to end: brakes, goes to rest, torque off only there."""
    outcome = Outcome()
    errors = folder / "errors"
    with RealStand(folder) as robot, _policy(robot, errors) as (policy, driver):
        at = robot.do(lambda: os.kill(driver, signals[0]))
        for number in signals[1:]:
            time.sleep(0.3)
            os.kill(driver, number)
        _goes_to_rest(robot, outcome, errors, at, within, signals[0].name)
        policy.kill()
        robot.audit(outcome)
    return outcome


def _goes_to_rest(
    robot: RealStand, outcome: Outcome, errors: Path, at: float, within: float, why: str
) -> None:
    start = time.monotonic()
    while any(robot.torque()) and time.monotonic() - start < 40.0:
        time.sleep(0.05)
    rest = np.abs(robot.world.data.qpos - np.array(robot.configuration.arm.rest)).max()
    said = errors.read_text(encoding="utf-8")
    outcome.expect(not any(robot.torque()), f"torque stayed on: {said}")
    outcome.expect(rest < 0.12, f"torque went off {rest:.2f} rad from the rest pose")
    with robot.line.lock:
        base = [(packet.at, packet.raw) for packet in robot.log if packet.by == "driver" and packet.at > at]
    outcome.after = braked(base, at)
    outcome.expect(outcome.after is not None and outcome.after <= within, f"braked after {outcome.after}")
    outcome.expect(why in said, f"the driver said {said!r}")
    outcome.named = next((line for line in said.splitlines() if why in line), "")
    outcome.reaction = f"braked after {1000 * (outcome.after or 0):.0f} ms, went to rest, torque off there"


def braked(packets: list[tuple[float, bytes]], at: float) -> float | None:
    """From a time until the base's goal stood still for three packets (s)."""
    goals = [(when, int.from_bytes(raw[8:10], "little")) for when, raw in packets if raw[4] == 0x83]
    for (when, one), (_, two), (_, three) in zip(goals, goals[1:], goals[2:]):
        if one == two == three:
            return when - at
    return None


@real_row(
    32, "SIGTERM to the driver", "once, in motion",
    "brakes, goes to rest slowly, torque off only there", 0.65,
)  # fmt: skip
def terminated(folder: Path, within: float) -> Outcome:
    return leaves(folder, within, (signal.SIGTERM,))


@real_row(
    32, "SIGINT twice to the driver", "the second 0.3 s after the first",
    "the same: an impatient hand drops no arm", 0.65,
)  # fmt: skip
def interrupted(folder: Path, within: float) -> Outcome:
    return leaves(folder, within, (signal.SIGINT, signal.SIGINT))


# The policy ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _policy(robot: RealStand, errors: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A policy's process that acts, and its driver's id; both are killed afterwards."""
    command = [sys.executable, "-m", "hardware_bridge.campaign.mover", str(robot.config), *more]
    with open(errors, "w", encoding="utf-8") as file:
        policy = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=file, text=True, env=child_environment()
        )
    driver = 0
    try:
        assert policy.stdout is not None
        line = policy.stdout.readline()
        if not line:
            raise RuntimeError(f"the policy ended: {errors.read_text(encoding='utf-8')[-300:]}")
        driver = int(json.loads(line)["driver"])
        yield policy, driver
    finally:
        policy.kill()
        policy.wait()
        assert policy.stdout is not None
        policy.stdout.close()
        if driver:
            with contextlib.suppress(ProcessLookupError):
                os.kill(driver, signal.SIGKILL)


@real_row(
    32, "kill -9 of the policy in motion", "SIGKILL, as the kernel sends it when memory is out",
    "braking within 450 ms, to rest slowly, torque off only there", 0.45 + 0.2,
)  # fmt: skip
def policy_killed(folder: Path, within: float) -> Outcome:
    outcome = Outcome()
    errors = folder / "errors"
    with RealStand(folder) as robot, _policy(robot, errors) as (policy, _):
        at = robot.do(policy.kill)
        _goes_to_rest(robot, outcome, errors, at, within, "policy gone")
        robot.audit(outcome)
    return outcome


@real_row(
    32, "the policy stalls", "it sends nothing any more; three times",
    "braking within 450 ms of its last action, at rest 200 ms later", 0.45,
)  # fmt: skip
def policy_stalls(folder: Path, within: float) -> Outcome:
    outcome = Outcome()
    rested: list[float] = []
    with RealStand(folder) as robot, acting(robot) as door:
        for _ in range(TIMES):
            began = robot.do(lambda: door.act([PACE, 0.0, 0.0, 0.0, 0.0]))
            acted = time.monotonic()
            fault = named(door, "policy stalled")
            worst(outcome, None if fault is None else fault.since - acted, within, "policy stalled")
            rest = robot.wait_still(began)
            outcome.expect(rest is not None and rest <= 0.45 + 0.2, f"at rest after {rest}")
            rested.append(rest or 0.0)
            outcome.named = str(fault).partition(":")[0]
            door.recover()
            door.begin_episode()
            door.act([-PACE, 0.0, 0.0, 0.0, 0.0])
            until(lambda: door.latest.rates[0] < -0.75 * PACE, 2.0)
            door.act([PACE, 0.0, 0.0, 0.0, 0.0])
            until(lambda: door.latest.rates[0] > 0.75 * PACE, 2.0)
        outcome.reaction = f"held, at rest after at most {1000 * max(rested):.0f} ms, until the next episode"
        robot.audit(outcome)
    return outcome


# The recorder --------------------------------------------------------------------------------------

WRITER = """
import sys
import numpy as np
from hardware_bridge.recorder import Recorder
recorder = Recorder(sys.argv[1])
image = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
while True:
    print(recorder.step({"image": image, "number": recorder.next_sequence}), flush=True)
"""


@real_row(
    32, "kill -9 of the process that records", "SIGKILL while it records as fast as it can; eight times",
    "every step that was acknowledged is on disk, at most the one in flight is not", 0.0,
)  # fmt: skip
def recorder_killed(folder: Path, within: float) -> Outcome:
    outcome = Outcome(after=0.0)
    root = str(Path(__file__).parents[2])
    steps = torn = 0
    for attempt in range(8):
        path = folder / f"recording-{attempt}"
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
            assert process.stdout is not None
            acknowledged = [int(process.stdout.readline()) for _ in range(4 + 3 * attempt)]
            time.sleep(0.0013 * attempt)
            process.kill()
            acknowledged += [int(line) for line in process.stdout.read().splitlines()]
        with Recorder(path) as recorder:
            torn += recorder.recovered is not None
        found = [record.sequence for record in records(path)]
        outcome.expect(found[: len(acknowledged)] == acknowledged, f"acknowledged steps are missing: {found}")
        outcome.expect(len(found) - len(acknowledged) in (0, 1), "more than one step was in flight")
        steps += len(acknowledged)
    outcome.named = f"torn tails named and cut: {torn}"
    outcome.reaction = f"all of {steps} acknowledged steps are there"
    return outcome


# The computer --------------------------------------------------------------------------------------


@real_row(
    37, "the policy's process is starved",
    "it holds its interpreter's lock for more than 100 ms, three times",
    "the driver, being a process of its own, goes on", 0.0,
)  # fmt: skip
def starved(folder: Path, within: float) -> Outcome:
    outcome = Outcome(after=0.0)
    with RealStand(folder) as robot, _policy(robot, folder / "errors", "stall") as (policy, _):
        assert policy.stdout is not None
        report: dict[str, Any] = json.loads(policy.stdout.readline() or "{}")
        outcome.expect(report.get("held", 0.0) > 0.1, f"it was not starved: {report}")
        outcome.expect("loop late" not in report["faults"] and not report["missing"], f"it said {report}")
        late = report["late"]
        outcome.expect(late["max"] < 0.1, f"a tick was {late['max']:.3f} s late")
        outcome.named = f"overruns are measured: ticks at most {1000 * late['max']:.1f} ms late"
        outcome.reaction = (
            f"policy stood still for {1000 * report['held']:.0f} ms; no tick of the driver is missing"
        )
        outcome.expect(policy.wait(60.0) == AT_REST, "it did not come to rest")
        robot.audit(outcome)
    return outcome


@real_row(
    37, "the driver's own loop is starved", "it is kept from running for 150 ms",
    "named when it runs again, held", 0.2,
)  # fmt: skip
def own_loop(folder: Path, within: float) -> Outcome:
    outcome = Outcome()
    with RealStand(folder) as robot, acting(robot) as door:
        os.kill(door.pid, signal.SIGSTOP)
        stopped = time.monotonic()
        time.sleep(0.15)
        os.kill(door.pid, signal.SIGCONT)
        fault = named(door, "loop late")
        worst(outcome, None if fault is None else fault.since - stopped, within, "loop late")
        time.sleep(0.3)
        outcome.expect(door.latest.mode == "HOLDING", f"the arm is {door.latest.mode}")
        outcome.named = f"loop late (driver): {fault.detail}" if fault else ""
        outcome.reaction = "held, torque on, until the next episode"
        robot.audit(outcome)
    return outcome


# The bus, in real time -----------------------------------------------------------------------------


@real_row(
    13, "the same in real time", "the data line of servo 4 is cut; deadlines and retries take their time",
    "named within 100 ms; the others hold, latched", 0.1,
)  # fmt: skip
def lost(folder: Path, within: float) -> Outcome:
    outcome = Outcome()
    with RealStand(folder) as robot, acting(robot) as door:
        began = robot.do(lambda: setattr(robot.line.servo(4), "mute", True))
        struck = time.monotonic()
        fault = named(door, "servo missing")
        worst(outcome, None if fault is None else fault.since - struck, within, "servo missing")
        outcome.expect(fault is not None and fault.where == "joint_4", f"it said {fault}")
        rest = robot.wait_still(began)
        outcome.expect(rest is not None and rest <= within + 0.22, f"at rest after {rest}")
        outcome.expect(door.latest.mode == "HOLDING", f"the arm is {door.latest.mode}")
        outcome.named = "servo missing (joint_4)"
        outcome.reaction = f"others held, at rest after {1000 * (rest or 0):.0f} ms, latched"
        robot.audit(outcome)
    return outcome


@real_row(
    21, "the same in real time", "the terminal is closed, and is there again 0.5 s later",
    "named within 100 ms; at rest within 150 ms by itself; opened again by name, latched", 0.1,
)  # fmt: skip
def vanished(folder: Path, within: float) -> Outcome:
    outcome = Outcome()
    with RealStand(folder) as robot, acting(robot) as door:
        began = robot.do(robot.line.unplug)
        struck = time.monotonic()
        fault = named(door, "port gone")
        worst(outcome, None if fault is None else fault.since - struck, within, "port gone")
        rest = robot.wait_still(began)
        outcome.expect(rest is not None and rest <= 0.15, f"at rest after {rest}")
        time.sleep(max(0.0, struck + 0.5 - time.monotonic()))
        robot.line.replug()

        def back() -> bool:
            return all(not fault.present for fault in door.latest.faults if fault.kind == "port gone")

        outcome.expect(until(back, 5.0), "the port was not opened again")
        outcome.expect(door.latest.mode == "HOLDING", f"the arm is {door.latest.mode}")
        door.acknowledge("port gone", "bus")
        time.sleep(0.5)
        door.recover()
        door.begin_episode()
        outcome.expect(until(lambda: door.latest.mode == "POLICY", 1.0), "no new episode could begin")
        outcome.named = "port gone (bus)"
        outcome.reaction = f"at rest by itself after {1000 * (rest or 0):.0f} ms; opened again, latched"
        robot.audit(outcome)
    return outcome
