"""A thin ROS 2 node over the same driver: a ROS client is one more policy, and has all limits below it.

It publishes ``joint_states``, a picture per camera and ``diagnostics``, and takes joint velocities (rad/s)
from ``velocity_command`` (``Float64MultiArray``, base first), as group controllers do. Only standard
messages, no build step: ``python -m hardware_bridge.ros2 CONFIG`` in a shell in which ROS 2 is sourced. ROS
is imported when the node starts, and nowhere else.

An episode begins with ``start`` (``std_srvs/Trigger``) and ends with ``stop``, or when the driver holds the
arm: commands alone never set an arm in motion that a fault has stopped.

Not yet run against an installation of ROS: its logic was tested, its calls of rclpy are by the documents.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from hardware_bridge.faults import Fault, Response
from hardware_bridge.recording import FAILURES
from hardware_bridge.session import Session

#: Of joint states and pictures (Hz).
RATE = 20.0
INSTALL = (
    "ROS 2 is not there: install a distribution (https://docs.ros.org), `source /opt/ros/DISTRO/setup.bash`, "
    "and start this with the Python that it is for; the bridge itself needs no ROS"
)


# What messages mean, without ROS -------------------------------------------------------------------


def velocities(data: Sequence[float], joints: int) -> np.ndarray | str:
    """The action ``(joints,)`` rad/s that a ``Float64MultiArray``'s data are, or why they are none."""
    if len(data) != joints:
        return f"{len(data)} velocities, expected {joints}, base first"
    values = np.array(data, dtype=np.float64)
    return values if np.isfinite(values).all() else f"velocities {values.tolist()} are not finite"


def stamp(at: float, now: float, ros_now: int) -> tuple[int, int]:
    """Seconds and nanoseconds, by ROS' clock (ns), of a time by the monotonic clock (s)."""
    ns = ros_now - round((now - at) * 1e9)
    return ns // 1_000_000_000, ns % 1_000_000_000


def level(faults: Sequence[Fault]) -> bytes:
    """``DiagnosticStatus.level``: 0 well, 1 a warning, 2 the arm does not do what it is asked."""
    if not faults:
        return b"\x00"
    return b"\x02" if any(fault.response > Response.CARRY_ON for fault in faults) else b"\x01"


def fill_joint_state(message: Any, names: Sequence[str], position: Any, velocity: Any) -> Any:
    """Fills a ``sensor_msgs/JointState`` and returns it."""
    message.name = list(names)
    message.position, message.velocity = [list(map(float, values)) for values in (position, velocity)]
    return message


def fill_image(message: Any, image: np.ndarray) -> Any:
    """Fills a ``sensor_msgs/Image`` with ``(H, W, 3)`` uint8 in RGB and returns it."""
    message.height, message.width = image.shape[:2]
    message.encoding, message.is_bigendian, message.step = "rgb8", 0, 3 * image.shape[1]
    message.data = np.ascontiguousarray(image).tobytes()
    return message


@dataclass
class Commands:
    """What a client asks, on its way to the driver; no ROS in here.

    Args:
        session: the robot.
        warn: gets what was refused, and why.
    """

    session: Session
    warn: Callable[[str], None]

    def velocity(self, data: Sequence[float]) -> None:
        """A velocity command: handed to the driver, or refused."""
        action = velocities(data, len(self.session.configuration.arm.joints))
        if isinstance(action, str):
            self.warn(f"refused: {action}")
            return
        tick = self.session.door.latest
        if tick.mode != "POLICY":
            why = "; ".join(map(str, tick.faults)) or "call the service start first"
            self.warn(f"refused: no episode, the arm is {tick.mode.lower()}: {why}")
            return
        self.session.door.act(action)

    def start(self) -> tuple[bool, str]:
        """An episode begins where the arm stands, unless faults last; whether, and why not."""
        return self._try(self.session.door.begin_episode, "velocity commands are obeyed")

    def stop(self) -> tuple[bool, str]:
        """Brake and hold."""
        return self._try(self.session.door.end_episode, "the arm holds")

    def _try(self, act: Callable[[], None], done: str) -> tuple[bool, str]:
        try:
            act()
        except FAILURES as error:
            return False, str(error)
        return True, done


# The node ------------------------------------------------------------------------------------------


def ros() -> SimpleNamespace:
    """ROS 2's modules.

    Raises:
        ImportError: they are not there; says what to do.
    """
    try:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
        from rclpy.executors import ExternalShutdownException
        from sensor_msgs.msg import Image, JointState
        from std_msgs.msg import Float64MultiArray
        from std_srvs.srv import Trigger
    except ImportError as error:
        raise ImportError(f"{INSTALL} ({error})") from error
    return SimpleNamespace(
        rclpy=rclpy, Stopped=ExternalShutdownException, Trigger=Trigger,
        Image=Image, JointState=JointState, Float64MultiArray=Float64MultiArray,
        DiagnosticArray=DiagnosticArray, DiagnosticStatus=DiagnosticStatus, KeyValue=KeyValue,
    )  # fmt: skip


class Node:
    """The node: publishers, subscription, services and a timer around ``Commands``.

    Args:
        modules: from ``ros``.
        session: the robot, started.
    """

    def __init__(self, modules: SimpleNamespace, session: Session) -> None:
        self._ros, self._session = modules, session
        self.node = modules.rclpy.create_node("widowx")
        self.commands = Commands(session, self.node.get_logger().warning)
        self._names = [joint.name for joint in session.configuration.arm.joints]
        make = self.node.create_publisher
        self._states = make(modules.JointState, "joint_states", 10)
        self._diagnostics = make(modules.DiagnosticArray, "diagnostics", 10)
        names = session.senses.cameras.cameras
        self._images: Mapping[str, Any] = {
            name: make(modules.Image, f"{name}/image_raw", 1) for name in names
        }
        self._shown: dict[str, float] = {}
        self.node.create_subscription(
            modules.Float64MultiArray,
            "velocity_command",
            lambda message: self.commands.velocity(message.data),
            1,
        )
        self.node.create_service(modules.Trigger, "start", self._answers(self.commands.start))
        self.node.create_service(modules.Trigger, "stop", self._answers(self.commands.stop))
        self.node.create_timer(1.0 / RATE, self.publish)

    @staticmethod
    def _answers(act: Callable[[], tuple[bool, str]]) -> Callable[[Any, Any], Any]:
        def answer(request: Any, response: Any) -> Any:
            response.success, response.message = act()
            return response

        return answer

    def publish(self) -> None:
        """Joint states, pictures that are new, diagnostics; a camera that is unwell is a diagnostic."""
        tick, trouble = self._session.door.latest, ""
        state = fill_joint_state(self._ros.JointState(), self._names, tick.position, tick.rates)
        self._states.publish(self._stamped(state, tick.measured_at))
        try:
            _, frames = self._session.senses.pictures()
        except FAILURES as error:
            frames, trouble = {}, str(error)
        for name, frame in frames.items():
            if frame.captured != self._shown.get(name):
                self._shown[name] = frame.captured
                image = fill_image(self._ros.Image(), frame.image)
                self._images[name].publish(self._stamped(image, frame.captured))
        self._diagnostics.publish(self._diagnosis(tick, trouble))

    def _diagnosis(self, tick: Any, trouble: str) -> Any:
        status = self._ros.DiagnosticStatus()
        status.name, status.hardware_id = "widowx", self._session.configuration.port.device
        status.level = max(level(tick.faults), b"\x01" if trouble else b"\x00")
        status.message = "; ".join([*map(str, tick.faults), *filter(None, [trouble])]) or "well"
        value = self._ros.KeyValue()
        value.key, value.value = "mode", tick.mode
        status.values = [value]
        array = self._ros.DiagnosticArray()
        array.status = [status]
        return self._stamped(array, tick.at)

    def _stamped(self, message: Any, at: float) -> Any:
        header = message.header.stamp
        ros_now = self.node.get_clock().now().nanoseconds
        header.sec, header.nanosec = stamp(at, self._session.now(), ros_now)
        return message


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m hardware_bridge.ros2 CONFIG [ROS arguments]``."""
    parser = argparse.ArgumentParser(prog="python -m hardware_bridge.ros2", description=__doc__)
    parser.add_argument("config", metavar="CONFIG", help="the robot's file")
    options, rest = parser.parse_known_args(arguments)
    try:
        modules = ros()
        with Session(options.config) as session:
            modules.rclpy.init(args=rest)
            try:
                with contextlib.suppress(modules.Stopped):
                    modules.rclpy.spin(Node(modules, session).node)
            finally:
                modules.rclpy.try_shutdown()
    except (*FAILURES, ImportError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
