"""Where an agent goes in each episode of a trial, for a goal on a plane that it must find.

Examples:
    python benchmarks/figures/paths.py runs/x/meld/PointNav-v0/meld/seed0
    python benchmarks/figures/paths.py runs/x/meld/SparsePoint-v0/pearl/seed0 --episodes 1,2,20 --out a.png

RUN_FOLDER is that of one agent in a finished run, with its config.yaml and checkpoints. The agent lives one
trial of each held-out task, as it does when it is tested, and each gets a panel: the goal, the circle in
which it counts as reached, the circle on which goals lie, and the path of each episode. An agent that adapts
searches in the first and goes straight to the goal in a later one. The CSV file beside the picture has every
step.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a script: its folder comes first on the path, where the clone's root should be
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)
    sys.path.append("")  # agents of one's own are looked for in the current folder, too

import argparse
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from benchmarks.errors import BAD_REQUEST, OK, RequestError, explain_os_error
from benchmarks.evaluate import Environments, face, run_trials
from benchmarks.figures.common import check_picture, load_agent, new_figure, read_config, save_figure
from benchmarks.files import write_rows
from benchmarks.jobs import set_threads
from benchmarks.provenance import usable_cores
from benchmarks.seeds import seed_for
from meld_agents.interface import Evidence, Policy
from meld_envs.families.point_nav import SUCCESS_DISTANCE

COLUMNS = ("env", "agent", "task", "goal_x", "goal_y", "episode", "step", "x", "y", "success")
#: What a family of this figure hides, and what its state begins with.
HIDDEN, PLACE = ("goal_x", "goal_y"), ("x", "y")
ACROSS = 5  # panels in a row


@dataclass(frozen=True)
class Paths:
    """What one agent did.

    Attributes:
        env: the family's id.
        agent: its name.
        goals: ``(n, 2)`` m, one of each held-out task.
        places: ``(n, K, T + 1, 2)`` m, from each episode's start to its end.
        success: ``(n, K, T + 1)`` bool.
    """

    env: str
    agent: str
    goals: np.ndarray
    places: np.ndarray
    success: np.ndarray

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of the CSV file; episodes count from 1, step 0 is the start."""
        for task, episode, step in np.ndindex(self.success.shape):
            (goal_x, goal_y), (x, y) = self.goals[task], self.places[task, episode, step]
            reached = int(self.success[task, episode, step])
            values = (self.env, self.agent, task, goal_x, goal_y, episode + 1, step, x, y, reached)
            yield dict(zip(COLUMNS, values))


class PlaceRecorder:
    """Watches trials and keeps where the agents were, in metres."""

    def __init__(self) -> None:
        self.places: list[np.ndarray] = []

    def __call__(self, t: int, evidence: Evidence, policy: Policy, env: VectorEnv) -> None:
        self.places.append(np.array(face(env).state()[:, : len(PLACE)]))


def follow(folder: Path, which: str = "last", seed: int = 0, device: str = "auto") -> Paths:
    """Lets a run's agent try each held-out task once.

    Raises:
        RequestError: the folder cannot be used, or its family has no goal on a plane.
    """
    config, family = read_config(folder)
    if family.parameter_names != HIDDEN or family.state_names[:2] != PLACE:
        raise RequestError(
            f"{folder}: {config['env']} hides {', '.join(family.parameter_names)}, not a place to find; "
            "this figure needs meld/PointNav-v0 or meld/SparsePoint-v0"
        )
    threads = usable_cores()
    envs = Environments(config["env"], config["make"], threads)
    with closing(envs):
        with closing(envs.make(1)) as one:
            tasks = list(face(one).task_set.test)
        with closing(envs.make(len(tasks), split="test")) as env:
            agent = load_agent(folder, config, envs, which, device)
            set_threads(threads)
            recorder = PlaceRecorder()
            seen = run_trials(agent, env, range(len(tasks)), tasks, seed_for(seed, "paths"), watch=[recorder])
    places = np.stack(recorder.places, 1).reshape(*seen.success.shape, len(PLACE))
    goals = np.array([[task.parameters[name] for name in HIDDEN] for task in tasks])
    return Paths(config["env"], config["agent"], goals, places, seen.success)


# ------------------------------------------------------------------------------------------------- picture


def draw(paths: Paths, episodes: list[int], picture: Path) -> None:
    """Writes the picture: one panel for each task.

    Args:
        paths: what the agent did.
        episodes: which to draw, from 1.
        picture: the file; its ending says which kind.

    Raises:
        RequestError: matplotlib is not installed, or does not know the file's ending.
    """
    down = -(-len(paths.goals) // ACROSS)
    figure = new_figure((2.0 * ACROSS, 1.5 * down + 0.6), picture)
    panels = figure.subplots(down, ACROSS, sharex=True, sharey=True, squeeze=False).ravel()
    for panel in panels:
        panel.set_axis_off()
    for task, panel in enumerate(panels[: len(paths.goals)]):
        draw_panel(panel, paths, task, episodes)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8)
    figure.suptitle(f"{paths.agent}, {paths.env}, held-out tasks", fontsize=9)
    save_figure(figure, picture)


def draw_panel(panel: Any, paths: Paths, task: int, episodes: list[int]) -> None:
    """Goal and paths of one task."""
    from matplotlib import colormaps
    from matplotlib.patches import Circle

    goal = paths.goals[task]
    angles = np.linspace(0.0, np.pi, 60)
    panel.plot(*(np.hypot(*goal) * np.stack((np.cos(angles), np.sin(angles)))), color="0.85", linewidth=1)
    panel.add_patch(Circle(goal, SUCCESS_DISTANCE, color="tab:green", alpha=0.35, linewidth=0))
    colours = colormaps["viridis"](np.linspace(0.8, 0.1, len(episodes)))
    for episode, colour in zip(episodes, colours):
        x, y = paths.places[task, episode - 1].T
        panel.plot(x, y, ".-", color=colour, linewidth=1, markersize=3, label=f"episode {episode}")
    panel.plot(0, 0, "+", color="black", markersize=5)
    panel.set(xlim=(-1.45, 1.45), ylim=(-0.6, 1.45), aspect="equal")


# ------------------------------------------------------------------------------------------------- command


def episodes_from(text: str) -> list[int]:
    """``"1,2,20"`` as numbers."""
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 1,2,20") from None
    if min(values) < 1:
        raise argparse.ArgumentTypeError("episodes count from 1")
    return values


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    lines = (__doc__ or "").split("\n")
    parser = argparse.ArgumentParser(
        prog="python benchmarks/figures/paths.py",
        description=lines[0],
        epilog="\n".join(lines[1:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER", help="one agent's folder")
    parser.add_argument(
        "--episodes",
        type=episodes_from,
        metavar="N,N,...",
        help="of the trial, to draw, from 1 (default: first and last)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of starts and of the agent (default 0)")
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last", help="(default last)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("paths.png"),
        metavar="FILE.png",
        help="the picture; the steps go beside it, into FILE.csv (default paths.png)",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = build_parser().parse_args(arguments)
    numbers = options.out.with_suffix(".csv")
    try:
        check_picture(options.out)
        found = follow(options.run, options.checkpoint, options.seed, options.device)
        count = found.success.shape[1]
        episodes = options.episodes or sorted({1, count})
        if max(episodes) > count:
            raise RequestError(f"--episodes {max(episodes)}: trials of this run have {count}")
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_rows(numbers, COLUMNS, list(found.rows()))
        draw(found, episodes, options.out)
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_REQUEST
    except OSError as error:
        print(f"error: {explain_os_error(error, f'writing {options.out}')}", file=sys.stderr)
        return BAD_REQUEST
    ends = found.success[:, :, -1].mean(0)
    print("success by episode: " + ", ".join(f"{k}: {ends[k - 1]:.2f}" for k in episodes))
    print(f"{options.out} and {numbers}")
    return OK


if __name__ == "__main__":
    sys.exit(main())
