"""Training a frame autoencoder on what an agent has seen, and keeping its features beside the frames.

For agents whose perception is cached: the autoencoder is trained before anything else, then now and then a
little more, since later policies see other frames than the first; each time all frames are encoded anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from meld_agents.nets.perception import INVERSE_FRAMES, FrameAutoencoder

#: Frames to which the features' shift and scale are fitted.
STANDARDISED_FRAMES = 2048


class FrameStore(Protocol):
    """Where frames come from and features go to."""

    def sample_frames(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Single frames ``(count, H, W, C)`` uint8."""

    def sample_windows(
        self, rng: np.random.Generator, count: int, length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Successive frames ``(count, length, H, W, C)`` and actions ``(count, length, A)``."""

    def cache_features(self, encode: Callable[[np.ndarray], np.ndarray], again: bool = False) -> None:
        """Encodes the frames that have no features yet, or all."""


@dataclass(frozen=True)
class AutoencoderSettings:
    """When and how a frame autoencoder is trained; agents' settings have fields of the same names."""

    autoencoder_updates: int
    autoencoder_batch: int
    autoencoder_learning_rate: float
    autoencoder_refresh_rounds: int
    autoencoder_refresh_updates: int
    autoencoder_refresh_learning_rate: float
    inverse_weight: float


class Autoencoding:
    """The training of a frame autoencoder; of any other perception there is nothing to do.

    Args:
        perception: trained if it is a :class:`FrameAutoencoder`; on ``device`` already.
        settings: see :class:`AutoencoderSettings`.
        device: torch device.

    Attributes:
        parameters: what is trained here, and by nobody else.
        done: updates made so far.
    """

    def __init__(
        self, perception: nn.Module | None, settings: AutoencoderSettings, device: torch.device
    ) -> None:
        self._settings, self._device = settings, device
        self._perception: FrameAutoencoder | None = None
        self.parameters: list[nn.Parameter] = []
        self.done = 0
        if isinstance(perception, FrameAutoencoder):
            self._perception = perception
            self.parameters = perception.autoencoder_parameters()
            self._optimiser = torch.optim.Adam(
                self.parameters, lr=settings.autoencoder_learning_rate, fused=True
            )

    @property
    def due(self) -> int:
        """Updates still to be made before features are of use."""
        if self._perception is None:
            return 0
        return max(0, self._settings.autoencoder_updates - self.done)

    def train(self, store: FrameStore, rng: np.random.Generator, count: int) -> dict[str, float]:
        """Makes ``count`` of the updates that are due; after the last, all frames are encoded."""
        losses = self._updates(store, rng, count)
        if not self.due:
            assert self._perception is not None
            self._perception.standardise(self._tensor(store.sample_frames(rng, STANDARDISED_FRAMES)))
            store.cache_features(self._encode, again=True)
        return losses

    def encode_new(self, store: FrameStore) -> None:
        """Features for the frames that have none, once the autoencoder is trained."""
        if self._perception is not None and not self.due:
            store.cache_features(self._encode)

    def refresh_due(self, rounds: int) -> bool:
        """Whether after so many rounds of collecting it is to be trained on."""
        every = self._settings.autoencoder_refresh_rounds
        return self._perception is not None and every > 0 and rounds % every == 0

    def refresh(self, store: FrameStore, rng: np.random.Generator) -> dict[str, float]:
        """Makes ``autoencoder_refresh_updates`` more; encodes all frames anew, shift and scale as before."""
        for group in self._optimiser.param_groups:
            group["lr"] = self._settings.autoencoder_refresh_learning_rate
        losses = self._updates(store, rng, self._settings.autoencoder_refresh_updates)
        store.cache_features(self._encode, again=True)
        return losses

    def _updates(self, store: FrameStore, rng: np.random.Generator, count: int) -> dict[str, float]:
        total = torch.zeros((), device=self._device)
        for _ in range(count):
            loss = self._loss(store, rng)
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self._optimiser.step()
            total += loss.detach()
        self.done += count
        return {"autoencoder_loss": float(total) / max(count, 1)}

    def _loss(self, store: FrameStore, rng: np.random.Generator) -> Tensor:
        assert self._perception is not None
        count, weight = self._settings.autoencoder_batch, self._settings.inverse_weight
        if not weight:
            return self._perception.autoencoder_loss(self._tensor(store.sample_frames(rng, count)))
        sampled = store.sample_windows(rng, max(1, count // INVERSE_FRAMES), INVERSE_FRAMES)
        pixels, inverse = self._perception.inverse_losses(*map(self._tensor, sampled))
        return pixels + weight * inverse

    def _encode(self, frames: np.ndarray) -> np.ndarray:
        assert self._perception is not None
        return self._perception.encode(self._tensor(frames)).cpu().numpy()

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def state_dict(self) -> dict[str, Any]:
        """The optimiser and the count; weights belong to the perception."""
        return {
            "done": self.done,
            "optimiser": None if self._perception is None else self._optimiser.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Restores what ``state_dict`` gave."""
        self.done = state["done"]
        if self._perception is not None:
            self._optimiser.load_state_dict(state["optimiser"])
