"""A robot's cell: arm, rig and their driver on one bus, and what an episode needs of them, whatever the time.

The lockstep twin (``backend.Twin``) and the driver's own process (``process``) are two that own one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hardware_bridge.arm import ServoArm
from hardware_bridge.config import Configuration
from hardware_bridge.driver import Beat, Driver
from hardware_bridge.errors import LinkError
from hardware_bridge.faults import FaultError
from hardware_bridge.link import Link
from hardware_bridge.rig import Rig, RigError
from hardware_bridge.safety import Command, Mode, Safety
from meld_envs.families import widowx_ethernet as scene
from meld_envs.robots import widowx

#: How far a hand is lifted, in what pieces, before it goes anywhere else (m).
LIFT, PIECES = 0.036, 3
#: How far joints may hang below their goals by gravity alone (rad): base and roll turn about the vertical.
SAG = np.array([0.0, 0.06, 0.05, 0.03, 0.0])
#: How often it is tried to get out of where the last episode ended.
WAYS_OUT = 3
#: For which the arm stands still before an episode (s).
SETTLE = 0.4
#: While everything is checked, at least so much is added to the deadline of every reply, for a computer that
#: has other things to do (s); and so many retries. A question that nobody answers ends the start.
START_SLACK, START_RETRIES = 0.02, 4


class Cell:
    """Arm, rig, safety and driver behind a link; nothing happens before ``start``.

    Args:
        configuration: the robot.
        link: its bus.
        beat: its time.
        cameras: names of those whose images must be fresh while the policy acts.
        after: gets every cycle's command.
        reopen: opens the port again after it vanished.

    Attributes:
        arm, safety, driver, rig: the parts, bottom up.
    """

    def __init__(
        self,
        configuration: Configuration,
        link: Link,
        beat: Beat,
        *,
        cameras: Sequence[str] = (),
        after: Callable[[Command], None] | None = None,
        reopen: Callable[[], Link] | None = None,
    ) -> None:
        self.configuration, self.link = configuration, link
        profile, limits = configuration.arm_profile(), configuration.limits()
        self.arm = ServoArm(link, profile, clock=beat.now)
        self.safety = Safety(limits, profile.rest, cameras)
        self.driver = Driver(self.arm, self.safety, beat, after, reopen=reopen)
        self.rig = Rig(self.arm, self.driver, self.clear_of_rig)

    def start(self) -> None:
        """Checks everything, then holds arm and rig where they stand.

        Raises:
            NotReadyError, ValueError, FaultError, LinkError: as ``Driver.start``.
        """
        link = self.arm.link
        slack, retries = link.slack, link.retries
        link.slack, link.retries = max(slack, START_SLACK), max(retries, START_RETRIES)
        try:
            self.driver.start()
            self.rig.start()
        finally:
            link.slack, link.retries = slack, retries

    def rise(self) -> None:
        """Takes an arm up again that faults sent to rest, once they are over: it is started anew.

        One that is still on its way arrives first. One that somebody shut down, or that lost its torque for
        a runaway, is left as it is.

        Raises:
            FaultError: faults last, or wait to be acknowledged; of those that pass by themselves,
                ``FaultError.passes`` is true.
            NotReadyError, ValueError: as ``Driver.start``; torque is off.
            RuntimeError: the bus failed meanwhile; likewise.
        """
        self.safety.end_episode()
        self.driver.come_to_rest()
        if not self.safety.rests:
            return
        self.driver.recover()
        try:
            self.start()
        except LinkError as error:
            self.safety.report("packet lost", "bus", error.what)
            raise RuntimeError(f"the arm stays at rest, for it could not be started: {error}") from error

    def clear_of_rig(self) -> bool:
        """Whether the plug, by what the joints measure, is above the ports."""
        reading = self.driver.reading
        return reading is not None and bool(tip_height(reading.position) > scene.FACE + scene.CLEAR)

    def reset(self, goal: np.ndarray, rotation: float, translation: float) -> None:
        """Out and up, to the servos' goals ``(5,)`` rad, then the switch to its pose; an episode begins.

        Raises:
            FaultError: faults hold the arm that a new episode does not end, or keep it at rest.
            RigError: the rig does not do what it should.
            NotReadyError, ValueError, RuntimeError: it was at rest and cannot be taken up, as ``rise``.
        """
        safety, driver = self.safety, self.driver
        self.rise()
        self._go_out_to(goal)
        try:
            self.rig.move(rotation, translation)
        except RigError:
            self._not_going_home()  # or it was not the rig that failed
            raise
        driver.run(SETTLE)
        self._not_going_home()
        safety.begin_episode(driver.beat.now())

    def _go_out_to(self, goal: np.ndarray) -> None:
        """Out and up, then to a pose. What is wedged comes free at a second or third try."""
        for left in reversed(range(WAYS_OUT)):
            self._calm()
            try:
                for target in self._way_up():
                    self.driver.go_to(target)
                self.driver.go_to(goal)
                break
            except FaultError:
                if not left:
                    raise

    def park(self) -> None:
        """Out and up, to the rest pose, and only there torque off.

        Raises:
            FaultError: faults hold the arm; its torque stays on.
        """
        self._calm()
        for target in self._way_up():
            self.driver.go_to(target)
        self.driver.go_to(self.safety.rest)
        self.driver.shut_down()

    def _calm(self) -> None:
        """Brakes; conditions that are over are seen to be over, servos that gave up are asked to go on."""
        self.safety.end_episode()
        if self.safety.mode not in (Mode.HOMING, Mode.OFF):
            self.driver.recover()
        self._not_going_home()

    def _not_going_home(self) -> None:
        if self.safety.mode in (Mode.HOMING, Mode.OFF):
            raise FaultError("the arm goes to its rest pose", self.safety.faults.active)

    def _way_up(self) -> list[np.ndarray]:
        """Goals that lift the hand from where it is, if it is low; the way out of a port is straight."""
        reading = self.driver.reading
        assert reading is not None
        if tip_height(reading.position) > scene.FACE + scene.CLEAR:
            return []
        # What lies beyond gravity's part is pressure, against what the hand is to leave.
        sag = np.clip(self.safety.reference - reading.position, -SAG, SAG)
        heights = LIFT * np.arange(1, PIECES + 1) / PIECES
        limits = self.safety.limits
        ways = [widowx.lifted(reading.position, height) + sag for height in heights]
        ways = [np.clip(way, limits.low, limits.high) for way in ways]
        room, keep = limits.workspace, self.safety.settings.clearance
        # Nothing stops at a pose that is too near to something, not even on its way out of there.
        return [way for way in ways if room is None or room.clearance(way) >= keep]


def tip_height(angles: np.ndarray) -> float:
    """Of the plug's tip above the arm's base (m), at joint angles ``(5,)`` rad."""
    return float(widowx.tip_place(angles)[2])
