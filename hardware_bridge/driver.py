"""The inner loop: read, judge, send, once every tick; and what a session does around it, each with an end.

One process has the bus, and in it one ``Driver``. Time is a ``Beat``: the computer's, or that of a twin in
lockstep, whose time passes only while the driver waits for it.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from hardware_bridge.arm import NotReadyError, ServoArm
from hardware_bridge.errors import LinkError, NoReply, PortError, ReplyError
from hardware_bridge.faults import Condition, FaultError
from hardware_bridge.link import Link
from hardware_bridge.safety import Command, Mode, Safety
from hardware_bridge.watchdogs import Reading, Traffic

#: Readings tried in a cycle, if what is read cannot be.
ATTEMPTS = 3
#: Cycles in a row without a reading, until a servo counts as lost: 100 ms, as stale readings do.
MISSES = 3
#: After so long without any servo's answer it is no busy computer any more (s).
SILENCE = 1.0
#: One more axis is inspected every so many cycles: all eight of the Mark II within 0.64 s.
INSPECTION = 4
#: How many times as long an inspection is put off where ticks leave no time for it.
PUT_OFF = 2
#: Inspections in a row that a servo leaves unanswered, until it counts as lost: within 1.92 s.
UNANSWERED = 3
#: Of a tick, within which questions may be repeated and a silent chain is waited for. Were it more, a servo
#: that is lost would be named too late.
SHARE = 1.0
#: Until the last reading is so old (s) a computer that answers late is waited for beyond its tick: to ask
#: anew takes longer, and what remains of 100 ms is enough for one more try.
PATIENT = 0.08
#: Faults after which a servo is asked to go on; a hot one has to cool, one that restarted is started anew.
REVIVED = ("overload", "servo limp")
#: After a port came back: how often whoever is not there as before, fences included, is looked for (s).
RECHECK = 2.0
#: For which an arm is watched before its faults are seen to be over (s); after a servo got its torque back,
#: until every axis was inspected once.
CALM, RECOVERY = 0.2, 0.7
#: A move's own deadline ends it; this ends the waiting for it, should that fail (s).
PATIENCE = 120.0


#: Looks at a device, and reports what is wrong with it to safety; gets the time (monotonic, s).
Watch = Callable[[Safety, float], None]


class Beat(Protocol):
    """Time as the inner loop has it."""

    def now(self) -> float:
        """Monotonic (s)."""

    def wait(self) -> None:
        """Until the next tick."""

    def left(self, share: float) -> float:
        """When a share of this tick will be over (``time.monotonic``, s); infinite where time stands still.

        A question is not repeated after it.
        """


class RealTime:
    """The computer's monotonic time in even ticks; a tick that was missed is not made up for.

    Args:
        tick: s.

    Attributes:
        late: how much later than its time each tick began (s), the last 10,000.
        woke: when this tick began (monotonic, s).
    """

    def __init__(self, tick: float) -> None:
        self.tick = tick
        self.late: deque[float] = deque(maxlen=10_000)
        self._next = self.woke = time.monotonic()

    def start(self) -> None:
        """The first tick begins now."""
        self._next = time.monotonic()
        self.late.clear()

    def now(self) -> float:
        return time.monotonic()

    def left(self, share: float) -> float:
        return self.woke + share * self.tick

    def wait(self) -> None:
        self._next += self.tick
        left = self._next - time.monotonic()
        if left > 0:
            self.sleep(left)
        late = time.monotonic() - self._next
        self.woke = self._next + late
        if late > self.tick:
            self._next = self.woke
        self.late.append(late)

    def sleep(self, seconds: float) -> None:
        """How the time until the next tick is spent."""
        time.sleep(seconds)


class Reopening:
    """Opens a port that vanished by its name, again and again, after longer and longer waits.

    Args:
        reopen: opens it, or raises a ``PortError``.
        first, most: waits (s).
    """

    def __init__(self, reopen: Callable[[], Link], first: float = 0.1, most: float = 2.0) -> None:
        self._reopen, self._first, self._most = reopen, first, most
        self._wait, self._due = first, -math.inf

    def attempt(self, now: float) -> Link | None:
        """A new link, or None: it is too early, or still gone."""
        if now < self._due:
            return None
        self._due, self._wait = now + self._wait, min(2.0 * self._wait, self._most)
        try:
            return self._reopen()
        except PortError:
            return None

    def succeeded(self) -> None:
        """Whoever should be there is there: the next time begins with short waits."""
        self._due, self._wait = -math.inf, self._first


class Misses:
    """Readings in a row that did not come, and who is named for it.

    A servo that stays silent while another one answers is missing. Where nobody answers, it is the line, or a
    computer that did not come to it: readings go stale, which holds the arm, and is over when they come.

    Args:
        arm: whose servos are asked.
    """

    def __init__(self, arm: ServoArm) -> None:
        self._arm, self._names = arm, arm.profile.names
        self._count, self._since, self._missing = 0, 0.0, -1

    @property
    def lately(self) -> bool:
        """Whether the last reading did not come."""
        return self._count > 0

    def over(self) -> None:
        """A reading came."""
        self._count, self._missing = 0, -1

    def add(self, error: LinkError, now: float) -> list[Condition]:
        """One more did not come, at a time (s): what that says."""
        self._since = self._since if self._count else now
        self._count += 1
        found = [Condition("packet lost", "bus", error.what)]
        if self._count < MISSES or not isinstance(error, NoReply):
            return found
        servo, lasted = error.ids[0], now - self._since
        if servo != self._missing and self._arm.lost(servo):
            self._missing = servo
        if servo == self._missing:
            detail = f"no answer in {self._count} cycles: {error.what}"
            found.append(Condition("servo missing", self._names.get(servo, "bus"), detail))
        elif lasted >= SILENCE:
            found.append(Condition("servo missing", "bus", f"no servo has answered for {lasted:.1f} s"))
        return found


class Inspections:
    """One axis after the other, and who is named for staying silent: gripper and rig are asked no other way.

    One that leaves its own inspections unanswered, again and again while others answer, is missing until it
    answers one. That is no missed reading: the joints were read.

    Args:
        arm: whose axes are inspected.
    """

    def __init__(self, arm: ServoArm) -> None:
        self._arm = arm
        self._names = arm.profile.names
        self._silent = Counter[int]()  # inspections in a row, by id
        self._missing: dict[int, Condition] = {}

    @property
    def missing(self) -> tuple[Condition, ...]:
        """Who is, in every cycle: it would be over in between, if it were told at inspections alone."""
        return tuple(self._missing.values())

    def next(self) -> list[Condition]:
        """Inspects one more; the packet that was lost, if it did not answer.

        Raises:
            LinkError: other than silence.
        """
        try:
            servo = self._arm.inspect().id
        except NoReply as error:
            self._unanswered(error.ids[0], error.what)
            return [Condition("packet lost", "bus", error.what)]
        self._silent.pop(servo, None)
        self._missing.pop(servo, None)
        return []

    def _unanswered(self, servo: int, what: str) -> None:
        self._silent[servo] += 1
        times = self._silent[servo]
        if servo in self._missing or (times >= UNANSWERED and self._arm.lost(servo)):
            where, detail = self._names.get(servo, "bus"), f"no answer to {times} inspections: {what}"
            self._missing[servo] = Condition("servo missing", where, detail)


class Driver:
    """The arm under safety.

    Args:
        arm: on its bus.
        safety: the only source of goals.
        beat: time.
        after: called with each cycle's command, by a recorder for example.
        reopen: opens the port again after it vanished; without it, only a new driver does.
        watches: other devices, looked at in each cycle (cameras, a recorder, a sensor).

    Attributes:
        command: the last one.
        reading: the last one that was used.
    """

    def __init__(
        self,
        arm: ServoArm,
        safety: Safety,
        beat: Beat,
        after: Callable[[Command], None] | None = None,
        *,
        reopen: Callable[[], Link] | None = None,
        watches: Sequence[Watch] = (),
    ) -> None:
        self.arm, self.safety, self.beat = arm, safety, beat
        self.command: Command | None = None
        self.reading: Reading | None = None
        self._after = after
        self._misses, self._inspections = Misses(arm), Inspections(arm)
        self._uninspected = 0  # cycles since the last inspection
        self._names = [joint.name for joint in arm.profile.joints]
        self._reopening = None if reopen is None else Reopening(reopen)
        self._unready: Sequence[Condition] = ()  # what was not as before when the port came back
        self._recheck = -math.inf  # when it is looked at again (s)
        self._watches = tuple(watches)
        self._traffic = Traffic(safety.settings, arm.profile.names)

    def start(self) -> None:
        """Checks everything, then takes the arm where it stands and switches torque on.

        Raises:
            NotReadyError: servos or fences are not as they must be.
            ValueError, FaultError: the arm stands where it must not, or faults last.
            LinkError: the bus failed meanwhile; torque is then as it was found, where it could be reached.
        """
        self._check()
        reading = self.arm.read()
        command = self.safety.start(reading, self.beat.now())
        assert command.goal is not None  # braking at rest is always possible
        assert command.speed is not None
        try:
            # Where it stands, and not where its limits would have it: torque comes without a jerk. Beyond its
            # fence, a servo would refuse it.
            joints = self.arm.profile.joints
            low, high = [joint.lower for joint in joints], [joint.upper for joint in joints]
            told = np.clip(reading.position, low, high)
            self.arm.power(self._goals(told, command.speed))
            # That took many packets: the loop's time begins now, or its first tick would count as late.
            reading = self.arm.read()
            self.command, self.reading = self.safety.start(reading, self.beat.now(), told), reading
        except (LinkError, ValueError, FaultError):
            # An arm that a killed driver left raised is held by nothing else.
            self.arm.release(spare=self.arm.found_on)
            raise

    @property
    def silent(self) -> bool:
        """Whether the joints' last reading did not come."""
        return self._misses.lately

    def _check(self) -> None:
        """``ServoArm.check``, with what it finds in the book of faults."""
        found: Sequence[Condition] = ()
        try:
            self.arm.check()
        except NotReadyError as error:
            found = error.conditions
            raise
        finally:
            self.arm.drain()
            self.safety.faults.update(found, self.beat.now())

    def cycle(self) -> Command:
        """One tick. It never raises for what happens on the bus: that becomes a fault of the book."""
        self._measure()
        for watch in self._watches:
            watch(self.safety, self.beat.now())
        command = self.safety.tick(self.beat.now())
        try:
            self._obey(command)
        except PortError as error:
            self.safety.report("port gone", "bus", error.what)
        except LinkError as error:
            self.safety.report("packet lost", "bus", error.what)
        self.command = command
        if self._after is not None:
            self._after(command)
        return command

    def _measure(self) -> None:
        try:
            last = -math.inf if self.reading is None else self.reading.at
            with self.arm.link.hurried(self.beat.left(SHARE), last + PATIENT):
                self._look()
        except PortError as error:
            self.safety.report("port gone", "bus", error.what)
            self._open_again()
        except LinkError as error:
            for condition in self._misses.add(error, self.beat.now()):
                self.safety.report(*condition)
        if self._unready and self.beat.now() >= self._recheck and self.arm.link.is_open:
            self._check_again()
        link = self.arm.link
        traffic = self._traffic.check(link.counts, link.counts_by_id, self.beat.now())
        for condition in [*self.arm.drain(), *traffic, *self._unready, *self._inspections.missing]:
            self.safety.report(*condition)

    def _look(self) -> None:
        """A reading, and from time to time an inspection, which waits if this tick is over already."""
        for _ in range(ATTEMPTS):
            try:
                reading = self.arm.read()
            except ReplyError:
                self._take_newer(self.arm.newest())
                raise
            if self._take(reading):
                break
        self._misses.over()
        self._uninspected += 1
        wait = INSPECTION if time.monotonic() < self.beat.left(SHARE) else PUT_OFF * INSPECTION
        if self._uninspected >= wait:
            self._uninspected = 0
            for condition in self._inspections.next():
                self.safety.report(*condition)

    def _take(self, reading: Reading) -> bool:
        """Whether it can be, and is the last one then."""
        taken = self.safety.observe(reading, self.beat.now())
        if taken:
            self.reading = reading
        return taken

    def _take_newer(self, newest: Reading) -> None:
        """What some joints said before another one did not: all are known, if at different times.

        On a slow computer the silent one may have answered long after the first of the last reading.
        """
        if self.reading is None or newest.at > self.reading.at:
            self._take(newest)

    def _open_again(self) -> None:
        """By the same name; whoever is there then must be who was there before."""
        reopening = self._reopening
        link = None if reopening is None else reopening.attempt(self.beat.now())
        if link is None or reopening is None:
            return
        self.arm.link = link
        self._traffic.restart()
        self._check_again()

    def _check_again(self) -> None:
        """Until all is as it was, what is not lasts, and cannot be acknowledged."""
        try:
            self.arm.check()
        except NotReadyError as error:
            self._unready, self._recheck = error.conditions, self.beat.now() + RECHECK
        except LinkError as error:
            self.arm.link.close()  # a port through which nobody can be checked has not come back
            self.safety.report("port gone", "bus", error.what)
        else:
            self._unready = ()
            if self._reopening is not None:
                self._reopening.succeeded()

    def _obey(self, command: Command) -> None:
        if not command.torque:
            if self.arm.powered:
                self.arm.release()
        elif command.goal is not None and command.speed is not None:
            self.arm.send(self._goals(command.goal, command.speed))

    def _goals(self, goal: np.ndarray, speed: np.ndarray) -> dict[str, tuple[float, float]]:
        return {name: (float(g), float(s)) for name, g, s in zip(self._names, goal, speed)}

    # ------------------------------------------------------------ after a fault

    def recover(self) -> None:
        """Ends what a new episode may end; servos that shut themselves down are asked once to go on.

        They, and joints that something blocks, back off first: what is blocked is not pressed again, for the
        goal is where the joint is now. Without torque nobody is asked: ``start`` will look at them.

        Raises:
            FaultError: faults remain; how often one may come is the book's business.
        """
        self.safety.end_episode()
        held = () if self.safety.mode is Mode.OFF else self.safety.faults.active
        gave_up = {fault.where for fault in held if fault.kind in REVIVED}
        blocked = {fault.where for fault in held if fault.kind == "follow error"}
        if gave_up | blocked:
            self.safety.back_off(gave_up | blocked, self.beat.now())
        for axis in self.arm.profile:
            if axis.name in gave_up:
                try:
                    self.arm.revive(axis)
                except LinkError as error:
                    self.safety.report("packet lost", axis.name, error.what)
        self._recheck = -math.inf
        self.run(RECOVERY if gave_up else CALM)  # conditions that are over are seen to be over
        self.safety.recover()

    # ------------------------------------------------------------ for seconds at a time

    def run(self, seconds: float) -> None:
        """Cycles for so long."""
        until = self.beat.now() + seconds - 1e-9
        while self.beat.now() < until:
            self.cycle()
            self.beat.wait()

    def go_to(self, target: Sequence[float] | np.ndarray, speed: float | None = None) -> None:
        """Moves to a pose ``(joints,)`` rad and returns when the arm is there.

        Raises:
            FaultError: it did not get there; the faults say why.
            ValueError, RuntimeError: as ``Safety.go_to``.
        """
        self.safety.go_to(target, self.beat.now(), speed)  # type: ignore[arg-type]
        self._until(lambda: self.safety.mode is not Mode.MOVING)
        if self.safety.mode is not Mode.READY:
            raise FaultError("the move was given up", self.safety.faults.active)

    def come_to_rest(self) -> None:
        """Lets an arm arrive that faults sent to its rest pose; it may also be held on the way.

        Raises:
            FaultError: it does not arrive, and its own deadline failed.
        """
        if self.safety.mode is Mode.HOMING:
            self._until(lambda: self.safety.mode is not Mode.HOMING)

    def shut_down(self) -> None:
        """Slowly to the rest pose, and only there torque off: joints, then gripper and rig.

        Raises:
            FaultError: a fault holds the arm; it is held, with torque, and this may be called again.
        """
        self.safety.shut_down(self.beat.now())
        self._until(lambda: self.safety.mode in (Mode.OFF, Mode.HOLDING))
        if self.safety.mode is not Mode.OFF:
            raise FaultError("the arm is held, its torque stays on", self.safety.faults.active)
        self.cycle()

    def _until(self, over: Callable[[], bool]) -> None:
        until = self.beat.now() + PATIENCE
        while True:
            self.cycle()
            if over():
                return
            if self.beat.now() > until:
                condition = Condition("move timed out", "arm", f"not over after {PATIENCE:.0f} s")
                self.safety.report(*condition)
                self.cycle()
                raise FaultError("waited in vain", self.safety.faults.active)
            self.beat.wait()
