"""The description of an ONNX model agrees with what the onnx package reads."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_bundle import tiny_model

from edgeseg_runtime.onnx.summary import summarise


def test_a_model_is_described_as_onnx_reads_it():
    model = tiny_model()
    found = summarise(model.SerializeToString())
    assert found["graph"] == {
        "producer": model.producer_name,
        "ir_version": model.ir_version,
        "opsets": {"ai.onnx": 17},
        "num_nodes": len(model.graph.node),
        "functions": [],
    }
    operators = [node.op_type for node in model.graph.node]
    assert found["operators"] == {name: operators.count(name) for name in found["operators"]}
    assert sum(found["operators"].values()) == len(operators)
    assert found["inputs"][0] == {"name": "image", "dtype": "uint8", "shape": [1, 48, 64, 3]}
    assert [value["name"] for value in found["outputs"]] == [o.name for o in model.graph.output]


def test_what_no_bundle_may_hold_is_described_all_the_same():
    node = helper.make_node
    value = helper.make_tensor_value_info
    weight = numpy_helper.from_array(np.ones(2, np.float32), "w")
    strings = helper.make_tensor_sequence_value_info("s", TensorProto.STRING, None)
    graph = helper.make_graph(
        [node("Add", ["x", "w"], ["y"]), node("Own", ["y"], ["z"], domain="mine"),
         node("Nms_4", ["z"], ["n"], domain="edgeseg"), node("Add", ["n", "w"], ["m"])],
        "g",
        [value("x", TensorProto.BFLOAT16, ["N", 2]), value("w", TensorProto.FLOAT, [2]), strings],
        [value("m", 99, [None, 2])],
        [weight],
    )  # fmt: skip
    function = helper.make_function("mine", "Own", ["a"], ["b"], [node("Abs", ["a"], ["b"])], [])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 3)]
    model = helper.make_model(graph, opset_imports=opsets, functions=[function])
    model.producer_name, model.producer_version = "somebody", "1.2"
    found = summarise(model.SerializeToString())
    assert found["graph"]["producer"] == "somebody 1.2"
    assert found["graph"]["opsets"] == {"ai.onnx": 20, "mine": 3}
    assert found["graph"]["functions"] == ["mine::Own"]
    assert list(found["operators"].items()) == [("edgeseg::Nms_4", 1), ("Add", 2), ("mine::Own", 1)]
    assert found["inputs"] == [
        {"name": "x", "dtype": "bfloat16", "shape": ["N", 2]},
        {"name": "s", "dtype": "sequence_type", "shape": []},
    ]
    assert found["outputs"] == [{"name": "m", "dtype": "type 99", "shape": ["?", 2]}]


@pytest.mark.parametrize("content", [b"", b"\xff\xff\xff", b"\x3a\x00", b"\x38\x01"])
def test_what_is_no_model_is_refused(content):
    with pytest.raises(ValueError, match=r"no graph|a number|an integer"):
        summarise(content)


def test_the_names_of_types_are_onnx_s():
    from edgeseg_runtime.onnx.summary import _DTYPES

    for number, name in enumerate(_DTYPES):
        if name not in ("undefined", "string"):
            assert helper.tensor_dtype_to_np_dtype(number).name == name
