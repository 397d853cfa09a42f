"""What the emulated robot's cameras see and its plug feels: MuJoCo's pictures, and a contact in a file."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from types import TracebackType

import numpy as np

from hardware_bridge.twin.arm import WidowXWorld
from hardware_bridge.twin.painter import painter
from meld_envs.families import widowx_ethernet as scene
from meld_envs.robots import widowx

#: The plug is looked at so often (s): a dry contact is slower than this.
PERIOD = 0.01


class View:
    """Pictures of a world while its line is served, drawn by ``painter`` when a camera asks.

    Args:
        world: whose.
        size: height and width of a picture (pixels).
    """

    def __init__(self, world: WidowXWorld, size: int) -> None:
        self._seen, self._size = world, size
        self._last: dict[str, tuple[tuple[float, ...], np.ndarray]] = {}
        self._lock = threading.Lock()

    def paint(self, name: str) -> np.ndarray:
        """What a camera sees now, ``(size, size, 3)`` uint8 of at most 247; the same array if nothing moved.

        The line is not stopped for it: angles of two of its steps may be mixed, 1 mrad apart.
        """
        angles = tuple(self._seen.joint(joint.name).position for joint in widowx.JOINTS)
        return self.paint_at(name, angles, self._seen.rig)

    def paint_at(self, name: str, angles: tuple[float, ...], rig: tuple[float, float]) -> np.ndarray:
        """The same with the arm at angles (rad) and the rig at a rotation (rad) and translation (m)."""
        with self._lock:
            state = (*angles, *rig)
            if name in self._last and self._last[name][0] == state:
                return self._last[name][1]
            picture = painter(self._size).paint(name, angles, rig)
            self._last[name] = (state, picture)
            return picture


def contacts(world: WidowXWorld) -> tuple[bool, ...]:
    """In which ports of the panel the plug is fully in, port by port; as the family sees it."""
    x, y, z = widowx.tip_place(np.array([world.joint(joint.name).position for joint in widowx.JOINTS]))
    if z > scene.FACE - scene.INSERTED:
        return (False,) * scene.NUM_PORTS
    rotation, translation = world.rig
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
        world: whose plug.
    """

    def __init__(self, path: str | os.PathLike[str], world: WidowXWorld) -> None:
        self.path, self._world = Path(path), world
        self._forced: int | None = None
        self._written: tuple[bool, ...] | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="contact", daemon=True)

    def force(self, port: int | None) -> None:
        """From now on a port says that something is in, whatever the plug does; None: no longer."""
        if port is not None and not 0 <= port < scene.NUM_PORTS:
            raise ValueError(f"port {port}: the panel has ports 0 to {scene.NUM_PORTS - 1}")
        self._forced = port
        self.update()

    def update(self) -> None:
        """Writes what is so now, if it is new."""
        with self._lock:
            found = contacts(self._world)
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
