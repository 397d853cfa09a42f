"""From observations to features and back: one interface, two ways for frames and one for states.

``JointPerception`` is the paper's: encoder and decoder belong to the latent model and are trained by its
evidence lower bound. ``CachedPerception`` is for small machines: a frame autoencoder is trained first and
refreshed now and then, the episode store keeps its features, and the latent model explains features
instead of pixels: an update then needs no convolutions, most of its price on a CPU. ``StatePerception`` has
nothing to encode.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from meld_agents.nets.heads import log_normal, mlp
from meld_agents.nets.images import ImageDecoder, ImageEncoder

#: Frames that inverse dynamics looks at.
INVERSE_FRAMES = 3

#: Frames encoded at once when whole blocks are encoded.
ENCODE_BATCH = 512


@dataclass(frozen=True, kw_only=True)
class FrameSettings:
    """Sizes of what sees frames."""

    filters: tuple[int, ...]
    feature_size: int
    nonlinearity: str
    hidden: int
    inverse_weight: float = 0.0


@dataclass(frozen=True, kw_only=True)
class PerceptionSettings(FrameSettings):
    """Sizes and likelihoods of perception."""

    image_std: float
    feature_std: float
    decoded_frames: int
    motion_scale: float = 0.0


def to_unit(frames: Tensor) -> Tensor:
    """uint8 frames ``(..., H, W, C)`` as float ``(..., C, H, W)`` in [0, 1]."""
    return frames.movedim(-1, -3).contiguous().float().div_(255.0)


def to_uint8(frames: Tensor) -> np.ndarray:
    """Float frames ``(N, C, H, W)`` as uint8 ``(N, H, W, C)``, clipped."""
    return (
        frames.clamp(0.0, 1.0).mul(255.0).round().to(torch.uint8).movedim(-3, -1).contiguous().cpu().numpy()
    )


class FrameEncoder(nn.Module):
    """The convolutional encoder alone (paper, Appendix A), for whoever sends it a gradient."""

    def __init__(self, shape: tuple[int, int, int], settings: FrameSettings) -> None:
        super().__init__()
        self.feature_size = settings.feature_size
        self.encoder = ImageEncoder(
            shape, settings.filters, settings.feature_size, settings.nonlinearity, linear_output=False
        )

    def encode(self, frames: Tensor) -> Tensor:
        """uint8 frames ``(N, H, W, C)`` to features ``(N, F)``."""
        return self.encoder(to_unit(frames))


class JointPerception(FrameEncoder):
    """Encoder and mirror decoder inside the latent model (paper, Appendix A)."""

    cached = False

    def __init__(self, shape: tuple[int, int, int], latent: int, settings: PerceptionSettings) -> None:
        super().__init__(shape, settings)
        self.settings = settings
        self.decoder = ImageDecoder(shape, settings.filters, latent, settings.nonlinearity)

    def log_likelihood(self, frames: Tensor, z: Tensor, generator: torch.Generator) -> Tensor:
        """Mean over frames of log p(x_t | z_t), pixels summed; frames ``(N, H, W, C)`` uint8, z ``(N, Z)``.

        Where ``decoded_frames`` is set, a random subset stands for all: the same expectation, cheaper.
        """
        count = self.settings.decoded_frames
        if 0 < count < len(z):
            chosen = torch.randperm(len(z), generator=generator, device=z.device)[:count]
            frames, z = frames[chosen], z[chosen]
        target = to_unit(frames).flatten(1)
        return log_normal(target, self.decoder(z).flatten(1), self.settings.image_std).mean()

    @torch.no_grad()
    def imagine(self, z: Tensor) -> np.ndarray:
        """The frames ``(N, H, W, C)`` uint8 that latents ``(N, Z)`` expect."""
        return to_uint8(self.decoder(z))


class FrameAutoencoder(nn.Module):
    """A frame autoencoder with standardised features."""

    def __init__(self, shape: tuple[int, int, int], settings: FrameSettings) -> None:
        super().__init__()
        layers, size = (shape, settings.filters), settings.feature_size
        self._sizes, self.feature_size = settings, size
        self.encoder = ImageEncoder(*layers, size, settings.nonlinearity, linear_output=True)
        self.decoder = ImageDecoder(*layers, size, settings.nonlinearity)
        self.inverse: nn.Module | None = None
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def add_inverse(self, action: int) -> None:
        """Builds the network for :meth:`inverse_losses`, where ``inverse_weight`` is set."""
        s = self._sizes
        if s.inverse_weight:
            inputs = INVERSE_FRAMES * s.feature_size + action
            self.inverse = mlp((inputs, s.hidden, s.hidden, action), s.nonlinearity)

    def autoencoder_parameters(self) -> list[nn.Parameter]:
        """What the losses below train."""
        inverse = self.inverse.parameters() if self.inverse is not None else ()
        return [*self.encoder.parameters(), *self.decoder.parameters(), *inverse]

    def autoencoder_loss(self, frames: Tensor) -> Tensor:
        """Mean squared error per pixel of uint8 frames ``(N, H, W, C)``."""
        target = to_unit(frames)
        return (self.decoder(self.encoder(target)) - target).square().mean()

    def inverse_losses(self, windows: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Errors of the middle frame's pixels and of the action taken there.

        What an action moves is what a robot must see; a thin limb before a chequered floor is too few pixels
        for the pixel error to care. (Inverse dynamics as in Pathak et al., 2017, over three frames, since
        torques change velocities.)

        Args:
            windows: successive uint8 frames ``(N, 3, H, W, C)``.
            actions: ``(N, 3, A)``, taken after each of them; the second one is predicted.
        """
        assert self.inverse is not None
        target = to_unit(windows)
        features = self.encoder(target.flatten(0, 1)).unflatten(0, windows.shape[:2])
        pixels = (self.decoder(features[:, 1]) - target[:, 1]).square().mean()
        predicted = self.inverse(torch.cat((features.flatten(1), actions[:, 0]), -1))
        return pixels, (predicted - actions[:, 1]).square().mean()

    @torch.no_grad()
    def standardise(self, frames: Tensor) -> None:
        """Fits shift and scale so that these frames' features have mean 0 and root mean square 1.

        One scale for all features: directions in which frames differ little must stay small.
        """
        raw = self.encoder(to_unit(frames))
        self.shift.copy_(raw.mean(0))
        self.scale.fill_((raw - raw.mean(0)).square().mean().sqrt().clamp(min=1e-6).item())

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """uint8 frames ``(N, H, W, C)`` to standardised features ``(N, F)``, without gradient."""
        parts = [
            (self.encoder(to_unit(part)) - self.shift) / self.scale for part in frames.split(ENCODE_BATCH)
        ]
        return torch.cat(parts)


class CachedPerception(FrameAutoencoder):
    """A frame autoencoder, and a decoder from latents to its features."""

    cached = True

    def __init__(
        self, shape: tuple[int, int, int], action: int, latent: int, settings: PerceptionSettings
    ) -> None:
        super().__init__(shape, settings)
        self.settings = settings
        self.feature_size = settings.feature_size * (2 if settings.motion_scale else 1)
        outputs = self.feature_size
        self.from_latent = mlp((latent, settings.hidden, settings.hidden, outputs), settings.nonlinearity)
        self.add_inverse(action)

    def with_motion(self, features: Tensor, previous: Tensor, starts: Tensor) -> Tensor:
        """Features and their scaled change since the last frame (0 at an episode's start).

        Explaining the change makes velocities a part of the latent state.

        Args:
            features: ``(..., F)``.
            previous: the features one step earlier, ``(..., F)``.
            starts: whether an episode starts here, ``(...)``.
        """
        scale = self.settings.motion_scale
        if not scale:
            return features
        return torch.cat((features, scale * (features - previous) * ~starts.unsqueeze(-1)), -1)

    def log_likelihood(self, features: Tensor, z: Tensor, generator: torch.Generator) -> Tensor:
        """Mean over frames of log p(f_t | z_t); features ``(N, F)``, z ``(N, Z)``."""
        del generator  # all frames count: features are cheap
        return log_normal(features, self.from_latent(z), self.settings.feature_std).mean()

    @torch.no_grad()
    def imagine(self, z: Tensor) -> np.ndarray:
        """The frames ``(N, H, W, C)`` uint8 that latents ``(N, Z)`` expect."""
        features = self.from_latent(z)[:, : self.settings.feature_size]
        return to_uint8(self.decoder(features * self.scale + self.shift))


class StatePerception(nn.Module):
    """For state observations: nothing to encode; a decoder from latents to the state."""

    cached = False

    def __init__(self, shape: tuple[int, ...], latent: int, settings: PerceptionSettings) -> None:
        super().__init__()
        self.settings, self.feature_size = settings, shape[0]
        self.from_latent = mlp((latent, settings.hidden, settings.hidden, shape[0]), settings.nonlinearity)

    def encode(self, states: Tensor) -> Tensor:
        """States ``(N, S)`` as they are."""
        return states.float()

    def log_likelihood(self, states: Tensor, z: Tensor, generator: torch.Generator) -> Tensor:
        """Mean over steps of log p(s_t | z_t); states ``(N, S)``, z ``(N, Z)``."""
        del generator
        return log_normal(states.float(), self.from_latent(z), self.settings.feature_std).mean()

    @torch.no_grad()
    def imagine(self, z: Tensor) -> np.ndarray:
        """The states ``(N, S)`` float32 that latents ``(N, Z)`` expect."""
        return self.from_latent(z).cpu().numpy()


Perception = JointPerception | CachedPerception | StatePerception


def make_perception(
    kind: str, shape: tuple[int, ...], action: int, latent: int, settings: PerceptionSettings
) -> Perception:
    """The perception named ``joint`` or ``cached`` for images ``(H, W, C)``, or for states ``(S,)``."""
    if len(shape) == 1:
        return StatePerception(shape, latent, settings)
    height, width, channels = shape
    if kind == "cached":
        return CachedPerception((height, width, channels), action, latent, settings)
    return JointPerception((height, width, channels), latent, settings)
