"""Reference agents: what chance gives (``random``), a search (``explorer``), and knowing (``expert``)."""

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


class Explorer(Reference):
    """Tries the candidates for what is hidden in turn, until the sparse reward says which is right.

    The reference for exploration under sparse rewards: it moves as well as the expert, but knows only what
    the reward has told. For families with candidates to try (ButtonPress, PegInsert).
    """

    def __init__(self, make_env: MakeEnv, settings: Mapping[str, Any], seed: int, device: str) -> None:
        """Checks at once that there is something to explore.

        Raises:
            ValueError: a family without candidates, or the dense reward.
        """
        super().__init__(make_env, settings, seed, device)
        env = make_env(1)
        ExplorerPolicy(env)
        env.close()

    def policy(self, num_trials: int, explore: bool, seed: int = 0) -> ExplorerPolicy:
        raise TypeError("the explorer moves by the family's own script: use privileged_policy(env, seed)")

    def privileged_policy(self, env: VectorEnv, seed: int = 0) -> ExplorerPolicy:
        return ExplorerPolicy(env)


class ExplorerPolicy:
    """Per trial: which candidates are ruled out, and which one the reward has confirmed."""

    def __init__(self, env: Any) -> None:
        """Takes the batched environment that it will act in.

        Raises:
            ValueError: a family without candidates, or the dense reward, which tells too much.
        """
        self._env = env.unwrapped
        if not self._env.family.has_candidates:
            raise ValueError(f"{self._env.family.name} has no candidates that the explorer could try in turn")
        if self._env.config.reward_type != "sparse":
            raise ValueError(
                "the explorer goes by the sparse reward: make the environment with reward_type='sparse'"
            )
        self.start_trial()

    def start_trial(self) -> None:
        """Anything may be right again."""
        self._wrong: np.ndarray | None = None  # (n, C)
        self._right = np.full(self._env.num_envs, -1)

    def act(self, evidence: Evidence) -> np.ndarray:
        tried = self._env.candidates_tried()
        if self._wrong is None:
            self._wrong = np.zeros_like(tried)
        rewarded = np.asarray(evidence.reward) > 0
        self._right = np.where(rewarded & (self._right < 0), tried.argmax(axis=1), self._right)
        self._wrong |= tried & ~rewarded[:, np.newaxis]
        next_one = np.where(self._right >= 0, self._right, self._wrong.argmin(axis=1))
        return np.asarray(self._env.candidate_action(next_one), np.float32)
