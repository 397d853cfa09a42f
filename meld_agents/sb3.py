"""Any stable-baselines3 or sb3-contrib algorithm as an agent: ``sb3:SAC``, ``sb3:RecurrentPPO``, ...

These are plain RL algorithms. They see what a trial shows (observation, reward, episode start, previous
action) as one dictionary, and a trial is one episode to them. Those with memory can adapt within it; the
others show what an agent reaches that cannot.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from meld_agents.interface import Evidence, MakeEnv, Progress, TrialEnv
from meld_agents.settings import suggestion
from meld_envs.wrappers import MAX_REWARD, observation_key, trial_space

PACKAGES = ("stable_baselines3", "sb3_contrib")
LEAST_PIXELS = 36  # of stable-baselines3's image network (NatureCNN)
#: What the agent sets itself, and a user must not.
OURS = ("policy", "env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model")


def find_algorithm(name: str) -> type[BaseAlgorithm]:
    """The algorithm of that name in stable-baselines3 or sb3-contrib.

    Raises:
        ValueError: there is none (with the nearest match).
    """
    known: dict[str, type[BaseAlgorithm]] = {}
    for package in PACKAGES:
        try:
            module = importlib.import_module(package)
        except ModuleNotFoundError:
            continue
        for key, value in vars(module).items():
            if isinstance(value, type) and issubclass(value, BaseAlgorithm):
                known.setdefault(key, value)
    if name not in known:
        raise ValueError(f"unknown algorithm 'sb3:{name}'{suggestion(name, list(known))}")
    return known[name]


def agent_class(name: str) -> type[StableBaselines]:
    """The agent of an algorithm, e.g. of ``"SAC"``.

    Raises:
        ValueError: there is no such algorithm (with the nearest match).
    """
    return type(f"SB3{name}", (StableBaselines,), {"name": f"sb3:{name}", "algorithm": find_algorithm(name)})


def see(key: str, evidence: Evidence, previous: np.ndarray) -> dict[str, np.ndarray]:
    """Evidence of n trials and their previous actions ``(n, A)`` as such dictionaries."""
    starts = np.asarray(evidence.episode_start, bool)
    return {
        key: evidence.observation,
        "reward": np.clip(evidence.reward, -MAX_REWARD, MAX_REWARD).astype(np.float32)[:, None],
        "episode_start": starts.astype(np.float32)[:, None],
        "previous_action": np.where(starts[:, None], 0.0, previous).astype(np.float32),
    }


class TrialVecEnv(VecEnv):
    """Our batched environment as stable-baselines3 wants it: a trial is an episode; the next begins at once.

    Attributes:
        seed_now: the seed of the trials that are being lived.
    """

    def __init__(self, env: TrialEnv, rng: np.random.Generator) -> None:
        self.trial_env, self.rng = env, rng
        self._key = observation_key(env.single_observation_space)
        self._actions = np.zeros((env.num_envs, *env.single_action_space.shape), np.float32)
        self.seed_now = 0
        space = trial_space(env.single_observation_space, env.single_action_space)
        super().__init__(env.num_envs, space, env.single_action_space)

    def reset(self) -> dict[str, np.ndarray]:
        """Starts new trials, of tasks and noise that the generator's next number decides."""
        return self.start(int(self.rng.integers(2**31)))

    def start(self, seed: int) -> dict[str, np.ndarray]:
        """Starts the trials that follow from a seed."""
        self.seed_now = seed
        observation, info = self.trial_env.reset(seed=seed)
        return self._see(observation, np.zeros(self.num_envs), info)

    def step_async(self, actions: np.ndarray) -> None:
        """Remembers the actions."""
        self._actions = np.asarray(actions, np.float32)

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Takes the step."""
        observation, rewards, _, truncated, info = self.trial_env.step(self._actions)
        seen = self._see(observation, rewards, info)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if truncated.all():
            for trial in range(self.num_envs):
                last = {key: values[trial] for key, values in seen.items()}
                infos[trial] = {"terminal_observation": last, "TimeLimit.truncated": True}
            seen = self.reset()
        return seen, rewards.astype(np.float32), truncated, infos

    def _see(self, observation: np.ndarray, rewards: np.ndarray, info: Mapping[str, Any]) -> dict[str, Any]:
        return see(self._key, Evidence(observation, rewards, info["episode_start"]), self._actions)

    def close(self) -> None:
        """Closes the environment."""
        self.trial_env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of the environment, once per trial."""
        return [getattr(self.trial_env, attr_name, None)] * len(self._chosen(indices))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refused: all trials share one environment."""
        raise NotImplementedError(f"{attr_name} cannot be set for single trials")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Refused, likewise."""
        raise NotImplementedError(f"{method_name}() cannot be called for single trials")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Never."""
        return [False] * len(self._chosen(indices))

    def _chosen(self, indices: Any) -> Sequence[int]:
        if indices is None:
            return range(self.num_envs)
        return [indices] if isinstance(indices, int) else list(indices)


class Randomness:
    """The global generators that stable-baselines3 draws from, as this agent left them."""

    def __init__(self, seed: int) -> None:
        with self._kept():
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002 - what stable-baselines3 draws from
            torch.manual_seed(seed)
            self.state = self._read()

    @contextmanager
    def own(self) -> Iterator[None]:
        """Inside, they are ours; outside, as they were."""
        with self._kept():
            self._write(self.state)
            try:
                yield
            finally:
                self.state = self._read()

    @contextmanager
    def _kept(self) -> Iterator[None]:
        before = self._read()
        try:
            yield
        finally:
            self._write(before)

    @staticmethod
    def _read() -> dict[str, Any]:
        return {
            "python": random.getstate(),
            "numpy": np.random.get_state(),  # noqa: NPY002
            "torch": torch.get_rng_state(),
        }

    @staticmethod
    def _write(state: Mapping[str, Any]) -> None:
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])  # noqa: NPY002
        torch.set_rng_state(state["torch"])


class StableBaselines:
    """An algorithm of stable-baselines3; see ``interface.Agent`` for what its methods promise.

    Settings are the algorithm's own keywords, and ``trials``, how many trials are lived side by side.
    """

    name: ClassVar[str]
    algorithm: ClassVar[type[BaseAlgorithm]]

    def __init__(self, make_env: MakeEnv, settings: Mapping[str, Any], seed: int, device: str) -> None:
        self.settings = self.resolve(settings)
        self._rng = np.random.default_rng(np.random.SeedSequence(seed))
        self._device = device
        self._randomness = Randomness(int(self._rng.integers(2**31)))
        self.trial_env = make_env(self.settings["trials"])
        self._trial_steps = self.trial_env.episodes_per_trial * (self.trial_env.episode_steps + 1) - 1
        self._env = TrialVecEnv(self.trial_env, self._rng)
        self._wrapped = self._wrap(self._env)
        with self._randomness.own():
            self.model = self._build(int(self._rng.integers(2**31)))

    def _wrap(self, env: TrialVecEnv) -> VecEnv:
        """The environment as the algorithm gets it."""
        return env

    def _build(self, seed: int) -> BaseAlgorithm:
        """The algorithm, on our environment.

        Raises:
            ValueError: images that are too small for its network.
        """
        shape = self.trial_env.single_observation_space.shape
        if len(shape) == 3 and min(shape[:2]) < LEAST_PIXELS:
            raise ValueError(
                f"{self.name} needs images of {LEAST_PIXELS} pixels or more "
                f"(make: {{image_size: 64}}), got {shape}"
            )
        keywords = copy.deepcopy(self.settings)  # stable-baselines3 writes into what it is given
        keywords.pop("trials")
        if issubclass(self.algorithm, OnPolicyAlgorithm):  # whole trials, divided evenly into batches
            keywords.setdefault("n_steps", self._trial_steps)
            if "batch_size" in inspect.signature(self.algorithm).parameters:
                keywords.setdefault("batch_size", self._trial_steps)
        policy = "MultiInputLstmPolicy" if "Recurrent" in self.name else "MultiInputPolicy"
        return self.algorithm(policy, self._wrapped, seed=seed, device=self._device, **keywords)

    @classmethod
    def resolve(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings, with ``trials`` and a replay buffer that fits a laptop where there is one.

        Raises:
            ValueError: a keyword that the algorithm does not have (with the nearest match).
        """
        parameters = inspect.signature(cls.algorithm).parameters
        known = ["trials", *(name for name in parameters if name not in OURS)]
        for key in settings:
            if key not in known:
                raise ValueError(f"agent {cls.name!r}: unknown key {key!r}{suggestion(key, known)}")
        defaults: dict[str, Any] = {"trials": 8}
        if "buffer_size" in parameters:
            defaults["buffer_size"] = 100_000  # it keeps every observation twice
        return defaults | dict(settings)

    def meta_train(self, env_steps: int) -> Iterator[Progress]:
        """Learns trial by trial; a slice ends where the trials do."""
        slice_steps = self._trial_steps * self._env.num_envs
        while self.model.num_timesteps < env_steps:
            with self._randomness.own():
                self.model.learn(slice_steps, reset_num_timesteps=False, log_interval=None)  # type: ignore[arg-type]
            yield Progress(self.model.num_timesteps, self._updates(), self._losses())

    def _updates(self) -> int:
        """As the algorithm counts them: gradient steps, or epochs where it is on-policy."""
        return self.model._n_updates

    def _losses(self) -> dict[str, float]:
        """What the algorithm last recorded."""
        values = self.model.logger.name_to_value
        numbers = {key: v for key, v in values.items() if isinstance(v, (int, float, np.number))}
        return {key.replace("/", "_"): float(value) for key, value in numbers.items()}

    def policy(self, num_trials: int, explore: bool, seed: int = 0) -> StableBaselinesPolicy:
        """The acting side with the present weights; ``explore=False`` takes the deterministic action."""
        return StableBaselinesPolicy(self.model, num_trials, explore, Randomness(seed))

    def save(self, directory: Path) -> None:
        """The algorithm's own file, its replay buffer if it has one, and the generators."""
        self.model.save(directory / "model.zip")
        if isinstance(self.model, OffPolicyAlgorithm):
            self.model.save_replay_buffer(directory / "replay_buffer.pkl")
        state = {
            **self._randomness.state,
            "env": self._rng.bit_generator.state,
            "trials": self._env.seed_now,
            "actions": self._env.action_space.np_random.bit_generator.state,
        }
        torch.save(state, directory / "randomness.pt")

    def load(self, directory: Path) -> None:
        """Restores what ``save`` wrote; it must be this agent's own: parts of it are pickled.

        Raises:
            ValueError: it was written with other settings.
        """
        state = torch.load(directory / "randomness.pt", weights_only=False)
        self.model = self.algorithm.load(
            directory / "model.zip", env=self._wrapped, device=self._device, force_reset=False
        )
        if isinstance(self.model, OffPolicyAlgorithm):
            self.model.load_replay_buffer(directory / "replay_buffer.pkl")
        self._randomness.state = {name: state[name] for name in ("python", "numpy", "torch")}
        self._rng.bit_generator.state = state["env"]
        self._env.action_space.np_random.bit_generator.state = state["actions"]
        self._env.start(state["trials"])


class StableBaselinesPolicy:
    """Acts with an algorithm's policy, n trials at once."""

    def __init__(self, model: BaseAlgorithm, num_trials: int, explore: bool, randomness: Randomness) -> None:
        self._model, self._count, self._explore, self._randomness = model, num_trials, explore, randomness
        assert isinstance(model.observation_space, spaces.Dict)
        self._key = "pixels" if "pixels" in model.observation_space.spaces else "state"
        self.start_trial()

    def start_trial(self) -> None:
        """Forgets everything."""
        assert self._model.action_space.shape is not None
        self._state: Any = None
        self._begun = False
        self._action = np.zeros((self._count, *self._model.action_space.shape), np.float32)

    def act(self, evidence: Evidence) -> np.ndarray:
        """Actions ``(n, A)`` float32; a recurrent policy's memory lives through the trial."""
        with self._randomness.own():
            action, self._state = self._model.predict(
                see(self._key, evidence, self._action),
                state=self._state,
                episode_start=np.full(self._count, not self._begun),
                deterministic=not self._explore,
            )
        self._begun = True
        self._action = np.asarray(action, np.float32)
        return self._action
