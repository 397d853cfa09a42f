"""An agent of one's own: the best of many constant moves, found by trying them on the training tasks.

    python benchmarks/run_all.py --preset debug --agents examples.third_party_agent:ConstantMove,random,expert

It is told no task and remembers nothing within a trial, so it can only learn what is best on average. It
imports nothing of the suite: ``meld_agents/interface.py`` says what these methods promise.
"""

import json
from types import SimpleNamespace

import numpy as np


class ConstantMove:
    def __init__(self, make_env, settings, seed, device):
        self.settings, self.env = settings, make_env(settings["trials"])
        self.rng = np.random.default_rng(seed)
        self.move, self.best = np.zeros(self.env.single_action_space.shape[0]), -np.inf
        self.env_steps = self.updates = 0

    @classmethod
    def resolve(cls, settings):
        if unknown := set(settings) - {"trials", "spread"}:
            raise ValueError(f"unknown key {unknown.pop()!r}; known: trials, spread")
        return {"trials": 10, "spread": 0.3, **settings}

    def meta_train(self, env_steps):
        while self.env_steps < env_steps:
            move = np.clip(self.move + self.rng.normal(0, self.settings["spread"], self.move.shape), -1, 1)
            value = self.try_out(move)
            if value > self.best:
                self.move, self.best = move, value
            self.updates += 1
            losses = {"return": value, "best": self.best}
            yield SimpleNamespace(env_steps=self.env_steps, updates=self.updates, losses=losses)

    def try_out(self, move):
        self.env.reset(seed=int(self.rng.integers(2**31)))  # the seed decides tasks and starts
        ended, total, actions = False, 0.0, np.tile(move, (self.env.num_envs, 1))
        while not ended:
            _, rewards, _, truncated, _ = self.env.step(actions)
            self.env_steps += len(rewards)
            total, ended = total + rewards.mean(), truncated.all()
        return total

    def policy(self, num_trials, explore, seed=0):
        actions = np.tile(self.move, (num_trials, 1)).astype(np.float32)
        return SimpleNamespace(start_trial=lambda: None, act=lambda evidence: actions)

    def save(self, directory):
        numbers = [self.move.tolist(), self.best, self.env_steps, self.updates]
        (directory / "state.json").write_text(json.dumps([*numbers, self.rng.bit_generator.state]))

    def load(self, directory):
        *numbers, generator = json.loads((directory / "state.json").read_text())
        move, self.best, self.env_steps, self.updates = numbers
        self.move, self.rng.bit_generator.state = np.array(move), generator
