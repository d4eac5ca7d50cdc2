"""Session: what is carried from frame to frame is the stream's own, on every engine."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from fake_engine import OnnxEngine, compile_driver, open_driver
from stateful_bundle import (
    HEIGHT,
    WIDTH,
    K,
    M,
    expected,
    pictures,
    write_stateful_bundle,
)

from edgeseg_runtime import load
from edgeseg_runtime.backends import CheckedBackend
from edgeseg_runtime.backends.state import KeptTensors
from edgeseg_runtime.bundle.graph_files import read_graph
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.errors import BackendError, InputContractError
from edgeseg_runtime.picture.sources import Source
from edgeseg_runtime.predictor import Predictor
from edgeseg_runtime.session import Probe
from edgeseg_runtime.tasks import create_task
from edgeseg_runtime.tensorrt.cuda import CudaDevice
from edgeseg_runtime.tensorrt.streams import EngineStreams

ENGINES = ("onnxruntime", "openvino", "tensorrt")
"""TensorRT without a GPU: its streams and states are ours, the driver and the engines are fakes."""
VIDEO_KINDS = ("key_step", "seed_main")
SIZE = (HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Kind and shape of the large state tensor -> the bundle's folder, written once."""
    folders = {}

    def get(kind, **options):
        key = (kind, *options.items())
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp(kind)
            write_stateful_bundle(folders[key], kind, **options)
        return folders[key]

    return get


@pytest.fixture(scope="module")
def fake_gpu(tmp_path_factory):
    """A driver whose device memory is host memory, and a device of it."""
    file = compile_driver(tmp_path_factory.mktemp("driver"))
    if file is None:
        pytest.skip("needs a C compiler")
    driver, gpu = open_driver(file), CudaDevice(library=file)
    yield driver, gpu
    gpu.close()
    assert driver.library.fake_live_objects() == 0, "something was not given back"


def predictor_on_fakes(folder, driver, gpu):
    trt = pytest.importorskip("tensorrt_rtx")
    manifest = Manifest.load(folder)
    engines = {
        name: OnnxEngine(trt, read_graph(folder, manifest, name), driver, buckets=graph.buckets)
        for name, graph in manifest.graphs.items()
    }
    streams = EngineStreams(trt, engines, gpu, manifest)
    return Predictor(manifest, create_task(manifest), CheckedBackend("tensorrt", streams, manifest))


@pytest.fixture(scope="module", params=ENGINES)
def open_model(request, folder_of):
    """Kind -> its predictor on an engine, loaded once."""
    loaded = {}
    if request.param == "tensorrt":
        fakes = request.getfixturevalue("fake_gpu")
    else:
        pytest.importorskip(request.param)

    def get(kind, **options):
        key = (kind, *options.items())
        if key not in loaded:
            folder = folder_of(kind, **options)
            loaded[key] = (
                predictor_on_fakes(folder, *fakes)
                if request.param == "tensorrt"
                else load(folder, backend=request.param, threads=1)
            )
        return loaded[key]

    yield get
    for predictor in loaded.values():
        predictor.close()


@pytest.fixture(params=VIDEO_KINDS)
def predictor(request, open_model):
    return open_model(request.param)


class Recorder(Probe):
    """Keeps which graphs ran, with how many rows, and what they gave."""

    def __init__(self):
        self.graphs, self.rows, self.outputs = [], [], []

    def started(self):
        self.graphs.append(())

    def ran(self, graph, inputs, outputs, rows):
        self.graphs[-1] += (graph,)
        self.rows.append(rows)
        self.outputs.append(outputs)


def results(run, frames):
    """Return boxes and scores of every frame, to compare bit for bit."""
    return [np.concatenate([r.boxes, r.scores[:, None]], axis=1) for r in map(run, frames)]


def alone(predictor, frames):
    """Return what a stream of its own gives for frames."""
    with predictor.session() as session:
        return results(session, frames)


def assert_same(found, wanted):
    assert len(found) == len(wanted)
    for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
        np.testing.assert_array_equal(one, other, err_msg=f"frame {number}")


# ---------------------------------------------------------------- one stream


def test_every_frame_gives_what_the_frames_before_it_ask_for(predictor):
    frames = pictures(12)
    with predictor.session() as session:
        found = [session(frame).scores for frame in frames]
    for number, scores in enumerate(expected(predictor.manifest.name, frames)):
        np.testing.assert_allclose(found[number], scores, atol=1e-5, err_msg=f"frame {number}")


@pytest.mark.parametrize(
    ("kind", "graphs"),
    [
        ("key_step", [("key",), *[("step",)] * 4] * 2 + [("key",)]),
        ("seed_main", [("seed", "main"), *[("main",)] * 10]),
    ],
)
def test_the_graphs_of_the_schedule_run(open_model, kind, graphs):
    recorder = Recorder()
    with open_model(kind).session(probe=recorder) as session:
        for frame in pictures(11):
            session(frame)
    assert recorder.graphs == graphs


def test_a_scene_cut_is_a_key_frame(open_model):
    """Also behind a large picture; slow changes and the first frame of the next video are none."""
    predictor, recorder = open_model("key_step"), Recorder()
    dark, bright = (np.full((600, 900, 3), level, np.uint8) for level in (40, 90))
    with predictor.session(probe=recorder, scene_cut=25) as session:
        for frame in (dark, dark, bright, bright + 20, bright + 40):
            session(frame)
        session.reset()
        session(dark)
        session(dark)
    is_key = [graphs == ("key",) for graphs in recorder.graphs]
    assert is_key == [True, False, True, False, False, True, False]


@pytest.mark.parametrize("threshold", [0, -1, 256, float("nan")])
def test_a_scene_cut_that_makes_no_sense_is_refused(open_model, threshold):
    with pytest.raises(ValueError, match=r"scene_cut .* found, expected a mean difference"):
        open_model("key_step").session(scene_cut=threshold)


def test_a_model_without_key_frames_has_no_scene_cuts(open_model):
    with pytest.raises(ValueError, match="scene_cut 25 found, but staged has no key frames"):
        open_model("staged").stream("nothing.mp4", scene_cut=25).__next__()


def test_warming_up_runs_every_graph(open_model, monkeypatch):
    predictor, ran = open_model("key_step"), []
    run = predictor.backend.run
    monkeypatch.setattr(
        predictor.backend,
        "run",
        lambda inputs, graph, *rest: ran.append(graph) or run(inputs, graph, *rest),
    )
    assert predictor.warm_up(num_runs=1) > 0
    assert ran == ["key", "step"]


def test_a_refreshed_frame_is_a_key_frame_and_the_interval_begins_anew(open_model):
    predictor, recorder = open_model("key_step"), Recorder()
    frames = pictures(9)
    with predictor.session(probe=recorder) as session:
        found = results(lambda frame: session(frame, refresh=frame is frames[2]), frames)
    assert [graphs == ("key",) for graphs in recorder.graphs] == [
        number in (0, 2, 7) for number in range(9)
    ]
    assert_same(found[2:], alone(predictor, frames[2:]))


def test_reset_gives_what_a_new_stream_gives(predictor):
    frames = pictures(8)
    with predictor.session() as session:
        results(session, pictures(7, seed=1))
        session.reset()
        assert_same(results(session, frames), alone(predictor, frames))


def test_pictures_of_another_size_are_another_stream(predictor):
    frames, others = pictures(4), pictures(4, seed=1, size=(50, 70))
    with predictor.session() as session:
        found = [results(session, part) for part in (frames, others, frames)]
    for part, wanted in zip(found, (frames, others, frames), strict=True):
        assert_same(part, alone(predictor, wanted))


def test_a_picture_by_itself_is_a_first_frame(predictor):
    frames = pictures(5)
    with predictor.session() as session:
        session(frames[4])
        found = results(predictor, [*frames, *frames])
        assert_same(found, [alone(predictor, [frame])[0] for frame in (*frames, *frames)])
        assert_same(results(session, frames[:2]), alone(predictor, [frames[4], *frames[:2]])[1:])


def test_a_source_is_one_stream(predictor, tmp_path):
    frames = pictures(7)
    for number, frame in enumerate(frames):
        cv2.imwrite(os.fspath(tmp_path / f"{number}.png"), frame)
    found = [
        np.concatenate([r.boxes, r.scores[:, None]], axis=1) for r in predictor.stream(tmp_path)
    ]
    assert_same(found, alone(predictor, frames))


class Camera(Source):
    """A source that was opened again before some of its frames."""

    def __init__(self, folder, *, reopened):
        super().__init__(folder)
        self.reopened = reopened

    def frames(self, *, stop=None):
        for frame in super().frames(stop=stop):
            self.num_reconnects += frame.index in self.reopened
            yield frame


def test_a_camera_that_was_opened_again_gives_a_new_stream(predictor, tmp_path):
    frames = pictures(6)
    for number, frame in enumerate(frames):
        cv2.imwrite(os.fspath(tmp_path / f"{number}.png"), frame)
    found = [
        np.concatenate([r.boxes, r.scores[:, None]], axis=1)
        for r in predictor.stream(Camera(tmp_path, reopened={4}))
    ]
    assert_same(found, alone(predictor, frames[:4]) + alone(predictor, frames[4:]))


# ---------------------------------------------------------------- several streams


def test_two_streams_in_turns_give_what_each_gives_alone(predictor):
    videos = pictures(12), pictures(12, seed=1)
    with predictor.session() as one, predictor.session() as other:
        found = [
            results(s, [f])[0]
            for pair in zip(*videos, strict=True)
            for s, f in zip((one, other), pair, strict=True)
        ]
    for number, video in enumerate(videos):
        assert_same(found[number::2], alone(predictor, video))


def test_streams_in_several_threads_give_what_each_gives_alone(predictor):
    videos = [pictures(20, seed=seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda video: alone(predictor, video), videos))
    for one, video in zip(found, videos, strict=True):
        assert_same(one, alone(predictor, video))


class Waiting(Probe):
    """Holds a session in the middle of its first frame."""

    def __init__(self):
        self.is_inside, self.may_go_on = threading.Event(), threading.Event()

    def preprocessed(self, inputs, geometry):
        self.is_inside.set()
        assert self.may_go_on.wait(timeout=30)


def test_two_calls_of_one_session_at_once_are_an_error_and_harm_nothing(predictor):
    probe, frames = Waiting(), pictures(3)
    with predictor.session(probe=probe) as session, ThreadPoolExecutor(1) as thread:
        first = thread.submit(results, session, frames[:1])
        assert probe.is_inside.wait(timeout=30)
        with pytest.raises(
            ValueError, match="the session is in use by another thread; open one for each stream"
        ):
            session(frames[1])
        probe.may_go_on.set()
        assert_same(first.result() + results(session, frames[1:]), alone(predictor, frames))


def test_a_closed_session_says_so(predictor):
    session = predictor.session()
    session(pictures(1)[0])
    session.close()
    session.close()
    with pytest.raises(ValueError, match="the session is closed; open another one"):
        session(pictures(1)[0])


# ---------------------------------------------------------------- failures


class Faulty:
    """A backend of which a graph fails now and then, after all that lies before it."""

    def __init__(self, backend):
        self.backend, self.failing = backend, None

    def run(self, inputs, graph="main", state=None, rows=None):
        if graph == self.failing:
            raise BackendError(f"{graph} fails")
        return self.backend.run(inputs, graph, state, rows)

    def __getattr__(self, name):
        return getattr(self.backend, name)


@pytest.mark.parametrize(
    ("kind", "graph", "number"),
    [
        ("seed_main", "main", 0),
        ("seed_main", "main", 4),
        ("key_step", "step", 3),
        ("key_step", "key", 5),
    ],
)
def test_after_a_failure_half_way_the_next_frame_is_the_first(open_model, kind, graph, number):
    predictor = open_model(kind)
    faulty = Faulty(predictor.backend.backend)
    own = Predictor(predictor.manifest, create_task(predictor.manifest), faulty)
    frames = pictures(8)
    with own.session() as session:
        results(session, frames[:number])
        faulty.failing = graph
        with pytest.raises(BackendError, match=f"{graph} fails"):
            session(frames[number])
        faulty.failing = None
        assert_same(results(session, frames), alone(predictor, frames))


def test_a_picture_that_is_none_begins_a_new_stream(predictor):
    frames = pictures(4)
    with predictor.session() as session:
        results(session, pictures(3, seed=1))
        with pytest.raises(Exception, match="expected"):
            session(frames[0][..., 0])
        assert_same(results(session, frames), alone(predictor, frames))


class FailingProbe(Probe):
    """Raises when the result is there: as late as can be."""

    is_failing = False

    def read(self, result):
        if self.is_failing:
            raise KeyboardInterrupt


def test_an_interrupt_begins_a_new_stream(predictor):
    probe, frames = FailingProbe(), pictures(4)
    with predictor.session(probe=probe) as session:
        results(session, frames[:2])
        probe.is_failing = True
        with pytest.raises(KeyboardInterrupt):
            session(frames[2])
        probe.is_failing = False
        assert_same(results(session, frames), alone(predictor, frames))


def run_of(backend, state, frame, graph):
    return backend.run({"image": frame[None]}, graph, state)


def test_a_call_that_is_refused_leaves_the_state_as_it_was(open_model):
    backend = open_model("seed_main").backend.backend
    state = backend.open_state()
    frame = pictures(1)[0]
    run_of(backend, state, frame, "seed")
    before = state.fetch()
    with pytest.raises((InputContractError, BackendError)):
        run_of(backend, state, frame[:-1], "main")
    after = state.fetch()
    assert before.keys() == after.keys() == {"map", "memory"}
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)
    state.close()


@pytest.mark.parametrize(("kind", "graph"), [("seed_main", "main"), ("key_step", "step")])
def test_a_graph_that_runs_before_its_state_is_there_says_so(open_model, kind, graph):
    backend = open_model(kind).backend
    with pytest.raises(ValueError, match="holds no 'map' yet; run the graphs in the order of"):
        run_of(backend, backend.open_state(), pictures(1)[0], graph)
    with pytest.raises(ValueError, match=f"the graph '{graph}' needs a state; give one from"):
        run_of(backend, None, pictures(1)[0], graph)


# ---------------------------------------------------------------- the state itself


def test_a_state_that_is_fetched_and_put_goes_on_where_it_was(predictor):
    backend, schedule = predictor.backend, predictor.manifest.schedule
    frames = pictures(5)
    states = backend.open_state(), backend.open_state()
    for graph in (*schedule.first, *schedule.then * 2):
        run_of(backend, states[0], frames[0], graph)
    for graph in schedule.first:
        run_of(backend, states[1], frames[4], graph)  # another video's, to be replaced
    kept = states[0].fetch()
    states[1].put(kept)
    for frame in frames[1:]:
        for graph in schedule.then:
            one, other = (run_of(backend, state, frame, graph) for state in states)
            np.testing.assert_array_equal(one["scores"], other["scores"])
    states[0].put(kept)
    for name, array in states[0].fetch().items():
        np.testing.assert_array_equal(array, kept[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"atlas": np.zeros(1, np.float32)}, "keeps no 'atlas', only map, memory"),
        (
            {"map": np.zeros((1, 3, 4, 5), np.float32)},
            r"'map' is float32 of shape \[1, 3, 4, 5\]; the model keeps float32 of shape \[1, 3, 4, 4",
        ),
        ({"map": np.zeros((1, 3, 4, 4))}, "'map' is float64 of shape"),
        ({"map": np.zeros((3, 4, 4), np.float32)}, "'map' is float32 of shape"),
    ],
    ids=["name", "shape", "dtype", "rank"],
)
def test_what_is_put_must_fit(predictor, change, message):
    state = predictor.backend.open_state()
    with pytest.raises(ValueError, match=message):
        state.put(change)
    assert state.fetch() == {}


def test_what_a_caller_does_with_arrays_does_not_reach_the_engine(open_model):
    backend = open_model("staged").backend
    state = backend.open_state()
    frame = np.full((*SIZE, 3), 255, np.uint8)
    detected = run_of(backend, state, frame, "detect")
    wanted = backend.run({}, "mask", state, K)["masks"].copy()
    detected["boxes"][:] = 1e6
    for array in state.fetch().values():
        array[:] = -1e6
    np.testing.assert_array_equal(backend.run({}, "mask", state, K)["masks"], wanted)
    kept = {name: array * 1 for name, array in state.fetch().items()}
    state.put(kept)
    for array in kept.values():
        array[:] = -1e6
    np.testing.assert_array_equal(backend.run({}, "mask", state, K)["masks"], wanted)


def address(value):
    """Return where an engine's tensor lies."""
    if hasattr(value, "address"):
        return value.address
    return value.data_ptr() if hasattr(value, "data_ptr") else value.data.ctypes.data


def test_a_frame_copies_nothing_of_the_state(predictor, monkeypatch):
    copies = []
    for name in ("_to_host", "_from_host", "_fill"):  # what they do is set and got by this
        counted = property(lambda _, name=name: lambda *_: copies.append(name), lambda *_: None)
        monkeypatch.setattr(KeptTensors, name, counted, raising=False)
    state = predictor.backend.open_state()
    schedule, places = predictor.manifest.schedule, []
    for number, frame in enumerate(pictures(16)):
        for graph in schedule.graphs(number % 8):
            reads = {name: address(value) for name, value in state.sources(graph).items()}
            if reads:  # where the graph before it wrote
                assert reads == {name: place for name, place in places[-1].items() if name in reads}
            run_of(predictor.backend, state, frame, graph)
            places.append({name: address(value) for name, value in state.values.items()})
    assert copies == []


def test_two_tensors_change_places_where_one_graph_reads_and_writes(open_model):
    for kind, num_places in (("seed_main", 2), ("key_step", 1)):
        backend = open_model(kind).backend
        if backend.name == "onnxruntime":
            pytest.skip("ONNX Runtime makes its tensors itself")
        state, places = backend.open_state(), set()
        schedule = open_model(kind).manifest.schedule
        for number, frame in enumerate(pictures(20)):
            for graph in schedule.graphs(number % 5):
                run_of(backend, state, frame, graph)
            places.add(address(state.values["memory"]))
        assert len(places) == num_places


# ---------------------------------------------------------------- long runs


def resident_bytes():
    return int(Path("/proc/self/statm").read_text("utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def resident_of_stream(predictor, num_frames, num_samples):
    """Return the process's memory in the course of a stream, as it is and as a slope per frame."""
    frames, used = pictures(5), []
    with predictor.session() as session:
        for number in range(num_frames):
            session(frames[number % 5], refresh=number % 97 == 96)
            if number % (num_frames // num_samples) == 0:
                used.append(resident_bytes())
    half = np.array(used[len(used) // 2 :])
    slope = np.polyfit(np.arange(len(half)) * (num_frames // num_samples), half, 1)[0]
    return used, float(slope)


linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
MIB = 2**20


@linux
@pytest.mark.parametrize("kind", VIDEO_KINDS)
def test_a_stream_needs_no_more_memory_as_it_goes_on(open_model, kind):
    """A frame that left its state behind would take 1 MiB."""
    predictor = open_model(kind, memory=(1, 16, 128, 128))
    used, _ = resident_of_stream(predictor, 240, 24)
    assert used[-1] - used[4] < 24 * MIB


@linux
@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", VIDEO_KINDS)
def test_ten_thousand_frames_need_no_more_memory(open_model, kind):
    _, slope = resident_of_stream(open_model(kind), 10_000, 200)
    assert slope < 256, f"{slope:.0f} bytes a frame, of a state of 64 KiB"


@linux
def test_many_streams_need_no_more_memory(open_model):
    predictor, frame = open_model("seed_main", memory=(1, 16, 128, 128)), pictures(1)[0]
    used = []
    for _ in range(120):
        with predictor.session() as session:
            session(frame)
            session(frame)
        used.append(resident_bytes())
    assert used[-1] - used[40] < 24 * MIB


STREAM = """
import itertools, sys
sys.path.insert(0, sys.argv[3])
from stateful_bundle import pictures
from edgeseg_runtime import load
predictor = load(sys.argv[1], backend=sys.argv[2], threads=1)
frames = pictures(4)
with predictor.session() as session:
    for number in itertools.count():
        print(number, *session(frames[number % 4]).scores, flush=True)
"""


def first_lines(folder, engine, scratch, count):
    """Run a stream in a process of its own, kill it in the middle and return its first lines."""
    helpers = str(Path(__file__).parent.parent / "helpers")
    command = [sys.executable, "-c", STREAM, str(folder), engine, helpers]
    own = {"TMPDIR": str(scratch), "EDGESEG_CACHE": str(scratch / "cache")}
    environment = {**os.environ, **own}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, cwd=scratch
    ) as process:
        lines = [process.stdout.readline() for _ in range(count)]
        process.send_signal(signal.SIGKILL)
        process.stdout.read()
    assert process.returncode == -signal.SIGKILL
    return lines


@linux
def test_a_process_that_is_killed_leaves_nothing_behind_and_a_new_one_starts_clean(
    folder_of, tmp_path
):
    folder = folder_of("seed_main")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    runs = [first_lines(folder, "onnxruntime", tmp_path, 6) for _ in range(2)]
    assert runs[0] == runs[1]
    assert runs[0][5].startswith("5 ")
    assert list(tmp_path.iterdir()) == []
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


# ---------------------------------------------------------------- stages with rows


def bright(count):
    """Return a picture in which a `staged` bundle finds so many things."""
    value = {0: 0, K: 255}.get(count, 255 * (count - 0.5) / K)
    return np.full((*SIZE, 3), value, np.uint8)


@pytest.mark.parametrize("counts", [(0, 0), (1, 1), (K, K), (K, 0, 1, K, 3)], ids=str)
def test_a_stage_runs_with_as_many_rows_as_were_found(open_model, counts):
    predictor, recorder = open_model("staged"), Recorder()
    with predictor.session(probe=recorder) as session:
        found = [session(bright(count)) for count in counts]
    assert recorder.rows == [rows for count in counts for rows in (None, count)]
    for number, count in enumerate(counts):
        detected, masked = recorder.outputs[2 * number : 2 * number + 2]
        assert masked["masks"].shape == (1, count, M, M)
        width = detected["boxes"][0, :count].mean(axis=1) * 0.02
        level = bright(count).mean() / 255
        np.testing.assert_allclose(masked["masks"][0, :, 0, 0], width + level, atol=1e-4)
        assert found[number].masks.shape == (count, *SIZE)


def test_a_stage_runs_only_for_what_lies_above_the_score_threshold(folder_of):
    recorder = Recorder()
    options = {"backend": "onnxruntime", "threads": 1, "score_threshold": 0.5}
    with load(folder_of("staged"), **options) as model, model.session(probe=recorder) as session:
        result = session(bright(K))
    assert recorder.rows == [None, 3]
    assert (result.scores > 0.5).all()
    assert len(result) == 3


@pytest.mark.parametrize(
    ("threshold", "kind"), [(-0.1, "staged"), (1.5, "staged"), (float("nan"), "staged")], ids=str
)
def test_a_threshold_that_does_not_fit_is_refused(folder_of, threshold, kind):
    with pytest.raises(ValueError, match=r"score_threshold is .*; expected a number from the 0 of"):
        load(folder_of(kind), backend="onnxruntime", score_threshold=threshold)
