"""What users hand to an environment, checked before anything changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.utils import seeding

from meld_envs.family import Family
from meld_envs.tasks import Task

#: From trial step ``step`` (0-based) on, the task is this one: ``((step, task), ...)``.
Schedule = tuple[tuple[int, Task], ...]


def check_count(where: str, name: str, value: Any) -> int:
    """``value`` as an integer of at least 1.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise ValueError(f"{where}: {name} must be an integer of at least 1, got {value!r}")
    return int(value)


def check_actions(where: str, actions: Any, expected: tuple[int, ...]) -> np.ndarray:
    """Actions as float64, clipped to [-1, 1].

    Raises:
        ValueError: another shape than ``expected``, no numbers, or a number that is not finite.
    """
    values = np.asarray(actions)
    if values.shape != expected or values.dtype.kind not in "fiu":
        raise ValueError(
            f"{where}: expected actions of shape {expected} (trials, action), "
            f"got {values.shape}, of {values.dtype}"
        )
    if not np.isfinite(values).all():
        trial, index = np.argwhere(~np.isfinite(values))[0]
        raise ValueError(
            f"{where}: action {index} of trial {trial} is {values[trial, index]}, expected finite"
        )
    return np.clip(values.astype(np.float64), -1.0, 1.0)


def check_tasks(family: Family, num_envs: int, tasks: Sequence[Task] | Task) -> list[Task]:
    """One checked task per trial, from a list of them or one for all.

    Raises:
        TypeError: not a task.
        ValueError: a task of another family or out of its range, or a list of the wrong length.
    """
    if not isinstance(tasks, (list, tuple)):
        family.check_task(tasks)  # type: ignore[arg-type]
        return [tasks] * num_envs  # type: ignore[list-item]
    if len(tasks) != num_envs:
        raise ValueError(f"{family.name}: expected {num_envs} tasks, one per trial, got {len(tasks)}")
    for task in tasks:
        family.check_task(task)
    return list(tasks)


def check_options(where: str, options: Any) -> Mapping[str, Any]:
    """``reset``'s options, empty for ``None``.

    Raises:
        TypeError: no mapping.
    """
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"{where}: options must be a dictionary, got {options!r}")
    return options or {}


def check_mask(where: str, mask: Any) -> None:
    """Refuses Gymnasium's option to reset some trials only.

    Raises:
        ValueError: a mask that leaves a trial out.
    """
    if mask is not None and not np.all(mask):
        raise ValueError(f"{where}: reset_mask leaves trials out, but all trials here start and end together")


def make_generators(
    where: str, num_envs: int, seed: int | Sequence[int | None] | None
) -> list[np.random.Generator | None]:
    """A generator per trial, ``None`` where the old one goes on; of an integer seed trial i gets seed + i.

    Raises:
        TypeError: neither an integer nor a list.
        ValueError: a list of the wrong length.
        gymnasium.error.Error: a seed that is no non-negative integer.
    """
    if seed is None:
        return [None] * num_envs
    if not isinstance(seed, (int, np.integer, Sequence, np.ndarray)) or isinstance(seed, str):
        raise TypeError(f"{where}: seed must be an integer, or a list of one per trial, got {seed!r}")
    seeds: Sequence[Any] = (
        [seed + trial for trial in range(num_envs)] if isinstance(seed, (int, np.integer)) else seed
    )
    if len(seeds) != num_envs:
        raise ValueError(f"{where}: expected one seed or {num_envs} of them, got {len(seeds)}")
    return [None if one is None else seeding.np_random(int(one))[0] for one in seeds]


def parse_schedules(family: Family, num_envs: int, trial_steps: int, given: Any) -> list[Schedule]:
    """One checked schedule per trial (tasks that change within a trial: paper, appendix D.2).

    Args:
        family: whose tasks these must be.
        num_envs: the number of trials.
        trial_steps: steps of a trial.
        given: ``None``, one list of ``(step, task)`` for all trials, or one such list per trial.

    Raises:
        TypeError: not a list of pairs of an integer and a task.
        ValueError: a step outside the trial, a task that does not fit, or a wrong number of lists.
    """
    if given is None:
        return [()] * num_envs
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"{family.name}: schedule must be a list of (step, task) pairs, got {given!r}")
    if given and all(_is_list_of_pairs(item) for item in given):
        if len(given) != num_envs:
            raise ValueError(f"{family.name}: expected {num_envs} schedules, one per trial, got {len(given)}")
        return [_parse(family, trial_steps, item) for item in given]
    return [_parse(family, trial_steps, given)] * num_envs


def _is_list_of_pairs(item: Any) -> bool:
    return isinstance(item, (list, tuple)) and all(isinstance(pair, (list, tuple)) for pair in item)


def _parse(family: Family, trial_steps: int, pairs: Sequence[Any]) -> Schedule:
    schedule = []
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not hasattr(pair[0], "__index__"):
            raise TypeError(f"{family.name}: schedule must be a list of (step, task) pairs, got {pair!r}")
        step, task = int(pair[0]), pair[1]
        if not 0 <= step < trial_steps:
            raise ValueError(f"{family.name}: schedule step {step} is outside the trial's {trial_steps}")
        family.check_task(task)
        schedule.append((step, task))
    return tuple(schedule)
