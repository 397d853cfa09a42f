"""The robot behind the environments: ``backend="robot"``, in real time, over a file's devices.

Driver's process, cameras and insertion sensor are a ``session``'s, as everywhere else. Steps keep
to a grid of absolute times: an action is sent as soon as ``step`` is called, the next observation is taken
when the period is over, however long the policy thought. Whoever comes later than a whole period misses it.
Every step is on the disk before it is returned.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hardware_bridge.cameras import SIZE, CameraError
from hardware_bridge.config import load
from hardware_bridge.faults import Response
from hardware_bridge.insertion import SensorError
from hardware_bridge.process import Tick
from hardware_bridge.recorder import Recorder
from hardware_bridge.session import Session
from hardware_bridge.watches import recorded
from meld_envs.families import widowx_ethernet as scene
from meld_envs.robots import widowx
from meld_envs.world import World

#: From step to step (s): 15 ticks of the inner loop, as in the simulation.
PERIOD = scene.TICKS * widowx.TICK


class Pace:
    """A grid of absolute times, a period apart.

    Attributes:
        lateness: by how much the last wait ended after its time (s).
        jitter: how much longer than the period it was since the wait before (s).
        thought: from the end of the wait before until this one was called (s).
        missed: periods that passed entirely before the wait was called.
    """

    def __init__(self, period: float) -> None:
        self.period = period
        self.lateness = self.jitter = self.thought = 0.0
        self.missed = 0
        self._due = self._woke = math.nan

    def start(self) -> None:
        """The grid begins now: nothing is late yet."""
        self._due = self._woke = math.nan
        self.lateness = self.jitter = self.thought = 0.0
        self.missed = 0

    def begin(self, now: float) -> float:
        """Settles until when the step that begins now lasts (monotonic, s)."""
        first = math.isnan(self._due)
        self.thought = 0.0 if first else now - self._woke
        if first:
            self._due = self._woke = now
        self._due += self.period
        self.missed = max(0, math.ceil((now - self._due) / self.period))
        self._due += self.missed * self.period
        return self._due

    def wait(self) -> None:
        """Until the step is over."""
        while (left := self._due - time.monotonic()) > 0:
            time.sleep(left)
        now = time.monotonic()
        self.lateness, self.jitter = now - self._due, now - self._woke - self.period
        self._woke = now


class Robot:
    """``meld_envs.backend.Backend``: the one robot of a file. Nothing is opened before the first episode.

    Args:
        world: of one simulation, whose state becomes what was measured.
        config: the robot's file. The rig's switch must stand where the scene has it, 0.2 m before the arm.

    Attributes:
        session: with its devices, once there is one.
        recording: the file of steps, likewise.

    Raises:
        ConfigError: the file is no robot's.
        ValueError: more than one simulation; another arm than the scene's.
    """

    def __init__(self, world: World, config: str | os.PathLike[str]) -> None:
        if world.num_sims != 1:
            raise ValueError(f"backend='robot' has one robot, and {world.num_sims} trials were asked for")
        self.config = Path(config)
        self.configuration = load(self.config)
        names = [joint.name for joint in self.configuration.arm_profile().joints]
        if names != [joint.name for joint in widowx.JOINTS]:
            raise ValueError(
                f"{config}: the task is for the WidowX Mark II, not {self.configuration.profile}"
            )
        self.session: Session | None = None
        self.recording: Path | None = None
        self._recorder: Recorder | None = None
        self._pace = Pace(PERIOD)
        self._image = np.zeros((SIZE, 2 * SIZE, 3), dtype=np.uint8)
        self._image_age = math.inf
        self._faults: tuple[str, ...] = ()

    # ------------------------------------------------------------ life

    def _open(self) -> Session:
        """Recorder, then driver, cameras and sensor.

        Raises:
            RecorderError: no recording can be made.
            Others: as ``Session.start``.
        """
        if self.session is not None:
            return self.session
        folder = self.config.parent / self.configuration.recording.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.recording = folder / f"robot-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.rec"
            self._recorder = Recorder(self.recording)
            self.session = Session(self.config).start()
        except BaseException:
            self.close()
            raise
        return self.session

    def close(self) -> None:
        """The arm goes to its rest pose, torque goes off, every device is given back.

        Raises:
            RuntimeError, DriverGone: as ``Session.close``.
        """
        session, recorder = self.session, self._recorder
        self.session = self._recorder = None
        try:
            if recorder is not None:
                recorder.close()
        finally:
            if session is not None:
                session.close()

    # ------------------------------------------------------------ episodes

    def start_episode(self, world: World) -> None:
        """Plug out and up, to the family's start, the rig to the task.

        Raises:
            FaultError, RigError, SensorError, NotReadyError: as ``Session.begin_episode``, which waits for an
                arm that rests.
            Others: as ``_open``.
        """
        session = self._open()
        switch = world.model.body("switch").id
        w, _, _, z = world.fields["body_quat"][0, switch]
        place = float(world.fields["body_pos"][0, switch, 1])
        session.begin_episode(world.memory["goal"][0], (2.0 * float(np.arctan2(z, w)), place))
        self._pace.start()
        self._take(world, session, time.monotonic())
        self._record("note", {"episode": True, "rig": session.door.latest.rig})

    def step(self, world: World, actions: np.ndarray) -> np.ndarray:
        """Sends the action, waits for the period's end, observes.

        Raises:
            DriverGone: the driver's process has ended.
            RecorderError: the step could not be recorded; the arm is held.
        """
        session, began = self._open(), time.monotonic()
        self._pace.begin(began)
        session.door.act(actions[0] * widowx.MAX_SPEED, began)
        self._pace.wait()
        ticks = self._take(world, session, began)
        sent = np.mean([tick.velocity for tick in ticks] or [np.zeros(widowx.NUM_JOINTS)], axis=0)
        world.steps += scene.TICKS
        sent = sent[np.newaxis] / widowx.MAX_SPEED
        values = {"action": actions[0], "sent": sent[0], "image": self._image, "qpos": world.qpos[0]}
        info = {name: value[0] for name, value in self.info().items()}
        self._record("step", values | info | {"rig": session.door.latest.rig, "faults": list(self._faults)})
        return sent

    def end_episode(self, world: World) -> None:
        """Holds still, until a slow sensor has had its say."""
        session = self._open()
        session.door.end_episode()
        time.sleep(session.senses.sensor.dwell)
        self._feel(world, session)

    def frames(self, size: int) -> np.ndarray:
        """What the cameras saw at the step's end, ``(1, 64, 128, 3)``.

        Raises:
            ValueError: another size.
        """
        if size != SIZE:
            raise ValueError(f"backend='robot': its cameras' pictures are {SIZE} high, image_size={size}")
        return self._image[np.newaxis].copy()

    def info(self) -> dict[str, np.ndarray]:
        """Times of the last step, in s, and faults; ``(1,)`` each."""
        pace = self._pace
        return {
            "lateness": np.array([pace.lateness]),
            "jitter": np.array([pace.jitter]),
            "thought": np.array([pace.thought]),
            "missed": np.array([pace.missed]),
            "image_age": np.array([self._image_age]),
            "fault": np.array([", ".join(self._faults)]),
        }

    def _record(self, kind: str, values: Mapping[str, Any]) -> None:
        assert self._recorder is not None
        assert self.session is not None
        plain = {name: str(value) if isinstance(value, np.str_) else value for name, value in values.items()}
        with recorded(self._recorder, self.session.report) as out:
            if kind == "step":
                out.step(plain)
            else:
                out.append(kind, plain)

    # ------------------------------------------------------------ what is so

    def _take(self, world: World, session: Session, since: float) -> list[Tick]:
        """Takes in what was measured and seen; the ticks since a time."""
        door, unwell = session.door, []
        try:
            self._image, frames = session.senses.pictures()
            self._image_age = session.now() - min(frame.captured for frame in frames.values())
        except CameraError as error:
            unwell.append(f"{error.kind}: {error.where}")
            self._image_age = math.inf
        tick, ticks = door.latest, door.ticks(since)
        held = [
            fault for told in (*ticks, tick) for fault in told.faults if fault.response > Response.CARRY_ON
        ]
        unwell += [f"{fault.kind}: {fault.where}" for fault in held]
        self._faults = tuple(dict.fromkeys(unwell))
        self._mirror(world, tick)
        self._feel(world, session)
        return ticks

    def _mirror(self, world: World, tick: Tick) -> None:
        """What joints and rig measured becomes the world's state."""
        switch, (rotation, translation) = world.model.body("switch").id, tick.rig
        world.qpos[0], world.qvel[0] = tick.position, tick.rates
        world.memory["goal"][0] = tick.reference
        world.fields["body_pos"][0, switch, 1] = translation
        half = rotation / 2.0
        world.fields["body_quat"][0, switch] = (np.cos(half), 0.0, 0.0, np.sin(half))
        world.fields_changed()
        world.states_changed()

    def _feel(self, world: World, session: Session) -> None:
        """In which port the sensor says the plug is; one that cannot tell means the nearest."""
        made = np.zeros((1, scene.NUM_PORTS), dtype=bool)
        try:
            known = session.senses.insertion()
        except SensorError as error:
            session.report(error.kind, error.where, error.what)
            self._faults = tuple(dict.fromkeys((*self._faults, f"{error.kind}: {error.where}")))
        else:
            if known.inserted:
                port = scene.nearest_port(world) if known.port is None else known.port
                made[0, port] = True
        world.memory["contacts"] = made
