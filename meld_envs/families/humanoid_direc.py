"""HumanoidDirec: PEARL's humanoid, to walk in a hidden direction."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mujoco
import numpy as np

from meld_envs.camera import Marker
from meld_envs.families.locomotion import FORCE_PARTS, Locomotion, pointer
from meld_envs.family import Outcome, Parameter
from meld_envs.tasks import Task
from meld_envs.world import World

HEALTHY = (1.0, 2.0)  # m, the root's height (PEARL's code)
BONUS = 5.0  # per step on its feet (PEARL's code)
SPEED_WEIGHT = 0.25 * 5.0  # per m/s; PEARL's code divides by the physics step instead of the control step
FORCE_COST, MAX_FORCE_COST = 5e-7, 10.0  # per squared contact force, and at most (PEARL's code)
SUCCESS_DISTANCE = 1.0  # m (ours): more than a fall from standing gains before the root is too low

STIFFNESS, DAMPING = 4.0, 0.3  # of the expert's joints: shares of the motors' range per rad and rad/s

BODIES = (
    *("world", "torso", "lwaist", "pelvis"),
    *("right_thigh", "right_shin", "right_foot", "left_thigh", "left_shin", "left_foot"),
    *("right_upper_arm", "right_lower_arm", "left_upper_arm", "left_lower_arm"),
)
JOINTS = (
    *("abdomen_z", "abdomen_y", "abdomen_x"),
    *("right_hip_x", "right_hip_z", "right_hip_y", "right_knee"),
    *("left_hip_x", "left_hip_z", "left_hip_y", "left_knee"),
    *("right_shoulder1", "right_shoulder2", "right_elbow", "left_shoulder1", "left_shoulder2", "left_elbow"),
)
DEGREES = ("x", "y", "z", "rot_x", "rot_y", "rot_z", *JOINTS)  # of freedom
#: The joints that the motors move are those of qpos, but for the first two, which are swapped.
MOTORS = (1, 0, *range(2, len(JOINTS)))


class HumanoidDirec(Locomotion):
    """PEARL's humanoid, to walk in a hidden direction (thesis, Section 5.2.3; PEARL's released code).

    The model is the ``humanoid.xml`` of the installed Gymnasium, with an accelerometer without which MuJoCo
    leaves the contact forces at zero.

    ## Observation

    `Box(-1e6, 1e6, (376,), float32)`: the root's height (m) and quaternion and the joints' angles (rad), 22
    numbers; the root's and the joints' velocities (m/s, rad/s), 23; of each of 14 bodies, the world included,
    inertia and mass about the centre of mass (MuJoCo's `cinert`), 140, and spatial velocity (`cvel`), 84;
    forces of the motors by degree of freedom (`qfrc_actuator`), 23; torque and force of contacts on each body
    (`cfrc_ext`), 84. With `obs_type="pixels"` `Box(0, 255, (64, 64, 3), uint8)`: the model's tracking camera.

    ## Actions

    `Box(-1, 1, (17,), float32)`, 66.7 per second, out of range clipped: controls of the motors, in the file's
    order (abdomen, right leg, left leg, right arm, left arm), as shares of their range of ±0.4, for 5 physics
    steps of 0.003 s.

    ## Reward

    With v the centre of mass's mean velocity along the task's direction during the step in m/s, s its way
    along it since the episode's start in m, u the controls (0.4 a), c the contact forces as observed:

    | reward  | value                                                                                     |
    |---------|-------------------------------------------------------------------------------------------|
    | dense   | 1.25 v − 0.1 ‖u‖² − min(5e-7 ‖c‖², 10) + 5 while the root's height is in [1, 2] m         |
    | sparse  | 1 at success, else 0 (ours; the source has none)                                          |
    | score   | s (ours)                                                                                  |
    | success | s ≥ 1 and such a height (ours)                                                            |

    1.25 is the source's 0.25 times 5: it divides the way by the physics step, not by the control step.

    ## Task parameters

    | name    | distribution                                            | unit | hidden |
    |---------|---------------------------------------------------------|------|--------|
    | `angle` | U(0, 2π); by default 100 tasks to train and 30 to test  | rad  | yes    |

    ## Start and end

    All positions and velocities start within U(−0.01, 0.01) of the model's own (Gymnasium's). An episode has
    200 steps (3 s) and never terminates. The source ends it at another height; here that costs the bonus of
    5 a step, for as long as it lasts.

    ## Expert

    For reference only: it holds its joints still, and falls. It solves no task, and `expert_success` is 0: no
    controller that walks is at hand (nor did PEARL learn to walk here: thesis, Chapter 6).

    ## Version history

    * v0: first version. Observation, control, reward, distribution and horizon as in PEARL's released code.
    """

    name = "HumanoidDirec"
    parameters = (Parameter("angle", 0.0, 2.0 * math.pi, "rad"),)
    num_train_tasks = 100  # thesis, appendix C.1
    num_test_tasks = 30  # thesis, appendix C.1
    model_file = "humanoid.xml"
    control_hz = 200.0 / 3.0
    substeps = 5
    action_size = 17
    position_noise = 0.01
    velocity_noise = 0.01
    feels = True
    derived_fields = ("subtree_com", "cinert", "cvel", "qfrc_actuator", "cfrc_ext")
    state_names = (
        *("z", "quat_w", "quat_x", "quat_y", "quat_z", *JOINTS),
        *(f"d_{degree}" for degree in DEGREES),
        *(f"inertia_{body}_{part}" for body in BODIES for part in range(10)),
        *(f"d_{part}_{body}" for body in BODIES for part in ("rx", "ry", "rz", "x", "y", "z")),
        *(f"motor_{degree}" for degree in DEGREES),
        *(f"{part}_{body}" for body in BODIES for part in FORCE_PARTS),
    )
    expert_success = 0.0  # see the docstring

    def adapt(self, spec: mujoco.MjSpec) -> None:
        """A floor in large pieces: the file's, of 12 cm, cost ten times as much to draw as all the rest."""
        floor = spec.geom("floor")
        floor.size = [*floor.size[:2], 40.0]

    def draw_task(self, rng: np.random.Generator) -> Task:
        """A direction, uniform."""
        return self.task(angle=rng.uniform(0.0, 2.0 * math.pi))

    def place(self, world: World) -> np.ndarray:
        """Where the centre of mass is on the ground."""
        return world.derived("subtree_com")[:, 0, :2].copy()

    def start_episode(self, world: World, rngs: Sequence[np.random.Generator]) -> None:
        """As the others; remembers where."""
        super().start_episode(world, rngs)
        world.memory["start"] = self.place(world)

    def outcome(self, world: World, parameters: np.ndarray, actions: np.ndarray) -> Outcome:
        """Speed in the right direction, costs, and a bonus while on its feet."""
        direction = np.concatenate([np.cos(parameters), np.sin(parameters)], axis=1)
        healthy = (world.qpos[:, 2] >= HEALTHY[0]) & (world.qpos[:, 2] <= HEALTHY[1])
        forces = np.square(world.derived("cfrc_ext")).sum(axis=(1, 2))
        costs = 0.1 * np.square(world.ctrl).sum(axis=1) + np.minimum(FORCE_COST * forces, MAX_FORCE_COST)
        speed = (self.velocity(world) * direction).sum(axis=1)
        way = ((self.place(world) - world.memory["start"]) * direction).sum(axis=1)
        success = (way >= SUCCESS_DISTANCE) & healthy
        dense = SPEED_WEIGHT * speed - costs + BONUS * healthy
        return Outcome(dense, success.astype(np.float64), way, success)

    def state(self, world: World) -> np.ndarray:
        """Positions but for the root's x and y, velocities, inertias, spatial velocities, forces."""
        derived = [
            world.derived(name).reshape(world.num_sims, -1)
            for name in ("cinert", "cvel", "qfrc_actuator", "cfrc_ext")
        ]
        return np.concatenate([world.qpos[:, 2:], world.qvel, *derived], axis=1)

    def expert(self, world: World, parameters: np.ndarray) -> np.ndarray:
        """Joints held where the model has them."""
        shares = -STIFFNESS * world.qpos[:, 7:] - DAMPING * world.qvel[:, 6:]
        return shares[:, MOTORS]

    def markers(self, world: World, sim: int, task: Task) -> tuple[Marker, ...]:
        """A green ball on the side to walk to."""
        angle = task.parameters["angle"]
        return (pointer(self.trunk(world, sim), np.array([math.cos(angle), math.sin(angle)])),)
