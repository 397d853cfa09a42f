"""Where faults are done: the twin with its whole driver, in lockstep, and every packet of it logged."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from hardware_bridge.arm import ServoArm
from hardware_bridge.backend import LINE_TICK, TWIN
from hardware_bridge.campaign.audit import Audit, Logged
from hardware_bridge.config import load
from hardware_bridge.driver import Driver, Watch
from hardware_bridge.faults import Fault
from hardware_bridge.link import Link
from hardware_bridge.rig import Rig
from hardware_bridge.safety import Mode, Safety
from hardware_bridge.servos import JointSpec
from hardware_bridge.twin.arm import WidowXWorld
from hardware_bridge.twin.build import emulate
from hardware_bridge.twin.line import Line
from hardware_bridge.twin.servo import Nature, Servo

#: Slack of the link's deadlines (wall-clock s): in lockstep replies are there at once, or never.
SLACK = 0.03
#: A joint slower than this is at rest (rad/s): twice the unit of a servo's speed register.
REST = 0.025
#: What the policy asks for while faults are done (rad/s), and for how long before it turns back (s).
PACE, TURN = 0.15, 1.2


@dataclass(frozen=True)
class Sight:
    """A fault that the bridge named. ``after``: since the damage was done (s)."""

    fault: Fault
    after: float

    def __str__(self) -> str:
        return f"{self.fault.kind} ({self.fault.where})"


class Beat:
    """The line's time, which passes while the driver waits for its next tick."""

    def __init__(self, line: Line, tick: float) -> None:
        self._line, self._tick = line, tick
        self.link: Link | None = None
        self.before = 0  # bytes of links before this one, and of other programs

    def now(self) -> float:
        return self._line.now

    def left(self, share: float) -> float:
        return math.inf

    def wait(self) -> None:
        sent = self.link.sent + self.before if self.link is not None and self.link.is_open else None
        self._line.advance(self._tick, after_bytes=sent, timeout=30.0)


class Stand:
    """An emulated robot with its driver. Use it as a context manager; nothing is powered before ``start``.

    Args:
        folder: for the port's name and files.
        change: is done to the line before anybody looks at it.
        nature: of all servos.
        cameras: names of cameras whose images must be fresh.
        angles: of the joints at the beginning (rad); by default the pose in which episodes begin.
        watches: other devices, looked at in each cycle.

    Attributes:
        watches: may be added to.
        later: what is to be done at times to come.
        struck: when the damage was done (s of the line's time).
    """

    def __init__(
        self,
        folder: Path,
        *,
        change: Callable[[Line], None] | None = None,
        nature: Nature | None = None,
        cameras: Sequence[str] = (),
        angles: Sequence[float] | None = None,
        watches: Sequence[Watch] = (),
    ) -> None:
        self.folder, self.robot = folder, load(TWIN)
        profile, limits = self.robot.arm_profile(), self.robot.limits()
        self.profile = profile
        self.world = WidowXWorld(profile, angles=self.robot.arm.ready if angles is None else angles)
        servos = emulate(profile, self.world, nature)
        self.line = Line(servos, self.world, clock="lockstep", link_path=folder / "servos", tick=LINE_TICK)
        self._open = ExitStack()
        self._open.callback(self.line.close)
        self.line.open()
        self.log: list[Logged] = []
        self.line.tap = lambda at, by, raw: self.log.append(Logged(at, by, raw))
        self._servos = {axis.name: self.line.servo(axis.id) for axis in profile}
        if change is not None:
            change(self.line)
        self.beat = Beat(self.line, limits.settings.tick)
        self.arm = ServoArm(self.open_link(), profile, clock=self.beat.now)
        self.safety = Safety(limits, profile.rest, cameras)
        self.driver = Driver(self.arm, self.safety, self.beat, reopen=self.open_link, watches=(self._watch,))
        self.rig = Rig(self.arm, self.driver, self.clear_of_rig)
        self.watches = list(watches)
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.clear = True
        self.struck = 0.0
        self.speeds: list[tuple[float, float]] = []  # when, fastest joint as it really moved
        self.numbers = itertools.count()  # of actions
        self.due = 0.0  # when the policy acts next (s)

    def __enter__(self) -> Stand:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def open_link(self) -> Link:
        """The port by its name; also after it vanished."""
        before = self.line.received
        link = Link(
            self.line.port,
            self.profile.baud,
            slack=SLACK,
            serve=lambda sent: self.line.pump(sent + self.beat.before, timeout=30.0),
        )
        self._open.callback(link.close)
        self.beat.link, self.beat.before = link, before
        return link

    def clear_of_rig(self) -> bool:
        """Whether the arm is out of the rig's way; a row of the campaign may say that it is not."""
        return self.clear

    def _watch(self, safety: Safety, now: float) -> None:
        """What joints really do, whatever anybody reads; and what was to be done by now."""
        for watch in self.watches:
            watch(safety, now)
        for due, action in [item for item in self.later if item[0] <= now]:
            self.later.remove((due, action))
            action()
        speed = max(abs(self.world.joint(spec.name).velocity) for spec in self.profile.joints)
        self.speeds.append((now, speed))

    # ------------------------------------------------------------ what a row does

    def axis(self, name: str) -> JointSpec:
        return self.profile.axis(name)

    def servo(self, name: str) -> Servo:
        """The emulated servo of an axis."""
        return self._servos[name]

    def start(self) -> Stand:
        """Torque on, everything held where it stands."""
        self.driver.start()
        return self

    def episode(self) -> Stand:
        """Starts, begins an episode and moves for a while, as a policy does."""
        if self.safety.mode is Mode.OFF:
            self.start()
        self.safety.begin_episode(self.beat.now())
        return self.act(0.6)

    def act(self, seconds: float) -> Stand:
        """The policy moves all joints to and fro."""
        for _ in self._ticks(seconds):
            if self.beat.now() >= self.due:
                self.due = self.beat.now() + self.safety.settings.period
                self.safety.act(self.wish(), self.beat.now(), next(self.numbers))
        return self

    def wish(self) -> np.ndarray:
        """What the policy wants now (rad/s): the shoulder stays, for the arm is near its table."""
        way = 1.0 if self.beat.now() // TURN % 2 else -1.0
        return way * PACE * np.array([1.0, 0.2, 0.2, 1.0, 1.0])

    def idle(self, seconds: float) -> Stand:
        """Nobody asks for anything."""
        for _ in self._ticks(seconds):
            pass
        return self

    def _ticks(self, seconds: float) -> Iterator[None]:
        until = self.beat.now() + seconds - 1e-9
        while self.beat.now() < until:
            yield
            self.driver.cycle()
            self.beat.wait()

    def strike(self) -> None:
        """The damage is done now."""
        self.struck = self.beat.now()

    # ------------------------------------------------------------ what a row looks at

    def seen(self, kind: str, where: str | None = None) -> Sight | None:
        """The first fault of a kind since the damage."""
        for fault in self.safety.faults.history:
            if fault.kind == kind and where in (None, fault.where) and fault.since >= self.struck - 1e-9:
                return Sight(fault, fault.since - self.struck)
        return None

    @property
    def named(self) -> tuple[str, ...]:
        """Kinds of all faults since the damage, in their order."""
        since = [fault.kind for fault in self.safety.faults.history if fault.since >= self.struck - 1e-9]
        return tuple(dict.fromkeys(since))

    def rested(self) -> float | None:
        """From the damage until every joint stood still for good (s); None: it has not."""
        moving = [at for at, speed in self.speeds if speed > REST]
        if self.speeds and moving and moving[-1] == self.speeds[-1][0]:
            return None
        return max(0.0, (moving[-1] if moving else self.struck) - self.struck)

    def torques(self) -> Mapping[str, bool]:
        """Which servos have torque."""
        return {name: bool(servo.table["torque_enable"]) for name, servo in self._servos.items()}

    def audit(self) -> Audit:
        """The log, looked through."""
        audit = Audit(self.robot)
        audit.feed(self.log)
        return audit
