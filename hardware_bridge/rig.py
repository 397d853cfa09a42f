"""The rig that turns and moves the switch between tasks: within its limits, and never while the arm is in.

Its axes obey the same limiter as the arm's joints. That computes in the angles of the servos' shafts, because
its numbers (margin, lead, holding speed) are angles.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

import numpy as np

from hardware_bridge.arm import ServoArm
from hardware_bridge.driver import Driver, Misses
from hardware_bridge.errors import LinkError
from hardware_bridge.limiter import Limiter, Limits, Reference
from hardware_bridge.safety import Mode
from hardware_bridge.safety_settings import SafetySettings

#: Of the shafts, rotation and translation: 10 degrees and 6 mm a second; the whole range takes 3.2 s.
SPEED = (0.5, 0.95)  # rad/s
ACCELERATION = (10.0, 20.0)  # rad/s²
#: Margin: two positions of the servos, so that a goal on a limit stays inside the fence.
SETTINGS = SafetySettings(margin=0.0032)
#: Measured this near to where it should be, an axis has arrived: rad and m (paper: none given).
NEAR = (math.radians(0.5), 0.0005)
#: More force than this (fraction of stall) for so long (s) no free axis needs: friction takes 4 %.
MOST_LOAD, LOAD_TIME = 0.25, 0.1
#: Of a tick, within which the rig is asked: the next one belongs to the joints.
SHARE = 0.75
#: Times as long as a move needs it may take on a computer that leaves ticks out.
SLOWEST = 3.0
#: A shaft moves no farther than it may since it was looked at last, and this (rad).
JUMP = 0.1


class RigError(Exception):
    """The rig did not do what it should: which axis, where it stands, what to do."""


class Rig:
    """Both axes, moved together.

    Args:
        arm: on whose bus they are.
        driver: keeps the arm holding meanwhile.
        clear: whether the arm is out of the rig's way.
    """

    def __init__(self, arm: ServoArm, driver: Driver, clear: Callable[[], bool]) -> None:
        self._arm, self._driver, self._clear = arm, driver, clear
        self.axes = arm.profile.rig
        self._ratios = np.array([axis.ratio for axis in self.axes])
        shafts = [
            replace(
                axis,
                lower=axis.lower * axis.ratio,
                upper=axis.upper * axis.ratio,
                max_speed=axis.max_speed * axis.ratio,
                ratio=1.0,
            )
            for axis in self.axes
        ]
        self._limits = Limits.of(shafts, SETTINGS, None, SPEED, ACCELERATION)
        self._limiter = Limiter(self._limits)
        self._reference = Reference.at(np.zeros(2))
        self._position = np.zeros(2)  # of the shafts, as measured last
        self._misses = Misses(arm)
        self._looked = math.inf  # when (s)
        self._heavy = np.zeros(2)  # for how long each needed much force (s)

    def measured(self) -> np.ndarray:
        """Rotation (rad) and translation (m) now."""
        return np.array([position for position, _ in self._arm.rig()])

    @property
    def last(self) -> np.ndarray:
        """Rotation (rad) and translation (m) as measured last: nobody is asked."""
        return self._position / self._ratios

    def start(self) -> None:
        """Switches torque on where the axes stand."""
        here = self.measured() * self._ratios
        self._position = here
        self._reference = Reference.at(np.clip(here, self._limits.low, self._limits.high))
        speed = np.full(2, SETTINGS.hold_speed)
        self._arm.power(self._goals(here, speed))

    def move(self, rotation: float, translation: float) -> None:
        """Goes there (rad and m), or as near as the margin allows; the driver cycles meanwhile.

        Whatever fails on the way is in the book of faults as well, and holds the arm.

        Raises:
            RigError: the arm is in the way, moves or is held, an axis does not get there in time, does not
                answer or works against something, its encoder jumps, or the target is no number.
        """
        wanted = np.array([rotation, translation])
        if not np.isfinite(wanted).all():
            raise RigError(f"rotation {rotation} and translation {translation} must be numbers")
        self._interlock()
        target = np.clip(wanted * self._ratios, self._limits.low, self._limits.high)
        left = np.abs(target - self._reference.position) / self._limits.speed
        tick, beat = SETTINGS.tick, self._driver.beat
        allowed, used = 1.1 * float(left.max()) + 1.0, 0.0
        latest = beat.now() + SLOWEST * allowed
        self._looked = beat.now()
        self._heavy = np.zeros(2)
        while used < allowed and beat.now() < latest:
            self._driver.cycle()  # the joints first: their readings must not grow old
            self._interlock()
            used += tick * self._step(target, tick)
            beat.wait()
            if not self._reference.velocity.any() and self._arrived(target):
                return
        error = np.abs(self._position / self._ratios - target / self._ratios)
        axis = int((error / NEAR).argmax())
        self._fail(axis, f"lacks {error[axis]:.4f} of {wanted[axis]:.4f}: look whether it is blocked")

    def _interlock(self) -> None:
        """Before every goal: the arm holds, with torque, out of the way; another thread may have moved it."""
        safety = self._driver.safety
        if safety.mode in (Mode.HOLDING, Mode.OFF):
            faults = ", ".join(str(fault) for fault in safety.faults.active) or safety.mode.value
            raise RigError(f"the rig stopped, for the arm is held: {faults}")
        if safety.mode is not Mode.READY:
            raise RigError(f"the rig stopped, for the arm does not hold still: it is {safety.mode.value}")
        if not self._clear():
            raise RigError("the arm is in the rig's way: move it up and out first")

    def _fail(self, axis: int, what: str) -> NoReturn:
        name = self.axes[axis].name
        self._driver.safety.report("rig failed", name, what)
        self._driver.cycle()
        raise RigError(f"{name} {what}")

    def _step(self, target: np.ndarray, dt: float) -> bool:
        """One tick; whether the axes were asked.

        It is left out if the bus fails: the axes then stop at their last goals, a horizon ahead. While the
        joints are silent nobody is asked: who is missing is for the driver to ask, and takes time. Nor is
        anybody in a tick that is nearly over.
        """
        until = self._driver.beat.left(SHARE)
        if self._driver.silent or time.monotonic() >= until:
            return False
        try:
            with self._arm.link.hurried(until):
                self._follow(target, dt)
            self._misses.over()
        except LinkError as error:
            for condition in self._misses.add(error, self._driver.beat.now()):
                self._driver.safety.report(*condition)
        return True

    def _follow(self, target: np.ndarray, dt: float) -> None:
        lack = target - self._reference.position
        # A goal lies a horizon ahead, so the last stretch is approached in proportion.
        wanted = np.where(np.abs(lack) < 1e-3, 0.0, lack / (2.0 * SETTINGS.horizon))
        step = self._limiter.step(self._reference, wanted, self._look(dt), dt)
        self._reference = step.reference
        if step.goal is not None and step.speed is not None:
            self._arm.send(self._goals(step.goal, step.speed))

    def _look(self, dt: float) -> np.ndarray:
        """Angles of both shafts now (rad), which must be possible, and without much force.

        A toothed belt jumps only if the carriage resists more than it, and the motor has to overcome that:
        the encoder sits on the motor, so force is the only sign of it.
        """
        states = self._arm.rig()
        measured = np.array([state[0] for state in states]) * self._ratios
        loads = np.abs([state[1] for state in states])
        now = self._driver.beat.now()
        since, self._looked = max(dt, now - self._looked), now
        jumped = np.abs(measured - self._position) > np.array(SPEED) * 2.0 * since + JUMP
        self._position = measured
        if jumped.any():
            self._fail(int(jumped.argmax()), "jumped: look after its encoder and its coupling")
        self._heavy = np.where(loads > MOST_LOAD, self._heavy + dt, 0.0)
        heavy = int(self._heavy.argmax())
        if self._heavy[heavy] > LOAD_TIME:
            what = f"needs {100 * loads[heavy]:.0f} % of its torque: blocked, or its belt jumps teeth"
            self._fail(heavy, what)
        return measured

    def _arrived(self, target: np.ndarray) -> bool:
        return bool((np.abs(self._position - target) / self._ratios < NEAR).all())

    def _goals(self, shafts: np.ndarray, speed: np.ndarray) -> dict[str, tuple[float, float]]:
        pairs = zip(self.axes, shafts / self._ratios, speed / self._ratios)
        return {axis.name: (float(position), float(s)) for axis, position, s in pairs}
