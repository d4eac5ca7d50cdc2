"""Graphs in int8 and float16: what changes, what must not, and what it costs."""

import dataclasses
from collections import Counter
from contextlib import nullcontext

import numpy as np
import onnx
import pytest
from agreement_cases import NUM_CALIBRATION
from graphs_in_memory import calibrate_one
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import edgeseg
import edgeseg_runtime
from edgeseg.models import PrecisionRecipe, get_spec, list_models, model_manifest
from edgeseg_bench.datasets import open_dataset
from edgeseg_export import lower
from edgeseg_export.agreement import ParityError, check_agreement
from edgeseg_export.calibration import METHODS, calibrate
from edgeseg_export.graph import complete_graph, in_one_graph
from edgeseg_export.onnx_model import OnnxModel
from edgeseg_export.passes.half import LARGEST
from edgeseg_export.passes.quantize import int8_nodes, quantize, values_to_calibrate
from edgeseg_export.precision import assign, convert, values_needed
from edgeseg_runtime.bundle.manifest import Manifest, Preprocess, TensorSpec, one_graph
from edgeseg_runtime.onnx.quantized import NONNEGATIVE_ZERO_POINT, ZERO_POINT, bytes_for_cpu
from edgeseg_runtime.tasks import create_task

NUM_PICTURES = 4


@pytest.fixture(scope="module")
def manifest(tiny_model):
    return in_one_graph(model_manifest(tiny_model))


@pytest.fixture(scope="module")
def pictures():
    return [s.image for s in open_dataset("shapes", split="train", limit=NUM_PICTURES)]


@pytest.fixture(scope="module")
def inputs(manifest, pictures):
    return create_task(manifest).preprocess(pictures[0])[0]


@pytest.fixture(scope="module")
def plain(traced):
    return traced("maskrcnn_tiny")[0]


@pytest.fixture(scope="module")
def lowered(plain, manifest, pictures):
    """Precision -> graph and assignment."""
    recipe = get_spec(manifest.name).precision
    complete = complete_graph(plain)
    graphs = {}
    for precision in ("int8", "fp16", "mixed"):
        assignment = assign(plain, recipe, precision)
        magnitudes = calibrate_one(complete, manifest, pictures, values_needed(plain, assignment))
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
    content = graph if isinstance(graph, bytes) else graph.to_bytes()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def test_every_zero_point_is_an_int8_zero(lowered):
    model = lowered["int8"][0]
    graph = model.graph
    values = {tensor.name: model.array(tensor) for tensor in graph.initializer}
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
        bytes_for_cpu(graph.to_bytes(), machine="x86_64"),
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
    found = calibrate_one(complete_graph(plain), manifest, pictures, needed)
    wide = {name: 2 * magnitude for name, magnitude in found.items()}
    content = complete_graph(convert(plain, assignment, wide)).to_bytes()
    changed = bytes_for_cpu(content, machine=machine)
    assert changed != content
    assert len(changed) == len(content)
    both = [run(graph, inputs, is_literal=True) for graph in (content, changed)]
    for expected, result in zip(*both, strict=True):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_graph_without_int8_stays_as_it_is(plain, machine):
    content = plain.to_bytes()
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
    model = OnnxModel(helper.make_model(graph, opset_imports=[opset], ir_version=10))
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
        content = bytes_for_cpu(model.to_bytes(), machine=machine)
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


SMALL = {
    **{name: None for name in list_models() if name.endswith("_tiny")},
    "centernet_resnet18_dcn": 64,
}
"""A small model of every family, and one with deformable convolutions -> size of its picture."""
ISLANDS = {"Nms", "TopK", "Exp", "Softmax", "GatherND", "GridSample", "Split"}
"""Operators of decoding and selection; Split cuts off the offsets of sampling points."""


@pytest.fixture
def small(traced):
    """Name of a small model -> its graph, edgeseg's operators without bodies, and its recipe."""

    def get(name):
        graph, manifest = traced(name, SMALL[name])
        return graph, get_spec(manifest.name).precision

    return get


@pytest.mark.parametrize("name", ["centernet_resnet18_dcn", "yolact_plus_resnet50"])
@pytest.mark.parametrize("precision", ["int8", "fp16", "mixed"])
def test_offsets_are_found_in_float32(name, precision):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="backbone.0/Conv"),
        helper.make_node("Conv", ["a", "w"], ["y"], name="backbone.0.conv_offset_mask/Conv"),
    ]
    weight = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w")
    infos = [helper.make_tensor_value_info(v, TensorProto.FLOAT, [1, 1, 1, 1]) for v in "xya"]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:2], [weight], value_info=infos[2:])
    assigned = assign(OnnxModel(helper.make_model(graph)), get_spec(name).precision, precision)
    assert list(assigned) == ["backbone.0/Conv"]


@pytest.mark.parametrize("precision", ["int8", "fp16", "mixed"])
@pytest.mark.parametrize("name", SMALL)
def test_coordinates_and_suppression_stay_in_float32(small, name, precision):
    plain, recipe = small(name)
    assignment = assign(plain, recipe, precision)
    assert assignment
    for node in plain.graph.node:
        if node.op_type in ISLANDS or node.name.endswith(".conv_offset_mask/Conv"):
            assert node.name not in assignment


def test_only_the_offsets_of_a_deformable_convolution_stay_in_float32(small):
    plain, recipe = small("centernet_resnet18_dcn")
    assignment = assign(plain, recipe, "fp16")
    magnitudes = dict.fromkeys(values_needed(plain, assignment), 1.0)
    graph = convert(plain, assignment, magnitudes).graph
    infos = {info.name: info.type.tensor_type.elem_type for info in graph.value_info}
    types = infos | {tensor.name: tensor.data_type for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "DeformConv2d"]
    assert len(nodes) == 3
    half, full = TensorProto.FLOAT16, TensorProto.FLOAT
    for node in nodes:
        x, offset, weight, bias, mask = (types[name] for name in node.input)
        assert (x, offset, weight, bias, mask) == (half, full, half, half, half)
        assert types[node.output[0]] == half


def watched(graph, values):
    """Return a copy of a graph whose outputs are some of its values."""
    copy = graph.copy()
    infos = {info.name: info for info in copy.graph.value_info}
    del copy.graph.output[:]
    copy.graph.output.extend(infos[value] for value in values)
    return copy


@pytest.mark.parametrize(
    ("module", "in_int8", "in_mixed"),
    [
        ("backbone", "int8", "int8"),
        ("prototypes.convs", "int8", "int8"),
        ("prototypes.refine", "int8", "int8"),
        ("prototypes.output", None, None),
        ("fpn", "int8", "fp16"),
        ("head.hidden", "int8", "fp16"),
        ("head.classes", None, "fp16"),
        ("head.boxes", None, "fp16"),
        ("head.coefficients", None, "fp16"),
    ],
)
def test_yolact_mixes_precisions_as_yolact_edge_does(small, module, in_int8, in_mixed):
    """Backbone and prototypes in int8, pyramid and heads in float16."""
    plain, recipe = small("yolact_tiny")
    convolutions = [
        node.name
        for node in plain.graph.node
        if f"{node.name}.".startswith((f"{module}.", f"{module}/")) and node.op_type == "Conv"
    ]
    assert convolutions
    for precision, wanted in {"int8": in_int8, "mixed": in_mixed}.items():
        assignment = assign(plain, recipe, precision)
        assert {assignment.get(name) for name in convolutions} == {wanted}


@pytest.mark.parametrize("name", SMALL)
def test_mixed_names_modules_of_int8_only(small, name):
    plain, recipe = small(name)
    in_int8, in_mixed = (assign(plain, recipe, precision) for precision in ("int8", "mixed"))
    assert "int8" in in_mixed.values()
    assert in_int8.keys() <= in_mixed.keys()
    bare = dataclasses.replace(recipe, half_in_mixed=())
    for module in recipe.half_in_mixed:
        alone = dataclasses.replace(bare, half_in_mixed=(module,))
        changed = assign(plain, alone, "mixed") != assign(plain, bare, "mixed")
        assert changed or not any(node.startswith(f"{module}.") for node in in_int8)


def chain(*, first, second=1.0):
    """Return a graph of a convolution, a ReLU and another convolution, each of one weight."""
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"], name="m.0/Conv"),
        helper.make_node("Relu", ["a"], ["b"], name="m.1/Relu"),
        helper.make_node("Conv", ["b", "second"], ["y"], name="m.2/Conv"),
    ]
    weights = [
        numpy_helper.from_array(np.full((1, 1, 1, 1), value, np.float32), name)
        for name, value in {"first": first, "second": second}.items()
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 1, 2]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    opset = helper.make_opsetid("", 20)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    return OnnxModel(onnx.shape_inference.infer_shapes(model))


@pytest.mark.parametrize(
    ("weights", "x", "num_in_half"),
    [
        ({"first": 2.0}, [0.5, 1], 3),
        ({"first": 5e4, "second": 1e-4}, [-2, 2], 0),
        ({"first": 1e-5, "second": 2.0}, [0, 1e5], 2),
        ({"first": 1e-2, "second": 7e4}, [0, 0.25], 2),
    ],
    ids=["nothing", "a result", "the input", "a weight"],
)
def test_what_exceeds_float16_is_neither_read_nor_written_in_it(weights, x, num_in_half):
    """ONNX Runtime on a processor hides it: it drops casts to float16 and back."""
    model = chain(**weights)
    x = np.array(x, np.float32).reshape(1, 1, 1, 2)
    assignment = assign(model, PrecisionRecipe(half=("m",)), "fp16")
    values = values_needed(model, assignment)
    assert values == ["x", "a", "b", "y"]
    reference = ReferenceEvaluator(watched(model, ["a", "b"]).to_proto())
    a, b = reference.run(None, {"x": x})
    (y,) = ReferenceEvaluator(model.to_proto()).run(None, {"x": x})
    magnitudes = {
        name: float(np.abs(value).max()) for name, value in {"x": x, "a": a, "b": b, "y": y}.items()
    }
    half = convert(model, assignment, magnitudes)
    onnx.checker.check_model(half.to_proto(), full_check=True)
    types = {
        tensor.name for tensor in half.graph.initializer if tensor.data_type == TensorProto.FLOAT16
    }
    relu = [node for node in half.graph.node if node.op_type == "Relu"]
    assert len(types) + relu[0].input[0].endswith("_half") == num_in_half
    (found,) = ReferenceEvaluator(half.to_proto()).run(None, {"x": x})
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, y, rtol=2e-3)


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


def test_a_recipe_without_modules_says_so(plain, manifest):
    with pytest.raises(ValueError, match="names no module for it"):
        lower.find_lowering(
            {"main": plain},
            {},
            manifest,
            PrecisionRecipe(),
            precision="fp16",
            calibration=[],
            method="minmax",
            max_drop=0.01,
            complete=complete_graph,
            progress=lambda stage, done, total: None,
        )


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
    assert int8_nodes(OnnxModel(helper.make_model(graph)), chosen) == ["m/Conv", "m/Relu"]


IDENTITY_SIZE = 64


def identity():
    """Return a graph whose value is the picture's own grey levels, and its manifest."""
    size = IDENTITY_SIZE
    manifest = Manifest(
        name="identity",
        task="instances",
        precision="fp32",
        graphs=one_graph(
            inputs=(TensorSpec(name="image", dtype="uint8", shape=(1, size, size, 3)),),
            outputs=(
                TensorSpec(name="boxes", dtype="float32", shape=(1, 1, 4)),
                TensorSpec(name="scores", dtype="float32", shape=(1, 1)),
                TensorSpec(name="labels", dtype="int32", shape=(1, 1)),
            ),
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
    return OnnxModel(model), manifest


@pytest.mark.parametrize("num_outliers", [0, 1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_calibration_clips_rare_outliers(method, num_outliers):
    """Of 12288 elements up to 100, some are 255; one is less than 0.01 %, three are more."""
    model, manifest = identity()
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 101, (IDENTITY_SIZE, IDENTITY_SIZE, 3), dtype=np.uint8)
    picture[0, 0, :num_outliers] = 255
    found = calibrate_one(model, manifest, [picture, picture], ["levels"], method=method)["levels"]
    is_clipped = {"minmax": False, "percentile": num_outliers < 3, "entropy": True}[method]
    if num_outliers and not is_clipped:
        assert found == 255
    else:
        assert 99 <= found < 101


@pytest.mark.parametrize("method", METHODS)
def test_the_largest_magnitude_is_found_where_float16_must_hold_it(method):
    model, manifest = identity()
    picture = np.zeros((IDENTITY_SIZE, IDENTITY_SIZE, 3), np.uint8)
    picture[0, 0] = 10, 20, 255
    found = calibrate_one(
        model, manifest, [picture], ["levels"], method=method, unclipped={"levels"}
    )
    assert found == {"levels": 255}


@pytest.mark.parametrize(
    ("method", "num_steps"), [("minmax", 3), ("entropy", 3 + 3 + 1), ("percentile", 3 + 3 + 1)]
)
def test_calibration_reports_every_picture_and_every_histogram(method, num_steps):
    model, manifest = identity()
    pictures = [np.full((IDENTITY_SIZE, IDENTITY_SIZE, 3), 9, np.uint8)] * 3
    steps = []
    calibrate_one(
        model,
        manifest,
        pictures,
        ["levels"],
        method=method,
        on_step=lambda done, total: steps.append((done, total)),
    )
    assert steps == [(number, num_steps) for number in range(1, num_steps + 1)]


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
        calibrate_one(plain, manifest, values=[], **arguments)


def test_an_int8_bundle_finds_what_the_fp32_bundle_finds(bundle_of, tiny_bundle):
    folder = bundle_of("maskrcnn_tiny", "int8")
    manifest = edgeseg_runtime.Manifest.load(folder)
    assert manifest.precision == "int8"
    loss = manifest.parity["precision"]
    assert loss["num_nodes"]["int8"] > 50
    assert loss["num_calibration"] == NUM_CALIBRATION
    assert loss["agreement_with_fp32"]["ap"]["bbox"] > 0.8
    size, full_size = (
        sum(file.stat().st_size for file in bundle.glob("*.onnx"))
        for bundle in (folder, tiny_bundle)
    )
    assert size < 0.6 * full_size
    picture = open_dataset("shapes", limit=1)[0].image
    with edgeseg_runtime.load(folder) as lower, edgeseg_runtime.load(tiny_bundle) as full:
        found, expected = lower(picture), full(picture).filter(score=0.7)
    assert len(expected) > 3
    for instance in expected:
        same = found[found.labels == instance.labels[0]]
        corners = np.abs(same.boxes - instance.boxes).max(axis=1)
        assert corners.min(initial=np.inf) < 4  # pixels


def test_an_export_reports_its_calibration_to_the_last_value(tmp_path, pictures):
    model = edgeseg.create_model("landmarks_regression_tiny", image_size=80)
    steps = []
    edgeseg.export_bundle(
        model,
        tmp_path / "mixed",
        precision="mixed",
        calibration=pictures,
        calibration_method="entropy",
        num_images=1,
        progress=lambda stage, done, total: steps.append((stage, done, total)),
    )
    counted = [(done, total) for stage, done, total in steps if stage == "calibrate"]
    total = counted[0][1]
    assert total > 2 * NUM_PICTURES + 20  # every histogram is a step
    assert counted == [(number, total) for number in range(1, total + 1)]


def test_a_graph_that_int8_has_ruined_is_not_written(tiny_model, tmp_path, pictures, monkeypatch):
    def far_too_small(*arguments, **options):
        found = calibrate(*arguments, **options)
        return {
            graph: {name: value / 50 for name, value in magnitudes.items()}
            for graph, magnitudes in found.items()
        }

    monkeypatch.setattr(lower, "calibrate", far_too_small)
    with pytest.raises(ParityError, match=r"the int8 graph finds other things.* agreement of"):
        edgeseg.export_bundle(
            tiny_model, tmp_path / "int8", precision="int8", calibration=pictures, num_images=1
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("num_detections", "ap", "is_refused"),
    [
        (0, {"bbox": 0.0}, False),
        (9, {"bbox": 0.9, "segm": None}, False),
        (9, {"bbox": 0.5, "segm": 0.9}, False),
        (9, {"bbox": 0.9, "segm": 0.49}, True),
    ],
    ids=["nothing to compare", "no masks", "at the bar", "masks below"],
)
def test_the_lowest_agreement_counts(num_detections, ap, is_refused):
    measured = {"num_detections": num_detections, "ap": ap, "num_pictures": 4}
    with pytest.raises(ParityError, match=r"segm 0\.490") if is_refused else nullcontext():
        check_agreement(measured, "int8")


def test_an_export_that_cannot_be_compared_says_so(caplog):
    measured = {"num_detections": 0, "ap": {"bbox": None}, "num_pictures": 4}
    check_agreement(measured, "int8")
    said = "finds nothing on the 4 pictures, so whether the int8 graph agrees is not known"
    assert said in caplog.text
