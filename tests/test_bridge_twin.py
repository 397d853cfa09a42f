"""The emulated robot in real time: its cameras see the arm, its plug feels the ports, and gravity pulls."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hardware_bridge.__main__ import main
from hardware_bridge.config import EXAMPLE, TWIN, load
from hardware_bridge.insertion import TwinContact
from hardware_bridge.twin.pictures import PictureServer, SocketSource
from hardware_bridge.twin.plug import contacts
from hardware_bridge.twin.posture import Posture
from hardware_bridge.twin.robot import EmulatedRobot
from hardware_bridge.twin.senses import paint, process
from meld_envs.env import TaskEnv
from meld_envs.families.widowx_ethernet import DEPTH, FACE, NUM_PORTS, PITCH, PLACE_X, PORT_Y, WidowXEthernet
from meld_envs.robots import widowx

pytestmark = pytest.mark.real_time

NAMES = [joint.name for joint in widowx.JOINTS]


def in_port(port, rotation, translation, depth):
    """Angles (rad) with the plug so deep (m) in a port of a switch that is turned (rad) and moved (m)."""
    y = PORT_Y[port]
    x = PLACE_X - y * np.sin(rotation)
    place = np.array([x, translation + y * np.cos(rotation), FACE - depth])
    return widowx.angles_at(place, np.array(rotation))


def until(condition, timeout=5.0):
    end = time.monotonic() + timeout
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_a_contact_is_made_in_the_port_where_the_plug_is_and_nowhere_else():
    for port in range(NUM_PORTS):
        for rig in ((0.0, 0.0), (0.12, -0.008), (-0.13, 0.009)):
            made = tuple(index == port for index in range(NUM_PORTS))
            assert contacts(in_port(port, *rig, DEPTH - 0.001), rig) == made, (port, rig)
            assert not any(contacts(in_port(port, *rig, 0.010), rig)), "not deep enough"
            beside = in_port(port, rig[0], rig[1] + PITCH / 2.0, DEPTH - 0.001)
            assert not any(contacts(beside, rig)), "between two"


def test_a_camera_sees_what_the_simulation_draws():
    env = TaskEnv(WidowXEthernet, image_size=128)
    task = env.family.task(port=1.0, rotation=6.0, translation=-0.008)
    frame = env.reset(seed=0, options={"task": task})[0]
    angles, rig = env.state()[:5], (float(np.radians(6.0)), -0.008)
    for side, name in enumerate(("front", "wrist")):
        picture = paint(128, name, angles, rig)
        drawn = np.minimum(frame[:, 128 * side : 128 * (side + 1)], 247)
        assert np.abs(picture.astype(int) - drawn).max() <= 1
    before = paint(128, "front", angles, rig)
    moved = paint(128, "front", angles + np.array([0.3, 0.0, 0.0, 0.0, 0.0]), rig)
    assert np.abs(moved.astype(int) - before).mean() > 1.0
    env.close()


def test_a_posture_is_read_where_its_memory_is_passed_to():
    written, pose = Posture(), ((0.1, -0.2, 0.3, -0.4, 0.5), (0.06, -0.007))
    read = Posture(os.dup(written.descriptor))
    written.write(*pose)
    assert read.read() == pose


def test_the_process_of_the_senses_is_shared_and_replaced_when_it_has_ended():
    first, pose = process(16), ("front", (0.0,) * 5, (0.0, 0.0))
    assert process(16) is first and first.ask("paint", *pose).shape == (16, 16, 3)
    with pytest.raises(RuntimeError, match="failed to paint: KeyError"):
        first.ask("paint", "side", *pose[1:])
    assert process(16) is first, "one bad question is no reason to end"
    os.kill(first.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="process of cameras and contact has ended"):
        first.ask("paint", *pose)
    again = process(16)
    assert again is not first and paint(16, *pose).any()
    again.close()


def test_the_process_of_the_senses_ends_when_its_robot_is_killed(root):
    code = """
from hardware_bridge.twin.senses import paint, process
paint(16, "front", (0.0,) * 5, (0.0, 0.0))
print(process(16).pid, flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as robot:
        child = Path(f"/proc/{robot.stdout.readline().strip()}/cmdline")
        assert b"senses" in child.read_bytes()
        robot.kill()
    assert until(lambda: not child.exists() or not child.read_bytes()), "gone, or waiting to be buried"


def test_cameras_show_the_arm_as_it_is_and_their_defects_as_they_come(tmp_path):
    with EmulatedRobot(tmp_path, TWIN) as robot:
        source = SocketSource("front", str(tmp_path / "front"))
        before = source.read()[0].astype(int)
        with robot.line.lock:
            robot.world.hold({"joint_1": 0.5})
        seen = paint(128, "front", robot.world.data.qpos, (0.0, 0.0)).astype(int)
        assert np.abs(seen - before).mean() > 1.0
        assert until(lambda: 0 <= (source.read()[0] - seen).min() <= (source.read()[0] - seen).max() <= 4)
        robot.senses.spoil("front", "black")
        assert until(lambda: source.read()[0].max() <= 4)
        robot.senses.spoil("front", None)
        assert until(lambda: source.read()[0].max() > 100)
        with pytest.raises(KeyError, match="no camera 'side'; there are front, wrist"):
            robot.senses.spoil("side", "black")
        source.close()
    with pytest.raises(RuntimeError, match="not served"):
        robot.senses.insert(0)


def test_nothing_is_painted_for_nobody(tmp_path):
    painted = []

    def paint():
        painted.append(time.monotonic())
        return np.full((64, 64, 3), 100, np.uint8)

    with PictureServer(tmp_path / "front", paint, 50.0):
        time.sleep(0.2)
        assert not painted
        source = SocketSource("front", str(tmp_path / "front"))
        assert source.read()[0].shape == (64, 64, 3)
        source.close()
    assert painted


def test_of_two_defects_a_camera_has_the_one_that_is_named_first(tmp_path):
    robot = EmulatedRobot(tmp_path, TWIN, ["slow-camera", "frozen-camera", "black-camera", "missing-camera"])
    assert {name: lens.defect for name, lens in robot._lenses().items()} == {"front": "slow"}


def test_without_torque_it_lies_in_its_cradle_or_in_a_hand_and_falls_elsewhere(tmp_path):
    with EmulatedRobot(tmp_path, TWIN) as robot:
        rest = robot.configuration.arm.rest
        time.sleep(0.3)
        assert robot.world.data.qpos == pytest.approx(rest, abs=1e-6)
        with robot.line.lock:
            robot.world.hold({"joint_2": -0.5, "joint_4": 0.3, "rotation": 0.05})
        time.sleep(0.3)
        assert robot.world.data.qpos[1] == pytest.approx(-0.5, abs=1e-6)
        assert robot.world.rig[0] == pytest.approx(0.05, abs=1e-6)
        with robot.line.lock:
            robot.world.place((0.0, 0.0, 0.0, 0.0, 0.0))
        assert until(lambda: robot.world.data.qpos[1] > 0.05), "stretched out, and let go"


def test_the_contact_follows_the_plug(tmp_path):
    with EmulatedRobot(tmp_path, TWIN) as robot:
        probe = TwinContact(robot.folder / "contact")
        assert probe.sample() == (False,) * NUM_PORTS
        with robot.line.lock:
            robot.world.hold(dict(zip(NAMES, in_port(2, 0.0, 0.0, DEPTH - 0.001))))
        assert until(lambda: probe.sample() == (False, False, True, False), 1.0)
        with robot.line.lock:
            robot.world.hold(dict(zip(NAMES, in_port(2, 0.0, 0.0, -0.01))))
        assert until(lambda: not any(probe.sample()), 1.0)
        with pytest.raises(ValueError, match="the panel has ports 0 to 3"):
            robot.senses.insert(4)


@pytest.mark.parametrize("config", [TWIN, EXAMPLE], ids=lambda path: path.stem)
def test_the_twin_command_is_healthy_by_the_doctors_word(config, tmp_path, start_twin, capsys):
    twin = start_twin("--config", config, "--folder", tmp_path)
    code = main(["doctor", "--config", str(twin.config)])
    text = capsys.readouterr().out
    assert code == 0 and text.endswith("every device is healthy\n"), text


def test_the_shipped_twin_file_leads_to_the_folder_that_it_names(tmp_path):
    shipped = TWIN.read_text(encoding="utf-8")
    local = tmp_path / "twin_here.yaml"
    local.write_text(shipped.replace("/tmp/widowx-twin", str(tmp_path)), encoding="utf-8")
    with EmulatedRobot(tmp_path, TWIN):
        assert main(["doctor", "--config", str(local)]) == 0
    assert load(TWIN).port.device == "/tmp/widowx-twin/servos"
