"""What is wrong with devices beside the servos holds the arm: one set of rules, wherever a robot is used.

A session (``session``) runs them beside the driver's process, and tells that; the fault campaign runs them in
lockstep, and tells ``Safety`` itself.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from hardware_bridge.cameras import (
    AT_REST,
    Camera,
    CameraError,
    Cameras,
    CameraSlow,
    CamerasSwapped,
    Frame,
    StaleFrame,
)
from hardware_bridge.config import Configuration
from hardware_bridge.insertion import InsertionSensor, SensorError
from hardware_bridge.recorder import Recorder, RecorderError
from hardware_bridge.safety import Mode

#: From look to look at the cameras (s).
LOOK = 0.04
#: How long what a look found holds (s): through the driver's ticks until the next looks, but shorter than
#: ``driver.CALM``, for which is waited before what is over counts as over.
LASTS = 0.15
#: Who looks so late (s) was kept from it: a camera's thread of the same process had no time, either.
STOOD_STILL = 0.12
#: Between two looks at whether cameras are exchanged, while no episode is on (s): a look takes milliseconds.
SWAP_CHECK = 0.5


class Target(Protocol):
    """Whom a watch tells: ``Safety``, or a session, which tells its driver's process."""

    def image(self, camera: str, captured: float) -> None:
        """As ``Safety.image``."""

    def report(self, kind: str, where: str, detail: str, until: float = 0.0) -> None:
        """As ``Safety.report``."""


class CameraWatch:
    """Tells of every picture, and of what is wrong with cameras.

    While no episode is on, as well, so that none begins with a camera that is unwell or in another's place.
    On the way to a pose nobody looks at pictures, and a camera is no reason to stop there.

    Args:
        target: is told.
        robot: whose cameras.
    """

    def __init__(self, target: Target, robot: Configuration) -> None:
        self._target = target
        self._oldest, self._rest = robot.safety.images_age, np.array(robot.arm.rest)
        self._looked, self._stood_still, self._compared = math.inf, -math.inf, -math.inf
        self._swapped: CamerasSwapped | None = None

    def frame(self, name: str, frame: Frame) -> None:
        """A picture has come; called in its camera's thread, so that no time is lost."""
        self._target.image(name, frame.captured)

    def look(self, cameras: Cameras, mode: Mode, position: np.ndarray, now: float) -> None:
        """To be called every ``LOOK`` s.

        Args:
            cameras: started.
            mode: what the arm is doing.
            position: ``(joints,)`` rad, as measured.
            now: monotonic (s).
        """
        if now - self._looked > STOOD_STILL:
            self._stood_still = now
        self._looked = now
        between = mode in (Mode.READY, Mode.HOLDING)
        if mode is not Mode.POLICY and not (between and now > self._stood_still):
            return
        found = [self._problem(camera, now) for camera in cameras.cameras.values()]
        if between and not any(found):
            if now - self._compared >= SWAP_CHECK:
                self._compared, self._swapped = now, self.swapped(cameras, position)
            found.append(self._swapped)
        for error in filter(None, found):
            self._target.report(error.kind, error.where, error.what, now + LASTS)

    def _problem(self, camera: Camera, now: float) -> CameraError | None:
        age = math.inf if camera.newest is None else now - camera.newest.captured
        late, error = age > self._oldest, camera.check()
        # Whoever gets pictures in time need not mind their number; nor one that stood still while they came.
        counted = now - self._stood_still > camera.limits.rate_time
        slow = counted and camera.measured_rate * self._oldest < 1.0
        if error is not None and (late or slow or not isinstance(error, CameraSlow)):
            return error
        return StaleFrame(camera.name, f"the last is {1000 * age:.0f} ms old", "") if late else None

    def swapped(self, cameras: Cameras, position: np.ndarray) -> CamerasSwapped | None:
        """Whether cameras are exchanged; None as well with the joints (rad) elsewhere than at rest."""
        return cameras.swapped() if np.abs(position - self._rest).max() <= AT_REST else None


def admit(sensor: InsertionSensor, report: Callable[[str, str, str], object]) -> None:
    """Before an episode: nothing may be in; what is wrong is reported.

    Args:
        sensor: of insertion.
        report: a target's.

    Raises:
        SensorError: it cannot say, or says that the plug is in.
    """
    try:
        sensor.check_free()
    except SensorError as error:
        report(error.kind, "insertion", f"{error.where}: {error.what}")
        raise


@contextlib.contextmanager
def recorded(recorder: Recorder, report: Callable[[str, str, str], object]) -> Iterator[Recorder]:
    """What is recorded herein is on disk, or the arm is held: no action follows one that is not.

    Args:
        recorder: records.
        report: a target's.
    """
    try:
        yield recorder
    except RecorderError as error:
        report("recorder failed", recorder.path.name, str(error))
        raise
