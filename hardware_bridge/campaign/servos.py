"""Faults of single servos: shut down, hot, without supply, restarted, of another opinion, or lying."""

from __future__ import annotations

import dataclasses
import itertools

from hardware_bridge.campaign.bus import SLOT, held
from hardware_bridge.campaign.catalogue import Outcome, row
from hardware_bridge.campaign.stand import Stand
from hardware_bridge.faults import FaultError, Severity
from hardware_bridge.safety import Mode
from hardware_bridge.twin.servo import Nature
from hardware_bridge.twin.servo1 import Servo1

#: Near the rest pose (rad), so that the way home is short.
LOW = (0.0, -1.4, 1.4, 0.1, 0.0)
#: Every axis is inspected once (eight, one every fourth tick), and looked at again where it differs.
INSPECTED = 0.64 + 0.08 + SLOT


@row(
    15, "a servo shuts itself down", "overload: bit 5, torque limit 0, goals go on being acknowledged",
    "named within a tick of the error byte, held; backs off, gets torque again; the 4th in 5 min latches",
    SLOT,
)  # fmt: skip
def overload(stand: Stand, outcome: Outcome, within: float) -> None:
    stand.episode()
    servo = stand.servo("joint_4")
    assert isinstance(servo, Servo1)
    for time in range(4):
        stand.strike()
        servo.trip()
        stand.act(0.2)
        outcome.saw(stand.seen("overload", "joint_4"), "overload", within)
        last = time == 3
        held(stand, outcome, latched=last, stop=1.0)  # the joint falls, to where it comes to lie
        if last:
            break
        outcome.expect(servo.table["torque_limit"] == 0, "it got torque before anybody recovered it")
        stand.driver.recover()
        outcome.expect(servo.table["torque_limit"] > 0, "it got no torque")
        stand.episode()
    outcome.named = "overload (joint_4), four times"
    try:
        stand.driver.recover()
        outcome.expect(False, "the fourth was recovered")
    except FaultError:
        outcome.reaction += "; recovered three times, the fourth latched"


@row(
    16, "a servo overheats", "its surroundings at 95 °C: the shoulder warms up to 80 °C",
    "warns by 65 °C, goes to rest slowly by 70 °C, latches by 75 °C, before the servo trips", 0.1, angles=LOW,
)  # fmt: skip
def heat(stand: Stand, outcome: Outcome, within: float) -> None:
    stand.episode()
    servo = stand.servo("joint_2")
    servo.temperature = 58.0
    servo.nature = dataclasses.replace(servo.nature, ambient=95.0, cooling_time=12.0)
    stand.strike()
    seen: dict[str, float] = {}
    crossed: float | None = None
    while servo.temperature < 79.0 and len(seen) < 3:
        stand.act(SLOT)
        if crossed is None and servo.temperature >= 75.0:
            crossed = stand.beat.now()
        for kind in ("warm", "hot", "overheated"):
            if kind not in seen and stand.seen(kind, "joint_2"):
                seen[kind] = servo.temperature
        if "hot" in seen and seen.get("hot") == servo.temperature:
            outcome.expect(stand.safety.mode is Mode.HOMING, f"the arm is {stand.safety.mode.value}")
    for kind, most in (("warm", 65.0), ("hot", 70.0), ("overheated", 75.2)):
        outcome.expect(seen.get(kind, 99.0) <= most, f"{kind} was named at {seen.get(kind)} °C")
    outcome.named = ", ".join(f"{kind} ({degrees:.1f} °C)" for kind, degrees in seen.items())
    outcome.after = 0.0 if crossed is None else stand.beat.now() - crossed
    outcome.expect(outcome.after <= within, "latched too late")
    outcome.expect(servo.table["torque_limit"] > 0, "the servo tripped first")
    outcome.expect(stand.safety.mode is Mode.OFF, f"the arm is {stand.safety.mode.value}")
    latched = [fault.kind for fault in stand.safety.faults.active if fault.severity is Severity.LATCHED]
    outcome.expect(latched == ["overheated"], f"latched are {latched}")
    outcome.reaction = "went to rest slowly, torque off there, latched"


@row(
    17, "the supply sags", "12 V to 9.4 V within half a second",
    "warns below 10.5 V, holds below 10.0 V", 2 * SLOT,
)  # fmt: skip
def sag(stand: Stand, outcome: Outcome, within: float) -> None:
    stand.episode()
    for volts in (11.5, 11.0, 10.6):
        stand.line.supply(volts)
        stand.act(0.1)
    outcome.expect(not stand.seen("voltage low"), "it warned too early")
    for volts, kind in ((10.4, "voltage low"), (9.9, "undervoltage")):
        stand.line.supply(volts)
        stand.strike()
        stand.act(0.1)
        outcome.saw(stand.seen(kind), kind, within)
    stand.line.supply(9.4)
    held(stand, outcome)


@row(
    17, "the supply breaks down for a moment", "5.5 V for 60 ms: every servo restarts",
    "latched: torque limits are back at their fences", INSPECTED + 0.2, nature=Nature(boot_time=0.04),
)  # fmt: skip
def brown_out(stand: Stand, outcome: Outcome, within: float) -> None:
    stand.episode()
    stand.strike()
    stand.line.supply(5.5)
    stand.act(0.06)
    stand.line.supply(12.0)
    stand.act(within)
    outcome.saw(stand.seen("servo rebooted"), "servo rebooted", within)
    held(stand, outcome, latched=True, stop=1.0)  # what sagged comes back slowly


@row(
    18, "a servo restarts silently", "its RAM is reset within 30 ms, too quick to be missed",
    "seen by reading its registers back, latched; no stale goal", INSPECTED, nature=Nature(boot_time=0.0),
)  # fmt: skip
def reboot(stand: Stand, outcome: Outcome, within: float) -> None:
    stand.episode()
    servo = stand.servo("joint_3")
    stand.strike()
    servo.power_off()
    stand.act(SLOT)
    servo.power_up()
    stand.act(within)
    outcome.saw(stand.seen("servo rebooted", "joint_3"), "servo rebooted", within + SLOT)
    held(stand, outcome, latched=True, stop=1.0)  # what sagged comes back slowly


@row(
    19, "a servo refuses goals", "its own angle limits are narrower than the fences that were checked",
    "must not happen; seen by reading its goal back, latched", INSPECTED + 0.08,
)  # fmt: skip
def narrow(stand: Stand, outcome: Outcome, within: float) -> None:
    stand.episode()
    servo = stand.servo("joint_1")
    here = servo.table["goal_position"]
    stand.strike()
    servo.table["cw_angle_limit"], servo.table["ccw_angle_limit"] = here - 5, here + 5
    stand.act(within + 0.2)
    outcome.saw(stand.seen("angle limit", "joint_1"), "angle limit", within)
    held(stand, outcome, latched=True)


@row(
    24, "an encoder jumps", "the AX-12 reads 1023, then 0, as in its dead zone",
    "not plausible, not used, held", 2 * SLOT,
)  # fmt: skip
def dead_zone(stand: Stand, outcome: Outcome, within: float) -> None:
    stand.episode()
    ends = itertools.cycle((1023.0, 0.0))
    stand.strike()
    stand.servo("joint_5").sense = lambda raw: next(ends)
    stand.act(0.2)
    outcome.saw(stand.seen("encoder jump", "joint_5"), "encoder jump", within)
    held(stand, outcome)
