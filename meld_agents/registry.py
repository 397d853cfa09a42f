"""Agents by name: the short names of installed packages, or ``package.module:Class``."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from typing import Any

from meld_agents.settings import suggestion

#: The entry-point group in which packages declare their agents.
GROUP = "meld.agents"

#: Our own, so that they are found in a clone that was never installed, too.
BUILT_IN = {
    "meld": "meld_agents.meld:MELD",
    "slac": "meld_agents.slac:SLAC",
    "pearl": "meld_agents.pearl:PEARL",
    "rl2": "meld_agents.rl2:RL2",
    "random": "meld_agents.reference:Random",
    "expert": "meld_agents.reference:Expert",
    "explorer": "meld_agents.reference:Explorer",
}

#: What the names of stable-baselines3's and sb3-contrib's algorithms begin with, as in ``sb3:SAC``.
SB3 = "sb3:"

#: What to install where a package that few agents need is missing.
EXTRAS = dict.fromkeys(("stable_baselines3", "sb3_contrib"), "'meld-suite[sb3]'")

#: What an agent must have (``meld_agents.interface.Agent``).
METHODS = ("resolve", "meta_train", "policy", "save", "load")


class AgentError(ValueError):
    """No such agent, or one that cannot be used; the message says why."""


def agent_targets() -> dict[str, str]:
    """Every short name with its ``package.module:Class``, without importing any of them."""
    own = {
        name: target for name, target in BUILT_IN.items() if importlib.util.find_spec(target.split(":")[0])
    }
    others = {point.name: point.value for point in importlib.metadata.entry_points(group=GROUP)}
    return {**others, **own}


def find_agent(name: str) -> Any:
    """The agent class of a short name or of ``package.module:Class``.

    Raises:
        AgentError: the name is unknown (with the nearest match), its module cannot be imported,
            or what it names is no agent.
    """
    if name.startswith(SB3):
        return _find_sb3(name)
    targets = agent_targets()
    if name not in targets and ":" not in name:
        raise AgentError(
            f"unknown agent {name!r}{suggestion(name, list(targets))} (or give package.module:Class)"
        )
    module_name, _, class_name = targets.get(name, name).partition(":")
    found = _import(name, module_name, class_name)
    missing = [method for method in METHODS if not callable(getattr(found, method, None))]
    if missing:
        raise AgentError(
            f"agent {name!r}: {module_name}:{class_name} has no {missing[0]}() (see meld_agents.interface)"
        )
    return found


def _find_sb3(name: str) -> Any:
    """The agent of an algorithm of stable-baselines3 or sb3-contrib."""
    if importlib.util.find_spec("stable_baselines3") is None:
        raise AgentError(f"agent {name!r} needs stable-baselines3: pip install 'meld-suite[sb3]'")
    from meld_agents.sb3 import agent_class

    try:
        return agent_class(name.removeprefix(SB3))
    except ValueError as error:
        raise AgentError(str(error)) from error


def _import(name: str, module_name: str, class_name: str) -> Any:
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise AgentError(f"agent {name!r}: {_why_missing(error, module_name)}") from error
    except ValueError as error:
        raise AgentError(f"agent {name!r}: {module_name!r} is no module name") from error
    if not hasattr(module, class_name):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise AgentError(
            f"agent {name!r}: {module_name} has no {class_name!r}{suggestion(class_name, classes)}"
        )
    return getattr(module, class_name)


def _why_missing(error: ModuleNotFoundError, module_name: str) -> str:
    missing = error.name or module_name
    if module_name == missing or module_name.startswith(f"{missing}."):
        return f"there is no module {missing!r} here; install it or add its folder to PYTHONPATH"
    return f"it needs {missing!r}, which is not installed: pip install {EXTRAS.get(missing, missing)}"
