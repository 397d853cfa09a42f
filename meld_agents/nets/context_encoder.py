"""PEARL's belief over tasks: a product of Gaussian factors, one per transition (thesis, Section 5.2).

Or, as an ablation, what a recurrent network says of transitions in the order in which they were lived.
"""

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

    As published the prior is not a factor: a single transition replaces it (released code).

    Args:
        inputs: width of a transition (observation, action, reward, and maybe next observation).
        latent: Z.
        hidden: hidden widths.
        deterministic: the ablation without a bottleneck: z is the mean of points, with no variance.
        prior_is_factor: N(0, I) is one more factor, so that what says nothing leaves the belief at the prior.
    """

    def __init__(
        self,
        inputs: int,
        latent: int,
        hidden: tuple[int, ...],
        deterministic: bool,
        prior_is_factor: bool = False,
    ) -> None:
        super().__init__()
        self.latent, self.deterministic = latent, deterministic
        self._prior_precision = float(prior_is_factor)
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

    def extend(self, evidence: Evidence | None, context: Tensor) -> Evidence:
        """What was known and a further context ``(..., N, inputs)``, together."""
        new = self.evidence(context)
        return new if evidence is None else evidence.join(new)

    def posterior(self, evidence: Evidence) -> Gaussian:
        """The belief that these sums give."""
        if self.deterministic:
            mean = evidence.weighted / evidence.precision
            return Gaussian(mean, torch.zeros_like(mean))
        variance = 1.0 / (evidence.precision + self._prior_precision)
        return Gaussian(variance * evidence.weighted, variance)

    def forward(self, context: Tensor) -> Gaussian:
        """The belief after a context ``(..., N, inputs)``."""
        return self.posterior(self.evidence(context))


class Memory(NamedTuple):
    """The state of an LSTM, ``(1, n, H)`` each."""

    hidden: Tensor
    cell: Tensor


class RecurrentEncoder(nn.Module):
    """An MLP for each transition, an LSTM over them, a Gaussian of its last state (thesis, Figure 16).

    Args:
        inputs: width of a transition.
        latent: Z.
        hidden: hidden widths; the last one is the LSTM's, too.
        deterministic: the belief is a point.
    """

    def __init__(self, inputs: int, latent: int, hidden: tuple[int, ...], deterministic: bool) -> None:
        super().__init__()
        self.latent, self.deterministic = latent, deterministic
        self.step = nn.Sequential(mlp((inputs, *hidden), "relu"), nn.ReLU())
        self.lstm = nn.LSTM(hidden[-1], hidden[-1], batch_first=True)
        self.head = mlp((hidden[-1], latent if deterministic else 2 * latent))

    def extend(self, memory: Memory | None, context: Tensor) -> Memory:
        """The memory after further transitions ``(n, N, inputs)``, in order; ``None`` has seen nothing."""
        return Memory(*self.lstm(self.step(context), memory)[1])

    def posterior(self, memory: Memory) -> Gaussian:
        """The belief of so many memories, ``(n, Z)`` each."""
        out = self.head(memory.hidden[-1])
        if self.deterministic:
            return Gaussian(out, torch.zeros_like(out))
        mean, raw = out.chunk(2, -1)
        return Gaussian(mean, functional.softplus(raw).clamp(min=MIN_VARIANCE))

    def forward(self, context: Tensor) -> Gaussian:
        """The belief after a context ``(n, N, inputs)`` that begins with nothing known."""
        return self.posterior(self.extend(None, context))
