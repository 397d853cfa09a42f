"""The latent state model: two layers of Gaussian latents over (trials × time) (paper, Section 4.1-4.2).

With evidence features e_t (frame features, reward, episode start) and actions a_t:

    q(z1_1 | e_1)              p(z1_1) = N(0, I)                 first step of a trial
    q(z1_t | e_t, z2_{t-1}, a_{t-1})   p(z1_t | z2_{t-1}, a_{t-1})       later steps
    p(z2_1 | z1_1),  p(z2_t | z1_t, z2_{t-1}, a_{t-1})           shared by prior and posterior

Only z2 is carried on, and only z1 has a KL term (as in SLAC, whose model this is). All randomness comes
in as ``noise``, so the caller's generator decides everything.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from meld_agents.nets.heads import GatedGaussianHead, GaussianHead, kl_normal


class Latents(NamedTuple):
    """Posterior of one step or of whole trials; every field ``(..., size of its layer)``.

    ``z1`` and ``z2`` are samples; the belief is the four others.
    """

    z1_mean: Tensor
    z1_std: Tensor
    z2_mean: Tensor
    z2_std: Tensor
    z1: Tensor
    z2: Tensor

    @property
    def sample(self) -> Tensor:
        """z_t = [z1, z2], ``(..., z1 + z2)``."""
        return torch.cat((self.z1, self.z2), -1)

    @property
    def belief(self) -> Tensor:
        """b_t = means and standard deviations of both layers, ``(..., 2·(z1 + z2))``."""
        return torch.cat((self.z1_mean, self.z1_std, self.z2_mean, self.z2_std), -1)


class LatentStateModel(nn.Module):
    """Prior, posterior and memory of the latent state; ``evidence`` is the width of e_t."""

    def __init__(
        self,
        evidence: int,
        action: int,
        z1: int,
        z2: int,
        hidden: int,
        nonlinearity: str = "relu",
        layer_norm: bool = False,
        gated_memory: bool = False,
    ) -> None:
        super().__init__()
        self.z1_size, self.z2_size, self.gated = z1, z2, gated_memory
        common = (hidden, nonlinearity, layer_norm)
        self.z1_first = GaussianHead(evidence, z1, *common)
        self.z1_posterior = GaussianHead(evidence + z2 + action, z1, *common)
        self.z1_prior = GaussianHead(z2 + action, z1, *common)
        self.z2_first = GaussianHead(z1, z2, *common, initial_std=0.05 if gated_memory else None)
        head = GatedGaussianHead if gated_memory else GaussianHead
        self.z2_next = head(z1 + z2 + action, z2, *common)

    @property
    def latent_size(self) -> int:
        """Width of z_t."""
        return self.z1_size + self.z2_size

    def noise(self, *shape: int, generator: torch.Generator, device: torch.device | str) -> Tensor:
        """Standard normal noise ``(*shape, z1 + z2)`` for ``first``, ``next`` and ``infer``."""
        return torch.randn(*shape, self.latent_size, generator=generator, device=device)

    def first(self, evidence: Tensor, noise: Tensor) -> Latents:
        """Posterior at a trial's first step: evidence ``(n, E)``, noise ``(n, z1 + z2)``."""
        noise1, noise2 = noise.split((self.z1_size, self.z2_size), -1)
        mean1, std1 = self.z1_first(evidence)
        z1 = mean1 + std1 * noise1
        mean2, std2 = self.z2_first(z1)
        return Latents(mean1, std1, mean2, std2, z1, mean2 + std2 * noise2)

    def next(self, z2: Tensor, action: Tensor, evidence: Tensor, noise: Tensor) -> Latents:
        """Posterior at a later step, from the previous ``z2`` sample and action."""
        noise1, noise2 = noise.split((self.z1_size, self.z2_size), -1)
        mean1, std1 = self.z1_posterior(torch.cat((evidence, z2, action), -1))
        z1 = mean1 + std1 * noise1
        mean2, std2 = self._remember(z1, z2, action)
        return Latents(mean1, std1, mean2, std2, z1, mean2 + std2 * noise2)

    def _remember(self, z1: Tensor, z2: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        inputs = torch.cat((z1, z2, action), -1)
        return self.z2_next(inputs, z2) if self.gated else self.z2_next(inputs)

    def infer(self, evidence: Tensor, actions: Tensor, noise: Tensor) -> Latents:
        """Posteriors of whole trials.

        Args:
            evidence: ``(B, T, E)``.
            actions: ``(B, T, A)``; ``actions[:, t]`` is a_t, taken after ``evidence[:, t]``.
            noise: ``(B, T, z1 + z2)``.

        Returns:
            ``Latents`` with fields ``(B, T, ·)``.
        """
        steps = [self.first(evidence[:, 0], noise[:, 0])]
        for t in range(1, evidence.shape[1]):
            steps.append(self.next(steps[-1].z2, actions[:, t - 1], evidence[:, t], noise[:, t]))
        return Latents(*(torch.stack(field, 1) for field in zip(*steps)))

    def kl(self, latents: Latents, actions: Tensor) -> Tensor:
        """KL(q(z1_t) ‖ p(z1_t)), ``(B, T)``; the later priors need no loop, since z2 is sampled already."""
        first = kl_normal(
            latents.z1_mean[:, :1],
            latents.z1_std[:, :1],
            torch.zeros_like(latents.z1_mean[:, :1]),
            torch.ones_like(latents.z1_std[:, :1]),
        )
        mean, std = self.z1_prior(torch.cat((latents.z2[:, :-1], actions[:, :-1]), -1))
        later = kl_normal(latents.z1_mean[:, 1:], latents.z1_std[:, 1:], mean, std)
        return torch.cat((first, later), 1)
