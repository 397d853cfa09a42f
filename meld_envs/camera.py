"""Off-screen frames of n simulations, drawn on worker threads."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple

import mujoco
import numpy as np

from meld_envs.gl import WORKERS, Worker
from meld_envs.world import World


@dataclass(frozen=True)
class Quality:
    """What drawing may cost; the defaults are those of observations.

    ``docs/environments.md`` says what each was found to cost.

    Attributes:
        samples: multisampling of edges; 0 for none.
        slices: facets around a round geom.
        stacks: facets along a round geom.
        quads: pieces along each edge of a box's faces, lit each for itself.
        shadow_size: width of the shadow map in pixels; 0 draws no shadows.
        reflections: whether shiny surfaces mirror the scene.
        skybox: whether the model's sky is drawn (else black).
    """

    samples: int = 4
    slices: int = 8
    stacks: int = 4
    quads: int = 4
    shadow_size: int = 0
    reflections: bool = False
    skybox: bool = False


#: For pictures and videos that people look at.
PEOPLE = Quality(samples=4, slices=28, stacks=16, shadow_size=2048, reflections=True, skybox=True)


class Marker(NamedTuple):
    """A geom added to pictures for people, never to observations: what is hidden, made visible.

    Attributes:
        shape: kind of geom.
        size: as in MJCF, metres.
        position: of its centre in the world, metres.
        rgba: colour.
    """

    shape: mujoco.mjtGeom
    size: tuple[float, float, float]
    position: tuple[float, float, float]
    rgba: tuple[float, float, float, float]


class Camera:
    """Draws n simulations from one or more of the model's cameras, side by side."""

    def __init__(
        self,
        world: World,
        names: Sequence[str],
        size: int,
        num_threads: int = 1,
        quality: Quality | None = None,
    ) -> None:
        """Prepares; no OpenGL is touched before the first frame.

        Args:
            world: whose simulations to draw.
            names: cameras of the model, from left to right.
            size: height of the picture and width of each camera's part, in pixels.
            num_threads: worker threads to draw on; the pixels do not depend on it.
            quality: what drawing may cost; by default what observations may cost.
        """
        self.size = size
        self.shape = (size, size * len(names), 3)
        self._world = world
        self._camera_ids = [
            mujoco.mj_name2id(world.model, mujoco.mjtObj.mjOBJ_CAMERA, name) for name in names
        ]
        self._quality = quality or Quality()
        self._num_threads = num_threads
        self._easels: list[tuple[Worker, _Easel]] = []
        self._finalizer = weakref.finalize(self, _free, self._easels)

    def draw(
        self, markers: Sequence[Sequence[Marker]] | None = None, sims: Sequence[int] | None = None
    ) -> np.ndarray:
        """Draws the simulations as they are now.

        Args:
            markers: geoms to add, for each simulation drawn.
            sims: which simulations; all of them by default.

        Returns:
            ``(number drawn, H, W, 3)`` uint8, fresh and contiguous.

        Raises:
            GLError: no off-screen OpenGL can be had.
        """
        sims = range(self._world.num_sims) if sims is None else sims
        frames = np.empty((len(sims), *self.shape), dtype=np.uint8)
        easels = self._get_easels(len(sims))
        futures: list[Future[Any]] = []
        for k, (worker, easel) in enumerate(easels):
            part = slice(k * len(sims) // len(easels), (k + 1) * len(sims) // len(easels))
            futures.append(
                worker.submit(
                    easel.draw, worker, sims[part], frames[part], markers[part] if markers else None
                )
            )
        for future in futures:
            future.exception()  # all must have ended before any error leaves this method
        for future in futures:
            future.result()
        return frames

    def close(self) -> None:
        """Frees what the graphics library holds for this camera."""
        for future in _free(self._easels):
            future.result()

    def _get_easels(self, num_sims: int) -> list[tuple[Worker, _Easel]]:
        count = max(1, min(self._num_threads, num_sims))
        workers = WORKERS.get(count)
        if any(worker is not known for worker, (known, _) in zip(workers, self._easels, strict=False)):
            self._easels.clear()  # drawn in the parent process before a fork: its threads are not ours
        for worker in workers[len(self._easels) :]:
            self._easels.append((worker, _Easel(self._world, self._camera_ids, self.size, self._quality)))
        return self._easels[:count]


class _Easel:
    """What one worker thread needs to draw one world: a scene, a data, a framebuffer."""

    def __init__(self, world: World, camera_ids: Sequence[int], size: int, quality: Quality) -> None:
        self._world = world
        self._model = _drawing_model(world.model, size, quality)
        self._data = mujoco.MjData(self._model)
        self._scene = mujoco.MjvScene(self._model, maxgeom=max(200, 2 * self._model.ngeom))
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = quality.shadow_size > 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = quality.reflections
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = quality.skybox
        self._scene.flags[mujoco.mjtRndFlag.mjRND_HAZE] = quality.skybox
        self._options = mujoco.MjvOption()
        self._cameras = [_fixed_camera(camera_id) for camera_id in camera_ids]
        self._size = size
        self._rect = mujoco.MjrRect(0, 0, size, size)
        self._pixels = np.empty((size, size, 3), dtype=np.uint8)
        self._context: mujoco.MjrContext | None = None

    def draw(
        self,
        worker: Worker,
        sims: Sequence[int],
        frames: np.ndarray,
        markers: Sequence[Sequence[Marker]] | None,
    ) -> None:
        """Draws simulations into ``frames``. Only in the worker's thread."""
        worker.make_current()
        if self._context is None:
            self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_50)
            worker.own(self._context)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        for k, sim in enumerate(sims):
            self._pose(sim)
            for c, camera in enumerate(self._cameras):
                self._draw_one(camera, markers[k] if markers else ())
                frames[k, :, c * self._size : (c + 1) * self._size] = self._pixels[::-1]

    def free(self, worker: Worker) -> None:
        """Frees the framebuffer. Only in the worker's thread."""
        if self._context is not None:
            worker.free(self._context)
            self._context = None

    def _pose(self, sim: int) -> None:
        for name, values in self._world.fields.items():
            getattr(self._model, name)[:] = values[sim]
        self._data.qpos[:] = self._world.qpos[sim]
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)

    def _draw_one(self, camera: mujoco.MjvCamera, markers: Sequence[Marker]) -> None:
        mujoco.mjv_updateScene(
            self._model, self._data, self._options, None, camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )
        for marker in markers:
            add_marker(self._scene, marker)
        mujoco.mjr_render(self._rect, self._scene, self._context)
        mujoco.mjr_readPixels(self._pixels, None, self._rect, self._context)


def _free(easels: list[tuple[Worker, _Easel]]) -> list[Future[Any]]:
    """Asks the workers to free the easels, and forgets them."""
    futures = [worker.submit(easel.free, worker) for worker, easel in easels]
    easels.clear()
    return futures


def _drawing_model(model: mujoco.MjModel, size: int, quality: Quality) -> mujoco.MjModel:
    """A copy of the model whose framebuffer has the picture's size and nothing that costs."""
    model = copy.copy(model)
    model.vis.global_.offwidth = size
    model.vis.global_.offheight = size
    model.vis.quality.shadowsize = quality.shadow_size
    model.vis.quality.offsamples = quality.samples
    model.vis.quality.numslices = quality.slices
    model.vis.quality.numstacks = quality.stacks
    model.vis.quality.numquads = quality.quads
    return model


def _fixed_camera(camera_id: int) -> mujoco.MjvCamera:
    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
    camera.fixedcamid = camera_id
    return camera


def add_marker(scene: mujoco.MjvScene, marker: Marker) -> None:
    """Appends a marker to a scene."""
    mujoco.mjv_initGeom(
        scene.geoms[scene.ngeom],
        marker.shape,
        np.array(marker.size),
        np.array(marker.position),
        np.eye(3).ravel(),
        np.array(marker.rgba, dtype=np.float32),
    )
    scene.ngeom += 1
