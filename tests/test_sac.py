"""Soft actor-critic: the density is right, gradients go where they should, and it learns."""

import io
import math

import pytest

torch = pytest.importorskip("torch")

from meld_agents.sac import SAC, Actor, SacSettings, Transitions, TwinCritic  # noqa: E402


def sac(belief=3, action=2, **changes):
    torch.manual_seed(0)
    return SAC(belief, action, SacSettings(**changes), torch.Generator().manual_seed(0), "cpu")


def batch(n=8, belief=3, action=2):
    torch.manual_seed(1)
    return Transitions(
        torch.randn(n, belief), torch.rand(n, action) * 2 - 1, torch.randn(n), torch.randn(n, belief)
    )


def test_log_probability_is_that_of_the_squashed_gaussian():
    torch.manual_seed(0)
    actor = Actor(3, 1, (8,)).double()  # the reference inverts tanh, for which single precision is too coarse
    belief, noise = torch.randn(5, 3).double(), torch.randn(5, 1).double()
    action, log_prob = actor.sample(belief, noise)
    mean, log_std = actor(belief)
    base = torch.distributions.Normal(mean, log_std.exp())
    squashed = torch.distributions.TransformedDistribution(base, torch.distributions.TanhTransform())
    assert torch.allclose(log_prob, squashed.log_prob(action).sum(-1), atol=1e-4)


def test_density_integrates_to_one():
    actor = Actor(1, 1, (8,))
    mean, log_std = actor(torch.zeros(1, 1))
    raw = torch.linspace(-12, 12, 20001).unsqueeze(-1)
    noise = (raw - mean) / log_std.exp()
    actions, log_prob = actor.sample(torch.zeros(20001, 1), noise)
    assert torch.trapezoid(log_prob.exp(), actions.squeeze(-1)).item() == pytest.approx(1.0, abs=1e-3)


def test_targets_start_as_copies_and_move_by_their_rate():
    agent = sac(target_rate=0.1)
    for target, source in zip(agent.target.parameters(), agent.critic.parameters()):
        assert torch.equal(target, source)
    before = [p.clone() for p in agent.target.parameters()]
    agent.update(batch())
    for old, new, source in zip(before, agent.target.parameters(), agent.critic.parameters()):
        assert torch.allclose(new, old + 0.1 * (source - old), atol=1e-7)


def test_the_two_critics_are_independent():
    critic = TwinCritic(5, (8, 8))
    belief, action = torch.randn(4, 3), torch.randn(4, 2)
    first, second = critic(belief, action)
    assert not torch.allclose(first, second)
    critic.weights[0].data[1] += 1.0
    assert torch.equal(critic(belief, action)[0], first)
    assert not torch.allclose(critic(belief, action)[1], second)


def test_actor_step_leaves_no_gradient_in_the_critic():
    agent = sac()
    data = batch()
    agent.critic_optimiser.zero_grad(set_to_none=True)
    agent._update_actor(data.belief, data.belief, data.action, torch.tensor(0.1))
    assert all(p.grad is None for p in agent.critic.parameters())
    assert all(p.requires_grad for p in agent.critic.parameters())


def test_temperature_moves_towards_the_target_entropy():
    agent = sac(learning_rate=0.1)
    start = agent.log_temperature.item()
    agent._update_temperature(torch.full((4,), 10.0))  # entropy −10, far below the target of −2
    assert agent.log_temperature.item() > start
    agent = sac(learning_rate=0.1)
    agent._update_temperature(torch.full((4,), -10.0))
    assert agent.log_temperature.item() < start


def test_learns_a_bandit():
    """Reward −(a − 0.5)²: the mean action ends near 0.5."""
    agent = sac(
        belief=1, action=1, discount=0.0, learning_rate=3e-3, initial_temperature=0.001, hidden=(32, 32)
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(1000):
        action = torch.rand(64, 1, generator=generator) * 2 - 1
        belief = torch.zeros(64, 1)
        agent.update(Transitions(belief, action, -(action - 0.5).square().squeeze(-1), belief))
    assert torch.tanh(agent.actor(torch.zeros(1, 1))[0]).item() == pytest.approx(0.5, abs=0.1)


def test_same_seed_same_numbers_and_state_restores_them():
    one, other = sac(), sac()
    data = batch()
    for agent in (one, other):
        for _ in range(3):
            agent.update(data)
    assert all(torch.equal(a, b) for a, b in zip(one.actor.parameters(), other.actor.parameters()))
    third = sac()
    disk = io.BytesIO()
    torch.save(one.state_dict(), disk)
    disk.seek(0)
    third.load_state_dict(torch.load(disk, weights_only=True))
    third.generator.set_state(one.generator.get_state())
    one.update(data)
    third.update(data)
    assert all(torch.equal(a, b) for a, b in zip(one.critic.parameters(), third.critic.parameters()))
    assert math.isclose(one.log_temperature.item(), third.log_temperature.item())
