"""Models of one node of every operator that a bundle may hold, with inputs that mostly fit it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx_cases import constant, node

from edgeseg_runtime.onnx.operators import ATTRIBUTES, OPERATORS

Shape = tuple[int, ...]
Inputs = list[Any]  # arrays; None for one that is left out
Case = Callable[[random.Random], tuple[Inputs, dict[str, Any]]]

SHAPES: tuple[Shape, ...] = ((1, 3, 8, 8), (2, 4, 6), (3, 5), (4,), (), (1, 2, 3, 4, 5), (1, 1))
VALUES: dict[str, tuple[Any, ...]] = {
    "auto_pad": ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"),
    "mode": ("linear", "nearest", "cubic", "constant", "reflect", "edge", "wrap", "DCR", "CRD"),
    "padding_mode": ("zeros", "border", "reflection"),
    "reduction": ("none", "add", "mul", "max", "min"),
    "direction": ("LEFT", "RIGHT", "forward", "reverse", "bidirectional"),
    "coordinate_transformation_mode": (
        "half_pixel",
        "align_corners",
        "asymmetric",
        "pytorch_half_pixel",
    ),
    "nearest_mode": ("floor", "ceil", "round_prefer_floor"),
    "approximate": ("none", "tanh"),
    "keep_aspect_ratio_policy": ("stretch",),
    "equation": ("ij,jk->ik", "bij,bjk->bik", "i,j->ij", "ij->ji"),
}


def random_model(rng: random.Random) -> onnx.ModelProto:
    """Return a model of one node, or of two in a row."""
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {}
    feeds: dict[str, np.ndarray] = {}
    last = None
    for index in range(rng.choice((1, 1, 2))):
        operator = rng.choice(sorted(OPERATORS))
        inputs, attributes = CASES.get(operator, _anything(operator))(rng)
        names = []
        for place, array in enumerate(inputs):
            name = "" if array is None else f"i{index}_{place}"
            if array is not None and place == 0 and last is not None:
                name = last
            elif array is not None and place == 0:
                feeds[name] = np.asarray(array)
            elif array is not None:
                constants[name] = np.asarray(array)
            names.append(name)
        if rng.random() < 0.3:
            attributes |= _some_attributes(operator, rng)
        most = OPERATORS[operator].max_outputs
        outputs = [f"o{index}_{number}" for number in range(rng.randint(1, min(most, 3)))]
        nodes.append(node(operator, names, outputs, **attributes))
        last = outputs[0]
    if not feeds:
        feeds["x"] = np.zeros((1, 3), np.float32)
        nodes.append(node("Identity", ["x"], ["unused"]))
    assert last is not None
    graph = helper.make_graph(
        nodes,
        "graph",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in feeds.items()
        ],
        [helper.make_tensor_value_info(last, rng.choice((1, 1, 1, 7, 9, 6, 3, 2)), None)],
        [constant(name, array) for name, array in constants.items()],
    )
    opset = rng.choice((13, 17, 18, 20, 20, 21, 22, 23))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _array(rng: random.Random, shape: Shape | None = None, dtype: Any = None) -> np.ndarray:
    shape = rng.choice(SHAPES) if shape is None else shape
    dtype = dtype or rng.choice(
        (np.float32,) * 6 + (np.int64, np.int32, np.uint8, np.int8, np.bool_, np.float16)
    )
    count = int(np.prod(shape, dtype=int))
    return np.array([rng.randrange(-3, 9) for _ in range(count)]).reshape(shape).astype(dtype)


def _anything(operator: str) -> Case:
    def case(rng: random.Random) -> tuple[Inputs, dict[str, Any]]:
        entry = OPERATORS[operator]
        count = rng.randint(entry.min_inputs, min(entry.max_inputs, entry.min_inputs + 2))
        first = _array(rng)
        return [first, *(_array(rng, first.shape, first.dtype) for _ in range(count - 1))][
            :count
        ], {}

    return case


def _some_attributes(operator: str, rng: random.Random) -> dict[str, Any]:
    names = sorted(OPERATORS[operator].attributes)
    chosen = rng.sample(names, min(len(names), rng.randint(0, 2)))
    return {name: _attribute(name, rng) for name in chosen}


def _attribute(name: str, rng: random.Random) -> Any:
    kind = ATTRIBUTES[name]
    if name in VALUES:
        return rng.choice(VALUES[name])
    if kind == 2:
        return rng.choice((0, 1, 1, 2, 3, 6, 7, -1, -2))
    if kind == 7:
        return [rng.choice((0, 1, 1, 2, 3)) for _ in range(rng.choice((1, 2, 2, 4, 4)))]
    if kind == 4:
        return numpy_helper.from_array(_array(rng, rng.choice(((1,), (2, 2)))))
    if kind == 1:
        return rng.choice((0.0, 0.5, 1.0, -1.0))
    return [0.5] if kind == 6 else ["Tanh"] if kind == 8 else "x"


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


F = np.float32


def _conv(rng: random.Random) -> tuple[Inputs, dict[str, Any]]:
    rank = rng.choice((1, 2, 2, 2, 3))
    group = rng.choice((1, 1, 2, 4))
    kernel = [rng.randint(1, 3) for _ in range(rank)]
    x = _array(rng, (rng.choice((1, 2)), 4, *[rng.randint(3, 9) for _ in range(rank)]), F)
    w = _array(rng, (4, 4 // group, *kernel), F)
    attributes: dict[str, Any] = {"group": group, "strides": [rng.randint(1, 3) for _ in kernel]}
    if rng.random() < 0.5:
        attributes["pads"] = [rng.randint(0, 2) for _ in range(2 * rank)]
    if rng.random() < 0.3:
        attributes["dilations"] = [rng.randint(1, 2) for _ in kernel]
    return [x, w, *([_array(rng, (4,), F)] if rng.random() < 0.5 else [])], attributes


def _conv_integer(rng: random.Random) -> tuple[Inputs, dict[str, Any]]:
    (x, w, *_), attributes = _conv(rng)
    return [x.astype(np.uint8), w.astype(rng.choice((np.uint8, np.int8))), np.uint8(1)], attributes


def _quantized_conv(rng: random.Random) -> tuple[Inputs, dict[str, Any]]:
    (x, w, *_), attributes = _conv(rng)
    scale, zero = F(0.5), np.uint8(1)
    return [
        x.astype(np.uint8),
        scale,
        zero,
        w.astype(np.int8),
        scale,
        np.int8(0),
        scale,
        zero,
    ], attributes


def _deform(rng: random.Random) -> tuple[Inputs, dict[str, Any]]:
    x, w = _array(rng, (1, 4, 6, 6), F), _array(rng, (2, 4, 3, 3), F)
    inputs: Inputs = [x, w, _array(rng, (1, 18, 4, 4), F), None, _array(rng, (1, 9, 4, 4), F)]
    return inputs[: rng.choice((3, 5))], {}


def _pool(rng: random.Random) -> tuple[Inputs, dict[str, Any]]:
    attributes: dict[str, Any] = {"kernel_shape": [rng.randint(1, 4), rng.randint(1, 4)]}
    if rng.random() < 0.5:
        attributes |= {
            "strides": [rng.randint(1, 3), rng.randint(1, 3)],
            "ceil_mode": rng.choice((0, 1)),
        }
    if rng.random() < 0.5:
        attributes["pads"] = [rng.randint(0, 1) for _ in range(4)]
    return [_array(rng, (1, 3, 8, 9), F)], attributes


def _gru(gates: int) -> Case:
    def case(rng: random.Random) -> tuple[Inputs, dict[str, Any]]:
        h, d = 3, rng.choice((1, 2))
        inputs: Inputs = [
            _array(rng, (4, 2, 5), F),
            _array(rng, (d, gates * h, 5), F),
            _array(rng, (d, gates * h, h), F),
            _array(rng, (d, 2 * gates * h), F),
            np.array([rng.choice((1, 4, 0, 9, -1)), 4], np.int32),
        ]
        direction = "bidirectional" if d == 2 else rng.choice(("forward", "reverse"))
        return inputs[: rng.choice((3, 4, 5))], {"hidden_size": h, "direction": direction}

    return case


def _indices(rng: random.Random, shape: Shape, size: int) -> np.ndarray:
    return np.array(
        [rng.randrange(-size, size) for _ in range(int(np.prod(shape)))], np.int64
    ).reshape(shape)


def _reduce(rng: random.Random) -> tuple[Inputs, dict[str, Any]]:
    axes = rng.choice((_ints(0), _ints(-1), _ints(0, 1), _ints()))
    return [_array(rng, (3, 4, 5), F), axes], {"keepdims": rng.choice((0, 1))}


CASES: dict[str, Case] = {
    "AffineGrid": lambda r: ([_array(r, (1, 2, 3), F), _ints(1, 3, r.randint(1, 9), 5)], {}),
    "AveragePool": _pool,
    "BatchNormalization": lambda r: (
        [_array(r, (2, 3, 4), F), *(_array(r, (3,), F) for _ in range(4))],
        {},
    ),
    "BitShift": lambda r: (
        [_array(r, (3,), np.uint8), np.array([1, 2, r.choice((3, 200))], np.uint8)],
        {"direction": r.choice(("LEFT", "RIGHT"))},
    ),
    "Cast": lambda r: ([_array(r)], {"to": r.choice((1, 2, 3, 6, 7, 9, 10, 11, 12, 13))}),
    "Concat": lambda r: (
        [_array(r, (2, 3), F), _array(r, (2, 3), F)],
        {"axis": r.choice((0, 1, -1))},
    ),
    "Constant": lambda r: (
        [],
        r.choice(({"value_int": 3}, {"value_floats": [1.0, 2.0]}, {"value": constant("", F(2))})),
    ),
    "ConstantOfShape": lambda r: ([None], {}),
    "Conv": _conv,
    "ConvInteger": _conv_integer,
    "ConvTranspose": lambda r: _conv(r),
    "CumSum": lambda r: (
        [_array(r, (3, 4), r.choice((F, np.int64))), np.array(r.choice((0, 1, -1)))],
        {"reverse": r.choice((0, 1)), "exclusive": r.choice((0, 1))},
    ),
    "DeformConv": _deform,
    "DepthToSpace": lambda r: ([_array(r, (1, 8, 3, 3), F)], {"blocksize": r.choice((1, 2))}),
    "DequantizeLinear": lambda r: ([_array(r, (2, 3), np.int8), F(0.5), np.int8(0)], {}),
    "Div": lambda r: (
        [_array(r, (3,), r.choice((F, np.int32, np.int64))), np.array([1, 2, r.choice((3, -7))])],
        {},
    ),
    "Einsum": lambda r: ([_array(r, (3, 3), F), _array(r, (3, 3), F)], {"equation": "ij,jk->ik"}),
    "Expand": lambda r: ([_array(r, (3, 1), F), _ints(r.choice((1, 2)), 3, r.choice((1, 5)))], {}),
    "Gather": lambda r: ([_array(r, (3, 4)), _indices(r, (2, 2), 3)], {"axis": 0}),
    "GatherElements": lambda r: (
        [_array(r, (3, 4)), _indices(r, (3, 2), 3)],
        {"axis": r.choice((0, 1))},
    ),
    "GatherND": lambda r: (
        [_array(r, (3, 3, 3)), _indices(r, r.choice(((3, 1), (2, 3), (3, 2, 2))), 3)],
        {"batch_dims": r.choice((0, 0, 1))},
    ),
    "Gemm": lambda r: ([_array(r, (2, 3), F), _array(r, (3, 4), F), _array(r, (4,), F)], {}),
    "GridSample": lambda r: (
        [_array(r, (1, 2, 4, 4), F), _array(r, (1, 3, 3, 2), F)],
        {"align_corners": r.choice((0, 1)), "padding_mode": r.choice(VALUES["padding_mode"])},
    ),
    "GroupNormalization": lambda r: (
        [
            _array(r, (1, 4, 3), F),
            _array(r, (r.choice((2, 4)),), F),
            _array(r, (r.choice((2, 4)),), F),
        ],
        {"num_groups": 2},
    ),
    "GRU": _gru(3),
    "InstanceNormalization": lambda r: (
        [_array(r, (2, 3, 4), F), _array(r, (3,), F), _array(r, (3,), F)],
        {},
    ),
    "LRN": lambda r: ([_array(r, (1, 4, 3, 3), F)], {"size": r.choice((1, 2, 3, 5, 9))}),
    "LSTM": _gru(4),
    "LayerNormalization": lambda r: ([_array(r, (2, 3, 4), F), _array(r, (4,), F)], {}),
    "LpPool": _pool,
    "MatMul": lambda r: ([_array(r, (2, 3, 4), F), _array(r, (4, 5), F)], {}),
    "MatMulInteger": lambda r: (
        [_array(r, (3, 4), np.uint8), _array(r, (4, 5), np.int8), np.uint8(1)],
        {},
    ),
    "MaxPool": _pool,
    "Mod": lambda r: (
        [_array(r, (3,), r.choice((F, np.int32))), np.array([1, 2, r.choice((3, -7))])],
        {"fmod": r.choice((0, 1))},
    ),
    "OneHot": lambda r: (
        [_array(r, (2, 3), np.int64), np.array(r.choice((1, 5))), np.array([0, 1], F)],
        {"axis": r.choice((0, -1))},
    ),
    "Pad": lambda r: (
        [_array(r, (3, 4), F), _ints(*(r.randint(-2, 3) for _ in range(4)))],
        {"mode": r.choice(("constant", "reflect", "edge", "wrap"))},
    ),
    "PRelu": lambda r: ([_array(r, (2, 3), F), _array(r, (3,), F)], {}),
    "QLinearConv": _quantized_conv,
    "QLinearMatMul": lambda r: (
        [
            _array(r, (3, 4), np.uint8),
            F(0.5),
            np.uint8(0),
            _array(r, (4, 5), np.int8),
            F(0.5),
            np.int8(0),
            F(0.5),
            np.uint8(0),
        ],
        {},
    ),
    "QuantizeLinear": lambda r: (
        [_array(r, (2, 3), F), r.choice((F(0.5), np.ones(3, F))), None],
        {},
    ),
    "RNN": _gru(1),
    "Range": lambda r: ([np.int64(0), np.int64(r.choice((3, 9))), np.int64(1)], {}),
    **dict.fromkeys([name for name in OPERATORS if name.startswith("Reduce")], _reduce),
    "Reshape": lambda r: (
        [_array(r, (3, 4)), r.choice((_ints(2, 6), _ints(-1), _ints(0, -1), _ints(0, 0, 1)))],
        {},
    ),
    "Resize": lambda r: (
        [_array(r, (1, 2, 4, 4), F), None, np.array([1, 1, *r.choice(((2, 2), (0.5, 3)))], F)],
        {"mode": r.choice(("linear", "nearest", "cubic"))},
    ),
    "ReverseSequence": lambda r: (
        [_array(r, (4, 3), F), np.array([r.choice((0, 1, 4, 9, -1)), 2, 3])],
        {},
    ),
    "ScatterElements": lambda r: (
        [_array(r, (3, 3), F), _indices(r, (2, 2), 3), _array(r, (2, 2), F)],
        {"reduction": r.choice(VALUES["reduction"])},
    ),
    "ScatterND": lambda r: (
        [_array(r, (3, 3), F), _indices(r, (2, 1), 3), _array(r, (2, 3), F)],
        {"reduction": r.choice(VALUES["reduction"])},
    ),
    "Slice": lambda r: (
        [
            _array(r, (5, 6)),
            _ints(r.randint(-7, 7)),
            _ints(r.choice((3, -1, 2**62, -(2**63)))),
            _ints(r.choice((0, 1, -1))),
            _ints(r.choice((1, 2, -1))),
        ],
        {},
    ),
    "SpaceToDepth": lambda r: ([_array(r, (1, 2, 4, 4), F)], {"blocksize": r.choice((1, 2, 4))}),
    "Split": lambda r: ([_array(r, (6, 2)), _ints(*r.choice(((6,), (2, 4), (1, 2, 3))))], {}),
    "Squeeze": lambda r: ([_array(r, (1, 3, 1)), _ints(0)], {}),
    "Tile": lambda r: ([_array(r, (2, 3)), _ints(r.choice((1, 4)), 2)], {}),
    "TopK": lambda r: (
        [_array(r, (3, 5), F), _ints(r.choice((1, 3, 5)))],
        {"axis": r.choice((1, -1, 0)), "largest": r.choice((0, 1)), "sorted": r.choice((0, 1))},
    ),
    "Transpose": lambda r: ([_array(r, (2, 3, 4))], {"perm": r.choice(([2, 0, 1], [0, 1, 2]))}),
    "Trilu": lambda r: (
        [_array(r, (4, 4), r.choice((F, np.int64))), np.array(r.choice((0, 1, -9, 2**40)))],
        {"upper": r.choice((0, 1))},
    ),
    "Unsqueeze": lambda r: ([_array(r), _ints(r.choice((0, -1)))], {}),
    "Where": lambda r: ([_array(r, (3,), np.bool_), _array(r, (3,), F), _array(r, (2, 3), F)], {}),
}
"""Operators whose inputs must fit each other -> a case."""
