"""Recording an emulated robot, in real time, through the driver's own process; and what others read of it."""

from __future__ import annotations

import signal
import threading
import time

import numpy as np
import pytest

from hardware_bridge.__main__ import main
from hardware_bridge.config import TWIN, load
from hardware_bridge.insertion import Insertion
from hardware_bridge.link import Link
from hardware_bridge.recorder import Recorder, episodes, records
from hardware_bridge.recording import Plan, policy
from hardware_bridge.servos import WIDOWX_MK2
from hardware_bridge.twin.robot import EmulatedRobot

pytestmark = pytest.mark.real_time

RNG = np.random.default_rng(0)


@pytest.fixture
def robot(tmp_path):
    with EmulatedRobot(tmp_path, TWIN) as emulated:
        yield emulated


def powered(config):
    """Names of the joints whose torque is on."""
    robot = load(config)
    with Link(robot.port.device, slack=0.05) as link:
        joints = robot.arm_profile().joints
        return [j.name for j in joints if link.read_registers(j.servo, "torque_enable")[0]["torque_enable"]]


def until(condition, timeout=30.0):
    end = time.monotonic() + timeout
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


# Policies -------------------------------------------------------------------------------------------


def test_policies_come_by_name_or_from_files(tmp_path):
    assert not policy("zero", 5, RNG)(3).any()
    actions = [policy("random", 5, np.random.default_rng(seed))(0) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(actions[0], actions[1])
    assert (actions[0] != actions[2]).all() and (np.abs(actions) <= 1).all()
    script = np.linspace(-1, 1, 10).reshape(2, 5)
    np.save(tmp_path / "a.npy", script)
    np.savetxt(tmp_path / "a.csv", script, delimiter=",")
    np.savetxt(tmp_path / "a.txt", script)
    with Recorder(tmp_path / "a.rec") as out:
        for number, action in enumerate([np.zeros(5), *script]):
            out.step({"action": action, "episode_start": number == 0})
    for name in ("a.npy", "a.csv", "a.txt", "a.rec"):
        act = policy(str(tmp_path / name), 5, RNG)
        np.testing.assert_allclose([act(0), act(1), act(2)], [*script, np.zeros(5)], err_msg=name)


@pytest.mark.parametrize(
    ("actions", "message"),
    [(None, "no policy"), (np.zeros((2, 4)), r"\(2, 4\)"), (np.full((1, 5), np.nan), "expected finite")],
)
def test_what_is_no_policy_is_refused(actions, message, tmp_path):
    if actions is not None:
        np.save(tmp_path / "a.npy", actions)
    with pytest.raises(ValueError, match=message):
        policy(str(tmp_path / "a.npy"), 5, RNG)


def test_the_right_port_is_rewarded():
    states = [Insertion(inserted, port, 0.0, 0.0, True) for inserted, port in
              [(False, None), (True, 0), (True, 1), (True, None)]]  # fmt: skip
    assert [Plan(port=1).reward(state) for state in states] == [0.0, 0.0, 1.0, 1.0]
    assert [Plan().reward(state) for state in states] == [0.0, 1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="at least 1"):
        Plan(steps=0)


# The commands ---------------------------------------------------------------------------------------


def test_a_session_is_recorded_exported_and_ends_at_rest(twin, tmp_path, capsys):
    arguments = ["--policy", "random", "--episodes", "2", "--steps", "3", "--seed", "4"]
    assert main(["record", str(twin.config), "--out", str(tmp_path / "out"), *arguments]) == 0
    assert "2 of 2 episodes are whole" in capsys.readouterr().out
    assert powered(twin.config) == []
    path = tmp_path / "out" / "session_00000.rec"
    first, second = episodes(path)
    assert first["observation"].shape == (4, 64, 128, 3) and first["observation"].dtype == np.uint8
    assert list(first["episode_start"]) == [True, False, False, False]
    rng = np.random.default_rng(4)
    asked = [[rng.uniform(-1, 1, 5) for _ in range(3)] for _ in range(2)]
    for episode, actions in zip((first, second), asked):
        np.testing.assert_array_equal(episode["action"], [np.zeros(5), *actions])
        speed = np.array(load(twin.config).arm.speed)
        # What was sent is what the arm did, but for the servos' lag and sag.
        moved = np.diff(episode["position"], axis=0) / speed / np.diff(episode["measured"])[:, None]
        assert np.corrcoef(episode["sent"][1:].ravel(), moved.ravel())[0, 1] > 0.6
        assert np.abs(episode["sent"][1:]).max() > 0.3
        np.testing.assert_allclose(np.diff(episode["at"]), 0.303, atol=0.1)
        assert (episode["observed"] - episode["front_captured"] < 0.25).all()
    found = list(records(path))
    assert found[0].kind == "meta" and "profile: widowx_mk2" in found[0].values["configuration"]
    commands = [record.values for record in found if record.kind == "command"]
    assert len(commands) > 60
    numbers = [command["number"] for command in commands if command["mode"] == "POLICY"]
    assert {1, *np.diff(numbers)} - {1} == {max(np.diff(numbers))}, "no cycle of an episode is missing"
    assert main(["export", str(path), "--npz", str(tmp_path / "npz")]) == 0
    assert len(list((tmp_path / "npz").glob("*.npz"))) == 2
    assert main(["export", str(path), "--npz", str(tmp_path / "npz")]) == 1


def test_a_fault_ends_the_episode_and_is_on_record(twin, tmp_path, capsys):
    def begun():
        files = list((tmp_path / "out").glob("*.rec"))
        return files and b'"episode_start":' in files[0].read_bytes()

    def damage():
        if until(begun):
            twin.process.send_signal(signal.SIGSTOP)  # all servos are silent

    thread = threading.Thread(target=damage, daemon=True)
    thread.start()
    code = main(["record", str(twin.config), "--out", str(tmp_path / "out"), "--steps", "30"])
    thread.join()
    said = capsys.readouterr()
    assert code == 1 and "torque is on" in said.err, said
    assert "servo missing" in said.out or "readings stale" in said.out, said
    found = list(records(tmp_path / "out" / "session_00000.rec"))
    assert 0 < sum(record.kind == "step" for record in found) < 31


def test_an_arm_moved_by_hand_is_recorded_without_torque(robot, tmp_path):
    stop = threading.Event()

    def lead():
        angle = 0.0
        while not stop.wait(0.02):
            angle = min(0.5, angle + 0.002)
            with robot.line.lock:
                robot.world.hold({"joint_1": angle})

    thread = threading.Thread(target=lead, daemon=True)
    thread.start()
    code = main(
        ["record", str(robot.config), "--out", str(tmp_path / "out"), "--policy", "hand", "--steps", "3"]
    )
    stop.set()
    thread.join()
    assert code == 0
    (episode,) = episodes(tmp_path / "out" / "session_00000.rec")
    assert (np.diff(episode["position"][:, 0]) > 0.01).all() and not episode["sent"].any()
    speed, took = load(robot.config).arm.speed[0], np.diff(episode["measured"])
    np.testing.assert_allclose(episode["action"][1:, 0] * speed * took, np.diff(episode["position"][:, 0]))
    robot.line.servo(2).table["torque_enable"] = 1
    assert main(["record", str(robot.config), "--out", str(tmp_path / "out"), "--policy", "hand"]) == 1
    assert not (tmp_path / "out" / "session_00001.rec").exists() or not any(
        record.kind == "step" for record in records(tmp_path / "out" / "session_00001.rec")
    )


def test_a_plug_that_is_in_already_keeps_it_from_beginning(robot, tmp_path, capsys):
    robot.senses.insert(0)
    assert main(["record", str(robot.config), "--out", str(tmp_path / "out"), "--steps", "1"]) == 1
    assert "says that the plug is in before the episode began" in capsys.readouterr().err
    assert not any(robot.line.servo(joint.id).table["torque_enable"] for joint in WIDOWX_MK2.joints)
