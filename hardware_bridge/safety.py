"""The only door to a motor: what is asked for goes in, what may be sent comes out, and why it differs.

Nothing here does input or output or has a clock: times (monotonic, s) are passed in, so that a recording
can be run through again and gives the same commands.

The ten promises of the bridge, and what keeps those that are kept here:

===  ==============================================================  =========================================
P1   the policy stalls: braking within 450 ms, at rest 200 ms later  ``Deadline``, ``Limiter.brake``
P2   the driver dies: at rest within 150 ms, by speed · 150 ms       ``Limiter.step``: goals a horizon ahead
P3   nothing outside limits, rates, lead, workspace; fences          ``Limiter.step``; ``fences``
P4   the swept pose, resets and homing included, and the table       ``Limiter._inside``, ``Workspace.sweep``
P5   nothing silently stale                                          ``Deadline``, ``Plausibility``
P6   a step is on disk before it is acknowledged                     ``recorder``
P7   faults are classified and counted; latched ones acknowledged    ``Faults``
P8   at the end: hold, slowly to rest, and only there torque off     ``Safety.shut_down``, ``_go_home``
P9   every wait has an end                                           ``Safety.go_to``: its deadline
P10  time is monotonic                                               ``Safety.tick``: "clock went back"
===  ==============================================================  =========================================
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hardware_bridge.faults import KINDS, Condition, Fault, FaultError, Faults, Response
from hardware_bridge.limiter import Change, Limiter, Limits, Reference, Step
from hardware_bridge.watchdogs import Deadline, Health, Motion, Plausibility, Reading

#: So far beyond its limits an arm is started nevertheless (rad): folded at rest it may sag over them, as the
#: emulated one does by 0.001. Torque then turns it back so far, to its fence.
OVER = 0.02
#: Faults of servos that shut themselves down, or were without power: their joints fall.
GAVE_UP = ("overload", "overheated", "servo limp", "servo rebooted")


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
        self._shutting_down = self._limped = False
        self._ticked = math.nan
        self._conditions: list[tuple[Condition, float]] = []  # reported since the last tick, or until then
        self._health_now: list[Condition] = []

    @property
    def reference(self) -> np.ndarray:
        """``(joints,)`` rad: where the arm should be now, before the servos sag under it."""
        return self._reference.position.copy()

    @property
    def rests(self) -> bool:
        """Whether torque is off because faults sent the arm to its rest pose, and nobody asked for it."""
        return self.mode is Mode.OFF and self._limped

    # ------------------------------------------------ what comes in

    def start(self, reading: Reading, now: float, told: np.ndarray | None = None) -> Command:
        """Takes the arm where it is; torque may go on with the goal that is returned, and not before.

        Args:
            reading: what it measures.
            now: monotonic (s).
            told: ``(joints,)`` rad, goals that its servos have already: they go on from there, and not from
                where the joints sagged to meanwhile.

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
        goal = reading.position if told is None else told
        self._reference = Reference.at(np.clip(goal, self.limits.low, self.limits.high))
        self._joints.stop()
        self._joints.feed(reading.at)
        self._motion = Motion(self.settings, self.limits.names)
        self.mode, self._move = Mode.READY, None
        self._shutting_down = self._limped = False
        self._stop_policy()
        self._ticked = now
        return self._command(now, self._limiter.brake(self._reference, reading.position, self.settings.tick))

    def _check_start(self, position: np.ndarray) -> None:
        limits, margin = self.limits, self.settings.margin
        beyond = np.maximum(limits.low - margin - position, position - limits.high - margin)
        joint = int(beyond.argmax())
        if beyond[joint] > OVER:
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

    def back_off(self, joints: Collection[str], now: float) -> None:
        """Some joints should now be where they are measured, as after they gave way; others stay.

        Raises:
            RuntimeError: the arm is not holding.
        """
        last = self._plausibility.last
        if self.mode not in (Mode.HOLDING, Mode.READY) or last is None:
            raise RuntimeError(f"joints can back off from a holding arm only: it is {self.mode.value}")
        given = np.array([name in joints for name in self.limits.names])
        there = np.clip(last.position, self.limits.low, self.limits.high)
        self._reference = Reference.at(np.where(given, there, self._reference.position))
        self._motion = Motion(self.settings, self.limits.names)
        self._ticked = now

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
        self._actions.feed(min(issued, now))  # the deadline is the policy's: what its way took is part of it
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
            ValueError: the target is no pose, or outside limits or workspace; the speed is none.
            RuntimeError: the arm is off, an episode is on, or the arm is not well.
        """
        if self.mode not in (Mode.READY, Mode.MOVING):
            raise RuntimeError(f"the arm cannot go anywhere: it is {self.mode.value}")
        speed = self.settings.move_speed if speed is None else speed
        if not (math.isfinite(speed) and speed > 0.0):  # NaN would reach the goals, 0 have no end
            raise ValueError(f"the speed of a move must be a number above 0 (rad/s), got {speed!r}")
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
        self._set_move(goal, speed, now)
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
        falling = {fault.where for fault in self.faults.active if fault.kind in GAVE_UP}
        problem = self._plausibility.accept(reading, now, falling)
        if problem is not None:
            self.report(*problem)
            return False
        self._joints.feed(reading.at)
        if self.mode is Mode.OFF:
            self._health_now = list(self._health.check(replace(reading, torque_on=None)))
        else:
            reference = self._reference
            motion = self._motion.check(reference.position, reference.velocity, reference.servo, reading)
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

    def report(self, kind: str, where: str, detail: str, until: float = 0.0) -> None:
        """A fault that somebody else found (the bus, a camera, the recorder, the rig).

        It is so at the next tick, and at those up to ``until`` (monotonic, s): who looks less often than this
        ticks would leave gaps in which an episode could begin.

        Raises:
            KeyError: a kind that is not in the table: the tick, which must not fail, would find out.
        """
        if kind not in KINDS:
            raise KeyError(f"no fault {kind!r} in the table")
        self._conditions.append((Condition(kind, where, detail), until))

    # ------------------------------------------------ what goes out

    def tick(self, now: float) -> Command:
        """What may be sent now. To be called every ``settings.tick`` s."""
        if self.mode is Mode.OFF:
            self.faults.update(self._drain(now), now)
            return self._command(now, None)
        dt = now - self._ticked
        self.faults.update([*self._drain(now), *self._time(dt), *self._late_things(now)], now)
        if dt > 0:
            self._ticked = now
        self._decide(now)
        if self.mode is Mode.OFF:
            return self._command(now, None)
        if dt > self.settings.horizon:
            return self._command(now, self._after_gap())
        return self._command(now, self._advance(now, max(dt, 0.0)))

    def _drain(self, now: float) -> list[Condition]:
        reported = [condition for condition, _ in self._conditions]
        found = [*reported, *self._policy_state.events, *self._health_now]
        self._conditions = [(condition, until) for condition, until in self._conditions if until > now]
        self._policy_state.events = []
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
            yield from list(camera.forget_future(now)) or camera.check(now)

    def _decide(self, now: float) -> None:
        """The mode that the faults ask for."""
        response = self.faults.response
        if response is Response.TORQUE_OFF:
            self.mode, self._limped = Mode.OFF, False
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
            self.report("no safe goal", "arm", "something pushed it from its goal")
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
        # Where an episode starts, it should start exactly: 0.005 rad would be 2 mm at the hand.
        near = np.abs(step.reference.position - move.target).max() < 0.0005
        there = np.abs(last.position - move.target).max() < self.settings.arrived
        if near and there:
            # A limp home is over where torque may go off: that is what lets the servos cool.
            self._limped = self.mode is Mode.HOMING and not self._shutting_down
            self.mode, self._move = (Mode.OFF if self.mode is Mode.HOMING else Mode.READY), None
        elif now > move.until:
            left = np.abs(last.position - move.target)
            joint = int(left.argmax())
            why = ", ".join(change.value for change in step.changes) or "no limit was met"
            detail = f"{self.limits.names[joint]} lacks {left[joint]:.3f} rad ({why})"
            self.report("move timed out", "arm", detail)

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
