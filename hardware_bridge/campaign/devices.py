"""Faults beside the servos: cameras, the disk, the rig, the insertion sensor."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable, Iterator

import numpy as np

from hardware_bridge import config
from hardware_bridge.cameras import Camera, CameraError, CameraMissing, Cameras, OnFrame, signature
from hardware_bridge.campaign.bus import SLOT, held
from hardware_bridge.campaign.catalogue import Outcome, row
from hardware_bridge.campaign.stand import Stand
from hardware_bridge.faults import FaultError
from hardware_bridge.insertion import InsertionSensor, SensorStuck, TwinContact
from hardware_bridge.recorder import Recorder, RecorderError, records
from hardware_bridge.rig import RigError
from hardware_bridge.safety import Mode, Safety
from hardware_bridge.twin.pictures import CameraDefect, PictureServer, chart
from hardware_bridge.watches import LOOK, CameraWatch, admit, recorded

# Cameras -------------------------------------------------------------------------------------------

PICTURE, RATE = 64, 25.0


class StandCamera(Camera):
    """A camera in the stand's time: pictures come as the driver cycles, without a thread.

    Args:
        stand: whose time.
        name: front or wrist.
        on_frame: as of ``Camera``.

    Attributes:
        server: paints the pictures, with the defects that it knows.
        unplugged: nothing comes, and it cannot be opened.
        period: between two pictures (s).
        lag: by which they come late (s).
        size: of the pictures (pixels).
        shows: whose picture it is.
    """

    def __init__(self, stand: Stand, name: str, on_frame: OnFrame) -> None:
        reference = tuple(int(value) for value in signature(chart(name, PICTURE, PICTURE)))
        settings = config.Camera(
            "front" if name == "front" else "wrist",
            "stand",
            (PICTURE, PICTURE),
            rate=RATE,
            reference=reference,
        )
        super().__init__(settings, clock=stand.beat.now, on_frame=on_frame)
        self.server = PictureServer(stand.folder / name, self._paint, RATE)
        self.unplugged, self.period, self.lag = False, 1.0 / RATE, 0.0
        self.size, self.shows, self._due = PICTURE, name, 0.0

    def _paint(self) -> np.ndarray:
        return chart(self.shows, self.size, self.size)

    def advance(self, now: float) -> None:
        """What its thread would have done by now."""
        if now < self._due:
            return
        try:
            if self.unplugged:
                self._due = now + self.limits.reopen
                raise CameraMissing(self.name, "it is not there", "Plug it in.")
            self._due = now + self.period
            self._take(self.server.picture(), now - self.lag)
        except CameraError as error:
            self._fail(error)

    def close(self) -> None:
        self.server.close()


@contextlib.contextmanager
def filmed(stand: Stand) -> Iterator[dict[str, StandCamera]]:
    """Both cameras, watched as a session watches them, in a stand's time."""
    watch, due = CameraWatch(stand.safety, stand.robot), 0.0
    cameras = {name: StandCamera(stand, name, watch.frame) for name in ("front", "wrist")}
    both = Cameras(cameras.values())

    def advance(safety: Safety, now: float) -> None:
        nonlocal due
        for camera in cameras.values():
            camera.advance(now)
        if now >= due:
            due = now + LOOK
            assert stand.driver.reading is not None  # since the start
            watch.look(both, safety.mode, stand.driver.reading.position, now)

    stand.watches.append(advance)
    try:
        yield cameras
    finally:
        for camera in cameras.values():
            camera.close()


def in_episode(
    stand: Stand, outcome: Outcome, within: float, kind: str, harm: Callable[[StandCamera], None]
) -> None:
    """A camera is harmed in an episode: named, held, and well again in the next episode."""
    with filmed(stand) as cameras:
        stand.start()
        stand.idle(0.6)
        stand.episode()
        camera = cameras["front"]
        stand.strike()
        harm(camera)
        stand.act(within + 0.1)
        outcome.saw(stand.seen(kind, "front"), kind, within)
        held(stand, outcome)
        stand.idle(1.5)  # rates are looked at over two seconds
        try:
            stand.driver.recover()
            outcome.expect(False, "an episode could begin although the camera was unwell")
        except FaultError:
            pass
        camera.server.defect, camera.unplugged, camera.period, camera.lag = None, False, 1.0 / RATE, 0.0
        stand.idle(2.5)  # until it has been well for as long as its rate is looked at
        stand.driver.recover()
        stand.episode()
        outcome.expect(stand.safety.mode is Mode.POLICY, f"afterwards the arm is {stand.safety.mode.value}")
        outcome.reaction += "; well again in the next episode"


def _defect(defect: CameraDefect) -> Callable[[StandCamera], None]:
    def harm(camera: StandCamera) -> None:
        camera.server.defect = defect

    return harm


BOTH = ("front", "wrist")


@row(
    25, "a camera is frozen", "the same picture again and again, with new times",
    "held within 1 s", 1.0, cameras=BOTH,
)  # fmt: skip
def frozen(stand: Stand, outcome: Outcome, within: float) -> None:
    in_episode(stand, outcome, within, "camera frozen", _defect("frozen"))


@row(26, "a camera is black", "pictures of brightness 0 to 4", "held, episode void", 0.1, cameras=BOTH)
def black(stand: Stand, outcome: Outcome, within: float) -> None:
    in_episode(stand, outcome, within, "camera dark", _defect("black"))


@row(26, "a camera is saturated", "brightness 251 and more", "held, episode void", 0.1, cameras=BOTH)
def saturated(stand: Stand, outcome: Outcome, within: float) -> None:
    in_episode(stand, outcome, within, "camera dark", _defect("saturated"))


@row(26, "a camera is covered", "dim pictures of nothing but noise", "held, episode void", 0.1, cameras=BOTH)
def covered(stand: Stand, outcome: Outcome, within: float) -> None:
    in_episode(stand, outcome, within, "camera dark", _defect("covered"))


@row(
    27, "a camera is unplugged", "no pictures; it cannot be opened again before it is there",
    "held; opened again in the background, resumed in the next episode", 0.1, cameras=BOTH,
)  # fmt: skip
def unplugged(stand: Stand, outcome: Outcome, within: float) -> None:
    def harm(camera: StandCamera) -> None:
        camera.unplugged = True

    in_episode(stand, outcome, within, "camera missing", harm)


@row(
    27, "a camera is slow", "two pictures a second instead of 25",
    "held once its newest is older than 200 ms", 0.2 + 3 * SLOT, cameras=BOTH,
)  # fmt: skip
def slow(stand: Stand, outcome: Outcome, within: float) -> None:
    def harm(camera: StandCamera) -> None:
        camera.period = 0.5

    in_episode(stand, outcome, within, "image stale", harm)


@row(
    27, "pictures come late", "each is 300 ms old when it comes",
    "held once the newest is older than 200 ms", 0.2 + 3 * SLOT, cameras=BOTH,
)  # fmt: skip
def late(stand: Stand, outcome: Outcome, within: float) -> None:
    def harm(camera: StandCamera) -> None:
        camera.lag = 0.3

    in_episode(stand, outcome, within, "image stale", harm)


def at_start(
    stand: Stand, outcome: Outcome, within: float, kind: str, harm: Callable[[dict[str, StandCamera]], None]
) -> None:
    """Cameras that are not as configured: no episode begins."""
    with filmed(stand) as cameras:
        harm(cameras)
        stand.strike()
        stand.start()
        stand.idle(1.0)
        outcome.saw(stand.seen(kind), kind, within)
        try:
            stand.safety.begin_episode(stand.beat.now())
            outcome.expect(False, "an episode began")
        except FaultError:
            outcome.reaction = "no episode begins; held, latched"


@row(
    28, "a camera has another size", "pictures of 96×96 instead of 64×64",
    "refused before an episode, latched", 0.1, cameras=BOTH,
)  # fmt: skip
def wrong_size(stand: Stand, outcome: Outcome, within: float) -> None:
    def harm(cameras: dict[str, StandCamera]) -> None:
        cameras["front"].size = 96

    at_start(stand, outcome, within, "camera wrong size", harm)


@row(
    28, "front and wrist camera are exchanged", "each shows the other's picture",
    "found by their reference pictures, with the arm at rest, before an episode; latched", 0.6,
    cameras=BOTH, angles=config.load(config.TWIN).arm.rest,
)  # fmt: skip
def swapped(stand: Stand, outcome: Outcome, within: float) -> None:
    def harm(cameras: dict[str, StandCamera]) -> None:
        cameras["front"].shows, cameras["wrist"].shows = "wrist", "front"

    at_start(stand, outcome, within, "camera swapped", harm)


# The disk ------------------------------------------------------------------------------------------


def _step(number: int) -> dict[str, object]:
    return {"number": number, "image": np.random.default_rng(number).integers(0, 256, (64, 128, 3), np.uint8)}


@row(
    33, "the disk is full", "the file may not grow any more, in the midst of an episode",
    "seen on writing; held before the next action; what was acknowledged is intact", SLOT,
)  # fmt: skip
def full(stand: Stand, outcome: Outcome, within: float) -> None:
    stand.episode()
    path = stand.folder / "recording"
    acknowledged = 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Recorder(path) as recorder:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # Python ignores SIGXFSZ: it is an error
        try:
            for number in range(10):
                stand.act(0.1)
                stand.strike()
                with recorded(recorder, stand.safety.report):
                    recorder.step(_step(number))
                acknowledged += 1
            outcome.expect(False, "all was written")
        except RecorderError:
            pass
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        _recording_failed(stand, outcome, within)
    found = [record.values["number"] for record in records(path) if record.kind == "step"]
    outcome.expect(found == list(range(acknowledged)) and acknowledged > 1, f"on disk are {found}")


def _recording_failed(stand: Stand, outcome: Outcome, within: float) -> None:
    """Named in the next tick, and no further action is obeyed."""
    stand.idle(SLOT)
    outcome.saw(stand.seen("recorder failed"), "recorder failed", within)
    received = stand.safety.act(stand.wish(), stand.beat.now(), next(stand.numbers))
    outcome.expect(not received.accepted, "an action was obeyed after that")
    held(stand, outcome)


@row(
    33, "the disk fails", "syncing reports an error of input and output",
    "held before the next action; nothing is tried again on that file", SLOT,
)  # fmt: skip
def failing(stand: Stand, outcome: Outcome, within: float) -> None:
    stand.episode()
    with Recorder(stand.folder / "recording") as recorder:
        recorder.step(_step(0))
        os.close(recorder._file)  # so that syncing fails, as on a disk that is gone
        recorder._file = os.open("/dev/full", os.O_WRONLY)
        stand.strike()
        try:
            with recorded(recorder, stand.safety.report):
                recorder.step(_step(1))
            outcome.expect(False, "it was acknowledged")
        except RecorderError:
            pass
        _recording_failed(stand, outcome, within)
    found = [r.values["number"] for r in records(stand.folder / "recording") if r.kind == "step"]
    outcome.expect(found == [0], f"on disk are {found}")


@row(
    33, "the disk may not be written", "the recording is in a folder that takes no files",
    "refused before the episode", 0.5,
)  # fmt: skip
def read_only(stand: Stand, outcome: Outcome, within: float) -> None:
    stand.strike()
    try:
        Recorder("/proc/recording")
        outcome.expect(False, "it was opened")
    except RecorderError as error:
        outcome.named, outcome.after = f"recorder failed ({error})", 0.0
        outcome.reaction = "start refused; torque is off"
    outcome.expect(not any(stand.torques().values()), "a servo got torque")


@row(
    33, "the disk is slow", "a step takes a second to be on the disk; the policy waits for it",
    "braking within 450 ms of the last action; the step is intact", 0.45,
)  # fmt: skip
def slow_disk(stand: Stand, outcome: Outcome, within: float) -> None:
    stand.episode()
    stand.safety.act(stand.wish(), stand.beat.now(), next(stand.numbers))
    stand.strike()
    with Recorder(stand.folder / "recording") as recorder:
        sync = recorder._sync

        def slowly() -> None:
            stand.idle(1.0)
            sync()

        recorder._sync = slowly  # type: ignore[method-assign]
        with recorded(recorder, stand.safety.report):
            recorder.step(_step(0))
        recorder._sync = sync  # type: ignore[method-assign]
    outcome.saw(stand.seen("policy stalled"), "policy stalled", within)
    held(stand, outcome)
    found = [record.kind for record in records(stand.folder / "recording")]
    outcome.expect(found == ["step"], f"on disk are {found}")


# The rig -------------------------------------------------------------------------------------------


def rig_fails(
    stand: Stand, outcome: Outcome, within: float, kind: str, where: str, harm: Callable[[], None]
) -> None:
    """Something happens to the rig in the midst of a move: bounded, named, the arm held, the task void."""
    stand.start()
    stand.rig.start()
    stand.idle(0.1)

    def struck() -> None:
        stand.strike()
        harm()

    stand.later.append((stand.beat.now() + 0.5, struck))
    try:
        stand.rig.move(0.12, 0.008)
        outcome.expect(False, "the move ended well")
    except RigError as error:
        outcome.reaction = f"the move ends: {str(error).partition(':')[0]}"
    outcome.saw(stand.seen(kind, where), kind, within)
    stand.idle(0.2)
    outcome.expect(stand.safety.mode is Mode.HOLDING, f"the arm is {stand.safety.mode.value}")
    outcome.reaction += "; arm held, task void"


#: The whole travel at the rig's own speed, a tenth more, and a second to arrive.
TRAVEL = 1.1 * 3.3 + 1.0


@row(
    35, "the rig is blocked", "its carriage stands against something in the midst of a move",
    "a bounded seek, then a fault; the arm is held, the task void", TRAVEL,
)  # fmt: skip
def blocked(stand: Stand, outcome: Outcome, within: float) -> None:
    def harm() -> None:
        joint = stand.world._bench["translation"]
        joint.stops = (joint.position, joint.position)

    rig_fails(stand, outcome, within, "rig failed", "translation", harm)


@row(
    35, "the rig's belt jumps teeth", "the carriage resists; the motor turns on, the switch stays",
    "seen by the force that it takes, the encoder being on the motor", TRAVEL,
)  # fmt: skip
def belt(stand: Stand, outcome: Outcome, within: float) -> None:
    def harm() -> None:
        stand.world.slips = True
        stand.world._bench["translation"].coulomb = 0.9 * stand.axis("translation").ratio  # N, at the teeth

    rig_fails(stand, outcome, within, "rig failed", "translation", harm)
    outcome.expect(stand.world.slipped != 0.0, "it did not slip")


@row(
    35, "the rig's reference is wrong",
    "there is no home switch to stick or to be missed: its absolute encoder jumps by 30 degrees",
    "seen at once, the move ends", SLOT,
)  # fmt: skip
def reference(stand: Stand, outcome: Outcome, within: float) -> None:
    def harm() -> None:
        stand.servo("rotation").sense = lambda raw: raw + 340.0

    rig_fails(stand, outcome, within, "rig failed", "rotation", harm)


@row(
    35, "the rig is without power for a moment", "its servo restarts in the midst of a move",
    "seen by reading back, latched; the move ends", 0.75,
)  # fmt: skip
def power_cycle(stand: Stand, outcome: Outcome, within: float) -> None:
    def harm() -> None:
        servo = stand.servo("translation")
        servo.power_off()
        servo.power_up()
        servo._boot_until = 0.0  # too quick to be missed

    rig_fails(stand, outcome, within, "servo rebooted", "translation", harm)


@row(
    35, "beyond the rig's travel, and with the arm in the way",
    "a target twice as far; then one with the arm low", "stays inside its travel; refuses to move", SLOT,
)  # fmt: skip
def interlock(stand: Stand, outcome: Outcome, within: float) -> None:
    stand.start()
    stand.rig.start()
    stand.idle(0.1)
    stand.rig.move(0.28, 0.02)
    rotation, translation = stand.world.rig
    outcome.expect(abs(rotation) <= 0.14 and abs(translation) <= 0.0101, "it left its travel")
    stand.clear = False
    stand.strike()
    before = len(stand.log)
    try:
        stand.rig.move(0.0, 0.0)
        outcome.expect(False, "it moved with the arm in the way")
    except RigError as error:
        outcome.named, outcome.after = f"rig error ({str(error).partition(':')[0]})", 0.0
    outcome.expect(len(stand.log) == before, "something was sent")
    outcome.reaction = "clipped to its travel; refused, nothing sent"


# The insertion sensor ------------------------------------------------------------------------------


def _contact(stand: Stand, made: bool) -> None:
    (stand.folder / "contact").write_text("0 1 0\n" if made else "0 0 0\n", encoding="ascii")


def _sensor(stand: Stand) -> InsertionSensor:
    _contact(stand, False)
    return InsertionSensor(TwinContact(stand.folder / "contact"), 0.05, clock=stand.beat.now)


@row(36, "the contact bounces", "20 ms on, 20 ms off, for 0.4 s", "no insertion; afterwards dated back", 0.1)
def bounce(stand: Stand, outcome: Outcome, within: float) -> None:
    stand.start()
    sensor = _sensor(stand)
    said = [sensor.poll().inserted]
    for tick in range(20):
        _contact(stand, tick % 2 == 0)
        stand.idle(SLOT)
        said.append(sensor.poll().inserted)
    outcome.expect(not any(said), "a bounce was taken for an insertion")
    _contact(stand, False)
    for _ in range(5):
        stand.idle(SLOT)
        sensor.poll()
    _contact(stand, True)
    stand.strike()
    while not (state := sensor.poll()).inserted and stand.beat.now() < stand.struck + 1.0:
        stand.idle(SLOT)
    outcome.named, outcome.after = f"inserted in port {state.port}", stand.beat.now() - stand.struck
    outcome.expect(outcome.after <= within and state.inserted, "a real contact was not seen in time")
    outcome.expect(abs(state.since - stand.struck) <= SLOT, f"dated {state.since - stand.struck:.3f} s off")
    outcome.reaction = "bounces ignored; a contact counts from its first touch"


@row(
    36, "the sensor is stuck", "it says inserted before the episode", "refused, named", SLOT,
)  # fmt: skip
def stuck(stand: Stand, outcome: Outcome, within: float) -> None:
    stand.start()
    sensor = _sensor(stand)
    _contact(stand, True)
    stand.strike()
    try:
        admit(sensor, stand.safety.report)
        outcome.expect(False, "an episode could begin")
    except SensorStuck:
        outcome.reaction = "no episode begins"
    stand.idle(SLOT)
    outcome.saw(stand.seen("sensor stuck"), "sensor stuck", within)


@row(
    36, "the sensor is late", "a network's carrier: 1 to 4 s after the contact",
    "the contact is dated back, with its uncertainty, and waited for", 4.1,
)  # fmt: skip
def delayed(stand: Stand, outcome: Outcome, within: float) -> None:
    stand.start()
    sensor = _sensor(stand)
    sensor.source.delay = TwinContact.delay._replace(least=1.0, most=4.0)
    sensor.poll()
    stand.strike()
    stand.idle(2.0)
    _contact(stand, True)
    while not (state := sensor.poll()).inserted and stand.beat.now() < stand.struck + sensor.dwell:
        stand.idle(SLOT)
    outcome.named, outcome.after = f"inserted in port {state.port}", stand.beat.now() - stand.struck
    outcome.expect(state.inserted and outcome.after <= within, "it was not seen within its dwell")
    error = abs(state.since - stand.struck)
    outcome.expect(
        error <= state.uncertainty, f"dated {error:.2f} s off, ±{state.uncertainty:.2f} s were said"
    )
    outcome.reaction = f"dated back to within {error:.1f} s (± {state.uncertainty:.1f} s)"
