"""Engines: compiled without a GPU where that is possible, cached, and trusted only when recorded."""

import dataclasses
import json
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from onnx import TensorProto, helper
from tiny_bundle import tiny_model, write_bundle

from edgeseg_runtime import engine_key, engine_store, engines, trt_compat
from edgeseg_runtime.cuda import DeviceInfo
from edgeseg_runtime.engine_key import EngineKey, EngineOptions
from edgeseg_runtime.errors import BackendUnavailable, CorruptArtifact, EngineBuildError

ONNX = tiny_model().SerializeToString()
RTX_4090 = DeviceInfo(
    index=0,
    name="NVIDIA GeForce RTX 4090",
    sm="sm89",
    driver_version="13.0",
    memory_bytes=24 * 2**30,
)


@pytest.fixture(scope="module")
def trt():
    return pytest.importorskip("tensorrt_rtx")


def key_of(targets=("sm86",), **changes):
    key = EngineKey(
        onnx_sha256="ab" * 32,
        flavour="tensorrt_rtx",
        version="1.7.1.116",
        targets=targets,
        platform="any-x86_64",
    )
    return dataclasses.replace(key, **changes)


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


# ---------------------------------------------------------------- targets and keys


@pytest.mark.parametrize(
    ("targets", "groups"),
    [
        (["sm86"], [("sm86",)]),
        (["sm120", "SM86", " sm89", "sm86"], [("sm86", "sm89", "sm120")]),
        (["sm89", "sm75"], [("sm75",), ("sm89",)]),
        (["sm75"], [("sm75",)]),
        (["portable", "sm89"], [("portable",)]),
    ],
    ids=lambda value: "+".join(map(str, value)),
)
def test_targets_share_a_file_except_turing(targets, groups):
    assert engine_key.group_targets(targets) == groups


@pytest.mark.parametrize("targets", [[], ["sm90"], ["sm86", "orin"], [""]], ids=str)
def test_an_unknown_target_names_the_known_ones(targets):
    with pytest.raises(ValueError, match=r"expected one of sm75, sm80, .*portable"):
        engine_key.group_targets(targets)


@pytest.mark.parametrize(
    ("made", "wanted", "serves"),
    [
        (("sm86",), ("sm86",), True),
        (("sm86", "sm89"), ("sm89",), True),
        (("portable",), ("sm120",), True),
        (("portable",), ("sm75",), False),
        (("sm86",), ("sm89",), False),
        (("sm86",), ("portable",), False),
    ],
)
def test_an_engine_serves_the_targets_it_was_made_for(made, wanted, serves):
    assert key_of(made).serves(key_of(wanted)) is serves


@pytest.mark.parametrize(
    "change",
    [
        {"onnx_sha256": "cd" * 32},
        {"flavour": "tensorrt"},
        {"version": "1.8.0.1"},
        {"platform": "any-aarch64"},
        {"device": "Orin"},
        {"driver": "12.6"},
        {"options": EngineOptions(batch=2)},
        {"options": EngineOptions(allow_tf32=True)},
    ],
    ids=str,
)
def test_an_engine_serves_nothing_that_differs_in_anything_else(change):
    assert not key_of(**change).serves(key_of())
    assert key_of(**change).file_name != key_of().file_name


def test_a_tensorrt_engine_belongs_to_its_gpu_and_driver():
    trt = SimpleNamespace(__name__="tensorrt", __version__="10.3.0")
    key = engine_key.key_for_device(ONNX, trt, RTX_4090, EngineOptions())
    assert (key.targets, key.device, key.driver) == (("sm89",), RTX_4090.name, "13.0")
    for change in ({"driver_version": "13.1"}, {"name": "NVIDIA RTX 6000"}, {"sm": "sm120"}):
        other = dataclasses.replace(RTX_4090, **change)
        assert not key.serves(engine_key.key_for_device(ONNX, trt, other, EngineOptions()))


def test_tensorrt_rtx_refuses_a_gpu_that_it_does_not_support(trt):
    orin = dataclasses.replace(RTX_4090, name="Orin", sm="sm87")
    with pytest.raises(BackendUnavailable, match=r"found Orin \(sm87\).*backend='tensorrt'"):
        engine_key.key_for_device(ONNX, trt, orin, EngineOptions())


@pytest.mark.parametrize(
    "bad",
    [{"batch": 0}, {"workspace_bytes": 5}, {"optimization_level": 6}],
    ids=str,
)
def test_impossible_options_are_refused(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))} is"):
        EngineOptions(**bad)


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


def test_tensorrt_itself_has_no_targets():
    trt = SimpleNamespace(__name__="tensorrt", __version__="10.3.0")
    with pytest.raises(ValueError, match="only for the GPU it runs on"):
        engine_key.key_for_targets(ONNX, trt, ("sm86",), EngineOptions())


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
        "from edgeseg_runtime import trt_compat\n"
        "try: trt_compat.import_tensorrt(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    for flavour, hint in (("tensorrt", "pip install tensorrt "), ("tensorrt_rtx", "-rtx-cu13")):
        found = subprocess.run(
            [sys.executable, "-c", code, flavour], capture_output=True, text=True, check=True
        )
        assert found.stdout.startswith("BackendUnavailable")
        assert hint in found.stdout


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

    def get_output(self, index):
        return SimpleNamespace(dtype=self.dtype)


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
        LayerType=SimpleNamespace(QUANTIZE="q", DEQUANTIZE="dq"),
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
        return not ignore_mismatch and cache[1] not in self.foreign


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
IN_INT8 = layer_info("correlation", "Int8", "Int8", weights="Int8")
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


@pytest.mark.parametrize(
    ("asked", "layers"),
    [((), [IN_FP32]), (("fp16",), [IN_FP16, IN_FP32]), (("fp16", "int8"), [IN_FP16, IN_INT8])],
    ids=str,
)
def test_an_engine_in_the_precisions_of_the_graph_is_accepted(asked, layers):
    engines.check_precisions(INSPECTING, InspectedEngine(*layers), frozenset(asked))


@pytest.mark.parametrize(
    ("asked", "layers", "missing"),
    [
        (("fp16",), [IN_FP32, MOVES], "fp16"),
        (("int8",), [IN_FP16, PICTURE], "int8"),
        (("fp16", "int8"), [IN_FP32], "fp16 or int8"),
    ],
    ids=str,
)
def test_an_engine_without_a_precision_of_the_graph_is_refused(asked, layers, missing):
    with pytest.raises(EngineBuildError, match=f"without any layer in {missing}, which") as info:
        engines.check_precisions(INSPECTING, InspectedEngine(*layers), frozenset(asked))
    assert "TensorRT 10.12 or newer" in str(info.value)


@pytest.mark.parametrize("engine", [None, InspectedEngine("conv1")], ids=["not loaded", "names"])
def test_a_precision_that_cannot_be_read_back_is_said(engine, caplog):
    engines.check_precisions(INSPECTING, engine, frozenset({"fp16"}))
    assert "cannot be read back" in caplog.text


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
    assert asked(helper.make_node("Relu", ["x"], ["y"])) == frozenset()
    assert asked(*half) == {"fp16"}
    assert asked(helper.make_node("Constant", [], ["zero"], value=zero), *scale) == {"int8"}


# ---------------------------------------------------------------- the store


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir(mode=0o700)
    return folder


PLAN = bytes(range(256)) * 40


def test_an_engine_comes_back_as_it_was_stored(store):
    path = engine_store.store_engine(store, key_of(), PLAN)
    assert path.read_bytes() == PLAN, "a plan is stored without a header"
    plan, file = engine_store.find_engine(store, key_of())
    assert (plan, file.path, file.key, file.is_new) == (PLAN, path, key_of(), False)
    engine_store.discard_engine(file)
    assert engine_store.find_engine(store, key_of()) is None
    assert list(store.iterdir()) == []


def _damage(name):
    def flip(path, record):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)

    def cut(path, record):
        path.write_bytes(path.read_bytes()[:-1])

    def empty(path, record):
        path.write_bytes(b"")

    def gone(path, record):
        path.unlink()

    def link(path, record):
        path.rename(path.with_name("elsewhere"))
        path.symlink_to(path.with_name("elsewhere"))

    def no_record(path, record):
        record.unlink()

    def half_record(path, record):
        record.write_text(record.read_text()[:100])

    def record_of_nothing(path, record):
        record.write_text("[]")

    def escape(path, record):
        content = json.loads(record.read_text())
        (path.parent.parent / "foreign").write_bytes(PLAN)
        record.write_text(json.dumps({**content, "file": "../foreign"}))

    def schema(path, record):
        content = json.loads(record.read_text())
        record.write_text(json.dumps({**content, "schema": 2}))

    def unknown_key(path, record):
        content = json.loads(record.read_text())
        content["key"]["trust_me"] = True
        record.write_text(json.dumps(content))

    return locals()[name]


@pytest.mark.parametrize(
    "damage",
    [
        "flip",
        "cut",
        "empty",
        "gone",
        "link",
        "no_record",
        "half_record",
        "record_of_nothing",
        "escape",
        "schema",
        "unknown_key",
    ],
)
def test_an_engine_that_is_not_as_recorded_is_built_again_once(trt, store, damage, caplog):
    key = engine_key.key_for_targets(ONNX, trt, ("sm86",), EngineOptions())
    path = engine_store.store_engine(store, key, PLAN)
    _damage(damage)(path, path.with_name(path.name + ".json"))
    assert engine_store.find_engine(store, key) is None
    if damage != "no_record":
        assert "ignoring the cached engine" in caplog.text
    plan, file = engines.load_or_build(ONNX, key, store=store)
    assert file.is_new
    assert plan != PLAN
    again, file = engines.load_or_build(ONNX, key, store=store)
    assert (again, file.is_new) == (plan, False)
    assert not path.is_symlink()


def test_an_engine_is_found_in_a_trusted_folder_before_the_store(trt, store, tmp_path):
    key = engine_key.key_for_targets(ONNX, trt, ("sm86", "sm89"), EngineOptions())
    engine_store.store_engine(tmp_path, key, PLAN)
    wanted = dataclasses.replace(key, targets=("sm89",))
    plan, file = engines.load_or_build(ONNX, wanted, store=store, trusted=[tmp_path])
    assert (plan, file.path.parent) == (PLAN, tmp_path)


def test_an_engine_that_lies_in_a_bundle_is_not_trusted(trt, store, tmp_path):
    write_bundle(tmp_path)
    key = engine_key.key_for_targets(ONNX, trt, ("sm86",), EngineOptions())
    (tmp_path / "engines").mkdir()
    engine_store.store_engine(tmp_path / "engines", key, PLAN)
    plan, _ = engines.load_or_build(ONNX, key, store=store)
    assert plan != PLAN


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_cache_that_others_can_write_is_not_used(trt, store, mode, caplog):
    key = engine_key.key_for_targets(ONNX, trt, ("sm86",), EngineOptions())
    engine_store.store_engine(store, key, PLAN)
    store.chmod(mode)
    plan, file = engines.load_or_build(ONNX, key, store=store)
    assert plan != PLAN
    assert file.path is None
    assert "others can write there; run: chmod 700" in caplog.text


def test_a_new_cache_is_private(trt, tmp_path):
    key = engine_key.key_for_targets(ONNX, trt, ("sm86",), EngineOptions())
    _, file = engines.load_or_build(ONNX, key, store=tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert file.path.parent == tmp_path / "new"


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGESEG_CACHE", str(tmp_path / "mine"))
    assert engine_store.cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("EDGESEG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert engine_store.cache_folder() == tmp_path / "edgeseg" / "engines"


def test_two_builders_at_once_build_one_engine(trt, store):
    key = engine_key.key_for_targets(ONNX, trt, ("sm86",), EngineOptions())
    files = []
    start = threading.Barrier(3)

    def build():
        start.wait()
        files.append(engines.load_or_build(ONNX, key, store=store)[1])

    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(file.is_new for file in files) == [False, False, True]
    assert len({file.sha256 for file in files}) == 1


def test_a_builder_waits_for_another_process(trt, store):
    code = (
        "import fcntl, sys, time\n"
        "lock = open(sys.argv[1], 'ab'); fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "print('locked', flush=True); sys.stdin.read()\n"
    )
    key = engine_key.key_for_targets(ONNX, trt, ("sm86",), EngineOptions())
    with subprocess.Popen(
        [sys.executable, "-c", code, str(store / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout.readline() == b"locked\n"
        thread = threading.Thread(
            target=engines.load_or_build, args=(ONNX, key), kwargs={"store": store}
        )
        thread.start()
        time.sleep(0.5)
        assert thread.is_alive(), "it must wait while the other process holds the lock"
        other.kill()  # the operating system lets go of the lock
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert engine_store.find_engine(store, key) is not None
