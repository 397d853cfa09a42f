"""What all tests share: few threads, no display, and processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

# Before anybody imports numpy or torch: small networks gain nothing from many threads, and machines
# with many cores lose minutes to them. Drawing is left as the user set it (MUJOCO_GL).
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

ROOT = Path(__file__).resolve().parent.parent

RunPython = Callable[..., subprocess.CompletedProcess[str]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--clock",
        choices=("only", "without"),
        help="of the tests that keep up with the clock (real_time): only these, or all others",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What needs the clock is tried again where a busy computer made it late."""
    clock = [item for item in items if item.get_closest_marker("real_time")]
    for item in clock:
        item.add_marker(pytest.mark.flaky(reruns=2))
    others = [item for item in items if not item.get_closest_marker("real_time")]
    wanted = config.getoption("--clock")
    if wanted:
        items[:], left = (clock, others) if wanted == "only" else (others, clock)
        config.hook.pytest_deselected(items=left)


@pytest.fixture(scope="session")
def root() -> Path:
    """The top folder of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def run_python() -> RunPython:
    """Runs ``python *arguments`` in a process of its own that finds this checkout; returns what it said."""

    def run(
        *arguments: str,
        cwd: Path = ROOT,
        env: Mapping[str, str] | None = None,
        timeout: float = 300,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": path, **(env or {})},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@dataclass
class Twin:
    """The emulated robot in a process of its own; ``said``: the lines up to the one that tells ``config``."""

    process: subprocess.Popen[str]
    said: list[str]
    config: Path


@pytest.fixture
def start_twin() -> Iterator[Callable[..., Twin]]:
    """Runs the command ``twin`` with arguments, as users do: its servos then wait for nobody here.

    After the test it is interrupted, and must end by itself.
    """

    def start(*arguments: object) -> Twin:
        command = [sys.executable, "-m", "hardware_bridge", "twin", *map(str, arguments)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        ends.callback(_interrupt, process)
        assert process.stdout is not None
        said: list[str] = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("configuration"):
                return Twin(process, said, Path(line.split()[1]))
        raise RuntimeError("the twin did not start; see what it said above")

    with contextlib.ExitStack() as ends:
        yield start


def _interrupt(process: subprocess.Popen[str]) -> None:
    with process:
        process.send_signal(signal.SIGCONT)  # a test may have stopped it
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(30) == 0
        finally:
            process.kill()


@pytest.fixture
def twin(start_twin: Callable[..., Twin], tmp_path: Path) -> Twin:
    """One with its devices in the folder ``twin``."""
    return start_twin("--folder", tmp_path / "twin")


@pytest.fixture
def make_vec():
    """``gym.make_vec`` whose environments are closed after the test."""
    import gymnasium as gym  # not before OMP_NUM_THREADS is set

    made = []

    def make(env_id, num_envs=3, **keywords):
        made.append(gym.make_vec(env_id, num_envs=num_envs, **keywords))
        return made[-1]

    yield make
    for env in made:
        env.close()
