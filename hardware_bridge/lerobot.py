"""LeRobot's contract of a robot, kept without LeRobot: what a program written for its ``Robot`` finds here.

LeRobot 0.6.2 needs another Python and another servo SDK than this package, and speaks Protocol 2 alone, so
nothing of it is imported; the names, keys and return values are those of its ``Robot``. A plug-in for LeRobot
is a distribution of its own, of a subclass that hands every call on to this one.

An episode begins with the first action after ``connect``, or after a pause: an arm that gets no action for
``safety.action_deadline`` brakes and holds. Nobody's limits but the driver's count.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar

import numpy as np

from hardware_bridge.cameras import SIZE
from hardware_bridge.config import ConfigError, Configuration, load, suggestion
from hardware_bridge.faults import FaultError, Response
from hardware_bridge.session import Session

#: Faults that a new action ends, once they are over: nothing was wrong but that none had come.
PAUSES = frozenset({"policy stalled"})


class NotConnected(ConnectionError):  # noqa: N818 - LeRobot's name for it, and its base class
    """The robot is used before ``connect``, or after ``disconnect``."""


class AlreadyConnected(ConnectionError):  # noqa: N818
    """``connect`` is called for the second time."""


@dataclass(frozen=True)
class WidowXRobotConfig:
    """Which robot.

    Attributes:
        path: the robot's file.
        id: of this robot among others, for LeRobot's records.
    """

    path: str | os.PathLike[str]
    id: str | None = None

    @property
    def type(self) -> str:
        """The kind of robot."""
        return WidowXRobot.name


class WidowXRobot:
    """A WidowX as LeRobot expects a robot.

    Args:
        config: which.

    Attributes:
        id: from the configuration.
    """

    config_class: ClassVar[type[WidowXRobotConfig]] = WidowXRobotConfig
    name: ClassVar[str] = "widowx"

    def __init__(self, config: WidowXRobotConfig) -> None:
        self.config, self.id = config, config.id
        self.robot_type = self.name
        self._configuration: Configuration = load(config.path)
        self._joints = tuple(joint.name for joint in self._configuration.arm.joints)
        self._session: Session | None = None

    def __str__(self) -> str:
        return f"{self.id or ''} {type(self).__name__}".strip()

    # ------------------------------------------------------------ what it gives and takes

    @property
    def observation_features(self) -> dict[str, Any]:
        """Keys of ``get_observation``: ``float``, or the shape of a uint8 picture; without connection, too.

        Positions are in rad, speeds in rad/s; ages, in ms, are those at the time of the call.
        """
        numbers = [f"{joint}.{what}" for joint in self._joints for what in ("pos", "vel")]
        names = sorted(camera.name for camera in self._configuration.cameras)
        ages = [f"{name}.age_ms" for name in ("joints", *names)]
        return {**dict.fromkeys((*numbers, *ages), float), **dict.fromkeys(names, (SIZE, SIZE, 3))}

    @property
    def action_features(self) -> dict[str, type]:
        """Keys of an action: joint velocities (rad/s); without connection, too."""
        return {f"{joint}.vel": float for joint in self._joints}

    # ------------------------------------------------------------ life

    @property
    def is_connected(self) -> bool:
        """Whether the driver runs."""
        return self._session is not None and self._session.door.alive

    @property
    def is_calibrated(self) -> bool:
        """Whether the robot's file holds measured zeros."""
        return "joints" in self._configuration.calibrated

    def connect(self, calibrate: bool = True) -> None:
        """Opens every device; the arm is then held where it stands.

        Args:
            calibrate: refuse a robot that is not calibrated; there is no prompt that would wait for somebody.

        Raises:
            AlreadyConnected: it is.
            ConfigError: it is not calibrated; says how it is done.
            CameraError, SensorError, NotReadyError, ValueError, DriverGone: as ``Session.start``.
        """
        if self._session is not None:
            raise AlreadyConnected(f"{self} is already connected")
        self._configuration = load(self.config.path)  # it may have been calibrated since
        if calibrate:
            self.calibrate()
        self._session = Session(self.config.path)
        try:
            self._session.start()
            self.configure()
        except BaseException:
            self._session = None
            raise

    def calibrate(self) -> None:
        """Nothing, for a calibrated robot: zeros are measured by hand, with a command.

        Raises:
            ConfigError: it is not calibrated.
        """
        if not self.is_calibrated:
            raise ConfigError(
                f"{self.config.path}: its joints are not calibrated: run "
                f"`python -m hardware_bridge calibrate {self.config.path}`, or connect(calibrate=False)"
            )

    def configure(self) -> None:
        """Nothing: servos are compared with their fences when the driver starts, and never written to."""

    def disconnect(self) -> None:
        """The arm goes to its rest pose and only there is torque off; every device is given back.

        Raises:
            NotConnected: it is not connected.
            RuntimeError: a fault holds the arm: its torque is still on.
        """
        session, self._session = self._connected(), None
        session.close()

    def __enter__(self) -> WidowXRobot:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            self.disconnect()

    def _connected(self) -> Session:
        if self._session is None:
            raise NotConnected(f"{self} is not connected; call connect() first")
        return self._session

    # ------------------------------------------------------------ use

    def get_observation(self) -> dict[str, Any]:
        """What is known now, flat, with the keys of ``observation_features``; never silently stale.

        Raises:
            NotConnected: it is not connected.
            CameraError: a picture is too old, or a camera unwell.
            DriverGone: the driver has ended.
        """
        session = self._connected()
        image, frames = session.senses.pictures(timeout=self._configuration.safety.images_age)
        tick, now = session.door.latest, session.now()
        found: dict[str, Any] = {"joints.age_ms": 1000.0 * (now - tick.measured_at)}
        for joint, position, rate in zip(self._joints, tick.position, tick.rates):
            found |= {f"{joint}.pos": float(position), f"{joint}.vel": float(rate)}
        for index, (name, frame) in enumerate(frames.items()):
            found[name] = np.ascontiguousarray(image[:, index * SIZE : (index + 1) * SIZE])
            found[f"{name}.age_ms"] = 1000.0 * (now - frame.captured)
        return found

    def send_action(self, action: Mapping[str, Any]) -> dict[str, float]:
        """Asks for joint velocities until the next action; what was really sent of them (rad/s).

        That is what the arm's reference moves at in the driver's next cycle: within its limits, and as fast
        as its acceleration let it become in one cycle. It is zero where the action did not count.

        Args:
            action: a number for each key of ``action_features``; one that is not finite brakes the arm.

        Raises:
            NotConnected: it is not connected.
            KeyError: a key is missing, or unknown.
            FaultError: a fault holds the arm, and not only that no action had come.
            DriverGone: the driver has ended.
        """
        session = self._connected()
        velocity = self._velocity(action)
        self._begin(session)
        sent = session.act(velocity).velocity
        return {f"{joint}.vel": float(value) for joint, value in zip(self._joints, sent)}

    def _velocity(self, action: Mapping[str, Any]) -> np.ndarray:
        known = list(self.action_features)
        for key in action:
            if key not in known:
                raise KeyError(f"unknown key {key!r} in an action{suggestion(key, known)}")
        missing = [key for key in known if key not in action]
        if missing:
            raise KeyError(f"{missing[0]!r} is missing in an action; it needs {', '.join(known)}")
        return np.array([_number(action[key]) for key in known])

    def _begin(self, session: Session) -> None:
        """An episode, if none is on: after a pause, a fault that was only that no action came is over."""
        tick = session.door.latest
        if tick.mode == "POLICY":
            return
        held = [fault for fault in tick.faults if fault.response > Response.CARRY_ON]
        if any(fault.kind not in PAUSES for fault in held):
            raise FaultError("no action is taken", held)
        session.door.begin_episode()


def _number(value: Any) -> float:
    """A float of whatever counts as a number; NaN of what does not, which the driver refuses and counts."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
