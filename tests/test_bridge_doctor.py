"""Doctor against twin: a sound robot is healthy; each seeded defect is named, with its remedy."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from hardware_bridge.__main__ import main
from hardware_bridge.doctor import check_port, check_recordings, examine
from hardware_bridge.recorder import Recorder
from hardware_bridge.twin.robot import DEFECTS, EmulatedRobot


def faults(robot):
    found = examine(robot.configuration, folder=robot.folder, watch=0.7)
    return [finding for finding in found if finding.level == "fault"]


#: Device, fault, and a word of the remedy, by defect.
EXPECTED = {
    "unplugged": ("port", "port missing", "Plug the adapter in"),
    "wrong-baud": ("servo 2 (joint_2)", "baud mismatch", "Set its baud rate to 1000000"),
    "missing-servo": ("servo 3 (joint_3)", "servo missing", "Check its cable"),
    "duplicate-id": ("servo 3 (joint_3)", "duplicate id", "Connect one of the two alone"),
    "wrong-model": ("servo 5 (joint_5)", "wrong model", "Exchange it for a AX-12"),
    "overheated": ("servo 2 (joint_2)", "overheated", "Let it cool"),
    "low-voltage": ("servo 1 (joint_1)", "undervoltage", "stronger supply"),
    "wheel-mode": ("servo 1 (joint_1)", "wheel mode", "Write 1266 and 2830 to its CW and CCW"),
    "torque-limit-zero": ("servo 2 (joint_2)", "servo limp", "switch the supply off and on"),
    "pings-only": ("servo 4 (joint_4)", "status return level", "Write 2"),
    "return-delay": ("servo 1 (joint_1)", "fence differs", "Write 0 to its return_delay_time"),
    "full-torque": ("servo 2 (joint_2)", "fence differs", "Write 511 to its max_torque"),
    "black-camera": ("camera front", "camera dark", "Uncover the lens"),
    "frozen-camera": ("camera wrist", "camera frozen", "Plug it in again"),
    "slow-camera": ("camera front", "camera slow", "Shorten its exposure"),
    "missing-camera": ("camera wrist", "camera missing", "Start the twin"),
    "swapped-cameras": ("camera front, wrist", "camera swapped", "Exchange their devices"),
    "stuck-sensor": ("insertion sensor", "sensor stuck", "Pull the plug"),
}


def test_every_defect_is_expected():
    assert set(EXPECTED) == set(DEFECTS) and len(DEFECTS) >= 10


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_named_with_its_remedy(defect, tmp_path):
    with EmulatedRobot(tmp_path, defects=[defect]) as robot:
        found = faults(robot)
    device, fault, remedy = EXPECTED[defect]
    named = [item for item in found if (item.device, item.fault) == (device, fault)]
    assert named and remedy in named[0].remedy, found
    # Nothing else is blamed, but for the servos that share the cause.
    others = {"low-voltage": {"undervoltage"}, "duplicate-id": {"servo missing"}}.get(defect, set())
    assert {item.fault for item in found} <= {fault} | others, found


def test_a_sound_robot_is_healthy_and_the_exit_code_says_so(tmp_path, capsys):
    with EmulatedRobot(tmp_path) as robot:
        code = main(["doctor", "--config", str(robot.config)])
        text = capsys.readouterr().out
        assert code == 0 and text.endswith("every device is healthy\n"), text
        for name in ("port", *(f"servo {number} " for number in range(1, 9)), "camera front", "camera wrist"):
            assert f"[  ok   ] {name}" in text
        robot.senses.insert(2)
        assert main(["doctor", "--config", str(robot.config), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    wrong = [item for item in report["findings"] if item["level"] == "fault"]
    assert not report["healthy"] and [item["fault"] for item in wrong] == ["sensor stuck"]


def test_a_configuration_that_cannot_be_is_a_finding(tmp_path, capsys):
    (tmp_path / "robot.yaml").write_text("profile: widowx")
    assert main(["doctor", "--config", str(tmp_path / "robot.yaml")]) == 1
    assert "FAULT" in (text := capsys.readouterr().out) and "line 1" in text and "→" in text


def test_an_adapters_latency_timer_is_looked_at(tmp_path):
    with EmulatedRobot(tmp_path) as robot:
        name = (tmp_path / "servos").resolve().name
        timer = tmp_path / "tty" / name / "device" / "latency_timer"
        timer.parent.mkdir(parents=True)
        timer.write_text("16\n")
        (finding,) = check_port(robot.configuration, tmp_path / "tty")
        assert finding.fault == "latency timer" and str(timer) in finding.remedy
        timer.write_text("1\n")
        (finding,) = check_port(robot.configuration, tmp_path / "tty")
        assert finding.level == "ok"


def test_recordings_need_a_folder_and_room(tmp_path):
    robot = EmulatedRobot(tmp_path).configuration
    (finding,) = check_recordings(robot, tmp_path, space=1e18)
    assert finding.fault == "disk full"
    (tmp_path / "recordings").rmdir()
    (tmp_path / "recordings").write_text("in the way")
    (finding,) = check_recordings(robot, tmp_path)
    assert finding.fault == "recorder failed" and "cannot be written" in finding.detail


def test_an_unknown_defect_is_refused(tmp_path):
    with pytest.raises(KeyError, match="no defect 'rust'; there are unplugged"):
        EmulatedRobot(tmp_path, defects=["rust"])


def test_replay_shows_steps_and_names_damage(tmp_path, capsys):
    path = tmp_path / "run.rec"
    with Recorder(path) as recorder:
        for number in range(3):
            recorder.step({"reward": 0.5 * number, "image": np.zeros((64, 128, 3), np.uint8)})
    assert main(["replay", str(path), "--speed", "inf"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and "reward=1.0" in lines[2] and "image=uint8[64, 128, 3]" in lines[2]
    assert main(["replay", str(path), "--export", str(tmp_path / "episodes")]) == 0
    assert (tmp_path / "episodes" / "episode_00000.npz").exists()
    path.write_bytes(path.read_bytes()[:-5])
    assert main(["replay", str(path), "--speed", "inf"]) == 1
    assert "its end was torn off" in capsys.readouterr().err


def test_the_twin_command_stays_until_it_is_interrupted(start_twin):
    twin = start_twin("--defect", "overheated")
    defect, port, configuration = twin.said
    assert "76 °C" in defect and configuration.startswith("configuration")
    assert re.fullmatch(r"serial port +(\S+)\n", port)[1] == str(twin.config.parent / "servos")
    assert twin.process.poll() is None
