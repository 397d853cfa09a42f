"""Emulated cameras: pictures over a Unix socket, at a rate, with a sensor's noise, or with a defect.

A server paints a picture and sends it to whoever is connected, with the monotonic time at which it was
painted, which all processes of a machine share. ``SocketSource`` is the other end, a source like any other.
What is painted comes from a function: a chart that looks different for each camera, or a renderer's picture.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple

import numpy as np

from hardware_bridge.cameras import CameraMissing

#: Of a picture on the socket: captured (s), height, width.
_HEADER = struct.Struct("<dHH")
#: Pictures with this many different patterns of noise follow each other: making noise anew costs 10 ms.
_NOISES = 5

#: Brightness of pictures that show nothing; noise comes on top.
_PLAIN = {"black": 0, "saturated": 251, "covered": 25}

CameraDefect = Literal["black", "saturated", "covered", "frozen", "slow"]


class Lens(NamedTuple):
    """An emulated camera of an emulated robot.

    Attributes:
        path: of its socket.
        shows: what it is pointed at, a name of ``painter.CAMERAS``.
        rate: pictures a second.
        defect: from the start, if it has one.
    """

    path: Path
    shows: str
    rate: float
    defect: CameraDefect | None = None


def chart(name: str, height: int, width: int) -> np.ndarray:
    """A picture of 8×8 coloured fields that depends on the name alone, ``(height, width, 3)`` uint8."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    fields = rng.integers(30, 226, (8, 8, 3), dtype=np.uint8)
    rows, columns = np.arange(height) * 8 // height, np.arange(width) * 8 // width
    return fields[rows[:, None], columns[None, :]]


class PictureServer:
    """One emulated camera. Use it as a context manager.

    Args:
        path: Of its socket.
        paint: The present picture, ``(H, W, 3)`` uint8 with 8 ≤ values ≤ 247; called in the server's thread.
        rate: Pictures a second.
        defect: ``black``, ``saturated``, ``covered`` (dim, nothing to see), ``frozen`` (new times, old
            picture), or ``slow`` (a fifteenth of the rate); all but the last may be set at any time.
        seed: Of the noise.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        paint: Callable[[], np.ndarray],
        rate: float = 30.0,
        defect: CameraDefect | None = None,
        seed: int = 0,
    ) -> None:
        self.path, self.paint, self.defect = Path(path), paint, defect
        self.period = (15.0 if defect == "slow" else 1.0) / rate
        self._rng = np.random.default_rng(seed)
        self._noises: list[np.ndarray] = []
        self._count = 0
        self._last: np.ndarray | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._clients: list[socket.socket] = []

    def __enter__(self) -> PictureServer:
        self.path.unlink(missing_ok=True)
        self._listener.bind(str(self.path))
        self._listener.listen(4)
        self._thread = threading.Thread(target=self._serve, name=f"pictures {self.path.name}", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the server.

        Raises:
            RuntimeError: its thread had died, with its reason as the cause.
        """
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        for open_socket in (self._listener, *self._clients):
            open_socket.close()
        self.path.unlink(missing_ok=True)
        if self._failure is not None:
            raise RuntimeError(f"the camera at {self.path} failed") from self._failure

    def picture(self) -> np.ndarray:
        """The next picture, noise and defect included."""
        self._count += 1
        if self.defect == "frozen" and self._last is not None:
            return self._last
        painted = self.paint()
        if self.defect in _PLAIN:
            painted = np.full_like(painted, _PLAIN[self.defect])
        if not self._noises or self._noises[0].shape != painted.shape:
            self._noises = [self._rng.integers(0, 5, painted.shape, dtype=np.uint8) for _ in range(_NOISES)]
        self._last = painted + self._noises[self._count % _NOISES]
        return self._last

    def _serve(self) -> None:
        try:
            due = time.monotonic()
            while not self._stop.is_set():
                self._accept(max(0.0, due - time.monotonic()))
                if time.monotonic() >= due:
                    due = max(due + self.period, time.monotonic() - self.period)
                    if self._clients:  # nobody looks: nothing is painted
                        self._send()
        except BaseException as error:  # noqa: BLE001 - kept for close(), which raises it where it is seen
            self._failure = error

    def _accept(self, timeout: float) -> None:
        if select.select([self._listener], [], [], min(timeout, 0.1))[0]:
            client, _ = self._listener.accept()
            client.settimeout(0.5)
            self._clients.append(client)

    def _send(self) -> None:
        picture, at = self.picture(), time.monotonic()
        data = _HEADER.pack(at, *picture.shape[:2]) + picture.tobytes()
        for client in list(self._clients):
            try:
                client.sendall(data)
            except OSError:  # it left, or does not read
                self._clients.remove(client)
                client.close()


class SocketSource:
    """An emulated camera, seen from the bridge: a ``FrameSource``.

    Raises:
        CameraMissing: nobody serves it.
    """

    def __init__(self, name: str, path: str) -> None:
        self._name, self._path = name, path
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(1.0)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            remedy = "Start the twin: python -m hardware_bridge twin."
            raise CameraMissing(name, f"nobody serves {path} ({error.strerror or error})", remedy) from error

    def read(self) -> tuple[np.ndarray, float]:
        at, height, width = _HEADER.unpack(self._exactly(_HEADER.size))
        data = self._exactly(height * width * 3)
        return np.frombuffer(data, dtype=np.uint8).reshape(height, width, 3), at

    def _exactly(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            try:
                piece = self._socket.recv(length - len(data))
            except OSError as error:
                what = f"{self._path} delivers nothing ({error})"
                raise CameraMissing(self._name, what, "Look at the twin.") from error
            if not piece:
                raise CameraMissing(self._name, f"{self._path} was closed", "Start the twin again.")
            data += piece
        return bytes(data)

    def close(self) -> None:
        self._socket.close()
