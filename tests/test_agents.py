"""MELD and SLAC on the real environment: what is evidence, what is remembered, what is saved."""

import errno
import itertools
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import meld_envs  # noqa: E402, F401
from meld_agents.interface import Evidence, Policy  # noqa: E402
from meld_agents.meld import MELD  # noqa: E402
from meld_agents.meld_settings import BASES, MeldSettings  # noqa: E402
from meld_agents.rollout import RandomPolicy, live_trials  # noqa: E402
from meld_agents.slac import SLAC  # noqa: E402

TINY = {
    "base": "small",
    "hidden": 16,
    "z1_size": 4,
    "z2_size": 6,
    "filters": [4, 4, 8],
    "feature_size": 8,
    "autoencoder_updates": 4,
    "autoencoder_refresh_rounds": 2,
    "autoencoder_refresh_updates": 2,
    "warmup_updates": 2,
    "warmup_trials_per_task": 1,
    "collect_tasks": 3,
    "updates_per_round": 2,
    "trials_per_update": 3,
    "actor_hidden": [8],
    "actor_batch": 8,
}


def make_env(num_envs, **changes):
    keywords = {"image_size": 32, "num_train_tasks": 4, "episodes_per_trial": 2, "num_threads": 1}
    return gym.make_vec("meld/PointNav-v0", num_envs=num_envs, **(keywords | changes))


def make_agent(cls=MELD, seed=0, **changes):
    return cls(make_env, TINY | changes, seed, "cpu")


def train(agent, slices):
    return list(itertools.islice(agent.meta_train(10**9), slices))[-1]


def weights(agent):
    return {name: value.clone() for name, value in agent._modules.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def evidence(seed=0, reward=0.0, start=False, n=2):
    frames = np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    return Evidence(frames, np.full(n, reward, np.float32), np.full(n, start))


# -- evidence and memory ---------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "matters"), [(MELD, True), (SLAC, False)])
def test_reward_is_evidence_for_meld_only(cls, matters):
    agent = make_agent(cls)
    beliefs = []
    for reward in (0.0, -2.0):
        policy = agent.policy(2, explore=False, seed=1)
        policy.act(evidence(0, start=True))
        policy.act(evidence(1, reward=reward))
        beliefs.append(policy.belief())
    assert np.allclose(*beliefs) != matters


@pytest.mark.parametrize(("cls", "remembers"), [(MELD, True), (SLAC, False)])
def test_belief_outlives_an_episode_for_meld_only(cls, remembers):
    agent = make_agent(cls)
    beliefs = []
    for first in (3, 4):  # different first episodes, the same beginning of the second
        policy = agent.policy(2, explore=False, seed=1)
        policy.act(evidence(first, start=True))
        policy.act(evidence(9, start=True))
        beliefs.append(policy.belief())
    assert np.allclose(*beliefs) != remembers


def test_a_new_trial_forgets():
    agent = make_agent()
    policy = agent.policy(2, explore=False, seed=1)
    policy.act(evidence(3, start=True))
    policy.start_trial()
    policy._generator.manual_seed(1)
    policy.act(evidence(9, start=True))
    fresh = agent.policy(2, explore=False, seed=1)
    fresh.act(evidence(9, start=True))
    assert np.array_equal(policy.belief(), fresh.belief())


@pytest.mark.parametrize("changes", [{"perception": "joint"}, {"motion_scale": 1.0, "inverse_weight": 0.1}])
def test_acting_and_learning_infer_the_same_belief(changes):
    """The policy, step by step over a lived trial, and the model over the stored one."""
    agent = make_agent(**changes)
    env = make_env(2)
    recorded = []

    class Recorder:
        def __init__(self):
            self.inner = agent.policy(2, explore=True, seed=5)

        def start_trial(self):
            self.inner.start_trial()

        def act(self, given):
            action = self.inner.act(given)
            recorded.append(self.inner._latents)
            return action

    trials = live_trials(env, Recorder(), env.task_set.train[:2], seed=0)
    agent.store.add(np.array([0, 1]), trials)
    flat = [torch.from_numpy(a.reshape(2, -1, *a.shape[3:])) for a in trials]
    frames, actions, rewards, _ = flat
    starts = torch.zeros(rewards.shape, dtype=torch.bool)
    starts[:, :: env.episode_steps + 1] = True
    with torch.no_grad():
        features = agent.perception.encode(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        if "motion_scale" in changes:
            features = agent.perception.with_motion(features, features.roll(1, dims=1), starts)
        e = agent._evidence(features, rewards, starts)
        noise = torch.stack(
            [torch.cat(((x.z1 - x.z1_mean) / x.z1_std, (x.z2 - x.z2_mean) / x.z2_std), -1) for x in recorded],
            1,
        )
        inferred = agent.model.infer(e, actions, noise)
    acted = torch.stack([x.belief for x in recorded], 1)
    assert torch.allclose(inferred.belief, acted, atol=1e-3)


# -- gradients -------------------------------------------------------------------------------------


def test_actor_critic_leaves_the_model_alone():
    agent = make_agent()
    train(agent, 6)
    _, transitions = agent._update_model()
    before = weights(agent)
    agent._modules.zero_grad(set_to_none=True)
    agent.sac.update(agent._pick(transitions))
    assert same(before, weights(agent))
    assert all(p.grad is None for p in agent._modules.parameters())
    assert not transitions.belief.requires_grad


def test_model_updates_reach_every_part_but_the_frozen_encoder():
    agent = make_agent()
    train(agent, 6)
    before = weights(agent)
    agent._update_model()
    after = weights(agent)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    for part in (
        "z1_first",
        "z1_posterior",
        "z1_prior",
        "z2_next",
        "reward_decoder",
        "from_latent",
        "foresight",
    ):
        assert any(part in name for name in moved), part
    assert not any("perception.encoder" in name or "perception.decoder" in name for name in moved)


def test_joint_perception_trains_the_encoder():
    agent = make_agent(perception="joint")
    train(agent, 4)
    before = weights(agent)
    agent._update_model()
    after = weights(agent)
    assert any("perception.encoder" in n and not torch.equal(before[n], after[n]) for n in before)


def test_transitions_never_cross_an_episode():
    agent = make_agent()
    steps = make_env(1).episode_steps
    train(agent, 6)
    _, transitions = agent._update_model()
    assert len(transitions.reward) == 3 * 2 * steps


@pytest.mark.parametrize(("timing", "expected"), [("next", [1.0, 2.0]), ("arrival", [0.0, 1.0])])
def test_reward_timing(timing, expected):
    agent = make_agent(reward_timing=timing)
    size = agent.model.latent_size
    latents = agent.model.infer(
        torch.zeros(1, 3, agent.model.z1_first.net[0].in_features),
        torch.zeros(1, 3, 2),
        torch.zeros(1, 3, size),
    )
    rewards, starts = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[True, False, False]])
    assert agent._transitions(latents, torch.zeros(1, 3, 2), rewards, starts).reward.tolist() == expected


# -- learning --------------------------------------------------------------------------------------


def test_the_model_learns_to_foresee_rewards():
    agent = make_agent(hidden=64, z2_size=16, trials_per_update=12, warmup_trials_per_task=10)
    train(agent, 20)
    first = agent._train(20, acting=False)["foresight_mse"]
    agent._train(150, acting=False)
    last = agent._train(20, acting=False)["foresight_mse"]
    assert last < 0.7 * first


@pytest.mark.parametrize("base", ["paper", "released"])
def test_published_sizes_collect_and_learn(base):
    """The full-size networks at 64×64, for one slice of everything."""
    schedule = {"warmup_trials_per_task": 1, "warmup_updates": 1, "collect_tasks": 2, "updates_per_round": 1}
    settings = schedule | {"base": base, "trials_per_update": 2, "actor_batch": 16}
    agent = MELD(lambda n: make_env(n, image_size=64, episodes_per_trial=1), settings, 0, "cpu")
    losses = train(agent, 4).losses
    assert all(np.isfinite(value) for value in losses.values())
    assert losses["observation_loglik"] < 2855  # what perfect images would give (facts 2.2)


# -- disk and seeds --------------------------------------------------------------------------------


def test_resume_with_every_deviation_of_the_perception(tmp_path):
    changes = {"motion_scale": 1.0, "inverse_weight": 0.1}
    straight, stopped, resumed = (make_agent(seed=seed, **changes) for seed in (0, 0, 9))
    train(straight, 9)
    train(stopped, 6)
    checkpoint = tmp_path / "one"
    checkpoint.mkdir()
    stopped.save(checkpoint)
    resumed.load(checkpoint)
    train(resumed, 3)
    assert same(weights(straight), weights(resumed))


@pytest.mark.parametrize("cls", [MELD, SLAC])
@pytest.mark.parametrize("slices", [1, 3, 7])
def test_resumed_equals_uninterrupted(cls, slices, tmp_path):
    straight = make_agent(cls)
    train(straight, slices + 3)
    stopped = make_agent(cls)
    train(stopped, slices)
    checkpoint = tmp_path / "one"
    checkpoint.mkdir()
    stopped.save(checkpoint)
    resumed = make_agent(cls, seed=99)  # every number must come from the checkpoint
    resumed.load(checkpoint)
    train(resumed, 3)
    assert same(weights(straight), weights(resumed))
    assert straight.env_steps == resumed.env_steps
    assert straight.updates == resumed.updates


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_a_full_disk_is_told_as_such(tmp_path):
    (tmp_path / "agent.pt").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:
        make_agent().save(tmp_path)
    assert caught.value.errno == errno.ENOSPC


def test_other_settings_are_refused_by_load(tmp_path):
    checkpoint = tmp_path / "one"
    checkpoint.mkdir()
    make_agent().save(checkpoint)
    with pytest.raises(ValueError, match="other settings"):
        make_agent(hidden=24).load(checkpoint)


def test_seeds_decide():
    assert same(weights(make_agent()), weights(make_agent()))
    assert not same(weights(make_agent()), weights(make_agent(seed=1)))


def test_global_generators_are_left_alone():
    state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    train(make_agent(), 5)
    assert torch.equal(state, torch.random.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002


# -- settings --------------------------------------------------------------------------------------


def test_the_paper_is_the_default():
    resolved = MELD.resolve({})
    assert resolved == MELD.resolve({"base": "paper"})
    assert resolved["filters"] == [32, 64, 128, 256]
    assert (resolved["z2_size"], resolved["model_learning_rate"]) == (256, 1e-4)
    deviations = ("gated_memory", "foresight_pairs", "layer_norm", "autoencoder_updates")
    assert not any(resolved[name] for name in deviations)


@pytest.mark.parametrize("base", list(BASES))
def test_bases_name_only_known_settings(base):
    assert MELD.resolve({"base": base}).keys() == set(MeldSettings.__dataclass_fields__)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hiden": 3}, "did you mean 'hidden'"),
        ({"base": "papper"}, "did you mean 'paper'"),
        ({"hidden": "wide"}, "expected int"),
        ({"perception": "cache"}, "'joint', 'cached'"),
        ({"collect_tasks": -3}, "collect_tasks: must be at least 1, got -3"),
        ({"filters": [8, 0]}, "filters: must be at least 1"),
        ({"filters": []}, "filters: must be at least 1"),
        ({"discount": 1.5}, "discount: must be at least 0 and at most 1, got 1.5"),
        ({"gradient_clip": float("nan")}, "gradient_clip: must be above 0, got nan"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        MELD.resolve(settings)


def test_yaml_numbers_are_coerced():
    assert MELD.resolve({"model_learning_rate": "3e-4", "hidden": 64.0})["model_learning_rate"] == 3e-4


# -- rollouts --------------------------------------------------------------------------------------


def test_trials_are_stored_as_lived():
    env = make_env(2)
    policy = RandomPolicy(2, 2, np.random.default_rng(0), hold=3)
    trials = live_trials(env, policy, env.task_set.train[:2], seed=0)
    assert trials.observation.shape == (2, 2, env.episode_steps + 1, 32, 32, 3)
    assert (trials.reward[:, :, 0] == 0).all()
    assert (trials.reward[:, :, 1:] < 0).all()
    assert (trials.action[:, :, -1] == 0).all()
    assert np.array_equal(trials.observation[:, 0, 0], trials.observation[:, 1, 0])  # the robot is reset
    assert np.array_equal(trials.action[:, 0, 0], trials.action[:, 0, 2])  # held
    again = live_trials(
        env, RandomPolicy(2, 2, np.random.default_rng(0), hold=3), env.task_set.train[:2], seed=0
    )
    assert all(np.array_equal(a, b) for a, b in zip(trials, again))


def test_policies_meet_the_protocol():
    assert isinstance(make_agent().policy(1, explore=True), Policy)
    assert isinstance(RandomPolicy(1, 2, np.random.default_rng(0)), Policy)


def test_imagined_frames_are_frames():
    policy = make_agent().policy(2, explore=False)
    policy.act(evidence(0, start=True))
    frames = policy.imagine()
    assert frames.shape == (2, 32, 32, 3)
    assert frames.dtype == np.uint8


def test_state_observations_work_too():
    agent = MELD(lambda n: make_env(n, obs_type="state"), TINY, 0, "cpu")
    assert train(agent, 4).updates > 0
