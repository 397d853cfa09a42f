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
from meld_agents.registry import BUILT_IN, find_agent
from meld_envs.env import load_family
from meld_envs.families.sawyer import SawyerFamily

AGENTS = [*BUILT_IN, "sb3:SAC", "sb3:PPO"]

STATES = {"obs_type": "state"}
PIXELS = {"obs_type": "pixels", "image_size": 32}

#: What agents need of an environment, beside what ``make_vec`` below gives to all.
MAKE = {
    "meld": PIXELS,
    "slac": PIXELS,
    "rl2": PIXELS,
    "pearl": {**STATES, "episodes_per_trial": 2},
    "explorer": {**STATES, "reward_type": "sparse"},
}

LATENT_MODEL = {
    "base": "small",
    "hidden": 8,
    "z1_size": 2,
    "z2_size": 3,
    "filters": [2, 2, 4, 4],
    "feature_size": 4,
    "autoencoder_updates": 1,
    "warmup_updates": 1,
    "warmup_trials_per_task": 1,
    "collect_tasks": 2,
    "updates_per_round": 1,
    "trials_per_update": 2,
    "actor_hidden": [8],
    "actor_batch": 4,
}
#: As tiny as can be, of every agent that learns.
SETTINGS = {
    "meld": LATENT_MODEL,
    "slac": LATENT_MODEL,
    "pearl": {
        "encoder_hidden": [8],
        "hidden": [8],
        "latent_size": 2,
        "context_batch": 4,
        "batch": 4,
        "tasks_per_update": 2,
        "warmup_trials_per_task": 1,
        "collect_tasks": 2,
        "updates_per_round": 1,
        "exploration_episodes": 1,
    },
    "rl2": {"trials": 2, "lstm_size": 4, "filters": [2, 2, 4, 4], "feature_size": 4, "epochs": 1},
    "sb3:SAC": {
        "policy_kwargs": {"net_arch": [8]},
        "trials": 2,
        "learning_starts": 5,
        "batch_size": 4,
        "buffer_size": 100,
        "gradient_steps": 1,
    },
    "sb3:PPO": {"policy_kwargs": {"net_arch": [8]}, "trials": 2, "n_epochs": 1},
}

#: Slices of training within which an agent's warm-up must end and its updates begin.
MOST_SLICES = 12


def applies(agent, env_id):
    """Whether the family has what the agent is for."""
    return agent != "explorer" or load_family(meld_envs.FAMILIES[env_id]).has_candidates


PAIRS = [(a, e) for a, e in itertools.product(AGENTS, meld_envs.FAMILIES) if applies(a, e)]


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
    keywords = {**tasks, "episode_steps": 4, "num_threads": 1, **STATES, **MAKE.get(name, {})}

    def make_env(num_envs, **more):
        return make_vec(env_id, num_envs, **keywords, **more)

    agent_class = find_agent(name)
    learns = getattr(agent_class, "learns", True)
    assert learns == (name in SETTINGS), "every agent that learns has tiny settings in the table above"
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
