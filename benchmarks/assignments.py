"""What the command line changes of a preset's values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from benchmarks.errors import RequestError


def override(values: dict[str, Any], assignment: str, agents: Sequence[str]) -> None:
    """Applies one ``--set KEY=VALUE`` to a preset's values.

    Args:
        values: changed in place.
        assignment: a dotted key of the preset, or ``agent.setting``, and a YAML value. What it sets for a
            family, or for an agent, goes before what the preset has for single agents, or families.
        agents: names for which the short form is understood.

    Raises:
        RequestError: no ``=``, a value that is not YAML, or a key that leads through something else.
    """
    key, equals, text = assignment.partition("=")
    if not equals or not key:
        raise RequestError(f"--set {assignment}: expected KEY=VALUE, for example meld.hidden=256")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RequestError(f"--set {assignment}: {text!r} is no YAML value") from error
    short = next((agent for agent in agents if key.startswith(f"{agent}.")), None)
    if short is not None:
        key = f"settings.{key}"
    if key.startswith("settings."):
        _drop_from_envs(values, key, agents)
    names = _split(values, key, agents)
    if names[0] == "envs" and len(names) > 2:
        _drop_from_agents(_envs(values).get(names[1]), names[2:])
    if names == ["evaluation", "every"]:
        drop_from_all(values, "every")
    _put(values, names, value, assignment)


def is_for_one_agent(assignment: str) -> bool:
    """Whether a ``--set`` concerns one agent on one family alone; such ones are to be applied last."""
    return ".per_agent." in assignment.partition("=")[0]


def drop_from_all(values: Mapping[str, Any], key: str) -> None:
    """Takes what single agents have of a key out of a preset's values: the command line has one for all."""
    for entry in _envs(values).values():
        _drop_from_agents(entry, [key])


def _put(values: dict[str, Any], names: Sequence[str], value: Any, assignment: str) -> None:
    node = values
    for name in names[:-1]:
        node = (
            node.setdefault(name, {}) if node.get(name) is not None else node.update({name: {}}) or node[name]
        )
        if not isinstance(node, dict):
            raise RequestError(f"--set {assignment}: {name!r} is a value, not a group of keys")
    node[names[-1]] = value


def _split(values: Mapping[str, Any], key: str, agents: Sequence[str]) -> list[str]:
    """The key's parts; an agent's name, or a part that exists, stays whole though it has dots of its own."""
    names: list[str] = []
    node: Any = values
    while key:
        candidates = [*(node if isinstance(node, Mapping) else ()), *agents]
        known = [k for k in candidates if key == k or key.startswith(f"{k}.")]
        name = max(known, key=len) if known else key.partition(".")[0]
        names.append(name)
        key = key[len(name) + 1 :]
        node = node.get(name) if isinstance(node, Mapping) else None
    return names


def _drop_from_envs(values: Mapping[str, Any], key: str, agents: Sequence[str]) -> None:
    """What the command line sets for an agent goes before what the preset has for single families."""
    for entry in _envs(values).values():
        if isinstance(entry, Mapping):
            _drop(entry, _split(entry, key, agents))


def _drop_from_agents(entry: Any, names: Sequence[str]) -> None:
    """What the command line sets for a family goes before what the preset has for single agents."""
    per_agent = entry.get("per_agent") if isinstance(entry, Mapping) else None
    for own in per_agent.values() if isinstance(per_agent, Mapping) else ():
        _drop(own, names)


def _envs(values: Mapping[str, Any]) -> Mapping[str, Any]:
    envs = values.get("envs")
    return envs if isinstance(envs, Mapping) else {}  # what is no mapping is refused with the whole plan


def _drop(node: Any, names: Sequence[str]) -> None:
    for name in names[:-1]:
        node = node.get(name) if isinstance(node, Mapping) else None
    if isinstance(node, dict):
        node.pop(names[-1], None)
