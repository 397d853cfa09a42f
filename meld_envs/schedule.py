"""Schedules: tasks that change within a trial (paper, appendix D.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meld_envs.family import Family
from meld_envs.tasks import Task

#: From trial step ``step`` (0-based) on, the task is this one: ``((step, task), ...)``.
Schedule = tuple[tuple[int, Task], ...]


def parse_schedules(family: Family, num_envs: int, trial_steps: int, given: Any) -> list[Schedule]:
    """One checked schedule per trial.

    Args:
        family: whose tasks these must be.
        num_envs: the number of trials.
        trial_steps: steps of a trial.
        given: ``None``, one list of ``(step, task)`` for all trials, or a list of such lists, one per trial.

    Raises:
        TypeError: not a list of pairs of an integer and a task.
        ValueError: a step outside the trial, a task that does not fit, or a wrong number of lists.
    """
    if given is None:
        return [()] * num_envs
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"schedule: expected a list of (step, task) pairs, got {given!r}")
    if given and all(_is_list_of_pairs(item) for item in given):
        if len(given) != num_envs:
            raise ValueError(f"schedule: expected {num_envs} lists, one per trial, got {len(given)}")
        return [_parse(family, trial_steps, item) for item in given]
    return [_parse(family, trial_steps, given)] * num_envs


def _is_list_of_pairs(item: Any) -> bool:
    return isinstance(item, (list, tuple)) and all(isinstance(pair, (list, tuple)) for pair in item)


def _parse(family: Family, trial_steps: int, pairs: Sequence[Any]) -> Schedule:
    schedule = []
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not hasattr(pair[0], "__index__"):
            raise TypeError(f"schedule: expected (step, task) pairs, got {pair!r}")
        step, task = int(pair[0]), pair[1]
        if not 0 <= step < trial_steps:
            raise ValueError(f"schedule: step {step} is outside the trial of {trial_steps} steps")
        family.check_task(task)
        schedule.append((step, task))
    return tuple(schedule)
