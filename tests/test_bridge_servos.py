"""The tables of servos and arms, and emulated servos by themselves: memory, motion, health."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from hardware_bridge.protocol import BROADCAST, PROTOCOLS, Decoder, Error1, Error2, Instruction
from hardware_bridge.servos import (
    AX_12,
    MODELS,
    MX_28,
    MX_64,
    PROFILES,
    WIDOWX_MK2,
    WX200,
    XM430_W350,
    ArmProfile,
    JointSpec,
    baud_code,
    baud_rate,
    model_by_number,
)
from hardware_bridge.twin.build import bench, emulate
from hardware_bridge.twin.joint import BenchJoint, Drive, Shaft
from hardware_bridge.twin.servo import Nature
from hardware_bridge.twin.servo1 import Servo1
from hardware_bridge.twin.servo2 import EXTENDED, PWM, VELOCITY, Servo2
from meld_envs.robots import widowx

AXES = [(profile, axis) for profile in PROFILES.values() for axis in profile]
axes = pytest.mark.parametrize(
    ("profile", "axis"), AXES, ids=[f"{profile.name}-{axis.name}" for profile, axis in AXES]
)


# ---------------------------------------------------------------- tables


def test_baud_codes_of_the_manuals():
    rates = {
        1: 1_000_000,
        3: 500_000,
        4: 400_000,
        7: 250_000,
        9: 200_000,
        16: 115_200,
        34: 57_600,
        250: 2_250_000,
    }
    assert {code: baud_rate(1, code) for code in rates} == rates
    assert [baud_rate(2, code) for code in (0, 1, 3, 7)] == [9_600, 57_600, 1_000_000, 4_500_000]
    assert (baud_code(1, 57_600), baud_code(2, 57_600)) == (34, 1)
    with pytest.raises(ValueError, match="12345"):
        baud_code(1, 12345)


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
def test_control_tables_are_consistent(model):
    registers = sorted(model.registers.values(), key=lambda register: register.address)
    for before, after in itertools.pairwise(registers):
        assert before.end <= after.address, f"{before.name} and {after.name} overlap"
    for register in registers:
        assert register.decode(register.encode(register.default)) == register.default
        if register.access == "rw" and register.name not in ("secondary_id", "cw_angle_limit"):
            assert register.low <= register.default <= register.high, register.name
    ram_starts = 64 if model.protocol == 2 else 24
    assert all((r.area == "ram") == (r.address >= ram_starts) for r in registers)
    assert model_by_number(model.number) is model


def test_motor_laws_are_those_of_the_sources():
    """MX-64 by Rhoban's identification: 24.9 Nm/rad, 0.67 Nm s/rad, 4.75 Nm at P = 32 and 12 V."""
    motor = MX_64.motor
    assert motor.stall * motor.gain * 32 == pytest.approx(24.9, abs=0.1)
    assert motor.damping == pytest.approx(0.67, abs=0.01)
    assert motor.stall * motor.duty_limit == pytest.approx(4.75, abs=0.01)
    assert MX_28.motor.stall * MX_28.motor.gain * 32 == pytest.approx(12.6, abs=0.1)
    assert AX_12.motor.stall * AX_12.motor.gain / 32 == pytest.approx(9.2, abs=0.2)


@axes
def test_positions_go_to_ticks_and_back(profile, axis):
    low, high = axis.tick_limits
    assert 0 <= low < high <= axis.model.max_tick
    for tick in range(low, high + 1, 37):
        assert axis.to_tick(axis.to_position(tick)) == tick
    assert axis.to_position(axis.model.centre) == 0
    direction = axis.to_position(high) - axis.to_position(low)
    assert math.copysign(1, direction) == axis.sign


def test_profiles_say_what_their_sources_say():
    assert [axis.id for axis in WIDOWX_MK2] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [axis.sign for axis in WIDOWX_MK2][:6] == [1, 1, -1, -1, 1, -1]
    assert [axis.model.number for axis in WIDOWX_MK2][:6] == [29, 310, 310, 29, 12, 12]
    assert not any(axis.shadow_ids for axis in WIDOWX_MK2)
    assert WX200.axis("shoulder").ids == (2, 3)
    assert [WX200.axis(n).tick_limits for n in ("shoulder", "elbow", "wrist_angle")] == [
        (819, 3333),
        (819, 3106),
        (910, 3447),
    ]
    assert WX200.axis("shoulder").to_speed_ticks(math.pi) == 131
    for profile in PROFILES.values():
        rotation, translation = profile.rig
        assert rotation.upper - rotation.lower == pytest.approx(math.radians(16))
        assert translation.upper - translation.lower == pytest.approx(0.02)
        low, high = translation.tick_limits
        assert high - low == 2048, "2 cm of a 40 mm pulley is half a turn"
        for axis, angle in zip(profile.joints, profile.rest):
            assert axis.lower <= angle <= axis.upper


def test_units():
    joint = WIDOWX_MK2.axis("joint_3")
    assert joint.to_speed(66) == pytest.approx(-0.788, abs=1e-3)
    assert joint.to_speed_ticks(-1.571) == 132 and joint.to_speed_ticks(0.0) == 1
    assert MX_64.to_unit("present_voltage", 118) == pytest.approx(11.8)
    assert MX_64.register("present_speed").decode(b"\x42\x04") == -66
    assert MX_64.register("present_speed").encode(-66) == b"\x42\x04"
    assert XM430_W350.to_unit("goal_velocity", 131) == pytest.approx(3.14, abs=0.01)
    assert MX_28.unpack(36, bytes.fromhex("0108000000007828")) == {
        "present_position": 2049,
        "present_speed": 0,
        "present_load": 0,
        "present_voltage": 120,
        "present_temperature": 40,
    }
    assert MX_28.pack({"moving_speed": 100, "goal_position": 2048}) == (30, bytes.fromhex("00086400"))


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: WIDOWX_MK2.joints[0].to_tick(math.nan), ValueError),
        (lambda: WIDOWX_MK2.joints[0].to_tick(math.inf), ValueError),
        (lambda: WIDOWX_MK2.joints[0].to_tick(3.2), ValueError),
        (lambda: WIDOWX_MK2.joints[0].to_speed_ticks(math.nan), ValueError),
        (lambda: WIDOWX_MK2.joints[0].to_speed_ticks(0.8), ValueError),
        (lambda: MX_28.register("goal_position").encode(70_000), ValueError),
        (lambda: MX_28.register("goal_position").encode(-5), ValueError),
        (lambda: MX_28.register("goal_position").encode(math.nan), AttributeError),
        (lambda: MX_28.register("present_speed").encode(1024), ValueError),
        (lambda: MX_28.register("goal_positon"), KeyError),
        (lambda: MX_28.pack({"goal_position": 1, "torque_enable": 1}), ValueError),
        (lambda: WIDOWX_MK2.axis("joint_9"), KeyError),
        (lambda: JointSpec("bad", 1, MX_28, 0, -1, 1, 1), ValueError),
        (lambda: JointSpec("bad", 1, AX_12, 1, -3, 1, 1), ValueError),
        (lambda: ArmProfile("bad", WX200.joints, WX200.gripper, WIDOWX_MK2.rig, 0.1, WX200.rest), ValueError),
    ],
)
def test_what_a_servo_cannot_hold_is_refused(call, error):
    with pytest.raises(error):
        call()


def test_the_simulated_mark_ii_and_the_one_on_the_bus_are_one_arm():
    """The same facts stand in two tables, for packages that may not need each other."""
    for axis, joint in zip(WIDOWX_MK2.joints, widowx.JOINTS, strict=True):
        assert (axis.name, axis.id, axis.sign) == (joint.name, joint.servo, joint.sign)
        assert (axis.lower, axis.upper, axis.max_speed) == (*joint.limits, joint.speed)
        assert joint.motor.startswith(axis.model.name)
        simulated, motor = widowx.MOTORS[joint.motor], axis.model.motor
        gain = 1 / 32 if axis.model is AX_12 else 32
        assert simulated.stiffness == pytest.approx(motor.stall * motor.gain * gain, rel=0.03)
        assert simulated.damping == pytest.approx(motor.damping + motor.viscous, rel=0.02)
        assert simulated.stall == pytest.approx(motor.stall, rel=0.01)
        assert (simulated.armature, simulated.friction) == (motor.armature, motor.coulomb)
    assert widowx.JOINTS[0].origin[2] == WIDOWX_MK2.base_height and WIDOWX_MK2.max_torque == widowx.DUTY


# ---------------------------------------------------------------- an emulated servo on a bench


class Rig:
    """One servo, one axis, no line."""

    def __init__(self, model=MX_64, nature=None, k=1.0, load=None, inertia=0.02, **eeprom):
        self.joint = BenchJoint(inertia=inertia, coulomb=model.motor.coulomb, load=load)
        family = Servo1 if model.protocol == 1 else Servo2
        self.servo = family(model, 1, Shaft(self.joint, 1, k), nature, **eeprom)
        self.word = PROTOCOLS[model.protocol]

    def send(self, raw):
        (packet,) = Decoder().feed(raw)
        return self.servo.execute(packet)

    def set(self, **values):
        return self.send(self.word.write(1, *self.servo.model.pack(values))).error

    def get(self, name):
        register = self.servo.model.register(name)
        return register.decode(self.send(self.word.read(1, register.address, register.size)).data)

    def run(self, seconds):
        for _ in range(round(seconds / 2e-3)):
            self.servo.advance(2e-3)
            self.joint.step(2e-3)


def test_goal_and_speed_are_obeyed():
    rig = Rig()
    assert rig.set(goal_position=2048 + 652, moving_speed=84) == 0  # 1 rad at 1 rad/s
    rig.run(0.5)
    assert rig.joint.velocity == pytest.approx(1.0, abs=0.05)
    unit = MX_64.register("present_speed").unit
    assert rig.get("present_speed") * unit == pytest.approx(rig.joint.velocity, abs=unit)
    assert rig.get("moving") == 1
    rig.run(1.0)
    assert rig.joint.position == pytest.approx(1.0, abs=0.01) and rig.get("moving") == 0
    assert rig.get("present_position") == pytest.approx(2048 + 652, abs=3)
    rig.set(goal_position=2048, moving_speed=84)
    rig.run(0.5)
    assert rig.get("present_speed") < -70, "clockwise has bit 10 set and is negative here"


@pytest.mark.parametrize(
    ("model", "ahead", "rest", "travel"),
    [
        (MX_28, 0.06, 0.146, 0.053),
        (MX_28, 0.10, 0.186, 0.073),
        (MX_28, 0.15, 0.238, 0.099),
        (MX_64, 0.06, 0.122, 0.047),
        (MX_64, 0.10, 0.162, 0.067),
        (MX_64, 0.15, 0.214, 0.093),
    ],
)
def test_goals_a_short_way_ahead_are_a_dead_mans_switch(model, ahead, rest, travel):
    """Joint mode at 0.5 rad/s, goals at 50 Hz; then the host dies. The table of docs/hardware_protocol.md."""
    rig, speed = Rig(model), 42 * model.register("moving_speed").unit
    for step in range(60):
        rig.run(0.02)
        goal = round(2048 + speed * (0.02 * step + ahead) / model.rad_per_tick)
        rig.set(goal_position=goal, moving_speed=42)
    assert rig.joint.velocity == pytest.approx(speed, rel=0.01)
    died, moving = rig.joint.position, 0.0
    for tick in range(500):
        rig.run(0.002)
        if abs(rig.joint.velocity) > 0.01:
            moving = 0.002 * (tick + 1)
    assert rig.joint.velocity == 0
    assert moving == pytest.approx(rest, abs=0.005)
    assert rig.joint.position - died == pytest.approx(travel, abs=0.002)


def test_moving_speed_zero_is_full_speed():
    slow, fast = Rig(), Rig()
    slow.set(goal_position=3000, moving_speed=84)
    fast.set(goal_position=3000, moving_speed=0)
    slow.run(0.2), fast.run(0.2)
    assert fast.joint.position > 4 * slow.joint.position


def test_goal_acceleration_ramps_the_speed():
    rig = Rig()
    rig.set(goal_acceleration=10)  # 1.5 rad/s²
    rig.set(goal_position=3500, moving_speed=167)
    rig.run(0.4)
    assert rig.joint.velocity == pytest.approx(0.6, abs=0.1)


def test_gravity_makes_it_sag_by_the_stiffness_of_the_p_gain():
    """1.15 Nm at 24.9 Nm/rad, less what friction holds: the 0.05 rad of the fact sheets."""
    rig = Rig(load=lambda position: -1.15)
    rig.set(goal_position=2048, moving_speed=84)
    rig.run(2.0)
    assert -1.24 / 24.9 <= rig.joint.position <= -1.06 / 24.9
    load = rig.get("present_load")
    assert load == pytest.approx(1023 * rig.joint.force(1) / MX_64.motor.stall, abs=1) and load > 200


def test_angle_limits_are_kept_and_reported():
    rig = Rig(cw_angle_limit=1024, ccw_angle_limit=3072)
    assert rig.set(goal_position=3073) == Error1.ANGLE_LIMIT
    rig.run(0.2)
    assert rig.joint.position == 0 and rig.get("goal_position") == 2048 and rig.get("torque_enable") == 0
    assert rig.set(goal_position=3072) == 0


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"present_position": 5}, Error1.RANGE),
        ({"torque_enable": 2}, Error1.RANGE),
        ({"moving_speed": 1024}, Error1.RANGE),
        ({"torque_control_enable": 1}, Error1.RANGE),
        ({"temperature_limit": 80}, 0),
    ],
)
def test_access_rules_of_protocol_1(values, error):
    assert Rig().set(**values) == error


def test_a_block_is_written_whole_or_not_at_all():
    rig = Rig(cw_angle_limit=1024, ccw_angle_limit=3072)
    assert rig.set(goal_position=4000, moving_speed=7) == Error1.ANGLE_LIMIT
    assert rig.get("moving_speed") == 0


def test_the_eeprom_lock_lasts_until_power_goes():
    rig = Rig()
    assert rig.set(lock=1) == 0
    assert rig.set(max_torque=100) == Error1.RANGE and rig.set(lock=0) == Error1.RANGE
    assert rig.set(torque_limit=100) == 0, "RAM stays writable"
    rig.servo.power_off()
    rig.servo.power_up()
    assert rig.set(max_torque=100) == 0
    assert rig.get("torque_limit") == 1023
    rig.servo.power_up()
    assert rig.get("torque_limit") == 100, "loaded from EEPROM at power-up"


def test_overload_shuts_down_acknowledges_and_does_nothing():
    rig = Rig(max_torque=511)
    rig.joint.stops = (-0.1, 0.1)
    rig.set(goal_position=2500, moving_speed=84)
    rig.run(2.0)
    assert rig.get("torque_limit") == 0 and rig.joint.force(1) == 0
    assert rig.set(goal_position=2048, moving_speed=84) == Error1.OVERLOAD, "acknowledged: no refusal bit"
    before = rig.joint.position
    rig.run(1.0)
    assert rig.joint.position == before, "and nothing happens"
    rig.set(torque_limit=511)
    rig.run(1.0)
    assert rig.joint.position == pytest.approx(0, abs=0.02), "a new torque limit revives it"
    assert rig.set(led=0) == 0


def test_overheating_shuts_down_for_as_long_as_it_is_hot():
    rig = Rig()
    rig.set(goal_position=2100)
    rig.servo.temperature = 85.0
    rig.run(0.01)
    assert rig.get("torque_limit") == 0 and rig.set(torque_limit=1023) == Error1.OVERHEATING
    rig.run(0.01)
    assert rig.get("torque_limit") == 0, "the cause is still there"
    rig.servo.temperature = 60.0
    assert rig.set(torque_limit=1023) == 0
    rig.run(0.01)
    assert rig.get("torque_limit") == 1023


def test_voltage_is_reported_but_does_not_shut_down_by_default():
    rig = Rig(min_voltage_limit=100)
    rig.set(goal_position=2100, moving_speed=84)
    rig.servo.voltage = 9.4
    rig.run(0.1)
    assert rig.set(led=0) == Error1.VOLTAGE and rig.get("present_voltage") == 94
    assert rig.get("torque_limit") == 1023


def test_a_brownout_restarts_it_without_torque():
    rig = Rig()
    rig.set(goal_position=2300, moving_speed=84)
    rig.run(0.1)
    rig.servo.voltage = 4.0
    rig.run(0.5)
    assert not rig.servo.listening and rig.joint.force(1) == 0
    rig.servo.voltage = 12.0
    rig.run(0.2)
    assert rig.servo.listening
    assert (rig.get("torque_enable"), rig.get("moving_speed")) == (0, 0)
    assert rig.get("goal_position") == rig.get("present_position")


def test_it_heats_under_load():
    idle, busy = Rig(), Rig(load=lambda position: -2.5)
    for rig in (idle, busy):
        rig.set(goal_position=2048, moving_speed=50)
        rig.run(10.0)
    assert busy.servo.temperature > idle.servo.temperature + 0.3


def test_wheel_and_multi_turn_follow_from_the_limits():
    wheel = Rig(cw_angle_limit=0, ccw_angle_limit=0)
    wheel.set(torque_enable=1)
    assert wheel.set(moving_speed=1024 + 84) == 0
    wheel.run(1.0)
    assert wheel.joint.velocity == pytest.approx(-1.0, abs=0.05)
    turns = Rig(cw_angle_limit=4095, ccw_angle_limit=4095)
    assert turns.set(goal_position=8192, moving_speed=0) == 0
    turns.run(4.0)
    assert turns.get("present_position") == pytest.approx(8192, abs=20)
    assert turns.set(goal_position=30_000) == Error1.RANGE


def test_the_ax_turns_by_duty_and_is_blind_in_its_dead_zone():
    rig = Rig(AX_12)
    for degrees, tick in ((0, 512), (149, 1020), (160, 1023), (179, 1023), (181, 0), (200, 0), (212, 7)):
        rig.joint.position = math.radians(degrees)
        assert rig.get("present_position") == tick
    wheel = Rig(AX_12, cw_angle_limit=0, ccw_angle_limit=0)
    wheel.set(torque_enable=1)
    wheel.set(moving_speed=512)
    wheel.run(2.0)
    assert wheel.joint.velocity == pytest.approx(AX_12.no_load_speed / 2, rel=0.1)


def test_positions_are_quantised():
    rig = Rig()
    seen = set()
    for step in range(5):
        rig.joint.position = step * MX_64.rad_per_tick / 4
        seen.add(rig.get("present_position"))
    assert seen == {2048, 2049}


def test_registered_writes_wait_for_action():
    rig = Rig()
    address, data = MX_64.pack({"goal_position": 2500, "moving_speed": 80})
    assert rig.send(rig.word.action(1)).error == Error1.INSTRUCTION
    assert rig.send(rig.word.reg_write(1, address, data)).error == 0
    assert rig.get("registered") == 1 and rig.get("goal_position") == 2048
    assert rig.send(rig.word.action(BROADCAST)) is None
    assert rig.get("registered") == 0 and rig.get("goal_position") == 2500


@pytest.mark.parametrize(("level", "answered"), [(0, (1, 0, 0)), (1, (1, 1, 0)), (2, (1, 1, 1))])
def test_status_return_level(level, answered):
    rig = Rig(status_return_level=level)
    sent = (rig.word.ping(1), rig.word.read(1, 36, 2), rig.word.write(1, 25, b"\x01"))
    assert tuple(int(rig.send(raw) is not None) for raw in sent) == answered


def test_nobody_answers_a_broadcast_and_everybody_obeys():
    rig = Rig()
    assert rig.send(rig.word.write(BROADCAST, 25, b"\x01")) is None
    assert rig.get("led") == 1


def test_factory_reset_forgets_everything():
    rig = Rig(baud_rate=1, max_torque=511)
    rig.send(rig.word.instruction(1, 6))
    assert (rig.servo.baud, rig.servo.table["max_torque"], rig.servo.id) == (57_600, 1023, 1)


# ---------------------------------------------------------------- Protocol 2


def test_protocol_2_moves_with_profile_and_locks_its_eeprom():
    rig = Rig(XM430_W350)
    assert rig.set(operating_mode=EXTENDED) == 0 and rig.set(operating_mode=3) == 0
    assert rig.set(goal_position=3000) == 0
    rig.run(0.2)
    assert rig.joint.position == 0, "torque is off"
    assert rig.set(torque_enable=1) == 0
    assert rig.get("goal_position") == 2048, "enabling torque never jumps to an old goal"
    assert rig.set(max_position_limit=3000) == Error2.ACCESS and rig.set(present_position=0) == Error2.ACCESS
    rig.set(profile_velocity=42)  # 1 rad/s
    assert rig.set(goal_position=2048 + 652) == 0
    rig.run(0.5)
    assert rig.joint.velocity == pytest.approx(1.0, abs=0.05)
    rig.run(1.5)
    assert rig.get("present_position") == pytest.approx(2048 + 652, abs=4)


def test_protocol_2_time_profile_arrives_in_time():
    rig = Rig(XM430_W350, drive_mode=4)
    rig.set(torque_enable=1)
    rig.set(profile_velocity=1000), rig.set(profile_acceleration=300)
    rig.set(goal_position=2048 + 652)
    rig.run(0.5)
    assert rig.get("position_trajectory") == pytest.approx(2048 + 326, abs=8)
    rig.run(0.45)
    assert rig.get("position_trajectory") < 2048 + 652
    rig.run(0.1)
    assert rig.get("position_trajectory") == 2048 + 652


@pytest.mark.parametrize(
    ("eeprom", "values", "error"),
    [
        ({"max_position_limit": 3000}, {"goal_position": 3001}, Error2.DATA_LIMIT),
        ({"velocity_limit": 131}, {"goal_velocity": -132}, Error2.DATA_LIMIT),
        ({}, {"torque_enable": 2}, Error2.DATA_RANGE),
        ({}, {"operating_mode": 2}, Error2.DATA_RANGE),
        ({}, {"present_velocity": 1}, Error2.ACCESS),
    ],
)
def test_access_rules_of_protocol_2(eeprom, values, error):
    assert Rig(XM430_W350, **eeprom).set(**values) == error


def test_protocol_2_shutdown_needs_a_reboot():
    rig = Rig(XM430_W350)
    rig.joint.stops = (-0.1, 0.1)
    rig.set(torque_enable=1)
    rig.set(goal_position=3500)
    rig.run(1.5)
    assert rig.get("torque_enable") == 0 and rig.get("hardware_error_status") == 0x20
    assert rig.set(torque_enable=1) == 0x80, "acknowledged, with the alert bit"
    assert rig.get("torque_enable") == 0
    assert rig.send(rig.word.reboot(1)) is not None
    assert not rig.servo.listening
    rig.run(0.2)
    assert rig.servo.listening and rig.set(torque_enable=1) == 0 and rig.get("torque_enable") == 1


def test_the_bus_watchdog_bites_and_lets_go():
    rig = Rig(XM430_W350, operating_mode=VELOCITY)
    rig.set(torque_enable=1), rig.set(bus_watchdog=5)  # 100 ms
    rig.set(goal_velocity=42)
    for _ in range(20):
        rig.servo.bus_activity()
        rig.run(0.05)
    assert rig.joint.velocity == pytest.approx(1.0, abs=0.05)
    rig.run(0.3)
    assert rig.joint.velocity == 0 and rig.get("bus_watchdog") == -1
    assert rig.set(goal_velocity=42) == Error2.DATA_RANGE
    assert rig.set(bus_watchdog=0) == 0 and rig.set(goal_velocity=42) == 0


def test_pwm_mode_pushes_on_without_a_host():
    rig = Rig(XM430_W350, operating_mode=PWM)
    rig.set(torque_enable=1), rig.set(goal_pwm=0)
    rig.set(goal_pwm=-443)
    rig.run(2.0)
    assert rig.joint.velocity == pytest.approx(-XM430_W350.no_load_speed / 2, rel=0.1)


@pytest.mark.parametrize("factory", [False, True])
@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_a_profile_is_emulated_with_its_signs_shadows_and_fences(profile, factory):
    world = bench(profile, {"rotation": 0.1})
    servos = {servo.id: servo for servo in emulate(profile, world, factory=factory)}
    for axis in profile:
        world.joint(axis.name).position = axis.upper / 2
        for servo_id in axis.ids:
            servo = servos[servo_id]
            servo.refresh()
            assert axis.to_position(servo.table["present_position"]) == pytest.approx(
                axis.upper / 2, abs=axis.model.rad_per_tick / axis.ratio
            ), f"{axis.name}, id {servo_id}"
            limits = tuple(servo.table[name] for name in axis.model.limit_registers)
            assert (limits == axis.tick_limits) is not factory
    rates = {servo.baud for servo in servos.values()}
    if not factory:
        assert rates == {profile.baud}
    elif profile is WIDOWX_MK2:
        assert rates == {57_600, 1_000_000}, "a factory-fresh Mark II does not share a rate"


def test_a_shadow_pushes_the_same_way_as_its_leader():
    world = bench(WX200)
    servos = {servo.id: servo for servo in emulate(WX200, world)}
    for servo_id in (2, 3):
        servos[servo_id].write(*XM430_W350.pack({"torque_enable": 1}))
        servos[servo_id].write(*XM430_W350.pack({"goal_position": 2300}))
        servos[servo_id].advance(2e-3)
    assert servos[3].table["drive_mode"] == 1 and servos[3].second_id == 2
    assert servos[3].shaft.angle == -servos[2].shaft.angle, "mounted face to face"
    joint = world.joint("shoulder")
    assert joint.force(2) == pytest.approx(joint.force(3)) and joint.force(2) > 0


def test_a_drive_in_the_frame_of_a_shaft():
    joint = BenchJoint(position=0.01, velocity=0.02)
    shaft = Shaft(joint, 1, k=-50.0)
    drive = Drive(goal=-0.6, stiffness=3.0, saturation=2.0, damping=0.1, bias=0.05)
    shaft.drive(drive)
    assert (shaft.angle, shaft.speed) == (-0.5, -1.0)
    assert shaft.torque == pytest.approx(drive.force(-0.5, -1.0))
    assert joint.force(1) == pytest.approx(-50 * shaft.torque)


def test_goals_may_or_may_not_switch_torque_on():
    assert Rig().set(goal_position=2100) == 0
    shy = Rig(nature=Nature(goal_enables_torque=False))
    shy.set(goal_position=2100)
    assert shy.get("torque_enable") == 0


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_no_packet_whatever_breaks_a_servo(profile):
    rng = np.random.default_rng(11)
    world = bench(profile)
    servos = emulate(profile, world)
    for step in range(900):
        servo = servos[rng.integers(len(servos))]
        word = PROTOCOLS[servo.protocol]
        target = int(rng.choice([servo.id, servo.id, BROADCAST]))
        if rng.random() < 0.6:
            register = list(servo.model.registers.values())[rng.integers(len(servo.model.registers))]
            value = int(rng.choice([0, 1, register.low, register.high, register.default]))
            raw = word.write(target, register.address, register.encode(value))
        else:
            code = rng.choice([c for c in word.instructions if c != Instruction.STATUS])
            raw = word.instruction(target, Instruction(int(code)), rng.bytes(int(rng.integers(16))))
        (packet,) = Decoder().feed(raw)
        servo.execute(packet)
        for other in servos:
            other.advance(2e-3)
        world.step(2e-3)
        if step % 100 == 0:
            for other in servos:
                other.power_up()
    for servo in servos:
        servo.refresh()
        assert math.isfinite(servo.shaft.angle) and math.isfinite(servo.shaft.torque)
