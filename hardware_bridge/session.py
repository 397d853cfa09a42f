"""A robot while it is used: the driver's process, cameras and insertion sensor, opened and closed together.

What an observation is made of comes from here, whoever asks: an environment, a recording, LeRobot, ROS; and
the driver hears from here what is wrong with other devices (``watches``). Nobody here decides what the arm
may do; that is the driver's, in its own process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from hardware_bridge.arm import ServoArm
from hardware_bridge.cameras import Cameras, Frame, OnFrame
from hardware_bridge.cell import START_SLACK
from hardware_bridge.config import Configuration, load
from hardware_bridge.errors import LinkError
from hardware_bridge.faults import FaultError
from hardware_bridge.insertion import Insertion, InsertionSensor, SensorError, Watch, probe
from hardware_bridge.link import Link
from hardware_bridge.process import HELD, DriverGone, DriverProcess, Tick
from hardware_bridge.safety import Mode
from hardware_bridge.watches import LASTS, LOOK, CameraWatch, admit

logger = logging.getLogger(__name__)

#: From opening the cameras until their first pictures (s).
FIRST_PICTURES = 10.0
#: How often an arm that rests is asked for again, and how often it is told that it is waited for (s).
RETRY, TELL = 5.0, 60.0


def when_rested(
    begin: Callable[[], None],
    longest: float,
    now: Callable[[], float] = time.monotonic,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """Begins an episode; tries again while the arm rests because of faults that pass by themselves.

    Args:
        begin: as ``Cell.reset``.
        longest: that is waited (s), in all.
        now: the time (s).
        wait: lets seconds pass.

    Raises:
        FaultError: the arm still rests after that time; or, at once, faults hold it that do not pass.
        Others: as ``begin``.
    """
    until, tell = now() + longest, now()
    while True:
        try:
            return begin()
        except FaultError as error:
            if not error.passes or now() >= until:
                raise
            if now() >= tell:
                tell = now() + TELL
                faults = "; ".join(map(str, error.faults))
                logger.warning("the arm rests, for %.0f s more at most: %s", until - now(), faults)
        wait(RETRY)


class Senses:
    """Cameras and insertion sensor of a robot. Use it as a context manager.

    Args:
        configuration: the robot.
        on_frame: as of ``Camera``.
    """

    def __init__(self, configuration: Configuration, on_frame: OnFrame | None = None) -> None:
        self._configuration, self._on_frame = configuration, on_frame
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Senses:
        """Opens them and waits for the first pictures.

        Raises:
            CameraError, SensorError: one cannot be had, or is unwell.
        """
        robot = self._configuration
        with contextlib.ExitStack() as opening:
            source = probe(robot.insertion, robot.port.device)
            opening.callback(source.close)
            self.sensor = InsertionSensor(source, robot.insertion.debounce)
            self._watch = opening.enter_context(Watch(self.sensor))
            self.cameras = opening.enter_context(Cameras.of(robot, on_frame=self._on_frame))
            self.pictures(timeout=FIRST_PICTURES)
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def pictures(self, timeout: float = 0.0) -> tuple[np.ndarray, dict[str, Frame]]:
        """The cameras' pictures side by side, and one by one; as ``Cameras.read``."""
        return self.cameras.read(self._configuration.safety.images_age, timeout=timeout)

    def insertion(self) -> Insertion:
        """What is known of the plug; as ``Watch.read``."""
        return self._watch.read()


@dataclass(frozen=True)
class Observation:
    """What is known now.

    Attributes:
        tick: the driver's newest: joints, mode, faults.
        image: ``(64, 128, 3)`` uint8, the cameras side by side.
        frames: the cameras' newest, by name.
        insertion: of the plug.
    """

    tick: Tick
    image: np.ndarray
    frames: dict[str, Frame]
    insertion: Insertion


class Session:
    """A robot, held where it stands, until it is closed: then it goes to rest. Use it as a context manager.

    Args:
        config: the robot's file.

    Attributes:
        configuration: what it says.
        door: to the driver's process.
        senses: cameras and insertion sensor.
    """

    def __init__(self, config: str | os.PathLike[str]) -> None:
        self.configuration = load(config)
        names = [camera.name for camera in self.configuration.cameras]
        self.door = DriverProcess(config, names)
        self._watch = CameraWatch(self, self.configuration)
        self.senses = Senses(self.configuration, self._watch.frame)

    def start(self) -> Session:
        """Opens everything; torque goes on last.

        Raises:
            CameraError, SensorError: one cannot be had, or is unwell; or cameras are exchanged.
            NotReadyError, FaultError, ValueError, DriverGone: as ``DriverProcess.start``.
        """
        with contextlib.ExitStack() as opening:
            opening.enter_context(self.senses)
            self._compare()
            self.door.start()
            opening.pop_all()
        threading.Thread(target=self._look, name="cameras' health", daemon=True).start()
        return self

    def _compare(self) -> None:
        """Cameras with their references, if the arm lies where those were taken; it has no torque yet.

        Raises:
            CamerasSwapped: they are exchanged.
        """
        port = self.configuration.port
        with contextlib.suppress(LinkError):  # which the driver will name
            with Link(port.device, port.baud, latency_timer=port.latency_timer, slack=START_SLACK) as link:
                position = ServoArm(link, self.configuration.arm_profile()).read().position
            error = self._watch.swapped(self.senses.cameras, position)
            if error is not None:
                raise error

    def close(self) -> None:
        """The arm goes to its rest pose and only there is torque off; then everything is given back.

        Raises:
            RuntimeError: a fault holds the arm: its torque is still on.
            DriverGone: the driver does not end; it was not killed.
        """
        try:
            code = self.door.close()  # from now on nobody tells it of cameras: to rest it needs none
        finally:
            self.senses.__exit__(None, None, None)
        if code == HELD:
            raise RuntimeError(
                "a fault holds the arm, its torque is on: look at it before its supply goes off"
            )

    def __enter__(self) -> Session:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------ what the driver is told

    def image(self, camera: str, captured: float) -> None:
        """Tells the driver of a picture; one that is gone or not yet there needs no telling."""
        with contextlib.suppress(DriverGone):
            self.door.image(camera, captured)

    def report(self, kind: str, where: str, detail: str, until: float = 0.0) -> None:
        """Tells it of a fault, likewise; as ``Safety.report``."""
        with contextlib.suppress(DriverGone):
            self.door.report(kind, where, detail, until)

    def _look(self) -> None:
        """At the cameras' health, until the driver has ended."""
        with contextlib.suppress(DriverGone):
            while True:
                time.sleep(LOOK)
                tick, now = self.door.latest, time.monotonic()
                try:
                    self._watch.look(self.senses.cameras, Mode[tick.mode], tick.position, now)
                except Exception as error:  # noqa: BLE001 - eyes that nobody watches are no eyes
                    self.report("camera missing", "watch", f"its watch failed: {error!r}", now + LASTS)

    # ------------------------------------------------------------ use

    def now(self) -> float:
        """The time in which ticks and frames are dated (monotonic, s)."""
        return time.monotonic()

    def begin_episode(
        self, goal: Sequence[float] | np.ndarray | None = None, rig: Sequence[float] | None = None
    ) -> None:
        """Out and up, to a pose, the rig to its own; if no plug is in then, the policy may act from now on.

        An arm that rests because it is hot, or had to push for too long, is waited for: ``safety.rest_wait``
        of the robot's file at most. What it waits for is logged once a minute.

        Args:
            goal: ``(joints,)`` rad; the ready pose by default.
            rig: rotation (rad) and translation (m); home by default.

        Raises:
            FaultError, RigError, NotReadyError, ValueError, RuntimeError: as ``Cell.reset``.
            SensorError: the sensor cannot say, or says that the plug is in.
        """
        robot = self.configuration
        pose, place = robot.arm.ready if goal is None else goal, robot.rig.home if rig is None else rig
        when_rested(lambda: self.door.reset(pose, *place), robot.safety.rest_wait)
        try:
            admit(self.senses.sensor, self.report)
        except SensorError:
            self.door.end_episode()
            raise
        self.door.wait_for(self.door.latest.number + 1)  # whose mode is that of the episode

    def observe(self, timeout: float = 0.0) -> Observation:
        """What is known now.

        Args:
            timeout: how long to wait for pictures that are young enough (s).

        Raises:
            CameraError, SensorError: one is unwell.
            DriverGone: the driver has ended.
        """
        image, frames = self.senses.pictures(timeout)
        return Observation(self.door.latest, image, frames, self.senses.insertion())

    def act(self, velocity: np.ndarray, timeout: float = 1.0) -> Tick:
        """Asks for velocities ``(joints,)`` rad/s until the next ones, and waits for the cycle that has them.

        Returns:
            That cycle: what was made of them (``velocity``) and why (``changes``, ``received``).

        Raises:
            DriverGone: there is no such cycle in time.
        """
        number, until = self.door.act(velocity), time.monotonic() + timeout
        tick = self.door.latest
        while tick.received[0] < number:
            tick = self.door.wait_for(tick.number + 1, max(0.0, until - time.monotonic()))
        return tick
