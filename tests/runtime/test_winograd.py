"""Winograd's form of a convolution gives what the convolution gives."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeseg_runtime.winograd import rewrite


def graph(shape=(1, 5, 9, 14), out=7, has_bias=True, group=1, **attributes):
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.standard_normal((out, shape[1] // group, 3, 3)),
        "b": rng.standard_normal(out),
    }
    names = ["w", "b"] if has_bias else ["w"]
    nodes = [
        helper.make_node("Conv", ["x", *names], [y], group=group, **attributes) for y in ("y", "z")
    ]
    border = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    ends = [helper.make_tensor_value_info(y, TensorProto.FLOAT, [None] * 4) for y in ("y", "z")]
    weights = [numpy_helper.from_array(arrays[name].astype(np.float32), name) for name in names]
    made = helper.make_graph(nodes, "g", border, ends, weights)
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8).SerializeToString()


def results(content, shape):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    return session.run(None, {"x": x})


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1, 5, 8, 16), {"pads": [1, 1, 1, 1]}),
        ((3, 5, 9, 14), {"pads": [1, 1, 1, 1]}),
        ((1, 5, 9, 14), {}),
        ((2, 5, 7, 3), {"pads": [2, 0, 1, 3]}),
        ((1, 5, 9, 14), {"has_bias": False}),
    ],
)
def test_rewritten_convolutions_give_the_same(shape, options):
    plain = graph(shape, **options)
    rewritten, num_rewritten = rewrite(plain, lambda layer: True)
    onnx.checker.check_model(rewritten, full_check=True)
    assert num_rewritten == 2
    nodes = onnx.load_from_string(rewritten).graph.node
    assert sum(node.op_type == "Conv" for node in nodes) == 1  # one transform for both
    for found, expected in zip(results(rewritten, shape), results(plain, shape), strict=True):
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    "options",
    [
        {"strides": [2, 2]},
        {"dilations": [2, 2]},
        {"auto_pad": "SAME_UPPER"},
        {"shape": (1, 6, 9, 14), "out": 6, "group": 2},
        {"shape": (None, 5, 9, 14)},
    ],
)
def test_other_convolutions_stay(options):
    plain = graph(**options)
    assert rewrite(plain, lambda layer: True) == (plain, 0)


def test_what_does_not_gain_stays():
    plain = graph()
    assert rewrite(plain, lambda layer: False) == (plain, 0)
