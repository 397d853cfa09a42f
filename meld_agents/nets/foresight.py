"""Reward foresight: what the memory says of rewards at other moments of the trial.

The evidence lower bound lets a latent state *copy* the reward it has just been given instead of
remembering what it implies. Asking the memory z2_t for the reward of any other transition of the same
trial, as belief-based methods do (VariBAD, Zintgraf et al., 2020), makes it worth remembering the task.
A deviation from the paper, off in its base.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from meld_agents.nets.heads import mlp, xavier


class RewardForesight(nn.Module):
    """Predicts r_τ from z2_t and the transition (f_{τ−1}, a_{τ−1}, f_τ), for random τ of the sequence."""

    def __init__(self, memory: int, features: int, action: int, hidden: int) -> None:
        super().__init__()
        self.of_memory = xavier(nn.Linear(memory, hidden))
        self.of_transition = xavier(nn.Linear(2 * features + action, hidden))
        self.head = nn.Sequential(nn.ReLU(), mlp((hidden, hidden, 1)))

    def error(
        self,
        memory: Tensor,
        features: Tensor,
        actions: Tensor,
        rewards: Tensor,
        episode_start: Tensor,
        pairs: int,
        generator: torch.Generator,
    ) -> Tensor:
        """Mean squared error of rewards at ``pairs`` random moments asked of every step's memory.

        Args:
            memory: z2 ``(B, L, M)``.
            features: ``(B, L, F)``, read without gradient.
            actions: ``(B, L, A)``.
            rewards: ``(B, L)``, the reward on arriving at each step.
            episode_start: ``(B, L)`` bool; these steps have no reward to predict.
            pairs: questions per step.
            generator: draws the moments.
        """
        batch, length = rewards.shape
        features = features.detach()
        transition = torch.cat((features[:, :-1], actions[:, :-1], features[:, 1:]), -1)
        asked = torch.randint(length - 1, (batch, length, pairs), generator=generator, device=rewards.device)
        rows = torch.arange(batch, device=rewards.device)[:, None, None]
        hidden = self.of_memory(memory).unsqueeze(2) + self.of_transition(transition)[rows, asked]
        predicted = self.head(hidden).squeeze(-1)
        counts = (~episode_start[:, 1:])[rows, asked]
        error = (predicted - rewards[:, 1:][rows, asked]).square() * counts
        return error.sum() / counts.sum().clamp(min=1)
