"""What all tests share: few threads, no display, and processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

# Before anybody imports numpy or torch: small networks gain nothing from many threads, and machines
# with many cores lose minutes to them. Drawing is left as the user set it (MUJOCO_GL).
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

ROOT = Path(__file__).resolve().parent.parent

RunPython = Callable[..., subprocess.CompletedProcess[str]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the clock is tried again where a busy computer made it late."""
    for item in items:
        if item.get_closest_marker("real_time"):
            item.add_marker(pytest.mark.flaky(reruns=2))


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
