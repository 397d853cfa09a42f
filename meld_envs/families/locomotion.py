"""What PEARL's walking robots share: Gymnasium's models, noisy starts, and speeds over the last second."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import gymnasium
import mujoco
import numpy as np

from meld_envs.camera import Marker
from meld_envs.family import Family, Parameter
from meld_envs.tasks import Task, TaskSet
from meld_envs.world import World

MODELS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"  # of the installed Gymnasium
UNSEEN_GROUP = 5  # of sites that no picture shows
FORCE_PARTS = ("tx", "ty", "tz", "fx", "fy", "fz")  # MuJoCo's order: torque, force
GREEN, BLUE = (0.1, 0.7, 0.2, 1.0), (0.2, 0.3, 0.9, 1.0)


class Locomotion(Family):
    """A walking robot of Gymnasium's, 200 steps of which make an episode.

    Attributes:
        model_file: in the folder of Gymnasium's models.
        body: the robot's trunk.
        feels: whether contact forces by body must be computed.
        position_noise: of a start, uniform in ± this, on all of ``qpos``.
        velocity_noise: of a start, on all of ``qvel``.
        normal_velocities: whether the latter is a standard deviation, or else a bound.
    """

    episode_steps = 200  # thesis, Section 5.2.3
    default_obs_type = "state"
    state_bound = 1e6
    cameras = ("track",)
    model_file: ClassVar[str]
    body: ClassVar[str] = "torso"
    feels: ClassVar[bool] = False
    position_noise: ClassVar[float]
    velocity_noise: ClassVar[float]
    normal_velocities: ClassVar[bool] = False

    # Simulation -------------------------------------------------------------------------------

    def build_model(self) -> mujoco.MjModel:
        """Gymnasium's file; with an accelerometer, so that MuJoCo computes contact forces, where needed."""
        spec = mujoco.MjSpec.from_file(str(MODELS / self.model_file))
        if self.feels:
            spec.body(self.body).add_site(name="feeler", group=UNSEEN_GROUP)
            sensor, site = mujoco.mjtSensor.mjSENS_ACCELEROMETER, mujoco.mjtObj.mjOBJ_SITE
            spec.add_sensor(name="feeler", type=sensor, objtype=site, objname="feeler")
        self.adapt(spec)
        return spec.compile()

    def adapt(self, spec: mujoco.MjSpec) -> None:
        """Changes what the source has otherwise than Gymnasium."""

    def start_episode(self, world: World, rngs: Sequence[np.random.Generator]) -> None:
        """Noise on all positions and velocities, as Gymnasium's robots have it."""
        model = world.model
        for sim, rng in enumerate(rngs):
            world.qpos[sim] += rng.uniform(-self.position_noise, self.position_noise, model.nq)
            if self.normal_velocities:
                world.qvel[sim] += self.velocity_noise * rng.standard_normal(model.nv)
            else:
                world.qvel[sim] += rng.uniform(-self.velocity_noise, self.velocity_noise, model.nv)
        world.states_changed()
        world.memory["places"] = np.repeat(self.place(world)[:, np.newaxis], self.second + 1, axis=1)

    def control(self, world: World, actions: np.ndarray) -> None:
        """Shares of the motors' ranges."""
        world.ctrl[:] = actions * world.model.actuator_ctrlrange[:, 1]

    def after_step(self, world: World) -> None:
        """Remembers where the robot was during the last second, newest last."""
        places = world.memory["places"]
        world.memory["places"] = np.concatenate([places[:, 1:], self.place(world)[:, np.newaxis]], axis=1)

    # Vocabulary -------------------------------------------------------------------------------

    @property
    def second(self) -> int:
        """Control steps of a second."""
        return round(self.control_hz)

    @abstractmethod
    def place(self, world: World) -> np.ndarray:
        """What the source measures motion by, ``(n, 1 or 2)`` in metres."""

    def velocity(self, world: World) -> np.ndarray:
        """Of the last step, ``(n, 1 or 2)`` in m/s."""
        places = world.memory["places"]
        return (places[:, -1] - places[:, -2]) * self.control_hz

    def mean_velocity(self, world: World) -> np.ndarray:
        """Of the last second, or since the episode's start, ``(n, 1 or 2)`` in m/s."""
        places = world.memory["places"]
        steps = np.clip(world.steps, 1, self.second)
        return (places[:, -1] - places[:, 0]) * (self.control_hz / steps)[:, np.newaxis]

    def has_run(self, world: World) -> np.ndarray:
        """Whether a second has passed, ``(n,)`` bool."""
        return world.steps >= self.second

    def trunk(self, world: World, sim: int) -> np.ndarray:
        """Where the trunk is, for markers: ``(3,)`` in metres."""
        return world.qpos[sim, :3]


class TwoDirections(Locomotion):
    """Forwards or backwards: the same two tasks to train and to test (PEARL's code)."""

    parameters = (Parameter("direction", -1, 1, "(1 forwards, -1 backwards)", whole=True),)
    num_train_tasks = 2
    num_test_tasks = 2

    def draw_task(self, rng: np.random.Generator) -> Task:
        """One of the two."""
        return self.task(direction=float(rng.choice([-1.0, 1.0])))

    def draw_task_set(self, num_train: int, num_test: int, seed: int) -> TaskSet:
        """Forwards, then backwards, whatever the seed, in both lists.

        Raises:
            ValueError: more tasks than there are.
        """
        tasks = [self.task(direction=1.0), self.task(direction=-1.0)]
        if max(num_train, num_test) > len(tasks):
            raise ValueError(f"{self.name} has only {len(tasks)} tasks")
        return TaskSet(tasks[:num_train], tasks[:num_test], may_share=True)

    def check_task(self, task: Task) -> None:
        """Raises also if the robot is to stand still."""
        super().check_task(task)
        if task.parameters["direction"] == 0:
            raise ValueError(f"{task!r}: direction must be 1 or -1")

    def markers(self, world: World, sim: int, task: Task) -> tuple[Marker, ...]:
        """A green ball on the side to run to."""
        return (pointer(self.trunk(world, sim), np.array([task.parameters["direction"], 0.0])),)


def pointer(trunk: np.ndarray, direction: np.ndarray) -> Marker:
    """A green ball over the robot, off to the side of a unit vector ``(2,)``."""
    x, y = trunk[:2] + 0.7 * direction
    return Marker(mujoco.mjtGeom.mjGEOM_SPHERE, (0.1, 0.1, 0.1), (x, y, trunk[2] + 0.6), GREEN)


def bar(
    start: tuple[float, float, float], length: float, colour: tuple[float, float, float, float]
) -> Marker:
    """A bar along x, from a place on, of at least 2 cm."""
    x, y, z = start
    half = max(length / 2.0, 0.01)
    return Marker(mujoco.mjtGeom.mjGEOM_BOX, (half, 0.03, 0.03), (x + half, y, z), colour)


def contact_forces(world: World) -> np.ndarray:
    """Contact torques and forces on each body, each number within ±1: ``(n, 6 times bodies)``."""
    return np.clip(world.derived("cfrc_ext"), -1.0, 1.0).reshape(world.num_sims, -1)
