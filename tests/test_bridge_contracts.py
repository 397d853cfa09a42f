"""What other programs expect of the robot: LeRobot's contract of version 0.6.2, and ROS' messages.

Neither LeRobot nor ROS is installed: the contract is held by duck typing, in real time against the emulated
robot; of ROS, what messages mean is tested, with stand-ins for its classes.
"""

from __future__ import annotations

import inspect
import math
import time
from types import SimpleNamespace

import numpy as np
import pytest

from hardware_bridge import ros2
from hardware_bridge.cameras import CameraDark, Frame
from hardware_bridge.config import TWIN, ConfigError, load, write_back
from hardware_bridge.faults import KINDS, Fault, FaultError
from hardware_bridge.lerobot import AlreadyConnected, NotConnected, WidowXRobot, WidowXRobotConfig
from hardware_bridge.link import Link

pytestmark = pytest.mark.real_time

JOINTS = [f"joint_{number}" for number in range(1, 6)]
STILL = dict.fromkeys((f"{joint}.vel" for joint in JOINTS), 0.0)
#: Methods of LeRobot's Robot (0.6.2), and what they take besides self.
CONTRACT = {
    "connect": ["calibrate"], "calibrate": [], "configure": [], "get_observation": [],
    "send_action": ["action"], "disconnect": [], "__enter__": [],
}  # fmt: skip
PROPERTIES = ("observation_features", "action_features", "is_connected", "is_calibrated")


def fault(kind, where="joint_2"):
    row = KINDS[kind]
    return Fault(kind, where, "as a test", row.severity, row.response, row.remedy, 0.0, 0.0)


class Door:
    """A driver that does as it is asked, and remembers."""

    def __init__(self, mode="POLICY", faults=()):
        self.latest = SimpleNamespace(
            mode=mode, faults=tuple(faults), position=np.arange(5.0), rates=np.zeros(5),
            at=9.9, measured_at=9.9,
        )  # fmt: skip
        self.done = []

    def act(self, action):
        self.done.append(tuple(np.round(action, 3)))

    def begin_episode(self):
        self.done.append("begin")
        if any(f.kind != "policy stalled" for f in self.latest.faults):
            raise FaultError("not while faults last", self.latest.faults)
        self.latest.mode = "POLICY"

    def end_episode(self):
        self.done.append("end")


def a_session(door, error=None):
    frame = Frame(np.full((64, 64, 3), 7, np.uint8), 9.8, 3)

    def pictures(timeout=0.0):
        if error is not None:
            raise error
        return np.zeros((64, 128, 3), np.uint8), {"front": frame, "wrist": frame}

    cameras = SimpleNamespace(cameras={"front": None, "wrist": None})
    act = lambda velocity: (door.act(velocity), SimpleNamespace(velocity=np.asarray(velocity) / 2))[1]  # noqa: E731
    return SimpleNamespace(
        door=door, configuration=load(TWIN), now=lambda: 10.0, act=act,
        senses=SimpleNamespace(pictures=pictures, cameras=cameras),
    )  # fmt: skip


# LeRobot, by its logic ------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "arm.yaml"
    path.write_text(TWIN.read_text(encoding="utf-8"), encoding="utf-8")
    return path


def test_it_has_what_a_robot_has(file):
    robot = WidowXRobot(WidowXRobotConfig(file, id="left"))
    for name, parameters in CONTRACT.items():
        assert list(inspect.signature(getattr(WidowXRobot, name)).parameters)[1:] == parameters, name
    for name in PROPERTIES:
        assert isinstance(inspect.getattr_static(WidowXRobot, name), property), name
    assert WidowXRobot.config_class is WidowXRobotConfig and robot.name == robot.robot_type == "widowx"
    assert robot.id == "left" and str(robot) == "left WidowXRobot" and robot.config.type == "widowx"
    assert inspect.signature(WidowXRobot.connect).parameters["calibrate"].default is True


def test_features_are_known_without_a_connection(file):
    robot = WidowXRobot(WidowXRobotConfig(file))
    assert robot.action_features == {f"{joint}.vel": float for joint in JOINTS}
    features = robot.observation_features
    assert features["front"] == features["wrist"] == (64, 64, 3)
    assert {key for key, kind in features.items() if kind is float} == {
        *(f"{joint}.{what}" for joint in JOINTS for what in ("pos", "vel")),
        "joints.age_ms", "front.age_ms", "wrist.age_ms",
    }  # fmt: skip
    assert not robot.is_connected
    for call in (robot.get_observation, robot.disconnect, lambda: robot.send_action(STILL)):
        with pytest.raises(NotConnected, match=r"call connect\(\) first"):
            call()
    assert issubclass(NotConnected, ConnectionError) and issubclass(AlreadyConnected, ConnectionError)


def test_what_is_not_calibrated_is_refused_without_a_prompt(file, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a prompt"))
    robot = WidowXRobot(WidowXRobotConfig(file))
    assert not robot.is_calibrated
    with pytest.raises(ConfigError, match=r"calibrate .*arm.yaml`, or connect"):
        robot.connect()
    assert not robot.is_connected
    write_back(file, {"calibrated": ["joints"]})
    WidowXRobot(WidowXRobotConfig(file)).calibrate()


def connected(file, door, error=None):
    robot = WidowXRobot(WidowXRobotConfig(file))
    robot._session = a_session(door, error)
    return robot


def test_an_action_returns_what_was_really_sent(file):
    door = Door()
    robot = connected(file, door)
    asked = {**STILL, "joint_2.vel": 0.2}
    assert robot.send_action(asked) == {**STILL, "joint_2.vel": 0.1}, "what the driver made of it"
    assert door.done == [(0.0, 0.2, 0.0, 0.0, 0.0)]
    robot.send_action({**STILL, "joint_1.vel": "fast"})
    assert math.isnan(door.done[-1][0]), "which the driver refuses and counts"
    for wrong, message in [
        ({**STILL, "joint_9.vel": 0.0}, "unknown key 'joint_9.vel' in an action; did you mean"),
        ({"joint_1.vel": 0.0}, "'joint_2.vel' is missing"),
    ]:
        with pytest.raises(KeyError, match=message):
            robot.send_action(wrong)
    assert len(door.done) == 2


def test_an_action_ends_a_pause_and_no_other_fault(file):
    door = Door("HOLDING", [fault("policy stalled", "policy"), fault("warm")])
    door.begin_episode = lambda: door.done.append("begin")
    connected(file, door).send_action(STILL)
    assert door.done == ["begin", (0.0,) * 5]
    door = Door("HOLDING", [fault("policy stalled", "policy"), fault("overload")])
    with pytest.raises(FaultError, match=r"no action is taken: .*overload"):
        connected(file, door).send_action(STILL)
    assert door.done == []


def test_observations_are_flat_and_have_the_keys_that_were_promised(file):
    robot = connected(file, Door())
    seen = robot.get_observation()
    assert set(seen) == set(robot.observation_features)
    assert seen["joint_3.pos"] == 2.0 and seen["front"].shape == (64, 64, 3)
    assert seen["joints.age_ms"] == pytest.approx(100.0) and seen["wrist.age_ms"] == pytest.approx(200.0)
    with pytest.raises(CameraDark):
        connected(file, Door(), CameraDark("front", "dark", "light")).get_observation()


# LeRobot, against the emulated robot -----------------------------------------------------------------


#: What a computer with too much else to do looks like; recoverable, as nothing is wrong with the robot.
BUSY = {"loop late", "readings stale", "image stale", "policy stalled", "actions bursty", "packet lost"}


def send(robot, action):
    """An action, again if other programs made the driver late."""
    for _ in range(5):
        try:
            return robot.send_action(action)
        except FaultError as error:
            if not {fault.kind for fault in error.faults} <= BUSY:
                raise
            time.sleep(0.2)
            robot._connected().door.recover()
    pytest.skip("the computer is too busy for real time")


def test_the_contract_is_kept_in_real_time(twin):
    robot = WidowXRobot(WidowXRobotConfig(twin.config))
    robot.connect(calibrate=False)
    try:
        assert robot.is_connected
        with pytest.raises(AlreadyConnected):
            robot.connect(calibrate=False)
        before = robot.get_observation()
        for key, kind in robot.observation_features.items():
            value = before[key]
            good = (
                isinstance(value, float) if kind is float else (value.shape, value.dtype) == (kind, np.uint8)
            )
            assert good, key
        assert before["joints.age_ms"] < 500 and before["front"].std() > 3
        for _ in range(12):  # up first, out of the cradle
            sent = send(robot, {**STILL, "joint_2.vel": 9.0})
            time.sleep(0.1)
        assert set(sent) == set(robot.action_features)
        assert 0.15 < sent["joint_2.vel"] <= 0.22, "the limit, not what was asked"
        after = robot.get_observation()
        assert after["joint_2.pos"] - before["joint_2.pos"] > 0.1
        sent = send(robot, {**STILL, "joint_2.vel": math.nan})
        assert sent["joint_2.vel"] < 0.22, "it brakes"
        time.sleep(0.6)  # nobody acts: the driver holds the arm
        assert robot._connected().door.latest.mode == "HOLDING"
        send(robot, STILL)
        assert robot._connected().door.latest.mode == "POLICY"
    finally:
        robot.disconnect()
    assert not robot.is_connected
    configuration = load(twin.config)
    with Link(configuration.port.device, slack=0.05) as link:
        for joint in configuration.arm_profile().joints:
            assert not link.read_registers(joint.servo, "torque_enable")[0]["torque_enable"]


# ROS ------------------------------------------------------------------------------------------------


def test_without_ros_one_is_told_and_nothing_is_started(run_python):
    result = run_python("-m", "hardware_bridge.ros2", str(TWIN))
    assert result.returncode == 1
    assert result.stderr.startswith("ROS 2 is not there: install a distribution") and "rclpy" in result.stderr


def test_velocity_commands_are_checked_and_need_an_episode():
    said = []
    door = Door()
    commands = ros2.Commands(a_session(door), said.append)
    commands.velocity([0.1, 0.0, 0.0, 0.0, 9.0])
    assert door.done == [(0.1, 0.0, 0.0, 0.0, 9.0)] and not said, "limits are the driver's"
    commands.velocity([0.1] * 4)
    commands.velocity([0.1, math.nan, 0.0, 0.0, 0.0])
    assert len(door.done) == 1
    assert "4 velocities, expected 5" in said[0] and "not finite" in said[1]
    door.latest.mode, door.latest.faults = "HOLDING", (fault("overload"),)
    commands.velocity([0.1] * 5)
    assert len(door.done) == 1 and "no episode, the arm is holding: overload" in said[2]
    started, why = commands.start()
    assert not started and "overload" in why
    door.latest.faults = ()
    assert commands.start() == (True, "velocity commands are obeyed")
    commands.velocity([0.1] * 5)
    assert commands.stop() == (True, "the arm holds") and door.done[-2:] == [(0.1,) * 5, "end"]


def test_times_and_levels_are_as_ros_has_them():
    assert ros2.stamp(9.75, 10.0, 1_700_000_000_100_000_000) == (1_699_999_999, 850_000_000)
    assert ros2.level(()) == b"\x00" and ros2.level([fault("warm")]) == b"\x01"
    assert ros2.level([fault("warm"), fault("overload")]) == b"\x02"


class Ros:
    """Stand-ins for ROS' classes: messages with any fields, and a node that remembers what it was asked."""

    def __init__(self):
        self.published, self.subscribed, self.services, self.warned = [], {}, {}, []
        self.node = SimpleNamespace(
            create_publisher=lambda kind, topic, depth: SimpleNamespace(
                publish=lambda message: self.published.append((topic, message))
            ),
            create_subscription=lambda kind, topic, call, depth: self.subscribed.update({topic: call}),
            create_service=lambda kind, name, call: self.services.update({name: call}),
            create_timer=lambda period, call: None,
            get_logger=lambda: SimpleNamespace(warning=self.warned.append),
            get_clock=lambda: SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=20_000_000_000)),
        )
        stamped = lambda: SimpleNamespace(header=SimpleNamespace(stamp=SimpleNamespace()))  # noqa: E731
        names = ("JointState", "Image", "DiagnosticArray", "DiagnosticStatus", "KeyValue", "Trigger")
        self.modules = SimpleNamespace(
            rclpy=SimpleNamespace(create_node=lambda name: self.node), Float64MultiArray=None,
            **dict.fromkeys(names, stamped),
        )  # fmt: skip


def test_what_the_node_publishes_and_obeys():
    fake, door = Ros(), Door()
    node = ros2.Node(fake.modules, a_session(door))
    node.publish()
    sent = dict(fake.published)
    assert list(sent) == ["joint_states", "front/image_raw", "wrist/image_raw", "diagnostics"]
    states = sent["joint_states"]
    assert states.name == JOINTS and states.position == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert (states.header.stamp.sec, states.header.stamp.nanosec) == (19, 900_000_000)
    image = sent["front/image_raw"]
    assert (image.height, image.width, image.step, image.encoding) == (64, 64, 192, "rgb8")
    assert image.data == bytes([7]) * (64 * 64 * 3)
    assert sent["diagnostics"].status[0].level == b"\x00" and sent["diagnostics"].status[0].message == "well"
    node.publish()
    assert [topic for topic, _ in fake.published[4:]] == ["joint_states", "diagnostics"], "no picture twice"
    fake.subscribed["velocity_command"](SimpleNamespace(data=[0.1] * 5))
    assert door.done == [(0.1,) * 5]
    answer = fake.services["stop"](None, SimpleNamespace())
    assert answer.success and answer.message == "the arm holds"
    dark = ros2.Node(fake.modules, a_session(door, CameraDark("front", "dark", "light")))
    dark.publish()
    status = fake.published[-1][1].status[0]
    assert status.level == b"\x01" and "camera front: dark" in status.message
