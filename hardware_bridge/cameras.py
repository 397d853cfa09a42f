"""Cameras: the newest frame of each, with its age, never silently stale; two of them make an observation.

A thread per camera reads frames as fast as they come and keeps the newest, cropped and scaled, with the
monotonic time of its capture and a sequence number. Whoever wants a frame says how old it may be: ``read``
gives one that is younger, or raises an error that says what is the matter. Missing, dark, frozen, slow and
exchanged cameras are told apart, because each has another remedy.

A frame source is anything with ``read`` and ``close``: ``OpenCVSource`` is a real camera or a video file,
``twin/pictures.py`` has emulated ones. OpenCV is imported where a source is opened.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from hardware_bridge import config

#: Height and width of a camera's part of an observation (pixels).
SIZE = 64
#: A signature is a picture of so many rows and columns.
SIGNATURE = 8
#: References are taken, and compared with, where every joint is this near to its rest pose (rad).
AT_REST = 0.25
INSTALL = 'pip install "meld-suite[cameras]"'


class CameraError(Exception):
    """A camera does not give what it should. ``kind``: a row of ``faults.KINDS``."""

    kind: ClassVar[str] = "camera missing"

    def __init__(self, where: str, what: str, remedy: str) -> None:
        super().__init__(f"camera {where}: {what}. {remedy}")
        self.where, self.what, self.remedy = where, what, remedy


class CameraMissing(CameraError):  # noqa: N818 - named for what happened
    """It cannot be opened, or delivers nothing."""


class WrongSize(CameraError):  # noqa: N818
    """Its pictures have another size than the configuration says."""

    kind = "camera wrong size"


class StaleFrame(CameraError):  # noqa: N818
    """Its newest picture is older than allowed."""

    kind = "image stale"


class CameraDark(CameraError):  # noqa: N818
    """Covered, without light, or saturated."""

    kind = "camera dark"


class CameraFrozen(CameraError):  # noqa: N818
    """It delivers the same picture again and again: a sensor has noise, so no two pictures are equal."""

    kind = "camera frozen"


class CameraSlow(CameraError):  # noqa: N818
    """It delivers fewer pictures than the configuration says."""

    kind = "camera slow"


class CamerasSwapped(CameraError):  # noqa: N818
    """What one sees looks like the other's reference."""

    kind = "camera swapped"


# Pictures ------------------------------------------------------------------------------------------


def scale(image: np.ndarray, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    """Scales a picture down so that every new pixel is the mean of the area that it covers.

    The same as OpenCV's INTER_AREA, within rounding, without needing OpenCV.

    Args:
        image: ``(H, W, 3)`` uint8.
        height: Of the new one (pixels).
        width: Of the new one (pixels).

    Returns:
        ``(height, width, 3)`` uint8, contiguous.
    """
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    narrow = _means(image.reshape(len(image), -1), height).reshape(height, -1, 3)
    small = _means(narrow.swapaxes(0, 1).reshape(image.shape[1], -1), width).reshape(width, height, 3)
    return np.ascontiguousarray(np.clip(np.rint(small.swapaxes(0, 1)), 0, 255).astype(np.uint8))


def _means(values: np.ndarray, new: int) -> np.ndarray:
    """``(old, n)`` values as ``(new, n)`` means of equal lengths of the first axis, ends counted in part.

    Sums, and no product with a matrix: that would wake the threads of a linear algebra library, which then
    wait busily, for every picture of every camera.
    """
    old = len(values)
    edges = np.arange(new + 1) * old / new
    before = np.minimum(edges.astype(int), old - 1)
    part = (edges - before)[:, np.newaxis].astype(np.float32) * values[before]
    whole = np.add.reduceat(values, before[:-1], axis=0, dtype=np.float32)
    too_many = np.diff(before) == 0  # of no row, reduceat gives one
    too_many[-1] = True  # and it runs to the end, where the last edge counts the last row already
    whole[too_many] -= values[before[1:]][too_many]
    return (whole + np.diff(part, axis=0)) * np.float32(new / old)


def signature(image: np.ndarray) -> np.ndarray:
    """What a camera sees, coarsely: brightness in 8×8 fields, row by row, ``(64,)`` uint8."""
    return scale(image, SIGNATURE, SIGNATURE).mean(axis=2).round().astype(np.uint8).ravel()


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation of two signatures, −1 to 1: brightness and contrast of the whole do not matter."""
    a, b = (np.asarray(value, dtype=np.float64) - np.mean(value) for value in (first, second))
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm > 0 else 0.0


# Sources -------------------------------------------------------------------------------------------


class FrameSource(Protocol):
    """Where a camera's pictures come from."""

    def read(self) -> tuple[np.ndarray, float]:
        """Waits for the next picture: ``(H, W, 3)`` uint8 in RGB, and its monotonic time of capture (s).

        Raises:
            CameraError: there is none, and there will be none.
        """

    def close(self) -> None:
        """Gives the camera back."""


class OpenCVSource:
    """A camera or a video file, read through OpenCV.

    Args:
        name: For messages.
        device: A path, best one of /dev/v4l/by-id, which stays the same; or a number; or a video file.
        size: Width and height to ask for (pixels).
        rate: Pictures a second to ask for.
        exposure: As the driver counts; None leaves it to the camera.

    Raises:
        CameraMissing: it cannot be opened, or OpenCV is not installed; says what to do.
    """

    def __init__(
        self, name: str, device: str, size: Sequence[int], rate: float, exposure: float | None = None
    ) -> None:
        try:
            import cv2
        except ImportError as error:
            raise CameraMissing(name, f"needs OpenCV ({error})", INSTALL) from error
        self._name, self._device, self._cv2 = name, device, cv2
        _check_device(name, device)
        self._capture = self._open()
        if not self._capture.isOpened():
            self._capture.release()
            remedy = "Close other programs that use it (fuser -v DEVICE), or plug it in again."
            raise CameraMissing(name, f"{device} cannot be opened", remedy)
        self._set(size, rate, exposure)

    def _open(self) -> Any:
        real = os.path.realpath(self._device)
        if self._device.isdigit():
            return self._cv2.VideoCapture(int(self._device), self._cv2.CAP_V4L2)
        if real.startswith("/dev/"):
            return self._cv2.VideoCapture(real, self._cv2.CAP_V4L2)
        return self._cv2.VideoCapture(self._device)

    def _set(self, size: Sequence[int], rate: float, exposure: float | None) -> None:
        """Asks; a driver may decline, which is seen from what comes."""
        cv2 = self._cv2
        # Compressed pictures let two cameras share one USB 2 bus: raw ones of 640×480 at 30 Hz take 18 MB/s.
        self._capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
        self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
        self._capture.set(cv2.CAP_PROP_FPS, rate)
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        if exposure is not None:
            self._capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, 1)  # V4L2: 1 is manual, 3 automatic
            self._capture.set(cv2.CAP_PROP_EXPOSURE, exposure)

    def read(self) -> tuple[np.ndarray, float]:
        good, picture = self._capture.read()
        captured = time.monotonic()
        if not good:
            raise CameraMissing(
                self._name, f"{self._device} delivers nothing", "Check its cable and its hub."
            )
        return np.ascontiguousarray(picture[..., ::-1]), captured  # OpenCV has blue first

    def close(self) -> None:
        self._capture.release()


def _check_device(name: str, device: str) -> None:
    """What OpenCV would only call "not opened"."""
    path = Path(f"/dev/video{device}" if device.isdigit() else device)
    if not path.exists():
        there = sorted(str(found) for found in Path("/dev/v4l/by-id").glob("*")) or ["none"]
        remedy = f"Plug it in, or put its path into the configuration; cameras here: {', '.join(there)}."
        raise CameraMissing(name, f"there is no {path}", remedy)
    if not os.access(path, os.R_OK):
        remedy = "You need the right to use it: sudo usermod -aG video $USER, then log in anew."
        raise CameraMissing(name, f"{path} may not be read", remedy)


def open_source(camera: config.Camera) -> FrameSource:
    """The source that a configuration names: ``twin:PATH`` is an emulated camera, all else OpenCV's.

    Raises:
        CameraMissing: it cannot be had.
    """
    if camera.device.startswith("twin:"):
        from hardware_bridge.twin.pictures import SocketSource

        return SocketSource(camera.name, camera.device.removeprefix("twin:"))
    return OpenCVSource(camera.name, camera.device, camera.size, camera.rate, camera.exposure)


# Watching ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CameraLimits:
    """When a camera is unwell; times in s, brightness of 0 to 255.

    ``frozen_time`` with the same picture, at least ``frozen_frames`` of it. Brightness outside ``dark`` to
    ``bright``, or a spread (standard deviation) below ``flat``: nothing to see. Below ``least_rate`` of the
    stated rate, over ``rate_time``: slow. Nothing for ``silent_time``: missing. ``reopen``: wait between
    attempts to open. ``swap_margin``: by how much exchanged likenesses must exceed the right ones.

    Raises:
        ValueError: a number that is not above 0, or dark beyond bright.
    """

    frozen_time: float = 0.3
    frozen_frames: int = 3
    dark: float = 8.0
    bright: float = 247.0
    flat: float = 3.0
    least_rate: float = 0.6
    rate_time: float = 2.0
    silent_time: float = 1.0
    reopen: float = 0.5
    swap_margin: float = 0.3

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: must be a number above 0, got {value!r}")
        if self.dark >= self.bright:
            raise ValueError(f"dark: must be below bright, got {self.dark} and {self.bright}")


class Inspector:
    """Tells what is the matter with a camera from its pictures and their times; knows no clock.

    Args:
        name: For messages.
        rate: Pictures a second that it should deliver.
        limits: When it is unwell.
    """

    def __init__(self, name: str, rate: float, limits: CameraLimits | None = None) -> None:
        self.name, self.rate, self.limits = name, rate, limits or CameraLimits()
        self._last: np.ndarray | None = None
        self._same_since = -math.inf
        self._same = 0
        self._mean = self._spread = 128.0
        self._times: deque[float] = deque(maxlen=512)
        self._began = math.nan

    def feed(self, picture: np.ndarray, captured: float) -> None:
        """Takes in a picture as it came, before cropping, ``(H, W, 3)``."""
        if self._last is not None and np.array_equal(picture, self._last):
            self._same += 1
        else:
            self._same, self._same_since = 1, captured
        self._last = picture
        sparse = picture[::4, ::4]
        self._mean, self._spread = float(sparse.mean()), float(sparse.std())
        self._times.append(captured)
        if math.isnan(self._began):
            self._began = captured

    def measured_rate(self, now: float) -> float:
        """Pictures a second, lately; NaN before half a second of them."""
        watched = min(now - self._began, self.limits.rate_time)
        if not watched >= 0.5:
            return math.nan
        recent = [at for at in self._times if at > now - watched]
        return len(recent) / watched

    def check(self, now: float) -> CameraError | None:
        """The worst that is the matter, None if all is well."""
        if self._last is None:
            return None
        checks = (self._silent, self._dark, self._frozen, self._slow)
        return next((error for error in (check(now) for check in checks) if error), None)

    def _silent(self, now: float) -> CameraError | None:
        age = now - self._times[-1]
        if age <= max(self.limits.silent_time, 5 / self.rate):
            return None
        return CameraMissing(self.name, f"nothing for {age:.1f} s", "Check its cable and its hub.")

    def _dark(self, now: float) -> CameraError | None:
        limits = self.limits
        if self._mean < limits.dark:
            what, remedy = "black", "Uncover the lens, switch the light on, or lengthen its exposure."
        elif self._mean > limits.bright:
            what, remedy = "saturated", "Shorten its exposure, or move the light."
        elif self._spread < limits.flat:
            what, remedy = "without any detail", "Uncover the lens; check that it is in focus."
        else:
            return None
        numbers = f"brightness {self._mean:.0f}, spread {self._spread:.1f}"
        return CameraDark(self.name, f"its picture is {what} ({numbers})", remedy)

    def _frozen(self, now: float) -> CameraError | None:
        lasted = self._times[-1] - self._same_since
        if self._same < self.limits.frozen_frames or lasted < self.limits.frozen_time:
            return None
        what = f"frozen: {self._same} equal pictures in {lasted:.1f} s"
        return CameraFrozen(self.name, what, "Plug it in again; if that recurs, use another USB port or hub.")

    def _slow(self, now: float) -> CameraError | None:
        measured = self.measured_rate(now)
        if not measured < self.limits.least_rate * self.rate:
            return None
        what = f"slow: {measured:.1f} pictures/s, {self.rate:.0f} are configured"
        remedy = "Shorten its exposure, give each camera a USB bus of its own, or configure the rate it has."
        return CameraSlow(self.name, what, remedy)


class Frame(NamedTuple):
    """A picture, ``(64, 64, 3)`` uint8; its monotonic time of capture (s); its number since opening."""

    image: np.ndarray
    captured: float
    sequence: int


OnFrame = Callable[[str, Frame], None]


class Camera:
    """A camera with its thread. Use it as a context manager, or call ``start`` and ``close``.

    Args:
        settings: Its part of the configuration.
        source: Opens its source; called again after a failure.
        limits: When it is unwell.
        clock: Monotonic time (s).
        on_frame: Gets the name and each new frame, in the camera's thread; must be quick and not raise.
    """

    def __init__(
        self,
        settings: config.Camera,
        source: Callable[[], FrameSource] | None = None,
        limits: CameraLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_frame: OnFrame | None = None,
    ) -> None:
        self.settings, self.name = settings, settings.name
        self.limits = limits or CameraLimits()
        self._source = source or (lambda: open_source(settings))
        self._clock, self._on_frame = clock, on_frame
        self._inspector = Inspector(settings.name, settings.rate, self.limits)
        self._frame: Frame | None = None
        self._missed = 0
        self._failure: CameraError | None = None
        self._crash: BaseException | None = None
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------ life

    def start(self) -> Camera:
        """Opens the camera, in its own thread; returns at once."""
        if self._thread is not None:
            raise RuntimeError(f"camera {self.name} is already started")
        # An event of its own: a driver that hung, and was left behind, must not come back to life.
        self._stop, self._crash = threading.Event(), None
        self._thread = threading.Thread(
            target=self._run, args=(self._stop,), name=f"camera {self.name}", daemon=True
        )
        self._thread.start()
        return self

    def close(self) -> None:
        """Stops the thread; a driver that hangs is left behind after 2 s."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2.0)
            self._thread = None

    def __enter__(self) -> Camera:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, stop: threading.Event) -> None:
        try:
            while not stop.is_set():
                self._session(stop)
                stop.wait(self.limits.reopen)
        except BaseException as error:  # noqa: BLE001 - read() raises it where it is seen
            with self._changed:
                self._crash = error
                self._changed.notify_all()

    def _session(self, stop: threading.Event) -> None:
        """From opening the camera until it fails or is closed."""
        try:
            source = self._source()
        except CameraError as error:
            self._fail(error)
            return
        try:
            while not stop.is_set():
                self._take(*source.read())
        except CameraError as error:
            self._fail(error)
        finally:
            source.close()

    def _fail(self, error: CameraError) -> None:
        with self._changed:
            self._failure = error
            self._changed.notify_all()

    def _take(self, picture: np.ndarray, captured: float) -> None:
        width, height = self.settings.size
        if picture.shape != (height, width, 3) or picture.dtype != np.uint8:
            found = f"{picture.shape[1]}×{picture.shape[0]}" if picture.ndim == 3 else f"{picture.shape}"
            remedy = (
                "Set its size in the configuration to one that the camera has (v4l2-ctl --list-formats-ext)."
            )
            raise WrongSize(self.name, f"pictures of {found} instead of {width}×{height}", remedy)
        left, top, wide, high = self.settings.crop or (0, 0, width, height)
        image = scale(picture[top : top + high, left : left + wide])
        image = image.copy() if image.base is not None or image is picture else image
        image.flags.writeable = False
        with self._changed:
            self._inspector.feed(picture, captured)
            number = 0 if self._frame is None else self._frame.sequence + 1
            if self._frame is not None:
                # Less than half a period late is none lost.
                self._missed += max(0, round((captured - self._frame.captured) * self.settings.rate) - 1)
            frame = self._frame = Frame(image, captured, number)
            self._failure = None
            self._changed.notify_all()
        if self._on_frame is not None:
            self._on_frame(self.name, frame)

    # ------------------------------------------------------------ frames

    def read(self, max_age: float = 0.2, *, after: int = -1, timeout: float = 0.0) -> Frame:
        """The newest frame, if it is young enough and the camera is well; what the policy sees.

        Args:
            max_age: The oldest that it may be (s).
            after: Only a frame with a greater sequence number.
            timeout: Wait so long for one; 0: do not wait.

        Raises:
            StaleFrame: the newest is too old.
            CameraError: the camera is missing, dark or frozen. A slow one is no error as long as its frames
                are young enough.
            RuntimeError: the camera's thread had died, with its reason as the cause.
        """
        deadline = self._clock() + timeout
        with self._changed:
            while True:
                if self._crash is not None:
                    raise RuntimeError(f"the thread of camera {self.name} failed") from self._crash
                now = self._clock()
                frame = self._frame
                if frame and frame.sequence > after and now - frame.captured <= max_age:
                    break
                if now >= deadline:
                    raise self._why_stale(now, max_age)
                self._changed.wait(deadline - now)
            error = self._inspector.check(now)
        if error is not None and not isinstance(error, CameraSlow):
            raise error
        return frame

    def age(self, frame: Frame) -> float:
        """How old a frame is now (s)."""
        return self._clock() - frame.captured

    def _why_stale(self, now: float, max_age: float) -> CameraError:
        if self._failure is not None:
            return self._failure
        if self._frame is None:
            return CameraMissing(self.name, "no picture has come yet", "Wait for it, or check its cable.")
        age = now - self._frame.captured
        what = f"the newest picture is {1000 * age:.0f} ms old, {1000 * max_age:.0f} ms are allowed"
        return StaleFrame(self.name, what, "Check its cable and frame rate, and how busy the computer is.")

    def check(self) -> CameraError | None:
        """What is the matter with the camera, None if all is well."""
        with self._changed:
            if self._crash is not None:
                what = f"the thread that reads it failed ({self._crash!r})"
                return CameraMissing(self.name, what, "Close it and start it again; report this.")
            if self._failure is not None:
                return self._failure
            if self._frame is None:
                return CameraMissing(self.name, "no picture has come yet", "Check its cable and its hub.")
            return self._inspector.check(self._clock())

    @property
    def newest(self) -> Frame | None:
        """The newest frame, however old it is."""
        return self._frame

    @property
    def missed(self) -> int:
        """How many pictures, by its rate, have not come since the first one."""
        return self._missed

    @property
    def measured_rate(self) -> float:
        """Pictures a second, lately; NaN before half a second of them."""
        with self._changed:
            return self._inspector.measured_rate(self._clock())


# Several cameras -----------------------------------------------------------------------------------


def exchanged(
    seen: Mapping[str, np.ndarray], references: Mapping[str, np.ndarray], margin: float = 0.3
) -> CamerasSwapped | None:
    """Whether two cameras see what the other one should; None if not.

    Args:
        seen: A signature per camera.
        references: The signatures that were taken when all was right, at the same pose of the arm.
        margin: By how much the exchanged likenesses must exceed the right ones, in all.
    """
    if len(seen) != 2 or not set(seen) <= set(references):
        return None
    first, second = seen
    right = likeness(seen[first], references[first]) + likeness(seen[second], references[second])
    wrong = likeness(seen[first], references[second]) + likeness(seen[second], references[first])
    if wrong <= right + margin:
        return None
    what = f"exchanged: likeness {wrong / 2:.2f} crosswise, {right / 2:.2f} as configured"
    return CamerasSwapped(f"{first}, {second}", what, "Exchange their devices in the configuration.")


class Cameras:
    """All cameras of a robot, in the order in which an observation joins them.

    Args:
        cameras: Front first.
    """

    def __init__(self, cameras: Iterable[Camera]) -> None:
        self.cameras: dict[str, Camera] = {camera.name: camera for camera in cameras}

    @classmethod
    def of(
        cls,
        configuration: config.Configuration,
        limits: CameraLimits | None = None,
        on_frame: OnFrame | None = None,
    ) -> Cameras:
        """The cameras that a configuration names, front first."""
        ordered = sorted(configuration.cameras, key=lambda camera: camera.name)
        return cls(Camera(settings, limits=limits, on_frame=on_frame) for settings in ordered)

    def __enter__(self) -> Cameras:
        for camera in self.cameras.values():
            camera.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops all."""
        for camera in self.cameras.values():
            camera.close()

    def read(self, max_age: float = 0.2, *, timeout: float = 0.0) -> tuple[np.ndarray, dict[str, Frame]]:
        """An observation, ``(64, 128, 3)`` uint8, contiguous and the caller's own, and the frames it is of.

        Raises:
            CameraError: one of them is unwell, or its newest frame is older than ``max_age`` (s).
        """
        until = time.monotonic() + timeout
        frames: dict[str, Frame] = {}
        # While one camera was waited for, the frame of another may have grown too old.
        while not frames or any(self.cameras[name].age(frame) > max_age for name, frame in frames.items()):
            for name, camera in self.cameras.items():
                left = max(0.0, until - time.monotonic())
                frames[name] = camera.read(max_age, timeout=left)
        return np.concatenate([frame.image for frame in frames.values()], axis=1), frames

    def check(self) -> list[CameraError]:
        """What is the matter, with which cameras; exchanged ones are found where references are known."""
        found = [error for error in (camera.check() for camera in self.cameras.values()) if error]
        if any(not isinstance(error, CameraSlow) for error in found):
            return found
        swapped = self.swapped()
        return found + ([swapped] if swapped else [])

    def swapped(self) -> CamerasSwapped | None:
        """Whether they are exchanged; says something with the arm at rest alone, as references were taken."""
        return exchanged(self.signatures(), self.references())

    def signatures(self) -> dict[str, np.ndarray]:
        """What each camera sees now, coarsely, by name; cameras without a picture are left out."""
        frames = {name: camera._frame for name, camera in self.cameras.items()}
        return {name: signature(frame.image) for name, frame in frames.items() if frame}

    def references(self) -> dict[str, np.ndarray]:
        """What each camera should see, by name, where the configuration says."""
        settings = {name: camera.settings.reference for name, camera in self.cameras.items()}
        return {name: np.array(values) for name, values in settings.items() if values is not None}
