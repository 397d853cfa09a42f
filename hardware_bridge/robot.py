"""The robot behind the environments: ``backend="robot"``, in real time, over a file's devices.

The driver has a process of its own (``process``); cameras and insertion sensor are watched here. Steps keep
to a grid of absolute times: an action is sent as soon as ``step`` is called, the next observation is taken
when the period is over, however long the policy thought. Whoever comes later than a whole period misses it.
Every step is on the disk before it is returned.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hardware_bridge.cameras import SIZE, CameraError, Cameras, CameraSlow
from hardware_bridge.config import Configuration, load
from hardware_bridge.faults import Response
from hardware_bridge.insertion import InsertionSensor, SensorError, Watch, probe
from hardware_bridge.process import DriverGone, DriverProcess, Tick
from hardware_bridge.recorder import Recorder, RecorderError
from meld_envs.families import widowx_ethernet as scene
from meld_envs.robots import widowx
from meld_envs.world import World

#: From step to step (s): 15 ticks of the inner loop, as in the simulation.
PERIOD = scene.TICKS * widowx.TICK
#: The driver is told of new frames so often (s), and the cameras' health is looked at every so many times.
RELAY, LOOK = 0.03, 8
#: How long devices get to deliver something after their start (s).
WARM_UP = 5.0


class Eyes:
    """Cameras whose frames the driver hears of, so that it holds the arm when they go stale.

    Args:
        configuration: the robot.
        door: to the driver.
    """

    def __init__(self, configuration: Configuration, door: DriverProcess) -> None:
        self.cameras = Cameras.of(configuration)
        self._door, self._oldest = door, configuration.safety.images_age
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._relay, name="frames to the driver", daemon=True)

    def start(self) -> None:
        """Opens the cameras and waits for their first frames.

        Raises:
            CameraError: one of them delivers nothing, or nothing that is of use.
        """
        self.cameras.__enter__()
        self.cameras.read(self._oldest, timeout=WARM_UP)
        self._thread.start()

    def read(self) -> tuple[np.ndarray, float]:
        """The newest observation ``(64, 128, 3)`` uint8, and its older frame's age (s).

        Raises:
            CameraError: as ``Cameras.read``.
        """
        image, frames = self.cameras.read(self._oldest)
        return image, time.monotonic() - min(frame.captured for frame in frames.values())

    def dropped(self) -> dict[str, int]:
        """Frames that did not come, by the cameras' rates, since their first ones."""
        return {name: camera.missed for name, camera in self.cameras.cameras.items()}

    def _relay(self) -> None:
        told: dict[str, float] = {}
        turns = 0
        try:
            while not self._stop.wait(RELAY):
                turns += 1
                for name, camera in self.cameras.cameras.items():
                    frame = camera.newest
                    if frame is not None and frame.captured != told.get(name):
                        told[name] = frame.captured
                        self._door.image(name, frame.captured)
                    error = camera.check() if turns % LOOK == 0 else None
                    if error is not None and not isinstance(error, CameraSlow):
                        self._door.report(error.kind, error.where, error.what)
        except DriverGone:
            return  # whoever steps is told

    def close(self) -> None:
        """Stops everything."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self.cameras.close()


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
        door: to the driver's process, once there is one.
        eyes: the cameras, likewise.
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
        self.door: DriverProcess | None = None
        self.eyes: Eyes | None = None
        self.recording: Path | None = None
        self._recorder: Recorder | None = None
        self._sensor: Watch | None = None
        self._pace = Pace(PERIOD)
        self._image = np.zeros((SIZE, 2 * SIZE, 3), dtype=np.uint8)
        self._image_age = math.inf
        self._faults: tuple[str, ...] = ()

    # ------------------------------------------------------------ life

    def _open(self) -> DriverProcess:
        """Driver, cameras, sensor and recorder.

        Raises:
            NotReadyError, FaultError, ValueError, DriverGone: as ``DriverProcess.start``.
            CameraError, SensorError, RecorderError: a device is not as it must be.
        """
        if self.door is not None:
            return self.door
        folder = self.config.parent / self.configuration.recording.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.recording = folder / f"robot-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.rec"
            self._recorder = Recorder(self.recording)
            settings = self.configuration.insertion
            source = probe(settings, self.configuration.port.device)
            self._sensor = Watch(InsertionSensor(source, settings.debounce))
            self._sensor.__enter__()
            self.door = DriverProcess(self.config, [camera.name for camera in self.configuration.cameras])
            self.door.start()
            self.eyes = Eyes(self.configuration, self.door)
            self.eyes.start()
        except BaseException:
            self.close()
            raise
        return self.door

    def close(self) -> None:
        """The arm goes to its rest pose, torque goes off, every device is given back."""
        eyes, door, sensor, recorder = self.eyes, self.door, self._sensor, self._recorder
        self.eyes = self.door = self._sensor = self._recorder = None
        if eyes is not None:
            eyes.close()
        if sensor is not None:
            sensor.__exit__(None, None, None)
            sensor.sensor.close()
        try:
            if recorder is not None:
                recorder.close()
        finally:
            if door is not None:
                door.close()

    # ------------------------------------------------------------ episodes

    def start_episode(self, world: World) -> None:
        """Plug out and up, to the family's start, the rig to the task.

        Raises:
            FaultError, RigError: as ``Cell.reset``.
            SensorStuck: the sensor says that the plug is in.
            Others: as ``_open``.
        """
        door = self._open()
        assert self._sensor is not None
        switch = world.model.body("switch").id
        w, _, _, z = world.fields["body_quat"][0, switch]
        place = float(world.fields["body_pos"][0, switch, 1])
        door.reset(world.memory["goal"][0], 2.0 * float(np.arctan2(z, w)), place)
        try:
            self._sensor.sensor.check_free()
        except SensorError as error:
            door.end_episode()
            door.report(error.kind, error.where, error.what)
            raise
        self._pace.start()
        self._take(world, door, time.monotonic())
        self._record("note", {"episode": True, "rig": door.latest.rig})

    def step(self, world: World, actions: np.ndarray) -> np.ndarray:
        """Sends the action, waits for the period's end, observes.

        Raises:
            DriverGone: the driver's process has ended.
            RecorderError: the step could not be recorded; the arm is held.
        """
        door, began = self._open(), time.monotonic()
        self._pace.begin(began)
        door.act(actions[0] * widowx.MAX_SPEED, began)
        self._pace.wait()
        ticks = self._take(world, door, began)
        sent = np.mean([tick.velocity for tick in ticks] or [np.zeros(widowx.NUM_JOINTS)], axis=0)
        world.steps += scene.TICKS
        sent = sent[np.newaxis] / widowx.MAX_SPEED
        values = {"action": actions[0], "sent": sent[0], "image": self._image, "qpos": world.qpos[0]}
        info = {name: value[0] for name, value in self.info().items()}
        self._record("step", values | info | {"rig": door.latest.rig, "faults": list(self._faults)})
        return sent

    def end_episode(self, world: World) -> None:
        """Holds still, until a slow sensor has had its say."""
        door = self._open()
        assert self._sensor is not None
        door.end_episode()
        time.sleep(self._sensor.sensor.dwell)
        self._feel(world)

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
        assert self.door is not None
        plain = {name: str(value) if isinstance(value, np.str_) else value for name, value in values.items()}
        try:
            if kind == "step":
                self._recorder.step(plain)
            else:
                self._recorder.append(kind, plain)
        except RecorderError as error:
            self.door.report("recorder failed", "recorder", str(error))
            raise

    # ------------------------------------------------------------ what is so

    def _take(self, world: World, door: DriverProcess, since: float) -> list[Tick]:
        """Takes in what was measured and seen; the ticks since a time."""
        assert self.eyes is not None
        unwell = []
        try:
            self._image, self._image_age = self.eyes.read()
        except CameraError as error:
            door.report(error.kind, error.where, error.what)
            unwell.append(f"{error.kind}: {error.where}")
            self._image_age = math.inf
        tick, ticks = door.latest, door.ticks(since)
        held = [
            fault for told in (*ticks, tick) for fault in told.faults if fault.response > Response.CARRY_ON
        ]
        unwell += [f"{fault.kind}: {fault.where}" for fault in held]
        self._faults = tuple(dict.fromkeys(unwell))
        self._mirror(world, tick)
        self._feel(world)
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

    def _feel(self, world: World) -> None:
        """In which port the sensor says the plug is; one that cannot tell means the nearest."""
        assert self._sensor is not None
        assert self.door is not None
        made = np.zeros((1, scene.NUM_PORTS), dtype=bool)
        try:
            known = self._sensor.read()
        except SensorError as error:
            self.door.report(error.kind, error.where, error.what)
            self._faults = tuple(dict.fromkeys((*self._faults, f"{error.kind}: {error.where}")))
        else:
            if known.inserted:
                port = scene.nearest_port(world) if known.port is None else known.port
                made[0, port] = True
        world.memory["contacts"] = made
