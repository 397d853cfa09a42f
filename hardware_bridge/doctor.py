"""Looks at every device of a robot, and says what is wrong and how to mend it; moves nothing."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hardware_bridge.cameras import Cameras
from hardware_bridge.config import Configuration
from hardware_bridge.errors import BadReply, LinkError, NoReply, ReplyError
from hardware_bridge.fences import differences, fences
from hardware_bridge.insertion import InsertionSensor, SensorError, probe
from hardware_bridge.link import Link
from hardware_bridge.servos import JointSpec, ServoRef, model_by_number
from hardware_bridge.watchdogs import warmth

#: Rates at which a silent servo is looked for: the factory's, and those in use.
RATES = (57_600, 1_000_000, 115_200, 2_000_000)
#: 80,000 steps of 24.6 kB, the paper's whole run, as they are.
SPACE = 2.0e9
WIZARD = "with the maker's Dynamixel Wizard, the arm at rest"


@dataclass(frozen=True)
class Finding:
    """What is so at a device. ``fault`` is a word for what is wrong, "" if nothing is."""

    device: str
    level: Literal["ok", "warning", "fault"]
    fault: str
    detail: str
    remedy: str = ""

    def __str__(self) -> str:
        mark = {"ok": "  ok   ", "warning": "warning", "fault": " FAULT "}[self.level]
        name = f"{self.fault}: " if self.fault else ""
        mend = f"\n{'':10}→ {self.remedy}" if self.remedy else ""
        return f"[{mark}] {self.device}: {name}{self.detail}{mend}"


def _ok(device: str, detail: str) -> Finding:
    return Finding(device, "ok", "", detail)


def _fault(device: str, fault: str, detail: str, remedy: str) -> Finding:
    return Finding(device, "fault", fault, detail, remedy)


def examine(robot: Configuration, *, folder: Path, watch: float = 1.5) -> Iterator[Finding]:
    """Every device in turn: port, servos, cameras, insertion sensor, recordings.

    Args:
        robot: What should be there.
        folder: To which a relative folder of recordings is relative.
        watch: How long to look at the cameras (s).
    """
    yield from check_port(robot)
    yield from check_servos(robot)
    yield from check_cameras(robot, watch)
    yield from check_insertion(robot)
    yield from check_recordings(robot, folder)


# Servos --------------------------------------------------------------------------------------------


def check_port(robot: Configuration, sysfs: Path = Path("/sys/class/tty")) -> Iterator[Finding]:
    """The adapter's latency timer; whether the port opens is seen with the servos."""
    real = Path(os.path.realpath(robot.port.device))
    timer = sysfs / real.name / "device" / "latency_timer"
    if not real.exists() or not timer.exists():
        return
    found = int(timer.read_text(encoding="ascii"))
    if found <= round(1000 * robot.port.latency_timer):
        yield _ok("port", f"latency timer {found} ms")
        return
    remedy = f"echo 1 | sudo tee {timer}; for good by a udev rule (docs/hardware.md)."
    yield _fault("port", "latency timer", f"{found} ms is too slow for 50 Hz", remedy)


def check_servos(robot: Configuration) -> Iterator[Finding]:
    """Every servo of arm, gripper and rig."""
    device = robot.port.device
    try:
        with Link(device, robot.port.baud, latency_timer=robot.port.latency_timer, slack=0.02) as link:
            yield _ok("port", f"{device} opens at {robot.port.baud} baud")
            profile = robot.arm_profile()
            wanted = fences(profile, robot.arm.max_torque)
            silent: list[tuple[JointSpec, int]] = []
            for axis in profile:
                for servo_id in axis.ids:
                    try:
                        link.ping(axis.protocol, servo_id)
                    except NoReply:
                        silent.append((axis, servo_id))
                    except BadReply:
                        yield _duplicate(axis, servo_id)
                    else:
                        yield from _check_servo(link, robot, axis, servo_id, wanted[servo_id])
    except LinkError as error:
        yield _fault("port", error.kind, error.what, error.remedy)
        return
    for axis, servo_id in silent:
        yield _look_for(robot, axis, servo_id)


def _name(axis: JointSpec, servo_id: int) -> str:
    return f"servo {servo_id} ({axis.name})"


def _duplicate(axis: JointSpec, servo_id: int) -> Finding:
    remedy = f"Connect one of the two alone and give it another id than {servo_id}, {WIZARD}."
    detail = "its answers are damaged every time, as if two servos spoke at once"
    return _fault(_name(axis, servo_id), "duplicate id", detail, remedy)


def _look_for(robot: Configuration, axis: JointSpec, servo_id: int) -> Finding:
    """A servo that is silent at the configured rate, at other rates."""
    name, wanted = _name(axis, servo_id), robot.port.baud
    for rate in RATES:
        if rate == wanted:
            continue
        try:
            with Link(robot.port.device, rate, slack=0.02) as link:
                link.ping(axis.protocol, servo_id, retries=1)
        except LinkError:
            continue
        remedy = f"Set its baud rate to {wanted}, {WIZARD}, or port.baud if all servos have {rate}."
        return _fault(name, "baud mismatch", f"it answers at {rate} baud, not at {wanted}", remedy)
    remedy = "Check its cable and supply; connected alone, its id: it may have another one's."
    return _fault(name, "servo missing", "it answers at no rate", remedy)


def _check_servo(
    link: Link, robot: Configuration, axis: JointSpec, servo_id: int, wanted: dict[str, int]
) -> Iterator[Finding]:
    """A servo that answers a ping: its memory, its health."""
    name, servo = _name(axis, servo_id), ServoRef(servo_id, axis.model)
    try:
        first = min(axis.model.registers.values(), key=lambda register: register.address).name
        values, reply = link.read_registers(servo, first, axis.model.state_registers[1])
        for register in sorted(wanted.keys() - values.keys()):
            values |= link.read_registers(servo, register)[0]
    except BadReply:
        yield _duplicate(axis, servo_id)
        return
    except NoReply:
        remedy = f"Write 2 to its status return level, {WIZARD}."
        yield _fault(name, "status return level", "it answers pings and no reads", remedy)
        return
    except ReplyError as error:
        yield _fault(name, error.kind, error.what, error.remedy)
        return
    if values["model_number"] != axis.model.number:
        remedy = f"Exchange it for a {axis.model.name}, or correct the profile."
        detail = f"it is {_model(values['model_number'])}, should be {axis.model.name}"
        yield _fault(name, "wrong model", detail, remedy)
        return
    findings = [*_health(robot, axis, name, values), *_fences(name, servo_id, wanted, values)]
    if not findings and reply.error:
        findings = [_fault(name, "error byte", ", ".join(reply.errors), "Switch the supply off and on.")]
    yield from findings
    if not any(finding.level == "fault" for finding in findings):
        yield _ok(name, f"{axis.model.name}, firmware {values['firmware_version']}, {_state(axis, values)}")


def _model(number: int) -> str:
    try:
        return f"an {model_by_number(number).name}"
    except KeyError:
        return f"an unknown model {number}"


def _state(axis: JointSpec, values: dict[str, int]) -> str:
    volts = axis.model.to_unit(axis.model.voltage_register, values[axis.model.voltage_register])
    return f"{volts:.1f} V, {values['present_temperature']} °C, fences as they should be"


def _health(robot: Configuration, axis: JointSpec, name: str, values: dict[str, int]) -> Iterator[Finding]:
    model, degrees = axis.model, values["present_temperature"]
    limits = warmth(model.name, model.temperature_limit)
    if degrees >= limits.hot:
        remedy = "Let it cool; find out what it works against."
        yield _fault(name, "overheated", f"{degrees} °C, {limits.hot:.0f} °C are too hot to start", remedy)
    elif degrees >= limits.warm:
        yield Finding(name, "warning", "warm", f"{degrees} °C", "It may need a rest soon.")
    volts = model.to_unit(model.voltage_register, values[model.voltage_register])
    if volts < robot.safety.low_voltage:
        detail = f"{volts:.1f} V, at least {robot.safety.low_voltage:.1f} V are needed"
        yield _fault(name, "undervoltage", detail, "Use a stronger supply (12 V, 10 A); check its plugs.")
    if axis.protocol == 1 and not values["torque_limit"]:
        remedy = "Let it cool, free the joint, then switch the supply off and on."
        yield _fault(name, "servo limp", "its torque limit is 0: it shut itself down", remedy)
    if values.get("hardware_error_status"):
        detail = f"it shut itself down (hardware error {values['hardware_error_status']:#04x})"
        yield _fault(name, "servo limp", detail, "Let it cool, free the joint, then reboot it.")


def _fences(name: str, servo_id: int, wanted: dict[str, int], values: dict[str, int]) -> Iterator[Finding]:
    limits = [values.get("cw_angle_limit"), values.get("ccw_angle_limit")]
    different = differences({servo_id: wanted}, {servo_id: values})
    if limits == [0, 0]:
        low, high = wanted["cw_angle_limit"], wanted["ccw_angle_limit"]
        remedy = f"Write {low} and {high} to its CW and CCW angle limits, {WIZARD}."
        yield _fault(name, "wheel mode", "both angle limits are 0: it would turn for ever", remedy)
        different = tuple(item for item in different if "angle_limit" not in item.register)
    for item in different:
        remedy = f"Write {item.wanted} to its {item.register}, {WIZARD}."
        yield _fault(name, "fence differs", str(item).partition(": ")[2], remedy)


# Other devices -------------------------------------------------------------------------------------


def check_cameras(robot: Configuration, watch: float = 1.5) -> Iterator[Finding]:
    """Both cameras, for a while; one that seems slow gets three times as long."""
    with Cameras.of(robot) as cameras:
        time.sleep(watch)
        until = time.monotonic() + 2.0  # a rate is known after half a second of pictures
        while any(math.isnan(one.measured_rate) for one in cameras.cameras.values() if not one.check()):
            if time.monotonic() >= until:
                break
            time.sleep(0.1)
        found = cameras.check()
        if any(error.kind == "camera slow" for error in found):
            time.sleep(2 * watch)
            found = cameras.check()
        unwell = {error.where for error in found}
        for error in found:
            yield _fault(f"camera {error.where}", error.kind, error.what, error.remedy)
        for name, camera in cameras.cameras.items():
            if not any(name in where for where in unwell):
                width, height = camera.settings.size
                rate = f"{camera.measured_rate:.0f} pictures/s"
                yield _ok(f"camera {name}", f"{camera.settings.device}, {width}×{height}, {rate}")


def check_insertion(robot: Configuration) -> Iterator[Finding]:
    """The sensor can be read, and says that nothing is in."""
    settings = robot.insertion
    try:
        sensor = InsertionSensor(probe(settings, robot.port.device), settings.debounce)
        try:
            sensor.check_free()
            name = sensor.source.name
        finally:
            sensor.close()
    except SensorError as error:
        yield _fault("insertion sensor", error.kind, f"{error.where}: {error.what}", error.remedy)
        return
    yield _ok("insertion sensor", f"{settings.kind}, {name}: nothing is in")


def check_recordings(robot: Configuration, base: Path, space: float = SPACE) -> Iterator[Finding]:
    """The folder of recordings can be written, and has room for a whole run."""
    folder = base / robot.recording.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(64 * 128 * 3))
            file.flush()
            os.fsync(file.fileno())
        took = time.monotonic() - started
    except OSError as error:
        remedy = "Correct recording.folder, or the right to write there."
        yield _fault(
            "recordings", "recorder failed", f"{folder} cannot be written ({error.strerror})", remedy
        )
        return
    free = shutil.disk_usage(folder).free
    if free < space:
        detail = f"{free / 1e9:.2f} GB are free, a run of 80,000 steps needs {space / 1e9:.1f} GB"
        yield _fault("recordings", "disk full", detail, "Make room, or record elsewhere (recording.folder).")
        return
    yield _ok(
        "recordings", f"{folder}, {free / 1e9:.0f} GB free, a frame is on the disk in {1000 * took:.0f} ms"
    )
