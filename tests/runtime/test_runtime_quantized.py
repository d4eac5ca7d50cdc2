"""Zero points of int8 graphs: moved where they are found, a warning where they are not."""

import pytest
from onnx import TensorProto, helper

from edgeseg_runtime.quantized import NONNEGATIVE_ZERO_POINT, ZERO_POINT, bytes_for_cpu


def graph(*zeros, name=ZERO_POINT, data_type=TensorProto.INT8):
    """Return a graph that quantises x with a zero point; `zeros` are its initializers' values."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", name], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", name], ["y"]),
    ]
    scalars = [helper.make_tensor(name, data_type, [], bytes([zero]), raw=True) for zero in zeros]
    values = [helper.make_tensor_value_info(key, TensorProto.FLOAT, [1, 4]) for key in ("x", "y")]
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [0.5])
    made = helper.make_graph(nodes, "graph", values[:1], values[1:], [scale, *scalars])
    return helper.make_model(made).SerializeToString()


@pytest.mark.parametrize(
    ("machine", "name", "expected"),
    [
        ("x86_64", ZERO_POINT, graph(128, data_type=TensorProto.UINT8)),
        ("x86_64", NONNEGATIVE_ZERO_POINT, graph(0, name=NONNEGATIVE_ZERO_POINT, data_type=TensorProto.UINT8)),
        ("aarch64", ZERO_POINT, graph(0)),
        ("aarch64", NONNEGATIVE_ZERO_POINT, graph(128, name=NONNEGATIVE_ZERO_POINT)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_each_processor_gets_its_zero_points(machine, name, expected, caplog):
    assert bytes_for_cpu(graph(0, name=name), machine=machine) == expected
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("content", "found"),
    [(graph(), 0), (graph(5), 0), (graph(0, 0), 2), (graph(0, data_type=TensorProto.UINT8), 0)],
    ids=["none", "another value", "two", "another type"],
)
def test_a_zero_point_that_is_not_found_once_is_said(content, found, caplog):
    assert bytes_for_cpu(content, machine="x86_64") == content
    assert f"found {found} scalars int8_zero of int8 and value 0 among " in caplog.text
    assert "Export the model again" in caplog.text


def test_a_graph_without_int8_is_left_alone_in_silence(caplog):
    content = graph(0, name="other")
    assert bytes_for_cpu(content, machine="x86_64") == content
    assert caplog.text == ""
