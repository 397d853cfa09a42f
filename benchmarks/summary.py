"""Means and 95 % intervals of what runs wrote down: ``summary.csv`` and ``episodes.csv``."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.files import read_json, read_rows, write_rows
from benchmarks.plan import Job, Plan

RESAMPLES = 1000
LEVEL = 0.95
#: Seed of the resampling: the same results give the same intervals.
BOOTSTRAP_SEED = 0

METRICS = {
    "success": "success",
    "score": "final_score",
    "return_dense": "return_dense",
    "return_sparse": "return_sparse",
}
SUMMARY_COLUMNS = [
    *("env", "agent", "env_steps", "seeds", "tasks", "trials"),
    *(f"{metric}_{part}" for metric in METRICS for part in ("mean", "low", "high")),
    *(
        "train_success_mean",
        "train_score_mean",
        "interval_over",
        "wall_minutes",
        "stopped_by",
        "completed_seeds",
    ),
]
#: The policies that are tested: with mean actions, and the one that explores in training.
POLICIES = ("deterministic", "stochastic")
EPISODE_COLUMNS = [
    *("env", "agent", "policy", "split", "episode", "first_step", "last_step", "seeds", "tasks", "trials"),
    *(f"{metric}_{part}" for metric in METRICS for part in ("mean", "low", "high")),
]


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval; arrays where the values are curves."""

    mean: Any
    low: Any
    high: Any


def bootstrap(values: np.ndarray) -> Interval:
    """The mean over seeds, tasks and trials with a percentile interval from hierarchical resampling.

    With several training seeds these are drawn with replacement, then tasks for each, then trials of
    each task; with one seed only tasks and trials, and the interval says nothing about other seeds.

    Args:
        values: ``(seeds, tasks, trials, ...)``.
    """
    values = np.ascontiguousarray(values, float)
    return _bootstrap(values.tobytes(), values.shape)


@lru_cache(
    maxsize=4096
)  # while jobs run, a report is written every minute, and old evaluations stay as they are
def _bootstrap(data: bytes, shape: tuple[int, ...]) -> Interval:
    values = np.frombuffer(data).reshape(shape)
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    seeds = len(values)
    means = [
        _resampled_mean(values, generator.integers(seeds, size=seeds), generator) for _ in range(RESAMPLES)
    ]
    return _percentiles(values.mean(axis=(0, 1, 2)), means)


def bootstrap_difference(first: np.ndarray, second: np.ndarray) -> Interval:
    """How much larger the first mean is, of the same training seeds on two sets of tasks.

    Args:
        first: ``(seeds, tasks, trials)``.
        second: the same; its tasks and trials need not be as many. Seeds that one lacks are left out.
    """
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    seeds = min(len(first), len(second))
    first, second = first[:seeds], second[:seeds]
    differences = []
    for _ in range(RESAMPLES):
        drawn = generator.integers(seeds, size=seeds)
        means = [_resampled_mean(values, drawn, generator) for values in (first, second)]
        differences.append(means[0] - means[1])
    return _percentiles(first.mean() - second.mean(), differences)


def _resampled_mean(values: np.ndarray, drawn: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The mean over the drawn seeds, and over tasks and trials drawn for each of them."""
    seeds, tasks, trials = map(int, values.shape[:3])
    t = generator.integers(tasks, size=(seeds, tasks))[:, :, None]
    r = generator.integers(trials, size=(seeds, tasks, trials))
    return np.asarray(values[drawn[:, None, None], t, r].mean(axis=(0, 1, 2)))


def _percentiles(mean: Any, means: Sequence[Any]) -> Interval:
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return Interval(mean, low, high)


def interval_over(seeds: int) -> str:
    """What the interval of so many training seeds is taken over."""
    return "seeds and held-out tasks" if seeds > 1 else "held-out tasks (one training seed)"


class RunData:
    """What one run wrote, as far as it has come and as far as it can be read.

    Args:
        results: the results folder.
        job: which run.
    """

    def __init__(self, results: Path, job: Job) -> None:
        self.job = job
        self.folder = results / job.folder

    @cached_property
    def provenance(self) -> dict[str, Any]:
        value = read_json(self.folder / "provenance.json")
        return value if isinstance(value, dict) else {}

    @cached_property
    def status(self) -> dict[str, Any]:
        value = read_json(self.folder / "status.json")
        return value if isinstance(value, dict) else {}

    @property
    def completed(self) -> bool:
        return bool(self.provenance.get("completed"))

    def evaluations(
        self, split: str, metric: str, episode: int | None = None, policy: str = "deterministic"
    ) -> list[tuple[int, np.ndarray]]:
        """Environment steps and values ``(tasks, trials)`` of every evaluation.

        Args:
            split: ``test`` or ``train``.
            metric: a column of ``eval.csv``.
            episode: of the trial; None: the last one.
            policy: one of ``POLICIES``.
        """
        rows = [row for row in self._eval_rows[policy] if row["split"] == split]
        wanted = max((row["episode"] for row in rows), default=0) if episode is None else episode
        by_step = defaultdict(list)
        for row in rows:
            if row["episode"] == wanted:
                by_step[row["env_steps"]].append(row)
        return [(step, grid(by_step[step], metric)) for step in sorted(by_step)]

    @property
    def episodes(self) -> int:
        """The episodes of a trial; 0 before the first evaluation."""
        return 1 + max((row["episode"] for row in self._eval_rows["deterministic"]), default=-1)

    @cached_property
    def _eval_rows(self) -> dict[str, list[dict[str, Any]]]:
        names = zip(POLICIES, ("eval.csv", "eval_stochastic.csv"))
        return {policy: list(_numeric(read_rows(self.folder / name))) for policy, name in names}

    def adaptation(self, split: str) -> dict[str, np.ndarray]:
        """Values ``(tasks, trials, frames)`` of the last evaluation by name; empty if there is none."""
        by_trial = self._adaptation_rows[split]
        if not by_trial or len({len(rows) for rows in by_trial.values()}) != 1:
            return {}
        names = ("success", "reward_dense", "score", "episode")
        trials = []
        for (task_id, trial), rows in by_trial.items():
            frames = {name: [row[name] for row in rows] for name in names}
            trials.append({"task_id": task_id, "trial": trial, **frames})
        return {name: grid(trials, name) for name in names}

    @cached_property
    def _adaptation_rows(self) -> dict[str, dict[tuple[int, int], list[dict[str, Any]]]]:
        """Rows by frame, by split and by task and trial."""
        found: dict[str, Any] = defaultdict(lambda: defaultdict(list))
        for row in _numeric(read_rows(self.folder / "adaptation.csv")):
            found[row["split"]][row["task_id"], row["trial"]].append(row)
        for rows in (rows for trials in found.values() for rows in trials.values()):
            rows.sort(key=lambda row: row["step"])
        return found

    def probes(self) -> list[dict[str, Any]]:
        """The rows of ``probes.csv``."""
        return list(_numeric(read_rows(self.folder / "probes.csv")))


def grid(rows: Iterable[Mapping[str, Any]], name: str) -> np.ndarray:
    """Values ``(tasks, trials, ...)`` of rows with ``task_id`` and ``trial``.

    Trials that not all tasks have are left out.
    """
    by_task: dict[int, dict[int, Any]] = defaultdict(dict)
    for row in rows:
        by_task[row["task_id"]][row["trial"]] = row[name]
    fewest = min(map(len, by_task.values()))
    return np.array([[by_task[i][k] for k in sorted(by_task[i])[:fewest]] for i in sorted(by_task)], float)


_TEXT_COLUMNS = ("split", "target")
_INT_COLUMNS = ("env_steps", "task_id", "trial", "episode", "step")


def _numeric(rows: Iterable[Mapping[str, str]]) -> Iterable[dict[str, Any]]:
    """Rows with numbers as numbers; a row that is damaged is left out."""
    for row in rows:
        try:
            yield {
                k: v if k in _TEXT_COLUMNS else int(v) if k in _INT_COLUMNS else float(v)
                for k, v in row.items()
            }
        except ValueError:
            continue


@dataclass(frozen=True)
class Cell:
    """All runs of one agent on one family."""

    env: str
    agent: str
    runs: tuple[RunData, ...]

    def final(
        self, split: str, metric: str, episode: int | None = None, policy: str = "deterministic"
    ) -> np.ndarray | None:
        """Values ``(seeds, tasks, trials)`` of each run's latest evaluation; None before the first.

        The arguments are those of ``RunData.evaluations``.
        """
        found = [run.evaluations(split, metric, episode, policy) for run in self.runs]
        return _stack([evaluations[-1][1] for evaluations in found if evaluations])

    @property
    def episodes(self) -> int:
        """The episodes of a trial; 0 before the first evaluation."""
        return max(run.episodes for run in self.runs)

    @property
    def episode_steps(self) -> int | None:
        """The steps of an episode; None before the last evaluation, which alone is kept by step."""
        episodes = self.adaptation("episode")
        return None if episodes is None else int((episodes[0, 0, 0] == 0).sum()) - 1

    def curve(self, split: str, metric: str) -> tuple[np.ndarray, Interval] | None:
        """Environment steps and intervals of all evaluations (of as many as the shortest run has)."""
        runs = [found for run in self.runs if (found := run.evaluations(split, metric))]
        if not runs:
            return None
        points = [[run[i] for run in runs] for i in range(min(map(len, runs)))]
        steps = np.array([np.mean([step for step, _ in point]) for point in points])
        intervals = [bootstrap(_stacked([values for _, values in point])) for point in points]
        return steps, Interval(
            *(np.array([getattr(i, part) for i in intervals]) for part in ("mean", "low", "high"))
        )

    def adaptation(self, metric: str, split: str = "test") -> np.ndarray | None:
        """Values ``(seeds, tasks, trials, frames)`` by frame of the trial, of the last evaluation."""
        return _stack([found[metric] for run in self.runs if (found := run.adaptation(split))])

    def env_steps(self) -> int:
        """Where the runs stand: the mean over seeds of the steps of their latest evaluations."""
        latest = [found[-1][0] for run in self.runs if (found := run.evaluations("test", "success"))]
        return round(float(np.mean(latest))) if latest else 0


def _stack(arrays: Sequence[np.ndarray]) -> np.ndarray | None:
    """Seeds in front; None where there are no arrays."""
    return _stacked(arrays) if arrays else None


def _stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Seeds in front; tasks and trials that not all seeds have are left out."""
    shape = tuple(map(min, zip(*(array.shape for array in arrays))))
    return np.stack([array[tuple(map(slice, shape))] for array in arrays])


def cells(results: Path, plan: Plan) -> list[Cell]:
    """Every agent on every family, in the plan's order."""
    return [
        Cell(env, agent, tuple(RunData(results, Job(env, agent, seed)) for seed in plan.seeds))
        for env in plan.envs
        for agent in plan.agents
    ]


def summary_rows(all_cells: Iterable[Cell]) -> list[dict[str, Any]]:
    """The rows of ``summary.csv``: the latest evaluation of every agent on every family."""
    return [row for cell in all_cells if (row := _summary_row(cell)) is not None]


def _summary_row(cell: Cell) -> dict[str, Any] | None:
    success = cell.final("test", "success")
    if success is None:
        return None
    row: dict[str, Any] = {"env": cell.env, "agent": cell.agent, "env_steps": cell.env_steps()}
    row.update(zip(("seeds", "tasks", "trials"), success.shape))
    for metric, column in METRICS.items():
        values = cell.final("test", column)
        if values is None:
            continue
        row.update(_parts(metric, bootstrap(values)))
    for metric in ("success", "score"):
        values = cell.final("train", METRICS[metric])
        row[f"train_{metric}_mean"] = None if values is None else float(values.mean())
    stops = sorted(
        {str(run.provenance["stopped_by"]) for run in cell.runs if run.provenance.get("stopped_by")}
    )
    minutes = [_number(run.provenance.get("wall_seconds")) / 60 for run in cell.runs]
    row["interval_over"] = interval_over(success.shape[0])
    row["wall_minutes"] = round(float(np.mean(minutes)), 2)
    row["stopped_by"] = "; ".join(stops)
    row["completed_seeds"] = sum(run.completed for run in cell.runs)
    return row


def episode_rows(all_cells: Iterable[Cell]) -> list[dict[str, Any]]:
    """The rows of ``episodes.csv``: every episode of the trial, of the latest evaluation.

    ``first_step`` and ``last_step`` count the environment steps in the task by then.
    """
    tested = [("deterministic", "test"), ("stochastic", "test"), ("deterministic", "train")]
    rows = [
        _episode_row(cell, policy, split, episode)
        for cell in all_cells
        for policy, split in tested
        for episode in range(cell.episodes)
    ]
    return [row for row in rows if row is not None]


def _episode_row(cell: Cell, policy: str, split: str, episode: int) -> dict[str, Any] | None:
    found = {name: cell.final(split, column, episode, policy) for name, column in METRICS.items()}
    values = {name: array for name, array in found.items() if array is not None}
    if "success" not in values:
        return None
    row: dict[str, Any] = {
        "env": cell.env, "agent": cell.agent, "policy": policy, "split": split, "episode": episode,
    }  # fmt: skip
    if cell.episode_steps is not None:
        row["first_step"] = episode * cell.episode_steps + 1
        row["last_step"] = (episode + 1) * cell.episode_steps
    row.update(zip(("seeds", "tasks", "trials"), values["success"].shape))
    for name, array in values.items():
        row.update(_parts(name, bootstrap(array)))
    return row


def _parts(name: str, interval: Interval) -> dict[str, float]:
    return {f"{name}_{part}": float(getattr(interval, part)) for part in ("mean", "low", "high")}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else 0.0


def write_summary(
    results: Path, rows: Iterable[Mapping[str, Any]], episodes: Iterable[Mapping[str, Any]]
) -> None:
    """Replaces ``summary.csv`` and ``episodes.csv``."""
    write_rows(results / "summary.csv", SUMMARY_COLUMNS, rows)
    write_rows(results / "episodes.csv", EPISODE_COLUMNS, episodes)
