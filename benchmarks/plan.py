"""The plan: which agents learn which families with which seeds, and every number that this depends on.

A plan is filled from a preset (``benchmarks/presets/*.yaml``) and the command line, checked, and kept
as ``plan.yaml`` in the results folder, from which everything else is made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import yaml

import meld_envs  # noqa: F401 (registers the families)
from benchmarks.errors import RequestError
from meld_agents.registry import AgentError, find_agent
from meld_agents.settings import coerce, from_mapping, suggestion, to_mapping

PRESETS = Path(__file__).parent / "presets"
NAMESPACE = "meld/"

#: What an agent's name may consist of: it becomes a folder's name and a cell of tables.
_NAME = re.compile(r"[A-Za-z_][\w.:\-]*")
_ENV_ID = re.compile(r"[A-Za-z_][\w.:/\-]*")


@dataclass(frozen=True)
class Evaluation:
    """How agents are meta-tested.

    Attributes:
        every: environment steps of meta-training between evaluations.
        trials_per_task: trials of each held-out task at each of them.
        final_trials_per_task: trials of each held-out task at the last one.
        train_tasks: how many training tasks are tried as well (train-test gap, probes); evenly spread.
        videos: filmed held-out trials at the end.
        probes: whether beliefs are probed for task parameters and physical state.
    """

    every: int
    trials_per_task: int = 1
    final_trials_per_task: int = 3
    train_tasks: int = 40
    videos: int = 2
    probes: bool = True


@dataclass(frozen=True)
class AgentPlan:
    """In what one agent differs from the others on a family: its episodes of a trial, its budget.

    Attributes:
        make: keywords for ``gym.make_vec`` that go before the family's.
        env_steps: its budget of meta-training; None: the family's.
        every: environment steps between its evaluations; None: those of all agents.
        max_minutes: its limit of wall-clock time; None: that of all jobs.
    """

    make: Mapping[str, Any] = field(default_factory=dict)
    env_steps: int | None = None
    every: int | None = None
    max_minutes: float | None = None


@dataclass(frozen=True)
class EnvPlan:
    """One family.

    Attributes:
        env_steps: the budget of meta-training.
        make: keywords for ``gym.make_vec``.
        settings: settings of agents for this family alone.
        per_agent: in what single agents differ.
    """

    env_steps: int
    make: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    per_agent: Mapping[str, AgentPlan] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One run of one agent on one family with one seed."""

    env: str
    agent: str
    seed: int

    @property
    def folder(self) -> Path:
        """Its folder inside the results folder: ``<env>/<agent>/seed<k>``."""
        return Path(self.env.rpartition(":")[2]) / self.agent.replace(":", "-") / f"seed{self.seed}"

    def __str__(self) -> str:
        return f"{self.env.rpartition('/')[2]} {self.agent} seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """What was asked for, complete."""

    preset: str
    description: str
    agents: tuple[str, ...]
    seeds: tuple[int, ...]
    envs: Mapping[str, EnvPlan]
    settings: Mapping[str, Mapping[str, Any]]
    evaluation: Evaluation
    max_minutes: float | None
    device: str = "auto"

    def jobs(self) -> list[Job]:
        """Every run of the plan, the largest training budgets first."""
        jobs = [Job(env, agent, seed) for env in self.envs for seed in self.seeds for agent in self.agents]
        return sorted(jobs, key=lambda job: -self.budget(job))

    def make(self, job: Job) -> dict[str, Any]:
        """The job's keywords for ``gym.make_vec``."""
        return {**self.envs[job.env].make, **self._own(job).make}

    def env_steps(self, job: Job) -> int:
        """The environment steps of meta-training that the job is given."""
        own = self._own(job).env_steps
        return self.envs[job.env].env_steps if own is None else own

    def budget(self, job: Job) -> int:
        """The environment steps that it uses of these; 0 for a reference, which does not learn."""
        return self.env_steps(job) if getattr(find_agent(job.agent), "learns", True) else 0

    def evaluation_of(self, job: Job) -> Evaluation:
        """How the job is meta-tested."""
        own = self._own(job).every
        return self.evaluation if own is None else replace(self.evaluation, every=own)

    def max_minutes_of(self, job: Job) -> float | None:
        """The job's limit of wall-clock time, if it has one."""
        own = self._own(job).max_minutes
        return self.max_minutes if own is None else own

    def _own(self, job: Job) -> AgentPlan:
        return self.envs[job.env].per_agent.get(job.agent, AgentPlan())

    def agent_settings(self, job: Job) -> dict[str, Any]:
        """The agent's settings for this family, completed by the agent.

        Raises:
            RequestError: the agent does not know a key, or a value does not fit.
        """
        given = {**self.settings.get(job.agent, {}), **self.envs[job.env].settings.get(job.agent, {})}
        try:
            return dict(find_agent(job.agent).resolve(given))
        except ValueError as error:
            raise RequestError(f"settings of agent {job.agent!r}: {error}") from error


# ---------------------------------------------------------------------------------------------- presets


def preset_names() -> list[str]:
    """The short names of the presets."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def presets_by_size() -> dict[str, dict[str, Any]]:
    """The presets' values by short name, those that train least first."""
    found = {name: load_preset(name) for name in preset_names()}
    return dict(sorted(found.items(), key=lambda item: _steps_in_all(item[1])))


def _steps_in_all(values: Mapping[str, Any]) -> int:
    """Environment steps of all jobs of a preset, as it is written."""
    steps = [
        (entry.get("per_agent") or {}).get(agent, {}).get("env_steps") or entry["env_steps"]
        for entry in values["envs"].values()
        for agent in values["agents"]
    ]
    return sum(map(int, steps)) * len(values["seeds"])


def load_preset(name: str) -> dict[str, Any]:
    """The preset's values.

    Args:
        name: a short name, or the path of a YAML file of one's own.

    Raises:
        RequestError: there is no such preset (with the nearest match), or it is not YAML.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else PRESETS / f"{name}.yaml"
    if not path.is_file():
        if path.parent != PRESETS:
            raise RequestError(f"there is no preset file {name}")
        raise RequestError(f"unknown preset {name!r}{suggestion(name, preset_names())}")
    return load_yaml(path)


def load_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping, by the safe loader.

    Raises:
        RequestError: the file cannot be read, or holds something else.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RequestError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        raise RequestError(f"{path}: expected a mapping at the top, got {type(values).__name__}")
    return dict(_unshared(values))


def _unshared(values: Any) -> Any:
    """A copy in which nothing is there twice: what YAML gives one alias, ``--set`` must not give all."""
    if isinstance(values, dict):
        return {key: _unshared(value) for key, value in values.items()}
    return [_unshared(value) for value in values] if isinstance(values, list) else values


# ------------------------------------------------------------------------------------------------ checking


def build_plan(preset: str, values: Mapping[str, Any]) -> Plan:
    """A checked plan from a preset's values.

    Raises:
        RequestError: an unknown key, family or agent (with the nearest match), a value that does not
            fit, settings that an agent refuses.
    """
    known = ["description", "agents", "seeds", "envs", "settings", "evaluation", "max_minutes", "device"]
    # other_envs is for the command line, which fills envs from it; what it holds is checked all the same.
    _known_keys(values, [*known, "other_envs"], f"preset {preset!r}")
    for name in ("agents", "seeds", "envs", "evaluation"):
        if not values.get(name):
            raise RequestError(f"preset {preset!r}: {name!r} is missing or empty")
    if "other_envs" in values:
        _env_plan("other_envs", values["other_envs"])
    try:
        plan = Plan(
            preset=preset,
            description=str(values.get("description", "")),
            agents=_names(values["agents"], "agents"),
            seeds=coerce(_unique(values["seeds"], "seeds"), tuple[int, ...], "seeds"),
            envs={env: _env_plan(env, entry) for env, entry in _mapping(values["envs"], "envs").items()},
            settings=_settings(values.get("settings"), "settings"),
            evaluation=from_mapping(Evaluation, _mapping(values["evaluation"], "evaluation"), "evaluation"),
            max_minutes=coerce(values.get("max_minutes"), float | None, "max_minutes"),
            device=str(values.get("device", "auto")),
        )
    except (ValueError, TypeError) as error:
        raise RequestError(str(error)) from error
    _check_numbers(plan)
    _check_names(plan)
    return plan


def _known_keys(values: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in values:
        if key not in known:
            raise RequestError(f"{where}: unknown key {key!r}{suggestion(str(key), list(known))}")


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RequestError(f"{where}: expected a mapping, got {value!r}")
    return value


def _unique(value: Any, where: str) -> list[Any]:
    if not isinstance(value, (list, tuple)) or not value:
        raise RequestError(f"{where}: expected a list, got {value!r}")
    if len(set(map(str, value))) < len(value):
        raise RequestError(f"{where}: something is there twice in {list(value)}")
    return list(value)


def _names(value: Any, where: str) -> tuple[str, ...]:
    for name in _unique(value, where):
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise RequestError(f"{where}: {name!r} is no name")
    return tuple(value)


def _settings(value: Any, where: str) -> dict[str, dict[str, Any]]:
    settings = _mapping(value or {}, where)
    return {str(agent): dict(_mapping(own or {}, f"{where}: {agent}")) for agent, own in settings.items()}


def _env_plan(env: str, entry: Any) -> EnvPlan:
    entry = dict(_mapping(entry, f"envs: {env}"))
    _known_keys(entry, ["make", "env_steps", "settings", "per_agent"], f"envs: {env}")
    if "env_steps" not in entry:
        raise RequestError(f"envs: {env}: 'env_steps' is missing (the budget of meta-training)")
    return EnvPlan(
        env_steps=coerce(entry["env_steps"], int, f"envs: {env}: env_steps"),
        make=dict(_mapping(entry.get("make") or {}, f"envs: {env}: make")),
        settings=_settings(entry.get("settings"), f"envs: {env}: settings"),
        per_agent=_agent_plans(entry.get("per_agent"), f"envs: {env}: per_agent"),
    )


def _agent_plans(value: Any, where: str) -> dict[str, AgentPlan]:
    plans = {}
    for agent, own in _mapping(value or {}, where).items():
        own = dict(_mapping(own or {}, f"{where}: {agent}"))
        own["make"] = dict(_mapping(own.get("make") or {}, f"{where}: {agent}: make"))
        plans[str(agent)] = from_mapping(AgentPlan, own, f"{where}: {agent}")
    return plans


def _check_numbers(plan: Plan) -> None:
    evaluation = plan.evaluation
    at_least = {
        "evaluation: every": (evaluation.every, 1),
        "evaluation: trials_per_task": (evaluation.trials_per_task, 1),
        "evaluation: final_trials_per_task": (evaluation.final_trials_per_task, 1),
        "evaluation: train_tasks": (evaluation.train_tasks, 0),
        "evaluation: videos": (evaluation.videos, 0),
        **{f"envs: {env}: env_steps": (entry.env_steps, 1) for env, entry in plan.envs.items()},
        **{f"seeds: {seed}": (seed, 0) for seed in plan.seeds},
    }
    limits = {"max_minutes": plan.max_minutes}
    for env, entry in plan.envs.items():
        for agent, own in entry.per_agent.items():
            where = f"envs: {env}: per_agent: {agent}"
            given = {"env_steps": own.env_steps, "every": own.every}
            at_least |= {f"{where}: {key}": (n, 1) for key, n in given.items() if n is not None}
            limits[f"{where}: max_minutes"] = own.max_minutes
    for name, (value, least) in at_least.items():
        if value < least:
            raise RequestError(f"{name}: must be at least {least}, got {value}")
    for name, limit in limits.items():
        if limit is not None and not limit > 0:
            raise RequestError(f"{name}: must be above 0, got {limit}")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", plan.device):
        raise RequestError(f"device: {plan.device!r} is not auto, cpu or cuda")


def _check_names(plan: Plan) -> None:
    for env in plan.envs:
        check_env_id(env)
    for agent in plan.agents:
        try:
            find_agent(agent)
        except AgentError as error:
            raise RequestError(str(error)) from error
    named = [("settings", name) for name in plan.settings]
    for env, entry in plan.envs.items():
        named += [(f"envs: {env}: settings", name) for name in entry.settings]
        named += [(f"envs: {env}: per_agent", name) for name in entry.per_agent]
    for where, name in named:
        try:
            if name not in plan.agents:
                find_agent(name)
        except AgentError as error:
            raise RequestError(f"{where}: {error}") from error
    jobs = plan.jobs()
    if len({job.folder for job in jobs}) < len(jobs):
        raise RequestError(
            "two of the environments or agents would share a folder; run them into separate ones"
        )
    for job in jobs:
        plan.agent_settings(job)


def env_ids() -> list[str]:
    """Every registered family."""
    return sorted(name for name in gym.registry if name.startswith(NAMESPACE))


def check_env_id(env: str) -> None:
    """Raises RequestError for an id that is not registered, with the nearest match.

    ``module:id`` imports the module first, as ``gym.make`` does.
    """
    if not isinstance(env, str) or not _ENV_ID.fullmatch(env) or ".." in env:
        raise RequestError(f"envs: {env!r} is no environment id")
    module, _, name = env.rpartition(":")
    if module:
        try:
            __import__(module)
        except ImportError as error:
            raise RequestError(f"envs: {env}: {error}") from error
    if name not in gym.registry:
        raise RequestError(f"unknown environment {env!r}{suggestion(name, env_ids())}")


# ------------------------------------------------------------------------------------------- to and from YAML


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """Plain values, fit for YAML; ``plan_from_dict`` is the way back."""
    return {
        "preset": plan.preset,
        "description": plan.description,
        "agents": list(plan.agents),
        "seeds": list(plan.seeds),
        "envs": {env: _env_to_dict(entry) for env, entry in plan.envs.items()},
        "settings": {agent: dict(own) for agent, own in plan.settings.items()},
        "evaluation": to_mapping(plan.evaluation),
        "max_minutes": plan.max_minutes,
        "device": plan.device,
    }


def _env_to_dict(entry: EnvPlan) -> dict[str, Any]:
    values: dict[str, Any] = {
        "make": dict(entry.make),
        "env_steps": entry.env_steps,
        "settings": {agent: dict(own) for agent, own in entry.settings.items()},
    }
    if entry.per_agent:
        given = {agent: vars(own) | {"make": dict(own.make)} for agent, own in entry.per_agent.items()}
        values["per_agent"] = {
            agent: {key: value for key, value in own.items() if value not in (None, {})}
            for agent, own in given.items()
        }
    return values


def plan_from_dict(values: Mapping[str, Any]) -> Plan:
    """The plan of a ``plan.yaml``; raises RequestError as ``build_plan`` does."""
    values = dict(values)
    preset = str(values.pop("preset", "?"))
    values.pop("made_by", None)
    return build_plan(preset, values)


def made_by_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The note in a ``plan.yaml`` of the command that made it; empty where there is none."""
    note = values.get("made_by")
    return note if isinstance(note, dict) else {}


def differences(old: Plan, new: Plan) -> list[str]:
    """One line for every value in which two plans differ (descriptions aside)."""
    mine, yours = (_flat(plan_to_dict(replace(plan, description=""))) for plan in (old, new))
    keys = list(dict.fromkeys([*mine, *yours]))
    return [
        f"{k}: {mine.get(k, '-')} there, {yours.get(k, '-')} now" for k in keys if mine.get(k) != yours.get(k)
    ]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat.update(_flat(inner, f"{prefix}.{key}" if prefix else str(key)))
    return flat
