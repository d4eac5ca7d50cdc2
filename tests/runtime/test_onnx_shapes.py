"""The rules of shapes: those of ONNX's own inference, and of its node tests."""

import warnings

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper, shape_inference
from onnx_cases import model_of, node

from edgeseg_runtime.onnx.check import check_graph
from edgeseg_runtime.onnx.infer import values_of
from edgeseg_runtime.onnx.model import DTYPES, read_model
from edgeseg_runtime.onnx.operators import OPERATORS
from edgeseg_runtime.onnx.rules.values import Value

F = TensorProto.FLOAT


def ints(*values):
    return np.array(values, np.int64)


def zeros(*shape):
    return np.zeros(shape, np.float32)


IMAGE = (1, 4, 9, 11)
CASES = {
    "Conv with pads": (IMAGE, ["Conv", zeros(6, 2, 3, 3)], {"group": 2, "pads": [1, 0, 2, 1]}),
    "Conv with strides": (
        IMAGE,
        ["Conv", zeros(6, 4, 3, 2)],
        {"strides": [2, 3], "dilations": [2, 1]},
    ),
    "Conv by itself": (
        IMAGE,
        ["Conv", zeros(6, 4, 3, 2)],
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    ),
    "ConvTranspose": (IMAGE, ["ConvTranspose", zeros(4, 3, 2, 2)], {"strides": [2, 2]}),
    "ConvTranspose with more": (
        IMAGE,
        ["ConvTranspose", zeros(4, 3, 3, 3)],
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 0]},
    ),
    "MaxPool": (
        IMAGE,
        ["MaxPool"],
        {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]},
    ),
    "MaxPool rounded up": (
        IMAGE,
        ["MaxPool"],
        {"kernel_shape": [3, 3], "strides": [3, 3], "ceil_mode": 1},
    ),
    "GlobalAveragePool": (IMAGE, ["GlobalAveragePool"], {}),
    "Gemm": ((3, 5), ["Gemm", zeros(7, 5), zeros(7)], {"transB": 1}),
    "MatMul of a vector": ((5,), ["MatMul", zeros(2, 5, 3)], {}),
    "MatMul of many": ((2, 1, 4, 5), ["MatMul", zeros(3, 5, 6)], {}),
    "Einsum": ((2, 3, 4), ["Einsum", zeros(2, 4, 5)], {"equation": "bij,bjk->bki"}),
    "Reshape with a rest": (IMAGE, ["Reshape", ints(0, -1, 11)], {}),
    "Reshape to a scalar": ((1, 1), ["Reshape", ints()], {}),
    "Transpose": (IMAGE, ["Transpose"], {"perm": [0, 2, 3, 1]}),
    "Flatten": (IMAGE, ["Flatten"], {"axis": -2}),
    "Squeeze": ((1, 3, 1), ["Squeeze", ints(-1)], {}),
    "Unsqueeze": ((3, 4), ["Unsqueeze", ints(0, -1)], {}),
    "Slice backwards": ((7, 8), ["Slice", ints(5), ints(-(2**63)), ints(-1), ints(-2)], {}),
    "Slice beyond": ((7, 8), ["Slice", ints(2), ints(2**62), ints(0)], {}),
    "Pad": ((3, 4), ["Pad", ints(1, 2, 0, 3)], {}),
    "Pad of an axis": ((3, 4), ["Pad", ints(1, 2), np.float32(0), ints(-1)], {}),
    "Expand": ((3, 1), ["Expand", ints(2, 1, 5)], {}),
    "Tile": ((3, 2), ["Tile", ints(2, 4)], {}),
    "Gather": ((3, 4, 5), ["Gather", ints(0, 1, 0).reshape(1, 3)], {"axis": 1}),
    "Gather of one": ((3, 4), ["Gather", np.array(1)], {"axis": 0}),
    "GatherElements": ((3, 4), ["GatherElements", np.zeros((2, 4), np.int64)], {}),
    "GatherND": ((2, 3, 4), ["GatherND", np.zeros((2, 5, 1), np.int64)], {"batch_dims": 1}),
    "ScatterND": ((4, 5), ["ScatterND", np.zeros((3, 1), np.int64), zeros(3, 5)], {}),
    "Resize by scales": (IMAGE, ["Resize", None, np.array([1, 1, 2, 0.5], np.float32)], {}),
    "Resize to sizes": (IMAGE, ["Resize", None, None, ints(1, 4, 5, 6)], {}),
    "GridSample": (IMAGE, ["GridSample", zeros(1, 7, 8, 2)], {}),
    "ReduceSum": (IMAGE, ["ReduceSum", ints(2, -1)], {"keepdims": 0}),
    "ReduceMax of all": (IMAGE, ["ReduceMax"], {"keepdims": 0}),
    "ArgMax": (IMAGE, ["ArgMax"], {"axis": 1}),
    "TopK": ((3, 9), ["TopK", ints(4)], {}),
    "CumSum": ((3, 9), ["CumSum", np.array(1)], {}),
    "DepthToSpace": ((1, 8, 3, 5), ["DepthToSpace"], {"blocksize": 2}),
    "SpaceToDepth": ((1, 2, 4, 6), ["SpaceToDepth"], {"blocksize": 2}),
    "QuantizeLinear": (IMAGE, ["QuantizeLinear", np.float32(1), np.int8(0)], {}),
    "Where": ((3, 4), ["Greater", zeros(2, 3, 1)], {}),
    "LayerNormalization": ((2, 3, 4), ["LayerNormalization", zeros(4)], {}),
    "Split": ((2, 9), ["Split", ints(2, 7)], {"axis": 1}),
}


OTHER_TYPES = {"ArgMax": TensorProto.INT64, "Greater": TensorProto.BOOL, "QuantizeLinear": 3}


def build(shape, parts, attributes):
    operator, *others = parts
    names = ["" if other is None else f"c{index}" for index, other in enumerate(others)]
    constants = {n: o for n, o in zip(names, others, strict=True) if n}
    outputs = ["y", "second"] if operator in {"TopK", "Split"} else ["y"]
    nodes = [node(operator, ["x", *names], outputs, **attributes)]
    return model_of(nodes, constants, x=(F, [*shape]), y=(OTHER_TYPES.get(operator, F), None))


@pytest.mark.parametrize("name", CASES)
def test_a_shape_is_that_of_onnx_own_inference(name):
    model = build(*CASES[name])
    found = values_of(read_model(model.SerializeToString()))["y"]
    model.graph.output[0].type.Clear()
    inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    expected = inferred.graph.output[0].type.tensor_type
    assert found.shape == tuple(dim.dim_value for dim in expected.shape.dim)
    assert found.dtype == expected.elem_type


# ---------------------------------------------------------------- sizes that are computed

ARITHMETIC = [
    node("Shape", ["x"], ["sizes"]),
    node("Gather", ["sizes", "two"], ["height"]),
    node("Mul", ["height", "two"], ["doubled"]),
    node("Sub", ["doubled", "one"], ["less"]),
    node("Div", ["less", "two"], ["half"]),
    node("Max", ["half", "one"], ["most"]),
    node("Cast", ["most"], ["cast"], to=7),
    node("Unsqueeze", ["cast", "zeros"], ["row"]),
    node("Concat", ["row", "three"], ["wanted"], axis=0),
    node("Slice", ["wanted", "zeros", "twos"], ["cut"]),
    node("ConstantOfShape", ["cut"], ["y"]),
]


def test_sizes_that_are_computed_from_sizes_are_followed():
    constants = {
        "one": np.int64(1),
        "two": np.int64(2),
        "zeros": ints(0),
        "twos": ints(2),
        "three": ints(3),
    }
    model = model_of(ARITHMETIC, constants, x=(F, ["batch", 3, 6, 8]))
    assert values_of(read_model(model.SerializeToString()))["y"].shape == (5, 3)


def test_what_lies_behind_an_operator_of_ones_own_is_not_known():
    model = model_of([node("NonZero", ["x"], ["places"]), node("Neg", ["places"], ["y"])])
    assert values_of(read_model(model.SerializeToString()))["y"] == Value(None, None)
    check_graph(model.SerializeToString(), allow_operators=["NonZero"])


# ---------------------------------------------------------------- ONNX's own tests of its operators

REFUSED = {
    "Div": "integers",
    "Mod": "integers",
    "BatchNormalization": "training",
    "DequantizeLinear": "blocks",
    "QuantizeLinear": "blocks",
    "Einsum": "an ellipsis, or no result",
    "GRU": "the batch first",
    "LSTM": "the batch first",
    "RNN": "the batch first",
    "Range": "bfloat16",
    "Resize": "the aspect ratio kept",
    "Split": "nothing",
    "Trilu": "nothing",
}
"""Operators of which some tests are refused, and what these do."""


@pytest.mark.exhaustive
def test_the_shapes_of_onnx_node_tests_come_out():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its numbers overflow on purpose
        from onnx.backend.test.case.node import collect_testcases

        cases = collect_testcases(None)
    num_right = 0
    refusals = {}
    for case in cases:
        (nodes, graph) = (case.model.graph.node, case.model.graph)
        if len(nodes) != 1 or nodes[0].op_type not in OPERATORS or nodes[0].domain:
            continue
        inputs, outputs = (list(map(np.asarray, part)) for part in case.data_sets[0])
        fixed = onnx.ModelProto()
        fixed.CopyFrom(case.model)
        fixed.opset_import[0].version = min(fixed.opset_import[0].version, 23)
        types = [v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)]
        are_plain = all(array.dtype.kind in "biuf" for array in inputs + outputs)
        if not are_plain or any(DTYPES.get(t, "bfloat16") == "bfloat16" for t in types):
            continue
        del fixed.graph.input[:]
        for value, array in zip(graph.input, inputs, strict=True):
            fixed.graph.initializer.append(numpy_helper.from_array(array, value.name))
        try:
            values = values_of(read_model(fixed.SerializeToString()))
        except ValueError as error:
            refusals[case.name] = (nodes[0].op_type, str(error))
            continue
        num_right += 1
        for value, array in zip(graph.output, outputs, strict=True):
            found = values[value.name]
            assert found.shape == array.shape, case.name
            assert found.dtype == value.type.tensor_type.elem_type, case.name
            if found.data is not None:
                np.testing.assert_allclose(found.data, array, err_msg=case.name)
    assert num_right > 700
    for name, (operator, reason) in refusals.items():
        assert operator in REFUSED or "which a bundle may not have" in reason, name
