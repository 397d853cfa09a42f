"""Faults: what can go wrong, how bad it is, what the arm does then, and what a person can do about it.

A *transient* fault is over when its condition is. A *recoverable* one ends the episode, and is over once its
condition is gone and a new episode is begun. A *latched* one stays until somebody acknowledges it, and cannot
be acknowledged while its condition lasts. A recoverable fault that comes too often latches.

Torque goes off for a runaway, two servos with one id and an emergency stop alone: without torque the
Mark II's shoulder falls under 1.1 to 1.4 N m of gravity.
"""

from __future__ import annotations

import enum
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple


class Severity(enum.IntEnum):
    """How a fault ends."""

    TRANSIENT = 0
    RECOVERABLE = 1
    LATCHED = 2


class Response(enum.IntEnum):
    """What the arm does; of several faults the greatest counts."""

    CARRY_ON = 0
    LIMP_HOME = 1  # slowly to the rest pose, and rest
    HOLD = 2  # brake, and hold with torque
    TORQUE_OFF = 3


class Kind(NamedTuple):
    """A row of the table of faults."""

    severity: Severity
    response: Response
    remedy: str


_T, _R, _L = Severity
_ON, _HOME, _HOLD, _OFF = Response

KINDS: dict[str, Kind] = {
    # the policy
    "action invalid": Kind(_T, _ON, "Send one finite number per joint."),
    "actions invalid": Kind(_R, _HOLD, "Look at the policy's last outputs; begin a new episode."),
    "action late": Kind(_T, _ON, "It was dropped. Look for what delays the policy."),
    "actions bursty": Kind(_T, _ON, "Only the newest counted. Send one action per period."),
    "policy stalled": Kind(_R, _HOLD, "Look why no action came; begin a new episode."),
    # the bus
    "packet lost": Kind(_T, _ON, "It was asked again."),
    "reply damaged": Kind(_T, _ON, "It was not used, and asked for again."),
    "reply incomplete": Kind(_T, _ON, "It was not used, and asked for again."),
    "reply from another": Kind(_T, _ON, "It was not used; if it recurs, scan the bus for the id."),
    "reply late": Kind(_T, _ON, "It was thrown away; check the adapter's latency timer (1 ms)."),
    "reply doubled": Kind(_T, _ON, "The second was thrown away."),
    "bytes between": Kind(_T, _ON, "Bytes that are no reply were skipped: look for noise on the cable."),
    "bus noisy": Kind(_R, _HOLD, "Check the cable, its length and termination, and the supply's ground."),
    "servo waited": Kind(_T, _ON, "It heard nobody for too long and goes on now: see what else is said."),
    "servo missing": Kind(_L, _HOLD, "Check the servo's cable and supply, then acknowledge."),
    "duplicate id": Kind(_L, _OFF, "Connect one of the two alone and give it another id."),
    "baud mismatch": Kind(_L, _HOLD, "Set its rate with the maker's Dynamixel Wizard, the arm at rest."),
    "id conflict": Kind(_L, _HOLD, "Another servo answers in its place: scan the bus."),
    "port gone": Kind(_L, _HOLD, "Plug the adapter in again, check the pose, then acknowledge."),
    "foreign bytes": Kind(_L, _HOLD, "Stop the other program that uses the port."),
    "servo rebooted": Kind(_L, _HOLD, "Check the supply (brown-out), then start again as it stands."),
    "angle limit": Kind(_L, _HOLD, "A servo refused a goal: compare fences and limits (doctor)."),
    "fence differs": Kind(_L, _HOLD, "Write the fences with `calibrate`, with the arm at rest."),
    # what is measured
    "reading implausible": Kind(_T, _ON, "It was not used."),
    "encoder jump": Kind(_R, _HOLD, "Move the joint by hand through its range and watch its angle (doctor)."),
    "readings stale": Kind(_R, _HOLD, "Check the bus and the adapter's latency timer (1 ms)."),
    "outside limits": Kind(_L, _HOLD, "Switch the arm off and move it inside its limits by hand."),
    "outside workspace": Kind(_L, _HOLD, "Switch the arm off and move it inside its workspace by hand."),
    # motion
    "follow error": Kind(_R, _HOLD, "Something blocks the joint, or the arm pressed for too long."),
    "servo limp": Kind(_R, _HOLD, "The servo shut itself down: let it cool, restore its torque limit."),
    "runaway": Kind(_L, _OFF, "It moved without a command: check the servo and its horn before anything."),
    "joint strays": Kind(_R, _HOLD, "Its servo pushed it away from its goal: compare its table (doctor)."),
    "joint oscillates": Kind(_R, _HOLD, "Check its horn for play, and its servo's gains (doctor)."),
    "no safe goal": Kind(_R, _HOLD, "Something pushed the arm: free it; begin a new episode."),
    "move timed out": Kind(_R, _HOLD, "A reset was blocked: see which limit was named; clear the way."),
    "loop late": Kind(_R, _HOLD, "The computer was too busy: give the driver a core of its own."),
    "clock went back": Kind(_L, _HOLD, "Time must come from the monotonic clock."),
    # health
    "overload": Kind(_R, _HOLD, "Back off, restore the torque limit; lighten the load."),
    "load high": Kind(_R, _HOME, "Lighten what the arm holds, or press less."),
    "warm": Kind(_T, _ON, "It may need a rest soon."),
    "hot": Kind(_R, _HOME, "It cools at rest; the next episode waits until it is below the warning."),
    "overheated": Kind(_L, _HOME, "Let it cool; find out what it works against."),
    "voltage low": Kind(_T, _ON, "Check the supply under load."),
    "undervoltage": Kind(_R, _HOLD, "Use a stronger supply (12 V, 10 A)."),
    # other devices
    "image stale": Kind(_R, _HOLD, "Check the camera's cable and its frame rate."),
    "camera missing": Kind(_R, _HOLD, "Check its cable, its hub and its device in the configuration."),
    "camera slow": Kind(_R, _HOLD, "Shorten its exposure, or give it a USB bus of its own."),
    "camera wrong size": Kind(_L, _HOLD, "Set its size in the configuration to one that it has."),
    "camera frozen": Kind(_R, _HOLD, "The same frame came again and again: plug the camera in again."),
    "camera dark": Kind(_R, _HOLD, "It is covered, saturated, or the light is off."),
    "camera swapped": Kind(_L, _HOLD, "Fixed and wrist camera are exchanged: set their devices."),
    "recorder failed": Kind(_R, _HOLD, "Make room on the disk; what was acknowledged is safe."),
    "rig failed": Kind(_R, _HOLD, "Look whether the rig is blocked; home it."),
    "sensor failed": Kind(_R, _HOLD, "Check the insertion sensor's cable and configuration."),
    "sensor stuck": Kind(_R, _HOLD, "It says inserted with nothing in: check its wiring."),
    "emergency stop": Kind(_L, _OFF, "Release it, look at the arm, then acknowledge."),
}  # fmt: skip


class Condition(NamedTuple):
    """Something that is wrong now: a kind of the table, where (a joint, a device), and the numbers."""

    kind: str
    where: str
    detail: str


@dataclass(frozen=True)
class Fault:
    """A fault that is not over. ``since`` and ``last``: monotonic (s); ``present``: its condition lasts."""

    kind: str
    where: str
    detail: str
    severity: Severity
    response: Response
    remedy: str
    since: float
    last: float
    present: bool = True

    def __str__(self) -> str:
        return f"{self.kind} ({self.severity.name.lower()}), {self.where}: {self.detail}. {self.remedy}"


class FaultError(Exception):
    """Something is refused because of faults; ``faults`` are those."""

    def __init__(self, what: str, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__(f"{what}: " + "; ".join(map(str, self.faults)))

    @property
    def passes(self) -> bool:
        """Whether an arm at rest gets over all of them by itself, as one that has to cool does."""
        kept = [fault for fault in self.faults if fault.response > Response.CARRY_ON]
        return bool(kept) and all(
            fault.severity is Severity.RECOVERABLE and fault.response is Response.LIMP_HOME for fault in kept
        )


class Faults:
    """The book of faults: which are active, how often each came, what the arm must do.

    Args:
        repeats, repeat_time: so many of one recoverable kind at one place within that time (s) are borne.

    Attributes:
        counts: how often each kind began.
        history: the faults as they began, newest last, at most 1000.
    """

    def __init__(self, repeats: int = 3, repeat_time: float = 300.0) -> None:
        self.repeats, self.repeat_time = repeats, repeat_time
        self.counts: Counter[str] = Counter()
        self.history: deque[Fault] = deque(maxlen=1000)
        self._active: dict[tuple[str, str], Fault] = {}
        self._began: dict[tuple[str, str], deque[float]] = {}

    @property
    def active(self) -> tuple[Fault, ...]:
        """Faults that are not over, oldest first."""
        return tuple(self._active.values())

    @property
    def response(self) -> Response:
        """What the arm must do now."""
        return max((fault.response for fault in self._active.values()), default=Response.CARRY_ON)

    def update(self, conditions: Iterable[Condition], now: float) -> tuple[Fault, ...]:
        """Takes in all conditions that hold now; returns the faults that began with them.

        Raises:
            KeyError: a kind that is not in the table.
        """
        found = {(condition.kind, condition.where): condition for condition in conditions}
        began = [self._begin(condition, now) for key, condition in found.items() if key not in self._active]
        for key, fault in list(self._active.items()):
            if key in found:
                self._active[key] = replace(fault, present=True, last=now, detail=found[key].detail)
            elif fault.severity is Severity.TRANSIENT:
                del self._active[key]
            else:
                self._active[key] = replace(fault, present=False)
        return tuple(began)

    def _begin(self, condition: Condition, now: float) -> Fault:
        kind = KINDS[condition.kind]
        key, severity = (condition.kind, condition.where), kind.severity
        times = self._began.setdefault(key, deque(maxlen=self.repeats + 1))
        times.append(now)
        often = len(times) > self.repeats and now - times[0] <= self.repeat_time
        if severity is Severity.RECOVERABLE and often:
            severity = Severity.LATCHED
        fault = Fault(*condition, severity, kind.response, kind.remedy, since=now, last=now)
        self._active[key] = fault
        self.counts[condition.kind] += 1
        self.history.append(fault)
        return fault

    def recover(self) -> None:
        """Ends recoverable faults whose condition is gone: a new episode begins.

        Raises:
            FaultError: faults that hold the arm remain; those that ended stay ended.
        """
        for key, fault in list(self._active.items()):
            if fault.severity is Severity.RECOVERABLE and not fault.present:
                del self._active[key]
        left = [fault for fault in self.active if fault.response > Response.CARRY_ON]
        if left:
            raise FaultError("not while faults last", left)

    def acknowledge(self, kind: str, where: str) -> None:
        """Ends a latched fault.

        Raises:
            KeyError: there is no such fault; says which there are.
            FaultError: its condition lasts.
        """
        fault = self._active.get((kind, where))
        if fault is None:
            known = ", ".join(f"{f.kind} at {f.where}" for f in self.active) or "none"
            raise KeyError(f"no fault {kind!r} at {where!r} to acknowledge; active: {known}")
        if fault.present:
            raise FaultError("still so", [fault])
        del self._active[kind, where]
        self._began.pop((kind, where), None)
