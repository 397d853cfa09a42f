"""Every number of the safety layer, checked when it is set."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class SafetySettings:
    """Bounds and deadlines; times in s, angles in rad, lengths in m, temperatures in °C.

    Motion. ``tick``: of the loop that commands the servos. ``horizon``: how far ahead of the reference a
    goal is: a host that dies leaves the arm at its goal, so this is the servos' own dead-man switch. Near the
    ready pose, at 0.2 rad/s, emulated joints then rest within 143 ms with 60 ms, within 128 ms with the 50 ms
    of the shipped files; the base of a stretched arm swings on, for 165 and 160 ms. ``margin``: kept from
    joint limits. ``lead``: the most by which a goal may differ from the measured angle, which bounds wind-up
    and the force of contact. ``clearance``: kept from table, keep-out box, the arm's base, workspace's edge.
    ``hold_speed``: sent with goals that hold, for 0 would mean full speed. ``move_speed`` and ``limp_speed``:
    of resets, and of the way home of an unwell arm (rad/s). ``rest_wait``: for which the beginning of an
    episode waits for an arm that cools at rest; from 65 to 60 °C the emulated servos, whose time constant is
    300 s, take 40 s.

    Deadlines. ``action_deadline``: from an action until braking begins. ``stop_time``: from there to rest.
    ``action_age``: an action that is older on arrival is dropped. ``period``: of the policy. ``joints_age``,
    ``images_age``: of what is measured and seen. ``loop_age``: between two ticks.

    Supervision. ``follow_error`` for longer than ``follow_time``: pressing, or stuck. ``limp_error`` for
    longer than ``limp_time`` with a load below ``limp_load`` (fraction of stall): a servo that gave up
    without saying so. ``runaway_speed`` (rad/s) beyond what was commanded, for ``runaway_time``.
    ``swings`` about the reference, each at least ``swing`` wide from end to end, within ``swing_time``: it
    oscillates. More than ``stray`` (rad) away from the reference by the servo's own force within
    ``stray_time``: it strays.
    ``high_load`` for ``load_time``. ``noise``: share of damaged replies within ``noise_time`` that is borne.
    ``jump``: what a reading may exceed its speed limit by, in rad.
    ``bad_actions``, ``bad_readings``: in a row, until the episode ends. ``repeats`` of a recoverable fault
    within ``repeat_time``: then it latches. ``arrived``: how near a measured angle must be at a move's end.

    Raises:
        ValueError: a number that is no number, not above 0, or in conflict with another; says which.
    """

    tick: float = 0.02
    horizon: float = 0.06
    margin: float = 0.02
    lead: float = 0.1
    clearance: float = 0.010
    hold_speed: float = 0.05
    move_speed: float = 0.3
    limp_speed: float = 0.1
    rest_wait: float = 900.0

    action_deadline: float = 0.42  # seen at the next tick: braking begins within 0.45
    stop_time: float = 0.2
    action_age: float = 0.45
    period: float = 0.303
    joints_age: float = 0.1
    images_age: float = 0.2
    loop_age: float = 0.1

    follow_error: float = 0.09
    follow_time: float = 2.0
    limp_error: float = 0.06
    limp_time: float = 0.3
    limp_load: float = 0.03
    runaway_speed: float = 0.6
    runaway_time: float = 0.06
    swing: float = 0.1
    swings: int = 5
    swing_time: float = 1.0
    stray: float = 0.15
    stray_time: float = 0.5
    high_load: float = 0.45
    load_time: float = 3.0
    low_voltage: float = 10.5
    least_voltage: float = 10.0
    jump: float = 0.1
    noise: float = 0.05
    noise_time: float = 5.0
    bad_actions: int = 3
    bad_readings: int = 3
    repeats: int = 3
    repeat_time: float = 300.0
    arrived: float = 0.12

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{item.name}: must be a number above 0, got {value!r}")
        self._require(0.05 <= self.horizon <= 0.15, "horizon", "within 0.05 and 0.15 s")
        self._require(self.tick <= self.horizon / 2.5, "tick", "at most 0.4 of the horizon")
        self._require(self.lead <= 0.2, "lead", "at most 0.2 rad: it is what bounds the force of contact")
        self._require(self.follow_error < self.lead, "follow_error", "below lead, or it is never reached")
        self._require(self.loop_age <= 0.1, "loop_age", "at most 0.1 s")
        self._require(self.action_deadline > self.period, "action_deadline", "above the policy's period")
        self._require(self.action_deadline <= 0.45, "action_deadline", "at most 0.45 s (1.5 periods)")
        self._require(self.least_voltage <= self.low_voltage, "least_voltage", "at most low_voltage")
        self._require(
            self.horizon + 2 * self.tick <= self.stop_time <= 0.2, "stop_time", "horizon + 2 ticks to 0.2 s"
        )

    def _require(self, holds: bool, name: str, what: str) -> None:
        if not holds:
            raise ValueError(f"{name}: must be {what}, got {getattr(self, name)!r}")
