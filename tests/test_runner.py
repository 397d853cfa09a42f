"""The command line, plans, meta-testing, intervals and the report of the runner."""

import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import yaml

import benchmarks.plan as plans
from benchmarks.charts import LEFT, RIGHT, WIDTH, Series, line_chart, log_ticks
from benchmarks.checkpoints import verify
from benchmarks.errors import BAD_REQUEST, JOB_FAILED, OK, RequestError
from benchmarks.evaluate import each_task, run_trials, spread
from benchmarks.files import read_json, read_rows
from benchmarks.probes import _ridges, probe_rows
from benchmarks.report import (
    adaptation_series,
    budgets_are_far_apart,
    colours_of,
    episode_starts,
    write_report,
)
from benchmarks.run_all import build_parser, main, read_request, share_cores
from benchmarks.summary import bootstrap, bootstrap_difference, cells
from meld_agents.registry import AgentError, find_agent

pytest.importorskip("mujoco")

ENV = "meld/PointNav-v0"
PRESET = Path(__file__).parent / "runner.yaml"
FAST = ["--preset", str(PRESET)]
SEARCHER = "runner_agents:Searcher"
#: What a key of a single agent on the family begins with.
OWN = f"envs.{ENV}.per_agent"


@pytest.fixture(autouse=True)
def own_agents(monkeypatch, root, tmp_path):
    """The tests' agents are importable, here and in jobs; speeds are not kept in the user's cache."""
    path = os.pathsep.join(filter(None, [str(root), str(root / "tests"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [*sys.path, str(root / "tests")])


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    """Results of references and of an agent that learns, beside one that fails."""
    results = tmp_path_factory.mktemp("runs") / "run"
    agents = "random,expert,runner_agents:Searcher,runner_agents:Failing"
    path = os.pathsep.join([str(root), str(root / "tests")])
    command = [
        sys.executable,
        str(root / "benchmarks" / "run_all.py"),
        *FAST,
        "--agents",
        agents,
        "--out",
        str(results),
    ]
    environment = {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(results.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    return done, results


# ------------------------------------------------------------------------------------------- bad requests


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "debgu"], ["unknown preset 'debgu'", "'debug'"]),
        (["--preset", "no/such.yaml"], ["no preset file"]),
        ([*FAST, "--agents", "randm"], ["unknown agent 'randm'", "'random'"]),
        ([*FAST, "--agents", "no_such_module:Agent"], ["no module 'no_such_module'"]),
        ([*FAST, "--agents", "runner_agents:Sercher"], ["'Sercher'", "'Searcher'"]),
        ([*FAST, "--agents", "runner_agents:Incomplete"], ["has no meta_train()"]),
        ([*FAST, "--agents", "random,random"], ["agents", "twice"]),
        ([*FAST, "--envs", "meld/PointNaw-v0"], ["unknown environment", f"{ENV!r}"]),
        ([*FAST, "--envs", "meld/CheetahVel-v0"], ["no budget for meld/CheetahVel-v0", "--set"]),
        ([*FAST, "--seeds", "one"], ["'one' is no whole number"]),
        ([*FAST, "--seeds=-1"], ["at least 0"]),
        ([*FAST, "--jobs", "0"], ["--jobs", "at least 1"]),
        ([*FAST, "--device", "gpu"], ["device", "'gpu'"]),
        ([*FAST, "--max-minutes", "0"], ["max_minutes", "above 0"]),
        ([*FAST, "--set", "evaluation.evry=3"], ["unknown key 'evry'", "'every'"]),
        ([*FAST, "--set", "evalution.every=3"], ["unknown key 'evalution'", "'evaluation'"]),
        ([*FAST, "--set", "evaluation.every=many"], ["evaluation: every", "'many'"]),
        ([*FAST, "--set", "evaluation"], ["expected KEY=VALUE"]),
        ([*FAST, "--set", "agents=[random"], ["no YAML value"]),
        ([*FAST, "--set", "preset.x=1"], ["unknown key 'preset'"]),
        ([*FAST, "--set", f"envs.{ENV}.env_stps=3"], ["unknown key 'env_stps'", "'env_steps'"]),
        ([*FAST, "--set", f"envs.{ENV}.make.image_sise=3"], [ENV, "image_sise", "image_size"]),
        ([*FAST, "--set", f"{OWN}.randm.env_steps=3"], ["per_agent", "unknown agent 'randm'", "'random'"]),
        ([*FAST, "--set", f"{OWN}.random.env_stps=3"], ["random: unknown key 'env_stps'", "'env_steps'"]),
        ([*FAST, "--set", f"{OWN}.random.env_steps=0"], ["random: env_steps", "at least 1, got 0"]),
        ([*FAST, "--set", f"{OWN}.random.every=-2"], ["random: every", "at least 1, got -2"]),
        ([*FAST, "--set", f"{OWN}.random.max_minutes=0"], ["random: max_minutes", "above 0"]),
        ([*FAST, "--set", f"{OWN}.random.make=3"], ["random: make: expected a mapping, got 3"]),
        ([*FAST, "--set", f"{OWN}.random.make.image_sise=3"], ["image_sise", "image_size"]),
        (
            [*FAST, "--set", f"{OWN}.expert.make.num_test_tasks=3"],
            ["'expert' and 'random'", "different held-out tasks"],
        ),
        ([*FAST, "--set", "random.hidden=3"], ["settings of agent 'random'", "hidden"]),
        ([*FAST, "--set", "settings.randm.hidden=3"], ["unknown agent 'randm'", "'random'"]),
        (["--preset", "debug", "--device", "cuda:99"], ["device 'cuda:99'", "--device cpu"]),
        (
            ["--preset", "debug", "--agents", "meld", "--set", f"envs.{ENV}.make.image_size=48"],
            ["agent 'meld'", "48×48"],
        ),
        (["--preset", "debug", "--set", "meld.collect_tasks=-3"], ["collect_tasks", "at least 1", "-3"]),
        (["--resume", "no/such/folder"], ["no plan.yaml"]),
    ],
)
def test_bad_requests_say_what_to_do(arguments, words, capsys, tmp_path):
    assert (
        main(
            [*arguments, "--dry-run"]
            if "--resume" in arguments
            else [*arguments, "--out", str(tmp_path / "x")]
        )
        == BAD_REQUEST
    )
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "Traceback" not in said
    for word in words:
        assert word in said
    assert not (tmp_path / "x").exists()


def test_a_family_that_the_preset_does_not_name_gets_what_it_has_for_others(run_python, root):
    make = "envs.meld/WidowXEthernet-v0.make"
    request = ["--preset", "debug", "--envs", "meld/WidowXEthernet-v0", "--agents", "random", "--dry-run"]
    done = run_python(str(root / "benchmarks" / "run_all.py"), *request, "--set", f"{make}.num_test_tasks=2")
    assert done.returncode == 0, done.stderr
    assert "WidowXEthernet-v0 random" in done.stdout
    done = run_python(str(root / "benchmarks" / "run_all.py"), *request, "--set", f"{make}.backend=robt")
    assert done.returncode == 2 and "'twin'" in done.stderr, "the family's own keywords go through"


def test_a_missing_graphics_library_is_known_before_anything_runs(run_python, root, tmp_path):
    # PyOpenGL bound to the other platform: MuJoCo then refuses the wanted one, as if it were missing.
    missing = {"MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "osmesa"}
    run_all = str(root / "benchmarks" / "run_all.py")
    for states in ([], ["--set", f"envs.{ENV}.make.obs_type=state"]):  # films of states are drawn, too
        done = run_python(run_all, *FAST, *states, "--out", str(tmp_path / "run"), env=missing)
        assert done.returncode == BAD_REQUEST and "apt-get install libegl1" in done.stderr, done.stderr
        assert not (tmp_path / "run").exists()


def test_an_unsafe_preset_is_refused(tmp_path, capsys):
    (tmp_path / "evil.yaml").write_text("agents: !!python/object/apply:os.system ['true']\n")
    assert main(["--preset", str(tmp_path / "evil.yaml")]) == BAD_REQUEST
    assert "cannot be read as YAML" in capsys.readouterr().err


def test_unwritable_folder(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([*FAST, "--out", str(tmp_path / "file" / "run")]) == BAD_REQUEST
    assert "Not a directory" in capsys.readouterr().err


def test_another_plan_is_refused(finished, capsys):
    _, results = finished
    assert main([*FAST, "--agents", "random", "--out", str(results)]) == BAD_REQUEST
    assert "another plan" in capsys.readouterr().err
    assert main(["--resume", str(results), "--seeds", "3"]) == BAD_REQUEST
    assert "--seeds cannot be changed" in capsys.readouterr().err


def test_a_folder_with_other_things_is_refused(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("")
    assert main([*FAST, "--out", str(tmp_path)]) == BAD_REQUEST
    assert "not empty" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").exists()


# ------------------------------------------------------------------------------------------ plans


def plan_of(*arguments):
    return read_request(build_parser().parse_args(arguments), arguments)[0]


def test_the_command_line_goes_before_the_preset(tmp_path):
    values = plans.load_preset(str(PRESET))
    values["agents"] = ["runner_agents:Searcher"]
    values["envs"][ENV]["settings"] = {"runner_agents:Searcher": {"noise": 0.1, "trials": 8}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(values))
    arguments = [
        "--preset",
        str(tmp_path / "own.yaml"),
        "--seeds",
        "3,1",
        "--set",
        f"envs.{ENV}.env_steps=1e3",
    ]
    plan = plan_of(*arguments, "--set", "runner_agents:Searcher.noise=0.2")
    assert plan.seeds == (3, 1)
    assert plan.envs[ENV].env_steps == 1000
    assert plan.agent_settings(plan.jobs()[0]) == {"noise": 0.2, "trials": 8}


def own_preset(folder, **entry):
    """The path of a preset in which single agents differ."""
    values = plans.load_preset(str(PRESET))
    values["agents"] = ["random", "runner_agents:Searcher"]
    values["envs"][ENV].update(entry)
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(values))
    return ["--preset", str(path)]


def test_single_agents_may_differ(tmp_path):
    own = {
        "runner_agents:Searcher": {"make": {"episodes_per_trial": 3}, "env_steps": 90, "every": 30},
        "pearl": {"max_minutes": 3},  # of a preset's agents, the command line may leave some out
    }
    plan = plan_of(*own_preset(tmp_path, per_agent=own), "--max-minutes", "2.5")
    searcher, random = plan.jobs()[::-1] if plan.jobs()[0].agent == "random" else plan.jobs()
    assert plan.make(searcher) == {**plan.make(random), "episodes_per_trial": 3}
    assert "episodes_per_trial" not in plan.make(random) and plan.make(random)["image_size"] == 16
    assert (plan.budget(searcher), plan.env_steps(random), plan.budget(random)) == (90, 400, 0)
    assert (plan.evaluation_of(searcher).every, plan.evaluation_of(random).every) == (30, 200)
    assert plan.max_minutes_of(plans.Job(ENV, "pearl", 0)) == 2.5, "the command line goes before the preset"
    assert plans.plan_from_dict(yaml.safe_load(yaml.safe_dump(plans.plan_to_dict(plan)))) == plan
    other = plan_of(*own_preset(tmp_path, per_agent={}), "--max-minutes", "2.5")
    assert any("Searcher.env_steps: 90 there, - now" in line for line in plans.differences(plan, other))


def test_the_command_line_and_single_agents(tmp_path):
    name = "runner_agents:Searcher"
    preset = own_preset(
        tmp_path, per_agent={name: {"make": {"episodes_per_trial": 3}, "env_steps": 90, "every": 7}}
    )
    job = plans.Job(ENV, name, 0)
    plan = plan_of(*preset, "--set", f"{OWN}.{name}.env_steps=70", "--set", f"envs.{ENV}.env_steps=50")
    assert (plan.env_steps(job), plan.make(job)["episodes_per_trial"]) == (70, 3)
    assert plan.env_steps(plans.Job(ENV, "random", 0)) == 50
    assert plan_of(*preset, "--set", f"envs.{ENV}.env_steps=50").env_steps(job) == 50
    assert plan_of(*preset, "--set", "evaluation.every=60").evaluation_of(job).every == 60
    plan = plan_of(*preset, "--set", f"envs.{ENV}.make.episodes_per_trial=2")
    assert (plan.env_steps(job), plan.make(job)["episodes_per_trial"]) == (90, 2)


def test_names_with_dots_on_the_command_line():
    name = "examples.third_party_agent:ConstantMove"
    plan = plan_of(*FAST, "--agents", name, "--set", f"{OWN}.{name}.env_steps=30")
    assert plan.env_steps(plans.Job(ENV, name, 0)) == 30


def test_a_job_that_crashes_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("CRASH_WITNESS", str(tmp_path / "crashed"))
    name, steady = "runner_agents:Crashing", "runner_agents:Searcher"
    assert main([*FAST, "--agents", f"{name},{steady}", "--out", str(tmp_path / "run")]) == OK
    assert (tmp_path / "crashed").exists()
    assert len(read_json(folder(tmp_path / "run", name) / "provenance.json")["sessions"]) == 2
    rows = [read_rows(folder(tmp_path / "run", agent) / "eval.csv") for agent in (name, steady)]
    assert rows[0] == rows[1]


def test_what_is_set_for_one_agent_is_not_set_for_another_that_shares_an_alias(tmp_path):
    path = tmp_path / "shared.yaml"
    path.write_text(
        "agents: [meld, slac]\nseeds: [0]\nsettings:\n  meld: &small {base: small}\n  slac: *small\n"
        f"envs:\n  {ENV}: {{env_steps: 40}}\nevaluation: {{every: 40}}\n"
    )
    plan = plan_of("--preset", str(path), "--set", "slac.hidden=32")
    assert plan.settings["slac"] == {"base": "small", "hidden": 32}
    assert plan.settings["meld"] == {"base": "small"}


def test_a_plan_survives_yaml():
    plan = plan_of(*FAST, "--max-minutes", "2.5")
    assert plans.plan_from_dict(yaml.safe_load(yaml.safe_dump(plans.plan_to_dict(plan)))) == plan


@pytest.mark.parametrize("name", plans.preset_names())
def test_every_preset_is_a_plan(name):
    pytest.importorskip("torch")
    assert plans.build_plan(name, plans.load_preset(name)).jobs()


def test_cores_are_not_oversubscribed(monkeypatch):
    plan = plan_of(*FAST, "--seeds", "0,1,2,3,4")
    for cores in (1, 2, 6, 64):
        monkeypatch.setattr("benchmarks.run_all.usable_cores", lambda cores=cores: cores)
        parallel, threads = share_cores(plan, None)
        assert parallel <= len(plan.jobs()) and parallel * threads <= cores


def test_list_names_everything(capsys):
    assert main(["--list"]) == OK
    said = capsys.readouterr().out
    for name in (ENV, "meld/CheetahVel-v0", "random", "expert", "debug"):
        assert re.search(rf"^  {name} ", said, re.M), name
    presets = re.findall(r"^  (\w+) ", said.partition("presets")[2], re.M)
    assert sorted(presets) == plans.preset_names()
    assert presets.index("debug") == 0 < presets.index("quick") < presets.index("laptop")
    with pytest.raises(SystemExit):
        main(["--help"])
    helped = " ".join(capsys.readouterr().out.split())
    assert f"--preset NAME {', '.join(presets)}, or a YAML file" in helped


def test_dry_run_estimates_and_runs_nothing(capsys, tmp_path):
    arguments = [*FAST, "--agents", "runner_agents:Searcher", "--out", str(tmp_path / "run"), "--dry-run"]
    assert main(arguments) == OK
    said = capsys.readouterr().out
    assert "400 environment steps" in said and "measured now" in said and "in all about" in said
    assert not (tmp_path / "run").exists()


def test_the_peer_of_throughput_can_be_built(run_python):
    """Gymnasium's own environment needs more than Gymnasium asks for; the ``bench`` extra brings it."""
    made = run_python("-c", "import gymnasium; gymnasium.make('HalfCheetah-v5').reset(seed=0)")
    assert made.returncode == 0, made.stderr


def test_the_widowx_is_measured_against_a_robots_time(run_python):
    done = run_python(
        "-c",
        "from benchmarks.throughput import widowx_rows\n"
        "for row in widowx_rows(1): print(row['steps_per_second'], row['times_real_time'], row['subject'])",
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
    assert [subject for *_, subject in lines] == ["backend=sim, 20 tasks", "backend=twin, lockstep"]
    for rate, times, subject in lines:  # both are rounded to tenths; a step is 0.3 s of the robot's
        assert float(times) == pytest.approx(0.3 * float(rate), abs=0.07) and float(rate) > 0, subject


@pytest.mark.parametrize("script", ["run_all.py", "throughput.py"])
def test_scripts_run_in_a_clone_that_was_never_installed(script, root, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(root / "benchmarks" / script), "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage"), done.stderr[-2000:]


# ------------------------------------------------------------------------------------------ agents


def test_agents_by_path():
    assert find_agent("runner_agents:Searcher").__name__ == "Searcher"
    with pytest.raises(AgentError, match="did you mean 'expert'"):
        find_agent("exprt")


def test_the_example_of_an_agent_learns_and_resumes(root, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(root)
    agent_class = find_agent("examples.third_party_agent:ConstantMove")
    assert len((root / "examples" / "third_party_agent.py").read_text().splitlines()) < 60

    def made():
        return agent_class(partial(gym.make_vec, ENV, obs_type="state"), agent_class.resolve({}), 0, "cpu")

    whole = made()
    progress = list(whole.meta_train(8000))
    assert progress[-1].losses["best"] > progress[0].losses["best"] + 2.0
    first, second = made(), made()
    assert len(list(first.meta_train(3000))) == 15
    first.save(tmp_path)
    second.load(tmp_path)
    assert [p.losses for p in second.meta_train(8000)] == [p.losses for p in progress[15:]]


def test_the_example_of_an_agent_runs(root, tmp_path):
    example = "examples.third_party_agent:ConstantMove"
    assert main([*FAST, "--agents", example, "--out", str(tmp_path / "run")]) == OK
    assert example in (tmp_path / "run" / "summary.csv").read_text()


# ------------------------------------------------------------------------------------------ meta-testing


@pytest.fixture(scope="module")
def env():
    made = gym.make_vec(ENV, num_envs=6, split="test", image_size=16, episodes_per_trial=2)
    yield made
    made.close()


def tried(name, env, seed=0):
    def make_env(n):
        return gym.make_vec(ENV, num_envs=n, image_size=16)

    ids, tasks = each_task(env.unwrapped.task_set.test, range(3), 2)
    return run_trials(find_agent(name)(make_env, {}, 0, "cpu"), env, ids, tasks, seed)


def test_the_expert_succeeds_and_chance_does_not(env):
    assert tried("expert", env).final_success == 1.0
    assert tried("random", env).final_success <= 0.34
    assert tried("expert", env).final_score > tried("random", env).final_score


def test_the_rows_of_trials(env):
    trials = tried("random", env)
    rows = list(trials.eval_rows(7, "test"))
    assert [(r["task_id"], r["trial"], r["episode"]) for r in rows[:4]] == [
        (0, 0, 0),
        (0, 0, 1),
        (1, 0, 0),
        (1, 0, 1),
    ]
    assert [(r["task_id"], r["trial"]) for r in rows[6::2]] == [(0, 1), (1, 1), (2, 1)]
    steps = env.unwrapped.episode_steps
    assert trials.score.shape == (6, 2, steps + 1)
    for i, row in enumerate(rows[::2]):  # PointNav's score is minus the distance, and so is its dense reward
        assert row["return_dense"] == pytest.approx(trials.score[i, 0, 1:].sum(), rel=1e-5)
        assert row["final_score"] == trials.score[i, 0, -1] <= row["best_score"]
        assert row["success"] == (row["final_score"] >= -0.2)


def test_trials_depend_on_their_seed_alone(env):
    one, other, again = tried("random", env, 1), tried("random", env, 2), tried("random", env, 1)
    assert (one.score == again.score).all()
    assert (one.score != other.score).any()


def test_spread():
    assert spread(3, 10) == [0, 1, 2]
    assert spread(101, 5) == [0, 25, 50, 75, 100]


# ------------------------------------------------------------------------------------------ probes


class _Recorded:
    anything = True

    def __init__(self, beliefs, states):
        self.beliefs, self.states = beliefs, states


class _Task:
    def __init__(self, values):
        self._values = values

    def vector(self):
        return self._values


def test_a_probe_finds_what_is_there_and_nothing_else():
    generator = np.random.default_rng(0)

    def recorded(n):
        tasks, states = generator.normal(size=(n, 1)), generator.normal(size=(n, 12, 2))
        noise = generator.normal(size=(n, 12, 6))
        told = np.repeat(tasks[:, None], 12, axis=1)
        beliefs = np.concatenate(
            [told * 3 + 5, states[..., :1], noise], axis=-1
        )  # the second state is not in it
        return _Recorded(beliefs, states), [_Task(t) for t in tasks]

    rows = {
        r["target"]: r for r in probe_rows(0, *recorded(40), *recorded(20), (["goal"], ["seen", "unseen"]))
    }
    assert rows["task/goal"]["r2"] > 0.99 and rows["state/seen"]["r2"] > 0.99
    assert rows["state/unseen"]["r2"] < 0.2
    assert rows["task/goal"]["rmse"] < 0.05 * rows["task/goal"]["chance_rmse"]


def test_the_ridge_is_the_closed_form_solution():
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=(30, 5, 3)), generator.normal(size=(30, 5, 1))
    y += x @ np.array([[1.0], [2.0], [0.0]])
    flat_x, flat_y = x.reshape(-1, 3), y.reshape(-1, 1)
    scaled = (flat_x - flat_x.mean(0)) / flat_x.std(0)
    for fit, penalty in zip(_ridges(x, y, np.array([1e-9, 0.5])), (1e-9, 0.5), strict=True):
        left = scaled.T @ scaled + penalty * len(scaled) * np.eye(3)
        solved = np.linalg.solve(left, scaled.T @ (flat_y - flat_y.mean()))
        assert np.allclose(fit(flat_x), scaled @ solved + flat_y.mean())


# ------------------------------------------------------------------------------------------ intervals


def test_intervals_widen_with_what_varies():
    generator = np.random.default_rng(0)
    tasks = generator.normal(size=(1, 20, 1)) + 0.01 * generator.normal(size=(1, 20, 50))
    interval = bootstrap(tasks)
    expected = 1.96 * tasks.mean(axis=2).std() / np.sqrt(20)
    assert interval.mean == pytest.approx(tasks.mean())
    assert (interval.high - interval.low) / 2 == pytest.approx(expected, rel=0.25)
    seeds = tasks + 3 * np.arange(3)[:, None, None]
    wide = bootstrap(seeds)
    assert wide.high - wide.low > 2 * (interval.high - interval.low)


def test_the_interval_of_a_difference_knows_both_sides():
    generator = np.random.default_rng(3)
    train, test = generator.normal(1.0, 1.0, (1, 40, 1)), generator.normal(0.0, 1.0, (1, 10, 3))
    gap = bootstrap_difference(train, test)
    assert gap.mean == pytest.approx(train.mean() - test.mean())
    of_tasks = np.hypot(train.std() / np.sqrt(40), test.mean(axis=2).std() / np.sqrt(10))
    assert (gap.high - gap.low) / 2 > 1.96 * of_tasks * 0.8
    assert gap.low < gap.mean < gap.high
    seeds = 5 * np.arange(4.0)[:, None, None]  # what seeds have in common on both sides is no gap
    shared = bootstrap_difference(seeds + np.ones((4, 6, 1)), seeds + np.zeros((4, 3, 2)))
    assert (shared.low, shared.mean, shared.high) == pytest.approx((1.0, 1.0, 1.0))


def test_intervals_cover_the_truth():
    generator = np.random.default_rng(2)
    hits = 0
    for _ in range(60):
        interval = bootstrap(generator.normal(size=(1, 12, 1)) + generator.normal(size=(1, 12, 3)))
        hits += interval.low <= 0 <= interval.high
    assert 48 <= hits <= 60


# ------------------------------------------------------------------------------------------ whole runs


def folder(results, agent):
    return results / ENV / agent.replace(":", "-") / "seed0"


def test_a_failing_job_leaves_the_others_alone(finished):
    done, results = finished
    assert done.returncode == JOB_FAILED
    assert "runner_agents:Failing seed 0: FAILED" in done.stdout and "out of luck" in done.stdout
    assert {row["agent"]: row["completed_seeds"] for row in read_rows(results / "summary.csv")} == {
        "random": "1", "expert": "1", "runner_agents:Searcher": "1", "runner_agents:Failing": "0",
    }  # fmt: skip


def test_a_run_folder_tells_everything(finished):
    _, results = finished
    run = folder(results, "runner_agents:Searcher")
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["settings"] == {"trials": 4, "noise": 0.5}
    assert len(config["tasks"]["train"]) == 6 and len(config["tasks"]["test"]) == 4
    provenance = read_json(run / "provenance.json")
    assert provenance["completed"] and provenance["env_steps"] == 400
    assert provenance["software"]["packages"]["mujoco"] and provenance["hardware"]["processor"]
    assert verify(run / "checkpoints" / "best")["state"]["env_steps"] in (0, 200, 240, 400)
    for row in read_rows(run / "train.csv"):
        assert int(row["env_steps"]) and float(row["wall_seconds"]) and float(row["gain"]) < 0
    assert {int(row["env_steps"]) for row in read_rows(run / "eval.csv")} == {0, 240, 400}
    videos = list((run / "videos").glob("*.mp4"))
    assert videos and all(b"ftyp" in video.read_bytes()[:16] for video in videos)


def test_the_exploring_policy_is_tested_beside_the_mean_actions(finished):
    run = folder(finished[1], "runner_agents:Searcher")
    mean = [r for r in read_rows(run / "eval.csv") if (r["env_steps"], r["split"]) == ("400", "test")]
    exploring = read_rows(run / "eval_stochastic.csv")
    assert list(exploring[0]) == list(mean[0]) and len(exploring) == len(mean) == 4 * 2
    keys = ("env_steps", "split", "task_id", "trial", "episode")
    assert [[r[k] for k in keys] for r in exploring] == [[r[k] for k in keys] for r in mean]
    assert all(a["return_dense"] != b["return_dense"] for a, b in zip(exploring, mean, strict=True))
    expert = folder(finished[1], "expert")
    assert {r["success"] for r in read_rows(expert / "eval_stochastic.csv")} == {"1"}


def test_summary_agrees_with_the_tables(finished):
    _, results = finished
    rows = {row["agent"]: row for row in read_rows(results / "summary.csv")}
    assert float(rows["expert"]["success_mean"]) == 1.0
    assert float(rows["random"]["success_mean"]) <= 0.34
    final = [r for r in read_rows(folder(results, "random") / "eval.csv") if r["split"] == "test"]
    scores = [float(row["final_score"]) for row in final]
    assert len(scores) == 4 * 2
    assert float(rows["random"]["score_mean"]) == pytest.approx(np.mean(scores))
    assert "one training seed" in rows["random"]["interval_over"]


def test_max_minutes_stops_training_and_says_so(tmp_path):
    results = tmp_path / "run"
    arguments = [*FAST, "--agents", "runner_agents:Searcher", "--set", f"envs.{ENV}.env_steps=1e8"]
    assert main([*arguments, "--max-minutes", "0.04", "--out", str(results)]) == OK
    provenance = read_json(folder(results, "runner_agents:Searcher") / "provenance.json")
    assert provenance["stopped_by"] == "max_minutes" and 0 < provenance["env_steps"] < 1e8
    final = read_rows(folder(results, "runner_agents:Searcher") / "eval.csv")[-1]
    assert int(final["env_steps"]) == provenance["env_steps"]
    assert read_rows(results / "summary.csv")[0]["stopped_by"] == "max_minutes"


def test_ray_is_optional(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*FAST, "--engine", "ray", "--out", str(tmp_path / "run")]) == BAD_REQUEST
    assert "pip install" in capsys.readouterr().err


def test_ray_runs_jobs(tmp_path):
    pytest.importorskip("ray")
    assert main([*FAST, "--agents", "random", "--engine", "ray", "--out", str(tmp_path / "run")]) == OK
    assert read_rows(tmp_path / "run" / "summary.csv")[0]["completed_seeds"] == "1"


@pytest.fixture(scope="module")
def mixed(root, tmp_path_factory):
    """A run of an agent that adapts over two episodes, beside one that has one."""
    place = tmp_path_factory.mktemp("mixed")
    own = {SEARCHER: {"make": {"episodes_per_trial": 2}, "env_steps": 200, "every": 100, "max_minutes": 9}}
    preset = own_preset(place, per_agent=own)
    path = os.pathsep.join([str(root), str(root / "tests")])
    environment = {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(place)}
    command = [sys.executable, str(root / "benchmarks" / "run_all.py"), *preset]
    done = subprocess.run(
        [*command, "--out", str(place / "run")], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == OK, done.stdout + done.stderr
    return place / "run", preset


def test_a_run_keeps_to_what_its_agent_was_given(mixed, tmp_path, capsys):
    results, preset = mixed
    assert main([*preset, "--dry-run"]) == OK
    assert "Searcher seed 0: 200 environment steps" in capsys.readouterr().out
    config = yaml.safe_load((folder(results, SEARCHER) / "config.yaml").read_text())
    assert config["make"]["episodes_per_trial"] == 2 and config["env_steps"] == 200
    assert config["evaluation"]["every"] == 100 and config["max_minutes"] == 9
    rows = read_rows(folder(results, SEARCHER) / "eval.csv")
    assert {row["episode"] for row in rows} == {"0", "1"}
    assert {row["env_steps"] for row in rows} == {"0", "164", "328"}  # four trials of 2 × 20 + 1 steps each
    assert {row["episode"] for row in read_rows(folder(results, "random") / "eval.csv")} == {"0"}
    assert main([*own_preset(tmp_path, per_agent={}), "--out", str(results)]) == BAD_REQUEST
    assert "another plan" in capsys.readouterr().err


def test_every_episode_of_the_trial_has_its_row(mixed):
    rows = read_rows(mixed[0] / "episodes.csv")
    found = {(r["agent"], r["policy"], r["split"], r["episode"]): r for r in rows}
    kinds = [("deterministic", "test"), ("stochastic", "test"), ("deterministic", "train")]
    assert set(found) == {("random", *kind, "0") for kind in kinds} | {
        (SEARCHER, *kind, episode) for kind in kinds for episode in "01"
    }
    second = found[SEARCHER, "stochastic", "test", "1"]
    assert (second["first_step"], second["last_step"]) == ("21", "40")
    table = read_rows(folder(mixed[0], SEARCHER) / "eval_stochastic.csv")
    returns = [float(row["return_dense"]) for row in table if row["episode"] == "1"]
    assert len(returns) == int(second["tasks"]) * int(second["trials"]) == 4 * 2
    assert float(second["return_dense_mean"]) == pytest.approx(np.mean(returns))
    last = {row["agent"]: row for row in read_rows(mixed[0] / "summary.csv")}[SEARCHER]
    for name in ("success_mean", "score_mean", "score_low"):
        assert float(last[name]) == float(found[SEARCHER, "deterministic", "test", "1"][name]), name


def test_adaptation_is_drawn_by_environment_steps_in_the_task(mixed):
    results, preset = mixed
    own = {cell.agent: cell for cell in cells(results, plan_of(*preset))}
    series = {agent: adaptation_series(cell, "reward_dense", colours_of(own)) for agent, cell in own.items()}
    assert list(series["random"].x) == list(range(1, 21))
    assert list(series[SEARCHER].x) == list(range(1, 41)) and list(series[SEARCHER].breaks) == [20]
    rows = read_rows(folder(results, SEARCHER) / "adaptation.csv")
    for frame, at in ((1, 0), (20, 19), (22, 20), (41, 39)):  # frames 0 and 21 are the episodes' first
        rewards = [float(r["reward_dense"]) for r in rows if (r["split"], r["step"]) == ("test", str(frame))]
        assert series[SEARCHER].y[at] == pytest.approx(np.mean(rewards)), frame
    assert episode_starts(own.values()) == {20.5: "episode 2"}


def test_budgets_that_are_far_apart_are_drawn_on_a_logarithmic_axis():
    def curve(*x):
        return Series("agent", 0, np.array(x), np.linspace(0, 1, len(x)))

    short, long, level = curve(0, 500, 1000), curve(0, 50_000, 100_000), curve(0)
    assert budgets_are_far_apart([short, long, level])
    assert not budgets_are_far_apart([short, curve(0, 3000, 6000), level])
    drawn = line_chart([short, long, level], "steps", "success", x_log=True)
    ends = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', drawn)]
    inside = (ends[0] - LEFT) / (WIDTH - LEFT - RIGHT)  # of the axis from the first evaluation after 0 steps
    assert inside == pytest.approx(np.log(1000 / 500) / np.log(100_000 / 500), abs=1e-3)
    assert ends[1] == WIDTH - RIGHT and drawn.count("level") == 1
    for label in ("1k", "10k", "100k"):
        assert f">{label}</text>" in drawn
    assert line_chart([level], "steps", "success", x_log=True).count("level") == 1
    assert log_ticks(500, 100_000) == [500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000]


def test_the_report_tells_episodes_and_policies_apart(mixed):
    page = outline(mixed[0])
    for words in ("exploring policy", "mean actions", "21–40", "steps in the task", "episode 2", "gap"):
        assert words in page.text, words


def test_a_report_of_a_run_that_was_never_tested_with_the_exploring_policy(finished, tmp_path):
    results = tmp_path / "run"
    shutil.copytree(finished[1], results, symlinks=True)
    for path in results.rglob("eval_stochastic.csv"):
        path.unlink()
    write_report(results)
    assert "mean actions" in outline(results).text and "exploring policy" not in outline(results).text
    assert {row["policy"] for row in read_rows(results / "episodes.csv")} == {"deterministic"}


# ------------------------------------------------------------------------------------------ a full disk

FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import benchmarks.jobs as jobs
from benchmarks.plan import Job, load_yaml, plan_from_dict
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
sys.exit(jobs.main(sys.argv[1:]))
"""


def test_a_full_disk_in_the_middle_of_a_run(finished, tmp_path, run_python):
    """No file may grow beyond a limit: what was written stays whole; with room again the run goes on."""
    results = tmp_path / "run"
    results.mkdir()
    (results / "plan.yaml").write_bytes((finished[1] / "plan.yaml").read_bytes())
    arguments = [str(results), ENV, "runner_agents:Searcher", "0", "--threads", "1"]
    path = {"PYTHONPATH": os.environ["PYTHONPATH"]}
    full = run_python("-c", FULL.format(limit=1600), *arguments, env=path)
    assert full.returncode == JOB_FAILED and "the disk is full" in full.stderr
    run = folder(results, "runner_agents:Searcher")
    assert all(None not in row.values() for row in read_rows(run / "eval.csv"))
    later = run_python("-m", "benchmarks.jobs", *arguments, env=path)
    assert later.returncode == OK, later.stderr
    assert (run / "eval.csv").read_bytes() == (
        folder(finished[1], "runner_agents:Searcher") / "eval.csv"
    ).read_bytes()


def test_a_full_disk_at_the_start(tmp_path, run_python):
    script = FULL.replace("benchmarks.jobs as jobs", "benchmarks.run_all as jobs").format(limit=100_000)
    done = run_python("-c", script, *FAST, "--agents", "random", "--out", str(tmp_path / "run"))
    assert done.returncode == BAD_REQUEST and "the disk is full" in done.stderr


# ------------------------------------------------------------------------------------------ the report


class _Outline(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.sources, self.text = set(), [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def outline(results):
    parsed = _Outline()
    parsed.feed((results / "report.html").read_text())
    return parsed


def test_the_report_is_complete_and_self_contained(finished):
    page = outline(finished[1])
    assert {"svg", "table", "img", "video"} <= page.tags and "script" not in page.tags
    assert page.sources and all(source.startswith("data:") for source in page.sources)
    for words in (
        "Adaptation within a trial",
        "Film strips",
        "imagined",
        "What the belief knows",
        "run_all.py --preset",
    ):
        assert words in page.text, words


def test_nothing_from_a_results_folder_is_trusted(finished, tmp_path):
    results = tmp_path / "run"
    shutil.copytree(finished[1], results, symlinks=True)
    evil = "</style><script>alert(1)</script><img src=x onerror=alert(1)>"
    values = yaml.safe_load((results / "plan.yaml").read_text())
    values["description"] = values["preset"] = values["made_by"]["command"] = evil
    (results / "plan.yaml").write_text(yaml.safe_dump(values))
    run = folder(results, "runner_agents:Searcher")
    for name in ("eval.csv", "probes.csv", "adaptation.csv"):
        with open(run / name, "a") as file:
            file.write(",".join([evil] * (len((run / name).read_text().splitlines()[0].split(",")))) + "\n")
    with open(run / "probes.csv", "a") as file:
        file.write(f"400,task/{evil},1,0,1\n")
    provenance = read_json(run / "provenance.json")
    provenance["device"] = provenance["started"] = provenance["software"]["commit"] = evil
    provenance["hardware"]["processor"] = evil
    (run / "provenance.json").write_text(json.dumps(provenance))
    with np.load(run / "strips.npz") as strips:
        arrays = dict(strips)
    arrays["names"] = np.array([evil for _ in arrays["names"]])
    np.savez(run / "strips.npz", **arrays)
    write_report(results)
    page = (results / "report.html").read_text()
    assert "<script" not in page and "<img src=x" not in page
    assert page.count("&lt;script") >= 5


def test_a_report_of_unreadable_files(finished, tmp_path):
    results = tmp_path / "run"
    shutil.copytree(finished[1], results, symlinks=True)
    run = folder(results, "expert")
    for name in ("eval.csv", "adaptation.csv", "strips.npz", "provenance.json", "status.json"):
        (run / name).write_bytes(b"\x00\xff{garbage,,\n1,2\n")
    write_report(results)
    assert [row["agent"] for row in read_rows(results / "summary.csv")][:2] == [
        "random",
        "runner_agents:Searcher",
    ]


def test_videos_are_shown_where_there_are_no_strips(finished, tmp_path):
    results = tmp_path / "run"
    shutil.copytree(finished[1], results, symlinks=True)
    for strips in results.rglob("strips.npz"):
        strips.unlink()
    write_report(results)
    page = (results / "report.html").read_text()
    assert "<img" not in page and page.count("<video") == len(list(results.rglob("videos/*.mp4"))) > 0


def test_a_report_needs_a_plan(tmp_path):
    with pytest.raises(RequestError, match=r"plan\.yaml"):
        write_report(tmp_path)
