"""An arm that went to rest because of faults that pass: when it is taken up again, and who waits for it."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest

from hardware_bridge.arm import NotReadyError
from hardware_bridge.backend import LINE_TICK, PATIENT, Lockstep
from hardware_bridge.cell import Cell
from hardware_bridge.config import TWIN, load
from hardware_bridge.faults import Fault, FaultError, Response, Severity
from hardware_bridge.link import Link
from hardware_bridge.process import _error, _raise
from hardware_bridge.protocol import Decoder, Instruction
from hardware_bridge.rig import RigError
from hardware_bridge.safety import Mode
from hardware_bridge.session import when_rested
from hardware_bridge.twin.build import emulate
from hardware_bridge.twin.line import Line
from hardware_bridge.twin.robot import CradledArm

SHOULDER = 2
#: Near the rest pose, so that tests are short (rad).
LOW = np.array([0.0, -1.3, 1.4, 0.1, 0.0])


@pytest.fixture
def cell():
    """A robot in lockstep whose arm lies in a cradle without torque; at a pose, an episode is on."""
    robot = load(TWIN)
    profile = robot.arm_profile()
    world = CradledArm(profile)
    line = Line(emulate(profile, world), world, clock="lockstep", tick=LINE_TICK).open()
    link = Link(line.port, profile.baud, slack=PATIENT, serve=line.pump)
    made = Cell(robot, link, Lockstep(line, link, robot.safety.tick))
    made.line, made.sent = line, []
    made.start()
    begin(made)
    line.tap = lambda at, by, raw: made.sent.append(raw) if by == "driver" else None
    yield made
    link.close()
    line.close()


def begin(cell):
    cell.reset(LOW, 0.05, 0.004)
    assert cell.safety.mode is Mode.POLICY


def heat(cell, degrees=66.0, ambient=25.0):
    """The shoulder's servo is hot, and cools, or goes on warming, within a minute."""
    servo = cell.line.servo(SHOULDER)
    servo.temperature = degrees
    servo.nature = replace(servo.nature, ambient=ambient, heating=0.0, cooling_time=60.0)
    return servo


def torques(cell):
    return [servo.table["torque_enable"] for servo in cell.line.servos]


def test_a_hot_arm_arrives_at_rest_first_and_is_not_taken_up_before_it_has_cooled(cell):
    servo = heat(cell, ambient=66.0)
    cell.driver.run(0.2)
    assert cell.safety.mode is Mode.HOMING
    with pytest.raises(FaultError, match=r"hot \(recoverable\), joint_2") as told:
        begin(cell)
    assert told.value.passes and cell.safety.rests
    assert cell.driver.reading.position == pytest.approx(cell.safety.rest, abs=0.12)
    assert not any(torques(cell))
    servo.nature = replace(servo.nature, ambient=25.0)
    while servo.temperature > 60.5:
        cell.driver.run(0.5)
        with pytest.raises(FaultError, match="hot"):
            begin(cell)
    cell.driver.run(4.0)
    cell.sent.clear()
    begin(cell)
    assert torques(cell) == [1, 1, 1, 1, 1, 0, 1, 1] and not cell.safety.rests
    assert cell.driver.reading.position == pytest.approx(LOW, abs=0.06)
    # Started anew: fences were read, and each joint had its goal and its limit before its torque.
    packets = [packet for raw in cell.sent for packet in Decoder().feed(raw)]
    ways = [(packet.id, packet.code, packet.params[0]) for packet in packets if packet.params]
    on = [index for index, way in enumerate(ways) if way[1] == Instruction.WRITE and way[2] == 24]
    assert [ways[index][0] for index in on] == [1, 2, 3, 4, 5, 7, 8]
    for index in on:
        servo = ways[index][0]
        before = [way[1:] for way in ways[:index] if way[0] == servo]
        assert before[-2:] == [(Instruction.WRITE, 30), (Instruction.WRITE, 34)]
        assert (Instruction.READ, 14) in before, "its fence"


def test_an_arm_that_pushed_for_too_long_is_taken_up_as_soon_as_it_has_rested(cell):
    cell.driver.run(0.1)
    cell.safety.report("load high", "joint_3", "48 % of stall for 3 s")
    cell.driver.cycle()
    assert cell.safety.mode is Mode.HOMING
    begin(cell)
    assert cell.safety.faults.counts["load high"] == 1


def test_a_servo_that_grows_hot_in_a_reset_sends_the_arm_home_whatever_moves_then(cell):
    servo, move = heat(cell, 40.0), cell.rig.move
    for late in (0.2, 30.0):  # while the rig moves, and after it

        def moved(*place, late=late):
            cell.rig.move = move
            servo.temperature = 66.0 if late < 1.0 else servo.temperature
            move(*place)
            servo.temperature = 66.0

        cell.rig.move = moved
        with pytest.raises(FaultError, match="hot") as told:
            cell.reset(LOW, -0.05, 0.004)
        assert told.value.passes and not isinstance(told.value, RigError)
        servo.temperature = 40.0
        cell.safety.faults._began.clear()  # that it came twice is not what is looked at
        begin(cell)


def test_what_is_latched_or_was_ordered_is_not_taken_up(cell):
    heat(cell, 76.0)  # beyond what a person need not look at
    cell.driver.run(0.1)
    with pytest.raises(FaultError, match="overheated") as told:
        begin(cell)
    assert not told.value.passes and cell.safety.rests
    heat(cell, 40.0)
    cell.driver.run(0.1)
    cell.safety.report("emergency stop", "relay", "pressed")
    cell.driver.run(0.1)
    cell.safety.acknowledge("overheated", "joint_2")
    with pytest.raises(FaultError, match="emergency stop") as told:
        begin(cell)
    assert not told.value.passes and not any(torques(cell))
    cell.safety.acknowledge("emergency stop", "relay")
    begin(cell)
    cell.driver.shut_down()
    with pytest.raises(FaultError):
        begin(cell)
    assert cell.safety.mode is Mode.OFF and not any(torques(cell))


def test_an_arm_without_torque_for_a_runaway_is_not_taken_up(cell):
    cell.safety.report("runaway", "joint_1", "1 rad/s, which nobody asked of it")
    cell.driver.run(0.04)
    cell.safety.acknowledge("runaway", "joint_1")
    with pytest.raises(FaultError):
        begin(cell)
    assert not any(torques(cell))


def test_an_arm_that_is_not_as_it_was_stays_at_rest(cell):
    heat(cell)
    cell.driver.run(0.1)
    cell.driver.come_to_rest()
    heat(cell, 40.0)
    cell.line.servo(3).table["max_torque"] = 1023
    with pytest.raises(NotReadyError, match="fence differs, joint_3"):
        begin(cell)
    assert not any(torques(cell)) and cell.safety.rests
    cell.line.servo(3).table["max_torque"] = 511
    cell.driver.run(0.1)
    cell.safety.acknowledge("fence differs", "joint_3")
    begin(cell)


def test_a_servo_that_shut_itself_down_is_not_given_its_torque_back(cell):
    servo = heat(cell)
    cell.driver.run(0.1)
    cell.driver.come_to_rest()
    servo.temperature = 40.0
    servo.table["torque_limit"] = 0
    for _ in range(2):
        with pytest.raises(NotReadyError, match="servo limp, joint_2"):
            begin(cell)
    servo.trip()  # and says so
    with pytest.raises(FaultError, match="overload") as told:
        begin(cell)
    assert not told.value.passes
    assert not any(torques(cell)) and servo.table["torque_limit"] == 0


def test_a_driver_in_its_own_process_tells_whether_a_fault_passes():
    for severity in (Severity.RECOVERABLE, Severity.LATCHED):
        fault = Fault("hot", "joint_2", "66 °C", severity, Response.LIMP_HOME, "Wait.", 1.0, 2.0)
        warm = Fault("warm", "joint_3", "61 °C", Severity.TRANSIENT, Response.CARRY_ON, "Soon.", 1.0, 2.0)
        message = json.loads(json.dumps(_error(FaultError("not while faults last", [warm, fault]))))
        with pytest.raises(FaultError) as told:
            _raise(message)
        assert told.value.passes is (severity is Severity.RECOVERABLE)


# Waiting -------------------------------------------------------------------------------------------


def waited(cell, longest):
    """As a session waits, in the twin's own time."""
    when_rested(lambda: begin(cell), longest, cell.driver.beat.now, cell.driver.run)


def test_a_session_waits_for_an_arm_that_cools_and_says_so_once_a_minute(cell, caplog):
    caplog.set_level(logging.WARNING, logger="hardware_bridge")
    heat(cell, 70.0)
    cell.line.servo(SHOULDER).nature = replace(cell.line.servo(SHOULDER).nature, cooling_time=400.0)
    cell.driver.run(0.1)
    began = cell.driver.beat.now()
    waited(cell, 900.0)
    lasted = cell.driver.beat.now() - began
    assert cell.safety.mode is Mode.POLICY and lasted > 100.0
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == pytest.approx(lasted / 60.0, abs=1.5) and all("hot" in line for line in told)


def test_a_session_does_not_wait_for_ever_nor_for_what_does_not_pass(cell):
    heat(cell, ambient=66.0)
    cell.driver.run(0.1)
    began = cell.driver.beat.now()
    with pytest.raises(FaultError, match="hot"):
        waited(cell, 30.0)
    assert 30.0 <= cell.driver.beat.now() - began < 60.0
    cell.safety.report("servo missing", "joint_4", "no answer in 3 cycles")
    cell.driver.cycle()
    began = cell.driver.beat.now()
    with pytest.raises(FaultError, match="servo missing"):
        waited(cell, 900.0)
    assert cell.driver.beat.now() - began < 1.0
    assert any(fault.severity is Severity.LATCHED for fault in cell.safety.faults.active)
