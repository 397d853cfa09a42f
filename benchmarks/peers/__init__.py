"""Other suites that ours is measured against, and what all measurements share.

Nothing here needs more than the standard library: a peer runs in a virtual environment of its own, which
has what that suite asks for and nothing of ours.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


def steps_per_second(step: Callable[[], None], steps_per_call: int, seconds: float) -> float:
    """Steps for so long, once at least.

    Args:
        step: makes one step, or several at once.
        steps_per_call: how many environment steps one call makes.
        seconds: no call begins after that.

    Returns:
        Environment steps per second.
    """
    start, steps = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds or not steps:
        step()
        steps += steps_per_call
    return steps / max(passed, time.perf_counter() - start)


def drawing_step(env: Any) -> Callable[[], None]:
    """A function that takes one random step of a Gymnasium environment and draws it."""

    def step() -> None:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        env.render()
        if terminated or truncated:
            env.reset()

    return step


def speed_row(subject: str, rates: Sequence[float], **peers: Sequence[float]) -> dict[str, Any]:
    """A subject's line in a table of rates.

    Args:
        subject: its name.
        rates: environment steps per second, one number per round.
        peers: for each further column, the rates of what is compared with in the same rounds.

    Returns:
        Medians, the extremes, and for each peer the median of the rounds' ratios.
    """
    row = {
        "subject": subject,
        "steps_per_second": round(statistics.median(rates), 1),
        "slowest_round": round(min(rates), 1),
        "fastest_round": round(max(rates), 1),
    }
    for column, bases in peers.items():
        ratios = [rate / base for rate, base in zip(rates, bases, strict=True)]
        row[column] = round(statistics.median(ratios), 1)
    return row


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A table."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([str(row[name]) for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
