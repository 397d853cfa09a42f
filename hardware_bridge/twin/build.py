"""A profile's servos, emulated: set up as the bridge expects them, or as they leave the factory."""

from __future__ import annotations

import math
from collections.abc import Mapping

from hardware_bridge.servos import ArmProfile, JointSpec, baud_code
from hardware_bridge.twin.joint import Bench, BenchJoint, Mechanics, Shaft
from hardware_bridge.twin.servo import Nature, Servo
from hardware_bridge.twin.servo1 import Servo1
from hardware_bridge.twin.servo2 import REVERSE, Servo2


def emulate(
    profile: ArmProfile, mechanics: Mechanics, nature: Nature | None = None, *, factory: bool = False
) -> list[Servo]:
    """Every servo of a profile, shadows included, on the axes of ``mechanics`` (by ``JointSpec.name``).

    Args:
        profile: Which arm.
        mechanics: What the servos move; its axes use ``JointSpec``'s units and signs.
        nature: What the manuals do not say, the same for all.
        factory: All but ids and drive modes as delivered (57,600 baud and 1 M on one bus, no fences).
    """
    servos: list[Servo] = []
    for axis in profile:
        for servo_id in axis.ids:
            eeprom = {} if factory else set_up(profile, axis)
            if axis.protocol == 2:
                eeprom |= _direction(axis, servo_id)
            family = Servo1 if axis.protocol == 1 else Servo2
            # A servo whose drive mode is reversed is mounted the other way round.
            k = axis.sign * axis.ratio * (-1 if eeprom.get("drive_mode", 0) & REVERSE else 1)
            shaft = Shaft(mechanics.joint(axis.name), servo_id, k)
            servos.append(family(axis.model, servo_id, shaft, nature, **eeprom))
    return servos


def set_up(profile: ArmProfile, axis: JointSpec) -> dict[str, int]:
    """The EEPROM values that this profile wants in an axis' servos, ids and directions apart.

    Also what a driver compares at start: rate, no return delay, angle limits and the torque fence.
    """
    low, high = axis.tick_limits
    first, last = axis.model.limit_registers
    values = {
        "baud_rate": baud_code(axis.protocol, profile.baud),
        "return_delay_time": 0,
        first: low,
        last: high,
    }
    if axis.protocol == 1:
        return {**values, "max_torque": math.floor(1023 * profile.max_torque)}
    limit = axis.model.register("pwm_limit").high
    speed = axis.max_speed * axis.ratio / axis.model.register("velocity_limit").unit
    return {**values, "pwm_limit": math.floor(limit * profile.max_torque), "velocity_limit": round(speed)}


def _direction(axis: JointSpec, servo_id: int) -> dict[str, int]:
    if servo_id == axis.id:
        return {"drive_mode": axis.drive_mode}
    # The shadow faces its leader, so it turns the other way, and obeys the leader's id, too.
    return {"drive_mode": axis.drive_mode ^ REVERSE, "secondary_id": axis.id}


def bench(profile: ArmProfile, start: Mapping[str, float] | None = None, inertia: float = 0.01) -> Bench:
    """Free axes for a profile, each on its own, at ``start`` (rad or m; default 0).

    ``inertia`` (kg m²) is added to the motors' own, as seen at the servo's shaft.
    """
    start = dict(start or {})
    joints = {}
    for axis in profile:
        motor, servos = axis.model.motor, len(axis.ids)
        joints[axis.name] = BenchJoint(
            inertia=(inertia + motor.armature * servos) * axis.ratio**2,
            coulomb=motor.coulomb * servos * axis.ratio,
            viscous=motor.viscous * servos * axis.ratio**2,
            position=start.pop(axis.name, 0.0),
        )
    if start:
        raise KeyError(f"profile {profile.name} has no axis {', '.join(start)}")
    return Bench(joints)
