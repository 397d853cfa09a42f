"""The WidowX in MuJoCo, behind the emulated servos of profile ``widowx_mk2``: arm, plug, ports, rig.

Scene, links and contacts are those of the environment's family, so that what moves here and what is simulated
there differ in who commands it and in nothing else. The motor law of each servo becomes an actuator of the
engine. The rig's two axes carry the switch: a gear and a belt that do not give way, so they feel no contact.
The gripper stays closed on the plug; its servo turns free of everything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import mujoco

from hardware_bridge.servos import WIDOWX_MK2, ArmProfile, JointSpec
from hardware_bridge.twin.build import bench
from hardware_bridge.twin.joint import RELEASED, BenchJoint, Drive
from meld_envs.families.widowx_ethernet import build_spec

#: Physics steps of at most this (s): what contacts of the scene are tuned for.
PHYSICS_STEP = 2.5e-3
#: The gripper's crank, closed on the plug (rad).
CLOSED = 2.3


class ArmJoint:
    """One joint of the arm, moved by one servo, as on the Mark II; made by ``WidowXWorld``.

    Attributes:
        position: rad, after the last step.
        velocity: rad/s, after the last step.
    """

    def __init__(self, model: mujoco.MjModel, index: int, spec: JointSpec) -> None:
        self._model, self._index, self._viscous = model, index, spec.model.motor.viscous
        self.position = self.velocity = 0.0
        self.law = Drive(damping=-1.0)  # none yet
        self.drive(spec.id, RELEASED)

    def drive(self, servo_id: int, drive: Drive) -> None:
        """The law becomes the engine's actuator: gain, limit and damping, where they changed."""
        model, index, before = self._model, self._index, self.law
        if drive.stiffness != before.stiffness:
            model.actuator_gainprm[index, 0] = drive.stiffness
            model.actuator_biasprm[index, 1] = -drive.stiffness
        if drive.saturation != before.saturation:
            model.actuator_forcerange[index] = (-drive.saturation, drive.saturation)
        if drive.damping != before.damping:
            model.dof_damping[index] = self._viscous + drive.damping
        self.law = drive

    def force(self, servo_id: int) -> float:
        return self.law.force(self.position, self.velocity)

    @property
    def control(self) -> float:
        """The actuator's control (rad): the goal, or what is left of it beyond the dead band."""
        law = self.law
        if not law.deadband:
            return law.goal
        error = law.goal - self.position
        return self.position + math.copysign(max(0.0, abs(error) - law.deadband), error)


class WidowXWorld:
    """``Mechanics`` of the whole robot.

    Args:
        profile: with five joints named as the Mark II's.
        angles: ``(5,)`` rad, of the joints at the beginning, at rest; by default the profile's rest pose.
        rig: rotation (rad) and translation (m) of the switch at the beginning.

    Attributes:
        slips: the rig's belt jumps teeth: its motor turns, the switch stays.
        slipped: by how much the switch lags behind the motor so far (m).
        model, data: MuJoCo's; hold ``Line.lock`` to look at them while a line is served.
    """

    def __init__(
        self,
        profile: ArmProfile = WIDOWX_MK2,
        angles: Sequence[float] | None = None,
        rig: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        names = [axis.name for axis in profile.joints]
        expected = [axis.name for axis in WIDOWX_MK2.joints]
        if names != expected:
            raise ValueError(f"profile {profile.name} has joints {names}; the scene has {expected}")
        self.model = build_spec().compile()
        self.model.actuator_ctrllimited[:] = 0  # where a goal may lie is the servos' business
        self.data = mujoco.MjData(self.model)
        self._joints = {spec.name: ArmJoint(self.model, i, spec) for i, spec in enumerate(profile.joints)}
        self._arm = tuple(self._joints.values())
        free = bench(profile, {"gripper": CLOSED, "rotation": rig[0], "translation": rig[1]})
        self._bench = {axis.name: free.joint(axis.name) for axis in (profile.gripper, *profile.rig)}
        self.slips, self.slipped = False, 0.0
        self._biases = [0.0] * len(self._arm)
        self._switch = self.model.body("switch").id
        self.place(profile.rest if angles is None else angles)
        self._move_switch()

    def joint(self, name: str) -> ArmJoint | BenchJoint:
        return self._joints[name] if name in self._joints else self._bench[name]

    def place(self, angles: Sequence[float]) -> None:
        """Puts the arm at these angles ``(5,)`` rad, at rest; a hand that moves it, not a motor."""
        self.data.qpos[:] = angles
        self.data.qvel[:] = 0.0
        self._measure()

    @property
    def rig(self) -> tuple[float, float]:
        """Rotation (rad) and translation (m) of the switch."""
        return self._bench["rotation"].position, self._bench["translation"].position - self.slipped

    def step(self, dt: float) -> None:
        pieces = max(1, math.ceil(dt / PHYSICS_STEP - 1e-9))
        self.model.opt.timestep = dt / pieces
        self.data.ctrl[:] = [joint.control for joint in self._arm]
        biases = [joint.law.bias for joint in self._arm]
        if biases != self._biases:  # only those of other modes have any
            self._biases, self.data.qfrc_applied[:] = biases, biases
        mujoco.mj_step(self.model, self.data, nstep=pieces)
        self._measure()
        before = self._bench["translation"].position
        moved = [_step(joint, dt) for joint in self._bench.values()]
        if self.slips:
            self.slipped += self._bench["translation"].position - before
        if any(moved):
            self._move_switch()

    def _measure(self) -> None:
        for joint, position, velocity in zip(self._arm, self.data.qpos.tolist(), self.data.qvel.tolist()):
            joint.position, joint.velocity = position, velocity

    def _move_switch(self) -> None:
        rotation, translation = self.rig
        self.model.body_pos[self._switch, 1] = translation
        self.model.body_quat[self._switch] = (math.cos(rotation / 2.0), 0.0, 0.0, math.sin(rotation / 2.0))


def _step(joint: BenchJoint, dt: float, piece: float = 1e-3) -> bool:
    """Steps a free axis; whether it moved. Most stand still most of the time, held by friction."""
    if joint.velocity == 0.0 and abs(joint.push()) <= joint.coulomb:
        return False
    pieces = max(1, math.ceil(dt / piece - 1e-9))
    for _ in range(pieces):
        joint.step(dt / pieces)
    return True
