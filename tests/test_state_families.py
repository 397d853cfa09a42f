"""PEARL's state-based families do what their sources say, checked against independent calculations."""

from __future__ import annotations

import copy

import mujoco
import numpy as np
import pytest

import meld_envs
from meld_envs.families.locomotion import MODELS
from meld_envs.world import World

POINT = "meld/SparsePoint-v0"
FWD_BACK, VEL = "meld/HalfCheetahFwdBack-v0", "meld/HalfCheetahVel-v0"
HUMANOID, WALKER = "meld/HumanoidDirec-v0", "meld/WalkerParams-v0"
ANT_FWD_BACK, GOAL = "meld/AntFwdBack-v0", "meld/AntGoal-v0"


def hidden(env):
    """The tasks' hidden parameters ``(n, number of them)``."""
    return np.array([task.vector() for task in env.task])


# SparsePoint ----------------------------------------------------------------------------------


def test_point_moves_along_each_axis_and_has_no_edge(make_vec):
    env = make_vec(POINT)
    first, _ = env.reset(seed=0)
    assert (first == 0).all()
    for _ in range(20):
        last = env.step(np.array([[1.0, 1.0], [-3.0, 0.5], [0.0, -1.0]]))[0]
    assert np.allclose(last, [[2.0, 2.0], [-2.0, 1.0], [0.0, -2.0]], atol=1e-6)


def test_point_rewards(make_vec):
    env = make_vec(POINT, 5)
    env.reset(seed=0)
    seen = set()
    for _ in range(env.trial_steps):
        _, reward, _, _, info = env.step(0.8 * env.expert_action())
        distance = np.hypot(*(env.state() - hidden(env)).T)
        assert np.allclose(reward, -distance)
        assert np.allclose(info["reward_sparse"], np.where(distance <= 0.2, 1 - distance, 0))
        seen |= set(info["success"].tolist())
    assert seen == {False, True}


def test_point_goals_of_the_thesis_and_of_the_released_code(make_vec):
    thesis, code = make_vec(POINT).task_set, make_vec(POINT, goals="spaced").task_set
    assert (len(thesis.train), len(thesis.test)) == (100, 20)
    assert (len(code.train), len(code.test)) == (80, 20)
    angles = np.array([np.arctan2(*task.vector()[::-1]) for task in code.train + code.test])
    assert np.allclose(np.sort(angles), np.linspace(0, np.pi, 100))
    assert (np.diff(angles) < 0).any(), "shuffled"
    other = make_vec(POINT, goals="spaced", task_seed=1).task_set
    assert set(other.train) != set(code.train)


def test_point_straight_to_the_goal_earns_what_the_sources_formulas_give(make_vec):
    """The code's hundred goals, at most 0.1 a step and axis: 12.7 to 14.8, on average 13.4."""
    env = make_vec(POINT, 100, goals="spaced")
    env.reset(seed=0, options={"task": [*env.task_set.train, *env.task_set.test]})
    returns = sum(env.step(env.expert_action())[4]["reward_sparse"] for _ in range(20))
    inner = np.sort(returns)[2:]  # rounding decides whether the two goals on the x axis count at 0.2 exactly
    assert 12.65 < inner.min() < inner.max() < 14.85
    assert returns.mean() == pytest.approx(13.4, abs=0.05)


# Cheetahs and ants ----------------------------------------------------------------------------


def actions_of(env, steps, seed=0):
    """Random actions ``(steps, n, A)``, some of them out of range."""
    return np.random.default_rng(seed).uniform(-1.3, 1.3, (steps, *env.action_space.shape))


def replay(file, start, actions, substeps):
    """What a plain loop over Gymnasium's file does from ``(qpos, qvel)``: its data after each action."""
    model = mujoco.MjModel.from_xml_path(str(MODELS / file))
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = start
    for action in np.clip(actions, -1, 1):
        data.ctrl[:] = action * model.actuator_ctrlrange[:, 1]
        mujoco.mj_step(model, data, nstep=substeps)
        reached = copy.copy(data)
        mujoco.mj_forward(model, reached)
        mujoco.mj_rnePostConstraint(model, reached)
        yield model, reached


@pytest.mark.parametrize("env_id", [FWD_BACK, VEL])
def test_cheetah_rewards_and_observation(env_id, make_vec):
    env = make_vec(env_id, 4)
    before, _ = env.reset(seed=3)
    wanted = hidden(env)[:, 0]
    model = env.family.build_model()
    data = mujoco.MjData(model)
    for actions in actions_of(env, 6):
        after, reward, *_ = env.step(actions)
        velocity = (after[:, 17] - before[:, 17]) / 0.05
        task = wanted * velocity if env_id == FWD_BACK else -np.abs(velocity - wanted)
        cost = 0.05 * np.square(np.clip(actions, -1, 1)).sum(axis=1)
        assert np.allclose(reward, task - cost, atol=1e-4)
        before = after
    data.qpos[1:], data.qvel[:] = after[0, :8], after[0, 8:17]
    data.qpos[0] = after[0, 17]
    mujoco.mj_forward(model, data)
    assert np.allclose(data.body("torso").xpos, after[0, 17:], atol=1e-5)


@pytest.mark.parametrize("env_id", [FWD_BACK, ANT_FWD_BACK])
def test_success_is_to_run_the_right_way_for_a_second(env_id, make_vec):
    env = make_vec(env_id, 2)
    forwards, backwards = env.task_set.train
    env.reset(seed=0, options={"task": [backwards, forwards]})
    other = make_vec(env_id, 2)
    other.reset(seed=0, options={"task": [forwards, backwards]})
    for step in range(1, 101):
        info = env.step(other.expert_action())[4]
        right = other.step(other.expert_action())[4]
        assert (info["score"] == -right["score"]).all()
        assert not info["success"].any()
        assert step >= 20 or not right["success"].any(), "a second must have passed"
    assert right["success"].all()
    assert (right["reward_sparse"] == 1).all()


def test_ants_are_gymnasiums_and_feel_the_ground(make_vec):
    """States, contact forces and rewards of a plain loop over the installed file."""
    goal, run = make_vec(GOAL, 2), make_vec(ANT_FWD_BACK, 2)
    first, _ = goal.reset(seed=5)
    run.reset(seed=5)
    start = goal.state()[0]
    actions = actions_of(goal, 8)
    expected = replay("ant.xml", (start[:15], start[15:29]), actions[:, 0], 5)
    felt = []
    x = start[0]
    for action, (_, data) in zip(actions, expected, strict=True):
        reward, ran = goal.step(action)[1], run.step(action)[1]
        state = goal.state()[0]
        forces = np.clip(data.cfrc_ext, -1, 1).ravel()
        assert np.allclose(state[:15], data.qpos, atol=1e-9) and np.allclose(
            state[15:29], data.qvel, atol=1e-7
        )
        assert np.allclose(state[29:], forces, atol=1e-5)
        assert np.allclose(run.state()[0], state[2:29], atol=0)
        effort, touch = np.square(np.clip(action[0], -1, 1)).sum(), 0.5e-3 * np.square(forces).sum()
        offset = data.qpos[:2] - hidden(goal)[0]
        assert reward[0] == pytest.approx(-np.abs(offset).sum() - 0.1 * effort - touch, abs=1e-5)
        bonus = 0.2 <= data.qpos[2] <= 1.0
        velocity = hidden(run)[0, 0] * (data.qpos[0] - x) / 0.05
        assert ran[0] == pytest.approx(velocity - 0.5 * effort - touch + bonus, abs=1e-4)
        x = data.qpos[0]
        felt.append(np.abs(forces).max())
    assert max(felt) > 0.1
    assert first.shape == (2, 113)


def test_a_standing_ant_feels_its_feet(make_vec):
    env = make_vec(GOAL, 2)
    env.reset(seed=0)
    for _ in range(60):
        observation = env.step(np.zeros((2, 8)))[0]
    forces = observation[:, 29:].reshape(2, 14, 6)
    feet = [env.family.state_names.index(f"fz_shin_{leg}") for leg in (1, 2, 3, 4)]
    assert ((observation[:, feet] == 1).sum(axis=1) >= 3).all(), (
        "more than 1 N pushes up each foot on the ground"
    )
    assert (forces[:, :2] == 0).all(), "nothing touches the torso"


def test_forces_at_a_start_do_not_depend_on_what_was_before(make_vec):
    used, fresh = make_vec(GOAL, 3, num_threads=1), make_vec(GOAL, 3, num_threads=1)
    used.reset(seed=1)
    for actions in actions_of(used, 30):
        used.step(actions)
    assert used.reset(seed=2)[0].tobytes() == fresh.reset(seed=2)[0].tobytes()


def test_contact_forces_need_a_sensor():
    model = mujoco.MjModel.from_xml_path(str(MODELS / "ant.xml"))
    with pytest.raises(ValueError, match="cfrc_ext stays zero"):
        World(model, 1, derived=("cfrc_ext",))


def test_ant_goals_fill_a_disc(make_vec):
    tasks = make_vec(GOAL, 1, num_train_tasks=400).task_set.train
    radii = np.linalg.norm([task.vector() for task in tasks], axis=1)
    assert radii.max() <= 3.0
    assert np.mean(radii < 3.0 / np.sqrt(2.0)) == pytest.approx(0.5, abs=0.08), (
        "half the area, half the goals"
    )
    corner = meld_envs.Task("AntGoal", {"goal_x": 2.9, "goal_y": 2.9}, ("goal_x", "goal_y"))
    with pytest.raises(ValueError, match="within 3 m"):
        make_vec(GOAL).set_task(corner)


def test_two_directions_and_nothing_between(make_vec):
    env = make_vec(FWD_BACK)
    assert env.task_set.train == env.task_set.test
    assert [task.vector().tolist() for task in env.task_set.train] == [[1.0], [-1.0]]
    with pytest.raises(ValueError, match="1 or -1"):
        env.set_task(meld_envs.Task("HalfCheetahFwdBack", {"direction": 0.0}, ("direction",)))
    with pytest.raises(ValueError, match="only 2 tasks"):
        make_vec(FWD_BACK, num_test_tasks=3)


# Humanoid -------------------------------------------------------------------------------------


def test_humanoid_observation_and_reward(make_vec):
    """States, forces and rewards of a plain loop over Gymnasium's file; it never ends an episode."""
    env = make_vec(HUMANOID, 2)
    env.reset(seed=1)
    state = env.state()[0]
    actions = actions_of(env, 60)
    expected = replay("humanoid.xml", (np.r_[0.0, 0.0, state[:22]], state[22:45]), actions[:, 0], 5)
    before, first, way, bonuses = None, 0.0, 0.0, set()
    direction = np.array([np.cos(hidden(env)[0, 0]), np.sin(hidden(env)[0, 0])])
    for action, (model, data) in zip(actions, expected, strict=True):
        _, reward, terminated, _, info = env.step(action)
        parts = (data.qpos[2:], data.qvel, data.cinert, data.cvel, data.qfrc_actuator, data.cfrc_ext)
        seen = np.concatenate([np.ravel(part) for part in parts])
        assert np.allclose(env.state()[0], seen, rtol=1e-6, atol=1e-6)
        centre = (model.body_mass @ data.xipos / model.body_mass.sum())[:2]
        effort = np.square(0.4 * np.clip(action[0], -1, 1)).sum()
        bonus = 5.0 * (1.0 <= data.qpos[2] <= 2.0)
        bonuses.add(bonus)
        if before is not None:
            moved = direction @ (centre - before)
            way += moved
            touch = min(5e-7 * np.square(data.cfrc_ext).sum(), 10.0)
            dense = 0.25 * moved / 0.003 - 0.1 * effort - touch + bonus
            assert reward[0] == pytest.approx(dense, abs=1e-5)
            assert info["score"][0] == pytest.approx(way + first, abs=1e-6)
        else:
            first = info["score"][0]
        assert not terminated.any()
        before = centre
    assert bonuses == {0.0, 5.0}, "it falls"
    assert seen.shape == (376,)


# Walker ---------------------------------------------------------------------------------------


def walk(env, task, steps=40):
    """States ``(steps, 17)`` and rewards of random actions under a task."""
    env.reset(seed=0, options={"task": task})
    results = [env.step(actions)[:2] for actions in actions_of(env, steps)]
    return np.stack([one[0][0] for one in results]), np.stack([one[1][0] for one in results])


def test_walkers_physics_is_the_tasks_and_repeats(make_vec):
    env = make_vec(WALKER, 1)
    task, other = env.task_set.train[:2]
    states, rewards = walk(env, task)
    assert np.abs(walk(env, other)[0][4] - states[4]).max() > 1e-3
    again, same_rewards = walk(env, task)
    assert again.tobytes() == states.tobytes() and same_rewards.tobytes() == rewards.tobytes()


def scaled_walker(task):
    """Gymnasium's file with the source's physics step and a task's masses, inertias, dampings, frictions."""
    model = mujoco.MjModel.from_xml_path(str(MODELS / "walker2d_v5.xml"))
    model.opt.timestep = 0.004
    for body in range(model.nbody):
        name = model.body(body).name
        model.body_mass[body] *= task.parameters[f"mass_{name}"]
        model.body_inertia[body] *= [task.parameters[f"inertia_{name}_{axis}"] for axis in "xyz"]
    for joint in range(model.njnt):
        name = model.joint(joint).name.removesuffix("_joint")
        model.dof_damping[joint] *= task.parameters[f"damping_{name}"]
    for geom in range(model.ngeom):
        name = model.geom(geom).name
        model.geom_friction[geom] *= [
            task.parameters[f"friction_{name}_{kind}"] for kind in ("slide", "spin", "roll")
        ]
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


def test_walker_is_gymnasiums_with_other_numbers(make_vec):
    env = make_vec(WALKER, 2)
    env.reset(seed=4)
    state = env.state()[1]
    model = scaled_walker(env.task[1])
    data = mujoco.MjData(model)
    data.qpos[1:], data.qvel[:] = state[:8], state[8:]
    upright = set()
    for actions in actions_of(env, 60):
        x = data.qpos[0]
        data.ctrl[:] = np.clip(actions[1], -1, 1)
        mujoco.mj_step(model, data, nstep=4)
        reward = env.step(actions)[1][1]
        assert np.allclose(env.state()[1], np.r_[data.qpos[1:], np.clip(data.qvel, -10, 10)], atol=1e-6)
        bonus = 0.8 < data.qpos[1] < 2.0 and abs(data.qpos[2]) < 1.0
        effort = 1e-3 * np.square(np.clip(actions[1], -1, 1)).sum()
        assert reward == pytest.approx((data.qpos[0] - x) / 0.016 + bonus - effort, abs=1e-5)
        upright.add(bonus)
    assert upright == {True, False}


def test_walker_tasks_are_log_uniform(make_vec):
    env = make_vec(WALKER, 1, num_train_tasks=200)
    assert len(env.task_set.train[0].hidden) == 65
    names = np.array(env.task_set.train[0].hidden)
    factors = np.log([task.vector() for task in env.task_set.train])
    dampings = np.char.startswith(names, "damping")
    assert dampings.sum() == 9
    for factor, base in ((factors[:, dampings], 1.3), (factors[:, ~dampings], 1.5)):
        exponents = factor / np.log(base)
        assert np.abs(exponents).max() <= 3.0 and np.abs(exponents).max() > 2.9
        assert exponents.std() == pytest.approx(np.sqrt(3.0), abs=0.1)
    assert np.abs(np.corrcoef(factors.T) - np.eye(65)).max() < 0.35, "independent of one another"
