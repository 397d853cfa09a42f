"""Agents of a third party, found as ``runner_agents:Class``: they import nothing of the suite."""

import json
import os
import signal
from pathlib import Path

import numpy as np


class Searcher:
    """Learns by random search: keeps the linear policy whose trials on training tasks brought most.

    Small and fast, but a real learner: its evaluations depend on weights, which depend on its own
    generator and on everything that it has tried before.
    """

    def __init__(self, make_env, settings, seed, device):
        self._make_env, self._settings = make_env, settings
        self._env = make_env(settings["trials"])
        self._space = self._env.single_action_space
        self._rng = np.random.default_rng(seed)
        self._weights = np.zeros((4, *self._space.shape))
        self._best, self._steps, self._updates = -np.inf, 0, 0

    @classmethod
    def resolve(cls, settings):
        unknown = set(settings) - {"trials", "noise"}
        if unknown:
            raise ValueError(f"unknown key {unknown.pop()!r}")
        return {"trials": 4, "noise": 0.5, **settings}

    def meta_train(self, env_steps):
        while self._steps < env_steps:
            tried = self._weights + self._settings["noise"] * self._rng.normal(size=self._weights.shape)
            gain = self._try(tried)
            if gain > self._best:
                self._weights, self._best = tried, gain
            self._updates += 1
            losses = {"gain": gain}
            if self._updates > 3:
                losses["late"] = 1.0  # a curve that begins later gives train.csv a new column
            yield _Progress(self._steps, self._updates, losses)

    def _try(self, weights):
        policy, env = _Linear(weights, self._space), self._env
        observation, info = env.reset(seed=int(self._rng.integers(2**31)))
        reward, total = np.zeros(env.num_envs), 0.0
        policy.start_trial()
        for _ in range(env.unwrapped.trial_steps):
            observation, reward, _, _, info = env.step(
                policy.act((observation, reward, info["episode_start"]))
            )
            total += float(info["reward_dense"].mean())
            self._steps += env.num_envs
        return total

    def policy(self, num_trials, explore, seed=0):
        return _Linear(self._weights, self._space, np.random.default_rng(seed) if explore else None)

    def save(self, directory):
        np.savez(directory / "weights.npz", weights=self._weights)
        state = [self._best, self._steps, self._updates, self._rng.bit_generator.state]
        (directory / "state.json").write_text(json.dumps(state))

    def load(self, directory):
        self._weights = np.load(directory / "weights.npz")["weights"]
        self._best, self._steps, self._updates, generator = json.loads((directory / "state.json").read_text())
        self._rng.bit_generator.state = generator


class _Progress:
    def __init__(self, env_steps, updates, losses):
        self.env_steps, self.updates, self.losses = env_steps, updates, losses


class _Linear:
    """Actions from where the darkest pixels are and what the reward was."""

    def __init__(self, weights, space, noise=None):
        self._weights, self._space, self._noise = weights, space, noise

    def start_trial(self):
        self._belief = self._frames = None

    def act(self, evidence):
        frames, reward, _ = evidence
        red = frames[..., 1].astype(float).max((1, 2), keepdims=True) - frames[..., 1]
        mass = red.sum((1, 2)) + 1e-9
        grid = np.linspace(-1, 1, frames.shape[1])
        x, y = (red.sum(1) * grid).sum(1) / mass, (red.sum(2) * grid).sum(1) / mass
        self._belief = np.stack([x, y, np.asarray(reward, float), np.ones(len(x))], axis=1)
        self._frames = frames
        action = self._belief @ self._weights
        if self._noise is not None:
            action = action + 0.3 * self._noise.normal(size=action.shape)
        return np.clip(action, self._space.low, self._space.high).astype(np.float32)

    def belief(self):
        return self._belief.astype(np.float32)

    def imagine(self):
        return self._frames // 2


class Failing(Searcher):
    """Breaks in the middle of its training."""

    def meta_train(self, env_steps):
        for progress in super().meta_train(env_steps):
            yield progress
            if progress.env_steps > env_steps / 2:
                raise RuntimeError("out of luck <script>")


class Crashing(Searcher):
    """Its process crashes in the middle of its training, the first time that it comes there."""

    def meta_train(self, env_steps):
        for progress in super().meta_train(env_steps):
            yield progress
            witness = Path(os.environ["CRASH_WITNESS"])
            if progress.env_steps > env_steps / 2 and not witness.exists():
                witness.touch()
                os.kill(os.getpid(), signal.SIGSEGV)


class Incomplete:
    """No agent: most methods are missing."""

    @classmethod
    def resolve(cls, settings):
        return {}
