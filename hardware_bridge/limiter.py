"""Limits of motion, and the one function that moves a reference within them.

How a stop is always possible. A command is a goal and a speed: the goal lies a short horizon h ahead of a
reference, ``goal = reference + velocity · h``, and a servo in joint mode stops at its goal by itself. Speeds
are bounded by ``acceleration · h``, so that braking at the allowed acceleration never passes the goal sent
last: braking all joints in proportion moves reference and goal along the segment between them. It therefore
suffices that each new segment lies wholly inside all limits. Whatever comes then, braking stays inside, and
so does an arm whose driver died. A command that cannot be shown to be inside is never sent: parts of it are
tried, then braking; and if even that cannot be shown, because something pushed the arm, nothing is sent, and
the servos stay with their last goal.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hardware_bridge.safety_settings import SafetySettings
from hardware_bridge.servos import JointSpec
from hardware_bridge.watchdogs import Warmth, warmth
from meld_envs.robots.workspace import SPACING, Outlook, Workspace

# What may be done ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """The joints' limits; ``(joints,)`` each.

    Args:
        names: of the joints.
        low, high: rad, the margin included.
        speed: rad/s, a whole number of ``unit``, so that no register exceeds it.
        acceleration: rad/s².
        unit: rad/s, of the servos' speed registers.
        settings: everything else.
        workspace: None for axes that sweep nothing (gripper, rig).
        warmths: temperature thresholds.
    """

    names: tuple[str, ...]
    low: np.ndarray
    high: np.ndarray
    speed: np.ndarray
    acceleration: np.ndarray
    unit: np.ndarray
    settings: SafetySettings
    workspace: Workspace | None
    warmths: tuple[Warmth, ...]

    def __post_init__(self) -> None:
        shape = (len(self.names),)
        for name in ("low", "high", "speed", "acceleration", "unit"):
            value = getattr(self, name)
            if value.shape != shape or not np.isfinite(value).all():
                raise ValueError(f"{name}: expected {shape} finite numbers, got {value!r}")
        for joint, name in enumerate(self.names):
            if not self.low[joint] < self.high[joint]:
                raise ValueError(f"{name}: limits less margin are {self.low[joint]}..{self.high[joint]}")
            if not self.unit[joint] <= self.speed[joint]:
                raise ValueError(f"{name}: its speed is below the servo's unit, {self.unit[joint]:.4f} rad/s")
            most = self.acceleration[joint] * self.settings.horizon
            if self.speed[joint] > most:
                raise ValueError(
                    f"{name}: speed {self.speed[joint]:.3f} rad/s exceeds acceleration · horizon, {most:.3f},"
                    " so a stop would pass the goal sent before it; lower the one or raise the other"
                )

    @classmethod
    def of(
        cls,
        joints: Sequence[JointSpec],
        settings: SafetySettings,
        workspace: Workspace | None,
        speed: Sequence[float],
        acceleration: Sequence[float],
    ) -> Limits:
        """Limits from the joints' table and the speeds (rad/s) and accelerations (rad/s²) chosen for them.

        Raises:
            ValueError: a speed beyond the joint's own, or limits that contradict each other.
        """
        for joint, chosen in zip(joints, speed):
            if chosen > joint.max_speed:
                raise ValueError(
                    f"{joint.name}: speed {chosen} is beyond the joint's {joint.max_speed} rad/s"
                )
        unit = [joint.model.register(joint.model.speed_register).unit / joint.ratio for joint in joints]
        whole = np.floor(np.asarray(speed) / unit + 1e-9) * unit
        margin = settings.margin
        for joint in joints:
            if margin < joint.model.rad_per_tick / joint.ratio:
                raise ValueError(f"margin {margin} is less than one position of {joint.name}'s servo")
        return cls(
            names=tuple(joint.name for joint in joints),
            low=np.array([joint.lower + margin for joint in joints]),
            high=np.array([joint.upper - margin for joint in joints]),
            speed=whole,
            acceleration=np.asarray(acceleration, dtype=np.float64),
            unit=np.array(unit),
            settings=settings,
            workspace=workspace,
            warmths=tuple(warmth(joint.model.name, joint.model.temperature_limit) for joint in joints),
        )


class Change(enum.Enum):
    """Why what is sent is not what was asked for."""

    NOT_VALID = "the action was not valid"
    SPEED = "beyond the joint's speed"
    ACCELERATION = "faster than the joint may change its speed"
    LIMIT = "a joint limit is near"
    LEAD = "the joint lags behind"
    WORKSPACE = "the body would come too near to something"
    STOPPING = "braking"
    NOTHING = "no goal could be shown to be safe"


def _bound(values: np.ndarray, low: Any, high: Any) -> np.ndarray:
    """``np.clip`` in a third of its time, for rows as short as an arm's."""
    return np.minimum(np.maximum(values, low), high)


def _differ(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two such rows differ: as lists they are compared in a fifth of the time."""
    return bool(one.tolist() != other.tolist())


# One step of the reference -------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """Where the arm should be; ``(joints,)`` each.

    Attributes:
        position: rad, now.
        velocity: rad/s.
        goal: rad, as sent last.
        speed: rad/s, as sent last.
        servo: rad, where the servos have got on their way to their goals, by what they were sent.
    """

    position: np.ndarray
    velocity: np.ndarray
    goal: np.ndarray
    speed: np.ndarray
    servo: np.ndarray

    @classmethod
    def at(cls, position: np.ndarray) -> Reference:
        """At rest."""
        position = np.array(position, dtype=np.float64)
        return cls(position, np.zeros_like(position), position, np.zeros_like(position), position)

    def followed(self, dt: float) -> np.ndarray:
        """Where the servos are dt after the last command."""
        most = self.speed * dt
        return self.servo + _bound(self.goal - self.servo, -most, most)


@dataclass(frozen=True)
class Step:
    """A reference's next step. ``goal`` and ``speed`` are None where nothing may be sent."""

    reference: Reference
    goal: np.ndarray | None
    speed: np.ndarray | None
    changes: tuple[Change, ...]


class Limiter:
    """Moves a reference, within limits: references go in and come out.

    Its only state is what spares looks at the workspace; what it decides does not depend on it.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._horizon = limits.settings.horizon
        self._outlook = Outlook.none(1, len(limits.names))

    def step(self, reference: Reference, wanted: np.ndarray, measured: np.ndarray, dt: float) -> Step:
        """One step towards wanted velocities.

        Args:
            reference: of the step before.
            wanted: ``(joints,)`` rad/s; if one is no number, all brake.
            measured: ``(joints,)`` rad, as last measured.
            dt: since the step before (s).
        """
        if not np.isfinite(wanted).all():  # who asks has looked at it; bounds would let a NaN through
            return self._brake(reference, measured, dt, (Change.NOT_VALID,))
        low, high = self._window(measured)
        if (low > high).any():  # measured far outside its limits: no goal satisfies both
            return self._nothing(reference, dt)
        velocity, changes = self._bounded(reference, wanted, low, high, dt)
        for candidate, why in self._candidates(reference, velocity, dt):
            position = reference.position + (reference.velocity + candidate) / 2.0 * dt
            step = self._placed(reference, position, candidate, low, high)
            if self._inside(reference, step, measured):
                return self._sent(reference, step, dt, changes + why)
        return self._brake(reference, measured, dt, changes)

    def brake(self, reference: Reference, measured: np.ndarray, dt: float) -> Step:
        """One step of the quickest stop along the way that the last goal lies on."""
        return self._brake(reference, measured, dt, ())

    def _brake(
        self, reference: Reference, measured: np.ndarray, dt: float, changes: tuple[Change, ...]
    ) -> Step:
        low, high = self._window(measured)
        if (low > high).any():
            return self._nothing(reference, dt)
        position, velocity = self._braking(reference, dt)
        free = self._placed(reference, position, velocity, -math.inf, math.inf)
        step = self._placed(reference, position, velocity, low, high)
        if np.array_equal(step.goal, free.goal) or self._inside(reference, step, measured):
            changes = (*changes, Change.STOPPING) if reference.velocity.any() else changes
            return self._sent(reference, step, dt, changes)
        return self._nothing(reference, dt)

    def _window(self, measured: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where goals may be: inside the limits, and within the lead of what was measured."""
        lead = self.limits.settings.lead
        return np.maximum(self.limits.low, measured - lead), np.minimum(self.limits.high, measured + lead)

    def _bounded(
        self, reference: Reference, wanted: np.ndarray, low: np.ndarray, high: np.ndarray, dt: float
    ) -> tuple[np.ndarray, tuple[Change, ...]]:
        """Velocities within speed, limits, lead and acceleration.

        The bound from a limit is what makes the next goal, after the trapezoidal step, lie on it at most:
        ``r + (v + v') dt/2 + v' h <= limit``. Keeping to it takes less than the acceleration as long as
        ``v <= a h`` and the limit stands still.
        """
        limits, before = self.limits, reference.velocity
        reach, coast = limits.settings.horizon + dt / 2.0, reference.position + before * dt / 2.0
        changes = []
        velocity = _bound(wanted, -limits.speed, limits.speed)
        if _differ(velocity, wanted):
            changes.append(Change.SPEED)
        for near, why in ((limits.low, limits.high), Change.LIMIT), ((low, high), Change.LEAD):
            slowest = np.minimum((near[0] - coast) / reach, 0.0)
            fastest = np.maximum((near[1] - coast) / reach, 0.0)
            bounded = _bound(velocity, slowest, fastest)
            if _differ(bounded, velocity):
                changes.append(why)
            velocity = bounded
        most = limits.acceleration * dt
        bounded = _bound(velocity, before - most, before + most)
        if _differ(bounded, velocity):
            changes.append(Change.ACCELERATION)
        return bounded, tuple(changes)

    def _candidates(
        self, reference: Reference, velocity: np.ndarray, dt: float
    ) -> Iterator[tuple[np.ndarray, tuple[Change, ...]]]:
        """Velocities to try in turn: all of it; all but one joint's; half of it."""
        yield velocity, ()
        _, stopped = self._braking(reference, dt)
        moving = np.flatnonzero(np.abs(velocity - stopped) > 1e-12)
        if self.limits.workspace is None or not len(moving):
            return
        for joint in moving[::-1]:  # the joint nearest the hand first: dropping it changes least
            candidate = velocity.copy()
            candidate[joint] = stopped[joint]
            yield candidate, (Change.WORKSPACE,)
        yield (velocity + stopped) / 2.0, (Change.WORKSPACE,)

    def _braking(self, reference: Reference, dt: float) -> tuple[np.ndarray, np.ndarray]:
        """Position and velocity after braking for dt, all joints in proportion: the way stays the same."""
        time = float((np.abs(reference.velocity) / self.limits.acceleration).max())
        velocity = reference.velocity * (max(0.0, 1.0 - dt / time) if time > 0.0 else 0.0)
        return reference.position + (reference.velocity + velocity) / 2.0 * min(dt, time), velocity

    def _placed(
        self, before: Reference, position: np.ndarray, velocity: np.ndarray, low: Any, high: Any
    ) -> Reference:
        """With its goal; both inside the window, which a measured angle that jumps may have moved."""
        position = _bound(position, low, high)
        goal = _bound(position + velocity * self._horizon, low, high)
        return Reference(position, velocity, goal, before.speed, before.servo)

    def _inside(self, before: Reference, step: Reference, measured: np.ndarray) -> bool:
        """Whether the body keeps its clearance on the way to the goal, and is not led nearer to anything.

        The reference's way is what the servos are told; the same way from where the arm is measured, which
        sags below it, is looked at as well. Less clearance than the wanted one, as at the start, may grow.
        """
        workspace, keep = self.limits.workspace, self.limits.settings.clearance
        if workspace is None:
            return True
        change, now = step.goal - before.goal, np.array([before.position, measured])
        way, on, moved = workspace.travel(
            np.array([step.position - before.position, step.goal - step.position, change])
        ).tolist()
        # So far from everything, all of what follows holds, samples' gaps included.
        needed = keep + max(way + on, moved) + SPACING
        if self._outlook.least(workspace, now[np.newaxis])[0] >= needed:
            return True
        places, least = workspace.look(
            (*now, step.goal, measured + change), (before.position, step.position, step.goal)
        )
        here, at, there, to = places.tolist()
        self._outlook.note(0, now, min(here, at))
        if to < min(keep, at) - 1e-6:
            return False
        return least >= keep or (here < keep and least > 0.0 and there >= here - 1e-9)

    def _sent(self, before: Reference, step: Reference, dt: float, changes: tuple[Change, ...]) -> Step:
        limits, servo = self.limits, before.followed(dt)
        # Servos are a tick behind; this lets them catch up, so that they are at rest a tick after the
        # reference. Rounded up, or they would fall behind; the reference, and so the goal, is not rounded.
        behind = np.abs(step.position - servo) / limits.settings.tick
        speed = np.maximum(np.maximum(behind, np.abs(step.velocity)), limits.settings.hold_speed)
        speed = np.minimum(np.ceil(speed / limits.unit - 1e-9) * limits.unit, limits.speed)
        sent = Reference(step.position, step.velocity, step.goal, speed, servo)
        return Step(sent, step.goal.copy(), speed.copy(), tuple(dict.fromkeys(changes)))

    def _nothing(self, reference: Reference, dt: float) -> Step:
        """Sends nothing: the servos go to the goal sent last, and stay; the reference brakes meanwhile."""
        position, velocity = self._braking(reference, dt)
        braking = replace(reference, position=position, velocity=velocity, servo=reference.followed(dt))
        return Step(braking, None, None, (Change.NOTHING,))
