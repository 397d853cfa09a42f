"""The inner loop: read, judge, send, once every tick; and what a session does around it, each with an end.

One process has the bus, and in it one ``Driver``. Time is a ``Beat``: the computer's, or that of a twin in
lockstep, whose time passes only while the driver waits for it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from hardware_bridge.arm import ServoArm
from hardware_bridge.errors import LinkError, NoReply, PortError
from hardware_bridge.faults import Condition, FaultError
from hardware_bridge.safety import Command, Mode, Safety
from hardware_bridge.watchdogs import Reading

#: Readings tried in a cycle, if what is read cannot be.
ATTEMPTS = 3
#: Cycles in a row without a reading, until a servo counts as lost: 100 ms, as stale readings do.
MISSES = 3
#: One more axis is inspected every so many cycles: all eight of the Mark II within 0.64 s.
INSPECTION = 4
#: A move's own deadline ends it; this ends the waiting for it, should that fail (s).
PATIENCE = 120.0


class Beat(Protocol):
    """Time as the inner loop has it."""

    def now(self) -> float:
        """Monotonic (s)."""

    def wait(self) -> None:
        """Until the next tick."""


class RealTime:
    """The computer's monotonic time in even ticks; a tick that was missed is not made up for.

    Args:
        tick: s.

    Attributes:
        late: how much later than its time each tick began (s), the last 10,000.
    """

    def __init__(self, tick: float) -> None:
        self.tick = tick
        self.late: deque[float] = deque(maxlen=10_000)
        self._next = time.monotonic()

    def start(self) -> None:
        """The first tick begins now."""
        self._next = time.monotonic()
        self.late.clear()

    def now(self) -> float:
        return time.monotonic()

    def wait(self) -> None:
        self._next += self.tick
        left = self._next - time.monotonic()
        if left > 0:
            self.sleep(left)
        late = time.monotonic() - self._next
        if late > self.tick:
            self._next = time.monotonic()
        self.late.append(late)

    def sleep(self, seconds: float) -> None:
        """How the time until the next tick is spent."""
        time.sleep(seconds)


class Driver:
    """The arm under safety.

    Args:
        arm: on its bus.
        safety: the only source of goals.
        beat: time.
        after: called with each cycle's command, by a recorder for example.

    Attributes:
        command: the last one.
        reading: the last one that was used.
    """

    def __init__(
        self, arm: ServoArm, safety: Safety, beat: Beat, after: Callable[[Command], None] | None = None
    ) -> None:
        self.arm, self.safety, self.beat = arm, safety, beat
        self.command: Command | None = None
        self.reading: Reading | None = None
        self._after = after
        self._misses = 0
        self._cycles = 0
        self._names = [joint.name for joint in arm.profile.joints]

    def start(self) -> None:
        """Checks everything, then takes the arm where it stands and switches torque on.

        Raises:
            NotReadyError: servos or fences are not as they must be.
            ValueError, FaultError: the arm stands where it must not, or faults last.
            LinkError: the bus failed meanwhile; torque is then off, where it could be reached.
        """
        self.arm.check()
        reading = self.arm.read()
        command = self.safety.start(reading, self.beat.now())
        assert command.goal is not None  # braking at rest is always possible
        assert command.speed is not None
        try:
            # Where it stands, and not where its limits would have it: torque comes without a jerk.
            self.arm.power(self._goals(reading.position, command.speed))
        except LinkError:
            self.arm.release()
            raise
        # Switching on took many packets: the loop's time begins now, or its first tick would count as late.
        reading = self.arm.read()
        self.command, self.reading = self.safety.start(reading, self.beat.now()), reading

    def cycle(self) -> Command:
        """One tick. It never raises for what happens on the bus: that becomes a fault of the book."""
        self._measure()
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
            for _ in range(ATTEMPTS):
                reading = self.arm.read()
                if self.safety.observe(reading, self.beat.now()):
                    self.reading = reading
                    break
            self._cycles += 1
            if self._cycles % INSPECTION == 0:
                self.arm.inspect()
            self._misses = 0
        except PortError as error:
            self.safety.report("port gone", "bus", error.what)
        except LinkError as error:
            self._missed(error)
        for condition in self.arm.drain():
            self.safety.report(*condition)

    def _missed(self, error: LinkError) -> None:
        self._misses += 1
        self.safety.report("packet lost", "bus", error.what)
        if self._misses >= MISSES and isinstance(error, NoReply):
            names = {servo: axis.name for axis in self.arm.profile for servo in axis.ids}
            where = names.get(error.ids[0], "bus")
            self.safety.report("servo missing", where, f"no answer in {self._misses} cycles: {error.what}")

    def _obey(self, command: Command) -> None:
        if not command.torque:
            if self.arm.powered:
                self.arm.release()
        elif command.goal is not None and command.speed is not None:
            self.arm.send(self._goals(command.goal, command.speed))

    def _goals(self, goal: np.ndarray, speed: np.ndarray) -> dict[str, tuple[float, float]]:
        return {name: (float(g), float(s)) for name, g, s in zip(self._names, goal, speed)}

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
