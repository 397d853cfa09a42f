"""Other devices in the inner loop: what is wrong with them becomes a fault of the book, and holds the arm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hardware_bridge.cameras import Cameras, CameraSlow
from hardware_bridge.insertion import InsertionSensor, SensorError
from hardware_bridge.recorder import Recorder, RecorderError
from hardware_bridge.safety import Mode, Safety

#: Between two looks at whether cameras are exchanged, while no episode is on (s): a look takes milliseconds.
SWAP_CHECK = 0.5


class CameraWatch:
    """A ``driver.Watch`` over cameras: tells safety of every picture, and of what is wrong with them.

    While no episode is on, as well, so that none begins with a camera that is unwell or in another's place.
    On the way to a pose nobody looks at pictures, and a camera is no reason to stop there.

    Args:
        cameras: started.
    """

    def __init__(self, cameras: Cameras) -> None:
        self.cameras = cameras
        self._looked = -SWAP_CHECK

    def __call__(self, safety: Safety, now: float) -> None:
        if safety.mode not in (Mode.POLICY, Mode.READY, Mode.HOLDING):
            return
        for name, camera in self.cameras.cameras.items():
            captured = None if camera.newest is None else camera.newest.captured
            if captured is not None:
                safety.image(name, captured)
            error = camera.check()
            late = captured is None or now - captured > safety.settings.images_age
            # Whoever gets pictures in time need not mind their number.
            slow = camera.measured_rate * safety.settings.images_age < 1.0
            if error is not None and (late or slow or not isinstance(error, CameraSlow)):
                safety.report(error.kind, error.where, error.what)
            elif captured is not None and late:
                safety.report("image stale", name, f"the last is {1000 * (now - captured):.0f} ms old")
        if safety.mode is not Mode.POLICY and now - self._looked >= SWAP_CHECK:
            self._looked = now
            for error in self.cameras.check():
                safety.report(error.kind, error.where, error.what)


def admit(sensor: InsertionSensor, report: Callable[[str, str, str], object]) -> None:
    """Before an episode: nothing may be in; what is wrong is reported.

    Args:
        sensor: of insertion.
        report: ``Safety.report``, or the door's.

    Raises:
        SensorError: it cannot say, or says that the plug is in.
    """
    try:
        sensor.check_free()
    except SensorError as error:
        report(error.kind, "insertion", f"{error.where}: {error.what}")
        raise


def record_step(
    recorder: Recorder, values: Mapping[str, Any], report: Callable[[str, str, str], object]
) -> int:
    """Records a step; if that fails the arm is held, so that no action follows one that is not on disk.

    Raises:
        RecorderError: as ``Recorder.step``.
    """
    try:
        return recorder.step(values)
    except RecorderError as error:
        report("recorder failed", recorder.path.name, str(error))
        raise
