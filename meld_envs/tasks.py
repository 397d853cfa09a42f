"""Tasks and task sets: what varies between the tasks of a family, as immutable values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

#: Draws one task from a generator.
DrawTask = Callable[[np.random.Generator], "Task"]

#: So many draws in a row may repeat a known task before a family is said to have no more of them.
MAX_REPEATS = 1000


class Task:
    """One task of a family: an immutable value that compares equal by value.

    Attributes:
        family: the family's name, e.g. ``"PointNav"``.
        parameters: read-only mapping from parameter name to value; their order does not matter.
        hidden: the names of those parameters that an agent must infer.
    """

    __slots__ = ("family", "hidden", "parameters")

    family: str
    parameters: Mapping[str, float]
    hidden: tuple[str, ...]

    def __init__(self, family: str, parameters: Mapping[str, float], hidden: Sequence[str]) -> None:
        values = {str(name): float(value) for name, value in parameters.items()}
        unknown = [name for name in hidden if name not in values]
        if unknown:
            raise ValueError(
                f"task of {family}: hidden name {unknown[0]!r} is no parameter; known: {', '.join(values)}"
            )
        object.__setattr__(self, "family", str(family))
        object.__setattr__(self, "parameters", MappingProxyType(values))
        object.__setattr__(self, "hidden", tuple(str(name) for name in hidden))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"tasks are immutable: cannot set {name!r}; make a new Task instead")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"tasks are immutable: cannot delete {name!r}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Task) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value:.4g}" for name, value in self.parameters.items())
        return f"Task({self.family}: {values})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Task, (self.family, dict(self.parameters), self.hidden)

    def _key(self) -> tuple[Any, ...]:
        return self.family, frozenset(self.parameters.items()), self.hidden

    def vector(self) -> np.ndarray:
        """The hidden parameters in order, ``(number hidden,)`` float64: what a probe tries to read."""
        return np.array([self.parameters[name] for name in self.hidden], dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for YAML and JSON."""
        return {"family": self.family, "parameters": dict(self.parameters), "hidden": list(self.hidden)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Task:
        """The task that :meth:`to_dict` described.

        Raises:
            ValueError: an entry is missing or is not what ``to_dict`` writes.
        """
        try:
            return cls(plain["family"], plain["parameters"], plain["hidden"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"not a task: expected the keys family, parameters (name to number) and hidden, got {plain!r}"
            ) from error


class TaskSet:
    """The train and test tasks of a family: disjoint lists that follow from one seed.

    Attributes:
        train: tasks for meta-training.
        test: held-out tasks for meta-testing.
    """

    def __init__(self, train: Sequence[Task], test: Sequence[Task], may_share: bool = False) -> None:
        """Keeps both lists.

        Args:
            train: tasks for meta-training.
            test: held-out tasks.
            may_share: whether the lists may have tasks in common, as in an experiment that asks only how
                well the train tasks are learned.

        Raises:
            ValueError: the lists have tasks in common.
        """
        self.train = tuple(train)
        self.test = tuple(test)
        shared = set(self.train) & set(self.test)
        if shared and not may_share:
            raise ValueError(f"train and test tasks must be disjoint, but both hold {next(iter(shared))!r}")

    @classmethod
    def draw(cls, draw_task: DrawTask, num_train: int, num_test: int, seed: int) -> TaskSet:
        """Draws both lists, each from its own child of ``seed``.

        Neither list changes when the other one grows, and a longer list begins with the shorter one.

        Raises:
            ValueError: the family has too few different tasks.
        """
        train_seed, test_seed = np.random.SeedSequence(seed).spawn(2)
        test = _draw_distinct(draw_task, num_test, np.random.default_rng(test_seed), ())
        train = _draw_distinct(draw_task, num_train, np.random.default_rng(train_seed), test)
        return cls(train, test)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TaskSet) and (self.train, self.test) == (other.train, other.test)

    def __hash__(self) -> int:
        return hash((self.train, self.test))

    def __repr__(self) -> str:
        return f"TaskSet({len(self.train)} train, {len(self.test)} test)"

    def split(self, name: str) -> tuple[Task, ...]:
        """The list called ``"train"`` or ``"test"``."""
        return {"train": self.train, "test": self.test}[name]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for YAML and JSON."""
        return {
            "train": [task.to_dict() for task in self.train],
            "test": [task.to_dict() for task in self.test],
            **({"may_share": True} if set(self.train) & set(self.test) else {}),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> TaskSet:
        """The task set that :meth:`to_dict` described."""
        return cls(
            [Task.from_dict(item) for item in plain["train"]],
            [Task.from_dict(item) for item in plain["test"]],
            may_share=bool(plain.get("may_share", False)),
        )


def _draw_distinct(
    draw_task: DrawTask, count: int, rng: np.random.Generator, taken: Sequence[Task]
) -> list[Task]:
    """``count`` different tasks, none of which is in ``taken``."""
    known, repeats = set(taken), 0
    drawn: list[Task] = []
    while len(drawn) < count:
        task = draw_task(rng)
        if task in known:
            repeats += 1
            if repeats > MAX_REPEATS:
                raise ValueError(
                    f"{task.family} has no {count} different tasks beside the {len(taken)} others: "
                    f"ask for fewer (num_train_tasks, num_test_tasks)"
                )
            continue
        known.add(task)
        drawn.append(task)
    return drawn
