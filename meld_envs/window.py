"""A window for people, through MuJoCo's viewer; without a display it says so once and draws nothing."""

from __future__ import annotations

import copy
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import mujoco

from meld_envs.camera import Marker, add_marker
from meld_envs.world import World

logger = logging.getLogger(__name__)

_said = False  # whether this process has been told that there is no display


def has_display() -> bool:
    """Whether a window can be opened here."""
    return not sys.platform.startswith("linux") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


class Window:
    """Shows one simulation; opened with the first picture."""

    def __init__(self, camera: str, key_callback: Callable[[int], None] | None = None) -> None:
        """Prepares; nothing is opened yet.

        Args:
            camera: of the model, whose view is shown first.
            key_callback: is told the code of every key that goes down, in the window's thread.
        """
        self._camera = camera
        self._key_callback = key_callback
        self._threads: list[threading.Thread] = []
        self._viewer: Any = None
        self._model: mujoco.MjModel | None = None
        self._data: mujoco.MjData | None = None

    def show(self, world: World, sim: int, markers: Sequence[Marker]) -> None:
        """Shows a simulation as it is now, with markers; nothing once the user has closed the window."""
        if not has_display():
            _say_once()
            return
        if self._viewer is None:
            self._open(world)
        if not self._viewer.is_running():
            return
        with self._viewer.lock():
            self._data.qpos[:] = world.qpos[sim]  # type: ignore[union-attr]
            world.sim_model(sim, self._model)
            mujoco.mj_forward(self._model, self._data)
            self._viewer.user_scn.ngeom = 0
            for marker in markers:
                add_marker(self._viewer.user_scn, marker)
        self._viewer.sync()

    def close(self) -> None:
        """Closes the window."""
        if self._viewer is not None:
            self._viewer.close()
            self._viewer = None
        for thread in self._threads:
            thread.join(timeout=5)  # Python must not end while the viewer still draws
        self._threads.clear()

    def _open(self, world: World) -> None:
        from mujoco import viewer  # imports glfw, which wants a display

        before = set(threading.enumerate())
        self._model = copy.copy(world.model)
        self._data = mujoco.MjData(self._model)
        self._viewer = viewer.launch_passive(
            self._model,
            self._data,
            key_callback=self._key_callback,
            show_left_ui=False,
            show_right_ui=False,
        )
        self._threads = [thread for thread in threading.enumerate() if thread not in before]
        self._viewer.cam.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._viewer.cam.fixedcamid = mujoco.mj_name2id(world.model, mujoco.mjtObj.mjOBJ_CAMERA, self._camera)


def _say_once() -> None:
    global _said
    if not _said:
        _said = True
        logger.warning(
            "render_mode='human': no display (DISPLAY and WAYLAND_DISPLAY are unset), so nothing is shown"
        )
