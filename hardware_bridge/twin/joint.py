"""The mechanics behind emulated servos: what a servo needs of a world, and a small world to test with.

A servo does not know what it moves. It tells an axis a ``Drive`` (a motor law that holds until the next one)
and reads position, speed and torque back. Anything with ``Mechanics``' two methods can stand behind the
servos: the ``Bench`` here, one equation of motion per axis, or a whole arm in a physics engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

#: The bench integrates with steps of at most this (s).
BENCH_STEP = 1e-3


class Drive(NamedTuple):
    """What a servo's electronics do to the motor, as a law of position and velocity (axis units).

    force = clip(stiffness · (goal − position), ±saturation) + bias − damping · velocity. Within ``deadband``
    of the goal the first term is zero (AX servos: one tick to each side; a world may neglect it).
    """

    goal: float = 0.0
    stiffness: float = 0.0
    saturation: float = 0.0
    damping: float = 0.0
    bias: float = 0.0
    deadband: float = 0.0

    def push(self, position: float) -> float:
        """The part that does not depend on velocity: Nm, or N for a linear axis."""
        goal, stiffness, saturation, _, bias, deadband = self
        error = goal - position
        if deadband:
            error = math.copysign(max(0.0, abs(error) - deadband), error)
        return min(saturation, max(-saturation, stiffness * error)) + bias

    def force(self, position: float, velocity: float) -> float:
        """All of it."""
        return self.push(position) - self.damping * velocity


#: Torque off: the motor's terminals are open, so not even back-EMF brakes.
RELEASED = Drive()


class Joint(Protocol):
    """One axis, as its servos see it. Several servos may drive one axis; their forces add up."""

    @property
    def position(self) -> float:
        """In rad, or m for a linear axis."""

    @property
    def velocity(self) -> float:
        """In rad/s or m/s."""

    def drive(self, servo_id: int, drive: Drive) -> None:
        """From now on this servo's motor follows this law."""

    def force(self, servo_id: int) -> float:
        """What this servo's motor exerts on the axis now (Nm or N)."""


class Mechanics(Protocol):
    """All axes of a robot, moved together."""

    def joint(self, name: str) -> Joint:
        """The axis of this name (``JointSpec.name``).

        Raises:
            KeyError: if there is none.
        """

    def step(self, dt: float) -> None:
        """Advances by ``dt`` seconds with the drives as they are."""


@dataclass
class BenchJoint:
    """One axis on a test bench: inertia, friction, and whatever pulls at it.

    Args:
        inertia: kg m², motors included (kg for a linear axis).
        coulomb, viscous: Friction (Nm, Nm s/rad).
        load: Torque of the world at a position, gravity for example (Nm).
        stops: Hard ends.
    """

    inertia: float = 0.02
    coulomb: float = 0.05
    viscous: float = 0.01
    load: Callable[[float], float] | None = None
    stops: tuple[float, float] = (-math.inf, math.inf)
    position: float = 0.0
    velocity: float = 0.0
    _drives: dict[int, Drive] = field(default_factory=dict)

    def drive(self, servo_id: int, drive: Drive) -> None:
        self._drives[servo_id] = drive

    def force(self, servo_id: int) -> float:
        return self._drives.get(servo_id, RELEASED).force(self.position, self.velocity)

    def push(self) -> float:
        """All that acts on it, friction and damping apart."""
        pushes = sum(drive.push(self.position) for drive in self._drives.values())
        return pushes + (self.load(self.position) if self.load else 0.0)

    def step(self, dt: float) -> None:
        """Semi-implicit: damping is solved for, so that stiff motors stay stable."""
        drives, push = self._drives.values(), self.push()
        mass = self.inertia + dt * (self.viscous + sum(drive.damping for drive in drives))
        velocity = (self.inertia * self.velocity + dt * push) / mass
        grip = dt * self.coulomb / mass
        self.velocity = 0.0 if abs(velocity) <= grip else velocity - math.copysign(grip, velocity)
        self.position += dt * self.velocity
        if not self.stops[0] <= self.position <= self.stops[1]:
            self.position = min(self.stops[1], max(self.stops[0], self.position))
            self.velocity = 0.0


class Bench:
    """Axes that know nothing of each other."""

    def __init__(self, joints: Mapping[str, BenchJoint]) -> None:
        self._joints = dict(joints)

    def joint(self, name: str) -> BenchJoint:
        return self._joints[name]

    def step(self, dt: float) -> None:
        pieces = max(1, math.ceil(dt / BENCH_STEP - 1e-9))
        for joint in self._joints.values():
            for _ in range(pieces):
                joint.step(dt / pieces)


@dataclass(frozen=True)
class Shaft:
    """An axis seen from a servo's output shaft: ``shaft angle = k · axis position``."""

    joint: Joint
    servo_id: int
    k: float = 1.0

    @property
    def angle(self) -> float:
        """In rad."""
        return self.k * self.joint.position

    @property
    def speed(self) -> float:
        """In rad/s."""
        return self.k * self.joint.velocity

    @property
    def torque(self) -> float:
        """Of this servo's motor (Nm)."""
        return self.joint.force(self.servo_id) / self.k

    def drive(self, drive: Drive) -> None:
        """A drive in the shaft's frame, turned into the axis'."""
        k, size = self.k, abs(self.k)
        goal, stiffness, saturation, damping, bias, deadband = drive
        law = Drive(
            goal / k, stiffness * k * k, saturation * size, damping * k * k, bias * k, deadband / size
        )
        self.joint.drive(self.servo_id, law)
