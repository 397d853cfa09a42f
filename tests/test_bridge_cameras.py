"""Cameras: each way in which one can fail is named, frames never come late unnoticed, OpenCV agrees."""

from __future__ import annotations

import contextlib
import threading
import time

import numpy as np
import pytest

from hardware_bridge import config
from hardware_bridge.cameras import (
    Camera,
    CameraDark,
    CameraFrozen,
    CameraLimits,
    CameraMissing,
    Cameras,
    CameraSlow,
    CamerasSwapped,
    Inspector,
    OpenCVSource,
    StaleFrame,
    WrongSize,
    exchanged,
    likeness,
    scale,
    signature,
)
from hardware_bridge.faults import KINDS
from hardware_bridge.twin.pictures import PictureServer, SocketSource, chart

PATIENCE = 20.0  # s, on a busy machine


class Scripted:
    """A source that delivers what the test puts in, one picture at a time."""

    def __init__(self):
        self.pictures, self.more = [], threading.Condition()
        self.closed = 0

    def put(self, *pictures):
        with self.more:
            self.pictures += pictures
            self.more.notify_all()

    def read(self):
        with self.more:
            while not self.pictures:
                self.more.wait()
            item = self.pictures.pop(0)
        if isinstance(item, Exception):
            raise item
        return item

    def close(self):
        self.closed += 1


@contextlib.contextmanager
def filming(source, limits=None, opener=None, **more):
    """A camera that reads a source, and no longer waits for it at the end."""
    with Camera(settings(**more), opener or (lambda: source), limits) as camera:
        try:
            yield camera
        finally:
            source.put(CameraMissing("front", "ended", ""))


def settings(name="front", size=(96, 80), **more):
    return config.Camera(name, "nowhere", size=size, **more)


def noisy(rng, name="front", height=80, width=96):
    return chart(name, height, width) + rng.integers(0, 5, (height, width, 3), dtype=np.uint8)


def watch(pictures, period, rate=30.0, now_after=0.0):
    """What an inspector says after these pictures."""
    inspector = Inspector("front", rate)
    at = 0.0
    for number, picture in enumerate(pictures):
        at = number * period
        inspector.feed(picture, at)
    return inspector.check(at + now_after)


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("height, width", [(480, 480), (80, 96), (100, 71), (64, 64), (65, 64)])
def test_scaling_is_opencvs_area_interpolation(height, width):
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    ours = scale(image)
    assert ours.shape == (64, 64, 3) and ours.dtype == np.uint8 and ours.flags.c_contiguous
    theirs = cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_scaling_keeps_the_mean_of_what_it_covers():
    image = np.zeros((128, 128, 3), dtype=np.uint8)
    image[:64, :, 0] = 200
    small = scale(image)
    assert (small[:32, :, 0] == 200).all() and not small[32:].any() and not small[..., 1:].any()


def test_signatures_know_a_scene_again_in_other_light():
    rng = np.random.default_rng(0)
    bright, dim = noisy(rng), (noisy(rng) * 0.5).astype(np.uint8)
    assert likeness(signature(bright), signature(dim)) > 0.95
    assert likeness(signature(bright), signature(noisy(rng, "wrist"))) < 0.5


# ---------------------------------------------------------------- what is the matter


def test_a_well_camera_is_well():
    rng = np.random.default_rng(0)
    assert watch([noisy(rng) for _ in range(60)], 1 / 30) is None


def test_equal_pictures_for_long_are_a_frozen_camera():
    rng = np.random.default_rng(0)
    one = noisy(rng)
    assert watch([one] * 8, 1 / 30) is None  # 0.23 s, of 0.3
    error = watch([noisy(rng), *[one] * 12], 1 / 30)
    assert isinstance(error, CameraFrozen) and "12 equal pictures in 0.4 s" in str(error)
    # Two pictures far apart are no proof, three are.
    assert isinstance(watch([one] * 2, 1.0, rate=1.0), type(None))
    assert isinstance(watch([one] * 3, 1.0, rate=1.0), CameraFrozen)
    assert watch([*[one] * 30, noisy(rng)], 1 / 30) is None  # alive again


@pytest.mark.parametrize("value, word", [(0, "black"), (252, "saturated"), (120, "without any detail")])
def test_a_camera_that_sees_nothing_is_dark_and_not_frozen(value, word):
    rng = np.random.default_rng(0)
    frames = [np.full((80, 96, 3), value, np.uint8) + rng.integers(0, 2, (80, 96, 3), dtype=np.uint8)] * 30
    error = watch(frames, 1 / 30)
    assert isinstance(error, CameraDark) and word in error.what


def test_a_slow_camera_is_told_from_a_silent_one():
    rng = np.random.default_rng(0)
    error = watch([noisy(rng) for _ in range(10)], 0.5, now_after=0.2)
    assert isinstance(error, CameraSlow) and "2.0 pictures/s, 30 are configured" in error.what
    error = watch([noisy(rng) for _ in range(60)], 1 / 30, now_after=1.5)
    assert isinstance(error, CameraMissing) and "nothing for 1.5 s" in error.what
    assert watch([noisy(rng) for _ in range(60)], 1 / 20) is None  # two thirds of the rate will do


def test_exchanged_cameras_are_found_by_their_references():
    rng = np.random.default_rng(0)
    references = {name: signature(chart(name, 64, 64)) for name in ("front", "wrist")}
    right = {name: signature(noisy(rng, name)) for name in ("front", "wrist")}
    assert exchanged(right, references) is None
    error = exchanged({"front": right["wrist"], "wrist": right["front"]}, references)
    assert isinstance(error, CamerasSwapped) and "Exchange their devices" in error.remedy
    # The wrist sees something new, the front what it always does: nobody has exchanged them.
    assert exchanged({**right, "wrist": signature(noisy(rng, "elsewhere"))}, references) is None
    assert exchanged(right, {"front": references["front"]}) is None


def test_every_error_is_a_row_of_the_table_of_faults():
    for kind in (
        CameraDark,
        CameraFrozen,
        CameraMissing,
        CameraSlow,
        CamerasSwapped,
        StaleFrame,
        WrongSize,
    ):
        assert kind.kind in KINDS


@pytest.mark.parametrize("wrong", [{"frozen_time": 0.0}, {"dark": float("nan")}, {"dark": 250.0}])
def test_limits_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CameraLimits(**wrong)


# ---------------------------------------------------------------- freshness


def test_a_frame_comes_cropped_scaled_numbered_and_with_its_age():
    source, rng, now = Scripted(), np.random.default_rng(0), time.monotonic()
    first, second = noisy(rng), noisy(rng)
    with filming(source, crop=(10, 5, 70, 66)) as camera:
        source.put((first, now), (second, now))
        frame = camera.read(60.0, after=0, timeout=PATIENCE)
        assert frame.sequence == 1 and frame.captured == now
        np.testing.assert_array_equal(frame.image, scale(second[5:71, 10:80]))
        with pytest.raises(ValueError, match="read-only"):
            frame.image[0] = 0
    assert source.closed == 1


def test_an_old_frame_is_never_given():
    source, rng = Scripted(), np.random.default_rng(0)
    with filming(source) as camera:
        with pytest.raises(CameraMissing, match="no picture has come yet"):
            camera.read(0.2)
        source.put((noisy(rng), time.monotonic() - 0.5))
        camera.read(60.0, timeout=PATIENCE)
        with pytest.raises(StaleFrame, match="ms old, 200 ms are allowed"):
            camera.read(0.2)
        with pytest.raises(StaleFrame):
            camera.read(60.0, after=0, timeout=0.01)


def test_a_source_that_fails_is_named_and_opened_again():
    rng, sources, opened = np.random.default_rng(0), [Scripted(), Scripted()], []

    def open_next():
        opened.append(None)
        if len(opened) == 2:
            raise CameraMissing("front", "there is no /dev/video0", "Plug it in.")
        return sources[0 if len(opened) == 1 else 1]

    with filming(sources[1], CameraLimits(reopen=0.01), open_next) as camera:
        sources[0].put((noisy(rng), time.monotonic()), CameraMissing("front", "unplugged", "Look."))
        before = camera.read(60.0, timeout=PATIENCE)
        sources[1].put((noisy(rng), time.monotonic()))
        after = camera.read(60.0, after=before.sequence, timeout=PATIENCE)
        assert after.sequence == 1 and len(opened) == 3 and sources[0].closed == 1
        sources[1].put(CameraMissing("front", "unplugged", "Look."))
        deadline = time.monotonic() + PATIENCE
        while (error := camera.check()) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert isinstance(error, CameraMissing) and error.what == "unplugged"


def test_the_wrong_size_is_refused_with_both_sizes():
    source = Scripted()
    with filming(source, CameraLimits(reopen=60)) as camera:
        source.put((np.zeros((48, 64, 3), np.uint8), time.monotonic()))
        deadline = time.monotonic() + PATIENCE
        while not isinstance(error := camera.check(), WrongSize) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "pictures of 64×48 instead of 96×80" in error.what


def test_a_bug_in_a_source_is_not_taken_for_a_missing_camera():
    source = Scripted()
    source.put(ZeroDivisionError("a bug"))
    with filming(source) as camera, pytest.raises(RuntimeError) as caught:
        camera.read(60.0, timeout=PATIENCE)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_camera_whose_thread_died_is_not_well():
    source = Scripted()
    source.put((noisy(np.random.default_rng(0)), time.monotonic()), ZeroDivisionError("a bug"))
    with filming(source) as camera:
        with pytest.raises(RuntimeError):
            camera.read(60.0, after=5, timeout=PATIENCE)
        error = camera.check()
    assert isinstance(error, CameraMissing) and "failed (ZeroDivisionError('a bug'))" in str(error)


def test_a_driver_that_hung_does_not_come_back_to_life():
    hung, fresh = Scripted(), Scripted()
    sources = [hung, fresh]
    camera = Camera(settings(), lambda: sources.pop(0)).start()
    while len(sources) > 1:
        time.sleep(0.01)
    first = camera._thread
    camera.close()
    assert first.is_alive(), "it waits for a picture"
    camera.start()
    hung.put((noisy(np.random.default_rng(0)), time.monotonic()))
    first.join(PATIENCE)
    assert not first.is_alive() and hung.closed == 1
    fresh.put(CameraMissing("front", "gone", ""))
    camera.close()


def test_while_one_camera_is_waited_for_the_other_does_not_grow_old():
    front, wrist = Scripted(), Scripted()
    front.put((noisy(np.random.default_rng(0)), time.monotonic()))

    def later():
        time.sleep(0.8)
        for source in (front, wrist):
            source.put((noisy(np.random.default_rng(1)), time.monotonic()))

    with Cameras([Camera(settings(), lambda: front), Camera(settings(name="wrist"), lambda: wrist)]) as both:
        thread = threading.Thread(target=later)
        thread.start()
        try:
            _, frames = both.read(0.5, timeout=PATIENCE)
        finally:
            thread.join()
            for source in (front, wrist):
                source.put(CameraMissing("", "the end", ""))
    assert frames["front"].sequence == 1


# ---------------------------------------------------------------- two cameras, through the twin's sockets


def test_two_cameras_make_an_observation(tmp_path):
    size = (80, 80)
    paint = {name: chart(name, 80, 80) for name in ("front", "wrist")}
    with (
        PictureServer(tmp_path / "front", lambda: paint["front"]),
        PictureServer(tmp_path / "wrist", lambda: paint["wrist"]),
        Cameras(
            Camera(config.Camera(name, f"twin:{tmp_path}/{name}", size=size)) for name in ("front", "wrist")
        ) as cameras,
    ):
        image, frames = cameras.read(10.0, timeout=PATIENCE)
        assert image.shape == (64, 128, 3) and image.dtype == np.uint8
        assert image.flags.c_contiguous and image.flags.writeable
        for half, name in ((image[:, :64], "front"), (image[:, 64:], "wrist")):
            assert likeness(signature(half), signature(paint[name])) > 0.95
        later, _ = cameras.read(10.0, timeout=PATIENCE)
        assert not np.shares_memory(image, later)
        assert 0 <= time.monotonic() - frames["front"].captured < PATIENCE


@pytest.mark.parametrize("defect, kind", [("black", CameraDark), ("frozen", CameraFrozen)])
def test_the_twins_cameras_have_the_defects_that_are_ordered(tmp_path, defect, kind):
    picture = chart("front", 64, 64)
    with (
        PictureServer(tmp_path / "front", lambda: picture, defect=defect),
        Camera(config.Camera("front", f"twin:{tmp_path}/front", size=(64, 64))) as camera,
    ):
        deadline = time.monotonic() + PATIENCE
        while not isinstance(error := camera.check(), kind) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert isinstance(error, kind)
        with pytest.raises(kind):
            camera.read(10.0, timeout=PATIENCE)


def test_a_twin_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CameraMissing, match=r"nobody serves .*Start the twin"):
        SocketSource("front", str(tmp_path / "front"))


# ---------------------------------------------------------------- OpenCV


def test_a_video_file_is_read_as_it_was_written(tmp_path):
    cv2 = pytest.importorskip("cv2")
    path, rng = tmp_path / "film.avi", np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (96, 80))
    assert writer.isOpened()
    for _ in range(4):
        writer.write(np.ascontiguousarray(noisy(rng)[..., ::-1]))
    writer.release()
    source = OpenCVSource("front", str(path), (96, 80), 30)
    for _ in range(4):
        picture, captured = source.read()
        assert picture.shape == (80, 96, 3) and 0 <= time.monotonic() - captured < PATIENCE
        # JPEG's loss is small against red and blue exchanged.
        assert np.abs(scale(picture, 8, 8).astype(int) - scale(chart("front", 80, 96), 8, 8)).mean() < 8
    with pytest.raises(CameraMissing, match="delivers nothing"):
        source.read()
    source.close()


def test_a_camera_that_is_not_plugged_in_is_named():
    pytest.importorskip("cv2")
    with pytest.raises(CameraMissing, match=r"there is no /dev/v4l/by-id/nothing.*cameras here"):
        OpenCVSource("front", "/dev/v4l/by-id/nothing", (640, 480), 30)
    with pytest.raises(CameraMissing, match="there is no /dev/video63"):
        OpenCVSource("front", "63", (640, 480), 30)


def test_a_file_that_is_no_film_is_named(tmp_path):
    pytest.importorskip("cv2")
    (tmp_path / "film.avi").write_bytes(b"nothing")
    with pytest.raises(CameraMissing, match="cannot be opened"):
        OpenCVSource("front", str(tmp_path / "film.avi"), (640, 480), 30)


def test_without_opencv_one_is_told_what_to_install(run_python):
    code = (
        "import sys; sys.modules['cv2'] = None\n"
        "from hardware_bridge.cameras import OpenCVSource\n"
        "OpenCVSource('front', '0', (640, 480), 30)"
    )
    result = run_python("-c", code)
    assert 'pip install "meld-suite[cameras]"' in result.stderr
