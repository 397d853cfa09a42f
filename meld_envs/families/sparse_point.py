"""SparsePoint: PEARL's point robot, which is rewarded near its goal only."""

from __future__ import annotations

import math
from typing import ClassVar

import mujoco
import numpy as np

from meld_envs.families.point_nav import MODEL_FILE, PointNav
from meld_envs.tasks import TaskSet
from meld_envs.world import World

MAX_MOVE = 0.1  # m per step and axis (PEARL's code)
VIEW = 4.5  # m, what the camera shows: 20 moves along an axis, and half the disc


class SparsePoint(PointNav):
    """PEARL's sparse point robot: a point on a plane, to find a goal on a semicircle by the reward alone.

    Thesis, Section 5.2.3 and Figures 15 and 18; PEARL's released code. The experiment trains on the dense
    reward and adapts to the sparse one: both are in ``info`` at every step.

    ## Observation

    `Box(-3, 3, (2,), float32)`: `x` and `y` of the point in metres. With `obs_type="pixels"`
    `Box(0, 255, (64, 64, 3), uint8)`: a red disc on a grey plane, from straight above.

    ## Actions

    `Box(-1, 1, (2,), float32)`, out of range clipped: a move along each axis of 0.1 m times the action. There
    is no edge.

    ## Reward

    With d the distance between point and goal after the move, in metres:

    | reward  | value                       |
    |---------|-----------------------------|
    | dense   | −d                          |
    | sparse  | 1 − d where d ≤ 0.2, else 0 |
    | score   | −d (ours)                   |
    | success | d ≤ 0.2 (ours)              |

    ## Task parameters

    | name     | distribution                    | unit | hidden |
    |----------|---------------------------------|------|--------|
    | `goal_x` | cos(angle), angle from U(0, π)  | m    | yes    |
    | `goal_y` | sin(angle)                      | m    | yes    |

    By default 100 random goals to train and 20 to test (thesis). `goals="spaced"` follows PEARL's released
    code: as many goals as both lists are long, 80 and 20 by default, at equal angles from 0 to π, shuffled.

    ## Start and end

    The point starts at the origin. An episode has 20 steps and never terminates.

    ## Version history

    * v0: first version. Start, moves, rewards and horizon as in PEARL's released code; the goals' order
      follows from `task_seed`, there from a seed of NumPy's global generator.
    """

    name = "SparsePoint"
    num_train_tasks = 100  # thesis, Section 5.2.3
    num_test_tasks = 20  # thesis, Section 5.2.3
    state_bound = 3.0
    default_obs_type = "state"
    options: ClassVar[dict[str, tuple[str, ...]]] = {"goals": ("random", "spaced")}

    def __init__(self, **chosen: str) -> None:
        super().__init__(**chosen)
        self.is_spaced = self.chosen["goals"] == "spaced"
        if self.is_spaced:
            self.num_train_tasks = 80

    # Tasks ------------------------------------------------------------------------------------

    def draw_task_set(self, num_train: int, num_test: int, seed: int) -> TaskSet:
        """Seeded lists of random goals; with ``goals="spaced"`` of all the equally spaced ones."""
        if not self.is_spaced:
            return super().draw_task_set(num_train, num_test, seed)
        angles = np.linspace(0.0, math.pi, num_train + num_test)
        tasks = [self.goal_at(angle) for angle in np.random.default_rng(seed).permutation(angles)]
        return TaskSet(tasks[:num_train], tasks[num_train:])

    # Simulation -------------------------------------------------------------------------------

    def build_model(self) -> mujoco.MjModel:
        """PointNav's scene, seen from farther away."""
        spec = mujoco.MjSpec.from_file(str(MODEL_FILE))
        spec.camera("above").fovy = VIEW
        spec.geom("plane").size = [VIEW, VIEW, 1.0]
        return spec.compile()

    def control(self, world: World, actions: np.ndarray) -> None:
        """Sets the velocity that makes exactly the asked move within one physics step."""
        world.qvel[:] = MAX_MOVE * actions / world.model.opt.timestep

    def expert(self, world: World, parameters: np.ndarray) -> np.ndarray:
        """To the goal, as fast as each axis allows."""
        return (parameters - world.qpos) / MAX_MOVE
