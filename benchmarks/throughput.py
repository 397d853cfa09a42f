"""Environment steps per second with pixels, against Gymnasium's own HalfCheetah, in one process and one run.

    python benchmarks/throughput.py
    python benchmarks/throughput.py --envs meld/PointNav-v0 --image-size 32 --csv speed.csv
    python benchmarks/throughput.py --metaworld
    python benchmarks/throughput.py --widowx

All subjects are measured in short rounds, one after the other and again, and medians are reported, so
that a machine that is busy for a while slows all of them. Ratios are to the peer of the same round.
Meta-World, a second peer, takes its turns in a process of its own (benchmarks/peers/metaworld_pixels.py). The
split into physics, drawing and Python is measured apart, with one thread for each, where the shares add up,
and in processor time, so that waiting for a core that others use is nobody's share.

``--widowx`` measures something else: how much faster than a robot's time the WidowX is, simulated (20 tasks)
and emulated (one twin in lockstep, through the whole bridge).
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a script: its folder comes first on the path, where the clone's root should be
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse
import csv
import os
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

os.environ.setdefault("MUJOCO_GL", "egl")  # for the peer, before it imports mujoco

import gymnasium as gym
import mujoco
import mujoco.batch
import numpy as np

import meld_envs
from benchmarks.errors import BAD_REQUEST, OK, RequestError
from benchmarks.evaluate import face
from benchmarks.peers import drawing_step, markdown, speed_row, steps_per_second
from benchmarks.peers.metaworld_pixels import DEFAULT_VENV, Metaworld, metaworld
from meld_envs.config import usable_cores

PEER = "HalfCheetah-v5"
BATCH = 20  # tasks at once
WIDOWX = "meld/WidowXEthernet-v0"

#: What MuJoCo does for us, by share.
SHARES: dict[str, tuple[tuple[Any, str], ...]] = {
    "physics": ((mujoco.batch.Batch, "step"),),
    "drawing": tuple(
        (mujoco, name)
        for name in (
            "mj_kinematics",
            "mj_comPos",
            "mj_camlight",
            "mjv_updateScene",
            "mjr_setBuffer",
            "mjr_render",
            "mjr_readPixels",
        )
    ),
}


class Measured(Protocol):
    """What a table of rates needs to know of its subjects, whichever process they live in."""

    name: str
    rates: list[float]

    def measure(self, seconds: float) -> None:
        """Steps for so long and notes the rate."""


@dataclass
class Subject:
    """Something whose steps are counted.

    Attributes:
        name: for the table.
        num_tasks: environment steps that one call makes.
        step: takes one step, pixels included.
        rates: environment steps per second, one number per round.
    """

    name: str
    num_tasks: int
    step: Callable[[], None]
    rates: list[float]

    def measure(self, seconds: float) -> None:
        """Steps for so long and notes the rate."""
        self.rates.append(steps_per_second(self.step, self.num_tasks, seconds))


def peer(size: int) -> Subject:
    """Gymnasium's HalfCheetah with a picture per step, as its users get it."""
    env = gym.make(PEER, render_mode="rgb_array", width=size, height=size)
    env.reset(seed=0)
    env.action_space.seed(0)
    return Subject(f"peer: {PEER}, rgb_array", 1, drawing_step(env), [])


def ours(env_id: str, num_tasks: int, size: int, num_threads: int | None = None) -> Subject:
    """One of our environments, with so many tasks at once."""
    env = gym.make_vec(
        env_id, num_envs=num_tasks, image_size=size, num_threads=num_threads, autoreset="next_step"
    )
    env.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (64, *np.shape(env.action_space.sample())))
    count = iter(range(sys.maxsize))

    def step() -> None:
        env.step(actions[next(count) % len(actions)])

    label = "1 task" if num_tasks == 1 else f"{num_tasks} tasks"
    return Subject(f"{env_id}, {label}", num_tasks, step, [])


@contextmanager
def stopwatch(spent: dict[str, float]) -> Iterator[None]:
    """Adds up the processor time spent in MuJoCo's functions, by share."""
    originals = [
        (owner, name, getattr(owner, name)) for watched in SHARES.values() for owner, name in watched
    ]
    for share, functions in SHARES.items():
        for owner, name in functions:
            setattr(owner, name, _timed(getattr(owner, name), share, spent))
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def _timed(function: Callable[..., Any], share: str, spent: dict[str, float]) -> Callable[..., Any]:
    def call(*arguments: Any, **keywords: Any) -> Any:
        start = time.thread_time()
        try:
            return function(*arguments, **keywords)
        finally:
            spent[share] += time.thread_time() - start

    return call


def split(env_id: str, num_tasks: int, size: int, rounds: int, steps: int = 20) -> dict[str, float]:
    """Median processor microseconds per environment step: physics, drawing, Python, and in all."""
    subject = ours(env_id, num_tasks, size, num_threads=1)
    subject.step()
    parts: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        spent: dict[str, float] = dict.fromkeys(SHARES, 0.0)
        with stopwatch(spent):
            start = time.process_time()
            for _ in range(steps):
                subject.step()
            total = time.process_time() - start
        spent = {**spent, "python": total - sum(spent.values()), "total": total}
        for share, seconds in spent.items():
            parts[share].append(1e6 * seconds / (steps * num_tasks))
    return {share: statistics.median(values) for share, values in parts.items()}


def speed_rows(
    env_ids: list[str], size: int, rounds: int, seconds: float, second_peer: Metaworld | None = None
) -> list[dict[str, Any]]:
    """Rates of the peers and of ours, alone and with many tasks; medians over the rounds."""
    first = peer(size)
    subjects: list[Measured] = [first, *([second_peer] if second_peer else [])]
    for env_id in env_ids:
        subjects += [ours(env_id, 1, size), ours(env_id, BATCH, size)]
    for subject in reversed(subjects):  # contexts are created at the first frame; ours sets Mesa up for both
        subject.measure(0.0)
        subject.rates.clear()
    for _ in range(rounds):
        for subject in subjects:
            subject.measure(seconds)
    bases = {"times_peer": first.rates}
    if second_peer:
        bases["times_metaworld"] = second_peer.rates
    return [speed_row(subject.name, subject.rates, **bases) for subject in subjects]


def split_rows(env_ids: list[str], size: int, rounds: int) -> list[dict[str, Any]]:
    """Where the time of a step goes, in microseconds and shares."""
    rows = []
    for env_id in env_ids:
        for num_tasks in (1, BATCH):
            parts = split(env_id, num_tasks, size, rounds)
            row: dict[str, Any] = {
                "subject": f"{env_id}, {num_tasks} task{'s' * (num_tasks > 1)}, one thread"
            }
            row.update({f"{share}_us": round(parts[share], 1) for share in ("physics", "drawing", "python")})
            row["python_share"] = f"{100 * parts['python'] / parts['total']:.1f} %"
            rows.append(row)
    return rows


def widowx_rows(rounds: int) -> list[dict[str, Any]]:
    """The WidowX against a robot's time: whole trials of the expert, resets not counted."""
    made = {
        f"backend=sim, {BATCH} tasks": gym.make_vec(WIDOWX, num_envs=BATCH),
        "backend=twin, lockstep": gym.make_vec(WIDOWX, num_envs=1, backend="twin"),
    }
    passed: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for trial in range(rounds + 1):
        for name, env in made.items():
            passed[name].append(_trial_seconds(env, trial))
    rows = []
    for name, env in made.items():
        _, *counted = passed[name]  # the first one creates contexts, and fills caches
        wall, cpu = (statistics.median(times) for times in zip(*counted, strict=True))
        period = 1.0 / face(env).family.control_hz  # a film's rate is rounded
        rows.append(
            {
                "subject": name,
                "steps_per_second": round(1.0 / wall, 1),
                "times_real_time": round(period / wall, 1),
                "fastest_round": round(1.0 / min(counted)[0], 1),
                "processor_ms_per_step": round(1000.0 * cpu, 2),
                "times_real_time_by_processor": round(period / cpu, 1),
            }
        )
        env.close()
    return rows


def _trial_seconds(env: Any, seed: int) -> tuple[float, float]:
    """Wall-clock and processor seconds of an environment step, of one trial of all tasks."""
    env.reset(seed=seed)
    steps = env.unwrapped.trial_steps
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        env.step(env.unwrapped.expert_action())
    count = steps * env.num_envs
    return (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count


def machine(size: int, second_peer: Metaworld | None = None) -> str:
    """What the numbers hold for."""
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    theirs = [f"{name} {version}" for name, version in second_peer.versions.items()] if second_peer else []
    return (
        f"{size} x {size} pixels; {usable_cores()} usable cores ({platform.machine()}){load}; "
        f"MUJOCO_GL={os.environ['MUJOCO_GL']}; Python {platform.python_version()}, "
        f"mujoco {mujoco.__version__}, gymnasium {gym.__version__}"
        f"{'; Meta-World: ' if theirs else ''}{', '.join(theirs)}"
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ids = list(meld_envs.FAMILIES)
    parser.add_argument("--envs", nargs="+", default=ids, metavar="ID", choices=ids, help=", ".join(ids))
    parser.add_argument("--image-size", type=int, default=64, help="pixels (default 64)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of all subjects (default 15)")
    parser.add_argument("--seconds", type=float, default=0.4, help="of each subject in a round (default 0.4)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the first table there")
    parser.add_argument(
        "--widowx",
        action="store_true",
        help=f"measure {WIDOWX} against a robot's time instead, simulated and emulated; --rounds trials each",
    )
    parser.add_argument(
        "--metaworld",
        type=Path,
        nargs="?",
        const=DEFAULT_VENV,
        metavar="DIR",
        help="also measure Meta-World, in a virtual environment of its own that is made at first use "
        f"(default {DEFAULT_VENV.name} in the clone)",
    )
    return parser.parse_args()


def main() -> int:
    """Measures and prints both tables."""
    options = arguments()
    size = options.image_size
    if options.widowx:
        rates = widowx_rows(options.rounds)
        print(f"{machine(64)}\n\n{markdown(rates)}")
        write(rates, options.csv)
        return OK
    try:
        with metaworld(options.metaworld, size) if options.metaworld else nullcontext() as second_peer:
            rates = speed_rows(options.envs, size, options.rounds, options.seconds, second_peer)
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_REQUEST
    shares = split_rows(options.envs, size, options.rounds)
    print(f"{machine(size, second_peer)}\n\n{markdown(rates)}\n\n{markdown(shares)}")
    write(rates, options.csv)
    return OK


def write(rows: list[dict[str, Any]], path: Path | None) -> None:
    """A table as a CSV file, where one is asked for."""
    if path:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
