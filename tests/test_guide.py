"""docs/writing_an_agent.md: all of its code runs, and does what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.files import read_rows
from meld_agents.registry import GROUP, find_agent

GUIDE = Path(__file__).parent.parent / "docs" / "writing_an_agent.md"


def blocks(language):
    """All code of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a reader would put the files: those blocks whose first line is their name."""
    made = tmp_path_factory.mktemp("reader")
    for code in blocks("python"):
        if name := re.match(r"# (\w+\.py)\n", code):
            (made / name[1]).write_text(code)
    return made


def test_every_block_is_of_a_kind_that_is_tested():
    kinds = re.findall(r"^```(\w*)\n.*?^```", GUIDE.read_text(encoding="utf-8"), re.M | re.S)
    assert {kind: kinds.count(kind) for kind in kinds} == {"python": 3, "sh": 1, "toml": 1}


@pytest.mark.parametrize("number", range(3))
def test_a_program_prints_what_it_promises(number, folder, run_python):
    code = blocks("python")[number]
    result = run_python("-W", "error", "-", stdin=code, cwd=folder, env={"PYTHONDONTWRITEBYTECODE": "1"})
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == re.findall(r"# prints (.*)$", code, re.M)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("int(self.rng.integers(2**31))", "None"),  # the environment's own generator decides
        ("        self.rng.bit_generator.state = generator\n", ""),  # a forgotten generator
        ("self.env_steps, self.updates = numbers", "self.env_steps, _ = numbers"),  # a forgotten count
        ("self.veer, seed)\n\n    def save", "self.veer, self.rng)\n\n    def save"),  # one for both purposes
        ('"first_veer": 0.05}', '"first_veer": 0.05, "sizes": (1, 2)}'),  # no plain value
    ],
    ids=["unseeded", "generator", "count", "shared", "tuple"],
)
def test_the_recipe_finds_what_goes_wrong(right, wrong, folder, tmp_path, run_python):
    agent = (folder / "my_agent.py").read_text()
    assert agent.count(right) == 1
    (tmp_path / "my_agent.py").write_text(agent.replace(right, wrong))
    result = run_python("-", stdin=(folder / "check_agent.py").read_text(), cwd=tmp_path)
    assert "AssertionError" in result.stderr


def test_the_command_runs_and_the_agent_adapts(folder, root, tmp_path):
    (command,) = blocks("sh")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # whose python is this one
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(root), "XDG_CACHE_HOME": str(tmp_path)}
    result = subprocess.run(
        ["bash", "-ec", command.replace("--out", "--set evaluation.final_trials_per_task=10 --out")],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    distance = {
        row["agent"]: -float(row["score_mean"]) for row in read_rows(folder / "runs/turning/summary.csv")
    }
    assert distance["expert"] < distance["my_agent:Turning"] < 0.6 * distance["random"]


def test_the_entry_point_gives_a_short_name(folder, tmp_path, monkeypatch):
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11")
    (project,) = map(tomllib.loads, blocks("toml"))
    points = project["project"]["entry-points"][GROUP]
    installed = tmp_path / "turning_agent-0.1.dist-info"  # as pip would write it
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: turning-agent\nVersion: 0.1\n")
    lines = [f"{name} = {target}\n" for name, target in points.items()]
    (installed / "entry_points.txt").write_text("".join([f"[{GROUP}]\n", *lines]))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(folder)
    assert find_agent("turning").__name__ == "Turning"
