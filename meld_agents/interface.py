"""All that the runner knows of an agent, and all that an agent knows of the runner.

Third parties write a class with the five methods of :class:`Agent`; nothing of ``meld_agents``
needs to be imported for that (these are structural protocols), and torch is not needed either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from gymnasium.spaces import Box


class TrialEnv(Protocol):
    """What agents may know of a batched environment (``meld_envs.env.TaskVectorEnv`` is one).

    Attributes:
        num_envs: trials side by side, n.
        single_observation_space: of one trial.
        single_action_space: of one trial.
        task_set: has ``train`` and ``test``, sequences of tasks.
        episode_steps: steps per episode, T.
        episodes_per_trial: K.
    """

    num_envs: int
    single_observation_space: Box
    single_action_space: Box  # in [−1, 1]
    episode_steps: int
    episodes_per_trial: int

    @property
    def task_set(self) -> Any: ...

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]: ...

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]: ...

    def close(self) -> None: ...


#: Makes the batched environment of the *train* split with so many trials at once.
MakeEnv = Callable[[int], TrialEnv]


class Evidence(NamedTuple):
    """What all n trials receive at one step (paper, Section 4.1: x_t and r_t).

    Attributes:
        observation: frames ``(n, H, W, C)`` uint8, or states ``(n, S)`` float32.
        reward: ``(n,)`` float32, the reward received on *arriving* at this observation; 0 at
            the first observation of an episode.
        episode_start: ``(n,)`` bool, true at the first observation of every episode.
    """

    observation: np.ndarray
    reward: np.ndarray
    episode_start: np.ndarray


@dataclass(frozen=True)
class Progress:
    """One slice of meta-training, small enough that the runner may stop after any of them.

    Attributes:
        env_steps: environment steps taken since meta-training began.
        updates: gradient updates made since meta-training began.
        losses: the slice's mean losses and diagnostics by name, for ``train.csv``.
    """

    env_steps: int
    updates: int
    losses: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Policy(Protocol):
    """The acting side: n trials at once, a belief per trial.

    A policy *may* also have two methods that the runner looks for: ``belief() -> (n, D)``
    float32, the belief after the last evidence (probed for what it knows), and
    ``imagine() -> (n, H, W, C)`` uint8, the frames that this belief expects to see (film strips).
    """

    def start_trial(self) -> None:
        """Forgets everything: new, unknown tasks begin with the next evidence."""

    def act(self, evidence: Evidence) -> np.ndarray:
        """Updates the beliefs with the evidence and returns actions ``(n, A)`` float32.

        Called once more after a trial's last step; what it returns then is ignored.
        """


class Agent(Protocol):
    """A meta-learner. ``Agent(make_env, settings, seed, device)`` builds it.

    ``make_env(n)`` gives the batched train-split environment; its ``task_set``, ``episode_steps``,
    ``episodes_per_trial`` and spaces say all that there is to know of the family. A reference that
    may look behind the curtain has ``privileged_policy(env, seed)`` beside ``policy``.
    """

    def __init__(self, make_env: MakeEnv, settings: Mapping[str, Any], seed: int, device: str) -> None: ...

    @classmethod
    def resolve(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Completes the settings with defaults; raises ``ValueError`` on an unknown key or a bad value."""

    def meta_train(self, env_steps: int) -> Iterator[Progress]:
        """Trains until ``env_steps`` in total, yielding as it goes; after ``load`` it goes on from there."""

    def policy(self, num_trials: int, explore: bool, seed: int = 0) -> Policy:
        """The acting side with the present weights; ``explore=False`` takes the mean action."""

    def save(self, directory: Path) -> None:
        """Writes everything that training depends on, generators included, into an existing empty folder.

        Data that only grows (episodes) may be kept beside the folder, in ``directory.parent``.
        """

    def load(self, directory: Path) -> None:
        """Restores what ``save`` wrote; raises if any of it is missing or damaged."""
