"""AntFwdBack and AntGoal: PEARL's ants."""

from __future__ import annotations

import math

import mujoco
import numpy as np

from meld_envs.camera import Marker
from meld_envs.families.gaits import ant_towards
from meld_envs.families.locomotion import (
    FORCE_PARTS,
    GREEN,
    Locomotion,
    TwoDirections,
    contact_forces,
    pointer,
)
from meld_envs.family import Outcome, Parameter
from meld_envs.tasks import Task
from meld_envs.world import World

HEALTHY = (0.2, 1.0)  # m, the torso's height (PEARL's code)
CONTACT_COST = 0.5e-3  # per squared clipped contact force (PEARL's code)
SUCCESS_SPEED = 0.5  # m/s, of FwdBack (ours)
GOAL_RADIUS = 3.0  # m, of the disc of goals (PEARL's code)
SUCCESS_DISTANCE = 0.5  # m (ours)
SLOW_DISTANCE = 1.0  # m, below which the expert's strides become shorter

POSITIONS = (
    *("x", "y", "z", "quat_w", "quat_x", "quat_y", "quat_z"),
    *(f"{joint}_{leg}" for leg in (1, 2, 3, 4) for joint in ("hip", "ankle")),
)
VELOCITIES = (
    *("d_x", "d_y", "d_z", "rot_x", "rot_y", "rot_z"),
    *(f"d_{joint}_{leg}" for leg in (1, 2, 3, 4) for joint in ("hip", "ankle")),
)
BODIES = ("world", "torso", *(f"{part}_{leg}" for leg in (1, 2, 3, 4) for part in ("leg", "aux", "shin")))


class _Ant(Locomotion):
    """The robot."""

    model_file = "ant.xml"
    control_hz = 20.0
    substeps = 5
    action_size = 8
    position_noise = 0.1
    velocity_noise = 0.1
    normal_velocities = True
    feels = True
    derived_fields = ("cfrc_ext",)

    def place(self, world: World) -> np.ndarray:
        """Where the torso is on the ground."""
        return world.qpos[:, :2].copy()

    def walk(self, world: World, way: np.ndarray) -> np.ndarray:
        """Actions ``(n, 8)`` that lead a way ``(n, 2)``, of which a length of 1 is a full stride."""
        return ant_towards(world.steps / self.control_hz, world.qpos, world.qvel, way)

    def contact_cost(self, world: World) -> np.ndarray:
        """What being touched costs, ``(n,)``."""
        return CONTACT_COST * np.square(contact_forces(world)).sum(axis=1)


class AntFwdBack(TwoDirections, _Ant):
    """PEARL's ant, to walk forwards or backwards (thesis, Section 5.2.3; PEARL's released code).

    The model is the ``ant.xml`` of the installed Gymnasium, with an accelerometer without which MuJoCo leaves
    the contact forces at zero.

    ## Observation

    `Box(-1e6, 1e6, (27,), float32)`: the torso's height (m) and quaternion, the joints' angles (rad); the
    torso's velocities (m/s, rad/s), the joints' (rad/s). With `obs_type="pixels"` `Box(0, 255, (64, 64, 3),
    uint8)`: the model's tracking camera.

    ## Actions

    `Box(-1, 1, (8,), float32)`, 20 per second, out of range clipped: torques of `hip_4`, `ankle_4`,
    `hip_1`, `ankle_1`, `hip_2`, `ankle_2`, `hip_3`, `ankle_3`, as shares of the motors' ranges (150 N m),
    for 5 physics steps of 0.01 s.

    ## Reward

    With v the torso's mean speed along x during the step, V during the last second (or since the episode's
    start), in m/s, g = ±1 the task's direction, c the bodies' contact forces (N, N m), each within ±1:

    | reward  | value                                                                                 |
    |---------|---------------------------------------------------------------------------------------|
    | dense   | g v − 0.5 ‖a‖² − 0.0005 ‖c‖² + 1 while the torso's height is in [0.2, 1] m            |
    | sparse  | 1 at success, else 0 (ours; the source has none)                                      |
    | score   | g V (ours)                                                                            |
    | success | g V ≥ 0.5 and such a height, false in an episode's first second (ours)                |

    ## Task parameters

    | name        | distribution                              | unit | hidden |
    |-------------|-------------------------------------------|------|--------|
    | `direction` | 1 and −1, both to train and both to test  |      | yes    |

    ## Start and end

    All positions (the torso's quaternion included) start within U(−0.1, 0.1) of the model's own, all
    velocities at 0.1 N(0, 1) (Gymnasium's). An episode has 200 steps (10 s) and never terminates. The
    source ends it at another height; here that costs the bonus of 1 a step, for as long as it lasts.

    ## Version history

    * v0: first version. Observation, control, reward, tasks and horizon as in PEARL's released code; its
      shipped configuration takes two random directions instead, by mistake.
    """

    name = "AntFwdBack"
    state_names = (*POSITIONS[2:], *VELOCITIES)

    def outcome(self, world: World, parameters: np.ndarray, actions: np.ndarray) -> Outcome:
        """Speed in the right direction, costs, and a bonus while on its feet."""
        direction, height = parameters[:, 0], world.qpos[:, 2]
        healthy = (height >= HEALTHY[0]) & (height <= HEALTHY[1])
        costs = 0.5 * np.square(actions).sum(axis=1) + self.contact_cost(world)
        dense = direction * self.velocity(world)[:, 0] - costs + healthy
        speed = direction * self.mean_velocity(world)[:, 0]
        success = (speed >= SUCCESS_SPEED) & healthy & self.has_run(world)
        return Outcome(dense, success.astype(np.float64), speed, success)

    def state(self, world: World) -> np.ndarray:
        """Positions but for the torso's x and y, and velocities."""
        return np.concatenate([world.qpos[:, 2:], world.qvel], axis=1)

    def expert(self, world: World, parameters: np.ndarray) -> np.ndarray:
        """A gait that walks in any direction."""
        return self.walk(world, parameters * [1.0, 0.0])


class AntGoal(_Ant):
    """PEARL's ant, to walk to a hidden goal (thesis, Section 5.2.3; PEARL's released code).

    The model is the ``ant.xml`` of the installed Gymnasium, with an accelerometer without which MuJoCo leaves
    the contact forces, 84 numbers of the observation, at zero.

    ## Observation

    `Box(-1e6, 1e6, (113,), float32)`: the torso's place (m) and quaternion, the joints' angles (rad); the
    torso's velocities (m/s, rad/s), the joints' (rad/s); torque and force of contacts on each of 14 bodies,
    the world included (N m, N), each number within ±1. With `obs_type="pixels"` `Box(0, 255, (64, 64, 3),
    uint8)`: the model's tracking camera.

    ## Actions

    `Box(-1, 1, (8,), float32)`, 20 per second, out of range clipped: torques of `hip_4`, `ankle_4`,
    `hip_1`, `ankle_1`, `hip_2`, `ankle_2`, `hip_3`, `ankle_3`, as shares of the motors' ranges (150 N m),
    for 5 physics steps of 0.01 s.

    ## Reward

    With e the torso's offset from the goal on the ground in metres, c the contact forces as observed:

    | reward  | value                                            |
    |---------|--------------------------------------------------|
    | dense   | −‖e‖₁ − 0.1 ‖a‖² − 0.0005 ‖c‖²                   |
    | sparse  | 1 at success, else 0 (ours; the source has none) |
    | score   | −‖e‖₂ (ours)                                     |
    | success | ‖e‖₂ ≤ 0.5 (ours)                                |

    ## Task parameters

    | name     | distribution                                                             | unit | hidden |
    |----------|--------------------------------------------------------------------------|------|--------|
    | `goal_x` | r cos(angle), angle from U(0, 2π), r = 3 √U(0, 1): uniform in a disc     | m    | yes    |
    | `goal_y` | r sin(angle)                                                             | m    | yes    |

    By default 100 tasks to train and 30 to test (thesis; the released code has 150 and 30).

    ## Start and end

    All positions (the torso's quaternion included) start within U(−0.1, 0.1) of the model's own, all
    velocities at 0.1 N(0, 1) (Gymnasium's). An episode has 200 steps (10 s) and never terminates.

    ## Version history

    * v0: first version. Observation, control, reward, distribution and horizon as in PEARL's released code,
      whose contact forces were all zero with the version of MuJoCo that it asks for.
    """

    name = "AntGoal"
    parameters = (
        Parameter("goal_x", -GOAL_RADIUS, GOAL_RADIUS, "m"),
        Parameter("goal_y", -GOAL_RADIUS, GOAL_RADIUS, "m"),
    )
    num_train_tasks = 100  # thesis, appendix C.1; the released code has 150
    num_test_tasks = 30  # thesis, appendix C.1
    state_names = (*POSITIONS, *VELOCITIES, *(f"{part}_{body}" for body in BODIES for part in FORCE_PARTS))

    def draw_task(self, rng: np.random.Generator) -> Task:
        """A goal, uniform in the disc."""
        angle, radius = rng.uniform(0.0, 2.0 * math.pi), GOAL_RADIUS * math.sqrt(rng.uniform())
        return self.task(goal_x=radius * math.cos(angle), goal_y=radius * math.sin(angle))

    def check_task(self, task: Task) -> None:
        """Raises also if the goal is outside the disc."""
        super().check_task(task)
        if math.hypot(*task.parameters.values()) > GOAL_RADIUS:
            raise ValueError(f"{task!r}: the goal must be within {GOAL_RADIUS:g} m of the origin")

    def outcome(self, world: World, parameters: np.ndarray, actions: np.ndarray) -> Outcome:
        """Distance to the goal, and costs."""
        offset = world.qpos[:, :2] - parameters
        costs = 0.1 * np.square(actions).sum(axis=1) + self.contact_cost(world)
        distance = np.linalg.norm(offset, axis=1)
        success = distance <= SUCCESS_DISTANCE
        dense = -np.abs(offset).sum(axis=1) - costs
        return Outcome(dense, success.astype(np.float64), 0.0 - distance, success)

    def state(self, world: World) -> np.ndarray:
        """Positions, velocities, contact forces."""
        return np.concatenate([world.qpos, world.qvel, contact_forces(world)], axis=1)

    def expert(self, world: World, parameters: np.ndarray) -> np.ndarray:
        """A gait that walks in any direction, with shorter strides near the goal."""
        way = parameters - world.qpos[:, :2]
        distance = np.linalg.norm(way, axis=1, keepdims=True)
        return self.walk(world, way / np.maximum(distance, SLOW_DISTANCE))

    def markers(self, world: World, sim: int, task: Task) -> tuple[Marker, ...]:
        """The disc of success around the goal, and a ball over the ant on the goal's side."""
        goal = np.array([task.parameters["goal_x"], task.parameters["goal_y"]])
        trunk = self.trunk(world, sim)
        way = goal - trunk[:2]
        disc = Marker(mujoco.mjtGeom.mjGEOM_CYLINDER, (SUCCESS_DISTANCE, 0.005, 0.0), (*goal, 0.01), GREEN)
        return disc, pointer(trunk, way / max(float(np.linalg.norm(way)), 1e-9))
