"""PEARL: analytic answers, routes of gradients, posterior sampling, and what is saved."""

import itertools

import gymnasium as gym
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import meld_envs  # noqa: E402, F401
from meld_agents.episodes import Trials  # noqa: E402
from meld_agents.interface import Evidence, Policy  # noqa: E402
from meld_agents.nets.context_encoder import (  # noqa: E402
    ContextEncoder,
    Gaussian,
    RecurrentEncoder,
    kl_to_prior,
)
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
IMAGES = {"filters": [4, 4, 8, 8], "feature_size": 6}
CACHED = IMAGES | {
    "perception": "cached",
    "autoencoder_updates": 4,
    "autoencoder_batch": 6,
    "autoencoder_refresh_rounds": 2,
    "autoencoder_refresh_updates": 2,
}


def make_env(num_envs, **changes):
    keywords = {"obs_type": "state", "num_train_tasks": 4, "episodes_per_trial": 3, "num_threads": 1}
    return gym.make_vec("meld/PointNav-v0", num_envs=num_envs, **(keywords | changes)).unwrapped


def make_agent(seed=0, **changes):
    return PEARL(make_env, TINY | changes, seed, "cpu")


def see(num_envs, **changes):
    return make_env(num_envs, **({"obs_type": "pixels", "image_size": 32} | changes))


def two_cameras(num_envs):
    keywords = {"image_size": 64, "num_train_tasks": 2, "episodes_per_trial": 2, "num_threads": 1}
    return gym.make_vec("meld/Reacher-v0", num_envs=num_envs, **keywords).unwrapped


def make_seeing(seed=0, make=see, **changes):
    return PEARL(make, TINY | changes, seed, "cpu")


def train(agent, slices):
    return list(itertools.islice(agent.meta_train(10**9), slices))[-1]


def tensors(agent):
    parts = {**agent.encoder.state_dict(), **agent.sac.critic.state_dict()}
    if agent.perception is not None:
        parts |= agent.perception.state_dict(prefix="perception.")
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


def test_the_prior_may_be_a_factor():
    net, context = ContextEncoder(4, 3, (16,), deterministic=False, prior_is_factor=True), torch.randn(2, 4)
    precision, weighted = net.evidence(context)
    belief = net(context)
    assert torch.allclose(belief.variance, 1.0 / (precision + 1.0), rtol=1e-5)
    assert torch.allclose(belief.mean, weighted / (precision + 1.0), atol=1e-6)
    nothing = net.posterior(type(net.evidence(context))(torch.zeros(3), torch.zeros(3)))
    assert torch.equal(nothing.mean, torch.zeros(3)) and torch.equal(nothing.variance, torch.ones(3))


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


def recurrent(deterministic=False):
    torch.manual_seed(0)
    return RecurrentEncoder(4, 3, (16, 8), deterministic)


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_recurrent_belief_depends_on_order_and_goes_on_where_it_was(deterministic):
    net, context = recurrent(deterministic), torch.randn(5, 9, 4)
    whole = net(context)
    assert whole.variance.any() == (not deterministic)
    assert not torch.allclose(whole.mean, net(context.flip(1)).mean, atol=1e-3)
    memory = None
    for episode in context.split(3, dim=1):
        memory = net.extend(memory, episode)
    parts = net.posterior(memory)
    assert torch.allclose(whole.mean, parts.mean, atol=1e-6)
    assert torch.allclose(whole.variance, parts.variance, atol=1e-6)


# -- routes of gradients ----------------------------------------------------------------------------


def reaching(agent, parameters):
    """Which parts of an update of the actor-critic send these parameters a gradient."""
    parameters, reached = list(parameters), []
    for part in ("_update_critics", "_update_value", "_update_policy", "_update_critic", "_update_actor"):
        original = getattr(agent.sac, part, None)
        if original is None:
            continue

        def watched(*arguments, part=part, original=original):
            before = [None if p.grad is None else p.grad.clone() for p in parameters]
            result = original(*arguments)
            for old, p in zip(before, parameters):
                if p.grad is not None and (old is None or not torch.equal(old, p.grad)):
                    reached.append(part)
            return result

        setattr(agent.sac, part, watched)
    agent._update()
    return set(reached)


CRITIC = {"value": {"_update_critics"}, "temperature": {"_update_critic"}}


@pytest.mark.parametrize("actor_critic", list(CRITIC))
@pytest.mark.parametrize("encoder", ["product", "recurrent"])
def test_the_encoder_learns_from_the_critic_alone(actor_critic, encoder):
    agent = make_agent(actor_critic=actor_critic, encoder=encoder, kl_weight=0.0)
    train(agent, 1)
    assert reaching(agent, agent.encoder.parameters()) == CRITIC[actor_critic]


@pytest.mark.parametrize("actor_critic", list(CRITIC))
def test_joint_perception_learns_from_the_critic_alone(actor_critic):
    agent = make_seeing(actor_critic=actor_critic, kl_weight=1.0, **IMAGES)
    train(agent, 1)
    before = tensors(agent)
    assert reaching(agent, agent.perception.parameters()) == CRITIC[actor_critic]
    changed = {name for name, value in tensors(agent).items() if not torch.equal(before[name], value)}
    assert all(name in changed for name in before if name.startswith("perception."))
    context = agent._context(agent.store.sample(np.random.default_rng(0), agent.store.ready, 5))
    assert not context.requires_grad, "contexts have features without a gradient"


def test_cached_perception_learns_from_its_autoencoder_alone():
    agent = make_seeing(**CACHED | {"autoencoder_refresh_rounds": 0})
    train(agent, 3)
    assert (agent.perception.scale != 1.0).all(), "standardised"
    before = tensors(agent)
    agent._update()
    changed = {name for name, value in tensors(agent).items() if not torch.equal(before[name], value)}
    assert changed and not any(name.startswith("perception.") for name in changed)


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


def test_whole_episodes_are_in_order():
    store, rng, tasks = TransitionStore(2), np.random.default_rng(0), np.array([1, 0, 1])
    store.add(np.array([0, 1]), counted_trials(0, [0, 1]))
    store.add(np.array([1]), counted_trials(100, [1]))
    first = store.first_episodes(rng, tasks, 2).observation[..., 0]
    assert first.tolist() == [[b + s for s in (0, 1, 2, 3, 5, 6, 7, 8)] for b in (100, 0, 100)]
    drawn = {int(store.first_episodes(rng, tasks, 1, "all").observation[0, 0, 0]) for _ in range(50)}
    assert drawn == {15, 100}
    batch = store.whole_episodes(rng, np.repeat(tasks, 50), 11)
    episodes = batch.observation[..., 0].reshape(150, 2, 4)
    assert (np.diff(episodes) == 1).all(), "two whole episodes are nearest to eleven steps"
    assert set(episodes[:50, :, 0].ravel()) == {15, 20, 25, 100, 105, 110}
    assert (batch.reward == -batch.next_observation[..., 0]).all()


def seen_trials(first, tasks, shape=(8, 8, 3)):
    """As ``counted_trials``, but every pixel is the number of the frame."""
    trials = counted_trials(first, tasks)
    frames = np.zeros((*trials.reward.shape, *shape), np.uint8) + trials.observation[..., None, None]
    return trials._replace(observation=frames.astype(np.uint8))


def test_images_are_held_once_as_uint8_and_features_stand_in_for_them():
    store, rng = TransitionStore(2), np.random.default_rng(0)
    store.add(np.array([0]), seen_trials(0, [0]))
    store.add(np.array([1, 0]), seen_trials(30, [1, 0]))
    frames = 3 * 15
    pixels = frames * 8 * 8 * 3
    assert pixels <= store.nbytes < pixels + frames * 60, "besides images, a few numbers per frame"
    batch = store.sample(rng, np.array([0, 1]), 200)
    assert batch.observation.dtype == batch.next_observation.dtype == np.uint8
    assert batch.observation.shape == (2, 200, 8, 8, 3)
    assert (batch.next_observation == batch.observation + 1).all()
    assert (batch.action[..., 0] == batch.observation[..., 0, 0, 0] + 0.5).all()
    assert set(batch.observation[0, :, 0, 0, 0] // 15) == {0, 3} and set(batch.reward[1] // -15) <= {-3, 2}
    store.cache_features(lambda images: images[:, 0, 0, :2] * np.float32(2))
    cached = store.sample(rng, np.array([0, 1]), 200)
    assert cached.observation.shape == (2, 200, 2) and cached.observation.dtype == np.float32
    assert (cached.observation[..., 0] / 2 + 0.5 == cached.action[..., 0]).all()
    store.add(np.array([1]), seen_trials(90, [1]))
    with pytest.raises(LookupError, match="cache_features"):
        store.sample(rng, np.array([0]), 2)
    calls = []
    store.cache_features(lambda images: calls.append(len(images)) or images[:, 0, 0, :2] * np.float32(3))
    assert calls == [15], "only what is new"
    values = store.sample(rng, np.array([1]), 200)
    new = values.action[..., 0] > 90
    assert new.any() and (values.observation[new][:, 0] == 3 * (values.action[new][:, 0] - 0.5)).all()
    store.cache_features(lambda images: images[:, 0, 0, :2] * np.float32(5), again=True)
    values = store.sample(rng, np.array([0, 1]), 200)
    assert (values.observation[..., 0] == 5 * (values.action[..., 0] - 0.5)).all()


def test_states_and_counts_of_trials_grow_without_being_copied_at_every_update():
    store, rng = TransitionStore(1), np.random.default_rng(0)
    for number in range(40):
        store.add(np.array([0]), counted_trials(15 * number, [0]))
    held = store._starts[0].held
    assert held.tolist() == [15 * number for number in range(40)] and held.base is store._starts[0]._room
    assert store.sample(rng, np.array([0]), 5000).observation.max() == 40 * 15 - 2


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


def test_the_recurrent_belief_is_carried_through_the_episodes_of_a_trial():
    agent = make_agent(encoder="recurrent")
    policy = agent.policy(2, explore=False, seed=0)
    rows, beliefs = [], []
    for episode in range(3):
        action = policy.act(evidence(0, start=True))
        beliefs.append(policy.belief())
        for step in range(1, 4):
            before = np.full((2, 2), 0.1 * (step - 1), np.float32)
            rows.append(np.concatenate([before, action, np.full((2, 1), -step - episode)], axis=1))
            action = policy.act(evidence(step, reward=-step - episode))
    with torch.no_grad():
        for count, belief in ((3, beliefs[1]), (6, beliefs[2])):
            mean, variance = agent.encoder(torch.from_numpy(np.stack(rows[:count], 1).astype(np.float32)))
            assert np.allclose(belief, torch.cat((mean, variance.sqrt()), -1).numpy(), atol=1e-5)
    assert np.array_equal(beliefs[0], np.tile([0, 0, 0, 1, 1, 1], (2, 1)).astype(np.float32))


@pytest.mark.parametrize("posterior", [False, True])
def test_a_recurrent_encoder_is_given_whole_episodes(posterior):
    agent = make_agent(encoder="recurrent", posterior_in_context=posterior)
    train(agent, 2)
    steps = agent._env.episode_steps
    tasks = agent.store.ready[:2]
    lengths = {agent._sample_context(tasks, None).reward.shape[1] for _ in range(30)}
    assert lengths == ({steps, 2 * steps} if posterior else {steps}), "of three episodes, never all"


def test_trajectories_may_be_what_the_critic_learns_from():
    agent = make_agent(batch_of="trajectories", batch=50)
    train(agent, 2)
    steps = agent._env.episode_steps
    batch = agent._sample_batch(agent.store.ready[:2])
    assert batch.reward.shape == (2, 50 // steps * steps)
    inside = batch.observation[:, 1:steps] == batch.next_observation[:, : steps - 1]
    assert inside.all(), "each step begins where the last one ended"


@pytest.mark.parametrize("changes", [IMAGES, CACHED], ids=["joint", "cached"])
def test_two_cameras_side_by_side(changes):
    agent = make_seeing(make=two_cameras, tasks_per_update=2, **changes)
    assert agent.observation_shape == (64, 128, 3)
    losses = train(agent, 5)
    assert agent.updates and all(np.isfinite(value) for value in losses.losses.values())


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
    with pytest.raises(ValueError, match="at least 3 filters"):
        make_seeing(filters=[4, 4])
    with pytest.raises(ValueError, match="perception: 'jiont' is not one of 'joint', 'cached'"):
        PEARL.resolve({"perception": "jiont"})
    with pytest.raises(ValueError, match="batch_of: trajectories"):
        PEARL.resolve({"encoder": "recurrent", "context": "batch"})
    for of_factors in ({"unrewarded_kl_weight": 1.0}, {"prior_is_factor": True}):
        with pytest.raises(ValueError, match="encoder: product"):
            PEARL.resolve({"encoder": "recurrent"} | of_factors)
    with pytest.raises(ValueError, match="autoencoder_batch: must be at least 1"):
        PEARL.resolve({"autoencoder_batch": 0})
    assert PEARL.resolve({"base": "paper"})["perception"] == "joint"
    assert PEARL.resolve({"base": "small"})["perception"] == "cached"
    PEARL(lambda n: make_env(n, episodes_per_trial=2), {"base": "small"}, 0, "cpu")  # is what families offer
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
     {"unrewarded_kl_weight": 1.0}, {"encoder": "recurrent"}, {"encoder": "recurrent", "context": "trial"},
     {"batch_of": "trajectories", "context": "batch", "encoder": "recurrent"}],
    ids=lambda changes: next(iter(changes), "published"),
)  # fmt: skip
def test_every_variant_trains_and_goes_on_after_loading_with_the_same_numbers(changes, tmp_path):
    check_resuming(lambda seed: make_agent(seed, **changes), 3, tmp_path)


@pytest.mark.parametrize(
    ("slices", "changes"),
    [(3, IMAGES), (3, IMAGES | {"context": "batch"}), (2, CACHED), (10, CACHED),
     (4, CACHED | {"inverse_weight": 0.1})],
    ids=["joint", "joint-batch", "within-the-autoencoder's-training", "after-a-refresh", "inverse"],
)  # fmt: skip
def test_what_sees_goes_on_after_loading_with_the_same_numbers(slices, changes, tmp_path, monkeypatch):
    monkeypatch.setattr("meld_agents.pearl.SLICE", 2)
    agent = check_resuming(lambda seed: make_seeing(seed, **changes), slices, tmp_path)
    refreshes = (agent.rounds // 2) * 2 if changes.get("perception") == "cached" else 0
    assert agent._autoencoding.done == (4 + refreshes if refreshes else 0)


def check_resuming(make, slices, tmp_path):
    """Trains, saves, trains on; a new agent that loads must do the same. Returns the first one."""
    agent = make(0)
    train(agent, slices)
    before = tensors(agent)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    agent.save(folder)
    went_on = train(agent, 8)
    assert any(not torch.equal(before[name], value) for name, value in tensors(agent).items())
    resumed = make(9)
    resumed.load(folder)
    assert all(torch.equal(before[name], value) for name, value in tensors(resumed).items())
    assert train(resumed, 8) == went_on
    assert all(torch.equal(tensors(agent)[name], value) for name, value in tensors(resumed).items())
    return agent


def test_a_seed_repeats():
    one, other, different = make_agent(3), make_agent(3), make_agent(4)
    assert train(one, 4) == train(other, 4) != train(different, 4)
