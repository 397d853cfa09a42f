"""CheetahVel: run at a hidden speed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gymnasium
import mujoco
import numpy as np

from meld_envs.camera import Marker
from meld_envs.families.cheetah_gait import gait_actions
from meld_envs.family import Family, Outcome, Parameter
from meld_envs.tasks import Task
from meld_envs.world import World

#: Gymnasium's own model, from the installed package.
MODEL_FILE = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / "half_cheetah.xml"
TOTAL_MASS = 14.0  # kg, as the model file says

MAX_SPEED = 3.0  # m/s: tasks are uniform in [0, 3] (paper, Section 5.1)
ACTION_SCALE = 0.8  # of the motors' range (released code)
CONTROL_COST = 0.01  # per squared unit of scaled action (paper, equation 6)
SPARSE_SPEED_ERROR = 0.5  # m/s, within which the sparse reward is given (released code)
SUCCESS_SPEED_ERROR = 0.2  # m/s (paper, appendix B.1)
POSITION_NOISE = 0.1  # rad or m: uniform in +- this, on all coordinates
VELOCITY_NOISE = 0.1  # standard deviation, on all coordinates
SECOND = 10  # control steps


class CheetahVel(Family):
    """Gymnasium's half-cheetah, to run at a hidden speed (paper, Sections 5.1, B.2 and D.2).

    The model is the ``half_cheetah.xml`` of the installed Gymnasium, simulated with 10 physics steps of
    0.01 s per action (Gymnasium's own HalfCheetah takes 5).

    ## Observation

    `Box(0, 255, (64, 64, 3), uint8)`: the model's tracking camera, from the side; nothing in it shows the
    wanted speed. With `obs_type="state"` `Box(-1000, 1000, (18,), float32)`: positions, then velocities,
    of `rootx` (m), `rootz` (m), `rooty` (rad), `bthigh`, `bshin`, `bfoot`, `fthigh`, `fshin`, `ffoot` (rad).

    ## Actions

    `Box(-1, 1, (6,), float32)`, 10 per second, out of range clipped: torques of `bthigh`, `bshin`, `bfoot`,
    `fthigh`, `fshin`, `ffoot`, as shares of the motors' ranges; 0.8 of each is applied.

    ## Reward

    | reward   | value                                                                                |
    |----------|--------------------------------------------------------------------------------------|
    | dense    | −abs(v − v*) − 0.01 ‖0.8 a‖², with v the step's mean speed of the root               |
    | sparse   | the dense reward where abs(v − v*) < 0.5 m/s, else 0                                 |
    | score    | −abs(v − v*), of this one step                                                       |
    | success  | abs(mean v over the last second − v*) ≤ 0.2 m/s; false in an episode's first second  |

    The paper's equation 6 prints a plus before the control cost: a misprint. The sparse reward is the
    released code's, in which "near" is worth less than "far"; no published experiment uses it.

    ## Task parameters

    | name       | distribution | unit | hidden |
    |------------|--------------|------|--------|
    | `velocity` | U(0, 3)      | m/s  | yes    |

    ## Start and end

    All nine positions start within U(−0.1, 0.1) of the model's own, all nine velocities at 0.1 N(0, 1). An
    episode has 50 steps (5 s) and never terminates.

    ## Version history

    * v0: first version. Actions, reward, start and horizon as in the released code of MELD.
    """

    name = "CheetahVel"
    parameters = (Parameter("velocity", 0.0, MAX_SPEED, "m/s"),)
    episode_steps = 50
    control_hz = 10.0
    substeps = 10
    action_size = 6
    state_names = tuple(
        kind + joint
        for kind in ("", "d_")
        for joint in ("rootx", "rootz", "rooty", "bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot")
    )
    state_bound = 1000.0
    cameras = ("track",)

    def build_model(self) -> mujoco.MjModel:
        """Gymnasium's file, with its total mass set as it asks."""
        spec = mujoco.MjSpec.from_file(str(MODEL_FILE))
        spec.compiler.settotalmass = -1  # MuJoCo 3.17 warns of it: done after compilation instead
        model = spec.compile()
        mujoco.mj_setTotalmass(model, TOTAL_MASS)
        mujoco.mj_setConst(model, mujoco.MjData(model))
        return model

    def draw_task(self, rng: np.random.Generator) -> Task:
        """A speed, uniform."""
        return self.task(velocity=rng.uniform(0.0, MAX_SPEED))

    def start_episode(self, world: World, rngs: Sequence[np.random.Generator]) -> None:
        """Noise on all positions and velocities."""
        for sim, rng in enumerate(rngs):
            world.qpos[sim] += rng.uniform(-POSITION_NOISE, POSITION_NOISE, world.model.nq)
            world.qvel[sim] += VELOCITY_NOISE * rng.standard_normal(world.model.nv)
        world.memory["x"] = np.repeat(world.qpos[:, :1], SECOND + 1, axis=1)

    def control(self, world: World, actions: np.ndarray) -> None:
        """Scaled torques."""
        world.ctrl[:] = ACTION_SCALE * actions

    def after_step(self, world: World) -> None:
        """Remembers where the root was during the last second, newest last."""
        world.memory["x"] = np.concatenate([world.memory["x"][:, 1:], world.qpos[:, :1]], axis=1)

    def outcome(self, world: World, parameters: np.ndarray, actions: np.ndarray) -> Outcome:
        """Speed error and control cost."""
        target, x = parameters[:, 0], world.memory["x"]
        error = np.abs((x[:, -1] - x[:, -2]) * self.control_hz - target)
        dense = -error - CONTROL_COST * np.square(ACTION_SCALE * actions).sum(axis=1)
        last_second = np.abs(x[:, -1] - x[:, 0] - target) <= SUCCESS_SPEED_ERROR
        success = last_second & (world.steps >= SECOND)
        return Outcome(dense, np.where(error < SPARSE_SPEED_ERROR, dense, 0.0), 0.0 - error, success)

    def expert(self, world: World, parameters: np.ndarray) -> np.ndarray:
        """A gait from a table, with feedback on the speed."""
        return gait_actions(world, parameters[:, 0])

    def markers(self, world: World, sim: int, task: Task) -> tuple[Marker, ...]:
        """Two bars above the cheetah, 0.6 m per m/s: green the wanted speed, blue the last second's."""
        x = world.memory["x"][sim]
        return (
            _speed_bar(x[-1], 1.6, task.parameters["velocity"], (0.1, 0.7, 0.2, 1.0)),
            _speed_bar(x[-1], 1.45, abs(x[-1] - x[0]), (0.2, 0.3, 0.9, 1.0)),
        )


def _speed_bar(x: float, height: float, speed: float, rgba: tuple[float, float, float, float]) -> Marker:
    half_length = max(0.3 * speed, 0.01)
    return Marker(
        mujoco.mjtGeom.mjGEOM_BOX, (half_length, 0.03, 0.03), (x - 1.0 + half_length, 0.0, height), rgba
    )
