"""Emulated servos on their pseudo-terminal, met by two clients: the servo maker's SDK and our own link.

Most lines run in lockstep, where replies come at once and nothing depends on how busy the machine is; what is
measured in real time has bounds from below, or generous ones.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from dataclasses import replace

import dynamixel_sdk as sdk
import numpy as np
import pytest
from dynamixel_sdk import port_handler

from hardware_bridge.arm import ServoArm
from hardware_bridge.errors import (
    BadReply,
    NoReply,
    PortBusy,
    PortGone,
    PortMissing,
    Refused,
    WriteBlocked,
)
from hardware_bridge.link import Link
from hardware_bridge.protocol import PROTOCOL_1, Decoder, Instruction, as_status
from hardware_bridge.servos import AX_12, MX_28, MX_28_2, PROFILES, WIDOWX_MK2, WX200, XM430_W350
from hardware_bridge.twin import faults
from hardware_bridge.twin.build import bench, emulate
from hardware_bridge.twin.faults import WireFault
from hardware_bridge.twin.joint import BenchJoint, Shaft
from hardware_bridge.twin.line import Line, terminal_baud
from hardware_bridge.twin.servo1 import Servo1

pytestmark = pytest.mark.real_time

#: Added to deadlines, for a busy machine (s): where every reply comes, and where some do not and are waited
#: for.
PATIENT, BRIEF = 2.0, 0.1

both = pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)


@pytest.fixture
def start(tmp_path):
    """Starts lines that are closed after the test."""
    lines = []

    def build(profile=WIDOWX_MK2, clock="lockstep", positions=None, factory=False, servos=None, **keywords):
        world = bench(profile, positions)
        servos = emulate(profile, world, factory=factory) if servos is None else servos
        line = Line(servos, world, clock=clock, link_path=tmp_path / f"ttyTWIN{len(lines)}", **keywords)
        lines.append(line)
        return line.start()

    yield build
    for line in lines:
        line.close()


@pytest.fixture
def connect():
    """Opens links that are closed after the test."""
    links = []

    def build(line, baud=1_000_000, slack=PATIENT, **keywords):
        links.append(Link(line.port, baud, slack=slack, **keywords))
        return links[-1]

    yield build
    for link in links:
        link.close()


# ---------------------------------------------------------------- the maker's SDK


class Client:
    """The SDK, as its examples use it."""

    def __init__(self, line, baud=1_000_000):
        self.port = sdk.PortHandler(line.port)
        assert self.port.openPort() and self.port.setBaudRate(baud)

    def handler(self, axis):
        return sdk.PacketHandler(float(axis.protocol))

    def read(self, axis, name, servo_id=None):
        register = axis.model.register(name)
        call = {1: "read1ByteTxRx", 2: "read2ByteTxRx", 4: "read4ByteTxRx"}[register.size]
        value, result, error = getattr(self.handler(axis), call)(
            self.port, servo_id or axis.id, register.address
        )
        assert (result, error) == (sdk.COMM_SUCCESS, 0), (axis.name, name, result, error)
        return register.decode(value.to_bytes(register.size, "little"))

    def write(self, axis, name, value):
        register = axis.model.register(name)
        call = {1: "write1ByteTxRx", 2: "write2ByteTxRx", 4: "write4ByteTxRx"}[register.size]
        return getattr(self.handler(axis), call)(self.port, axis.id, register.address, value)


@pytest.fixture
def client(monkeypatch):
    """SDK clients that wait for half a second before they give up, instead of 34 ms."""
    monkeypatch.setattr(port_handler, "LATENCY_TIMER", 250)
    clients = []

    def build(line, baud=1_000_000):
        clients.append(Client(line, baud))
        return clients[-1]

    yield build
    for opened in clients:
        opened.port.closePort()


@both
def test_the_sdk_pings_reads_and_writes(profile, start, client):
    line = start(profile, positions={"rotation": 0.1})
    maker = client(line)
    for axis in profile:
        for servo_id in axis.ids:
            number, result, error = maker.handler(axis).ping(maker.port, servo_id)
            assert (number, result, error) == (axis.model.number, sdk.COMM_SUCCESS, 0)
        tick = maker.read(axis, "present_position")
        expected = 0.1 if axis.name == "rotation" else 0.0
        assert axis.to_position(tick) == pytest.approx(expected, abs=2e-3)
        goal = axis.to_tick(axis.lower + 0.7 * (axis.upper - axis.lower))
        assert maker.write(axis, "torque_enable", 1) == (sdk.COMM_SUCCESS, 0)
        assert maker.write(axis, "goal_position", goal) == (sdk.COMM_SUCCESS, 0)
        assert maker.read(axis, "goal_position") == goal
        limit = axis.model.limit_registers[1]
        assert maker.read(axis, limit) == axis.tick_limits[1]
    _, result, _ = sdk.PacketHandler(1.0).ping(maker.port, 77)
    assert result == sdk.COMM_RX_TIMEOUT


@both
def test_the_sdk_sync_writes_and_the_arm_goes_there(profile, start, client):
    line = start(profile)
    maker = client(line)
    goals = {axis: axis.to_tick(0.3) for axis in profile.joints}
    first = profile.joints[0]
    for name, values in (("torque_enable", dict.fromkeys(goals, 1)), ("goal_position", goals)):
        register = first.model.register(name)
        group = sdk.GroupSyncWrite(maker.port, maker.handler(first), register.address, register.size)
        for axis, value in values.items():
            assert group.addParam(axis.id, list(value.to_bytes(register.size, "little")))
        assert group.txPacket() == sdk.COMM_SUCCESS
    for axis, goal in goals.items():  # a read behind it proves that it has arrived
        assert maker.read(axis, "goal_position") == goal
    line.advance(2.0)
    for axis in profile.joints:
        assert line.mechanics.joint(axis.name).position == pytest.approx(0.3, abs=0.02)
        assert axis.to_position(maker.read(axis, "present_position")) == pytest.approx(0.3, abs=0.02)


def test_the_sdk_sync_reads_bulk_reads_and_reboots_protocol_2(start, client):
    line = start(WX200, positions={"waist": 0.5})
    maker = client(line)
    packets = sdk.PacketHandler(2.0)
    register = XM430_W350.register("present_position")
    sync = sdk.GroupSyncRead(maker.port, packets, register.address, register.size)
    bulk = sdk.GroupBulkRead(maker.port, packets)
    for axis in WX200:
        assert sync.addParam(axis.id) and bulk.addParam(axis.id, register.address, register.size)
    for group in (sync, bulk):
        assert group.txRxPacket() == sdk.COMM_SUCCESS
        for axis in WX200:
            assert group.isAvailable(axis.id, register.address, register.size)
            expected = axis.to_tick(0.5 if axis.name == "waist" else 0.0)
            assert group.getData(axis.id, register.address, register.size) == expected
    assert packets.reboot(maker.port, 1) == (sdk.COMM_SUCCESS, 0)
    assert packets.ping(maker.port, 1)[1] == sdk.COMM_RX_TIMEOUT, "it is still starting"
    line.advance(0.2)
    assert packets.ping(maker.port, 1)[1] == sdk.COMM_SUCCESS


def test_the_sdk_bulk_reads_protocol_1(start, client):
    """By hand: its own group call raises TypeError in 4.1.0."""
    line = start(positions={"joint_3": 0.4})
    maker = client(line)
    packets = sdk.PacketHandler(1.0)
    request = [value for servo_id in (1, 2, 3, 4) for value in (8, servo_id, 36)]
    assert packets.bulkReadTx(maker.port, request, len(request)) == sdk.COMM_SUCCESS
    for servo_id in (1, 2, 3, 4):
        data, result, error = packets.readRx(maker.port, servo_id, 8)
        assert (result, error) == (sdk.COMM_SUCCESS, 0)
        assert MX_28.unpack(36, bytes(data)) == {
            "present_position": WIDOWX_MK2.joints[2].to_tick(0.4) if servo_id == 3 else 2048,
            "present_speed": 0,
            "present_load": 0,
            "present_voltage": 120,
            "present_temperature": 25,
        }
    maker.port.is_using = False


def test_the_sdk_broadcast_pings_protocol_2(start, client, monkeypatch):
    monkeypatch.setattr(port_handler, "LATENCY_TIMER", 16)
    line = start(WX200)
    found, result = sdk.PacketHandler(2.0).broadcastPing(client(line).port)
    assert result == sdk.COMM_SUCCESS
    assert {servo_id: data[0] for servo_id, data in found.items()} == {
        servo_id: axis.model.number for axis in WX200 for servo_id in axis.ids
    }


def test_the_sdk_unstuffs_what_the_servo_stuffs(start, client):
    """Current −1, then a velocity of −3: FF FF FD on the wire, as of an arm that holds a pose."""
    line = start(WX200)
    with line.lock:
        servo = line.servo(1)
        servo.refresh = lambda *block: None
        servo.table["present_current"] = -1
        servo.table["present_velocity"] = -3
    maker = client(line)
    data, result, _ = sdk.PacketHandler(2.0).readTxRx(maker.port, 1, 126, 6)
    assert result == sdk.COMM_SUCCESS and bytes(data) == bytes.fromhex("FFFFFDFFFFFF")


def test_the_sdk_sees_error_bits(start, client):
    line = start()
    maker = client(line)
    axis = WIDOWX_MK2.joints[1]
    assert maker.write(axis, "goal_position", 3500) == (sdk.COMM_SUCCESS, 0x02)
    with line.lock:
        line.servo(2).temperature = 85.0
    assert maker.write(axis, "led", 1) == (sdk.COMM_SUCCESS, 0x04)


def test_the_sdk_gets_no_answer_at_another_rate(start, client, monkeypatch):
    monkeypatch.setattr(port_handler, "LATENCY_TIMER", 16)
    line = start()
    maker = client(line, baud=57_600)
    assert sdk.PacketHandler(1.0).ping(maker.port, 1)[1] == sdk.COMM_RX_TIMEOUT
    monkeypatch.setattr(port_handler, "LATENCY_TIMER", 250)
    assert maker.port.setBaudRate(1_000_000)
    assert maker.read(WIDOWX_MK2.joints[0], "id") == 1


# ---------------------------------------------------------------- our link: what works


@both
def test_our_link_reads_and_moves_every_axis(profile, start, connect):
    line = start(profile)
    link = connect(line)
    for axis in profile:
        link.ping(axis.protocol, axis.id)
        link.write_registers(axis.servo, torque_enable=1)
    link.sync_write_registers(
        {axis.servo: {axis.model.speed_register: axis.to_speed_ticks(axis.max_speed)} for axis in profile}
    )
    target = {axis: 0.3 * axis.lower + 0.7 * axis.upper for axis in profile}
    link.sync_write_registers({axis.servo: {"goal_position": axis.to_tick(target[axis])} for axis in profile})
    line.advance(4.0, after_bytes=link.sent)
    for axis in profile:
        values, reply = link.read_registers(axis.servo, *axis.model.state_registers)
        tolerance = 0.02 * (axis.upper - axis.lower)
        assert axis.to_position(values["present_position"]) == pytest.approx(target[axis], abs=tolerance)
        assert line.mechanics.joint(axis.name).position == pytest.approx(target[axis], abs=tolerance)
        assert reply.errors == () and values[axis.model.voltage_register] == 120
    assert set(link.counts) == {"attempts", "ok"}


def test_chained_reads_of_both_protocols(start, connect):
    old, new = start(WIDOWX_MK2), start(WX200)
    replies = connect(old).bulk_read(1, [(servo_id, 36, 8) for servo_id in (1, 2, 3, 4)])
    assert [reply.data[:2] for reply in replies.values()] == 4 * [b"\x00\x08"]
    link = connect(new)
    ids = [axis.id for axis in WX200]
    assert list(link.sync_read(132, 4, ids)) == ids
    assert list(link.bulk_read(2, [(servo_id, 132, 4) for servo_id in ids])) == ids


def test_protocols_may_share_a_bus(start, connect):
    """MX servos with 2.0 firmware beside an AX, which stays with Protocol 1."""
    mixed = replace(
        WIDOWX_MK2,
        joints=tuple(replace(a, model=MX_28_2) if a.model is not AX_12 else a for a in WIDOWX_MK2.joints),
    )
    line = start(mixed)
    link = connect(line)
    link.sync_write_registers({axis.servo: {"led": 1} for axis in mixed.joints})
    for axis in mixed.joints:
        values, _ = link.read_registers(axis.servo, "led")
        assert values == {"led": 1}
    assert line.counts["damaged: length"] == 0


def test_a_broadcast_and_registered_writes(start, connect):
    line = start()
    link = connect(line)
    link.broadcast_write(1, MX_28.register("led").address, b"\x01")
    link.reg_write(1, 1, *MX_28.pack({"goal_position": 2100}))
    assert link.read_registers(WIDOWX_MK2.joints[0].servo, "goal_position")[0] == {"goal_position": 2048}
    link.action(1)
    assert link.read_registers(WIDOWX_MK2.joints[0].servo, "goal_position")[0] == {"goal_position": 2100}
    assert all(servo.table["led"] == 1 for servo in line.servos)
    with pytest.raises(ValueError, match="broadcast"):
        link.write(1, 254, 25, b"\x01")


def test_every_byte_is_recorded(start, connect):
    line = start()
    records = []
    link = connect(line, record=records.append)
    link.read(1, 1, 36, 2)
    line.wire.add(WireFault(faults.flip(40)))
    link.read(1, 1, 36, 2)
    good, bad, again = records
    assert good.sent == PROTOCOL_1.read(1, 36, 2) == bad.sent == again.sent
    assert good.received == PROTOCOL_1.status(1, 0, b"\x00\x08") == again.received != bad.received
    assert [record.outcome for record in records] == ["ok", "checksum", "ok"]
    assert [record.attempt for record in records] == [1, 1, 2]
    assert good.started <= good.ended <= bad.started and good.deadline > good.started


# ---------------------------------------------------------------- our link: damage on the wire

POSITION = b"\x00\x08"
ONE_BAD_REPLY = {
    "flip": (faults.flip(-1), "checksum"),
    "drop": (faults.drop(-2), "truncated"),
    "first byte lost": (faults.drop(0), "timeout"),
    "truncate": (faults.truncate(4), "truncated"),
    "wrong id": (faults.wrong_id(3), "wrong id"),
    "bare": (faults.bare(), "length"),
    "silence": (faults.silence(), "timeout"),
}
HARMLESS = {
    "noise": faults.noise(6),
    "duplicate": faults.duplicate(),
    "extra FF": lambda reply, rng: [(0.0, b"\xff\xff" + reply.raw)],
}


@pytest.mark.parametrize("name", ONE_BAD_REPLY)
@both
def test_one_bad_reply_is_named_counted_and_asked_again(profile, name, start, connect):
    damage, reason = ONE_BAD_REPLY[name]
    line, axis = start(profile), profile.joints[0]
    link = connect(line, slack=BRIEF, retries=1)
    address, length = axis.model.span("present_position", "present_position")
    fault = line.wire.add(WireFault(damage, servo_id=axis.id))
    assert link.read(axis.protocol, axis.id, address, length).data[:2] == POSITION
    assert fault.hits == 1 and link.counts[reason] == 1 and link.counts["retries"] == 1
    assert link.counts_by_id[axis.id][reason] == 1
    line.wire.add(WireFault(damage, servo_id=axis.id, count=None))
    with pytest.raises((BadReply, NoReply)) as caught:
        link.read(axis.protocol, axis.id, address, length)
    assert caught.value.ids == (axis.id,) and str(line.port) in str(caught.value)
    line.wire.clear()
    assert link.read(axis.protocol, axis.id, address, length).data[:2] == POSITION


@pytest.mark.parametrize("name", HARMLESS)
def test_what_surrounds_a_sound_reply_is_skipped(name, start, connect):
    line = start()
    link = connect(line)
    line.wire.add(WireFault(HARMLESS[name], count=None))
    for _ in range(20):
        assert link.read(1, 1, 36, 2).data == POSITION
    assert link.counts["retries"] == 0
    assert link.counts["junk bytes"] + link.counts["stale bytes"] + link.counts["doubled"] > 0


def test_random_flips_never_yield_a_wrong_value(start, connect):
    line = start(seed=1)
    link = connect(line, slack=0.05, retries=20)
    fault = line.wire.add(WireFault(faults.flip(), count=None, probability=0.1))
    for _ in range(150):
        assert link.read(1, 1, 36, 8).data[:2] == POSITION
    assert fault.hits >= 5 and link.counts["retries"] >= 5


@both
def test_under_all_damage_at_once_no_value_is_ever_wrong_or_old(profile, start, connect):
    """Every reading has its own truth, so that whatever is left over from another shows."""
    rng = np.random.default_rng(5)
    line, truth = start(profile, seed=5), [0]
    link = connect(line, slack=0.01)
    with line.lock:
        for servo in line.servos:
            servo.sense = lambda raw: truth[0]
    kinds = [faults.flip(), faults.drop(), faults.truncate(4), faults.duplicate(), faults.noise(9)]
    kinds += [faults.silence(), faults.wrong_id(3), faults.bare(), faults.delay(0.02), faults.delay(0.05)]
    axes = [axis for axis in profile if not axis.drive_mode]
    read = 0
    for step in range(120):
        line.wire.clear()
        for kind in rng.choice(len(kinds), 2, replace=False):
            line.wire.add(WireFault(kinds[kind], probability=0.5, skip=int(rng.integers(3))))
        truth[0] = 100 + 7 * step
        try:
            values, _ = link.read_registers(axes[rng.integers(len(axes))].servo, "present_position")
        except (NoReply, BadReply):
            continue
        assert values == {"present_position": truth[0]}
        read += 1
    assert read > 60 and link.counts["retries"] > 20


@pytest.mark.parametrize("late", [0.07, 0.13, 0.4])
def test_a_late_reply_is_never_the_answer_to_the_next_question(late, start, connect):
    """Facts 3.3.7: the SDK takes it. Here 1111 is long past when it arrives."""
    line = start()
    link = connect(line, slack=0.05, retries=0)
    with line.lock:
        line.servo(1).sense = lambda raw: 1111
    line.wire.add(WireFault(faults.delay(late)))
    with pytest.raises(NoReply):
        link.read(1, 1, 36, 2)
    with line.lock:
        line.servo(1).sense = None
    values = []
    for _ in range(8):
        try:
            values.append(link.read(1, 1, 36, 2).data)
        except (NoReply, BadReply):
            continue  # not yet sure of the bus: no value is better than an old one
    assert values and set(values) == {POSITION}
    assert link.counts["stale bytes"] + link.counts["late"] > 0, "it did arrive, and was thrown away"


def test_a_late_reply_does_not_disturb_other_servos(start, connect):
    line = start()
    link = connect(line, slack=0.3, retries=0)
    line.wire.add(WireFault(faults.delay(0.4), servo_id=1))
    with pytest.raises(NoReply):
        link.read(1, 1, 36, 2)
    assert link.read(1, 2, 36, 2).data == POSITION
    assert link.read(1, 1, 36, 2).data == POSITION
    assert link.counts["wrong id"] == 0


@pytest.mark.parametrize("questions", [1, 2])
def test_whoever_asked_gets_an_answer_that_comes_after_all_if_it_is_surely_his(questions, start, connect):
    line, answers = start(), []
    link = connect(line, slack=0.02, retries=0)
    line.wire.add(WireFault(faults.delay(0.2), servo_id=1))
    before = time.monotonic()
    with pytest.raises(NoReply):
        link.read(1, 1, 36, 2, late=answers.append)
    given_up = time.monotonic()
    if questions == 2:  # of the same length: nobody knows which of them is answered
        link._owed[1][2] *= 2
    time.sleep(0.3)
    assert not answers, "nobody listens"
    link.slack = PATIENT
    assert link.read(1, 2, 36, 2).data == POSITION
    if questions == 2:
        assert not answers
        return
    [answer] = answers
    assert (answer.id, answer.data) == (1, POSITION)
    assert before <= answer.sent_at <= given_up < answer.received_at
    assert not link.owes(1, 1)


CHAIN = [(servo_id, 36, 8) for servo_id in (1, 2, 3, 4)]


@pytest.mark.parametrize(("damage", "settled"), [(faults.delay(0.1), False), (faults.silence(), True)])
def test_only_what_has_not_come_yet_is_settled(damage, settled, start, connect):
    """Answers that came late are owed no longer: after a pause of the line one question is enough."""
    line, asked = start(), []
    link = connect(line, slack=0.02, record=lambda transaction: asked.append(transaction.what))
    line.wire.add(WireFault(damage, servo_id=1))
    with pytest.raises(NoReply):
        link.bulk_read(1, CHAIN)
    assert all(link.owes(1, servo_id) for servo_id, _, _ in CHAIN)
    time.sleep(0.3)
    link.slack = PATIENT
    assert len(link.bulk_read(1, CHAIN)) == 4 and not link.owes(1, 1)
    assert any(what.startswith("settle") for what in asked) == settled, asked
    assert (link.counts["late"] == 4) != settled


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "broken off"])
def test_in_a_hurry_a_silent_chain_is_waited_for_and_nothing_repeated(silent, start, connect):
    line = start()
    link = connect(line, slack=0.02, retries=3)
    line.wire.add(WireFault(faults.delay(0.2), servo_id=1 if silent else 3))
    with link.hurried(time.monotonic() + 5.0):
        if silent:
            assert list(link.bulk_read(1, CHAIN)) == [1, 2, 3, 4]
        else:
            with pytest.raises(NoReply) as caught:  # its deadline is the usual one, for somebody answered
                link.bulk_read(1, CHAIN)
            assert list(caught.value.partial) == [1, 2]


@pytest.mark.parametrize(("hurry", "attempts"), [(0.0, 1), (60.0, 4)])
def test_in_a_hurry_a_question_is_repeated_in_time_only(hurry, attempts, start, connect):
    line = start()
    link = connect(line, slack=0.02, retries=3)
    with line.lock:
        line.servo(5).mute = True
    with pytest.raises(NoReply), link.hurried(time.monotonic() + hurry):
        link.ping(1, 5)
    assert link.counts["timeout"] == attempts


@pytest.mark.parametrize("slow", [True, False], ids=["slow", "lost"])
def test_after_a_late_answer_the_next_ones_are_waited_for(slow, start, connect):
    """Who is kept from its work is late again; who lost a packet asks at once for another."""
    line = start(clock="real")
    link = connect(line, slack=0.02, retries=0)
    line.wire.add(WireFault(faults.delay(0.1) if slow else faults.silence(), servo_id=5))
    with pytest.raises(NoReply):
        link.ping(1, 5)
    time.sleep(0.15)
    link.ping(1, 5)
    assert (link.counts["late"] == 1) == slow
    line.wire.add(WireFault(faults.delay(0.1), servo_id=5))
    with link.hurried(time.monotonic(), time.monotonic() + 5.0):
        if slow:
            link.ping(1, 5)
        else:
            with pytest.raises(NoReply):
                link.ping(1, 5)


@pytest.mark.parametrize(("damage", "lost"), [(faults.delay(0.15), False), (faults.silence(), True)])
def test_a_servo_whose_answer_comes_late_is_not_lost(damage, lost, start, connect):
    """It misses its deadline, but comes before that of another servo, asked later: the line is slow."""
    line = start(clock="real")
    arm = ServoArm(connect(line, slack=0.1, retries=0), WIDOWX_MK2)
    line.wire.add(WireFault(damage, servo_id=5))
    assert arm.lost(5) == lost


def test_a_chain_of_answers_leaves_the_adapter_in_one_piece(start, connect, monkeypatch):
    line, pieces = start(clock="real", latency_timer=0.05), []
    with line.lock:
        for servo in line.servos:
            servo.table["return_delay_time"] = 250  # 0.5 ms, after which each comes by itself
    put = line._put
    monkeypatch.setattr(line, "_put", lambda data: (pieces.append(data), put(data)))
    connect(line, slack=PATIENT).bulk_read(1, CHAIN)
    assert [len(piece) for piece in pieces] == [4 * (6 + 8)]


def test_one_dead_servo_silences_the_chain_behind_it(start, connect):
    line = start()
    link = connect(line, slack=BRIEF)
    with line.lock:
        line.servo(2).mute = True
    with pytest.raises(NoReply) as caught:
        link.bulk_read(1, [(servo_id, 36, 8) for servo_id in (1, 2, 3, 4)])
    assert caught.value.ids == (2, 3, 4) and list(caught.value.partial) == [1]
    alive = []
    for servo_id in (1, 2, 3, 4):
        try:
            link.read(1, servo_id, 36, 8)
            alive.append(servo_id)
        except NoReply as error:
            assert error.ids == (servo_id,)
    assert alive == [1, 3, 4]
    assert "doctor" in str(caught.value)


def test_an_ax_breaks_a_bulk_read(start, connect):
    with pytest.raises(NoReply) as caught:
        connect(start(), slack=BRIEF).bulk_read(1, [(1, 36, 8), (5, 36, 8), (2, 36, 8)])
    assert caught.value.ids == (5, 2)


def test_two_servos_with_one_id_collide(start, connect):
    joints = [BenchJoint(position=0.0), BenchJoint(position=0.7)]
    servos = [Servo1(MX_28, 1, Shaft(joint, 1), baud_rate=1) for joint in joints]
    link = connect(start(servos=servos))
    with pytest.raises(BadReply) as caught:
        link.read(1, 1, 36, 8)
    assert "two servos with one id" in str(caught.value)


# ---------------------------------------------------------------- our link: refusals, rates, ports


def test_a_refusal_is_not_tried_again(start, connect):
    link = connect(start())
    servo = WIDOWX_MK2.joints[1].servo
    with pytest.raises(Refused) as caught:
        link.write_registers(servo, goal_position=3500)
    assert caught.value.names == ("angle_limit",) and link.counts["retries"] == 0
    with pytest.raises(Refused, match="range"):
        link.read(1, 1, 200, 4)
    link2 = connect(start(WX200))
    axis = WX200.joints[0]
    link2.write_registers(axis.servo, torque_enable=1)
    with pytest.raises(Refused, match="access"):
        link2.write_registers(axis.servo, id=5)


def test_ill_health_is_returned_with_the_answer(start, connect):
    line = start()
    with line.lock:
        line.servo(1).temperature = 85.0
        line.supply(5.9)
        for servo in line.servos:
            servo.nature = replace(servo.nature, brownout=0.0)
    reply = connect(line).read(1, 1, 36, 8)
    assert reply.errors == ("voltage", "overheating")


def test_a_servo_says_when_it_could_not_read_us(start):
    line = start()
    fd = os.open(line.port, os.O_RDWR | os.O_NOCTTY)
    try:
        baud = Link(line.port, 1_000_000)  # sets the rate
        baud.close()
        damaged = bytearray(PROTOCOL_1.read(1, 36, 2))
        damaged[-1] ^= 1
        os.write(fd, bytes(damaged))
        assert select.select([fd], [], [], 5.0)[0]
        (packet,) = Decoder((1,)).feed(os.read(fd, 100))
    finally:
        os.close(fd)
    assert as_status(packet).error == 0x10


def test_a_factory_fresh_arm_does_not_share_a_rate(start, connect):
    line = start(factory=True)
    slow = connect(line, 57_600, slack=BRIEF)
    assert list(slow.scan(1, range(1, 10))) == [1, 2, 3, 4, 7, 8]
    slow.close()
    fast = connect(line, 1_000_000, slack=BRIEF)
    assert list(fast.scan(1, range(1, 10))) == [5, 6]
    fast.close()
    slow = connect(line, 57_600, slack=0.3, retries=0)
    slow.write_registers(WIDOWX_MK2.joints[0].servo, baud_rate=1)
    with pytest.raises(NoReply):
        slow.ping(1, 1)
    slow.close()
    connect(line, 1_000_000).ping(1, 1)


@pytest.mark.parametrize("rate", [9_600, 57_600, 115_200, 1_000_000, 2_250_000, 400_000])
def test_the_line_knows_the_rate_of_its_driver(rate, start, connect):
    line = start()
    connect(line, rate)
    assert terminal_baud(line._master) == rate


def test_the_port_vanishes_and_comes_back(start, connect):
    line = start()
    link = connect(line)
    link.write_registers(WIDOWX_MK2.joints[0].servo, led=1)
    line.unplug()
    with pytest.raises(PortGone, match="vanished"):
        link.ping(1, 1)
    with pytest.raises(PortGone, match="closed"):
        link.ping(1, 1)
    with pytest.raises(PortMissing, match="by-id"):
        connect(line)
    line.replug()
    again = connect(line)
    assert again.read_registers(WIDOWX_MK2.joints[0].servo, "led")[0] == {"led": 1}, "servos kept their power"


def test_a_port_that_vanishes_while_we_wait(start, connect):
    line = start()
    link = connect(line, slack=5.0, retries=0)
    with line.lock:
        line.servo(1).mute = True
    threading.Timer(0.1, line.unplug).start()
    begun = time.monotonic()
    with pytest.raises(PortGone):
        link.ping(1, 1)
    assert time.monotonic() - begun < 4.0


def test_a_second_program_is_kept_out(start, connect):
    line = start()
    first = connect(line)
    with pytest.raises(PortBusy, match="another program"):
        connect(line)
    first.close()
    connect(line).ping(1, 1)


def test_a_line_that_takes_no_bytes(start, connect):
    line = start()
    link = connect(line, write_timeout=0.1)
    link.ping(1, 1)
    line.deaf = True
    with pytest.raises(WriteBlocked, match="took no bytes"):
        for _ in range(20_000):
            link.broadcast_write(1, 30, bytes(100))
    assert not link.is_open


def test_no_port_and_no_such_rate(tmp_path, start):
    with pytest.raises(PortMissing, match="Plug"):
        Link(tmp_path / "nothing")
    with pytest.raises(ValueError, match="retries"):
        Link(tmp_path / "nothing", retries=-1)


# ---------------------------------------------------------------- time


def test_in_lockstep_time_stands_still(start, connect):
    line = start()
    link = connect(line)
    servo = WIDOWX_MK2.joints[0].servo
    link.write_registers(servo, goal_position=2400, moving_speed=50)
    time.sleep(0.1)
    assert link.read_registers(servo, "present_position")[0] == {"present_position": 2048}
    line.advance(0.5)
    assert line.now == pytest.approx(0.5)
    assert link.read_registers(servo, "present_position")[0]["present_position"] > 2100
    with pytest.raises(TimeoutError, match="arrived"):
        line.advance(0.1, after_bytes=link.sent + 1, timeout=0.05)


def test_lockstep_repeats_itself(start, connect):
    def run():
        line = start()
        link = connect(line)
        states = []
        rng = np.random.default_rng(0)
        for _ in range(20):
            goals = {a.servo: {"goal_position": a.to_tick(rng.uniform(-0.3, 0.3))} for a in WIDOWX_MK2.joints}
            link.sync_write_registers(goals)
            line.advance(0.02, after_bytes=link.sent)
            states += [link.read(1, axis.id, 36, 8).data for axis in WIDOWX_MK2.joints]
        return states

    assert run() == run()


def test_in_real_time_it_passes_by_itself(start, connect):
    line = start(clock="real")
    link = connect(line)
    servo = WIDOWX_MK2.joints[0].servo
    link.write_registers(servo, goal_position=3000, moving_speed=84)
    time.sleep(0.5)
    assert link.read_registers(servo, "present_position")[0]["present_position"] > 2150
    with pytest.raises(RuntimeError, match="lockstep"):
        line.advance(0.1)


@pytest.mark.parametrize(("baud", "latency"), [(1_000_000, 16e-3), (57_600, 1e-3)])
def test_replies_take_the_time_of_wire_servo_and_adapter(baud, latency, start, connect):
    """A lower bound: a busy machine can only add to it."""
    line = start(clock="real", latency_timer=latency, factory=True)
    servo_id = 1 if baud == 57_600 else 5
    link = connect(line, baud, latency_timer=latency, slack=0.5)
    times = []
    for _ in range(10):
        reply = link.read(1, servo_id, 36, 8)
        times.append(reply.received_at - reply.sent_at)
    least = (8 + 14) * 10 / baud + 500e-6 + latency
    assert min(times) >= least
    assert link.reply_time(1, 8, [(servo_id, 8)]) == pytest.approx(least + latency + 0.5, abs=1e-4)


SERVER = """
import signal, sys
from hardware_bridge.servos import WIDOWX_MK2
from hardware_bridge.twin.build import bench, emulate
from hardware_bridge.twin.line import Line

world = bench(WIDOWX_MK2)
line = Line(emulate(WIDOWX_MK2, world), world, link_path=sys.argv[1])
signal.signal(signal.SIGTERM, lambda number, frame: line.stop())
line.serve_forever()
"""


def test_a_line_may_have_a_process_of_its_own(tmp_path, root):
    port = tmp_path / "ttyTWIN"
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen([sys.executable, "-c", SERVER, str(port)], env=environment) as server:
        try:
            patience = time.monotonic() + 60
            while not port.is_symlink() and server.poll() is None and time.monotonic() < patience:
                time.sleep(0.02)
            with Link(port, slack=PATIENT) as link:
                link.write_registers(WIDOWX_MK2.joints[0].servo, goal_position=2400, moving_speed=84)
                time.sleep(0.3)
                values, _ = link.read_registers(WIDOWX_MK2.joints[0].servo, "present_position")
                assert values["present_position"] > 2060
                server.terminate()
                assert server.wait(30) == 0
                with pytest.raises(PortGone):
                    link.ping(1, 1)
        finally:
            server.kill()
    assert not os.path.lexists(port)


def test_a_closed_line_leaves_nothing_behind(start):
    line = start(clock="real")
    port, threads = line.port, threading.active_count()
    assert os.path.islink(port)
    line.close()
    assert not os.path.lexists(port) and threading.active_count() == threads - 1
    assert line.counts["lag dropped"] >= 0


def test_a_failure_of_the_serving_thread_is_not_swallowed(start, connect):
    line = start()
    link = connect(line, slack=BRIEF, retries=0)
    with line.lock:
        line.servo(1).answer_read = None
        line.servo(1).execute = None
    with pytest.raises(NoReply):
        link.read(1, 1, 36, 2)
    with pytest.raises(RuntimeError, match="served"):
        line.close()
    line._wake_read, line._wake_write = os.pipe()  # the fixture closes it once more


def test_wire_faults_choose_their_replies(start, connect):
    line = start()
    link = connect(line, slack=0.3, retries=0)
    fault = line.wire.add(
        WireFault(faults.silence(), servo_id=2, instruction=Instruction.READ, skip=1, count=1)
    )
    link.read(1, 1, 36, 2), link.ping(1, 2), link.read(1, 2, 36, 2)
    with pytest.raises(NoReply):
        link.read(1, 2, 36, 2)
    link.read(1, 2, 36, 2)
    assert fault.hits == 1
