"""The per-task episode store: every frame once, as it was lived, growing, saved as it grows.

A store is a list of immutable blocks, one per call of ``add``; a block holds n trials of K episodes of
T + 1 frames. Blocks are written to disk once each, so checkpoints cost only what is new.
"""

from __future__ import annotations

import bisect
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

Pairing = Literal["lived", "independent"]


class Trials(NamedTuple):
    """n trials of K episodes, T + 1 frames each; axes ``(n, K, T + 1, ...)``.

    Frame t holds the observation after t steps, the reward received on arriving there (0 at t = 0),
    and the action taken next (zeros at t = T, where the episode ends).
    """

    observation: np.ndarray  # (n, K, T+1, H, W, C) uint8 or (n, K, T+1, S) float32
    action: np.ndarray  # (n, K, T+1, A) float32
    reward: np.ndarray  # (n, K, T+1) float32, what the agent was given
    reward_dense: np.ndarray  # (n, K, T+1) float32


class Sequences(NamedTuple):
    """B sampled sequences, the episodes of each joined in time; axes ``(B, L, ...)``, L = K·(T + 1)."""

    action: np.ndarray
    reward: np.ndarray
    reward_dense: np.ndarray
    episode_start: np.ndarray  # (B, L) bool
    observation: np.ndarray | None  # None where features were asked for
    features: np.ndarray | None  # (B, L, F) float32
    task: np.ndarray  # (B,) int64


class Mixture(NamedTuple):
    """Which of a task's trials are drawn, or episodes, where they are joined independently.

    Attributes:
        since: those of this block and later ones (a block is one ``add``) ...
        earlier_share: ... but with this probability one of the task's earlier ones.
        rewarded_share: with this probability one in which there ever was a reward, if there is any.
    """

    since: int = 0
    earlier_share: float = 0.0
    rewarded_share: float = 0.0


ANY_TRIAL = Mixture()


@dataclass
class _Block:
    tasks: np.ndarray
    trials: Trials
    features: np.ndarray | None = None


@dataclass
class EpisodeStore:
    """All trials of meta-training, by task.

    Args:
        num_tasks: length of the train task list.
    """

    num_tasks: int
    _blocks: list[_Block] = field(default_factory=list)
    _of_task: list[list[tuple[int, int]]] = field(default_factory=list)
    _rewarded: set[tuple[int, int]] = field(default_factory=set)
    _digests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._of_task = [[] for _ in range(self.num_tasks)]

    @property
    def num_trials(self) -> int:
        """Trials held, all tasks together."""
        return sum(len(block.tasks) for block in self._blocks)

    @property
    def num_blocks(self) -> int:
        """How many times trials were added."""
        return len(self._blocks)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays held, cached features included."""
        arrays = (a for b in self._blocks for a in (*b.trials, b.features) if a is not None)
        return sum(a.nbytes for a in arrays)

    def add(self, tasks: np.ndarray, trials: Trials) -> None:
        """Appends n lived trials; ``tasks`` ``(n,)`` are indices into the train list.

        Raises:
            ValueError: shapes that do not agree, or a task index out of range.
        """
        tasks = np.asarray(tasks, np.int64)
        if any(array.shape[:3] != trials.action.shape[:3] for array in trials) or len(tasks) != len(
            trials.action
        ):
            raise ValueError(f"trials disagree: tasks {tasks.shape}, {[array.shape for array in trials]}")
        if tasks.min() < 0 or tasks.max() >= self.num_tasks:
            raise ValueError(
                f"task indices must lie in 0..{self.num_tasks - 1}, got {tasks.min()}..{tasks.max()}"
            )
        self._index(_Block(tasks, trials))

    def _index(self, block: _Block) -> None:
        for row, task in enumerate(block.tasks):
            self._of_task[task].append((len(self._blocks), row))
            if block.trials.reward[row].any():
                self._rewarded.add((len(self._blocks), row))
        self._blocks.append(block)

    def blocks(self) -> Iterator[tuple[np.ndarray, Trials]]:
        """What was added, in order: task indices and trials."""
        return ((block.tasks, block.trials) for block in self._blocks)

    # -- sampling ----------------------------------------------------------------------------------

    def sample(
        self,
        rng: np.random.Generator,
        count: int,
        pairing: Pairing = "lived",
        episodes: int | None = None,
        features: bool = False,
        mixture: Mixture = ANY_TRIAL,
    ) -> Sequences:
        """``count`` sequences, each of a task drawn uniformly among the tasks that have data.

        Args:
            rng: decides everything.
            count: B.
            pairing: ``"lived"`` takes whole trials; ``"independent"`` joins episodes of one task that
                were drawn independently (as the authors' released code does).
            episodes: episodes per sequence; default K, 1 for agents without trial memory.
            features: give cached features instead of observations.
            mixture: which trials; by default any.

        Raises:
            LookupError: the store is empty, or has no cached features where they are asked for.
        """
        ready = [task for task, rows in enumerate(self._of_task) if rows]
        if not ready:
            raise LookupError("the episode store is empty: add trials before sampling")
        per_trial = self._blocks[0].trials.action.shape[1]
        episodes = per_trial if episodes is None else episodes
        chosen: list[list[tuple[_Block, int, int]]] = []
        tasks = np.array([ready[i] for i in rng.integers(len(ready), size=count)])
        for task in tasks:
            if pairing == "lived" and episodes == per_trial:
                rows = self._pool(rng, task, mixture)
                block, row = rows[rng.integers(len(rows))]
                chosen.append([(self._blocks[block], row, k) for k in range(episodes)])
            else:
                pools = [self._pool(rng, task, mixture) for _ in range(episodes)]
                draws = rng.integers([len(rows) * per_trial for rows in pools])
                picks = [(*rows[d // per_trial], int(d % per_trial)) for rows, d in zip(pools, draws)]
                chosen.append([(self._blocks[block], row, k) for block, row, k in picks])
        return self._gather(chosen, tasks, features)

    def _pool(self, rng: np.random.Generator, task: int, mixture: Mixture) -> list[tuple[int, int]]:
        """Of which of a task's trials one is drawn."""
        rows = self._of_task[task]
        first = bisect.bisect_left(rows, (mixture.since, 0)) if mixture.since else 0
        if 0 < first < len(rows):
            rows = rows[:first] if rng.random() < mixture.earlier_share else rows[first:]
        if mixture.rewarded_share and rng.random() < mixture.rewarded_share:
            rows = [row for row in rows if row in self._rewarded] or rows
        return rows

    def _gather(
        self, chosen: Sequence[Sequence[tuple[_Block, int, int]]], tasks: np.ndarray, features: bool
    ) -> Sequences:
        def join(name: str) -> np.ndarray:
            parts = [[getattr(b.trials, name)[row, k] for b, row, k in trial] for trial in chosen]
            return np.concatenate([np.stack(p) for p in zip(*parts)], axis=1)

        action = join("action")
        episode_start = np.zeros(action.shape[:2], bool)
        episode_start[:, :: action.shape[1] // len(chosen[0])] = True
        cached = None
        if features:
            if any(b.features is None for trial in chosen for b, _, _ in trial):
                raise LookupError("features were asked for but not cached: call cache_features first")
            parts = [[b.features[row, k] for b, row, k in trial] for trial in chosen]  # type: ignore[index]
            cached = np.concatenate([np.stack(p) for p in zip(*parts)], axis=1)
        observation = None if features else join("observation")
        return Sequences(
            action, join("reward"), join("reward_dense"), episode_start, observation, cached, tasks
        )

    def sample_frames(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """``count`` single observations ``(count, ...)``, uniform over all that are held."""
        return self.frames_at(rng.integers(self._ends()[-1], size=count))

    def frames_at(self, at: np.ndarray) -> np.ndarray:
        """Single observations ``(*at.shape, ...)`` by number, counted through all that was added."""
        ends, flat = self._ends(), at.ravel()
        of_block = np.searchsorted(ends, flat, side="right")
        like = self._blocks[0].trials.observation
        frames = np.empty((len(flat), *like.shape[3:]), like.dtype)
        for block in np.unique(of_block):
            rows = np.flatnonzero(of_block == block)
            held = self._blocks[block].trials.observation
            held = held.reshape(-1, *held.shape[3:])
            frames[rows] = held[flat[rows] - (ends[block] - len(held))]
        return frames.reshape(*at.shape, *like.shape[3:])

    def _ends(self) -> np.ndarray:
        """The number of frames up to the end of each block."""
        return np.cumsum([np.prod(b.trials.action.shape[:3]) for b in self._blocks])

    def sample_windows(
        self, rng: np.random.Generator, count: int, length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """``count`` windows of ``length`` successive frames of an episode, uniform over all.

        Returns:
            Observations ``(count, length, ...)`` and actions ``(count, length, A)``.
        """
        lengths = [(*b.trials.action.shape[:2], b.trials.action.shape[2] - length + 1) for b in self._blocks]
        ends = np.cumsum([np.prod(shape) for shape in lengths])
        draws = rng.integers(ends[-1], size=count)
        windows, actions = [], []
        for block, draw in zip(np.searchsorted(ends, draws, side="right"), draws):
            shape, trials = lengths[block], self._blocks[block].trials
            row, episode, t = np.unravel_index(draw - (ends[block] - np.prod(shape)), shape)
            windows.append(trials.observation[row, episode, t : t + length])
            actions.append(trials.action[row, episode, t : t + length])
        return np.stack(windows), np.stack(actions)

    # -- cached features ---------------------------------------------------------------------------

    def cache_features(self, encode: Callable[[np.ndarray], np.ndarray], again: bool = False) -> None:
        """Stores ``encode(observations (N, ...)) -> (N, F)`` for every block that lacks it, or for all."""
        for block in self._blocks:
            if block.features is None or again:
                lead = block.trials.action.shape[:3]
                flat = block.trials.observation.reshape(-1, *block.trials.observation.shape[3:])
                block.features = np.ascontiguousarray(encode(flat), np.float32).reshape(*lead, -1)

    # -- disk --------------------------------------------------------------------------------------

    def save(self, folder: Path) -> list[str]:
        """Writes the blocks that are not on disk yet; returns the SHA-256 of every block, in order."""
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(len(self._digests), len(self._blocks)):
            block = self._blocks[number]
            buffer = io.BytesIO()
            np.savez_compressed(buffer, tasks=block.tasks, **block.trials._asdict())
            self._digests.append(hashlib.sha256(buffer.getbuffer()).hexdigest())
            _write_whole(folder / f"{number:06d}.npz", buffer.getvalue())
        return list(self._digests)

    def load(self, folder: Path, digests: Sequence[str]) -> None:
        """Replaces what is held by the first ``len(digests)`` blocks of ``folder``.

        Raises:
            ValueError: a block is missing or does not have its digest.
        """
        self._blocks, self._of_task, self._digests = [], [[] for _ in range(self.num_tasks)], []
        self._rewarded = set()
        for number, digest in enumerate(digests):
            path = folder / f"{number:06d}.npz"
            try:
                data = path.read_bytes()
            except OSError as error:
                raise ValueError(f"episodes of the checkpoint cannot be read: {error}") from error
            if hashlib.sha256(data).hexdigest() != digest:
                raise ValueError(f"{path} is damaged: its checksum differs from the checkpoint's")
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                self._index(_Block(arrays["tasks"], Trials(*(arrays[name] for name in Trials._fields))))
            self._digests.append(digest)


def _write_whole(path: Path, data: bytes) -> None:
    """Writes a file so that a killed process leaves either all of it or none."""
    partial = path.with_suffix(".partial")
    with open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
