"""Calibrate against twin: what is seeded into the emulated robot is found, written, and nothing else is."""

from __future__ import annotations

import math
import re
import time
from functools import partial

import numpy as np
import pytest
import yaml

from hardware_bridge.__main__ import main
from hardware_bridge.arm import ServoArm
from hardware_bridge.calibration import devices, eeprom, joints
from hardware_bridge.calibration.hand import CalibrationError, Patience
from hardware_bridge.cameras import signature
from hardware_bridge.config import load, places, write_back
from hardware_bridge.insertion import SensorStuck
from hardware_bridge.link import Link
from hardware_bridge.servos import WIDOWX_MK2
from hardware_bridge.twin.pictures import PictureServer, chart
from hardware_bridge.twin.robot import EmulatedRobot
from hardware_bridge.twin.senses import paint
from meld_envs.robots import widowx

#: How far each servo's horn is off, in ticks.
OFFSETS = {1: 37, 2: -52, 3: 20, 4: 11, 5: -9}
QUICK = Patience(still=0.2, wait=3.0, look=0.6)
NAMES = [joint.name for joint in WIDOWX_MK2.joints]


@pytest.fixture
def robot(tmp_path):
    with EmulatedRobot(tmp_path) as emulated:
        hold(emulated, dict.fromkeys(NAMES, 0.0))
        yield emulated


def hold(robot, angles):
    """A hand puts axes there."""
    with robot.line.lock:
        robot.world.hold(angles)


def mount(robot, offsets, reversed_ids=()):
    """Puts servos on wrongly: what they read is off, or counts the other way."""

    def sense(raw, offset, servo):
        centre = servo.model.centre
        return (2 * centre - raw if servo.id in reversed_ids else raw) + offset

    with robot.line.lock:
        for servo in robot.line.servos:
            servo.sense = partial(sense, offset=offsets.get(servo.id, 0), servo=servo)


def read(robot):
    """Joint angles (rad) as the driver of the calibrated robot reads them."""
    configuration = load(robot.config)
    with Link(robot.port, slack=0.05) as link:
        return ServoArm(link, configuration.arm_profile()).read().position


def lines(capsys):
    return capsys.readouterr().out.splitlines()


# Joints ---------------------------------------------------------------------------------------------


def test_seeded_offsets_are_found_within_a_tick_and_written(robot, capsys):
    mount(robot, OFFSETS)
    before, text = load(robot.config), robot.config.read_text(encoding="utf-8")
    assert main(["calibrate", str(robot.config), "joints", "--yes"]) == 0
    after = load(robot.config)
    for spec, joint in zip(WIDOWX_MK2.joints, after.arm.joints):
        wanted = spec.sign * OFFSETS[spec.id] * spec.model.rad_per_tick
        assert joint.zero == pytest.approx(wanted, abs=spec.model.rad_per_tick), spec.name
        assert joint.sign is None
    units = np.array([spec.model.rad_per_tick for spec in WIDOWX_MK2.joints])
    assert (np.abs(read(robot)) <= units).all(), "the driver reads the pose in which the arm is held"
    assert after.calibrated == ("joints",)
    # A horn that is off costs the AX-12, which measures no more than 300 degrees, a little of its range.
    assert (after.arm.joints[4].low, after.arm.joints[4].high) == (-2.576, 2.617)
    old, new = dict(places(before)), dict(places(after))
    allowed = {f"arm.joints.{index}.zero" for index in range(5)} | {"arm.joints.4.low", "calibrated"}
    assert {place for place in old if old[place] != new[place]} == allowed
    comments = [re.search(" #.*", line) for line in text.splitlines()]
    written = robot.config.read_text(encoding="utf-8")
    assert all(comment is None or comment.group() in written for comment in comments)
    assert (robot.folder / "twin.yaml.bak-1").read_text(encoding="utf-8") == text
    assert any("joint_2: zero -0.0798 rad (-52.0 ticks), was +0.0000" in line for line in lines(capsys))


def test_calibrating_again_changes_nothing_but_noise(robot):
    mount(robot, OFFSETS)
    assert main(["calibrate", str(robot.config), "joints", "--yes"]) == 0
    once = load(robot.config).arm.joints
    assert main(["calibrate", str(robot.config), "joints", "--yes"]) == 0
    for first, second in zip(once, load(robot.config).arm.joints):
        assert second.zero == pytest.approx(first.zero, abs=2e-3)
    assert (robot.folder / "twin.yaml.bak-2").exists(), "no backup is overwritten"


def test_a_joint_that_turns_the_other_way_is_found_with_a_second_pose(robot):
    mount(robot, OFFSETS, reversed_ids={3})
    poses = (joints.LEVEL, joints.TURNED)

    def tell(line):
        for pose in poses:
            if f"at pose {pose.name}" in line:
                hold(robot, dict(zip(NAMES, np.multiply(pose.angles, 0.8 if pose is joints.TURNED else 1.0))))

    found = joints.joints(robot.configuration, poses, QUICK, tell)
    assert {place: value for place, value in found.changes.items() if place.endswith("sign")} == {
        "arm.joints.2.sign": 1
    }
    assert any("joint_3" in line and "turns the other way" in line for line in found.lines)
    write_back(robot.config, found.changes)
    assert read(robot) == pytest.approx(np.multiply(joints.TURNED.angles, 0.8), abs=6e-3)


def test_poses_with_ticks_need_no_robot(tmp_path):
    configuration = EmulatedRobot(tmp_path).configuration
    ticks = [[joint.to_tick(angle) + 10 for joint in WIDOWX_MK2.joints] for angle in (0.0, 0.4)]
    poses = [joints.Pose(str(i), "", (0.4 * i,) * 5, ticks=tuple(row)) for i, row in enumerate(ticks)]
    found = joints.joints(configuration, poses, QUICK, print)
    assert found.changes["arm.joints.0.zero"] == pytest.approx(10 * math.tau / 4096, abs=1e-3)
    wrong = [poses[0], joints.Pose("askew", "", (0.5,) * 5, ticks=poses[1].ticks)]
    with pytest.raises(CalibrationError, match="joint_1: poses differ about its zero by"):
        joints.joints(configuration, wrong, QUICK, print)
    still = [poses[0], joints.Pose("still", "", (0.4,) * 5, ticks=poses[0].ticks)]
    with pytest.raises(CalibrationError, match="joint_1 did not turn between two poses"):
        joints.joints(configuration, still, QUICK, print)


def test_a_file_of_poses_is_used(robot, tmp_path, capsys):
    poses = tmp_path / "poses.yaml"
    rows = [{"name": "jig", "angles": [0.1, -0.2, 0.3, 0.0, 0.0]}]
    poses.write_text(yaml.safe_dump(rows), encoding="utf-8")
    hold(robot, dict(zip(NAMES, rows[0]["angles"])))
    assert main(["calibrate", str(robot.config), "joints", "--yes", "--poses", str(poses)]) == 0
    assert [joint.zero for joint in load(robot.config).arm.joints] == pytest.approx([0.0] * 5, abs=6e-3)
    for text, message in [
        ("{}", "expected a list of poses"),
        ("- {name: a}", "a pose needs a name and angles"),
        ("- {name: a, angles: [1, 2]}", "angles must be 5 numbers"),
        ("- {name: a, angles: [1, 2, 3, 4, x]}", "could not convert"),
        ("- {name: a, angles: [1, 2, 3, 4, 5], tick: 1}", "unknown key 'tick'"),
    ]:
        poses.write_text(text, encoding="utf-8")
        assert main(["calibrate", str(robot.config), "joints", "--yes", "--poses", str(poses)]) == 2
        assert message in capsys.readouterr().err


def test_an_arm_that_is_elsewhere_restless_or_powered_is_refused_in_time(robot):
    level = [joints.LEVEL]
    hold(robot, {"joint_2": -1.2})
    with pytest.raises(CalibrationError, match="joint_2 reads 69 degrees else than pose level has it"):
        joints.joints(robot.configuration, level, Patience(0.2, 0.5), print)
    hold(robot, {"joint_2": 0.0})
    ticks = iter(range(0, 100_000, 30))
    robot.line.servo(1).sense = lambda raw: raw + next(ticks) % 300
    with pytest.raises(CalibrationError, match="joint_1 is not held still, after 0 s; begin again"):
        joints.joints(robot.configuration, level, Patience(0.2, 0.4), print)
    robot.line.servo(1).sense = None
    robot.line.servo(4).table["torque_enable"] = 1
    with pytest.raises(CalibrationError, match="the torque of joint_4 is on"):
        joints.joints(robot.configuration, level, QUICK, print)


# Asking ---------------------------------------------------------------------------------------------


def test_without_a_terminal_it_asks_nothing(robot, capsys, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a prompt without anybody to answer it"))
    text = robot.config.read_text(encoding="utf-8")
    assert main(["calibrate", str(robot.config), "joints"]) == 2
    assert "add --yes, or --dry-run" in capsys.readouterr().err
    mount(robot, OFFSETS)
    assert main(["calibrate", str(robot.config), "joints", "sensor", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "+    - {name: joint_1, low: -1.2, high: 1.2, zero: 0.05" in out and "nothing is written" in out
    assert robot.config.read_text(encoding="utf-8") == text
    assert not list(robot.folder.glob("*.bak-*"))
    assert main(["calibrate", str(robot.config), "jonits", "--yes"]) == 2
    assert "no part 'jonits'" in capsys.readouterr().err


@pytest.mark.parametrize(("answer", "zero"), [("y", True), ("", False), (None, False)])
def test_at_a_terminal_a_person_decides(robot, monkeypatch, answer, zero):
    def said(_):
        if answer is None:
            raise EOFError
        return answer

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", said)
    assert main(["calibrate", str(robot.config), "height", "--base-height", "0.118"]) == 0
    assert (load(robot.config).arm.base_height == 0.118) is zero


def test_a_part_that_fails_does_not_keep_the_others_from_being_written(robot, capsys):
    robot.senses.insert(1)
    arguments = ["height", "sensor", "--yes", "--base-height", "0.12"]
    assert main(["calibrate", str(robot.config), *arguments]) == 1
    assert "[ FAULT ] sensor: insertion sensor" in capsys.readouterr().out
    after = load(robot.config)
    assert after.arm.base_height == 0.12 and after.calibrated == ("height",)
    assert main(["calibrate", str(robot.config), "height", "--yes", "--base-height", "0.29"]) == 1
    assert "base height 0.29 m is not within 0.1 m" in capsys.readouterr().out
    assert load(robot.config).arm.base_height == 0.12


# Height and rig -------------------------------------------------------------------------------------


def test_a_plug_held_on_the_table_gives_the_height(robot):
    # Were the base 15 mm lower than published, the same angles would bring the plug to the table.
    angles = widowx.angles_at(np.array([0.2, 0.0, 0.015]), np.array(0.0))
    hold(robot, dict(zip(NAMES, angles)))
    found = joints.height(robot.configuration, QUICK, print)
    assert found.changes["arm.base_height"] == pytest.approx(0.110, abs=1.5e-3)
    hold(robot, dict(zip(NAMES, widowx.angles_at(np.array([0.2, 0.0, 0.1]), np.array(0.0)))))
    with pytest.raises(CalibrationError, match="mm above the table"):
        joints.height(robot.configuration, Patience(0.2, 0.4), print)
    hold(robot, dict.fromkeys(NAMES, 0.0))
    with pytest.raises(CalibrationError, match="the plug leans by 90 degrees"):
        joints.height(robot.configuration, Patience(0.2, 0.4), print)


def test_the_rigs_middle_and_range_are_found_from_end_to_end(robot):
    began = time.monotonic()

    def sense(raw, middle, half):
        return 2048 + middle + half * state["way"]

    state = {"way": 0.0}

    def moved(raw):
        state["way"] = math.sin(2.0 * math.tau * min(time.monotonic() - began, 1.5))
        return sense(raw, 100, 250)

    robot.line.servo(7).sense = moved
    robot.line.servo(8).sense = lambda raw: sense(raw, -60, 1100)
    found = devices.rig(robot.configuration, QUICK, print).changes
    unit = math.tau / 4096
    assert found["rig.rotation.zero"] == pytest.approx(100 * unit / 3.0, abs=2 * unit)
    assert found["rig.rotation.high"] == pytest.approx(250 * unit / 3.0, abs=2 * unit), "less than 8 degrees"
    assert found["rig.translation.zero"] == pytest.approx(-60 / 4096 * 0.04, abs=1e-4)
    assert found["rig.translation.high"] == 0.01, "not more than the profile's"
    robot.configuration = write_back(robot.config, found)
    assert robot.configuration.rig.home == (0.0, 0.0)
    with pytest.raises(CalibrationError, match="rotation: its servo turned 0"):
        devices.rig(robot.configuration, Patience(0.2, 0.4), print)


# Cameras --------------------------------------------------------------------------------------------


def folded(robot):
    hold(robot, dict(zip(NAMES, robot.configuration.arm.rest)))


def test_cameras_are_told_apart_by_what_they_saw_before(tmp_path):
    with EmulatedRobot(tmp_path, defects=["swapped-cameras"]) as robot:
        folded(robot)
        before = {camera.name: camera.device for camera in robot.configuration.cameras}
        found = devices.cameras(robot.configuration, QUICK, print)
        after = write_back(robot.config, found.changes)
    assert found.lines[0] == "which is which: exchanged, by what they saw before"
    devices_now = {camera.name: camera.device for camera in after.cameras}
    assert devices_now == {"front": before["wrist"], "wrist": before["front"]}


def test_the_wrists_camera_is_the_one_whose_picture_turns(robot):
    """Its device is called front; no reference tells it."""
    folded(robot)
    text = robot.config.read_text(encoding="utf-8")
    robot.config.write_text(re.sub(r"\n    reference: .*", "", text), encoding="utf-8")
    configuration = load(robot.config)
    found = devices.cameras(configuration, QUICK, print)
    assert "not known" in found.lines[0] and "cameras.0.device" not in found.changes
    robot._open.close()  # its cameras, among others, to put one in their place that turns
    pictures = [np.rot90(chart("front", 128, 128), turns) for turns in range(4)]
    count = iter(range(10_000))
    turning = PictureServer(robot.folder / "front", lambda: pictures[next(count) // 5 % 4], 30.0)
    steady = PictureServer(robot.folder / "wrist", lambda: chart("wrist", 128, 128), 30.0)
    with turning, steady:
        films = devices._films(configuration.cameras, 1.0)
    swapped, why = devices._swapped(configuration, films, True)
    assert swapped and "exchanged: the front camera's picture turned" in why


def test_pictures_of_another_size_get_a_crop_and_a_reference_at_rest_alone(robot):
    write_back(robot.config, {"cameras.0.size": [640, 480], "cameras.0.crop": [80, 0, 480, 480]})
    configuration = load(robot.config)
    found = devices.cameras(configuration, QUICK, print)
    assert found.changes["cameras.0.size"] == [128, 128]
    assert found.changes["cameras.0.crop"] == [0, 0, 128, 128]
    assert any("no reference pictures" in line and "joint_" in line for line in found.lines)
    assert not any("reference" in place for place in found.changes)
    folded(robot)
    seen = devices.cameras(configuration, QUICK, print).changes["cameras.0.reference"]
    rest = robot.configuration.arm.rest
    assert seen == pytest.approx(signature(paint(128, "front", rest, (0.0, 0.0))), abs=6)


# Sensor and fences ----------------------------------------------------------------------------------


def test_the_plug_is_tried_in_every_port_by_a_person(robot):
    def tell(line):
        if port := re.search(r"into port (\d)", line):
            robot.senses.insert(order[int(port.group(1))])
        elif line == "pull it out":
            robot.senses.insert(None)

    order = [0, 1, 2, 3]
    assert len(devices.sensor(robot.configuration, QUICK, tell, person=True).lines) == 5
    order = [0, 2, 1, 3]
    with pytest.raises(CalibrationError, match="the plug is in port 1, the sensor says port 2"):
        devices.sensor(robot.configuration, QUICK, tell, person=True)
    with pytest.raises(SensorStuck):
        devices.sensor(robot.configuration, QUICK, tell, person=False)
    robot.senses.insert(None)
    assert "takes a person" in devices.sensor(robot.configuration, QUICK, tell, person=False).lines[1]
    with pytest.raises(CalibrationError, match="port 0 was not noticed within 0 s"):
        devices.sensor(robot.configuration, Patience(0.2, 0.2), lambda line: None, person=True)


def test_fences_are_written_only_when_asked_for(robot, capsys):
    mount(robot, OFFSETS)
    with robot.line.lock:
        robot.line.servo(2).table["max_torque"] = 1023
    assert main(["calibrate", str(robot.config), "joints", "--yes"]) == 0
    assert robot.line.servo(2).table["max_torque"] == 1023
    assert main(["doctor", "--config", str(robot.config)]) == 1, "limits moved with the zeros"
    assert main(["calibrate", str(robot.config), "fences", "--dry-run"]) == 1
    assert robot.line.servo(2).table["max_torque"] == 1023
    assert main(["calibrate", str(robot.config), "fences", "--yes"]) == 0
    assert robot.line.servo(2).table["max_torque"] == 511
    capsys.readouterr()
    assert main(["doctor", "--config", str(robot.config)]) == 0, lines(capsys)
    with Link(robot.port, slack=0.05) as link:
        assert not eeprom.wrong_fences(load(robot.config), link)
        robot.line.servo(1).table["torque_enable"] = 1
        with pytest.raises(CalibrationError, match="torque of joint_1 is on"):
            eeprom.write_fences(load(robot.config), link, ())
