"""``backend="robot"`` in real time, through the ``twin`` command in a second process."""

from __future__ import annotations

import math
import os
import signal
import time

import gymnasium as gym
import numpy as np
import pytest

import meld_envs  # noqa: F401 - registers the environments
from hardware_bridge.config import TWIN, load
from hardware_bridge.process import DriverGone
from hardware_bridge.recorder import RecorderError, records
from hardware_bridge.robot import PERIOD, Pace, Robot
from meld_envs.families.widowx_ethernet import WidowXEthernet
from meld_envs.world import World

pytestmark = pytest.mark.real_time

ETHERNET = "meld/WidowXEthernet-v0"


def test_an_episode_in_real_time_inserts_keeps_its_rate_and_is_on_the_disk(twin):
    sim = gym.make(ETHERNET)
    robot = gym.make(ETHERNET, backend="robot", config=str(twin.config), episode_steps=30)
    assert robot.observation_space == sim.observation_space and robot.action_space == sim.action_space
    drawn, _ = sim.reset(seed=0)
    seen, info = robot.reset(seed=0)
    assert robot.unwrapped.task == sim.unwrapped.task
    assert np.abs(seen.astype(int) - drawn).mean() < 5.0, "the same scene, but for the arm's sag and noise"
    assert not info["success"] and info["fault"] == ""
    began, ends, infos = time.monotonic(), [], []
    for _ in range(30):
        action = robot.unwrapped.expert_action()
        frame, reward, _, _, info = robot.step(action)
        ends.append(time.monotonic())
        infos.append(info)
        assert frame.shape == (64, 128, 3) and reward == info["reward_dense"]
        if len(ends) == 1:
            assert info["action_sent"] == pytest.approx(action, abs=0.25), "the first ticks accelerate"
        if info["success"]:
            break
    assert info["success"] and info["reward_sparse"] == 1.0, "the sensor said so"
    # Absolute times: what one step lacks the next one makes up for.
    assert (ends[-1] - began) / len(ends) == pytest.approx(PERIOD, abs=0.02)
    lateness = np.array([info["lateness"] for info in infos])
    assert (lateness >= 0.0).all() and np.median(lateness) < 0.02
    assert np.abs([info["jitter"] for info in infos]).max() < 0.2
    assert all(info["missed"] == 0 and info["fault"] == "" for info in infos)
    assert all(0.0 <= info["image_age"] < 0.2 for info in infos)
    backend = robot.unwrapped._batch._backend
    kept = [record.values for record in records(backend.recording) if record.kind == "step"]
    assert len(kept) == len(ends)
    assert (kept[-1]["image"] == frame).all() and kept[-1]["sent"] == pytest.approx(info["action_sent"])
    robot.close()
    sim.close()


def test_devices_that_fail_are_named_and_a_driver_that_died_is_told(twin):
    env = gym.make(ETHERNET, backend="robot", config=str(twin.config), obs_type="state")
    env.reset(seed=1)
    backend = env.unwrapped._batch._backend
    assert env.step(np.zeros(5))[-1]["fault"] == ""
    backend.session.senses.cameras.cameras["front"].close()  # no more pictures of it
    for _ in range(3):
        info = env.step(np.full(5, 0.3))[-1]
    assert "image stale: front" in info["fault"]
    assert info["action_sent"] == pytest.approx(np.zeros(5), abs=1e-9), "the arm is held"
    recorder = backend._recorder
    os.close(recorder._file)
    recorder._file = os.open("/dev/full", os.O_WRONLY)
    asked = time.monotonic()
    with pytest.raises(RecorderError, match="No space left"):
        env.step(np.zeros(5))
    backend.session.door.wait_for(backend.session.door.latest.number + 2)
    told = {fault.kind for tick in backend.session.door.ticks(asked) for fault in tick.faults}
    assert "recorder failed" in told
    os.kill(backend.session.door.pid, signal.SIGKILL)
    with pytest.raises(DriverGone, match="has ended"):
        env.step(np.zeros(5))
    backend.session.door.kill()
    env.close()


def test_what_cannot_be_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="one robot, and 2 trials"):
        gym.make_vec(ETHERNET, 2, backend="robot", config=str(TWIN))
    wx200 = tmp_path / "wx200.yaml"
    wx200.write_text("profile: wx200", encoding="utf-8")
    with pytest.raises(ValueError, match=r"wx200\.yaml"):
        gym.make(ETHERNET, backend="robot", config=str(wx200))
    robot = Robot(World(WidowXEthernet().build_model(), 1, varied=("body_pos", "body_quat")), TWIN)
    with pytest.raises(ValueError, match="image_size=128"):
        robot.frames(128)
    assert load(TWIN).recording.folder.startswith("/tmp/widowx-twin")


def test_a_pace_is_absolute_and_counts_what_it_missed():
    pace = Pace(0.03)
    start = time.monotonic()
    due = [pace.begin(time.monotonic())]
    pace.wait()
    assert pace.lateness == pytest.approx(pace.jitter, abs=1e-6) and pace.lateness >= 0.0
    time.sleep(0.01)
    due.append(pace.begin(time.monotonic()))
    assert due[1] - due[0] == pytest.approx(0.03) and pace.thought == pytest.approx(0.01, abs=0.01)
    pace.wait()
    assert time.monotonic() - start >= 0.06
    time.sleep(0.08)
    due.append(pace.begin(time.monotonic()))
    assert pace.missed >= 2 and math.isclose((due[2] - due[1]) / 0.03, pace.missed + 1)
    pace.wait()
    pace.start()
    assert pace.missed == 0 and pace.lateness == 0.0
