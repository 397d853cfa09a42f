"""Engines: what starts the jobs of a plan and sees them through, on this machine or on Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from benchmarks.errors import RequestError
from benchmarks.plan import Job
from benchmarks.provenance import ROOT, usable_cores

#: How often Ray starts a job again that failed or lost its machine; it goes on from its checkpoint.
RAY_RETRIES = 3
#: How often a job is started again here whose process crashed in native code, such as a graphics driver's.
CRASH_RETRIES = 3
CRASHES = (-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE, -signal.SIGABRT)
_STOP_SECONDS = 10
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Engine(Protocol):
    """Sees jobs through."""

    @property
    def waiting(self) -> list[Job]:
        """Jobs that have not been started."""

    @property
    def running(self) -> list[Job]:
        """Jobs that have been started and have not ended."""

    def poll(self) -> list[tuple[Job, int]]:
        """Starts what can start; returns the jobs that have ended since the last call, with exit codes."""

    def stop(self) -> None:
        """Ends all running jobs; each can be resumed from its newest checkpoint."""


class LocalEngine:
    """Jobs as processes of this machine, so many side by side.

    Args:
        results: the results folder.
        jobs: in the order of starting.
        parallel: how many at once.
        threads: for each of them.
    """

    def __init__(self, results: Path, jobs: Sequence[Job], parallel: int, threads: int) -> None:
        self._results, self._parallel, self._threads = results, parallel, threads
        self._waiting = deque(jobs)
        self._processes: dict[Job, subprocess.Popen[bytes]] = {}
        self._crashes: Counter[Job] = Counter()

    @property
    def waiting(self) -> list[Job]:
        """Jobs that have not been started."""
        return list(self._waiting)

    @property
    def running(self) -> list[Job]:
        """Jobs whose processes live."""
        return list(self._processes)

    def poll(self) -> list[tuple[Job, int]]:
        """Starts waiting jobs where there is room; returns those that have ended, with exit codes.

        One that crashed goes on from its newest checkpoint, unless it has done so too often.
        """
        ended = [
            (job, process.returncode)
            for job, process in self._processes.items()
            if process.poll() is not None
        ]
        for job, code in list(ended):
            del self._processes[job]
            if code in CRASHES and self._crashes[job] < CRASH_RETRIES:
                self._crashes[job] += 1
                self._waiting.appendleft(job)
                ended.remove((job, code))
        while self._waiting and len(self._processes) < self._parallel:
            job = self._waiting.popleft()
            self._processes[job] = start_job(self._results, job, self._threads)
        return ended

    def stop(self) -> None:
        """Ends all processes, politely at first."""
        self._waiting.clear()
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()


class RayEngine:
    """Jobs as Ray tasks with retries. The results folder must be one that every machine of the cluster sees.

    Ray decides how many run at once, by the cores (and GPUs) of its cluster: each job asks for ``threads``.

    Raises:
        RequestError: Ray is not installed.
    """

    def __init__(self, results: Path, jobs: Sequence[Job], parallel: int, threads: int, device: str) -> None:
        try:
            import ray
        except ImportError:
            raise RequestError("--engine ray needs Ray: pip install 'ray[default]'") from None
        self._ray = ray
        # Ray's own progress lines would tear the display.
        cores = None if os.environ.get("RAY_ADDRESS") else min(usable_cores(), parallel * threads)
        ray.init(num_cpus=cores, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
        gpus = ray.cluster_resources().get("GPU", 0) if device != "cpu" else 0
        options = {"num_cpus": threads, "num_gpus": min(1.0, gpus / parallel), "max_retries": RAY_RETRIES}
        task = ray.remote(**options, retry_exceptions=True)(_run_on_ray)
        arguments = (str(results.resolve()), threads, os.getcwd())
        self._tasks: dict[Any, Job] = {task.remote(job, *arguments): job for job in jobs}

    @property
    def waiting(self) -> list[Job]:
        """Nothing: Ray holds all jobs, those that it has not started included."""
        return []

    @property
    def running(self) -> list[Job]:
        """All jobs that have not ended."""
        return list(self._tasks.values())

    def poll(self) -> list[tuple[Job, int]]:
        """The jobs that have ended since the last call, with exit codes."""
        ready, _ = (
            self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
            if self._tasks
            else ([], [])
        )
        return [(self._tasks.pop(task), self._exit_code(task)) for task in ready]

    def _exit_code(self, task: Any) -> int:
        try:
            return int(self._ray.get(task))
        except self._ray.exceptions.RayError:  # it failed after all retries; its log says why
            return 1

    def stop(self) -> None:
        """Cancels what runs and leaves the cluster."""
        for task in self._tasks:
            self._ray.cancel(task, force=True)
        self._tasks.clear()
        self._ray.shutdown()


def _run_on_ray(job: Job, results: str, threads: int, folder: str) -> int:
    """A Ray task: one job in a process of its own; raises if it fails, so that Ray tries again."""
    code = start_job(Path(results), job, threads, folder).wait()
    if code:
        raise RuntimeError(f"{job} ended with exit code {code}; see {Path(results) / job.folder / 'log.txt'}")
    return code


def start_job(results: Path, job: Job, threads: int, folder: str | None = None) -> subprocess.Popen[bytes]:
    """Starts ``python -m benchmarks.jobs`` for a job; its output goes to the job's ``log.txt``.

    Args:
        results: the results folder.
        job: one of its plan's.
        threads: for simulation, numpy and torch.
        folder: where to start it; default: here.
    """
    log = results / job.folder / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **{name: str(threads) for name in _THREAD_VARIABLES}}
    # Threads that spin while they wait for each other take the cores from whoever they wait for: beside
    # other work on the same cores a run with two threads stood nearly still.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    paths = [str(ROOT), folder or os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    command = [sys.executable, "-m", "benchmarks.jobs", str(results), job.env, job.agent, str(job.seed)]
    command += ["--threads", str(threads), "--end-with-parent", str(os.getpid())]
    with open(log, "ab") as output:
        return subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            cwd=folder,
            start_new_session=True,  # Ctrl-C reaches the runner alone, which then ends its jobs in order
        )


def make_engine(
    name: str, results: Path, jobs: Sequence[Job], parallel: int, threads: int, device: str
) -> Engine:
    """The engine of that name, ``local`` or ``ray``."""
    if name == "ray":
        return RayEngine(results, jobs, parallel, threads, device)
    return LocalEngine(results, jobs, parallel, threads)
