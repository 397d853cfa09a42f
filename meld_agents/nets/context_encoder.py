"""PEARL's belief over tasks: a product of Gaussian factors, one per transition (thesis, Section 5.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from meld_agents.nets.heads import mlp

#: Smallest variance of a factor (released code).
MIN_VARIANCE = 1e-7


class Gaussian(NamedTuple):
    """Means and variances of diagonal Gaussians, ``(..., Z)`` each."""

    mean: Tensor
    variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """A reparameterised sample; of a point, which has no variance, the point."""
        return self.mean + self.variance.sqrt() * noise


class Evidence(NamedTuple):
    """What a context amounts to: sums over its transitions, so that contexts can be joined by adding.

    Attributes:
        precision: ``(..., Z)``, the sum of the factors' precisions; of points, their number.
        weighted: ``(..., Z)``, the sum of means, each weighted by its precision.
    """

    precision: Tensor
    weighted: Tensor

    def total(self) -> Evidence:
        """Of all factors ``(..., N, Z)`` together."""
        return Evidence(self.precision.sum(-2), self.weighted.sum(-2))

    def join(self, other: Evidence) -> Evidence:
        """Of both contexts together."""
        return Evidence(self.precision + other.precision, self.weighted + other.weighted)


def kl_to_prior(belief: Gaussian) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, I)), summed over dimensions: ``(...)``."""
    mean, variance = belief
    return 0.5 * (variance + mean.square() - 1.0 - variance.log()).sum(-1)


class ContextEncoder(nn.Module):
    """An MLP from a transition to a Gaussian factor; factors are multiplied, so their order is irrelevant.

    The prior is not a factor: a single transition replaces it (released code).

    Args:
        inputs: width of a transition (observation, action, reward, and maybe next observation).
        latent: Z.
        hidden: hidden widths.
        deterministic: the ablation without a bottleneck: z is the mean of points, with no variance.
    """

    def __init__(self, inputs: int, latent: int, hidden: tuple[int, ...], deterministic: bool) -> None:
        super().__init__()
        self.latent, self.deterministic = latent, deterministic
        self.net = mlp((inputs, *hidden, latent if deterministic else 2 * latent), "relu")

    def factors(self, context: Tensor) -> Evidence:
        """What each transition of a context ``(..., N, inputs)`` amounts to: ``(..., N, Z)`` each."""
        out = self.net(context)
        if self.deterministic:
            return Evidence(torch.ones_like(out), out)
        mean, raw = out.chunk(2, -1)
        precision = 1.0 / functional.softplus(raw).clamp(min=MIN_VARIANCE)
        return Evidence(precision, precision * mean)

    def evidence(self, context: Tensor) -> Evidence:
        """Sums over a context ``(..., N, inputs)``: ``(..., Z)`` each."""
        return self.factors(context).total()

    def posterior(self, evidence: Evidence) -> Gaussian:
        """The belief that these sums give."""
        mean = evidence.weighted / evidence.precision
        if self.deterministic:
            return Gaussian(mean, torch.zeros_like(mean))
        return Gaussian(mean, 1.0 / evidence.precision)

    def forward(self, context: Tensor) -> Gaussian:
        """The belief after a context ``(..., N, inputs)``."""
        return self.posterior(self.evidence(context))
