"""``report.html``: one self-contained page about a results folder, beside ``summary.csv``, ``episodes.csv``.

Usage:
    python -m benchmarks.report RESULTS

It writes all again. What is read from the folder is data: it is parsed as numbers or escaped.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import summary
from benchmarks.charts import Series, line_chart
from benchmarks.errors import BAD_REQUEST, OK, RequestError
from benchmarks.files import write_whole
from benchmarks.html import Html, data_uri, element, join, png
from benchmarks.plan import Plan, load_yaml, made_by_of, plan_from_dict
from benchmarks.provenance import now
from benchmarks.summary import Cell, Interval, RunData, bootstrap
from benchmarks.tables import episode_table, gap_table, probe_table, results_table

STYLE = Path(__file__).parent / "report.css"
#: Colours of the page: some references have their own, the same on every page; the rest is for other agents.
REFERENCE_COLOURS = {"random": 2, "expert": 3}
OTHER_COLOURS = (0, 1, 4, 5, 6, 7)
#: Budgets that differ by this factor are drawn on a logarithmic axis.
FAR_APART = 8
STRIP_FRAMES = 10
STRIPS_PER_RUN = 2
#: Larger videos stay beside the page.
MOST_VIDEO_BYTES = 300_000


def write_report(results: Path) -> None:
    """Writes ``summary.csv``, ``episodes.csv`` and ``report.html`` from what the folder holds by now.

    Raises:
        RequestError: it holds no plan.
        OSError: they cannot be written; older ones stay.
    """
    values = load_yaml(results / "plan.yaml")
    plan = plan_from_dict(values)
    cells = summary.cells(results, plan)
    rows = summary.summary_rows(cells)
    episodes = summary.episode_rows(cells)
    summary.write_summary(results, rows, episodes)
    made_by = made_by_of(values)
    write_whole(results / "report.html", page(plan, made_by, cells, rows, episodes))


# --------------------------------------------------------------------------------------------------- the page


def page(
    plan: Plan,
    made_by: dict[str, Any],
    cells: Sequence[Cell],
    rows: Sequence[dict[str, Any]],
    episodes: Sequence[dict[str, Any]],
) -> str:
    """The whole page."""
    colours = colours_of(plan.agents)
    sections = []
    for env in plan.envs:
        own = [cell for cell in cells if cell.env == env]
        found = [[row for row in table if row["env"] == env] for table in (rows, episodes)]
        sections.append(family_section(env, own, found[0], found[1], colours))
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{plan.preset}: meta-test results"),
        element("style", Html(STYLE.read_text())),
    )
    main = element("main", header(plan, made_by, cells), *sections, provenance(plan, made_by, cells))
    return "<!doctype html>\n" + element("html", head, element("body", main), lang="en")


def colours_of(agents: Sequence[str]) -> dict[str, int]:
    """The index of each agent's colour."""
    others = [agent for agent in agents if agent not in REFERENCE_COLOURS]
    own = {agent: OTHER_COLOURS[index % len(OTHER_COLOURS)] for index, agent in enumerate(others)}
    return own | REFERENCE_COLOURS


def header(plan: Plan, made_by: dict[str, Any], cells: Sequence[Cell]) -> Html:
    """What was run, how far it is, and the command that made it."""
    runs = [run for cell in cells for run in cell.runs]
    done = sum(run.completed for run in runs)
    state = f"{done} of {len(runs)} runs complete" if done < len(runs) else "All runs complete"
    return element(
        "header",
        element("p", "Meta-reinforcement learning from images", class_="kicker"),
        element("h1", f"Results of the “{plan.preset}” preset"),
        element("p", plan.description, class_="lead") if plan.description else None,
        element(
            "p",
            f"{state} · {now()[:16].replace('T', ' ')} UTC",
            class_="note" if done == len(runs) else "note open",
        ),
        element("pre", element("code", made_by["command"])) if made_by.get("command") else None,
    )


def family_section(
    env: str,
    cells: Sequence[Cell],
    rows: Sequence[dict[str, Any]],
    episodes: Sequence[dict[str, Any]],
    colours: dict[str, int],
) -> Html:
    """Everything about one family: table, curves, adaptation, probes, film strips."""
    if not rows:
        return element("section", element("h2", env), element("p", "No evaluation yet.", class_="note"))
    agents = [row["agent"] for row in rows]
    task_steps = {cell.agent: cell.episodes * steps for cell in cells if (steps := cell.episode_steps)}
    return element(
        "section",
        element("h2", env),
        results_table(rows, task_steps, colours),
        charts(
            "Learning",
            "Held-out tasks, the trial’s last episode, while meta-training goes on. Lines end where budgets "
            "end; dashed: references, which do not learn. "
            f"Bands are 95 % intervals over {rows[0]['interval_over']}.",
            learning_charts(cells, colours),
            agents,
            colours,
        ),
        charts(
            "Adaptation within a trial",
            "The last evaluation, with mean actions: a trial begins with an unknown held-out task. The axis "
            "is environment steps seen in that task, for agents that adapt at every step and for those that "
            "adapt over episodes. Dotted: a new episode begins. Lines end where trials end.",
            adaptation_charts(cells, colours),
            agents,
            colours,
            episode_table(episodes, colours),
        ),
        gap_table(cells, colours),
        charts(
            "What the belief knows",
            "A ridge regression from the belief, fitted on training tasks, read on held-out ones. R² = 1: "
            "exact; 0: no better than the mean (curves below −0.2 run along the edge). If the state can be "
            "read and the task cannot, inference is missing.",
            [
                chart(
                    probe_series(cells, kind, colours),
                    "environment steps of meta-training",
                    f"R² of {label}",
                    (-0.2, 1),
                )
                for kind, label in (("task", "task parameters"), ("state", "physical state"))
            ],
            [cell.agent for cell in cells if any(run.probes() for run in cell.runs)],
            colours,
            probe_table(cells),
        ),
        films(cells),
    )


# ---------------------------------------------------------------------------------------------------- charts


def charts(
    title: str,
    note: str,
    drawn: Sequence[Html | None],
    agents: Sequence[str],
    colours: dict[str, int],
    *more: Any,
) -> Html | None:
    """Charts side by side under one heading, with a legend; nothing where there is nothing to draw."""
    drawn = [one for one in drawn if one is not None]
    if not drawn:
        return None
    legend = [
        element("span", element("span", "", class_=f"swatch c{colours[agent]}"), agent, class_="key")
        for agent in agents
    ]
    top = [element("h3", title), element("p", note, class_="note"), element("p", *legend, class_="legend")]
    return element("div", *top, element("div", *drawn, class_="charts"), *more, class_="block")


def chart(
    series: Sequence[Series], x_label: str, y_label: str, y_range: Any = None, marks: Any = None, **more: Any
) -> Html | None:
    """A chart of the series that have finite values; None where none has."""
    series = [s for s in series if len(s.x) and np.isfinite(s.y).all()]
    return line_chart(series, x_label, y_label, y_range, marks, **more) if series else None


def learning_charts(cells: Sequence[Cell], colours: dict[str, int]) -> list[Html | None]:
    """Success and score by environment steps of training, on one axis for all budgets."""
    drawn = []
    for metric, label, y_range in (("success", "success", (0, 1)), ("final_score", "final score", None)):
        series = learning_series(cells, metric, colours)
        x_log = budgets_are_far_apart(series)
        x_label = f"environment steps of meta-training{', logarithmic' if x_log else ''}"
        drawn.append(chart(series, x_label, label, y_range, x_log=x_log))
    return drawn


def budgets_are_far_apart(series: Sequence[Series]) -> bool:
    """Whether the shortest curve would be lost at the edge of a linear axis."""
    ends = [s.x[-1] for s in series if len(s.x) > 2]
    return len(ends) > 1 and max(ends) / min(ends) >= FAR_APART


def learning_series(cells: Sequence[Cell], metric: str, colours: dict[str, int]) -> list[Series]:
    """A metric on held-out tasks by environment steps of training."""
    found = [(cell, curve) for cell in cells if (curve := cell.curve("test", metric)) is not None]
    return [_series(cell, x, interval, colours) for cell, (x, interval) in found]


def adaptation_charts(cells: Sequence[Cell], colours: dict[str, int]) -> list[Html | None]:
    """The reward of each step, and success, by environment steps seen in the task."""
    drawn = []
    for metric, label, y_range in (
        ("reward_dense", "dense reward of the step", None),
        ("success", "success", (0, 1)),
    ):
        series = [one for cell in cells if (one := adaptation_series(cell, metric, colours)) is not None]
        drawn.append(chart(series, "environment steps in the task", label, y_range, episode_starts(cells)))
    return drawn


def adaptation_series(cell: Cell, metric: str, colours: dict[str, int]) -> Series | None:
    """A metric after each environment step of the trial, a line for each episode.

    An episode's first frame is none that a step leads to; it is left out.
    """
    values, steps = cell.adaptation(metric), cell.episode_steps
    if values is None or not steps:
        return None
    by_episode = values.reshape(*values.shape[:3], -1, steps + 1)[..., 1:]
    values = by_episode.reshape(*values.shape[:3], -1)
    x = np.arange(1, values.shape[-1] + 1)
    return replace(_series(cell, x, bootstrap(values), colours), breaks=range(steps, len(x), steps))


def episode_starts(cells: Sequence[Cell]) -> dict[float, str]:
    """Where later episodes begin, by environment steps in the task, with what to write there."""
    trials = {cell.agent: (cell.episodes, steps) for cell in cells if (steps := cell.episode_steps)}
    starts = {k * steps + 0.5: f"episode {k + 1}" for n, steps in trials.values() for k in range(1, n)}
    alike = len({steps for n, steps in trials.values() if n > 1}) == 1
    return {x: label if alike else "" for x, label in starts.items()}


def probe_series(cells: Sequence[Cell], kind: str, colours: dict[str, int]) -> list[Series]:
    """R² over training, the mean of the seeds that have been probed."""
    series = []
    for cell in cells:
        runs = [
            [row for row in run.probes() if row["target"] == kind and np.isfinite(row["r2"])]
            for run in cell.runs
        ]
        runs = [rows for rows in runs if rows]
        if runs:
            points = [[rows[i] for rows in runs] for i in range(min(map(len, runs)))]
            x, y = (
                np.array([np.mean([row[key] for row in point]) for point in points])
                for key in ("env_steps", "r2")
            )
            series.append(Series(cell.agent, colours[cell.agent], x, y))
    return series


def _series(cell: Cell, x: np.ndarray, interval: Interval, colours: dict[str, int]) -> Series:
    return Series(cell.agent, colours[cell.agent], x, interval.mean, interval.low, interval.high)


# ----------------------------------------------------------------------------------------------- film strips


def films(cells: Sequence[Cell]) -> Html | None:
    """What agents saw beside what they imagined, and videos for people, of held-out trials."""
    runs = [
        (cell.agent, run, strips)
        for cell in cells
        for run in cell.runs[:1]
        if (strips := _strips_of(run) or _videos_of(run))
    ]
    imagining = [entry for entry in runs if "imagined" in entry[2][1]]
    blocks = [_films_of(*entry) for entry in imagining or runs]  # of references only where there is no other
    if not blocks:
        return None
    note = (
        "Held-out trials, time from left to right (t: step of the trial). The goal is hidden from the agent; "
        "videos show it. Imagined frames are what the agent’s belief expects to see."
    )
    return element(
        "div", element("h3", "Film strips"), element("p", note, class_="note"), *blocks, class_="block"
    )


def _films_of(agent: str, run: RunData, strips: tuple[list[str], dict[str, np.ndarray]]) -> Html:
    names, rows = strips
    parts = []
    for index, name in enumerate(names[:STRIPS_PER_RUN]):
        pictures = [(label, frames[index]) for label, frames in rows.items()]
        caption = " · ".join([agent, "held-out", *name.split("-")])
        strip = _strip(pictures) if pictures else None
        parts.append(element("figure", element("figcaption", caption), strip, _video(run, name)))
    return join(*parts)


def _strips_of(run: RunData) -> tuple[list[str], dict[str, np.ndarray]] | None:
    """Names and frames ``(videos, frames, H, W, 3)``; None where there is no file, or not a sound one."""
    try:
        with np.load(run.folder / "strips.npz", allow_pickle=False) as file:
            names = [str(name) for name in file["names"]]
            rows = {label: file[label] for label in ("seen", "imagined") if label in file}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    whole = all(
        a.ndim == 5 and a.dtype == np.uint8 and a.shape[-1] == 3 and len(a) == len(names)
        for a in rows.values()
    )
    return (names, rows) if rows and whole else None


def _videos_of(run: RunData) -> tuple[list[str], dict[str, np.ndarray]] | None:
    """Names of films without strips: an agent that is given states sees no frames."""
    names = sorted(path.stem for path in (run.folder / "videos").glob("[!.]*.mp4"))
    return (names, {}) if names else None


def _strip(pictures: Sequence[tuple[str, np.ndarray]]) -> Html:
    """Rows of frames ``(frames, H, W, 3)``, labelled, at evenly spread times."""
    count = min(len(frames) for _, frames in pictures)
    times = np.unique(np.linspace(0, count - 1, STRIP_FRAMES).round().astype(int))
    parts = [element("span", ""), *(element("span", f"t = {t}", class_="time") for t in times)]
    for label, frames in pictures:
        parts.append(element("span", label, class_="row"))
        parts += [
            element("img", src=data_uri("image/png", png(frames[t])), alt=f"{label}, step {t}") for t in times
        ]
    return element("div", *parts, class_="strip", style=f"--frames: {len(times)}")


def _video(run: RunData, name: str) -> Html | None:
    path = run.folder / "videos" / f"{Path(name).name}.mp4"
    if not path.is_file() or path.stat().st_size > MOST_VIDEO_BYTES:
        return None
    source = element("source", src=data_uri("video/mp4", path.read_bytes()), type="video/mp4")
    player = element("video", source, controls="", loop="", muted="", playsinline="", preload="metadata")
    return element("details", element("summary", "Video, with the goal"), player)


# ------------------------------------------------------------------------------------------------ provenance


def provenance(plan: Plan, made_by: dict[str, Any], cells: Sequence[Cell]) -> Html:
    """Where the numbers come from, run by run."""
    runs = [run for cell in cells for run in cell.runs if run.provenance]
    columns: dict[str, Callable[[RunData], Any]] = {
        "run": lambda run: str(run.job),
        "started": lambda run: run.provenance.get("started"),
        "ended": lambda run: run.provenance.get("ended") or run.status.get("phase"),
        "sessions": lambda run: len(run.provenance.get("sessions", ())),
        "updates": lambda run: run.provenance.get("updates"),
        "device": _device,
        "commit": _commit,
    }
    head = element("tr", *(element("th", name) for name in columns))
    body = [
        element("tr", *(element("td", "–" if (v := f(run)) is None else v) for f in columns.values()))
        for run in runs
    ]
    table = element("table", element("thead", head), element("tbody", *body), class_="small")
    return element(
        "section",
        element("h2", "Where these numbers come from"),
        element("p", f"Training seeds: {', '.join(map(str, plan.seeds))}. ", _machine(runs), class_="note"),
        element("div", table, class_="wide"),
        element(
            "p",
            "Full configuration, package versions and every number: beside this page, in the run folders.",
        ),
    )


def _device(run: RunData) -> str:
    threads = run.provenance.get("threads")
    return f"{run.provenance.get('device')}, {threads} thread{'' if threads == 1 else 's'}"


def _commit(run: RunData) -> str:
    software = run.provenance.get("software") or {}
    commit = str(software.get("commit") or "installed package")[:12]
    return f"{commit}, changed" if software.get("uncommitted_changes") else commit


def _machine(runs: Sequence[RunData]) -> str:
    """Hardware and versions of the first run."""
    if not runs:
        return ""
    hardware, software = (runs[0].provenance.get(key) or {} for key in ("hardware", "software"))
    packages = [f"{name} {version}" for name, version in (software.get("packages") or {}).items() if version]
    facts = [hardware.get("processor"), f"{hardware.get('usable_cores')} usable cores", hardware.get("gpu")]
    facts += [f"{hardware.get('memory_gib')} GiB", f"Python {software.get('python')}", *packages]
    return ", ".join(str(fact) for fact in facts if fact) + "."


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("results", type=Path, help="a results folder")
    results = parser.parse_args(arguments).results
    try:
        write_report(results)
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_REQUEST
    print(results / "report.html")
    return OK


if __name__ == "__main__":
    sys.exit(main())
