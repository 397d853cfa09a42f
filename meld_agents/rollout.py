"""Living through trials: one batch of them from start to end, for collection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from meld_agents.episodes import Trials
from meld_agents.interface import Evidence, Policy, TrialEnv


class RandomPolicy:
    """Uniform random actions, each held for ``hold`` steps (1 is the usual choice, more travels farther)."""

    def __init__(self, num_trials: int, action_size: int, rng: np.random.Generator, hold: int = 1) -> None:
        self._shape, self._rng, self._hold, self._age = (num_trials, action_size), rng, hold, 0
        self._action = np.zeros(self._shape, np.float32)

    def start_trial(self) -> None:
        """Draws a new action at the next step."""
        self._age = 0

    def act(self, evidence: Evidence) -> np.ndarray:
        """Actions ``(n, A)`` in [−1, 1]."""
        if self._age % self._hold == 0:
            self._action = self._rng.uniform(-1.0, 1.0, self._shape).astype(np.float32)
        self._age += 1
        return self._action


def live_trials(
    env: TrialEnv, policy: Policy, tasks: Sequence[Any], seed: int, dense_evidence: bool = False
) -> Trials:
    """Runs one trial of every task, side by side, and returns them as they were lived.

    Args:
        env: the batched environment, ``len(tasks)`` wide.
        policy: acts; told that a trial starts.
        tasks: one task per trial.
        seed: decides all that the environment draws.
        dense_evidence: show the policy the dense reward, whichever one the environment gives; what it
            gives is kept all the same.
    """
    episodes, frames = env.episodes_per_trial, env.episode_steps + 1
    steps = episodes * frames
    policy.start_trial()
    observation, info = env.reset(seed=seed, options={"task": list(tasks)})
    count = len(tasks)
    action_shape = env.single_action_space.shape
    trials = Trials(
        np.empty((count, steps, *observation.shape[1:]), observation.dtype),
        np.zeros((count, steps, *action_shape), np.float32),
        np.zeros((count, steps), np.float32),
        np.zeros((count, steps), np.float32),
    )
    reward = np.zeros(count, np.float32)
    for step in range(steps):
        trials.observation[:, step] = observation
        trials.reward[:, step] = reward
        trials.reward_dense[:, step] = 0.0 if step % frames == 0 else info["reward_dense"]
        shown = trials.reward_dense[:, step] if dense_evidence else reward
        action = policy.act(Evidence(observation, shown, np.asarray(info["episode_start"], bool)))
        if step % frames < frames - 1:
            trials.action[:, step] = action  # at an episode's last frame the action goes nowhere
        if step < steps - 1:
            observation, reward, _, _, info = env.step(np.asarray(action, np.float32))
            reward = np.asarray(reward, np.float32)
    return Trials(*(array.reshape(count, episodes, frames, *array.shape[2:]) for array in trials))
