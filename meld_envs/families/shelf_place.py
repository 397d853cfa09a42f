"""ShelfPlace: put a mug of unknown weight into an unknown place on a shelf."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np

from meld_envs.camera import Marker
from meld_envs.families.sawyer import RELEASED_SCALE, SawyerFamily, released_shape
from meld_envs.family import Outcome, Parameter
from meld_envs.robots import sawyer
from meld_envs.tasks import Task
from meld_envs.world import World

TURN = 1.57  # rad, of the arm's base (released code)
GOAL_X = (-0.2, 0.2)  # m (released code)
GOAL_YZ = (0.95, 0.221)  # m, of the mug's bottom (released code)
MASS = (0.25, 0.35)  # kg: ours, see the class
NOMINAL_MASS = 0.3  # kg, what the arm's controller takes the mug to weigh
MUG_HEIGHT = 0.1  # m, from the goal's bottom site to its top site (released code)
SUCCESS_DISTANCE = 0.05  # m (paper, appendix B.1)

GRIP_HEIGHT = 0.022  # m, at which the fingers hold the mug
PITCH = 0.38  # rad, by which the hand points down

# The expert's way: up in front of the shelf, then in. m.
EDGE = 0.80  # where the mug is still in front of the boards
CLEAR = 0.226  # height from which its bottom passes over the upper board
WAY = (0.6, 0.79, 0.25)  # share of the way to the side; depth; height
YAW_SHARE = 1.3  # how the hand turns with the direction of the mug, seen from the base
START_PLACE = np.array([-0.125, 0.707, 0.1])  # where the mug starts
START_YAW = np.pi - 0.11  # rad


class ShelfPlace(SawyerFamily):
    """A Sawyer that holds a mug of unknown mass, to put it into an unknown place (paper, Section 5.1).

    The arm's controller holds up a mug of 0.3 kg; a lighter one lifts the arm, a heavier one pulls it down,
    and the same actions end elsewhere. The fingers hold the mug by friction.

    ## Observation

    `Box(0, 255, (64, 128, 3), uint8)`: a scene camera above and behind the arm, and beside it a camera on the
    wrist (`second_camera="wrist"`, the paper) or one at the side (`"side"`, the released code). With
    `obs_type="state"` `Box(-50, 50, (20,), float32)`: seven joint angles (rad), their velocities (rad/s),
    `x`, `y`, `z` of the place in the hand where the mug's bottom was, and of the mug's bottom (m).

    ## Actions

    `Box(-1, 1, (7,), float32)`, 4 per second, out of range clipped: each joint's target is its angle now
    plus 0.04 rad times the action. A free joint moves 0.03 rad a step. The gripper stays closed.

    ## Reward

    With d the distance between the mug's bottom and its goal in metres, and D = 5 (d + d') / 2, where d' is
    the distance of the points 10 cm above:

    | reward                              | value                                          |
    |-------------------------------------|------------------------------------------------|
    | dense                               | −(d² + ln(d + 1e-5)) (paper, equation 7)       |
    | dense, `reward_formula="released"`  | −(D² + log10(D² + 1e-5)) (released code)       |
    | sparse                              | 1 where d ≤ 0.05, else 0                       |
    | score                               | −d                                             |
    | success                             | d ≤ 0.05                                       |

    ## Task parameters

    | name     | distribution     | unit | hidden |
    |----------|------------------|------|--------|
    | `mass`   | U(0.25, 0.35)    | kg   | yes    |
    | `goal_x` | U(−0.2, 0.2)     | m    | yes    |

    ## Start and end

    The arm starts at one pose, at rest, the mug in its hand in front of the shelf. An episode has 40 steps
    (10 s) and never terminates.

    ## Version history

    * v0: first version. Shelf, goals, cameras as in the released code of MELD, whose arm is driven by torques
      and whose mug of 5 to 15 kg floats. Here, as in the paper, joints move by small steps, and mugs have
      weight: hence masses that a mug has. The start is 10 cm higher, so that 40 steps suffice.
    """

    name = "ShelfPlace"
    parameters = (Parameter("mass", *MASS, "kg"), Parameter("goal_x", *GOAL_X, "m"))
    scene_file = "shelf_place.xml"
    start = (-0.039339, -0.833974, 0.035236, 2.201949, 0.117074, -0.991295, -1.446968)
    varied_fields = ("body_mass", "body_inertia")
    state_names = (*sawyer.STATE_NAMES, "mug_x", "mug_y", "mug_z")

    def equip(self, spec: mujoco.MjSpec) -> None:
        """The arm faces the shelf, and has the mug between its fingers."""
        sawyer.stand(spec, (0.0, 0.0, 0.0), TURN)
        sawyer.give_gripper(spec, GRIP_HEIGHT, PITCH, NOMINAL_MASS)
        model = spec.compile()
        data = mujoco.MjData(model)
        data.qpos[: sawyer.NUM_JOINTS] = self.start
        mujoco.mj_kinematics(model, data)
        mug, tip = spec.body("mug"), data.site(sawyer.TIP)
        mug.pos = tip.xpos.copy()
        mujoco.mju_mat2Quat(mug.quat, tip.xmat)

    def draw_task(self, rng: np.random.Generator) -> Task:
        """A mass and a place."""
        return self.task(mass=rng.uniform(*MASS), goal_x=rng.uniform(*GOAL_X))

    def apply_task(self, world: World, sim: int, task: Task) -> None:
        """Makes the mug weigh what it should."""
        model, mass = world.model, task.parameters["mass"]
        mug = model.body("mug").id
        world.fields["body_mass"][sim, mug] = mass
        world.fields["body_inertia"][sim, mug] = model.body_inertia[mug] * mass / model.body_mass[mug]

    def outcome(self, world: World, parameters: np.ndarray, actions: np.ndarray) -> Outcome:
        """Distance of the mug's bottom from its place."""
        goal = _goals(parameters)
        distance = np.linalg.norm(sawyer.site(world, "mug_bottom") - goal, axis=1)
        near = distance <= SUCCESS_DISTANCE
        dense = self.reward(distance)
        if self.chosen["reward_formula"] == "released":
            top = np.linalg.norm(sawyer.site(world, "mug_top") - goal - (0.0, 0.0, MUG_HEIGHT), axis=1)
            dense = released_shape(RELEASED_SCALE * (distance + top) / 2.0)
        return Outcome(dense, near.astype(np.float64), 0.0 - distance, near)

    def state(self, world: World) -> np.ndarray:
        """Joint angles, joint velocities, the hand's position, and the mug's."""
        return np.concatenate([super().state(world), sawyer.site(world, "mug_bottom")], axis=1)

    def expert(self, world: World, parameters: np.ndarray) -> np.ndarray:
        """Up in front of the shelf, then in; the mug upright."""
        targets = []
        for mug, goal in zip(sawyer.site(world, "mug_bottom"), _goals(parameters), strict=True):
            before = self._upright(self.start, _before(goal))
            is_below = mug[1] < EDGE and mug[2] < CLEAR
            targets.append(before if is_below else self._upright(before, goal))
        return sawyer.actions_towards(world, np.stack(targets))

    def _upright(self, start: Sequence[float] | np.ndarray, place: np.ndarray) -> np.ndarray:
        """Joint angles that hold the mug upright at a place."""
        yaw = START_YAW + YAW_SHARE * (_direction(place) - _direction(START_PLACE))
        return self.angles_at(start, place, (np.cos(yaw / 2.0), 0.0, 0.0, np.sin(yaw / 2.0)))

    def markers(self, world: World, sim: int, task: Task) -> tuple[Marker, ...]:
        """A green disc under the goal and a pole over it."""
        x, (y, z) = task.parameters["goal_x"], GOAL_YZ
        green = (0.1, 0.75, 0.2, 1.0)
        return (
            Marker(mujoco.mjtGeom.mjGEOM_CYLINDER, (SUCCESS_DISTANCE, 0.001, 0.0), (x, y, z - 0.012), green),
            Marker(mujoco.mjtGeom.mjGEOM_CYLINDER, (0.003, 0.08, 0.0), (x, y, z + 0.07), green),
        )


def _goals(parameters: np.ndarray) -> np.ndarray:
    """Where the mugs' bottoms should be, ``(n, 3)`` in metres."""
    return np.stack([parameters[:, 1], *(np.full(len(parameters), value) for value in GOAL_YZ)], axis=1)


def _before(goal: np.ndarray) -> np.ndarray:
    """The place in front of the shelf through which the mug goes, ``(3,)``."""
    share, y, z = WAY
    return np.array([START_PLACE[0] + share * (goal[0] - START_PLACE[0]), y, z])


def _direction(place: np.ndarray) -> float:
    """Of a place seen from the arm's base, in rad."""
    return float(np.arctan2(place[1], place[0]))
