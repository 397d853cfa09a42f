"""What a camera of the emulated robot sees, drawn as the simulation draws it."""

from __future__ import annotations

import threading

import numpy as np

from meld_envs.camera import Camera
from meld_envs.families import widowx_ethernet as scene
from meld_envs.world import World

#: A camera of the robot, and the scene's in its place.
CAMERAS = {"front": "scene", "wrist": "wrist"}
#: Brightest value that leaves room for a sensor's noise.
BRIGHTEST = 247


class Painter:
    """Draws for any number of threads, one picture at a time.

    Args:
        size: height and width of a picture (pixels).
    """

    def __init__(self, size: int) -> None:
        family = scene.WidowXEthernet
        self._world = World(family().build_model(), 1, 1, ("body_pos", "body_quat"))
        self._switch = self._world.model.body("switch").id
        self._cameras = {
            name: Camera(self._world, [place], size, 1, family.quality) for name, place in CAMERAS.items()
        }
        self._last: dict[str, tuple[tuple[float, ...], np.ndarray]] = {}
        self._drawing = threading.Lock()

    def paint(self, name: str, angles: tuple[float, ...], rig: tuple[float, float]) -> np.ndarray:
        """What a camera sees; the same array again if nothing moved since it was asked last.

        Args:
            name: of ``CAMERAS``.
            angles: ``(5,)`` rad, of the joints.
            rig: rotation (rad) and translation (m) of the switch.

        Returns:
            ``(size, size, 3)`` uint8 of at most ``BRIGHTEST``.
        """
        state = (*angles, *rig)
        with self._drawing:
            if name not in self._last or self._last[name][0] != state:
                self._last[name] = state, self._draw(name, angles, *rig)
            return self._last[name][1]

    def _draw(self, name: str, angles: tuple[float, ...], rotation: float, translation: float) -> np.ndarray:
        half = rotation / 2.0
        self._world.qpos[0] = angles
        self._world.fields["body_pos"][0, self._switch, 1] = translation
        self._world.fields["body_quat"][0, self._switch] = (np.cos(half), 0.0, 0.0, np.sin(half))
        return np.minimum(self._cameras[name].draw()[0], BRIGHTEST)

    def close(self) -> None:
        """Frees what the graphics library holds."""
        for camera in self._cameras.values():
            camera.close()
