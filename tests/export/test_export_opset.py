"""Opset 17: the same results as opset 20, for engines that read nothing newer."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgeseg
from edgeseg.models import get_spec, list_models
from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.evaluation import dataset_kind
from edgeseg_export.graph import complete_graph
from edgeseg_export.onnx_model import OnnxModel
from edgeseg_export.passes import apply, without_weights
from edgeseg_export.passes.opset import to_opset17
from edgeseg_export.precision import assign, convert, values_needed
from edgeseg_export.sessions import cpu_session
from edgeseg_export.trace import ExportError
from edgeseg_runtime import Manifest
from edgeseg_runtime.onnx.inline import inline_functions
from edgeseg_runtime.tasks import create_task
from edgeseg_runtime.tensorrt.engines import build_bundle

MODELS = {
    **{name: None for name in list_models() if name.endswith("_tiny")},
    "centernet_resnet18_dcn": 64,
}
"""A model of every family, and one with deformable convolutions -> size of its picture."""


def results(model, manifest):
    """Return the outputs for a picture that shows what the model looks for."""
    (sample,) = open_dataset("shapes", kind=dataset_kind(manifest), limit=1)
    inputs, _ = create_task(manifest).preprocess(sample.image)
    return cpu_session(model).run(None, inputs)


def assert_same_results(plain, manifest):
    older = complete_graph(plain, opset=17)
    proto = older.to_proto()
    assert proto.ir_version == 8
    for entries in (proto.opset_import, *(body.opset_import for body in proto.functions)):
        assert {entry.version for entry in entries if not entry.domain} == {17}
    onnx.checker.check_model(proto, full_check=True)
    expected = results(complete_graph(plain), manifest)
    for found, wanted in zip(results(older, manifest), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert any(array.any() for array in expected)


@pytest.mark.parametrize("name", MODELS)
def test_both_opsets_give_the_same_numbers(traced, name):
    assert_same_results(*traced(name, MODELS[name]))


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_both_opsets_give_the_same_numbers_in_lower_precisions(traced, precision):
    plain, manifest = traced("maskrcnn_tiny")
    assignment = assign(plain, get_spec(manifest.name).precision, precision)
    magnitudes = dict.fromkeys(values_needed(plain, assignment), 8.0)
    assert_same_results(convert(plain, assignment, magnitudes), manifest)


@pytest.mark.parametrize("name", ["maskrcnn_tiny", "centernet_resnet18_dcn"])
def test_no_sampling_names_its_mode(traced, name):
    """TensorRT up to 11.1 takes opset 20's "linear" for the nearest cell, and says nothing."""
    graph = complete_graph(traced(name, MODELS[name])[0])
    nodes = [
        node for body in graph.proto.functions for node in body.node if node.op_type == "GridSample"
    ]
    assert len(nodes) > 1
    for node in nodes:
        assert {item.name for item in node.attribute} == {"padding_mode", "align_corners"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    model = edgeseg.create_model("retinaface_tiny", weights="shapes")
    folder = tmp_path_factory.mktemp("opset") / "bundle"
    return edgeseg.export_bundle(model, folder, opset=17, num_images=1)


def test_a_bundle_says_its_opset(bundle, tiny_bundle):
    manifest = Manifest.load(bundle)
    assert manifest.provenance["opset"] == 17
    assert manifest.parity["is_within_tolerance"]
    assert Manifest.load(tiny_bundle).provenance["opset"] == 20


def test_an_inlined_bundle_is_valid_and_calls_no_function(bundle):
    inlined = onnx.load_from_string(inline_functions((bundle / "model.onnx").read_bytes()))
    onnx.checker.check_model(inlined, full_check=True)
    assert not inlined.functions
    assert {node.domain for node in inlined.graph.node} == {""}


def test_tensorrt_rtx_compiles_opset_17(bundle, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    (engine,) = build_bundle(bundle, flavour="tensorrt_rtx", targets=["sm86"], out=tmp_path)
    assert engine.path.stat().st_size > 10_000


def test_an_opset_that_is_not_offered_is_refused(tmp_path):
    model = edgeseg.create_model("landmarks_regression_tiny")
    with pytest.raises(ValueError, match="opset 18 found, expected one of 17, 20"):
        edgeseg.export_bundle(model, tmp_path / "bundle", opset=18)


# ---------------------------------------------------------------- nodes


AXES = numpy_helper.from_array(np.array([1], np.int64), "axes")


def model_of(*nodes, initializers=(AXES,), opset=20):
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def node(op_type, *inputs, outputs=("y",), **attributes):
    return helper.make_node(op_type, inputs, outputs, name="the_node", **attributes)


def attributes_of(node):
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


@pytest.mark.parametrize(
    ("newer", "inputs", "attributes"),
    [
        (node("GridSample", "x", "grid", mode="linear"), ["x", "grid"], {"mode": b"bilinear"}),
        (node("GridSample", "x", "grid", mode="cubic"), ["x", "grid"], {"mode": b"bicubic"}),
        (node("GridSample", "x", "grid", mode="nearest"), ["x", "grid"], {"mode": b"nearest"}),
        (node("GridSample", "x", "grid"), ["x", "grid"], {}),
        (node("ReduceMax", "x", "axes", keepdims=0), ["x"], {"axes": [1], "keepdims": 0}),
        (node("ReduceMean", "x", "axes", noop_with_empty_axes=1), ["x"], {"axes": [1]}),
        (node("ReduceMin", "x", noop_with_empty_axes=0), ["x"], {}),
        (node("ReduceMin", "x", ""), ["x"], {}),
        (node("ReduceSum", "x", "axes"), ["x", "axes"], {}),
        (
            node("Resize", "x", "", "s", antialias=0, keep_aspect_ratio_policy="stretch"),
            ["x", "", "s"],
            {},
        ),
        (node("Pad", "x", "pads", mode="edge"), ["x", "pads"], {"mode": b"edge"}),
        (node("Cast", "x", to=TensorProto.FLOAT16, saturate=1), ["x"], {"to": 10}),
        (node("QuantizeLinear", "x", "s", "z", saturate=1), ["x", "s", "z"], {}),
        (node("Split", "x", "sizes", axis=1), ["x", "sizes"], {"axis": 1}),
        (node("ScatterND", "x", "i", "u", reduction="add"), ["x", "i", "u"], {"reduction": b"add"}),
    ],
    ids=lambda value: value.op_type if isinstance(value, onnx.NodeProto) else "",
)
def test_a_node_is_rewritten(newer, inputs, attributes):
    (older,) = to_opset17(model_of(newer)).graph.node
    assert list(older.input) == inputs
    assert attributes_of(older) == attributes


@pytest.mark.parametrize(
    ("newer", "problem"),
    [
        (node("Gelu", "x"), "an operator that is newer"),
        (node("GroupNormalization", "x", "s", "b", num_groups=1), "an operator that is newer"),
        (node("Resize", "x", "", "s", antialias=1), "the attribute antialias = 1"),
        (node("Split", "x", num_outputs=2), "the attribute num_outputs = 2"),
        (node("Cast", "x", to=TensorProto.FLOAT, saturate=0), "the attribute saturate = 0"),
        (node("Pad", "x", "pads", "", "axes"), "4 inputs"),
        (node("Pad", "x", "pads", mode="wrap"), "the attribute mode = wrap"),
        (node("ScatterND", "x", "i", "u", reduction="max"), "the attribute reduction = max"),
        (node("ReduceMax", "x", "computed"), "axes that are computed"),
        (node("ReduceMax", "x", noop_with_empty_axes=1), "the attribute noop_with_empty_axes = 1"),
    ],
    ids=lambda value: value.op_type if isinstance(value, onnx.NodeProto) else "",
)
def test_a_node_that_opset_17_cannot_express_is_named(newer, problem):
    with pytest.raises(ExportError) as info:
        apply(OnnxModel(model_of(newer)), (without_weights(to_opset17),))
    assert f"node 'the_node' ({newer.op_type}) has {problem}, which opset 17" in str(info.value)
    assert "export with opset 20" in str(info.value)


def test_another_opset_is_refused():
    with pytest.raises(ValueError, match="opset 21 found, expected 20"):
        to_opset17(model_of(node("Relu", "x"), opset=21))


def test_functions_and_the_graphs_within_nodes_are_rewritten():
    """The axes of a loop's body lie outside of it; nobody reads them afterwards."""
    constant = helper.make_node("Constant", [], ["axes"], value=AXES)
    yes = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))
    body = helper.make_graph(
        [
            node("ReduceMax", "state", "axes", outputs=["after"]),
            node("Identity", "go", outputs=["on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, None),
        ],
    )
    loop = helper.make_node("Loop", ["", "yes", "x"], ["y"], body=body)
    opset = helper.make_opsetid("", 20)
    function = helper.make_function("own", "F", ["x"], ["y"], [constant, yes, loop], [opset])
    model = model_of(helper.make_node("F", ["x"], ["y"], domain="own"), initializers=())
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.functions.append(function)
    older = to_opset17(model)
    assert [item.op_type for item in older.functions[0].node] == ["Constant", "Loop"]
    reduction = older.functions[0].node[1].attribute[0].g.node[0]
    assert (list(reduction.input), attributes_of(reduction)) == (["state"], {"axes": [1]})


def test_constants_that_somebody_still_reads_are_kept():
    nodes = [
        helper.make_node("ReduceMax", ["x", "axes"], ["a"]),
        helper.make_node("ReduceSum", ["a", "axes"], ["y"]),
    ]
    assert [item.name for item in to_opset17(model_of(*nodes)).graph.initializer] == ["axes"]
    assert not to_opset17(model_of(nodes[0])).graph.initializer
