"""The branch of R-CNN models as a graph of its own: it runs for any number of boxes, as its engines see it."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

import edgeseg
from edgeseg.models import get_spec, model_manifest
from edgeseg.models.layers.roi_heads import KeypointHead
from edgeseg.ops.pyramid_atlas import atlas_layout
from edgeseg_export.graph import GRAPH_PASSES, complete_graph
from edgeseg_export.passes import apply
from edgeseg_export.precision import assign, convert, values_needed
from edgeseg_export.sessions import cpu_session
from edgeseg_export.trace import trace
from edgeseg_runtime.onnx.check import check_graph
from edgeseg_runtime.onnx.inline import inline_functions

MAX_ROWS = 100
ROWS = (1, 3, 8, 31, MAX_ROWS)
ADAPTIVE = {"roi_sampling_ratio": 0, "roi_aligned": True, "roi_level_rule": "detectron2"}
VARIANTS = {
    "masks": {"weights": "shapes"},
    "key points, adaptive sampling": {"num_keypoints": 3, **ADAPTIVE},
}


def branch_inputs(model, pictures=1):
    """Boxes of all sizes, some of them outside, inverted, empty or not finite."""
    rng = np.random.default_rng(0)
    height, width = model.config.image_size
    layout = atlas_layout([(height // stride, width // stride) for stride in (4, 8, 16, 32)])
    shape = (pictures, model.config.fpn_channels, layout.height, layout.width)
    centre = rng.uniform(-20, [width + 20, height + 20], (pictures, MAX_ROWS, 2))
    half = np.exp(rng.uniform(0, 5.3, (pictures, MAX_ROWS, 2))) / 2
    boxes = np.concatenate([centre - half, centre + half], 2).astype(np.float32)
    boxes[:, 2] = 0
    boxes[:, 5] = [0, 0, width, height]
    boxes[:, 7] = boxes[:, 7, [2, 3, 0, 1]]
    boxes[:, 11, 1], boxes[:, 30, 2] = np.nan, np.inf
    return {
        "atlas": rng.normal(size=shape).astype(np.float32),
        "boxes": boxes,
        "labels": rng.integers(0, model.config.num_classes, boxes.shape[:2]).astype(np.int32),
    }


def trace_branch(model, **options):
    """The branch's graph without bodies."""
    return apply(trace(model, model_manifest(model), model.branch, **options), GRAPH_PASSES)


@pytest.fixture(scope="module", params=VARIANTS)
def branch(request):
    """A model with that branch, and the branch's graph without bodies."""
    model = edgeseg.create_model("maskrcnn_tiny", **VARIANTS[request.param])
    if model.keypoint_head is not None:  # the original's width is three minutes of work
        model.keypoint_head = KeypointHead(model.config.fpn_channels, 3, channels=16).eval()
    return model, trace_branch(model)


def run_rows(graph, inputs, rows):
    session = cpu_session(graph)
    given = {
        name: array if name == "atlas" else np.ascontiguousarray(array[:, :rows])
        for name, array in inputs.items()
    }
    names = [value.name for value in session.get_inputs()]  # without what nothing reads
    (result,) = session.run(None, {name: given[name] for name in names})
    return result


def expected_of(model, inputs):
    with torch.inference_mode():
        stages = model.branch_stages(*map(torch.from_numpy, inputs.values()))
    return stages[model.outputs[-1]].numpy()


def test_no_size_in_the_graph_is_a_number_of_boxes(branch):
    _, plain = branch
    shapes = [
        value.type.tensor_type.shape.dim for value in (*plain.graph.input, *plain.graph.output)
    ]
    assert {shape[1].dim_param for shape in shapes[1:]} == {"rows"}
    operators = {node.op_type for node in plain.graph.node}
    assert operators & {"Shape", "Size", "Range", "ConstantOfShape", "NonZero", "If"} == set()
    complete = complete_graph(plain)
    check_graph(complete.to_bytes())
    (function,) = complete.proto.functions
    assert function.name.startswith("AtlasRoiAlign_Nx")
    assert operators_within(function.node) & {"Shape", "NonZero", "TopK", "If"} == set()


def operators_within(nodes):
    graphs = [item.g.node for node in nodes for item in node.attribute if item.HasField("g")]
    return {node.op_type for node in nodes}.union(*map(operators_within, graphs))


def test_a_row_has_the_same_bits_whatever_stands_beside_it(branch):
    model, plain = branch
    inputs = branch_inputs(model)
    graph = complete_graph(plain)
    onnx.checker.check_model(graph.to_proto(), full_check=True)
    full = run_rows(graph, inputs, MAX_ROWS)
    np.testing.assert_allclose(full, expected_of(model, inputs), rtol=0, atol=2e-5)
    for rows in ROWS:
        np.testing.assert_array_equal(run_rows(graph, inputs, rows), full[:, :rows])


def test_opset_17_gives_the_same_numbers(branch):
    model, plain = branch
    inputs = branch_inputs(model)
    older = complete_graph(plain, opset=17)
    np.testing.assert_array_equal(
        run_rows(older, inputs, 8), run_rows(complete_graph(plain), inputs, 8)
    )


@pytest.mark.exhaustive
def test_several_pictures_have_as_many_rows_each():
    model = edgeseg.create_model("maskrcnn_tiny", weights="shapes", **ADAPTIVE)
    inputs = branch_inputs(model, pictures=3)
    graph = complete_graph(trace_branch(model, dynamic_batch=True))
    found = run_rows(graph, inputs, 40)
    np.testing.assert_allclose(found, expected_of(model, inputs)[:, :40], rtol=0, atol=2e-5)


def test_half_precision_samples_in_single(branch):
    model, plain = branch
    inputs = branch_inputs(model)
    assignment = assign(plain, get_spec("maskrcnn_tiny").precision, "fp16")
    graph = complete_graph(
        convert(plain, assignment, dict.fromkeys(values_needed(plain, assignment), 8.0))
    )
    (atlas,) = (value for value in graph.graph.value_info if value.name == "atlas_half")
    assert atlas.type.tensor_type.elem_type == TensorProto.FLOAT16
    full = run_rows(graph, inputs, MAX_ROWS)
    expected = expected_of(model, inputs)
    np.testing.assert_allclose(full, expected, rtol=0, atol=0.02 * np.abs(expected).max())
    np.testing.assert_array_equal(run_rows(graph, inputs, 3), full[:, :3])


def test_openvino_takes_any_number_of_rows(branch):
    openvino = pytest.importorskip("openvino")
    model, plain = branch
    inputs = branch_inputs(model)
    core = openvino.Core()
    graph = core.read_model(inline_functions(complete_graph(plain).to_bytes()))
    compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    expected = expected_of(model, inputs)
    for rows in (1, 31, MAX_ROWS):
        given = {port.get_any_name(): inputs[port.get_any_name()] for port in compiled.inputs}
        given = {name: a if name == "atlas" else a[:, :rows].copy() for name, a in given.items()}
        found = compiled(given)[0]
        np.testing.assert_allclose(found, expected[:, :rows], rtol=0, atol=5e-5)


def test_tensorrt_rtx_compiles_a_profile_for_each_number_of_rows(branch):
    trt = pytest.importorskip("tensorrt_rtx")
    _, plain = branch
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    raw = complete_graph(plain).to_bytes()
    assert parser.parse(raw), parser.get_error(0).desc()
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    for rows in (8, 32, MAX_ROWS):
        profile = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            if tensor.shape[1] < 0:
                shape = (1, rows, *tensor.shape[2:])
                profile.set_shape(tensor.name, shape, shape, shape)
        config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
