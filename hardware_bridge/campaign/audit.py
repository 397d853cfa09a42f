"""Reads what went over the wire, and counts what no packet may do; shares no code with the limiter.

It knows Protocol 1's bytes, the servos' tables and the numbers of the robot's file, and nothing of references
or modes. What it holds every packet of a log to:

- a goal lies inside its joint's limits less the margin, its speed is not 0 and not above the joint's;
- no goal is farther from where its joint was last measured than the lead;
- from packet to packet a goal moves no faster than speed and acceleration let it, unless it gives way to a
  joint that was pushed, that is, moves towards where that is measured;
- no pose of goals is outside the workspace, unless the one before or the arm as measured is farther outside;
- of registers, goals, speeds, torque enable and torque limits are written, nothing else, and no EEPROM.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from hardware_bridge.config import Configuration
from hardware_bridge.rig import ACCELERATION as RIG_ACCELERATION
from hardware_bridge.rig import SETTINGS as RIG_SETTINGS
from hardware_bridge.rig import SPEED as RIG_SPEED
from hardware_bridge.servos import JointSpec

_READ, _WRITE, _SYNC_WRITE, _BULK_READ = 0x02, 0x03, 0x83, 0x92
_TORQUE_ENABLE, _GOAL, _TORQUE_LIMIT, _POSITION = 24, 30, 34, 36
#: So many goals of an axis are looked at together.
WINDOW = 60
#: What the Mark II's gripper may do: it holds.
_GRIPPER_ACCELERATION = 20.0


class Logged(NamedTuple):
    """A packet on the wire: when (s), whose, its bytes as they were sent."""

    at: float
    by: Literal["driver", "servo"]
    raw: bytes


class Violation(NamedTuple):
    """What a packet did that none may do."""

    at: float
    where: str
    what: str


@dataclass
class _Axis:
    """What is allowed of one servo, in its own shaft's rad, and what it was last told and measured."""

    spec: JointSpec
    low: float
    high: float
    speed: float
    acceleration: float
    lead: float
    goal: float | None = None
    told: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))  # when, goals
    measured: float | None = None
    seen: float = 0.0


class Audit:
    """Feed it packets in their order; ``violations`` is what was wrong.

    Args:
        robot: whose limits hold.

    Attributes:
        packets: of the driver that were looked at.
        goals: single goals among them.
        violations: in their order.
    """

    def __init__(self, robot: Configuration) -> None:
        self.packets = self.goals = 0
        self.violations: list[Violation] = []
        profile, safety = robot.arm_profile(), robot.safety
        self._horizon, self._tick = safety.horizon, safety.tick
        self._axes: dict[int, _Axis] = {}
        for index, spec in enumerate(profile.joints):
            speed, acceleration = robot.arm.speed[index], robot.arm.acceleration[index]
            self._add(spec, safety.margin, speed, acceleration, safety.lead)
        gripper = profile.gripper
        self._add(gripper, 0.0, gripper.max_speed, _GRIPPER_ACCELERATION, RIG_SETTINGS.lead)
        for spec, speed, acceleration in zip(profile.rig, RIG_SPEED, RIG_ACCELERATION):
            self._add(spec, RIG_SETTINGS.margin, speed, acceleration, RIG_SETTINGS.lead)
        self._torque = int(1023 * profile.max_torque)
        self._joints = [self._axes[spec.id] for spec in profile.joints]
        space = robot.limits().workspace
        assert space is not None  # a configuration has one
        self._space, self._clearance = space, -np.inf
        self._asked: list[tuple[int, int, int]] = []

    def _add(self, spec: JointSpec, margin: float, speed: float, acceleration: float, lead: float) -> None:
        ends = sorted((spec.sign * spec.ratio * spec.lower, spec.sign * spec.ratio * spec.upper))
        low, high = ends[0] + margin, ends[1] - margin
        self._axes[spec.id] = _Axis(spec, low, high, speed, acceleration, lead)

    def feed(self, packets: Iterable[Logged]) -> None:
        """Looks at packets, oldest first."""
        for packet in packets:
            if packet.by == "driver":
                self.packets += 1
                self._instruction(packet.at, packet.raw)
            else:
                self._reply(packet.at, packet.raw)

    # ------------------------------------------------------------ what was measured

    def _reply(self, at: float, raw: bytes) -> None:
        servo, data = raw[2], raw[5:-1]
        asked = next((item for item in self._asked if item[0] == servo), None)
        if asked is None or len(data) != asked[2]:
            return
        self._asked.remove(asked)
        first = _POSITION - asked[1]
        axis = self._axes.get(servo)
        if axis is None or not 0 <= first <= len(data) - 2:
            return
        measured = self._angle(axis, int.from_bytes(data[first : first + 2], "little"))
        # An encoder that jumps farther than a joint can turn measures nothing.
        if axis.measured is None or abs(measured - axis.measured) <= 0.2 + 3.0 * (at - axis.seen):
            axis.measured, axis.seen = measured, at

    @staticmethod
    def _angle(axis: _Axis, tick: int) -> float:
        return (tick - axis.spec.model.centre) * axis.spec.model.rad_per_tick

    # ------------------------------------------------------------ what was told

    def _instruction(self, at: float, raw: bytes) -> None:
        servo, code, params = raw[2], raw[4], raw[5:-1]
        if code == _READ:
            self._asked = [(servo, params[0], params[1])]
        elif code == _BULK_READ:
            self._asked = [(who, address, length) for length, who, address in _threes(params[1:])]
        elif code == _SYNC_WRITE:
            length = params[1]
            parts = params[2:]
            for start in range(0, len(parts), length + 1):
                self._registers(at, parts[start], params[0], parts[start + 1 : start + 1 + length])
            self._pose(at)
        elif code == _WRITE:
            self._registers(at, servo, params[0], params[1:])

    def _registers(self, at: float, servo: int, address: int, data: bytes) -> None:
        axis = self._axes.get(servo)
        if axis is None:
            self._say(at, f"id {servo}", "written to a servo that is none of this robot's")
        elif address == _GOAL and len(data) == 4:
            self._goal(at, axis, *(int.from_bytes(data[i : i + 2], "little") for i in (0, 2)))
        elif address == _TORQUE_LIMIT and len(data) == 2:
            if int.from_bytes(data, "little") > self._torque:
                self._say(at, axis.spec.name, "torque limit beyond its fence")
        elif not (address == _TORQUE_ENABLE and len(data) == 1):
            self._say(at, axis.spec.name, f"{len(data)} bytes written at {address}")

    def _goal(self, at: float, axis: _Axis, tick: int, register: int) -> None:
        self.goals += 1
        name, model = axis.spec.name, axis.spec.model
        goal, speed = self._angle(axis, tick), register * model.register("moving_speed").unit
        bit = model.rad_per_tick
        torque_on = axis.goal is not None  # the first goal is where it stands, wherever that is
        if torque_on and not axis.low - bit <= goal <= axis.high + bit:
            self._say(at, name, f"goal {goal:.3f} outside {axis.low:.3f}..{axis.high:.3f}")
        if not 0.0 < speed <= axis.speed + 1e-9:
            self._say(at, name, f"speed {speed:.3f} is 0 or beyond {axis.speed:.3f}")
        if axis.measured is not None and abs(goal - axis.measured) > axis.lead + 2 * bit:
            self._say(at, name, f"lead {abs(goal - axis.measured):.3f} beyond {axis.lead:.3f}")
        if axis.goal is not None:
            self._rate(at, axis, goal)
        axis.goal = goal
        axis.told.append((at, goal))

    def _rate(self, at: float, axis: _Axis, goal: float) -> None:
        """From the packet before and the tenth before; and not more packets than ticks.

        In real time some are held up on their way and come close together, so a packet stands for a tick.
        """
        for number in (1, min(10, len(axis.told))):
            told, before = axis.told[-number]
            dt = max(at - told, number * self._tick)
            change = min(2.0 * axis.speed, axis.acceleration * dt)
            most = axis.speed * dt + change * self._horizon + 2 * axis.spec.model.rad_per_tick
            measured = axis.measured
            gives_way = measured is not None and abs(goal - measured) < abs(before - measured)
            if abs(goal - before) > most and not gives_way:
                self._say(at, axis.spec.name, f"goal moved {abs(goal - before):.3f} in {1000 * dt:.0f} ms")
                break
        if len(axis.told) == WINDOW and at - axis.told[0][0] < 0.7 * WINDOW * self._tick:
            self._say(at, axis.spec.name, f"{WINDOW} goals in {at - axis.told[0][0]:.2f} s")

    def _measured_clearance(self) -> float:
        """Of the arm as it was read last."""
        pose = [axis.measured / axis.spec.sign for axis in self._joints if axis.measured is not None]
        if len(pose) < len(self._joints):
            return math.inf
        return float(self._space.clearance(np.array(pose)))

    def _pose(self, at: float) -> None:
        """All joints at their goals; less clearance than wanted, where an arm was found or fell, may grow."""
        pose = [axis.goal / axis.spec.sign for axis in self._joints if axis.goal is not None]
        if len(pose) < len(self._joints):
            return
        clearance = float(self._space.clearance(np.array([pose]))[0])
        if clearance < min(0.0, self._clearance, self._measured_clearance()) - 1e-4:
            self._say(at, "arm", f"goals {1000 * -clearance:.1f} mm outside the workspace")
        self._clearance = clearance

    def _say(self, at: float, where: str, what: str) -> None:
        self.violations.append(Violation(at, where, what))


def _threes(data: bytes) -> Iterator[tuple[int, int, int]]:
    for start in range(0, len(data) - 2, 3):
        yield data[start], data[start + 1], data[start + 2]
