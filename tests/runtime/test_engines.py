"""Engines: compiled without a GPU where that is possible, from what the graph asks for."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from engine_cases import ONNX, RTX_4090
from onnx import TensorProto, helper, numpy_helper
from tiny_bundle import write_bundle

from edgeseg_runtime.errors import BackendUnavailable, CorruptArtifact, EngineBuildError
from edgeseg_runtime.tensorrt import compat as trt_compat
from edgeseg_runtime.tensorrt import engines
from edgeseg_runtime.tensorrt import key as engine_key
from edgeseg_runtime.tensorrt import store as engine_store
from edgeseg_runtime.tensorrt.key import EngineOptions


@pytest.fixture(scope="module")
def trt():
    return pytest.importorskip("tensorrt_rtx")


def model_of(*nodes, inputs=None, output=("y", TensorProto.FLOAT)):
    inputs = inputs or [("x", TensorProto.FLOAT, [1, 4])]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*item) for item in inputs],
        [helper.make_tensor_value_info(*output, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def constant(name, array):
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, name))


PRODUCT_IN_INT8 = [
    constant("scale", np.float32(0.5)),
    constant("zero", np.int8(0)),
    constant("integers", np.arange(16, dtype=np.int8).reshape(4, 4)),
    helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
    helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["a"]),
    helper.make_node("DequantizeLinear", ["integers", "scale", "zero"], ["b"]),
    helper.make_node("MatMul", ["a", "b"], ["y"]),
]


# ---------------------------------------------------------------- building, for real


def test_a_bundle_compiles_for_several_targets_without_a_gpu(trt, tmp_path):
    write_bundle(tmp_path)
    files = engines.build_bundle(tmp_path, targets=["sm75", "sm86", "sm89", "sm120"])
    assert [file.key.targets for file in files] == [("sm75",), ("sm86", "sm89", "sm120")]
    assert all(file.is_new and file.build_s > 0 for file in files)
    for file in files:
        assert file.path.parent == tmp_path / "engines"
        assert file.path.stat().st_size == file.size_bytes > 100_000
        assert trt.__version__ in file.path.name
    again = engines.build_bundle(tmp_path, targets=["sm75", "sm86", "sm89", "sm120"])
    assert [(file.path, file.sha256) for file in again] == [(f.path, f.sha256) for f in files]
    assert not any(file.is_new for file in again)
    (forced,) = engines.build_bundle(tmp_path, targets=["sm75"], force=True)
    assert forced.is_new
    assert forced.path == files[0].path


def test_the_output_folder_is_the_callers_choice(trt, tmp_path):
    write_bundle(tmp_path / "bundle")
    (file,) = engines.build_bundle(
        tmp_path / "bundle", targets=["portable"], out=tmp_path / "to" / "device"
    )
    assert file.path.parent == tmp_path / "to" / "device"
    assert not (tmp_path / "bundle" / "engines").exists()
    wanted = engine_key.key_for_device(ONNX, trt, RTX_4090, EngineOptions())
    plan, found = engine_store.find_engine(tmp_path / "to" / "device", wanted)
    assert (len(plan), found.path) == (file.size_bytes, file.path)


def test_a_damaged_bundle_is_noticed_before_tensorrt_sees_it(tmp_path):
    write_bundle(tmp_path)
    content = bytearray((tmp_path / "model.onnx").read_bytes())
    content[200] ^= 1
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(CorruptArtifact, match=r"model\.onnx is damaged"):
        engines.build_bundle(tmp_path, targets=["sm86"])


@pytest.mark.usefixtures("trt")
def test_an_unknown_target_is_refused_before_the_build():
    with pytest.raises(ValueError, match="target is 'sm13'; expected one of sm75"):
        engines.build_engine(ONNX, flavour="tensorrt_rtx", targets=["sm13"])


@pytest.mark.usefixtures("trt")
def test_an_operator_that_the_parser_refuses_is_named():
    onnx = model_of(
        helper.make_node("Relu", ["x"], ["a"], name="first"),
        helper.make_node("NonZero", ["a"], ["y"], name="the_culprit"),
        output=("y", TensorProto.INT64),
    )
    with pytest.raises(EngineBuildError, match=r"node 1 'the_culprit' \(NonZero\)") as info:
        engines.build_engine(onnx, flavour="tensorrt_rtx", targets=["sm86"])
    assert info.value.exit_code == 4


@pytest.mark.usefixtures("trt")
def test_an_operator_without_a_kernel_is_an_engine_build_error():
    nodes = [
        helper.make_node("Constant", [], ["n"], value_int=10),
        helper.make_node("Reshape", ["n", "one"], ["k"]),
        helper.make_node("Constant", [], ["one"], value_ints=[1]),
    ]
    onnx = model_of(
        nodes[2],
        nodes[0],
        nodes[1],
        helper.make_node("NonMaxSuppression", ["boxes", "scores", "k"], ["y"], name="suppress"),
        inputs=(
            ("boxes", TensorProto.FLOAT, [1, 100, 4]),
            ("scores", TensorProto.FLOAT, [1, 1, 100]),
        ),
        output=("y", TensorProto.INT64),
    )
    with pytest.raises(
        EngineBuildError, match=r"cannot (compile|read) the model: .*(suppress|NMS)"
    ):
        engines.build_engine(onnx, flavour="tensorrt_rtx", targets=["sm86"])


@pytest.mark.usefixtures("trt")
@pytest.mark.parametrize("content", [b"", b"garbage", ONNX[:100]], ids=["empty", "text", "cut"])
def test_what_is_no_onnx_is_a_corrupt_artifact(content):
    with pytest.raises(CorruptArtifact, match="expected an ONNX model"):
        engines.build_engine(content, flavour="tensorrt_rtx", targets=["sm86"])


@pytest.mark.usefixtures("trt")
def test_a_free_batch_axis_gets_the_batch_size_of_the_options():
    onnx = model_of(
        helper.make_node("Relu", ["x"], ["y"]), inputs=(("x", TensorProto.FLOAT, ["batch", 4]),)
    )
    options = EngineOptions(batch=2, workspace_bytes=2**26, optimization_level=1)
    assert engines.build_engine(onnx, flavour="tensorrt_rtx", targets=["sm86"], options=options)


@pytest.mark.usefixtures("trt")
def test_a_free_image_size_is_refused():
    onnx = model_of(
        helper.make_node("Relu", ["x"], ["y"]), inputs=(("x", TensorProto.FLOAT, [1, "width"]),)
    )
    with pytest.raises(EngineBuildError, match="only the first axis may be free"):
        engines.build_engine(onnx, flavour="tensorrt_rtx", targets=["sm86"])


@pytest.mark.usefixtures("trt")
def test_progress_counts_up_to_the_end_of_every_phase():
    calls = []
    engines.build_engine(ONNX, flavour="tensorrt_rtx", progress=lambda *call: calls.append(call))
    assert calls[0][1] == 0
    last = {phase: (step, total) for phase, step, total in calls}
    assert "Building engine" in last
    assert all(step == total for step, total in last.values())


@pytest.mark.usefixtures("trt")
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError], ids=lambda e: e.__name__)
def test_what_the_progress_callback_raises_cancels_the_build(error):
    def interrupt(phase, step, num_steps):
        if step:
            raise error

    with pytest.raises(error):
        engines.build_engine(ONNX, flavour="tensorrt_rtx", targets=["sm86"], progress=interrupt)
    assert engines.build_engine(ONNX, flavour="tensorrt_rtx", targets=["sm86"])


def test_without_a_gpu_a_build_for_this_machine_says_what_is_missing(tmp_path):
    try:
        engines.cuda.probe()
    except BackendUnavailable:
        pass
    else:
        pytest.skip("this machine has a GPU")
    pytest.importorskip("tensorrt_rtx")
    write_bundle(tmp_path)
    with pytest.raises(BackendUnavailable, match=r"no CUDA device: .* expected .*nvidia-smi"):
        engines.build_bundle(tmp_path)


def test_a_missing_library_names_its_package():
    code = (
        "import sys; sys.modules[sys.argv[1]] = None\n"
        "from edgeseg_runtime.tensorrt import compat as trt_compat\n"
        "try: trt_compat.import_tensorrt(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    for flavour, hint in (("tensorrt", "pip install tensorrt "), ("tensorrt_rtx", "-rtx-cu13")):
        found = subprocess.run(
            [sys.executable, "-c", code, flavour], capture_output=True, text=True, check=True
        )
        assert found.stdout.startswith("BackendUnavailable")
        assert hint in found.stdout


def test_a_library_that_does_not_load_is_unavailable_and_auto_goes_on(tmp_path):
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.10: cannot open')")
    write_bundle(tmp_path / "bundle")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from edgeseg_runtime import load\n"
        "from edgeseg_runtime.tensorrt import compat as trt_compat\n"
        "print(load(sys.argv[2], threads=1).backend.name)\n"
        "try: trt_compat.import_tensorrt('tensorrt')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, tmp_path, tmp_path / "bundle"],
        capture_output=True,
        text=True,
        check=True,
    )
    chosen, error = found.stdout.splitlines()
    assert chosen != "tensorrt"
    assert error.startswith(
        "BackendUnavailable tensorrt cannot be imported (tensorrt fails on import, OSError: "
        "libnvinfer.so.10: cannot open)"
    )


# ---------------------------------------------------------------- releases of TensorRT


class _Flags(SimpleNamespace):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


@pytest.mark.parametrize(
    ("name", "version", "flags", "is_strong"),
    [
        ("tensorrt", "8.5.2.2", 1, False),
        ("tensorrt", "8.6.2", 1, False),
        ("tensorrt", "10.3.0", 0, False),
        ("tensorrt", "10.12.0.36", 2, True),
        ("tensorrt", "10.16.2", 2, True),
        ("tensorrt", "11.4.1", 0, True),
        ("tensorrt_rtx", "1.7.1.116", 0, True),
    ],
)
def test_each_release_gets_its_own_network_flags(name, version, flags, is_strong):
    trt = SimpleNamespace(__name__=name, __version__=version, NetworkDefinitionCreationFlag=_Flags)
    assert trt_compat.network_flags(trt) == flags
    assert trt_compat.is_strongly_typed(trt) is is_strong


class _Layer(SimpleNamespace):
    num_outputs = 1
    precision = None

    def get_input(self, index):
        return None

    def get_output(self, index):
        return SimpleNamespace(dtype=self.dtype, name="t")


class _Network(SimpleNamespace):
    @property
    def num_layers(self):
        return len(self.layers)

    def get_layer(self, index):
        return self.layers[index]


@pytest.mark.parametrize(
    ("layers", "flags", "precisions"),
    [
        ([("conv", "f32")], [], [None]),
        ([("q", "i8"), ("dq", "f32"), ("conv", "f32")], ["INT8"], [None, None, None]),
        (
            [("conv", "f16"), ("decode", "f32")],
            ["FP16", "PREFER_PRECISION_CONSTRAINTS"],
            [None, "f32"],
        ),
    ],
    ids=["fp32", "int8", "fp16 with a float32 island"],
)
def test_before_strong_typing_the_graph_decides_which_precisions_are_permitted(
    layers, flags, precisions
):
    trt = SimpleNamespace(
        __name__="tensorrt",
        __version__="8.6.2",
        LayerType=SimpleNamespace(
            QUANTIZE="q",
            DEQUANTIZE="dq",
            CONVOLUTION="conv",
            DECONVOLUTION="deconv",
            MATRIX_MULTIPLY="product",
        ),
        DataType=SimpleNamespace(HALF="f16", FLOAT="f32"),
        BuilderFlag=SimpleNamespace(
            INT8="INT8", FP16="FP16", PREFER_PRECISION_CONSTRAINTS="PREFER_PRECISION_CONSTRAINTS"
        ),
    )
    network = _Network(layers=[_Layer(type=kind, dtype=dtype) for kind, dtype in layers])
    given = []
    config = SimpleNamespace(set_flag=given.append)
    assert trt_compat.permit_precisions(trt, network, config) == given == flags
    assert [layer.precision for layer in network.layers] == precisions


# ---------------------------------------------------------------- what a build is given


@pytest.mark.parametrize("allow_tf32", [False, True])
def test_float32_is_not_rounded_to_tf32_unless_that_is_allowed(trt, allow_tf32):
    builder = trt.Builder(trt_compat.vendor_logger(trt))
    network = builder.create_network(trt_compat.network_flags(trt))
    config = builder.create_builder_config()
    engines.configure(trt, builder, network, config, EngineOptions(allow_tf32=allow_tf32))
    assert config.get_flag(trt.BuilderFlag.TF32) is allow_tf32


@pytest.mark.parametrize(
    ("free_mib", "bound_mib"), [(0, 64), (100, 75), (8000, 6000)], ids=["none", "little", "much"]
)
def test_the_workspace_leaves_room_for_the_rest(free_mib, bound_mib):
    assert engines.workspace_bytes_from_free(free_mib * 2**20) == bound_mib * 2**20


class TimingConfig:
    """Refuses to read, or to use, timings that it does not know."""

    def __init__(self, *, unreadable=(), foreign=()):
        self.unreadable, self.foreign = unreadable, foreign

    def create_timing_cache(self, content):
        return None if content in self.unreadable else ("cache", content)

    def set_timing_cache(self, cache, ignore_mismatch):
        self.content = cache[1]
        return not ignore_mismatch and self.content not in self.foreign

    def get_timing_cache(self):
        return SimpleNamespace(serialize=lambda: memoryview(self.content + b"more"))


@pytest.mark.parametrize(
    ("config", "used"),
    [
        (TimingConfig(), b"known"),
        (TimingConfig(unreadable=[b"known"]), b""),
        (TimingConfig(foreign=[b"known"]), b""),
    ],
    ids=["good", "corrupt", "of another GPU"],
)
def test_refused_kernel_times_are_begun_anew(tmp_path, config, used):
    (tmp_path / "times").write_bytes(b"known")
    assert engines.attach_timing_cache(config, tmp_path / "times") == ("cache", used)
    assert engines.attach_timing_cache(config, tmp_path / "absent") == ("cache", b"")
    assert engines.attach_timing_cache(config, None) is None


def test_each_build_adds_to_the_kernel_times_of_those_before(tmp_path):
    file = tmp_path / "times"
    for num_builds in range(3):
        config = TimingConfig()
        assert engines.attach_timing_cache(config, file) == ("cache", b"more" * num_builds)
        engines.save_timing_cache(config, file)
    assert file.read_bytes() == b"more" * 3
    assert [path.name for path in tmp_path.iterdir()] == ["times"]


def test_kernel_times_that_cannot_be_written_only_cost_time(tmp_path, caplog):
    caplog.set_level("INFO")
    (tmp_path / "file").write_text("no folder")
    config = TimingConfig()
    assert engines.attach_timing_cache(config, tmp_path / "file" / "times") == ("cache", b"")
    engines.save_timing_cache(config, tmp_path / "file" / "times")
    assert "times is not written" in caplog.text


def test_without_any_timing_cache_the_build_goes_on(tmp_path):
    assert engines.attach_timing_cache(TimingConfig(unreadable=[b""]), tmp_path / "absent") is None


# ---------------------------------------------------------------- what a build gives


def layer_info(kind, *formats, weights=None):
    tensors = [{"Name": "t", "Dimensions": [1], "Format/Datatype": text} for text in formats]
    info = {"Name": "layer", "LayerType": kind, "Inputs": tensors[:-1], "Outputs": tensors[-1:]}
    return {**info, "Weights": {"Type": weights, "Count": 9}} if weights else info


class InspectedEngine:
    """An engine of which only the inspector's text matters."""

    def __init__(self, *layers):
        self.text = json.dumps({"Layers": layers, "Bindings": ["x", "y"]})

    def create_engine_inspector(self):
        return self

    def get_engine_information(self, form):
        return self.text


INSPECTING = SimpleNamespace(
    __name__="tensorrt",
    __version__="10.3.0",
    LayerInformationFormat=SimpleNamespace(JSON="json"),
)
# The two ways in which releases write a type, and layers that say nothing about arithmetic.
LONG_FP16 = "Channel major FP16 format where channel % 8 == 0"
IN_FP32 = layer_info("CaskConvolution", "Row major linear FP32", "Row major linear FP32 format")
IN_FP16 = layer_info("CaskConvolution", LONG_FP16, LONG_FP16, weights="Half")
IN_HALF = layer_info("gemm", "Half", "Float")
FUSED = layer_info("runtime_fusion", "Half", "Float")
IN_INT8 = layer_info("correlation", "Int8", "Int8", weights="Int8")
ROUNDS = layer_info("kgen", "Float", "Int8")
PICTURE = layer_info("kgen", "UInt8", "Float")
MOVES = layer_info("Reformat", "Float", "Half")


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        ([IN_FP32, IN_FP32], {"fp32": 2}),
        ([IN_FP16, IN_HALF, IN_FP32], {"fp16": 2, "fp32": 1}),
        ([IN_INT8, IN_FP16], {"int8": 1, "fp16": 1}),
        ([PICTURE], {"fp32": 1}),
        ([MOVES], {}),
        (["conv1", "conv2"], {}),
    ],
    ids=["fp32", "both spellings", "int8", "uint8 is not int8", "moves", "names only"],
)
def test_the_precision_is_read_from_the_inspectors_words(layers, found):
    assert trt_compat.precisions_in_engine(INSPECTING, InspectedEngine(*layers)) == found


def checked(asked, *layers):
    read = engines.layers_of_new_engine(INSPECTING, InspectedEngine(*layers))
    return engines.check_precisions(INSPECTING, read, asked)


@pytest.mark.parametrize(
    ("asked", "layers", "found"),
    [
        ({}, [IN_FP32], {"fp32": 1}),
        ({"fp16": 0}, [IN_FP32], {"fp32": 1}),
        ({"fp16": 1}, [IN_FP16, IN_FP32], {"fp16": 1, "fp32": 1}),
        ({"fp16": 4}, [IN_HALF, FUSED], {"fp16": 2}),
        ({"fp16": 1, "int8": 1}, [IN_FP16, IN_INT8], {"int8": 1, "fp16": 1}),
    ],
    ids=["fp32", "no product asks", "all of it", "half of it", "both"],
)
def test_an_engine_in_the_precisions_of_the_graph_is_accepted(asked, layers, found, caplog):
    assert checked(asked, *layers) == found
    assert not caplog.records


@pytest.mark.parametrize(
    ("asked", "layers", "missing"),
    [
        ({"fp16": 1}, [IN_FP32, MOVES], "fp16"),
        ({"int8": 1}, [IN_FP16, PICTURE], "int8"),
        ({"fp16": 1, "int8": 1}, [IN_FP32], "fp16 or int8"),
    ],
    ids=str,
)
def test_an_engine_without_a_precision_of_the_graph_is_refused(asked, layers, missing):
    with pytest.raises(EngineBuildError, match=f"without any layer in {missing}, which") as info:
        checked(asked, *layers)
    assert "TensorRT 10.12 or newer" in str(info.value)


@pytest.mark.parametrize(
    "layers", [[IN_INT8], [IN_INT8, ROUNDS, ROUNDS]], ids=["few", "few beside rounding"]
)
def test_an_engine_with_less_than_half_of_the_products_asked_for_is_said(layers, caplog):
    assert "int8" in checked({"int8": 3}, *layers, IN_FP32, IN_FP32)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "asks for 3 convolutions and products in int8, the engine has 1" in record.getMessage()


def test_a_precision_that_cannot_be_read_back_is_said(caplog):
    assert checked({"fp16": 1}, "conv1") == {}
    assert "cannot be read back" in caplog.text


LOGGED = """Layers:
Name: stem, LayerType: correlation, Inputs: [ { Name: x, Datatype: Int8, Format: (NHWC) } ], Outputs: [ { Name: y, Datatype: Float } ]
Name: round, LayerType: kgen, Inputs: [ { Name: y, Datatype: Float } ], Outputs: [ { Name: z, Datatype: Half } ]
Name: wait, LayerType: wait, Inputs: [], Outputs: []

Bindings: ..."""


def test_the_layers_are_read_from_the_builders_log_once_and_by_the_thread_that_built(trt):
    logger = trt_compat.vendor_logger(trt)
    logger.log(trt.ILogger.Severity.VERBOSE, LOGGED)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(trt_compat.layers_in_log, trt).result() == []
    layers = trt_compat.layers_in_log(trt)
    assert layers == [("correlation", "Int8 Float"), ("kgen", "Float Half"), ("wait", "")]
    assert trt_compat.count_precisions(layers) == {"int8": 1, "fp16": 1}
    assert trt_compat.layers_in_log(trt) == []


def test_tensorrt_rtx_runs_in_int8_what_the_graph_asks_for_in_int8(trt, caplog):
    caplog.set_level("INFO", "edgeseg_runtime.tensorrt.engines")
    engines.build_engine(model_of(*PRODUCT_IN_INT8), flavour="tensorrt_rtx", targets=["sm86"])
    assert trt_compat.layers_in_log(trt) == []
    (record,) = (r for r in caplog.records if "layers of the engine" in r.getMessage())
    assert "in int8" in record.getMessage()


def test_an_engine_that_cannot_be_loaded_after_its_build_is_refused(trt):
    trt_compat.vendor_logger(trt).log(trt.ILogger.Severity.ERROR, "magic tag does not match")
    with pytest.raises(
        EngineBuildError, match="cannot load the engine that it has just built: magic tag"
    ):
        engines.layers_of_new_engine(trt, None)


def test_the_precisions_that_a_graph_asks_for_are_found(trt):
    def asked(*nodes):
        builder = trt.Builder(trt_compat.vendor_logger(trt))
        network = builder.create_network(trt_compat.network_flags(trt))
        parser = trt.OnnxParser(network, trt_compat.vendor_logger(trt))
        assert parser.parse(model_of(*nodes))
        return trt_compat.precisions_in_network(trt, network)

    half = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Cast", ["r"], ["y"], to=TensorProto.FLOAT),
    ]
    scale = [
        helper.make_node("Constant", [], ["scale"], value_float=0.5),
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    zero = helper.make_tensor("zero", TensorProto.INT8, [], [0])
    assert asked(helper.make_node("Relu", ["x"], ["y"])) == {}
    assert asked(*half) == {"fp16": 0}
    assert asked(helper.make_node("Constant", [], ["zero"], value=zero), *scale) == {"int8": 0}
    assert asked(*PRODUCT_IN_INT8) == {"int8": 1}
