"""The main job: meta-train and meta-test agents on families of tasks, side by side, and write a report.

Examples:
    python benchmarks/run_all.py                      the quick preset: a first result in minutes
    python benchmarks/run_all.py --list               families, agents, presets
    python benchmarks/run_all.py --dry-run            the plan, with an estimate of its time
    python benchmarks/run_all.py --resume runs/...    goes on where a run was stopped or killed
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a script: its folder comes first on the path, where the clone's root should be
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse
import contextlib
import copy
import shlex
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import gymnasium as gym

import meld_envs
from benchmarks.assignments import drop_from_all, is_for_one_agent, override
from benchmarks.engines import Engine, make_engine
from benchmarks.errors import BAD_REQUEST, INTERRUPTED, JOB_FAILED, OK, RequestError, explain_os_error
from benchmarks.estimate import estimate, keep_speed, kept_estimate, longest_first, plan_seconds
from benchmarks.files import locked, read_json, write_yaml
from benchmarks.jobs import choose_device, is_completed
from benchmarks.plan import (
    Job,
    Plan,
    build_plan,
    check_env_id,
    differences,
    env_ids,
    load_preset,
    load_yaml,
    made_by_of,
    plan_from_dict,
    plan_to_dict,
    presets_by_size,
)
from benchmarks.progress import Progress, duration, open_display
from benchmarks.provenance import ROOT, now, usable_cores
from benchmarks.rehearsal import try_agents, try_envs
from benchmarks.report import write_report
from meld_agents.registry import agent_targets
from meld_agents.settings import suggestion

POLL_SECONDS = 0.2
#: Seconds between reports while jobs run; one is written whenever a job ends, too.
REPORT_SECONDS = 60.0
#: What must fit into the results folder for a run to begin.
NEEDED_BYTES = 2**20
LOG_LINES = 12


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    sys.path.append(str(Path.cwd()))  # agents of one's own: --agents my_module:MyAgent
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options = build_parser().parse_args(arguments)
        if options.list:
            print_list()
            return OK
        plan, made_by = read_request(options, arguments)
        if options.dry_run:
            print_plan(plan, *share_cores(plan, options.jobs))
            return OK
        return run_plan(plan, made_by, options)
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_REQUEST
    except OSError as error:
        print(f"error: {explain_os_error(error, 'writing results')}", file=sys.stderr)
        return JOB_FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """The command line; ``docs/runner.md`` explains it at length."""
    parser = argparse.ArgumentParser(
        prog="run_all.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_argument_group("what to run")
    names = ", ".join(presets_by_size())
    what.add_argument("--preset", metavar="NAME", help=f"{names}, or a YAML file; default: quick")
    what.add_argument("--envs", metavar="ID,...", help="only these environments of the preset")
    what.add_argument(
        "--agents", metavar="NAME,...", help="these agents, by short name or package.module:Class"
    )
    what.add_argument("--seeds", metavar="N,...", help="training seeds, e.g. 0,1,2")
    what.add_argument(
        "--max-minutes", type=float, metavar="M", help="stop each job's training after M minutes"
    )
    what.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments",
        help="change a value of the preset, e.g. meld.hidden=256, evaluation.every=2000, "
        "envs.meld/PointNav-v0.env_steps=1e5; may be repeated",
    )  # fmt: skip
    how = parser.add_argument_group("how to run it")
    how.add_argument(
        "--out", type=Path, metavar="DIR", help="the results folder; default: runs/<preset>-<time>"
    )
    how.add_argument("--engine", choices=("local", "ray"), default="local", help="default: local")
    how.add_argument(
        "--jobs", type=int, metavar="N", help="jobs side by side; default: as many as there are cores"
    )
    how.add_argument("--device", metavar="NAME", help="auto (default), cpu, cuda")
    how.add_argument(
        "--resume", type=Path, metavar="DIR", help="go on with the run in DIR, whatever ended it"
    )
    instead = parser.add_argument_group("instead of running")
    instead.add_argument("--list", action="store_true", help="print families, agents and presets")
    instead.add_argument("--dry-run", action="store_true", help="print the plan with an estimate of its time")
    return parser


# ---------------------------------------------------------------------------------------------- the request


def read_request(options: argparse.Namespace, arguments: Sequence[str]) -> tuple[Plan, dict[str, Any]]:
    """The plan that was asked for, and a note of who asked, for ``plan.yaml``.

    Raises:
        RequestError: something in it is wrong.
    """
    if options.jobs is not None and options.jobs < 1:
        raise RequestError(f"--jobs: must be at least 1, got {options.jobs}")
    if options.resume is not None:
        return _read_resumed(options)
    name = options.preset or "quick"
    values = load_preset(name)
    plan = build_plan(name, _with_options(values, options))
    here = options.engine == "local"  # Ray's other machines may have what this one lacks
    try_envs(plan, draw=here)
    try_agents(plan)
    if here:
        choose_device(plan.device)
    return plan, {
        "command": f"{program()} {shlex.join(arguments)}".strip(),
        "time": now(),
        "jobs": options.jobs,
    }


def _read_resumed(options: argparse.Namespace) -> tuple[Plan, dict[str, Any]]:
    fixed = ("preset", "envs", "agents", "seeds", "max_minutes", "assignments", "device", "out")
    given = [name for name in fixed if getattr(options, name)]
    if given:
        option = "--set" if given[0] == "assignments" else "--" + given[0].replace("_", "-")
        raise RequestError(
            f"--resume goes on with the plan in the folder; {option} cannot be changed any more"
        )
    path = options.resume / "plan.yaml"
    if not path.is_file():
        raise RequestError(
            f"--resume {options.resume}: there is no plan.yaml in it, so it is no results folder"
        )
    values = load_yaml(path)
    made_by = made_by_of(values)
    options.jobs = options.jobs or made_by.get("jobs")
    options.out = options.resume
    return plan_from_dict(values), made_by


def _with_options(values: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """A preset's values, changed as the command line says."""
    if options.agents:
        values["agents"] = _list(options.agents)
    if options.seeds:
        values["seeds"] = [_seed(text) for text in _list(options.seeds)]
    if options.device:
        values["device"] = options.device
    agents = [*(values.get("agents") or []), *agent_targets()]
    if options.envs:
        _add_others(values, _list(options.envs))
    if options.max_minutes is not None:
        values["max_minutes"] = options.max_minutes
        drop_from_all(values, "max_minutes")
    for assignment in sorted(options.assignments, key=is_for_one_agent):  # what is general, first
        override(values, assignment, agents)
    if options.envs:
        values["envs"] = {env: _env_of(values, env) for env in _list(options.envs)}
    return values


def _add_others(values: dict[str, Any], wanted: list[str]) -> None:
    """Families that the preset does not name get what it has for all others, if it has that."""
    if isinstance(values.get("other_envs"), dict) and isinstance(values.get("envs"), dict):
        for env in wanted:
            check_env_id(env)
            values["envs"].setdefault(env, copy.deepcopy(values["other_envs"]))


def program() -> str:
    """How this command is given: from a clone, or installed."""
    return "python benchmarks/run_all.py" if (ROOT / ".git").exists() else "python -m benchmarks.run_all"


def resume_command(results: Path) -> str:
    """What to type to go on with a run."""
    return f"{program()} --resume {shlex.quote(str(results))}"


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _seed(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise RequestError(f"--seeds: {text!r} is no whole number") from None


def _env_of(values: dict[str, Any], env: str) -> Any:
    envs = values.get("envs") or {}
    if env in envs:
        return envs[env]
    check_env_id(env)
    raise RequestError(
        f"--envs: the preset has no budget for {env}{suggestion(env, list(envs))}; "
        f"choose another preset, or give it one: --set envs.{env}.env_steps=100000"
    )


# -------------------------------------------------------------------------------------- printing, not running


def print_list() -> None:
    """Families, agents and presets, a line each."""
    _print_table("environments", {env: _family_line(env) for env in env_ids()})
    others = {"sb3:NAME": "any algorithm of stable-baselines3 or sb3-contrib, e.g. sb3:SAC"}
    _print_table("agents", agent_targets() | others)
    found = {name: str(values.get("description", "")) for name, values in presets_by_size().items()}
    _print_table("presets, the smallest first", found)


def _family_line(env: str) -> str:
    """The first line of the family's docstring."""
    target = str(getattr(meld_envs, "FAMILIES", {}).get(env, gym.spec(env).entry_point))
    module, _, name = target.partition(":")
    found = getattr(sys.modules.get(module) or __import__(module, fromlist=[name]), name)
    return (found.__doc__ or "").strip().split("\n")[0]


def _print_table(title: str, rows: dict[str, str]) -> None:
    width = max(map(len, rows), default=0)
    print(title, *(f"  {name:<{width}}  {line}".rstrip() for name, line in rows.items()), "", sep="\n")


def print_plan(plan: Plan, parallel: int, threads: int) -> None:
    """Every job with its budget and estimated time, and what the estimate is based on."""
    print(f"preset {plan.preset}: {plan.description}")
    print(
        f"{len(plan.jobs())} jobs, {parallel} side by side with {threads} threads each; measuring speeds ...",
        flush=True,
    )
    estimates = estimate(plan, threads)
    jobs = sorted(plan.jobs(), key=lambda job: -estimates[job].seconds)
    for job in jobs:
        budget = f"{plan.budget(job):,} environment steps" if plan.budget(job) else "does not learn"
        print(f"  {job}: {budget}, about {duration(estimates[job].seconds)} ({estimates[job].basis})")
    print(
        f"in all about {duration(plan_seconds(jobs, estimates, parallel))}, "
        "and a few seconds for each job's start"
    )


def share_cores(plan: Plan, jobs: int | None) -> tuple[int, int]:
    """How many jobs run side by side, and the threads of each.

    Together no more than the usable cores, unless more ``jobs`` than cores are asked for.
    """
    parallel = min(jobs or usable_cores(), len(plan.jobs()))
    return parallel, max(1, usable_cores() // parallel)


# ---------------------------------------------------------------------------------------------------- running


def run_plan(plan: Plan, made_by: dict[str, Any], options: argparse.Namespace) -> int:
    """Runs all jobs that are not done yet; returns the exit code."""
    results = open_results(plan, made_by, options.out)
    parallel, threads = share_cores(plan, options.jobs)
    with locked(results / ".lock", str(results)):
        jobs = longest_first(plan, threads)
        ended = {job: 0 for job in jobs if is_completed(results, job)}
        todo = [job for job in jobs if job not in ended]
        print(f"results in {results}: {len(todo)} jobs to run, {len(ended)} done already", flush=True)
        estimates = {job: kept_estimate(plan, job, threads) for job in jobs}
        progress = Progress(results, plan, estimates, parallel, ended)
        engine = make_engine(options.engine, results, todo, parallel, threads, plan.device)
        with stopping(engine, results):
            see_through(engine, progress, threads)
        report(progress)
    failed = [job for job, code in ended.items() if code]
    print(f"report: {results / 'report.html'}")
    if failed:
        print(f"{len(failed)} jobs failed; once mended: {resume_command(results)}")
    return JOB_FAILED if failed else OK


def see_through(engine: Engine, progress: Progress, threads: int) -> None:
    """Polls the engine until every job has ended, and shows how it goes."""
    display = open_display(progress)
    reported = time.monotonic()
    try:
        while len(progress.ended) < len(progress.plan.jobs()):
            newly = engine.poll()
            for job, code in newly:
                progress.ended[job] = code
                display.say(outcome(progress, job, code))
                if code == 0:
                    provenance = read_json(progress.results / job.folder / "provenance.json")
                    keep_speed(progress.plan, job, threads, provenance)
            if newly or time.monotonic() - reported > REPORT_SECONDS:
                report(progress)
                reported = time.monotonic()
            display.update(engine.running, engine.waiting)
            time.sleep(POLL_SECONDS)
    finally:
        display.close()


def outcome(progress: Progress, job: Job, code: int) -> str:
    """What to say of a job that has ended: its success, or the end of its log."""
    if code == 0:
        success = progress.status(job).get("success")
        return f"{job}: done, held-out success {success:.2f}" if success is not None else f"{job}: done"
    log = progress.results / job.folder / "log.txt"
    cause = (
        f"killed by signal {-code}{' (out of memory?)' if code == -9 else ''}"
        if code < 0
        else f"exit code {code}"
    )
    tail = log.read_text(errors="replace").splitlines()[-LOG_LINES:] if log.exists() else []
    return "\n".join([f"{job}: FAILED, {cause}; the end of {log}:", *(f"    {line}" for line in tail)])


def report(progress: Progress) -> None:
    """Writes summary and report; whatever is in the way of that must not end the jobs."""
    try:
        write_report(progress.results)
    except OSError as error:
        print(f"error: {explain_os_error(error, 'writing the report')}", file=sys.stderr, flush=True)
    except Exception:  # noqa: BLE001 - e.g. a file in the folder that was changed by hand
        print("error: the report could not be written:", file=sys.stderr)
        traceback.print_exc()


def open_results(plan: Plan, made_by: dict[str, Any], out: Path | None) -> Path:
    """The results folder with its ``plan.yaml``: a new one, or one of the same plan.

    Raises:
        RequestError: it cannot be written, its disk is full, or it holds another plan or other things.
    """
    results = out or _new_folder(plan.preset)
    try:
        results.mkdir(parents=True, exist_ok=True)
        _try_writing(results)
    except OSError as error:
        raise RequestError(explain_os_error(error, f"results folder {results}")) from error
    path = results / "plan.yaml"
    if path.exists():
        different = differences(plan_from_dict(load_yaml(path)), plan)
        if different:
            raise RequestError(
                f"{results} holds the results of another plan ({different[0]}); choose another --out"
            )
        return results
    if any(not entry.name.startswith(".") for entry in results.iterdir()):
        raise RequestError(f"{results} is not empty and holds no plan.yaml; choose another --out")
    write_yaml(path, {**plan_to_dict(plan), "made_by": made_by})
    return results


def _new_folder(preset: str) -> Path:
    base = Path("runs") / f"{Path(preset).stem}-{datetime.now():%Y%m%d-%H%M}"
    numbered = (base.with_name(f"{base.name}-{n}") for n in range(2, 1000))
    return next(path for path in (base, *numbered) if not path.exists())


def _try_writing(folder: Path) -> None:
    probe = folder / ".writable"
    try:
        probe.write_bytes(bytes(NEEDED_BYTES))
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


@contextlib.contextmanager
def stopping(engine: Engine, results: Path) -> Iterator[None]:
    """Ends the jobs in order when the runner is interrupted or asked to end."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except KeyboardInterrupt:
        print(f"\nstopping; go on later with: {resume_command(results)}", flush=True)
        raise
    finally:
        engine.stop()
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
