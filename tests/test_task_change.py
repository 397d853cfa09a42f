"""The figure of a target speed that changes within an episode, from runs that the runner made."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import yaml

from benchmarks.errors import BAD_REQUEST, OK
from benchmarks.figures.task_change import Change, Tracking, main, smooth, track
from benchmarks.files import read_rows
from benchmarks.jobs import run_job
from benchmarks.plan import build_plan

CHEETAH, PEARLS, POINT = "meld/CheetahVel-v0", "meld/HalfCheetahVel-v0", "meld/PointNav-v0"
ASKED = ["--steps", "12", "--trials", "3", "--velocities", "1,2,0.5"]


@pytest.fixture(scope="module")
def runs(root, tmp_path_factory):
    """Run folders by family and agent: of the debug preset's MELD on CheetahVel, and of references."""
    results = tmp_path_factory.mktemp("figure")
    preset = yaml.safe_load((root / "benchmarks" / "presets" / "debug.yaml").read_text())
    preset["evaluation"] |= {"videos": 0, "train_tasks": 0}
    make = {**preset["envs"][POINT]["make"], "episode_steps": 10}
    preset["agents"] = ["meld", "random", "expert"]
    preset["envs"] = {
        CHEETAH: {"make": make, "env_steps": 120},
        **{env: {"make": {**make, "obs_type": "state"}, "env_steps": 1} for env in (PEARLS, POINT)},
    }
    plan = build_plan("test", preset)
    jobs = [job for job in plan.jobs() if job.agent != "meld" or job.env == CHEETAH]
    for job in jobs:
        run_job(results, plan, job, threads=1)
    return {(job.env, job.agent): results / job.folder for job in jobs}


def test_a_trained_agent_gives_picture_and_numbers(runs, capsys, tmp_path):
    matplotlib_image = pytest.importorskip("matplotlib.image")
    folder, picture = runs[CHEETAH, "meld"], tmp_path / "a" / "change.png"
    assert main([str(folder), str(runs[CHEETAH, "random"]), *ASKED, "--out", str(picture)]) == OK
    assert "1 m/s:" in capsys.readouterr().out
    assert np.ptp(matplotlib_image.imread(picture)[..., :3]) == 1.0, "dark lines on white"
    rows = read_rows(picture.with_suffix(".csv"))
    assert [row["agent"] for row in rows] == ["meld"] * 36 + ["random"] * 36
    assert [row["target"] for row in rows[:12]] == ["1.0"] * 4 + ["2.0"] * 4 + ["0.5"] * 4
    assert [(row["trial"], row["step"]) for row in rows[11:13]] == [("0", "12"), ("1", "1")]
    one, other = (track(folder, Change((1.0, 2.0, 0.5), 12, 3, seed)) for seed in (0, 1))
    assert [float(row["velocity"]) for row in rows[:36]] == one.velocity.ravel().tolist(), "it repeats"
    assert not np.allclose(one.velocity, other.velocity)


@pytest.mark.parametrize("env", [CHEETAH, PEARLS])
def test_the_expert_follows_the_targets_and_chance_does_not(env, runs):
    change = Change((1.0, 2.0, 0.5), 150, 4, 0)
    expert = track(runs[env, "expert"], change)
    assert [target for target, _ in expert.errors()] == [1.0, 2.0, 0.5]
    assert all(error < 0.2 for _, error in expert.errors())
    assert max(error for _, error in track(runs[env, "random"], change).errors()) > 1.0


def test_the_arithmetic_of_spans_errors_and_means(runs):
    rng = np.random.default_rng(0)
    velocity = rng.normal(size=(2, 7))
    made = Tracking(
        runs[CHEETAH, "expert"], CHEETAH, "x", np.repeat([1.0, 2.0, 1.0], [2, 2, 3]), velocity, 10.0
    )
    assert [(span.start, span.stop) for span in made.spans()] == [(0, 2), (2, 4), (4, 7)]
    later = [velocity[:, 1:2], velocity[:, 3:4], velocity[:, 5:7]]
    for (target, error), speeds in zip(made.errors(), later, strict=True):
        assert error == pytest.approx(np.abs(speeds.mean(axis=1) - target).mean())
    by_hand = np.stack([velocity[:, max(t - 2, 0) : t + 1].mean(axis=1) for t in range(7)], axis=1)
    assert np.allclose(smooth(velocity, 3), by_hand)
    assert np.allclose(smooth(velocity, 1), velocity)


@pytest.fixture
def broken(runs, tmp_path):
    """Run folders that cannot be used, by what is wrong with them."""
    found = {"elsewhere": tmp_path, "family": runs[POINT, "expert"], "whole": runs[CHEETAH, "meld"]}
    for name in ("tables", "damaged", "agent"):
        found[name] = tmp_path / name
        shutil.copytree(runs[CHEETAH, "meld"], found[name], symlinks=True)
    shutil.rmtree(found["tables"] / "checkpoints")
    next((found["damaged"] / "checkpoints" / "last").glob("*.pt")).write_bytes(b"x")
    config = yaml.safe_load((found["agent"] / "config.yaml").read_text())
    (found["agent"] / "config.yaml").write_text(yaml.safe_dump({**config, "agent": "mled"}))
    return found


@pytest.mark.parametrize(
    ("which", "more", "words"),
    [
        ("elsewhere", [], ["not the folder of a run", "config.yaml", "seed0"]),
        ("family", [], ["PointNav", "not a speed", CHEETAH, PEARLS]),
        ("tables", [], ["no checkpoint 'last'"]),
        ("tables", ["--checkpoint", "best"], ["no checkpoint 'best'"]),
        ("damaged", [], ["cannot be used", "SHA-256"]),
        ("agent", [], ["unknown agent 'mled'", "'meld'"]),
        ("whole", ["--velocities", "1,4"], ["--velocities", "[0, 3]"]),
        ("whole", ["--steps", "5"], ["--steps 5", "two steps"]),
        ("whole", ["--trials", "0"], ["--trials"]),
        ("whole", ["--window", "-1"], ["--window"]),
        ("whole", ["--out", "change.csv"], ["--out change.csv"]),
    ],
)
def test_what_cannot_be_drawn_is_said(which, more, words, broken, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([str(broken[which]), *ASKED, *more]) == BAD_REQUEST
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert all(word in said for word in words), said
    assert not list(tmp_path.glob("*.csv"))


def test_help_helps(run_python):
    done = run_python("benchmarks/figures/task_change.py", "--help")
    assert done.returncode == OK
    for word in ("RUN_FOLDER", "--velocities", "--window", "Appendix D.2", "CSV"):
        assert word in done.stdout
    wrong = run_python("benchmarks/figures/task_change.py", "x", "--velocities", "fast")
    assert wrong.returncode == BAD_REQUEST
    assert "list of numbers such as 1,2,0.5" in wrong.stderr
