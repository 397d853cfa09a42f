"""How an agent follows a target speed that changes within an episode (paper, Appendix D.2 and Figure 16).

Examples:
    python benchmarks/figures/task_change.py runs/x/meld/CheetahVel-v0/meld/seed0
    python benchmarks/figures/task_change.py runs/x/meld/CheetahVel-v0/*/seed0 --velocities 2,1 --out a.png

A RUN_FOLDER is that of one agent in a finished run, with its config.yaml and checkpoints. The agent was
trained on tasks that stay; when the task changes here, it is told nothing. It lives some trials of one
episode at once, with different starts, and acts as it does when it is tested. The picture shows the mean
speed over the trials and the band that holds the middle 80 % of them; the CSV file beside it has every
step of every trial.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a script: its folder comes first on the path, where the clone's root should be
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)
    sys.path.append("")  # agents of one's own are looked for in the current folder, too

import argparse
import itertools
from collections.abc import Iterator, Sequence
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
from meld_agents.interface import Agent, Evidence, Policy

COLUMNS = ("run", "env", "agent", "trial", "step", "target", "velocity")
#: The only hidden parameter of the families that this is about: CheetahVel, HalfCheetahVel.
HIDDEN = ("velocity",)
#: What their states call the robot's place along the track, in metres.
PLACES = ("rootx", "torso_x")
BAND = (10, 90)  # percentiles over trials


@dataclass(frozen=True)
class Change:
    """What is asked for.

    Attributes:
        velocities: the targets in turn, m/s, each for an equal share of the steps.
        steps: of the episode.
        trials: side by side.
        seed: of starts and of the agent.
    """

    velocities: tuple[float, ...]
    steps: int
    trials: int
    seed: int

    def __post_init__(self) -> None:
        """Raises RequestError for numbers that make no sense."""
        if self.trials < 1 or self.seed < 0:
            raise RequestError("--trials must be at least 1 and --seed at least 0")
        if self.steps < 2 * len(self.velocities):
            raise RequestError(
                f"--steps {self.steps}: {len(self.velocities)} targets need at least two steps each"
            )

    @property
    def starts(self) -> list[int]:
        """The steps at which the targets begin, the first at 0."""
        return [index * self.steps // len(self.velocities) for index in range(len(self.velocities))]

    @property
    def target(self) -> np.ndarray:
        """``(steps,)`` m/s, what is wanted during each step."""
        return np.repeat(self.velocities, np.diff([*self.starts, self.steps]))


@dataclass(frozen=True)
class Tracking:
    """What one agent did.

    Attributes:
        run: its folder.
        env: the family's id.
        agent: its name.
        target: ``(steps,)`` m/s, what was wanted during each step.
        velocity: ``(trials, steps)`` m/s, the mean speed of each step.
        hz: steps per second.
    """

    run: Path
    env: str
    agent: str
    target: np.ndarray
    velocity: np.ndarray
    hz: float

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of the CSV file; step 1 is the first."""
        for trial, step in np.ndindex(self.velocity.shape):
            yield {
                "run": self.run,
                "env": self.env,
                "agent": self.agent,
                "trial": trial,
                "step": step + 1,
                "target": float(self.target[step]),
                "velocity": float(self.velocity[trial, step]),
            }

    def spans(self) -> list[slice]:
        """The steps of each target in turn."""
        edges = [0, *(np.flatnonzero(np.diff(self.target)) + 1), len(self.target)]
        return [slice(int(a), int(b)) for a, b in itertools.pairwise(edges)]

    def errors(self) -> list[tuple[float, float]]:
        """Each target, and how far the mean speed of the later half of its span was from it, in m/s."""
        found = []
        for span in self.spans():
            middle = (span.start + span.stop) // 2
            target = float(self.target[span.start])
            speeds = self.velocity[:, middle : span.stop].mean(axis=1)
            found.append((target, float(np.abs(speeds - target).mean())))
        return found


class PlaceRecorder:
    """Watches trials and keeps where the robots were along the track, in metres."""

    def __init__(self) -> None:
        self._places: list[np.ndarray] = []

    def __call__(self, t: int, evidence: Evidence, policy: Policy, env: VectorEnv) -> None:
        names = face(env).family.state_names
        column = next(names.index(name) for name in PLACES if name in names)
        self._places.append(np.array(face(env).state()[:, column]))

    @property
    def places(self) -> np.ndarray:
        """``(trials, steps + 1)``"""
        return np.stack(self._places, axis=1)


# ---------------------------------------------------------------------------------------------------- runs


def read_speed_config(folder: Path) -> dict[str, Any]:
    """What the run depended on.

    Raises:
        RequestError: not the folder of a run, or of a family without a speed to follow.
    """
    config, family = read_config(folder)
    if family.parameter_names != HIDDEN:
        raise RequestError(
            f"{folder}: {config['env']} hides {', '.join(family.parameter_names)}, not a speed; "
            "this figure needs meld/CheetahVel-v0 or meld/HalfCheetahVel-v0"
        )
    return config


def track(folder: Path, change: Change, which: str = "last", device: str = "auto") -> Tracking:
    """Lets a run's agent follow the speeds.

    Raises:
        RequestError: the folder cannot be used, or a speed is not one of the family's.
    """
    config = read_speed_config(folder)
    threads = usable_cores()
    envs = Environments(config["env"], config["make"], threads)
    longer: dict[str, Any] = {"split": "test", "episodes_per_trial": 1, "episode_steps": change.steps}
    with closing(envs), closing(envs.make(change.trials, **longer)) as env:
        schedule = schedule_of(change, env)
        agent = load_agent(folder, config, envs, which, device)
        set_threads(threads)
        places = follow(agent, env, schedule, seed_for(change.seed, "task change"))
        hz = face(env).family.control_hz
    return Tracking(folder, config["env"], config["agent"], change.target, np.diff(places) * hz, hz)


def schedule_of(change: Change, env: VectorEnv) -> list[tuple[int, Any]]:
    """The steps at which tasks begin, and the tasks.

    Raises:
        RequestError: a speed that is not one of the family's.
    """
    try:
        tasks = [face(env).family.task(velocity=velocity) for velocity in change.velocities]
    except ValueError as error:
        raise RequestError(f"--velocities: {error}") from error
    return list(zip(change.starts, tasks))


def follow(agent: Agent, env: VectorEnv, schedule: list[tuple[int, Any]], seed: int) -> np.ndarray:
    """Where the robots were along the track at each frame, ``(trials, steps + 1)`` in metres."""
    recorder, (_, first) = PlaceRecorder(), schedule[0]
    ids, tasks = [-1] * env.num_envs, [first] * env.num_envs
    run_trials(agent, env, ids, tasks, seed, watch=[recorder], schedule=schedule)
    return recorder.places


# ------------------------------------------------------------------------------------------------- picture


def smooth(velocity: np.ndarray, steps: int) -> np.ndarray:
    """Means over each step and those before it, ``steps`` in all; fewer at the beginning."""
    total = np.cumsum(velocity, axis=1)
    total[:, steps:] -= total[:, :-steps].copy()
    return total / np.minimum(np.arange(1, velocity.shape[1] + 1), steps)


def draw(found: Sequence[Tracking], picture: Path, window: float) -> None:
    """Writes the picture: one panel for each run.

    Args:
        found: what the agents did.
        picture: the file; its ending says which kind.
        window: seconds over which speeds are averaged.

    Raises:
        RequestError: matplotlib is not installed, or does not know the file's ending.
    """
    figure = new_figure((4.2 * len(found) + 0.6, 3.2), picture)
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for panel, tracking in zip(panels, found):
        draw_panel(panel, tracking, window)
    panels[0].set_ylabel(f"speed, mean of {window:g} s (m/s)" if window else "speed of each step (m/s)")
    panels[0].legend(frameon=False, fontsize=8)
    save_figure(figure, picture)


def draw_panel(panel: Any, tracking: Tracking, window: float) -> None:
    """Target, mean and band of one run, by step."""
    velocity = smooth(tracking.velocity, max(round(window * tracking.hz), 1))
    steps = np.arange(1, velocity.shape[1] + 1)
    low, high = np.percentile(velocity, BAND, axis=0)
    panel.fill_between(steps, low, high, alpha=0.25, linewidth=0, color="tab:blue")
    panel.plot(steps, velocity.mean(axis=0), color="tab:blue", label="actual")
    panel.step(steps, tracking.target, where="mid", color="black", linestyle="--", label="wanted")
    panel.set(title=f"{tracking.agent}, {tracking.env}", xlabel="environment steps", xlim=(0, steps[-1]))
    panel.title.set_fontsize(9)
    panel.spines[["top", "right"]].set_visible(False)


# ------------------------------------------------------------------------------------------------- command


def velocities_from(text: str) -> list[float]:
    """``"1,2,0.5"`` as numbers."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 1,2,0.5") from None
    if not np.isfinite(values).all():
        raise argparse.ArgumentTypeError(f"{text!r} has a number that is not finite")
    return values


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    lines = (__doc__ or "").split("\n")
    parser = argparse.ArgumentParser(
        prog="python benchmarks/figures/task_change.py",
        description=lines[0],
        epilog="\n".join(lines[1:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_FOLDER", help="one agent's folder each")
    parser.add_argument(
        "--velocities",
        type=velocities_from,
        default=[1.0, 2.0, 0.5],
        metavar="V,V,...",
        help="the targets in turn, m/s, for an equal share of the steps each (default 1,2,0.5)",
    )
    parser.add_argument("--steps", type=int, default=150, metavar="N", help="of the episode (default 150)")
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="side by side (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of starts and of the agent (default 0)")
    parser.add_argument(
        "--window",
        type=float,
        default=0.5,
        metavar="SECONDS",
        help="over which the picture averages speeds; 0 for each step's own (default 0.5, about a stride)",
    )
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last", help="(default last)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("task_change.png"),
        metavar="FILE.png",
        help="the picture; the numbers go beside it, into FILE.csv (default task_change.png)",
    )
    return parser


def check_output(options: argparse.Namespace) -> None:
    """Raises RequestError for a picture that cannot be drawn so, before anything is loaded."""
    if not 0 <= options.window < float("inf"):
        raise RequestError(f"--window {options.window}: must be a number of seconds, at least 0")
    check_picture(options.out)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = build_parser().parse_args(arguments)
    numbers = options.out.with_suffix(".csv")
    try:
        check_output(options)
        change = Change(tuple(options.velocities), options.steps, options.trials, options.seed)
        found = [track(folder, change, options.checkpoint, options.device) for folder in options.runs]
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_rows(numbers, COLUMNS, [row for tracking in found for row in tracking.rows()])
        draw(found, options.out, options.window)
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_REQUEST
    except OSError as error:
        print(f"error: {explain_os_error(error, f'writing {options.out}')}", file=sys.stderr)
        return BAD_REQUEST
    for tracking in found:
        words = [f"{target:g} m/s: {error:.2f}" for target, error in tracking.errors()]
        print(f"{tracking.run}: error in the later half of each target: {', '.join(words)}")
    print(f"{options.out} and {numbers}")
    return OK


if __name__ == "__main__":
    sys.exit(main())
