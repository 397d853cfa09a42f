"""Soft actor-critic as first published: with a state-value network and a fixed temperature of 1.

PEARL's published results use it (Haarnoja et al., 2018, first version; thesis, Section 5.2). The reward's
scale plays the temperature's part.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from meld_agents.nets.heads import mlp
from meld_agents.sac import SAC, SacSettings, Transitions

#: Of the squares of the policy's means and log standard deviations in its loss (released code).
REGULARISER = 1e-3


class ValueSAC(SAC):
    """Actor, twin critics, and a value network with a target. See :class:`meld_agents.sac.SAC`."""

    def __init__(
        self,
        belief: int,
        action: int,
        settings: SacSettings,
        generator: torch.Generator,
        device: torch.device | str,
    ) -> None:
        super().__init__(belief, action, settings, generator, device)
        self.value = mlp((belief, *settings.hidden, 1), "relu").to(device)
        self.value_target = copy.deepcopy(self.value).requires_grad_(False)
        self.value_optimiser = torch.optim.Adam(
            self.value.parameters(), lr=settings.learning_rate, fused=True
        )

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """One gradient step each for critics, value and actor; beliefs get a gradient from the critics."""
        critic_loss = self._update_critics(batch)
        belief = batch.belief.detach()
        value_loss = self._update_value(belief, batch.action)
        actor_loss, entropy = self._update_policy(belief, batch.action)
        with torch.no_grad():
            for target, source in zip(self.value_target.parameters(), self.value.parameters()):
                target.lerp_(source, self.settings.target_rate)
        return {
            "critic_loss": critic_loss,
            "value_loss": value_loss,
            "actor_loss": actor_loss,
            "entropy": entropy,
        }

    def _update_critics(self, batch: Transitions) -> Tensor:
        s = self.settings
        with torch.no_grad():
            next_value = self.value_target(batch.next_belief).squeeze(-1)
            target = s.reward_scale * batch.reward + s.discount * next_value
        loss = (self.critic(batch.belief, batch.action) - target).square().mean(-1).sum()
        self.critic_optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.critic_optimiser.step()
        return loss.detach()

    def _update_value(self, belief: Tensor, like: Tensor) -> Tensor:
        with torch.no_grad():
            action, log_prob = self.actor.sample(belief, self._noise(like))
            target = self.critic(belief, action).amin(0) - log_prob
        loss = (self.value(belief).squeeze(-1) - target).square().mean()
        self.value_optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.value_optimiser.step()
        return loss.detach()

    def _update_policy(self, belief: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(belief)
        action, log_prob = self.actor.squash(mean, log_std, self._noise(like))
        self.critic.requires_grad_(False)  # the critic is only read here
        loss = (log_prob - self.critic(belief, action).amin(0)).mean()
        loss = loss + REGULARISER * (mean.square().mean() + log_std.square().mean())
        self.actor_optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.critic.requires_grad_(True)
        self.actor_optimiser.step()
        return loss.detach(), -log_prob.detach().mean()

    _STATEFUL: tuple[str, ...] = (*SAC._STATEFUL, "value", "value_target", "value_optimiser")
