"""Zero points of int8 graphs: moved where they are found, a warning where they are not."""

import platform
from pathlib import Path
from unittest.mock import Mock

import onnx
import pytest
from onnx import TensorProto, helper

from edgeseg_runtime.onnx import quantized
from edgeseg_runtime.onnx.quantized import (
    NONNEGATIVE_ZERO_POINT,
    ZERO_POINT,
    bytes_for_cpu,
    do_products_overflow,
    prepare_for_cpu,
)

CPUINFO = Path("/proc/cpuinfo")


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


def test_the_product_that_is_tried_is_of_uint8_and_int8():
    kinds = {
        "x": (TensorProto.UINT8, [4, 16]),
        "w": (TensorProto.INT8, [16, 16]),
        "y": (TensorProto.INT32, [4, 16]),
    }
    x, w, y = (helper.make_tensor_value_info(name, *kind) for name, kind in kinds.items())
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    model = helper.make_model(
        helper.make_graph([node], "g", [x, w], [y]),
        ir_version=8,
        opset_imports=[helper.make_opsetid("", 17)],
    )
    assert onnx.load_from_string(quantized._PRODUCT) == model


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not CPUINFO.exists(), reason="needs Linux on x86-64"
)
def test_products_overflow_where_there_is_no_vnni():
    pytest.importorskip("onnxruntime")
    flags = CPUINFO.read_text(encoding="utf-8").split()
    has_vnni = not {"avx512_vnni", "avx_vnni"}.isdisjoint(flags)
    assert do_products_overflow() is not has_vnni


@pytest.mark.parametrize(
    ("content", "is_wrong", "entries"),
    [
        (graph(0), True, [("session.x64quantprecision", "1")]),
        (graph(0, name=NONNEGATIVE_ZERO_POINT), True, [("session.x64quantprecision", "1")]),
        (graph(0), False, []),
        (graph(0, name="zero"), True, []),
    ],
    ids=["int8", "behind a ReLU", "exact anyway", "no int8"],
)
def test_the_slow_exact_kernel_is_taken_only_where_the_fast_one_is_wrong(
    content, is_wrong, entries, monkeypatch
):
    options = Mock()
    monkeypatch.setattr(quantized, "do_products_overflow", lambda: is_wrong)
    assert prepare_for_cpu(content, options) == bytes_for_cpu(content)
    assert [call.args for call in options.add_session_config_entry.call_args_list] == entries
