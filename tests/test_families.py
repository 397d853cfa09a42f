"""What the papers say of each family holds, checked against independent calculations."""

from __future__ import annotations

import json

import gymnasium as gym
import mujoco
import numpy as np
import pytest

import meld_envs
from meld_envs.families.cheetah_vel import MODEL_FILE

NAV, CHEETAH = "meld/PointNav-v0", "meld/CheetahVel-v0"


@pytest.fixture
def nav():
    env = gym.make_vec(NAV, num_envs=4)
    yield env
    env.close()


@pytest.fixture
def cheetah():
    env = gym.make_vec(CHEETAH, num_envs=4, obs_type="state")
    yield env
    env.close()


def goals(env):
    return np.array([task.vector() for task in env.task])


def disc_pixels(frame):
    """Where a frame is red: rows and columns."""
    red = (frame[..., 0].astype(int) - frame[..., 1] > 80) & (frame[..., 0].astype(int) - frame[..., 2] > 80)
    return np.nonzero(red)


def test_goals_lie_on_the_upper_semicircle(nav):
    points = np.array([task.vector() for task in nav.task_set.train + nav.task_set.test])
    assert np.allclose(np.linalg.norm(points, axis=1), 1.0)
    assert (points[:, 1] >= 0).all()
    assert points[:, 0].min() < -0.8
    assert points[:, 0].max() > 0.8
    task = nav.task_set.train[0]
    inside = meld_envs.Task(task.family, {"goal_x": 0.1, "goal_y": 0.1}, task.hidden)
    with pytest.raises(ValueError, match="semicircle"):
        nav.set_task(inside)


def test_nav_moves_exactly_and_at_most_015(nav):
    nav.reset(seed=0)
    assert (nav.state() == 0).all()
    actions = np.array([[1.0, 0.0], [0.2, -0.4], [1.0, 1.0], [-7.0, 0.0]])
    nav.step(actions)
    moved = nav.state()
    assert np.allclose(moved[:2], [[0.15, 0.0], [0.03, -0.06]], atol=1e-12)
    assert np.allclose(np.linalg.norm(moved[2:], axis=1), 0.15, atol=1e-12)
    nav.step(actions)
    assert np.allclose(nav.state(), 2 * moved, atol=1e-12)
    for _ in range(15):
        nav.step(actions)
    assert np.allclose(nav.state()[0], [1.4, 0.0], atol=1e-12), "the arena has an edge"


def test_nav_rewards(nav):
    nav.reset(seed=0)
    seen = set()
    for _ in range(nav.trial_steps):
        _, _, _, _, info = nav.step(nav.expert_action() * 0.7)
        distance = np.linalg.norm(nav.state() - goals(nav), axis=1)
        assert np.allclose(info["reward_dense"], -distance)
        assert np.allclose(info["score"], -distance)
        assert np.allclose(info["reward_sparse"], np.where(distance <= 0.2, 1 - distance, 0))
        assert (info["success"] == (distance <= 0.2)).all()
        seen |= set(info["success"].tolist())
    assert seen == {False, True}


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("corner", [(0, 0), (1, 0), (0, 1), (-1, -1)])
def test_nav_disc_is_seen_everywhere(size, corner):
    env = gym.make_vec(NAV, num_envs=1, image_size=size)
    env.reset(seed=0)
    for _ in range(nav_steps := 19):
        frame = env.step(np.array([corner], dtype=np.float64))[0][0]
    assert nav_steps * 0.15 > 1.4 * np.sqrt(2) * 0.9
    rows, columns = disc_pixels(frame)
    diameter = size // 8
    assert np.ptp(rows) + 1 >= diameter
    assert np.ptp(columns) + 1 >= diameter
    middle = np.array([columns.mean() - (size - 1) / 2, (size - 1) / 2 - rows.mean()]) * 3.24 / size
    assert np.abs(middle - env.state()[0]).max() < 3.24 / size, "right and up in the picture are +x and +y"
    assert len(np.unique(frame.reshape(-1, 3), axis=0)) > 2, "edges are smooth"
    env.close()


def test_a_wrong_action_in_a_batch_names_the_trial(nav):
    nav.reset(seed=0)
    actions = np.zeros((4, 2))
    actions[2, 1] = np.nan
    with pytest.raises(ValueError, match="action 1 of trial 2 is nan"):
        nav.step(actions)


def test_cheetah_is_gymnasiums(cheetah, run_python, tmp_path):
    """Same numbers as a plain loop over the installed file, frame skip 10 and torques scaled by 0.8."""
    script = (
        "import json, sys, mujoco, numpy as np; model = mujoco.MjModel.from_xml_path(sys.argv[1]);"
        "data = mujoco.MjData(model); rows = np.array(json.load(sys.stdin));"
        "data.qpos[:], data.qvel[:] = rows[0, :9], rows[0, 9:18];\n"
        "for action in rows[1:, :6]:\n"
        "  data.ctrl[:] = 0.8 * action\n"
        "  mujoco.mj_step(model, data, nstep=10)\n"
        "print(json.dumps(np.concatenate([data.qpos, data.qvel]).tolist()))"
    )
    cheetah.reset(seed=0)
    start = cheetah.state()[0]
    actions = np.random.default_rng(0).uniform(-1, 1, (5, 4, 6))
    for action in actions:
        cheetah.step(action)
    rows = [start.tolist(), *([*action[0].tolist(), *[0.0] * 12] for action in actions)]
    result = run_python("-W", "ignore", "-c", script, str(MODEL_FILE), stdin=json.dumps(rows), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert np.array_equal(cheetah.state()[0], json.loads(result.stdout))


def test_cheetah_weighs_what_its_file_says():
    model = gym.make(CHEETAH).unwrapped.family.build_model()
    assert model.body_mass.sum() == pytest.approx(14.0)
    assert model.opt.timestep * 10 == pytest.approx(0.1)


def test_cheetah_rewards(cheetah):
    cheetah.reset(seed=0)
    wanted = goals(cheetah)[:, 0]
    for actions in np.random.default_rng(0).uniform(-1.5, 1.5, (12, 4, 6)):
        before = cheetah.state()[:, 0]
        _, _, _, _, info = cheetah.step(actions)
        error = np.abs((cheetah.state()[:, 0] - before) / 0.1 - wanted)
        dense = -error - 0.01 * np.square(0.8 * np.clip(actions, -1, 1)).sum(axis=1)
        assert np.allclose(info["reward_dense"], dense)
        assert np.allclose(info["score"], -error)
        assert np.allclose(info["reward_sparse"], np.where(error < 0.5, dense, 0))


def test_cheetah_success_is_the_mean_of_the_last_second(cheetah):
    tasks = [cheetah.family.task(velocity=v) for v in (0.0, 0.15, 0.3, 1.0)]
    cheetah.reset(seed=0, options={"task": tasks})
    positions = [cheetah.state()[:, 0]]
    for step in range(1, 31):
        _, _, _, _, info = cheetah.step(np.zeros((4, 6)))
        positions.append(cheetah.state()[:, 0])
        if step < 10:
            assert not info["success"].any()
        else:
            error = np.abs(positions[-1] - positions[-11] - [0.0, 0.15, 0.3, 1.0])
            assert (info["success"] == (error <= 0.2)).all()
    assert info["success"].any()
    assert not info["success"].all()


def test_cheetah_starts_are_noisy_within_bounds(cheetah):
    starts = []
    for seed in range(25):
        cheetah.reset(seed=100 * seed)
        starts.append(cheetah.state())
    starts = np.concatenate(starts)
    positions, speeds = starts[:, :9], starts[:, 9:]
    assert np.abs(positions).max() <= 0.1
    assert (np.abs(positions).max(axis=0) > 0.08).all()
    assert np.allclose(speeds.std(axis=0), 0.1, atol=0.04)


def test_cheetah_is_seen_and_tracked():
    env = gym.make_vec(CHEETAH, num_envs=2)
    first, _ = env.reset(seed=0)
    for _ in range(30):
        last = env.step(env.expert_action())[0]
    body = [mujoco.mjtObj.mjOBJ_CAMERA, "track"]
    assert mujoco.mj_name2id(env.family.build_model(), *body) == 0
    for frame in (*first, *last):
        tan = (frame[..., 0] > frame[..., 2].astype(int) + 25).nonzero()
        assert len(tan[0]) > 60, "limbs of several pixels"
        assert 20 < tan[1].mean() < 44, "in the middle of the picture"
    env.close()
