"""Rethink Robotics' Sawyer: seven joints, moved by small steps of their angles.

The arm is ``assets/sawyer.xml``; scenes include it, with the arm before everything else that moves, so that
its joints come first in ``qpos``, ``qvel`` and ``ctrl``.
"""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np

from meld_envs.world import World

JOINTS = tuple(f"right_j{index}" for index in range(7))
NUM_JOINTS = len(JOINTS)

MAX_MOVE = 0.04  # rad a step, by which a joint's target may leave its angle (released code)
STEADY_MOVE = 0.03  # rad a step, what a free joint then does (facts: 0.029 to 0.031)
SUBSTEPS = 100  # physics steps of 0.0025 s: 4 Hz (paper, Table 2)
CONTROL_HZ = 4.0

TOOL_POSITION = (0.0, 0.0, 0.06)  # m, of the end effector in the last link's frame
TOOL_QUATERNION = (0.707107, 0.0, 0.0, 0.707107)
TIP_POSITION = (0.0, 0.0, 0.03)  # m, of the tool's tip in the end effector's frame

#: Of the state vector.
STATE_NAMES = (
    *(f"q{index}" for index in range(NUM_JOINTS)),
    *(f"dq{index}" for index in range(NUM_JOINTS)),
    "tip_x",
    "tip_y",
    "tip_z",
)


def stand(spec: mujoco.MjSpec, position: Sequence[float], turn: float = 0.0) -> None:
    """Places the arm's base: its position in metres, and its turn about the vertical in radians."""
    base = spec.body("base")
    base.pos = position
    base.quat = (np.cos(turn / 2.0), 0.0, 0.0, np.sin(turn / 2.0))


def give_tool(
    spec: mujoco.MjSpec,
    shape: mujoco.mjtGeom,
    size: Sequence[float],
    position: Sequence[float],
    rgba: Sequence[float],
    friction: float = 1.0,
) -> None:
    """Fixes a massless tool to the last link, with the site ``tip`` at its end (frames: released code)."""
    tool = spec.body("right_l6").add_body(name="end_effector", pos=TOOL_POSITION, quat=TOOL_QUATERNION)
    tool.gravcomp = 1.0
    tool.explicitinertial = True
    tool.mass, tool.inertia = 1e-8, [1e-8] * 3
    tool.add_geom(
        name="tool", type=shape, size=size, pos=position, rgba=rgba, friction=[friction, 0.005, 0.0001]
    )
    tool.add_site(name="tip", pos=TIP_POSITION, rgba=[0.0] * 4)


def move(world: World, actions: np.ndarray) -> None:
    """Sets each joint's target: its angle now plus 0.04 rad times the action (released code)."""
    world.ctrl[:, :NUM_JOINTS] = angles(world) + MAX_MOVE * actions


def angles(world: World) -> np.ndarray:
    """Joint angles ``(n, 7)`` in rad."""
    return world.qpos[:, :NUM_JOINTS]


def actions_towards(world: World, targets: np.ndarray) -> np.ndarray:
    """Actions that bring the joints to ``(n, 7)`` rad, in all joints at once and as fast as may be.

    The joint that has furthest to go moves at full speed and the others in proportion, so that the path is
    straight in joint space.
    """
    steps = (targets - angles(world)) / STEADY_MOVE
    return steps / np.maximum(np.abs(steps).max(axis=1, keepdims=True), 1.0)


def site(world: World, name: str) -> np.ndarray:
    """Positions of a site ``(n, 3)`` in metres; the family must have derived ``site_xpos``."""
    return world.derived("site_xpos")[:, world.model.site(name).id]


def state(world: World, point: str = "tip") -> np.ndarray:
    """The arm's state ``(n, 17)``, named by ``STATE_NAMES``."""
    return np.concatenate([angles(world), world.qvel[:, :NUM_JOINTS], site(world, point)], axis=1)
