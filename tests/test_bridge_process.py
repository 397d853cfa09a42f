"""The driver in its own process, in real time, against the emulated robot: it outlives its policy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from hardware_bridge.arm import NotReadyError
from hardware_bridge.config import TWIN, write_back
from hardware_bridge.faults import FaultError
from hardware_bridge.process import AT_REST, HELD, DriverGone, DriverProcess
from hardware_bridge.twin.robot import EmulatedRobot

pytestmark = pytest.mark.real_time

UP = np.array([0.0, -1.4, 1.4, 0.1, 0.0])  # near the rest pose, so that tests are short


@pytest.fixture
def robot(tmp_path):
    with EmulatedRobot(tmp_path, TWIN) as emulated:
        yield emulated


@pytest.fixture
def door(robot):
    process = DriverProcess(robot.config)
    yield process
    process.kill()


def torque(robot):
    with robot.line.lock:
        return [servo.table["torque_enable"] for servo in robot.line.servos]


def angles(robot):
    with robot.line.lock:
        return robot.world.data.qpos.copy()


def until(condition, timeout=20.0):
    end = time.monotonic() + timeout
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def test_it_obeys_tells_what_it_does_and_goes_to_rest(robot, door):
    door.start()
    assert door.pid != os.getpid() and door.alive
    door.go_to(UP)
    door.begin_episode()
    began, start = time.monotonic(), angles(robot)[0]
    number = door.act(np.array([0.2, 0.0, 0.0, 0.0, 0.0]))
    time.sleep(0.3)
    ticks = door.ticks(began)
    assert 10 <= len(ticks) <= 17 and [tick.number for tick in ticks] == list(
        range(ticks[0].number, ticks[-1].number + 1)
    )
    assert ticks[-1].mode == "POLICY" and ticks[-1].velocity[0] == pytest.approx(0.2)
    assert ticks[-1].received == (number, True, "")
    assert 0.03 < angles(robot)[0] - start < 0.08
    assert ticks[-1].position[0] == pytest.approx(angles(robot)[0], abs=0.03)
    asked = time.monotonic()
    door.act(np.array([np.nan, 0.0, 0.0, 0.0, 0.0]))
    tick = door.wait_for(door.latest.number + 3)
    assert not tick.received[1] and "finite" in tick.received[2]
    assert "action invalid" in {fault.kind for told in door.ticks(asked) for fault in told.faults}
    door.end_episode()
    with pytest.raises(ValueError, match="the target of joint_2, 3"):
        door.go_to([0.0, 3.0, 0.0, 0.0, 0.0])
    statistics = door.statistics()
    assert statistics["round_trip"]["count"] > 100 and statistics["cycles"] > 30
    assert door.close() == AT_REST
    assert not any(torque(robot)) and angles(robot) == pytest.approx(robot.configuration.arm.rest, abs=0.1)
    with pytest.raises(DriverGone):
        door.begin_episode()


def test_killed_in_motion_it_leaves_an_arm_that_stops_by_itself(robot, door):
    door.start()
    door.go_to(UP)
    door.begin_episode()
    door.act([0.2, 0.0, 0.0, 0.0, 0.0])
    assert until(lambda: door.latest.rates[0] > 0.15, 2.0)
    with robot.line.lock:
        os.kill(door.pid, signal.SIGKILL)
        before, at = robot.world.data.qpos[0], robot.line.now
    assert until(lambda: not door.alive, 2.0)
    assert until(lambda: robot.line.now - at >= 0.25, 2.0)
    with robot.line.lock:
        assert robot.world.data.qpos[0] - before < 0.2 * 0.15, "P2: speed times 150 ms"
        assert abs(robot.world.data.qvel[0]) < 0.01
    assert all(torque(robot)[:5]), "it is held, not dropped"
    with pytest.raises(DriverGone, match="has ended"):
        door.act(np.zeros(5))
    again = DriverProcess(robot.config).start()
    again.go_to(UP)
    assert again.close() == AT_REST


POLICY = """
import sys, time
from hardware_bridge.process import DriverProcess
door = DriverProcess(sys.argv[1]).start()
door.go_to([0.0, -1.4, 1.4, 0.1, 0.0])
door.begin_episode()
print("acting", flush=True)
while True:
    door.act([0.1, 0.0, 0.0, 0.0, 0.0])
    time.sleep(0.1)
"""


def test_a_policy_that_is_killed_leaves_an_arm_that_goes_to_rest(robot, root):
    policy = subprocess.Popen(
        [sys.executable, "-c", POLICY, str(robot.config)], cwd=root, stdout=subprocess.PIPE, text=True
    )
    with policy:
        assert policy.stdout is not None and policy.stdout.readline() == "acting\n"
        time.sleep(0.5)
        policy.kill()
    assert until(lambda: not any(torque(robot)), 40.0)
    assert angles(robot) == pytest.approx(robot.configuration.arm.rest, abs=0.1)


PRIORITIES = """
import os, sys
from hardware_bridge.process import real_time
print(real_time(sys.argv[1]), os.sched_getscheduler(0) == os.SCHED_FIFO, os.getpriority(os.PRIO_PROCESS, 0))
"""


@pytest.mark.parametrize(("scheduling", "fifo"), [("niceness", False), ("fifo", True)])
def test_it_comes_first_in_the_way_that_the_file_says(scheduling, fifo, robot, run_python):
    before = os.getpriority(os.PRIO_PROCESS, 0)
    got, is_fifo, nice = run_python("-c", PRIORITIES, scheduling).stdout.split()
    first = got == "first"  # where the right is missing nothing changes
    assert (is_fifo == "True", int(nice)) == (first and fifo, -20 if first and not fifo else before)
    write_back(robot.config, {"scheduling": scheduling})
    with DriverProcess(robot.config) as door:
        assert door.scheduling == got
        assert (os.sched_getscheduler(door.pid) == os.SCHED_FIFO) is (first and fifo)
        assert os.getpriority(os.PRIO_PROCESS, door.pid) == int(nice)


def test_a_driver_that_cannot_start_says_why(robot, door):
    with robot.line.lock:
        robot.line.servo(3).mute = True
    with pytest.raises(NotReadyError, match="id 3 does not answer") as caught:
        door.start()
    assert [(c.kind, c.where) for c in caught.value.conditions] == [("servo missing", "joint_3")]
    robot.line.unplug()
    with pytest.raises(DriverGone, match="cannot open the port"):
        DriverProcess(robot.config).start()


def test_a_fault_that_lasts_refuses_and_leaves_the_arm_held(robot, door):
    door.start()
    door.go_to(UP)
    assert door.bus_before_hold() == []
    door.report("camera swapped", "front", "as a test")  # latched, and nobody acknowledges
    assert until(lambda: door.latest.mode == "HOLDING", 2.0)
    bus = door.bus_before_hold()
    began = [float(line.split(" ms")[0]) for line in bus]
    assert began == sorted(began) and -1500.0 < began[0] < -200.0
    assert sum("bulk read of ids 1, 2, 3, 4: ok" in line for line in bus) > 10
    assert until(lambda: door.bus_before_hold() != bus, 0.3) is False, "as it was when the arm was held"
    with pytest.raises(FaultError, match="camera swapped") as caught:
        door.begin_episode()
    assert caught.value.faults[0].where == "front"
    assert door.close() == HELD
    assert all(torque(robot)[:5])
