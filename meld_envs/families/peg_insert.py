"""PegInsert: put a peg into the right one of several boxes."""

from __future__ import annotations

from typing import ClassVar

import mujoco
import numpy as np

from meld_envs.camera import Marker
from meld_envs.families.reacher import PEG_SIZE
from meld_envs.families.sawyer import SawyerFamily
from meld_envs.family import Outcome, Parameter
from meld_envs.robots import sawyer
from meld_envs.tasks import Task, TaskSet
from meld_envs.world import World

# Boxes (released code): outside 14 x 14 x 6 cm, a hole of 4 x 4 cm down to the table.
RIM = 0.06  # m, height of the boxes: the depth of their holes
HALF_HOLE = 0.02  # m
WALLS = {  # name: half-size and centre in the box's frame, m
    "left": ((0.02, 0.025, 0.03), (0.0, 0.045, 0.03)),
    "right": ((0.02, 0.025, 0.03), (0.0, -0.045, 0.03)),
    "far": ((0.025, 0.07, 0.03), (0.045, 0.0, 0.03)),
    "near": ((0.025, 0.07, 0.03), (-0.045, 0.0, 0.03)),
}
BOX_COLOUR = (0.30, 0.32, 0.95, 1.0)

#: Where the four boxes may stand, m: near left, near right, far left, far right (released code).
RANGES = (
    ((0.44, 0.45), (0.07, 0.08)),
    ((0.44, 0.45), (-0.08, -0.07)),
    ((0.60, 0.61), (0.07, 0.08)),
    ((0.60, 0.61), (-0.08, -0.07)),
)
#: Where three fixed boxes stand, m: ours, as no publication gives the real ones.
FIXED = ((0.445, 0.075), (0.445, -0.075), (0.605, 0.0))

SUCCESS_DISTANCE = 0.05  # m, of the tip from the bottom of the hole (paper, appendix B.1)
DOWN = (0.0, 0.70710678, -0.70710678, 0.0)  # w x y z of the tip: the peg straight down, square to the holes
_DOWN_AXES = np.array([[0.0, -1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])

#: Around a hole, for people: centres and half-sizes on the rim, m.
BARS = (
    ((0.045, 0.0), (0.01, 0.055)),
    ((-0.045, 0.0), (0.01, 0.055)),
    ((0.0, 0.045), (0.035, 0.01)),
    ((0.0, -0.045), (0.035, 0.01)),
)

# The expert's way, m.
CLEAR = 0.08  # height at which the tip passes over boxes
HOVER = 0.066  # height at which it waits until it is over the hole
NEAR = 0.015  # lateral error at which it goes down to that
ENTRY = 0.0045  # lateral error at which it goes in
LEVELS = (0.05, 0.035, 0.02, 0.003)  # heights of the tip on the way down


class PegInsert(SawyerFamily):
    """A Sawyer, to put a peg into the one right box of four (paper, Section 5.1; appendix F).

    The peg measures 3 × 3 × 6 cm, the holes 4 × 4 × 6 cm. Which box is right shows nowhere; where the boxes
    stand is seen.

    ## Observation

    `Box(0, 255, (64, 128, 3), uint8)`: a scene camera and a camera on the wrist, side by side
    (`second_camera="side"` has one beside the table instead). With `obs_type="state"`
    `Box(-50, 50, (25,), float32)`: seven joint angles (rad), their velocities (rad/s), `x`, `y`, `z` of the
    tip, and `x`, `y` of each box (m).

    ## Actions

    `Box(-1, 1, (7,), float32)`, 4 per second, out of range clipped: each joint's target is its angle now
    plus 0.04 rad times the action. A free joint moves 0.03 rad a step.

    ## Reward

    With d the distance between the peg's tip and the middle of the right hole's bottom in metres, and δ the
    angle of the peg from upright and square in radians:

    | reward                              | value                                                         |
    |-------------------------------------|---------------------------------------------------------------|
    | dense                               | −(d² + ln(d + 1e-5)) (paper, equation 7)                      |
    | dense, `reward_formula="released"`  | −(D² + log10(D² + 1e-5)) − 1.625125, D = 5 d (released code)  |
    | dense, `layout="three_fixed"`       | −(d + δ) (paper, appendix F)                                  |
    | sparse                              | 1 at success, else 0                                          |
    | score                               | −d                                                            |
    | success                             | d ≤ 0.05 and the tip within the walls of the right box        |

    ## Task parameters

    | name                 | distribution                                           | unit | hidden |
    |----------------------|--------------------------------------------------------|------|--------|
    | `box`                | uniform in 0, 1, 2, 3                                  |      | yes    |
    | `box0_x`, `box1_x`   | U(0.44, 0.45)                                          | m    | no     |
    | `box2_x`, `box3_x`   | U(0.60, 0.61)                                          | m    | no     |
    | `box0_y`, `box2_y`   | U(0.07, 0.08)                                          | m    | no     |
    | `box1_y`, `box3_y`   | U(−0.08, −0.07)                                        | m    | no     |

    `layout="three_fixed"`, the paper's experiment on the real arm, has three boxes that stand still; its
    three tasks, `box` 0, 1 and 2, are both the train and the test tasks. Where they stand is our choice.

    ## Start and end

    The arm starts at one pose, at rest, the peg above the table. An episode has 40 steps (10 s) and never
    terminates.

    ## Version history

    * v0: first version. Arm, boxes, start, cameras as in the released code of MELD, which draws one layout
      for every four tasks; here every task has its own.
    """

    name = "PegInsert"
    parameters = (
        Parameter("box", 0, 3, "", whole=True),
        *(
            Parameter(f"box{index}_{axis}", low, high, "m", hidden=False)
            for index, ranges in enumerate(RANGES)
            for axis, (low, high) in zip("xy", ranges, strict=True)
        ),
    )
    scene_file = "peg_insert.xml"
    start = (-0.305, -0.83, 0.06086, 1.70464, -0.02976, 0.62496, -0.04712)
    varied_fields = ("body_pos",)
    derived_fields = ("site_xpos", "site_xmat")
    options: ClassVar[dict[str, tuple[str, ...]]] = {
        **SawyerFamily.options,
        "layout": ("four_random", "three_fixed"),
    }

    def __init__(self, **chosen: str) -> None:
        super().__init__(**chosen)
        self.is_fixed = self.chosen["layout"] == "three_fixed"
        self.num_boxes = len(FIXED) if self.is_fixed else len(RANGES)
        if self.is_fixed:
            self.parameters = (Parameter("box", 0, len(FIXED) - 1, "", whole=True),)
            self.num_train_tasks = self.num_test_tasks = len(FIXED)
        boxes = (f"box{index}_{axis}" for index in range(self.num_boxes) for axis in "xy")
        self.state_names = (*sawyer.STATE_NAMES, *boxes)

    # Tasks ------------------------------------------------------------------------------------

    def draw_task(self, rng: np.random.Generator) -> Task:
        """A box, and places for all of them."""
        places = {p.name: rng.uniform(p.low, p.high) for p in self.parameters if not p.hidden}
        return self.task(box=float(rng.integers(self.num_boxes)), **places)

    def draw_task_set(self, num_train: int, num_test: int, seed: int) -> TaskSet:
        """Seeded lists; with ``layout="three_fixed"`` the same three tasks in both (paper, appendix F)."""
        if not self.is_fixed:
            return super().draw_task_set(num_train, num_test, seed)
        if max(num_train, num_test) > self.num_boxes:
            raise ValueError(f"{self.name}: layout='three_fixed' has only {self.num_boxes} tasks")
        tasks = [self.task(box=float(box)) for box in range(self.num_boxes)]
        return TaskSet(tasks[:num_train], tasks[:num_test], may_share=True)

    def apply_task(self, world: World, sim: int, task: Task) -> None:
        """Puts the boxes in their places."""
        if self.is_fixed:
            return
        for index in range(self.num_boxes):
            place = (task.parameters[f"box{index}_x"], task.parameters[f"box{index}_y"])
            world.fields["body_pos"][sim, world.model.body(f"box{index}").id, :2] = place

    # Simulation -------------------------------------------------------------------------------

    def equip(self, spec: mujoco.MjSpec) -> None:
        """The boxes, and the peg in the arm's hand."""
        places = FIXED if self.is_fixed else [[(low + high) / 2 for low, high in place] for place in RANGES]
        for index, (x, y) in enumerate(places):
            body = spec.worldbody.add_body(name=f"box{index}", pos=[x, y, 0.0])
            for name, (size, position) in WALLS.items():
                body.add_geom(
                    name=f"box{index}_{name}",
                    type=mujoco.mjtGeom.mjGEOM_BOX,
                    size=size,
                    pos=position,
                    rgba=BOX_COLOUR,
                )
        sawyer.give_tool(spec, mujoco.mjtGeom.mjGEOM_BOX, PEG_SIZE, (0.0, 0.0, 0.0), (0.3, 1.0, 0.3, 1.0))

    def outcome(self, world: World, parameters: np.ndarray, actions: np.ndarray) -> Outcome:
        """Distance to the hole's bottom, and whether the tip is inside."""
        sims, boxes = np.arange(world.num_sims), parameters[:, 0].astype(int)
        distance = np.linalg.norm(sawyer.site(world, sawyer.TIP) - self._places(world)[sims, boxes], axis=1)
        success = self.tried(world)[sims, boxes]
        dense = -(distance + self._tilt(world)) if self.is_fixed else self.reward(distance)
        return Outcome(dense, success.astype(np.float64), 0.0 - distance, success)

    def _places(self, world: World) -> np.ndarray:
        """Where the holes' bottoms are, ``(n, boxes, 3)`` in metres."""
        first = world.model.body("box0").id
        return world.fields["body_pos"][:, first : first + self.num_boxes]

    def tried(self, world: World) -> np.ndarray:
        """Which boxes the peg is in: its tip within the walls, and near the bottom."""
        offset = sawyer.site(world, sawyer.TIP)[:, np.newaxis] - self._places(world)
        inside = (np.abs(offset[..., :2]) < HALF_HOLE).all(axis=-1)
        return inside & (np.linalg.norm(offset, axis=-1) <= SUCCESS_DISTANCE)

    def _tilt(self, world: World) -> np.ndarray:
        """The angle between the peg as it is and straight down, square to the holes: ``(n,)`` in rad."""
        site = world.model.site(sawyer.TIP).id
        axes = world.derived("site_xmat")[:, site].reshape(-1, 3, 3)
        return np.arccos(np.clip((np.einsum("nij,ij->n", axes, _DOWN_AXES) - 1.0) / 2.0, -1.0, 1.0))

    def state(self, world: World) -> np.ndarray:
        """Joint angles, joint velocities, the tip's position, and the boxes' places."""
        places = self._places(world)[..., :2].reshape(world.num_sims, -1)
        return np.concatenate([super().state(world), places], axis=1)

    # Help -------------------------------------------------------------------------------------

    def expert(self, world: World, parameters: np.ndarray) -> np.ndarray:
        """Over the right box, and straight down; out of a wrong one first."""
        tips, places = sawyer.site(world, sawyer.TIP), self._places(world)
        targets = [
            self.angles_at(self.start, _next_place(tip, boxes, int(row[0])), DOWN)
            for tip, boxes, row in zip(tips, places, parameters, strict=True)
        ]
        return sawyer.actions_towards(world, np.stack(targets))

    def markers(self, world: World, sim: int, task: Task) -> tuple[Marker, ...]:
        """Four green bars on the walls of the right box."""
        x, y, _ = self._places(world)[sim, int(task.parameters["box"])]
        green = (0.1, 0.75, 0.2, 1.0)
        return tuple(
            Marker(mujoco.mjtGeom.mjGEOM_BOX, (*half, 0.001), (x + dx, y + dy, RIM + 0.001), green)
            for (dx, dy), half in BARS
        )


def _next_place(tip: np.ndarray, boxes: np.ndarray, box: int) -> tuple[float, float, float]:
    """Where the tip should go next on its way into a box."""
    errors = np.linalg.norm(boxes[:, :2] - tip[:2], axis=1)
    nearest = int(errors.argmin())
    x, y, _ = boxes[box]
    if nearest != box and tip[2] < RIM and errors[nearest] < 2 * HALF_HOLE:
        x, y, _ = boxes[nearest]  # out of the wrong hole, the way it came
        return x, y, CLEAR
    if errors[box] < (ENTRY if tip[2] > RIM else HALF_HOLE):
        return x, y, next((level for level in LEVELS if level < tip[2] - 0.005), LEVELS[-1])
    return x, y, HOVER if errors[box] < NEAR else CLEAR
