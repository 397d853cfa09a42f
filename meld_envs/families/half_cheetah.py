"""HalfCheetahFwdBack and HalfCheetahVel: PEARL's half-cheetahs."""

from __future__ import annotations

import mujoco
import numpy as np

from meld_envs.camera import Marker
from meld_envs.families.cheetah_gait import CONTROL_HZ, gait
from meld_envs.families.cheetah_vel import ACTION_SCALE, CheetahVel
from meld_envs.families.gaits import cheetah_backwards
from meld_envs.families.locomotion import BLUE, GREEN, Locomotion, TwoDirections, bar
from meld_envs.family import Outcome, Parameter
from meld_envs.tasks import Task
from meld_envs.world import World

MAX_SPEED = 3.0  # m/s: tasks are uniform in [0, 3] (PEARL's code)
CONTROL_COST = 0.05  # per squared unit of action (PEARL's code)
SUCCESS_SPEED = 1.0  # m/s, of FwdBack (ours)
SUCCESS_SPEED_ERROR = 0.2  # m/s, of Vel (MELD's paper, appendix B.1)
TORSO = 0.7  # m, of the torso over the ground where rootz is 0 (model file)

JOINTS = ("rootx", "rootz", "rooty", "bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot")


class _HalfCheetah(Locomotion):
    """The robot, and what PEARL observes of it."""

    model_file = "half_cheetah.xml"
    control_hz = 20.0
    substeps = 5
    action_size = 6
    state_names = (*JOINTS[1:], *(f"d_{joint}" for joint in JOINTS), "torso_x", "torso_y", "torso_z")
    position_noise = 0.1
    velocity_noise = 0.1
    normal_velocities = True

    def build_model(self) -> mujoco.MjModel:
        """CheetahVel's: Gymnasium's file, with its total mass set as it asks."""
        return CheetahVel().build_model()

    def place(self, world: World) -> np.ndarray:
        """Where the root is along x."""
        return world.qpos[:, :1].copy()

    def state(self, world: World) -> np.ndarray:
        """Positions but for the root's x, velocities, the torso's place."""
        x, z = world.qpos[:, 0], TORSO + world.qpos[:, 1]
        torso = np.stack([x, np.zeros_like(x), z], axis=1)
        return np.concatenate([world.qpos[:, 1:], world.qvel, torso], axis=1)

    def forwards(self, world: World, speeds: np.ndarray) -> np.ndarray:
        """Actions ``(n, 6)`` from CheetahVel's table of gaits, for these speeds ``(n,)`` in m/s."""
        seconds = world.steps // 2 / CONTROL_HZ  # what the table was made for
        pitch = world.qpos[:, 2]
        shares = gait(seconds, pitch, self.mean_velocity(world)[:, 0], speeds)
        return ACTION_SCALE * np.clip(shares, -1.0, 1.0)

    def trunk(self, world: World, sim: int) -> np.ndarray:
        """Where the torso is."""
        return np.array([world.qpos[sim, 0], 0.0, TORSO + world.qpos[sim, 1]])


class HalfCheetahFwdBack(_HalfCheetah, TwoDirections):
    """PEARL's half-cheetah, to run forwards or backwards (thesis, Section 5.2.3; PEARL's released code).

    The model is the ``half_cheetah.xml`` of the installed Gymnasium.

    ## Observation

    `Box(-1e6, 1e6, (20,), float32)`: positions of `rootz` (m), `rooty`, `bthigh`, `bshin`, `bfoot`,
    `fthigh`, `fshin`, `ffoot` (rad); velocities of the same and, before them, of `rootx`; `x`, `y`, `z` of
    the torso (m). With `obs_type="pixels"` `Box(0, 255, (64, 64, 3), uint8)`: the model's tracking camera.

    ## Actions

    `Box(-1, 1, (6,), float32)`, 20 per second, out of range clipped: torques of `bthigh`, `bshin`, `bfoot`,
    `fthigh`, `fshin`, `ffoot`, as shares of the motors' ranges, for 5 physics steps of 0.01 s.

    ## Reward

    With v the root's mean speed during the step, V during the last second (or since the episode's start), in
    m/s, and g = ±1 the task's direction:

    | reward  | value                                                      |
    |---------|------------------------------------------------------------|
    | dense   | g v − 0.05 ‖a‖²                                            |
    | sparse  | 1 at success, else 0 (ours; the source has none)           |
    | score   | g V (ours)                                                 |
    | success | g V ≥ 1, false in an episode's first second (ours)         |

    ## Task parameters

    | name        | distribution                              | unit | hidden |
    |-------------|-------------------------------------------|------|--------|
    | `direction` | 1 and −1, both to train and both to test  |      | yes    |

    ## Start and end

    All nine positions start within U(−0.1, 0.1) of the model's own, all nine velocities at 0.1 N(0, 1)
    (Gymnasium's). An episode has 200 steps (10 s) and never terminates.

    ## Version history

    * v0: first version. Observation, control, reward, tasks and horizon as in PEARL's released code.
    """

    name = "HalfCheetahFwdBack"

    def outcome(self, world: World, parameters: np.ndarray, actions: np.ndarray) -> Outcome:
        """Speed in the right direction, and control cost."""
        direction = parameters[:, 0]
        dense = direction * self.velocity(world)[:, 0] - CONTROL_COST * np.square(actions).sum(axis=1)
        speed = direction * self.mean_velocity(world)[:, 0]
        success = (speed >= SUCCESS_SPEED) & self.has_run(world)
        return Outcome(dense, success.astype(np.float64), speed, success)

    def expert(self, world: World, parameters: np.ndarray) -> np.ndarray:
        """The table's fastest gait forwards; backwards one of its own."""
        backwards = cheetah_backwards(world.steps / self.control_hz, world.qpos[:, 2])
        forwards = self.forwards(world, np.full(world.num_sims, MAX_SPEED))
        return np.where(parameters > 0, forwards, backwards)


class HalfCheetahVel(_HalfCheetah):
    """PEARL's half-cheetah, to run at a hidden speed (thesis, Section 5.2.3; PEARL's released code).

    CheetahVel is MELD's version of it: from images, half as many actions per second, 50 steps.

    ## Observation

    `Box(-1e6, 1e6, (20,), float32)`: positions of `rootz` (m), `rooty`, `bthigh`, `bshin`, `bfoot`,
    `fthigh`, `fshin`, `ffoot` (rad); velocities of the same and, before them, of `rootx`; `x`, `y`, `z` of
    the torso (m). With `obs_type="pixels"` `Box(0, 255, (64, 64, 3), uint8)`: the model's tracking camera.

    ## Actions

    `Box(-1, 1, (6,), float32)`, 20 per second, out of range clipped: torques of `bthigh`, `bshin`, `bfoot`,
    `fthigh`, `fshin`, `ffoot`, as shares of the motors' ranges, for 5 physics steps of 0.01 s.

    ## Reward

    With v the root's mean speed during the step, V during the last second (or since the episode's start), and
    v* the task's, in m/s:

    | reward  | value                                                              |
    |---------|--------------------------------------------------------------------|
    | dense   | −abs(v − v*) − 0.05 ‖a‖²                                           |
    | sparse  | 1 at success, else 0 (ours; the source has none)                   |
    | score   | −abs(V − v*) (ours)                                                |
    | success | abs(V − v*) ≤ 0.2, false in an episode's first second (CheetahVel's) |

    ## Task parameters

    | name       | distribution                                                 | unit | hidden |
    |------------|--------------------------------------------------------------|------|--------|
    | `velocity` | U(0, 3); by default 100 tasks to train and 30 to test        | m/s  | yes    |

    ## Start and end

    All nine positions start within U(−0.1, 0.1) of the model's own, all nine velocities at 0.1 N(0, 1)
    (Gymnasium's). An episode has 200 steps (10 s) and never terminates.

    ## Version history

    * v0: first version. Observation, control, reward, distribution and horizon as in PEARL's released code,
      which draws the speeds from a seed of NumPy's global generator; here they follow from `task_seed`.
    """

    name = "HalfCheetahVel"
    expert_success = 0.8  # the lowest of 20 seeds, 0.9, less a margin: docs/environments.md
    parameters = (Parameter("velocity", 0.0, MAX_SPEED, "m/s"),)
    num_train_tasks = 100  # thesis, appendix C.1
    num_test_tasks = 30  # thesis, appendix C.1

    def draw_task(self, rng: np.random.Generator) -> Task:
        """A speed, uniform."""
        return self.task(velocity=rng.uniform(0.0, MAX_SPEED))

    def outcome(self, world: World, parameters: np.ndarray, actions: np.ndarray) -> Outcome:
        """Speed error and control cost."""
        wanted = parameters[:, 0]
        error = np.abs(self.velocity(world)[:, 0] - wanted)
        mean_error = np.abs(self.mean_velocity(world)[:, 0] - wanted)
        success = (mean_error <= SUCCESS_SPEED_ERROR) & self.has_run(world)
        dense = -error - CONTROL_COST * np.square(actions).sum(axis=1)
        return Outcome(dense, success.astype(np.float64), 0.0 - mean_error, success)

    def expert(self, world: World, parameters: np.ndarray) -> np.ndarray:
        """A gait from CheetahVel's table, with feedback on the speed."""
        return self.forwards(world, parameters[:, 0])

    def markers(self, world: World, sim: int, task: Task) -> tuple[Marker, ...]:
        """Two bars over the cheetah, 0.6 m per m/s: green the wanted speed, blue the last second's."""
        x, y, z = self.trunk(world, sim)
        speed = abs(float(self.mean_velocity(world)[sim, 0]))
        return bar((x - 1.0, y, z + 0.9), 0.6 * task.parameters["velocity"], GREEN), bar(
            (x - 1.0, y, z + 0.75), 0.6 * speed, BLUE
        )
