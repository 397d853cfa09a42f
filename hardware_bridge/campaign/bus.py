"""Faults of the servo bus: what comes back is damaged, late, doubled, missing, or somebody else's."""

from __future__ import annotations

import os

import numpy as np

from hardware_bridge.arm import NotReadyError
from hardware_bridge.campaign.catalogue import Outcome, row
from hardware_bridge.campaign.stand import Stand
from hardware_bridge.errors import LinkError, PortBusy
from hardware_bridge.link import Link
from hardware_bridge.protocol import PROTOCOL_1, Instruction
from hardware_bridge.safety import Mode, Safety
from hardware_bridge.servos import baud_code
from hardware_bridge.twin.faults import (
    Damage,
    WireFault,
    bare,
    compensate,
    delay,
    drop,
    duplicate,
    flip,
    noise,
    silence,
    truncate,
    wrong_id,
)
from hardware_bridge.twin.line import Line

#: One tick of the inner loop, in which a damaged reply has to be asked for again.
SLOT = 0.02
#: Brake and stand still, from the fault on (s): the promise P1's, with a tick to notice.
STOP = 0.22


def once(stand: Stand, outcome: Outcome, within: float, damage: Damage, kind: str) -> None:
    """One damaged reading: named, asked for again, nothing to be seen of it in the arm."""
    stand.episode()
    stand.strike()
    fault = stand.line.wire.add(WireFault(damage, servo_id=5))
    true = honest(stand)
    stand.act(0.5)
    outcome.expect(fault.hits == 1, "the fault did not strike")
    outcome.saw(stand.seen(kind), kind, within)
    outcome.expect(true(), "a damaged value was used")
    goes_on(stand, outcome)


def honest(stand: Stand) -> Honest:
    """Compares every reading that is used with where the joints really are."""
    return Honest(stand)


class Honest:
    """Whether what the driver used as joint angles was true, all the time since it was made."""

    def __init__(self, stand: Stand) -> None:
        self.lies: list[float] = []
        observe = stand.safety.observe

        def observed(reading, now):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            used = observe(reading, now)
            joints = [stand.world.joint(spec.name).position for spec in stand.profile.joints]
            if used and np.abs(reading.position - joints).max() > 0.006:  # a position of an AX
                self.lies.append(now)
            return used

        stand.safety.observe = observed  # type: ignore[method-assign]

    def __call__(self) -> bool:
        return not self.lies


def goes_on(stand: Stand, outcome: Outcome) -> None:
    """Nothing is to be seen of the fault."""
    outcome.reaction = "asked again, the episode went on"
    outcome.expect(stand.safety.mode is Mode.POLICY, f"the arm is {stand.safety.mode.value}")


def held(stand: Stand, outcome: Outcome, *, latched: bool = False, stop: float = STOP) -> None:
    """The arm brakes, stands still in time with torque on, and the fault ends as it should."""
    stand.idle(0.5)
    rested, after = stand.rested(), outcome.after or 0.0
    outcome.expect(stand.safety.mode is Mode.HOLDING, f"the arm is {stand.safety.mode.value}")
    if rested is None:
        outcome.expect(False, "the arm has not come to rest")
        return
    outcome.reaction = f"held, at rest after {1000 * rested:.0f} ms, torque on"
    outcome.expect(rested <= after + stop, f"at rest only after {rested:.3f} s")
    severities = {fault.severity.name for fault in stand.safety.faults.active if fault.response > 0}
    outcome.expect(("LATCHED" in severities) == latched, f"its faults are {', '.join(sorted(severities))}")
    outcome.reaction += ", latched" if latched else ", until the next episode"


def refused(stand: Stand, outcome: Outcome, kind: str, where: str, within: float) -> None:
    """The start is refused, by name, and no servo gets torque."""
    stand.strike()
    try:
        stand.start()
    except NotReadyError as error:
        found = {(item.kind, item.where): item.detail for item in error.conditions}
        outcome.expect((kind, where) in found, f"it says {found}")
        outcome.reaction = f"start refused: {found.get((kind, where), '')}; no torque"
    else:
        outcome.expect(False, "it started")
    outcome.saw(stand.seen(kind, where), f"{kind} at {where}", within)
    outcome.expect(not any(stand.torques().values()), "a servo got torque")


AGAIN = "asked again within the same tick, value never used, counted"


@row(1, "a reply with a wrong checksum, once", "one bit of a reply flipped", AGAIN, SLOT)
def checksum_once(stand: Stand, outcome: Outcome, within: float) -> None:
    once(stand, outcome, within, flip(-9), "reply damaged")
    outcome.expect(stand.arm.link.counts["checksum"] == 1, "it was not counted")


@row(
    2, "one reply in ten is damaged", "a random bit of every tenth reply flipped, at random",
    "goes on, never a wrong value; above 5 % over 5 s it holds", 5.0 + SLOT,
)  # fmt: skip
def noisy(stand: Stand, outcome: Outcome, within: float) -> None:
    stand.episode()
    stand.strike()
    stand.line.wire.add(WireFault(flip(), count=None, probability=0.1))
    true = honest(stand)
    while stand.seen("bus noisy") is None and stand.beat.now() < stand.struck + within:
        stand.act(SLOT)
    outcome.saw(stand.seen("bus noisy"), "bus noisy", within)
    outcome.expect(true(), "a damaged value was used")
    stand.line.wire.clear()
    held(stand, outcome)


@row(
    3, "two changes that cancel out in the checksum", "+1 on a byte of a position, -1 on the other",
    "rejected by plausibility, asked again", SLOT,
)  # fmt: skip
def compensating(stand: Stand, outcome: Outcome, within: float) -> None:
    once(stand, outcome, within, compensate(), "reading implausible")


@row(4, "a byte of a reply is lost", "one byte deleted", "deadline, drained, " + AGAIN, SLOT)
def lost_byte(stand: Stand, outcome: Outcome, within: float) -> None:
    once(stand, outcome, within, drop(-3), "reply incomplete")


@row(5, "a reply is cut short", "its first five bytes only", "the next one inherits nothing; " + AGAIN, SLOT)
def cut_short(stand: Stand, outcome: Outcome, within: float) -> None:
    once(stand, outcome, within, truncate(5), "reply incomplete")


@row(6, "junk before a reply", "five random bytes first", "skipped, the value is right", SLOT)
def junk(stand: Stand, outcome: Outcome, within: float) -> None:
    once(stand, outcome, within, noise(), "bytes between")
    outcome.reaction = "skipped, the episode went on"


@row(
    7, "a reply comes too late", "held back for 150 ms, beyond its deadline and its retries",
    "thrown away: never the answer to a later question", 0.1,
)  # fmt: skip
def late(stand: Stand, outcome: Outcome, within: float) -> None:
    once(stand, outcome, within, delay(0.15), "reply late")
    outcome.reaction = "thrown away, asked again, the episode went on"


@row(8, "a reply comes twice", "sent twice", "the second one is thrown away", SLOT + SLOT)
def twice(stand: Stand, outcome: Outcome, within: float) -> None:
    once(stand, outcome, within, duplicate(), "reply doubled")
    outcome.reaction = "the second thrown away, the episode went on"


@row(9, "a bare acknowledgement to a read", "its data left out, its checksum right", "length; " + AGAIN, SLOT)
def bare_reply(stand: Stand, outcome: Outcome, within: float) -> None:
    once(stand, outcome, within, bare(), "reply incomplete")


@row(10, "a reply from another id, once", "its id changed, its checksum right", AGAIN, SLOT)
def stranger(stand: Stand, outcome: Outcome, within: float) -> None:
    once(stand, outcome, within, wrong_id(9), "reply from another")


@row(
    10, "replies from another id, again and again", "the same for ever",
    "id conflict, latched, within the readings that are borne", 0.1,
)  # fmt: skip
def conflict(stand: Stand, outcome: Outcome, within: float) -> None:
    stand.episode()
    stand.strike()
    stand.line.wire.add(WireFault(wrong_id(9), servo_id=5, count=None))
    stand.act(0.3)
    outcome.saw(stand.seen("id conflict", "joint_5"), "id conflict", within)
    held(stand, outcome, latched=True)


def _same_id(line: Line) -> None:
    line.servo(4).table["id"] = 1


@row(
    11, "two servos with one id", "joint 4's servo has the id of joint 1's, of the same model",
    "found at the start, latched, no torque", 5.0, change=_same_id,
)  # fmt: skip
def doubled_id(stand: Stand, outcome: Outcome, within: float) -> None:
    refused(stand, outcome, "duplicate id", "joint_1", within)


def _mute(line: Line) -> None:
    line.servo(3).mute = True


@row(
    12, "a servo is missing at the start", "servo 3 says nothing",
    "start refused, names id and joint, no torque", 5.0, change=_mute,
)  # fmt: skip
def missing(stand: Stand, outcome: Outcome, within: float) -> None:
    refused(stand, outcome, "servo missing", "joint_3", within)


@row(
    13, "a servo is lost in an episode", "the data line of servo 4 is cut; it keeps its supply",
    "named after 3 misses, at most 100 ms; the others hold, latched", 0.1,
)  # fmt: skip
def lost(stand: Stand, outcome: Outcome, within: float) -> None:
    stand.episode()
    stand.strike()
    stand.servo("joint_4").mute = True
    stand.act(0.3)
    outcome.saw(stand.seen("servo missing", "joint_4"), "servo missing", within)
    held(stand, outcome, latched=True)


@row(
    14, "one silent servo breaks a chained read", "servo 2 answers no bulk reads, single ones only",
    "asked one by one in the same tick; names id 2", SLOT,
)  # fmt: skip
def chain(stand: Stand, outcome: Outcome, within: float) -> None:
    stand.episode()
    stand.strike()
    stand.line.wire.add(WireFault(silence(), servo_id=2, instruction=int(Instruction.BULK_READ), count=None))
    true = honest(stand)
    readings = stand.driver.reading
    stand.act(0.5)
    sight = stand.seen("packet lost", "joint_2")
    outcome.saw(sight, "packet lost at joint_2", within)
    outcome.expect(sight is not None and "id 2" in sight.fault.detail, "id 2 is not named")
    outcome.expect(true() and stand.driver.reading is not readings, "no true readings came")
    goes_on(stand, outcome)
    outcome.reaction = "asked one by one, the episode went on"


def _other_rate(line: Line) -> None:
    line.servo(2).table["baud_rate"] = baud_code(1, 57_600)


@row(
    20, "a servo at another baud rate", "servo 2 at its factory's 57,600 baud",
    "start refused, names the rate, writes nothing", 5.0, change=_other_rate,
)  # fmt: skip
def other_rate(stand: Stand, outcome: Outcome, within: float) -> None:
    refused(stand, outcome, "baud mismatch", "joint_2", within)
    outcome.expect("57600" in outcome.reaction, "the rate is not named")
    writes = [packet for packet in stand.log if packet.by == "driver" and packet.raw[4] in (0x03, 0x83)]
    outcome.expect(not writes, "something was written")


@row(
    21, "the port vanishes in an episode", "the terminal is closed; 1 s later there is a new one",
    "named in the same tick; the servos stop at their goals; opened again by name, latched", SLOT,
)  # fmt: skip
def vanished(stand: Stand, outcome: Outcome, within: float) -> None:
    stand.episode()
    stand.strike()
    stand.line.unplug()
    _gone(stand, outcome, within)


def _gone(stand: Stand, outcome: Outcome, within: float) -> None:
    """Named, the arm stops by itself, and the port is taken up again once it is there."""
    stand.act(1.0)
    outcome.saw(stand.seen("port gone", "bus"), "port gone", within)
    rested = stand.rested()
    outcome.expect(rested is not None and rested <= 0.15, f"at rest after {rested}")
    try:
        stand.driver.recover()
        outcome.expect(False, "it recovered without a port")
    except LinkError as error:
        outcome.expect(False, f"an exception of the bus got out: {error}")
    except Exception as error:  # noqa: BLE001 - what it is, is looked at
        outcome.expect("port gone" in str(error), f"it says {error}")
    if not stand.line.plugged:
        stand.line.replug()
    else:
        stand.line.unplug()
        stand.line.replug()
    stand.idle(2.5)
    outcome.expect(stand.arm.link.is_open, "the port was not opened again")
    outcome.expect(stand.safety.mode is Mode.HOLDING, f"the arm is {stand.safety.mode.value}")
    latched = [fault for fault in stand.safety.faults.active if fault.severity.name == "LATCHED"]
    outcome.expect(bool(latched), "nothing is latched")
    for fault in latched:
        stand.safety.acknowledge(fault.kind, fault.where)
    stand.driver.recover()
    stand.episode()
    outcome.expect(stand.safety.mode is Mode.POLICY, f"afterwards the arm is {stand.safety.mode.value}")
    outcome.reaction = f"at rest by itself after {1000 * (rested or 0):.0f} ms; opened again, latched"


@row(
    22, "a second program wants the port", "opened a second time",
    "refused: another program holds it", 0.5,
)  # fmt: skip
def second_program(stand: Stand, outcome: Outcome, within: float) -> None:
    stand.start()
    stand.strike()
    try:
        Link(stand.line.port)
        outcome.expect(False, "it was opened twice")
    except PortBusy as error:
        outcome.named, outcome.after, outcome.reaction = f"{error.kind} (start)", 0.0, "start refused"


@row(
    22, "a second program that minds no lock", "it asks servo 1 through the same terminal, once a tick",
    "its bytes are no answer to us: latched", 0.1,
)  # fmt: skip
def foreign(stand: Stand, outcome: Outcome, within: float) -> None:
    stand.episode()
    true = honest(stand)
    stand.strike()
    other = os.open(stand.line.port, os.O_RDWR | os.O_NOCTTY)

    def ask(safety: Safety, now: float) -> None:
        stand.beat.before += os.write(other, PROTOCOL_1.ping(1))

    stand.watches.append(ask)
    try:
        stand.act(0.3)
        stand.watches.remove(ask)
    finally:
        os.close(other)
    outcome.saw(stand.seen("foreign bytes"), "foreign bytes", within)
    outcome.expect(true(), "a foreign value was used")
    held(stand, outcome, latched=True)


@row(
    23, "the adapter takes no more bytes", "the terminal's flow control stops it",
    "a write has a deadline; then as if the port had vanished", SLOT,
)  # fmt: skip
def blocked(stand: Stand, outcome: Outcome, within: float) -> None:
    stand.episode()
    stand.strike()
    stand.line.jam()
    _gone(stand, outcome, within)
    outcome.expect(stand.safety.faults.counts["port gone"] >= 1, "not counted")
