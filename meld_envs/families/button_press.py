"""ButtonPress: find out which of three buttons is the right one, and press it."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np

from meld_envs.camera import Marker
from meld_envs.families.sawyer import SawyerFamily
from meld_envs.family import Outcome, Parameter
from meld_envs.robots import sawyer
from meld_envs.tasks import Task
from meld_envs.world import World

NUM_BUTTONS = 3
BASE = (0.0, -0.1, 0.05)  # m, where the arm stands (released code)
PANEL_X = (0.72, 0.78)  # m (released code)
BUTTON_Y = np.array([0.14, 0.0, -0.14])  # m: red, green, blue
CAP_TOP = -0.035  # m, of a button at rest
TRIGGER = 0.006  # m, depth from which a button counts as pressed
GOAL_DEPTH = 0.008  # m, where the distance to a button is 0
STYLUS_SIZE = (0.02, 0.015, 0.0)  # m, radius and half-length

# The expert's way, m.
OVER = 0.0  # height at which the tip passes over the panel
NEAR = 0.012  # lateral error at which it goes down
THROUGH = -0.055  # height it strives for


class ButtonPress(SawyerFamily):
    """A Sawyer, to press the one right button of three (paper, Section 5.2).

    Which button is right shows nowhere; where the panel stands is seen. The buttons are sprung and move;
    pressing a wrong one gives nothing.

    ## Observation

    `Box(0, 255, (64, 128, 3), uint8)`: a scene camera and a camera on the wrist, side by side
    (`second_camera="side"` has one in front of the panel instead). With `obs_type="state"`
    `Box(-50, 50, (21,), float32)`: seven joint angles (rad), their velocities (rad/s), `x`, `y`, `z` of the
    tip, `panel_x`, and how deep each button is pressed (m).

    ## Actions

    `Box(-1, 1, (7,), float32)`, 4 per second, out of range clipped: each joint's target is its angle now
    plus 0.04 rad times the action. A free joint moves 0.03 rad a step.

    ## Reward

    With d the distance between the tip and the right button's top when it is 8 mm down, in metres:

    | reward                              | value                                                         |
    |-------------------------------------|---------------------------------------------------------------|
    | dense                               | −(d² + ln(d + 1e-5)) (paper, equation 7)                      |
    | dense, `reward_formula="released"`  | −(D² + log10(D² + 1e-5)) − 1.625125, D = 5 d (released code)  |
    | sparse                              | 1 while the right button is at least 6 mm down, else 0        |
    | score                               | −d                                                            |
    | success                             | the right button was 6 mm down in this episode                |

    ## Task parameters

    | name      | distribution         | unit | hidden |
    |-----------|----------------------|------|--------|
    | `button`  | uniform in 0, 1, 2   |      | yes    |
    | `panel_x` | U(0.72, 0.78)        | m    | no     |

    ## Start and end

    The arm starts at one pose, at rest, over the panel. An episode has 40 steps (10 s) and never terminates;
    the paper's sparse experiment has two episodes a trial (`episodes_per_trial=2`).

    ## Version history

    * v0: first version. Arm, panel, start, cameras as in the released code of MELD, whose buttons are rigid
      and "pressed" when the tip is near; springs and trigger point are ours.
    """

    name = "ButtonPress"
    parameters = (
        Parameter("button", 0, NUM_BUTTONS - 1, "", whole=True),
        Parameter("panel_x", *PANEL_X, "m", hidden=False),
    )
    scene_file = "button_press.xml"
    start = (-0.065, -0.6675, 0.0, 1.35, 0.0, 0.625, 0.0)
    varied_fields = ("body_pos",)
    state_names = (*sawyer.STATE_NAMES, "panel_x", *(f"depth{index}" for index in range(NUM_BUTTONS)))

    def equip(self, spec: mujoco.MjSpec) -> None:
        """The arm stands beside the table's middle and holds a black stylus."""
        sawyer.stand(spec, BASE)
        stylus = ((0.0, 0.0, -0.005), (0.05, 0.05, 0.05, 1.0))
        sawyer.give_tool(spec, mujoco.mjtGeom.mjGEOM_CAPSULE, STYLUS_SIZE, *stylus)

    def draw_task(self, rng: np.random.Generator) -> Task:
        """A button, and a place for the panel."""
        return self.task(button=float(rng.integers(NUM_BUTTONS)), panel_x=rng.uniform(*PANEL_X))

    def apply_task(self, world: World, sim: int, task: Task) -> None:
        """Puts the panel in its place."""
        world.fields["body_pos"][sim, world.model.body("panel").id, 0] = task.parameters["panel_x"]

    def start_episode(self, world: World, rngs: Sequence[np.random.Generator]) -> None:
        """The arm at its start pose; no button pressed yet."""
        super().start_episode(world, rngs)
        world.memory["pressed"] = np.zeros((world.num_sims, NUM_BUTTONS), dtype=bool)

    def after_step(self, world: World) -> None:
        """Remembers which buttons were pressed in this episode."""
        world.memory["pressed"] |= self.tried(world)

    def outcome(self, world: World, parameters: np.ndarray, actions: np.ndarray) -> Outcome:
        """Distance to the right button, and whether it is down, or has been."""
        buttons, sims = parameters[:, 0].astype(int), np.arange(world.num_sims)
        goal = np.stack(
            [parameters[:, 1], BUTTON_Y[buttons], np.full(len(sims), CAP_TOP - GOAL_DEPTH)], axis=1
        )
        distance = np.linalg.norm(sawyer.site(world, sawyer.TIP) - goal, axis=1)
        sparse = self.tried(world)[sims, buttons].astype(np.float64)
        return Outcome(
            self.reward(distance), sparse, 0.0 - distance, world.memory["pressed"][sims, buttons].copy()
        )

    def state(self, world: World) -> np.ndarray:
        """Joint angles, joint velocities, the tip's position, the panel's place, the buttons' depths."""
        panel = world.fields["body_pos"][:, world.model.body("panel").id, :1]
        return np.concatenate([super().state(world), panel, _depths(world)], axis=1)

    def expert(self, world: World, parameters: np.ndarray) -> np.ndarray:
        """Over the right button, and down on it."""
        tips = sawyer.site(world, sawyer.TIP)
        targets = []
        for tip, (button, x) in zip(tips, parameters, strict=True):
            y = BUTTON_Y[int(button)]
            is_over = np.hypot(tip[0] - x, tip[1] - y) < NEAR
            targets.append(self.angles_at(self.start, (x, y, THROUGH if is_over else OVER)))
        return sawyer.actions_towards(world, np.stack(targets))

    def tried(self, world: World) -> np.ndarray:
        """Which buttons are down."""
        return _depths(world) >= TRIGGER

    def markers(self, world: World, sim: int, task: Task) -> tuple[Marker, ...]:
        """A white ball that hovers over the right button."""
        place = (task.parameters["panel_x"], float(BUTTON_Y[int(task.parameters["button"])]), 0.0)
        return (Marker(mujoco.mjtGeom.mjGEOM_SPHERE, (0.015,) * 3, place, (1.0, 1.0, 1.0, 1.0)),)


def _depths(world: World) -> np.ndarray:
    """How deep each button is pressed, ``(n, 3)`` in metres."""
    return -world.qpos[:, sawyer.NUM_JOINTS : sawyer.NUM_JOINTS + NUM_BUTTONS]
