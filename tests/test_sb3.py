"""stable-baselines3 algorithms as agents: what they see, and that a resumed one goes on as it would have."""

import itertools
import random

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("stable_baselines3")
torch = pytest.importorskip("torch")

import meld_envs  # noqa: E402
from meld_agents.interface import Evidence, Policy  # noqa: E402
from meld_agents.registry import AgentError, find_agent  # noqa: E402
from meld_agents.sb3 import TrialVecEnv  # noqa: E402

SMALL = {"policy_kwargs": {"net_arch": [8]}, "trials": 2}
VARIANTS = {
    "SAC": {**SMALL, "learning_starts": 50, "batch_size": 8, "buffer_size": 500, "gradient_steps": 1},
    "PPO": {**SMALL, "n_epochs": 1},
    "RecurrentPPO": {
        "trials": 2,
        "n_epochs": 1,
        "policy_kwargs": {"net_arch": [8], "lstm_hidden_size": 8},
    },
}


def make_env(num_envs, **changes):
    keywords = {"obs_type": "state", "episodes_per_trial": 2, "num_threads": 1}
    return gym.make_vec("meld/PointNav-v0", num_envs=num_envs, **(keywords | changes)).unwrapped


def make_agent(name, seed=0, **changes):
    return find_agent(f"sb3:{name}")(make_env, VARIANTS[name] | changes, seed, "cpu")


def train(agent, slices):
    return list(itertools.islice(agent.meta_train(10**9), slices))[-1]


def weights(agent):
    return {name: value.clone() for name, value in agent.model.policy.state_dict().items()}


def test_what_an_algorithm_sees_is_what_the_wrapper_shows():
    rng = np.random.default_rng(0)
    ours = TrialVecEnv(make_env(2), rng)
    first = ours.reset()
    singles = [
        meld_envs.TrialObservation(
            gym.make("meld/PointNav-v0", obs_type="state", episodes_per_trial=2, num_threads=1)
        )
        for _ in range(2)
    ]
    theirs = [env.reset(seed=ours.seed_now + trial)[0] for trial, env in enumerate(singles)]
    actions = np.random.default_rng(1).uniform(-1.5, 1.5, (41, 2, 2)).astype(np.float32).clip(-1, 1)
    for step in range(42):
        seen = first if step == 0 else seen  # noqa: F821
        for trial in range(2):
            assert all(np.array_equal(seen[key][trial], theirs[trial][key]) for key in seen), step
        if step == 40:
            break
        seen, _, done, infos = ours.step(actions[step])
        assert not done.any()
        theirs = [env.step(actions[step][trial])[0] for trial, env in enumerate(singles)]
    seen, _, done, infos = ours.step(actions[40])
    assert done.all()
    assert infos[0]["TimeLimit.truncated"]
    last = singles[0].step(actions[40][0])[0]
    assert all(np.array_equal(infos[0]["terminal_observation"][key], last[key]) for key in last)
    assert seen["episode_start"].all(), "the next trial has begun"


@pytest.mark.parametrize("name", VARIANTS)
def test_a_resumed_one_ends_with_the_same_numbers(name, tmp_path):
    agent = make_agent(name)
    train(agent, 2)
    before = weights(agent)
    agent.save(tmp_path)
    went_on = train(agent, 2)
    assert went_on.env_steps == 4 * 2 * 41
    assert went_on.updates > 0
    assert any(not torch.equal(before[key], value) for key, value in weights(agent).items())
    resumed = make_agent(name, seed=7)
    resumed.load(tmp_path)
    assert train(resumed, 2).env_steps == went_on.env_steps
    assert all(torch.equal(weights(agent)[key], value) for key, value in weights(resumed).items())


def test_global_generators_are_left_alone_and_do_not_matter():
    ends = []
    for noise in (1, 2):
        random.seed(noise)
        np.random.seed(noise)  # noqa: NPY002
        torch.manual_seed(noise)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
        agent = make_agent("SAC")
        train(agent, 2)
        after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
        assert before[:2] == after[:2]
        assert torch.equal(before[2], after[2])
        ends.append(weights(agent))
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_policies_of_images_and_of_states():
    for obs_type, shape in (("state", (3, 2)), ("pixels", (3, 64, 64, 3))):
        agent = find_agent("sb3:PPO")(lambda n, kind=obs_type: make_env(n, obs_type=kind), SMALL, 0, "cpu")
        policy = agent.policy(3, explore=True, seed=1)
        assert isinstance(policy, Policy)
        policy.start_trial()
        start = Evidence(
            np.zeros(shape, np.uint8 if len(shape) == 4 else np.float32), np.zeros(3), np.ones(3, bool)
        )
        one = policy.act(start)
        assert one.shape == (3, 2)
        repeat = agent.policy(3, explore=True, seed=1)
        assert np.array_equal(repeat.act(start), one)
        assert not np.array_equal(agent.policy(3, explore=True, seed=2).act(start), one)


def test_a_recurrent_policy_remembers_through_the_trial_and_no_longer():
    agent = make_agent("RecurrentPPO")

    def last_action(policy, first_reward):
        for step, reward in enumerate((0.0, first_reward, 0.0)):
            given = Evidence(np.zeros((1, 2), np.float32), np.full(1, reward), np.full(1, step == 2))
            action = policy.act(given)
        return action

    policy = agent.policy(1, explore=False)
    ends = [last_action(policy, 0.0)]
    policy.start_trial()
    ends.append(last_action(policy, -1.0))
    policy.start_trial()
    ends.append(last_action(policy, 0.0))
    assert not np.array_equal(ends[0], ends[1]), "what was seen before the episode's end still counts"
    assert np.array_equal(ends[0], ends[2])


def test_names_and_settings_are_checked():
    with pytest.raises(AgentError, match="did you mean 'SAC'"):
        find_agent("sb3:SAX")
    with pytest.raises(ValueError, match="did you mean 'learning_rate'"):
        find_agent("sb3:SAC").resolve({"learning_rat": 1e-3})
    with pytest.raises(ValueError, match="unknown key 'policy'"):
        find_agent("sb3:SAC").resolve({"policy": "MlpPolicy"})
    with pytest.raises(ValueError, match="36 pixels or more"):
        find_agent("sb3:PPO")(lambda n: make_env(n, obs_type="pixels", image_size=32), SMALL, 0, "cpu")
    assert find_agent("sb3:SAC").resolve({})["buffer_size"] == 100_000
