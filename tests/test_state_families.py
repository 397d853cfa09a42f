"""PEARL's state-based families do what their sources say, checked against independent calculations."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import meld_envs  # noqa: F401 - registers the ids

POINT = "meld/SparsePoint-v0"


@pytest.fixture
def make_vec():
    """``gym.make_vec`` whose environments are closed after the test."""
    made = []

    def make(env_id, num_envs=3, **keywords):
        made.append(gym.make_vec(env_id, num_envs=num_envs, **keywords))
        return made[-1]

    yield make
    for env in made:
        env.close()


def hidden(env):
    """The tasks' hidden parameters ``(n, number of them)``."""
    return np.array([task.vector() for task in env.task])


# SparsePoint ----------------------------------------------------------------------------------


def test_point_moves_along_each_axis_and_has_no_edge(make_vec):
    env = make_vec(POINT)
    first, _ = env.reset(seed=0)
    assert (first == 0).all()
    for _ in range(20):
        last = env.step(np.array([[1.0, 1.0], [-3.0, 0.5], [0.0, -1.0]]))[0]
    assert np.allclose(last, [[2.0, 2.0], [-2.0, 1.0], [0.0, -2.0]], atol=1e-6)


def test_point_rewards(make_vec):
    env = make_vec(POINT, 5)
    env.reset(seed=0)
    seen = set()
    for _ in range(env.trial_steps):
        _, reward, _, _, info = env.step(0.8 * env.expert_action())
        distance = np.hypot(*(env.state() - hidden(env)).T)
        assert np.allclose(reward, -distance)
        assert np.allclose(info["reward_sparse"], np.where(distance <= 0.2, 1 - distance, 0))
        seen |= set(info["success"].tolist())
    assert seen == {False, True}


def test_point_goals_of_the_thesis_and_of_the_released_code(make_vec):
    thesis, code = make_vec(POINT).task_set, make_vec(POINT, goals="spaced").task_set
    assert (len(thesis.train), len(thesis.test)) == (100, 20)
    assert (len(code.train), len(code.test)) == (80, 20)
    angles = np.array([np.arctan2(*task.vector()[::-1]) for task in code.train + code.test])
    assert np.allclose(np.sort(angles), np.linspace(0, np.pi, 100))
    assert (np.diff(angles) < 0).any(), "shuffled"
    other = make_vec(POINT, goals="spaced", task_seed=1).task_set
    assert set(other.train) != set(code.train)


def test_point_straight_to_the_goal_earns_what_the_sources_formulas_give(make_vec):
    """The code's hundred goals, at most 0.1 a step and axis: 12.7 to 14.8, on average 13.4."""
    env = make_vec(POINT, 100, goals="spaced")
    env.reset(seed=0, options={"task": [*env.task_set.train, *env.task_set.test]})
    returns = sum(env.step(env.expert_action())[4]["reward_sparse"] for _ in range(20))
    inner = np.sort(returns)[2:]  # rounding decides whether the two goals on the x axis count at 0.2 exactly
    assert 12.65 < inner.min() < inner.max() < 14.85
    assert returns.mean() == pytest.approx(13.4, abs=0.05)
