"""Soft actor-critic over belief vectors (Haarnoja et al., 2018, with automatic temperature).

Twin critics run as one batched network; their targets start as copies. Nothing here knows where a
belief comes from, and beliefs arrive detached: no gradient reaches the model.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from meld_agents.nets.heads import mlp

#: Range of the actor's log standard deviation.
LOG_STD_RANGE = (-20.0, 2.0)


@dataclass(frozen=True)
class SacSettings:
    """What the actor-critic depends on; the defaults are the paper's (Table 1, Appendix A)."""

    hidden: tuple[int, ...] = (256, 256)
    learning_rate: float = 3e-4
    discount: float = 0.99
    target_rate: float = 0.005
    initial_temperature: float = 1.0
    target_entropy_per_action: float = -1.0
    reward_scale: float = 1.0


class Transitions(NamedTuple):
    """Beliefs ``(N, D)``, actions ``(N, A)``, rewards ``(N,)``, next beliefs ``(N, D)``.

    Where the actor decides by something else than the critic's belief, as SLAC's does, ``seen`` and
    ``next_seen`` ``(N, S)`` are that. No terminal flag: every family ends by a time limit, which is never a
    terminal state.
    """

    belief: Tensor
    action: Tensor
    reward: Tensor
    next_belief: Tensor
    seen: Tensor | None = None
    next_seen: Tensor | None = None

    @staticmethod
    def joined(parts: Sequence[Transitions]) -> Transitions:
        """All of them, one after the other."""
        common = (torch.cat(fields) for fields in zip(*(part[:4] for part in parts)))
        apart = (
            None if fields[0] is None else torch.cat(fields) for fields in zip(*(part[4:] for part in parts))
        )
        return Transitions(*common, *apart)

    def rows(self, rows: Tensor) -> Transitions:
        """Those of the indices ``rows`` ``(M,)``."""
        apart = (None if field is None else field[rows] for field in (self.seen, self.next_seen))
        return Transitions(*(field[rows] for field in self[:4]), *apart)


class Actor(nn.Module):
    """A tanh-squashed diagonal Gaussian over actions in [−1, 1]."""

    def __init__(self, belief: int, action: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.net = mlp((belief, *hidden, 2 * action), "relu")

    def forward(self, belief: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation before squashing, each ``(N, A)``."""
        mean, log_std = self.net(belief).chunk(2, -1)
        return mean, log_std.clamp(*LOG_STD_RANGE)

    def sample(self, belief: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """An action ``(N, A)`` and its log-probability ``(N,)`` under the squashed density."""
        mean, log_std = self(belief)
        return self.squash(mean, log_std, noise)

    @staticmethod
    def squash(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """An action ``(N, A)`` and its log-probability ``(N,)`` from what the network said of it."""
        raw = mean + log_std.exp() * noise
        log_prob = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        # log(1 − tanh(x)²), in the form that does not underflow
        log_prob = log_prob - 2.0 * (math.log(2.0) - raw - functional.softplus(-2.0 * raw))
        return torch.tanh(raw), log_prob.sum(-1)


class TwinCritic(nn.Module):
    """Two independent Q-networks as one batched matrix product per layer."""

    def __init__(self, inputs: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        sizes = (inputs, *hidden, 1)
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(2, i, o)) for i, o in pairwise(sizes))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(2, 1, o)) for o in sizes[1:])
        for weight in self.weights:
            for one in weight.data:
                nn.init.xavier_uniform_(one)

    def forward(self, belief: Tensor, action: Tensor) -> Tensor:
        """Q-values ``(2, N)``."""
        x = torch.cat((belief, action), -1).expand(2, -1, -1)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            x = torch.baddbmm(bias, x, weight)
            if i < len(self.weights) - 1:
                x = torch.relu(x)
        return x.squeeze(-1)


class SAC:
    """Actor, twin critics with targets, automatic temperature.

    Args:
        belief: width D of a belief.
        action: width A of an action.
        settings: see :class:`SacSettings`.
        generator: source of all sampling, on ``device``.
        device: torch device.
        seen: width S of what the actor sees, where that is not the belief.
    """

    def __init__(
        self,
        belief: int,
        action: int,
        settings: SacSettings,
        generator: torch.Generator,
        device: torch.device | str,
        seen: int | None = None,
    ) -> None:
        self.settings, self.generator, self.device = settings, generator, device
        self.target_entropy = settings.target_entropy_per_action * action
        self.actor = Actor(seen or belief, action, settings.hidden).to(device)
        self.critic = TwinCritic(belief + action, settings.hidden).to(device)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_temperature = torch.tensor(
            math.log(settings.initial_temperature), device=device, requires_grad=True
        )

        def adam(parameters: Any) -> torch.optim.Adam:
            return torch.optim.Adam(parameters, lr=settings.learning_rate, fused=True)

        self.actor_optimiser = adam(self.actor.parameters())
        self.critic_optimiser = adam(self.critic.parameters())
        self.temperature_optimiser = adam([self.log_temperature])

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, device=self.device)

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """One gradient step each for critics, actor and temperature; losses as tensors (no host sync)."""
        temperature = self.log_temperature.detach().exp()
        critic_loss = self._update_critic(batch, temperature)
        # beliefs that carry a gradient, as PEARL's do, get it from the critic alone
        belief = batch.belief.detach()
        seen = belief if batch.seen is None else batch.seen
        actor_loss, log_prob = self._update_actor(belief, seen, batch.action, temperature)
        self._update_temperature(log_prob)
        with torch.no_grad():
            for target, source in zip(self.target.parameters(), self.critic.parameters()):
                target.lerp_(source, self.settings.target_rate)
        return {
            "critic_loss": critic_loss,
            "actor_loss": actor_loss,
            "temperature": temperature,
            "entropy": -log_prob.mean(),
        }

    def _update_critic(self, batch: Transitions, temperature: Tensor) -> Tensor:
        next_seen = batch.next_belief if batch.next_seen is None else batch.next_seen
        with torch.no_grad():
            action, log_prob = self.actor.sample(next_seen, self._noise(batch.action))
            value = self.target(batch.next_belief, action).amin(0) - temperature * log_prob
            target = self.settings.reward_scale * batch.reward + self.settings.discount * value
        q_values = self.critic(batch.belief, batch.action)
        loss = 0.5 * (q_values - target).square().mean(-1).sum()
        self.critic_optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.critic_optimiser.step()
        return loss.detach()

    def _update_actor(
        self, belief: Tensor, seen: Tensor, like: Tensor, temperature: Tensor
    ) -> tuple[Tensor, Tensor]:
        action, log_prob = self.actor.sample(seen, self._noise(like))
        self.critic.requires_grad_(False)  # the critic is only read here
        loss = (temperature * log_prob - self.critic(belief, action).amin(0)).mean()
        self.actor_optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.critic.requires_grad_(True)
        self.actor_optimiser.step()
        return loss.detach(), log_prob.detach()

    def _update_temperature(self, log_prob: Tensor) -> None:
        loss = -self.log_temperature * (log_prob.mean() + self.target_entropy)
        self.temperature_optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.temperature_optimiser.step()

    def state_dict(self) -> dict[str, Any]:
        """Everything that training depends on, except the generator (its owner saves it)."""
        return {name: getattr(self, name).state_dict() for name in self._STATEFUL} | {
            "log_temperature": self.log_temperature.detach().clone()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what ``state_dict`` gave."""
        for name in self._STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        self.log_temperature.data.copy_(state["log_temperature"])

    _STATEFUL: tuple[str, ...] = (
        "actor",
        "critic",
        "target",
        "actor_optimiser",
        "critic_optimiser",
        "temperature_optimiser",
    )
