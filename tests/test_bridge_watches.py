"""Devices beside the servos: when one that is unwell holds the arm, and when it is no reason to."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from hardware_bridge.cameras import Cameras, CamerasSwapped
from hardware_bridge.campaign.devices import BOTH, filmed
from hardware_bridge.campaign.stand import Stand
from hardware_bridge.config import TWIN, load
from hardware_bridge.faults import FaultError
from hardware_bridge.insertion import SensorStuck
from hardware_bridge.recorder import Recorder, RecorderError
from hardware_bridge.recording import Plan, record_policy
from hardware_bridge.safety import Mode
from hardware_bridge.session import Session
from hardware_bridge.twin.robot import EmulatedRobot
from hardware_bridge.watches import LASTS, CameraWatch

WRITES = (0x03, 0x83)  # instructions of Protocol 1


def until(condition, timeout=5.0):
    end = time.monotonic() + timeout
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


class Told:
    """Whom a watch tells."""

    def __init__(self):
        self.images, self.faults = [], []

    def image(self, camera, captured):
        self.images.append((camera, captured))

    def report(self, kind, where, detail, until=0.0):
        self.faults.append((kind, where, until))


# In lockstep ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pose", "found"), [("rest", True), ("ready", False)])
def test_cameras_are_compared_with_their_references_at_rest_alone(pose, found, tmp_path):
    angles = getattr(load(TWIN).arm, pose)
    with Stand(tmp_path, cameras=BOTH, angles=angles) as stand, filmed(stand) as cameras:
        cameras["front"].shows, cameras["wrist"].shows = "wrist", "front"
        stand.start()
        stand.idle(1.0)
        assert (stand.seen("camera swapped") is not None) is found


def test_no_camera_stops_the_arm_on_its_way_and_none_that_is_unwell_lets_an_episode_begin(tmp_path):
    with Stand(tmp_path, cameras=BOTH) as stand, filmed(stand) as cameras:
        stand.start()
        stand.idle(0.5)
        cameras["front"].server.defect = "black"
        stand.driver.go_to((0.2, *stand.robot.arm.ready[1:]))
        assert stand.seen("camera dark") is None
        stand.idle(0.06)
        assert stand.seen("camera dark", "front") is not None and stand.safety.mode is Mode.HOLDING
        for _ in range(10):  # between two looks as well
            with pytest.raises(FaultError, match="camera dark"):
                stand.safety.begin_episode(stand.beat.now())
            stand.idle(0.02)
        cameras["front"].server.defect = None
        stand.driver.recover()
        stand.episode()
        assert stand.safety.mode is Mode.POLICY


def test_whoever_was_kept_from_looking_blames_no_camera_but_in_an_episode(tmp_path):
    with Stand(tmp_path, cameras=BOTH) as stand, filmed(stand) as cameras:
        stand.start()
        stand.idle(0.5)
        told, both = Told(), Cameras(cameras.values())
        watch, rest, now = CameraWatch(told, stand.robot), np.array(stand.robot.arm.rest), stand.beat.now()
        watch.look(both, Mode.READY, rest, now)
        watch.look(both, Mode.READY, rest, now + 0.5)
        assert told.faults == []
        watch.look(both, Mode.READY, rest, now + 0.54)
        stale = [("image stale", name, now + 0.54 + LASTS) for name in BOTH]
        assert told.faults == stale
        watch.look(both, Mode.MOVING, rest, now + 0.58)
        assert told.faults == stale
        watch.look(both, Mode.POLICY, rest, now + 5.0)
        assert [fault[:2] for fault in told.faults[2:]] == [("image stale", name) for name in BOTH]


def test_pictures_that_nobody_had_time_to_take_make_no_camera_slow(tmp_path):
    with Stand(tmp_path, cameras=BOTH) as stand, filmed(stand) as cameras:
        stand.start()
        cameras["front"].period = 0.5
        stand.idle(3.0)
        while stand.beat.now() - cameras["front"].newest.captured > 0.1:
            stand.idle(0.02)
        both, rest, now = Cameras(cameras.values()), np.array(stand.robot.arm.rest), stand.beat.now()
        for earlier, found in ((0.08, ["camera slow"]), (1.0, [])):
            told = Told()
            watch = CameraWatch(told, stand.robot)
            for at in (now - earlier, now - 0.04, now):
                watch.look(both, Mode.READY, rest, at)
            assert [kind for kind, _, until in told.faults if until == now + LASTS] == found


# In real time, with the driver in its process --------------------------------------------------------


def kinds(session):
    return {fault.kind for fault in session.door.latest.faults}


@pytest.mark.real_time
def test_a_session_begins_no_episode_with_a_dark_camera_and_goes_to_rest_without_it(tmp_path):
    with EmulatedRobot(tmp_path, TWIN) as robot:
        with Session(robot.config) as session:
            session.door.begin_episode()
            robot.senses.spoil("front", "black")
            assert until(lambda: "camera dark" in kinds(session), 1.0)
            for _ in range(20):
                with pytest.raises(FaultError, match="camera dark"):
                    session.door.begin_episode()
                time.sleep(0.01)
        assert not any(servo.table["torque_enable"] for servo in robot.line.servos)


@pytest.mark.real_time
def test_a_watch_that_fails_holds_the_arm(tmp_path):
    with EmulatedRobot(tmp_path, TWIN) as robot, Session(robot.config) as session:
        session.senses.cameras.cameras["wrist"].check = lambda: 1 / 0
        assert until(lambda: "camera missing" in kinds(session), 1.0)
        assert session.door.latest.mode == "HOLDING"
        with pytest.raises(FaultError, match="its watch failed: ZeroDivisionError"):
            session.door.begin_episode()


@pytest.mark.real_time
def test_exchanged_cameras_keep_torque_off(tmp_path):
    with EmulatedRobot(tmp_path, TWIN, ["swapped-cameras"]) as robot:
        said = []
        robot.line.tap = lambda at, by, raw: said.append(raw)
        with pytest.raises(CamerasSwapped):
            Session(robot.config).start()
        assert said and not any(raw[4] in WRITES for raw in said), "servos were read, and written nothing"


@pytest.mark.real_time
def test_with_a_plug_in_no_episode_begins_and_the_sensor_is_named(tmp_path):
    with EmulatedRobot(tmp_path, TWIN) as robot, Session(robot.config) as session:
        robot.senses.insert(0)
        with pytest.raises(SensorStuck):
            session.begin_episode((0.0, -1.4, 1.4, 0.1, 0.0))
        assert until(lambda: "sensor stuck" in kinds(session), 1.0)
        assert session.door.latest.mode == "HOLDING"


@pytest.mark.real_time
def test_after_a_step_that_is_not_on_the_disk_the_arm_is_held(tmp_path):
    with (
        EmulatedRobot(tmp_path, TWIN) as robot,
        Session(robot.config) as session,
        Recorder(tmp_path / "session.rec") as out,
    ):
        asked = []

        def act(step):
            asked.append(step)
            if step == 1:
                os.close(out._file)
                out._file = os.open("/dev/full", os.O_WRONLY)
            return np.zeros(5)

        with pytest.raises(RecorderError, match="No space left"):
            record_policy(session, out, act, Plan(steps=5), print)
        assert asked == [0, 1]
        assert until(lambda: session.door.latest.mode == "HOLDING", 1.0)
        assert "recorder failed" in kinds(session)
