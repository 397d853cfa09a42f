"""Fences: what must stand in the servos' own registers, so that they refuse what must never be asked of them.

Computed here as data, and compared with what was read back; nothing is written here. A fence that differs is
a reason not to start: it is written by `calibrate` only, with a person beside the arm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hardware_bridge.servos import ArmProfile, JointSpec

#: Values by register, by servo id.
Tables = Mapping[int, Mapping[str, int]]

#: Shutdown on overload and overheating (Protocol 1), and on electrical shock (Protocol 2).
SHUTDOWN = {1: 36, 2: 52}
#: In RAM, as after power-up: how hard a servo goes to its goal, and how it stops there. Another program may
#: have left them otherwise: an acceleration lets it rest late, a gain changes what a lead means in force.
TUNING = (
    "goal_acceleration", "torque_control_enable", "p_gain", "i_gain", "d_gain",
    "cw_compliance_slope", "ccw_compliance_slope",
    "profile_acceleration", "position_p_gain", "position_i_gain", "position_d_gain",
)  # fmt: skip
#: No secondary id.
ALONE = 255


def fences(axes: Sequence[JointSpec] | ArmProfile, max_torque: float = 0.5) -> dict[int, dict[str, int]]:
    """Registers and values for every servo of some axes, shadows included.

    Angle limits as the axes have them; of the torque a fraction; answers to everything, without delay;
    shutdown on overload and overheating; position control (no wheel mode: limits that are both 0 are one).
    Of Protocol 2 also what ticks and speeds mean: direction, no offset, no profile by time (a speed would be
    a time); and whose goals a shadow obeys. Of RAM ``TUNING``.

    Args:
        axes: joints, gripper and rig.
        max_torque: fraction of full torque, at most 0.5, as REPLAB has it for unattended operation.

    Raises:
        ValueError: more torque than that, or none.
    """
    if not 0.0 < max_torque <= 0.5:
        raise ValueError(f"max_torque: must be above 0 and at most 0.5, got {max_torque!r}")
    return {servo: _fence(axis, servo, max_torque) for axis in axes for servo in axis.ids}


def _fence(axis: JointSpec, servo: int, max_torque: float) -> dict[str, int]:
    low, high = axis.tick_limits
    least, greatest = axis.model.limit_registers
    values = {least: low, greatest: high, "return_delay_time": 0, "shutdown": SHUTDOWN[axis.protocol]}
    values["temperature_limit"] = axis.model.temperature_limit
    registers = axis.model.registers
    values |= {name: registers[name].default for name in TUNING if name in registers}
    if axis.protocol == 1:
        limit = axis.model.register("max_torque").high
        return {**values, "max_torque": math.floor(limit * max_torque), "status_return_level": 2}
    limit = axis.model.register("pwm_limit").high
    speed = math.floor(axis.max_speed * axis.ratio / axis.model.register("velocity_limit").unit + 0.5)
    return {
        **values,
        "pwm_limit": math.floor(limit * max_torque),
        "velocity_limit": speed,
        "operating_mode": 3,  # position
        "drive_mode": axis.drive_mode ^ (servo != axis.id),  # a shadow faces its leader
        "homing_offset": 0,
        "secondary_id": ALONE if servo == axis.id else axis.id,
    }


class Difference(NamedTuple):
    """A register that holds another value than it should, or could not be read (``found`` is None)."""

    servo: int
    register: str
    wanted: int
    found: int | None

    def __str__(self) -> str:
        found = "was not read" if self.found is None else f"is {self.found}"
        return f"servo {self.servo}: {self.register} {found}, should be {self.wanted}"


def differences(wanted: Tables, found: Tables) -> tuple[Difference, ...]:
    """What was read back and is not as wanted, by servo and register; empty if all is well.

    Args:
        wanted: from ``fences``.
        found: the same registers as read; more of them do not matter, missing ones do.
    """
    return tuple(
        Difference(servo, register, value, found.get(servo, {}).get(register))
        for servo, registers in sorted(wanted.items())
        for register, value in sorted(registers.items())
        if found.get(servo, {}).get(register) != value
    )
