"""The rig that turns and moves the switch between tasks: within its limits, and never while the arm is in.

Its axes obey the same limiter as the arm's joints. That computes in the angles of the servos' shafts, because
its numbers (margin, lead, holding speed) are angles.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from hardware_bridge.arm import ServoArm
from hardware_bridge.driver import Driver
from hardware_bridge.limiter import Limiter, Limits, Reference
from hardware_bridge.safety_settings import SafetySettings

#: Of the shafts, rotation and translation: 10 degrees and 6 mm a second; the whole range takes 3.2 s.
SPEED = (0.5, 0.95)  # rad/s
ACCELERATION = (10.0, 20.0)  # rad/s²
#: Margin: two positions of the servos, so that a goal on a limit stays inside the fence.
SETTINGS = SafetySettings(margin=0.0032)
#: Measured this near to where it should be, an axis has arrived: rad and m (paper: none given).
NEAR = (math.radians(0.5), 0.0005)


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

    def measured(self) -> np.ndarray:
        """Rotation (rad) and translation (m) now."""
        return np.array([self._arm.position(axis) for axis in self.axes])

    def start(self) -> None:
        """Switches torque on where the axes stand."""
        here = self.measured() * self._ratios
        self._reference = Reference.at(np.clip(here, self._limits.low, self._limits.high))
        speed = np.full(2, SETTINGS.hold_speed)
        self._arm.power(self._goals(here, speed))

    def move(self, rotation: float, translation: float) -> None:
        """Goes there (rad and m), or as near as the margin allows; the driver cycles meanwhile.

        Raises:
            RigError: the arm is in the way, an axis does not get there in time, or the target is no number.
        """
        wanted = np.array([rotation, translation])
        if not np.isfinite(wanted).all():
            raise RigError(f"rotation {rotation} and translation {translation} must be numbers")
        if not self._clear():
            raise RigError("the arm is in the rig's way: move it up and out first")
        target = np.clip(wanted * self._ratios, self._limits.low, self._limits.high)
        left = np.abs(target - self._reference.position) / self._limits.speed
        tick, beat = SETTINGS.tick, self._driver.beat
        until = beat.now() + 1.1 * float(left.max()) + 1.0
        while beat.now() < until:
            self._step(target, tick)
            self._driver.cycle()
            beat.wait()
            if not self._reference.velocity.any() and self._arrived(target):
                return
        error = np.abs(self.measured() - target / self._ratios)
        axis = int((error / NEAR).argmax())
        raise RigError(
            f"{self.axes[axis].name} lacks {error[axis]:.4f} of {wanted[axis]:.4f}: look whether it is "
            "blocked, or its belt slips"
        )

    def _step(self, target: np.ndarray, dt: float) -> None:
        lack = target - self._reference.position
        # A goal lies a horizon ahead, so the last stretch is approached in proportion.
        wanted = np.where(np.abs(lack) < 1e-3, 0.0, lack / (2.0 * SETTINGS.horizon))
        measured = self.measured() * self._ratios
        step = self._limiter.step(self._reference, wanted, measured, dt)
        self._reference = step.reference
        if step.goal is not None and step.speed is not None:
            self._arm.send(self._goals(step.goal, step.speed))

    def _arrived(self, target: np.ndarray) -> bool:
        return bool((np.abs(self.measured() - target / self._ratios) < NEAR).all())

    def _goals(self, shafts: np.ndarray, speed: np.ndarray) -> dict[str, tuple[float, float]]:
        pairs = zip(self.axes, shafts / self._ratios, speed / self._ratios)
        return {axis.name: (float(position), float(s)) for axis, position, s in pairs}
