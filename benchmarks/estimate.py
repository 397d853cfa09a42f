"""How long a plan will take: from speeds kept of earlier runs, or measured for a few seconds now."""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.evaluate import Environments, each_task, face, run_trials, spread
from benchmarks.files import read_json, write_json
from benchmarks.jobs import choose_device, set_threads
from benchmarks.plan import Job, Plan
from benchmarks.provenance import processor
from meld_agents.registry import find_agent
from meld_agents.settings import to_mapping

#: How long a calibration trains each agent on each family.
CALIBRATION_SECONDS = 8.0


@dataclass(frozen=True)
class Estimate:
    """Wall-clock seconds of one job, and what that is based on."""

    seconds: float
    basis: str


def plan_seconds(jobs: Iterable[Job], estimates: Mapping[Job, Estimate], parallel: int) -> float:
    """The whole plan's seconds when jobs start in this order, so many side by side."""
    free_at = [0.0] * parallel
    for job in jobs:
        heapq.heapreplace(free_at, free_at[0] + estimates[job].seconds)
    return max(free_at)


def longest_first(plan: Plan, threads: int) -> list[Job]:
    """The plan's jobs, by kept speeds where all are known, else by budget."""
    jobs = plan.jobs()
    kept = {job: found for job in jobs if (found := kept_estimate(plan, job, threads)) is not None}
    if len(kept) < len(jobs):
        return jobs
    return sorted(jobs, key=lambda job: -kept[job].seconds)


# ------------------------------------------------------------------------------------------------ kept speeds


def keep_speed(plan: Plan, job: Job, threads: int, provenance: Mapping[str, Any]) -> None:
    """Keeps a finished job's speed for later estimates; not being able to is no error."""
    steps = provenance["env_steps"]
    if plan.budget(job) and not steps:
        return
    speeds = _kept()
    speeds[_key(plan, job, threads)] = {"wall_seconds": provenance["wall_seconds"], "env_steps": steps}
    try:
        _store().parent.mkdir(parents=True, exist_ok=True)
        write_json(_store(), speeds)
    except OSError:
        return


def kept_estimate(plan: Plan, job: Job, threads: int) -> Estimate | None:
    """From an earlier run of the same agent, family, settings, machine and threads, or None."""
    kept = _kept().get(_key(plan, job, threads), {})
    try:
        scale = plan.budget(job) / kept["env_steps"] if plan.budget(job) else 1.0
        seconds = float(kept["wall_seconds"]) * scale
    except (TypeError, KeyError, ZeroDivisionError, ValueError):
        return None
    return Estimate(_limited(seconds, plan, job), "an earlier run on this machine")


def _store() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "meld" / "speeds.json"


def _kept() -> dict[str, Any]:
    values = read_json(_store())
    return values if isinstance(values, dict) else {}


def _key(plan: Plan, job: Job, threads: int) -> str:
    what = [
        job.env, plan.make(job), job.agent, plan.agent_settings(job), to_mapping(plan.evaluation_of(job)),
    ]  # fmt: skip
    text = json.dumps([*what, threads, plan.device, processor()], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _limited(seconds: float, plan: Plan, job: Job) -> float:
    limit = plan.max_minutes_of(job)
    return seconds if limit is None else min(seconds, 60 * limit)


# ------------------------------------------------------------------------------------------------ calibration


def estimate(plan: Plan, threads: int) -> dict[Job, Estimate]:
    """An estimate for every job; agents that never ran here are tried for a few seconds each."""
    found: dict[tuple[str, str], Estimate] = {}
    for job in plan.jobs():
        if (job.env, job.agent) not in found:
            found[job.env, job.agent] = kept_estimate(plan, job, threads) or calibrate(plan, job, threads)
    return {job: found[job.env, job.agent] for job in plan.jobs()}


def calibrate(plan: Plan, job: Job, threads: int) -> Estimate:
    """Trains and evaluates for a few seconds and extrapolates.

    The speed is that of the later half of the time: what comes first is often a warm-up.
    """
    evaluation, budget = plan.evaluation_of(job), plan.budget(job)
    with closing(Environments(job.env, plan.make(job), threads)) as envs:
        agent_class = find_agent(job.agent)
        set_threads(threads)
        began = time.monotonic()
        agent = agent_class(envs.make, plan.agent_settings(job), job.seed, choose_device(plan.device))
        task_set = face(envs.get(1, "test")).task_set
        building = time.monotonic() - began
        testing = _time_evaluation(agent, envs, "test", task_set.test, len(task_set.test))
        trying = _time_evaluation(agent, envs, "train", task_set.train, evaluation.train_tasks)
        training, basis = _time_training(agent, budget) if budget else (0.0, "one evaluation")
    evaluations = 1 + (budget - 1) // evaluation.every if budget else 1
    final = 2 * evaluation.final_trials_per_task / evaluation.trials_per_task  # with and without exploring
    seconds = building + training + (evaluations + final) * testing * evaluation.trials_per_task
    seconds += (evaluations + 1) * trying
    return Estimate(_limited(seconds, plan, job), f"measured now: {basis}")


def _time_evaluation(agent: Any, envs: Environments, split: str, tasks: Any, at_most: int) -> float:
    """Seconds of one trial of each task."""
    if not at_most:
        return 0.0
    ids, chosen = each_task(tasks, spread(len(tasks), at_most), 1)
    env = envs.get(len(ids), split)
    began = time.monotonic()
    run_trials(agent, env, ids, chosen, seed=0)
    return time.monotonic() - began


def _time_training(agent: Any, env_steps: int) -> tuple[float, str]:
    """Seconds that the whole budget would take, and what that is extrapolated from."""
    began = time.monotonic()
    points = [(0.0, 0)]
    for progress in agent.meta_train(env_steps):
        points.append((time.monotonic() - began, progress.env_steps))
        if points[-1][0] > CALIBRATION_SECONDS:
            break
    at, steps = points[-1]
    if steps >= env_steps:
        return at, "all of it"
    middle = next(point for point in reversed(points) if point[0] <= at / 2)
    gained = steps - middle[1]
    if not gained:
        return env_steps / steps * at if steps else float("inf"), (
            f"{at:.0f} s, all of it a warm-up on {steps:,} collected steps, so this is a guess; "
            "a finished run makes the next estimate a measurement"
        )
    return env_steps / gained * (at - middle[0]), f"the later half of {at:.0f} s of training"
