"""Wrappers for agents that have no notion of trials."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

MAX_REWARD = 1000.0  # rewards are shown within +- this, so that the space is bounded


def observation_key(observation: spaces.Box) -> str:
    """What the environment's own observation is called among the rest: ``pixels`` or ``state``."""
    return "pixels" if len(observation.shape) == 3 else "state"


def trial_space(observation: spaces.Box, action: spaces.Box) -> spaces.Dict:
    """The space of what :class:`TrialObservation` shows of a step."""
    return spaces.Dict(
        {
            observation_key(observation): observation,
            "reward": spaces.Box(-MAX_REWARD, MAX_REWARD, (1,), np.float32),
            "episode_start": spaces.Box(0.0, 1.0, (1,), np.float32),
            "previous_action": spaces.Box(action.low, action.high, dtype=np.float32),
        }
    )


class TrialObservation(
    gym.Wrapper[dict[str, np.ndarray], np.ndarray, Any, np.ndarray], gym.utils.RecordConstructorArgs
):
    """Makes reward, episode start and previous action part of the observation.

    That is what recurrent and in-context agents (RL², AMAGO, RecurrentPPO, ...) need to infer the task.
    The observation becomes a flat ``Dict``:

    | key               | space                                                        |
    |-------------------|--------------------------------------------------------------|
    | `pixels`/`state`  | the wrapped environment's observation                        |
    | `reward`          | `Box(-1000, 1000, (1,), float32)`, 0 at an episode's start   |
    | `episode_start`   | `Box(0, 1, (1,), float32)`                                   |
    | `previous_action` | as the action space, clipped; 0 at an episode's start        |

    Example:
        >>> import gymnasium as gym, meld_envs
        >>> env = meld_envs.TrialObservation(gym.make("meld/PointNav-v0", episodes_per_trial=2))
        >>> observation, info = env.reset(seed=0)
        >>> sorted(observation)
        ['episode_start', 'pixels', 'previous_action', 'reward']
        >>> env.close()
    """

    def __init__(self, env: gym.Env[Any, np.ndarray]) -> None:
        """Wraps an environment.

        Raises:
            TypeError: its observation or action space is not a ``Box``.
        """
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        seen, done = env.observation_space, env.action_space
        if not isinstance(seen, spaces.Box) or not isinstance(done, spaces.Box):
            raise TypeError(f"TrialObservation needs Box observations and actions, got {seen} and {done}")
        self._action_space_wrapped = done
        self._key = observation_key(seen)
        self.observation_space: Any = trial_space(seen, done)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Starts a trial."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._observation(observation, 0.0, True, None), info

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], Any, bool, bool, dict[str, Any]]:
        """Takes one step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        start = bool(info.get("episode_start", False))
        return (
            self._observation(observation, float(reward), start, action),
            reward,
            terminated,
            truncated,
            info,
        )

    def _observation(
        self, observation: Any, reward: float, start: bool, action: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        space = self._action_space_wrapped
        if action is None or start:
            action = np.zeros(space.shape)
        return {
            self._key: observation,
            "reward": np.clip([reward], -MAX_REWARD, MAX_REWARD).astype(np.float32),
            "episode_start": np.array([start], dtype=np.float32),
            "previous_action": np.clip(action, space.low, space.high).astype(np.float32),
        }
