"""The safety layer drives emulated servos: no fault that nobody caused, and rest in time if the host dies."""

from __future__ import annotations

import numpy as np
import pytest

from hardware_bridge.config import EXAMPLE, load
from hardware_bridge.protocol import PROTOCOLS, Decoder
from hardware_bridge.safety import Mode, Safety
from hardware_bridge.twin.build import bench, emulate
from hardware_bridge.watchdogs import Reading

TICK, STEP = 0.02, 0.002


class Bus:
    """The emulated servos of the example's arm, without a line between."""

    def __init__(self, robot):
        self.profile = robot.arm_profile()
        self.joints = self.profile.joints
        start = dict(zip((joint.name for joint in self.joints), robot.arm.ready))
        self.mechanics = bench(self.profile, start)
        self.servos = {servo.id: servo for servo in emulate(self.profile, self.mechanics)}
        self.now = 0.0

    def ask(self, joint, raw):
        (packet,) = Decoder().feed(raw)
        return self.servos[joint.id].execute(packet)

    def run(self, seconds):
        for _ in range(round(seconds / STEP)):
            for servo in self.servos.values():
                servo.advance(STEP)
            self.mechanics.step(STEP)
            self.now += STEP

    def read(self, joint, name):
        register = joint.model.register(name)
        raw = PROTOCOLS[joint.protocol].read(joint.id, register.address, register.size)
        return register.decode(self.ask(joint, raw).data)

    def reading(self):
        columns = [
            (
                joint.to_position(self.read(joint, "present_position")),
                joint.to_speed(self.read(joint, "present_speed")),
                self.read(joint, "present_load") / 1023,
                self.read(joint, "present_voltage") * 0.1,
                self.read(joint, "present_temperature"),
            )
            for joint in self.joints
        ]
        return Reading(self.now, *map(np.array, zip(*columns)))

    def obey(self, command):
        for index, joint in enumerate(self.joints):
            values = {
                "goal_position": joint.to_tick(command.goal[index]),
                "moving_speed": joint.to_speed_ticks(command.speed[index]),
            }
            address, data = joint.model.pack(values)
            answer = self.ask(joint, PROTOCOLS[joint.protocol].write(joint.id, address, data))
            assert answer.error == 0, joint.name  # an angle-limit error would say that the limiter is wrong


@pytest.fixture
def system():
    robot = load(EXAMPLE)
    bus = Bus(robot)
    bus.run(0.2)
    safety = Safety(robot.limits(), robot.arm.rest)
    bus.obey(safety.start(bus.reading(), bus.now))
    for joint in bus.joints:
        address, data = joint.model.pack({"torque_enable": 1})
        assert bus.ask(joint, PROTOCOLS[joint.protocol].write(joint.id, address, data)).error == 0
    return bus, safety


def live(bus, safety, seconds, policy=None):
    for tick in range(round(seconds / TICK)):
        bus.run(TICK)
        safety.observe(bus.reading(), bus.now)
        if policy is not None and tick % 15 == 0:
            safety.act(policy(), bus.now, round(bus.now * 1000))
        bus.obey(safety.tick(bus.now))


def test_a_random_policy_causes_no_fault_and_the_servos_refuse_no_goal(system):
    bus, safety = system
    rng = np.random.default_rng(0)
    safety.begin_episode(bus.now)
    start = bus.reading().position
    live(bus, safety, 6.0, lambda: rng.uniform(-0.3, 0.3, 5))
    assert safety.mode is Mode.POLICY and not safety.faults.history
    assert np.abs(bus.reading().position - start).max() > 0.02


def test_a_move_arrives_and_stays(system):
    bus, safety = system
    safety.go_to(safety.rest, bus.now)
    live(bus, safety, 7.0)
    assert safety.mode is Mode.READY and not safety.faults.history
    np.testing.assert_allclose(bus.reading().position, safety.rest, atol=0.02)


def test_p2_the_host_dies_at_full_speed_and_the_arm_rests_within_150_ms(system):
    bus, safety = system
    safety.begin_episode(bus.now)
    live(bus, safety, 0.6, lambda: np.array([0.2, 0.0, -0.2, 0.2, 0.2]))
    died = bus.reading()
    assert np.abs(died.velocity).max() > 0.15
    bus.run(0.15)
    late = bus.reading()
    assert np.abs(late.velocity).max() < 0.02
    assert np.abs(late.position - died.position).max() <= 0.2 * 0.15 + 0.005  # one position of an AX
