"""Watchdogs: small state machines that look at times and readings and say what is wrong now.

None has a clock: time (monotonic, s) is passed in. Each ``check`` returns the conditions that hold; what
follows from them is decided in one place, the book of faults.
"""

from __future__ import annotations

import enum
import math
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hardware_bridge.faults import Condition
from hardware_bridge.safety_settings import SafetySettings


@dataclass(frozen=True)
class Reading:
    """What the joints measured.

    Args:
        at: when the joint was asked that was heard longest ago, monotonic (s): the capture, not the arrival.
        position: ``(joints,)`` rad.
        velocity: ``(joints,)`` rad/s.
        load: ``(joints,)`` signed fraction of stall torque, or NaN where a servo does not tell.
        voltage: ``(joints,)`` V, or NaN.
        temperature: ``(joints,)`` °C, or NaN.
        torque_on: ``(joints,)`` bool, as read back; None if it was not read.
    """

    at: float
    position: np.ndarray
    velocity: np.ndarray
    load: np.ndarray = field(default_factory=lambda: np.array(math.nan))
    voltage: np.ndarray = field(default_factory=lambda: np.array(math.nan))
    temperature: np.ndarray = field(default_factory=lambda: np.array(math.nan))
    torque_on: np.ndarray | None = None


class DeadlineState(enum.Enum):
    """OFF: nothing is expected. WAITING: fed in time so far. EXPIRED: it was not."""

    OFF = "off"
    WAITING = "waiting"
    EXPIRED = "expired"


class Deadline:
    """Something must come again and again, each within ``limit`` s of the one before."""

    def __init__(self, kind: str, where: str, limit: float) -> None:
        self.kind, self.where, self.limit = kind, where, limit
        self.state = DeadlineState.OFF
        self.fed = math.nan

    def feed(self, at: float) -> None:
        """It came, or was captured, at that time; feeding an older time changes nothing."""
        if self.state is DeadlineState.OFF or at > self.fed:
            self.fed = at
        self.state = DeadlineState.WAITING

    def stop(self) -> None:
        """Nothing is expected any more."""
        self.state, self.fed = DeadlineState.OFF, math.nan

    def age(self, now: float) -> float:
        """Since it came last (s); 0 if nothing is expected."""
        return 0.0 if self.state is DeadlineState.OFF else now - self.fed

    def forget_future(self, now: float) -> Iterator[Condition]:
        """What says to be of later than now has not come, and is said to; for times that others tell.

        Left as it is, it would be fresh until then, and whatever came meanwhile would be older.
        """
        if self.age(now) < -1e-6:
            ahead, self.fed = -1000 * self.age(now), -math.inf
            yield Condition(self.kind, self.where, f"the last says to be of {ahead:.0f} ms after now")

    def check(self, now: float) -> Iterator[Condition]:
        """Expires, and says so for as long as nothing comes."""
        # A tolerance far below any tick: a sum of ticks is not exact.
        if self.state is not DeadlineState.OFF and self.age(now) > self.limit + 1e-9:
            self.state = DeadlineState.EXPIRED
            ago, limit = 1000 * self.age(now), 1000 * self.limit
            yield Condition(
                self.kind, self.where, f"the last is {ago:.0f} ms old, {limit:.0f} ms are allowed"
            )


def _any(row: np.ndarray) -> bool:
    """Whether something is true of any joint: as a list a row so short is searched in a fifth of the time."""
    return True in row.tolist()


class Lasting:
    """For how long something has been true of each joint, without a break."""

    def __init__(self, joints: int) -> None:
        self._since = np.full(joints, np.nan)
        self._never = np.full(joints, -1.0)

    def update(self, true: np.ndarray, now: float) -> np.ndarray:
        """``(joints,)`` s; −1 where it is not true."""
        if not _any(true):
            self._since.fill(np.nan)
            return self._never
        self._since = np.where(true, np.where(np.isnan(self._since), now, self._since), np.nan)
        return np.where(true, now - self._since, -1.0)


class Window:
    """Values of each joint, none below 0, that were noted lately: their sums and maxima cost one call.

    Args:
        joints: how many.
        time: for how long a value counts (s).
    """

    def __init__(self, joints: int, time: float) -> None:
        self._time = time
        self._at, self._next = np.full(32, -np.inf), 0
        self._values = np.zeros((32, joints))

    def add(self, values: np.ndarray, now: float) -> None:
        """Notes values ``(joints,)``, and forgets those that are too old."""
        self._values[self._at < now - self._time] = 0.0
        if self._at[self._next] >= now - self._time:  # full: none of them may be lost
            self._next = len(self._at)
            self._at = np.concatenate([self._at, np.full_like(self._at, -np.inf)])
            self._values = np.concatenate([self._values, np.zeros_like(self._values)])
        self._at[self._next], self._values[self._next] = now, values
        self._next = (self._next + 1) % len(self._at)

    @property
    def most(self) -> np.ndarray:
        """``(joints,)``, 0 where nothing was noted."""
        return np.maximum.reduce(self._values)

    @property
    def sum(self) -> np.ndarray:
        """``(joints,)``."""
        return np.add.reduce(self._values)


#: What a way for a transaction to end, or a thing that came unasked, is called in the book of faults.
TRAFFIC = {
    "checksum": "reply damaged",
    "stuffing": "reply damaged",
    "status": "reply damaged",
    "length": "reply incomplete",
    "truncated": "reply incomplete",
    "skipped": "reply incomplete",
    "wrong id": "reply from another",
    "late": "reply late",
    "doubled": "reply doubled",
    "junk bytes": "bytes between",
    "foreign": "foreign bytes",
}
#: Those of them that are damage, by which a bus is noisy; silence has a watchdog of its own.
DAMAGE = ("checksum", "stuffing", "status", "length", "truncated", "skipped", "wrong id")


class Traffic:
    """Judges a bus by how its transactions end: names what went wrong, and sees that it is too much.

    Args:
        settings: ``noise`` is the share of damaged transactions that is borne over ``noise_time``;
            ``bad_readings`` replies of one servo's that came from another within that time are a conflict.
        names: of the axes by servo id.
    """

    def __init__(self, settings: SafetySettings, names: Mapping[int, str]) -> None:
        self._settings, self._names = settings, names
        self._before: dict[str, int] = {}
        self._mine: dict[int, int] = {}
        self._window: deque[tuple[float, int, int]] = deque()  # when, attempts, damaged ones
        self._tried = self._damaged = 0  # in the window
        self._strangers: deque[tuple[float, int]] = deque()  # when, in whose place
        self._began = math.inf

    def restart(self) -> None:
        """The next counts are a new link's."""
        self._before.clear()
        self._mine.clear()

    def check(
        self, counts: Counter[str], by_id: Mapping[int, Counter[str]], now: float
    ) -> Iterator[Condition]:
        """Conditions since the last time.

        Args:
            counts: of a link so far.
            by_id: the same by servo.
            now: monotonic (s).
        """
        before, self._before = self._before, dict(counts)
        new = {what: number - before.get(what, 0) for what, number in counts.items()}
        kinds = Counter[str]()
        for what, number in new.items():
            if number > 0 and what in TRAFFIC:
                kinds[TRAFFIC[what]] += number
        for kind, number in kinds.items():
            yield Condition(kind, "bus", f"{number} since the last cycle")
        yield from self._noise(now, new.get("attempts", 0), sum(new.get(what, 0) for what in DAMAGE))
        yield from self._conflict(now, by_id if new.get("wrong id") else {})

    def _noise(self, now: float, tried: int, damaged: int) -> Iterator[Condition]:
        window, limits = self._window, self._settings
        window.append((now, tried, damaged))
        self._began = min(self._began, now)
        tried, damaged = self._tried + tried, self._damaged + damaged
        while window[0][0] < now - limits.noise_time:
            _, gone, gone_damaged = window.popleft()
            tried, damaged = tried - gone, damaged - gone_damaged
        self._tried, self._damaged = tried, damaged
        whole = now - self._began >= limits.noise_time - 1e-9  # a few seconds are no share yet
        if whole and damaged > limits.noise * tried:
            share = f"{100 * damaged / tried:.0f} % of {tried} replies"
            yield Condition("bus noisy", "bus", f"{share} were damaged")

    def _conflict(self, now: float, by_id: Mapping[int, Counter[str]]) -> Iterator[Condition]:
        for servo, counts in by_id.items():
            new = counts["wrong id"] - self._mine.get(servo, 0)
            self._mine[servo] = counts["wrong id"]
            self._strangers.extend([(now, servo)] * new)
        while self._strangers and self._strangers[0][0] < now - self._settings.noise_time:
            self._strangers.popleft()
        for servo, times in Counter(servo for _, servo in self._strangers).items():
            if times >= self._settings.bad_readings:
                where = self._names.get(servo, f"id {servo}")
                yield Condition("id conflict", where, f"another answered {times} times for id {servo}")


#: As fast as no joint falls without torque (rad/s); the emulated wrist reaches 8.
FALL = 12.0


class Plausibility:
    """Keeps readings out that cannot be: not finite, of another shape, from the past, or a jump.

    Protocol 1's checksum lets two errors that cancel pass, and an AX-12 reads nonsense in its dead zone.
    """

    def __init__(self, settings: SafetySettings, names: Sequence[str], speed: np.ndarray) -> None:
        self._settings, self._names, self._speed = settings, tuple(names), speed
        self.last: Reading | None = None
        self.rejected = 0  # in a row

    def accept(self, reading: Reading, now: float, falling: Collection[str] = ()) -> Condition | None:
        """None if the reading may be used, and it becomes the last one; else why not.

        Joints that are ``falling``, for their servo gave up, may turn as fast as they fall.
        """
        problem = self._problem(reading, now, falling)
        if problem is None:
            # A copy: the driver may fill the same array again.
            self.last = replace(reading, position=np.array(reading.position, dtype=np.float64))
            self.rejected = 0
            return None
        self.rejected += 1
        kind = "encoder jump" if self.rejected >= self._settings.bad_readings else "reading implausible"
        return Condition(kind, *problem)

    def _problem(self, reading: Reading, now: float, falling: Collection[str]) -> tuple[str, str] | None:
        shape = (len(self._names),)
        for what in ("position", "velocity"):
            values = np.asarray(getattr(reading, what))
            if values.shape != shape or values.dtype.kind not in "iuf":
                return (
                    "arm",
                    f"{what} has shape {values.shape} and type {values.dtype}, expected {shape} numbers",
                )
            if not np.isfinite(values).all():
                joint = self._names[int(np.argmin(np.isfinite(values)))]
                return joint, f"{what} is not finite"
        if not math.isfinite(reading.at) or reading.at > now + 1e-6:
            return "arm", f"it says to be of {reading.at}, which is after now, {now}"
        return self._jump(reading, falling)

    def _jump(self, reading: Reading, falling: Collection[str]) -> tuple[str, str] | None:
        if self.last is None:
            return None
        dt = reading.at - self.last.at
        if dt < 0:
            return "arm", f"it is {-dt * 1000:.0f} ms older than the one before"
        moved = np.abs(reading.position - self.last.position)
        speed = self._speed
        if falling:
            speed = np.where([name in falling for name in self._names], FALL, speed)
        beyond = moved - speed * dt - self._settings.jump
        joint = int(beyond.argmax())
        if beyond[joint] > 0:
            return self._names[joint], f"it moved {moved[joint]:.3f} rad in {dt * 1000:.0f} ms"
        return None


#: What a joint does by itself is over once it has done so no more for so long (s): shorter than
#: ``driver.CALM``, for which is waited before what is over counts as over.
OVER = 0.15


class Swings:
    """How often each joint swung to and fro about its reference lately.

    Commanded motion is not in it: a joint that follows has a lag that hardly changes. One shove, or a slip
    out of a contact, is a swing there and one back.

    Args:
        joints: how many.
        least: a swing is at least so wide from end to end (rad).
        time: swings are counted for so long (s).
    """

    def __init__(self, joints: int, least: float, time: float) -> None:
        self._least = least
        self._low, self._high = np.full(joints, np.inf), np.full(joints, -np.inf)
        self._way = np.zeros(joints)  # of the last swing: up 1, down -1
        self._last = np.full(joints, -np.inf)  # when that was
        self._recent, self._none = Window(joints, time), np.zeros(joints)

    def update(self, lag: np.ndarray, now: float) -> np.ndarray:
        """Takes in lags ``(joints,)`` rad; how often each joint ``(joints,)`` swung, 0 once it is over."""
        self._low, self._high = np.minimum(self._low, lag), np.maximum(self._high, lag)
        up = (self._way <= 0.0) & (lag - self._low >= self._least)
        down = (self._way >= 0.0) & (self._high - lag >= self._least) & ~up
        swung = up | down
        if _any(swung):
            self._way = np.where(up, 1.0, np.where(down, -1.0, self._way))
            # From here on the other end is looked for.
            self._high, self._low = np.where(up, lag, self._high), np.where(down, lag, self._low)
            self._last = np.where(swung, now, self._last)
        elif now - self._last.max() >= OVER:
            return self._none
        self._recent.add(swung, now)
        return np.where(now - self._last < OVER, self._recent.sum, 0.0)


#: A joint that is no farther than this from where it may be (rad) strays nowhere: sag, play, a tick of an AX.
NEAR = 0.03


class Strays:
    """The way of each joint away from its reference for which its own servo pushed it.

    A sound servo pushes towards its goal, whatever shoves or loads the joint: it adds nothing here. Nor does
    what is no faster than what was commanded of late.

    Args:
        joints: how many.
        horizon: a goal lies so far ahead of the reference (s).
        push: less load than this (fraction of stall) is no push.
        time: the way is added up for so long (s).
    """

    def __init__(self, joints: int, horizon: float, push: float, time: float) -> None:
        self._horizon, self._push = horizon, push
        self._last: tuple[float, np.ndarray] | None = None  # when each joint was where
        self._strayed = np.full(joints, -np.inf)  # when each did
        self._recent, self._none = Window(joints, time), np.zeros(joints)

    def update(self, lag: np.ndarray, most: np.ndarray, reading: Reading) -> np.ndarray:
        """Takes in lags (rad), the fastest commands of late (rad/s), ``(joints,)`` each; the ways (rad).

        A way is 0 once it is over.
        """
        position = reading.position
        since, before = (reading.at, position) if self._last is None else self._last
        moved, self._last = position - before, (reading.at, position.copy())
        beyond = np.abs(lag) > NEAR + self._horizon * most  # of reference and goal
        if _any(beyond):
            pushes = np.abs(reading.load) >= self._push  # a load that is not told (NaN) is none
            own = beyond & pushes & (reading.load * lag < 0.0) & (moved * lag < 0.0)
            way = np.maximum(0.0, np.abs(moved) - most * (reading.at - since))
            self._strayed = np.where(own, reading.at, self._strayed)
            self._recent.add(np.where(own, way, 0.0), reading.at)
        elif reading.at - self._strayed.max() >= OVER:
            return self._none
        else:
            self._recent.add(self._none, reading.at)
        return np.where(reading.at - self._strayed < OVER, self._recent.sum, 0.0)


class Motion:
    """Compares what was commanded with what happens: joints that do not follow, or move on their own."""

    def __init__(self, settings: SafetySettings, names: Sequence[str]) -> None:
        self._settings, self._names = settings, tuple(names)
        self._behind, self._limp, self._loose = (Lasting(len(self._names)) for _ in range(3))
        joints, s = len(self._names), settings
        # It may still coast with what was commanded within the last half second.
        self._commanded = Window(joints, 0.5)
        self._swings = Swings(joints, s.swing, s.swing_time)
        self._strays = Strays(joints, s.horizon, s.limp_load, s.stray_time)
        self._swung = f"swings of {s.swing:.2f} rad or more within {s.swing_time:.1f} s"
        self._strayed = f"rad within {s.stray_time:.1f} s away from its reference, by its own force"

    def check(
        self, position: np.ndarray, velocity: np.ndarray, servo: np.ndarray, reading: Reading
    ) -> Iterator[Condition]:
        """Conditions at a reading.

        Args:
            position: ``(joints,)`` rad, of the reference. A goal would not do: it is a horizon ahead.
            velocity: ``(joints,)`` rad/s, at which the reference moves.
            servo: ``(joints,)`` rad, where the servos have got on their way to their goals.
            reading: what they measured.
        """
        s, at = self._settings, reading.at
        lag = position - reading.position
        error = np.abs(lag)
        self._commanded.add(np.abs(velocity), at)
        most = self._commanded.most
        behind = self._behind.update(error > s.follow_error, at)
        yield from self._say("follow error", behind > s.follow_time, error, "rad from its reference")
        load = np.abs(reading.load)
        limp = self._limp.update((error > s.limp_error) & (load < s.limp_load), at)
        yield from self._say(
            "servo limp", limp > s.limp_time, error, "rad from its reference, and without force"
        )
        speed = np.abs(reading.velocity)
        loose = speed > 1.5 * most + s.runaway_speed
        if _any(loose):
            loose &= self._unasked(lag, servo, reading)
        loose_for = self._loose.update(loose, at)
        yield from self._say("runaway", loose_for >= s.runaway_time, speed, "rad/s, which nobody asked of it")
        swings = self._swings.update(lag, at)
        yield from self._say("joint oscillates", swings >= s.swings, swings, self._swung)
        ways = self._strays.update(lag, most, reading)
        yield from self._say("joint strays", ways > s.stray, ways, self._strayed)

    def _unasked(self, lag: np.ndarray, servo: np.ndarray, reading: Reading) -> np.ndarray:
        """Of which joints that are too fast a servo makes it so that errs."""
        load, least = np.abs(reading.load), self._settings.limp_load
        # A joint that was held up by contact, and comes free, leaps back to its reference: to take its torque
        # would drop the arm. A runaway passes the reference, at most lead / its speed (0.16 s) later. One
        # that was shoved far dragged its reference along faster than its servo, and leaps back to that.
        away = (reading.velocity * lag <= 0.0) & (reading.velocity * (servo - reading.position) <= 0.0)
        # Without force it falls, its servo having given up: others without torque would fall, too.
        driven = ~(load < least)
        # A hand whose plug slides off an edge is shoved aside: a servo that pushes back is sound.
        shoved = (load >= least) & (reading.load * lag > 0.0)
        return away & driven & ~shoved

    def _say(self, kind: str, true: np.ndarray, values: np.ndarray, what: str) -> Iterator[Condition]:
        for joint, so in enumerate(true.tolist()):
            if so:
                yield Condition(kind, self._names[joint], f"{values[joint]:.3g} {what}")


@dataclass(frozen=True)
class Warmth:
    """Temperatures (°C) of a servo model: noted; go home slowly; latch, before the servo's own limit."""

    warm: float
    hot: float
    overheated: float
    cooled: float = 5.0  # by which it must be below to be over


def warmth(model: str, limit: float) -> Warmth:
    """The thresholds for a servo, by its model's name and its own temperature limit (°C)."""
    hot = 60.0 if model.startswith("AX") else 65.0
    return Warmth(hot - 5.0, hot, min(hot + 10.0, limit - 2.0))


class Health:
    """Temperature, voltage and load of each joint, with hysteresis for the temperature."""

    def __init__(self, settings: SafetySettings, names: Sequence[str], warmths: Sequence[Warmth]) -> None:
        self._settings, self._names, self._warmths = settings, tuple(names), tuple(warmths)
        self._loaded = Lasting(len(self._names))
        self._level: dict[str, int] = dict.fromkeys(self._names, 0)

    def check(self, reading: Reading) -> Iterator[Condition]:
        """Conditions at a reading; what a servo does not tell (NaN) is in none."""
        for name, degrees, limits in zip(self._names, self._each(reading.temperature), self._warmths):
            if self._level[name] or not degrees < limits.warm:
                yield from self._warm(name, degrees, limits)
        for name, volts in zip(self._names, self._each(reading.voltage)):
            if volts < self._settings.least_voltage:
                yield Condition("undervoltage", name, f"{volts:.1f} V")
            elif volts < self._settings.low_voltage:
                yield Condition("voltage low", name, f"{volts:.1f} V")
        high = np.abs(np.array(self._each(reading.load))) > self._settings.high_load
        for joint in np.flatnonzero(self._loaded.update(high, reading.at) > self._settings.load_time):
            load = abs(self._each(reading.load)[joint])
            detail = f"{100 * load:.0f} % of stall for {self._settings.load_time:.0f} s"
            yield Condition("load high", self._names[joint], detail)
        if reading.torque_on is not None:
            for name, on in zip(self._names, reading.torque_on):
                if not on:
                    yield Condition("servo rebooted", name, "its torque is off, nobody switched it off")

    def _each(self, values: np.ndarray) -> list[float]:
        """By joint: what is told of all alike, as that nothing is told, is told of each."""
        return np.broadcast_to(values, len(self._names)).tolist() if values.ndim != 1 else values.tolist()

    def _warm(self, name: str, degrees: float, limits: Warmth) -> Iterator[Condition]:
        thresholds = (limits.warm, limits.hot, limits.overheated)
        level = sum(degrees >= threshold for threshold in thresholds)
        while self._level[name] > level and not degrees < thresholds[self._level[name] - 1] - limits.cooled:
            level += 1  # NaN keeps a level, too: not being told is no sign of being cool
        self._level[name] = level
        if level:
            yield Condition(("warm", "hot", "overheated")[level - 1], name, f"{degrees:.0f} °C")
