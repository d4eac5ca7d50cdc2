"""Streams: reading, computing and what follows go on at the same time, in order, bounded, and end."""

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from fake_model import fake_predictor, instance_manifest, instance_outputs

from edgeseg_runtime import Source, load
from edgeseg_runtime.belts import Belt
from edgeseg_runtime.commands.recording import lines_from_outcome, output_folder, record
from edgeseg_runtime.commands.writing import Drawing
from edgeseg_runtime.errors import BackendError, BrokenSource
from edgeseg_runtime.picture.sources import Frame
from edgeseg_runtime.streaming import OpenStreams, results_of_source

WAIT_S = 60
"""After which a test that hangs fails."""


class Frames(Source):
    """Gives numbered frames; `before(number)` is called before each."""

    def __init__(self, count, *, before=lambda number: None, kind="video", shape=(4, 4, 3)):
        super().__init__(0)
        self.kind, self.count, self.before, self.shape = kind, count, before, shape
        self.num_read = 0

    num_frames = None

    def frames(self, *, stop=None):
        for number in range(self.count):
            self.before(number)
            if stop.is_set():
                return
            self.num_read += 1
            image = np.zeros(self.shape, np.uint8)
            image[0, 0, 0] = number % 256
            yield Frame(image=image, index=number, name="")


class Stream:
    """Finds the number in a picture; `before(number)` is called before that."""

    def __init__(self, before=lambda number: None):
        self.before = before
        self.seen = []
        self.num_closed = 0

    def __call__(self, image):
        self.before(int(image[0, 0, 0]))
        self.seen.append(int(image[0, 0, 0]))
        return self.seen[-1]

    def reset(self):
        pass

    def close(self):
        self.num_closed += 1

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def stream(source, session=None, **options):
    return results_of_source(source, session or Stream(), streams=OpenStreams(), **options)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert threads() == []


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("edgeseg")]


# ---------------------------------------------------------------- at the same time, in order


def test_a_frame_is_read_while_another_is_computed_and_a_third_is_used():
    """The three meet while they are at frames 2, 1 and 0: one after the other they never would."""
    meeting = threading.Barrier(3, timeout=WAIT_S)

    def at(which):
        return lambda number: meeting.wait() if number == which else None

    for _, found in stream(Frames(5, before=at(2)), Stream(at(1))):
        at(0)(found)


def test_every_frame_comes_once_and_in_order():
    session = Stream()
    pairs = list(stream(Frames(100), session))
    assert [frame.index for frame, _ in pairs] == [found for _, found in pairs] == list(range(100))
    assert session.seen == list(range(100))
    assert session.num_closed >= 1


@pytest.mark.parametrize(("shape", "most"), [((4, 4, 3), 11), ((4096, 8192, 3), 5)])
def test_few_frames_are_under_way_at_a_time(shape, most):
    """Where a frame is larger than what may wait, one waits on each side."""
    num_used = 0
    under_way = []
    source = Frames(30, before=lambda _: under_way.append(source.num_read - num_used), shape=shape)
    for _ in stream(source):
        num_used += 1
    assert max(under_way) <= most


def test_a_stream_ends_after_the_current_frame_when_asked():
    stop = threading.Event()
    frames = stream(endless(), stop=stop)
    assert next(frames)[1] == 0
    stop.set()
    assert list(frames) == []


def endless():
    source = Frames(0)
    source.count = 10**9
    return source


@pytest.mark.exhaustive
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_ten_thousand_frames_need_no_more_memory(tiny):
    used = []
    with load(tiny, backend="onnxruntime", threads=1) as predict:
        for frame, found in predict.stream_frames(Frames(10_000, shape=(120, 160, 3))):
            found.draw(frame.image)
            if frame.index % 50 == 0:
                pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
                used.append(pages * os.sysconf("SC_PAGE_SIZE"))
    slope = np.polyfit(np.arange(len(used) // 2) * 50, used[len(used) // 2 :], 1)[0]
    assert slope < 2**20 / 1000, f"{slope:.0f} bytes a frame"


# ---------------------------------------------------------------- errors


def fails_at(which, error):
    def fail(number):
        if number == which:
            raise error

    return fail


@pytest.mark.parametrize(
    ("source", "session"),
    [
        (lambda fail: Frames(9, before=fail), lambda _: Stream()),
        (lambda _: Frames(9), Stream),
    ],
    ids=["reading", "computing"],
)
@pytest.mark.parametrize("error", [BackendError("lost"), KeyboardInterrupt()], ids=type)
def test_an_error_comes_after_the_results_of_the_frames_before_it(source, session, error):
    fail, found = fails_at(3, error), []
    made = session(fail)
    with pytest.raises(type(error)):
        found.extend(number for _, number in stream(source(fail), made))
    assert found == [0, 1, 2]
    assert made.num_closed >= 1


@pytest.mark.parametrize("error", [OSError(28, "no space"), KeyboardInterrupt()], ids=type)
def test_an_error_of_the_user_ends_the_threads(error):
    frames, found = stream(endless()), []

    def use():
        for _, number in frames:
            found.append(number)
            if number == 2:
                raise error

    with pytest.raises(type(error)):
        use()
    frames.close()
    assert found == [0, 1, 2]
    assert threads() == []


def test_a_stream_that_nobody_follows_any_more_ends():
    for _ in stream(endless()):
        break
    gc.collect()
    assert threads() == []


def test_a_stream_that_was_never_begun_has_no_threads():
    session = Stream()
    unused = stream(Frames(3), session)
    assert threads() == []
    unused.close()
    assert session.seen == []


def predictor():
    masks = np.ones((1, 8, 8))
    given = instance_outputs(boxes=[[0, 0, 9, 9]], scores=[0.9], labels=[1], masks=masks)
    return fake_predictor(instance_manifest(rows=1), given)


def test_closing_a_predictor_ends_its_streams_first(predict):
    frames = predict.stream_frames(endless())
    next(frames)
    assert len(threads()) == 2
    predict.close()
    assert threads() == []
    assert list(frames) == []


def test_an_interpreter_ends_although_a_stream_is_open():
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
from test_runtime_streaming import endless, stream
frames = stream(endless())
print(next(frames)[1])
"""
    code = code.replace(
        "sys.path[:0]", f"sys.path[:0] = [{str(__file__)!r}.rpartition('/')[0]]; sys.path[:0]"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


# ---------------------------------------------------------------- live sources


def test_of_a_camera_the_newest_frame_is_taken_and_the_others_are_counted():
    """The model is busy with frame 0 until frame 9 is there."""
    has_begun, is_free = threading.Event(), threading.Event()

    def read(number):
        if number == 1:
            assert has_begun.wait(WAIT_S)
        if number == 10:
            is_free.set()

    def compute(number):
        if number == 0:
            has_begun.set()
            assert is_free.wait(WAIT_S)

    source = Frames(11, before=read, kind="live")
    indices = [frame.index for frame, _ in stream(source, Stream(compute))]
    assert indices[0] == 0
    assert indices[1] in {9, 10}
    assert indices[-1] == 10
    assert source.num_dropped == 11 - len(indices)


def test_a_run_tells_how_many_frames_were_dropped_and_how_old_they_were(predict, tmp_path):
    has_begun = threading.Event()
    source = Frames(7, before=lambda number: number == 0 or has_begun.wait(WAIT_S), kind="live")
    options = {"drawing": Drawing(draws=False), "writes_json": True}

    def progress(stage, done, total):
        has_begun.set()

    outcome = record(
        predict,
        [source],
        output_folder([source], tmp_path / "out", overwrite=False, **options),
        score=0,
        stop=threading.Event(),
        progress=progress,
        **options,
    )
    assert outcome.num_frames + outcome.num_dropped == 7
    assert 0 < outcome.age_ms["mean"] <= outcome.age_ms["max"]
    outcome.num_dropped = 3
    lines = lines_from_outcome(outcome, backend="fake", score=0)
    assert lines[0].endswith("0 frames skipped, 3 dropped because newer ones had come")
    assert lines[-1].startswith("frames were ")


def test_a_video_has_no_age(predict, tmp_path):
    source = Frames(3)
    options = {"drawing": Drawing(draws=False), "writes_json": True}
    folder = output_folder([source], tmp_path / "out", overwrite=False, **options)
    rest = {"score": 0, "stop": threading.Event(), "progress": lambda *_: None, **options}
    outcome = record(predict, [source], folder, **rest)
    assert (outcome.num_frames, outcome.num_dropped, outcome.age_ms) == (3, 0, {})
    assert list(outcome.stage_ms) == ["read", "preprocess", "model", "postprocess", "write"]


# ---------------------------------------------------------------- belts


def test_a_belt_gives_what_waits_before_its_error():
    belt = Belt(max_items=3, max_bytes=100)
    assert belt.put("a", 10)
    assert belt.put("b", 10)
    belt.end(BrokenSource("gone"))
    found = iter(belt)
    assert [next(found), next(found)] == ["a", "b"]
    with pytest.raises(BrokenSource, match="gone"):
        next(found)


def test_a_belt_that_was_left_takes_nothing():
    belt = Belt(max_items=1, max_bytes=100)
    assert belt.put("a", 10)
    waiting = threading.Thread(target=lambda: results.append(belt.put("b", 10)))
    results = []
    waiting.start()
    belt.leave()
    waiting.join(WAIT_S)
    assert results == [False]
    assert list(belt) == []


@pytest.mark.parametrize(
    ("max_items", "max_bytes", "kept"),
    [(1, 1000, [4]), (3, 1000, [2, 3, 4]), (3, 25, [3, 4]), (3, 5, [4])],
)
def test_a_belt_of_the_newest_drops_the_oldest(max_items, max_bytes, kept):
    belt = Belt(max_items=max_items, max_bytes=max_bytes, keeps_newest=True)
    assert all(belt.put(number, 10) for number in range(5))
    belt.end()
    assert list(belt) == kept
    assert belt.num_dropped == 5 - len(kept)


@pytest.fixture
def predict():
    with predictor() as opened:
        yield opened
