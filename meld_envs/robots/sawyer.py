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
TIP = "tip"  # the site at the tool's end
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
) -> None:
    """Fixes a massless tool to the last link, with the site ``tip`` at its end (frames: released code)."""
    tool = spec.body("right_l6").add_body(name="end_effector", pos=TOOL_POSITION, quat=TOOL_QUATERNION)
    tool.gravcomp = 1.0
    tool.explicitinertial = True
    tool.mass, tool.inertia = 1e-8, [1e-8] * 3
    tool.add_geom(name="tool", type=shape, size=size, pos=position, rgba=rgba)
    tool.add_site(name=TIP, pos=TIP_POSITION, rgba=[0.0] * 4)


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


def state(world: World) -> np.ndarray:
    """The arm's state ``(n, 17)``, named by ``STATE_NAMES``."""
    return np.concatenate([angles(world), world.qvel[:, :NUM_JOINTS], site(world, TIP)], axis=1)


# The gripper -------------------------------------------------------------------------------

GRIP = 0.165  # m, from the last link's origin to the middle of what the fingers hold
HALF_GAP = 0.038  # m, half the width of what they hold at rest
FINGER_SIZE = (0.006, 0.015, 0.05)  # m, half
GRIP_STIFFNESS = 1000.0  # N/m, of the springs that close the fingers
GRIP_FORCE = 30.0  # N, of each at rest
HAND_MASS = 0.5  # kg


def give_gripper(spec: mujoco.MjSpec, drop: float, pitch: float, payload: float) -> None:
    """Fixes a two-finger gripper to the last link: springs close it and keep it closed.

    The site ``tip`` is where the bottom of what is held is, upright when the hand points down by ``pitch``.

    Args:
        spec: the scene.
        drop: from the middle of the fingers down to the bottom of what is held, metres.
        pitch: in radians.
        payload: kg that the controller takes to be in the hand, and holds up.
    """
    up = np.array([0.0, np.cos(pitch), -np.sin(pitch)])
    hand = spec.body("right_l6").add_body(name="hand")
    hand.gravcomp = (HAND_MASS + payload) / HAND_MASS
    hand.explicitinertial = True
    hand.mass, hand.ipos, hand.inertia = HAND_MASS, [0.0, 0.0, GRIP], [0.001] * 3
    look = {"contype": 0, "conaffinity": 0, "group": 2, "mass": 0.0}
    box, cylinder = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER
    hand.add_geom(
        name="hand_collar",
        type=cylinder,
        size=[0.03, 0.012, 0],
        pos=[0, 0, 0.05],
        material="sawyer_metal",
        **look,
    )
    hand.add_geom(
        name="hand_palm",
        type=box,
        size=[0.055, 0.022, 0.022],
        pos=[0, 0, 0.082],
        material="sawyer_trim",
        mass=0.0,
    )
    turn = -(np.pi / 2.0 + pitch)
    hand.add_site(
        name=TIP,
        pos=np.array([0.0, 0.0, GRIP]) - drop * up,
        quat=[np.cos(turn / 2.0), np.sin(turn / 2.0), 0.0, 0.0],
        rgba=[0.0] * 4,
    )
    for name, side in (("finger_left", 1.0), ("finger_right", -1.0)):
        _give_finger(hand, name, side)


def _give_finger(hand: mujoco.MjsBody, name: str, side: float) -> None:
    """A finger at one side of the hand, that a spring pushes to the middle."""
    finger = hand.add_body(name=name, pos=[side * (HALF_GAP + FINGER_SIZE[0]), 0.0, GRIP - 0.01])
    finger.gravcomp = 1.0
    finger.add_joint(
        name=name,
        type=mujoco.mjtJoint.mjJNT_SLIDE,
        axis=[-side, 0.0, 0.0],
        range=[-0.02, HALF_GAP],
        stiffness=[GRIP_STIFFNESS, 0.0, 0.0],
        springref=GRIP_FORCE / GRIP_STIFFNESS,
        damping=[20.0, 0.0, 0.0],
        armature=0.1,
    )
    finger.add_geom(
        name=name,
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=FINGER_SIZE,
        mass=0.05,
        friction=[1.5, 0.02, 0.0001],
        condim=4,
        solref=[0.01, 1.0],
        material="sawyer_metal",
    )
