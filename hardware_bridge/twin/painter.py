"""A process that draws what the emulated cameras see, beside the one whose line the servos answer on.

In one process, servos wait while whoever draws holds Python's lock, however long the computer stops the core
on which it does. On a computer that never stops, nothing measurable is gained by it.

    python -m hardware_bridge.twin.painter SOCKET SIZE

serves questions on an inherited socket until its other end is closed: ``QUESTION`` packed, with which camera
and what the scene is like; the answer is the picture's bytes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
import weakref

import numpy as np

from hardware_bridge.process import child_environment
from meld_envs.camera import Camera
from meld_envs.families import widowx_ethernet as scene
from meld_envs.robots import widowx
from meld_envs.world import World

#: A camera of the robot, and the scene's in its place.
CAMERAS = {"front": "scene", "wrist": "wrist"}
#: Which of them, angles (rad), rotation (rad) and translation (m) of the rig.
QUESTION = struct.Struct(f"<B{widowx.NUM_JOINTS + 2}d")
#: Brightest value that leaves room for a sensor's noise.
BRIGHTEST = 247
#: Until a picture comes (s): the first waits for the process to start, which takes a second or two.
PATIENCE = 60.0
#: Servos and driver come before it (steps of niceness).
BEHIND = 5


class Drawing:
    """The scene as the simulation draws it, in this process.

    Args:
        size: height and width of a picture (pixels).
    """

    def __init__(self, size: int) -> None:
        family = scene.WidowXEthernet
        self._world = World(family().build_model(), 1, 1, ("body_pos", "body_quat"))
        self._switch = self._world.model.body("switch").id
        self._cameras = [Camera(self._world, [place], size, 1, family.quality) for place in CAMERAS.values()]

    def draw(self, camera: int, angles: tuple[float, ...], rotation: float, translation: float) -> np.ndarray:
        """A picture ``(size, size, 3)`` uint8 of at most 247, with the arm and the rig there (rad, m)."""
        half = rotation / 2.0
        self._world.qpos[0] = angles
        self._world.fields["body_pos"][0, self._switch, 1] = translation
        self._world.fields["body_quat"][0, self._switch] = (np.cos(half), 0.0, 0.0, np.sin(half))
        return np.minimum(self._cameras[camera].draw()[0], BRIGHTEST)

    def close(self) -> None:
        """Frees what the graphics library holds."""
        for camera in self._cameras:
            camera.close()


class Painter:
    """The process, started now; it ends with this one. One question at a time.

    Args:
        size: as of ``Drawing``.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(PATIENCE)
        command = [sys.executable, "-m", "hardware_bridge.twin.painter", str(theirs.fileno()), str(size)]
        with theirs:
            process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in the terminal is not for it: it ends with its robot
                env=child_environment(),
            )
        self._asking = threading.Lock()
        self._process = process
        self.close = weakref.finalize(self, _end, self._socket, process)

    @property
    def ended(self) -> bool:
        return not self.close.alive or self._process.poll() is not None

    def paint(self, name: str, angles: tuple[float, ...], rig: tuple[float, float]) -> np.ndarray:
        """A picture as of ``Drawing.draw``; asking lets other threads of this process go on.

        Raises:
            RuntimeError: the process has ended.
        """
        length = self._size * self._size * 3
        picture = bytearray(length)
        view, have = memoryview(picture), 0
        try:
            with self._asking:
                self._socket.sendall(QUESTION.pack(list(CAMERAS).index(name), *angles, *rig))
                while have < length:
                    got = self._socket.recv_into(view[have:])
                    if not got:
                        raise ConnectionError("end of file")
                    have += got
        except OSError as error:
            self.close()  # half an answer may lie there
            raise RuntimeError(f"the process that draws the cameras' pictures has ended ({error})") from error
        return np.frombuffer(picture, np.uint8).reshape(self._size, self._size, 3)


def _end(ours: socket.socket, process: subprocess.Popen[bytes]) -> None:
    ours.close()
    process.kill()  # it keeps nothing, and one that hangs would never see that its socket is closed
    process.wait()


_painters: dict[int, Painter] = {}
_starting = threading.Lock()


def painter(size: int) -> Painter:
    """The one that draws pictures of a size for this process; started when it is first wanted."""
    with _starting:
        if size not in _painters or _painters[size].ended:
            _painters[size] = Painter(size)
        return _painters[size]


def main(arguments: list[str]) -> int:
    """Serves until nobody is left to serve."""
    with contextlib.suppress(OSError):
        os.nice(BEHIND)
    with socket.socket(fileno=int(arguments[0])) as questions:
        drawing = Drawing(int(arguments[1]))
        with contextlib.suppress(ConnectionError):
            while question := questions.recv(QUESTION.size, socket.MSG_WAITALL):
                camera, *numbers = QUESTION.unpack(question)
                *angles, rotation, translation = numbers
                questions.sendall(drawing.draw(camera, tuple(angles), rotation, translation).tobytes())
        drawing.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
