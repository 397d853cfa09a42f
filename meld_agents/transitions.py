"""Transitions by task, for agents that learn from unordered steps: one gather per batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from meld_agents.episodes import EpisodeStore, Trials

#: Where context comes from: the latest trial of a task, or all of them.
Recency = Literal["recent", "all"]


class Batch(NamedTuple):
    """Transitions of M tasks, N each; axes ``(M, N, ...)``, float32.

    Attributes:
        observation: ``(M, N, S)`` before the step.
        action: ``(M, N, A)``.
        reward: ``(M, N)``, what the agent was given on arriving.
        reward_dense: ``(M, N)``, the dense one.
        next_observation: ``(M, N, S)``.
    """

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    reward_dense: np.ndarray
    next_observation: np.ndarray


class TransitionStore:
    """All steps of meta-training. Episodes have one length; the frames of a trial lie together.

    Args:
        num_tasks: length of the train task list.
    """

    def __init__(self, num_tasks: int) -> None:
        self._episodes = EpisodeStore(num_tasks)
        self._reset()

    def _reset(self) -> None:
        self._size = 0
        self._frames: list[np.ndarray] = []
        self._starts: list[list[int]] = [[] for _ in range(self._episodes.num_tasks)]
        self._telling: list[tuple[int, int]] = [(0, -1)] * self._episodes.num_tasks  # trial, rewarded episode
        self._shape = (0, 0)  # episodes of a trial, frames of an episode

    @property
    def num_trials(self) -> int:
        """Trials held, all tasks together."""
        return self._episodes.num_trials

    @property
    def ready(self) -> np.ndarray:
        """Indices of the tasks that have data."""
        return np.flatnonzero([bool(starts) for starts in self._starts])

    @property
    def rewarded(self) -> np.ndarray:
        """Indices of the tasks in which there ever was a reward."""
        return np.flatnonzero([episode >= 0 for _, episode in self._telling])

    def add(self, tasks: np.ndarray, trials: Trials) -> None:
        """Appends n lived trials; ``tasks`` ``(n,)`` are indices into the train list.

        Raises:
            ValueError: shapes that do not agree, or a task index out of range.
        """
        self._episodes.add(tasks, trials)
        self._append(tasks, trials)

    def _append(self, tasks: np.ndarray, trials: Trials) -> None:
        count, *shape = trials.action.shape[:3]
        self._shape = (shape[0], shape[1])
        new = count * shape[0] * shape[1]
        flat = [array.reshape(new, *array.shape[3:]).astype(np.float32, copy=False) for array in trials]
        self._reserve(self._size + new, flat)
        for held, array in zip(self._frames, flat, strict=True):
            held[self._size : self._size + new] = array
        for row, task in enumerate(tasks):
            begin = self._size + row * shape[0] * shape[1]
            self._starts[task].append(begin)
            rewarded = np.flatnonzero(trials.reward[row].any(-1))
            if len(rewarded):
                self._telling[task] = (begin, int(rewarded[0]))
            elif self._telling[task][1] < 0:
                self._telling[task] = (begin, -1)
        self._size += new

    def _reserve(self, size: int, like: Sequence[np.ndarray]) -> None:
        if not self._frames:
            self._frames = [np.empty((size, *array.shape[1:]), np.float32) for array in like]
        elif size > len(self._frames[0]):
            room = max(size, 2 * len(self._frames[0]))
            for index, held in enumerate(self._frames):
                grown = np.empty((room, *held.shape[1:]), np.float32)
                grown[: self._size] = held[: self._size]
                self._frames[index] = grown

    def sample(
        self,
        rng: np.random.Generator,
        tasks: np.ndarray,
        count: int,
        episodes: int | None = None,
        recency: Recency = "all",
    ) -> Batch:
        """``count`` transitions of each of the tasks ``(M,)``, uniformly and with replacement.

        Args:
            rng: decides everything.
            tasks: indices of tasks that have data.
            count: N.
            episodes: only from so many first episodes of each trial; from all by default.
            recency: from the latest trial of a task only, or from all.
        """
        per_trial, frames = self._shape
        steps = frames - 1
        from_episodes = per_trial if episodes is None else min(episodes, per_trial)
        starts = np.empty((len(tasks), count), np.int64)
        for row, task in enumerate(tasks):
            of_task = self._starts[task]
            starts[row] = (
                of_task[-1]
                if recency == "recent"
                else np.asarray(of_task)[rng.integers(len(of_task), size=count)]
            )
        within = rng.integers(from_episodes * steps, size=starts.shape)
        at = starts + within // steps * frames + within % steps
        return self._at(at)

    def sample_episodes(self, rng: np.random.Generator, tasks: np.ndarray, at_most: int) -> Batch:
        """All transitions of k episodes of one trial of each task ``(M,)``, k drawn for all of them together.

        The trial is the task's latest one that was ever rewarded, or its latest; the first rewarded episode
        is always among the k, the others are the trial's first.

        Args:
            rng: draws k.
            tasks: indices of tasks that have data.
            at_most: transitions of a task, as far as that is an episode's.
        """
        per_trial, frames = self._shape
        most = min(per_trial, max(1, at_most // (frames - 1)))
        count = int(rng.integers(1, most + 1))
        within = (np.arange(count)[:, np.newaxis] * frames + np.arange(frames - 1)).ravel()
        at = np.empty((len(tasks), len(within)), np.int64)
        for row, task in enumerate(tasks):
            begin, rewarded = self._telling[task]
            at[row] = begin + within
            if rewarded >= count:
                at[row, 1 - frames :] = begin + rewarded * frames + np.arange(frames - 1)
        return self._at(at)

    def _at(self, at: np.ndarray) -> Batch:
        """The transitions that leave these frames, ``(M, N)``."""
        observation, action, reward, dense = self._frames
        return Batch(observation[at], action[at], reward[at + 1], dense[at + 1], observation[at + 1])

    def save(self, folder: Path) -> list[str]:
        """Writes what is not on disk yet; returns the blocks' digests (see ``EpisodeStore.save``)."""
        return self._episodes.save(folder)

    def load(self, folder: Path, digests: Sequence[str]) -> None:
        """Replaces what is held; raises as ``EpisodeStore.load`` does."""
        self._episodes.load(folder, digests)
        self._reset()
        for tasks, trials in self._episodes.blocks():
            self._append(tasks, trials)
