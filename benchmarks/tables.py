"""The report's tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.html import Html, element, join
from benchmarks.summary import Cell, Interval, bootstrap_difference


def results_table(
    rows: Sequence[dict[str, Any]], task_steps: Mapping[str, int], colours: dict[str, int]
) -> Html:
    """Success, score and returns of every agent on held-out tasks, with intervals.

    Args:
        rows: the family's, of ``summary.csv``.
        task_steps: by agent, the environment steps of a trial, as far as they are known.
        colours: of agents.
    """
    names = (
        "agent",
        "steps in the task",
        "success",
        "final score",
        "return, dense",
        "return, sparse",
        "training steps",
        "minutes",
        "seeds",
    )
    head = element("tr", *(element("th", name) for name in names))
    body = [element("tr", *_result_cells(row, task_steps, colours)) for row in rows]
    note = (
        f"{rows[0]['tasks']} held-out tasks, {rows[0]['trials']} trials of each, last episode of the trial. "
        "Steps in the task: how much of it an agent has seen by then. "
        f"Small figures: 95 % bootstrap interval over {rows[0]['interval_over']}."
    )
    table = element("table", element("thead", head), element("tbody", *body), class_="results")
    stops = [f"{row['agent']} was stopped by {row['stopped_by']}." for row in rows if row["stopped_by"]]
    return element("div", table, element("p", " ".join([note, *stops]), class_="note"), class_="block")


def _result_cells(row: dict[str, Any], task_steps: Mapping[str, int], colours: dict[str, int]) -> list[Html]:
    metrics = [_measure(row, metric) for metric in ("success", "score", "return_dense", "return_sparse")]
    figures = [
        f"{row['env_steps']:,}" if row["env_steps"] else "–",
        f"{row['wall_minutes']:.1f}",
        str(row["seeds"]),
    ]
    return [
        element("td", *_agent(row["agent"], colours)),
        element("td", task_steps.get(row["agent"], "–")),
        *metrics,
        *(element("td", text) for text in figures),
    ]


def _agent(name: str, colours: dict[str, int]) -> tuple[Html, str]:
    return element("span", "", class_=f"swatch c{colours[name]}"), name


def _measure(row: dict[str, Any], metric: str) -> Html:
    return _interval(Interval(*(row[f"{metric}_{part}"] for part in ("mean", "low", "high"))))


def _interval(interval: Interval) -> Html:
    span = element("span", f"{number(interval.low)} … {number(interval.high)}", class_="interval")
    return element("td", element("b", number(interval.mean)), span)


def gap_table(cells: Sequence[Cell], colours: dict[str, int]) -> Html | None:
    """What is lost from training tasks to held-out ones, in the trial's last episode."""
    body = []
    for cell in cells:
        figures = []
        for column in ("success", "final_score"):
            train, test = cell.final("train", column), cell.final("test", column)
            if train is None or test is None:
                break
            gap = bootstrap_difference(train, test)
            figures += [
                element("td", number(train.mean())),
                element("td", number(test.mean())),
                _interval(gap),
            ]
        else:
            body.append(element("tr", element("td", *_agent(cell.agent, colours)), *figures))
    if not body:
        return None
    names = ("training tasks", "held-out tasks", "gap")
    head = join(
        element(
            "tr", element("th", ""), *(element("th", name, colspan=3) for name in ("success", "final score"))
        ),
        element("tr", element("th", "agent"), *(element("th", name) for name in names * 2)),
    )
    note = (
        "The trial’s last episode. The gap is what training tasks have more, with its 95 % interval over "
        "tasks of both kinds; an interval that holds 0 is no evidence of a gap."
    )
    table = element("table", element("thead", head), element("tbody", *body), class_="grouped")
    title = element("h3", "Training tasks against held-out tasks")
    return element("div", title, element("p", note, class_="note"), table, class_="block")


def episode_table(rows: Sequence[dict[str, Any]], colours: dict[str, int]) -> Html | None:
    """Every episode of the trial on held-out tasks, with mean actions and with the exploring policy.

    Args:
        rows: the family's, of ``episodes.csv``.
        colours: of agents.
    """
    by_place: dict[tuple[str, int], dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        if row["split"] == "test":
            by_place[row["agent"], row["episode"]][row["policy"]] = row
    if not by_place:
        return None
    metrics = {"return_dense": "return, dense", "score": "final score", "success": "success"}
    titles = {"deterministic": "mean actions", "stochastic": "exploring policy"}
    policies = [policy for policy in titles if any(policy in found for found in by_place.values())]
    head = join(
        element(
            "tr", *(element("th", "") for _ in range(3)),
            *(element("th", titles[policy], colspan=len(metrics)) for policy in policies),
        ),
        element(
            "tr", *(element("th", name) for name in ("agent", "episode", "steps in the task")),
            *(element("th", label) for _ in policies for label in metrics.values()),
        ),
    )  # fmt: skip
    body = []
    for (agent, episode), found in by_place.items():
        place = [element("td", *_agent(agent, colours)) if episode == 0 else element("td", "")]
        place += [element("td", episode + 1), element("td", _steps(found["deterministic"]))]
        figures = [
            _measure(found[policy], metric) if policy in found else element("td", "–")
            for policy in policies
            for metric in metrics
        ]
        body.append(element("tr", *place, *figures, class_="first" if episode == 0 else None))
    return element("table", element("thead", head), element("tbody", *body), class_="grouped episodes")


def _steps(row: dict[str, Any]) -> str:
    return f"{row['first_step']}–{row['last_step']}" if "last_step" in row else "–"


def probe_table(cells: Sequence[Cell]) -> Html | None:
    """The last probe of every target, by agent (first seed that has one)."""
    last = {cell.agent: _last_probes(cell) for cell in cells}
    last = {agent: probes for agent, probes in last.items() if probes}
    if not last:
        return None
    targets = list(dict.fromkeys(target for probes in last.values() for target in probes))
    single = [target for target in targets if "/" in target]
    head = element(
        "tr",
        element("th", "read from the belief"),
        *(element("th", f"{agent}: error (R²)") for agent in last),
    )
    body = []
    for target in single:
        found = [probes.get(target) for probes in last.values()]
        figures = [f"{number(p['rmse'])} ({number(p['r2'])})" if p else "–" for p in found]
        chance = next(p["chance_rmse"] for p in found if p)
        name = join(target, element("span", f"mean alone {number(chance)}", class_="interval"))
        body.append(element("tr", element("td", name), *(element("td", text) for text in figures)))
    table = element("table", element("thead", head), element("tbody", *body))
    return element("details", element("summary", "Every parameter and state at the last evaluation"), table)


def _last_probes(cell: Cell) -> dict[str, dict[str, Any]]:
    for run in cell.runs:
        probes = run.probes()
        if probes:
            last = max(row["env_steps"] for row in probes)
            return {row["target"]: row for row in probes if row["env_steps"] == last}
    return {}


def number(value: float) -> str:
    """Two decimals, more for small numbers, with a true minus sign."""
    if not np.isfinite(value):
        return "–"
    text = f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.3f}"
    return text.replace("-", "−")
