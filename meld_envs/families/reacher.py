"""Reacher: bring the tool's tip to a hidden place."""

from __future__ import annotations

import mujoco
import numpy as np

from meld_envs.camera import Marker
from meld_envs.families.sawyer import SawyerFamily
from meld_envs.family import Outcome, Parameter
from meld_envs.robots import sawyer
from meld_envs.tasks import Task
from meld_envs.world import World

SUCCESS_DISTANCE = 0.1  # m (paper, appendix B.1)
BOX = ((0.75, 0.9), (-0.3, 0.3), (0.3, 0.7))  # m, of the goals (released code)
PEG_SIZE = (0.015, 0.015, 0.03)  # m, half


class Reacher(SawyerFamily):
    """A Sawyer, to bring the tip of what it holds to a hidden place (paper, Section 5.1).

    ## Observation

    `Box(0, 255, (64, 128, 3), uint8)`: a camera above and behind the arm, and beside it a camera on the wrist
    (`second_camera="wrist"`, the paper) or one at the side (`"side"`, the released code). The goal is not
    shown. With `obs_type="state"` `Box(-50, 50, (17,), float32)`: seven joint angles (rad), their
    velocities (rad/s), and `x`, `y`, `z` of the tip (m).

    ## Actions

    `Box(-1, 1, (7,), float32)`, 4 per second, out of range clipped: each joint's target is its angle now
    plus 0.04 rad times the action. A free joint moves 0.03 rad a step.

    ## Reward

    With d the distance between tip and goal in metres:

    | reward                              | value                                                         |
    |-------------------------------------|---------------------------------------------------------------|
    | dense                               | −(d² + ln(d + 1e-5)) (paper, equation 7)                      |
    | dense, `reward_formula="released"`  | −(D² + log10(D² + 1e-5)) − 1.625125, D = 5 d (released code)  |
    | sparse                              | 1 where d ≤ 0.1, else 0                                       |
    | score                               | −d                                                            |
    | success                             | d ≤ 0.1                                                       |

    ## Task parameters

    | name     | distribution  | unit | hidden |
    |----------|---------------|------|--------|
    | `goal_x` | U(0.75, 0.9)  | m    | yes    |
    | `goal_y` | U(−0.3, 0.3)  | m    | yes    |
    | `goal_z` | U(0.3, 0.7)   | m    | yes    |

    ## Start and end

    The arm starts at one pose, at rest. An episode has 40 steps (10 s) and never terminates.

    ## Version history

    * v0: first version. Arm, start, goals, cameras as in the released code of MELD; there the goal was
      faintly visible in training images.
    """

    name = "Reacher"
    parameters = tuple(
        Parameter(f"goal_{axis}", low, high, "m") for axis, (low, high) in zip("xyz", BOX, strict=True)
    )
    scene_file = "reacher.xml"
    start = (-1.44397e-6, -0.832489, 0.0299997, 1.68, 0.0580013, -0.232, -2.16526e-7)

    def equip(self, spec: mujoco.MjSpec) -> None:
        """The arm holds a green peg."""
        sawyer.give_tool(spec, mujoco.mjtGeom.mjGEOM_BOX, PEG_SIZE, (0.0, 0.0, 0.0), (0.3, 1.0, 0.3, 1.0))

    def draw_task(self, rng: np.random.Generator) -> Task:
        """A goal, uniform in the box."""
        return self.task(**{p.name: rng.uniform(p.low, p.high) for p in self.parameters})

    def outcome(self, world: World, parameters: np.ndarray, actions: np.ndarray) -> Outcome:
        """Distance to the goal."""
        distance = np.linalg.norm(sawyer.site(world, sawyer.TIP) - parameters, axis=1)
        near = distance <= SUCCESS_DISTANCE
        return Outcome(self.reward(distance), near.astype(np.float64), 0.0 - distance, near)

    def expert(self, world: World, parameters: np.ndarray) -> np.ndarray:
        """Straight, in joint space, to angles that reach the goal."""
        targets = np.stack([self.angles_at(self.start, goal) for goal in parameters])
        return sawyer.actions_towards(world, targets)

    def markers(self, world: World, sim: int, task: Task) -> tuple[Marker, ...]:
        """The goal, and the sphere of success around it."""
        x, y, z = (task.parameters[p.name] for p in self.parameters)
        return (
            Marker(mujoco.mjtGeom.mjGEOM_SPHERE, (0.02,) * 3, (x, y, z), (0.1, 0.7, 0.2, 1.0)),
            Marker(mujoco.mjtGeom.mjGEOM_SPHERE, (SUCCESS_DISTANCE,) * 3, (x, y, z), (0.1, 0.7, 0.2, 0.25)),
        )
