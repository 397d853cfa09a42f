"""What figures of trained agents share: the folder of a run, its agent, and a picture beside a table."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym

import meld_envs  # noqa: F401 - registers the families
from benchmarks.checkpoints import verify
from benchmarks.errors import RequestError
from benchmarks.evaluate import Environments, face
from benchmarks.jobs import choose_device
from benchmarks.plan import check_env_id, load_yaml
from meld_agents.interface import Agent
from meld_agents.registry import AgentError, find_agent


def read_config(folder: Path) -> tuple[dict[str, Any], Any]:
    """What the run depended on, and its family.

    Raises:
        RequestError: not the folder of a run.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise RequestError(
            f"{folder} is not the folder of a run: it has no config.yaml. Give that of one agent, "
            "such as runs/NAME/meld/CheetahVel-v0/meld/seed0"
        )
    config = load_yaml(path)
    missing = [key for key in ("env", "make", "agent", "settings", "seed") if key not in config]
    if missing:
        raise RequestError(f"{path}: {missing[0]!r} is missing; the runner did not write this file")
    check_env_id(config["env"])
    with closing(gym.make_vec(config["env"], num_envs=1, num_threads=1)) as env:
        return config, face(env).family


def load_agent(folder: Path, config: dict[str, Any], envs: Environments, which: str, device: str) -> Agent:
    """The agent as a checkpoint holds it.

    Args:
        folder: of the run.
        config: of the run.
        envs: as the agent was trained in.
        which: ``"last"`` or ``"best"``.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Raises:
        RequestError: there is no such checkpoint, it is damaged, or the agent cannot be found.
    """
    checkpoint = folder / "checkpoints" / which
    if not checkpoint.is_dir():
        raise RequestError(
            f"{folder} has no checkpoint {which!r} (checkpoints/{which}): "
            "the run was stopped before its first, or only its tables were kept"
        )
    try:
        agent_class = find_agent(config["agent"])
    except AgentError as error:
        raise RequestError(f"{folder}: {error}") from error
    agent: Agent = agent_class(envs.make, config["settings"], config["seed"], choose_device(device))
    try:
        verify(checkpoint)
        agent.load(checkpoint)
    except Exception as error:
        raise RequestError(f"{checkpoint} cannot be used: {error}") from error
    return agent


def check_picture(picture: Path) -> None:
    """Raises RequestError for a name that no picture can have, before anything is loaded."""
    if picture.suffix in ("", ".csv"):
        raise RequestError(f"--out {picture}: give a picture's name, such as figure.png")


def new_figure(size: tuple[float, float], picture: Path) -> Any:
    """An empty figure of so many inches.

    Raises:
        RequestError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RequestError(
            f"no {picture}, but the numbers beside it: the picture needs matplotlib (pip install matplotlib)"
        ) from error
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, picture: Path) -> None:
    """Writes it.

    Raises:
        RequestError: matplotlib does not know the file's ending.
    """
    try:
        figure.savefig(picture, dpi=150)
    except ValueError as error:
        raise RequestError(f"--out {picture}: {error}") from error
