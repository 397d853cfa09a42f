"""Runs the campaign and writes its table: a CSV for programs, Markdown for people, and where it was made."""

from __future__ import annotations

import csv
import importlib
import json
import os
import platform
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hardware_bridge.campaign.catalogue import ROWS, Outcome, Row

#: Modules that enter rows into the list.
TOPICS = ("bus", "servos", "policy", "devices", "processes")
COLUMNS = (
    "number", "fault", "injected", "expected", "within_s", "clock", "named", "after_s", "reaction", "packets",
    "violations", "passed", "failures",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """A row and what became of it; ``seconds`` that it took."""

    row: Row
    outcome: Outcome
    seconds: float

    @property
    def values(self) -> tuple[object, ...]:
        """In the order of ``COLUMNS``."""
        row, outcome = self.row, self.outcome
        after = "" if outcome.after is None else f"{outcome.after:.3f}"
        failures = [*(outcome.failures or ()), *(f"{v.where}: {v.what}" for v in outcome.violations[:3])]
        return (
            row.number, row.fault, row.injected, row.expected, f"{row.within:.3f}", row.clock, outcome.named,
            after, outcome.reaction, outcome.packets, len(outcome.violations),
            "pass" if outcome.passed else "FAIL", "; ".join(failures),
        )  # fmt: skip


def rows(only: Sequence[int] = ()) -> list[Row]:
    """The list of faults by number, or some of it.

    Raises:
        ValueError: a number that no row has.
    """
    for topic in TOPICS:
        importlib.import_module(f"hardware_bridge.campaign.{topic}")
    numbers = {row.number for row in ROWS}
    unknown = sorted(set(only) - numbers)
    if unknown:
        raise ValueError(f"there is no fault {unknown}; there are {min(numbers)} to {max(numbers)}")
    chosen = [row for row in ROWS if not only or row.number in only]
    return sorted(chosen, key=lambda row: row.number)


def perform(row: Row) -> Outcome:
    """Does one row in a folder of its own; an exception is a failure of the row, and not of the campaign."""
    with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
        try:
            return row.run(Path(folder))
        except Exception as error:  # noqa: BLE001 - said in the table
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            return Outcome(failures=[f"{type(error).__name__} at {where}: {error}"])


def campaign(only: Sequence[int], out: Path | None, say: Callable[[str], object] = print) -> int:
    """Runs rows one after another; 0 if all passed.

    Args:
        only: numbers; all if empty.
        out: folder for the table; None: none is written.
        say: is told what happens.
    """
    results = []
    for row in rows(only):
        started = time.monotonic()
        outcome = perform(row)
        results.append(Result(row, outcome, time.monotonic() - started))
        say(_line(results[-1]))
    failed = [result for result in results if not result.outcome.passed]
    packets = sum(result.outcome.packets for result in results)
    violations = sum(len(result.outcome.violations) for result in results)
    numbers = {result.row.number for result in results}
    good = numbers - {result.row.number for result in failed}
    say(f"{len(good)} of {len(numbers)} faults passed; {packets} packets, {violations} outside a limit")
    if out is not None:
        write(out, results)
    return 1 if failed else 0


def _line(result: Result) -> str:
    outcome, row = result.outcome, result.row
    after = "" if outcome.after is None else f" after {1000 * outcome.after:.0f} ms"
    mark = "pass" if outcome.passed else "FAIL"
    text = f"[{mark}] {row.number:2d} {row.fault}: {outcome.named or 'nothing named'}{after}"
    failures = result.values[-1]
    return f"{text} ({result.seconds:.1f} s)" + (f"\n        {failures}" if failures else "")


# Tables --------------------------------------------------------------------------------------------


def write(out: Path, results: Sequence[Result]) -> None:
    """The table of a campaign, twice, and its provenance."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "campaign.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        table.writerows(result.values for result in results)
    (out / "campaign.md").write_text(_markdown(results), encoding="utf-8")
    text = json.dumps(provenance(), indent=2, ensure_ascii=False)
    (out / "provenance.json").write_text(text + "\n", encoding="utf-8")


def _markdown(results: Sequence[Result]) -> str:
    lines = [
        "| # | fault | injected | expected | named | after (allowed) | reaction | outside a limit | |",
        "|--|--|--|--|--|--|--|--|--|",
    ]
    for result in results:
        row, outcome = result.row, result.outcome
        after = "–" if outcome.after is None else f"{1000 * outcome.after:.0f} ms"
        allowed = f"{1000 * row.within:.0f} ms{', real time' if row.clock == 'real' else ''}"
        cells = (
            row.number, row.fault, row.injected, row.expected, outcome.named, f"{after} ({allowed})",
            outcome.reaction, f"{len(outcome.violations)} of {outcome.packets}",
            "pass" if outcome.passed else f"**FAIL** {result.values[-1]}",
        )  # fmt: skip
        lines.append("| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def provenance() -> dict[str, object]:
    """What ran where: enough to run it again, nothing that names a machine."""
    from importlib.metadata import version

    here = Path(__file__).parent
    git = ["git", "-C", str(here)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=False
    )
    return {
        "command": "python -m hardware_bridge campaign --out results/widowx_campaign",
        "commit": commit.stdout.strip() or "unknown",
        "changed_files": len(changed.stdout.splitlines()),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numpy", "mujoco", "pyserial")},
        "kernel": platform.release().split("-")[0],
        "processor": _processor(),
        "load_average": round(os.getloadavg()[0], 1),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _processor() -> str:
    info, name = Path("/proc/cpuinfo"), "unknown"
    for line in info.read_text(encoding="ascii", errors="replace").splitlines() if info.exists() else ():
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
    return f"{os.cpu_count()} × {name}"
