"""States, lanes and rows on TensorRT: what lies where, what is bound, what is captured, what is given back."""

import contextlib
import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fake_engine import OnnxEngine, compile_driver, open_driver
from stateful_bundle import HEIGHT, WIDTH, K, M, pictures, write_stateful_bundle
from tiny_bundle import feed, write_bundle

from edgeseg_runtime import load
from edgeseg_runtime.bundle.graph_files import read_graph
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.errors import BackendError, DeviceLost, InputContractError, OutOfMemory
from edgeseg_runtime.tensorrt.cuda import CudaDevice
from edgeseg_runtime.tensorrt.engines import check_batch
from edgeseg_runtime.tensorrt.key import EngineOptions
from edgeseg_runtime.tensorrt.streams import EngineStreams

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def trt():
    return pytest.importorskip("tensorrt_rtx")


@pytest.fixture(scope="module")
def driver_file(tmp_path_factory):
    return compile_driver(tmp_path_factory.mktemp("driver")) or pytest.skip("needs a C compiler")


@pytest.fixture
def driver(driver_file):
    """The driver; checks that everything was given back."""
    driver = open_driver(driver_file)
    yield driver
    driver.library.fake_set_sync_result(0)
    driver.library.fake_set_limit(2**30)
    assert driver.library.fake_live_objects() == 0


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for kind in ("key_step", "seed_main", "staged"):
        made[kind] = tmp_path_factory.mktemp(kind)
        write_stateful_bundle(made[kind], kind)
    made["one"] = tmp_path_factory.mktemp("one")
    write_bundle(made["one"])
    return made


class Model:
    """A bundle's graphs on engines without a GPU."""

    def __init__(self, trt, driver, folder, *, change=lambda manifest: manifest, **options):
        self.library = driver.library
        self.gpu = CudaDevice(library=driver.file)
        self.manifest = change(Manifest.load(folder))
        self.engines = {
            name: OnnxEngine(
                trt, read_graph(folder, self.manifest, name), driver, buckets=graph.buckets
            )
            for name, graph in self.manifest.graphs.items()
        }
        try:
            self.streams = EngineStreams(trt, self.engines, self.gpu, self.manifest, **options)
        except BaseException:
            self.gpu.close()
            raise

    def run(self, state, frame, name, rows=None):
        fed = {"image": frame[None]} if self.manifest.graphs[name].fed else {}
        return self.streams.run(fed, name, state, rows)

    def play(self, state, frames, *, first=0):
        """Run the graphs of frames and return the last one's outputs."""
        found = {}
        for number, frame in enumerate(frames, first):
            for name in self.manifest.schedule.graphs(number):
                found = self.run(state, frame, name)
        return found

    def close(self):
        self.streams.close()
        self.gpu.close()


@pytest.fixture
def open_model(trt, driver, folders):
    with contextlib.ExitStack() as stack:

        def open_one(kind, **options):
            model = Model(trt, driver, folders[kind], **options)
            stack.callback(model.close)
            return model

        yield open_one


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize(
    ("kind", "num_tensors"),
    [("key_step", 2), ("seed_main", 4), ("staged", 2)],
    ids=["written, then read", "read and written: two each", "taken"],
)
def test_opening_a_state_allocates_all_that_its_stream_needs(open_model, kind, num_tensors):
    model = open_model(kind)
    before = model.library.fake_num_blocks()
    state = model.streams.open_state()
    assert model.library.fake_num_blocks() - before == num_tensors
    rows = K if kind == "staged" else None
    for number, frame in enumerate(pictures(20)):
        for name in model.manifest.schedule.graphs(number % 7):
            model.run(state, frame, name, rows if name == "mask" else None)
    assert model.library.fake_num_blocks() - before == num_tensors
    state.close()
    state.close()
    assert model.library.fake_num_blocks() == before


def test_contexts_of_a_lane_share_their_memory_for_activations(open_model):
    contexts = [c for engine in open_model("staged").engines.values() for c in engine.contexts]
    assert len(contexts) == 4, "one for detect and one for each number of rows of mask"
    assert len({context.scratch for context in contexts}) == 1
    assert [context.profile for context in contexts] == [0, 0, 1, 2]


def test_the_only_context_of_a_model_of_one_graph_has_its_own_memory(open_model):
    model = open_model("one")
    (context,) = model.engines["main"].contexts
    assert context.scratch is None
    outputs = model.streams.run(feed())
    expected = model.engines["main"].model.run(None, feed())
    for found, wanted in zip(outputs.values(), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_state_that_does_not_fit_gives_back_what_was_taken(open_model):
    model = open_model("seed_main")
    before = model.library.fake_live_objects()
    model.library.fake_set_limit(1000)  # enough for the map, not for the memory
    with pytest.raises(OutOfMemory, match="cuMemAlloc"):
        model.streams.open_state()
    assert model.library.fake_live_objects() == before


@pytest.mark.parametrize("kind", ["key_step", "seed_main"])
def test_only_pictures_go_in_and_only_results_come_out(open_model, kind):
    model = open_model(kind, use_graph=False)
    state = model.streams.open_state()
    model.play(state, pictures(3))
    library, given = model.library, 4 * (K * 4 + K + K)
    before = library.fake_bytes_to_device(), library.fake_bytes_to_host()
    model.play(state, pictures(4), first=1)
    assert library.fake_bytes_to_device() - before[0] == 4 * HEIGHT * WIDTH * 3
    assert library.fake_bytes_to_host() - before[1] == 4 * given


def test_what_one_graph_takes_lies_where_the_other_wrote_it(open_model):
    model = open_model("staged")
    state = model.streams.open_state()
    model.run(state, pictures(1)[0], "detect")
    model.run(state, pictures(1)[0], "mask", 2)
    wrote = model.engines["detect"].contexts[0].addresses
    read = model.engines["mask"].contexts[1].addresses
    assert (read["boxes"], read["features"]) == (wrote["boxes"], wrote["features"])


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize(("rows", "profile"), [(1, 0), (2, 1), (4, 1), (5, 2), (K, 2)])
def test_the_next_larger_number_of_rows_runs_and_the_rest_is_cut(open_model, rows, profile):
    model = open_model("staged")
    state = model.streams.open_state()
    frame = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    boxes = model.run(state, frame, "detect")["boxes"]
    found = model.run(state, frame, "mask", rows)["masks"]
    assert found.shape == (1, rows, M, M)
    np.testing.assert_allclose(
        found[0, :, 0, 0], boxes[0, :rows].mean(axis=1) * 0.02 + 1, atol=1e-4
    )
    contexts = model.engines["mask"].contexts
    assert [bool(context.kernels) for context in contexts] == [n == profile for n in range(3)]


def test_numbers_of_rows_in_turns_give_what_each_gives_alone(open_model):
    model = open_model("staged")
    state = model.streams.open_state()
    frame = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    model.run(state, frame, "detect")
    whole = model.run(state, frame, "mask", K)["masks"]
    for rows in (1, K, 2, 3, 1, 1, K, 5):
        found = model.run(state, frame, "mask", rows)["masks"]
        np.testing.assert_array_equal(found, whole[:, :rows])


def test_a_batch_of_a_model_with_rows_is_refused(open_model):
    with pytest.raises(
        ValueError, match=r"batch is 2; expected 1, because staged has a stage that runs once for"
    ):
        check_batch(open_model("staged").manifest, EngineOptions(batch=2))
    check_batch(open_model("one").manifest, EngineOptions(batch=2))


# ---------------------------------------------------------------- captured graphs


@pytest.mark.parametrize(
    ("kind", "num_graphs"),
    [("key_step", 2), ("seed_main", 1 + 2)],
    ids=["one order", "one order of seed, two of main"],
)
def test_a_graph_is_captured_for_each_order_of_buffers_and_then_replayed(
    open_model, kind, num_graphs
):
    model = open_model(kind)
    state = model.streams.open_state()
    model.play(state, pictures(4))
    assert model.library.fake_num_graphs() == num_graphs
    contexts = [c for engine in model.engines.values() for c in engine.contexts]
    assert sum(len(context.kernels) for context in contexts) == 2 * num_graphs
    launches = model.library.fake_num_launches()
    model.play(state, pictures(10), first=1)
    assert model.library.fake_num_launches() - launches == 10
    assert sum(len(context.kernels) for context in contexts) == 2 * num_graphs


def test_replayed_graphs_give_what_runs_without_them_give(open_model):
    frames = pictures(12)
    for kind in ("key_step", "seed_main"):
        found = []
        for use_graph in (True, False):
            model = open_model(kind, use_graph=use_graph)
            state = model.streams.open_state()
            found.append(
                [model.play(state, [f], first=n % 5)["scores"] for n, f in enumerate(frames)]
            )
        np.testing.assert_array_equal(*found)


def test_a_closed_state_takes_its_captured_graphs_with_it(open_model):
    model = open_model("seed_main")
    states = [model.streams.open_state() for _ in range(3)]
    for state in states:
        model.play(state, pictures(4))
    num_graphs = model.library.fake_num_graphs()
    states[1].close()
    assert model.library.fake_num_graphs() == num_graphs * 2 // 3
    for _ in range(20):
        with contextlib.closing(model.streams.open_state()) as state:
            model.play(state, pictures(3))
    assert model.library.fake_num_graphs() == num_graphs * 2 // 3


# ---------------------------------------------------------------- several streams


def test_two_streams_on_two_lanes_give_what_each_gives_alone(open_model):
    model = open_model("seed_main", contexts=2)
    videos = [pictures(30, seed=seed) for seed in range(4)]

    def scores(video):
        with contextlib.closing(model.streams.open_state()) as state:
            return [model.play(state, [f], first=n)["scores"] for n, f in enumerate(video)]

    alone = [scores(video) for video in videos]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(scores, videos))
    np.testing.assert_array_equal(found, alone)
    assert model.streams.num_lanes <= 2


def test_a_state_may_run_on_any_lane(open_model, monkeypatch):
    model = open_model("seed_main", contexts=2)
    state, other = model.streams.open_state(), model.streams.open_state()
    frames, barrier = pictures(6), threading.Barrier(2)
    engine = model.engines["main"]
    compute = type(engine.contexts[0]).compute

    def together(context, addresses):
        if context.engine is engine:
            with contextlib.suppress(threading.BrokenBarrierError):
                barrier.wait(timeout=0.5)
        compute(context, addresses)

    monkeypatch.setattr(type(engine.contexts[0]), "compute", together)
    with ThreadPoolExecutor(2) as threads:
        for number, frame in enumerate(frames):
            runs = [threads.submit(model.play, s, [frame], first=number) for s in (state, other)]
            one, two = (run.result() for run in runs)
            np.testing.assert_array_equal(one["scores"], two["scores"])
    assert model.streams.num_lanes == 2


def test_before_contexts_could_share_a_profile_there_is_one_lane(trt, driver, folders):
    old = type(
        "tensorrt",
        (),
        {
            "__version__": "8.6.1",
            "TensorIOMode": trt.TensorIOMode,
            "DataType": trt.DataType,
            "nptype": staticmethod(trt.nptype),
            "ExecutionContextAllocationStrategy": trt.ExecutionContextAllocationStrategy,
        },
    )
    for kind, num_lanes in (("staged", 1), ("key_step", 3)):
        model = Model(old, driver, folders[kind], contexts=3)
        assert model.streams._pool._limit == num_lanes
        model.close()


def test_without_a_state_a_graph_runs_on_one_of_its_own(open_model):
    model = open_model("staged")
    frame, before = pictures(1)[0], model.library.fake_num_blocks()
    found = model.run(None, frame, "detect")
    wanted = model.run(model.streams.open_state(), frame, "detect")
    np.testing.assert_array_equal(found["scores"], wanted["scores"])
    assert model.library.fake_num_blocks() - before == 2, "the other state is gone"


# ---------------------------------------------------------------- failures


def test_a_run_that_fails_leaves_what_it_reads_and_writes_as_it_was(open_model):
    model = open_model("seed_main", use_graph=False)
    state = model.streams.open_state()
    model.play(state, pictures(3))
    before = state.fetch()
    model.engines["main"].is_failing = True
    with pytest.raises(BackendError, match="failed to run the engine"):
        model.run(state, pictures(1)[0], "main")
    after = state.fetch()
    assert after.keys() == before.keys() == {"map", "memory"}
    for name, array in after.items():
        np.testing.assert_array_equal(array, before[name])


def test_what_a_failed_run_may_have_half_written_is_not_read(open_model):
    model = open_model("key_step", use_graph=False)
    state = model.streams.open_state()
    model.play(state, pictures(3))
    model.engines["key"].is_failing = True
    with pytest.raises(BackendError, match="failed to run the engine"):
        model.run(state, pictures(1)[0], "key")
    assert state.fetch() == {}
    with pytest.raises(ValueError, match="the state holds no 'map' yet"):
        model.run(state, pictures(1)[0], "step")
    model.engines["key"].is_failing = False
    model.play(state, pictures(2))


def test_an_input_that_is_refused_takes_nothing_away(open_model):
    model = open_model("key_step")
    state = model.streams.open_state()
    model.play(state, pictures(2))
    with pytest.raises(InputContractError, match=r"'image' is uint8 of shape \[1, 31, 48, 3\]"):
        model.run(state, pictures(1)[0][1:], "key")
    assert state.fetch().keys() == {"map", "memory"}


def test_a_lost_device_can_still_be_closed(open_model):
    model = open_model("seed_main")
    state = model.streams.open_state()
    model.play(state, pictures(2))
    model.library.fake_set_sync_result(700)
    with pytest.raises(DeviceLost, match="Restart the process"):
        model.play(state, pictures(1), first=1)
    state.close()


def test_closing_the_engines_frees_the_states_that_are_open(open_model):
    model = open_model("seed_main")
    state = model.streams.open_state()
    model.play(state, pictures(3))
    model.streams.close()
    with pytest.raises(ValueError, match="the backend is closed; load the bundle again"):
        model.run(state, pictures(1)[0], "seed")
    state.close()
    model.streams.close()


def test_a_closed_state_says_so(open_model):
    model = open_model("seed_main")
    state = model.streams.open_state()
    state.close()
    with pytest.raises(ValueError, match="the state is closed; open another one"):
        model.run(state, pictures(1)[0], "seed")


def test_an_engine_of_another_border_is_refused(trt, driver, folders):
    def in_half(manifest):
        detect, mask = manifest.graphs.values()
        outputs = tuple(
            dataclasses.replace(s, dtype="float16") if s.name == "features" else s
            for s in detect.outputs
        )
        inputs = tuple(
            dataclasses.replace(s, dtype="float16") if s.name == "features" else s
            for s in mask.inputs
        )
        graphs = {
            "detect": dataclasses.replace(detect, outputs=outputs),
            "mask": dataclasses.replace(mask, inputs=inputs),
        }
        return dataclasses.replace(manifest, graphs=graphs)

    with pytest.raises(
        BackendError,
        match=r"'features' is float32 of shape \[1, 3, 4, 4\]; the manifest says float16 of shape",
    ):
        Model(trt, driver, folders["staged"], change=in_half)


def test_an_engine_without_the_profiles_of_its_rows_is_refused(trt, driver, folders):
    class Short(OnnxEngine):
        def create_execution_context(self, strategy=None):
            context = super().create_execution_context(strategy)
            context.set_optimization_profile_async = lambda profile, stream: False
            return context

    gpu, manifest = CudaDevice(library=driver.file), Manifest.load(folders["staged"])
    engines = {
        name: Short(trt, read_graph(folders["staged"], manifest, name), driver, buckets=g.buckets)
        for name, g in manifest.graphs.items()
    }
    with pytest.raises(BackendError, match="refuses the optimisation profile 1"):
        EngineStreams(trt, engines, gpu, manifest)
    gpu.close()


# ---------------------------------------------------------------- on a GPU


@pytest.fixture(params=["tensorrt", "tensorrt_rtx"])
def load_on_gpu(request, folders):
    """Kind -> its predictor on a GPU, and that on ONNX Runtime."""
    pytest.importorskip(request.param)
    with contextlib.ExitStack() as stack:

        def load_both(kind, **options):
            return tuple(
                stack.enter_context(load(folders[kind], backend=backend, **given))
                for backend, given in ((request.param, options), ("onnxruntime", {}))
            )

        yield load_both


@pytest.mark.gpu
@pytest.mark.parametrize("use_graph", [True, False])
@pytest.mark.parametrize("kind", ["key_step", "seed_main"])
def test_a_video_on_a_gpu_gives_what_onnxruntime_gives(load_on_gpu, kind, use_graph):
    predictors = load_on_gpu(kind, use_graph=use_graph)
    videos = [pictures(12, seed=seed) for seed in range(2)]
    found = []
    for predictor in predictors:
        with predictor.session() as one, predictor.session() as other:
            found.append(
                [
                    s(f).scores
                    for pair in zip(*videos, strict=True)
                    for s, f in zip((one, other), pair, strict=True)
                ]
            )
    np.testing.assert_allclose(*found, atol=1e-4)
    assert predictors[0].backend.describe()["has_graph"] is use_graph


@pytest.mark.gpu
def test_streams_in_several_threads_on_a_gpu_do_not_mix(load_on_gpu):
    predictor, _ = load_on_gpu("seed_main", contexts=2)
    videos = [pictures(20, seed=seed) for seed in range(4)]

    def scores(video):
        with predictor.session() as session:
            return [session(frame).scores for frame in video]

    alone = [scores(video) for video in videos]
    with ThreadPoolExecutor(4) as threads:
        np.testing.assert_array_equal(list(threads.map(scores, videos)), alone)


@pytest.mark.gpu
def test_rows_on_a_gpu_give_what_onnxruntime_gives(load_on_gpu):
    predictors = load_on_gpu("staged")
    for value in (0, 21, 255, 0, 255, 100, 100):
        frame = np.full((HEIGHT, WIDTH, 3), value, np.uint8)
        found, wanted = (predictor(frame) for predictor in predictors)
        assert len(found) == len(wanted)
        np.testing.assert_allclose(found.boxes, wanted.boxes, atol=1e-3)
        np.testing.assert_array_equal(found.masks, wanted.masks)


@pytest.mark.gpu
def test_a_state_on_a_gpu_is_fetched_and_put(load_on_gpu):
    predictor, _ = load_on_gpu("seed_main")
    backend, (frame, *_) = predictor.backend, pictures(1)
    states = backend.open_state(), backend.open_state()
    for graph in ("seed", "main", "main"):
        backend.run({"image": frame[None]}, graph, states[0])
    states[1].put(states[0].fetch())
    one, other = (backend.run({"image": frame[None]}, "main", state) for state in states)
    np.testing.assert_array_equal(one["scores"], other["scores"])
