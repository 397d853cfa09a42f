"""What the families with a Sawyer arm share: control, cameras, rewards."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import mujoco
import numpy as np

from meld_envs.camera import Quality
from meld_envs.family import Family
from meld_envs.robots import sawyer
from meld_envs.robots.kinematics import InverseKinematics
from meld_envs.world import World

ASSETS = Path(__file__).parent.parent / "assets"

EPSILON = 1e-5  # of the logarithms (paper, equation 7; released code)
RELEASED_SCALE = 5.0  # per metre (released code)
RELEASED_ZERO = 0.15  # scaled distance at which the released reward is 0: 3 cm


def paper_reward(distance: np.ndarray) -> np.ndarray:
    """−(d² + ln(d + 1e-5)) of a distance in metres (paper, equation 7)."""
    return -(np.square(distance) + np.log(distance + EPSILON))


def released_shape(scaled: np.ndarray | float) -> np.ndarray:
    """−(D² + log10(D² + 1e-5)) of a scaled distance (released code)."""
    return -(np.square(scaled) + np.log10(np.square(scaled) + EPSILON))


def released_reward(distance: np.ndarray) -> np.ndarray:
    """The released code's reward of a distance in metres: zero at 3 cm."""
    return released_shape(RELEASED_SCALE * distance) - released_shape(RELEASED_ZERO)


class SawyerFamily(Family):
    """A Sawyer whose joints move by small steps, seen by a scene camera and a second one beside it."""

    scene_file: ClassVar[str]
    start: ClassVar[tuple[float, ...]]

    episode_steps = 40
    control_hz = sawyer.CONTROL_HZ
    substeps = sawyer.SUBSTEPS
    action_size = sawyer.NUM_JOINTS
    state_names = sawyer.STATE_NAMES
    state_bound = 50.0
    derived_fields: ClassVar[tuple[str, ...]] = ("site_xpos",)
    quality = Quality(stacks=2, quads=1)  # boxes need no pieces; with one stack cylinders lose their caps
    options: ClassVar[dict[str, tuple[str, ...]]] = {
        "second_camera": ("wrist", "side"),
        "reward_formula": ("paper", "released"),
    }

    def __init__(self, **chosen: str) -> None:
        super().__init__(**chosen)
        self.cameras = ("scene", self.chosen["second_camera"])

    def build_model(self) -> mujoco.MjModel:
        """The scene of ``scene_file`` with what the arm holds."""
        return self.build_spec().compile()

    def build_spec(self) -> mujoco.MjSpec:
        """The scene before compilation."""
        spec = mujoco.MjSpec.from_file(str(ASSETS / self.scene_file))
        self.equip(spec)
        return spec

    def equip(self, spec: mujoco.MjSpec) -> None:
        """Puts the tool into the scene, and whatever else its file lacks."""

    def start_episode(self, world: World, rngs: Sequence[np.random.Generator]) -> None:
        """The arm at its start pose, at rest: no noise (released code)."""
        world.qpos[:, : sawyer.NUM_JOINTS] = self.start

    def control(self, world: World, actions: np.ndarray) -> None:
        """Moves the joints' targets."""
        sawyer.move(world, actions)

    def state(self, world: World) -> np.ndarray:
        """Joint angles, joint velocities and the tip's position."""
        return sawyer.state(world)

    def reward(self, distance: np.ndarray) -> np.ndarray:
        """The dense reward of a distance in metres, by the formula chosen."""
        return (
            paper_reward(distance) if self.chosen["reward_formula"] == "paper" else released_reward(distance)
        )

    def angles_at(
        self,
        start: Sequence[float] | np.ndarray,
        position: Sequence[float] | np.ndarray,
        quaternion: Sequence[float] | None = None,
    ) -> np.ndarray:
        """Joint angles near ``start`` at which the tip is at a place, turned as asked; remembered."""
        asked = None if quaternion is None else tuple(map(float, quaternion))
        return _solve(type(self), tuple(map(float, start)), tuple(map(float, position)), asked)


@lru_cache(maxsize=64)
def _solver(family: type[SawyerFamily]) -> InverseKinematics:
    return InverseKinematics(family().build_spec(), sawyer.TIP, sawyer.JOINTS)


@lru_cache(maxsize=16384)
def _solve(
    family: type[SawyerFamily],
    start: tuple[float, ...],
    position: tuple[float, ...],
    quaternion: tuple[float, ...] | None,
) -> np.ndarray:
    angles = _solver(family).solve(np.array(start), position, quaternion)
    angles.flags.writeable = False
    return angles
