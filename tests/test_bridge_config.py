"""Configurations: what is wrong is said with its line and a remedy; writing back keeps everything else."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import stat
import subprocess
import sys

import numpy as np
import pytest
import yaml

from hardware_bridge.config import EXAMPLE, ConfigError, load, parse, places, write_back
from hardware_bridge.safety import Safety
from hardware_bridge.servos import WIDOWX_MK2

TEXT = EXAMPLE.read_text(encoding="utf-8")


def changed(old: str, new: str) -> str:
    assert TEXT.count(old) >= 1, old
    return TEXT.replace(old, new, 1)


def line_of(fragment: str) -> int:
    return TEXT[: TEXT.index(fragment)].count("\n") + 1


# ---------------------------------------------------------------- the example


def test_the_example_is_a_robot():
    robot = load(EXAMPLE)
    assert robot.profile == "widowx_mk2" and robot.port.baud == 1_000_000
    assert [joint.name for joint in robot.arm.joints] == [joint.name for joint in WIDOWX_MK2.joints]
    assert robot.cameras[1].crop == (80, 0, 480, 480) and robot.insertion.pins == ("cts",)
    assert robot.safety.horizon == 0.05
    with pytest.raises(dataclasses.FrozenInstanceError):
        robot.profile = "wx200"


def test_the_example_says_everything_that_has_no_default_and_a_word_on_each():
    bare = [line for line in TEXT.splitlines() if re.match(r"^  (\w+): ", line) and "#" not in line]
    assert len(bare) < 5, bare


def test_a_robot_makes_limits_and_a_profile():
    robot = load(EXAMPLE)
    limits = robot.limits()
    np.testing.assert_allclose(limits.low[0], -1.2 + robot.safety.margin)
    assert (limits.speed <= 0.2).all() and (limits.speed > 0.18).all()
    Safety(limits, robot.arm.rest, [camera.name for camera in robot.cameras])
    profile = robot.arm_profile()
    assert profile.joints[0].upper == 1.2 and profile.rig[0].id == 7 and profile.max_torque == 0.5


def test_zeros_move_the_servos_centres():
    """A joint that reads 0.1 rad at its zero pose is at 0 there; the sign of its servo is kept."""
    text = changed("high: 1.571, zero: 0.0", "high: 1.571, zero: 0.1")
    joint, nominal = parse(text).arm_profile().joints[2], WIDOWX_MK2.joints[2]
    assert nominal.sign == -1
    assert joint.to_position(nominal.to_tick(0.1)) == pytest.approx(0.0, abs=1e-3)
    assert joint.to_tick(0.5) == nominal.to_tick(0.6)


def test_a_wx200_is_a_robot_too():
    text = TEXT.replace("profile: widowx_mk2 ", "profile: wx200 ").replace(
        "base_height: 0.125", "base_height: 0.11"
    )
    for old, new in zip(
        ("joint_1", "joint_2", "joint_3", "joint_4", "joint_5"),
        ("waist", "shoulder", "elbow", "wrist_angle", "wrist_rotate"),
    ):
        text = text.replace(f"name: {old},", f"name: {new},")
    text = text.replace("rotation, id: 7", "rotation, id: 8").replace(
        "translation, id: 8", "translation, id: 9"
    )
    text = text.replace("rest: [0.0, -1.54, 1.54, 0.0, 0.0]", "rest: [0.0, -0.9, 1.5, 0.3, 0.0]")
    robot = parse(text)
    assert robot.arm_profile().joints[1].shadow_ids == (3,)
    assert robot.limits().workspace.body.hinges[0].origin[2] == pytest.approx(0.072 - 0.00065)


# ---------------------------------------------------------------- errors

WRONG = [
    ("  baud: 1000000", "  boud: 1000000", "port.boud: unknown key; did you mean 'baud'?"),
    ("  baud: 1000000", "  baud: fast", "port.baud: expected a whole number in bit/s from 9600 to 4500000"),
    ("  baud: 1000000", "  baud: 1000000.5", "port.baud: expected a whole number"),
    ("  baud: 1000000", "  baud: 1", "port.baud: expected a whole number in bit/s from 9600"),
    ("  baud: 1000000", "  baud: yes", "port.baud: expected a whole number"),
    ("  base_height: 0.125", "  base_height: .nan", "a number in m from 0 to 0.3, got '.nan'"),
    ("  base_height: 0.125", "  base_height: ", "a number in m from 0 to 0.3, got nothing"),
    ("  base_height: 0.125", "  base_height: 0.01", "arm: base height 0.01 m is not within"),
    ("profile: widowx_mk2", "profile: widowx_mk3", "got 'widowx_mk3'; did you mean 'widowx_mk2'?"),
    ("name: joint_3, low: -1.2", "name: joint_3, low: -2.2", "arm.joints.2: limits -2.2..1.571 must"),
    ("high: 1.571, zero: 0.0", "high: 1.571, sign: 0", "arm: joint_3: sign 0 is neither 1 nor -1"),
    ("name: joint_3,", "name: joint_33,", "arm.joints: expected joint_1, joint_2, joint_3, joint_4, joint_5"),
    ("  rest: [0.0,", "  rest: [", "arm.rest: expected 5 numbers, one per joint, got 4"),
    ("  rest: [0.0, -1.54", "  rest: [0.0, -1.57", "arm.rest: joint_2 at -1.57 is not in -1.551"),
    ("  ready: [0.0, -0.6, 0.9, -0.3", "  ready: [0.0, 1.1, 0.9, -0.3", "arm.ready: there "),
    ("  speed: [0.2,", "  speed: [0.5,", "arm: joint_1: speed 0.489 rad/s exceeds acceleration"),
    ("  speed: [0.2,", "  speed: 0.2 #", "arm.speed: expected a list, like [1, 2], got '0.2'"),
    ("max_torque: 0.5", "max_torque: 0.9", "a number in fractions from 0.05 to 0.5"),
    ("  table: 0.0", "  table: [0]", "workspace.table: expected a number in m from -1 to 1, got a list"),
    ("high: [0.45, 0.35, 0.60]", "high: [0.45, -0.9, 0.60]", "workspace.box: a box needs"),
    ("high: [0.45, 0.35, 0.60]", "high: [0.45, 0.35]", "workspace.box.high: expected 3 numbers"),
    ("crop: [80, 0, 480, 480]", "crop: [300, 0, 480, 480]", "cameras.0.crop: [300, 0, 480, 480] does not"),
    ("name: wrist", "name: front", "cameras: expected one named front and one named wrist"),
    ("pins: [cts]", "pins: [ctss]", "insertion.pins: unknown line 'ctss'; did you mean 'cts'?"),
    ("  pins: [cts]", "", "insertion.pins: is needed by a sensor of kind dry_contact"),
    ("  home: [0.0,", "  home: [0.2,", "rig.home: 0.2 is not in rotation's"),
    ("high: 0.1396", "high: 0.2", "rig.rotation: limits -0.1396..0.2 must lie in rotation's"),
    ("rotation, id: 7", "rotation, id: 3", "ids [3] are used twice"),
    ("scheduling: niceness", "scheduling: fife", "scheduling: expected one of niceness, fifo, got 'fife'"),
    ("  folder: recordings", "  folder:", "recording.folder: expected a text, got nothing"),
    ("  lead: 0.095 ", "  lead: 0.9 ", "safety.lead: must be at most 0.2 rad"),
    ("  lead: 0.095 ", "  laed: 0.1 ", "safety.laed: unknown key; did you mean 'lead'?"),
    ("  lead: 0.095 ", "  horizon: 0.05 ", "safety.horizon: stands here for the second time"),
    ("  lead: 0.095 ", "  lead: 0.05 ", "safety.follow_error: must be below lead"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), WRONG, ids=[message[:40] for *_, message in WRONG])
def test_what_is_wrong_is_named(old, new, message, tmp_path):
    file = tmp_path / "arm.yaml"
    file.write_text(changed(old, new), encoding="utf-8")
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        load(file)
    assert str(error.value).startswith(f"{file}, line ")


@pytest.mark.parametrize(
    ("old", "new", "at"),
    [
        ("  baud: 1000000", "  baud: fast", "  baud:"),
        ("low: -1.745, high: 1.745, zero: 0.0", "low: -1.745, high: 1.745, zero: x", "name: joint_4"),
        ("  lead: 0.095 ", "  lead: 0.9 ", "  lead:"),
        ("crop: [80, 0, 480, 480]", "crop: [300, 0, 480, 480]", "crop:"),
    ],
)
def test_the_line_is_the_line(old, new, at):
    with pytest.raises(ConfigError, match=f"^here, line {line_of(at)}: "):
        parse(changed(old, new), "here")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; .*widowx_mk2.yaml is an example"),
        ("- 1\n- 2\n", "line 1: file: expected names and values"),
        ("profile: [1\nport: 2", "line 2: is no YAML"),
        ("profile: wx200\n", "'port' is missing"),
        (TEXT.replace("\n  folder: recordings", "\n  # folder"), "recording: expected .* got nothing"),
    ],
)  # fmt: skip
def test_files_that_are_none(text, message):
    with pytest.raises(ConfigError, match=message):
        parse(text)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"No such file.*widowx_mk2.yaml is an example to copy"):
        load(tmp_path / "none.yaml")


def test_numbers_that_yaml_takes_for_texts():
    assert parse(changed("debounce: 0.05", "debounce: 5e-2")).insertion.debounce == 0.05


# ---------------------------------------------------------------- writing back


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "arm.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_writing_back_changes_what_was_asked_and_nothing_else(file):
    changes = {
        "arm.joints.0.zero": np.float64(0.0125),
        "arm.base_height": 0.1,
        "workspace.table": -0.02,
        "cameras.1.crop": np.array([10, 20, 300, 300]),
        "rig.home": [0.01, -0.002],
        "port.device": "/dev/ttyUSB0: odd # name",
        "cameras.0.exposure": None,
    }
    robot = write_back(file, changes)
    assert robot == load(file)
    assert (
        robot.arm.joints[0].zero == 0.0125 and robot.arm.base_height == 0.1 and robot.workspace.table == -0.02
    )
    assert robot.cameras[1].crop == (10, 20, 300, 300) and robot.rig.home == (0.01, -0.002)
    assert robot.port.device == "/dev/ttyUSB0: odd # name" and robot.cameras[0].exposure is None
    before, after = dict(places(parse(TEXT))), dict(places(robot))
    assert {place for place in before if before[place] != after[place]} == set(changes)
    old, new = TEXT.splitlines(), file.read_text(encoding="utf-8").splitlines()
    assert len(old) == len(new)
    differing = [index for index, (one, other) in enumerate(zip(old, new)) if one != other]
    assert len(differing) == len(changes)
    comments = [re.search(r" #.*$", line) for line in old]
    for index, comment in enumerate(comments):
        assert comment is None or new[index].endswith(comment.group()), old[index]


def test_the_ends_of_lines_stay_what_they_are(file):
    file.write_bytes(TEXT.replace("\n", "\r\n").encode())
    write_back(file, {"workspace.table": 0.01}, backup=True)
    assert file.read_bytes().count(b"\r\n") == TEXT.count("\n")
    assert (file.parent / "arm.yaml.bak-1").read_bytes() == TEXT.replace("\n", "\r\n").encode()


def test_what_was_left_out_is_added_to_its_section(file):
    robot = write_back(file, {"safety.margin": 0.03, "arm.joints.1.id": 2, "rig.rotation.id": 9})
    assert robot.safety.margin == 0.03 and robot.arm.joints[1].id == 2 and robot.rig.rotation.id == 9
    text = file.read_text(encoding="utf-8")
    assert "images_age: 0.2                   # older images, stop the arm\n  margin: 0.03\n" in text
    assert "high: 1.2, zero: 0.0, id: 2}" in text


def test_a_value_is_added_before_the_comments_of_the_next_section(file):
    write_back(file, {"insertion.host": "switch"})
    assert "  debounce: 0.05\n  host: switch\n\nrecording:" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arm.joints.0.zero": 3.0}, "a number in rad or m from -0.5 to 0.5, got '3.0'"),
        ({"arm.joints.0.zero": math.nan}, "arm.joints.0.zero: expected a number"),
        ({"arm.joints.7.zero": 0.0}, "there is no arm.joints.7 to write to"),
        ({"arms.base_height": 0.1}, "there is no arms to write to"),
        ({"arm.base_hight": 0.1}, "arm.base_hight: unknown key; did you mean 'base_height'?"),
        ({"arm": 1}, "arm is a section"),
        ({"cameras": []}, "cameras is not written like [1, 2]"),
        ({"arm.base_height": object()}, "cannot be written"),
    ],
)  # fmt: skip
def test_what_makes_no_robot_is_not_written(file, changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        write_back(file, {"workspace.table": 0.01, **changes})
    assert file.read_text(encoding="utf-8") == TEXT
    assert [path.name for path in file.parent.iterdir()] == ["arm.yaml"]


def test_writing_is_whole_or_not_at_all(file, monkeypatch):
    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="No space left"):
        write_back(file, {"workspace.table": 0.01})
    assert file.read_text(encoding="utf-8") == TEXT
    assert [path.name for path in file.parent.iterdir()] == ["arm.yaml"]


def test_writing_keeps_modes_and_links(file):
    file.chmod(0o640)
    link = file.with_name("link.yaml")
    link.symlink_to(file)
    write_back(link, {"workspace.table": 0.01})
    assert link.is_symlink() and stat.S_IMODE(file.stat().st_mode) == 0o640
    assert load(file).workspace.table == 0.01


def test_all_that_is_set_can_be_written_and_read(file):
    """Every value of the example, written as it is, gives the same robot."""
    robot = load(file)
    listed = yaml.safe_load(TEXT)
    for place, value in places(robot):
        node = listed
        for part in place.split("."):
            node = node[int(part)] if isinstance(node, list) else node.get(part) if node else None
        if node is not None:
            assert write_back(file, {place: value}) == robot, place


def test_configurations_come_without_agents():
    code = "import sys, hardware_bridge.config; print('torch' in sys.modules, 'meld_agents' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False False\n"
