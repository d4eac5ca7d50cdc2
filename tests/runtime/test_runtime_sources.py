"""Sources: what a name means, and cameras that break off, give damaged frames or never answer."""

import os
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from fake_model import fake_predictor, instance_manifest, instance_outputs

from edgeseg_runtime import sources
from edgeseg_runtime.errors import ImageTooLarge, SourceError
from edgeseg_runtime.sources import Source, pause_s_after

PICTURE = np.full((96, 128, 3), 50, np.uint8)
GOOD, BROKEN, GONE = "good", "broken", "gone"


class FakeCapture:
    """Plays one script per opening: frames that are good, broken or the end; None does not open."""

    scripts, opened, num_grabbed, size = [], [], 0, (96, 128)

    def open(self, *source):
        script = self.scripts.pop(0) if self.scripts else None
        self.opened.append(source[0])
        self.script = iter(script or ())
        return script is not None

    def grab(self):
        type(self).num_grabbed += 1
        self.frame = next(self.script, GONE)
        return self.frame != GONE

    def retrieve(self):
        return self.frame == GOOD, PICTURE

    def get(self, what):
        return float({cv2.CAP_PROP_FRAME_HEIGHT: self.size[0]}.get(what, self.size[1]))

    def release(self):
        pass


@pytest.fixture
def camera(monkeypatch):
    """Put the fake in place of OpenCV's, which needs a device, and shorten the pauses."""
    capture = type("Capture", (FakeCapture,), {"opened": [], "scripts": []})
    monkeypatch.setattr(cv2, "VideoCapture", capture)
    monkeypatch.setattr(sources, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(sources, "LONGEST_PAUSE_S", 0.001)
    return capture


def read(source, stop, count):
    """Read frames until there are so many, then stop."""
    frames = []
    for frame in source:
        frames.append(frame)
        if len(frames) == count:
            stop.set()
    return frames


# ---------------------------------------------------------------- what a name means


@pytest.mark.parametrize(
    ("source", "kind"),
    [(0, "live"), ("0", "live"), ("rtsp://camera/1", "live"), (2024, "live"), ("2024", "pictures")],
    ids=repr,
)
def test_a_number_is_a_camera_unless_a_path_of_that_name_exists(
    tmp_path, monkeypatch, source, kind
):
    (tmp_path / "2024").mkdir()
    assert cv2.imwrite(os.fspath(tmp_path / "2024" / "1.png"), PICTURE)
    monkeypatch.chdir(tmp_path)
    assert Source(source).kind == kind


def test_a_path_is_never_a_camera(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("0")
    with pytest.raises(SourceError, match="0 does not exist"):
        Source(path)
    path.mkdir()
    assert cv2.imwrite("0/1.png", PICTURE)
    assert [frame.name for frame in Source(path)] == [str(path / "1.png")]


def test_a_video_file_whose_name_is_a_number_is_opened_as_a_file(tmp_path, monkeypatch, camera):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "7").write_bytes(b"video")
    camera.scripts = [[GOOD]]
    assert len(list(Source("7"))) == 1
    assert camera.opened == ["7"]
    camera.scripts, stop = [[GOOD]], threading.Event()
    assert len(read(Source(7, stop=stop), stop, 1)) == 1
    assert camera.opened == ["7", 7]


# ---------------------------------------------------------------- cameras


def test_a_camera_that_breaks_off_is_opened_again_however_often(camera, caplog):
    camera.scripts = [[GOOD, GOOD], *[None] * 20, [], [GOOD, GOOD]]
    stop = threading.Event()
    source = Source(0, stop=stop)
    frames = read(source, stop, 4)
    assert [frame.index for frame in frames] == [0, 1, 24, 25], "a number for each attempt"
    assert (source.num_reconnects, source.num_skipped) == (22, 0)
    assert "0 broke off: it ended; opening it again in 0.001 s" in caplog.text
    assert "0 broke off: the camera 0 cannot be opened." in caplog.text


def test_a_camera_that_gives_only_broken_frames_is_opened_again(camera):
    camera.scripts = [[GOOD, *[BROKEN] * 40], [GOOD]]
    stop = threading.Event()
    source = Source("0", stop=stop)
    assert [frame.index for frame in read(source, stop, 2)] == [0, 32]
    assert (source.num_skipped, source.num_reconnects) == (30, 1)


def test_a_video_of_broken_frames_is_an_error(tmp_path, camera):
    (tmp_path / "video.mp4").write_bytes(b"video")
    camera.scripts = [[GOOD, *[BROKEN] * 40]]
    with pytest.raises(SourceError, match="gave 30 broken frames in a row"):
        list(Source(tmp_path / "video.mp4"))


@pytest.mark.parametrize(
    ("limit", "scripts"),
    [(0, [[GOOD, GOOD]]), (2, [[GOOD], None, []]), (1, [[GOOD], [GOOD], [GOOD], None])],
    ids=["not at all", "twice in vain", "counted anew after a frame"],
)
def test_reconnecting_can_be_limited(camera, limit, scripts):
    camera.scripts = list(scripts)
    with pytest.raises(SourceError, match=r"0 gives no frames any more: .*Check the camera"):
        list(Source(0, max_reconnects=limit))
    assert len(camera.opened) == len(scripts)


def test_a_camera_that_does_not_open_at_first_is_an_error_at_once(camera):
    with pytest.raises(SourceError, match="the camera 3 cannot be opened"):
        list(Source(3))
    assert camera.opened == [3]


def test_the_pauses_grow_from_a_second_to_half_a_minute():
    pauses = [pause_s_after(count) for count in (1, 2, 3, 4, 5, 6, 7, 10_000)]
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


def test_stopping_ends_the_pause_before_a_camera_is_opened_again(camera, monkeypatch):
    monkeypatch.setattr(sources, "FIRST_PAUSE_S", 30)
    monkeypatch.setattr(sources, "LONGEST_PAUSE_S", 30)
    camera.scripts = [[GOOD]]
    stop = threading.Event()
    frames = iter(Source(0, stop=stop))
    next(frames)
    timer = threading.Timer(0.2, stop.set)
    timer.start()
    assert list(frames) == []
    timer.join()
    assert camera.opened == [0]


def test_a_stream_of_a_source_ends_when_either_is_asked_to_stop(camera):
    rows = {"boxes": [[8, 4, 24, 20]], "scores": [0.9], "labels": [1]}
    predictor = fake_predictor(
        instance_manifest(rows=1), instance_outputs(**rows, masks=np.ones((1, 8, 8)))
    )
    for is_own in (True, False):
        camera.scripts = [[GOOD] * 1000]
        own, stop = threading.Event(), threading.Event()
        results = predictor.stream_frames(Source(0, stop=own), stop=stop)
        next(results)
        (own if is_own else stop).set()
        assert list(results) == []


@pytest.mark.parametrize("name", ["0", "rtsp://camera/1", "video.mp4"])
def test_a_stream_of_too_large_pictures_is_refused_before_one_is_decoded(
    tmp_path, monkeypatch, camera, name
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "video.mp4").write_bytes(b"video")
    camera.size, camera.scripts = (10_000, 10_000), [[GOOD]]
    with pytest.raises(ImageTooLarge, match=f"{name} has 10000x10000 pixels; expected at most"):
        list(Source(name))
    assert camera.num_grabbed == 0
