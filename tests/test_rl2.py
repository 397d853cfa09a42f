"""RL²: advantages by hand, where memory begins and credit ends, what is saved, and every kind of family."""

import itertools
import json

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("sb3_contrib")
torch = pytest.importorskip("torch")

import meld_envs  # noqa: E402
from meld_agents.interface import Evidence, Policy  # noqa: E402
from meld_agents.registry import AgentError, find_agent  # noqa: E402
from meld_agents.rl2 import RL2, advantages_of, in_windows  # noqa: E402

TINY = {
    "base": "small",
    "trials": 4,
    "trials_per_update": 2,
    "epochs": 1,
    "lstm_size": 8,
    "heads": [8],
    "filters": [4, 4, 8, 8],
    "feature_size": 8,
}
FRAMES = 21  # of an episode of PointNav
STEPS = 2 * FRAMES - 1  # of a trial of two


def make_env(num_envs, **changes):
    keywords = {"obs_type": "state", "num_train_tasks": 4, "episodes_per_trial": 2, "num_threads": 1}
    return gym.make_vec("meld/PointNav-v0", num_envs=num_envs, **(keywords | changes)).unwrapped


def make_agent(seed=0, make=make_env, **changes):
    return RL2(make, TINY | changes, seed, "cpu")


def train(agent, slices):
    return list(itertools.islice(agent.meta_train(10**9), slices))[-1]


def weights(agent):
    return {name: value.clone() for name, value in agent.model.policy.state_dict().items()}


# -- advantages --------------------------------------------------------------------------------------


def by_definition(rewards, values, ends, discount, gae_lambda, credit):
    """One trial's sums over all later steps of the one-step errors; what ends an episode is no step."""
    advantages = np.zeros(len(rewards))
    for first in np.flatnonzero(~ends):
        weight, step = 1.0, first
        while step < len(rewards):
            crosses = step + 1 < len(rewards) and ends[step + 1]
            following = step + 1 + (crosses and credit == "trial")
            span = discount ** (following - step)
            after = values[following] if following < len(rewards) else 0.0
            advantages[first] += weight * (rewards[step] + span * after - values[step])
            weight *= span * gae_lambda
            if crosses and credit == "episode":
                break
            step = following
    return advantages


@pytest.mark.parametrize("credit", ["trial", "episode"])
@pytest.mark.parametrize("gae_lambda", [0.0, 0.8, 1.0])
def test_advantages_by_definition(credit, gae_lambda):
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, 11, 3))
    ends = np.isin(np.arange(11), (3, 7))  # three episodes of three steps
    ours = advantages_of(rewards, values, ends, 0.9, gae_lambda, credit)
    for trial in range(3):
        expected = by_definition(rewards[:, trial], values[:, trial], ends, 0.9, gae_lambda, credit)
        assert np.allclose(ours[:, trial], expected)


def test_with_full_lambda_advantages_are_returns_less_values():
    rewards, values = np.array([[1.0, 2, 3, 0, 5, 6, 7]]).T, np.full((7, 1), 2.0)
    ends = np.arange(7) == 3  # two episodes of three steps
    trial = advantages_of(rewards, values, ends, 1.0, 1.0, "trial")[:, 0]
    assert np.allclose(trial, [24 - 2, 23 - 2, 21 - 2, 0, 18 - 2, 13 - 2, 7 - 2])
    episode = advantages_of(rewards, values, ends, 1.0, 1.0, "episode")[:, 0]
    # The first episode ends with the value 2 of its last observation in place of all that follows.
    assert np.allclose(episode, [8 - 2, 7 - 2, 5 - 2, 0, 18 - 2, 13 - 2, 7 - 2])
    halved = advantages_of(rewards, values, ends, 0.5, 1.0, "trial")[:, 0]
    assert halved[2] == 3 + (5 + 6 / 2 + 7 / 4) / 4 - 2, "time goes by between the episodes"


@pytest.mark.parametrize("credit", ["trial", "episode"])
def test_whose_rewards_an_action_of_the_first_episode_earns(credit):
    agent = make_agent(credit=credit)
    train(agent, 1)
    buffer = agent.model.rollout_buffer
    before = advantages(buffer)
    buffer.rewards[FRAMES + 5 :] += 1.0
    after = advantages(buffer)
    assert (after[FRAMES:] > before[FRAMES:]).all()
    first = slice(FRAMES - 1)
    assert (
        np.array_equal(after[first], before[first]) if credit == "episode" else (after > before)[first].all()
    )


def advantages(buffer):
    return advantages_of(
        buffer.rewards, buffer.values, buffer.boundary, buffer.gamma, buffer.gae_lambda, buffer._credit
    )


@pytest.mark.parametrize("credit", ["trial", "episode"])
def test_an_ignored_action_moves_nothing(credit):
    agent = make_agent(credit=credit, epochs=2)
    train(agent, 1)
    buffer = agent.model.rollout_buffer
    assert np.flatnonzero(buffer.boundary).tolist() == [FRAMES - 1]
    acting = buffer.advantages[~buffer.boundary]
    assert np.allclose([acting.mean(), acting.std()], [0, 1], atol=1e-4)
    start = weights(agent)

    def learned(step):
        """The weights that a round's updates lead to if something else was done at a step."""
        agent.model.policy.load_state_dict(start)
        agent.model.policy.optimizer.state.clear()
        kept = buffer.actions[step].copy()
        buffer.actions[step] += 0.1
        with agent._randomness.own():
            torch.manual_seed(0)
            agent.model.train()
        buffer.actions[step] = kept
        return weights(agent)

    untouched = learned([])
    ignored, real = learned(FRAMES - 1), learned(FRAMES - 2)
    assert all(torch.equal(untouched[name], value) for name, value in ignored.items())
    assert any(not torch.equal(untouched[name], value) for name, value in real.items())


# -- memory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, 10])
def test_memory_lives_through_the_trial_and_no_longer(window):
    """What a trial's sequences say anew is what was said while it was lived, from no memory at its start."""
    agent = make_agent(backprop_steps=window, epochs=1)
    agent.model.train = lambda: None  # so that the weights are those that acted
    train(agent, 2)
    buffer, policy = agent.model.rollout_buffer, agent.model.policy
    assert buffer.episode_starts[0].all()
    assert not buffer.episode_starts[1:].any()
    batch = buffer._sequences(np.arange(4))
    assert not batch.episode_starts.any()
    sequences = 1 if window is None else 5  # at most 10 steps each, of 41: five of 9
    assert batch.lstm_states.pi[0].shape == (1, 4 * sequences, 8)
    assert not batch.lstm_states.pi[0][:, ::sequences].any()
    with torch.no_grad():
        values, log_prob, _ = policy.evaluate_actions(
            batch.observations, batch.actions, batch.lstm_states, batch.episode_starts
        )
    lived = batch.mask > 0
    assert int(lived.sum()) == 4 * (STEPS - 1), "all but the boundary"
    assert torch.allclose(values.flatten()[lived], batch.old_values[lived], atol=1e-5)
    assert torch.allclose(log_prob[lived], batch.old_log_prob[lived], atol=1e-4)


def test_a_trials_end_is_a_time_limit_valued_with_the_trials_memory():
    agent = make_agent(normalise_rewards=False)
    agent.model.train = lambda: None
    seen = []
    original = agent._env.step_wait

    def watched():
        observations, rewards, done, infos = original()
        seen.append((rewards.copy(), done, infos))  # the algorithm adds to the rewards in place
        return observations, rewards, done, infos

    agent._env.step_wait = watched
    train(agent, 2)
    rewards, done, infos = seen[-1]
    assert done.all()
    buffer, policy = agent.model.rollout_buffer, agent.model.policy
    for trial in range(4):
        last = infos[trial]["terminal_observation"]
        assert last["reward"][0] == pytest.approx(rewards[trial])
        observations = {
            key: torch.from_numpy(np.concatenate([array[:, trial], last[key][None]]).astype(np.float32))
            for key, array in buffer.observations.items()
        }
        none = torch.zeros(1, 1, 8)
        with torch.no_grad():
            values = policy.predict_values(observations, (none, none), torch.zeros(STEPS + 1)).flatten()
        assert values[:-1].numpy() == pytest.approx(buffer.values[:, trial], abs=1e-5)
        expected = rewards[trial] + agent.settings["discount"] * float(values[-1])
        assert buffer.rewards[-1, trial] == pytest.approx(expected, abs=1e-5)


def test_an_episodes_last_reward_is_seen_before_the_next_begins():
    agent = make_agent()
    train(agent, 1)
    seen, given = agent.model.rollout_buffer.observations, agent.model.rollout_buffer
    last = FRAMES - 1
    assert (seen["reward"][last] < 0).all()
    assert not seen["episode_start"][last].any()
    assert seen["episode_start"][last + 1].all()
    assert not seen["reward"][last + 1].any()
    assert not seen["previous_action"][last + 1].any()
    lived = np.clip(given.actions[last - 1], -1, 1)
    assert np.array_equal(seen["previous_action"][last], lived)


def test_windows_are_cut_trial_by_trial():
    array = np.arange(14).reshape(7, 2)  # trial 0 has the even numbers
    assert in_windows(array, 7).tolist() == [0, 2, 4, 6, 8, 10, 12, 1, 3, 5, 7, 9, 11, 13]
    assert in_windows(array, 4).reshape(4, 4).tolist() == [
        [0, 2, 4, 6], [8, 10, 12, 0], [1, 3, 5, 7], [9, 11, 13, 0],
    ]  # fmt: skip


def test_a_round_takes_every_trial_once():
    agent = make_agent(trials=5, trials_per_update=2)
    train(agent, 1)
    buffer = agent.model.rollout_buffer
    batches = list(buffer.get(2 * STEPS))
    assert [int(batch.mask.sum()) for batch in batches] == [2 * STEPS - 2, 2 * STEPS - 2, STEPS - 1]
    seen = torch.cat([batch.actions[::STEPS] for batch in batches])
    assert sorted(seen.tolist()) == sorted(buffer.actions[0].tolist())


# -- acting ------------------------------------------------------------------------------------------


def evidence(reward=0.0, start=False, n=3):
    return Evidence(np.zeros((n, 2), np.float32), np.full(n, reward, np.float32), np.full(n, start))


def test_a_policy_remembers_rewards_across_episodes_until_a_trial_starts():
    agent = make_agent()
    policy = agent.policy(3, explore=False)
    assert isinstance(policy, Policy)

    def ends(reward):
        policy.start_trial()
        for given in (evidence(start=True), evidence(reward), evidence(start=True)):
            action = policy.act(given)
        return action, policy.belief()

    one, other, again = ends(0.0), ends(-1.0), ends(0.0)
    assert one[0].shape == (3, 2)
    assert one[1].shape == (3, 8)
    for part in range(2):
        assert not np.array_equal(one[part], other[part])
        assert np.array_equal(one[part], again[part])


def test_not_exploring_takes_the_mean_action():
    agent = make_agent()
    agent.model.policy.action_net.bias.data[:] = torch.tensor([0.3, -2.0])
    start = evidence(start=True)
    still = agent.policy(3, explore=False, seed=1).act(start)
    assert np.allclose(still, [0.3, -1.0], atol=0.05), "of the bounded mean"
    drawn = [agent.policy(3, explore=True, seed=seed).act(start) for seed in (1, 1, 2)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert not np.array_equal(drawn[0], still)


def test_actions_are_no_surer_than_asked_for():
    agent = make_agent(least_std=0.3)
    agent.model.policy.log_std.data.fill_(-5.0)
    train(agent, 1)
    assert torch.allclose(agent.model.policy.log_std.exp(), torch.tensor(0.3))


# -- families ----------------------------------------------------------------------------------------


def takes_part(make, **changes):
    """Trains for a round and checks that memory, and the encoder if there is one, have learned."""
    agent = make_agent(make=make, trials=2, trials_per_update=None, **changes)
    before = weights(agent)
    progress = train(agent, 1)
    env = agent.trial_env
    assert progress.env_steps == 2 * (env.episodes_per_trial * (env.episode_steps + 1) - 1)
    assert progress.updates == 1
    assert all(np.isfinite(value) for value in progress.losses.values())
    changed = {name for name, value in weights(agent).items() if not torch.equal(before[name], value)}
    assert any("lstm_actor" in name for name in changed)
    images = len(env.single_observation_space.shape) == 3
    assert any("encoder" in name for name in changed) == images
    env.close()


@pytest.mark.parametrize("env_id", sorted(meld_envs.FAMILIES))
def test_it_takes_part_in_every_family(env_id):
    """States, and images of one camera or of two side by side."""
    keywords = {"num_train_tasks": 2, "episodes_per_trial": 2, "image_size": 16, "num_threads": 1}
    takes_part(lambda n: gym.make_vec(env_id, num_envs=n, **keywords).unwrapped)


@pytest.mark.parametrize("credit", ["trial", "episode"])
@pytest.mark.parametrize("episodes", [1, 3])
def test_a_trial_may_have_any_number_of_episodes(episodes, credit):
    takes_part(lambda n: make_env(n, episodes_per_trial=episodes), credit=credit)


def test_images_reach_the_encoder_upright_and_scaled():
    agent = make_agent(make=lambda n: make_env(n, obs_type="pixels", image_size=32))
    encoder, given = agent.model.policy.features_extractor.encoder, []
    encoder.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    frames = np.random.default_rng(0).integers(256, size=(3, 32, 32, 3), dtype=np.uint8)
    agent.policy(3, explore=False).act(evidence(start=True)._replace(observation=frames))
    assert torch.allclose(given[0], torch.from_numpy(frames).permute(0, 3, 1, 2) / 255)


def test_rewards_are_scaled_at_the_input():
    agents = [make_agent(reward_input_scale=scale) for scale in (1.0, 4.0)]
    beliefs = []
    for agent, reward in zip(agents, (-2.0, -0.5)):
        policy = agent.policy(3, explore=False)
        policy.act(evidence(reward))
        beliefs.append(policy.belief())
    assert np.allclose(*beliefs)


def test_rewards_are_normalised_for_the_algorithm_alone():
    plain, scaled = (make_agent(normalise_rewards=on, discount=0.0) for on in (False, True))
    for agent in (plain, scaled):
        train(agent, 1)
    spread = np.sqrt(scaled._scale.ret_rms.var)  # with no discounting on, of the rewards themselves
    assert spread == pytest.approx(plain.model.rollout_buffer.rewards.std(), rel=0.2)
    last = [agent.model.rollout_buffer.rewards[-1] for agent in (plain, scaled)]
    assert np.allclose(last[0] / spread, last[1], rtol=1e-3)
    seen = [agent.model.rollout_buffer.observations["reward"] for agent in (plain, scaled)]
    assert np.array_equal(*seen)


# -- settings, saving ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{}, {"credit": "episode"}, {"backprop_steps": 10}, {"normalise_rewards": False}],
    ids=lambda changes: next(iter(changes), "small"),
)
def test_a_resumed_one_ends_with_the_same_numbers(changes, tmp_path):
    agent = make_agent(**changes)
    train(agent, 2)
    before = weights(agent)
    agent.save(tmp_path)
    went_on = train(agent, 2)
    assert went_on.env_steps == 4 * 4 * STEPS
    assert went_on.updates == 4 * 2
    assert any(not torch.equal(before[name], value) for name, value in weights(agent).items())
    resumed = make_agent(seed=9, **changes)
    resumed.load(tmp_path)
    assert all(torch.equal(before[name], value) for name, value in weights(resumed).items())
    assert train(resumed, 2) == went_on
    assert all(torch.equal(weights(agent)[name], value) for name, value in weights(resumed).items())


def test_a_seed_repeats():
    one, other, different = make_agent(3), make_agent(3), make_agent(4)
    assert train(one, 2) == train(other, 2) != train(different, 2)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    make_agent().save(tmp_path)
    with pytest.raises(ValueError, match=r"clip was 0\.2 there, is 0\.3 here"):
        make_agent(clip=0.3).load(tmp_path)
    (tmp_path / "model.zip").unlink()
    with pytest.raises(FileNotFoundError):
        make_agent().load(tmp_path)


def test_settings_are_checked():
    resolved = RL2.resolve({"base": "small", "heads": []})
    assert json.loads(json.dumps(resolved)) == resolved
    assert resolved["heads"] == []
    assert RL2.resolve(resolved) == resolved
    assert RL2.resolve({})["credit"] == "trial"
    for wrong, message in (
        ({"base": "smal"}, "did you mean 'small'"),
        ({"lstm_sise": 3}, "did you mean 'lstm_size'"),
        ({"credit": "episodes"}, "'trial', 'episode'"),
        ({"trials": 0}, "trials: must be at least 1"),
        ({"heads": [0]}, "heads: must be at least 1"),
        ({"initial_std": 0.1, "least_std": 0.2}, "initial_std: must be at least least_std, 0.2, got 0.1"),
        ({"clip": 0.0}, "clip: must be above 0"),
        ({"discount": 1.5}, "discount: must be at least 0 and at most 1"),
        ({"backprop_steps": 0}, "backprop_steps: must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            RL2.resolve(wrong)
    with pytest.raises(ValueError, match="images must be"):
        make_agent(make=lambda n: make_env(n, obs_type="pixels", image_size=48))


def test_without_its_libraries_it_says_what_to_install(monkeypatch):
    import sys

    for name in ("meld_agents.rl2", "sb3_contrib"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr("importlib.import_module", missing("sb3_contrib"))
    with pytest.raises(AgentError, match=r"pip install 'meld-suite\[sb3\]'"):
        find_agent("rl2")


def missing(package):
    def refuse(name):
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    return refuse
