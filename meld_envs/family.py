"""What a family of tasks is: what varies, what is hidden, control, reward, success, horizon."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import mujoco
import numpy as np

from meld_envs.backend import Backend
from meld_envs.camera import Marker, Quality
from meld_envs.tasks import Task, TaskSet
from meld_envs.world import World


@dataclass(frozen=True)
class Parameter:
    """One number that may differ between tasks.

    Attributes:
        name: its name in :attr:`Task.parameters`.
        low: smallest value a task may have.
        high: largest value a task may have.
        unit: for people.
        hidden: whether an agent must infer it.
        whole: whether it takes whole numbers only, as an index does.
    """

    name: str
    low: float
    high: float
    unit: str
    hidden: bool = True
    whole: bool = False


class Outcome(NamedTuple):
    """How well n simulations do, ``(n,)`` each.

    Attributes:
        dense: the shaped reward, float64.
        sparse: the reward that is informative near the goal only, float64.
        score: the family's own measure, higher is better, float64.
        success: whether the family's criterion is met as of this step, bool.
    """

    dense: np.ndarray
    sparse: np.ndarray
    score: np.ndarray
    success: np.ndarray


def check_choice(where: str, name: str, value: Any, choices: Sequence[str | None]) -> None:
    """Refuses what is none of a keyword's choices.

    Raises:
        ValueError: it is none.
    """
    if value not in choices:
        allowed = ", ".join(map(repr, choices))
        raise ValueError(f"{where}: {name}={value!r} is not allowed; choose one of {allowed}")


class Family(ABC):
    """A family of tasks. Subclasses are stateless: all state lives in the :class:`World`.

    To add an environment, write one such class in ``families/`` and one line in the table of
    ``meld_envs/__init__.py``.

    Attributes:
        options: keywords that only this family has, each with its choices, the default first; without
            choices any text, by default "".
        chosen: the choice of each.
        substeps: physics steps in a control step.
        ticks: how often in a control step :meth:`control` is called, where an inner loop runs faster; derived
            fields are brought up to date after the last tick only.
    """

    name: ClassVar[str]
    parameters: tuple[Parameter, ...]
    num_train_tasks: int = 30  # paper, Table 1
    num_test_tasks: int = 10  # paper, Table 1
    episode_steps: ClassVar[int]
    control_hz: ClassVar[float]
    ticks: ClassVar[int] = 1
    substeps: ClassVar[int]
    action_size: ClassVar[int]
    state_names: tuple[str, ...]
    state_bound: ClassVar[float]
    cameras: tuple[str, ...]
    expert_success: ClassVar[float] = 1.0
    quality: ClassVar[Quality] = Quality()
    varied_fields: ClassVar[tuple[str, ...]] = ()
    derived_fields: ClassVar[tuple[str, ...]] = ()
    default_obs_type: ClassVar[str] = "pixels"
    options: ClassVar[dict[str, tuple[str, ...]]] = {}

    def __init__(self, **chosen: str) -> None:
        """Takes the family's own keywords.

        Raises:
            ValueError: a choice that a keyword does not have.
        """
        for name, value in chosen.items():
            if self.options[name]:
                check_choice(self.name, name, value, self.options[name])
        defaults = {name: choices[0] if choices else "" for name, choices in self.options.items()}
        self.chosen = {**defaults, **{name: str(value) for name, value in chosen.items()}}

    def backend(self, world: World) -> Backend | None:
        """Who moves the robots in place of the simulations; None, as with most families: they themselves."""
        return None

    def choose(self, keywords: Mapping[str, Any]) -> tuple[Family, dict[str, Any]]:
        """This family with those of the keywords that are its own, and the other keywords."""
        own = {name: value for name, value in keywords.items() if name in self.options}
        others = {name: value for name, value in keywords.items() if name not in self.options}
        return (type(self)(**{**self.chosen, **own}) if own else self), others

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The names of the hidden parameters, in the order of :meth:`Task.vector`."""
        return tuple(p.name for p in self.parameters if p.hidden)

    def defaults(self) -> dict[str, Any]:
        """The family's own values of keywords."""
        return {
            "num_train_tasks": self.num_train_tasks,
            "num_test_tasks": self.num_test_tasks,
            "obs_type": self.default_obs_type,
            "episode_steps": self.episode_steps,
        }

    # Tasks ------------------------------------------------------------------------------------

    @abstractmethod
    def draw_task(self, rng: np.random.Generator) -> Task:
        """Draws one task of the family's distribution."""

    def draw_task_set(self, num_train: int, num_test: int, seed: int) -> TaskSet:
        """The seeded lists of train and test tasks."""
        return TaskSet.draw(self.draw_task, num_train, num_test, seed)

    def task(self, **parameters: float) -> Task:
        """The task with these parameters, checked.

        Raises:
            ValueError: a name or a value that the family does not have.
        """
        missing = [p.name for p in self.parameters if p.name not in parameters]
        if missing or len(parameters) != len(self.parameters):
            expected = ", ".join(p.name for p in self.parameters)
            raise ValueError(
                f"a task of {self.name} has the parameters {expected}; got {', '.join(parameters)}"
            )
        ordered = {p.name: parameters[p.name] for p in self.parameters}
        task = Task(self.name, ordered, self.parameter_names)
        self.check_task(task)
        return task

    def check_task(self, task: Task) -> None:
        """Raises if a task is not one of this family.

        Raises:
            TypeError: not a :class:`Task` at all.
            ValueError: a task of another family, or a parameter out of its range.
        """
        if not isinstance(task, Task):
            raise TypeError(f"expected a Task of {self.name}, got {type(task).__name__}: {task!r}")
        if task.family != self.name:
            raise ValueError(
                f"{task!r} belongs to {task.family}; this environment needs tasks of {self.name}"
            )
        names = tuple(p.name for p in self.parameters)
        if set(task.parameters) != set(names) or task.hidden != self.parameter_names:
            expected = ", ".join(names)
            raise ValueError(f"{task!r} does not have the parameters of {self.name}: {expected}")
        for p in self.parameters:
            if not p.low <= task.parameters[p.name] <= p.high:  # also catches NaN
                raise ValueError(f"{task!r}: {p.name} must be in [{p.low:g}, {p.high:g}] {p.unit}")
            if p.whole and task.parameters[p.name] % 1:
                raise ValueError(f"{task!r}: {p.name} must be a whole number")

    def apply_task(self, world: World, sim: int, task: Task) -> None:  # noqa: B027 - most families vary no field
        """Writes a task into one simulation's varied model fields."""

    # Simulation -------------------------------------------------------------------------------

    @abstractmethod
    def build_model(self) -> mujoco.MjModel:
        """Compiles the scene."""

    def start_episode(self, world: World, rngs: Sequence[np.random.Generator]) -> None:  # noqa: B027
        """Brings every simulation, just reset, into a start state; one generator per simulation."""

    @abstractmethod
    def control(self, world: World, actions: np.ndarray) -> None:
        """Turns actions ``(n, A)`` in [-1, 1] into the simulations' next controls."""

    @abstractmethod
    def outcome(self, world: World, parameters: np.ndarray, actions: np.ndarray) -> Outcome:
        """Judges the states reached.

        Args:
            world: the simulations after the step.
            parameters: ``(n, number of parameters)``, each simulation's task.
            actions: ``(n, A)``, what was done.
        """

    def after_step(self, world: World) -> None:  # noqa: B027 - most families remember nothing
        """Updates ``world.memory`` with the states just reached."""

    def state(self, world: World) -> np.ndarray:
        """The physical state ``(n, S)`` float64, named by ``state_names``; nothing of the task in it."""
        return np.concatenate([world.qpos, world.qvel], axis=1)

    @abstractmethod
    def expert(self, world: World, parameters: np.ndarray) -> np.ndarray:
        """The scripted expert's actions ``(n, A)``; it knows the tasks."""

    @property
    def has_candidates(self) -> bool:
        """Whether :meth:`tried` can say what is being tried."""
        return type(self).tried is not Family.tried

    def tried(self, world: World) -> np.ndarray:
        """Which candidates for what is hidden are being tried now, ``(n, C)`` bool.

        Families whose only hidden parameter is an index, the first one, can say this; a systematic search
        goes through the candidates until the sparse reward comes.

        Raises:
            NotImplementedError: the family has no candidates to try in turn.
        """
        raise NotImplementedError(f"{self.name} has no candidates that one could try in turn")

    def markers(self, world: World, sim: int, task: Task) -> tuple[Marker, ...]:
        """What pictures for people show of a task."""
        return ()
