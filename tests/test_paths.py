"""The figure of paths over the episodes of a trial, from runs that the runner made."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from benchmarks.errors import BAD_REQUEST, OK
from benchmarks.figures.paths import follow, main
from benchmarks.files import read_rows
from benchmarks.jobs import run_job
from benchmarks.plan import build_plan
from meld_envs.families.point_nav import SUCCESS_DISTANCE

POINT, CHEETAH = "meld/PointNav-v0", "meld/CheetahVel-v0"


@pytest.fixture(scope="module")
def runs(root, tmp_path_factory):
    """Run folders by family and agent."""
    results = tmp_path_factory.mktemp("paths")
    preset = yaml.safe_load((root / "benchmarks" / "presets" / "debug.yaml").read_text())
    preset["evaluation"] |= {"videos": 0, "train_tasks": 0}
    preset["agents"] = ["meld", "expert"]
    make = preset["envs"][POINT]["make"]
    preset["envs"] = {
        POINT: {"make": {**make, "episodes_per_trial": 2}, "env_steps": 120},
        CHEETAH: {"make": {**make, "obs_type": "state"}, "env_steps": 1},
    }
    plan = build_plan("test", preset)
    jobs = [job for job in plan.jobs() if job.env == POINT or job.agent == "expert"]
    for job in jobs:
        run_job(results, plan, job, threads=1)
    return {(job.env, job.agent): results / job.folder for job in jobs}


def test_a_trained_agent_gives_picture_and_steps(runs, capsys, tmp_path):
    matplotlib_image = pytest.importorskip("matplotlib.image")
    picture = tmp_path / "a" / "paths.png"
    assert main([str(runs[POINT, "meld"]), "--out", str(picture)]) == OK
    assert "1: " in capsys.readouterr().out
    assert np.ptp(matplotlib_image.imread(picture)[..., :3]) > 0.9, "dark marks on white"
    rows, paths = read_rows(picture.with_suffix(".csv")), follow(runs[POINT, "meld"])
    count, episodes, frames = paths.success.shape
    assert (episodes, len(rows)) == (2, count * episodes * frames)
    assert [float(row["x"]) for row in rows] == paths.places[..., 0].ravel().tolist(), "it repeats"
    assert {(row["x"], row["y"]) for row in rows if row["step"] == "0"} == {("0.0", "0.0")}


def test_the_experts_paths_end_at_the_goals(runs):
    paths = follow(runs[POINT, "expert"])
    distance = np.linalg.norm(paths.places - paths.goals[:, None, None], axis=-1)
    assert (distance[:, :, -1] < 1e-6).all()
    assert np.array_equal(distance[..., 1:] <= SUCCESS_DISTANCE, paths.success[..., 1:])


@pytest.mark.parametrize(
    ("which", "options", "words"),
    [
        ((CHEETAH, "expert"), [], "hides velocity, not a place to find"),
        ((POINT, "expert"), ["--episodes", "3"], "trials of this run have 2"),
        ((POINT, "expert"), ["--out", "here"], "give a picture's name"),
        (None, [], "not the folder of a run"),
    ],
)
def test_what_cannot_be_drawn_is_said(runs, which, options, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([str(runs[which] if which else tmp_path), *options]) == BAD_REQUEST
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
