"""What can be reached in each family, and whether its physics holds: the references behind every benchmark.

    python benchmarks/solvability.py
    python benchmarks/solvability.py --envs meld/PegInsert-v0 --tasks 20 --episodes 100

First table, on held-out tasks: the share of trials that end in success for the scripted expert, for random
actions, for standing still, and, where there are candidates to try, for the systematic explorer in the first
and in the second episode under the sparse reward. Second table, arms only, in episodes of random actions: the
deepest contact between two bodies (sampled at least ten times a control step), how far what the hand holds
slipped, numbers that are not finite, and MuJoCo's warnings.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a script: its folder comes first on the path, where the clone's root should be
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np

import meld_envs
from benchmarks.peers import markdown
from meld_agents.interface import Evidence
from meld_agents.reference import ExplorerPolicy
from meld_envs.env import TaskVectorEnv, load_family
from meld_envs.families.locomotion import TwoDirections
from meld_envs.families.sawyer import SawyerFamily
from meld_envs.families.shelf_place import ShelfPlace
from meld_envs.families.widowx_ethernet import WidowXEthernet
from meld_envs.robots import sawyer

#: A function of the environment and the evidence that gives actions ``(n, A)``.
Act = Callable[[TaskVectorEnv, Evidence], np.ndarray]

CHUNKS = 10  # samples of the contacts in a control step, at least
#: Families with an arm, whose contacts are inspected.
ARMS = (SawyerFamily, WidowXEthernet)


def held_out(env_id: str, tasks: int, **keywords: Any) -> TaskVectorEnv:
    """So many held-out tasks of a family at once, with states for observations: nothing is drawn.

    A family that has only two tasks is given them in turn.
    """
    family = load_family(meld_envs.FAMILIES[env_id])
    different = 2 if isinstance(family, TwoDirections) else tasks
    env = gym.make_vec(
        env_id, num_envs=tasks, split="test", num_test_tasks=different, obs_type="state", **keywords
    )
    return env.unwrapped  # type: ignore[return-value]


def success_by_episode(env: TaskVectorEnv, act: Act) -> list[float]:
    """The share of trials in success at the end of each episode, with each held-out task once."""
    tasks = [env.task_set.test[trial % len(env.task_set.test)] for trial in range(env.num_envs)]
    observations, info = env.reset(seed=0, options={"task": tasks})
    rewards, shares = np.zeros(env.num_envs), []
    for step in range(1, env.trial_steps + 1):
        actions = act(env, Evidence(observations, rewards, info["episode_start"]))
        observations, rewards, _, _, info = env.step(actions)
        if step % (env.episode_steps + 1) == env.episode_steps:
            shares.append(float(info["success"].mean()))
    return shares


def random_actions(seed: int) -> Act:
    """Uniform actions from a generator of its own."""
    rng = np.random.default_rng(seed)
    return lambda env, _: rng.uniform(-1.0, 1.0, env.action_space.shape)


def success_row(env_id: str, tasks: int) -> dict[str, Any]:
    """The first table's row of a family."""
    env = held_out(env_id, tasks)
    row: dict[str, Any] = {
        "family": env_id,
        "tasks": tasks,
        "expert": success_by_episode(env, lambda env, _: env.expert_action())[-1],
        "random": success_by_episode(env, random_actions(0))[-1],
        "still": success_by_episode(env, lambda env, _: np.zeros((env.num_envs, env.family.action_size)))[-1],
        "explorer": "",
    }
    if not env.family.has_candidates:
        return row
    sparse = held_out(env_id, tasks, reward_type="sparse", episodes_per_trial=2)
    explorer = ExplorerPolicy(sparse)
    first, second = success_by_episode(sparse, lambda _, evidence: explorer.act(evidence))
    return {**row, "explorer": f"{first:.2f}, {second:.2f}"}


class Inspection:
    """Watches n simulations of an arm: contacts, what is held, numbers that are not finite."""

    def __init__(self, env: TaskVectorEnv) -> None:
        self._env, self._world = env, env._world
        self._models = [env.family.build_model() for _ in range(env.num_envs)]
        self._data = mujoco.MjData(self._models[0])
        self.depth = 0.0  # m, of the deepest contact
        self.pair = ""  # between which geoms
        self.slip = 0.0  # m
        self.not_finite = 0

    def new_tasks(self) -> None:
        """Takes over what the tasks changed in the models."""
        for sim, model in enumerate(self._models):
            self._world.sim_model(sim, model)

    def look(self) -> None:
        """Takes the states as they are into account."""
        self.not_finite += int(
            (~np.isfinite(self._world.qpos)).sum() + (~np.isfinite(self._world.qvel)).sum()
        )
        if isinstance(self._env.family, ShelfPlace):
            held = sawyer.site(self._world, sawyer.TIP) - sawyer.site(self._world, "mug_bottom")
            self.slip = max(self.slip, float(np.linalg.norm(held, axis=1).max()))
        for sim, model in enumerate(self._models):
            self._data.qpos[:] = self._world.qpos[sim]
            mujoco.mj_fwdPosition(model, self._data)
            if self._data.ncon:
                self._note(model, self._data.contact.dist)

    def _note(self, model: mujoco.MjModel, distances: np.ndarray) -> None:
        deepest = int(np.argmin(distances))
        if -distances[deepest] > self.depth:
            self.depth = float(-distances[deepest])
            self.pair = " / ".join(model.geom(geom).name for geom in self._data.contact.geom[deepest])


def inspect(env_id: str, episodes: int, seed: int = 0, batch: int = 50) -> dict[str, Any]:
    """The second table's row of a family: so many episodes of random actions, each on a task of its own.

    They are lived by batches; the last one is lived whole, and counted.
    """
    episodes = -(-episodes // batch) * batch
    env = held_out(env_id, batch)
    family, rng = env.family, np.random.default_rng(seed)
    inspection, chunks = Inspection(env), max(1, CHUNKS // family.ticks)
    for start in range(0, episodes, batch):
        env.reset(seed=start, options={"task": [family.draw_task(rng) for _ in range(batch)]})
        inspection.new_tasks()
        for _ in range(env.episode_steps):
            actions = rng.uniform(-1.0, 1.0, env.action_space.shape)
            for _ in range(family.ticks):
                family.control(env._world, actions)
                for _ in range(chunks):
                    env._world.step(family.substeps // (family.ticks * chunks))
                    inspection.look()
        print(f"\r{env_id}: {start + batch} of {episodes} episodes", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {
        "family": env_id,
        "random episodes": episodes,
        "steps": episodes * env.episode_steps,
        "deepest contact (mm)": round(1000.0 * inspection.depth, 2),
        "between": inspection.pair,
        "slip (mm)": round(1000.0 * inspection.slip, 2) if inspection.slip else "",
        "not finite": inspection.not_finite,
        "warnings": env._world.warnings,
    }


def arms(env_ids: list[str]) -> list[str]:
    """Those of the ids that have an arm."""
    return [i for i in env_ids if isinstance(load_family(meld_envs.FAMILIES[i]), ARMS)]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ids = list(meld_envs.FAMILIES)
    parser.add_argument("--envs", nargs="+", default=ids, metavar="ID", choices=ids, help=", ".join(ids))
    parser.add_argument("--tasks", type=int, default=100, help="held-out tasks (default 100)")
    parser.add_argument(
        "--episodes", type=int, default=1000, help="random episodes of each arm, in fifties (default 1000)"
    )
    return parser.parse_args()


def main() -> None:
    """Measures and prints both tables."""
    options = arguments()
    print(markdown([success_row(env_id, options.tasks) for env_id in options.envs]), flush=True)
    if rows := [inspect(env_id, options.episodes) for env_id in arms(options.envs)]:
        print(f"\n{markdown(rows)}")


if __name__ == "__main__":
    main()
