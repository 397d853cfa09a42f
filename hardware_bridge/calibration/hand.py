"""Servos whose torque is off, which somebody moves by hand, as all of ``calibrate`` looks at them.

Nothing here moves a motor. Nobody has a hand free for a key meanwhile, so a pose counts once it has been held
still, and every wait has an end.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hardware_bridge.config import Configuration
from hardware_bridge.link import Link
from hardware_bridge.servos import JointSpec

#: A pose is held still if no servo moves more than this (rad at its shaft) for ``Patience.still``.
STILL = 0.012


class CalibrationError(Exception):
    """Something could not be measured: what, where, and what to do."""


@dataclass(frozen=True)
class Patience:
    """For how long something is held still, is waited for, and is looked at (s)."""

    still: float = 1.5
    wait: float = 60.0
    look: float = 4.0


@dataclass(frozen=True)
class Measured:
    """What came of a part: values by their places in the file, and lines for people."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()


Tell = Callable[[str], None]


# On the bus ----------------------------------------------------------------------------------------


class Hand:
    """Servos without torque, which somebody moves by hand.

    Args:
        link: their bus.
        axes: whose.
        patience: how long to wait for what.

    Raises:
        CalibrationError: one has its torque on.
        LinkError: one does not answer.
    """

    def __init__(self, link: Link, axes: Sequence[JointSpec], patience: Patience) -> None:
        self.link, self._axes, self._patience = link, tuple(axes), patience
        self._units = np.array([axis.model.rad_per_tick for axis in axes])
        on = [axis.name for axis in axes if self._read(axis, "torque_enable")]
        if on:
            raise CalibrationError(
                f"the torque of {', '.join(on)} is on: end what uses the arm, so that it goes to rest, "
                "or switch its supply off and on with the arm held"
            )

    def _read(self, axis: JointSpec, register: str) -> int:
        return self.link.read_registers(axis.servo, register)[0][register]

    def ticks(self) -> np.ndarray:
        """``(axes,)``, now."""
        return np.array([float(self._read(axis, "present_position")) for axis in self._axes])

    def held(self, missing: Callable[[np.ndarray], str]) -> np.ndarray:
        """Where the axes stand once they are held still: ``(axes,)`` ticks, their mean.

        Args:
            missing: what lacks at these ticks; "" if nothing does.

        Raises:
            CalibrationError: it did not come to that in time; says what lacks.
        """
        why = "nothing was read"
        for recent in self._watch():
            why = self._restless(recent) or missing(np.mean(recent, axis=0))
            if not why:
                return np.asarray(np.mean(recent, axis=0))
        raise CalibrationError(f"{why}, after {self._patience.wait:.0f} s; begin again")

    def swept(self, least: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest ticks ``(axes,)`` each, once all have gone so far (ticks) and stand still.

        Raises:
            CalibrationError: one has not gone so far in time.
        """
        low, high = np.full(len(self._axes), np.inf), np.full(len(self._axes), -np.inf)
        for recent in self._watch():
            low, high = np.minimum(low, recent[-1]), np.maximum(high, recent[-1])
            if (high - low >= least).all() and not self._restless(recent):
                return low, high
        axis = int(((high - low) / least).argmin())
        went, wanted = (value * self._units[axis] for value in ((high - low)[axis], least[axis]))
        raise CalibrationError(
            f"{self._axes[axis].name}: its servo turned {went:.2f} rad within {self._patience.wait:.0f} s, "
            f"at least {wanted:.2f} are needed: move it from end to end by hand"
        )

    def _watch(self) -> Iterator[Sequence[np.ndarray]]:
        """What was read lately: as much as a pose must be held, again and again until the end."""
        recent: deque[tuple[float, np.ndarray]] = deque()
        until = time.monotonic() + self._patience.wait
        while (now := time.monotonic()) < until:
            recent.append((now, self.ticks()))
            while len(recent) > 2 and now - recent[1][0] >= self._patience.still:
                recent.popleft()
            if now - recent[0][0] >= self._patience.still:
                yield [ticks for _, ticks in recent]
            time.sleep(0.02)

    def _restless(self, recent: Sequence[np.ndarray]) -> str:
        spread = np.ptp(recent, axis=0) * self._units
        most = np.maximum(STILL, 1.5 * self._units)
        axis = int((spread - most).argmax())
        return f"{self._axes[axis].name} is not held still" if spread[axis] > most[axis] else ""


@contextlib.contextmanager
def hand(robot: Configuration, axes: Sequence[JointSpec], patience: Patience) -> Iterator[Hand]:
    """Some axes of a robot on its own bus."""
    port = robot.port
    with Link(port.device, port.baud, latency_timer=port.latency_timer, slack=0.02) as link:
        yield Hand(link, axes, patience)
