"""A whole emulated robot in a folder: servos on a serial line, two cameras, a contact, a configuration.

Its arm is MuJoCo's, in real time: servos move it, gravity pulls at it, the plug meets the ports; the cameras'
pictures are drawn from it, and the contact is the plug's.

Whoever reads ``twin.yaml`` of that folder finds every device as on a real robot, from any process. Defects
are ordered by name, so that what finds them can be tried out.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from hardware_bridge.cameras import signature
from hardware_bridge.config import EXAMPLE, Configuration, load, write_back
from hardware_bridge.process import PRIORITY, real_time
from hardware_bridge.servos import MX_28, ArmProfile, baud_code
from hardware_bridge.twin.arm import WidowXWorld
from hardware_bridge.twin.build import emulate
from hardware_bridge.twin.joint import RELEASED
from hardware_bridge.twin.line import Line
from hardware_bridge.twin.pictures import CameraDefect, Lens
from hardware_bridge.twin.posture import Posture
from hardware_bridge.twin.senses import Senses, paint
from hardware_bridge.twin.servo1 import Servo1

#: Width and height of the emulated cameras' pictures.
PICTURE = 128
#: So near to its rest pose the arm lies in its cradle (rad).
CRADLE = 0.15
#: Electronics and mechanics are advanced in steps of this (s): a quarter of the inner loop's tick.
TICK = 0.005


class Defect(NamedTuple):
    """``what`` is wrong, and how it is done to the servos, if it concerns them."""

    what: str
    servos: Callable[[Line], None] | None = None


def _wrong_baud(line: Line) -> None:
    line.servo(2).table["baud_rate"] = baud_code(1, 57_600)


def _missing(line: Line) -> None:
    line.servo(3).mute = True


def _duplicate(line: Line) -> None:
    line.servo(4).table["id"] = 3


def _wrong_model(line: Line) -> None:
    old = line.servo(5)
    line.servos[line.servos.index(old)] = Servo1(MX_28, 5, old.shaft, baud_rate=1, return_delay_time=0)


def _hot(line: Line) -> None:
    line.servo(2).temperature = 76.0


def _low_voltage(line: Line) -> None:
    line.supply(9.4)


def _wheel(line: Line) -> None:
    line.servo(1).table["cw_angle_limit"] = line.servo(1).table["ccw_angle_limit"] = 0


def _limp(line: Line) -> None:
    line.servo(2).table["torque_limit"] = 0


def _pings_only(line: Line) -> None:
    line.servo(4).table["status_return_level"] = 0


def _slow_answers(line: Line) -> None:
    line.servo(1).table["return_delay_time"] = 250


def _strong(line: Line) -> None:
    line.servo(2).table["max_torque"] = 1023


#: What can be ordered; those of servos are for the Mark II.
DEFECTS: dict[str, Defect] = {
    "unplugged": Defect("the serial adapter is not plugged in"),
    "wrong-baud": Defect("servo 2 is at its factory's 57,600 baud", _wrong_baud),
    "missing-servo": Defect("servo 3 says nothing", _missing),
    "duplicate-id": Defect("the servo of joint 4 has id 3, too", _duplicate),
    "wrong-model": Defect("servo 5 is an MX-28 instead of an AX-12", _wrong_model),
    "overheated": Defect("servo 2 is at 76 °C", _hot),
    "low-voltage": Defect("the supply gives 9.4 V", _low_voltage),
    "wheel-mode": Defect("both angle limits of servo 1 are 0", _wheel),
    "torque-limit-zero": Defect("servo 2 shut itself down", _limp),
    "pings-only": Defect("servo 4 answers nothing but pings", _pings_only),
    "return-delay": Defect("servo 1 answers after the factory's 500 µs", _slow_answers),
    "full-torque": Defect("servo 2 may use its full torque", _strong),
    "black-camera": Defect("the front camera is black"),
    "frozen-camera": Defect("the wrist camera delivers one picture for ever"),
    "slow-camera": Defect("the front camera delivers a fifteenth of its pictures"),
    "missing-camera": Defect("the wrist camera is not plugged in"),
    "swapped-cameras": Defect("front and wrist camera are exchanged"),
    "stuck-sensor": Defect("the insertion sensor says inserted"),
}

_CAMERA_DEFECTS: dict[str, tuple[str, CameraDefect]] = {
    "black-camera": ("front", "black"),
    "frozen-camera": ("wrist", "frozen"),
    "slow-camera": ("front", "slow"),
}


class CradledArm(WidowXWorld):
    """The arm with a cradle under its rest pose, in which it lies while no motor holds it.

    Without torque anywhere else it falls, unless a hand holds it.

    Attributes:
        posture: where arm and rig are after each step, for other processes.
    """

    def __init__(self, profile: ArmProfile) -> None:
        super().__init__(profile)
        self._support = tuple(profile.rest)
        self.posture = Posture()
        self._tell()

    def _tell(self) -> None:
        self.posture.write([joint.position for joint in self._arm], self.rig)

    def hold(self, angles: Mapping[str, float]) -> None:
        """Moves axes (rad or m, by name) by hand; joints stay there as long as no motor moves them."""
        for name, axis in self._bench.items():
            axis.position = float(angles.get(name, axis.position))
        places = [float(angles.get(name, joint.position)) for name, joint in self._joints.items()]
        self._support = tuple(places)
        self.place(places)

    @property
    def lies(self) -> bool:
        """Whether it is in the cradle, or the hand, and no motor moves it."""
        return all(
            joint.law == RELEASED and abs(joint.position - angle) < CRADLE
            for joint, angle in zip(self._arm, self._support)
        )

    def step(self, dt: float) -> None:
        lies = [joint.position for joint in self._arm] if self.lies else None
        super().step(dt)
        if lies is not None:
            self.place(lies)
        self._tell()


class EmulatedRobot:
    """The robot, in real time: servos in this process, cameras and contact beside it. A context manager.

    Args:
        folder: Where its port, sockets, contact and configuration appear; it must exist.
        config: The file of the robot to emulate, of profile ``widowx_mk2``.
        defects: Names of ``DEFECTS``.

    Attributes:
        config: Path of the configuration that leads to it.
        world: What its servos move.
        line: Its servos.
        senses: Its cameras, and what its plug feels.

    Raises:
        KeyError: an unknown defect; says which there are.
        ConfigError: the file is no robot.
        ValueError: another profile.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        config: str | os.PathLike[str] = EXAMPLE,
        defects: Sequence[str] = (),
    ) -> None:
        for name in defects:
            if name not in DEFECTS:
                raise KeyError(f"no defect {name!r}; there are {', '.join(DEFECTS)}")
        self.folder, self.defects = Path(folder).resolve(), tuple(defects)
        self.config = self.folder / "twin.yaml"
        self.config.write_text(Path(config).read_text(encoding="utf-8"), encoding="utf-8")
        given = load(self.config)
        profile = given.arm_profile()
        if any(axis.protocol != 1 for axis in profile):
            raise ValueError(f"{config}: defects and arm are for widowx_mk2, not {profile.name}")
        self.world = CradledArm(profile)
        self.configuration = self._adapt(given)
        self.senses = Senses(self.world.posture, self.folder / "contact", self._lenses(), PICTURE)
        self.line = Line(
            emulate(profile, self.world), self.world, link_path=self.folder / "servos", tick=TICK
        )
        self._open = contextlib.ExitStack()

    def _adapt(self, given: Configuration) -> Configuration:
        """The same robot, its devices being those of the folder."""
        changes: dict[str, object] = {"port.device": str(self.folder / "servos")}
        for index, camera in enumerate(given.cameras):
            place = f"cameras.{index}"
            seen = signature(paint(PICTURE, camera.name, given.arm.rest, (0.0, 0.0)))
            changes |= {
                f"{place}.device": f"twin:{self.folder / camera.name}",
                f"{place}.size": [PICTURE, PICTURE],
                f"{place}.crop": [0, 0, PICTURE, PICTURE],
                f"{place}.reference": seen.tolist(),
            }
        changes |= {"insertion.kind": "twin", "insertion.device": str(self.folder / "contact")}
        return write_back(self.config, changes | {"recording.folder": str(self.folder / "recordings")})

    @property
    def port(self) -> str:
        """The serial port that a driver opens."""
        return str(self.folder / "servos")

    def __enter__(self) -> EmulatedRobot:
        (self.folder / "recordings").mkdir(exist_ok=True)
        with contextlib.ExitStack() as opening:
            opening.enter_context(self.senses)
            if "stuck-sensor" in self.defects:
                self.senses.insert(0)
            opening.enter_context(self.line)
            # Real servos wait for no program, their driver included.
            real_time(self.configuration.scheduling, self.line.thread_id, PRIORITY + 1)
            self._open = opening.pop_all()
        self._damage()
        return self

    def _lenses(self) -> dict[str, Lens]:
        """Its cameras, as far as they are plugged in."""
        ordered = [_CAMERA_DEFECTS[defect] for defect in self.defects if defect in _CAMERA_DEFECTS]
        wanted = dict(reversed(ordered))  # a camera has one: that which is named first
        shows = {"front": "front", "wrist": "wrist"}
        if "swapped-cameras" in self.defects:
            shows = {"front": "wrist", "wrist": "front"}
        lenses: dict[str, Lens] = {
            camera.name: Lens(
                self.folder / camera.name, shows[camera.name], camera.rate, wanted.get(camera.name)
            )
            for camera in self.configuration.cameras
        }
        if "missing-camera" in self.defects:
            lenses.pop("wrist", None)
        return lenses

    def _damage(self) -> None:
        with self.line.lock:
            for name in self.defects:
                act = DEFECTS[name].servos
                if act is not None:
                    act(self.line)
        if "unplugged" in self.defects:
            self.line.unplug()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
