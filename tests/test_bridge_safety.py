"""The safety layer: promise by promise, and over adversarial streams of actions nothing outside any limit."""

from __future__ import annotations

import itertools
import math
import os
from dataclasses import replace

import numpy as np
import pytest

from hardware_bridge.faults import KINDS, Condition, FaultError, Faults, Response, Severity
from hardware_bridge.fences import differences, fences
from hardware_bridge.limiter import Change, Limiter, Limits, Reference
from hardware_bridge.safety import Mode, Safety
from hardware_bridge.safety_settings import SafetySettings
from hardware_bridge.servos import PROFILES, WIDOWX_MK2, WX200
from hardware_bridge.watchdogs import Deadline, DeadlineState, Plausibility, Reading, Window
from meld_envs.robots.workspace import BODIES, Box, Workspace

SETTINGS = SafetySettings()
#: Of one adversarial stream; more of them: set the variable.
SECONDS = float(os.environ.get("MELD_SAFETY_SECONDS", "5"))
ROOM = Box((-0.30, -0.45, -0.02), (0.45, 0.45, 0.62))
RIG = Box((0.28, -0.15, 0.0), (0.45, 0.15, 0.12))
SPEED, ACCELERATION = (0.5,) * 5, (9.0,) * 5
START = {"widowx_mk2": (0.0, -0.6, 0.9, -0.3, 0.0), "wx200": (0.0, -0.6, 0.9, 0.3, 0.0)}


def limits_of(profile="widowx_mk2", settings=SETTINGS, speed=SPEED, acceleration=ACCELERATION) -> Limits:
    workspace = Workspace(BODIES[profile], ROOM, table=0.0, keep_out=RIG)
    return Limits.of(PROFILES[profile].joints, settings, workspace, speed, acceleration)


class Arm:
    """Servos in joint mode: each goes to its goal at its moving speed, and stays; sags, and may be held.

    What a P-only servo lacks under gravity is subtracted from where it says to be.
    """

    def __init__(self, position, sag=0.0):
        self.true = np.array(position, dtype=float)
        self.goal, self.speed, self.sag = self.true.copy(), np.zeros_like(self.true), np.asarray(sag)
        self.held = np.zeros(len(self.true), dtype=bool)
        self.velocity = np.zeros_like(self.true)
        self.trace = []  # of (time, greatest way within the tick)

    def obey(self, command):
        if command.goal is not None:
            self.goal, self.speed = command.goal.copy(), command.speed.copy()

    def move(self, dt):
        step = np.clip(self.goal - self.true, -self.speed * dt, self.speed * dt) * ~self.held
        self.true, self.velocity = self.true + step, step / dt
        return step

    def reading(self, at, **more):
        more = {"load": np.full(5, 0.2), "voltage": np.full(5, 12.0), "temperature": np.full(5, 40.0), **more}
        return Reading(at, self.true - self.sag, self.velocity, **more)


class Auditor:
    """Checks every command that was sent against every limit, independently of the limiter's arithmetic."""

    def __init__(self, limits: Limits, position):
        self.limits, self.sent, self.start = limits, 0, np.array(position, dtype=float)
        self.velocity, self.at = np.zeros(len(position)), None

    def check(self, command, measured, arm):
        if command.goal is None:
            return
        limits, s = self.limits, self.limits.settings
        self.sent += 1
        assert np.isfinite(command.goal).all() and np.isfinite(command.speed).all()
        assert (command.goal >= limits.low).all() and (command.goal <= limits.high).all(), "limits"
        assert (command.speed <= limits.speed + 1e-12).all() and (command.speed > 0).all(), "speed"
        ticks = command.speed / limits.unit
        np.testing.assert_allclose(ticks, np.round(ticks), atol=1e-6, err_msg="a speed no register holds")
        assert (np.abs(command.velocity) <= command.speed + 1e-9).all()
        if self.at is not None:
            most = limits.acceleration * (command.at - self.at) + 1e-9
            assert (np.abs(command.velocity - self.velocity) <= most).all(), "acceleration"
        self.velocity, self.at = command.velocity, command.at
        assert (np.abs(command.goal - measured) <= s.lead + 1e-12).all(), "lead"
        # Every configuration that the servos pass on the way to the goal, however late anybody stops them.
        way = arm.true + np.linspace(0, 1, 25)[:, None] * (command.goal - arm.true)
        clearance = limits.workspace.clearance(way).min()
        assert clearance > 0.0, limits.workspace.nearest(way[limits.workspace.clearance(way).argmin()])


def run(
    profile, seconds, actions, seed=0, sag=0.0, jitter=0.0, start=None, disturb=None, stop_on_fault=False
):
    """Ticks the door for a while with actions from a function of (step, generator); returns what was seen."""
    rng = np.random.default_rng(seed)
    limits = limits_of(profile)
    safety = Safety(limits, PROFILES[profile].rest)
    arm = Arm(START[profile] if start is None else start, sag)
    now = 10.0
    arm.obey(safety.start(arm.reading(now), now))
    safety.begin_episode(now)
    auditor, commands, sequence, due = Auditor(limits, arm.true), [], 0, now
    while now < 10.0 + seconds:
        dt = SETTINGS.tick * (1.0 + jitter * rng.uniform(-1, 1))
        arm.move(dt)
        now += dt
        if disturb is not None:
            disturb(arm, now - 10.0, rng)
        safety.observe(arm.reading(now), now)
        if now >= due:
            due = now + SETTINGS.period
            for action in actions(sequence, rng):
                sequence += 1
                safety.act(action, now, sequence)
            if safety.mode is Mode.HOLDING:
                try:
                    safety.recover()
                    safety.begin_episode(now)
                except FaultError as error:
                    for fault in error.faults:
                        if not fault.present:
                            safety.acknowledge(fault.kind, fault.where)
        command = safety.tick(now)
        auditor.check(command, arm.true - arm.sag, arm)
        arm.obey(command)
        commands.append(command)
    return auditor, commands, arm, safety


def alternating(step, rng):
    return [np.full(5, 9.0 if step % 2 else -9.0)]


def uniform(step, rng):
    return [rng.uniform(-0.5, 0.5, 5)]


def persistent(step, rng):
    """Runs into every wall there is: one direction for three seconds."""
    return [np.sign(np.random.default_rng(step // 10).normal(size=5)) * 0.5]


def poisoned(step, rng):
    bad = [
        [np.nan] * 5, [np.inf] * 5, np.zeros(4), "fast", None, [0, 0, np.nan, 0, 0], [1e300] * 5,
        [-1e-320] * 5, [[0.1] * 5], [2 + 1j] * 5, [1, [2], 3, 4, 5],
    ]  # fmt: skip
    return [bad[rng.integers(len(bad))], rng.uniform(-3, 3, 5)]


def bursts(step, rng):
    return [rng.uniform(-1, 1, 5) for _ in range(rng.integers(0, 6))]


STREAMS = [alternating, uniform, persistent, poisoned, bursts]


# ---------------------------------------------------------------- P3, P4: nothing outside, and a stop fits


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.__name__)
@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_nothing_outside_any_limit(profile, stream):
    for seed in range(2):
        auditor, commands, *_ = run(profile, SECONDS, stream, seed=seed, jitter=0.6)
        assert auditor.sent > 0.9 * len(commands)


@pytest.mark.parametrize("stream", [persistent, alternating], ids=lambda stream: stream.__name__)
def test_nothing_outside_although_the_arm_sags(stream):
    auditor, commands, *_ = run("widowx_mk2", 2 * SECONDS, stream, sag=np.array([0, -0.05, -0.03, -0.01, 0]))
    assert auditor.sent > 0.9 * len(commands)


def test_nothing_outside_although_joints_stick_and_are_pushed():
    def disturb(arm, at, rng):
        if rng.uniform() < 0.05:
            arm.held = rng.uniform(size=5) < 0.4
        if rng.uniform() < 0.05:
            arm.true = np.clip(arm.true + rng.uniform(-0.04, 0.04, 5) * 0.2, -1.5, 1.5)

    # The workspace of the true arm is then not in the door's hands; goals are.
    auditor, commands, *_ = run("widowx_mk2", 2 * SECONDS, uniform, disturb=disturb)
    assert auditor.sent > 0.8 * len(commands)


def test_a_persistent_policy_moves_at_all_and_meets_the_walls():
    _, commands, _, _ = run("widowx_mk2", 3 * SECONDS, persistent)
    changes = set().union(*(command.changes for command in commands))
    assert Change.WORKSPACE in changes and Change.LIMIT in changes
    speeds = np.abs([command.velocity for command in commands])
    assert speeds.max() > 0.45 and (speeds.max(axis=1) > 0.05).mean() > 0.3


@pytest.mark.parametrize("seed", range(3))
def test_at_every_instant_a_full_stop_stays_inside(seed):
    limiter, rng = Limiter(limits_of()), np.random.default_rng(seed)
    limits = limiter.limits
    reference = Reference.at(np.array(START["widowx_mk2"]))
    wanted = np.zeros(5)
    for tick in range(600):
        if tick % 12 == 0:
            wanted = rng.uniform(-0.7, 0.7, 5)
        reference = limiter.step(reference, wanted, reference.position, rng.uniform(0.01, 0.03)).reference
        if tick % 5:
            continue
        stopping, time, goal = reference, 0.0, reference.goal
        while stopping.velocity.any():
            dt = rng.uniform(0.005, 0.03)
            step = limiter.brake(stopping, stopping.position, dt)
            assert step.goal is not None
            assert (step.goal >= limits.low).all() and (step.goal <= limits.high).all()
            # nested: along the way to the goal that was sent before braking
            assert (np.abs(step.goal - goal) <= np.abs(reference.position - goal) + 1e-9).all()
            stopping, time = step.reference, time + dt
        assert time <= SETTINGS.horizon + 0.03
        assert limits.workspace.sweep(reference.position, stopping.position) > 0.0


def test_what_was_looked_at_before_spares_looks_and_decides_nothing(monkeypatch):
    limits, rng, looks = limits_of(), np.random.default_rng(0), []
    look = Workspace.look
    monkeypatch.setattr(Workspace, "look", lambda *given: looks.append(1) or look(*given))
    limiter, reference = Limiter(limits), Reference.at(np.array(START["widowx_mk2"]))
    changes, spared = set(), 0
    for tick in range(1500):
        if tick % 60 == 0:
            wanted = rng.choice([-0.4, 0.0, 0.4], 5)
        measured = reference.position + rng.uniform(-0.01, 0.01, 5)
        looks.clear()
        step = limiter.step(reference, wanted, measured, 0.02)
        spared += not looks
        afresh = Limiter(limits).step(reference, wanted, measured, 0.02)
        np.testing.assert_array_equal(step.goal, afresh.goal)
        assert step.changes == afresh.changes
        changes.update(step.changes)
        reference = step.reference
    assert Change.WORKSPACE in changes and spared > 300


def test_a_stop_that_would_pass_its_goal_is_no_setting():
    with pytest.raises(ValueError, match="a stop would pass the goal"):
        limits_of(acceleration=(3.0,) * 5)
    with pytest.raises(ValueError, match=r"beyond the joint's 0\.785"):
        limits_of(speed=(0.8,) * 5, acceleration=(9.0,) * 5)


def test_limits_are_kept_by_slowing_down_and_not_by_clipping():
    """The reference comes to rest at the limit within its acceleration; its velocity ends there."""
    limits = replace(limits_of(), workspace=None)
    limiter, reference = Limiter(limits), Reference.at(np.zeros(5))
    velocities = []
    for _ in range(400):
        step = limiter.step(reference, np.full(5, 9.0), reference.position, 0.02)
        reference = step.reference
        velocities.append(reference.velocity)
    change = np.abs(np.diff(velocities, axis=0)) / 0.02
    assert (change <= limits.acceleration + 1e-9).all()
    np.testing.assert_allclose(reference.position, limits.high, atol=1e-3)
    assert np.abs(reference.velocity).max() < 1e-3


def test_the_lead_bounds_what_a_blocked_joint_is_told():
    limits = limits_of()
    limiter, measured = Limiter(limits), np.array(START["widowx_mk2"])
    reference = Reference.at(measured)
    for _ in range(200):
        step = limiter.step(reference, np.array([0.4, 0, 0, 0, 0.4]), measured, 0.02)
        reference = step.reference
    np.testing.assert_allclose(step.goal[[0, 4]] - measured[[0, 4]], SETTINGS.lead, atol=2e-3)
    assert Change.LEAD in step.changes
    # no wind-up: it turns back at once
    for _ in range(10):
        reference = limiter.step(reference, np.full(5, -0.4), measured, 0.02).reference
    assert reference.velocity[0] < 0 and reference.goal[0] < measured[0] + SETTINGS.lead


def test_a_slow_velocity_is_not_lost_in_the_registers_steps():
    """0.003 rad/s is a quarter of the register's unit: the reference carries it."""
    limiter, start = Limiter(replace(limits_of(), workspace=None)), np.zeros(5)
    reference, arm = Reference.at(start), Arm(start)
    for _ in range(1000):
        step = limiter.step(reference, np.full(5, 0.003), arm.true, 0.02)
        reference = step.reference
        arm.goal, arm.speed = step.goal, step.speed
        arm.move(0.02)
        assert (step.speed > 0).all()
    np.testing.assert_allclose(arm.true, 0.003 * 20.0, atol=1e-3)


def test_holding_is_sent_with_a_small_speed_and_never_zero():
    limits, pose = limits_of(), np.array(START["widowx_mk2"])
    step = Limiter(limits).step(Reference.at(pose), np.zeros(5), pose, 0.02)
    np.testing.assert_array_equal(step.goal, pose)
    assert (step.speed >= limits.unit).all() and (step.speed <= SETTINGS.hold_speed + limits.unit).all()
    for joint, speed in zip(WIDOWX_MK2.joints, step.speed):
        assert joint.to_speed_ticks(speed) >= 1


@pytest.mark.parametrize("offset", [0.09, -0.09], ids=["held up", "sagging"])
def test_both_the_reference_and_the_arm_keep_clear_of_the_table(offset):
    """Measured above the reference, goals must keep clear of the table; below it, the arm itself must."""
    limiter = Limiter(limits_of())
    workspace, reference = limiter.limits.workspace, Reference.at(np.array([-1.2, -0.2, 0.6, 0.9, 0.0]))
    away = np.array([0.0, -offset, 0.0, 0.0, 0.0])  # the shoulder's angle grows downwards
    assert workspace.clearance(reference.position + away) > 0.015
    for _ in range(300):
        step = limiter.step(reference, np.array([0.0, 0.3, 0.0, 0.0, 0.0]), reference.position + away, 0.02)
        reference = step.reference
        assert step.goal is not None
        assert workspace.clearance(step.goal) > 0.0
        assert workspace.clearance(reference.position + away) > 0.0
    assert Change.WORKSPACE in step.changes
    assert reference.position[1] > -0.19


def test_measured_far_outside_sends_nothing():
    limits = limits_of()
    measured = np.array(START["widowx_mk2"])
    measured[1] = limits.high[1] + 0.3
    step = Limiter(limits).step(Reference.at(START["widowx_mk2"]), np.ones(5), measured, 0.02)
    assert step.goal is None and step.speed is None and step.changes == (Change.NOTHING,)


@pytest.mark.parametrize("tick", [0.02, 0.001])
def test_a_window_has_what_was_noted_lately_however_often(tick):
    rng, window, noted = np.random.default_rng(0), Window(3, 0.1), []
    for step in range(400):
        values = rng.uniform(size=3)
        window.add(values, step * tick)
        noted.append(values)
        lately = np.array(noted[-(round(0.1 / tick) + 1) :])
        if step % 50 == 37:  # the oldest may be a rounding error too old
            assert (window.most >= lately[1:].max(axis=0)).all() and (window.most <= lately.max(axis=0)).all()
            assert (lately[1:].sum(axis=0) - 1e-9 <= window.sum).all()
            assert (window.sum <= lately.sum(axis=0) + 1e-9).all()


# ---------------------------------------------------------------- the body and what is around it

RAILS = [  # joint angles, and the published descriptions' place of the gripper's rail
    ((0, 0, 0, 0, 0), (0.3048, 0, 0.2670)),
    ((0, -1.571, 1.571, -1.745, 0), (-0.0199, 0, 0.2860)),
    ((0, -1.2603, 1.0876, 0, 0), (0.1322, 0, 0.2584)),
    ((0, 1.571, 0, -1.57, 0), (0.2565, 0, -0.0654)),
    ((0.015, -1.484, 1.497, -0.008, -0.087), (0.1192, 0.0018, 0.1829)),
]


@pytest.mark.parametrize(("angles", "place"), RAILS)
def test_forward_kinematics_of_the_mark_ii(angles, place):
    body = BODIES["widowx_mk2"]
    spheres = (body.spheres[0]._replace(hinge=4, centre=(0.0, 0.0, 0.043)),)
    np.testing.assert_allclose(replace(body, spheres=spheres).points(angles)[0], place, atol=1e-3)


def test_forward_kinematics_of_the_wx200():
    """Stretched forward at zero: 50 + 200 + 65 + 43 mm out of the wrist's bar, 72 + 38.65 + 200 mm up."""
    body = BODIES["wx200"]
    spheres = (body.spheres[0]._replace(hinge=4, centre=(0.043, 0.0, 0.0)),)
    place = replace(body, spheres=spheres).points(np.zeros(5))[0]
    np.testing.assert_allclose(place, (0.05 + 0.2 + 0.065 + 0.043, 0.0, 0.31065), atol=1e-9)


def test_base_height_lifts_the_whole_body():
    body = BODIES["widowx_mk2"]
    lifted = body.at_height(0.115).points(np.zeros(5)) - body.points(np.zeros(5))
    np.testing.assert_allclose(lifted, np.broadcast_to((0, 0, -0.010), lifted.shape), atol=1e-12)
    with pytest.raises(ValueError, match="base height"):
        body.at_height(1.25)


@pytest.mark.parametrize("profile", sorted(BODIES))
def test_a_sweep_bounds_every_configuration_between_its_ends(profile):
    rng, workspace = np.random.default_rng(0), limits_of(profile).workspace
    for _ in range(50):
        start = rng.uniform(-1.5, 1.5, 5)
        end = start + rng.uniform(-0.3, 0.3, 5)
        between = start + rng.uniform(size=200)[:, None] * (end - start)
        assert workspace.sweep(start, end) <= workspace.clearance(between).min()


def test_joint_limits_alone_do_not_protect_the_table():
    pose = (0.0, 1.5, 0.0, -1.5, 0.0)
    limits = limits_of()
    assert (limits.low < pose).all() and (pose < limits.high).all()
    assert limits.workspace.nearest(np.array(pose)).of == "the table"
    assert limits.workspace.clearance(np.array(pose)) < 0


def test_only_the_plug_may_enter_the_rig():
    body = BODIES["widowx_mk2"]
    tip = body.points(np.zeros(5))[-1]
    port = Box(tuple(tip - np.array([0.001, 0.1, 0.1])), tuple(tip + 0.1))
    workspace = Workspace(body, Box((-1, -1, -1), (1, 1, 1)), -0.9, port)
    assert 0 < workspace.clearance(np.zeros(5)) < 0.01
    nobody = replace(body, spheres=tuple(sphere._replace(enters=False) for sphere in body.spheres))
    assert replace(workspace, body=nobody).clearance(np.zeros(5)) < 0


# ---------------------------------------------------------------- P4 during moves; P9: they end


def started(profile="widowx_mk2", cameras=(), start=None, sag=0.0, settings=SETTINGS):
    safety = Safety(limits_of(profile, settings), PROFILES[profile].rest, cameras)
    arm = Arm(START[profile] if start is None else start, sag)
    arm.obey(safety.start(arm.reading(0.0), 0.0))
    return safety, arm


def live(safety, arm, start, seconds, each=None, **reading):
    """Ticks from a time on; ``each(now)`` is called before every tick; returns the commands."""
    commands = []
    for k in range(1, round(seconds / SETTINGS.tick) + 1):
        now = start + k * SETTINGS.tick
        arm.trace.append((now, np.abs(arm.move(SETTINGS.tick)).max()))
        if each is None or each(now) is not False:
            safety.observe(arm.reading(now, **reading), now)
        command = safety.tick(now)
        arm.obey(command)
        commands.append(command)
    return commands


def test_a_move_arrives_and_its_whole_way_is_checked():
    safety, arm = started()
    auditor, target = Auditor(safety.limits, arm.true), np.array([0.8, -0.9, 0.6, 0.5, 1.0])
    safety.go_to(target, 0.0)
    for command in live(safety, arm, 0.0, 8.0):
        auditor.check(command, command.goal, arm)
    assert safety.mode is Mode.READY
    np.testing.assert_allclose(arm.true, target, atol=0.01)


def test_a_move_through_the_rig_stops_and_says_so():
    """Both ends are fine; between them the arm would swing through a box."""
    safety, arm = started(start=(-1.2, -0.5, 1.1, 0.0, 0.0))
    box = Box((0.12, -0.08, 0.0), (0.45, 0.08, 0.5))
    limits = replace(safety.limits, workspace=replace(safety.limits.workspace, keep_out=box))
    safety = Safety(limits, WIDOWX_MK2.rest)
    arm.obey(safety.start(arm.reading(0.0), 0.0))
    safety.go_to((1.2, -0.5, 1.1, 0.0, 0.0), 0.0)
    commands = live(safety, arm, 0.0, 20.0)
    assert Change.WORKSPACE in set().union(*(command.changes for command in commands))
    assert limits.workspace.clearance(arm.true) > 0.0
    assert [fault.kind for fault in safety.faults.active] == ["move timed out"]
    assert "joint_1" in safety.faults.active[0].detail


def test_targets_outside_are_refused_at_once():
    safety, _ = started()
    with pytest.raises(ValueError, match=r"outside the workspace: there .* the table"):
        safety.go_to((0.0, 1.4, 0.0, -1.4, 0.0), 0.0)
    with pytest.raises(ValueError, match=r"joint_3, 1.600 rad, is not in"):
        safety.go_to((0.0, 0.0, 1.6, 0.0, 0.0), 0.0)
    with pytest.raises(ValueError, match="not valid: it is"):
        safety.go_to((0.0, math.nan, 0.0, 0.0, 0.0), 0.0)


@pytest.mark.parametrize("speed", [math.nan, math.inf, 0.0, -0.3])
def test_a_move_needs_a_speed(speed):
    safety, arm = started()
    with pytest.raises(ValueError, match="speed of a move must be a number above 0"):
        safety.go_to(START["widowx_mk2"], 0.0, speed)
    assert safety.mode is Mode.READY
    live(safety, arm, 0.0, 0.1)


def test_what_is_no_velocity_brakes_in_the_limiter_too():
    limiter, at = Limiter(limits_of()), np.array(START["widowx_mk2"])
    step = limiter.step(Reference.at(at), np.array([math.nan, 0.2, 0, 0, 0]), at, 0.02)
    assert Change.NOT_VALID in step.changes
    np.testing.assert_array_equal(step.goal, at)


def test_an_arm_that_stands_outside_is_not_started():
    safety = Safety(limits_of(), WIDOWX_MK2.rest)
    for pose, message in (((0, 1.4, 0, -1.4, 0), "the table"), ((0, 0, 1.65, 0, 0), "joint_3 .* beyond")):
        with pytest.raises(ValueError, match=message):
            safety.start(Arm(pose).reading(0.0), 0.0)
    assert safety.mode is Mode.OFF and not safety.tick(0.1).torque


# ---------------------------------------------------------------- P1: stalls


def test_p1_a_stalled_policy_is_braked_in_time_and_held():
    safety, arm = started()
    safety.begin_episode(0.0)
    safety.act([0.5, 0, 0, 0, 0.5], 0.0, 1)
    commands = live(safety, arm, 0.0, 1.0)
    speed = np.array([np.abs(command.velocity).max() for command in commands])
    at = np.array([command.at for command in commands])
    assert speed[at <= 0.45].max() == pytest.approx(safety.limits.speed.max())
    assert (np.diff(speed[(at > 0.44) & (at < 0.53)]) < 0).any()
    assert at[np.flatnonzero(speed)[-1]] <= 0.45 + SETTINGS.tick + SETTINGS.stop_time
    assert speed[at > 0.65].max() == 0.0
    assert max(moved for time, moved in arm.trace if time > 0.45 + SETTINGS.tick + SETTINGS.stop_time) == 0.0
    assert safety.mode is Mode.HOLDING and commands[-1].torque
    assert [fault.kind for fault in commands[-1].faults] == ["policy stalled"]
    assert not safety.act(np.ones(5), 1.0, 2).accepted  # not before a new episode
    safety.begin_episode(1.0)
    assert safety.act(np.ones(5), 1.0, 3).accepted


def test_p1_the_time_that_an_action_took_on_its_way_is_part_of_the_deadline():
    safety, arm = started()
    safety.begin_episode(0.0)
    live(safety, arm, 0.0, 0.3)
    assert safety.act([0.4, 0, 0, 0, 0.4], 0.3, 1, issued=0.0).accepted
    commands = live(safety, arm, 0.3, 0.3)
    first = next(command for command in commands if command.faults)
    assert first.faults[0].kind == "policy stalled" and first.at <= 0.45


def test_a_policy_in_time_is_not_stopped():
    safety, arm = started()
    safety.begin_episode(0.0)
    for step in range(10):
        assert safety.act(np.full(5, 0.1 * (-1) ** step), step * 0.41, step).accepted
        live(safety, arm, step * 0.41, 0.41)
    assert not safety.faults.active and safety.mode is Mode.POLICY


def test_p2_whoever_dies_leaves_goals_within_the_horizon():
    safety, arm = started()
    safety.begin_episode(0.0)
    safety.act([0.5, 0, 0, 0, 0.5], 0.0, 1)
    live(safety, arm, 0.0, 0.4)
    died = arm.true.copy()
    for _ in range(15):
        arm.move(0.01)
    assert np.abs(arm.true - died).max() <= 0.5 * 0.15
    assert np.abs(arm.move(0.01)).max() == 0.0


# ---------------------------------------------------------------- P3: what an action may be


@pytest.mark.parametrize(
    "action",
    [
        [math.nan] * 5,
        [0, 0, 0, 0, math.inf],
        np.zeros(4),
        np.zeros((1, 5)),
        "stop",
        None,
        [True] * 5,
        [1j] * 5,
        [1, [2], 3, 4, 5],
        np.array([object()] * 5),
    ],
)
def test_what_is_no_action_is_refused_before_any_arithmetic(action):
    safety, arm = started()
    safety.begin_episode(0.0)
    safety.act(np.full(5, 0.3), 0.0, 1)
    live(safety, arm, 0.0, 0.2)
    received = safety.act(action, 0.2, 2)
    assert not received.accepted and "expected 5 finite numbers" in received.why
    commands = live(safety, arm, 0.2, 0.3)
    assert np.abs(commands[-1].velocity).max() == 0.0  # zero velocity
    assert safety.faults.counts["action invalid"] == 1
    assert safety.mode is Mode.POLICY


def test_three_invalid_actions_in_a_row_end_the_episode():
    safety, arm = started()
    safety.begin_episode(0.0)
    for step in range(3):
        safety.act([math.nan] * 5, 0.3 * step, step)
        live(safety, arm, 0.3 * step, 0.3)
        assert (safety.mode is Mode.HOLDING) == (step == 2)
    assert "actions invalid" in [fault.kind for fault in safety.faults.active]


def test_bursts_never_double_motion():
    """Five at once move the arm as far as the last of them alone."""
    ends = []
    for actions in (
        [[0.1, 0, 0, 0, 0.1]],
        [[0.5] * 5, [-0.5] * 5, [0.4] * 5, [0.3] * 5, [0.1, 0, 0, 0, 0.1]],
    ):
        safety, arm = started()
        safety.begin_episode(0.0)
        for number, action in enumerate(actions):
            safety.act(action, 0.001 * number, number)
        live(safety, arm, 0.0, 0.4)
        ends.append(arm.true.copy())
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-9)
    assert safety.faults.counts["actions bursty"] == 1


def test_late_and_repeated_actions_are_dropped():
    safety, arm = started()
    safety.begin_episode(0.0)
    assert safety.act(np.zeros(5), 0.0, 7).accepted
    assert not safety.act(np.ones(5), 0.1, 7).accepted  # again
    assert not safety.act(np.ones(5), 0.1, 3).accepted  # overtaken
    assert not safety.act(np.ones(5), 2.0, 8, issued=0.0).accepted  # queued for two seconds
    assert not safety.act(np.ones(5), 2.0, 9, issued=math.nan).accepted
    live(safety, arm, 0.0, 0.1)
    assert np.abs(arm.true - START["widowx_mk2"]).max() == 0.0
    assert safety.faults.counts["action late"] == 1


# ---------------------------------------------------------------- P5: staleness


def test_p5_readings_that_stop_stop_the_arm():
    safety, arm = started()
    safety.begin_episode(0.0)
    safety.act([0.4, 0, 0, 0, 0.4], 0.0, 1)
    live(safety, arm, 0.0, 0.2)
    commands = live(safety, arm, 0.2, 0.2, each=lambda now: False)
    late = [command for command in commands if command.mode is Mode.HOLDING]
    assert late[0].at == pytest.approx(0.32) and late[0].faults[0].kind == "readings stale"
    assert np.abs(late[0].velocity).max() < 0.4


def test_p5_images_that_stop_stop_the_arm_and_name_the_camera():
    safety, arm = started(cameras=("front", "wrist"))
    safety.begin_episode(0.0)

    def each(now):
        safety.image("front", now)
        if now < 0.1:
            safety.image("wrist", now)

    safety.act(np.zeros(5), 0.0, 1)
    live(safety, arm, 0.0, 0.36, each)
    assert [(fault.kind, fault.where) for fault in safety.faults.active] == [("image stale", "wrist")]
    with pytest.raises(KeyError, match="no camera 'side'; there are front, wrist"):
        safety.image("side", 0.0)


@pytest.mark.parametrize("ahead", [0.5, 1e6, math.inf])
def test_p5_an_image_of_the_future_is_not_fresh_until_then(ahead):
    safety, arm = started(cameras=("front",))
    safety.begin_episode(0.0)
    safety.act(np.zeros(5), 0.0, 1)
    safety.image("front", 0.01 + ahead)
    live(safety, arm, 0.0, 0.1)
    assert [(fault.kind, fault.where) for fault in safety.faults.active] == [("image stale", "front")]
    assert "after now" in safety.faults.history[0].detail


def test_what_is_reported_until_a_time_leaves_no_gap_in_which_an_episode_could_begin():
    safety, arm = started()
    live(safety, arm, 0.0, 0.1)
    safety.report("camera dark", "front", "as a test", until=0.25)
    for at in (0.1, 0.16, 0.22):
        live(safety, arm, at, 0.02)
        assert safety.mode is Mode.HOLDING
        with pytest.raises(FaultError, match="camera dark"):
            safety.begin_episode(at)
    live(safety, arm, 0.26, 0.04)
    safety.begin_episode(0.3)
    safety.report("camera dark", "front", "as a test")
    live(safety, arm, 0.3, 0.06)
    safety.begin_episode(0.36)


def test_deadline_is_a_state_machine():
    deadline = Deadline("policy stalled", "policy", 0.45)
    assert not list(deadline.check(100.0)) and deadline.state is DeadlineState.OFF
    deadline.feed(1.0)
    deadline.feed(0.5)  # older: changes nothing
    assert not list(deadline.check(1.45)) and deadline.state is DeadlineState.WAITING
    assert [c.kind for c in deadline.check(1.46)] == ["policy stalled"]
    assert deadline.state is DeadlineState.EXPIRED
    deadline.feed(2.0)
    assert deadline.state is DeadlineState.WAITING
    deadline.stop()
    assert not list(deadline.check(9.0))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"position": np.array([0, 0, math.nan, 0, 0])}, "joint_3"),
        ({"position": np.zeros(4)}, "shape"),
        ({"position": np.array([0, 0.39, 0, 0, 0])}, "moved 0.390 rad in 20 ms"),
        ({"at": 0.5}, "older"),
        ({"at": 9.0}, "after now"),
        ({"at": math.nan}, "after now"),
        ({"velocity": np.full(5, np.inf)}, "velocity is not finite"),
    ],
)
def test_readings_that_cannot_be_are_not_used(change, why):
    names = [joint.name for joint in WIDOWX_MK2.joints]
    watch = Plausibility(SETTINGS, names, np.full(5, 2.0))
    good = Reading(1.0, np.zeros(5), np.zeros(5))
    assert watch.accept(good, 1.0) is None
    bad = replace(good, **{"at": 1.02, **change})
    found = [watch.accept(bad, 1.02) for _ in range(3)]
    assert why in f"{found[0].where} {found[0].detail}"
    assert [c.kind for c in found] == ["reading implausible"] * 2 + ["encoder jump"]
    assert watch.last.at == 1.0 and watch.accept(replace(good, at=1.04), 1.04) is None


def test_a_reading_is_copied():
    safety, arm = started()
    reading = arm.reading(0.02)
    safety.observe(reading, 0.02)
    reading.position[:] = 99.0
    assert np.isfinite(safety.tick(0.02).goal).all() and safety.tick(0.04).goal.max() < 2.0


# ---------------------------------------------------------------- motion and health


def test_a_stuck_joint_is_named():
    safety, arm = started()
    safety.begin_episode(0.0)
    arm.held[4] = True

    def each(now):
        safety.act([0, 0, 0, 0, 0.5], now, int(now * 1000))

    live(safety, arm, 0.0, 3.2, each)
    assert [(f.kind, f.where) for f in safety.faults.active] == [("follow error", "joint_5")]
    assert safety.mode is Mode.HOLDING and safety.tick(3.3).torque


def test_a_servo_that_acknowledges_and_does_nothing_is_found_soon():
    safety, arm = started()
    safety.begin_episode(0.0)
    arm.held[4] = True

    def each(now):
        safety.act([0, 0, 0, 0, 0.5], now, int(now * 1000))

    live(safety, arm, 0.0, 0.9, each, load=np.array([0.2, 0.2, 0.2, 0.2, 0.0]))
    assert [(f.kind, f.where) for f in safety.faults.active] == [("servo limp", "joint_5")]


def test_a_runaway_loses_its_torque_and_stays_off():
    safety, arm = started()
    live(safety, arm, 0.0, 0.2)
    for k in range(6):
        arm.true[0] += 0.02
        arm.velocity[0] = 1.0
        safety.observe(arm.reading(0.2 + 0.02 * (k + 1)), 0.2 + 0.02 * (k + 1))
        command = safety.tick(0.2 + 0.02 * (k + 1))
    assert not command.torque and command.goal is None and safety.mode is Mode.OFF
    with pytest.raises(FaultError, match="runaway"):
        safety.start(arm.reading(1.0), 1.0)
    arm.velocity[:] = 0.0
    safety.observe(arm.reading(1.0), 1.0)
    safety.tick(1.0)
    safety.acknowledge("runaway", "joint_1")
    safety.start(arm.reading(1.1), 1.1)


def test_a_joint_that_comes_free_and_leaps_back_to_its_reference_keeps_its_torque():
    safety, arm = started()
    live(safety, arm, 0.0, 0.2)
    arm.true[0] -= 0.1
    for k in range(1, 5):
        arm.true[0] += 0.02
        arm.velocity[0] = 1.0
        safety.observe(arm.reading(0.2 + 0.02 * k), 0.2 + 0.02 * k)
        assert safety.tick(0.2 + 0.02 * k).torque
    for k in range(5, 10):  # it does not stop there
        arm.true[0] += 0.02
        safety.observe(arm.reading(0.2 + 0.02 * k), 0.2 + 0.02 * k)
        safety.tick(0.2 + 0.02 * k)
    assert safety.mode is Mode.OFF and safety.faults.counts["runaway"] == 1


def test_a_joint_that_is_shoved_away_and_pushes_back_keeps_its_torque():
    for back, off in ((0.3, False), (-0.3, True)):  # of stall: towards its reference, and away from it
        safety, arm = started()
        live(safety, arm, 0.0, 0.2)
        for k in range(1, 6):
            arm.true[0] -= 0.02
            arm.velocity[0] = -1.0
            load = np.array([back, 0.2, 0.2, 0.2, 0.2])
            safety.observe(replace(arm.reading(0.2 + 0.02 * k), load=load), 0.2 + 0.02 * k)
            safety.tick(0.2 + 0.02 * k)
        assert (safety.mode is Mode.OFF) is off


def test_a_joint_that_was_shoved_far_leaps_back_to_where_its_servo_is_and_keeps_its_torque():
    safety, arm = started()
    live(safety, arm, 0.0, 0.2)

    times_of_ticks = itertools.count(11)

    def move(times, way, load):
        for tick in itertools.islice(times_of_ticks, times):
            at = 0.02 * tick
            arm.true[0] += 0.02 * way
            arm.velocity[0] = way
            safety.observe(replace(arm.reading(at), load=np.array([load, 0.2, 0.2, 0.2, 0.2])), at)
            safety.tick(at)

    move(30, -1.0, 0.3)  # 0.6 rad, pushing back: its reference goes along, its servo follows at 0.5 rad/s
    move(10, 1.0, 0.3)  # let go, past its reference
    assert safety.mode is not Mode.OFF and arm.true[0] > safety.reference[0] + 0.02
    move(40, 1.0, 0.3)  # past where its servo can be
    assert safety.mode is Mode.OFF and safety.faults.counts["runaway"] == 1


def moved_by_itself(way, back=True, seconds=1.5):
    """A held arm whose base goes ``way(t)`` rad from where it should be, its servo pushing back or along."""
    safety, arm = started()
    live(safety, arm, 0.0, 0.2)
    start, was = arm.true[0], 0.0
    for k in range(1, round(seconds / SETTINGS.tick) + 1):
        at = 0.2 + SETTINGS.tick * k
        arm.true[0] = start + way(SETTINGS.tick * k)
        arm.velocity[0], was = (arm.true[0] - was) / SETTINGS.tick if k > 1 else 0.0, arm.true[0]
        load = np.full(5, 0.2)
        lag = safety.reference[0] - arm.true[0]
        load[0] = 0.3 * np.sign(lag) * (1.0 if back else -1.0)
        safety.observe(replace(arm.reading(at), load=load), at)
        assert safety.tick(at).torque
    return safety, arm


@pytest.mark.parametrize(("hertz", "radians"), [(3.0, 0.08), (5.0, 0.2), (8.0, 0.1), (10.0, 0.06)])
def test_a_joint_that_swings_about_its_reference_is_held_although_it_pushes_back(hertz, radians):
    safety, arm = moved_by_itself(lambda t: radians * math.sin(2.0 * math.pi * hertz * t))
    (fault,) = (fault for fault in safety.faults.history if fault.kind == "joint oscillates")
    assert safety.faults.history[0] is fault and fault.where == "joint_1"
    assert fault.since - 0.2 <= 3.0 / hertz + 0.06 and safety.mode is Mode.HOLDING
    for k in range(1, 11):  # it is over once it stands still, within what a reset waits
        safety.observe(replace(arm.reading(1.7 + 0.02 * k), velocity=np.zeros(5)), 1.7 + 0.02 * k)
        safety.tick(1.7 + 0.02 * k)
    safety.recover()


@pytest.mark.parametrize("speed", [0.4, 0.5, -0.5])
def test_a_joint_that_its_servo_pushes_away_slowly_is_held_soon(speed):
    safety, _ = moved_by_itself(lambda t: speed * t, back=False)
    fault = safety.faults.history[0]
    assert (fault.kind, fault.where) == ("joint strays", "joint_1")
    assert (fault.since - 0.2) * abs(speed) < 0.25 and safety.mode is Mode.HOLDING


@pytest.mark.parametrize(
    "way",
    [
        lambda t: 0.12 * math.sin(math.pi * min(t, 1.0)) ** 2,  # a hand shoves it gently, and lets go
        lambda t: 0.08 * math.sin(2.0 * math.pi * t),  # and rocks it
        lambda t: 0.12 * (0.1 < t < 0.2),  # slips out of a contact, and back
        lambda t: 0.04 * math.sin(2.0 * math.pi * 8.0 * t),  # trembles
        lambda t: 0.12 * math.exp(-6.0 * t) * math.sin(2.0 * math.pi * 5.0 * t),  # swings out
    ],
)
def test_what_pushes_back_and_comes_to_rest_neither_strays_nor_oscillates(way):
    safety, _ = moved_by_itself(way)
    assert not {"joint strays", "joint oscillates"} & set(safety.faults.counts)


def test_a_hot_servo_sends_the_arm_home_slowly_and_lets_go_only_there():
    safety, arm = started()
    safety.begin_episode(0.0)
    hot = {"temperature": np.array([40, 66.0, 40, 40, 40])}
    commands = live(safety, arm, 0.0, 20.0, **hot)
    assert [(f.kind, f.where) for f in safety.faults.active] == [("hot", "joint_2")]
    moving = [command for command in commands if command.mode is Mode.HOMING]
    assert max(np.abs(command.velocity).max() for command in moving) <= SETTINGS.limp_speed + 1e-9
    first_off = next(command for command in commands if not command.torque)
    assert all(command.torque for command in commands if command.at < first_off.at)
    np.testing.assert_allclose(arm.true, safety.rest, atol=0.02)
    with pytest.raises(FaultError, match="hot"):
        safety.start(arm.reading(21.0), 21.0)
    live(safety, arm, 21.0, 0.1, temperature=np.full(5, 50.0))
    safety.recover()
    safety.start(arm.reading(22.0), 22.0)


@pytest.mark.parametrize(
    ("joint", "degrees", "kind"),
    [(0, 59, None), (0, 60, "warm"), (0, 65, "hot"), (0, 75, "overheated"),
     (4, 54, None), (4, 56, "warm"), (4, 60, "hot"), (4, 68, "overheated")],
)  # fmt: skip
def test_thresholds_are_those_of_the_servo(joint, degrees, kind):
    safety, arm = started()
    temperature = np.full(5, 30.0)
    temperature[joint] = degrees
    live(safety, arm, 0.0, 0.04, temperature=temperature)
    assert [fault.kind for fault in safety.faults.active] == ([kind] if kind else [])


@pytest.mark.parametrize(
    ("reading", "kind", "response"),
    [
        ({"voltage": np.full(5, 10.4)}, "voltage low", Response.CARRY_ON),
        ({"voltage": np.full(5, 9.4)}, "undervoltage", Response.HOLD),
        ({"load": np.full(5, -0.48)}, "load high", Response.LIMP_HOME),
        ({"torque_on": np.array([1, 1, 0, 1, 1])}, "servo rebooted", Response.HOLD),
    ],
)
def test_health(reading, kind, response):
    safety, arm = started()
    live(safety, arm, 0.0, 3.2, **reading)
    assert {fault.kind for fault in safety.faults.active} == {kind}
    assert safety.faults.response is response


def test_servos_that_do_not_tell_their_health_are_borne():
    safety, arm = started()
    for k in range(1, 50):
        assert safety.observe(Reading(0.02 * k, arm.true, np.zeros(5)), 0.02 * k)
        safety.tick(0.02 * k)
    assert not safety.faults.active


# ---------------------------------------------------------------- P7: the book of faults


def test_p7_severities():
    faults = Faults()
    faults.update([Condition("packet lost", "bus", "1"), Condition("image stale", "front", "2")], 0.0)
    faults.report = faults.update([Condition("servo missing", "joint_2", "3")], 1.0)
    assert {f.kind for f in faults.active} == {"image stale", "servo missing"}  # the transient one is over
    with pytest.raises(FaultError, match="servo missing"):
        faults.recover()
    assert [f.kind for f in faults.active] == ["servo missing"]
    with pytest.raises(FaultError, match="still so"):
        faults.acknowledge("servo missing", "joint_2")
    faults.update([], 2.0)
    with pytest.raises(KeyError, match="active: servo missing at joint_2"):
        faults.acknowledge("servo missing", "joint_3")
    faults.acknowledge("servo missing", "joint_2")
    assert not faults.active and faults.counts.total() == 3 and len(faults.history) == 3


def test_a_recoverable_fault_that_comes_too_often_latches():
    for gap, latches in ((60.0, True), (200.0, False)):
        faults = Faults(repeats=3, repeat_time=300.0)
        for k in range(4):
            assert not faults.active
            faults.update([Condition("overload", "joint_2", "")], gap * k)
            faults.update([], gap * k + 1.0)
            if k < 3:
                faults.recover()
        assert (faults.active[0].severity is Severity.LATCHED) == latches


def test_an_unknown_fault_is_no_fault():
    with pytest.raises(KeyError, match="gremlins"):
        Faults().update([Condition("gremlins", "arm", "")], 0.0)


def test_an_unknown_fault_is_refused_when_it_is_reported_and_not_in_the_tick():
    safety, arm = started()
    with pytest.raises(KeyError, match="gremlins"):
        safety.report("gremlins", "arm", "")
    live(safety, arm, 0.0, 0.1)


def test_torque_goes_off_for_three_faults_only():
    off = {name for name, kind in KINDS.items() if kind.response is Response.TORQUE_OFF}
    assert off == {"runaway", "duplicate id", "emergency stop"}
    for name, kind in KINDS.items():
        assert kind.remedy.endswith("."), name
        assert kind.severity is Severity.TRANSIENT or kind.response is not Response.CARRY_ON, name


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_fault_does_what_its_row_says(kind):
    safety, arm = started()
    safety.begin_episode(0.0)
    safety.act(np.zeros(5), 0.0, 1)
    safety.report(kind, "somewhere", "on purpose")
    command = live(safety, arm, 0.0, 0.04)[0]
    expected = {
        Response.CARRY_ON: Mode.POLICY, Response.HOLD: Mode.HOLDING,
        Response.LIMP_HOME: Mode.HOMING, Response.TORQUE_OFF: Mode.OFF,
    }  # fmt: skip
    assert command.mode is expected[KINDS[kind].response]
    assert command.torque == (KINDS[kind].response is not Response.TORQUE_OFF)
    if KINDS[kind].severity is Severity.LATCHED:
        with pytest.raises((FaultError, RuntimeError)):
            safety.begin_episode(0.1)
        safety.acknowledge(kind, "somewhere")
        assert not safety.faults.active


# ---------------------------------------------------------------- P8, P10


def test_p8_shutting_down_never_drops_a_raised_arm():
    safety, arm = started()
    safety.begin_episode(0.0)
    safety.act([0.5] * 5, 0.0, 1)
    live(safety, arm, 0.0, 0.3)
    safety.shut_down(0.3)
    commands = live(safety, arm, 0.3, 20.0)
    off = next(index for index, command in enumerate(commands) if not command.torque)
    assert max(np.abs(command.velocity).max() for command in commands[20:off]) <= SETTINGS.limp_speed + 1e-9
    np.testing.assert_allclose(arm.true, safety.rest, atol=0.02)
    assert commands[-1].mode is Mode.OFF


def test_p8_an_unwell_arm_is_held_and_not_let_go():
    safety, arm = started()
    safety.report("undervoltage", "joint_2", "9.4 V")
    live(safety, arm, 0.0, 0.1)
    safety.shut_down(0.1)
    commands = live(safety, arm, 0.1, 10.0)
    assert all(command.torque and command.mode is Mode.HOLDING for command in commands)
    safety.recover()
    commands = live(safety, arm, 10.1, 20.0)
    assert not commands[-1].torque
    np.testing.assert_allclose(arm.true, safety.rest, atol=0.02)


def test_p8_a_blocked_way_home_is_held():
    safety, arm = started()
    arm.held[1] = True
    safety.shut_down(0.0)
    commands = live(safety, arm, 0.0, 60.0)
    assert commands[-1].torque and commands[-1].mode is Mode.HOLDING


def test_p10_time_that_goes_back_latches():
    safety, arm = started()
    live(safety, arm, 0.0, 0.2)
    command = safety.tick(0.1)
    assert [fault.kind for fault in command.faults] == ["clock went back"]
    assert command.mode is Mode.HOLDING and command.torque


def test_a_driver_that_was_stopped_does_not_go_on_with_an_old_command():
    safety, arm = started()
    safety.begin_episode(0.0)
    safety.act([0.5, 0, 0, 0, 0.5], 0.0, 1)
    last = live(safety, arm, 0.0, 0.3)[-1]
    arm.move(5.0)  # the servos went to their goal
    safety.observe(arm.reading(5.3), 5.3)
    command = safety.tick(5.3)
    assert "loop late" in [fault.kind for fault in command.faults] and command.mode is Mode.HOLDING
    np.testing.assert_allclose(command.goal, last.goal)
    assert np.abs(command.velocity).max() == 0.0
    assert np.abs(live(safety, arm, 5.3, 1.0)[-1].goal - last.goal).max() == 0.0


def test_the_same_times_give_the_same_commands():
    first, second = (run("widowx_mk2", 5.0, bursts, seed=3)[1] for _ in range(2))
    for one, other in zip(first, second):
        assert one.at == other.at and one.changes == other.changes and one.mode is other.mode
        if one.goal is not None:
            np.testing.assert_array_equal(one.goal, other.goal)


# ---------------------------------------------------------------- fences


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_fences_lie_inside_the_registers_and_hold_every_goal(profile):
    arm = PROFILES[profile]
    wanted = fences(arm)
    assert sorted(wanted) == sorted(servo for axis in arm for servo in axis.ids)
    limits = limits_of(profile)
    for index, joint in enumerate(arm.joints):
        for servo in joint.ids:
            values = wanted[servo]
            low, high = (values[name] for name in joint.model.limit_registers)
            assert 0 < low < high <= joint.model.max_tick
            for goal in (limits.low[index], limits.high[index]):
                assert low < joint.to_tick(goal) < high
            torque = values.get("max_torque", 0) / 1023 + values.get("pwm_limit", 0) / 885
            assert 0.49 < torque <= 0.5
    with pytest.raises(ValueError, match=r"at most 0\.5"):
        fences(arm, 0.6)


def test_differences_are_named():
    wanted = fences(WX200)
    assert differences(wanted, wanted) == ()
    found = {servo: dict(values) for servo, values in wanted.items()}
    found[4]["min_position_limit"] += 1
    del found[5]["pwm_limit"]
    del found[9]
    named = [str(difference) for difference in differences(wanted, found)]
    value = wanted[4]["min_position_limit"]
    assert named[0] == f"servo 4: min_position_limit is {value + 1}, should be {value}"
    assert named[1] == "servo 5: pwm_limit was not read, should be 442"
    assert len(named) == 2 + len(wanted[9])


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"horizon": 0.3}, "horizon: must be within"),
        ({"lead": 0.5}, "lead"),
        ({"follow_error": 0.2}, "follow_error: must be below lead"),
        ({"tick": 0.0}, "tick: must be a number above 0"),
        ({"margin": math.nan}, "margin"),
        ({"action_deadline": 0.6}, "at most 0.45"),
        ({"stop_time": 0.3}, "stop_time"),
    ],
)
def test_settings_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        SafetySettings(**change)
