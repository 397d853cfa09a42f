"""Zeros and directions of the joints, from poses in which the arm is held; the height of its base."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from hardware_bridge.calibration.hand import CalibrationError, Hand, Measured, Patience, Tell, hand
from hardware_bridge.config import Configuration, Joint
from hardware_bridge.servos import PROFILES, JointSpec
from meld_envs.robots.workspace import BODIES

#: Held at a pose, a joint may read this much else than it should before it is calibrated (rad); so do zeros.
ROUGH = 0.5
#: Turned by at least this (rad), a joint shows its direction.
TURN = 0.2
#: Poses that were held with care agree on a joint's zero within this (rad): 2 degrees.
AGREEMENT = 0.035


@dataclass(frozen=True)
class Pose:
    """How the arm is held.

    Attributes:
        name: for messages.
        what: for the person who holds it.
        angles: ``(joints,)`` rad, that the joints then have.
        exact: whether zeros are taken from it; else directions alone.
        ticks: ``(joints,)``, what the servos read there; None: they are asked.
    """

    name: str
    what: str
    angles: tuple[float, ...]
    exact: bool = True
    ticks: tuple[float, ...] | None = None


LEVEL = Pose(
    "level",
    "forearm and hand level, in one line, straight ahead; the gripper's servo not rolled to a side",
    (0.0, 0.0, 0.0, 0.0, 0.0),
)
TURNED = Pose(
    "turned",
    "each joint by 15 to 60 degrees: base to the left, upper arm back, forearm down, hand down, "
    "and the hand rolled clockwise as seen from behind",
    (0.5, -0.5, 0.5, 0.5, 0.5),
    exact=False,
)


# Joints --------------------------------------------------------------------------------------------


def joints(robot: Configuration, poses: Sequence[Pose], patience: Patience, tell: Tell) -> Measured:
    """Zeros, directions where poses differ, and limits where a servo's range ends before them.

    Raises:
        CalibrationError: a pose was not held, poses disagree, or a horn sits wrong.
        LinkError: the bus failed.
    """
    specs = _nominal(robot)
    readings = [np.array(pose.ticks or (), dtype=np.float64) for pose in poses]
    if any(not len(ticks) for ticks in readings):
        with hand(robot, specs, patience) as arm:
            readings = _hold(arm, specs, poses, readings, tell)
    changes: dict[str, Any] = {}
    lines = []
    for index, (spec, joint) in enumerate(zip(specs, robot.arm.joints)):
        angles, ticks = [pose.angles[index] for pose in poses], [row[index] for row in readings]
        sign = _direction(spec, joint, angles, ticks)
        zero = _zero(spec, sign, poses, angles, ticks)
        place = f"arm.joints.{index}"
        changes[f"{place}.zero"] = zero
        if sign != (spec.sign if joint.sign is None else joint.sign):
            changes[f"{place}.sign"] = sign
        found = _range(spec, sign, zero, joint)
        changes |= {f"{place}.{name}": value for name, value in found.items()}
        lines.append(_told(spec, joint, sign, zero, found))
    if len(poses) < 2:
        lines.append("directions were not looked at: that takes a second pose")
    return Measured(changes, tuple(lines))


def _nominal(robot: Configuration) -> tuple[JointSpec, ...]:
    """The joints as the profile has them, with this robot's ids."""
    axes = zip(PROFILES[robot.profile].joints, robot.arm_profile().joints)
    return tuple(replace(spec, id=axis.id) for spec, axis in axes)


def _hold(
    arm: Hand, specs: Sequence[JointSpec], poses: Sequence[Pose], readings: Sequence[np.ndarray], tell: Tell
) -> list[np.ndarray]:
    """Readings ``(joints,)`` ticks of all poses; those that are there already are kept."""
    done: list[tuple[Pose, np.ndarray]] = []
    for pose, ticks in zip(poses, readings):
        if not len(ticks):
            tell(f"hold the arm still at pose {pose.name}: {pose.what}")
            ticks = arm.held(partial(_lacks, specs, pose, tuple(done)))
            tell(f"pose {pose.name} is read: {' '.join(f'{tick:.0f}' for tick in ticks)}")
        done.append((pose, ticks))
    return [ticks for _, ticks in done]


def _lacks(
    specs: Sequence[JointSpec], pose: Pose, before: Sequence[tuple[Pose, np.ndarray]], ticks: np.ndarray
) -> str:
    """What lacks of a pose, whichever way its joints' servos count; "" if nothing does."""
    for index, (spec, tick, angle) in enumerate(zip(specs, ticks, pose.angles)):
        unit = spec.model.rad_per_tick
        off = abs(abs(tick - spec.model.centre) * unit - abs(angle))
        if pose.exact and off > ROUGH:
            return (
                f"{spec.name} reads {math.degrees(off):.0f} degrees else than pose {pose.name} has it: "
                "hold it there, or mount its horn anew"
            )
        for other, then in before:
            if abs(angle - other.angles[index]) >= TURN and abs(tick - then[index]) * unit < TURN:
                return f"{spec.name} was not turned from pose {other.name} to pose {pose.name}"
    return ""


def _direction(spec: JointSpec, joint: Joint, angles: Sequence[float], ticks: Sequence[float]) -> int:
    """1 or -1: how its ticks count against its angle, by every two poses that differ enough."""
    signs = set()
    for one, other in combinations(range(len(angles)), 2):
        turn, count = angles[other] - angles[one], ticks[other] - ticks[one]
        if abs(turn) < TURN:
            continue
        if abs(count) * spec.model.rad_per_tick < TURN / 2.0:
            raise CalibrationError(
                f"{spec.name} did not turn between two poses that differ by {turn:.2f} rad"
            )
        signs.add(int(math.copysign(1.0, turn * count)))
    if len(signs) > 1:
        raise CalibrationError(f"{spec.name} turned one way and the other: hold the poses as described")
    return signs.pop() if signs else (spec.sign if joint.sign is None else joint.sign)


def _zero(
    spec: JointSpec, sign: int, poses: Sequence[Pose], angles: Sequence[float], ticks: Sequence[float]
) -> float:
    """What the joint reads too much (rad)."""
    unit, centre = spec.model.rad_per_tick, spec.model.centre
    rows = zip(poses, angles, ticks)
    zeros = [sign * (tick - centre) * unit - angle for pose, angle, tick in rows if pose.exact]
    if not zeros:
        raise CalibrationError("no pose is exact: zeros cannot be told")
    if max(zeros) - min(zeros) > AGREEMENT:
        apart = math.degrees(max(zeros) - min(zeros))
        raise CalibrationError(
            f"{spec.name}: poses differ about its zero by {apart:.1f} degrees: hold them again"
        )
    zero = sum(zeros) / len(zeros)
    if abs(zero) > ROUGH:
        raise CalibrationError(
            f"{spec.name} is off by {math.degrees(zero):.0f} degrees: mount its horn anew, turned so far"
        )
    return round(zero, 6)


def _range(spec: JointSpec, sign: int, zero: float, joint: Joint) -> dict[str, float]:
    """Limits that must become tighter, because the servo ends before them."""
    model, unit = spec.model, spec.model.rad_per_tick
    zero = round(zero / unit) * unit  # as the servo's centre is moved
    ends = sorted(sign * (tick - model.centre) * unit - zero for tick in (-0.49, model.max_tick + 0.49))
    least, most = math.ceil(1e3 * ends[0]) / 1e3, math.floor(1e3 * ends[1]) / 1e3
    found = {"low": least} if least > joint.low else {}
    return found | ({"high": most} if most < joint.high else {})


def _told(spec: JointSpec, joint: Joint, sign: int, zero: float, limits: Mapping[str, float]) -> str:
    tick = zero / spec.model.rad_per_tick
    line = f"{spec.name}: zero {zero:+.4f} rad ({tick:+.1f} ticks), was {joint.zero:+.4f}"
    if sign != (spec.sign if joint.sign is None else joint.sign):
        line += f"; it turns the other way: sign {sign}"
    return line + "".join(f"; {name} {value}: its servo ends there" for name, value in limits.items())


# Height --------------------------------------------------------------------------------------------


def height(robot: Configuration, patience: Patience, tell: Tell, given: float | None = None) -> Measured:
    """The height of joint 2's axis: as given (m), or so that the plug's tip, held on the table, is there.

    Raises:
        CalibrationError: the plug was not held on the table, pointing down.
        LinkError: the bus failed.
    """
    if given is None:
        tell("hold the arm still with the plug straight down, its tip on the table")
        axes = robot.arm_profile().joints
        with hand(robot, axes, patience) as arm:
            ticks = arm.held(lambda ticks: _off_table(robot, _angles(axes, ticks)))
        given = robot.arm.base_height + robot.workspace.table - _tip(robot, _angles(axes, ticks))[0]
    line = f"base height {1000 * given:.1f} mm, was {1000 * robot.arm.base_height:.1f}"
    return Measured({"arm.base_height": round(given, 4)}, (line,))


def _angles(axes: Sequence[JointSpec], ticks: np.ndarray) -> np.ndarray:
    return np.array([axis.to_position(tick) for axis, tick in zip(axes, ticks)])


def _tip(robot: Configuration, angles: np.ndarray) -> tuple[float, float]:
    """Height of the plug's tip (m), and how far the plug is from pointing straight down (rad)."""
    body = BODIES[robot.profile].at_height(robot.arm.base_height)
    fingers, plug = body.points(angles)[-2:]
    down = (fingers - plug) / np.linalg.norm(fingers - plug)
    return float(plug[2] - body.spheres[-1].radius), float(np.arccos(np.clip(down[2], -1.0, 1.0)))


def _off_table(robot: Configuration, angles: np.ndarray) -> str:
    tip, lean = _tip(robot, angles)
    if lean > 0.2:
        return f"the plug leans by {math.degrees(lean):.0f} degrees: point it straight down"
    if abs(tip - robot.workspace.table) > 0.05:
        off = 1000 * (tip - robot.workspace.table)
        return (
            f"the plug seems to be {off:.0f} mm above the table: calibrate joints first, then hold it there"
        )
    return ""
