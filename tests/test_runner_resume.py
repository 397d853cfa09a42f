"""A run that is killed at any moment, and resumed, ends with the numbers of one that never was."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.checkpoints import Checkpoints, verify
from benchmarks.errors import JOB_FAILED
from benchmarks.files import Table, read_rows

pytest.importorskip("mujoco")

JOB = Path("meld/PointNav-v0/runner_agents-Searcher/seed0")
COMMAND = [
    "--preset", str(Path(__file__).parent / "runner.yaml"), "--agents", "runner_agents:Searcher",
    "--set", "envs.meld/PointNav-v0.env_steps=12000", "--set", "evaluation.every=3000",
]  # fmt: skip
#: Everything that must not depend on interruptions; train.csv has a column of wall-clock time.
SAME = ("eval.csv", "eval_stochastic.csv", "probes.csv", "adaptation.csv")


@pytest.fixture(scope="module")
def here(root):
    """The environment in which the tests' own agents are found."""
    paths = [str(root), str(root / "tests"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def run_all(root, here, *arguments):
    command = [sys.executable, str(root / "benchmarks" / "run_all.py"), *map(str, arguments)]
    return subprocess.run(command, env=here, capture_output=True, text=True, timeout=300)


def start_job(results, root, here, log):
    command = [
        sys.executable,
        "-m",
        "benchmarks.jobs",
        str(results),
        "meld/PointNav-v0",
        "runner_agents:Searcher",
        "0",
    ]
    command += ["--threads", "1", "--checkpoint-seconds", "0.05"]
    return subprocess.Popen(command, cwd=root, env=here, stdout=log, stderr=log)


@pytest.fixture(scope="module")
def uninterrupted(root, here, tmp_path_factory):
    results = tmp_path_factory.mktemp("whole") / "run"
    done = run_all(root, here, *COMMAND, "--out", results, "--jobs", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    return results


@pytest.fixture
def planned(uninterrupted, tmp_path):
    """A results folder with the same plan, in which nothing has run yet."""
    results = tmp_path / "run"
    results.mkdir()
    shutil.copy(uninterrupted / "plan.yaml", results)
    return results


def assert_same(one, other):
    for name in SAME:
        assert (one / JOB / name).read_bytes() == (other / JOB / name).read_bytes(), name
    steps = [
        [(r["env_steps"], r["updates"], r["gain"], r["late"]) for r in read_rows(p / JOB / "train.csv")]
        for p in (one, other)
    ]
    assert steps[0] == steps[1]


def test_an_evaluation_depends_on_what_was_learned(uninterrupted):
    """Without this, equal tables after a resume would prove nothing."""
    scores = {}
    for row in read_rows(uninterrupted / JOB / "eval.csv"):
        if row["split"] == "test":
            scores.setdefault(row["env_steps"], []).append(float(row["final_score"]))
    means = [sum(values) / len(values) for values in scores.values()]
    assert len(set(means)) >= 3
    assert max(means[1:]) > means[0]


def test_killed_at_random_moments(uninterrupted, planned, root, here, tmp_path):
    draw, kills = random.Random(2020), 0
    with open(tmp_path / "log", "w") as log:
        while kills < 5:
            process = start_job(planned, root, here, log)
            _wait_for_change(planned / JOB / "train.csv", time.time())
            time.sleep(draw.uniform(0, 0.25))
            process.kill()
            if process.wait() == 0:  # a fast machine: it had come to its end
                break
            kills += 1
        assert start_job(planned, root, here, log).wait() == 0, (tmp_path / "log").read_text()
    assert kills >= 3
    assert "going on from" in (tmp_path / "log").read_text()
    assert_same(uninterrupted, planned)


@pytest.mark.parametrize("when", ["after_rows", "during_checkpoint"])
def test_killed_at_the_worst_moments(when, uninterrupted, planned, root, here):
    """Between an evaluation's rows and its checkpoint, and while a checkpoint is being written."""
    break_in = {
        "after_rows": "checkpoints.Checkpoints.save",
        "during_checkpoint": "checkpoints.write_json",
    }[when]
    script = f"""
import os, signal, sys
import benchmarks.checkpoints as checkpoints, benchmarks.jobs as jobs
whole, calls = {break_in}, 0
def counted(*arguments, **keywords):
    global calls
    calls += 1
    if calls == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*arguments, **keywords)
{break_in} = counted
jobs.main(sys.argv[1:])
"""
    arguments = [str(planned), "meld/PointNav-v0", "runner_agents:Searcher", "0", "--threads", "1"]
    killed = subprocess.run([sys.executable, "-c", script, *arguments], cwd=root, env=here)
    assert killed.returncode == -signal.SIGKILL
    resumed = run_all(root, here, "--resume", planned)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert_same(uninterrupted, planned)


def test_killed_runner_takes_its_jobs_along(uninterrupted, tmp_path, root, here):
    results = tmp_path / "run"
    command = [
        sys.executable,
        str(root / "benchmarks" / "run_all.py"),
        *COMMAND,
        "--out",
        str(results),
        "--jobs",
        "1",
    ]
    runner = subprocess.Popen(command, env=here, stdout=subprocess.DEVNULL)
    _wait_for(results / JOB / "eval.csv")
    runner.kill()
    runner.wait()
    resumed = _resume_when_free(root, here, results)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert_same(uninterrupted, results)


def test_a_job_whose_runner_has_ended_already_does_not_begin(planned, root, here):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    job = ["-m", "benchmarks.jobs", str(planned), "meld/PointNav-v0", "runner_agents:Searcher", "0"]
    command = [sys.executable, *job, "--end-with-parent", str(ended.pid)]
    assert subprocess.run(command, cwd=root, env=here, timeout=120).returncode == JOB_FAILED
    assert not (planned / JOB / "provenance.json").exists()


def _wait_for(path):
    _wait_for_change(path, 0.0)


def _wait_for_change(path, since):
    for _ in range(3000):
        if path.exists() and path.stat().st_mtime > since:
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} did not change")


def _resume_when_free(root, here, results):
    """The job ends within a second of its runner; until then its folder is refused."""
    time.sleep(1.5)
    return run_all(root, here, "--resume", results)


def test_same_command_again_goes_on(uninterrupted, root, here):
    before = (uninterrupted / JOB / "provenance.json").read_bytes()
    again = run_all(root, here, *COMMAND, "--out", uninterrupted, "--jobs", "1")
    assert again.returncode == 0
    assert "1 done already" in again.stdout
    assert (uninterrupted / JOB / "provenance.json").read_bytes() == before


def test_damaged_checkpoint_falls_back(uninterrupted, tmp_path, root, here):
    results = tmp_path / "run"
    shutil.copytree(uninterrupted, results, symlinks=True)
    folder = results / JOB
    (folder / "provenance.json").unlink()  # it had not ended
    newest, before = sorted((folder / "checkpoints").glob("0*"), reverse=True)[:2]
    damaged = bytearray((newest / "weights.npz").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (newest / "weights.npz").write_bytes(damaged)
    done = run_all(root, here, "--resume", results)
    log = (folder / "log.txt").read_text()
    assert done.returncode == 0, log
    assert f"{newest.name} cannot be used" in log and "weights.npz is damaged" in log
    assert f"({before.name})" in log
    assert_same(uninterrupted, results)


def test_no_usable_checkpoint_begins_anew(uninterrupted, tmp_path, root, here):
    results = tmp_path / "run"
    shutil.copytree(uninterrupted, results, symlinks=True)
    (results / JOB / "provenance.json").unlink()
    for manifest in (results / JOB / "checkpoints").glob("0*/manifest.json"):
        manifest.write_text(manifest.read_text().replace('"env_steps": ', '"env_steps": 1'))
    done = run_all(root, here, "--resume", results)
    assert done.returncode == 0
    assert "beginning anew" in (results / JOB / "log.txt").read_text()
    assert_same(uninterrupted, results)


def test_tensorboard_shows_no_point_twice(planned, root, here, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with open(tmp_path / "log", "w") as log:
        process = start_job(planned, root, here, log)
        _wait_for(planned / JOB / "train.csv")
        process.kill()
        process.wait()
        assert start_job(planned, root, here, log).wait() == 0
    events = EventAccumulator(str(planned / JOB))
    events.Reload()
    points = [point.step for point in events.Scalars("test/success")]
    assert points == sorted(set(points)) and points[0] == 0 and points[-1] == 12000
    gains = [point.step for point in events.Scalars("loss/gain")]
    assert len(gains) == len(set(gains)) == len(read_rows(planned / JOB / "train.csv"))


def test_checkpoints_keep_the_last_two_and_the_best(tmp_path):
    kept = Checkpoints(tmp_path / "checkpoints", print)
    for step, rank in enumerate([[0.1, -1.0], [0.9, -0.2], [0.9, -0.3], None, [0.2, -0.1]]):
        kept.save(
            lambda folder, step=step: (folder / "weights").write_text(str(step)), {"env_steps": step}, rank
        )
    names = sorted(path.name for path in kept.folder.glob("0*"))
    assert [name.partition("-")[2] for name in names] == ["step1", "step3", "step4"]
    assert (kept.folder / "best" / "weights").read_text() == "1"
    assert (kept.folder / "last" / "weights").read_text() == "4"
    again = Checkpoints(kept.folder, print)
    assert again.load_newest(lambda folder, state: None).state == {"env_steps": 4}
    assert again.best == kept.best


def test_a_failed_checkpoint_leaves_the_older_one(tmp_path):
    kept = Checkpoints(tmp_path, print)
    good = kept.save(lambda folder: (folder / "weights").write_text("1"), {"env_steps": 1})

    def full(folder):
        (folder / "weights").write_text("2")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        kept.save(full, {"env_steps": 2})
    assert verify(good)["state"] == {"env_steps": 1}
    assert [path.name for path in tmp_path.iterdir() if not path.is_symlink()] == [good.name]


def test_a_torn_row_is_dropped(tmp_path):
    table = Table(tmp_path / "t.csv", ("a", "b"))
    table.append([{"a": 1, "b": 0.1}, {"a": 2, "b": 0.2}])
    with open(table.path, "a") as file:
        file.write("3,0.")
    again = Table(table.path, ("a", "b"))
    assert again.rows == 2
    again.cut(1)
    again.append([{"a": 9, "b": True}])
    assert table.path.read_text() == "a,b\n1,0.1\n9,1\n"
