"""Graphs in int8 and float16: what changes, what must not, and what it costs."""

from collections import Counter
from contextlib import nullcontext

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgeseg
import edgeseg_runtime
from edgeseg.models import PrecisionRecipe, get_spec, model_manifest
from edgeseg_bench.datasets import open_dataset
from edgeseg_export.agreement import ParityError, check_agreement
from edgeseg_export.bundle import complete_graph, trace_graph
from edgeseg_export.calibration import METHODS, calibrate
from edgeseg_export.passes.drop_outputs import drop_outputs
from edgeseg_export.passes.half import LARGEST
from edgeseg_export.passes.quantize import int8_nodes, quantize, values_to_calibrate
from edgeseg_export.precision import assign, convert, values_needed
from edgeseg_runtime.quantized import NONNEGATIVE_ZERO_POINT, ZERO_POINT, bytes_for_cpu
from edgeseg_runtime.tasks import create_task

NUM_PICTURES = 4


@pytest.fixture(scope="module")
def manifest(tiny_model):
    return model_manifest(tiny_model)


@pytest.fixture(scope="module")
def pictures():
    return [s.image for s in open_dataset("shapes", split="train", limit=NUM_PICTURES)]


@pytest.fixture(scope="module")
def inputs(manifest, pictures):
    return create_task(manifest).preprocess(pictures[0])[0]


@pytest.fixture(scope="module")
def plain(tiny_model, manifest):
    graph = trace_graph(tiny_model, manifest)
    return drop_outputs(graph, [spec.name for spec in manifest.outputs])


@pytest.fixture(scope="module")
def lowered(plain, manifest, pictures):
    """Precision -> graph and assignment."""
    recipe = get_spec(manifest.name).precision
    complete = complete_graph(plain)
    graphs = {}
    for precision in ("int8", "fp16", "mixed"):
        assignment = assign(plain, recipe, precision)
        magnitudes = calibrate(complete, manifest, pictures, values_needed(plain, assignment))
        graphs[precision] = complete_graph(convert(plain, assignment, magnitudes)), assignment
    return graphs


def run(graph, inputs, *, optimized=None, is_literal=False):
    """Run a graph in ONNX Runtime; literally: every node as it stands, nothing fused."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if is_literal:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    content = graph if isinstance(graph, bytes) else graph.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def test_every_zero_point_is_an_int8_zero(lowered):
    graph = lowered["int8"][0].graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    quantizers = [n for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert quantizers
    for node in quantizers:
        zero = values[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()


def test_weights_have_a_scale_for_each_output_channel(lowered):
    graph = lowered["int8"][0].graph
    values = {tensor.name: tensor for tensor in graph.initializer}
    weights = [n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in values]
    assert weights
    for node in weights:
        scales = values[node.input[1]].dims
        assert list(scales) == [values[node.input[0]].dims[node.attribute[0].i]]


def test_every_chosen_convolution_runs_in_int8(lowered, inputs, tmp_path):
    graph, assignment = lowered["int8"]
    run(
        bytes_for_cpu(graph.SerializeToString(), machine="x86_64"),
        inputs,
        optimized=tmp_path / "o.onnx",
    )
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "o.onnx").graph.node)
    chosen = [n for n in graph.graph.node if n.name in assignment and n.op_type == "Conv"]
    assert len(chosen) > 30
    assert kinds["QLinearConv"] == len(chosen)
    num_relus = Counter(n.op_type for n in graph.graph.node if n.name in assignment)["Relu"]
    assert num_relus > 20
    assert kinds["Relu"] <= sum(n.op_type == "Relu" for n in graph.graph.node) - num_relus


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_other_zero_points_give_the_same_results(plain, manifest, pictures, inputs, machine):
    """They are another way to store levels, as long as no value exceeds the calibrated range."""
    assignment = assign(plain, get_spec(manifest.name).precision, "int8")
    needed = values_needed(plain, assignment)
    found = calibrate(complete_graph(plain), manifest, pictures, needed)
    wide = {name: 2 * magnitude for name, magnitude in found.items()}
    content = complete_graph(convert(plain, assignment, wide)).SerializeToString()
    changed = bytes_for_cpu(content, machine=machine)
    assert changed != content
    assert len(changed) == len(content)
    both = [run(graph, inputs, is_literal=True) for graph in (content, changed)]
    for expected, result in zip(*both, strict=True):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_graph_without_int8_stays_as_it_is(plain, machine):
    content = plain.SerializeToString()
    assert bytes_for_cpu(content, machine=machine) == content


def test_a_relu_between_two_readers_is_a_step_of_its_own():
    """What somebody else reads must keep its negative values."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="m/Conv"),
        helper.make_node("Relu", ["a"], ["b"], name="m/Relu"),
        helper.make_node("Add", ["a", "b"], ["c"], name="m/Add"),
        helper.make_node("Relu", ["c"], ["d"], name="m/Relu_1"),
        helper.make_node("MaxPool", ["d"], ["y"], name="m/MaxPool", kernel_shape=[1, 1]),
    ]
    weight = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w")
    shape = [1, 1, 1, 4]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    opset = helper.make_opsetid("", 20)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    chosen = int8_nodes(model, {node.name for node in nodes})
    assert values_to_calibrate(model, chosen) == ["x", "a", "b", "d", "y"]
    quantize(model, chosen, dict.fromkeys("xabdy", 12.7))
    zero_points = {
        node.input[0]: node.input[2]
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }
    signed, nonnegative = ZERO_POINT, NONNEGATIVE_ZERO_POINT
    assert zero_points == {
        "x": signed,
        "a": signed,
        "b": signed,
        "d": nonnegative,
        "y": nonnegative,
    }
    x = np.array([-3, -0.5, 0, 4], np.float32).reshape(shape)
    for machine in ("x86_64", "aarch64"):
        content = bytes_for_cpu(model.SerializeToString(), machine=machine)
        (y,) = run(content, {"x": x})
        np.testing.assert_allclose(y.ravel(), [0, 0, 0, 8], atol=0.05)


@pytest.mark.parametrize("precision", ["int8", "fp16", "mixed"])
def test_inputs_and_outputs_keep_their_types(lowered, plain, precision):
    graph = lowered[precision][0].graph
    for kind in ("input", "output"):
        expected = [(v.name, v.type.tensor_type.elem_type) for v in getattr(plain.graph, kind)]
        found = [(v.name, v.type.tensor_type.elem_type) for v in getattr(graph, kind)]
        assert found == expected


def test_half_precision_changes_results_by_its_rounding_only(lowered, plain, inputs):
    expected = run(complete_graph(plain), inputs)
    found = run(lowered["fp16"][0], inputs)
    scores = expected[1][0]
    confident = scores > 0.5
    assert confident.sum() >= 2
    np.testing.assert_allclose(found[1][0][confident], scores[confident], atol=5e-3)
    np.testing.assert_allclose(found[0][0][confident], expected[0][0][confident], atol=0.5)


def test_coordinates_and_suppression_stay_in_float32(lowered):
    graph, assignment = lowered["mixed"]
    for node in graph.graph.node:
        if node.op_type.startswith("Nms") or node.op_type in {"TopK", "Exp", "Softmax", "GatherND"}:
            assert node.name not in assignment


def test_an_activation_too_large_for_float16_keeps_its_node_in_float32(plain, manifest):
    assignment = assign(plain, get_spec(manifest.name).precision, "fp16")
    magnitudes = dict.fromkeys(values_needed(plain, assignment), 1.0)
    name = "backbone.stem.0.conv/Conv"
    (node,) = [node for node in plain.graph.node if node.name == name]

    def weight_type():
        graph = convert(plain, assignment, magnitudes).graph
        (converted,) = [node for node in graph.node if node.name == name]
        (weight,) = [tensor for tensor in graph.initializer if tensor.name == converted.input[1]]
        return weight.data_type

    assert weight_type() == TensorProto.FLOAT16
    magnitudes[node.output[0]] = 1.01 * LARGEST
    assert weight_type() == TensorProto.FLOAT


def test_the_longest_name_of_a_recipe_counts(plain):
    recipe = PrecisionRecipe(int8=("backbone",), float32=("backbone.stem",))
    names = assign(plain, recipe, "int8")
    assert any(name.startswith("backbone.stages.0") for name in names)
    assert not any(name.startswith("backbone.stem") for name in names)
    assert not any(name.startswith("rpn") for name in names)


def test_a_recipe_without_modules_says_so(plain):
    with pytest.raises(ValueError, match="names no module for it"):
        assign(plain, PrecisionRecipe(), "int8")


def test_what_lies_between_int8_and_float_stays_float():
    """An addition of something that was never int8 gains nothing from it."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="m/Conv"),
        helper.make_node("Add", ["a", "x"], ["b"], name="m/Add"),
        helper.make_node("Relu", ["a"], ["c"], name="m/Relu"),
        helper.make_node("Resize", ["a", "", "", "s"], ["d"], name="m/Resize", mode="linear"),
    ]
    weight = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w")
    graph = helper.make_graph(nodes, "g", [], [], [weight])
    chosen = {node.name for node in nodes}
    assert int8_nodes(helper.make_model(graph), chosen) == ["m/Conv", "m/Relu"]


@pytest.mark.parametrize("method", METHODS)
def test_calibration_finds_what_is_known(method):
    """The values are the pictures' own grey levels: what is clipped, and where, is plain."""
    from edgeseg_runtime.manifest import Manifest, Preprocess, TensorSpec

    size = 64
    manifest = Manifest(
        name="identity",
        task="instances",
        precision="fp32",
        inputs=(TensorSpec(name="image", dtype="uint8", shape=(1, size, size, 3)),),
        outputs=(
            TensorSpec(name="boxes", dtype="float32", shape=(1, 1, 4)),
            TensorSpec(name="scores", dtype="float32", shape=(1, 1)),
            TensorSpec(name="labels", dtype="int32", shape=(1, 1)),
        ),
        preprocess=Preprocess(height=size, width=size, resize="stretch"),
    )
    graph = helper.make_graph(
        [helper.make_node("Cast", ["image"], ["levels"], to=TensorProto.FLOAT)],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, size, size, 3])],
        [helper.make_tensor_value_info("levels", TensorProto.FLOAT, [1, size, size, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 101, (size, size, 3), dtype=np.uint8)
    picture[0, 0] = 255  # three of 12288 elements
    found = calibrate(model, manifest, [picture, picture], ["levels"], method=method)["levels"]
    if method == "minmax":
        assert found == 255
    else:
        assert 95 <= found <= 256
    if method == "percentile":
        assert found >= 250  # one in ten thousand is less than one element here


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "mean"}, "calibration method 'mean' found"),
        ({"pictures": []}, "no picture to calibrate on"),
    ],
)
def test_calibration_refuses_what_it_cannot_do(plain, manifest, options, message):
    arguments = {"pictures": [np.zeros((8, 8, 3), np.uint8)], **options}
    with pytest.raises(ValueError, match=message):
        calibrate(plain, manifest, values=[], **arguments)


def test_an_int8_bundle_finds_what_the_fp32_bundle_finds(
    tiny_model, tiny_bundle, pictures, tmp_path
):
    folder = edgeseg.export_bundle(
        tiny_model, tmp_path / "int8", precision="int8", calibration=pictures
    )
    manifest = edgeseg_runtime.Manifest.load(folder)
    assert manifest.precision == "int8"
    loss = manifest.parity["precision"]
    assert loss["num_nodes"]["int8"] > 50
    assert loss["num_calibration"] == NUM_PICTURES
    assert loss["agreement_with_fp32"]["ap"]["bbox"] > 0.8
    size = (folder / "model.onnx").stat().st_size
    assert size < 0.6 * (tiny_bundle / "model.onnx").stat().st_size
    picture = open_dataset("shapes", limit=1)[0].image
    with edgeseg_runtime.load(folder) as lower, edgeseg_runtime.load(tiny_bundle) as full:
        found, expected = lower(picture), full(picture).filter(score=0.7)
    assert len(expected) > 3
    for instance in expected:
        same = found[found.labels == instance.labels[0]]
        corners = np.abs(same.boxes - instance.boxes).max(axis=1)
        assert corners.min(initial=np.inf) < 4  # pixels


def test_a_graph_that_int8_has_ruined_is_not_written(tiny_model, tmp_path):
    black = [np.zeros((64, 64, 3), np.uint8)]  # every range is far too small
    with pytest.raises(ParityError, match=r"the int8 graph finds other things.* agreement AP of"):
        edgeseg.export_bundle(tiny_model, tmp_path / "int8", precision="int8", calibration=black)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("num_detections", "ap", "is_refused"),
    [
        (0, {"bbox": 0.0}, False),
        (9, {"bbox": 0.5, "segm": 0.9}, False),
        (9, {"bbox": 0.9, "segm": 0.49}, True),
    ],
    ids=["nothing to compare", "at the bar", "masks below"],
)
def test_the_lowest_agreement_counts(num_detections, ap, is_refused):
    measured = {"num_detections": num_detections, "ap": ap, "num_pictures": 4}
    with pytest.raises(ParityError, match=r"segm 0\.490") if is_refused else nullcontext():
        check_agreement(measured, "int8")
