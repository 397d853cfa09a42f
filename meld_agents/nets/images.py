"""Image encoder and its mirror decoder (paper, Appendix A; kernel sizes 5, 3, 3, 3, 4).

Images of any size ``2^k × m·2^k`` are halved until four rows remain and then read by one window over
all that is left. Where an image is m times as wide as high (cameras side by side), kernels are m
times as wide too, as in the authors' model.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from meld_agents.nets.heads import activation, xavier

#: Rows left when halving ends.
LAST_ROWS = 4


def halvings(height: int, width: int) -> int:
    """How many layers of stride 2 lie before the last window.

    Raises:
        ValueError: the height is not a power of two ≥ 8, or the width no multiple of the height.
    """
    if height < 8 or height & (height - 1) or width % height:
        raise ValueError(f"images must be 2^k × m·2^k with 2^k ≥ 8, got {height}×{width}")
    return height.bit_length() - 1 - LAST_ROWS.bit_length() + 1


def _plan(height: int, width: int, filters: Sequence[int]) -> tuple[list[int], list[tuple[int, int]], int]:
    """Output channels and kernels of the halving layers, and how many times wider than high the image is."""
    count, ratio = halvings(height, width), width // height
    if len(filters) < count:
        raise ValueError(f"{height}×{width} images need at least {count} filters, got {list(filters)}")
    kernels = [(5, 5 * ratio)] + [(3, 3 * ratio)] * (count - 1)
    return list(filters[:count]), kernels, ratio


def _padding(kernel: tuple[int, int]) -> tuple[int, int]:
    """Padding with which a stride-2 convolution halves an even size exactly."""
    return (kernel[0] - 1) // 2, (kernel[1] - 1) // 2


class ImageEncoder(nn.Module):
    """Frames ``(N, C, H, W)`` in [0, 1] to features ``(N, size)``, the last layer linear if asked."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        filters: Sequence[int],
        size: int,
        nonlinearity: str,
        linear_output: bool,
    ) -> None:
        super().__init__()
        height, width, channels = shape
        outs, kernels, ratio = _plan(height, width, filters)
        layers: list[nn.Module] = []
        for out, kernel in zip(outs, kernels):
            layers += [
                nn.Conv2d(channels, out, kernel, stride=2, padding=_padding(kernel)),
                activation(nonlinearity),
            ]
            channels = out
        layers += [nn.Conv2d(channels, size, (LAST_ROWS, LAST_ROWS * ratio)), nn.Flatten()]
        if not linear_output:
            layers.append(activation(nonlinearity))
        self.net = xavier(nn.Sequential(*layers))

    def forward(self, frames: Tensor) -> Tensor:
        """Features ``(N, size)``."""
        return self.net(frames)


class ImageDecoder(nn.Module):
    """Vectors ``(N, size)`` to frames ``(N, C, H, W)``, unbounded (the likelihood's mean)."""

    def __init__(
        self, shape: tuple[int, int, int], filters: Sequence[int], size: int, nonlinearity: str
    ) -> None:
        super().__init__()
        height, width, channels = shape
        outs, kernels, ratio = _plan(height, width, filters)
        layers: list[nn.Module] = [nn.Unflatten(1, (size, 1, 1))]
        layers += [
            nn.ConvTranspose2d(size, outs[-1], (LAST_ROWS, LAST_ROWS * ratio)),
            activation(nonlinearity),
        ]
        for i in range(len(outs) - 1, -1, -1):
            after, kernel = (outs[i - 1] if i else channels), kernels[i]
            odd = (kernel[0] % 2, kernel[1] % 2)
            layers.append(
                nn.ConvTranspose2d(
                    outs[i], after, kernel, stride=2, padding=_padding(kernel), output_padding=odd
                )
            )
            if i:
                layers.append(activation(nonlinearity))
        self.net = xavier(nn.Sequential(*layers))

    def forward(self, vectors: Tensor) -> Tensor:
        """Frames ``(N, C, H, W)``."""
        return self.net(vectors)
