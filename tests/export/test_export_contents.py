"""What is exported passes the runtime's check, and its loops end only as they are written."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx_cases import model_of, node

from edgeseg_export.contents import check_exported
from edgeseg_export.functions.atlas_roi_align import atlas_roi_align_function
from edgeseg_export.functions.nms import nms_function
from edgeseg_export.trace import ExportError
from edgeseg_runtime.errors import CorruptArtifact, UnsafeModel
from edgeseg_runtime.onnx.check import check_graph

NMS = {"iou_threshold": 0.5, "max_output": 10, "score_threshold": 0.05}
FLOAT = TensorProto.FLOAT


def suppression(num_boxes, *, has_groups=False):
    """Return y = the kept boxes of x."""
    function = nms_function("Nms", num_boxes, has_groups=has_groups, **NMS)
    constants = {"scores": np.zeros((1, num_boxes), np.float32)}
    inputs = ["x", "scores"]
    if has_groups:
        constants["groups"] = np.zeros((1, num_boxes), np.int32)
        inputs.append("groups")
    call = node("Nms", inputs, ["y", "valid"], domain="edgeseg", **NMS)
    boxes = (FLOAT, [1, num_boxes, 4])
    return model_of([call], constants, x=boxes, y=(7, None), functions=[function])


def pooling(num_boxes):
    """Return y = what is pooled in the boxes x, as many samples in each as its size asks for."""
    function = atlas_roi_align_function(
        "Align",
        3,
        num_boxes,
        level_sizes=[(16, 16), (8, 8)],
        strides=(4, 8),
        output_size=(7, 7),
        sampling_ratio=0,
        aligned=True,
        level_rule="torchvision",
        canonical_scale=224.0,
        canonical_level=4,
    )
    atlas = {"atlas": np.zeros((1, 3, 24, 16), np.float32)}
    call = node("Align", ["atlas", "x"], ["y"], domain="edgeseg")
    return model_of([call], atlas, x=(FLOAT, [1, num_boxes or "rows", 4]), functions=[function])


LOOPS = {
    "blocks of boxes": suppression(300),
    "blocks of boxes in groups": suppression(300, has_groups=True),
    "tiles of boxes": suppression(1500),
    "tiles of boxes in groups": suppression(1500, has_groups=True),
    "as many boxes as TopK takes": suppression(3840),
    "samples of boxes": pooling(100),
    "samples of any number of boxes": pooling(None),
}


@pytest.mark.parametrize("name", LOOPS)
def test_the_loops_of_our_operators_are_seen_to_end(name):
    assert any(item.op_type == "Loop" for item in LOOPS[name].functions[0].node)
    check_graph(LOOPS[name].SerializeToString())


# ---------------------------------------------------------------- tampered loops


def tensors_of(model):
    """Yield the constants of a model's function."""
    return (a.t for item in model.functions[0].node for a in item.attribute if a.HasField("t"))


def with_triangle(model, value):
    """Let an element of the triangle below its diagonal suppress, so that two boxes take turns."""
    for tensor in tensors_of(model):
        array = numpy_helper.to_array(tensor).copy()
        if array.ndim >= 2 and array.shape[-1] == array.shape[-2] > 2:
            array[..., 1, 0] = value
            tensor.CopyFrom(numpy_helper.from_array(array))


def with_bound(model, before, after):
    """Change the number that bounds something."""
    for tensor in tensors_of(model):
        if tensor.data_type == FLOAT and numpy_helper.to_array(tensor).tolist() == before:
            tensor.CopyFrom(numpy_helper.from_array(np.float32(after)))


def with_operator(model, before, after):
    """Change an operator in the bodies of the loops."""
    for item in model.functions[0].node:
        for attribute in item.attribute:
            for inner in attribute.g.node:
                if inner.op_type == before:
                    inner.op_type = after


TAMPERED = {
    "a triangle that is not one": (lambda: suppression(300), lambda m: with_triangle(m, 1)),
    "a triangle with a wrong number": (
        lambda: suppression(300),
        lambda m: with_triangle(m, np.nan),
    ),
    "a change that is never seen as one": (
        lambda: suppression(300),
        lambda m: with_bound(m, 0.5, -0.5),
    ),
    "a survivor of another rule": (
        lambda: suppression(300),
        lambda m: with_operator(m, "ReduceMax", "ReduceMin"),
    ),
    "bins of any size": (lambda: pooling(100), lambda m: with_bound(m, 1024.0, np.inf)),
    "a step of nothing": (lambda: pooling(100), lambda m: with_bound(m, 4.0, 0.0)),
    "a step back": (lambda: pooling(100), lambda m: with_bound(m, 4.0, -4.0)),
    "tiles that stand still": (
        lambda: suppression(1500),
        lambda m: with_operator(m, "Less", "Greater"),
    ),
    "a column that does not grow": (
        lambda: suppression(1500),
        lambda m: with_operator(m, "Add", "Sub"),
    ),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_loop_that_was_tampered_with_is_refused(name):
    build, tamper = TAMPERED[name]
    model = build()
    content = model.SerializeToString()
    tamper(model)
    assert model.SerializeToString() != content
    with pytest.raises(UnsafeModel, match=r"\(Loop\) may run without end"):
        check_graph(model.SerializeToString())


# ---------------------------------------------------------------- at export


def test_a_graph_that_a_runtime_would_refuse_is_not_exported():
    model = model_of([node("NonZero", ["x"], ["y"], name="head/NonZero")], y=(7, None))
    message = r"the graph 'main' holds .*: the node 'head/NonZero' \(NonZero\), an operator that"
    with pytest.raises(ExportError, match=message):
        check_exported(model.SerializeToString(), "main")


def test_weights_that_graphs_share_may_be_missing_at_export_only():
    weights = np.zeros((3, 3), np.float32)
    model = model_of([node("MatMul", ["x", "w"], ["y"])], {"w": weights})
    model.graph.initializer[0].ClearField("raw_data")
    check_exported(model.SerializeToString(), "main")
    with pytest.raises(CorruptArtifact, match="has data of another size"):
        check_graph(model.SerializeToString())


def test_an_int8_graph_passes(bundle_of):
    content = (bundle_of("landmarks_regression_tiny", "int8") / "model.onnx").read_bytes()
    operators = {item.op_type for item in onnx.load_from_string(content).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    check_graph(content)
