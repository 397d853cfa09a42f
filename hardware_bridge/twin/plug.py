"""What the emulated robot's plug feels, in a file, as the insertion sensor of a twin reads it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from hardware_bridge.twin.posture import Posture
from meld_envs.families import widowx_ethernet as scene
from meld_envs.robots import widowx

#: The plug is looked at so often (s): a dry contact is slower than this.
PERIOD = 0.01


def contacts(angles: Sequence[float], rig: tuple[float, float]) -> tuple[bool, ...]:
    """In which ports of the switch the plug is fully in, port by port; as the family sees it.

    Args:
        angles: ``(5,)`` rad, of the joints.
        rig: rotation (rad) and translation (m) of the switch.
    """
    x, y, z = widowx.tip_place(np.array(angles))
    if z > scene.FACE - scene.INSERTED:
        return (False,) * scene.NUM_PORTS
    rotation, translation = rig
    dx, dy = x - scene.PLACE_X, y - translation
    across = dx * np.cos(rotation) + dy * np.sin(rotation)
    along = -dx * np.sin(rotation) + dy * np.cos(rotation)
    return tuple(
        bool(abs(across) < scene.HALF_PORT[0] and abs(along - place) < scene.HALF_PORT[1])
        for place in scene.PORT_Y
    )


class ContactFile:
    """The plug's contacts in a file, ``0 1 0 0``, for ``insertion.TwinContact``. Use it as a context manager.

    Args:
        path: the file.
        posture: of the robot whose plug it is.
    """

    def __init__(self, path: str | os.PathLike[str], posture: Posture) -> None:
        self.path, self._posture = Path(path), posture
        self._forced: int | None = None
        self._written: tuple[bool, ...] | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="contact", daemon=True)

    def force(self, port: int | None) -> None:
        """From now on a port says that something is in, whatever the plug does; None: no longer."""
        self._forced = port
        self.update()

    def update(self) -> None:
        """Writes what is so now, if it is new."""
        with self._lock:
            found = contacts(*self._posture.read())
            if self._forced is not None:
                found = tuple(made or index == self._forced for index, made in enumerate(found))
            if found == self._written:
                return
            fresh = self.path.with_name(f"{self.path.name}.new")
            fresh.write_text(" ".join(str(int(made)) for made in found) + "\n", encoding="ascii")
            fresh.replace(self.path)
            self._written = found

    def _run(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # the folder went away with its robot
            while not self._stop.wait(PERIOD):
                self.update()

    def __enter__(self) -> ContactFile:
        self.update()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
