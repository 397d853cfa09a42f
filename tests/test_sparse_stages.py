"""MELD with sparse rewards: what each of the two agents is shown and learns from, and resuming."""

import itertools

import gymnasium as gym
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import meld_envs  # noqa: E402, F401
from meld_agents.episodes import EpisodeStore, Mixture, Trials  # noqa: E402
from meld_agents.meld import MELD  # noqa: E402
from meld_agents.nets.latent_model import Latents  # noqa: E402
from meld_agents.rollout import RandomPolicy, live_trials  # noqa: E402

TINY = {
    "base": "small",
    "hidden": 16,
    "z1_size": 4,
    "z2_size": 6,
    "filters": [4, 4, 8],
    "feature_size": 8,
    "autoencoder_updates": 4,
    "warmup_updates": 2,
    "warmup_trials_per_task": 1,
    "collect_tasks": 4,
    "updates_per_round": 2,
    "trials_per_update": 3,
    "actor_hidden": [8],
    "actor_batch": 8,
}
TRIAL_STEPS = 40  # two episodes of 20
STAGE = 12 * TRIAL_STEPS  # warm-up and two rounds of four tasks


def make_env(num_envs):
    return gym.make_vec(
        "meld/PointNav-v0",
        num_envs=num_envs,
        image_size=32,
        num_train_tasks=4,
        episodes_per_trial=2,
        reward_type="sparse",
        num_threads=1,
    )


def make_agent(**changes):
    return MELD(make_env, {**TINY, "dense_stage_steps": STAGE, **changes}, 0, "cpu")


def train(agent, slices):
    return list(itertools.islice(agent.meta_train(10**9), slices))[-1]


def second_stage(agent):
    """Trains until the second agent makes its first actor-critic updates."""
    for progress in agent.meta_train(10**9):
        if agent._earlier_blocks and "critic_loss" in progress.losses:
            return agent
    raise AssertionError


class Watching(RandomPolicy):
    """Notes the rewards that it is shown."""

    def __init__(self, count):
        super().__init__(count, 2, np.random.default_rng(0))
        self.rewards = []

    def act(self, evidence):
        self.rewards.append(evidence.reward.copy())
        return super().act(evidence)


@pytest.mark.parametrize("dense", [True, False])
def test_a_policy_is_shown_the_reward_of_its_stage(dense):
    env, policy = make_env(2), Watching(2)
    trials = live_trials(env, policy, env.unwrapped.task_set.train[:2], 0, dense_evidence=dense)
    shown = np.stack(policy.rewards, 1)
    kept = trials.reward_dense if dense else trials.reward
    assert np.array_equal(shown, kept.reshape(2, -1))
    assert (trials.reward_dense[:, :, 1:] < 0).all() and (trials.reward >= 0).all()


def test_the_second_agent_starts_from_scratch_with_the_first_ones_trials():
    agent = make_agent()
    while agent.env_steps < STAGE:
        train(agent, 1)
    assert agent._in_dense_stage
    before = {name: value.clone() for name, value in agent._modules.state_dict().items()}
    lived = agent.store.num_trials
    train(agent, 1)
    assert not agent._in_dense_stage
    assert agent._earlier_trials == lived and agent.store.num_trials > lived
    after = agent._modules.state_dict()
    weights = [name for name in before if name.endswith("weight")]
    assert not any(torch.equal(before[name], after[name]) for name in weights if before[name].ndim > 1)


@pytest.mark.parametrize("in_dense_stage", [True, False])
def test_equation_8_evidence_is_what_was_given_and_targets_are_dense(in_dense_stage, monkeypatch):
    agent = make_agent()
    if in_dense_stage:
        while "critic_loss" not in train(agent, 1).losses:
            pass
    else:
        second_stage(agent)
    sampled, shown, learned = [], [], []
    sample, evidence, transitions = agent.store.sample, agent._evidence, agent._transitions

    def note_sample(*args, **kwargs):
        sampled.append(sample(*args, **kwargs))
        return sampled[-1]

    def note_evidence(features, rewards, starts):
        shown.append(rewards.numpy())
        return evidence(features, rewards, starts)

    def note_transitions(latents, actions, rewards, starts):
        learned.append(rewards.numpy())
        return transitions(latents, actions, rewards, starts)

    monkeypatch.setattr(agent.store, "sample", note_sample)
    monkeypatch.setattr(agent, "_evidence", note_evidence)
    monkeypatch.setattr(agent, "_transitions", note_transitions)
    agent._update_model()
    batch = sampled[0]
    assert np.array_equal(shown[0], batch.reward_dense if in_dense_stage else batch.reward)
    assert np.array_equal(learned[0], batch.reward_dense)
    assert not np.array_equal(batch.reward, batch.reward_dense)


@pytest.mark.parametrize("beliefs", ["update", "round"])
@pytest.mark.parametrize("slices", [2, 6, 9])
def test_resuming_in_either_stage_gives_the_same_numbers(tmp_path, slices, beliefs):
    uninterrupted, interrupted = make_agent(actor_beliefs=beliefs), make_agent(actor_beliefs=beliefs)
    train(uninterrupted, slices)
    train(interrupted, slices)
    (tmp_path / "checkpoint").mkdir()
    interrupted.save(tmp_path / "checkpoint")
    resumed = make_agent(actor_beliefs=beliefs)
    resumed.load(tmp_path / "checkpoint")
    one, other = train(uninterrupted, 5), train(resumed, 5)
    assert one == other
    assert resumed._earlier_blocks == uninterrupted._earlier_blocks > 0


# -- which trials ----------------------------------------------------------------------------------


def filled():
    """Of one task: three early trials of reward 0, two later ones of reward 1."""
    store = EpisodeStore(1)
    for reward, count in ((0.0, 3), (1.0, 2)):
        shape = (count, 2, 5)
        values = np.full(shape, reward, np.float32)
        state = np.zeros((*shape, 1), np.float32)
        store.add(np.zeros(count, int), Trials(state, state, values, values))
    return store


@pytest.mark.parametrize("pairing", ["lived", "independent"])
@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 1.0, 1.0), (1.0, 0.0, 0.0), (0.3, 0.65, 0.75)])
def test_earlier_trials_have_their_share(pairing, share, low, high):
    store = filled()
    batch = store.sample(
        np.random.default_rng(0), 2000, pairing, mixture=Mixture(since=1, earlier_share=share)
    )
    assert low <= batch.reward.mean() <= high


@pytest.mark.parametrize("pairing", ["lived", "independent"])
@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0.35, 0.45), (0.5, 0.65, 0.75), (1.0, 1.0, 1.0)])
def test_rewarded_trials_have_their_share(pairing, share, low, high):
    batch = filled().sample(np.random.default_rng(0), 2000, pairing, mixture=Mixture(rewarded_share=share))
    assert low <= batch.reward.mean() <= high  # two of five are rewarded


def test_where_no_trial_was_rewarded_any_will_do():
    store = EpisodeStore(1)
    nothing = np.zeros((2, 1, 5), np.float32)
    store.add(np.zeros(2, int), Trials(nothing[..., None], nothing[..., None], nothing, nothing))
    batch = store.sample(np.random.default_rng(0), 20, mixture=Mixture(rewarded_share=1.0))
    assert batch.reward.shape == (20, 5)


def test_a_task_without_later_trials_gives_its_earlier_ones():
    batch = filled().sample(np.random.default_rng(0), 20, mixture=Mixture(since=2))
    assert set(batch.reward.ravel()) == {0.0, 1.0}


# -- credit ----------------------------------------------------------------------------------------


def transitions(credit):
    agent = make_agent(credit=credit)
    steps = torch.arange(6.0).view(1, 6, 1)
    latents = Latents(*(steps.clone() for _ in Latents._fields))
    starts = torch.tensor([[True, False, False, True, False, False]])
    rewards = -torch.arange(6.0).view(1, 6)
    actions = torch.ones(1, 6, 2) * 0.5
    return agent._transitions(latents, actions, rewards, starts)


def test_values_stay_within_an_episode_by_default():
    got = transitions("episode")
    assert got.belief[:, 0].tolist() == [0.0, 1.0, 3.0, 4.0]
    assert got.next_belief[:, 0].tolist() == [1.0, 2.0, 4.0, 5.0]
    assert got.reward.tolist() == [-1.0, -2.0, -4.0, -5.0]


def test_values_cross_an_episodes_end_where_credit_is_the_trials():
    got = transitions("trial")
    assert got.belief[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert got.next_belief[:, 0].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert (got.action[[0, 1, 3, 4]] == 0.5).all()
    assert (got.action[2] != 0.5).all()  # any action ends an episode: a random one stands for all


# -- whose beliefs the actor-critic learns from ------------------------------------------------------


@pytest.mark.parametrize("beliefs", ["update", "round"])
def test_batches_are_drawn_from_the_beliefs_of_an_update_or_of_a_round(beliefs, monkeypatch):
    agent = make_agent(actor_beliefs=beliefs, actor_updates_per_update=3, actor_batch=500)
    train(agent, 3)
    told, seen, before = [], [], agent.updates
    update_model, update_sac = agent._update_model, agent.sac.update

    def note_inferred():
        losses, transitions = update_model()
        told.append(transitions.belief)
        return losses, transitions

    def note_batch(batch):
        seen.append((len(told), batch.belief))
        return update_sac(batch)

    monkeypatch.setattr(agent, "_update_model", note_inferred)
    monkeypatch.setattr(agent.sac, "update", note_batch)
    agent._train(2, acting=True)
    assert agent.updates - before == len(told) == 2 and len(seen) == 6  # updates are the model's
    for lived, batch in seen:
        sources = [(batch[:, None] == belief).all(-1).any(1) for belief in told]
        assert (sources[0] | sources[1]).all()
        assert sources[0].any() == (beliefs == "round" or lived == 1)
        assert sources[1].any() == (beliefs == "round" or lived == 2)
