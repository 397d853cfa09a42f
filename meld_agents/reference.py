"""Reference agents: what no learning gives (``random``) and what the family allows (``expert``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from meld_agents.interface import Evidence, MakeEnv, Progress


class Reference:
    """An agent that does not learn: no settings, nothing to save.

    ``learns`` tells the runner that meta-training takes no time and no environment steps.
    """

    learns = False

    def __init__(self, make_env: MakeEnv, settings: Mapping[str, Any], seed: int, device: str) -> None:
        self._make_env = make_env
        self._seed = seed

    @classmethod
    def resolve(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Returns no settings; raises ``ValueError`` if any were given."""
        if settings:
            raise ValueError(f"{cls.__name__.lower()} has no settings; unknown key {next(iter(settings))!r}")
        return {}

    def meta_train(self, env_steps: int) -> Iterator[Progress]:
        """Yields nothing: there is nothing to train."""
        return iter(())

    def save(self, directory: Path) -> None:
        """Writes nothing: there is no state."""

    def load(self, directory: Path) -> None:
        """Reads nothing."""


class Random(Reference):
    """Acts uniformly at random over the action space."""

    def __init__(self, make_env: MakeEnv, settings: Mapping[str, Any], seed: int, device: str) -> None:
        super().__init__(make_env, settings, seed, device)
        env = make_env(1)
        self._space = env.single_action_space
        env.close()

    def policy(self, num_trials: int, explore: bool, seed: int = 0) -> RandomPolicy:
        return RandomPolicy(
            self._space.low, self._space.high, num_trials, np.random.default_rng([self._seed, seed])
        )


class RandomPolicy:
    """Uniform actions between ``low`` and ``high``, ``(A,)`` each."""

    def __init__(
        self, low: np.ndarray, high: np.ndarray, num_trials: int, generator: np.random.Generator
    ) -> None:
        self._low, self._high = low, high
        self._num_trials = num_trials
        self._generator = generator

    def start_trial(self) -> None:
        """Nothing to forget."""

    def act(self, evidence: Evidence) -> np.ndarray:
        shape = (self._num_trials, *self._low.shape)
        return self._generator.uniform(self._low, self._high, shape).astype(np.float32)


class Expert(Reference):
    """The family's scripted expert, which knows the task: an upper reference, not a learner."""

    def policy(self, num_trials: int, explore: bool, seed: int = 0) -> ExpertPolicy:
        raise TypeError("the expert acts from the true task: use privileged_policy(env, seed)")

    def privileged_policy(self, env: VectorEnv, seed: int = 0) -> ExpertPolicy:
        return ExpertPolicy(env)


class ExpertPolicy:
    """Asks the environment for its expert's actions, whatever the evidence."""

    def __init__(self, env: VectorEnv) -> None:
        self._env: Any = env.unwrapped

    def start_trial(self) -> None:
        """Nothing to forget."""

    def act(self, evidence: Evidence) -> np.ndarray:
        return np.asarray(self._env.expert_action(), np.float32)
