"""The arm on its bus and the whole driver, against emulated servos that move a simulated WidowX."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time

import gymnasium as gym
import numpy as np
import pytest

import meld_envs  # noqa: F401 - registers the environments
from hardware_bridge.arm import NotReadyError, ServoArm
from hardware_bridge.backend import Lockstep, Twin
from hardware_bridge.campaign.stand import Stand
from hardware_bridge.cell import tip_height
from hardware_bridge.config import TWIN, load
from hardware_bridge.driver import Driver
from hardware_bridge.errors import NoReply
from hardware_bridge.faults import FaultError, Response
from hardware_bridge.link import Link
from hardware_bridge.protocol import Decoder, Instruction, Packet
from hardware_bridge.rig import RigError
from hardware_bridge.safety import Mode, Safety
from hardware_bridge.servos import PROFILES, WIDOWX_MK2, WX200
from hardware_bridge.twin.arm import WidowXWorld
from hardware_bridge.twin.build import bench, emulate
from hardware_bridge.twin.faults import WireFault, delay, silence
from hardware_bridge.twin.joint import Drive
from hardware_bridge.twin.line import Line
from meld_envs.families.widowx_ethernet import FACE
from meld_envs.robots import widowx

ETHERNET = "meld/WidowXEthernet-v0"
ANGLES = (0.1, -0.2, 0.3, 0.8, -0.4)
both = pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)


@pytest.fixture
def bus():
    """An arm on a bench, in lockstep, served by whoever asks; everything is closed after the test."""
    opened = []

    def build(profile=WIDOWX_MK2, positions=None, change=None, **keywords):
        world = bench(profile, positions)
        line = Line(emulate(profile, world), world, clock="lockstep").open()
        opened.append(line)
        if change is not None:
            change(line)
        link = Link(line.port, profile.baud, slack=0.05, serve=line.pump, **keywords)
        opened.append(link)
        return line, ServoArm(link, profile, clock=lambda: line.now)

    yield build
    for thing in reversed(opened):
        thing.close()


@pytest.fixture
def twin():
    """Twins that are closed after the test."""
    twins = []

    def build(**keywords):
        twins.append(Twin(**keywords))
        return twins[-1]

    yield build
    for opened in twins:
        opened.close()


# The world behind the servos ------------------------------------------------------------------------


def drive(world, spec, goal):
    motor = spec.model.motor
    stiffness = motor.stall * motor.gain * 32 if spec.model.bulk_read else motor.stall * motor.gain / 32
    world.joint(spec.name).drive(spec.id, Drive(goal, stiffness, motor.stall / 2, motor.damping))


def test_the_world_is_the_familys_with_the_servos_motors():
    world = WidowXWorld(angles=ANGLES)
    goal = widowx.holding_goal(world.model, np.array(ANGLES))
    world.model.actuator_gainprm[:, 0] = 0  # holding_goal looked at the arm only
    for spec, angle in zip(WIDOWX_MK2.joints, goal):
        drive(world, spec, float(angle))
    for _ in range(200):
        world.step(0.005)
    assert [world.joint(spec.name).position for spec in WIDOWX_MK2.joints] == pytest.approx(ANGLES, abs=0.01)
    shoulder = world.joint("joint_2")
    assert shoulder.force(2) == pytest.approx(world.data.qfrc_bias[1], abs=0.12), "gravity, but for friction"


def test_without_torque_it_falls_and_a_stall_is_bounded():
    world = WidowXWorld(angles=(0.0, 0.0, 0.0, 0.0, 0.0))
    for _ in range(100):
        world.step(0.005)
    assert world.joint("joint_2").position > 0.03
    spec = WIDOWX_MK2.joints[1]
    drive(world, spec, -1.5)
    assert world.joint("joint_2").force(2) == pytest.approx(-spec.model.motor.stall / 2, rel=0.5)
    world.step(0.005)
    assert abs(world.data.actuator_force[1]) <= spec.model.motor.stall / 2 + 1e-9


def test_a_dead_band_does_not_push():
    world = WidowXWorld(angles=ANGLES)
    joint = world.joint("joint_5")
    joint.drive(5, Drive(ANGLES[4] + 0.004, 9.0, 0.75, 0.24, deadband=0.005))
    assert joint.control == pytest.approx(ANGLES[4])
    joint.drive(5, Drive(ANGLES[4] + 0.014, 9.0, 0.75, 0.24, deadband=0.005))
    assert joint.control == pytest.approx(ANGLES[4] + 0.009)


def test_the_rigs_servos_move_the_switch():
    world = WidowXWorld(rig=(0.05, -0.004))
    wall = world.model.geom("far").id
    world.step(0.005)
    before = world.data.geom_xpos[wall].copy()
    for spec, goal in zip(WIDOWX_MK2.rig, (-0.1, 0.008)):
        motor, k = spec.model.motor, spec.ratio
        law = Drive(goal, motor.stall * motor.gain * 32 * k * k, 1.2 * k, motor.damping * k * k)
        world.joint(spec.name).drive(spec.id, law)
    for _ in range(200):
        world.step(0.005)
    assert world.rig == pytest.approx((-0.1, 0.008), abs=2e-3)
    world.step(0.005)
    assert world.data.geom_xpos[wall][1] - before[1] == pytest.approx(0.012, abs=2.5e-3)


# On the bus -----------------------------------------------------------------------------------------


@both
def test_a_sound_arm_is_ready_and_is_read(profile, bus):
    positions = {joint.name: 0.1 * index - 0.2 for index, joint in enumerate(profile.joints)}
    line, arm = bus(profile, positions)
    arm.check()
    reading = arm.read()
    assert reading.position == pytest.approx(list(positions.values()), abs=3e-3)
    assert reading.voltage == pytest.approx([12.0] * 5)
    assert reading.temperature == pytest.approx([25.0] * 5)
    assert reading.at == line.now and reading.torque_on is None and not arm.drain()
    chained = 5 if profile is WX200 else 4
    assert sum(map(len, arm._chains)) == chained, "an AX-12 knows no bulk read"


def defect(line, name, register, value):
    line.servo(WIDOWX_MK2.axis(name).id).table[register] = value


@pytest.mark.parametrize(
    ("change", "kind", "where", "says"),
    [
        (lambda line: setattr(line.servo(3), "mute", True), "servo missing", "joint_3", "id 3 does not"),
        (lambda line: defect(line, "joint_4", "model_number", 310), "id conflict", "joint_4", "is MX-64"),
        (lambda line: defect(line, "joint_2", "max_torque", 1023), "fence differs", "joint_2", "is 1023"),
        (lambda line: defect(line, "rotation", "cw_angle_limit", 0), "fence differs", "rotation", "cw_angle"),
        (lambda line: defect(line, "gripper", "shutdown", 0), "fence differs", "gripper", "should be 36"),
    ],
)  # fmt: skip
def test_an_arm_that_is_not_as_it_should_be_is_named_and_not_touched(change, kind, where, says, bus):
    line, arm = bus(change=change, retries=0)
    with pytest.raises(NotReadyError, match=says) as caught:
        arm.check()
    assert [(c.kind, c.where) for c in caught.value.conditions] == [(kind, where)]
    assert all(servo.table["torque_enable"] == 0 for servo in line.servos)


@pytest.mark.parametrize(
    ("profile", "name", "register", "value"),
    [
        (WIDOWX_MK2, "joint_1", "goal_acceleration", 5),
        (WIDOWX_MK2, "joint_2", "torque_control_enable", 1),
        (WIDOWX_MK2, "joint_4", "p_gain", 254),
        (WIDOWX_MK2, "joint_5", "cw_compliance_slope", 2),
        (WX200, "elbow", "drive_mode", 5),  # the profile's direction, but speeds would be times
        (WX200, "waist", "drive_mode", 1),
        (WX200, "waist", "homing_offset", 512),
        (WX200, "waist", "profile_acceleration", 1),
    ],
)  # fmt: skip
def test_what_changes_the_way_a_servo_stops_is_a_fence(profile, name, register, value, bus):
    def change(line):
        line.servo(profile.axis(name).id).table[register] = value

    _, arm = bus(profile, change=change)
    with pytest.raises(NotReadyError, match=rf"{register} is {value}, should be"):
        arm.check()


def test_a_shadow_must_obey_its_leader(bus):
    _, arm = bus(WX200, change=lambda line: line.servo(3).table.__setitem__("secondary_id", 255))
    with pytest.raises(NotReadyError, match="servo 3: secondary_id is 255, should be 2"):
        arm.check()


def test_what_came_before_a_silence_is_known_and_how_old_the_rest_is(bus):
    line, arm = bus()
    questions = itertools.count(1.0, 0.03)  # a slow computer: each is asked 30 ms after the one before
    arm._clock = lambda: next(questions)
    before = arm.read()
    asked_last = arm._samples["joint_5"][0]
    assert before.at < asked_last
    line.servo(5).mute = True
    world = line.mechanics
    world.joint("joint_2").position += 0.05
    with pytest.raises(NoReply):
        arm.read()
    newest = arm.newest()
    assert newest.at == asked_last, (
        "as old as the oldest of its samples, and not as the first of the last reading"
    )
    moved = newest.position - before.position
    assert moved[1] == pytest.approx(0.05, abs=0.002) and not moved[[0, 2, 3, 4]].any()


def test_an_answer_that_comes_after_all_is_of_when_it_was_asked_for(bus):
    line, arm = bus()
    questions = itertools.count(1.0, 0.03)
    arm._clock = lambda: next(questions)
    before, arm.link.slack, arm.link.retries = arm.read(), 0.01, 0
    line.wire.add(WireFault(delay(0.05), servo_id=5))
    line.mechanics.joint("joint_5").position += 0.05
    with pytest.raises(NoReply):
        arm.read()
    assert arm.newest().position[4] == before.position[4]
    asked = arm._samples["joint_1"][0] + 0.03  # joint 5 was asked next
    line.mechanics.joint("joint_5").position += 0.05
    line.wire.clear()
    time.sleep(0.1)
    line.pump(0)
    assert not arm.link.owes(1, 5), "it has come"
    assert arm._samples["joint_5"][0] == pytest.approx(asked)
    assert arm.newest().position[4] - before.position[4] == pytest.approx(0.05, abs=0.005), "as it was then"


@pytest.mark.parametrize("answered", [0.0, 0.05])
def test_who_answered_last_counts_and_not_who_was_asked_first(answered, twin):
    """A joint of which is heard nothing makes readings stale, by its own age."""
    driver, line = (bridge := twin()).driver, bridge.line
    driver.run(0.1)
    first = driver.reading
    arm = bridge.arm
    arm.link.slack = 0.005
    arm._samples["joint_5"] = (first.at + answered, arm._samples["joint_5"][1])
    line.servo(5).mute = True
    for _ in range(5):
        driver.beat.wait()
        driver.cycle()
    stale = [fault for fault in driver.safety.faults.history if fault.kind == "readings stale"]
    assert len(stale) == (answered == 0.0)
    assert driver.reading.at == first.at + answered
    for _ in range(3):
        driver.beat.wait()
        driver.cycle()
    assert driver.safety.mode is Mode.HOLDING


def test_one_dead_servo_does_not_hide_the_others(bus):
    line, arm = bus(retries=0)
    line.wire.add(WireFault(silence(), servo_id=2, instruction=int(Instruction.BULK_READ)))
    assert arm.read().position == pytest.approx([0.0] * 5, abs=3e-3), "asked one by one"
    assert [c.kind for c in arm.drain()] == ["packet lost"]


@both
def test_goals_and_torque_reach_the_servos(profile, bus):
    line, arm = bus(profile)
    first = profile.joints[0]
    arm.power({first.name: (0.0, 0.1)})
    assert line.servo(first.id).table["torque_enable"] == 1
    for _ in range(60):
        arm.send({first.name: (0.2, 0.4)})
        line.advance(0.02, after_bytes=arm.link.sent)
    assert arm.read().position[0] == pytest.approx(0.2, abs=0.01)
    arm.release()
    assert line.servo(first.id).table["torque_enable"] == 0 and not arm.powered


@both
def test_what_servos_say_of_their_health_becomes_conditions(profile, bus):
    line, arm = bus(profile)
    joint = profile.joints[2]
    arm.power({joint.name: (0.0, 0.1)})
    line.servo(joint.id).temperature = 90.0
    line.advance(0.02, after_bytes=arm.link.sent)
    arm.read()
    assert ("overheated", joint.name) in {(c.kind, c.where) for c in arm.drain()}


def test_a_servo_that_restarted_is_seen(bus):
    line, arm = bus()
    arm.power({joint.name: (0.0, 0.1) for joint in WIDOWX_MK2.joints})
    line.servo(3).table["torque_enable"] = 0
    for _ in range(8):
        arm.inspect()
    assert list(arm.read().torque_on) == [True, True, False, True, True]


def guards(line, profile):
    return {line.servo(servo).table["bus_watchdog"] for joint in profile.joints for servo in joint.ids}


def test_servos_of_protocol_2_stop_without_a_driver_and_go_on_with_one(bus):
    line, arm = bus(WX200)
    joint = WX200.joints[0].name
    arm.power({joint.name: (0.0, 0.3) for joint in WX200.joints})
    assert guards(line, WX200) == {6}, "120 ms"
    arm.send({joint: (0.5, 0.3)})
    line.advance(0.11, after_bytes=arm.link.sent)
    assert line.mechanics.joint(joint).velocity > 0.1
    line.advance(0.1)
    assert guards(line, WX200) == {-1} and abs(line.mechanics.joint(joint).velocity) < 0.01
    stood = arm.read().position[0]
    arm.send({joint: (0.5, 0.3)})
    line.advance(0.1, after_bytes=arm.link.sent)
    assert arm.read().position[0] == pytest.approx(stood, abs=0.01), "no goal is taken"
    for _ in WX200:
        arm.inspect()
    found = arm.drain()
    assert guards(line, WX200) == {6} and {condition.kind for condition in found} == {"servo waited"}
    assert {condition.where for condition in found} == {joint.name for joint in WX200.joints}
    arm.send({joint: (0.5, 0.3)})
    for _ in range(100):
        line.advance(0.02, after_bytes=arm.link.sent)
        arm.read()
    assert arm.read().position[0] == pytest.approx(0.5, abs=0.05)
    arm.release()
    assert guards(line, WX200) == {0}, "who comes next need not feed it"


def test_after_a_pause_all_servos_of_protocol_2_take_goals_at_once(bus):
    line, arm = bus(WX200)
    joint = WX200.joints[0].name
    arm.power({joint.name: (0.0, 0.3) for joint in WX200.joints})
    arm.read()
    line.advance(0.3)
    assert guards(line, WX200) == {-1}
    arm.read()
    assert guards(line, WX200) == {6}
    assert {condition.where for condition in arm.drain()} == {joint.name for joint in WX200.joints}
    arm.send({joint: (0.5, 0.3)})
    line.advance(0.1, after_bytes=arm.link.sent)
    assert line.mechanics.joint(joint).velocity > 0.1
    shadow = line.servo(WX200.joints[1].shadow_ids[0])
    shadow.table["bus_watchdog"] = 0
    for _ in WX200:
        arm.inspect()
    assert guards(line, WX200) == {6}, "one that was off is armed again"
    arm.disarm()
    assert guards(line, WX200) == {0}


def test_a_watchdog_that_bit_an_earlier_driver_keeps_nobody_from_starting(bus):
    line, arm = bus(WX200)
    arm.power({joint.name: (0.0, 0.3) for joint in WX200.joints})
    line.advance(0.3)
    assert guards(line, WX200) == {-1}
    arm.power({joint.name: (0.0, 0.3) for joint in WX200.joints})
    assert guards(line, WX200) == {6}


# The driver -----------------------------------------------------------------------------------------


def test_it_goes_where_it_is_sent_and_rests_at_the_end(twin):
    robot = twin()
    driver, rest = robot.driver, np.array(robot.configuration.arm.rest)
    assert robot.safety.mode is Mode.READY
    target = np.array([0.2, -1.2, 1.2, 0.2, 0.3])
    driver.go_to(target)
    driver.run(0.3)
    assert driver.reading.position == pytest.approx(target, abs=0.06), "it sags by so much"
    driver.shut_down()
    assert robot.safety.mode is Mode.OFF
    assert driver.reading.position == pytest.approx(rest, abs=0.08)
    assert all(robot.line.servo(joint.id).table["torque_enable"] == 0 for joint in WIDOWX_MK2.joints)


def test_readings_that_cannot_be_are_read_again(twin):
    robot = twin()
    robot.driver.run(0.1)
    servo, jumps = robot.line.servo(1), iter([900.0])
    servo.sense = lambda raw: raw + next(jumps, 0.0)
    robot.driver.run(0.1)
    assert robot.safety.faults.counts["reading implausible"] == 1
    assert robot.safety.mode is Mode.READY and abs(robot.driver.reading.position[0]) < 0.01


def test_a_servo_lost_in_an_episode_holds_the_others_and_is_named(twin):
    robot = twin()
    robot.link.slack, robot.link.retries = 0.02, 0
    robot.safety.begin_episode(robot.driver.beat.now())
    robot.step(np.array([0.5, 0.0, 0.0, 0.0, 0.0]), 5)
    robot.line.servo(4).mute = True
    lost = robot.line.now
    robot.step(np.array([0.5, 0.0, 0.0, 0.0, 0.0]), 8)
    fault = next(fault for fault in robot.safety.faults.history if fault.kind == "servo missing")
    assert fault.where == "joint_4" and fault.since - lost <= 0.1
    assert robot.safety.mode is Mode.HOLDING
    with pytest.raises(FaultError, match="servo missing"):
        robot.reset(np.array(robot.configuration.arm.ready), 0.0, 0.0)


def muted(robot, servos, ticks):
    """Calls, a tick each, of which the first ones find these servos silent."""
    for servo in servos:
        servo.mute = True
    for tick in range(ticks + 20):
        if tick == ticks:
            for servo in servos:
                servo.mute = False
        yield


@pytest.mark.parametrize("moving", [False, True], ids=["alone", "beside the rig"])
def test_where_nobody_answers_a_tick_has_few_questions(twin, moving):
    """Each waits for its deadline, and all of a tick's together must not make the loop late."""
    robot = twin()
    robot.link.slack, robot.link.retries = 0.02, 1
    for servo in robot.line.servos:
        servo.mute = True
    asked, tick = [], np.zeros(2)
    for _ in range(3):
        before = robot.link.counts["attempts"]
        if moving:
            robot.rig._step(tick, 0.02)
        robot.driver.cycle()
        robot.driver.beat.wait()
        asked.append(robot.link.counts["attempts"] - before)
    # A chain, or what is owed of it, and goals, which nobody answers; the rig's question and its repetition;
    # at the third tick, whether anybody is there.
    assert asked[0] <= 2 + 2 * moving and asked[1] <= 2 and asked[2] <= 3, asked


def test_where_nobody_answers_no_servo_is_missing_and_the_next_episode_goes_on(twin):
    robot = twin()
    robot.link.slack, robot.link.retries = 0.02, 0
    robot.safety.begin_episode(robot.driver.beat.now())
    for ticks, kinds in ((4, set()), (8, {"readings stale"})):
        for _ in muted(robot, robot.line.servos, ticks):
            robot.step(np.zeros(5), 1)
        holding = {fault.kind for fault in robot.safety.faults.history if fault.response > Response.CARRY_ON}
        assert holding == kinds, "100 ms of silence hold the arm, less is borne"
        robot.reset(np.array(robot.configuration.arm.ready), 0.0, 0.0)
        assert robot.safety.mode is Mode.POLICY


def test_a_line_that_stays_silent_latches(twin):
    robot = twin()
    robot.link.slack, robot.link.retries = 0.02, 0
    for servo in robot.line.servos:
        servo.mute = True
    robot.driver.run(1.5)
    latched = {(fault.kind, fault.where) for fault in robot.safety.faults.active}
    assert ("servo missing", "bus") in latched, latched


@pytest.mark.parametrize(("silent", "missing"), [(3, False), (30, True)])
def test_a_servo_is_asked_once_more_before_it_is_called_missing(silent, missing, twin):
    robot = twin()
    robot.link.slack, robot.link.retries = 0.02, 0
    fault = WireFault(silence(), servo_id=5, instruction=int(Instruction.READ), count=silent)
    robot.line.wire.add(fault)
    robot.driver.run(0.2)
    assert any(fault.kind == "servo missing" for fault in robot.safety.faults.history) == missing
    assert robot.safety.mode is (Mode.HOLDING if missing else Mode.READY)


def test_a_tick_that_is_over_repeats_nothing_and_puts_inspections_off(twin):
    robot = twin()
    robot.driver.run(0.4)
    robot.driver.beat.left = lambda share: 0.0
    robot.link.slack, robot.link.retries = 0.02, 3
    robot.driver._uninspected = 0
    inspected = []
    inspect = robot.arm.inspect
    robot.arm.inspect = lambda: inspected.append(tick) or inspect()
    for tick in range(1, 17):  # noqa: B007 - read by the function above
        robot.driver.cycle()
        robot.driver.beat.wait()
    assert inspected == [8, 16], "not every fourth, but not never"
    robot.line.servo(5).mute = True
    before = robot.link.counts["attempts"]
    robot.driver.cycle()
    assert robot.link.counts["attempts"] - before == 3, "the chain, the silent servo once, and goals"


def test_the_rig_bears_a_silent_tick_and_names_a_servo_that_is_lost(twin):
    robot = twin()
    robot.driver.go_to(np.array(robot.configuration.arm.ready))
    robot.link.slack, robot.link.retries = 0.02, 0
    servo, cycle = robot.line.servo(robot.rig.axes[0].id), robot.driver.cycle
    quiet = iter([False] * 10 + [True] * 2 + [False] * 500)

    def cycles():
        servo.mute = next(quiet)
        return cycle()

    robot.driver.cycle = cycles
    robot.rig.move(0.12, -0.008)
    assert robot.world.rig == pytest.approx((0.12, -0.008), abs=3e-3)
    assert robot.rig.last == pytest.approx(robot.world.rig, abs=3e-3)
    assert robot.safety.mode is Mode.READY
    quiet = iter([False] * 10 + [True] * 500)
    with pytest.raises(RigError, match=r"servo missing.*rotation"):
        robot.rig.move(0.0, 0.0)
    assert robot.safety.mode is Mode.HOLDING
    assert [fault.where for fault in robot.safety.faults.active if fault.kind == "servo missing"] == [
        "rotation"
    ]


@pytest.mark.parametrize("name", ["gripper", "rotation", "translation"])
def test_a_servo_that_nobody_moves_is_named_when_it_is_lost_and_only_it(name, twin):
    robot = twin()
    robot.link.slack, robot.link.retries = 0.02, 0
    servo = robot.line.servo(robot.arm.profile.axis(name).id)
    servo.mute = True
    robot.driver.run(1.25)  # two inspections at most
    servo.mute = False
    robot.driver.run(0.7)
    servo.mute = True
    robot.driver.run(1.25)
    assert robot.safety.mode is Mode.READY and not robot.safety.faults.counts["servo missing"]
    lost = robot.driver.beat.now()
    robot.driver.run(2.0)
    missing = [fault for fault in robot.safety.faults.history if fault.kind == "servo missing"]
    assert [fault.where for fault in missing] == [name] and missing[0].since - lost < 0.68
    assert robot.safety.mode is Mode.HOLDING
    for _ in range(30):  # between inspections, too, it is still so
        robot.driver.cycle()
        robot.driver.beat.wait()
        with pytest.raises(FaultError, match="still so"):
            robot.safety.acknowledge("servo missing", name)
    servo.mute = False
    robot.driver.run(0.7)
    robot.safety.acknowledge("servo missing", name)
    robot.reset(np.array(robot.configuration.arm.ready), 0.0, 0.0)
    assert robot.safety.mode is Mode.POLICY


@pytest.mark.parametrize("mode", [Mode.POLICY, Mode.OFF])
def test_a_dead_servo_of_the_rig_is_named_whatever_the_arm_does(mode, tmp_path):
    with Stand(tmp_path) as stand:
        stand.episode()
        if mode is Mode.OFF:
            stand.safety.end_episode()
            stand.safety.report("emergency stop", "relay", "pressed")
            stand.idle(0.04)
        assert stand.safety.mode is mode
        stand.arm.link.retries = 0
        stand.servo("translation").mute = True
        stand.strike()
        stand.act(2.0)
        assert stand.seen("servo missing", "translation").after <= 1.96


def test_a_port_that_vanishes_is_a_fault_and_no_crash(twin):
    robot = twin()
    robot.line.unplug()
    robot.driver.cycle()
    assert robot.safety.mode is Mode.HOLDING
    assert robot.safety.faults.counts["port gone"] == 1


@pytest.mark.parametrize("raised", [True, False])
def test_a_start_that_fails_halfway_drops_nothing_that_was_held(raised, twin):
    robot = twin()
    if not raised:
        robot.driver.go_to(robot.safety.rest)
        robot.driver.shut_down()
    before, robot.link.slack = robot.world.data.qpos.copy(), 0.05
    # Another driver, after the first was killed; one servo does not acknowledge.
    arm = ServoArm(robot.link, robot.arm.profile, clock=robot.driver.beat.now)
    driver = Driver(arm, Safety(robot.configuration.limits(), robot.safety.rest), robot.driver.beat)
    seed = arm._seed

    def seeded(axis, *goal):
        robot.line.servo(4).mute = axis.name == "joint_4"
        seed(axis, *goal)

    arm._seed = seeded
    with pytest.raises(NoReply):
        driver.start()
    for _ in range(50):
        driver.beat.wait()
    torques = [bool(servo.table["torque_enable"]) for servo in robot.line.servos[:3]]
    assert torques == [raised] * 3
    if raised:
        assert np.abs(robot.world.data.qpos - before).max() < 0.05


def test_an_arm_that_sags_a_little_over_its_limits_is_started_and_brought_inside(bus):
    joint = WIDOWX_MK2.joints[2]
    line, arm = bus(positions={"joint_2": -1.2, "joint_3": joint.upper + 0.01})
    limits = load(TWIN).limits()
    driver = Driver(arm, Safety(limits, WIDOWX_MK2.rest), Lockstep(line, arm.link, 0.02))
    driver.start()
    driver.run(1.0)
    assert driver.safety.mode is Mode.READY and not driver.safety.faults.history
    assert driver.reading.position[2] <= joint.upper


def returned(stand, change):
    """An episode in which the port vanishes and, after a change, comes back."""
    stand.episode()
    stand.line.unplug()
    stand.idle(0.1)
    change()
    stand.line.replug()
    stand.idle(0.4)


def test_a_port_comes_back_only_when_everybody_could_be_checked(tmp_path):
    with Stand(tmp_path) as stand:
        # Some answers of servo 3 get through, then, amid its fences, none for all attempts of one question.
        lost = WireFault(silence(), servo_id=3, skip=6, count=3)
        returned(stand, lambda: stand.line.wire.add(lost))
        assert lost.hits == 3
        stand.idle(1.0)
        assert [fault.kind for fault in stand.safety.faults.active if fault.present] == []
        stand.safety.acknowledge("port gone", "bus")
        stand.driver.recover()
        assert stand.safety.mode is Mode.READY


def test_fences_that_differ_when_the_port_comes_back_cannot_be_acknowledged(tmp_path):
    with Stand(tmp_path) as stand:
        table = stand.line.servo(2).table
        returned(stand, lambda: table.__setitem__("max_torque", 1023))
        stand.safety.acknowledge("port gone", "bus")
        with pytest.raises(FaultError, match="still so"):
            stand.safety.acknowledge("fence differs", "joint_2")
        table["max_torque"] = 511
        stand.idle(2.1)
        stand.safety.acknowledge("fence differs", "joint_2")
        stand.driver.recover()
        assert stand.safety.mode is Mode.READY


def test_a_shut_down_servo_that_acknowledges_is_found(twin):
    robot = twin()
    robot.line.servo(2).temperature = 95.0
    robot.driver.run(0.1)
    kinds = set(robot.safety.faults.counts)
    assert "overheated" in kinds


def wandering(robot, name, way):
    """The controller of a servo goes mad: its goal wanders by ``way(t)`` rad, at half of its torque."""
    servo = robot.line.servo(robot.arm.profile.axis(name).id)
    here, began, motor = servo.shaft.angle, servo.now, servo.model.motor
    stiffness = servo.full_torque * servo._duty_per_rad()

    def command(dt):
        goal = here + way(servo.now - began)
        servo._set_drive(Drive(goal, stiffness, motor.stall / 2.0, motor.damping))

    servo._command = command
    return robot.driver.beat.now()


@pytest.mark.parametrize(
    ("name", "way", "kind", "within"),
    [
        ("joint_1", lambda t: 0.2 * np.sin(2.0 * np.pi * 5.0 * t), "joint oscillates", 0.6),
        ("joint_4", lambda t: 0.2 * np.sin(2.0 * np.pi * 5.0 * t), "joint oscillates", 0.6),
        ("joint_5", lambda t: 0.12 * np.sin(2.0 * np.pi * 3.0 * t), "joint oscillates", 0.9),
        ("joint_3", lambda t: 0.5 * t, "joint strays", 0.6),  # up: its motor carries it
        ("joint_4", lambda t: 0.5 * t, "joint strays", 0.6),
        ("joint_1", lambda t: 0.5 * t, "servo limp", 0.6),  # level: hardly any force is needed
    ],
)
def test_a_joint_that_moves_by_itself_is_named_soon_and_keeps_its_torque(name, way, kind, within, twin):
    robot = twin()
    robot.reset(np.array(robot.configuration.arm.ready), 0.0, 0.0)
    robot.safety.end_episode()
    began = wandering(robot, name, way)
    robot.driver.run(1.2)
    assert (kind, name) in {(fault.kind, fault.where) for fault in robot.safety.faults.history}
    fault = robot.safety.faults.history[0]
    assert fault.where == name and fault.since - began <= within
    assert robot.safety.mode is Mode.HOLDING and robot.driver.command.torque
    assert robot.line.servo(2).table["torque_enable"]


@pytest.mark.parametrize("comes_free", [True, False])
def test_a_reset_that_something_blocks_is_tried_again_and_not_for_ever(comes_free, twin):
    robot = None

    def look(command):
        if robot is not None and comes_free and robot.safety.mode is Mode.HOLDING:
            robot.world.model.jnt_range[3, 0] = -1.745

    robot = twin(after=look)
    robot.world.model.jnt_range[3, 0] = -0.05  # something stands in joint 4's way
    goal = np.array(robot.configuration.arm.ready)
    if comes_free:
        robot.reset(goal, 0.0, 0.0)
        assert robot.safety.mode is Mode.POLICY
        assert robot.driver.reading.position[3] == pytest.approx(goal[3], abs=0.06)
    else:
        with pytest.raises(FaultError, match="joint_4"):
            robot.reset(goal, 0.0, 0.0)
    assert robot.safety.faults.counts["follow error"] == (1 if comes_free else 3)


def test_the_rig_moves_and_keeps_away_from_a_low_arm(twin):
    robot = twin()
    robot.driver.go_to(np.array(robot.configuration.arm.ready))
    robot.rig.move(0.12, -0.008)
    assert robot.world.rig == pytest.approx((0.12, -0.008), abs=3e-3)
    robot.driver.reading = dataclasses.replace(
        robot.driver.reading, position=widowx.angles_at(np.array([0.2, 0.0, FACE - 0.005]), np.array(0.0))
    )
    assert not robot.clear_of_rig()
    with pytest.raises(RigError, match="in the rig's way"):
        robot.rig.move(0.0, 0.0)
    blocked = robot.line.servo(WIDOWX_MK2.rig[1].id)
    blocked.table["torque_limit"] = 0
    robot.driver.run(0.1)
    with pytest.raises(RigError, match=r"the arm is held: overload .*translation"):
        robot.rig.move(0.12, 0.008)


def test_the_rig_asks_nobody_in_a_tick_that_is_over_and_arrives_later(twin, monkeypatch):
    """On a slow computer the joints come first."""
    robot = twin()
    robot.driver.go_to(np.array(robot.configuration.arm.ready))
    beat, asked, ticks = robot.driver.beat, [], itertools.count()
    read = robot.arm.rig
    monkeypatch.setattr(
        beat, "left", lambda share: -math.inf if share < 1.0 and next(ticks) % 2 else math.inf
    )
    monkeypatch.setattr(robot.arm, "rig", lambda: asked.append(beat.now()) or read())
    started = beat.now()
    robot.rig.move(0.12, -0.008)
    took = round((beat.now() - started) / 0.02)
    assert robot.world.rig == pytest.approx((0.12, -0.008), abs=3e-3)
    assert 0.4 * took < len(asked) < 0.6 * took
    monkeypatch.setattr(beat, "left", lambda share: -math.inf)
    with pytest.raises(RigError, match="lacks"):  # and not for ever
        robot.rig.move(0.0, 0.0)


def test_the_rig_stops_when_an_episode_begins_while_it_moves(tmp_path):
    with Stand(tmp_path) as stand:
        stand.start()
        stand.rig.start()
        started = stand.beat.now()
        stand.later.append((started + 0.3, lambda: stand.safety.begin_episode(stand.beat.now())))
        with pytest.raises(RigError, match="obeying the policy"):
            stand.rig.move(0.12, 0.005)
        assert stand.beat.now() - started < 0.35


def test_the_rig_gets_no_goal_and_so_no_torque_after_an_emergency_stop(tmp_path):
    with Stand(tmp_path) as stand:
        stand.start()
        stand.rig.start()
        stand.safety.report("emergency stop", "arm", "pressed")
        stand.idle(0.1)
        assert not any(stand.torques().values())
        with pytest.raises(RigError, match="emergency stop"):
            stand.rig.move(0.1, 0.005)
        assert not any(stand.torques().values()), "a goal switches a servo of Protocol 1 on"


def test_a_lifted_hand_rises_straight():
    angles = np.array([0.3, -0.5, 0.9, 1.1, 0.2])
    place, higher = (widowx.tip_place(a) for a in (angles, widowx.lifted(angles, 0.03)))
    assert higher - place == pytest.approx([0.0, 0.0, 0.03], abs=1e-9)
    assert tip_height(angles) == place[2]
    down = widowx.angles_at(np.array([0.2, 0.01, 0.06]), np.array(0.1))
    assert widowx.tip_place(down) == pytest.approx([0.2, 0.01, 0.06], abs=1e-9)


# The environment ------------------------------------------------------------------------------------


class Wiretap:
    """Checks every packet that sets a goal against every limit, by what is on the wire alone."""

    def __init__(self):
        self.configuration = load(TWIN)
        self.axes = {axis.id: axis for axis in self.configuration.arm_profile()}
        self.goals = 0
        self.violations = []
        self.last = {}

    def __call__(self, transaction):
        for packet in Decoder().feed(transaction.sent):
            assert isinstance(packet, Packet)
            if packet.code == Instruction.SYNC_WRITE:
                address, length = packet.params[0], packet.params[1]
                assert (address, length) == (30, 4), "goals and speeds, and nothing else"
                parts = packet.params[2:]
                for start in range(0, len(parts), 5):
                    self.look(parts[start], parts[start + 1 : start + 5])
            elif packet.code == Instruction.WRITE:
                assert packet.params[0] >= 24, "nothing is written to an EEPROM"
                if packet.params[0] == 30:
                    self.look(packet.id, packet.params[1:5])

    def look(self, servo, data):
        axis = self.axes[servo]
        tick, register = (int.from_bytes(data[i : i + 2], "little") for i in (0, 2))
        low, high = axis.tick_limits
        unit = axis.model.register("moving_speed").unit
        arm = servo <= 5
        most = 0.22 if arm else axis.max_speed * axis.ratio
        # A goal lies a horizon ahead of a reference that moves at that speed: from one to the next.
        far = (most * 0.02 + most * 0.06 * 2) / axis.model.rad_per_tick + 1
        self.goals += 1
        if not low <= tick <= high or not 0 < register * unit <= most + 1e-9:
            self.violations.append((axis.name, tick, register))
        if servo in self.last and abs(tick - self.last[servo]) > far:
            self.violations.append((axis.name, "jump", self.last[servo], tick))
        self.last[servo] = tick


def same_actions(seed):
    """Forty actions from the start, smooth and well above the ports, ``(40, 5)``."""
    rng = np.random.default_rng(seed)
    times = np.arange(40)[:, None] / 40.0
    rates, phases = rng.uniform(0.5, 3.0, 5), rng.uniform(0.0, 2.0 * np.pi, 5)
    actions = 0.8 * np.sin(2.0 * np.pi * rates * times + phases) + rng.uniform(-0.2, 0.2, (40, 5))
    actions[:, 1] = np.where(times[:, 0] < 0.2, -0.8, 0.35 * actions[:, 1])  # up first, then about there
    actions[:, 2:4] *= 0.35
    return np.clip(actions, -1.0, 1.0)


def hand(env):
    """Place of the tip (m) and axes of the plug, of what an environment has simulated."""
    world = env.unwrapped._batch._world
    site = world.model.site(widowx.TIP).id
    return world.derived("site_xpos")[0, site].copy(), world.derived("site_xmat")[0, site].reshape(
        3, 3
    ).copy()


def apart(one, other):
    """Distance (m) and angle (degrees) between two hands."""
    cosine = (np.trace(one[1].T @ other[1]) - 1.0) / 2.0
    return np.linalg.norm(one[0] - other[0]), np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))


def test_the_same_actions_end_at_the_same_place_on_sim_and_twin_and_break_no_limit():
    envs = [gym.make(ETHERNET, backend=backend, obs_type="state") for backend in ("sim", "twin")]
    tap = Wiretap()
    for env in envs:
        env.reset(seed=3)
    robot = envs[1].unwrapped._batch._backend.twins[0]
    robot.link.record = tap
    assert np.degrees(robot.world.rig[0]) == pytest.approx(
        envs[0].unwrapped.task.parameters["rotation"], abs=0.5
    )
    travelled = hand(envs[0])
    for action in same_actions(3):
        infos = [env.step(action.astype(np.float32))[4] for env in envs]
        assert infos[1]["action_sent"] == pytest.approx(action, abs=0.21), "the first tick accelerates"
    assert "action_sent" not in infos[0]
    assert apart(travelled, hand(envs[0]))[0] > 0.03
    distance, angle = apart(*map(hand, envs))
    assert distance < 0.005 and angle < 2.0
    assert tap.goals >= 40 * 15 * 5 and not tap.violations
    for env in envs:
        env.close()


def random_actions(seed):
    """Forty actions that know nothing of each other, ``(40, 5)``."""
    return np.random.default_rng(seed).uniform(-1.0, 1.0, (40, 5))


def test_sim_and_twin_stay_together_and_stop_at_the_same_bounds():
    envs = [gym.make(ETHERNET, backend=backend, obs_type="state") for backend in ("sim", "twin")]
    to_a_limit, to_the_table, to_the_base = np.eye(5)[:3]
    lives = [same_actions(0), random_actions(1), random_actions(9)]
    lives += [np.tile(one, (40, 1)) for one in (to_a_limit, to_the_table, to_the_base)]
    far = []
    for seed, actions in enumerate(lives):
        for env in envs:
            env.reset(seed=seed)
        for action in actions.astype(np.float32):
            for env in envs:
                env.step(action)
            far.append(apart(*map(hand, envs)))
        robot = envs[1].unwrapped._batch._backend.twins[0]
        assert not robot.world.data.ncon and robot.safety.mode is Mode.POLICY
    worst = np.array(far).reshape(len(lives), 40, 2)
    assert (worst[:, -1] < (0.0025, 1.0)).all(), "at the end: m, degrees"
    assert (worst < (0.005, 2.0)).all(), "on the way"
    for env in envs:
        env.close()


def test_spaces_tasks_and_frames_are_the_simulations_and_the_expert_inserts():
    envs = [gym.make(ETHERNET, backend=backend) for backend in ("sim", "twin")]
    frames = [env.reset(seed=0)[0] for env in envs]
    sim, twin = envs
    assert twin.observation_space == sim.observation_space and twin.action_space == sim.action_space
    assert twin.unwrapped.task == sim.unwrapped.task
    assert twin.unwrapped.task_set.train == sim.unwrapped.task_set.train
    assert np.abs(frames[0].astype(int) - frames[1]).mean() < 2.0, "the same scene, but for the arm's sag"
    for _ in range(25):
        *_, info = twin.step(twin.unwrapped.expert_action())
        if info["success"]:
            break
    assert info["success"] and info["reward_sparse"] == 1.0
    _, info = twin.reset(seed=1)
    assert not info["success"] and info["score"] < -0.03, "out of the port again, and back at the start"
    for env in envs:
        env.close()


def test_bad_actions_go_no_further_than_the_environment():
    env = gym.make(ETHERNET, backend="twin", obs_type="state")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="finite"):
        env.step(np.array([np.nan, 0.0, 0.0, 0.0, 0.0], dtype=np.float32))
    env.close()
    env.close()
