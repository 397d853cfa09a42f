"""Every agent on every family, tiny: it learns, is tested, is saved and loaded, and goes on exactly."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import yaml

pytest.importorskip("torch")
pytest.importorskip("stable_baselines3")

import meld_envs
from benchmarks.evaluate import run_trials
from benchmarks.plan import load_preset
from meld_agents.registry import BUILT_IN, find_agent
from meld_envs.env import load_family
from meld_envs.families.sawyer import SawyerFamily

AGENTS = [*BUILT_IN, "sb3:SAC", "sb3:PPO"]

#: Of every agent that learns: those of the debug preset.
SETTINGS = load_preset("debug")["settings"]

#: Slices of training within which an agent's warm-up must end and its updates begin.
MOST_SLICES = 12


def applies(agent, env_id):
    """Whether the family has what the agent is for."""
    return agent != "explorer" or load_family(meld_envs.FAMILIES[env_id]).has_candidates


PAIRS = [(a, e) for a, e in itertools.product(AGENTS, meld_envs.FAMILIES) if applies(a, e)]


def make_of(agent, family):
    """What an agent needs of an environment, beside what all are given."""
    seen = {"obs_type": "state"}
    if agent in ("meld", "slac", "rl2") or (agent == "pearl" and family.default_obs_type == "pixels"):
        seen = {"obs_type": "pixels", "image_size": 32}
    more = {"pearl": {"episodes_per_trial": 2}, "explorer": {"reward_type": "sparse"}}
    return {**seen, **more.get(agent, {})}


def train(agent):
    """What the slices report, from here on until there are further steps and two further updates."""
    told = []
    for progress in itertools.islice(agent.meta_train(10**9), MOST_SLICES):
        told.append((progress.env_steps, progress.updates, dict(progress.losses)))
        (first_steps, first_updates, _), (steps, updates, _) = told[0], told[-1]
        if steps > first_steps and updates >= first_updates + 2:
            break
    return told


@pytest.mark.parametrize(("name", "env_id"), PAIRS)
def test_it_learns_is_tested_and_resumes(name, env_id, make_vec, tmp_path):
    family = load_family(meld_envs.FAMILIES[env_id])
    if isinstance(family, SawyerFamily) and name in ("expert", "explorer"):
        pytest.importorskip("dm_control")
    tasks = {"num_train_tasks": 2, "num_test_tasks": 2}
    keywords = {**tasks, "episode_steps": 4, "num_threads": 1, **make_of(name, family)}

    def make_env(num_envs, **more):
        return make_vec(env_id, num_envs, **keywords, **more)

    agent_class = find_agent(name)
    learns = getattr(agent_class, "learns", True)
    assert learns == (name in SETTINGS), "every agent that learns has settings in the debug preset"
    settings = yaml.safe_load(yaml.safe_dump(agent_class.resolve(SETTINGS.get(name, {}))))

    def build(seed):
        return agent_class(make_env, settings, seed, "cpu")

    test = make_env(2, split="test")

    def evaluate(agent):
        trials = run_trials(agent, test, [0, 1], test.unwrapped.task_set.test, seed=3)
        return np.stack([trials.reward_dense, trials.reward_sparse, trials.score, trials.success])

    agent = build(seed=0)
    learned = train(agent)
    assert bool(learned) == learns
    if learns:
        (first_steps, first_updates, _), *_, (steps, updates, losses) = learned
        assert 0 < first_steps < steps
        assert updates >= first_updates + 2
        assert losses
        assert np.isfinite(list(losses.values())).all()
    assert np.isfinite(evaluate(agent)).all()
    agent.save(tmp_path)
    resumed = build(seed=0 if not learns else 7)
    resumed.load(tmp_path)
    assert np.array_equal(evaluate(resumed), evaluate(agent))
    for mine, theirs in zip(train(agent), train(resumed), strict=True):
        np.testing.assert_equal(theirs, mine)
    assert np.array_equal(evaluate(resumed), evaluate(agent))
