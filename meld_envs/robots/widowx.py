"""Trossen Robotics' WidowX Mark II: five joints, each moved by a Dynamixel servo.

Kinematics are the published ones; masses, and what the motors do, are estimates, for the published
descriptions have placeholders there (every link weighs 1 kg). The gripper is closed on what it holds and
does not move. Everything that differs between the joints stands in one table, and the law that turns joint
velocities into the servos' goals is one function: a driver of the real arm can use both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import mujoco
import numpy as np

from meld_envs.world import World


class Motor(NamedTuple):
    """What a servo does at its joint, with its default gains (P = 32) at 12 V, seen as a spring.

    Its torque is the stiffness times what the angle lacks to the goal, up to the stall torque times the
    duty cycle; less the damping (back-EMF and viscous) times the velocity; less dry friction.

    Attributes:
        stiffness: N m/rad.
        damping: N m s/rad.
        stall: N m, at full duty.
        armature: kg m², of the rotor, seen through the gears.
        friction: N m, dry.
        ticks: positions in the servo's span.
        span: rad.
    """

    stiffness: float
    damping: float
    stall: float
    armature: float
    friction: float
    ticks: int
    span: float


#: MX-64 as identified by Rhoban's BAM (its simplest model); the others scaled from it, or from the manuals'
#: stall torque, speed and compliance slope; their armature and friction are guesses.
MOTORS = {
    "MX-64": Motor(24.9, 0.678, 4.93, 0.01195, 0.090, 4096, 2.0 * np.pi),
    "MX-28": Motor(12.6, 0.43, 2.5, 0.004, 0.045, 4096, 2.0 * np.pi),
    "AX-12A": Motor(9.0, 0.24, 1.5, 0.003, 0.025, 1024, np.radians(300.0)),
}
DUTY = 0.5  # of the stall torque: what REPLAB writes into the servos before unattended operation


class Joint(NamedTuple):
    """A joint with the link that it moves (origins, axes, limits: the URDF of Robotnik's widowx_arm).

    Attributes:
        name: as in the URDF.
        servo: its id on the line.
        motor: the servo's model.
        sign: of the servo's ticks against the joint's angle.
        link: the link that it moves.
        origin: in the parent link, m.
        pitch: of the link's frame in the parent's, about y, rad.
        axis: that it turns about.
        limits: rad.
        speed: rad/s, the most that it may do.
        mass: of the link, kg.
        centre: of that mass, m.
        inertia: about it, along the link's axes, kg m².
    """

    name: str
    servo: int
    motor: str
    sign: int
    link: str
    origin: tuple[float, float, float]
    pitch: float
    axis: tuple[float, float, float]
    limits: tuple[float, float]
    speed: float
    mass: float
    centre: tuple[float, float, float]
    inertia: tuple[float, float, float]


_Y, _Z = (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
JOINTS = (
    Joint("joint_1", 1, "MX-28", 1, "shoulder", (0.0, 0.0, 0.125), 0.0, _Z, (-2.617, 2.617), 0.785,
          0.12, (0.0, 0.0, -0.03), (1.5e-4, 1.5e-4, 2.0e-4)),
    Joint("joint_2", 2, "MX-64", 1, "biceps", (0.0, 0.0, 0.0), 0.0, _Y, (-1.571, 1.571), 1.571,
          0.31, (0.025, 0.0, 0.073), (1.5e-3, 1.6e-3, 3.0e-4)),
    Joint("joint_3", 3, "MX-64", -1, "forearm", (0.04825, 0.0, 0.14203), np.pi / 2.0, _Y, (-1.571, 1.571),
          1.571, 0.12, (0.0, 0.0, 0.10), (3.0e-4, 3.0e-4, 6.0e-5)),
    Joint("joint_4", 4, "MX-28", -1, "wrist_1", (0.0, 0.0, 0.14203), 0.0, _Y, (-1.745, 1.745), 1.571,
          0.075, (-0.01, 0.0, 0.048), (5.0e-5, 5.0e-5, 2.0e-5)),
    Joint("joint_5", 5, "AX-12A", 1, "wrist_2", (0.0, 0.0, 0.0715), 0.0, _Z, (-2.617, 2.617), 1.571,
          0.075, (-0.012, 0.0, 0.023), (3.0e-5, 3.0e-5, 3.0e-5)),
)  # fmt: skip
NUM_JOINTS = len(JOINTS)
LIMITS = np.array([joint.limits for joint in JOINTS])

# The gripper's rail, at the published joint_6, with two closed fingers, a plug and a camera.
RAIL = 0.043  # m, from wrist_2 to the rail, along z
HAND_MASS, HAND_CENTRE, HAND_INERTIA = 0.16, (0.0, 0.0, 0.02), (8.0e-5, 8.0e-5, 5.0e-5)

# Lengths that inverse kinematics needs, m.
SHOULDER_HEIGHT = JOINTS[0].origin[2]
UPPER = float(np.hypot(JOINTS[2].origin[0], JOINTS[2].origin[2]))
UPPER_LEAN = float(np.arctan2(JOINTS[2].origin[0], JOINTS[2].origin[2]))  # rad, from the vertical
FOREARM = JOINTS[3].origin[2]
HAND = JOINTS[4].origin[2] + RAIL  # from the wrist's pitch axis to the rail

# The plug (RJ45: 11.7 x 8 x 20 mm) sticks out of the fingers, along the rail's z.
PLUG_SIZE = (0.004, 0.00585, 0.010)  # m, half
TIP = "tip"  # the site in the middle of the plug's front
TIP_POSITION = (0.0, 0.0, 0.066)  # m, in the rail's frame

#: Of the state vector.
STATE_NAMES = (
    *(f"q{index}" for index in range(1, NUM_JOINTS + 1)),
    *(f"dq{index}" for index in range(1, NUM_JOINTS + 1)),
    *(f"goal{index}" for index in range(1, NUM_JOINTS + 1)),
    "tip_x",
    "tip_y",
    "tip_z",
)

# Control -------------------------------------------------------------------------------------------

TICK = 0.02  # s, of the inner loop, which sets the servos' goals
MAX_SPEED = 0.2  # rad/s, what an action of 1 asks of a joint
LEAD = 0.095  # rad, by which a goal may lead its joint: bounds wind-up, and contact (48 % duty of an MX)
MARGIN = 0.02  # rad, that goals keep from their limits, as a robot's driver does
#: Of goals, rad, within the joints' own: a robot's file has them (``hardware_bridge/configs``).
GOAL_LIMITS = np.array([(-1.2, 1.2), (-1.571, 1.2), (-1.2, 1.571), (-1.745, 1.745), (-2.617, 2.617)])


def next_goal(goal: np.ndarray, angles: np.ndarray, velocities: np.ndarray) -> np.ndarray:
    """The servos' goals at the end of the next tick.

    The command is integrated, not the measurement: a servo without an integral term sags under gravity, and
    integrating what is measured would creep down. How far a goal leads its joint is bounded, and it keeps
    ``MARGIN`` from its limits.

    Args:
        goal: ``(..., 5)`` rad, now.
        angles: ``(..., 5)`` rad, measured now.
        velocities: ``(..., 5)`` rad/s, wanted.
    """
    wanted = goal + TICK * velocities
    held = np.minimum(np.maximum(wanted, angles - LEAD), angles + LEAD)
    return np.minimum(np.maximum(held, GOAL_LIMITS[:, 0] + MARGIN), GOAL_LIMITS[:, 1] - MARGIN)


def ramp(goal: np.ndarray, following: np.ndarray) -> np.ndarray:
    """What a servo that moves evenly from one goal to the following one strives for, on average."""
    return (goal + following) / 2.0


def actions_towards(angles: np.ndarray, targets: np.ndarray, seconds: float) -> np.ndarray:
    """Actions that bring the joints from angles to targets, ``(n, 5)`` rad, within a step if that may be.

    The joint that has furthest to go moves at full speed and the others in proportion, so that the path is
    straight in joint space.

    Args:
        angles: measured now.
        targets: wanted.
        seconds: that a step lasts.
    """
    actions = (targets - angles) / (MAX_SPEED * seconds)
    return actions / np.maximum(np.abs(actions).max(axis=1, keepdims=True), 1.0)


def site(world: World, name: str) -> np.ndarray:
    """Positions of a site ``(n, 3)`` in metres; the family must have derived ``site_xpos``."""
    return world.derived("site_xpos")[:, world.model.site(name).id]


def holding_goal(model: mujoco.MjModel, angles: np.ndarray) -> np.ndarray:
    """The goals ``(5,)`` in rad at which the servos hold the arm at these angles, friction aside."""
    data = mujoco.MjData(model)
    data.qpos[:NUM_JOINTS] = angles
    mujoco.mj_forward(model, data)
    stiffness = [MOTORS[joint.motor].stiffness for joint in JOINTS]
    return angles + data.qfrc_bias[:NUM_JOINTS] / stiffness


def angles_at(place: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Joint angles at which the plug points straight down, its tip at a place, and is turned.

    Where the place is out of reach, the arm is stretched towards it.

    Args:
        place: ``(..., 3)`` m, of the tip, the arm's base at the origin.
        turn: ``(...)`` rad, of the plug about the vertical; at 0 its wide side is across the x axis.

    Returns:
        ``(..., 5)`` rad.
    """
    x, y, z = np.moveaxis(np.asarray(place, dtype=np.float64), -1, 0)
    yaw, out = np.arctan2(y, x), np.hypot(x, y)
    up = z + TIP_POSITION[2] + HAND - SHOULDER_HEIGHT  # of the wrist above the shoulder
    upper, forearm = _two_links(out, up)
    shoulder = upper - UPPER_LEAN
    elbow = forearm - np.pi / 2.0 - shoulder
    # pointing down, the plug turns against joint 5, and with joint 1
    return np.stack([yaw, shoulder, elbow, np.pi - forearm, yaw - turn], axis=-1)


def _two_links(out: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Angles of upper arm and forearm from the vertical, the wrist being there as seen from the shoulder."""
    reach = np.clip(np.hypot(out, up), None, 0.9999 * (UPPER + FOREARM))
    at_shoulder = np.arccos((UPPER**2 + reach**2 - FOREARM**2) / (2.0 * UPPER * reach))
    at_elbow = np.arccos((UPPER**2 + FOREARM**2 - reach**2) / (2.0 * UPPER * FOREARM))
    upper = np.arctan2(out, up) - at_shoulder
    return upper, upper + np.pi - at_elbow


def _wrist(angles: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the wrist is, out from and up over the shoulder (m), and how the hand leans from the vertical."""
    upper = angles[..., 1] + UPPER_LEAN
    forearm = angles[..., 1] + angles[..., 2] + np.pi / 2.0
    out = UPPER * np.sin(upper) + FOREARM * np.sin(forearm)
    return out, UPPER * np.cos(upper) + FOREARM * np.cos(forearm), forearm + angles[..., 3]


def tip_place(angles: np.ndarray) -> np.ndarray:
    """Where the plug's tip is, ``(..., 3)`` m with the arm's base at the origin, at ``(..., 5)`` rad."""
    out, up, lean = _wrist(angles)
    length = HAND + TIP_POSITION[2]
    out, yaw = out + length * np.sin(lean), angles[..., 0]
    return np.stack(
        [out * np.cos(yaw), out * np.sin(yaw), SHOULDER_HEIGHT + up + length * np.cos(lean)], axis=-1
    )


def lifted(angles: np.ndarray, height: float) -> np.ndarray:
    """Angles ``(..., 5)`` rad at which the hand is so much higher (m), as it leans and is turned.

    Where that is out of reach, the arm is stretched towards it.
    """
    out, up, lean = _wrist(angles)
    upper, forearm = _two_links(out, up + height)
    risen = np.array(angles, dtype=np.float64)
    risen[..., 1] = upper - UPPER_LEAN
    risen[..., 2] = forearm - np.pi / 2.0 - risen[..., 1]
    risen[..., 3] = lean - forearm
    return risen


# The model -----------------------------------------------------------------------------------------

_BOX, _CYLINDER, _CAPSULE = (
    mujoco.mjtGeom.mjGEOM_BOX,
    mujoco.mjtGeom.mjGEOM_CYLINDER,
    mujoco.mjtGeom.mjGEOM_CAPSULE,
)


class Shape(NamedTuple):
    """A primitive that stands for a part: kind, half-size, centre and material."""

    kind: mujoco.mjtGeom
    size: tuple[float, float, float]
    centre: tuple[float, float, float]
    material: str


#: From the bounding boxes of the published meshes, m, in the links' frames.
SHAPES: dict[str, tuple[Shape, ...]] = {
    "base": (Shape(_CYLINDER, (0.095, 0.0445, 0.0), (0.0, 0.0, 0.0445), "widowx_plate"),),
    "shoulder": (Shape(_CYLINDER, (0.055, 0.0204, 0.0), (0.0, 0.0, -0.0204), "widowx_bracket"),),
    "biceps": (
        Shape(_BOX, (0.020, 0.0235, 0.0305), (0.0, 0.0, 0.0147), "widowx_servo"),
        Shape(_BOX, (0.0305, 0.0235, 0.020), (0.0298, 0.0, 0.142), "widowx_servo"),
        Shape(_BOX, (0.012, 0.018, 0.045), (0.006, 0.0, 0.085), "widowx_bracket"),
    ),
    "forearm": (
        Shape(_BOX, (0.018, 0.018, 0.055), (0.0, 0.0, 0.06), "widowx_bracket"),
        Shape(_BOX, (0.022, 0.022, 0.0255), (0.0, 0.0, 0.1285), "widowx_servo"),
    ),
    "wrist_1": (Shape(_BOX, (0.0231, 0.022, 0.0379), (-0.0121, 0.0, 0.0354), "widowx_bracket"),),
    "wrist_2": (Shape(_BOX, (0.0231, 0.013, 0.0232), (-0.0121, 0.0, 0.0248), "widowx_servo"),),
    "rail": (
        Shape(_BOX, (0.0199, 0.0358, 0.0037), (0.0, 0.0, 0.0037), "widowx_bracket"),
        Shape(_BOX, (0.012, 0.0075, 0.0206), (0.0, 0.0134, 0.0240), "widowx_finger"),
        Shape(_BOX, (0.012, 0.0075, 0.0206), (0.0, -0.0134, 0.0240), "widowx_finger"),
    ),
}  # fmt: skip
MATERIALS = {
    "widowx_plate": (0.36, 0.37, 0.40, 1.0),
    "widowx_bracket": (0.22, 0.22, 0.25, 1.0),
    "widowx_servo": (0.10, 0.10, 0.11, 1.0),
    "widowx_finger": (0.62, 0.63, 0.66, 1.0),
    "widowx_plug": (0.98, 0.84, 0.12, 1.0),
}

#: The arm touches what stands around it, its base included; its links overlap, and do not touch each other.
ARM: dict[str, Any] = {"contype": 1, "conaffinity": 0}
UNTOUCHED: dict[str, Any] = {"contype": 0, "conaffinity": 0}
#: Links that reach neither the arm's own base nor what is before it, however its joints stand: to look for
#: contacts there takes a twelfth of a physics step.
FREE = ("shoulder", "biceps")
#: Hard plastic, as stiff as steps of 2.5 ms allow; in contacts its numbers hold, not the arm's.
SURROUNDINGS: dict[str, Any] = {
    "contype": 0,
    "conaffinity": 1,
    "priority": 1,
    "friction": [0.3, 0.005, 0.0001],
    "solref": [0.005, 1.0],
    "solimp": [0.97, 0.995, 0.001, 0.5, 2.0],
}

# The camera beside the gripper, in the rail's frame: where it sits, m, and how it leans to the plug, rad.
WRIST_CAMERA, WRIST_LEAN, WRIST_FIELD = (-0.065, 0.0, -0.01), 0.45, 60.0  # field of view: degrees


def add_arm(spec: mujoco.MjSpec) -> None:
    """Puts the arm, with a plug in its gripper, at the origin of a scene, before everything that moves.

    Adds bodies, joints and actuators by the names of the table, the sites ``rail`` (the published joint_6)
    and ``tip``, and the camera ``wrist``. A control is a servo's goal in rad. The scene's angles are radians
    from then on.
    """
    spec.compiler.degree = False
    for name, rgba in MATERIALS.items():
        spec.add_material(name=name, rgba=rgba, specular=0.2)
    link = spec.worldbody.add_body(name="base")
    _add_shapes(link, "base", SURROUNDINGS)
    for joint in JOINTS:
        link = _add_link(spec, link, joint)
    _add_hand(link)


def _add_link(spec: mujoco.MjSpec, parent: mujoco.MjsBody, joint: Joint) -> mujoco.MjsBody:
    motor = MOTORS[joint.motor]
    half = joint.pitch / 2.0
    link = parent.add_body(name=joint.link, pos=joint.origin, quat=(np.cos(half), 0.0, np.sin(half), 0.0))
    _weigh(link, joint.mass, joint.centre, joint.inertia)
    link.add_joint(
        name=joint.name,
        type=mujoco.mjtJoint.mjJNT_HINGE,
        axis=joint.axis,
        range=joint.limits,
        damping=[motor.damping, 0.0, 0.0],
        armature=motor.armature,
        frictionloss=motor.friction,
    )
    _add_shapes(link, joint.link, UNTOUCHED if joint.link in FREE else ARM)
    servo = spec.add_actuator(
        name=joint.name,
        target=joint.name,
        trntype=mujoco.mjtTrn.mjTRN_JOINT,
        ctrllimited=True,
        ctrlrange=joint.limits,
        forcelimited=True,
        forcerange=(-DUTY * motor.stall, DUTY * motor.stall),
    )
    servo.set_to_position(kp=motor.stiffness)
    return link


def _add_hand(wrist: mujoco.MjsBody) -> None:
    rail = wrist.add_body(name="rail", pos=(0.0, 0.0, RAIL))
    _weigh(rail, HAND_MASS, HAND_CENTRE, HAND_INERTIA)
    _add_shapes(rail, "rail", ARM)
    back = TIP_POSITION[2] - 2.0 * PLUG_SIZE[2]  # where the plug ends and its boot begins
    rail.add_geom(
        name="plug",
        type=_BOX,
        size=PLUG_SIZE,
        pos=(0.0, 0.0, back + PLUG_SIZE[2]),
        material="widowx_plug",
        **ARM,
    )
    look = {"material": "widowx_plug", "group": 2, **UNTOUCHED}
    rail.add_geom(name="boot", type=_BOX, size=(0.004, 0.0058, 0.012), pos=(0.0, 0.0, back - 0.012), **look)
    for part, ends in enumerate(((0.0, 0.0, 0.02, 0.035, 0.0, 0.012), (0.035, 0.0, 0.012, 0.05, 0.0, -0.09))):
        rail.add_geom(name=f"cable_{part}", type=_CAPSULE, size=(0.0028, 0.0, 0.0), fromto=ends, **look)
    rail.add_site(name="rail", rgba=[0.0] * 4)
    rail.add_site(name=TIP, pos=TIP_POSITION, rgba=[0.0] * 4)
    lean = (np.cos(WRIST_LEAN), 0.0, -np.sin(WRIST_LEAN))  # up in the picture is towards the arm
    camera = rail.add_camera(name="wrist", pos=WRIST_CAMERA, fovy=WRIST_FIELD)
    camera.alt.type = mujoco.mjtOrientation.mjORIENTATION_XYAXES
    camera.alt.xyaxes = (0.0, 1.0, 0.0, *lean)


def _weigh(body: mujoco.MjsBody, mass: float, centre: Sequence[float], inertia: Sequence[float]) -> None:
    body.explicitinertial = True
    body.mass, body.ipos, body.inertia = mass, centre, inertia


def _add_shapes(body: mujoco.MjsBody, link: str, touches: dict[str, Any]) -> None:
    for part, shape in enumerate(SHAPES[link]):
        body.add_geom(
            name=f"{link}_{part}",
            type=shape.kind,
            size=shape.size,
            pos=shape.centre,
            material=shape.material,
            mass=0.0,
            **touches,
        )
