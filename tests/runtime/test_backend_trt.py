"""TrtBackend: clear words without a GPU, the session's bookkeeping, and the numbers on a GPU."""

import ctypes
import dataclasses
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fake_engine import compile_driver, open_driver
from tiny_bundle import feed, write_bundle

from edgeseg_runtime.backends import open_backend
from edgeseg_runtime.errors import (
    BackendError,
    BackendUnavailable,
    DeviceLost,
    EngineBuildError,
    InputContractError,
    OutOfMemory,
)
from edgeseg_runtime.tensorrt import compat as trt_compat
from edgeseg_runtime.tensorrt import cuda, engines
from edgeseg_runtime.tensorrt import key as engine_key
from edgeseg_runtime.tensorrt import store as engine_store
from edgeseg_runtime.tensorrt.backend import TrtBackend, TrtRtxBackend, load_engine
from edgeseg_runtime.tensorrt.cuda import CudaDevice
from edgeseg_runtime.tensorrt.session import EngineSession
from edgeseg_runtime.tensorrt.streams import SessionPool


def has_gpu():
    try:
        cuda.probe()
    except BackendUnavailable:
        return False
    return True


without_gpu = pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    return folder, write_bundle(folder)


@pytest.fixture(scope="module")
def trt():
    return pytest.importorskip("tensorrt_rtx")


# ---------------------------------------------------------------- without a GPU


@without_gpu
@pytest.mark.usefixtures("trt")
def test_without_a_gpu_the_message_says_what_was_found_and_what_to_do(bundle):
    with pytest.raises(BackendUnavailable) as info:
        open_backend("tensorrt_rtx", *bundle)
    message = str(info.value)
    assert message.startswith("no CUDA device: ")
    assert "expected an NVIDIA GPU and its driver" in message or "expected at least one" in message
    assert "nvidia-smi" in message
    assert "backend='onnxruntime'" in message
    assert info.value.exit_code == 4
    assert TrtRtxBackend.obstacle(*bundle) == message


@without_gpu
def test_auto_runs_on_the_cpu_and_says_so(bundle):
    backend = open_backend("auto", *bundle)
    assert backend.name == "onnxruntime"
    assert backend.run(feed())["boxes"].shape == (1, 4, 4)


# ---------------------------------------------------------------- the driver's library


HELPERS = Path(__file__).parent.parent / "helpers"


@pytest.fixture(scope="module")
def driver_file(tmp_path_factory):
    """A driver library for tests: device memory is host memory."""
    return compile_driver(tmp_path_factory.mktemp("driver")) or pytest.skip("needs a C compiler")


@pytest.fixture
def driver(driver_file):
    """The library's switches, reset after each test; checks that everything was given back."""
    driver = open_driver(driver_file)
    yield driver
    driver.library.fake_set_device_count(1)
    driver.library.fake_set_sync_result(0)
    driver.library.fake_set_capture_result(0)
    driver.library.fake_set_limit(2**30)
    assert driver.library.fake_live_objects() == 0


def test_a_device_is_described(driver):
    info = cuda.probe(library=driver.file)
    assert dataclasses.astuple(info) == (0, "Fake RTX", "sm89", "13.1", 2**30)


@pytest.mark.parametrize("index", [1, -1])
def test_a_device_that_does_not_exist_is_unavailable(driver, index):
    with pytest.raises(BackendUnavailable, match=rf"no CUDA device {index}: .* 1 device\(s\)"):
        CudaDevice(index, library=driver.file)


def test_a_driver_without_devices_is_unavailable(driver):
    driver.library.fake_set_device_count(0)
    with pytest.raises(BackendUnavailable, match="the driver found none; expected at least one"):
        CudaDevice(library=driver.file)


@pytest.mark.parametrize("library", ["libabsent.so.1", "libc.so.6"])
def test_a_library_that_is_no_driver_is_unavailable(library):
    with pytest.raises(BackendUnavailable, match=f"driver library {library} was not found"):
        cuda.probe(library=library)


def test_memory_goes_to_the_device_and_back(driver):
    gpu = CudaDevice(library=driver.file)
    assert gpu.memory_info() == (2**29, 2**30)
    stream = gpu.create_stream()
    there, back = gpu.allocate(64), gpu.allocate_host(64)
    data = np.arange(64, dtype=np.uint8)
    gpu.copy_to_device(there, data.ctypes.data, 64, stream=stream)
    gpu.copy_to_host(back, there, 64, stream=stream)
    gpu.synchronize(stream)
    assert ctypes.string_at(back, 64) == data.tobytes()
    assert max(there, back, stream) > 2**32, "addresses of 64 bits must survive"
    gpu.free(there)
    gpu.free_host(back)
    gpu.destroy_stream(stream)
    gpu.close()
    gpu.close()


def test_an_allocation_that_does_not_fit_is_out_of_memory(driver):
    gpu = CudaDevice(library=driver.file)
    driver.library.fake_set_limit(2**20)
    for allocate in (gpu.allocate, gpu.allocate_host):
        with pytest.raises(OutOfMemory, match=r"OUT_OF_MEMORY \(2\.0 MiB asked for\)") as info:
            allocate(2**21)
        assert info.value.exit_code == 5
    gpu.close()


@pytest.mark.parametrize(
    ("code", "kind"), [(700, DeviceLost), (719, DeviceLost), (1, BackendError)]
)
def test_only_sticky_errors_lose_the_device(driver, code, kind):
    gpu = CudaDevice(library=driver.file)
    driver.library.fake_set_sync_result(code)
    with pytest.raises(BackendError, match="cuStreamSynchronize failed") as info:
        gpu.synchronize(0)
    assert type(info.value) is kind
    gpu.close()


# ---------------------------------------------------------------- the session


class FakeEngine:
    """An engine with the real module's enumerations; its context computes y = 2 x + 1."""

    num_io_tensors = 2

    def __init__(self, trt, shape=(1, 3), *, has_context=True, driver=None):
        self.trt, self.shape, self.has_context = trt, shape, has_context
        self.driver = driver  # None: like a model with a loop, it cannot be captured
        self.num_contexts = 0

    def get_tensor_name(self, index):
        return ("y", "x")[index]  # outputs first: the session must not rely on the order

    def get_tensor_mode(self, name):
        mode = self.trt.TensorIOMode
        return mode.INPUT if name == "x" else mode.OUTPUT

    def get_tensor_dtype(self, name):
        return self.trt.DataType.UINT8 if name == "x" else self.trt.DataType.FLOAT

    def get_tensor_shape(self, name):
        return self.shape

    def get_tensor_profile_shape(self, name, profile):
        return ((1, 3), (2, 3), (2, 3))

    def create_execution_context(self):
        self.num_contexts += 1
        return FakeContext(self) if self.has_context else None


class FakeContext:
    is_failing = False

    def __init__(self, engine):
        self.shape, self.addresses, self.driver = engine.shape, {}, engine.driver
        self.kernel = ctypes.CFUNCTYPE(None)(self.compute)
        self.num_started = 0
        FakeContext.last = self

    def set_input_shape(self, name, shape):
        self.shape = shape

    def get_tensor_shape(self, name):
        return self.shape

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        self.num_started += 1
        if self.is_failing or (self.driver is None and self.num_started == 2):
            return False
        if self.driver is None:
            self.compute()
        else:
            self.driver.library.fake_launch_kernel(self.kernel)
        return True

    def compute(self):
        size = math.prod(self.shape)
        x = np.frombuffer((ctypes.c_uint8 * size).from_address(self.addresses["x"]), np.uint8)
        y = np.frombuffer((ctypes.c_float * size).from_address(self.addresses["y"]), np.float32)
        y[:] = 2.0 * x + 1


@pytest.fixture
def gpu(driver):
    device = CudaDevice(library=driver.file)
    yield device
    device.close()


@pytest.fixture
def session(trt, gpu):
    session = EngineSession(trt, FakeEngine(trt), gpu)
    yield session
    session.close()


def x_of(*values):
    return {"x": np.array([values], np.uint8)}


def test_a_session_feeds_the_engine_and_returns_its_outputs(session):
    first = session.run(x_of(1, 2, 3))
    second = session.run(x_of(0, 0, 255))
    assert list(first) == ["y"]
    assert first["y"].dtype == np.float32
    np.testing.assert_array_equal(first["y"], [[3, 5, 7]])
    np.testing.assert_array_equal(second["y"], [[1, 1, 511]])


def test_threads_take_turns(session):
    with ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(lambda n: session.run(x_of(n, n, n))["y"], range(100)))
    for number, output in enumerate(outputs):
        np.testing.assert_array_equal(output, np.full((1, 3), 2 * number + 1))


def test_the_second_run_and_later_ones_replay_a_graph(trt, gpu, driver):
    session = EngineSession(trt, FakeEngine(trt, driver=driver), gpu)
    assert not session.has_graph
    for number in range(4):
        outputs = session.run(x_of(number, 2, 3))
        np.testing.assert_array_equal(outputs["y"], [[2 * number + 1, 5, 7]])
        assert session.has_graph
    assert FakeContext.last.num_started == 2, "once to run, once to be captured"
    session.close()


@pytest.mark.parametrize("fault", ["context", "driver", "option"])
def test_an_engine_that_cannot_be_captured_runs_without_a_graph(trt, gpu, driver, fault):
    driver.library.fake_set_capture_result(901 if fault == "driver" else 0)
    engine = FakeEngine(trt, driver=None if fault == "context" else driver)
    session = EngineSession(trt, engine, gpu, use_graph=fault != "option")
    for number in range(3):
        outputs = session.run(x_of(number, 2, 3))
        np.testing.assert_array_equal(outputs["y"], [[2 * number + 1, 5, 7]])
    assert not session.has_graph
    session.close()


class SlowSession:
    """A session whose runs end when all of a round have begun."""

    has_graph = False

    def __init__(self, barrier):
        self.barrier, self.is_closed = barrier, False

    def run(self, inputs, graph="main", state=None, rows=None):
        self.barrier.wait(timeout=30)
        return {"session": self}

    def close(self):
        self.is_closed = True


def test_callers_at_the_same_time_get_a_session_each():
    barrier = threading.Barrier(3)
    pool = SessionPool(lambda: SlowSession(barrier), limit=3)
    assert pool.num_sessions == 1, "sessions are made when they are needed"
    with ThreadPoolExecutor(3) as threads:
        found = [run.result()["session"] for run in [threads.submit(pool.run, {}) for _ in "abc"]]
    assert len(set(found)) == pool.num_sessions == 3
    pool.close()
    pool.close()
    assert all(session.is_closed for session in found)
    with pytest.raises(ValueError, match="closed"):
        pool.run({})


class SlowMaker:
    """Makes sessions, of which the first is busy; later ones only when it is allowed to."""

    def __init__(self, error=None):
        self.is_allowed, self.has_begun = threading.Event(), threading.Event()
        self.error, self.num_made, self.num_now = error, 0, 0
        self.first = SlowSession(threading.Barrier(2))

    def __call__(self):
        self.num_made += 1
        if self.num_made == 1:
            return self.first
        self.num_now += 1
        assert self.num_now == 1, "an engine makes one context at a time"
        self.has_begun.set()
        assert self.is_allowed.wait(timeout=30)
        self.num_now -= 1
        if self.error is not None:
            raise self.error
        return SlowSession(threading.Barrier(1))

    def end_first_run(self):
        barrier, self.first.barrier = self.first.barrier, threading.Barrier(1)
        barrier.wait(timeout=30)


def two_callers(pool, make, threads):
    """Return the runs of a caller that has the first session, and of one that makes another."""
    first = threads.submit(pool.run, {})
    while make.first.barrier.n_waiting == 0:
        time.sleep(0.01)
    second = threads.submit(pool.run, {})
    assert make.has_begun.wait(timeout=30)
    return first, second


def test_a_session_that_is_being_made_keeps_nobody_from_returning_theirs():
    make = SlowMaker()
    pool = SessionPool(make, limit=3)
    with ThreadPoolExecutor(4) as threads:
        first, second = two_callers(pool, make, threads)
        third = threads.submit(pool.run, {})
        make.end_first_run()
        assert first.result(timeout=30) == third.result(timeout=30) == {"session": make.first}
        make.is_allowed.set()
        assert second.result(timeout=30)["session"] is not make.first
    assert pool.num_sessions == make.num_made == 2
    pool.close()


@pytest.mark.parametrize("seed", range(5))
def test_there_are_never_more_sessions_than_the_limit(seed):
    make = SlowMaker()
    make.is_allowed.set()
    make.first.barrier = threading.Barrier(1)
    pool = SessionPool(make, limit=2 + seed % 2)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: pool.run({}), range(200)))
    assert pool.num_sessions == make.num_made <= 2 + seed % 2
    pool.close()


def test_a_session_that_cannot_be_made_leaves_the_others_usable():
    make = SlowMaker(BackendError("no context"))
    pool = SessionPool(make, limit=3)
    with ThreadPoolExecutor(2) as threads:
        first, second = two_callers(pool, make, threads)
        make.is_allowed.set()
        with pytest.raises(BackendError, match="no context"):
            second.result(timeout=30)
        make.end_first_run()
        first.result(timeout=30)
    assert pool.run({}) == {"session": make.first}
    assert pool.num_sessions == 1
    pool.close()


def test_closing_waits_for_a_session_that_is_being_made_and_frees_it():
    make = SlowMaker()
    pool = SessionPool(make, limit=2)
    with ThreadPoolExecutor(3) as threads:
        first, second = two_callers(pool, make, threads)
        make.end_first_run()
        first.result(timeout=30)
        closing = threads.submit(pool.close)
        time.sleep(0.05)
        assert not closing.done(), "the context must be gone before its device is"
        make.is_allowed.set()
        closing.result(timeout=30)
        session = second.result(timeout=30)["session"]
    assert make.first.is_closed
    assert session.is_closed
    with pytest.raises(ValueError, match="closed"):
        pool.run({})


def test_a_session_that_does_not_fit_makes_callers_share(caplog):
    only = SlowSession(threading.Barrier(2))
    sessions = [only]

    def make():
        if not sessions:
            raise OutOfMemory("no room")
        return sessions.pop()

    pool = SessionPool(make, limit=8)
    with ThreadPoolExecutor(2) as threads:
        runs = [threads.submit(pool.run, {}) for _ in range(2)]
        while "no more fit: no room" not in caplog.text:
            time.sleep(0.01)
        first, only.barrier = only.barrier, threading.Barrier(1)
        first.wait(timeout=30)  # the first caller ends, the second one takes its session
        assert [run.result(timeout=30)["session"] for run in runs] == [only, only]
    assert pool.num_sessions == 1
    pool.close()


def test_without_any_session_the_error_passes():
    def make():
        raise OutOfMemory("no room")

    with pytest.raises(OutOfMemory):
        SessionPool(make, limit=2)


class FakeRuntime:
    """Loads every plan but one."""

    def __init__(self, stale):
        self.stale = stale

    def deserialize_cuda_engine(self, plan):
        return None if plan == self.stale else plan


STALE = b"an engine that this machine refuses" * 1000


@pytest.fixture
def stale_key(trt, bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGESEG_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir(mode=0o700)
    onnx = (bundle[0] / "model.onnx").read_bytes()
    return onnx, engine_key.key_for_targets(onnx, trt, ("sm86",), engine_key.EngineOptions())


@pytest.mark.parametrize("place", ["cache", "own"])
def test_an_engine_that_tensorrt_refuses_is_built_again_once(
    trt, stale_key, place, tmp_path, caplog
):
    onnx, key = stale_key
    trusted = [tmp_path / "own"]
    trusted[0].mkdir()
    path = engine_store.store_engine(tmp_path / place, key, STALE)
    for is_first in (True, False):
        plan, file = load_engine(trt, FakeRuntime(STALE), onnx, key, trusted=trusted, progress=None)
        assert plan != STALE
        assert file.is_new is is_first, "the second load takes what the first one built"
        assert file.path.parent == tmp_path / "cache"
    assert "is stale and" in caplog.text
    assert (path.read_bytes() == STALE) is (place == "own"), "a folder of the user's is left alone"


def test_an_engine_that_is_refused_when_it_is_new_ends_in_a_clear_error(trt, stale_key):
    class Refuses:
        def deserialize_cuda_engine(self, plan):
            return None

    onnx, key = stale_key
    with pytest.raises(EngineBuildError, match=r"cannot load the engine that it has just built"):
        load_engine(trt, Refuses(), onnx, key, trusted=(), progress=None)


LOAD = """
import ctypes, sys
from edgeseg_runtime import load
ctypes.CDLL("libcuda.so.1").fake_set_device_count(2)
try: load(sys.argv[1], backend="tensorrt", device=int(sys.argv[2]))
except Exception as error: print(error)
"""


@pytest.mark.parametrize("device", [0, 1])
def test_an_engine_is_built_on_its_gpu_with_three_quarters_of_what_is_free_there(
    driver_file, bundle, tmp_path, device
):
    (tmp_path / "libcuda.so.1").symlink_to(driver_file)
    shutil.copy(HELPERS / "fake_tensorrt.py", tmp_path / "tensorrt.py")
    paths = {name: str(tmp_path) for name in ("LD_LIBRARY_PATH", "PYTHONPATH", "EDGESEG_CACHE")}
    command = [sys.executable, "-c", LOAD, bundle[0], str(device)]
    done = subprocess.run(command, env={**os.environ, **paths}, capture_output=True, text=True)
    free_bytes = 2**29 >> device
    assert f"built on GPU {device} with {free_bytes * 3 // 4} bytes" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "'x' is missing; the engine takes uint8 of shape"),
        ({"x": np.zeros((1, 3), np.float32)}, "'x' is float32 .* built for uint8"),
        ({"x": np.zeros((2, 3), np.uint8)}, r"shape \[2, 3\].* built for .*\[1, 3\]"),
    ],
    ids=["missing", "dtype", "shape"],
)
def test_inputs_that_do_not_fit_are_refused(session, inputs, message):
    with pytest.raises(InputContractError, match=message):
        session.run(inputs)


def test_a_free_batch_axis_has_the_size_the_engine_was_built_for(trt, gpu):
    session = EngineSession(trt, FakeEngine(trt, shape=(-1, 3)), gpu)
    outputs = session.run({"x": np.ones((2, 3), np.uint8)})
    np.testing.assert_array_equal(outputs["y"], np.full((2, 3), 3))
    session.close()


def test_a_lost_device_stays_lost(session, driver):
    driver.library.fake_set_sync_result(700)
    with pytest.raises(DeviceLost, match=r"ILLEGAL_ADDRESS.*Restart the process"):
        session.run(x_of(1, 2, 3))
    driver.library.fake_set_sync_result(0)
    with pytest.raises(DeviceLost, match="Restart the process"):
        session.run(x_of(1, 2, 3))


def test_an_engine_that_does_not_start_is_an_error_of_the_backend(session):
    FakeContext.last.is_failing = True
    with pytest.raises(BackendError, match="failed to run the engine"):
        session.run(x_of(1, 2, 3))


def test_a_context_without_memory_is_out_of_memory(trt, gpu):
    with pytest.raises(OutOfMemory, match=r"cannot make an execution context.*512 of 1024 MiB"):
        EngineSession(trt, FakeEngine(trt, has_context=False), gpu)


def test_buffers_that_do_not_fit_give_back_what_was_taken(trt, gpu, driver):
    driver.library.fake_set_limit(8)  # enough for x, not for y; the driver fixture counts
    with pytest.raises(OutOfMemory, match="cuMemAlloc"):
        EngineSession(trt, FakeEngine(trt), gpu)


def test_a_closed_session_says_so(session):
    session.close()
    session.close()
    with pytest.raises(ValueError, match="closed"):
        session.run(x_of(1, 2, 3))


# ---------------------------------------------------------------- on a GPU


@pytest.fixture(params=sorted(trt_compat.FLAVOURS))
def flavour(request, bundle):
    pytest.importorskip(request.param)
    backend = {"tensorrt": TrtBackend, "tensorrt_rtx": TrtRtxBackend}[request.param]
    obstacle = backend.obstacle(*bundle)
    if obstacle is not None:
        pytest.skip(obstacle)
    return request.param


@pytest.mark.gpu
def test_an_engine_computes_what_onnxruntime_computes(bundle, flavour):
    reference = open_backend("onnxruntime", *bundle)
    backend = open_backend(flavour, *bundle)
    for seed in range(5):
        expected, found = reference.run(feed(seed)), backend.run(feed(seed))
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=1e-3, err_msg=name)
    backend.close()


@pytest.mark.gpu
def test_the_second_load_takes_the_engine_from_the_cache(bundle, flavour):
    open_backend(flavour, *bundle).close()
    backend = open_backend(flavour, *bundle)
    description = backend.backend.describe()
    assert description["build_s"] == 0
    assert (engine_store.cache_folder() / description["file"]).is_file()
    backend.close()


@pytest.mark.gpu
def test_an_engine_made_ahead_of_time_runs(bundle, trt, tmp_path):
    obstacle = TrtRtxBackend.obstacle(*bundle)
    if obstacle is not None:
        pytest.skip(obstacle)
    (file,) = engines.build_bundle(bundle[0], targets=["portable"], out=tmp_path)
    backend = open_backend("tensorrt_rtx", *bundle, engines_folder=tmp_path)
    assert backend.backend.describe()["sha256"] == file.sha256
    assert backend.run(feed())["masks"].shape == (1, 4, 8, 8)
    backend.close()


@pytest.mark.gpu
def test_four_threads_agree_with_one_on_the_gpu(bundle, flavour):
    backend = open_backend(flavour, *bundle)
    expected = [backend.run(feed(seed))["masks"] for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: backend.run(feed(n % 4))["masks"], range(32)))
    for index, masks in enumerate(found):
        np.testing.assert_array_equal(masks, expected[index % 4])
    backend.close()


@pytest.mark.gpu
def test_a_graph_changes_nothing(bundle, flavour):
    plain = open_backend(flavour, *bundle, use_graph=False)
    backend = open_backend(flavour, *bundle)
    for seed in range(4):
        expected, found = plain.run(feed(seed)), backend.run(feed(seed))
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert backend.backend.describe()["has_graph"]
    assert not plain.backend.describe()["has_graph"]
    backend.close()
    plain.close()


@pytest.mark.gpu
def test_the_precision_is_read_back_from_the_engine(bundle):
    pytest.importorskip("tensorrt")
    if TrtBackend.obstacle(*bundle) is not None:
        pytest.skip("TensorRT does not run here")
    backend = open_backend("tensorrt", *bundle)
    assert set(backend.backend.describe()["num_nodes"]) == {"fp32"}
    backend.close()


@pytest.mark.gpu
def test_a_stale_engine_is_built_again_once(bundle, flavour, caplog):
    open_backend(flavour, *bundle).close()
    trt = trt_compat.import_tensorrt(flavour)
    onnx = (bundle[0] / "model.onnx").read_bytes()
    key = engine_key.key_for_device(onnx, trt, cuda.probe(), engine_key.EngineOptions())
    engine_store.store_engine(engine_store.cache_folder(), key, b"no engine" * 1000)
    backend = open_backend(flavour, *bundle)
    assert "is stale and is built again" in caplog.text
    assert backend.backend.describe()["build_s"] > 0
    backend.close()
