"""PEARL: analytic answers, routes of gradients, posterior sampling, and what is saved."""

import itertools

import gymnasium as gym
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import meld_envs  # noqa: E402, F401
from meld_agents.episodes import Trials  # noqa: E402
from meld_agents.interface import Evidence, Policy  # noqa: E402
from meld_agents.nets.context_encoder import ContextEncoder, Gaussian, kl_to_prior  # noqa: E402
from meld_agents.pearl import PEARL  # noqa: E402
from meld_agents.sac import SacSettings, Transitions  # noqa: E402
from meld_agents.transitions import Batch, TransitionStore  # noqa: E402
from meld_agents.value_sac import ValueSAC  # noqa: E402

TINY = {
    "encoder_hidden": [8],
    "hidden": [8],
    "latent_size": 3,
    "context_batch": 6,
    "batch": 4,
    "tasks_per_update": 3,
    "warmup_trials_per_task": 1,
    "collect_tasks": 2,
    "updates_per_round": 3,
    "exploration_episodes": 1,
}


def make_env(num_envs, **changes):
    keywords = {"obs_type": "state", "num_train_tasks": 4, "episodes_per_trial": 3, "num_threads": 1}
    return gym.make_vec("meld/PointNav-v0", num_envs=num_envs, **(keywords | changes)).unwrapped


def make_agent(seed=0, **changes):
    return PEARL(make_env, TINY | changes, seed, "cpu")


def train(agent, slices):
    return list(itertools.islice(agent.meta_train(10**9), slices))[-1]


def tensors(agent):
    parts = {**agent.encoder.state_dict(), **agent.sac.critic.state_dict()}
    return {name: value.clone() for name, value in parts.items()}


def encoder(deterministic=False):
    torch.manual_seed(0)
    return ContextEncoder(4, 3, (16,), deterministic)


# -- the belief ------------------------------------------------------------------------------------


def test_a_product_of_equal_factors_has_the_variance_over_their_number():
    net, transition = encoder(), torch.randn(1, 4)
    one = net(transition)
    for count in (2, 7):
        many = net(transition.expand(count, -1))
        assert torch.allclose(many.mean, one.mean, atol=1e-6)
        assert torch.allclose(many.variance, one.variance / count, rtol=1e-5)


def test_a_product_of_two_factors_by_hand():
    net, context = encoder(), torch.randn(2, 4)
    (m1, v1), (m2, v2) = net(context[:1]), net(context[1:])
    both = net(context)
    assert torch.allclose(both.variance, v1 * v2 / (v1 + v2), rtol=1e-5)
    assert torch.allclose(both.mean, (m1 * v2 + m2 * v1) / (v1 + v2), atol=1e-6)


@pytest.mark.parametrize("deterministic", [False, True])
def test_order_and_division_of_a_context_are_irrelevant(deterministic):
    net, context = encoder(deterministic), torch.randn(5, 9, 4)
    whole = net(context)
    shuffled = net(context[:, torch.randperm(9)])
    parts = net.posterior(net.evidence(context[:, :4]).join(net.evidence(context[:, 4:])))
    for other in (shuffled, parts):
        assert torch.allclose(whole.mean, other.mean, atol=1e-5)
        assert torch.allclose(whole.variance, other.variance, rtol=1e-4)


def test_the_deterministic_encoder_takes_the_mean_of_points():
    net, context = encoder(deterministic=True), torch.randn(9, 4)
    belief = net(context)
    assert torch.allclose(belief.mean, net.net(context).mean(0), atol=1e-6)
    assert not belief.variance.any()
    assert torch.equal(belief.sample(torch.randn(3)), belief.mean)


def test_kl_to_the_prior():
    belief = Gaussian(torch.randn(5, 3), torch.rand(5, 3) + 0.1)
    theirs = torch.distributions.kl_divergence(
        torch.distributions.Normal(belief.mean, belief.variance.sqrt()), torch.distributions.Normal(0.0, 1.0)
    ).sum(-1)
    assert torch.allclose(kl_to_prior(belief), theirs, atol=1e-5)
    assert kl_to_prior(Gaussian(torch.zeros(2, 3), torch.ones(2, 3))).abs().max() == 0


# -- routes of gradients ----------------------------------------------------------------------------


@pytest.mark.parametrize("actor_critic", ["value", "temperature"])
def test_the_encoder_learns_from_the_critic_alone(actor_critic):
    agent = make_agent(actor_critic=actor_critic, kl_weight=0.0)
    train(agent, 1)
    reached = []
    for part in ("_update_critics", "_update_value", "_update_policy", "_update_critic", "_update_actor"):
        original = getattr(agent.sac, part, None)
        if original is None:
            continue

        def watched(*arguments, part=part, original=original):
            before = [None if p.grad is None else p.grad.clone() for p in agent.encoder.parameters()]
            result = original(*arguments)
            for old, p in zip(before, agent.encoder.parameters()):
                if p.grad is not None and (old is None or not torch.equal(old, p.grad)):
                    reached.append(part)
            return result

        setattr(agent.sac, part, watched)
    agent._update()
    critic = "_update_critics" if actor_critic == "value" else "_update_critic"
    assert set(reached) == {critic}


def test_the_kl_term_pulls_the_belief_to_the_prior():
    free, bound = (make_agent(kl_weight=weight) for weight in (0.0, 100.0))
    for agent in (free, bound):
        train(agent, 1)
        agent._optimiser.param_groups[0]["lr"] = 5e-2
    kls = [[float(agent._update()["kl"]) for _ in range(40)][-1] for agent in (free, bound)]
    assert kls[1] < 0.2 * kls[0]


def test_value_targets():
    torch.manual_seed(0)
    sac = ValueSAC(4, 2, SacSettings(hidden=(8,), discount=0.5, reward_scale=3.0), torch.Generator(), "cpu")
    batch = Transitions(torch.randn(6, 4), torch.rand(6, 2), torch.randn(6), torch.randn(6, 4))
    for left, right in zip(sac.value.parameters(), sac.value_target.parameters()):
        assert torch.equal(left, right), "targets start as copies"
        right.data += 0.1  # that the target is read can be told
    q = sac.critic(batch.belief, batch.action).detach()
    target = 3.0 * batch.reward + 0.5 * sac.value_target(batch.next_belief).squeeze(-1)
    expected = ((q - target) ** 2).mean(-1).sum()
    assert torch.allclose(sac._update_critics(batch), expected, rtol=1e-5)
    generator = sac.generator.get_state()
    with torch.no_grad():
        action, log_prob = sac.actor.sample(batch.belief, sac._noise(batch.action))
        wanted = sac.critic(batch.belief, action).amin(0) - log_prob
        error = (sac.value(batch.belief).squeeze(-1) - wanted).square().mean()
    sac.generator.set_state(generator)
    assert torch.allclose(sac._update_value(batch.belief, batch.action), error, rtol=1e-5)


# -- data --------------------------------------------------------------------------------------------


def counted_trials(first, tasks, episodes=3, frames=5):
    """Trials whose observations count the frames, and whose rewards are minus that."""
    count = first + np.arange(len(tasks) * episodes * frames, dtype=np.float32)
    grid = count.reshape(len(tasks), episodes, frames)
    return Trials(grid[..., None], grid[..., None] + 0.5, -grid, -2 * grid)


def test_transitions_are_successive_frames_of_the_task_asked_for():
    store = TransitionStore(3)
    store.add(np.array([0, 2]), counted_trials(0, [0, 2]))
    store.add(np.array([2]), counted_trials(100, [2]))
    assert store.ready.tolist() == [0, 2]
    batch = store.sample(np.random.default_rng(0), np.array([0, 2]), 400)
    observation, following = batch.observation[..., 0], batch.next_observation[..., 0]
    assert (following == observation + 1).all()
    assert (batch.action[..., 0] == observation + 0.5).all()
    assert (batch.reward == -following).all()
    assert (batch.reward_dense == -2 * following).all()
    assert set(observation[0] % 5) == {0, 1, 2, 3}, "no transition crosses an episode's end"
    assert set(observation[0]) == {e * 5 + t for e in range(3) for t in range(4)}
    assert set(observation[1]) == {s + e * 5 + t for s in (15, 100) for e in range(3) for t in range(4)}


def test_context_may_be_recent_and_of_first_episodes_only():
    store = TransitionStore(1)
    store.add(np.array([0]), counted_trials(0, [0]))
    store.add(np.array([0]), counted_trials(100, [0]))
    rng, task = np.random.default_rng(0), np.array([0])
    recent = store.sample(rng, task, 200, recency="recent").observation
    assert set(recent.ravel()) == {100 + e * 5 + t for e in range(3) for t in range(4)}
    first = store.sample(rng, task, 200, episodes=1).observation
    assert set(first.ravel()) == {s + t for s in (0, 100) for t in range(4)}


def sparse_trial(first, rewarded, episodes=4, frames=5):
    """One trial whose observations count its frames, with one reward at the end of some episodes."""
    grid = (first + np.arange(episodes * frames, dtype=np.float32)).reshape(1, episodes, frames)
    reward = np.zeros_like(grid)
    reward[0, list(rewarded), -1] = 1.0
    return Trials(grid[..., None], grid[..., None], reward, -grid)


def test_contexts_of_whole_episodes_hold_the_first_rewarded_one():
    store = TransitionStore(3)
    for task, first, rewarded in ((0, 0, [2, 3]), (0, 100, []), (1, 200, []), (1, 300, []), (2, 400, [0])):
        store.add(np.array([task]), sparse_trial(first, rewarded))
    assert store.rewarded.tolist() == [0, 2]
    lengths = set()
    for seed in range(30):
        batch = store.sample_episodes(np.random.default_rng(seed), np.arange(3), at_most=12)
        seen = batch.observation[..., 0]
        count = seen.shape[1] // 4
        lengths.add(count)
        assert set(seen[1]) == {300 + e * 5 + t for e in range(count) for t in range(4)}, "the latest"
        assert set(seen[2]) == {400 + e * 5 + t for e in range(count) for t in range(4)}
        first_ones = [*range(count - 1), 2] if count < 3 else range(count)
        assert set(seen[0]) == {e * 5 + t for e in first_ones for t in range(4)}, "the rewarded one"
        assert batch.reward[0].any() and not batch.reward[1].any()
    assert lengths == {1, 2, 3}


def test_silence_is_pulled_to_the_prior_and_a_reward_is_not():
    agent = make_agent(kl_weight=0.0, unrewarded_kl_weight=1.0)
    inputs = agent.observation_size + agent.action_size + 1
    context = torch.randn(3, 6, inputs)
    batch = Batch(*(np.zeros((3, 6)) for _ in Batch._fields))
    batch.reward[:2, 4:] = 1.0
    factors = agent.encoder.factors(context)
    kl = agent._unrewarded_kl(factors, batch)
    parts = [context[:2, :4], context[2:]]
    assert torch.allclose(kl, sum(kl_to_prior(agent.encoder(part)).sum() for part in parts), rtol=1e-4)
    batch.reward[:] = 1.0
    assert agent._unrewarded_kl(factors, batch) == 0.0


def test_warm_up_may_hold_random_actions(monkeypatch):
    agent = make_agent(warmup_action_hold=20)
    lived = []
    monkeypatch.setattr(agent.store, "add", lambda tasks, trials: lived.append(trials))
    agent._collect(np.arange(4), warm=True)
    actions = lived[0].action[:, :, :-1]
    assert all(len(np.unique(actions[trial, ..., 0])) == 4 for trial in range(4))  # of 63 frames in each


# -- acting ------------------------------------------------------------------------------------------


def evidence(step, start=False, reward=0.0, n=2):
    return Evidence(
        np.full((n, 2), 0.1 * step, np.float32), np.full(n, reward, np.float32), np.full(n, start)
    )


def test_z_is_drawn_at_an_episodes_start_and_held():
    agent = make_agent(exploration_episodes=2)
    policy = agent.policy(2, explore=False, seed=0)
    assert isinstance(policy, Policy)
    drawn = []
    for episode in range(3):
        policy.act(evidence(0, start=True))
        held = policy._z.clone()
        for step in range(1, 4):
            policy.act(evidence(step, reward=-float(episode)))
            assert torch.equal(policy._z, held)
        drawn.append(held)
        if episode < 2:
            reference = torch.Generator().manual_seed(0)
            prior = [torch.randn(held.shape, generator=reference) for _ in range(episode + 1)]
            assert torch.equal(held, prior[-1]), "from the prior while exploring"
    assert not torch.equal(drawn[1], drawn[2])
    policy.start_trial()
    assert np.array_equal(policy.belief(), np.tile([0, 0, 0, 1, 1, 1], (2, 1)).astype(np.float32))


def test_without_a_bottleneck_exploring_is_no_sampling():
    agent = make_agent(deterministic=True)
    policy = agent.policy(2, explore=False, seed=0)
    policy.act(evidence(0, start=True))
    assert not policy._z.any() and not policy.belief().any()


def test_the_belief_is_the_encoders_of_all_steps_so_far():
    agent = make_agent()
    policy = agent.policy(2, explore=False, seed=0)
    rows = []
    for _ in range(2):
        action = policy.act(evidence(0, start=True))
        for step in range(1, 4):
            before = np.full((2, 2), 0.1 * (step - 1), np.float32)
            rows.append(np.concatenate([before, action, np.full((2, 1), -1.0 * step, np.float32)], axis=1))
            action = policy.act(evidence(step, reward=-1.0 * step))
    policy.act(evidence(0, start=True))
    with torch.no_grad():
        mean, variance = agent.encoder(torch.from_numpy(np.stack(rows, 1)))
    expected = torch.cat((mean, variance.sqrt()), -1).numpy()
    assert np.allclose(policy.belief(), expected, atol=1e-5)


def test_rewards_are_evidence():
    agent = make_agent()
    beliefs = []
    for reward in (0.0, -2.0):
        policy = agent.policy(2, explore=False, seed=1)
        for step in range(3):
            policy.act(evidence(step, start=step == 0, reward=reward))
        policy.act(evidence(0, start=True))
        beliefs.append(policy.belief())
    assert not np.allclose(*beliefs)


# -- settings, saving ---------------------------------------------------------------------------------


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="obs_type: state"):
        PEARL(lambda n: make_env(n, obs_type="pixels"), TINY, 0, "cpu")
    with pytest.raises(ValueError, match="episodes_per_trial: 3"):
        PEARL(lambda n: make_env(n, episodes_per_trial=2), TINY | {"exploration_episodes": 2}, 0, "cpu")
    with pytest.raises(ValueError, match="did you mean 'sparse_point'"):
        PEARL.resolve({"base": "sparse_pont"})
    with pytest.raises(ValueError, match="did you mean 'kl_weight'"):
        PEARL.resolve({"kl_wait": 1})
    assert PEARL.resolve({"base": "sparse_point"})["reward_scale"] == 100.0


@pytest.mark.parametrize(
    "changes",
    [{}, {"deterministic": True}, {"actor_critic": "temperature"}, {"context": "batch"}, {"context": "all"},
     {"next_observation": True}, {"posterior_in_context": True}, {"context": "trial"},
     {"unrewarded_kl_weight": 1.0}],
    ids=lambda changes: next(iter(changes), "published"),
)  # fmt: skip
def test_every_variant_trains_and_goes_on_after_loading_with_the_same_numbers(changes, tmp_path):
    agent = make_agent(**changes)
    train(agent, 3)
    before = tensors(agent)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    agent.save(folder)
    went_on = train(agent, 3)
    assert any(not torch.equal(before[name], value) for name, value in tensors(agent).items())
    resumed = make_agent(seed=9, **changes)
    resumed.load(folder)
    assert all(torch.equal(before[name], value) for name, value in tensors(resumed).items())
    assert train(resumed, 3) == went_on
    assert all(torch.equal(tensors(agent)[name], value) for name, value in tensors(resumed).items())


def test_a_seed_repeats():
    one, other, different = make_agent(3), make_agent(3), make_agent(4)
    assert train(one, 4) == train(other, 4) != train(different, 4)
