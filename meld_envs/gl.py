"""Worker threads that draw, one lazily created OpenGL context each, shared by the whole process."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, Protocol

logger = logging.getLogger(__name__)

HINT = (
    "Drawing needs an off-screen OpenGL library. Install one: for EGL (preferred) "
    "'apt-get install libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri libopengl0' on Debian or Ubuntu, or the "
    "graphics card's driver; for OSMesa 'apt-get install libosmesa6' and set MUJOCO_GL=osmesa. "
    "Without either, obs_type='state' works and needs no drawing."
)


class GLError(RuntimeError):
    """No usable off-screen OpenGL; the message says what was tried and what to install."""


class GLContext(Protocol):
    """What MuJoCo's EGL and OSMesa contexts have in common."""

    def make_current(self) -> None:
        """Makes it the calling thread's context."""

    def free(self) -> None:
        """Gives it back."""


class Freeable(Protocol):
    """What lives in a context and must be freed in its thread."""

    def free(self) -> None:
        """Gives it back, with its context current."""


def _egl_context() -> GLContext:
    from mujoco.egl import GLContext as EGLContext

    return EGLContext(1, 1)


def _osmesa_context() -> GLContext:
    from mujoco.osmesa import GLContext as OSMesaContext

    return OSMesaContext(1, 1)


#: MuJoCo sets up the display at the first context: one thread at a time.
_CREATION = threading.Lock()

_BACKENDS: dict[str, Callable[[], GLContext]] = {"egl": _egl_context, "osmesa": _osmesa_context}


@contextmanager
def _llvmpipe_threads(count: str) -> Iterator[None]:
    """Lets Mesa's software renderer draw in our threads instead of its own, unless the user chose a number.

    A small picture is one tile of work: handing it to further threads costs more than drawing it. Mesa
    reads the variable when the display is set up.
    """
    if "LP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["LP_NUM_THREADS"] = count
    try:
        yield
    finally:
        del os.environ["LP_NUM_THREADS"]


@contextmanager
def _undone_on_failure() -> Iterator[None]:
    """PyOpenGL binds itself to a platform when imported: after a failure the next one may choose anew."""
    modules, platform = set(sys.modules), os.environ.get("PYOPENGL_PLATFORM")
    try:
        yield
    except BaseException:
        for name in set(sys.modules) - modules:
            if name.startswith(("OpenGL", "mujoco.egl", "mujoco.osmesa")):
                del sys.modules[name]
        os.environ.pop("PYOPENGL_PLATFORM", None)
        if platform is not None:
            os.environ["PYOPENGL_PLATFORM"] = platform
        raise


def create_context() -> GLContext:
    """An off-screen context for the calling thread: what MUJOCO_GL says, else EGL, else OSMesa.

    Raises:
        GLError: none can be had.
    """
    with _CREATION, _llvmpipe_threads("0"):
        return _create_context()


def _create_context() -> GLContext:
    wanted = os.environ.get("MUJOCO_GL", "").lower().strip()
    names = [wanted] if wanted in _BACKENDS else list(_BACKENDS)
    failures: list[str] = []
    for name in names:
        try:
            with _undone_on_failure():
                context = _BACKENDS[name]()
            if failures:
                # MuJoCo's library would look for EGL's functions, now that EGL has been loaded.
                os.environ["MUJOCO_GL"] = name
                logger.info("drawing with %s, as there is no other: %s", name, "; ".join(failures))
            _stop_at_exit()
            return context
        except Exception as error:  # noqa: BLE001 - a missing library shows as any of a dozen types
            failures.append(f"{name}: {type(error).__name__}: {error}")
    raise GLError(f"no off-screen OpenGL context ({'; '.join(failures)}). {HINT}")


class Worker:
    """A daemon thread that runs jobs in order, with its own OpenGL context.

    Drawing never happens in the caller's thread, where another library's context may be current: a window
    of GLFW, another renderer. Taking turns there is how renderers in one process corrupt each other.
    """

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...], Future[Any]] | None] = (
            SimpleQueue()
        )
        self._context: GLContext | None = None
        self._owned: list[Freeable] = []
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Queues a call; the future has its result or its exception."""
        future: Future[Any] = Future()
        self._jobs.put((function, arguments, future))
        return future

    def make_current(self) -> None:
        """Makes this thread's context current, creating it at first use. Only in the worker's own thread."""
        if self._context is None:
            self._context = create_context()
        self._context.make_current()

    def own(self, resource: Freeable) -> None:
        """Takes charge of something in this context: freed by :meth:`free`, or with the thread."""
        self._owned.append(resource)

    def free(self, resource: Freeable) -> None:
        """Frees what :meth:`own` took. Only in the worker's own thread."""
        self._owned = [other for other in self._owned if other is not resource]
        self.make_current()
        resource.free()

    def stop(self) -> None:
        """Frees the context and ends the thread."""
        self._jobs.put(None)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            function, arguments, future = job
            try:
                future.set_result(function(*arguments))
            except BaseException as error:  # noqa: BLE001 - handed to the caller
                future.set_exception(error)
            del function, arguments, future, job
        self._free_all()

    def _free_all(self) -> None:
        for resource in list(self._owned):
            self.free(resource)
        if self._context is not None:
            self._context.free()
            self._context = None


class Workers:
    """The process's drawing threads: started as cameras ask for them, stopped with the process."""

    def __init__(self) -> None:
        self._workers: list[Worker] = []
        self._lock = threading.Lock()

    def get(self, count: int) -> list[Worker]:
        """The first ``count`` workers."""
        with self._lock:
            while len(self._workers) < count:
                self._workers.append(Worker(f"meld-draw-{len(self._workers)}"))
            return self._workers[:count]

    def stop(self) -> None:
        """Ends all workers."""
        with self._lock:
            workers, self._workers = self._workers, []
        for worker in workers:
            worker.stop()

    def forget(self) -> None:
        """In a forked child: the threads exist in the parent only."""
        self.__init__()  # type: ignore[misc]


WORKERS = Workers()


def _stop_at_exit() -> None:
    """Registered after MuJoCo's own hook, which closes the display, and so called before it."""
    atexit.unregister(WORKERS.stop)
    atexit.register(WORKERS.stop)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=WORKERS.forget)
