"""Fully connected parts: MLPs and diagonal Gaussian heads, Xavier-initialised."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "silu": nn.SiLU}

#: Negative slope of the leaky ReLU in the authors' released model.
LEAKY_SLOPE = 0.2

#: Smallest standard deviation of a latent distribution in the authors' released model.
MIN_STD = 1e-5


def activation(name: str) -> nn.Module:
    """The named non-linearity; ``leaky_relu`` with the released model's slope."""
    return nn.LeakyReLU(LEAKY_SLOPE) if name == "leaky_relu" else ACTIVATIONS[name]()


def xavier(module: nn.Module) -> nn.Module:
    """Xavier-uniform weights and zero biases in every linear and convolutional layer of ``module``.

    With PyTorch's default the convolutional decoder stays at the mean image for hundreds of updates.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


def mlp(sizes: Sequence[int], nonlinearity: str = "relu", layer_norm: bool = False) -> nn.Sequential:
    """Linear layers of the given sizes, a non-linearity between them, a linear output.

    Args:
        sizes: input, hidden and output widths.
        nonlinearity: a key of ``ACTIVATIONS``.
        layer_norm: normalises before each non-linearity; long trials need it (51 frames of plain
            Xavier-initialised recurrence can blow up).
    """
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(sizes)):
        layers.append(nn.Linear(before, after))
        if i < len(sizes) - 2:
            if layer_norm:
                layers.append(nn.LayerNorm(after))
            layers.append(activation(nonlinearity))
    net = nn.Sequential(*layers)
    xavier(net)
    return net


def _inverse_softplus(value: float) -> float:
    return math.log(math.expm1(value))


def _output_bias(net: nn.Sequential) -> Tensor:
    output = net[-1]
    assert isinstance(output, nn.Linear)
    return output.bias


class GaussianHead(nn.Module):
    """An MLP that gives mean and standard deviation ``(..., size)`` of a diagonal Gaussian."""

    def __init__(
        self,
        inputs: int,
        size: int,
        hidden: int,
        nonlinearity: str,
        layer_norm: bool,
        initial_std: float | None = None,
    ) -> None:
        super().__init__()
        self.net = mlp((inputs, hidden, hidden, 2 * size), nonlinearity, layer_norm)
        if initial_std is not None:
            with torch.no_grad():  # softplus(bias) = initial_std
                _output_bias(self.net)[size:].fill_(_inverse_softplus(initial_std))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, each ``(..., size)``."""
        mean, raw = self.net(inputs).chunk(2, dim=-1)
        return mean, functional.softplus(raw) + MIN_STD


class GatedGaussianHead(nn.Module):
    """A Gaussian whose mean moves from ``previous`` towards a proposal by a learned gate.

    Remembering is the default and changing one's mind is what must be learned: a deviation from
    the paper (whose networks must learn the identity to remember at all), off in the ``paper`` base.
    """

    def __init__(
        self,
        inputs: int,
        size: int,
        hidden: int,
        nonlinearity: str,
        layer_norm: bool,
        initial_std: float = 0.05,
    ) -> None:
        super().__init__()
        self.net = mlp((inputs, hidden, hidden, 3 * size), nonlinearity, layer_norm)
        with torch.no_grad():
            _output_bias(self.net)[size : 2 * size].fill_(-1.0)  # gates start a quarter open
            _output_bias(self.net)[2 * size :].fill_(_inverse_softplus(initial_std))

    def forward(self, inputs: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, each ``(..., size)``, given the previous latent ``(..., size)``."""
        proposal, gate, raw = self.net(inputs).chunk(3, dim=-1)
        mean = torch.lerp(previous, torch.tanh(proposal), torch.sigmoid(gate))
        return mean, functional.softplus(raw) + MIN_STD


def log_normal(value: Tensor, mean: Tensor, std: float) -> Tensor:
    """Log-density of an independent Gaussian with one fixed ``std``, summed over the last axis."""
    constant = -value.shape[-1] * (0.5 * math.log(2 * math.pi) + math.log(std))
    return constant - 0.5 * ((value - mean) / std).square().sum(-1)


def kl_normal(mean_q: Tensor, std_q: Tensor, mean_p: Tensor, std_p: Tensor) -> Tensor:
    """KL(q ‖ p) of diagonal Gaussians, summed over the last axis."""
    ratio = (std_q / std_p).square()
    distance = ((mean_q - mean_p) / std_p).square()
    return 0.5 * (ratio + distance - 1.0 - ratio.log()).sum(-1)
