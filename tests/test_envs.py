"""Every registered environment keeps the promises of docs/environments.md."""

from __future__ import annotations

import hashlib
import json

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.evaluation import evaluate_policy

import meld_envs
from meld_envs.env import load_family
from meld_envs.families.sawyer import SawyerFamily

IDS = list(meld_envs.FAMILIES)


def family_of(env_id):
    """What an id simulates."""
    return load_family(meld_envs.FAMILIES[env_id])


every_id = pytest.mark.parametrize("env_id", IDS)


def actions_of(env, steps, seed=0):
    """Random actions ``(steps, n, A)`` for a vector environment."""
    return np.random.default_rng(seed).uniform(-1, 1, (steps, *env.action_space.shape))


def same(left, right):
    """Whether two nested results are equal bit for bit."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (tuple, list)):
        return len(left) == len(right) and all(map(same, left, right))
    left, right = np.asarray(left), np.asarray(right)
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


def one(result, trial):
    """Trial ``trial`` of what a vector environment returned."""
    if isinstance(result, dict):
        return {key: one(value, trial) for key, value in result.items()}
    return tuple(one(part, trial) for part in result) if isinstance(result, tuple) else result[trial]


def hidden_twins(env):
    """Two tasks that differ in what is hidden, and in nothing else."""
    task, *others = env.unwrapped.task_set.train
    other = next(other for other in others if (other.vector() != task.vector()).all())
    hidden = {name: other.parameters[name] for name in other.hidden}
    return task, meld_envs.Task(task.family, {**task.parameters, **hidden}, task.hidden)


def index_of(tasks, task):
    """What ``task_id`` should say."""
    return tasks.index(task) if task in tasks else -1


def visible_twins(env):
    """Two tasks that differ in what is visible, and in nothing else."""
    task, other = env.unwrapped.task_set.train[:2]
    hidden = {name: task.parameters[name] for name in task.hidden}
    return task, meld_envs.Task(task.family, {**other.parameters, **hidden}, task.hidden)


def ten(tasks):
    """The first ten tasks; those of a shorter list again and again."""
    return list((tasks * 10)[:10])


#: Families whose tasks differ in physics: a change shows in what then happens.
HIDDEN_PHYSICS = {"meld/ShelfPlace-v0", "meld/WalkerParams-v0"}


@every_id
@pytest.mark.parametrize("obs_type", ["pixels", "state"])
def test_checkers_pass_without_warnings(env_id, obs_type, recwarn):
    check_env(gym.make(env_id, obs_type=obs_type).unwrapped)
    for made in (gym.make(env_id, obs_type=obs_type), gym.make(env_id, obs_type=obs_type).unwrapped):
        sb3_check_env(made, skip_render_check=False)
        made.close()
    assert not recwarn.list


@every_id
def test_gymnasium_checker_passes_as_made(env_id):
    with pytest.warns(UserWarning, match="different from the unwrapped version") as caught:
        check_env(gym.make(env_id))  # its only complaint is that gym.make wraps
    assert len(caught) == 1


@every_id
@pytest.mark.parametrize("obs_type", ["pixels", "state"])
def test_batch_and_singles_agree_bit_for_bit(env_id, obs_type, make_vec):
    keywords = {"episodes_per_trial": 2, "obs_type": obs_type, "image_size": 48}
    batch = make_vec(env_id, 3, **keywords)
    singles = [gym.make(env_id, **keywords).unwrapped for _ in range(3)]
    first = batch.reset(seed=7)
    for trial, single in enumerate(singles):
        assert same(single.reset(seed=7 + trial), one(first, trial))
    for actions in actions_of(batch, batch.trial_steps):
        together = batch.step(actions)
        for trial, single in enumerate(singles):
            assert same(single.step(actions[trial]), one(together, trial))
    assert together[3].all()
    for single in singles:
        single.close()


@every_id
def test_threads_do_not_matter(env_id, make_vec):
    envs = [make_vec(env_id, 5, num_threads=threads) for threads in (1, 2, 3)]
    results = []
    for env in envs:
        first = env.reset(seed=3)
        results.append([first, *(env.step(actions) for actions in actions_of(env, 8))])
    assert same(results[0], results[1])
    assert same(results[0], results[2])


@every_id
def test_seed_and_tasks_determine_everything_that_follows(env_id, make_vec):
    used, fresh = make_vec(env_id), make_vec(env_id)
    used.reset(seed=99)
    for actions in actions_of(used, 9, seed=1):
        used.step(actions)
    tasks = ten(used.task_set.test)[:3]
    firsts = [env.reset(seed=5, options={"task": list(tasks)}) for env in (used, fresh)]
    assert same(*firsts)
    for actions in actions_of(used, 9):
        assert same(used.step(actions), fresh.step(actions))
    assert not same(used.reset(seed=5)[1], used.reset(seed=6)[1])


@every_id
@pytest.mark.parametrize("obs_type", ["pixels", "state"])
def test_first_frames_do_not_tell_the_task(env_id, obs_type, make_vec):
    env = make_vec(env_id, 1, obs_type=obs_type)
    frames, rewards = [], []
    for task in hidden_twins(env):
        frames.append(env.reset(seed=0, options={"task": task})[0])
        rewards.append(env.step(actions_of(env, 1)[0])[1])
    assert frames[0].tobytes() == frames[1].tobytes()
    assert rewards[0] != rewards[1]


@pytest.mark.parametrize("env_id", [i for i in IDS if any(not p.hidden for p in family_of(i).parameters)])
def test_first_frames_and_states_show_what_is_visible(env_id, make_vec):
    env = make_vec(env_id, 1)
    frames, states = [], []
    for task in visible_twins(env):
        frames.append(env.reset(seed=0, options={"task": task})[0])
        states.append(env.state())
    assert frames[0].tobytes() != frames[1].tobytes()
    assert states[0].tobytes() != states[1].tobytes()


EPISODES = """
import hashlib, sys, gymnasium as gym, numpy as np, meld_envs
env = gym.make(sys.argv[1]).unwrapped
digest, rng = hashlib.sha256(), np.random.default_rng(0)
for episode in range(min(20, 1000 // env.episode_steps)):
    frame, info = env.reset(seed=episode)
    digest.update(frame.tobytes())
    truncated = False
    while not truncated:
        frame, reward, _, truncated, info = env.step(rng.uniform(-1, 1, env.action_space.shape))
        digest.update(frame.tobytes() + np.float64(reward).tobytes() + repr(sorted(info.items())).encode())
env.close()
print(digest.hexdigest())
"""


@every_id
def test_seeded_episodes_repeat_in_another_process(env_id, run_python):
    runs = [run_python("-c", EPISODES, env_id) for _ in range(2)]
    assert runs[0].returncode == 0, runs[0].stderr
    assert not runs[0].stderr, "nothing is left to complain about at exit"
    assert len(runs[0].stdout.strip()) == hashlib.sha256().digest_size * 2
    assert runs[0].stdout == runs[1].stdout


@every_id
def test_spec_goes_to_and_from_json(env_id):
    env = gym.make(env_id, split="test", image_size=40)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert same(env.reset(seed=1), again.reset(seed=1))
    assert again.unwrapped.config == env.unwrapped.config
    env.close()
    again.close()


@every_id
def test_gymnasium_vectorizers_agree_with_ours(env_id, make_vec):
    ours = make_vec(env_id, 2)
    theirs = make_vec(env_id, 2, vectorization_mode="sync")
    mine, other = ours.reset(seed=4), theirs.reset(seed=4)
    assert same(mine[0], other[0])
    assert all(same(mine[1][key], other[1][key]) for key in mine[1])
    for actions in actions_of(ours, 3):
        assert same(ours.step(actions)[:4], theirs.step(actions)[:4])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_async_vectorizer_agrees_with_ours(context, make_vec):
    ours = make_vec(IDS[0], 2)
    mine = ours.reset(seed=4)  # draws here, before the other processes begin
    theirs = make_vec(IDS[0], 2, vectorization_mode="async", vector_kwargs={"context": context})
    assert same(mine[0], theirs.reset(seed=4)[0])
    actions = actions_of(ours, 1)[0].astype(np.float32)  # which Gymnasium casts to, on the way
    assert same(ours.step(actions)[:4], theirs.step(actions)[:4])


@every_id
def test_trials_of_two_episodes(env_id, make_vec):
    env = make_vec(env_id, 2, episodes_per_trial=2)
    length = env.episode_steps
    assert env.trial_steps == 2 * (length + 1) - 1
    env.reset(seed=0)
    tasks, history = env.task, []
    for step, actions in enumerate(actions_of(env, env.trial_steps), start=1):
        _, reward, terminated, truncated, info = env.step(actions)
        history.append(info)
        assert not terminated.any()
        assert truncated.all() == truncated.any() == (step == env.trial_steps)
        assert (info["episode_in_trial"] == (step > length)).all()
        assert (info["episode_start"] == (step == length + 1)).all()
        assert env.task == tasks
        if step == length:
            end = env.state()
        if step == length + 1:
            assert not same(env.state(), end), "the robot is brought back"
            assert (reward == 0).all()
    assert history[0].keys() == env.reset(seed=0)[1].keys()


@every_id
def test_episodes_can_be_longer_or_shorter(env_id, make_vec):
    """They are the same episodes, ending elsewhere."""
    usual, short = make_vec(env_id, 2), make_vec(env_id, 2, episode_steps=3, episodes_per_trial=2)
    assert (short.episode_steps, short.trial_steps) == (3, 7)
    assert make_vec(env_id, 2, episode_steps=usual.episode_steps + 1).trial_steps == usual.trial_steps + 1
    assert same(usual.reset(seed=0)[0], short.reset(seed=0)[0])
    for step, actions in enumerate(actions_of(usual, 7), start=1):
        *_, truncated, info = given = short.step(actions)
        if step <= 3:
            assert same(given, usual.step(actions))
        assert truncated.all() == (step == 7)
        assert info["episode_start"].all() == (step == 4)


@every_id
def test_a_task_changes_only_when_asked(env_id, make_vec):
    env = make_vec(env_id, 2, split="test")
    env.reset(seed=0)
    drawn = [tuple(env.task)]
    for _ in range(6):
        env.reset()
        drawn.append(tuple(env.task))
    assert len(set(drawn)) > 1, "a new task is drawn at the start of each trial"
    assert {task for tasks in drawn for task in tasks} <= set(env.task_set.test)
    pinned = [env.task_set.train[0], env.task_set.test[-1]]
    ids = [index_of(env.task_set.test, pinned[0]), len(env.task_set.test) - 1]
    env.set_task(pinned)
    assert env.task == list(drawn[-1]), "pinned from the next reset on"
    for _ in range(2):
        _, info = env.reset()
        assert env.task == pinned
        assert info["task_id"].tolist() == ids
    env.reset(options={"task": env.task_set.test[1], "somebody": "else's"})
    assert env.task == [env.task_set.test[1]] * 2
    env.reset()
    assert env.task == pinned
    env.set_task(None)
    assert any(env.reset() and env.task != pinned for _ in range(5))


@every_id
def test_schedules_change_the_task_within_an_episode(env_id, make_vec):
    env, steady = make_vec(env_id, 2), make_vec(env_id, 2)
    before, after = hidden_twins(env)
    env.reset(seed=0, options={"task": before, "schedule": [(3, after)]})
    steady.reset(seed=0, options={"task": before})
    for step, actions in enumerate(actions_of(env, 6)):
        changed, unchanged = env.step(actions), steady.step(actions)
        if step < 3 or env_id not in HIDDEN_PHYSICS:
            assert same(changed[0], unchanged[0]), "the change is hidden, too"
        assert (changed[1] == unchanged[1]).all() == (step < 3)
        assert env.task == [before if step < 3 else after] * 2
        assert (changed[4]["task_id"] == (0 if step < 3 else index_of(env.task_set.train, after))).all()
    env.reset(seed=0, options={"schedule": [[(0, before)], [(0, after)]]})
    assert env.task == [before, after]
    env.reset(seed=0, options={"task": before})
    env.step(actions[:])
    assert env.task == [before] * 2, "a schedule ends with its trial"


@every_id
def test_both_rewards_are_always_reported(env_id, make_vec):
    dense, sparse = (make_vec(env_id, 2, reward_type=kind) for kind in ("dense", "sparse"))
    _, info = dense.reset(seed=0)
    sparse.reset(seed=0)
    assert (info["reward_dense"] == 0).all()
    for actions in actions_of(dense, 5):
        one_step, other_step = dense.step(actions), sparse.step(actions)
        assert same(one_step[4], other_step[4])
        assert same(one_step[1], one_step[4]["reward_dense"])
        assert same(other_step[1], other_step[4]["reward_sparse"])
    assert not same(one_step[1], other_step[1])


@every_id
def test_info_has_an_array_per_trial(env_id, make_vec):
    env = make_vec(env_id, 3)
    kinds = {
        "task_id": np.int64,
        "reward_dense": np.float64,
        "reward_sparse": np.float64,
        "score": np.float64,
        "is_success": np.bool_,
        "success": np.bool_,
        "episode_in_trial": np.int64,
        "episode_start": np.bool_,
    }
    for info in (env.reset(seed=0)[1], env.step(actions_of(env, 1)[0])[4]):
        assert {key: value.dtype.type for key, value in info.items()} == kinds
        assert {value.shape for value in info.values()} == {(3,)}


@every_id
def test_next_step_autoreset(env_id, make_vec):
    env = make_vec(env_id, 2, autoreset="next_step", obs_type="state")
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    env.reset(seed=0)
    for actions in actions_of(env, env.trial_steps):
        truncated = env.step(actions)[3]
    assert truncated.all()
    _, reward, _, truncated, info = env.step(actions)
    assert info["episode_start"].all()
    assert not truncated.any()
    assert (reward == 0).all()


@every_id
def test_the_expert_solves_what_it_is_said_to_solve(env_id, make_vec):
    if isinstance(family_of(env_id), SawyerFamily):
        pytest.importorskip("dm_control")
    env = make_vec(env_id, 10, split="test", obs_type="state")
    env.reset(seed=0, options={"task": ten(env.task_set.test)})
    for _ in range(env.trial_steps):
        info = env.step(env.expert_action())[4]
    assert info["success"].mean() >= env.family.expert_success
    assert (info["is_success"] == info["success"]).all()


@every_id
def test_random_actions_do_not_solve_it(env_id, make_vec):
    env = make_vec(env_id, 10, split="test", obs_type="state")
    env.reset(seed=0, options={"task": ten(env.task_set.test)})
    for actions in actions_of(env, env.trial_steps):
        info = env.step(actions)[4]
    assert info["success"].mean() <= 0.3


@every_id
def test_state_says_nothing_of_the_task(env_id, make_vec):
    env = make_vec(env_id, 2)
    env.reset(seed=[5, 5], options={"task": list(hidden_twins(env))})
    states = env.state()
    assert states.shape == (2, len(env.family.state_names))
    assert states.dtype == np.float64
    assert same(states[0], states[1])


@every_id
def test_people_see_what_is_hidden(env_id):
    env = gym.make(env_id, render_mode="rgb_array").unwrapped
    pictures = []
    for task in env.task_set.train[:2]:
        env.reset(seed=0, options={"task": task})
        pictures.append(env.render())
    assert pictures[0].shape[0] == 480
    assert pictures[0].dtype == np.uint8
    assert not same(*pictures)
    env.close()


def test_human_mode_without_a_display_says_so_once(run_python):
    script = (
        "import logging, gymnasium as gym, meld_envs; logging.basicConfig();"
        f"env = gym.make({IDS[0]!r}, render_mode='human');"
        "env.reset(); env.step(env.action_space.sample()); env.render(); env.close()"
    )
    result = run_python("-W", "error", "-c", script, env={"DISPLAY": "", "WAYLAND_DISPLAY": ""})
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("no display") == 1


def task_of_another_family(env):
    other = next(name for name in IDS if name != env.spec.id)
    return gym.make(other).unwrapped.task_set.train[0]


def task_out_of_range(env):
    task = env.task_set.train[0]
    return meld_envs.Task(task.family, dict.fromkeys(task.parameters, 1000000000.0), task.hidden)


BAD_CALLS = {
    "shape": (lambda env: env.step(np.zeros(99)), ValueError, r"shape"),
    "nan": (lambda env: env.step(np.full(env.action_space.shape, np.nan)), ValueError, "not|finite"),
    "inf": (lambda env: env.step(np.full(env.action_space.shape, np.inf)), ValueError, "finite"),
    "text": (lambda env: env.step(np.full(env.action_space.shape, "left")), ValueError, "expected actions"),
    "no task": (lambda env: env.set_task("north"), TypeError, "expected a Task"),
    "other family": (lambda env: env.set_task(task_of_another_family(env)), ValueError, "belongs to"),
    "out of range": (lambda env: env.set_task(task_out_of_range(env)), ValueError, "must be in"),
    "bad task": (lambda env: env.reset(options={"task": task_out_of_range(env)}), ValueError, "must be in"),
    "schedule": (lambda env: env.reset(options={"schedule": [3]}), TypeError, "step, task"),
    "late": (lambda env: env.reset(options={"schedule": [(10**6, env.task)]}), ValueError, "outside"),
    "task options": (lambda env: env.reset(options="north"), TypeError, "dictionary"),
    "mask": (lambda env: env.reset(options={"reset_mask": np.array([False])}), ValueError, "reset_mask"),
}


@every_id
@pytest.mark.parametrize("what", BAD_CALLS)
def test_bad_calls_raise_and_leave_the_environment_usable(env_id, what):
    call, kind, message = BAD_CALLS[what]
    env, untouched = (gym.make(env_id, obs_type="state").unwrapped for _ in range(2))
    env.reset(seed=0)
    untouched.reset(seed=0)
    with pytest.raises(kind, match=message):
        call(env)
    for actions in np.random.default_rng(0).uniform(-1, 1, (3, *env.action_space.shape)):
        if what == "mask" or "task" in what or "schedule" in what or what == "late":
            break
        assert same(env.step(actions), untouched.step(actions))
    assert same(env.reset(seed=1), untouched.reset(seed=1))


@every_id
def test_the_order_of_a_tasks_parameters_does_not_matter(env_id):
    env, twin = (gym.make(env_id, obs_type="state").unwrapped for _ in range(2))
    task = env.task_set.train[-1]
    backwards = meld_envs.Task(task.family, dict(reversed(task.parameters.items())), task.hidden)
    assert same(env.reset(seed=0, options={"task": task}), twin.reset(seed=0, options={"task": backwards}))
    action = env.action_space.sample()
    assert same(env.step(action), twin.step(action))


@pytest.mark.parametrize("seed", [1.5, "one"])
def test_a_seed_of_the_wrong_type_is_refused(seed, make_vec):
    with pytest.raises(TypeError, match="seed must be an integer"):
        make_vec(IDS[0], num_envs=2).reset(seed=seed)


BAD_KEYWORDS = {
    "misspelt": ({"imagesize": 32}, TypeError, "image_size"),
    "choice": ({"split": "valid"}, ValueError, "'train', 'test'"),
    "too small": ({"num_train_tasks": 0}, ValueError, "at least 1"),
    "type": ({"image_size": "64"}, TypeError, "integer"),
    "size": ({"image_size": 5000}, ValueError, r"\[8, 1024\]"),
    "steps": ({"episode_steps": 0}, ValueError, "at least 1"),
    "seed": ({"task_seed": -1}, ValueError, "at least 0"),
    "reward": ({"reward_type": "shaped"}, ValueError, "'dense', 'sparse'"),
}


@every_id
@pytest.mark.parametrize("what", BAD_KEYWORDS)
def test_bad_keywords_are_refused(env_id, what):
    keywords, kind, message = BAD_KEYWORDS[what]
    with pytest.raises(kind, match=message):
        gym.make(env_id, **keywords)
    with pytest.raises(kind, match=message):
        gym.make_vec(env_id, num_envs=2, **keywords)


@every_id
def test_stepping_before_reset_and_after_the_end(env_id, make_vec):
    env = make_vec(env_id, 2, obs_type="state")
    actions = actions_of(env, env.trial_steps)
    for call in (lambda: env.step(actions[0]), env.state, env.expert_action, env.render_people):
        with pytest.raises(ResetNeeded, match="reset"):
            call()
    env.reset(seed=0)
    for action in actions:
        env.step(action)
    with pytest.raises(ResetNeeded, match="ended"):
        env.step(action)
    env.reset()
    env.step(action)


@every_id
def test_finite_actions_out_of_range_are_clipped(env_id, make_vec):
    env, clipped = make_vec(env_id, 2, obs_type="state"), make_vec(env_id, 2, obs_type="state")
    env.reset(seed=0)
    clipped.reset(seed=0)
    actions = 5.0 * actions_of(env, 1)[0]
    kept = actions.copy()
    assert same(env.step(actions), clipped.step(np.clip(actions, -1, 1)))
    assert same(actions, kept), "the caller's array is left alone"


def test_unknown_ids_get_the_nearest_match():
    with pytest.raises(gym.error.NameNotFound, match="PointNav"):
        gym.make("meld/PointNaf-v0")


def test_wrong_numbers_of_trials(make_vec):
    with pytest.raises(ValueError, match="num_envs"):
        make_vec(IDS[0], 0)
    env = make_vec(IDS[0], 3)
    with pytest.raises(ValueError, match="3 tasks"):
        env.set_task(list(env.task_set.train[:2]))
    with pytest.raises(ValueError, match="3 of them"):
        env.reset(seed=[1, 2])


def test_environments_need_neither_torch_nor_the_other_packages(run_python):
    script = (
        "import sys, gymnasium as gym, meld_envs;"
        f"[gym.make(name).reset() for name in {IDS!r}];"
        "heavy = {'torch', 'meld_agents', 'hardware_bridge', 'benchmarks', 'cv2', 'ray'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    result = run_python("-c", script)
    assert result.returncode == 0, result.stderr


def test_trial_observation_is_a_flat_dict():
    env = meld_envs.TrialObservation(gym.make(IDS[0], episodes_per_trial=2))
    sb3_check_env(env)
    observation, _ = env.reset(seed=0)
    assert observation["episode_start"] == 1
    assert observation["reward"] == 0
    action = np.array([2.0, -0.5])
    observation, reward, *_ = env.step(action)
    assert observation["previous_action"].tolist() == [1.0, -0.5]
    assert observation["reward"][0] == np.float32(reward)
    assert observation["episode_start"] == 0
    for _ in range(env.unwrapped.episode_steps):
        observation, *_ = env.step(action)
    assert observation["episode_start"] == 1
    assert not observation["previous_action"].any()
    assert json.loads(env.spec.to_json())["additional_wrappers"]
    env.close()


def test_stable_baselines3_learns_from_trial_observations():
    env = meld_envs.TrialObservation(gym.make(IDS[0], obs_type="state", episodes_per_trial=2))
    steps = env.unwrapped.trial_steps
    agent = sb3.PPO("MultiInputPolicy", env, n_steps=2 * steps, batch_size=steps, n_epochs=1, device="cpu")
    agent.learn(4 * steps)
    assert [done["l"] for done in agent.ep_info_buffer] == [steps] * 4
    env.close()


@pytest.mark.parametrize(
    ("env_id", "policy"), [("meld/SparsePoint-v0", "MlpPolicy"), ("meld/PointNav-v0", "CnnPolicy")]
)
def test_stable_baselines3_learns_from_what_gym_make_returns(env_id, policy):
    """Its monitor owns ``info["episode"]``, and reads it at every step."""
    agent = sb3.SAC(
        policy,
        gym.make(env_id),
        learning_starts=100,
        train_freq=20,
        batch_size=8,
        buffer_size=300,
        policy_kwargs={"net_arch": [8]},
        device="cpu",
    )
    agent.learn(200, log_interval=1)
    assert agent._n_updates > 0
    assert [done["l"] for done in agent.ep_info_buffer] == [20] * 10
    returns, lengths = evaluate_policy(agent, agent.env, n_eval_episodes=2, return_episode_rewards=True)
    assert lengths == [20, 20]
    assert all(value < 0 for value in returns)
    agent.env.close()


def test_gymnasium_counts_single_trials():
    env = gym.wrappers.RecordEpisodeStatistics(gym.make(IDS[0], obs_type="state", episodes_per_trial=2))
    _, info = env.reset(seed=0)
    assert info["episode_in_trial"] == 0
    total, steps = 0.0, env.unwrapped.trial_steps
    for _ in range(steps):
        _, reward, _, _, info = env.step(env.action_space.sample())
        total += reward
    assert info["episode"]["l"] == steps
    assert info["episode"]["r"] == pytest.approx(total)
    assert info["episode_in_trial"] == 1
    env.close()


@pytest.mark.parametrize(
    "keywords", [{}, {"autoreset": "next_step"}, {"vectorization_mode": "sync"}], ids=str
)
def test_gymnasium_counts_trials_side_by_side(keywords, make_vec):
    env = gym.wrappers.vector.RecordEpisodeStatistics(make_vec(IDS[0], 3, obs_type="state", **keywords))
    env.reset(seed=0)
    total = np.zeros(3)
    for actions in actions_of(env, load_family(meld_envs.FAMILIES[IDS[0]]).episode_steps):
        _, rewards, _, truncated, info = env.step(actions.astype(np.float32))
        total += rewards
    assert truncated.all()
    assert info["episode"]["l"].tolist() == [20] * 3
    assert info["episode"]["r"] == pytest.approx(total)


@every_id
def test_a_first_reset_that_fails_does_no_harm(env_id):
    env = gym.make(env_id, obs_type="state")
    with pytest.raises(TypeError, match="expected a Task"):
        env.reset(options={"task": "the first"})
    env.reset(seed=0)
    assert env.step(env.action_space.sample())[0] in env.observation_space
    env.close()
