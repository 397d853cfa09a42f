"""PointNav: find a goal on a semicircle by the reward alone."""

from __future__ import annotations

import math
from pathlib import Path

import mujoco
import numpy as np

from meld_envs.camera import Marker, Quality
from meld_envs.family import Family, Outcome, Parameter
from meld_envs.tasks import Task
from meld_envs.world import World

MODEL_FILE = Path(__file__).parent.parent / "assets" / "point_nav.xml"

ARENA = 1.4  # m, half-width of the square that the disc cannot leave
GOAL_RADIUS = 1.0  # m, of the semicircle of goals (paper, appendix D.1)
SUCCESS_DISTANCE = 0.2  # m (paper, appendix D.1)
MAX_MOVE = 0.15  # m per step
RADIUS_TOLERANCE = 1e-6  # m, by which a task's goal may miss the semicircle


class PointNav(Family):
    """A disc on a plane, seen from above, to find a goal by the reward alone.

    Paper, appendix D.1; thesis, Section 5.2.3. The agent must search the semicircle of possible goals,
    remember what the rewards told, and go straight to the goal from then on.

    ## Observation

    `Box(0, 255, (64, 64, 3), uint8)`: a red disc on a grey plane, from straight above; the goal is not
    shown. With `obs_type="state"` `Box(-2, 2, (2,), float32)`: `x` and `y` of the disc in metres.

    ## Actions

    `Box(-1, 1, (2,), float32)`, out of range clipped: a move of 0.15 m times the action; moves longer than
    0.15 m are shortened to it. The disc's centre stays within ±1.4 m.

    ## Reward

    With d the distance between disc and goal after the move, in metres:

    | reward  | value                       |
    |---------|-----------------------------|
    | dense   | −d                          |
    | sparse  | 1 − d where d ≤ 0.2, else 0 |
    | score   | −d                          |
    | success | d ≤ 0.2                     |

    ## Task parameters

    | name     | distribution                    | unit | hidden |
    |----------|---------------------------------|------|--------|
    | `goal_x` | cos(angle), angle from U(0, π)  | m    | yes    |
    | `goal_y` | sin(angle)                      | m    | yes    |

    ## Start and end

    The disc starts at the origin. An episode has 20 steps and never terminates.

    ## Version history

    * v0: first version. The paper gives no number for the longest move; ours is 0.15 m.
    """

    name = "PointNav"
    parameters = (
        Parameter("goal_x", -GOAL_RADIUS, GOAL_RADIUS, "m"),
        Parameter("goal_y", 0.0, GOAL_RADIUS, "m"),
    )
    episode_steps = 20
    control_hz = 10.0
    substeps = 1
    action_size = 2
    state_names = ("x", "y")
    state_bound = 2.0
    cameras = ("above",)
    quality = Quality(slices=32)  # a round disc

    def build_model(self) -> mujoco.MjModel:
        """The scene of ``assets/point_nav.xml``."""
        return mujoco.MjModel.from_xml_path(str(MODEL_FILE))

    def draw_task(self, rng: np.random.Generator) -> Task:
        """A goal at a uniform angle of the semicircle."""
        return self.goal_at(rng.uniform(0.0, math.pi))

    def goal_at(self, angle: float) -> Task:
        """The task whose goal is at this angle (rad) of the semicircle."""
        return self.task(goal_x=GOAL_RADIUS * math.cos(angle), goal_y=GOAL_RADIUS * math.sin(angle))

    def check_task(self, task: Task) -> None:
        """Raises also if the goal is not on the semicircle."""
        super().check_task(task)
        if abs(math.hypot(*task.parameters.values()) - GOAL_RADIUS) > RADIUS_TOLERANCE:
            raise ValueError(f"{task!r}: the goal must lie on the semicircle of radius {GOAL_RADIUS:g} m")

    def control(self, world: World, actions: np.ndarray) -> None:
        """Sets the velocity that makes exactly the asked move within one physics step."""
        length = np.linalg.norm(actions, axis=1, keepdims=True)
        moves = MAX_MOVE * actions / np.maximum(length, 1.0)
        targets = np.clip(world.qpos + moves, -ARENA, ARENA)
        world.qvel[:] = (targets - world.qpos) / world.model.opt.timestep

    def outcome(self, world: World, parameters: np.ndarray, actions: np.ndarray) -> Outcome:
        """Distance to the goal."""
        distance = np.linalg.norm(world.qpos - parameters, axis=1)
        near = distance <= SUCCESS_DISTANCE
        score = 0.0 - distance
        return Outcome(score, np.where(near, 1.0 - distance, 0.0), score, near)

    def state(self, world: World) -> np.ndarray:
        """Where the disc is."""
        return world.qpos.copy()

    def expert(self, world: World, parameters: np.ndarray) -> np.ndarray:
        """Straight to the goal."""
        return (parameters - world.qpos) / MAX_MOVE

    def markers(self, world: World, sim: int, task: Task) -> tuple[Marker, ...]:
        """The disc of success around the goal."""
        goal = (task.parameters["goal_x"], task.parameters["goal_y"], 0.01)
        size = (SUCCESS_DISTANCE, 0.005, 0.0)
        return (Marker(mujoco.mjtGeom.mjGEOM_CYLINDER, size, goal, (0.1, 0.65, 0.2, 1.0)),)
