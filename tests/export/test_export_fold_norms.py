"""Normalisations behind deformable convolutions go into the weights, and only where nothing else changes."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeseg_export.functions import add_functions
from edgeseg_export.onnx_model import OnnxModel
from edgeseg_export.passes.fold_norms import fold_norms


def model_of(*, has_bias=True, reads_between=False, constant=True):
    """A deformable convolution of 3 to 4 channels and its normalisation."""
    rng = np.random.default_rng(0)
    arrays = {
        "weight": rng.normal(size=(4, 3, 3, 3)),
        "bias": rng.normal(size=4),
        "scale": rng.uniform(0.5, 1.5, 4),
        "shift": rng.normal(size=4),
        "mean": rng.normal(size=4),
        "variance": rng.uniform(0.5, 1.5, 4),
    }
    conv = ["x", "offset", "weight", *(["bias"] if has_bias else [])]
    settings = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1}
    nodes = [
        helper.make_node(
            "DeformConv2d", conv, ["between"], domain="edgeseg", offset_groups=1, **settings
        ),
        helper.make_node(
            "BatchNormalization", ["between", "scale", "shift", "mean", "variance"], ["y"], epsilon=0.01
        ),
    ]  # fmt: skip
    names = ["y", "between"] if reads_between else ["y"]
    sizes = {"x": 3, "offset": 18, "y": 4, "between": 4}
    value = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 6, 5])
        for name, channels in sizes.items()
    }
    inputs = [value["x"], value["offset"]]
    if not constant:
        inputs.append(helper.make_tensor_value_info("mean", TensorProto.FLOAT, [4]))
    graph = helper.make_graph(
        nodes,
        "graph",
        inputs,
        [value[name] for name in names],
        [
            numpy_helper.from_array(array.astype(np.float32), name)
            for name, array in arrays.items()
            if (has_bias or name != "bias") and (constant or name != "mean")
        ],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("edgeseg", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def run(model):
    import onnxruntime

    rng = np.random.default_rng(1)
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    onnx.checker.check_model(add_functions(copy), full_check=True)
    session = onnxruntime.InferenceSession(copy.SerializeToString())
    feed = {
        value.name: rng.normal(size=[dim.dim_value for dim in value.type.tensor_type.shape.dim])
        for value in model.graph.input
    }
    return session.run(None, {name: array.astype(np.float32) for name, array in feed.items()})


@pytest.mark.parametrize("has_bias", [True, False])
def test_a_folded_normalisation_computes_the_same(has_bias):
    model = model_of(has_bias=has_bias)
    expected = run(model)
    folded = fold_norms(OnnxModel(model)).to_proto()
    assert [node.op_type for node in folded.graph.node] == ["DeformConv2d"]
    assert len(folded.graph.initializer) == 2
    np.testing.assert_allclose(run(folded)[0], expected[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{"reads_between": True}, {"constant": False}])
def test_a_normalisation_that_is_needed_stays(options):
    model = model_of(**options)
    before = model.SerializeToString()
    assert fold_norms(OnnxModel(model)).to_bytes() == before
