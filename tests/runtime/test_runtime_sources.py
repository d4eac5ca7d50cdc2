"""Sources: what a name means, and cameras that break off, give damaged frames or never answer."""

import os
import struct
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from fake_model import fake_predictor, instance_manifest, instance_outputs

from edgeseg_runtime.errors import BrokenSource, ImageTooLarge, SourceError
from edgeseg_runtime.picture import sources
from edgeseg_runtime.picture.sources import Source, open_sources, pause_s_after

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
        sizes = {cv2.CAP_PROP_FRAME_HEIGHT: self.size[0], cv2.CAP_PROP_FRAME_WIDTH: self.size[1]}
        return float(sizes.get(what, 0))

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


# ---------------------------------------------------------------- what a file is


def turned_jpeg():
    """Return a JPEG of 60x100 pixels whose EXIF data say that it is to be turned by 90 degrees."""
    data = cv2.imencode(".jpg", np.zeros((60, 100, 3), np.uint8))[1].tobytes()
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    exif = b"Exif\0\0" + tiff
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


PICTURE_NAMES = ("a.jpg", "b.jfif", "c.jpe", "d", "e.mp4", "f.jpeg.download", "g.JPG")


@pytest.mark.parametrize("name", PICTURE_NAMES)
def test_a_picture_is_one_whatever_its_name(tmp_path, name):
    (tmp_path / name).write_bytes(turned_jpeg())
    source = Source(tmp_path / name)
    assert source.kind == "pictures"
    assert next(iter(source)).image.shape == (100, 60, 3)


@pytest.mark.parametrize("suffix", [".gif", ".avif"])
def test_pictures_of_newer_formats_are_read_where_opencv_can(tmp_path, suffix):
    if not cv2.haveImageWriter(f"picture{suffix}"):
        pytest.skip(f"this OpenCV has no {suffix}")
    assert cv2.imwrite(f"{tmp_path}/picture{suffix}", PICTURE)
    (frame,) = Source(tmp_path)
    assert frame.image.shape == PICTURE.shape


def test_a_folder_says_what_it_leaves_out(tmp_path, caplog):
    for name in PICTURE_NAMES:
        (tmp_path / name).write_bytes(turned_jpeg())
    for name in ("notes.txt", "clip.avi", "labels.json", "Thumbs.db", ".hidden"):
        (tmp_path / name).write_bytes(b"no picture of anything")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "h.png").write_bytes(cv2.imencode(".png", PICTURE)[1].tobytes())
    source = Source(tmp_path)
    assert [Path(frame.name).name for frame in source] == sorted(PICTURE_NAMES)
    assert source.left_out == [
        f"{tmp_path}/{name}" for name in ("Thumbs.db", "below/", "clip.avi", "labels.json", "notes.txt")
    ]  # fmt: skip
    assert f"left out of {tmp_path}, because they are not pictures in one of the " in caplog.text
    assert "Thumbs.db, " in caplog.text
    assert "clip.avi and 2 more" in caplog.text
    deep = Source(tmp_path, recursive=True)
    assert [Path(frame.name).name for frame in deep if "below" in frame.name] == ["h.png"]
    assert len(deep.left_out) == 4


def test_a_pipe_is_named_as_what_it_is_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(SourceError, match=r"pipe\.jpg is a pipe or a device; expected a picture"):
        Source(tmp_path / "pipe.jpg")
    with pytest.raises(SourceError, match=r"holds no pictures, only .*pipe\.jpg"):
        Source(tmp_path)


def test_links_do_not_lead_a_deep_search_in_circles(tmp_path):
    (tmp_path / "below").mkdir()
    assert cv2.imwrite(os.fspath(tmp_path / "below" / "a.png"), PICTURE)
    for name in ("again", "once_more"):
        (tmp_path / "below" / name).symlink_to("..")
    source = Source(tmp_path, recursive=True)
    assert [Path(path).name for path in source.paths] == ["a.png"]
    assert [Path(path).name for path in source.left_out] == ["again", "once_more"]


def test_a_folder_of_other_files_names_them(tmp_path):
    (tmp_path / "clip.avi").write_bytes(b"RIFF")
    with pytest.raises(
        SourceError, match=r"holds no pictures, only .*clip\.avi; expected files in"
    ):
        Source(tmp_path)
    (tmp_path / "clip.avi").unlink()
    with pytest.raises(
        SourceError, match="holds no pictures; expected files in one of the formats"
    ):
        Source(tmp_path)


def test_text_is_not_played_as_a_film_of_letters(tmp_path):
    (tmp_path / "notes.txt").write_text("what to buy: bread, milk, butter", encoding="utf-8")
    with pytest.raises(SourceError, match=r"notes\.txt holds text; expected a picture, one of PNG"):
        Source(tmp_path / "notes.txt")


def test_several_names_are_read_one_after_the_other(tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("folder/2.png", "folder/1.png", "b.png", "a.png"):
        assert cv2.imwrite(f"{tmp_path}/{name}", PICTURE)
    names = [tmp_path / "b.png", tmp_path / "folder", f"{tmp_path}/?.png"]
    source = Source(names)
    assert [Path(path).name for path in source.paths] == [
        "b.png",
        "1.png",
        "2.png",
        "a.png",
        "b.png",
    ]
    assert [frame.index for frame in source] == [0, 1, 2, 3, 4]
    assert source.num_frames == 5
    with pytest.raises(SourceError, match="the list of sources is empty"):
        Source([])


def test_pictures_come_together_and_every_video_alone(tmp_path):
    for name in ("1.avi", "2.avi"):
        (tmp_path / name).write_bytes(b"RIFF\0\0\0\0AVI LIST")
    assert cv2.imwrite(f"{tmp_path}/a.png", PICTURE)
    names = [f"{tmp_path}/*.avi", f"{tmp_path}/a.png", "0", tmp_path]
    found = [(source.kind, source.name) for source in open_sources(names, max_reconnects=0)]
    assert found == [
        ("pictures", f"{tmp_path}/a.png, {tmp_path}"),
        ("video", f"{tmp_path}/1.avi"),
        ("video", f"{tmp_path}/2.avi"),
        ("live", "0"),
    ]


def write_clip(path, count=20):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    noise = np.random.default_rng(0)
    for _ in range(count):
        writer.write(noise.integers(0, 255, (48, 64, 3), np.uint8))
    writer.release()
    return path.read_bytes()


def test_a_video_that_ends_early_says_so(tmp_path, caplog):
    whole = write_clip(tmp_path / "whole.avi")
    source = Source(tmp_path / "whole.avi")
    assert (len(list(source)), source.num_missing, caplog.text) == (20, 0, "")
    (tmp_path / "half.avi").write_bytes(whole[: len(whole) // 2])
    source = Source(tmp_path / "half.avi")
    num_read = len(list(source))
    assert 5 < num_read < 15
    assert source.num_missing == 20 - num_read
    assert (
        f"half.avi ended after {num_read} of the 20 frames that its header promises" in caplog.text
    )


def test_a_video_without_a_frame_is_an_error(tmp_path):
    whole = write_clip(tmp_path / "whole.avi")
    (tmp_path / "none.avi").write_bytes(whole[: whole.index(b"movi") + 4])
    with pytest.raises(
        BrokenSource, match=r"no frame of the video .*none\.avi can be decoded"
    ) as e:
        list(Source(tmp_path / "none.avi"))
    assert e.value.exit_code == 1


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
