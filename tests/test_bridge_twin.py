"""The emulated robot in real time: its cameras see the arm, its plug feels the ports, and gravity pulls."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hardware_bridge.__main__ import main
from hardware_bridge.config import EXAMPLE, TWIN, load
from hardware_bridge.insertion import TwinContact
from hardware_bridge.twin.arm import WidowXWorld
from hardware_bridge.twin.painter import painter
from hardware_bridge.twin.pictures import PictureServer, SocketSource
from hardware_bridge.twin.robot import EmulatedRobot
from hardware_bridge.twin.senses import View, contacts
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
        for rotation, translation in ((0.0, 0.0), (0.12, -0.008), (-0.13, 0.009)):
            made = tuple(index == port for index in range(NUM_PORTS))
            world = WidowXWorld(rig=(rotation, translation))
            world.place(in_port(port, rotation, translation, DEPTH - 0.001))
            assert contacts(world) == made, (port, rotation, translation)
            world.place(in_port(port, rotation, translation, 0.010))
            assert not any(contacts(world)), "not deep enough"
            world.place(in_port(port, rotation, translation + PITCH / 2.0, DEPTH - 0.001))
            assert not any(contacts(world)), "between two"


def test_a_camera_sees_what_the_simulation_draws():
    env = TaskEnv(WidowXEthernet, image_size=128)
    task = env.family.task(port=1.0, rotation=6.0, translation=-0.008)
    frame = env.reset(seed=0, options={"task": task})[0]
    angles = env.state()[:5]
    world = WidowXWorld(angles=angles, rig=(np.radians(6.0), -0.008))
    view = View(world, 128)
    for side, name in enumerate(("front", "wrist")):
        picture = view.paint(name)
        assert (
            np.abs(picture.astype(int) - np.minimum(frame[:, 128 * side : 128 * (side + 1)], 247)).max() <= 1
        )
        assert view.paint(name) is picture, "nothing moved: nothing is drawn"
    before = view.paint("front")
    world.place(angles + np.array([0.3, 0.0, 0.0, 0.0, 0.0]))
    assert np.abs(view.paint("front").astype(int) - before).mean() > 1.0
    env.close()


def test_who_draws_is_shared_and_replaced_when_it_has_ended():
    first, pose = painter(16), ((0.0,) * 5, (0.0, 0.0))
    assert painter(16) is first and first.paint("front", *pose).shape == (16, 16, 3)
    first._process.kill()
    first._process.wait()
    with pytest.raises(RuntimeError, match="draws the cameras' pictures has ended"):
        first.paint("front", *pose)
    again = painter(16)
    assert again is not first and again.paint("wrist", *pose).any()
    again.close()


def test_who_draws_ends_when_its_robot_is_killed(root):
    code = """
from hardware_bridge.twin.painter import painter
drawing = painter(16)
drawing.paint("front", (0.0,) * 5, (0.0, 0.0))
print(drawing._process.pid, flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as robot:
        child = Path(f"/proc/{robot.stdout.readline().strip()}/cmdline")
        assert b"painter" in child.read_bytes()
        robot.kill()
    assert until(lambda: not child.exists() or not child.read_bytes()), "gone, or waiting to be buried"


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
            robot.insert(4)


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
