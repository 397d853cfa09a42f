"""SLAC: stochastic latent actor-critic (Lee, Nagabandi, Abbeel, Levine, NeurIPS 2020).

MELD's latent state model without meta-learning: rewards are predicted, never evidence, and nothing is
carried from one episode to the next, so it can only learn the motion that is best on average. As published,
the critic judges the latent state, and the actor looks at the last frames' features and the actions between
them. MELD's paper compares with another variant (Section 5.1), whose actor and critic both take the belief:
``acting: belief``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from meld_agents.meld import MELD, MeldPolicy
from meld_agents.nets.heads import mlp
from meld_agents.nets.latent_model import Latents
from meld_agents.sac import SAC, Transitions
from meld_agents.slac_settings import SlacSettings, slac_settings


class SLAC(MELD):
    """MELD's model and training, without reward evidence and trial memory."""

    name = "slac"
    meta = False
    settings: SlacSettings

    @classmethod
    def _checked(cls, settings: Mapping[str, Any]) -> SlacSettings:
        return slac_settings(cls.name, settings)

    def _build_reward_decoder(self) -> torch.nn.Module:
        s = self.settings
        if s.reward_from == "state":
            return super()._build_reward_decoder()
        inputs = 2 * self.model.latent_size + self.action_size
        return mlp((inputs, s.hidden, s.hidden, 1), s.nonlinearity)

    def _build_sac(self) -> SAC:
        if self.settings.acting == "belief":
            return super()._build_sac()
        frames, latent = self.settings.history_frames, self.model.latent_size
        seen = frames * self.perception.feature_size + (frames - 1) * self.action_size
        return SAC(latent, self.action_size, self.settings.sac(), self._generator, self.device, seen)

    def _predicted_rewards(self, z: Tensor, actions: Tensor) -> Tensor:
        """The reward on arriving at each step ``(B, L)``; 0 at the first, to which no transition led."""
        if self.settings.reward_from == "state":
            return super()._predicted_rewards(z, actions)
        rewards = self.reward_decoder(torch.cat((z[:, :-1], actions[:, :-1], z[:, 1:]), -1)).squeeze(-1)
        return torch.nn.functional.pad(rewards, (1, 0))

    def _looked_at(
        self, transitions: Transitions, latents: Latents, features: Tensor, actions: Tensor
    ) -> Transitions:
        """The same steps with sampled latents for the critic and histories for the actor."""
        if self.settings.acting == "belief":
            return transitions
        z, seen = latents.sample.detach(), histories(features.detach(), actions, self.settings.history_frames)
        before, after = slice(None, -1), slice(1, None)  # sequences are single episodes: every step counts
        return transitions._replace(
            belief=z[:, before].flatten(0, 1),
            next_belief=z[:, after].flatten(0, 1),
            seen=seen[:, before].flatten(0, 1),
            next_seen=seen[:, after].flatten(0, 1),
        )

    def policy(self, num_trials: int, explore: bool, seed: int = 0) -> MeldPolicy:
        """The acting side with the present weights; ``explore=False`` takes the mean action."""
        kind = MeldPolicy if self.settings.acting == "belief" else HistoryPolicy
        return kind(self, num_trials, explore, seed)


class HistoryPolicy(MeldPolicy):
    """Acts on the last frames and actions of the episode; infers beliefs for those who ask for them."""

    _agent: SLAC

    def start_trial(self) -> None:
        """Forgets everything."""
        super().start_trial()
        s, features = self._agent.settings, self._agent.perception.feature_size
        device = self._agent.device
        self._frames = torch.zeros(self._count, s.history_frames, features, device=device)
        self._actions = torch.zeros(self._count, s.history_frames - 1, self._agent.action_size, device=device)

    def _actor_input(self, latents: Latents, features: Tensor, starts: Tensor) -> Tensor:
        """The history after this step, ``(n, N·F + (N − 1)·A)``, as :func:`histories` lays it out."""
        new = starts[:, None, None]
        newest = features.unsqueeze(1)
        frames = torch.cat((self._frames[:, 1:], newest), 1)
        self._frames = torch.where(new, newest, frames)
        actions = torch.cat((self._actions, self._action.unsqueeze(1)), 1)[:, 1:]
        self._actions = torch.where(new, torch.zeros_like(actions), actions)
        return torch.cat((self._frames.flatten(1), self._actions.flatten(1)), -1)


def histories(features: Tensor, actions: Tensor, frames: int) -> Tensor:
    """What the actor sees at each step of whole episodes: the last N frames, and the N − 1 actions between.

    Before an episode's first frame stand copies of it, and actions of zero (released code).

    Args:
        features: ``(B, L, F)``, each row one episode.
        actions: ``(B, L, A)``, each taken after the frame of the same index.
        frames: N.

    Returns:
        ``(B, L, N·F + (N − 1)·A)``: frames from the oldest to the newest, then actions likewise.
    """
    before = features[:, :1].expand(-1, frames - 1, -1)
    seen = torch.cat((before, features), 1).unfold(1, frames, 1)  # (B, L, F, N)
    idle = torch.zeros_like(actions[:, :1]).expand(-1, frames - 1, -1)
    taken = torch.cat((idle, actions[:, :-1]), 1).unfold(1, frames - 1, 1)  # (B, L, A, N − 1)
    return torch.cat((seen.movedim(-1, 2).flatten(2), taken.movedim(-1, 2).flatten(2)), -1)
