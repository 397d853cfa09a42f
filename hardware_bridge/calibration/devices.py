"""What is around the arm: middle and range of the rig, which camera is which, whether the sensor notices."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hardware_bridge.calibration.hand import CalibrationError, Measured, Patience, Tell, hand
from hardware_bridge.cameras import (
    AT_REST,
    CameraSlow,
    FrameSource,
    Inspector,
    exchanged,
    likeness,
    open_source,
    scale,
    signature,
)
from hardware_bridge.config import Camera, Configuration
from hardware_bridge.insertion import Insertion, InsertionSensor, probe
from hardware_bridge.servos import PROFILES

#: The rig must have gone through this share of its range.
SWEPT = 0.8
#: By how much more the wrist's picture must have changed than the other's, when the wrist is turned.
WRIST_MARGIN = 0.2

# Rig -----------------------------------------------------------------------------------------------


def rig(robot: Configuration, patience: Patience, tell: Tell) -> Measured:
    """Middle and range of both axes, moved by hand from end to end; home is the middle.

    Raises:
        CalibrationError: an axis was not moved far enough, or sits wrong on its servo.
        LinkError: the bus failed.
    """
    names = ("rotation", "translation")
    given = [getattr(robot.rig, name) for name in names]
    ids = [axis.id for axis in robot.arm_profile().rig]
    axes = [replace(spec, id=servo) for spec, servo in zip(PROFILES[robot.profile].rig, ids)]
    tell("turn the rig and slide it by hand, each from end to end, then leave it alone")
    units = np.array([axis.model.rad_per_tick / axis.ratio for axis in axes])
    least = np.array([SWEPT * (axis.upper - axis.lower) for axis in axes]) / units
    with hand(robot, axes, patience) as both:
        low, high = both.swept(least)
    changes: dict[str, Any] = {"rig.home": [0.0, 0.0]}
    lines = []
    for index, (name, axis, before) in enumerate(zip(names, axes, given)):
        sign = axis.sign if before.sign is None else before.sign
        zero = sign * ((low[index] + high[index]) / 2.0 - axis.model.centre) * units[index]
        half = (high[index] - low[index]) / 2.0 * units[index]
        if abs(zero) * axis.ratio > math.pi / 2.0:
            turn = math.degrees(zero * axis.ratio)
            raise CalibrationError(
                f"{name}: its servo stands {turn:.0f} degrees off its middle: mount it anew"
            )
        ends = {"low": max(axis.lower, -half), "high": min(axis.upper, half)}
        changes |= {f"rig.{name}.{end}": round(value, 5) for end, value in ends.items()}
        changes[f"rig.{name}.zero"] = round(zero, 6)
        unit = "rad" if index == 0 else "m"
        lines.append(
            f"{name}: zero {zero:+.4f} {unit}, was {before.zero:+.4f}; from end to end {2 * half:.4f} {unit}"
        )
    return Measured(changes, tuple(lines))


# Cameras -------------------------------------------------------------------------------------------


@dataclass
class Film:
    """What a camera delivered: the first picture ``(H, W, 3)``, and signatures of all."""

    first: np.ndarray
    signatures: list[np.ndarray]

    @property
    def change(self) -> float:
        """How much it changed meanwhile: 0 is not at all."""
        return 1.0 - min(likeness(self.signatures[0], later) for later in self.signatures)


def cameras(robot: Configuration, patience: Patience, tell: Tell) -> Measured:
    """Which camera is which, the size of what they deliver, crops, and what each sees with the arm at rest.

    Raises:
        CameraError: one is missing, or sees nothing.
        LinkError: the bus failed.
    """
    away = _from_rest(robot, patience)
    tell("turn the wrist by hand, slowly: the camera whose picture turns with it is the wrist's")
    films = _films(robot.cameras, patience.look)
    swapped, why = _swapped(robot, films, not away)
    changes: dict[str, Any] = {}
    lines = [why, away] if away else [why]
    for index, camera in enumerate(robot.cameras):
        source = robot.cameras[1 - index] if swapped else camera
        picture = films[source.name].first
        found = _seen(camera, source, picture)
        if away:
            del found["reference"]
        changes |= {f"cameras.{index}.{name}": value for name, value in found.items()}
        columns, rows = found["size"]
        lines.append(f"{camera.name}: {source.device}, {columns}×{rows}, crop {found['crop']}")
    return Measured(changes, tuple(lines))


def _from_rest(robot: Configuration, patience: Patience) -> str:
    """Why what the cameras see now is no reference; "" if it is one."""
    axes = robot.arm_profile().joints
    with hand(robot, axes, patience) as arm:
        off = np.abs(
            np.array([axis.to_position(tick) for axis, tick in zip(axes, arm.ticks())]) - robot.arm.rest
        )
    axis = int(off.argmax())
    if off[axis] <= AT_REST:
        return ""
    return f"no reference pictures: the arm is not at rest, {axes[axis].name} is off by {off[axis]:.2f} rad"


def _films(settings: Sequence[Camera], seconds: float) -> dict[str, Film]:
    """All cameras, watched for so long."""
    films: dict[str, Film] = {}
    inspectors: dict[str, Inspector] = {
        camera.name: Inspector(camera.name, camera.rate) for camera in settings
    }
    with contextlib.ExitStack() as opened:
        sources: dict[str, FrameSource] = {}
        for camera in settings:
            sources[camera.name] = open_source(camera)
            opened.callback(sources[camera.name].close)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for name, source in sources.items():
                picture, at = source.read()
                inspectors[name].feed(picture, at)
                film = films.setdefault(name, Film(picture, []))
                film.signatures.append(signature(picture))
    for inspector in inspectors.values():
        error = inspector.check(time.monotonic())
        if error is not None and not isinstance(error, CameraSlow):
            raise error
    return films


def _swapped(robot: Configuration, films: Mapping[str, Film], at_rest: bool) -> tuple[bool, str]:
    """Whether the devices are exchanged, and how that is known: by references with the arm at rest alone."""
    more = films["wrist"].change - films["front"].change
    if abs(more) > WRIST_MARGIN:
        how = (
            "exchanged: the front camera's picture turned"
            if more < 0
            else "as configured: the wrist's turned"
        )
        return more < 0, f"which is which: {how} with the wrist"
    known: dict[str, np.ndarray] = {}
    now: dict[str, np.ndarray] = {}
    for camera in robot.cameras:
        if camera.reference is None or not at_rest:
            return False, "which is which: not known, for nothing turned; as configured"
        known[camera.name] = np.array(camera.reference)
        now[camera.name] = np.array(_seen(camera, camera, films[camera.name].first)["reference"])
    swapped = exchanged(now, known) is not None
    return swapped, f"which is which: {'exchanged' if swapped else 'as configured'}, by what they saw before"


def _seen(camera: Camera, source: Camera, picture: np.ndarray) -> dict[str, Any]:
    """A camera's values in the file, its pictures coming from ``source``'s device."""
    rows, columns = picture.shape[:2]
    side = min(rows, columns)
    crop = [(columns - side) // 2, (rows - side) // 2, side, side]
    if camera.crop is not None and (columns, rows) == tuple(camera.size):
        crop = list(camera.crop)
    left, top, width, high = crop
    seen = signature(scale(picture[top : top + high, left : left + width]))
    found = {"size": [columns, rows], "crop": crop, "reference": seen.tolist()}
    return found if source is camera else {**found, "device": source.device, "exposure": source.exposure}


# Insertion sensor ----------------------------------------------------------------------------------


def sensor(robot: Configuration, patience: Patience, tell: Tell, person: bool) -> Measured:
    """Nothing is in; with a person there, the plug is found in each port that it is put into.

    Raises:
        SensorError: it cannot be read, or says inserted with nothing in.
        CalibrationError: the plug was not found, or in another port.
    """
    watched = InsertionSensor(probe(robot.insertion, robot.port.device), robot.insertion.debounce)
    try:
        watched.check_free()
        lines = [f"{robot.insertion.kind}, {watched.source.name}: nothing is in"]
        if not person:
            return Measured(lines=(*lines, "the plug was not tried: that takes a person"))
        for port in range(len(watched.source.sample())):
            where = f"port {port}" if watched.source.tells_port else "the port"
            tell(f"put the plug into {where}")
            state = _until(watched, True, patience, f"the plug in {where} was not noticed")
            if watched.source.tells_port and state.port != port:
                raise CalibrationError(
                    f"the plug is in {where}, the sensor says port {state.port}: exchange its lines"
                )
            tell("pull it out")
            _until(watched, False, patience, f"the plug is out of {where}, the sensor says it is in")
            lines.append(f"the plug in {where} is noticed")
        return Measured(lines=tuple(lines))
    finally:
        watched.close()


def _until(watched: InsertionSensor, inserted: bool, patience: Patience, why: str) -> Insertion:
    until = time.monotonic() + patience.wait
    while time.monotonic() < until:
        state = watched.poll()
        if state.inserted == inserted and state.settled:
            return state
        time.sleep(0.01)
    raise CalibrationError(f"{why} within {patience.wait:.0f} s: look at its wiring")
