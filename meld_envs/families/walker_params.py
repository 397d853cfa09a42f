"""WalkerParams: PEARL's walker, whose body and floor are other in every task."""

from __future__ import annotations

import mujoco
import numpy as np

from meld_envs.camera import Marker
from meld_envs.families.gaits import walker
from meld_envs.families.locomotion import BLUE, GREEN, Locomotion, bar
from meld_envs.family import Outcome, Parameter
from meld_envs.tasks import Task
from meld_envs.world import World

EXPONENT = 3.0  # multipliers are base ** U(-3, 3) (PEARL's code, from rand_param_envs)
BODIES = ("world", "torso", "thigh", "leg", "foot", "thigh_left", "leg_left", "foot_left")
GEOMS = ("floor", *(f"{body}_geom" for body in BODIES[1:]))
JOINTS = ("rootx", "rootz", "rooty", "thigh", "leg", "foot", "thigh_left", "leg_left", "foot_left")
#: Model field -> base of its multipliers, and the names of its elements, row by row.
FIELDS = {
    "body_mass": (1.5, [f"mass_{body}" for body in BODIES]),
    "body_inertia": (1.5, [f"inertia_{body}_{axis}" for body in BODIES for axis in "xyz"]),
    "dof_damping": (1.3, [f"damping_{joint}" for joint in JOINTS]),
    "geom_friction": (
        1.5,
        [f"friction_{geom}_{kind}" for geom in GEOMS for kind in ("slide", "spin", "roll")],
    ),
}
COLOURS = (GREEN, BLUE, (0.9, 0.6, 0.1, 1.0), (0.8, 0.2, 0.2, 1.0))  # of the bars that show each kind
TIMESTEP = 0.004  # s (PEARL's walker; Gymnasium's has 0.002)
HEALTHY = (0.8, 2.0)  # m, the torso's height (PEARL's code)
MAX_TILT = 1.0  # rad, of the torso (PEARL's code)
CONTROL_COST = 1e-3  # per squared unit of action (PEARL's code)
SUCCESS_SPEED = 0.5  # m/s (ours)


class WalkerParams(Locomotion):
    """PEARL's walker, to run forwards with a body and a floor that are other in every task.

    Thesis, Section 5.2.3; PEARL's released code, which takes the robot from rand_param_envs. The model is the
    ``walker2d_v5.xml`` of the installed Gymnasium, with the source's physics step.

    ## Observation

    `Box(-1e6, 1e6, (17,), float32)`: positions of `rootz` (m), `rooty`, `thigh`, `leg`, `foot`, `thigh_left`,
    `leg_left`, `foot_left` (rad); velocities of the same and, before them, of `rootx`, each within ±10. With
    `obs_type="pixels"` `Box(0, 255, (64, 64, 3), uint8)`: the model's tracking camera, which here follows the
    torso: the centre of mass, which it follows in the file, would tell the masses.

    ## Actions

    `Box(-1, 1, (6,), float32)`, 62.5 per second, out of range clipped: torques of `thigh`, `leg`, `foot`,
    `thigh_left`, `leg_left`, `foot_left`, as shares of the motors' ranges (100 N m), for 4 physics steps of
    0.004 s.

    ## Reward

    With v the root's mean speed during the step, V during the last second (or since the episode's start), in
    m/s; *upright*: the torso's height in (0.8, 2) m and its tilt below 1 rad:

    | reward  | value                                                              |
    |---------|--------------------------------------------------------------------|
    | dense   | v − 0.001 ‖a‖² + 1 while upright                                   |
    | sparse  | 1 at success, else 0 (ours; the source has none)                   |
    | score   | V (ours)                                                           |
    | success | V ≥ 0.5 and upright, false in an episode's first second (ours)     |

    ## Task parameters

    All hidden: 65 multipliers of the model's own numbers, independent of one another. Those of the world's
    mass and inertia and of the root's damping, which are zero, change nothing.

    | name                                 | distribution   | of                                             |
    |--------------------------------------|----------------|------------------------------------------------|
    | `mass_world`, ...                    | 1.5^U(−3, 3)   | each body's mass, 8                            |
    | `inertia_world_x`, ...               | 1.5^U(−3, 3)   | each body's inertia about three axes, 24       |
    | `damping_rootx`, ...                 | 1.3^U(−3, 3)   | each joint's damping, 9                        |
    | `friction_floor_slide`, ...          | 1.5^U(−3, 3)   | each geom's friction: slide, spin, roll, 24    |

    By default 40 tasks to train and 10 to test.

    ## Start and end

    All positions and velocities start within U(−0.005, 0.005) of the model's own. An episode has 200 steps
    (3.2 s) and never terminates. The source ends it when the walker is no longer upright; here that costs the
    bonus of 1 a step, for as long as it lasts.

    ## Expert

    One gait for all tasks: it knows neither masses nor friction, so that it falls with some bodies.

    ## Version history

    * v0: first version. Observation, control, reward, distribution, start and horizon as in PEARL's released
      code; the model as in Gymnasium's Walker2d-v5, both of whose feet have the same friction.
    """

    name = "WalkerParams"
    parameters = tuple(
        Parameter(name, base**-EXPONENT, base**EXPONENT, "times the model's")
        for base, elements in FIELDS.values()
        for name in elements
    )
    expert_success = 0.6  # the lowest of 20 seeds, 0.7, less a margin: docs/environments.md
    num_train_tasks = 40  # thesis, appendix C.1
    num_test_tasks = 10  # thesis, appendix C.1
    varied_fields = tuple(FIELDS)
    model_file = "walker2d_v5.xml"
    control_hz = 62.5
    substeps = 4
    action_size = 6
    position_noise = 0.005
    velocity_noise = 0.005
    state_names = (*JOINTS[1:], *(f"d_{joint}" for joint in JOINTS))

    def adapt(self, spec: mujoco.MjSpec) -> None:
        """The source's physics step, and a camera that does not tell the masses."""
        spec.option.timestep = TIMESTEP
        camera = spec.camera("track")
        camera.mode = mujoco.mjtCamLight.mjCAMLIGHT_TRACK  # the file's follows the centre of mass

    # Tasks ------------------------------------------------------------------------------------

    def draw_task(self, rng: np.random.Generator) -> Task:
        """A multiplier for each element, log-uniform and independent."""
        multipliers = {
            name: base ** rng.uniform(-EXPONENT, EXPONENT)
            for base, elements in FIELDS.values()
            for name in elements
        }
        return self.task(**multipliers)

    def apply_task(self, world: World, sim: int, task: Task) -> None:
        """Multiplies the model's own masses, inertias, dampings and frictions."""
        for field, (_, elements) in FIELDS.items():
            own = getattr(world.model, field)
            multipliers = np.array([task.parameters[name] for name in elements])
            world.fields[field][sim] = own * multipliers.reshape(own.shape)

    # Simulation -------------------------------------------------------------------------------

    def place(self, world: World) -> np.ndarray:
        """Where the root is along x."""
        return world.qpos[:, :1].copy()

    def outcome(self, world: World, parameters: np.ndarray, actions: np.ndarray) -> Outcome:
        """Speed, control cost, and a bonus while upright."""
        height, tilt = world.qpos[:, 1], np.abs(world.qpos[:, 2])
        healthy = (height > HEALTHY[0]) & (height < HEALTHY[1]) & (tilt < MAX_TILT)
        dense = self.velocity(world)[:, 0] + healthy - CONTROL_COST * np.square(actions).sum(axis=1)
        speed = self.mean_velocity(world)[:, 0]
        success = (speed >= SUCCESS_SPEED) & healthy & self.has_run(world)
        return Outcome(dense, success.astype(np.float64), speed, success)

    def state(self, world: World) -> np.ndarray:
        """Positions but for the root's x, and velocities, the latter within ±10."""
        return np.concatenate([world.qpos[:, 1:], np.clip(world.qvel, -10.0, 10.0)], axis=1)

    def expert(self, world: World, parameters: np.ndarray) -> np.ndarray:
        """A gait found on many tasks."""
        return walker(world.steps / self.control_hz, world.qpos, world.qvel)

    def markers(self, world: World, sim: int, task: Task) -> tuple[Marker, ...]:
        """Four bars over the walker: mean factors of mass, inertia, damping, friction, 1 m each where 1."""
        x, y, z = self.trunk(world, sim)
        return tuple(
            bar((x - 1.0, y, z + 0.9 - 0.12 * row), _mean_factor(task, elements), colour)
            for row, ((_, elements), colour) in enumerate(zip(FIELDS.values(), COLOURS, strict=True))
        )

    def trunk(self, world: World, sim: int) -> np.ndarray:
        """Where the torso is."""
        return np.array([world.qpos[sim, 0], 0.0, world.qpos[sim, 1]])


def _mean_factor(task: Task, elements: list[str]) -> float:
    """The geometric mean of a kind's multipliers."""
    return float(np.exp(np.mean(np.log([task.parameters[name] for name in elements]))))
