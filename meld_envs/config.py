"""The keywords of ``gym.make`` and ``gym.make_vec``, checked."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from collections.abc import Mapping
from typing import Any

from meld_envs.family import Family, check_choice

MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 8, 1024  # pixels

_CHOICES: dict[str, tuple[str | None, ...]] = {
    "split": ("train", "test"),
    "reward_type": ("dense", "sparse"),
    "obs_type": ("pixels", "state"),
    "render_mode": (None, "rgb_array", "human"),
    "autoreset": ("disabled", "next_step"),
}

_RANGES: dict[str, tuple[float, float]] = {
    "num_train_tasks": (1, math.inf),
    "num_test_tasks": (1, math.inf),
    "task_seed": (0, math.inf),
    "image_size": (MIN_IMAGE_SIZE, MAX_IMAGE_SIZE),
    "episodes_per_trial": (1, math.inf),
    "episode_steps": (1, math.inf),
    "num_threads": (1, math.inf),
}


@dataclasses.dataclass(frozen=True)
class EnvConfig:
    """What a user chooses when making an environment.

    Attributes:
        split: ``"train"`` or ``"test"``: which tasks are drawn.
        num_train_tasks: length of the train list.
        num_test_tasks: length of the test list.
        task_seed: seed of both lists.
        reward_type: ``"dense"`` or ``"sparse"``: which reward the agent is given.
        obs_type: ``"pixels"`` or ``"state"``.
        image_size: height of observations in pixels.
        episodes_per_trial: episodes with one task, in a row.
        episode_steps: steps of an episode.
        render_mode: ``None``, ``"rgb_array"`` or ``"human"``.
        num_threads: threads for physics and drawing; ``None`` for the usable cores.
        autoreset: of a vector environment: ``"disabled"`` or ``"next_step"``.
    """

    split: str = "train"
    num_train_tasks: int = 30
    num_test_tasks: int = 10
    task_seed: int = 0
    reward_type: str = "dense"
    obs_type: str = "pixels"
    image_size: int = 64
    episodes_per_trial: int = 1
    episode_steps: int = 50
    render_mode: str | None = None
    num_threads: int | None = None
    autoreset: str = "disabled"

    @classmethod
    def from_keywords(cls, family: Family, keywords: Mapping[str, Any]) -> EnvConfig:
        """Checks keywords and fills in the family's defaults.

        Raises:
            TypeError: an unknown keyword (with the nearest match), or a value of the wrong type.
            ValueError: a value that is not allowed.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for name in keywords:
            if name not in names:
                known = [*names, *family.options]
                raise TypeError(f"{family.name}: unknown keyword {name!r}{_suggestion(name, known)}")
        for name, value in keywords.items():
            _check(family.name, name, value)
        return cls(**{**family.defaults(), **keywords})

    @property
    def threads(self) -> int:
        """The number of threads to use."""
        return self.num_threads if self.num_threads is not None else usable_cores()


def usable_cores() -> int:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check(family: str, name: str, value: Any) -> None:
    if name in _CHOICES:
        check_choice(family, name, value, _CHOICES[name])
        return
    if name == "num_threads" and value is None:
        return
    low, high = _RANGES[name]
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{family}: {name} must be an integer, got {value!r} ({type(value).__name__})")
    if not low <= value <= high:
        span = f"at least {low:g}" if math.isinf(high) else f"in [{low:g}, {high:g}]"
        raise ValueError(f"{family}: {name} must be {span}, got {value!r}")


def _suggestion(wrong: str, known: list[str]) -> str:
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(known))}"
