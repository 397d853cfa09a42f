"""One run of one agent on one family with one seed: train, evaluate, log, checkpoint, resume.

Usage:
    python -m benchmarks.jobs RESULTS ENV AGENT SEED [--threads N]

It works on a results folder that holds a ``plan.yaml``. Started again after whatever ended it, it goes on
from its newest checkpoint and ends with the numbers of a run that was never interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.checkpoints import Checkpoints
from benchmarks.errors import BAD_REQUEST, JOB_FAILED, OK, RequestError, explain_os_error
from benchmarks.evaluate import (
    ADAPTATION_COLUMNS,
    EVAL_COLUMNS,
    Environments,
    Trials,
    each_task,
    face,
    run_trials,
    spread,
)
from benchmarks.events import Events
from benchmarks.files import Table, locked, read_json, read_rows, write_json, write_rows, write_yaml
from benchmarks.films import FilmRecorder, frames_per_second
from benchmarks.plan import Job, Plan, load_yaml, plan_from_dict
from benchmarks.probes import PROBE_COLUMNS, BeliefRecorder, probe_rows
from benchmarks.provenance import hardware, now, software, usable_cores
from benchmarks.seeds import seed_for
from meld_agents.interface import Progress
from meld_agents.registry import find_agent
from meld_agents.settings import to_mapping

#: Wall-clock seconds between checkpoints; longer where writing one takes long.
CHECKPOINT_SECONDS = 60.0
#: At most this share of the time goes into checkpoints.
CHECKPOINT_SHARE = 0.05
#: Seconds between writes of the status and of rows of train.csv.
STATUS_SECONDS = 0.5
ROWS_SECONDS = 1.0
TRAIN_COLUMNS = ("env_steps", "wall_seconds", "updates")


@dataclass
class State:
    """What a resumed run must know; it lies in every checkpoint's manifest."""

    env_steps: int = 0
    updates: int = 0
    wall_seconds: float = 0.0
    evaluated_at: int = -1
    trained: bool = False
    tested: bool = False
    stopped_by: str | None = None
    rows: dict[str, int] = field(default_factory=dict)
    rows_before_evaluation: dict[str, int] = field(default_factory=dict)


class Run:
    """A job at work in its folder.

    Args:
        results: the results folder.
        plan: what was asked for.
        job: which of its runs this is.
        threads: for simulation and for torch.
        pause: wall-clock seconds between checkpoints.
    """

    def __init__(
        self, results: Path, plan: Plan, job: Job, threads: int, pause: float = CHECKPOINT_SECONDS
    ) -> None:
        self.plan, self.job, self._pause = plan, job, pause
        self.folder = results / job.folder
        self.settings = plan.agent_settings(job)
        self.evaluation = plan.evaluation_of(job)
        self.max_minutes = plan.max_minutes_of(job)
        self.config = self._settle_config(threads)
        self.envs = Environments(job.env, plan.make(job), self.config["threads"])
        self.tables = {
            "train": Table(self.folder / "train.csv", TRAIN_COLUMNS, extensible=True),
            "eval": Table(self.folder / "eval.csv", EVAL_COLUMNS),
            "probes": Table(self.folder / "probes.csv", PROBE_COLUMNS),
        }
        self.checkpoints = Checkpoints(self.folder / "checkpoints", say)
        self.state = State()
        self._began = time.monotonic()
        self._waiting_rows: list[dict[str, Any]] = []
        self._last: defaultdict[str, float] = defaultdict(lambda: self._began)
        self._checkpoint_cost = 0.0
        self._speed = Speed()
        self._success: float | None = None

    # ------------------------------------------------------------------------------------------- the course

    def run(self) -> None:
        """Trains, tests and films, from wherever an earlier session ended."""
        self._restore()
        self._task_set = face(self.envs.get(1, "test")).task_set
        write_yaml(self.folder / "config.yaml", {**self.config, "tasks": self._task_lists()})
        self.events = Events(self.folder)
        replay(self.events, self.tables)
        self._provenance(ended=None)
        if not self.state.trained:
            self._train()
        if not self.state.tested:
            self._test()
        self._film()
        self.events.close()
        self._provenance(ended=now())
        self._status("done", force=True)

    def close(self) -> None:
        """Closes the environments."""
        self.envs.close()

    def _train(self) -> None:
        if self.state.evaluated_at < 0:
            self._evaluate(final=False)
        budget = self.plan.env_steps(self.job)
        for progress in self.agent.meta_train(budget):
            self._note(progress)
            due = (self.state.evaluated_at // self.evaluation.every + 1) * self.evaluation.every
            if due <= self.state.env_steps < budget:
                self._evaluate(final=False)
            elif self._checkpoint_is_due():
                self._checkpoint()
            if self._is_out_of_time():
                self.state.stopped_by = "max_minutes"
                say(f"stopped after {self.max_minutes} minutes, at {self.state.env_steps} steps")
                break
        self.state.trained = True
        if self.state.evaluated_at == self.state.env_steps:
            self._forget_last_evaluation()
        self._checkpoint()

    def _test(self) -> None:
        self.state.tested = True
        self._evaluate(final=True)

    def _film(self) -> None:
        """Videos for people and film strips for the report, of the first held-out tasks."""
        if self.evaluation.videos == 0:
            return
        self._status("filming", force=True)
        ids = spread(len(self._task_set.test), self.evaluation.videos)
        env = self.envs.get(len(ids), "test", filmed=True)
        recorder = FilmRecorder()
        tasks = [self._task_set.test[i] for i in ids]
        trials = run_trials(self.agent, env, ids, tasks, self._seed("film"), watch=[recorder])
        outcome = ["success" if ok else "failure" for ok in trials.success[:, -1, -1]]
        names = [f"task{i:02d}-{word}" for i, word in zip(ids, outcome)]
        recorder.write_strips(self.folder / "strips.npz", names)
        try:
            recorder.write_videos(self.folder / "videos", names, frames_per_second(env))
        except ImportError:
            say("no videos: pip install imageio-ffmpeg")

    # ------------------------------------------------------------------------------------------ evaluation

    def _evaluate(self, final: bool) -> None:
        """Tries held-out and training tasks, writes the rows, and keeps a checkpoint."""
        self._flush_rows()
        self._status("evaluating", force=True)
        self.state.rows_before_evaluation = {name: table.rows for name, table in self.tables.items()}
        self.state.evaluated_at = self.state.env_steps
        steps = self.state.env_steps
        per_task = self.evaluation.final_trials_per_task if final else self.evaluation.trials_per_task
        test_ids, test_tasks = each_task(self._task_set.test, range(len(self._task_set.test)), per_task)
        test_beliefs, test = self._try("test", test_ids, test_tasks)
        results = {"test": test}
        rows = [*test.eval_rows(steps, "test")]
        if self.evaluation.train_tasks:
            train_ids = spread(len(self._task_set.train), self.evaluation.train_tasks)
            train_ids, train_tasks = each_task(self._task_set.train, train_ids, 1)
            train_beliefs, train = self._try("train", train_ids, train_tasks)
            results["train"] = train
            rows += train.eval_rows(steps, "train")
            if test_beliefs.anything and self.evaluation.probes:
                self._probe(train_beliefs, train_tasks, test_beliefs, test_tasks)
        self.tables["eval"].append(rows)
        self.events.scalars(steps, eval_scalars(rows))
        if final:
            self._write_adaptation(results)
            self._try_exploring(test_ids, test_tasks)
        self._success = test.final_success
        say(f"{steps} steps: held-out success {test.final_success:.2f}, score {test.final_score:.3f}")
        self._checkpoint(rank=[test.final_success, test.final_score])

    def _try(self, split: str, ids: list[int], tasks: list[Any]) -> tuple[BeliefRecorder, Trials]:
        beliefs = BeliefRecorder()
        watch = [beliefs] if self.evaluation.probes else []
        seed = self._seed(f"evaluation {split}")
        return beliefs, run_trials(self.agent, self.envs.get(len(ids), split), ids, tasks, seed, watch=watch)

    def _write_adaptation(self, results: Mapping[str, Trials]) -> None:
        steps = self.state.env_steps
        rows = [row for split, trials in results.items() for row in trials.adaptation_rows(steps, split)]
        write_rows(self.folder / "adaptation.csv", ADAPTATION_COLUMNS, rows)

    def _try_exploring(self, ids: list[int], tasks: list[Any]) -> None:
        """The held-out tasks again, with the policy that the agent explores with in training."""
        seed, env = self._seed("evaluation test, exploring"), self.envs.get(len(ids), "test")
        trials = run_trials(self.agent, env, ids, tasks, seed, explore=True)
        rows = trials.eval_rows(self.state.env_steps, "test")
        write_rows(self.folder / "eval_stochastic.csv", EVAL_COLUMNS, rows)

    def _probe(
        self, train: BeliefRecorder, train_tasks: list[Any], test: BeliefRecorder, test_tasks: list[Any]
    ) -> None:
        family = face(self.envs.get(len(test_tasks), "test")).family
        names = (family.parameter_names, family.state_names)
        try:
            rows = list(probe_rows(self.state.env_steps, train, train_tasks, test, test_tasks, names))
        except (ValueError, np.linalg.LinAlgError) as error:
            say(f"no probes at {self.state.env_steps} environment steps: {error}")
            return
        self.tables["probes"].append(rows)
        self.events.scalars(self.state.env_steps, probe_scalars(rows))

    def _forget_last_evaluation(self) -> None:
        """The last evaluation, with more trials, takes the place of one at the same step."""
        for name in ("eval", "probes"):
            self.tables[name].cut(self.state.rows_before_evaluation[name])

    def _seed(self, purpose: str) -> int:
        return seed_for(self.job.seed, purpose, self.state.env_steps)

    # ------------------------------------------------------------------------------------------ keeping track

    def _note(self, progress: Progress) -> None:
        self.state.env_steps, self.state.updates = int(progress.env_steps), int(progress.updates)
        wall = self._wall()
        row = {
            "env_steps": self.state.env_steps,
            "wall_seconds": round(wall, 3),
            "updates": self.state.updates,
        }
        losses = {name: float(value) for name, value in progress.losses.items()}
        self._waiting_rows.append({**row, **losses})
        self.events.scalars(self.state.env_steps, train_scalars(losses))
        self._speed.note(time.monotonic(), self.state.env_steps, self.state.updates)
        if self._is_time_for("rows", ROWS_SECONDS):
            self._flush_rows()
        self._status("training")

    def _flush_rows(self) -> None:
        self.tables["train"].append(self._waiting_rows)
        self._waiting_rows = []
        self.events.flush()

    def _wall(self) -> float:
        """Wall-clock seconds of this run, earlier sessions included."""
        return self.state.wall_seconds + time.monotonic() - self._began

    def _is_out_of_time(self) -> bool:
        return self.max_minutes is not None and self._wall() >= 60 * self.max_minutes

    def _is_time_for(self, what: str, seconds: float) -> bool:
        if time.monotonic() - self._last[what] < seconds:
            return False
        self._last[what] = time.monotonic()
        return True

    def _status(self, phase: str, force: bool = False) -> None:
        if force or self._is_time_for("status", STATUS_SECONDS):
            write_status(
                self.folder,
                phase=phase,
                env_steps=self.state.env_steps,
                budget=self.plan.budget(self.job),
                updates=self.state.updates,
                steps_per_second=self._speed.steps_per_second,
                updates_per_second=self._speed.updates_per_second,
                success=self._success,
                wall_seconds=self._wall(),
            )

    # -------------------------------------------------------------------------------- checkpoints and records

    def _checkpoint_is_due(self) -> bool:
        pause = max(self._pause, self._checkpoint_cost / CHECKPOINT_SHARE)
        return time.monotonic() - self._last["checkpoint"] >= pause

    def _checkpoint(self, rank: list[float] | None = None) -> None:
        self._flush_rows()
        began = time.monotonic()
        state = asdict(self.state)
        state["rows"] = {name: table.rows for name, table in self.tables.items()}
        state["wall_seconds"] = self._wall()
        state["success"] = self._success
        self.checkpoints.save(self.agent.save, state, rank)
        self._last["checkpoint"] = time.monotonic()
        self._checkpoint_cost = time.monotonic() - began

    def _restore(self) -> None:
        restored = self.checkpoints.load_newest(self._load)
        if restored is None:
            if any(table.rows for table in self.tables.values()):
                say("no usable checkpoint: beginning anew")
            self.checkpoints.clear()
            self._new_agent()
            self.state = State()
        else:
            values = dict(restored.state)
            self._success = values.pop("success")
            self.state = State(**values)
            say(f"going on from {self.state.env_steps} steps ({restored.folder.name})")
        for name, table in self.tables.items():
            table.cut(self.state.rows.get(name, 0))

    def _load(self, folder: Path, state: Mapping[str, Any]) -> None:
        for name, table in self.tables.items():
            if table.rows < state["rows"][name]:
                raise ValueError(
                    f"{table.path.name} has {table.rows} rows, at the checkpoint it had {state['rows'][name]}"
                )
        self._new_agent()  # one that failed to load may be half changed
        self.agent.load(folder)

    def _new_agent(self) -> None:
        agent_class = find_agent(self.job.agent)
        self.agent = agent_class(self.envs.make, self.settings, self.job.seed, self.config["device"])

    def _settle_config(self, threads: int) -> dict[str, Any]:
        """The resolved configuration; of an earlier session, where there was one.

        Threads and device stay as they were, for sums depend on them to the last bit.

        Raises:
            RequestError: the earlier session had other settings.
        """
        path = self.folder / "config.yaml"
        config = {
            "env": self.job.env,
            "make": self.plan.make(self.job),
            "env_steps": self.plan.env_steps(self.job),
            "agent": self.job.agent,
            "settings": self.settings,
            "seed": self.job.seed,
            "evaluation": to_mapping(self.evaluation),
            "max_minutes": self.max_minutes,
        }
        earlier = load_yaml(path) if path.exists() else None
        for key, value in config.items():
            if earlier is not None and earlier.get(key) != value:
                raise RequestError(
                    f"{path}: this run began with {key} = {earlier.get(key)}, now it is {value}"
                )
        set_threads(earlier["threads"] if earlier else threads)
        return {
            **config,
            "device": choose_device(earlier["device"] if earlier else self.plan.device),
            "threads": earlier["threads"] if earlier else threads,
        }

    def _task_lists(self) -> dict[str, Any]:
        return {s: [task.to_dict() for task in getattr(self._task_set, s)] for s in ("train", "test")}

    def _provenance(self, ended: str | None) -> None:
        """Writes who made these numbers; sessions of the same run follow each other in it."""
        path = self.folder / "provenance.json"
        record = read_json(path) or {"started": now(), "sessions": []}
        if ended is None:
            record["sessions"].append(
                {"started": now(), "from_env_steps": self.state.env_steps, **software()}
            )
        record.update(
            software=software() if ended is None else record["software"],
            hardware=hardware(),
            device=self.config["device"],
            threads=self.config["threads"],
            env_steps=self.state.env_steps,
            updates=self.state.updates,
            wall_seconds=round(self._wall(), 1),
            stopped_by=self.state.stopped_by,
            ended=ended,
            completed=ended is not None,
        )
        write_json(path, record)


class Speed:
    """Environment steps and updates a second over the last half minute."""

    WINDOW_SECONDS = 30.0

    def __init__(self) -> None:
        self._points: list[tuple[float, int, int]] = []

    def note(self, at: float, env_steps: int, updates: int) -> None:
        """Adds a point; ``at`` in seconds of any clock."""
        self._points.append((at, env_steps, updates))
        while len(self._points) > 2 and at - self._points[1][0] > self.WINDOW_SECONDS:
            self._points.pop(0)

    @property
    def steps_per_second(self) -> float:
        """Environment steps a second."""
        return self._rate(1)

    @property
    def updates_per_second(self) -> float:
        """Gradient updates a second."""
        return self._rate(2)

    def _rate(self, what: int) -> float:
        if len(self._points) < 2:
            return 0.0
        first, last = self._points[0], self._points[-1]
        return (last[what] - first[what]) / max(last[0] - first[0], 1e-9)


# ------------------------------------------------------------------------------------------------ TensorBoard


def train_scalars(losses: Mapping[str, float]) -> dict[str, float]:
    """A slice's losses by the names of their curves."""
    return {f"loss/{name}": value for name, value in losses.items()}


def eval_scalars(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Means over the trials' last episodes, by split."""
    rows = list(rows)
    last = max(int(row["episode"]) for row in rows)
    values = defaultdict(list)
    for row in rows:
        if int(row["episode"]) == last:
            for name in ("success", "final_score", "return_dense", "return_sparse"):
                values[f"{row['split']}/{name}"].append(float(row[name]))
    return {name: float(np.mean(numbers)) for name, numbers in values.items()}


def probe_scalars(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Errors and R² of every probed target."""
    return {f"probe/{row['target']}/{name}": float(row[name]) for row in rows for name in ("rmse", "r2")}


def replay(events: Events, tables: Mapping[str, Table]) -> None:
    """Writes all points of the tables, as an interrupted run left them, to new event files."""
    for row in read_rows(tables["train"].path):
        losses = {name: float(value) for name, value in row.items() if value and name not in TRAIN_COLUMNS}
        events.scalars(int(row["env_steps"]), train_scalars(losses))
    for table, scalars in (("eval", eval_scalars), ("probes", probe_scalars)):
        by_step = defaultdict(list)
        for row in read_rows(tables[table].path):
            by_step[int(row["env_steps"])].append(row)
        for step, rows in by_step.items():
            events.scalars(step, scalars(rows))


# -------------------------------------------------------------------------------------------------- a process


def say(line: str) -> None:
    """One line for the job's log."""
    print(f"{now()} {line}", flush=True)


def write_status(folder: Path, **values: Any) -> None:
    """Tells the progress display how the job stands (not needed for anything else)."""
    write_json(folder / "status.json", {**values, "time": time.time()})


def choose_device(wanted: str) -> str:
    """``auto`` is a GPU where the agent uses torch and torch sees one.

    Raises:
        RequestError: a GPU is wanted that torch does not see.
    """
    torch = sys.modules.get("torch")
    gpus = torch.cuda.device_count() if torch is not None and torch.cuda.is_available() else 0
    if wanted == "auto":
        return "cuda" if gpus else "cpu"
    kind, _, index = wanted.partition(":")
    if torch is not None and kind == "cuda" and int(index or 0) >= gpus:
        seen = f"only {gpus}" if gpus else "none"
        raise RequestError(
            f"device {wanted!r}: torch {torch.__version__} sees no such GPU here ({seen}); "
            "choose --device cpu, or install a driver and a build of torch that fit the GPU"
        )
    return wanted


def set_threads(threads: int) -> None:
    """Tells torch, where an agent has loaded it."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def end_with_parent(parent: int) -> None:
    """Ends this process soon after the one that started it has ended, so that no job runs unseen.

    Args:
        parent: its process id; by now it may have ended, and the system be our parent.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(JOB_FAILED)

    threading.Thread(target=watch, daemon=True).start()


def is_completed(results: Path, job: Job) -> bool:
    """Whether the job has come to its end, films included."""
    return bool((read_json(results / job.folder / "provenance.json") or {}).get("completed"))


def run_job(results: Path, plan: Plan, job: Job, threads: int, pause: float = CHECKPOINT_SECONDS) -> None:
    """Runs one job to its end; does nothing if it has ended already.

    Raises:
        RequestError: another process works on it, or it began with other settings.
        Exception: whatever the agent or the environment raises.
    """
    if is_completed(results, job):
        return
    folder = results / job.folder
    folder.mkdir(parents=True, exist_ok=True)
    with (
        locked(folder / ".lock", str(folder)),
        contextlib.closing(Run(results, plan, job, threads, pause)) as run,
    ):
        run.run()


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.jobs", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("results", type=Path, help="the results folder")
    parser.add_argument("env")
    parser.add_argument("agent")
    parser.add_argument("seed", type=int)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--checkpoint-seconds", type=float, default=CHECKPOINT_SECONDS)
    parser.add_argument("--end-with-parent", type=int, nargs="?", const=os.getppid(), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.end_with_parent is not None:
        end_with_parent(options.end_with_parent)
    job = Job(options.env, options.agent, options.seed)
    try:
        plan = plan_from_dict(load_yaml(options.results / "plan.yaml"))
        run_job(options.results, plan, job, options.threads, options.checkpoint_seconds)
    except Exception as error:  # noqa: BLE001 - the log must tell what ended a job, whatever it was
        return _report_failure(options.results / job.folder, error)
    return OK


def _report_failure(folder: Path, error: Exception) -> int:
    message = str(error) if isinstance(error, RequestError) else f"{type(error).__name__}: {error}"
    if isinstance(error, OSError):
        message = explain_os_error(error, f"working in {folder}")
    if not isinstance(error, RequestError):
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr, flush=True)
    if isinstance(
        error, RequestError
    ):  # nothing was begun here; another process may be at work in the folder
        return BAD_REQUEST
    with contextlib.suppress(OSError):
        write_status(folder, phase="failed", error=message)
    return JOB_FAILED


if __name__ == "__main__":
    sys.exit(main())
