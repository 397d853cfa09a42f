"""Meta-testing, the same for every agent: held-out tasks, one batch of trials, both rewards, the score."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

from meld_agents.interface import Agent, Evidence, Policy

#: Called at every frame of a batch of trials with (frame index, evidence, policy, environment).
Watcher = Callable[[int, Evidence, Policy, VectorEnv], None]

_EPISODE = ("env_steps", "split", "task_id", "trial", "episode")
EVAL_COLUMNS = (*_EPISODE, "return_dense", "return_sparse", "final_score", "best_score", "success")
ADAPTATION_COLUMNS = (*_EPISODE, "step", "reward_dense", "reward_sparse", "score", "success")


class Environments:
    """Batched environments of one family by split and size, made when first needed.

    Args:
        env_id: as for ``gym.make_vec``.
        make: its keywords.
        threads: worker threads of each environment.
    """

    def __init__(self, env_id: str, make: Mapping[str, Any], threads: int) -> None:
        self._env_id, self._make, self._threads = env_id, dict(make), threads
        self._made: dict[tuple[str, int, bool], VectorEnv] = {}

    def make(self, num_envs: int, split: str = "train", **more: Any) -> VectorEnv:
        """A new environment, which the caller closes."""
        keywords = {"num_threads": self._threads, **self._make, **more}
        return gym.make_vec(self._env_id, num_envs=num_envs, split=split, **keywords)

    def get(self, num_envs: int, split: str, filmed: bool = False) -> VectorEnv:
        """An environment that is kept for the next time."""
        key = (split, num_envs, filmed)
        if key not in self._made:
            more = {"render_mode": "rgb_array"} if filmed else {}
            self._made[key] = self.make(num_envs, split, **more)
        return self._made[key]

    def close(self) -> None:
        """Closes every environment that was kept."""
        for env in self._made.values():
            env.close()
        self._made.clear()


def face(env: VectorEnv) -> Any:
    """The environment itself, with what ``meld_envs`` promises beyond Gymnasium (task lists, horizons)."""
    return env.unwrapped


@dataclass(frozen=True)
class Trials:
    """What n trials of K episodes of T steps brought; frame 0 of an episode is its start.

    Attributes:
        task_ids: ``(n,)`` the tasks' indices in their split.
        trials: ``(n,)`` which trial of its task each one is.
        reward_dense, reward_sparse, score: ``(n, K, T+1)``; the reward at frame 0 is 0.
        success: ``(n, K, T+1)`` bool.
    """

    task_ids: np.ndarray
    trials: np.ndarray
    reward_dense: np.ndarray
    reward_sparse: np.ndarray
    score: np.ndarray
    success: np.ndarray

    def _where(self, env_steps: int, split: str, i: int, k: int) -> dict[str, Any]:
        """What every row of episode k of trial i begins with."""
        return {
            "env_steps": env_steps,
            "split": split,
            "task_id": int(self.task_ids[i]),
            "trial": int(self.trials[i]),
            "episode": k,
        }

    def eval_rows(self, env_steps: int, split: str) -> Iterator[dict[str, Any]]:
        """The rows of ``eval.csv``: one for every episode of every trial."""
        for i, k in np.ndindex(self.score.shape[:2]):
            yield {
                **self._where(env_steps, split, i, k),
                "return_dense": float(self.reward_dense[i, k].sum()),
                "return_sparse": float(self.reward_sparse[i, k].sum()),
                "final_score": float(self.score[i, k, -1]),
                "best_score": float(self.score[i, k, 1:].max()),
                "success": bool(self.success[i, k, -1]),
            }

    def adaptation_rows(self, env_steps: int, split: str) -> Iterator[dict[str, Any]]:
        """The rows of ``adaptation.csv``: one for every frame; ``step`` counts frames of the trial."""
        for i, k, t in np.ndindex(self.score.shape):
            yield {
                **self._where(env_steps, split, i, k),
                "step": k * self.score.shape[2] + t,
                "reward_dense": float(self.reward_dense[i, k, t]),
                "reward_sparse": float(self.reward_sparse[i, k, t]),
                "score": float(self.score[i, k, t]),
                "success": bool(self.success[i, k, t]),
            }

    @property
    def final_success(self) -> float:
        """The share of trials that end their last episode in success."""
        return float(self.success[:, -1, -1].mean())

    @property
    def final_score(self) -> float:
        """The mean score at the end of the trials' last episodes."""
        return float(self.score[:, -1, -1].mean())


def run_trials(
    agent: Agent,
    env: VectorEnv,
    task_ids: Sequence[int],
    tasks: Sequence[Any],
    seed: int,
    explore: bool = False,
    watch: Sequence[Watcher] = (),
    schedule: Sequence[tuple[int, Any]] = (),
) -> Trials:
    """Lets the agent try tasks it is not told, all at once.

    Args:
        agent: with its present weights.
        env: batched, as many simulations as there are tasks.
        task_ids: the tasks' indices in their split, ``(n,)``; a task may be there more than once.
        tasks: the tasks, ``(n,)``.
        seed: determines everything that is drawn.
        explore: the agent's exploring policy rather than its mean actions.
        watch: called at every frame, after the policy has received its evidence.
        schedule: steps of the trials at which all of them change their task, with the new one.
    """
    episodes, steps = face(env).episodes_per_trial, face(env).episode_steps
    frames = episodes * (steps + 1)
    log = {
        name: np.zeros((len(tasks), frames)) for name in ("reward_dense", "reward_sparse", "score", "success")
    }
    policy = _policy(agent, env, len(tasks), explore, seed)
    observation, info = env.reset(seed=seed, options={"task": list(tasks), "schedule": list(schedule)})
    reward = np.zeros(len(tasks), np.float32)
    policy.start_trial()
    for t in range(frames):
        _note(log, info, t)
        evidence = Evidence(
            observation, np.asarray(reward, np.float32), np.asarray(info["episode_start"], bool)
        )
        action = policy.act(evidence)
        for watcher in watch:
            watcher(t, evidence, policy, env)
        if t + 1 < frames:
            observation, reward, _, _, info = env.step(_checked(action, env))
    shape = (len(tasks), episodes, steps + 1)
    trials = [list(task_ids[:i]).count(task_id) for i, task_id in enumerate(task_ids)]
    arrays = {name: values.reshape(shape) for name, values in log.items()}
    for name in ("reward_dense", "reward_sparse"):
        arrays[name][:, :, 0] = 0.0  # arriving at an episode's first frame earns nothing
    arrays["success"] = arrays["success"].astype(bool)
    return Trials(task_ids=np.asarray(task_ids), trials=np.asarray(trials), **arrays)


def _policy(agent: Agent, env: VectorEnv, num_trials: int, explore: bool, seed: int) -> Policy:
    """The agent's acting side; a reference may look at the environment itself."""
    privileged = getattr(agent, "privileged_policy", None)
    return privileged(env, seed) if privileged else agent.policy(num_trials, explore, seed)


def _note(log: dict[str, np.ndarray], info: Mapping[str, Any], t: int) -> None:
    for name, values in log.items():
        values[:, t] = info[name]


def _checked(action: Any, env: VectorEnv) -> np.ndarray:
    action = np.asarray(action, np.float32)
    if action.shape != env.action_space.shape or not np.isfinite(action).all():
        raise ValueError(
            f"the agent's policy returned actions of shape {action.shape} "
            f"(finite: {bool(np.isfinite(action).all())}); "
            f"expected finite ones of shape {env.action_space.shape}"
        )
    return action


def spread(count: int, at_most: int) -> list[int]:
    """At most so many indices below ``count``, evenly spread."""
    if count <= at_most:
        return list(range(count))
    return [int(i) for i in np.linspace(0, count - 1, at_most).round()]


def each_task(tasks: Sequence[Any], indices: Sequence[int], trials: int) -> tuple[list[int], list[Any]]:
    """Indices and tasks for so many trials of each of the chosen tasks, trial by trial."""
    ids = [index for _ in range(trials) for index in indices]
    return ids, [tasks[index] for index in ids]
