"""The WidowX is the published one, its ports hold a plug, and its tasks are the paper's."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from meld_envs.robots import widowx
from meld_envs.robots.widowx import JOINTS, NUM_JOINTS

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
    assert np.allclose(goal, [[0.1] * 5, [-0.1] * 5])
    assert np.allclose(widowx.next_goal(np.full(5, 1.57), np.full(5, 1.56), np.full(5, 0.2))[1:3], 1.571)
