"""The Gymnasium faces: :class:`TaskVectorEnv` (n tasks at once) and :class:`TaskEnv` (a batch of one)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from meld_envs.camera import PEOPLE, Camera
from meld_envs.config import EnvConfig
from meld_envs.family import Family, Outcome
from meld_envs.schedule import Schedule, parse_schedules
from meld_envs.tasks import Task, TaskSet
from meld_envs.window import Window
from meld_envs.world import World

PEOPLE_HEIGHT = 480  # pixels, of pictures for people

_AUTORESET = {"disabled": AutoresetMode.DISABLED, "next_step": AutoresetMode.NEXT_STEP}


def load_family(family: str | type[Family] | Family) -> Family:
    """The family itself, or what ``"module:Class"`` names.

    Raises:
        ValueError: no such module or class, or not a family.
    """
    if isinstance(family, Family):
        return family
    if isinstance(family, type) and issubclass(family, Family):
        return family()
    module, _, name = str(family).partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"family {family!r}: expected 'package.module:Class' naming a Family ({error})") from error
    return load_family(found) if isinstance(found, type) else found


class TaskVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """n trials of one family at once, each with its own task, in one process."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "autoreset_mode": AutoresetMode.DISABLED}

    def __init__(self, family: str | type[Family] | Family, num_envs: int = 1, **keywords: Any) -> None:
        self.family = load_family(family)
        self.config = EnvConfig.from_keywords(self.family.name, _family_defaults(self.family), keywords)
        if isinstance(num_envs, bool) or not hasattr(num_envs, "__index__") or num_envs < 1:
            raise ValueError(f"{self.family.name}: num_envs must be an integer of at least 1, got {num_envs!r}")
        self.num_envs = int(num_envs)
        self.render_mode = self.config.render_mode
        self.metadata = {
            **self.metadata,
            "render_fps": round(self.family.control_hz),
            "autoreset_mode": _AUTORESET[self.config.autoreset],
        }
        self.task_set = TaskSet.draw(
            self.family.draw_task, self.config.num_train_tasks, self.config.num_test_tasks, self.config.task_seed
        )
        self._tasks_of_split = self.task_set.split(self.config.split)
        self._task_ids = {task: index for index, task in enumerate(self._tasks_of_split)}
        self.episode_steps = self.family.episode_steps
        self.episodes_per_trial = self.config.episodes_per_trial
        self.trial_steps = self.episodes_per_trial * (self.episode_steps + 1) - 1

        threads = min(self.config.threads, self.num_envs)
        self._world = World(self.family.build_model(), self.num_envs, threads, self.family.varied_fields)
        self._camera = Camera(self._world, self.family.cameras, self.config.image_size, threads, self.family.quality)
        self._window = Window(self.family.cameras[0])
        self._people_camera = Camera(self._world, self.family.cameras, PEOPLE_HEIGHT, 1, PEOPLE)

        self.single_observation_space = self._observation_space()
        self.single_action_space = gym.spaces.Box(-1.0, 1.0, (self.family.action_size,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

        self.generators = [seeding.np_random()[0] for _ in range(self.num_envs)]
        self._pinned: list[Task] | None = None
        self._schedules: list[Schedule] = [()] * self.num_envs
        self._tasks: list[Task] = []
        self._parameters = np.zeros((self.num_envs, len(self.family.parameters)))
        self._ids = np.full(self.num_envs, -1, dtype=np.int64)
        self._trial_step = -1  # -1: not reset yet
        self._ended = False

    # Tasks ------------------------------------------------------------------------------------

    @property
    def task(self) -> list[Task]:
        """The current tasks, one per trial; before the first reset the pinned ones, or none."""
        return list(self._tasks or self._pinned or ())

    def set_task(self, task: Sequence[Task] | Task | None) -> None:
        """Pins tasks from the next reset on: a list of n, one for all, or ``None`` to draw again.

        Raises:
            TypeError: not a task.
            ValueError: a task of another family or out of its range, or a list of the wrong length.
        """
        self._pinned = None if task is None else self._check_tasks(task)

    def _check_tasks(self, tasks: Sequence[Task] | Task) -> list[Task]:
        if isinstance(tasks, (list, tuple)):
            if len(tasks) != self.num_envs:
                raise ValueError(f"{self.family.name}: expected {self.num_envs} tasks, one per trial, got {len(tasks)}")
            tasks = list(tasks)
        else:
            tasks = [tasks] * self.num_envs  # type: ignore[list-item]
        for task in tasks:
            self.family.check_task(task)
        return tasks

    def _draw_tasks(self) -> list[Task]:
        return [self._tasks_of_split[rng.integers(len(self._tasks_of_split))] for rng in self.generators]

    def _assign(self, trial: int, task: Task) -> None:
        self._tasks[trial] = task
        self._ids[trial] = self._task_ids.get(task, -1)
        self._parameters[trial] = tuple(task.parameters.values())
        self.family.apply_task(self._world, trial, task)

    # Gymnasium --------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts new trials."""
        options = options or {}
        _check_mask(options.get("reset_mask"))
        tasks = self._pinned
        if options.get("task") is not None:
            tasks = self._check_tasks(options["task"])
        schedules = parse_schedules(self.family, self.num_envs, self.trial_steps, options.get("schedule"))
        self._seed(seed)
        return self._start_trials(tasks if tasks is not None else self._draw_tasks(), schedules)

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Takes one step in every trial."""
        actions = self._check_actions(actions)
        if self._ended:
            return self._autoreset()
        if self._trial_step % (self.episode_steps + 1) == self.episode_steps:
            return self._next_episode()
        return self._advance(actions)

    def _advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        self._apply_schedules(self._trial_step)
        self.family.control(self._world, actions)
        self._world.step(self.family.substeps)
        self.family.after_step(self._world)
        outcome = self.family.outcome(self._world, self._parameters, actions)
        self._trial_step += 1
        self._ended = self._trial_step == self.trial_steps
        return self._returns(outcome)

    def _next_episode(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        self._apply_schedules(self._trial_step)
        self._trial_step += 1
        return self._returns(self._start_episode())

    def _autoreset(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        observations, info = self.reset()
        zeros = np.zeros(self.num_envs)
        return observations, zeros, np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool), info

    def _returns(self, outcome: Outcome) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        reward = outcome.dense if self.config.reward_type == "dense" else outcome.sparse
        truncated = np.full(self.num_envs, self._ended)
        self._show()
        return self._observe(), reward.copy(), np.zeros(self.num_envs, bool), truncated, self._info(outcome)

    def _start_trials(
        self, tasks: Sequence[Task], schedules: list[Schedule]
    ) -> tuple[np.ndarray, dict[str, Any]]:
        self._tasks, self._schedules = list(tasks), schedules
        for trial, task in enumerate(tasks):
            self._assign(trial, task)
        self._trial_step, self._ended = 0, False
        self._apply_schedules(0)
        outcome = self._start_episode()
        self._show()
        return self._observe(), self._info(outcome)

    def _show(self) -> None:
        """In human mode every step is shown as it happens, as in Gymnasium's own environments."""
        if self.render_mode == "human":
            self.render()

    def _start_episode(self) -> Outcome:
        self._world.reset()
        self.family.start_episode(self._world, self.generators)
        rest = np.zeros((self.num_envs, self.family.action_size))
        outcome = self.family.outcome(self._world, self._parameters, rest)
        zeros = np.zeros(self.num_envs)
        return outcome._replace(dense=zeros, sparse=zeros)

    def _apply_schedules(self, step: int) -> None:
        for trial, schedule in enumerate(self._schedules):
            for when, task in schedule:
                if when == step:
                    self._assign(trial, task)

    def _seed(self, seed: int | Sequence[int | None] | None) -> None:
        if seed is None:
            return
        if hasattr(seed, "__index__"):
            seed = [int(seed) + trial for trial in range(self.num_envs)]  # type: ignore[arg-type]
        if len(seed) != self.num_envs:  # type: ignore[arg-type]
            raise ValueError(f"seed: expected an integer or a list of {self.num_envs}, got {seed!r}")
        for trial, value in enumerate(seed):  # type: ignore[arg-type]
            if value is not None:
                self.generators[trial] = seeding.np_random(int(value))[0]

    def _check_actions(self, actions: Any) -> np.ndarray:
        if self._trial_step < 0:
            raise ResetNeeded(f"{self.family.name}: step() before the first reset(); call reset() first")
        if self._ended and self.config.autoreset == "disabled":
            raise ResetNeeded(f"{self.family.name}: the trials have ended (truncated); call reset() before step()")
        values = np.asarray(actions)
        expected = (self.num_envs, self.family.action_size)
        if values.shape != expected or values.dtype.kind not in "fiu":
            raise ValueError(
                f"{self.family.name}: expected actions of shape {expected} (trials, action), "
                f"got {values.shape} of {values.dtype}"
            )
        values = values.astype(np.float64)
        if not np.isfinite(values).all():
            trial, index = np.argwhere(~np.isfinite(values))[0]
            raise ValueError(f"{self.family.name}: action {index} of trial {trial} is {values[trial, index]}, not finite")
        return np.clip(values, -1.0, 1.0)

    # What is seen ------------------------------------------------------------------------------

    def _observation_space(self) -> gym.spaces.Box:
        if self.config.obs_type == "pixels":
            return gym.spaces.Box(0, 255, self._camera.shape, np.uint8)
        bound = self.family.state_bound
        return gym.spaces.Box(-bound, bound, (len(self.family.state_names),), np.float32)

    def _observe(self) -> np.ndarray:
        if self.config.obs_type == "pixels":
            return self._camera.draw()
        bound = self.family.state_bound
        return np.clip(self.family.state(self._world), -bound, bound).astype(np.float32)

    def _info(self, outcome: Outcome) -> dict[str, Any]:
        episode, step = divmod(self._trial_step, self.episode_steps + 1)
        return {
            "task_id": self._ids.copy(),
            "reward_dense": outcome.dense.copy(),
            "reward_sparse": outcome.sparse.copy(),
            "score": outcome.score.copy(),
            "is_success": outcome.success.copy(),
            "success": outcome.success.copy(),
            "episode": np.full(self.num_envs, episode, dtype=np.int64),
            "episode_start": np.full(self.num_envs, step == 0),
        }

    def state(self) -> np.ndarray:
        """The physical states ``(n, S)`` float64, named by ``family.state_names``."""
        self._require_reset("state()")
        return self.family.state(self._world)

    def expert_action(self) -> np.ndarray:
        """What the family's scripted expert, which knows the tasks, would do: ``(n, A)`` float32."""
        self._require_reset("expert_action()")
        return np.clip(self.family.expert(self._world, self._parameters), -1.0, 1.0).astype(np.float32)

    def render_people(self, trials: Sequence[int] | None = None) -> np.ndarray:
        """Pictures for people, 480 pixels high, with what is hidden: ``(number of trials, 480, W, 3)`` uint8."""
        self._require_reset("render()")
        trials = list(range(self.num_envs)) if trials is None else list(trials)
        markers = [self.family.markers(self._world, trial, self._tasks[trial]) for trial in trials]
        return self._people_camera.draw(markers, trials)

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One picture for people per trial, in ``"rgb_array"`` mode; in ``"human"`` mode the first trial's window."""
        if self.render_mode == "rgb_array":
            return tuple(self.render_people())
        if self.render_mode == "human":
            self._require_reset("render()")
            self._window.show(self._world, 0, self.family.markers(self._world, 0, self._tasks[0]))
        return None

    def _require_reset(self, what: str) -> None:
        if self._trial_step < 0:
            raise ResetNeeded(f"{self.family.name}: {what} before the first reset(); call reset() first")

    def close_extras(self, **kwargs: Any) -> None:
        """Frees the cameras."""
        self._camera.close()
        self._people_camera.close()
        self._window.close()


class TaskEnv(gym.Env[np.ndarray, np.ndarray]):
    """One trial at a time: a :class:`TaskVectorEnv` with n = 1."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"]}

    def __init__(self, family: str | type[Family] | Family, **keywords: Any) -> None:
        self._batch = TaskVectorEnv(family, num_envs=1, **keywords)
        self.metadata = {**self.metadata, "render_fps": self._batch.metadata["render_fps"]}
        self.family = self._batch.family
        self.config = self._batch.config
        self.render_mode = self._batch.render_mode
        self.task_set = self._batch.task_set
        self.episode_steps = self._batch.episode_steps
        self.episodes_per_trial = self._batch.episodes_per_trial
        self.trial_steps = self._batch.trial_steps
        self.observation_space = self._batch.single_observation_space
        self.action_space = self._batch.single_action_space

    @property
    def task(self) -> Task | None:
        """The current task; before the first reset the pinned one, or ``None``."""
        tasks = self._batch.task
        return tasks[0] if tasks else None

    def set_task(self, task: Task | None) -> None:
        """Pins a task from the next reset on; ``None`` draws again."""
        self._batch.set_task(task)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts a new trial."""
        super().reset(seed=seed)
        self._batch.generators = [self.np_random]
        observations, info = self._batch.reset(options=options)
        return observations[0], _first(info)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Takes one step."""
        observations, rewards, _, truncated, info = self._batch.step(self._as_batch(action))
        return observations[0], float(rewards[0]), False, bool(truncated[0]), _first(info)

    def _as_batch(self, action: Any) -> np.ndarray:
        values = np.asarray(action)
        if values.shape != self.action_space.shape:
            raise ValueError(
                f"{self.family.name}: expected an action of shape {self.action_space.shape}, got {values.shape}"
            )
        return values[np.newaxis]

    def state(self) -> np.ndarray:
        """The physical state ``(S,)`` float64."""
        return self._batch.state()[0]

    def expert_action(self) -> np.ndarray:
        """What the family's scripted expert would do, ``(A,)`` float32."""
        return self._batch.expert_action()[0]

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """A picture for people, ``(480, W, 3)`` uint8, in ``"rgb_array"`` mode."""
        pictures = self._batch.render()
        return pictures[0] if pictures else None

    def close(self) -> None:
        """Frees the cameras."""
        self._batch.close()


def _first(info: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: values[0].item() for name, values in info.items()}


def _family_defaults(family: Family) -> dict[str, Any]:
    return {
        "num_train_tasks": family.num_train_tasks,
        "num_test_tasks": family.num_test_tasks,
        "obs_type": family.default_obs_type,
    }


def _check_mask(mask: Any) -> None:
    if mask is not None and not np.all(mask):
        raise ValueError("reset_mask: all trials of this environment start and end together; reset all of them")
