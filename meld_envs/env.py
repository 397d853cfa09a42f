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

from meld_envs import checks
from meld_envs.camera import PEOPLE, Camera
from meld_envs.config import EnvConfig
from meld_envs.family import Family, Outcome
from meld_envs.tasks import Task
from meld_envs.window import Window
from meld_envs.world import World

PEOPLE_HEIGHT = 480  # pixels, of pictures for people

#: What ``step`` returns: observations, rewards, terminated, truncated, info.
Step = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]

_AUTORESET = {"disabled": AutoresetMode.DISABLED, "next_step": AutoresetMode.NEXT_STEP}


def load_family(family: str | type[Family] | Family) -> Family:
    """The family itself, or what ``"package.module:Class"`` names.

    Raises:
        ValueError: no such module or class, or not a family.
    """
    if isinstance(family, Family):
        return family
    if isinstance(family, type) and issubclass(family, Family):
        return family()
    try:
        module, name = str(family).split(":")
        return load_family(getattr(importlib.import_module(module), name))
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{family!r} does not name a Family as 'package.module:Class' ({error})") from error


class TaskVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """n trials of one family at once, each with its own task, stepped and drawn in one process.

    A *trial* is ``episodes_per_trial`` episodes with one task, and one Gymnasium episode: ``truncated`` is
    true on its last step only, ``terminated`` never. All trials start and end together.

    The step that ends an episode inside a trial returns that episode's last frame and its reward. The next
    step ignores its action, brings the robot back, and returns the next episode's first frame with reward
    0 and ``episode_start`` true. So an episode of T steps has T + 1 frames, and a trial of K episodes has
    ``trial_steps`` = K (T + 1) − 1 steps.

    ## Arguments

    | keyword              | values                              | default        |
    |----------------------|-------------------------------------|----------------|
    | `num_envs`           | int ≥ 1, the number of trials       | 1              |
    | `split`              | `"train"`, `"test"`                 | `"train"`      |
    | `num_train_tasks`    | int ≥ 1                             | the family's   |
    | `num_test_tasks`     | int ≥ 1                             | the family's   |
    | `task_seed`          | int ≥ 0, of the task lists          | 0              |
    | `reward_type`        | `"dense"`, `"sparse"`               | `"dense"`      |
    | `obs_type`           | `"pixels"`, `"state"`               | the family's   |
    | `image_size`         | 8 … 1024, height in pixels          | 64             |
    | `episodes_per_trial` | int ≥ 1                             | 1              |
    | `episode_steps`      | int ≥ 1                             | the family's   |
    | `render_mode`        | `None`, `"rgb_array"`, `"human"`    | `None`         |
    | `num_threads`        | int ≥ 1, or `None` for usable cores | `None`         |
    | `autoreset`          | `"disabled"`, `"next_step"`         | `"disabled"`   |

    ## Info

    Arrays of shape ``(n,)``, the same keys in ``reset`` and ``step``:

    | key                | dtype   | meaning                                                             |
    |--------------------|---------|---------------------------------------------------------------------|
    | `task_id`          | int64   | index in the split's list, −1 for a task that is not in it          |
    | `reward_dense`     | float64 | the dense reward, whichever one the agent is given                  |
    | `reward_sparse`    | float64 | the sparse reward                                                   |
    | `score`            | float64 | the family's measure, higher is better                              |
    | `success`          | bool    | whether the family's criterion is met as of this step               |
    | `is_success`       | bool    | the same, for those who read this name                              |
    | `episode_in_trial` | int64   | 0-based; not `episode`, see docs/architecture.md                    |
    | `episode_start`    | bool    | whether this is an episode's first frame                            |
    | `action_sent`      | float64 | ``(n, A)``, what a driver really sent; only where there is one      |

    A robot in real time (``backend="robot"``) adds, in seconds: `lateness` of the observation after its time,
    `jitter` of this step's length, `thought`, what the policy took, and `image_age`; `missed`, how many
    periods passed before the action came; and `fault`, what holds the arm, "" if nothing does.

    ## Randomness

    Each trial has its own generator; ``reset(seed=s)`` seeds trial i with s + i, as Gymnasium does. Seed,
    tasks and actions determine everything that follows, whatever happened before and however many threads
    work; trial i gives the same numbers as a single environment reset with s + i.

    Attributes:
        family: what is simulated.
        config: the keywords, complete.
        task_set: ``train`` and ``test`` tasks.
        episode_steps: T.
        episodes_per_trial: K.
        trial_steps: K (T + 1) − 1.
        generators: one per trial.
    """

    def __init__(self, family: str | type[Family] | Family, num_envs: int = 1, **keywords: Any) -> None:
        """Builds n simulations; nothing is drawn, and no OpenGL touched, before the first reset.

        Args:
            family: a family, its class, or ``"package.module:Class"``.
            num_envs: n, the number of trials.
            keywords: see the table above.

        Raises:
            TypeError: an unknown keyword (with the nearest match) or a value of the wrong type.
            ValueError: a value that is not allowed.
        """
        self.family, keywords = load_family(family).choose(keywords)
        self.config = EnvConfig.from_keywords(self.family, keywords)
        self.num_envs = checks.check_count(self.family.name, "num_envs", num_envs)
        self.render_mode = self.config.render_mode
        self.metadata = {
            "render_modes": ["rgb_array", "human"],
            "render_fps": round(self.family.control_hz),
            "autoreset_mode": _AUTORESET[self.config.autoreset],
        }
        self.episode_steps = int(self.config.episode_steps)
        self.episodes_per_trial = int(self.config.episodes_per_trial)
        self.trial_steps = self.episodes_per_trial * (self.episode_steps + 1) - 1
        self._prepare_tasks()
        self._prepare_world()
        self._prepare_spaces()
        self._trial_step = -1  # -1: not reset yet

    def _prepare_tasks(self) -> None:
        config = self.config
        self.task_set = self.family.draw_task_set(
            config.num_train_tasks, config.num_test_tasks, config.task_seed
        )
        self._split = self.task_set.split(config.split)
        self._index_in_split = {task: index for index, task in enumerate(self._split)}
        self.generators = [seeding.np_random()[0] for _ in range(self.num_envs)]
        self._pinned: list[Task] | None = None
        self._schedules: list[checks.Schedule] = [()] * self.num_envs
        self._tasks: list[Task] = []
        self._task_ids = np.full(self.num_envs, -1, dtype=np.int64)
        self._parameters = np.zeros((self.num_envs, len(self.family.parameters)))

    def _prepare_world(self) -> None:
        family, threads = self.family, min(self.config.threads, self.num_envs)
        model = family.build_model()
        self._world = World(model, self.num_envs, threads, family.varied_fields, family.derived_fields)
        self._backend = family.backend(self._world)
        self._sent: np.ndarray | None = None  # what a backend made of the last actions
        self._camera = Camera(self._world, family.cameras, self.config.image_size, threads, family.quality)
        self._people_camera = Camera(self._world, family.cameras, PEOPLE_HEIGHT, 1, PEOPLE)
        self._window = Window(family.cameras[0])

    def _prepare_spaces(self) -> None:
        bound, size = self.family.state_bound, len(self.family.state_names)
        if self.config.obs_type == "pixels":
            self.single_observation_space = gym.spaces.Box(0, 255, self._camera.shape, np.uint8)
        else:
            self.single_observation_space = gym.spaces.Box(-bound, bound, (size,), np.float32)
        self.single_action_space = gym.spaces.Box(-1.0, 1.0, (self.family.action_size,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

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
        self._pinned = None if task is None else checks.check_tasks(self.family, self.num_envs, task)

    def _draw_task(self, rng: np.random.Generator) -> Task:
        return self._split[rng.integers(len(self._split))]

    def _assign_all(self, assignments: Sequence[tuple[int, Task]]) -> None:
        for trial, task in assignments:
            self._tasks[trial] = task
            self._task_ids[trial] = self._index_in_split.get(task, -1)
            self._parameters[trial] = [task.parameters[p.name] for p in self.family.parameters]
            self.family.apply_task(self._world, trial, task)
        if assignments:
            self._world.fields_changed()

    def _follow_schedules(self) -> None:
        due = [
            (trial, task)
            for trial, schedule in enumerate(self._schedules)
            for step, task in schedule
            if step == self._trial_step
        ]
        self._assign_all(due)

    # Gymnasium --------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts new trials.

        Args:
            seed: of the trials' generators: one for all (trial i gets seed + i), or one each.
            options: ``"task"``: a task, or a list of n, for these trials only; ``"schedule"``: a list of
                ``(step, task)``, or one list per trial: step number ``step`` of the trial (0-based) and
                all later ones have that task. Other keys are ignored.

        Returns:
            Observations ``(n, H, W, 3)`` uint8 or ``(n, S)`` float32, and the info of the table above.

        Raises:
            TypeError: an option of the wrong type.
            ValueError: a task, schedule or seed that does not fit.
        """
        family = self.family
        options = checks.check_options(family.name, options)
        checks.check_mask(family.name, options.get("reset_mask"))
        tasks = self._pinned
        if options.get("task") is not None:
            tasks = checks.check_tasks(family, self.num_envs, options["task"])
        schedule = options.get("schedule")
        schedules = checks.parse_schedules(family, self.num_envs, self.trial_steps, schedule)
        fresh = checks.make_generators(family.name, self.num_envs, seed)

        self.generators = [new or old for new, old in zip(fresh, self.generators, strict=True)]
        self._tasks = list(tasks) if tasks else [self._draw_task(rng) for rng in self.generators]
        self._schedules = schedules
        self._assign_all(list(enumerate(self._tasks)))
        self._trial_step = 0
        self.closed = False  # stable-baselines3's checker resets what it has closed: frames open cameras anew
        self._follow_schedules()
        outcome = self._start_episode()
        return self._observe(), self._info(outcome)

    def step(self, actions: np.ndarray) -> Step:
        """Takes one step in every trial.

        Args:
            actions: ``(n, A)``; values outside [−1, 1] are clipped.

        Returns:
            Observations, rewards ``(n,)`` float64, terminated ``(n,)`` (never), truncated ``(n,)`` (on the
            trial's last step), and the info of the table above.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset, or after the trials' end.
            ValueError: actions of another shape, or not finite.
        """
        self._require_reset("step()")
        shape = (self.num_envs, self.family.action_size)
        actions = checks.check_actions(self.family.name, actions, shape)
        if self._trial_step == self.trial_steps:
            return self._step_after_end()
        self._follow_schedules()
        at_boundary = self._trial_step % (self.episode_steps + 1) == self.episode_steps
        self._trial_step += 1
        return self._returns(self._start_episode() if at_boundary else self._advance(actions))

    def _step_after_end(self) -> Step:
        if self.config.autoreset == "disabled":
            raise ResetNeeded(f"{self.family.name}: the trials have ended (truncated); call reset() first")
        observations, info = self.reset()
        never = np.zeros(self.num_envs, dtype=bool)
        return observations, np.zeros(self.num_envs), never, never.copy(), info

    def _advance(self, actions: np.ndarray) -> Outcome:
        family, world = self.family, self._world
        if self._backend is not None:
            self._sent = self._backend.step(world, actions)
            if self._trial_step % (self.episode_steps + 1) == self.episode_steps:
                self._backend.end_episode(world)
        else:
            for tick in range(family.ticks):
                family.control(world, actions)
                world.step(family.substeps // family.ticks, derive=tick == family.ticks - 1)
        family.after_step(world)
        return family.outcome(world, self._parameters, actions)

    def _start_episode(self) -> Outcome:
        """Resets the robots; no reward has been received yet."""
        self._world.reset()
        self.family.start_episode(self._world, self.generators)
        if self._backend is not None:
            self._backend.start_episode(self._world)
            self._sent = np.zeros((self.num_envs, self.family.action_size))
        self._world.states_changed()
        at_rest = np.zeros((self.num_envs, self.family.action_size))
        nothing = np.zeros(self.num_envs)
        return self.family.outcome(self._world, self._parameters, at_rest)._replace(
            dense=nothing, sparse=nothing
        )

    def _returns(self, outcome: Outcome) -> Step:
        reward = outcome.dense if self.config.reward_type == "dense" else outcome.sparse
        truncated = np.full(self.num_envs, self._trial_step == self.trial_steps)
        never = np.zeros(self.num_envs, dtype=bool)
        return self._observe(), reward.copy(), never, truncated, self._info(outcome)

    # What is seen -----------------------------------------------------------------------------

    def _observe(self) -> np.ndarray:
        if self.render_mode == "human":
            self.render()
        if self.config.obs_type == "pixels":
            seen = self._backend.frames(self.config.image_size) if self._backend is not None else None
            return self._camera.draw() if seen is None else seen
        bound = self.family.state_bound
        return np.clip(self.family.state(self._world), -bound, bound).astype(np.float32)

    def _info(self, outcome: Outcome) -> dict[str, Any]:
        episode, step = divmod(self._trial_step, self.episode_steps + 1)
        sent: dict[str, np.ndarray] = {}
        if self._backend is not None and self._sent is not None:
            sent = {**self._backend.info(), "action_sent": self._sent.copy()}
        return {
            **sent,
            "task_id": self._task_ids.copy(),
            "reward_dense": outcome.dense.copy(),
            "reward_sparse": outcome.sparse.copy(),
            "score": outcome.score.copy(),
            "is_success": outcome.success.copy(),
            "success": outcome.success.copy(),
            "episode_in_trial": np.full(self.num_envs, episode, dtype=np.int64),
            "episode_start": np.full(self.num_envs, step == 0),
        }

    def state(self) -> np.ndarray:
        """The physical states ``(n, S)`` float64, named by ``family.state_names``; no task in them."""
        self._require_reset("state()")
        return self.family.state(self._world)

    def expert_action(self) -> np.ndarray:
        """What the family's scripted expert, which knows the tasks, would do now: ``(n, A)`` float32."""
        self._require_reset("expert_action()")
        return self._expert_for(self._parameters)

    def _expert_for(self, parameters: np.ndarray) -> np.ndarray:
        return np.clip(self.family.expert(self._world, parameters), -1.0, 1.0).astype(np.float32)

    def candidates_tried(self) -> np.ndarray:
        """Which candidates for what is hidden are being tried now, as a button that is down: ``(n, C)`` bool.

        Raises:
            NotImplementedError: the family has no candidates to try in turn.
        """
        self._require_reset("candidates_tried()")
        return self.family.tried(self._world)

    def candidate_action(self, candidates: Sequence[int] | np.ndarray) -> np.ndarray:
        """What the scripted expert would do now if these were the tasks' candidates ``(n,)``: ``(n, A)``.

        Only what is visible of the true tasks is used.
        """
        self._require_reset("candidate_action()")
        supposed = self._parameters.copy()
        supposed[:, 0] = candidates  # the hidden one, see Family.tried
        return self._expert_for(supposed)

    def render_people(self, trials: Sequence[int] | None = None) -> np.ndarray:
        """Pictures for people, with what is hidden made visible; in any render mode.

        Args:
            trials: which ones; all by default.

        Returns:
            ``(number of trials, 480, W, 3)`` uint8.
        """
        self._require_reset("render()")
        trials = list(range(self.num_envs)) if trials is None else list(trials)
        markers = [self.family.markers(self._world, trial, self._tasks[trial]) for trial in trials]
        return self._people_camera.draw(markers, trials)

    def render(self) -> tuple[np.ndarray, ...] | None:
        """In ``"rgb_array"`` mode a picture for people per trial; ``"human"`` mode shows trial 0."""
        if self.render_mode == "rgb_array":
            return tuple(self.render_people())
        if self.render_mode == "human":
            self._require_reset("render()")
            self._window.show(self._world, 0, self.family.markers(self._world, 0, self._tasks[0]))
        return None

    def use_window(self, window: Window) -> None:
        """Shows what ``render_mode="human"`` shows in this window, from now on."""
        self._window.close()
        self._window = window

    def close_extras(self, **kwargs: Any) -> None:
        """Frees what the graphics library holds."""
        self._camera.close()
        self._people_camera.close()
        self._window.close()
        if self._backend is not None:
            self._backend.close()

    def _require_reset(self, what: str) -> None:
        if self._trial_step < 0:
            raise ResetNeeded(f"{self.family.name}: {what} before the first reset(); call reset() first")


class TaskEnv(gym.Env[np.ndarray, np.ndarray]):
    """One trial at a time: a :class:`TaskVectorEnv` with n = 1, whose docstring says what all this means.

    ``info`` holds the same keys, with plain numbers and booleans. ``num_envs`` and ``autoreset`` belong to
    the vector environment and are refused here.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"]}  # noqa: RUF012 - Gymnasium's own type

    def __init__(self, family: str | type[Family] | Family, **keywords: Any) -> None:
        """Builds one simulation.

        Args:
            family: a family, its class, or ``"package.module:Class"``.
            keywords: see the table of :class:`TaskVectorEnv`.

        Raises:
            TypeError: an unknown keyword (with the nearest match) or a value of the wrong type.
            ValueError: a value that is not allowed.
        """
        for name in ("num_envs", "autoreset"):
            if name in keywords:
                raise TypeError(f"{name!r} belongs to vector environments: use gymnasium.make_vec")
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
        """Starts a new trial; see :meth:`TaskVectorEnv.reset`."""
        super().reset(seed=seed)
        self._batch.generators = [self.np_random]
        observations, info = self._batch.reset(options=options)
        return observations[0], _first(info)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Takes one step; see :meth:`TaskVectorEnv.step`."""
        action = np.asarray(action)
        if action.shape != self.action_space.shape:
            expected = self.action_space.shape
            raise ValueError(
                f"{self.family.name}: expected an action of shape {expected}, got {action.shape}"
            )
        observations, rewards, _, truncated, info = self._batch.step(action[np.newaxis])
        return observations[0], float(rewards[0]), False, bool(truncated[0]), _first(info)

    def state(self) -> np.ndarray:
        """The physical state ``(S,)`` float64, named by ``family.state_names``."""
        return self._batch.state()[0]

    def expert_action(self) -> np.ndarray:
        """What the family's scripted expert would do now, ``(A,)`` float32."""
        return self._batch.expert_action()[0]

    def use_window(self, window: Window) -> None:
        """Shows what ``render_mode="human"`` shows in this window, from now on."""
        self._batch.use_window(window)

    def render(self) -> np.ndarray | None:
        """A picture for people ``(480, W, 3)`` in ``"rgb_array"`` mode, a window in ``"human"`` mode."""
        pictures = self._batch.render()
        return pictures[0] if pictures else None

    def close(self) -> None:
        """Frees what the graphics library holds."""
        self._batch.close()


def _first(info: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: values[0].item() if values.ndim == 1 else values[0] for name, values in info.items()}
