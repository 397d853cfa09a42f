"""The only door to a motor: what is asked for goes in, what may be sent comes out, and why it differs.

Nothing here does input or output or has a clock: times (monotonic, s) are passed in, so that a recording
can be run through again and gives the same commands.

How a stop is always possible. A command is a goal and a speed: the goal lies a short horizon h ahead of a
reference, ``goal = reference + velocity · h``, and a servo in joint mode stops at its goal by itself. Speeds
are bounded by ``acceleration · h``, so that braking at the allowed acceleration never passes the goal sent
last: braking all joints in proportion moves reference and goal along the segment between them. It therefore
suffices that each new segment lies wholly inside all limits. Whatever comes then, braking stays inside, and
so does an arm whose driver died. A command that cannot be shown to be inside is never sent: parts of it are
tried, then braking; and if even that cannot be shown, because something pushed the arm, nothing is sent, and
the servos stay with their last goal.

The ten promises of the bridge, and what keeps those that are kept here:

===  ==============================================================  =========================================
P1   the policy stalls: braking within 450 ms, at rest 200 ms later  ``Safety._policy``, ``Limits``
P2   the driver dies: at rest within 150 ms, by speed · 150 ms       ``Limiter.step``: goals a horizon ahead
P3   nothing outside limits, rates, lead, workspace; fences          ``Limiter.step``; ``fences``
P4   the swept pose, resets and homing included, and the table       ``Limiter._inside``, ``Workspace.sweep``
P5   nothing silently stale                                          ``Deadline``, ``Plausibility``
P6   a step is on disk before it is acknowledged                     ``recorder``
P7   faults are classified and counted; latched ones acknowledged    ``Faults``
P8   at the end: hold, slowly to rest, and only there torque off     ``Safety._home``, ``Safety.shut_down``
P9   every wait has an end                                           ``Safety.go_to``: its deadline
P10  time is monotonic                                               ``Safety.tick``: "clock went back"
===  ==============================================================  =========================================
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hardware_bridge.faults import Condition, Fault, FaultError, Faults, Response
from hardware_bridge.safety_settings import SafetySettings
from hardware_bridge.servos import JointSpec
from hardware_bridge.watchdogs import Deadline, Health, Motion, Plausibility, Reading, Warmth, warmth
from hardware_bridge.workspace import Workspace

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
        left = self.goal - self.servo
        return self.servo + np.clip(left, -self.speed * dt, self.speed * dt)


@dataclass(frozen=True)
class Step:
    """A reference's next step. ``goal`` and ``speed`` are None where nothing may be sent."""

    reference: Reference
    goal: np.ndarray | None
    speed: np.ndarray | None
    changes: tuple[Change, ...]


class Limiter:
    """Moves a reference, within limits. It has no state: references go in and come out."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._horizon = limits.settings.horizon

    def step(self, reference: Reference, wanted: np.ndarray, measured: np.ndarray, dt: float) -> Step:
        """One step towards wanted velocities.

        Args:
            reference: of the step before.
            wanted: ``(joints,)`` rad/s, finite.
            measured: ``(joints,)`` rad, as last measured.
            dt: since the step before (s).
        """
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
        velocity = np.clip(wanted, -limits.speed, limits.speed)
        if not np.array_equal(velocity, wanted):
            changes.append(Change.SPEED)
        for near, why in ((limits.low, limits.high), Change.LIMIT), ((low, high), Change.LEAD):
            slowest = np.minimum((near[0] - coast) / reach, 0.0)
            fastest = np.maximum((near[1] - coast) / reach, 0.0)
            bounded = np.clip(velocity, slowest, fastest)
            if not np.array_equal(bounded, velocity):
                changes.append(why)
            velocity = bounded
        most = limits.acceleration * dt
        bounded = np.clip(velocity, before - most, before + most)
        if not np.array_equal(bounded, velocity):
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
        position = np.clip(position, low, high)
        goal = np.clip(position + velocity * self._horizon, low, high)
        return replace(before, position=position, velocity=velocity, goal=goal)

    def _inside(self, before: Reference, step: Reference, measured: np.ndarray) -> bool:
        """Whether the body keeps its clearance on the way to the goal, and is not led nearer to anything.

        The reference's way is what the servos are told; the same way from where the arm is measured, which
        sags below it, is looked at as well. Less clearance than the wanted one, as at the start, may grow.
        """
        workspace, keep = self.limits.workspace, self.limits.settings.clearance
        if workspace is None:
            return True
        moved = measured + (step.goal - before.goal)
        here, there, at, to = workspace.clearance(np.stack([before.position, step.goal, measured, moved]))
        if to < min(keep, at) - 1e-6:
            return False
        way = workspace.sweep(before.position, step.position, step.goal)
        return way >= keep or (here < keep and way > 0.0 and there >= here - 1e-9)

    def _sent(self, before: Reference, step: Reference, dt: float, changes: tuple[Change, ...]) -> Step:
        limits, servo = self.limits, before.followed(dt)
        # Servos are a tick behind; this lets them catch up, so that they are at rest a tick after the
        # reference. Rounded up, or they would fall behind; the reference, and so the goal, is not rounded.
        behind = np.abs(step.position - servo) / limits.settings.tick
        speed = np.maximum(np.maximum(behind, np.abs(step.velocity)), limits.settings.hold_speed)
        speed = np.minimum(np.ceil(speed / limits.unit - 1e-9) * limits.unit, limits.speed)
        sent = replace(step, speed=speed, servo=servo)
        return Step(sent, step.goal.copy(), speed.copy(), tuple(dict.fromkeys(changes)))

    def _nothing(self, reference: Reference, dt: float) -> Step:
        """Sends nothing: the servos go to the goal sent last, and stay; the reference brakes meanwhile."""
        position, velocity = self._braking(reference, dt)
        braking = replace(reference, position=position, velocity=velocity, servo=reference.followed(dt))
        return Step(braking, None, None, (Change.NOTHING,))


# The door ------------------------------------------------------------------------------------------


class Mode(enum.Enum):
    """What the arm is doing."""

    OFF = "torque is off"
    READY = "holding, no episode"
    POLICY = "obeying the policy"
    MOVING = "going to a pose"
    HOLDING = "holding because of a fault"
    HOMING = "going to the rest pose slowly"


@dataclass(frozen=True)
class Command:
    """What may be sent, and why.

    Attributes:
        at: monotonic (s).
        torque: whether torque is to be on; False says: switch it off.
        goal: ``(joints,)`` rad, or None: send nothing.
        speed: ``(joints,)`` rad/s, never 0, for the register of the moving speed; or None.
        velocity: ``(joints,)`` rad/s, at which the reference moves: the action that was really taken.
        mode: what the arm is doing.
        changes: why it is not what was asked for.
        faults: that are not over.
    """

    at: float
    torque: bool
    goal: np.ndarray | None
    speed: np.ndarray | None
    velocity: np.ndarray
    mode: Mode
    changes: tuple[Change, ...] = ()
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True)
class Received:
    """What became of an action: whether it counts, and if not, why."""

    accepted: bool
    why: str = ""


@dataclass(frozen=True)
class _Move:
    target: np.ndarray
    speed: float
    until: float


@dataclass
class _Policy:
    """What the policy asked last."""

    velocity: np.ndarray
    sequence: int = -1
    at: float = -math.inf
    invalid: int = 0
    events: list[Condition] = field(default_factory=list)


class Safety:
    """The door. One per arm; the driver calls ``observe`` and ``tick`` in its loop, the policy ``act``.

    Args:
        limits: of the arm.
        rest: ``(joints,)`` rad, where torque may go off without a fall.
        cameras: names of those whose images must be fresh while the policy acts.

    Attributes:
        mode: what the arm is doing.
        faults: the book of faults.
    """

    def __init__(self, limits: Limits, rest: Sequence[float], cameras: Sequence[str] = ()) -> None:
        settings = limits.settings
        self.limits, self.settings = limits, settings
        self.rest = np.clip(np.asarray(rest, dtype=np.float64), limits.low, limits.high)
        self.mode = Mode.OFF
        self.faults = Faults(settings.repeats, settings.repeat_time)
        self._limiter = Limiter(limits)
        self._plausibility = Plausibility(settings, limits.names, _measurable_speed(limits))
        self._motion = Motion(settings, limits.names)
        self._health = Health(settings, limits.names, limits.warmths)
        self._actions = Deadline("policy stalled", "policy", settings.action_deadline)
        self._joints = Deadline("readings stale", "arm", settings.joints_age)
        self._cameras = {name: Deadline("image stale", name, settings.images_age) for name in cameras}
        self._policy_state = _Policy(np.zeros(len(limits.names)))
        self._reference = Reference.at(self.rest)
        self._move: _Move | None = None
        self._shutting_down = False
        self._ticked = math.nan
        self._conditions: list[Condition] = []  # reported since the last tick
        self._health_now: list[Condition] = []

    # ------------------------------------------------ what comes in

    def start(self, reading: Reading, now: float) -> Command:
        """Takes the arm where it is; torque may go on with the goal that is returned, and not before.

        Raises:
            ValueError: the reading cannot be used, or the arm stands outside its limits or its workspace: it
                has to be moved by hand.
            FaultError: latched faults are not acknowledged.
        """
        blocking = [fault for fault in self.faults.active if fault.response > Response.CARRY_ON]
        if blocking:
            raise FaultError("the arm cannot be started", blocking)
        self._plausibility.last = None
        problem = self._plausibility.accept(reading, now)
        if problem is not None:
            raise ValueError(f"the arm cannot be started: {problem.where}: {problem.detail}")
        if now - reading.at > self.settings.joints_age:
            raise ValueError(f"the arm cannot be started: its reading is {now - reading.at:.3f} s old")
        self._check_start(reading.position)
        self._reference = Reference.at(np.clip(reading.position, self.limits.low, self.limits.high))
        self._joints.stop()
        self._joints.feed(reading.at)
        self._motion = Motion(self.settings, self.limits.names)
        self.mode, self._move, self._shutting_down = Mode.READY, None, False
        self._stop_policy()
        self._ticked = now
        return self._command(now, self._limiter.brake(self._reference, reading.position, self.settings.tick))

    def _check_start(self, position: np.ndarray) -> None:
        limits, margin = self.limits, self.settings.margin
        beyond = np.maximum(limits.low - margin - position, position - limits.high - margin)
        joint = int(beyond.argmax())
        if beyond[joint] > 0:
            raise ValueError(
                f"{limits.names[joint]} stands at {position[joint]:.3f} rad, beyond its limits by "
                f"{beyond[joint]:.3f}: move it inside by hand"
            )
        if limits.workspace is not None:
            nearest = limits.workspace.nearest(np.clip(position, limits.low, limits.high))
            if nearest.clearance < 0.0:
                raise ValueError(f"the arm stands outside its workspace ({nearest}): move it inside by hand")

    def begin_episode(self, now: float) -> None:
        """The policy may act from now on.

        Raises:
            FaultError: faults that hold the arm last, or wait to be acknowledged.
            RuntimeError: the arm is off, or going somewhere.
        """
        if self.mode not in (Mode.READY, Mode.HOLDING, Mode.POLICY):
            raise RuntimeError(f"an episode cannot begin while the arm is {self.mode.value}")
        self.recover()
        self.mode = Mode.POLICY
        self._stop_policy()
        for camera in self._cameras.values():
            camera.stop()
            camera.feed(now)

    def end_episode(self) -> None:
        """The policy's actions are over: brake and hold."""
        if self.mode is Mode.POLICY:
            self.mode = Mode.READY
        self._stop_policy()

    def recover(self) -> None:
        """Ends recoverable faults whose conditions are gone, and with them the holding.

        Raises:
            FaultError: others last.
        """
        self.faults.recover()
        if self.mode is Mode.HOLDING:
            self.mode = Mode.READY

    def acknowledge(self, kind: str, where: str) -> None:
        """A person has seen to a latched fault; see ``Faults.acknowledge``."""
        self.faults.acknowledge(kind, where)

    def act(self, action: Any, now: float, sequence: int, issued: float | None = None) -> Received:
        """An action of the policy: velocities that hold until the next one.

        It never adds to the one before, so several at once move the arm no farther than the newest alone.

        Args:
            action: ``(joints,)`` rad/s.
            now: monotonic (s).
            sequence: must grow from action to action.
            issued: when the policy sent it (monotonic, s); ``now`` by default.
        """
        state, settings = self._policy_state, self.settings
        if self.mode is not Mode.POLICY:
            return Received(False, f"no episode: the arm is {self.mode.value}")
        issued = now if issued is None else issued
        if sequence <= state.sequence:
            return self._late(f"number {sequence} after number {state.sequence}")
        if not now - issued <= settings.action_age:  # not: NaN is late
            return self._late(f"it is {now - issued:.3f} s old")
        state.sequence = sequence
        problem = self._problem(action)
        if problem:
            return self._refuse(problem, now)
        if now - state.at < settings.period / 2.0:
            state.events.append(
                Condition("actions bursty", "policy", f"{1000 * (now - state.at):.0f} ms after another")
            )
        state.velocity, state.at, state.invalid = np.array(action, dtype=np.float64), now, 0
        self._actions.feed(now)
        return Received(True)

    def _problem(self, action: Any) -> str:
        """Why an action is none; "" if it is one. Looked at before any arithmetic: clipping keeps a NaN."""
        expected = f"expected {len(self.limits.names)} finite numbers (rad/s)"
        try:
            array = np.asarray(action)
        except (ValueError, TypeError) as error:
            return f"{error}; {expected}"
        if array.dtype.kind not in "fiu":
            return f"its type is {array.dtype}; {expected}"
        if array.shape != (len(self.limits.names),):
            return f"its shape is {array.shape}; {expected}"
        if not np.isfinite(array).all():
            return f"it is {array}; {expected}"
        return ""

    def _late(self, why: str) -> Received:
        self._policy_state.events.append(Condition("action late", "policy", why))
        return Received(False, f"too late: {why}")

    def _refuse(self, why: str, now: float) -> Received:
        state = self._policy_state
        state.velocity, state.at = np.zeros(len(self.limits.names)), now
        state.invalid += 1
        self._actions.feed(now)
        state.events.append(Condition("action invalid", "policy", why))
        if state.invalid >= self.settings.bad_actions:
            state.events.append(Condition("actions invalid", "policy", f"{state.invalid} in a row: {why}"))
        return Received(False, f"not valid: {why}")

    def go_to(self, target: Sequence[float], now: float, speed: float | None = None) -> None:
        """Moves to a pose on a straight line of joint angles, within the same limits, by a deadline.

        It is over when ``mode`` is READY again.

        Args:
            target: ``(joints,)`` rad.
            now: monotonic (s).
            speed: rad/s, of the joint that has farthest to go; by default that of resets.

        Raises:
            ValueError: the target is no pose, or outside limits or workspace.
            RuntimeError: the arm is off, an episode is on, or the arm is not well.
        """
        if self.mode not in (Mode.READY, Mode.MOVING):
            raise RuntimeError(f"the arm cannot go anywhere: it is {self.mode.value}")
        problem = self._problem(target)
        if problem:
            raise ValueError(f"the target of a move is not valid: {problem.replace('rad/s', 'rad')}")
        goal, limits = np.asarray(target, dtype=np.float64), self.limits
        for joint, name in enumerate(limits.names):
            if not limits.low[joint] <= goal[joint] <= limits.high[joint]:
                low, high = limits.low[joint], limits.high[joint]
                raise ValueError(
                    f"the target of {name}, {goal[joint]:.3f} rad, is not in {low:.3f}..{high:.3f}"
                )
        if limits.workspace is not None:
            nearest = limits.workspace.nearest(goal)
            if nearest.clearance < self.settings.clearance:
                raise ValueError(f"the target is outside the workspace: there {nearest}")
        self._set_move(goal, self.settings.move_speed if speed is None else speed, now)
        self.mode = Mode.MOVING

    def _set_move(self, target: np.ndarray, speed: float, now: float) -> None:
        speeds = np.minimum(speed, self.limits.speed)
        time = float((np.abs(target - self._reference.position) / speeds).max())
        self._move = _Move(target, speed, now + 2.0 * time + 3.0)

    def shut_down(self, now: float) -> None:
        """Brakes, goes to the rest pose slowly if the arm is well, and only there lets torque go off.

        It is over when a command's ``torque`` is False. While a fault holds the arm, it goes on holding.
        """
        if self.mode is not Mode.OFF:
            self._shutting_down = True
            self._stop_policy()
            if self.mode in (Mode.POLICY, Mode.READY, Mode.MOVING):
                self._go_home(now)

    def observe(self, reading: Reading, now: float) -> bool:
        """Takes in what the joints measured; False if it cannot be and is not used."""
        problem = self._plausibility.accept(reading, now)
        if problem is not None:
            self._conditions.append(problem)
            return False
        self._joints.feed(reading.at)
        if self.mode is Mode.OFF:
            self._health_now = list(self._health.check(replace(reading, torque_on=None)))
        else:
            reference = self._reference
            motion = self._motion.check(reference.position, reference.velocity, reading)
            self._health_now = [*motion, *self._health.check(reading)]
        return True

    def image(self, camera: str, captured: float) -> None:
        """Takes in that a camera captured an image (monotonic, s).

        Raises:
            KeyError: a camera that was not named.
        """
        if camera not in self._cameras:
            raise KeyError(f"no camera {camera!r}; there are {', '.join(self._cameras) or 'none'}")
        if self.mode is Mode.POLICY:
            self._cameras[camera].feed(captured)

    def report(self, kind: str, where: str, detail: str) -> None:
        """A fault that somebody else found (the bus, a camera, the recorder, the rig), at the next tick."""
        self._conditions.append(Condition(kind, where, detail))

    # ------------------------------------------------ what goes out

    def tick(self, now: float) -> Command:
        """What may be sent now. To be called every ``settings.tick`` s."""
        if self.mode is Mode.OFF:
            self.faults.update(self._drain(), now)
            return self._command(now, None)
        dt = now - self._ticked
        self.faults.update([*self._drain(), *self._time(dt), *self._late_things(now)], now)
        if dt > 0:
            self._ticked = now
        self._decide(now)
        if self.mode is Mode.OFF:
            return self._command(now, None)
        if dt > self.settings.horizon:
            return self._command(now, self._after_gap())
        return self._command(now, self._advance(now, max(dt, 0.0)))

    def _drain(self) -> list[Condition]:
        found = [*self._conditions, *self._policy_state.events, *self._health_now]
        self._conditions, self._policy_state.events = [], []
        return found

    def _time(self, dt: float) -> Iterator[Condition]:
        if dt < 0:
            yield Condition("clock went back", "driver", f"by {-dt:.3f} s")
        elif dt > self.settings.loop_age:
            yield Condition("loop late", "driver", f"{1000 * dt:.0f} ms between two ticks")

    def _late_things(self, now: float) -> Iterator[Condition]:
        yield from self._joints.check(now)
        yield from self._actions.check(now)
        for camera in self._cameras.values():
            yield from camera.check(now)

    def _decide(self, now: float) -> None:
        """The mode that the faults ask for."""
        response = self.faults.response
        if response is Response.TORQUE_OFF:
            self.mode = Mode.OFF
            self._stop_policy()
        elif response is Response.HOLD:
            self.mode, self._move = Mode.HOLDING, None
            self._stop_policy()
        elif self.mode is not Mode.HOMING and (response is Response.LIMP_HOME or self._shutting_down):
            self._stop_policy()
            self._go_home(now)

    def _go_home(self, now: float) -> None:
        self.mode = Mode.HOMING
        self._set_move(self.rest, self.settings.limp_speed, now)

    def _stop_policy(self) -> None:
        self._policy_state = replace(
            self._policy_state, velocity=np.zeros(len(self.limits.names)), at=-math.inf, invalid=0
        )
        self._actions.stop()
        for camera in self._cameras.values():
            camera.stop()

    def _advance(self, now: float, dt: float) -> Step:
        last = self._plausibility.last
        assert last is not None  # since the start
        if self.mode is Mode.POLICY:
            step = self._limiter.step(self._reference, self._policy_state.velocity, last.position, dt)
        elif self.mode in (Mode.MOVING, Mode.HOMING) and self._move is not None:
            wanted = self._towards(self._move)
            step = self._limiter.step(self._reference, wanted, last.position, dt)
            self._arrive(step, last, now)
        else:
            step = self._limiter.brake(self._reference, last.position, dt)
        if step.goal is None:
            self._conditions.append(Condition("no safe goal", "arm", "something pushed it from its goal"))
        self._reference = step.reference
        return step

    def _towards(self, move: _Move) -> np.ndarray:
        """Velocities on the straight line to a target, such that the goal, being ahead, never passes it."""
        left = move.target - self._reference.position
        speeds = np.minimum(move.speed, self.limits.speed)
        return left / max(float((np.abs(left) / speeds).max()), self.settings.horizon)

    def _arrive(self, step: Step, last: Reading, now: float) -> None:
        move = self._move
        assert move is not None
        near = np.abs(step.reference.position - move.target).max() < 0.005
        there = np.abs(last.position - move.target).max() < self.settings.arrived
        if near and there:
            # A limp home is over where torque may go off: that is what lets the servos cool.
            self.mode, self._move = (Mode.OFF if self.mode is Mode.HOMING else Mode.READY), None
        elif now > move.until:
            left = np.abs(last.position - move.target)
            joint = int(left.argmax())
            why = ", ".join(change.value for change in step.changes) or "no limit was met"
            detail = f"{self.limits.names[joint]} lacks {left[joint]:.3f} rad ({why})"
            self._conditions.append(Condition("move timed out", "arm", detail))

    def _after_gap(self) -> Step:
        """After a pause longer than the horizon the servos stand at their last goal: go on from there."""
        last = self._plausibility.last
        assert last is not None
        self._reference = Reference.at(self._reference.goal)
        return self._limiter.brake(self._reference, last.position, self.settings.tick)

    def _command(self, now: float, step: Step | None) -> Command:
        faults = self.faults.active
        if step is None or self.mode is Mode.OFF:
            return Command(now, False, None, None, np.zeros(len(self.limits.names)), Mode.OFF, (), faults)
        velocity = step.reference.velocity.copy()
        return Command(now, True, step.goal, step.speed, velocity, self.mode, step.changes, faults)


def _measurable_speed(limits: Limits) -> np.ndarray:
    """The most that a healthy joint can turn (rad/s): commanded, and a servo that was pushed or let go."""
    return np.maximum(2.0 * limits.speed, 2.0)
