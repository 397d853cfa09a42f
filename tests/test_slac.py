"""SLAC as published and as MELD's paper compares with it: who looks at what, and what is forgotten."""

import itertools

import gymnasium as gym
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import meld_envs  # noqa: E402, F401
from meld_agents.interface import Evidence, Policy  # noqa: E402
from meld_agents.rollout import live_trials  # noqa: E402
from meld_agents.sac import Transitions  # noqa: E402
from meld_agents.slac import SLAC, histories  # noqa: E402

TINY = {
    "base": "small",
    "hidden": 16,
    "z1_size": 4,
    "z2_size": 6,
    "filters": [4, 4, 8],
    "feature_size": 5,
    "autoencoder_updates": 2,
    "warmup_updates": 2,
    "warmup_trials_per_task": 1,
    "collect_tasks": 3,
    "updates_per_round": 2,
    "trials_per_update": 3,
    "actor_hidden": [8],
    "actor_batch": 8,
}

#: Slices of meta-training up to and including the first with actor-critic updates: warm-up trials of four
#: tasks take two, the autoencoder and the model one each.
FIRST_ROUND = 5


def make_env(num_envs, **changes):
    keywords = {"image_size": 32, "num_train_tasks": 4, "episodes_per_trial": 2, "num_threads": 1}
    return gym.make_vec("meld/PointNav-v0", num_envs=num_envs, **(keywords | changes)).unwrapped


def make_agent(seed=0, make=None, **changes):
    return SLAC(lambda n: make_env(n, **(make or {})), TINY | changes, seed, "cpu")


def train(agent, slices):
    return list(itertools.islice(agent.meta_train(10**9), slices))[-1]


def tensors(agent):
    modules = {**agent._modules.state_dict(), **agent.sac.actor.state_dict(), **agent.sac.critic.state_dict()}
    return {name: value.clone() for name, value in modules.items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def evidence(seed, start=False, reward=0.0):
    frames = np.random.default_rng(seed).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    return Evidence(frames, np.full(2, reward, np.float32), np.full(2, start))


class Recorder:
    """Passes on to a policy, and notes what its actor was given."""

    def __init__(self, policy):
        self.inner, self.seen = policy, []
        look = policy._actor_input

        def noting(*args):
            self.seen.append(look(*args))
            return self.seen[-1]

        policy._actor_input = noting
        self.start_trial, self.act = policy.start_trial, policy.act


# -- what the actor sees ---------------------------------------------------------------------------


def test_before_an_episode_its_first_frame_is_repeated_and_nothing_was_done():
    features = torch.tensor([[[10.0, 0.1], [11.0, 0.2], [12.0, 0.3], [13.0, 0.4]]])
    actions = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])
    assert histories(features, actions, 3)[0].tolist() == pytest.approx(
        np.array(
            [
                [10, 0.1, 10, 0.1, 10, 0.1, 0, 0],
                [10, 0.1, 10, 0.1, 11, 0.2, 0, 1],
                [10, 0.1, 11, 0.2, 12, 0.3, 1, 2],
                [11, 0.2, 12, 0.3, 13, 0.4, 2, 3],
            ]
        )
    )
    assert torch.equal(histories(features, actions, 1), features)


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        ({}, {}),
        ({}, {"motion_scale": 2.0}),
        ({}, {"perception": "joint"}),
        ({}, {"history_frames": 30}),
        ({"obs_type": "state"}, {"history_frames": 3}),
    ],
    ids=["cached", "motion", "joint", "longer_than_an_episode", "state"],
)
def test_acting_and_learning_see_the_same_histories(make, changes):
    """What the actor was given in a lived trial, and in the batch built from the store."""
    agent = make_agent(make=make, trials_per_update=8, **changes)
    env = make_env(1, **make)
    recorder = Recorder(agent.policy(1, explore=True, seed=5))
    agent.store.add(np.array([0]), live_trials(env, recorder, env.task_set.train[:1], seed=0))
    if agent.perception.cached:
        agent.store.cache_features(lambda frames: agent.perception.encode(torch.from_numpy(frames)).numpy())
    lived = torch.stack(recorder.seen, 1)[0].unflatten(0, (2, env.episode_steps + 1))
    learned = []
    agent._looked_at, look = lambda *args: learned.append(look(*args)) or learned[-1], agent._looked_at
    agent._model_optimiser.step = lambda: None  # the policy acted with these weights
    agent._update_model()
    batch = learned[0]
    seen = batch.seen.unflatten(0, (8, env.episode_steps))
    next_seen = batch.next_seen.unflatten(0, (8, env.episode_steps))
    for row, after in zip(seen, next_seen):
        assert any(torch.allclose(row, episode[:-1], atol=1e-5) for episode in lived)
        assert any(torch.allclose(after, episode[1:], atol=1e-5) for episode in lived)
    assert not torch.allclose(seen, seen[:1], atol=1e-4)  # both episodes were drawn


@pytest.mark.parametrize("acting", ["history", "belief"])
def test_nothing_is_carried_across_episodes(acting):
    agent = make_agent(acting=acting)
    acted = []
    for first in (3, 4):  # different first episodes, the same beginning of the second
        policy = agent.policy(2, explore=True, seed=1)
        policy.act(evidence(first, start=True))
        policy.act(evidence(first + 10))
        policy._generator.manual_seed(7)
        acted.append([policy.act(evidence(20, start=True)), policy.act(evidence(21)), policy.belief()])
    assert all(np.array_equal(one, other) for one, other in zip(*acted))


@pytest.mark.parametrize("acting", ["history", "belief"])
def test_within_an_episode_the_past_matters(acting):
    agent = make_agent(acting=acting)
    acted = []
    for first in (3, 4):
        policy = agent.policy(2, explore=False, seed=1)
        policy.act(evidence(first, start=True))
        acted.append(policy.act(evidence(20)))
    assert not np.allclose(*acted)


@pytest.mark.parametrize("acting", ["history", "belief"])
def test_rewards_never_change_actions(acting):
    agent = make_agent(acting=acting)
    train(agent, FIRST_ROUND)
    acted = []
    for reward in (0.0, -3.0):
        policy = agent.policy(2, explore=False, seed=1)
        policy.start_trial()
        given = [evidence(0, start=True), *(evidence(t, reward=reward) for t in range(1, 12))]
        given += [evidence(12, start=True), *(evidence(t, reward=reward) for t in range(13, 16))]
        acted.append(np.stack([policy.act(e) for e in given]))
    assert np.array_equal(*acted)


# -- what learns from what -------------------------------------------------------------------------


def first_batch(agent):
    train(agent, FIRST_ROUND)
    return agent._update_model()[1]


def test_the_critic_judges_the_latent_state_and_the_actor_sees_the_history():
    agent = make_agent()
    batch = first_batch(agent)
    assert batch.belief.shape[1] == batch.next_belief.shape[1] == 4 + 6
    assert batch.seen.shape[1] == batch.next_seen.shape[1] == 8 * 5 + 7 * 2
    assert len(batch.reward) == 3 * make_env(1).episode_steps == len(batch.seen) == len(batch.belief)
    assert torch.equal(batch.belief[1], batch.next_belief[0])  # the same sample, one step on
    assert agent.sac.critic.weights[0].shape[1] == 4 + 6 + 2


def test_belief_is_the_variant_of_melds_paper():
    agent = make_agent(acting="belief")
    batch = first_batch(agent)
    assert batch.seen is None
    assert batch.belief.shape[1] == 2 * (4 + 6)
    assert agent.reward_decoder[0].in_features == 4 + 6


@pytest.mark.parametrize("perception", ["joint", "cached"])
@pytest.mark.parametrize("acting", ["history", "belief"])
def test_actor_and_critic_send_no_gradient_into_the_model(acting, perception):
    agent = make_agent(acting=acting, perception=perception)
    batch = first_batch(agent)
    assert not any(field.requires_grad for field in batch if field is not None)
    agent._modules.zero_grad(set_to_none=True)
    before = {name: value.clone() for name, value in agent._modules.state_dict().items()}
    agent.sac.update(agent._pick(batch))
    assert all(p.grad is None for p in agent._modules.parameters())
    assert same(before, agent._modules.state_dict())


def test_the_actor_learns_from_what_it_sees():
    """Reward −|a − s|² where the actor sees s in its history, the critic in its latent."""
    settings = {"discount": 0.0, "actor_learning_rate": 1e-2, "initial_temperature": 1e-3}
    agent = make_agent(history_frames=1, actor_hidden=[32], **settings)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        seen, belief = torch.zeros(64, 5), torch.zeros(64, 10)
        belief[:, 3] = seen[:, 0] = torch.randint(2, (64,), generator=generator) - 0.5
        action = torch.rand(64, 2, generator=generator) * 2 - 1
        reward = -(action - seen[:, :1]).square().sum(-1)
        agent.sac.update(Transitions(belief, action, reward, belief, seen, seen))
    told = torch.zeros(2, 5)
    told[:, 0] = torch.tensor([-0.5, 0.5])
    low, high = torch.tanh(agent.sac.actor(told)[0])
    assert (high - low).min() > 0.5


def test_rewards_are_those_of_transitions():
    """A reward depends on both latents and the action between; none is predicted for a first frame."""
    agent = make_agent()
    z, actions = torch.randn(1, 5, 10), torch.randn(1, 5, 2)
    rewards = agent._predicted_rewards(z, actions)
    assert rewards[0, 0] == 0
    for changed in (z, actions):
        kept = changed[:, 2].clone()
        changed[:, 2] += 1.0
        moved = (agent._predicted_rewards(z, actions) != rewards)[0].tolist()
        assert moved == [False, False, changed is z, True, False]
        changed[:, 2] = kept


def test_what_is_predicted_is_the_reward_that_a_step_brought():
    """Rewards that the action alone decides are learned from (z_t, a_t, z_t+1), but not from z_t+1's past."""
    agent = make_agent(model_learning_rate=1e-2)
    train(agent, FIRST_ROUND - 1)
    for _, trials in agent.store.blocks():
        trials.reward_dense[:, :, 1:] = trials.action[:, :, :-1, 0]
    for _ in range(150):
        losses, _ = agent._update_model()
    assert losses["reward_mse"] < 0.1  # of a variance of 1/3


# -- disk and settings -----------------------------------------------------------------------------


@pytest.mark.parametrize("acting", ["history", "belief"])
def test_resumed_equals_uninterrupted(acting, tmp_path):
    straight, stopped = make_agent(acting=acting), make_agent(acting=acting)
    train(straight, FIRST_ROUND + 2)
    train(stopped, FIRST_ROUND)
    (tmp_path / "one").mkdir()
    stopped.save(tmp_path / "one")
    resumed = make_agent(seed=9, acting=acting)  # every number must come from the checkpoint
    resumed.load(tmp_path / "one")
    train(resumed, 2)
    assert same(tensors(straight), tensors(resumed))
    assert not same(tensors(straight), tensors(stopped))


def test_a_checkpoint_of_the_other_variant_is_refused(tmp_path):
    make_agent().save(tmp_path)
    with pytest.raises(ValueError, match="other settings"):
        make_agent(acting="belief").load(tmp_path)


def test_published_is_the_default_and_the_variant_one_setting():
    resolved = SLAC.resolve({})
    assert [resolved[name] for name in ("acting", "history_frames", "reward_from")] == [
        "history",
        8,
        "transition",
    ]
    assert SLAC.resolve({"acting": "belief"})["reward_from"] == "state"
    assert SLAC.resolve({"acting": "belief", "reward_from": "transition"})["reward_from"] == "transition"
    assert SLAC.resolve(resolved) == resolved


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"acting": "latent"}, "'history', 'belief'"),
        ({"history_frames": 0}, "history_frames: must be at least 1, got 0"),
        ({"history_frame": 4}, "did you mean 'history_frames'"),
        ({"base": "papper"}, "did you mean 'paper'"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        SLAC.resolve(settings)


@pytest.mark.parametrize("make", [{}, {"obs_type": "state"}])
def test_policies_meet_the_protocol_and_imagine(make):
    agent = make_agent(make=make)
    train(agent, FIRST_ROUND)
    policy = agent.policy(2, explore=False)
    assert isinstance(policy, Policy)
    env = make_env(2, **make)
    observation, info = env.reset(seed=0)
    policy.act(Evidence(observation, np.zeros(2, np.float32), info["episode_start"]))
    assert policy.belief().shape == (2, 20)
    assert policy.imagine().shape == observation.shape
