"""Cameras and contact of emulated robots, in a process beside the one whose line their servos answer on.

In one process, servos would wait whenever another thread holds Python's lock, however long the computer stops
the core on which that one runs. The robot's process writes where arm and rig are into shared memory; this one
draws what cameras see of it, serves the pictures, and writes what the plug feels.

    python -m hardware_bridge.twin.senses CONNECTION SIZE

answers questions on an inherited connection until its other end is closed. ``Senses`` asks them.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from multiprocessing import Pipe, reduction
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from hardware_bridge.process import child_environment
from hardware_bridge.twin.painter import Painter
from hardware_bridge.twin.pictures import CameraDefect, Lens, PictureServer
from hardware_bridge.twin.plug import ContactFile
from hardware_bridge.twin.posture import Posture
from meld_envs.families import widowx_ethernet as scene

#: Until a question is answered (s): the first waits for the process to start, which takes a second or two.
PATIENCE = 60.0
#: Servos and driver come before it (steps of niceness).
BEHIND = 5


# The robot's process ---------------------------------------------------------------------------------


class Process:
    """The process, started now; it ends with this one.

    Args:
        size: height and width of all its pictures (pixels).
    """

    def __init__(self, size: int) -> None:
        ours, theirs = Pipe()
        command = [sys.executable, "-m", "hardware_bridge.twin.senses", str(theirs.fileno()), str(size)]
        with theirs:
            process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in the terminal is not for it: it ends with its robot
                env=child_environment(),
            )
        self._connection, self.pid, self._process = ours, process.pid, process
        self._asking = threading.Lock()
        self.close = weakref.finalize(self, _end, ours, process)

    @property
    def ended(self) -> bool:
        return not self.close.alive or self._process.poll() is not None

    def ask(self, what: str, *details: Any, descriptor: int | None = None) -> Any:
        """The answer of the method of that name of ``Host``; other threads of this process go on meanwhile.

        Raises:
            RuntimeError: it failed, or the process has ended.
        """
        try:
            with self._asking:
                self._connection.send((what, details, descriptor is not None))
                if descriptor is not None:
                    reduction.send_handle(self._connection, descriptor, self.pid)
                if not self._connection.poll(PATIENCE):
                    raise TimeoutError(f"no answer within {PATIENCE:.0f} s")
                answer, failure = self._connection.recv()
        except (OSError, EOFError, ValueError) as error:
            self.close()  # half an answer may lie there
            raise RuntimeError(f"the process of cameras and contact has ended ({error!r})") from error
        if failure:
            raise RuntimeError(f"the process of cameras and contact failed to {what}: {failure}")
        return answer


def _end(connection: Connection, process: subprocess.Popen[bytes]) -> None:
    connection.close()
    process.kill()  # it keeps nothing, and one that hangs would never see that its connection is closed
    process.wait()


_processes: dict[int, Process] = {}
_starting = threading.Lock()
_numbers = itertools.count()


def process(size: int) -> Process:
    """The one with pictures of a size, for all robots of this process; started when it is first wanted."""
    with _starting:
        if size not in _processes or _processes[size].ended:
            _processes[size] = Process(size)
        return _processes[size]


def paint(size: int, name: str, angles: Sequence[float], rig: tuple[float, float]) -> np.ndarray:
    """A picture as of ``Painter.paint``, of a robot that need not be there."""
    picture: np.ndarray = process(size).ask("paint", name, tuple(angles), rig)
    return picture


class Senses:
    """Cameras and contact of one robot. Use it as a context manager.

    Args:
        posture: where its arm and rig are.
        contact: the file in which it says what the plug feels.
        lenses: its cameras, by name.
        size: height and width of the pictures (pixels).
    """

    def __init__(self, posture: Posture, contact: Path, lenses: dict[str, Lens], size: int) -> None:
        self._posture, self._contact, self._lenses, self._size = posture, contact, lenses, size
        self._number = next(_numbers)
        self._process: Process | None = None

    def __enter__(self) -> Senses:
        self._process = process(self._size)
        details = (self._number, self._contact, self._lenses)
        self._process.ask("open", *details, descriptor=self._posture.descriptor)
        return self

    def insert(self, port: int | None) -> None:
        """From now on a port says that the plug is in, wherever it is; None: only where it is.

        Raises:
            ValueError: the switch has no such port.
        """
        if port is not None and not 0 <= port < scene.NUM_PORTS:
            raise ValueError(f"port {port}: the panel has ports 0 to {scene.NUM_PORTS - 1}")
        self._ask("insert", port)

    def spoil(self, camera: str, defect: CameraDefect | None) -> None:
        """A camera has a defect from now on, any but ``slow``; None: it is well again.

        Raises:
            KeyError: there is no such camera.
        """
        if camera not in self._lenses:
            raise KeyError(f"no camera {camera!r}; there are {', '.join(self._lenses)}")
        self._ask("spoil", camera, defect)

    def _ask(self, what: str, *details: Any) -> None:
        if self._process is None:
            raise RuntimeError("these cameras and this contact are not served: use them as a context manager")
        self._process.ask(what, self._number, *details)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ask("close")
        self._process = None


# The process itself ----------------------------------------------------------------------------------


class Host:
    """Answers questions; robots have numbers.

    Args:
        size: height and width of all pictures (pixels).
    """

    def __init__(self, size: int) -> None:
        self._painter = Painter(size)
        self._robots: dict[int, tuple[contextlib.ExitStack, ContactFile, dict[str, PictureServer]]] = {}

    def paint(self, name: str, angles: tuple[float, ...], rig: tuple[float, float]) -> np.ndarray:
        return self._painter.paint(name, angles, rig)

    def open(self, number: int, contact: Path, lenses: dict[str, Lens], descriptor: int) -> None:
        posture = Posture(descriptor)
        file = ContactFile(contact, posture)
        servers = {name: self._server(lens, posture) for name, lens in lenses.items()}
        with contextlib.ExitStack() as opening:
            opening.enter_context(file)
            for server in servers.values():
                opening.enter_context(server)
            self._robots[number] = opening.pop_all(), file, servers

    def _server(self, lens: Lens, posture: Posture) -> PictureServer:
        def see() -> np.ndarray:
            return self._painter.paint(lens.shows, *posture.read())

        return PictureServer(lens.path, see, lens.rate, lens.defect)

    def insert(self, number: int, port: int | None) -> None:
        self._robots[number][1].force(port)

    def spoil(self, number: int, camera: str, defect: CameraDefect | None) -> None:
        self._robots[number][2][camera].defect = defect

    def close(self, number: int) -> None:
        self._robots.pop(number)[0].close()

    def end(self) -> None:
        """Nobody is left to serve."""
        for number in list(self._robots):
            with contextlib.suppress(RuntimeError):  # nobody is left to tell, either
                self.close(number)
        self._painter.close()


def main(arguments: list[str]) -> int:
    """Serves until nobody is left to serve."""
    with contextlib.suppress(OSError):
        os.nice(BEHIND)
    with Connection(int(arguments[0])) as questions, contextlib.suppress(EOFError, ConnectionError):
        host = Host(int(arguments[1]))
        try:
            while True:
                what, details, passes = questions.recv()
                passed = (reduction.recv_handle(questions),) if passes else ()
                answer, failure = None, ""
                try:
                    answer = getattr(host, what)(*details, *passed)
                except Exception as error:  # noqa: BLE001 - whoever asked raises it
                    failure = f"{error!r}" + (f", from {error.__cause__!r}" if error.__cause__ else "")
                questions.send((answer, failure))
        finally:
            host.end()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
