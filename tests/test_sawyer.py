"""The Sawyer families are what the sources say, and their physics holds."""

from __future__ import annotations

import sys

import gymnasium as gym
import mujoco
import numpy as np
import pytest

import meld_envs
from benchmarks.solvability import held_out, inspect, random_actions, success_by_episode
from meld_agents.reference import Explorer, ExplorerPolicy
from meld_envs.env import load_family
from meld_envs.families import button_press, peg_insert, reacher, sawyer, shelf_place
from meld_envs.families.button_press import ButtonPress
from meld_envs.families.peg_insert import PegInsert
from meld_envs.families.reacher import Reacher
from meld_envs.families.shelf_place import ShelfPlace
from meld_envs.robots.sawyer import JOINTS, NUM_JOINTS

REACHER, PEG, SHELF, BUTTON = (
    f"meld/{name}-v0" for name in ("Reacher", "PegInsert", "ShelfPlace", "ButtonPress")
)
ARMS = [REACHER, PEG, SHELF, BUTTON]
every_arm = pytest.mark.parametrize("env_id", ARMS)
HOLDS_NOTHING = [REACHER, PEG, BUTTON]  # heavy: with the mug's weight the arm sinks or rises

#: Of the released environments, at their start poses (m): what forward kinematics must give.
PLACES = {
    Reacher: {
        "right_l1": (0.0810, 0.0500, 0.3170),
        "right_l2": (0.1752, 0.1925, 0.4206),
        "right_l3": (0.3512, 0.1505, 0.6120),
        "right_l4": (0.4366, 0.0278, 0.5158),
        "right_l5": (0.6192, 0.0669, 0.3115),
        "right_l6": (0.7112, 0.1739, 0.2542),
        "end_effector": (0.7602, 0.1748, 0.2195),
        "tip": (0.78470, 0.17533, 0.20216),
    },
    PegInsert: {
        "right_l1": (0.0923, 0.0234, 0.3170),
        "right_l2": (0.2252, 0.1309, 0.4203),
        "right_l3": (0.3818, 0.0377, 0.6105),
        "right_l4": (0.4278, -0.1013, 0.5095),
        "right_l5": (0.6080, -0.1082, 0.2995),
        "right_l6": (0.6410, -0.0054, 0.1921),
        "end_effector": (0.6456, -0.0052, 0.1323),
        "tip": (0.64786, -0.00505, 0.10240),
    },
    ButtonPress: {
        "right_l1": (0.0841, -0.0554, 0.3670),
        "right_l2": (0.2031, 0.0797, 0.4537),
        "right_l3": (0.4041, 0.0245, 0.6146),
        "right_l4": (0.4927, -0.1080, 0.5358),
        "right_l5": (0.7076, -0.0909, 0.3623),
        "right_l6": (0.7430, 0.0123, 0.2561),
        "end_effector": (0.7586, 0.0113, 0.1982),
        "tip": (0.76641, 0.01075, 0.16921),
    },
}
SHELF_RELEASED_START = (-0.029997, -0.56, 0.0299998, 2.10036, 0.11904, -1.16064, -1.46072)

#: Right, up, forward and position of cameras in the world, at the start poses (released code).
CAMERAS = {
    (Reacher, "scene"): ((0, -1, 0), (0.796, 0, 0.605), (0.605, 0, -0.796), (-0.7, 0, 1.7)),
    (Reacher, "side"): ((1, 0, 0), (0, 0.071, 0.997), (0, 0.997, -0.071), (0.5, -2.4, 0.4)),
    (PegInsert, "scene"): ((0, -1, 0), (0.900, 0, 0.435), (0.435, 0, -0.900), (0.15, -0.075, 0.8)),
    (PegInsert, "wrist"): (None, (-0.016, -1.0, -0.005), (-0.536, 0.013, -0.844), (0.825, -0.010, 0.407)),
    (ButtonPress, "scene"): ((1, 0, 0), (0, 0.362, 0.932), (0, 0.932, -0.362), (0.7, -0.9, 0.5)),
    (ButtonPress, "wrist"): (None, None, None, (0.883, 0.038, 0.500)),
    (ShelfPlace, "scene"): ((1, 0, 0), (0, 0.660, 0.751), (0, 0.751, -0.660), (0, -0.4, 1.3)),
    (ShelfPlace, "side"): ((0, 1, 0), (-0.268, 0, 0.964), (-0.964, 0, -0.268), (1.4, 0.4, 0.6)),
}


def at(family, angles=None):
    """A family's model and data with the arm in a pose, its start by default."""
    model = family.build_model()
    data = mujoco.MjData(model)
    data.qpos[:NUM_JOINTS] = family.start if angles is None else angles
    mujoco.mj_forward(model, data)
    return model, data


def place(data, name):
    return data.site(name).xpos if name == "tip" else data.body(name).xpos


# The arm ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", PLACES)
def test_forward_kinematics(family):
    _, data = at(family())
    for name, expected in PLACES[family].items():
        assert np.linalg.norm(place(data, name) - expected) < 1e-3, name


def test_forward_kinematics_of_the_turned_arm():
    _, data = at(ShelfPlace(), SHELF_RELEASED_START)
    assert np.linalg.norm(data.body("right_l6").xpos - (-0.1436, 0.5550, 0.0884)) < 1e-3


def test_the_arm_is_the_published_one():
    model, data = at(Reacher(), np.zeros(NUM_JOINTS))
    assert np.allclose(data.site("tip").xpos, (1.081, 0.1603, 0.317), atol=1e-3)
    ranges = [(-3.0503, 3.0503), (-3.8, 2.2), (-3.0426, 3.0426), (-3.0439, 3.0439)]
    ranges += [(-2.9761, 2.9761), (-2.9761, 2.9761), (-4.7124, 4.7124)]
    for joint, limits in zip(JOINTS, ranges, strict=True):
        assert np.allclose(model.joint(joint).range, limits)
        assert model.joint(joint).damping == 10
        assert model.joint(joint).armature == 0.1
        assert model.actuator(joint).gainprm[0] == 50
    masses = [5.3213, 4.505, 1.745, 2.5097, 1.1136, 1.5625, 0.3292]
    assert np.allclose([model.body(f"right_l{index}").mass[0] for index in range(7)], masses)
    assert model.opt.timestep == 0.0025
    assert Reacher.control_hz * Reacher.substeps * model.opt.timestep == 1.0
    assert Reacher.episode_steps == 40


def test_inertia_at_the_start():
    model, data = at(Reacher())
    full = np.zeros((model.nv, model.nv))
    mujoco.mj_fullM(model, data, full)
    assert np.allclose(np.diag(full), [2.01, 1.56, 0.65, 0.57, 0.13, 0.11, 0.10], atol=0.01)


@pytest.mark.parametrize("family", [Reacher, PegInsert, ButtonPress])
def test_nothing_touches_at_the_start(family):
    assert at(family())[1].ncon == 0


def test_only_the_fingers_touch_the_mug_at_the_start():
    model, data = at(ShelfPlace())
    touching = {frozenset(model.geom(geom).name[:6] for geom in pair) for pair in data.contact.geom}
    assert touching == {frozenset({"finger", "mug_to"})}


def test_a_joint_moves_003_a_step_when_steady():
    env = held_out(REACHER, NUM_JOINTS)
    env.reset(seed=0)
    angles = [env.state()[:, :NUM_JOINTS]]
    for _ in range(12):
        env.step(np.eye(NUM_JOINTS))
        angles.append(env.state()[:, :NUM_JOINTS])
    moved = np.diff([np.diag(a) for a in angles], axis=0)  # (steps, joints)
    assert np.allclose(moved[0], [0.019, 0.022, 0.027, 0.028, 0.029, 0.029, 0.029], atol=0.0012)
    assert ((moved[5:] > 0.0285) & (moved[5:] < 0.031)).all()


@pytest.mark.parametrize("env_id", HOLDS_NOTHING)
def test_zero_actions_hold_the_arm_still(env_id):
    env = held_out(env_id, 2)
    env.reset(seed=0)
    start = env.state()[:, :NUM_JOINTS]
    for _ in range(env.trial_steps):
        env.step(np.zeros((2, NUM_JOINTS)))
    assert np.abs(env.state()[:, :NUM_JOINTS] - start).max() < 1e-6


@pytest.mark.parametrize("family, camera", CAMERAS)
def test_cameras_look_where_the_released_ones_do(family, camera):
    _, data = at(family())
    right, up, forward, position = CAMERAS[family, camera]
    axes = data.camera(camera).xmat.reshape(3, 3)
    for axis, expected in ((axes[:, 0], right), (axes[:, 1], up), (-axes[:, 2], forward)):
        assert expected is None or np.allclose(axis, expected, atol=2e-3)
    assert np.allclose(data.camera(camera).xpos, position, atol=1e-3)


# Keywords -----------------------------------------------------------------------------------


@every_arm
def test_two_cameras_side_by_side(env_id):
    frames = {}
    for second in ("wrist", "side"):
        env = gym.make_vec(env_id, num_envs=1, second_camera=second)
        frames[second] = env.reset(seed=0, options={"task": env.unwrapped.task_set.train[0]})[0][0]
        env.close()
    assert frames["wrist"].shape == (64, 128, 3)
    assert (frames["wrist"][:, :64] == frames["side"][:, :64]).all()
    assert (frames["wrist"][:, 64:] != frames["side"][:, 64:]).any()


@every_arm
def test_bad_choices_are_refused(env_id):
    for keyword, value in (("second_camera", "ceiling"), ("reward_formula", "shaped")):
        with pytest.raises(ValueError, match=f"{keyword}='{value}' is not allowed"):
            gym.make(env_id, **{keyword: value})
    with pytest.raises(TypeError, match="did you mean 'second_camera'"):
        gym.make(env_id, second_cam="wrist")


def test_choices_belong_to_their_families():
    with pytest.raises(TypeError, match="unknown keyword 'layout'"):
        gym.make(REACHER, layout="three_fixed")


# Rewards ------------------------------------------------------------------------------------

#: Distance in metres -> the released code's reward.
RELEASED = {
    0.001: 2.8308, 0.005: 1.5715, 0.01: 0.9727, 0.02: 0.3644, 0.03: 0.0, 0.05: -0.4836, 0.10: -1.2731,
    0.15: -1.9378, 0.20: -2.6251, 0.30: -4.2273, 0.40: -6.2272, 0.50: -8.6710, 0.60: -11.5794, 0.0: 3.3749,
}  # fmt: skip
RELEASED_SHELF = {
    0.01: 2.5978, 0.02: 1.9896, 0.05: 1.1416, 0.06: 0.9557, 0.1: 0.3520, 0.2: -1.0, 0.3: -2.6022,
    0.4: -4.6021,
}  # fmt: skip


def test_reward_tables():
    distances = np.array(list(RELEASED))
    assert np.allclose(sawyer.released_reward(distances), list(RELEASED.values()), atol=1e-4)
    shelf = sawyer.released_shape(5.0 * np.array(list(RELEASED_SHELF)))
    assert np.allclose(shelf, list(RELEASED_SHELF.values()), atol=1e-4)
    by_hand = {0.0: 11.512925, 0.05: 2.995532 - 0.0025, 0.1: 2.302485 - 0.01, 0.5: 0.693127 - 0.25}
    assert np.allclose(sawyer.paper_reward(np.array(list(by_hand))), list(by_hand.values()), atol=1e-5)


def goals(env):
    """Where the tip, or the mug's bottom, should be, ``(n, 3)``: reckoned from the tasks."""
    rows = []
    for task in env.task:
        p = task.parameters
        if task.family == "Reacher":
            rows.append((p["goal_x"], p["goal_y"], p["goal_z"]))
        elif task.family == "PegInsert":
            box = int(p["box"])
            rows.append((p[f"box{box}_x"], p[f"box{box}_y"], 0.0))
        elif task.family == "ShelfPlace":
            rows.append((p["goal_x"], 0.95, 0.221))
        else:
            rows.append((p["panel_x"], (0.14, 0.0, -0.14)[int(p["button"])], -0.043))
    return np.array(rows)


@every_arm
@pytest.mark.parametrize("formula", ["paper", "released"])
def test_dense_rewards_are_those_of_the_distance(env_id, formula):
    env = held_out(env_id, 6, reward_formula=formula)
    env.reset(seed=0, options={"task": list(env.task_set.test)})
    for action in np.random.default_rng(0).uniform(-1, 1, (6, 6, NUM_JOINTS)):
        info = env.step(action)[4]
        state = env.state()
        points = state[:, 17:20] if env_id == SHELF else state[:, 14:17]
        distance = np.linalg.norm(points - goals(env), axis=1)
        assert np.allclose(info["score"], -distance)
        if formula == "paper":
            expected = -(distance**2 + np.log(distance + 1e-5))
        elif env_id == SHELF:
            continue  # also depends on how the mug leans: see the next test
        else:
            expected = -((5 * distance) ** 2 + np.log10((5 * distance) ** 2 + 1e-5)) - 1.625125
        assert np.allclose(info["reward_dense"], expected, atol=1e-6)


def test_the_shelfs_released_reward_asks_for_an_upright_mug():
    env = held_out(SHELF, 1, reward_formula="released")
    env.reset(seed=0)
    info = env.step(np.zeros((1, 7)))[4]
    (mug,) = env.state()[:, 17:20]
    bottom = np.linalg.norm(mug - goals(env)[0])  # upright: its top is as far off as its bottom
    expected = -((5 * bottom) ** 2 + np.log10((5 * bottom) ** 2 + 1e-5))
    assert info["reward_dense"][0] == pytest.approx(expected, abs=0.02)


@every_arm
def test_sparse_reward_is_one_or_zero_and_comes_with_success(env_id):
    pytest.importorskip("dm_control")
    env = held_out(env_id, 8)
    env.reset(seed=0, options={"task": list(env.task_set.test)})
    seen = set()
    for _ in range(env.trial_steps):
        info = env.step(env.expert_action())[4]
        if env_id != BUTTON:  # where success lasts for the episode
            assert (info["reward_sparse"] == info["success"]).all()
        seen |= set(info["reward_sparse"].tolist())
    assert seen == {0.0, 1.0}


# Tasks --------------------------------------------------------------------------------------


def test_task_ranges():
    def values(env_id, name):
        env = gym.make(env_id, num_train_tasks=300, obs_type="state").unwrapped
        return np.array([task.parameters[name] for task in env.task_set.train])

    for axis, (low, high) in zip("xyz", reacher.BOX, strict=True):
        drawn = values(REACHER, f"goal_{axis}")
        assert low <= drawn.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < drawn.max() <= high
    assert set(values(PEG, "box")) == {0, 1, 2, 3}
    assert set(values(BUTTON, "button")) == {0, 1, 2}
    for name, env_id, (low, high) in (
        ("box2_x", PEG, peg_insert.RANGES[2][0]),
        ("box1_y", PEG, peg_insert.RANGES[1][1]),
        ("panel_x", BUTTON, button_press.PANEL_X),
        ("mass", SHELF, shelf_place.MASS),
        ("goal_x", SHELF, shelf_place.GOAL_X),
    ):
        drawn = values(env_id, name)
        assert low <= drawn.min() < drawn.max() <= high
        assert np.ptp(drawn) > 0.9 * (high - low)


def test_an_index_must_be_whole():
    env = gym.make(BUTTON, obs_type="state").unwrapped
    with pytest.raises(ValueError, match="button must be a whole number"):
        env.family.task(button=0.5, panel_x=0.75)


def test_three_fixed_boxes_are_train_and_test_tasks():
    env = gym.make(PEG, layout="three_fixed", obs_type="state").unwrapped
    assert [task.parameters for task in env.task_set.train] == [{"box": 0.0}, {"box": 1.0}, {"box": 2.0}]
    assert env.task_set.train == env.task_set.test
    assert type(env.task_set).from_dict(env.task_set.to_dict()) == env.task_set
    assert env.observation_space.shape == (len(env.family.state_names),) == (23,)
    with pytest.raises(ValueError, match="only 3 tasks"):
        gym.make(PEG, layout="three_fixed", num_train_tasks=4)
    four = gym.make(PEG, obs_type="state").unwrapped
    with pytest.raises(ValueError, match="does not have the parameters"):
        four.set_task(env.task_set.train[0])


def test_three_fixed_boxes_reward_position_and_orientation():
    pytest.importorskip("dm_control")
    env = gym.make_vec(PEG, num_envs=3, layout="three_fixed", obs_type="state").unwrapped
    env.reset(seed=0, options={"task": list(env.task_set.train)})
    first = env.step(np.zeros((3, 7)))[4]
    _, data = at(PegInsert())
    want = np.array([[0, -1, 0], [-1, 0, 0], [0, 0, -1]], dtype=float)
    quaternions, difference = np.zeros((2, 4)), np.zeros(3)
    mujoco.mju_mat2Quat(quaternions[0], data.site("tip").xmat)
    mujoco.mju_mat2Quat(quaternions[1], want.ravel())
    mujoco.mju_subQuat(difference, *quaternions)
    expected = first["score"] - np.linalg.norm(difference)
    assert np.allclose(first["reward_dense"], expected, atol=1e-6)
    for _ in range(39):
        info = env.step(env.expert_action())[4]
    assert info["success"].all()
    assert (info["reward_dense"] > -0.03).all()


# Physics ------------------------------------------------------------------------------------


def test_a_peg_pushed_at_a_wall_stops_and_an_inserted_one_is_held():
    pytest.importorskip("dm_control")
    env = held_out(PEG, 4)
    tasks = [env.family.task(**{**env.task_set.test[0].parameters, "box": float(box)}) for box in range(4)]
    env.reset(seed=0, options={"task": tasks})
    for _ in range(24):
        info = env.step(env.expert_action())[4]
    assert info["success"].all()
    for turn in (1.0, -1.0):  # the shoulder swings the peg sideways, as far as it can
        for _ in range(8):
            env.step(np.tile([turn, 0, 0, 0, 0, 0, 0], (4, 1)))
        sideways = env.state()[:, 14:17] - goals(env)
        assert (np.abs(sideways[:, :2]) < 0.02).all(), "inside the hole"
        assert (sideways[:, 2] < 0.06).all()
    free = held_out(PEG, 1)
    free.reset(seed=0)
    before = free.state()[0, 14:17]
    for _ in range(8):
        free.step([[1.0, 0, 0, 0, 0, 0, 0]])
    assert np.linalg.norm(free.state()[0, 14:17] - before) > 0.12, "what the same pushes do in the air"


def test_no_peg_goes_through_walls():
    row = inspect(PEG, episodes=100, seed=1)
    assert 0.1 < row["deepest contact (mm)"] < 2.0, "walls were touched, and hold"
    assert row["not finite"] == row["warnings"] == 0


def test_the_grasp_holds():
    row = inspect(SHELF, episodes=50, seed=1)
    assert row["slip (mm)"] < 10.0
    assert row["not finite"] == row["warnings"] == 0


def test_the_mugs_mass_matters():
    env = held_out(SHELF, 2)
    light, heavy = (env.family.task(mass=mass, goal_x=0.0) for mass in shelf_place.MASS)
    for actions in (np.zeros((40, 1, 7)), np.random.default_rng(0).uniform(-1, 1, (40, 1, 7))):
        env.reset(seed=[0, 0], options={"task": [light, heavy]})
        for action in actions:
            env.step(np.repeat(action, 2, axis=0))
        ends = env.state()[:, 17:20]
        assert np.linalg.norm(ends[0] - ends[1]) > 0.05


def test_buttons_move_and_only_the_right_one_pays():
    pytest.importorskip("dm_control")
    env = held_out(BUTTON, 3)
    panel = {"panel_x": 0.74}
    env.reset(seed=0, options={"task": [env.family.task(button=float(b), **panel) for b in range(3)]})
    assert np.abs(env.state()[:, 18:]).max() < 1e-9
    for _ in range(20):
        info = env.step(env.candidate_action([1, 1, 1]))[4]  # all press the middle one
    depths = env.state()[:, 18:]
    assert (depths[:, 1] > button_press.TRIGGER).all()
    assert (depths[:, 1] < 0.011).all(), "to its stop, and no further"
    assert np.abs(depths[:, [0, 2]]).max() < 1e-3
    assert info["reward_sparse"].tolist() == [0.0, 1.0, 0.0]
    assert info["success"].tolist() == [False, True, False]
    for _ in range(10):
        info = env.step(env.candidate_action([0, 0, 0]))[4]
    assert np.abs(env.state()[:, 19]).max() < 1e-3, "springs bring it back"
    assert info["reward_sparse"][1] == 0, "only while it is down"
    assert info["success"][1], "once pressed in an episode is enough"


def test_a_button_pressed_in_an_earlier_episode_does_not_count():
    pytest.importorskip("dm_control")
    env = held_out(BUTTON, 1, episodes_per_trial=2)
    env.reset(seed=0)
    for _ in range(env.episode_steps):
        info = env.step(env.expert_action())[4]
    assert info["success"].all()
    for _ in range(env.episode_steps + 1):
        info = env.step(np.zeros((1, 7)))[4]
    assert not info["success"].any()


# References ---------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", [PEG, SHELF, BUTTON])
def test_standing_still_solves_nothing(env_id):
    env = held_out(env_id, 50)
    assert success_by_episode(env, lambda env, _: np.zeros((50, 7))) == [0.0]


@every_arm
def test_random_actions_solve_next_to_nothing(env_id):
    assert success_by_episode(held_out(env_id, 50), random_actions(1))[-1] <= 0.06


@pytest.mark.parametrize("env_id", [PEG, BUTTON])
def test_the_explorer_needs_no_more_than_the_reward(env_id):
    pytest.importorskip("dm_control")
    env = held_out(env_id, 24, reward_type="sparse", episodes_per_trial=2)
    explorer = ExplorerPolicy(env)
    first, second = success_by_episode(env, lambda _, evidence: explorer.act(evidence))
    assert second > 0.9
    assert first > 0.2
    explorer.start_trial()
    blind = success_by_episode(env, lambda _, e: explorer.act(e._replace(reward=np.zeros(24))))
    assert blind[1] < 0.6, "without the reward it learns nothing from its search"


def test_the_explorer_refuses_what_it_cannot_use():
    for env_id, message in ((BUTTON, "reward_type='sparse'"), (REACHER, "no candidates")):
        with pytest.raises(ValueError, match=message):
            Explorer(lambda count, env_id=env_id: gym.make_vec(env_id, num_envs=count), {}, 0, "cpu")
    env = gym.make_vec(REACHER, num_envs=1, obs_type="state").unwrapped
    env.reset(seed=0)
    with pytest.raises(NotImplementedError, match="no candidates"):
        env.candidates_tried()


def test_experts_without_dm_control_say_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "dm_control"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "dm_control", None)
    sawyer._solver.cache_clear()
    sawyer._solve.cache_clear()
    env = gym.make(REACHER, obs_type="state").unwrapped
    env.reset(seed=0)
    with pytest.raises(ImportError, match=r"meld-suite\[experts\]"):
        env.expert_action()


def test_arms_are_all_listed():
    families = {
        i for i, path in meld_envs.FAMILIES.items() if isinstance(load_family(path), sawyer.SawyerFamily)
    }
    assert families == set(ARMS)


def test_what_a_policy_needs_is_seen():
    """The three buttons in both cameras' pictures, and the blue boxes with their holes."""
    env = gym.make_vec(BUTTON, num_envs=1)
    frame = env.reset(seed=0)[0][0].astype(int)
    for picture in (frame[:, :64], frame[:, 64:]):
        for channel in range(3):
            others = np.delete(picture, channel, axis=-1).max(axis=-1)
            assert (picture[..., channel] - others > 60).sum() >= 4
    env.close()
    env = gym.make_vec(PEG, num_envs=1)
    frame = env.reset(seed=0)[0][0].astype(int)
    blue = frame[..., 2] - frame[..., :2].max(axis=-1) > 60
    assert blue[:, :64].sum() > 300
    assert blue[:, 64:].sum() > 300
    env.close()
