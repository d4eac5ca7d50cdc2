"""Winograd's form of a convolution gives what the convolution gives, and only where it gains."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeseg_runtime.onnx import winograd
from edgeseg_runtime.onnx.check import check_graph
from edgeseg_runtime.onnx.winograd import TILES, Layer, rewrite

ONES = [1, 1, 1, 1]


def graph(shape=(1, 5, 9, 14), out=7, has_bias=True, group=1, **attributes):
    """Two convolutions with other weights and one bias that read one map."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((out, shape[1] // group, 3, 3)) for name in ("w", "v")}
    arrays["b"] = rng.standard_normal(out)
    bias = ["b"] if has_bias else []
    nodes = [
        helper.make_node("Conv", ["x", name, *bias], [y], group=group, **attributes)
        for name, y in (("w", "y"), ("v", "z"))
    ]
    border = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    ends = [helper.make_tensor_value_info(y, TensorProto.FLOAT, [None] * 4) for y in ("y", "z")]
    weights = [numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()]
    made = helper.make_graph(nodes, "g", border, ends, weights)
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8).SerializeToString()


def from_onnxruntime(content, x):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def from_openvino(content, x):
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    model = core.compile_model(core.read_model(content), "CPU", config)
    return [np.array(model({"x": x})[name]) for name in ("y", "z")]


@pytest.mark.parametrize("run", [from_onnxruntime, from_openvino])
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1, 5, 8, 16), {"pads": ONES}),
        ((3, 5, 9, 14), {"pads": ONES}),
        ((1, 5, 9, 14), {}),
        ((2, 5, 7, 3), {"pads": [2, 0, 1, 3]}),
        ((1, 5, 9, 14), {"has_bias": False}),
    ],
    ids=["whole tiles", "several maps", "no pads", "uneven pads", "no bias"],
)
def test_rewritten_convolutions_give_the_same(shape, options, tile, run):
    plain = graph(shape, **options)
    rewritten, num_rewritten = rewrite(plain, lambda layer: tile)
    onnx.checker.check_model(rewritten, full_check=True)
    check_graph(rewritten)
    assert num_rewritten == 2
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    for found, expected in zip(run(rewritten, x), run(plain, x), strict=True):
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_convolutions_of_one_map_share_its_tiles():
    rewritten, _ = rewrite(graph(pads=ONES), lambda layer: 4)
    nodes = onnx.load_from_string(rewritten).graph.node
    assert sum("x/winograd" in node.name and node.op_type == "Conv" for node in nodes) == 1


@pytest.mark.parametrize("run", [from_onnxruntime, from_openvino])
def test_the_number_of_maps_may_be_free(run):
    plain = graph((None, 5, 9, 14), pads=ONES)
    rewritten, num_rewritten = rewrite(plain, lambda layer: 4)
    assert num_rewritten == 2
    for count in (1, 3):
        x = np.random.default_rng(1).standard_normal((count, 5, 9, 14)).astype(np.float32)
        for found, expected in zip(run(rewritten, x), run(plain, x), strict=True):
            assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_the_file_does_not_grow_with_its_weights():
    plain = graph((1, 96, 16, 16), out=96, pads=ONES)
    rewritten, _ = rewrite(plain, lambda layer: 4)
    assert len(plain) < len(rewritten) < len(plain) + 20_000 < 2 * len(plain)


@pytest.mark.parametrize(
    "options",
    [
        {"strides": [2, 2]},
        {"dilations": [2, 2]},
        {"auto_pad": "SAME_UPPER"},
        {"shape": (1, 6, 9, 14), "out": 6, "group": 2},
    ],
)
def test_other_convolutions_stay(options):
    plain = graph(**options)
    assert rewrite(plain, lambda layer: 4) == (plain, 0)


def test_a_map_whose_size_is_free_stays():
    """The first axis becomes rows of the map, so each number of pictures would need tiles of its own."""
    model = onnx.load_from_string(graph((None, 5, 9, 14), pads=ONES))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 5, -1, 14]), "sizes"))
    model.graph.node.insert(0, helper.make_node("Reshape", ["x", "sizes"], ["rows"]))
    for node in model.graph.node[1:]:
        node.input[0] = "rows"
    plain = model.SerializeToString()
    assert rewrite(plain, lambda layer: 4) == (plain, 0)


def test_what_does_not_gain_stays():
    plain, asked = graph((2, 5, 9, 14)), []
    assert rewrite(plain, asked.append) == (plain, 0)
    assert asked == [Layer(channels=5, out=7, maps=2, height=7, width=12)] * 2


def test_transformed_weights_stay_within_a_budget(monkeypatch):
    monkeypatch.setattr(winograd, "MAX_WEIGHT_BYTES", 4 * 36 * 5 * 7)
    rewritten, num_rewritten = rewrite(graph(pads=ONES), lambda layer: 4)
    check_graph(rewritten)
    assert num_rewritten == 1
    assert rewrite(graph((1, 6, 9, 14), pads=ONES), lambda layer: 4)[1] == 0
