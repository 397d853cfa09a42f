"""Makes everything that a plan needs once, so that what cannot work is known before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

import gymnasium as gym

from benchmarks.errors import RequestError
from benchmarks.evaluate import face
from benchmarks.plan import Job, Plan
from meld_agents.registry import find_agent


def try_envs(plan: Plan, draw: bool = False) -> None:
    """Makes every environment of the plan once: a keyword may be bad.

    Args:
        plan: whose environments.
        draw: also draws what the runs will draw, so that a missing graphics library is known, too.

    Raises:
        RequestError: what the environment says, or an agent's own keywords give it other held-out tasks
            than the others have.
    """
    for env in plan.envs:
        tried: list[Mapping[str, Any]] = []
        held_out: list[Any] = []
        for agent in plan.agents:
            keywords = plan.make(Job(env, agent, plan.seeds[0]))
            if keywords in tried:
                continue
            where = (
                f"envs: {env}: per_agent: {agent}" if agent in plan.envs[env].per_agent else f"envs: {env}"
            )
            tried.append(keywords)
            try:
                held_out.append(_try_env(plan, env, keywords, draw))
            except Exception as error:
                raise RequestError(f"{where}: {error}") from error
            if held_out[-1] != held_out[0]:
                raise RequestError(
                    f"envs: {env}: per_agent: {agent!r} and {plan.agents[0]!r} would have different held-out "
                    "tasks, and no results to compare; give keywords that choose tasks to the whole family"
                )


def _try_env(plan: Plan, env: str, keywords: Mapping[str, Any], draw: bool) -> list[dict[str, Any]]:
    """Makes both splits; returns the held-out tasks."""
    filmed = {"render_mode": "rgb_array"} if plan.evaluation.videos else {}
    for split in ("train", "test"):
        with closing(gym.make_vec(env, num_envs=1, split=split, **{**keywords, **filmed})) as made:
            held_out = [task.to_dict() for task in face(made).task_set.test]
            if draw and split == "test":
                made.reset(seed=0)
                made.render()
    return held_out


def try_agents(plan: Plan) -> None:
    """Builds every agent of the plan once on every family: image sizes and settings may not fit together.

    Raises:
        RequestError: what the agent says.
    """
    for env in plan.envs:
        for agent in plan.agents:
            _try_agent(plan, Job(env, agent, plan.seeds[0]))


def _try_agent(plan: Plan, job: Job) -> None:
    made: list[Any] = []

    def make_env(count: int) -> Any:
        made.append(gym.make_vec(job.env, num_envs=count, **plan.make(job)))
        return made[-1]

    settings = plan.agent_settings(job)
    try:
        find_agent(job.agent)(make_env, settings, job.seed, "cpu")
    except Exception as error:
        raise RequestError(f"agent {job.agent!r} on {job.env}: {error}") from error
    finally:
        for env in made:
            env.close()
