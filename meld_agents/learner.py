"""What agents that learn have in common: generators, counts, and checkpoints that lose nothing."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from meld_agents.episodes import Trials
from meld_agents.interface import MakeEnv, Policy, TrialEnv
from meld_agents.rollout import live_trials


class Part(Protocol):
    """A network, an optimiser, or whatever else has a state."""

    def state_dict(self) -> Any:
        """All that training depends on."""

    def load_state_dict(self, state: Any, /) -> Any:
        """Restores it."""


class Store(Protocol):
    """Episodes that are saved beside a checkpoint, each block once."""

    def add(self, tasks: np.ndarray, trials: Trials) -> None:
        """Appends lived trials."""

    def save(self, folder: Path) -> list[str]:
        """Writes what is new; returns the digests of all."""

    def load(self, folder: Path, digests: Sequence[str]) -> None:
        """Reads so many blocks again."""


class Learner:
    """The base of our learning agents; see ``interface.Agent`` for what its methods promise.

    Attributes:
        tasks: the train tasks.
        action_size: A.
        env_steps: environment steps taken since meta-training began.
        updates: gradient updates made since meta-training began.
        rounds: of collecting and training.
    """

    store: Store
    #: Plain numbers that a checkpoint holds.
    _COUNTS: ClassVar[tuple[str, ...]] = ("env_steps", "updates", "rounds")

    def __init__(self, make_env: MakeEnv, seed: int, device: str) -> None:
        self.device = torch.device(device)
        self._make_env, self._env = make_env, make_env(1)
        self.action_size = self._env.single_action_space.shape[0]
        self.tasks = list(self._env.task_set.train)
        self._rng = np.random.default_rng(np.random.SeedSequence(seed))
        self._generator = torch.Generator(self.device).manual_seed(int(self._rng.integers(2**62)))
        self.env_steps = self.updates = self.rounds = 0

    def _build_seeded(self) -> None:
        """Builds the networks; their initial weights follow from the seed, and nothing else is touched."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(int(self._rng.integers(2**62)))
            self._build()

    def _build(self) -> None:
        """Networks and optimisers; draws initial weights."""
        raise NotImplementedError

    def _parts(self) -> dict[str, Part]:
        """All that a checkpoint holds of networks and optimisers, by name."""
        raise NotImplementedError

    def _env_of(self, count: int) -> TrialEnv:
        """The train environment with so many trials at once."""
        if self._env.num_envs != count:
            self._env.close()
            self._env = self._make_env(count)
        return self._env

    def _live(self, chosen: np.ndarray, policy: Policy, dense_evidence: bool = False) -> Trials:
        """Lives a trial of each chosen task, keeps it, and counts its steps."""
        tasks = [self.tasks[index] for index in chosen]
        trials = live_trials(self._env_of(len(chosen)), policy, tasks, self._draw_seed(), dense_evidence)
        self.store.add(chosen, trials)
        count, episodes, frames = trials.action.shape[:3]
        self.env_steps += count * episodes * (frames - 1)
        return trials

    def _draw_seed(self) -> int:
        return int(self._rng.integers(2**31))

    def _tensor(self, array: np.ndarray | None) -> Tensor:
        assert array is not None
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _averaged(
        self, update: Callable[[], dict[str, Tensor]], count: int, counted: bool = True
    ) -> dict[str, float]:
        """Makes ``count`` updates; returns their mean losses, with one wait for the device.

        Those of an actor-critic that follow the model's are not ``counted`` beside them.
        """
        sums: dict[str, Tensor] = {}
        for _ in range(count):
            for name, value in update().items():
                sums[name] = sums.get(name, 0.0) + value.detach()
        self.updates += count if counted else 0
        return {name: float(value) / count for name, value in sums.items()}

    def save(self, directory: Path) -> None:
        """Weights, optimisers, generators and counts; episodes lie beside the folder, each block once."""
        state = {
            "parts": {name: part.state_dict() for name, part in self._parts().items()},
            "generator": self._generator.get_state(),
            "rng": self._rng.bit_generator.state,
            "counts": {name: getattr(self, name) for name in self._COUNTS},
            "episodes": self.store.save(directory.parent / "episodes"),
        }
        buffer = io.BytesIO()  # torch's own writer hides what the system said, a full disk for one
        torch.save(state, buffer)
        (directory / "agent.pt").write_bytes(buffer.getbuffer())

    def load(self, directory: Path) -> None:
        """Restores what ``save`` wrote.

        Raises:
            ValueError: episodes are missing or damaged, or the checkpoint is of other settings.
        """
        state = torch.load(directory / "agent.pt", map_location=self.device, weights_only=True)
        try:
            for name, part in self._parts().items():
                part.load_state_dict(state["parts"][name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise ValueError(f"{directory} was written with other settings: {error}") from error
        self._generator.set_state(state["generator"].cpu())
        self._rng.bit_generator.state = state["rng"]
        for name in self._COUNTS:
            setattr(self, name, state["counts"][name])
        self.store.load(directory.parent / "episodes", state["episodes"])
