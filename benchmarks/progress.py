"""The progress display: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.estimate import Estimate
from benchmarks.files import read_json
from benchmarks.plan import Job, Plan

#: Seconds between plain lines, and between refreshes of the live table.
LINE_SECONDS = 15.0
REFRESH_SECONDS = 0.5


@dataclass
class Progress:
    """How all jobs of a plan stand.

    Attributes:
        results, plan: where and what.
        estimates: of jobs, where there are any.
        parallel: how many run side by side.
        ended: exit codes of ended jobs, 0 for those that an earlier session had completed.
    """

    results: Path
    plan: Plan
    estimates: Mapping[Job, Estimate | None]
    parallel: int
    ended: dict[Job, int]

    def status(self, job: Job) -> dict[str, Any]:
        """What the job last wrote about itself."""
        value = read_json(self.results / job.folder / "status.json")
        return value if isinstance(value, dict) else {}

    def seconds_left(self, running: Sequence[Job]) -> float | None:
        """From the measured speeds; None while there are none."""
        totals = {job: self._total(job) for job in self.plan.jobs()}
        known = [total for job, total in totals.items() if total is not None and self.plan.budget(job)]
        left = []
        for job, total in totals.items():
            if job in self.ended:
                continue
            if total is None:
                total = self._like(job, totals) if known or not self.plan.budget(job) else None
            if total is None and not known:
                return None
            total = total if total is not None else max(known)
            done = float(self.status(job).get("wall_seconds", 0)) if job in running else 0.0
            left.append(max(total - done, 0.0))
        return max([sum(left) / self.parallel, *left]) if left else 0.0

    def _total(self, job: Job) -> float | None:
        """The job's wall-clock seconds in all, if that can be said."""
        status = self.status(job)
        wall, speed = float(status.get("wall_seconds", 0)), float(status.get("steps_per_second", 0))
        budget = self.plan.budget(job)
        if job in self.ended or (wall and not budget):
            return wall
        if wall and speed:
            total = wall + (budget - float(status.get("env_steps", 0))) / speed
            limit = self.plan.max_minutes_of(job)
            return total if limit is None else min(total, 60 * limit)
        kept = self.estimates.get(job)
        return kept.seconds if kept is not None else None

    def _like(self, job: Job, totals: Mapping[Job, float | None]) -> float | None:
        """What a job of the same agent on the same family takes."""
        same = [t for j, t in totals.items() if (j.env, j.agent) == (job.env, job.agent) and t is not None]
        if same:
            return max(same)
        return None if self.plan.budget(job) else 0.0


class PlainDisplay:
    """A line every so often, and one for every job that ends."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._last = 0.0

    def update(self, running: Sequence[Job], waiting: Sequence[Job]) -> None:
        """Prints how all jobs stand, if it is time."""
        if time.monotonic() - self._last < LINE_SECONDS:
            return
        self._last = time.monotonic()
        left = duration(self._progress.seconds_left(running))
        counts = f"{len(running)} running, {len(waiting)} waiting, {len(self._progress.ended)} ended"
        self.say(f"{counts}; time left: {left}")
        for job in running:
            self.say(f"  {job}: {describe(self._progress.status(job))}")

    def say(self, line: str) -> None:
        """Prints a line."""
        print(f"[{time.strftime('%H:%M:%S')}] {line}", flush=True)

    def close(self) -> None:
        """Nothing to close."""


class LiveDisplay:
    """A table that is redrawn in place."""

    def __init__(self, progress: Progress) -> None:
        from rich.console import Console
        from rich.live import Live

        self._progress = progress
        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False)
        self._live.start()
        self._last = 0.0

    def update(self, running: Sequence[Job], waiting: Sequence[Job]) -> None:
        """Draws the table anew, if it is time."""
        if time.monotonic() - self._last >= REFRESH_SECONDS:
            self._last = time.monotonic()
            self._live.update(self._table(running, waiting), refresh=True)

    def say(self, line: str) -> None:
        """Prints a line above the table."""
        self._console.print(line, markup=False, highlight=False)

    def close(self) -> None:
        """Leaves the last table standing."""
        self._live.stop()

    def _table(self, running: Sequence[Job], waiting: Sequence[Job]) -> Any:
        from rich.table import Table

        ended = self._progress.ended
        left = duration(self._progress.seconds_left(running))
        table = Table(
            title=f"{len(running)} running · {len(waiting)} waiting · {len(ended)} ended · time left: {left}"
        )
        for name in ("job", "phase", "steps", "steps/s", "updates", "updates/s", "held-out success"):
            table.add_column(name, justify="left" if name in ("job", "phase") else "right")
        for job in self._progress.plan.jobs():
            status = self._progress.status(job) if job in running or job in ended else {}
            phase = status.get("phase", "waiting")
            if job in ended:
                phase = "failed" if ended[job] else "done"
            table.add_row(str(job), str(phase), *_cells(status))
        return table


def open_display(progress: Progress) -> PlainDisplay | LiveDisplay:
    """The live table where there is a terminal and rich is installed."""
    if sys.stdout.isatty():
        try:
            return LiveDisplay(progress)
        except ImportError:
            return PlainDisplay(progress)
    return PlainDisplay(progress)


def describe(status: Mapping[str, Any]) -> str:
    """One line about a job."""
    if not status:
        return "starting"
    steps, speed, updates, update_speed, success = _cells(status)
    line = str(status.get("phase", "?"))
    if status.get("budget"):
        line += f", {steps} steps, {speed} steps/s, {updates} updates, {update_speed} updates/s"
    return line + (f", held-out success {success}" if success else "")


def _cells(status: Mapping[str, Any]) -> tuple[str, ...]:
    if "env_steps" not in status:
        return ("",) * 5
    budget = status.get("budget")
    steps = f"{status['env_steps']:,} of {budget:,}" if budget else ""
    speeds = [
        f"{status.get(name) or 0:,.1f}" if budget else ""
        for name in ("steps_per_second", "updates_per_second")
    ]
    success = status.get("success")
    updates = f"{status.get('updates', 0):,}" if budget else ""
    return steps, speeds[0], updates, speeds[1], "" if success is None else f"{success:.2f}"


def duration(seconds: float | None) -> str:
    """For people: ``40 s``, ``12 min``, ``3 h 20 min``."""
    if seconds is None:
        return "measuring"
    if seconds == float("inf"):
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
