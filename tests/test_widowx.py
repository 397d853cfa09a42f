"""The WidowX is the published one, its ports hold a plug, and its tasks are the paper's."""

from __future__ import annotations

import gymnasium as gym
import mujoco
import numpy as np
import pytest

from benchmarks.solvability import Inspection, held_out, inspect, random_actions, success_by_episode
from hardware_bridge.config import EXAMPLE, TWIN, load
from meld_agents.reference import ExplorerPolicy
from meld_envs.camera import Camera
from meld_envs.families import widowx_ethernet
from meld_envs.families.widowx_ethernet import next_goal
from meld_envs.meshes import UNSEEN
from meld_envs.robots import widowx
from meld_envs.robots.widowx import JOINTS, NUM_JOINTS
from meld_envs.robots.workspace import Outlook
from meld_envs.world import World

ETHERNET = "meld/WidowXEthernet-v0"
TIP = slice(15, 18)  # of the state: the tip's place, m

#: Joint angles in rad -> where the gripper's rail then is, m: reckoned from the published description.
PLACES = {
    (0.0, 0.0, 0.0, 0.0, 0.0): (0.3048, 0.0, 0.2670),
    (0.0, -1.571, 1.571, -1.745, 0.0): (-0.0199, 0.0, 0.2860),
    (0.0, -1.2603, 1.0876, 0.0, 0.0): (0.1322, 0.0, 0.2584),
    (0.0, 1.571, 0.0, -1.57, 0.0): (0.2565, 0.0, -0.0654),
    (0.0, 0.0, -1.57, 1.57, 0.0): (0.1629, 0.0, 0.4091),
    (0.0, -1.577, 1.562, 0.0, 0.0): (0.114, 0.0, 0.176),
    (-0.023, -0.537, 0.920, -0.442, 0.0): (0.215, -0.005, 0.225),
    (0.015, -1.484, 1.497, -0.008, -0.087): (0.1192, 0.0018, 0.1829),
    (0.015, -1.293, 1.011, -1.354, -0.072): (0.0056, 0.0001, 0.3641),
}
#: Which way the rail then looks.
DIRECTIONS = {
    (0.0, -1.571, 1.571, -1.745, 0.0): (-0.17, 0.0, 0.98),
    (0.0, 1.571, 0.0, -1.57, 0.0): (1.0, 0.0, 0.0),
}


@pytest.fixture(scope="module")
def arm():
    """The arm alone: model and data."""
    spec = mujoco.MjSpec()
    widowx.add_arm(spec)
    model = spec.compile()
    return model, mujoco.MjData(model)


def posed(arm, angles):
    model, data = arm
    mujoco.mj_resetData(model, data)
    data.qpos[:] = angles
    mujoco.mj_forward(model, data)
    return data


# The arm ------------------------------------------------------------------------------------


@pytest.mark.parametrize("angles", PLACES)
def test_forward_kinematics(arm, angles):
    assert np.linalg.norm(posed(arm, angles).site("rail").xpos - PLACES[angles]) < 6e-4


@pytest.mark.parametrize("angles", DIRECTIONS)
def test_which_way_the_hand_points(arm, angles):
    axes = posed(arm, angles).site("rail").xmat.reshape(3, 3)
    assert np.allclose(axes[:, 2], DIRECTIONS[angles], atol=6e-3)


def test_joints_turn_the_published_way_and_no_further(arm):
    model, _ = arm
    assert [model.joint(i).name for i in range(model.njnt)] == [f"joint_{i}" for i in range(1, 6)]
    limits = [(-2.617, 2.617), (-1.571, 1.571), (-1.571, 1.571), (-1.745, 1.745), (-2.617, 2.617)]
    assert np.allclose([model.joint(joint.name).range for joint in JOINTS], limits)
    assert np.allclose(model.actuator_ctrlrange, limits)
    turned = posed(arm, (0.3, 0.0, 0.0, 0.0, 0.0)).site("rail").xpos
    assert np.allclose(turned, (0.3048 * np.cos(0.3), 0.3048 * np.sin(0.3), 0.267), atol=1e-4)
    assert posed(arm, (0.0, 0.1, 0.0, 0.0, 0.0)).site("rail").xpos[2] < 0.267, "shoulder: forwards is down"


def test_the_arm_weighs_what_was_estimated(arm):
    model, _ = arm
    assert model.body_mass.sum() == pytest.approx(0.86)
    level = posed(arm, np.zeros(NUM_JOINTS)).qfrc_bias
    assert -level[1] == pytest.approx(1.15, abs=0.01), "at the shoulder, N m"


def test_inverse_kinematics_inverts_forward_kinematics(arm):
    rng = np.random.default_rng(0)
    places = rng.uniform((0.17, -0.04, 0.03), (0.22, 0.04, 0.10), (50, 3))
    turns = rng.uniform(-0.2, 0.2, 50)
    for place, turn, angles in zip(places, turns, widowx.angles_at(places, turns), strict=True):
        tip = posed(arm, angles).site(widowx.TIP)
        assert np.allclose(tip.xpos, place, atol=1e-9)
        down = [[-np.cos(turn), -np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0], [0, 0, -1]]
        assert np.allclose(tip.xmat.reshape(3, 3), down, atol=1e-9)
        assert (angles >= widowx.LIMITS[:, 0]).all() and (angles <= widowx.LIMITS[:, 1]).all()


def test_a_place_out_of_reach_stretches_the_arm(arm):
    angles = widowx.angles_at(np.array([0.8, 0.0, 0.1]), np.array(0.0))
    assert np.isfinite(angles).all()
    assert posed(arm, angles).site(widowx.TIP).xpos[0] > 0.25


# The servos ---------------------------------------------------------------------------------


def rest(arm, start, goal, seconds=2.0):
    """The angles at which the arm comes to rest."""
    model, data = arm
    mujoco.mj_resetData(model, data)
    data.qpos[:], data.ctrl[:] = start, goal
    mujoco.mj_step(model, data, nstep=int(seconds / model.opt.timestep))
    return data.qpos.copy()


def test_servos_sag_and_a_holding_goal_makes_up_for_it(arm):
    start = np.zeros(NUM_JOINTS)
    sag = rest(arm, start, start) - start
    assert 0.035 < sag[1] < 0.06, "down at the shoulder: 0.047 to 0.057 rad with little friction"
    assert np.abs(rest(arm, start, widowx.holding_goal(arm[0], start)) - start).max() < 1e-3


def test_servos_have_the_identified_motor(arm):
    model, data = arm
    shoulder, elbow = (model.actuator(f"joint_{index}").id for index in (2, 3))
    assert model.actuator_gainprm[shoulder, 0] == 24.9
    assert model.joint("joint_2").damping == pytest.approx(1.622**2 / 3.95 + 0.0117, abs=1e-3)
    assert model.joint("joint_2").armature == 0.01195
    mujoco.mj_resetData(model, data)
    data.ctrl[elbow] = 1.5
    mujoco.mj_forward(model, data)
    assert data.actuator_force[elbow] == pytest.approx(0.5 * 1.622 / 3.95 * 12.0, abs=0.01), "half duty, N m"


def test_goals_are_integrated_and_their_lead_is_bounded():
    angles, goal, velocities = np.zeros((2, 5)), np.full((2, 5), 0.05), np.array([[0.2], [-0.2]]) * np.ones(5)
    following = widowx.next_goal(goal, angles, velocities)
    assert np.allclose(following, [[0.054] * 5, [0.046] * 5])
    for _ in range(100):
        goal = widowx.next_goal(goal, angles, velocities)
    assert np.allclose(goal, [[widowx.LEAD] * 5, [-widowx.LEAD] * 5])
    far = widowx.next_goal(np.full(5, 1.57), np.full(5, 1.56), np.full(5, 0.2))
    assert np.allclose(far[1:3], [1.18, 1.551])


def test_room_and_limits_are_those_of_the_shipped_robots():
    for file in (TWIN, EXAMPLE):
        robot = load(file)
        limits = robot.limits()
        assert np.allclose(widowx.GOAL_LIMITS[:, 0] + widowx.MARGIN, limits.low)
        assert np.allclose(widowx.GOAL_LIMITS[:, 1] - widowx.MARGIN, limits.high)
        assert (robot.safety.lead, robot.safety.clearance, robot.safety.horizon) == (widowx.LEAD, 0.010, 0.05)
        assert limits.workspace.table == widowx_ethernet.ROOM.table
        assert limits.workspace.box == widowx_ethernet.ROOM.box
    assert load(TWIN).limits().workspace == widowx_ethernet.ROOM


def test_the_arm_keeps_clear_whatever_it_is_asked_for():
    actions = np.concatenate([np.eye(5), -np.eye(5), np.random.default_rng(0).choice([-1.0, 1.0], (10, 5))])
    env = held_out(ETHERNET, len(actions))
    env.reset(seed=0)
    nearest = np.inf
    for _ in range(env.episode_steps):
        env.step(actions)
        nearest = min(nearest, widowx_ethernet.ROOM.clearance(env.state()[:, :5]).min())
    assert 0.003 < nearest < 0.010, "10 mm, less what the arm sags below its goals"


def test_what_was_looked_at_before_spares_time_and_changes_nothing():
    rng, arms = np.random.default_rng(0), 40
    outlook, looks = Outlook.none(arms), []
    goal = np.tile(widowx_ethernet._start()[1], (arms, 1))
    velocities = rng.choice([-0.2, 0.2], (arms, NUM_JOINTS))
    for _ in range(200):
        angles = goal + rng.uniform(-0.01, 0.01, goal.shape)
        before = outlook.places.copy()
        following = next_goal(goal, angles, velocities, outlook)
        np.testing.assert_array_equal(following, next_goal(goal, angles, velocities))
        looks.append((outlook.places != before).any(axis=(1, 2)).mean())
        goal = following
    assert widowx_ethernet.ROOM.clearance(goal).min() < 0.013, "none came near anything"
    assert looks[0] == 1.0 and 0.0 < np.mean(looks) < 0.7


# The environment ----------------------------------------------------------------------------


def test_rate_steps_and_tasks_are_the_papers():
    env = gym.make(ETHERNET, obs_type="state").unwrapped
    family, model = env.family, env.family.build_model()
    assert family.control_hz == pytest.approx(3.33, abs=0.01)
    assert family.substeps * model.opt.timestep * family.control_hz == pytest.approx(1.0)
    assert family.ticks * widowx.TICK * family.control_hz == pytest.approx(1.0)
    assert (len(env.task_set.train), len(env.task_set.test), env.episode_steps) == (20, 10, 40)
    assert env.trial_steps == 40
    assert gym.make(ETHERNET).observation_space.shape == (64, 128, 3)
    assert env.action_space.shape == (5,)
    many = gym.make(ETHERNET, num_train_tasks=300, obs_type="state").unwrapped.task_set.train
    rows = np.array([[task.parameters[p.name] for p in family.parameters] for task in many])
    assert set(rows[:, 0]) == {0, 1, 2, 3}
    for column, span in ((1, 16.0), (2, 0.02)):
        assert rows[:, column].max() <= span / 2 and rows[:, column].min() >= -span / 2
        assert np.ptp(rows[:, column]) > 0.95 * span


def test_other_backends_say_what_they_need(tmp_path):
    with pytest.raises(ValueError, match="backend='robot' and config='my_arm"):
        gym.make(ETHERNET, backend="robot")
    with pytest.raises(ValueError, match="belong together"):
        gym.make(ETHERNET, config="my_arm.yaml")
    with pytest.raises(ValueError, match="cannot be read"):
        gym.make(ETHERNET, backend="robot", config=str(tmp_path / "none.yaml"))
    with pytest.raises(ValueError, match="backend='dream' is not allowed"):
        gym.make(ETHERNET, backend="dream")
    assert gym.make(ETHERNET, backend="sim").unwrapped.family.chosen == {"backend": "sim", "config": ""}


def test_the_plug_starts_free_and_stays_where_it_is():
    model = widowx_ethernet.build_spec().compile()
    data = mujoco.MjData(model)
    env = held_out(ETHERNET, 2)
    env.reset(seed=0)
    start = env.state()
    data.qpos[:] = start[0, :5]
    mujoco.mj_forward(model, data)
    assert data.ncon == 0
    assert np.allclose(data.site(widowx.TIP).xpos, widowx_ethernet.START_PLACE)
    for _ in range(40):
        env.step(np.zeros((2, 5)))
    assert np.abs(env.state()[:, TIP] - start[:, TIP]).max() < 5e-4


def test_a_joint_moves_as_fast_as_asked():
    env = held_out(ETHERNET, 5)
    env.reset(seed=0)
    for _ in range(2):
        env.step(0.5 * np.eye(5))
    before = env.state()[:, :5]
    for _ in range(4):
        env.step(0.5 * np.eye(5))
    moved = (env.state()[:, :5] - before).diagonal() / (4 * 0.3)
    assert np.allclose(moved, 0.1, rtol=0.06)


def test_rewards_are_those_of_place_and_turn():
    env = held_out(ETHERNET, 6)
    env.reset(seed=0, options={"task": list(env.task_set.test)})
    model = env.family.build_model()
    data = mujoco.MjData(model)
    for actions in np.random.default_rng(0).uniform(-1, 1, (6, 6, 5)):
        info = env.step(actions)[4]
        for trial, task in enumerate(env.task):
            data.qpos[:] = env.state()[trial, :5]
            mujoco.mj_forward(model, data)
            distance, angle = apart(data, task)
            assert info["score"][trial] == pytest.approx(-distance, abs=1e-9)
            assert info["reward_dense"][trial] == pytest.approx(-distance - angle, abs=1e-6)
            assert not info["success"][trial]


def apart(data, task):
    """How far a plug is from its place in the right port, in m and rad: reckoned from the task."""
    turn = np.radians(task.parameters["rotation"])
    y = (task.parameters["port"] - 1.5) * 0.018
    goal = (0.2 - y * np.sin(turn), task.parameters["translation"] + y * np.cos(turn), 0.030)
    upright, turned, wanted, have, difference = *np.zeros((4, 4)), np.zeros(3)
    mujoco.mju_mat2Quat(upright, np.diag([-1.0, 1.0, -1.0]).ravel())
    mujoco.mju_axisAngle2Quat(turned, np.array([0.0, 0.0, 1.0]), turn)
    mujoco.mju_mulQuat(wanted, turned, upright)
    mujoco.mju_mat2Quat(have, data.site(widowx.TIP).xmat)
    mujoco.mju_subQuat(difference, have, wanted)
    return np.linalg.norm(data.site(widowx.TIP).xpos - goal), np.linalg.norm(difference)


def test_only_the_right_port_pays_and_a_wrong_one_lets_go():
    env = held_out(ETHERNET, 4)
    pose = {"rotation": 6.0, "translation": -0.008}
    env.reset(seed=0, options={"task": [env.family.task(port=float(port), **pose) for port in range(4)]})
    for _ in range(20):
        info = env.step(env.candidate_action([1, 1, 1, 1]))[4]
    assert (env.candidates_tried() == [False, True, False, False]).all()
    assert info["success"].tolist() == [False, True, False, False]
    assert info["reward_sparse"].tolist() == [0.0, 1.0, 0.0, 0.0]
    assert info["reward_dense"][1] > -0.01
    for _ in range(20):
        info = env.step(env.expert_action())[4]
    assert info["success"].all()


# Physics ------------------------------------------------------------------------------------


def inserted(count):
    """So many held-out tasks with the plug in its port."""
    env = held_out(ETHERNET, count)
    env.reset(seed=0, options={"task": list(env.task_set.test)})
    for _ in range(20):
        info = env.step(env.expert_action())[4]
    assert info["success"].all()
    return env


@pytest.mark.parametrize("joint", [0, 4])
def test_a_port_holds_the_plug(joint):
    """Neither the base nor the last joint gets it out, or turns it, however long they push."""
    env, free = inserted(3), held_out(ETHERNET, 1)
    start, push = env.state(), np.eye(5)[joint]
    for turn in (1.0, -1.0):
        for _ in range(6):
            info = env.step(np.tile(turn * push, (3, 1)))[4]
        assert info["success"].all()
        assert np.abs(env.state()[:, TIP] - start[:, TIP]).max() < 0.0015
        assert np.abs(env.state()[:, joint] - start[:, joint]).max() < 0.11, "half a millimetre of play"
    free.reset(seed=0)
    before = free.state()[0, joint]
    for _ in range(6):
        free.step([push])
    assert free.state()[0, joint] - before > 0.3, "what the same pushes do in the air"


def pushed_in(sideways, turned):
    """Whether plugs get in that are pushed down beside port 1 by so much, m, and turned by so much, rad."""
    env = held_out(ETHERNET, len(turned))
    env.reset(seed=0, options={"task": env.family.task(port=1.0, rotation=0.0, translation=0.0)})
    for step in range(env.episode_steps):
        height = np.full(len(turned), 0.065 if step < 10 else max(0.030, 0.065 - 0.005 * (step - 10)))
        places = np.stack([np.full(len(turned), 0.2), sideways - 0.009, height], axis=1)
        angles = widowx.angles_at(places, turned)
        info = env.step(widowx.actions_towards(env.state()[:, :5], angles, 0.3))[4]
    return info["success"].tolist()


def test_a_plug_must_be_turned_as_its_port_is():
    turned = np.radians([0.0, 3.0, -3.0, 8.0, -8.0, 14.0])
    assert pushed_in(np.zeros(6), turned) == [True, True, True, False, False, False]


def test_slopes_lead_a_plug_in_that_is_a_little_beside():
    assert pushed_in(np.array([0.002, -0.002, 0.006, -0.006]), np.zeros(4)) == [True, True, False, False]


def test_pressing_bounds_the_lead_and_does_not_wind_up():
    env = held_out(ETHERNET, 1)
    env.reset(seed=0, options={"task": env.family.task(port=0.0, rotation=0.0, translation=0.0)})
    down = np.array([[0.0, 1.0, 0.0, 0.0, 0.0]])
    for step in range(30):  # onto a port, turned so that it does not go in
        places, turn = np.array([[0.2, -0.009, 0.065 - 0.004 * step]]), np.array([0.4])
        env.step(widowx.actions_towards(env.state()[:, :5], widowx.angles_at(places, turn), 0.3))
    pressed = env.state()[0]
    lead = pressed[10:15] - pressed[:5]
    assert 0.05 < np.abs(lead).max() < 0.1, "goals stay clear of the table, too"
    assert pressed[TIP][2] == pytest.approx(widowx_ethernet.FACE, abs=0.005), "the switch holds"
    for _ in range(3):
        env.step(-down)
    assert env.state()[0, 1] < pressed[1] - 0.03, "back within a second"


def test_the_base_stops_the_hand(arm):
    model, data = arm
    mujoco.mj_resetData(model, data)
    data.qpos[:] = widowx.angles_at(np.array([0.13, 0.0, 0.07]), np.array(0.0))
    mujoco.mj_forward(model, data)
    assert data.ncon == 0
    touches = 0
    for _ in range(40):  # joint 4 folds the hand inwards
        data.ctrl[:] = data.qpos + np.array([0.0, 0.04, 0.04, 0.1, 0.0])
        mujoco.mj_step(model, data, nstep=10)
        touches += data.ncon > 0
    assert touches > 5
    assert data.site(widowx.TIP).xpos[0] > 0.0945, "its radius is 95 mm"


def test_no_plug_goes_through_walls():
    """Held in the hand of an expert who trembles it meets every edge."""
    env, rng = held_out(ETHERNET, 40), np.random.default_rng(0)
    env.reset(seed=0, options={"task": list(env.task_set.test)})
    inspection = Inspection(env)
    inspection.new_tasks()
    for _ in range(env.episode_steps):
        actions = np.clip(env.expert_action() + rng.uniform(-0.5, 0.5, (40, 5)), -1, 1)
        for _ in range(env.family.ticks):
            env.family.control(env._world, actions)
            env._world.step(8)
            inspection.look()
    assert env.candidates_tried().any()
    assert 5e-5 < inspection.depth < 6e-4, "walls were touched, and hold"
    assert inspection.not_finite == env._world.warnings == 0
    row = inspect(ETHERNET, episodes=50, seed=1)
    assert row["deepest contact (mm)"] < 2.5, "the base, hit in full swing"
    assert row["not finite"] == row["warnings"] == 0


def alone():
    """One arm before a switch that is neither turned nor moved."""
    env = held_out(ETHERNET, 1)
    env.reset(seed=0, options={"task": env.family.task(port=0.0, rotation=0.0, translation=0.0)})
    return env


def loop(actions, physics):
    """An episode of one arm in a loop of our own; ``physics(data, goal, following)`` simulates a tick."""
    model = widowx_ethernet.build_spec().compile()
    data = mujoco.MjData(model)
    env = alone()
    data.qpos[:], goal = env.state()[0, :5], env.state()[0, 10:15]
    for action in actions:
        env.step([action])
        for _ in range(env.family.ticks):
            following = next_goal(goal[np.newaxis], data.qpos[np.newaxis], widowx.MAX_SPEED * action)[0]
            physics(model, data, goal, following)
            goal = following
    mujoco.mj_forward(model, data)
    return env.state()[0], data


def test_a_plain_loop_gives_the_same_numbers():
    """What emulated servos move is the same model under the same law."""

    def physics(model, data, goal, following):
        data.ctrl[:] = widowx.ramp(goal, following)
        mujoco.mj_step(model, data, nstep=8)

    state, data = loop(np.random.default_rng(0).uniform(-1, 1, (10, 5)), physics)
    assert np.array_equal(state[:5], data.qpos)
    assert np.array_equal(state[5:10], data.qvel)


def insertion():
    """The expert's actions, ``(40, 5)``."""
    env, actions = alone(), []
    for _ in range(env.episode_steps):
        actions.append(env.expert_action()[0].astype(np.float64))
        env.step([actions[-1]])
    return np.array(actions)


@pytest.mark.parametrize("what", ["insertion", 1, 2, 3])
def test_servos_that_know_ticks_only_and_move_evenly_end_at_the_same_place(what):
    """As real ones do it: goals in whole ticks, and an even ramp between them.

    Numbers are seeds of random actions that touch nothing; what slides on hard things for seconds diverges.
    """
    actions = insertion() if what == "insertion" else np.random.default_rng(what).uniform(-1, 1, (40, 5))
    size = np.array([widowx.MOTORS[joint.motor].span / widowx.MOTORS[joint.motor].ticks for joint in JOINTS])

    def physics(model, data, goal, following):
        old, new = (np.round(angles / size) * size for angles in (goal, following))
        for step in range(8):
            data.ctrl[:] = old + (step + 1) / 8 * (new - old)
            mujoco.mj_step(model, data)

    state, data = loop(actions, physics)
    assert np.linalg.norm(state[TIP] - data.site(widowx.TIP).xpos) < 0.0004
    assert np.abs(state[:5] - data.qpos).max() < np.radians(0.5)
    assert (data.ncon > 0) == (what == "insertion")


# References ---------------------------------------------------------------------------------


def test_the_expert_inserts_nearly_always_and_chance_never():
    assert success_by_episode(held_out(ETHERNET, 100), lambda env, _: env.expert_action())[-1] >= 0.95
    assert success_by_episode(held_out(ETHERNET, 50), random_actions(1))[-1] <= 0.02
    assert success_by_episode(held_out(ETHERNET, 50), lambda env, _: np.zeros((50, 5))) == [0.0]


def test_the_explorer_needs_no_more_than_the_reward():
    env = held_out(ETHERNET, 24, reward_type="sparse", episodes_per_trial=2)
    explorer = ExplorerPolicy(env)
    first, second = success_by_episode(env, lambda _, evidence: explorer.act(evidence))
    assert first > 0.7
    assert second > 0.95
    explorer.start_trial()
    blind = success_by_episode(env, lambda _, e: explorer.act(e._replace(reward=np.zeros(24))))
    assert blind[1] < 0.6, "without the reward it learns nothing from its search"


def test_what_a_policy_needs_is_seen():
    """The plug and the switch in both cameras' pictures, and from the wrist four dark ports in a row."""
    env = gym.make_vec(ETHERNET, num_envs=1)
    task = env.unwrapped.family.task(port=0.0, rotation=0.0, translation=0.0)
    frame = env.reset(seed=0, options={"task": task})[0][0].astype(int)
    env.close()
    for picture in (frame[:, :64], frame[:, 64:]):
        red, green, blue = np.moveaxis(picture, -1, 0)
        assert ((np.minimum(red, green) - blue) > 90).sum() > 20, "yellow"
        assert (picture.min(axis=-1) > 200).sum() > 50, "white"
    dark = (frame[36:, 64:].max(axis=-1) < 100).sum(axis=0) > 1
    assert np.count_nonzero(np.diff(dark.astype(int)) == 1) == 4


def test_meshes_look_like_the_boxes_that_are_touched():
    """Faces that nobody sees are left out, and no others; none is inside out."""

    def drawn(meshes):
        spec = widowx_ethernet.build_spec()
        for geom in spec.body("switch").geoms:
            if geom.type == mujoco.mjtGeom.mjGEOM_MESH:
                geom.group = 0 if meshes else UNSEEN
            elif geom.group == UNSEEN:
                geom.group = UNSEEN if meshes else 0
        if not meshes:
            for y in widowx_ethernet.PORT_Y:
                place = (0.0, y, widowx_ethernet.FACE - widowx_ethernet.DEPTH + 0.0001)
                half = (*widowx_ethernet.HALF_PORT, 0.0005)
                look = {"material": "hole", "contype": 0, "conaffinity": 0}
                spec.body("switch").add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=half, pos=place, **look)
        world = World(spec.compile(), len(poses), varied=("body_quat",))
        world.qpos[:] = poses
        turned = world.model.body("switch").id
        world.fields["body_quat"][:, turned] = turns
        camera = Camera(world, widowx_ethernet.WidowXEthernet.cameras, 64, quality=quality)
        frames = camera.draw().astype(int)
        camera.close()
        return frames

    quality = widowx_ethernet.WidowXEthernet.quality
    places = [(0.16, 0.0, 0.09), (0.15, 0.04, 0.1), (0.15, -0.04, 0.1), (0.2, 0.027, 0.05)]
    poses = np.array([widowx.angles_at(np.array(place), np.array(0.1)) for place in places])
    turns = np.array([(np.cos(half), 0.0, 0.0, np.sin(half)) for half in (0.0, 0.07, -0.07, 1.0)])
    meshes, boxes = drawn(True), drawn(False)
    differs = np.abs(meshes - boxes).max(axis=-1) > 60
    assert differs.mean(axis=(1, 2)).max() < 2e-3, "but for single pixels at edges"


def test_links_without_contacts_reach_nothing():
    model = widowx_ethernet.build_spec().compile()
    data = mujoco.MjData(model)
    links = {model.body(name).id for name in widowx.FREE}
    free = [geom for geom in range(model.ngeom) if model.geom_bodyid[geom] in links]
    touched = [geom for geom in range(model.ngeom) if model.geom_conaffinity[geom]]
    base = model.geom("base_0").id
    assert len(free) == 4 and len(touched) > 15
    nearest = np.inf
    for base_turn in np.linspace(*widowx.LIMITS[0], 15):
        for lean in np.linspace(*widowx.LIMITS[1], 25):
            data.qpos[:2] = base_turn, lean
            mujoco.mj_kinematics(model, data)
            for geom in free:
                for other in touched:
                    if not (other == base and model.geom(geom).name == "shoulder_0"):  # stands on it
                        gap = mujoco.mj_geomDistance(model, data, geom, other, 0.2, None)
                        nearest = min(nearest, gap)
    assert 0.005 < nearest < 0.05
