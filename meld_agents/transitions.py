"""Transitions by task, for agents that learn from steps or from whole episodes: one gather per batch.

States, actions and rewards lie in flat arrays. Images stay where the episodes are, held once and as uint8;
where an autoencoder gives features of them, these lie in the states' place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from meld_agents.episodes import EpisodeStore, Trials

#: Where context comes from: the latest trial of a task, or all of them.
Recency = Literal["recent", "all"]


class Batch(NamedTuple):
    """Transitions of M tasks, N each; axes ``(M, N, ...)``, float32.

    Attributes:
        observation: before the step: states or features ``(M, N, S)``, or images ``(M, N, H, W, C)`` uint8.
        action: ``(M, N, A)``.
        reward: ``(M, N)``, what the agent was given on arriving.
        reward_dense: ``(M, N)``, the dense one.
        next_observation: as ``observation``, after the step.
    """

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    reward_dense: np.ndarray
    next_observation: np.ndarray


class _Rows:
    """An array that grows at its end; its room doubles, so that a row costs the same throughout."""

    def __init__(self) -> None:
        self._room, self._size = np.empty(0), 0

    def __len__(self) -> int:
        return self._size

    @property
    def held(self) -> np.ndarray:
        """All rows, as a view."""
        return self._room[: self._size]

    def append(self, rows: np.ndarray) -> None:
        """Adds rows ``(n, ...)``."""
        size = self._size + len(rows)
        if size > len(self._room):
            room = np.empty((max(size, 2 * len(self._room)), *rows.shape[1:]), rows.dtype)
            if self._size:
                room[: self._size] = self.held
            self._room = room
        self._room[self._size : size] = rows
        self._size = size

    def clear(self) -> None:
        """Forgets the rows, and keeps their room."""
        self._size = 0


class TransitionStore:
    """All steps of meta-training. Episodes have one length; the frames of a trial lie together.

    Args:
        num_tasks: length of the train task list.
    """

    def __init__(self, num_tasks: int) -> None:
        self._episodes = EpisodeStore(num_tasks)
        self._reset()

    def _reset(self) -> None:
        self._seen = _Rows()  # states, or features of images
        self._action, self._reward, self._dense = _Rows(), _Rows(), _Rows()
        self._starts = [_Rows() for _ in range(self._episodes.num_tasks)]
        # of each task: a trial's first frame, and its first rewarded episode or -1
        self._telling: list[tuple[int, int]] = [(0, -1)] * self._episodes.num_tasks
        self._shape = (0, 0)  # episodes of a trial, frames of an episode

    @property
    def num_trials(self) -> int:
        """Trials held, all tasks together."""
        return self._episodes.num_trials

    @property
    def nbytes(self) -> int:
        """Bytes of all that is held; room for growth does not count."""
        flat = (self._seen, self._action, self._reward, self._dense, *self._starts)
        return self._episodes.nbytes + sum(rows.held.nbytes for rows in flat)

    @property
    def ready(self) -> np.ndarray:
        """Indices of the tasks that have data."""
        return np.flatnonzero([len(starts) > 0 for starts in self._starts])

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
        _, episodes, frames = trials.action.shape[:3]
        self._shape = (episodes, frames)
        for row, task in enumerate(tasks):
            begin = len(self._action) + row * episodes * frames
            self._starts[task].append(np.array([begin]))
            rewarded = np.flatnonzero(trials.reward[row].any(-1))
            if len(rewarded):
                self._telling[task] = (begin, int(rewarded[0]))
            elif self._telling[task][1] < 0:
                self._telling[task] = (begin, -1)
        self._action.append(_flat(trials.action))
        self._reward.append(_flat(trials.reward))
        self._dense.append(_flat(trials.reward_dense))
        if trials.observation.ndim == 4:
            self._seen.append(_flat(trials.observation))

    def cache_features(self, encode: Callable[[np.ndarray], np.ndarray], again: bool = False) -> None:
        """Puts ``encode(frames (N, H, W, C)) -> (N, F)`` in the states' place, for new frames or for all."""
        if again:
            self._seen.clear()
        end = 0
        for _, trials in self._episodes.blocks():
            end += trials.reward.size
            if end > len(self._seen):
                frames = trials.observation.reshape(-1, *trials.observation.shape[3:])
                self._seen.append(encode(frames).astype(np.float32, copy=False))

    def sample_frames(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """See ``EpisodeStore.sample_frames``."""
        return self._episodes.sample_frames(rng, count)

    def sample_windows(
        self, rng: np.random.Generator, count: int, length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """See ``EpisodeStore.sample_windows``."""
        return self._episodes.sample_windows(rng, count, length)

    # -- sampling ----------------------------------------------------------------------------------

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
        starts = self._draw_starts(rng, tasks, count, recency)
        within = rng.integers(from_episodes * steps, size=starts.shape)
        return self._at(starts + within // steps * frames + within % steps)

    def first_episodes(
        self, rng: np.random.Generator, tasks: np.ndarray, count: int, recency: Recency = "recent"
    ) -> Batch:
        """All transitions of the first ``count`` episodes of one trial of each task ``(M,)``, in order.

        The trial is a task's latest one, or drawn from all.
        """
        return self._at(self._draw_starts(rng, tasks, 1, recency) + self._steps_of(np.arange(count)))

    def whole_episodes(self, rng: np.random.Generator, tasks: np.ndarray, steps: int) -> Batch:
        """Whole episodes of each of the tasks ``(M,)``, as many as have ``steps`` transitions, at least one.

        Each is drawn from all of the task's, uniformly and with replacement; within it, steps are in order.
        """
        per_trial, frames = self._shape
        count = max(1, steps // (frames - 1))
        starts = self._draw_starts(rng, tasks, count, "all")
        starts = starts + rng.integers(per_trial, size=starts.shape) * frames
        at = starts[..., np.newaxis] + np.arange(frames - 1)
        return self._at(at.reshape(len(tasks), -1))

    def _steps_of(self, episodes: np.ndarray) -> np.ndarray:
        """The frames that these episodes' transitions leave, counted from the trial's first frame."""
        _, frames = self._shape
        return (episodes[:, np.newaxis] * frames + np.arange(frames - 1)).ravel()

    def _draw_starts(
        self, rng: np.random.Generator, tasks: np.ndarray, count: int, recency: Recency
    ) -> np.ndarray:
        """First frames of ``count`` trials of each task, ``(M, count)``."""
        starts = np.empty((len(tasks), count), np.int64)
        for row, task in enumerate(tasks):
            held = self._starts[task].held
            starts[row] = held[-1] if recency == "recent" else held[rng.integers(len(held), size=count)]
        return starts

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
        at = np.empty((len(tasks), count * (frames - 1)), np.int64)
        for row, task in enumerate(tasks):
            begin, rewarded = self._telling[task]
            episodes = np.arange(count)
            episodes[-1] = max(rewarded, count - 1)
            at[row] = begin + self._steps_of(episodes)
        return self._at(at)

    def _at(self, at: np.ndarray) -> Batch:
        """The transitions that leave these frames, ``(M, N)``."""
        following = at + 1
        return Batch(
            self._observed(at),
            self._action.held[at],
            self._reward.held[following],
            self._dense.held[following],
            self._observed(following),
        )

    def _observed(self, at: np.ndarray) -> np.ndarray:
        if not len(self._seen):
            return self._episodes.frames_at(at)
        if len(self._seen) < len(self._action):
            raise LookupError("some frames have no features yet: call cache_features first")
        return self._seen.held[at]

    def save(self, folder: Path) -> list[str]:
        """Writes what is not on disk yet; returns the blocks' digests (see ``EpisodeStore.save``)."""
        return self._episodes.save(folder)

    def load(self, folder: Path, digests: Sequence[str]) -> None:
        """Replaces what is held; raises as ``EpisodeStore.load`` does."""
        self._episodes.load(folder, digests)
        self._reset()
        for tasks, trials in self._episodes.blocks():
            self._append(tasks, trials)


def _flat(array: np.ndarray) -> np.ndarray:
    """Frames ``(n, K, T + 1, ...)`` one after another, float32."""
    return array.reshape(-1, *array.shape[3:]).astype(np.float32, copy=False)
