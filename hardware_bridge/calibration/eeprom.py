"""The fences in the servos' EEPROM, written: the one thing that ``calibrate`` changes outside its file."""

from __future__ import annotations

from collections.abc import Sequence

from hardware_bridge.calibration.hand import Hand, Patience
from hardware_bridge.config import Configuration
from hardware_bridge.fences import Difference, differences, fences
from hardware_bridge.link import Link
from hardware_bridge.servos import ServoRef


def wrong_fences(robot: Configuration, link: Link) -> tuple[Difference, ...]:
    """What stands in the servos' EEPROM and should not; nothing is written."""
    profile = robot.arm_profile()
    wanted = fences(profile, robot.arm.max_torque)
    servos = [ServoRef(servo, axis.model) for axis in profile for servo in axis.ids]
    found = {
        servo.id: {name: link.read_registers(servo, name)[0][name] for name in wanted[servo.id]}
        for servo in servos
    }
    return differences(wanted, found)


def write_fences(robot: Configuration, link: Link, wrong: Sequence[Difference]) -> tuple[Difference, ...]:
    """Writes them, and returns what is still wrong afterwards; with torque off, a person beside the arm.

    Raises:
        CalibrationError: a servo has its torque on.
        LinkError: the bus failed, or a servo refused; those before it are written.
    """
    profile = robot.arm_profile()
    models = {servo: axis.model for axis in profile for servo in axis.ids}
    Hand(link, tuple(profile), Patience())
    for item in wrong:
        link.write_registers(ServoRef(item.servo, models[item.servo]), **{item.register: item.wanted})
    return wrong_fences(robot, link)
