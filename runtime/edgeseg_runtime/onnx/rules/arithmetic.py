"""Rules of operators that compute: element by element, reductions, normalisation, products, quantisation."""

from __future__ import annotations

import re

import numpy as np

from edgeseg_runtime.onnx.model import DTYPES, Node
from edgeseg_runtime.onnx.rules.values import (
    BOOL,
    FLOAT,
    INT32,
    INT64,
    INTEGERS,
    UINT8,
    Inputs,
    Outputs,
    Rule,
    Shape,
    Value,
    as_axes,
    as_axis,
    broadcast,
    ints_of,
    mismatch,
    require,
    scalar_of,
)


# ---------------------------------------------------------------- element by element
def same(node: Node, x: Inputs) -> Outputs:
    """One output like the first input."""
    return [Value(x[0].dtype, x[0].shape)]


def same_bool(node: Node, x: Inputs) -> Outputs:
    """One truth value for each element."""
    return [Value(BOOL, x[0].shape)]


def cast(node: Node, x: Inputs) -> Outputs:
    """The same shape in the type `to`."""
    dtype = node.attribute("to")
    require(dtype in DTYPES, f"casts to the type {dtype}, which a bundle may not have")
    return [Value(dtype, x[0].shape)]


def cast_like(node: Node, x: Inputs) -> Outputs:
    """The first input's shape in the second's type."""
    return [Value(x[1].dtype, x[0].shape)]


def clip(node: Node, x: Inputs) -> Outputs:
    """Bounds are scalars."""
    require(
        all(bound is None or bound.num_elements == 1 for bound in x[1:]),
        "has bounds that are not scalars",
    )
    return same(node, x)


def elementwise(node: Node, x: Inputs) -> Outputs:
    """All inputs against each other."""
    return [Value(x[0].dtype, broadcast([value.shape for value in x]))]


def comparison(node: Node, x: Inputs) -> Outputs:
    """All inputs against each other, truth values."""
    return [Value(BOOL, broadcast([value.shape for value in x]))]


def where(node: Node, x: Inputs) -> Outputs:
    """The type is that of what is chosen from."""
    return [Value(x[1].dtype, broadcast([value.shape for value in x]))]


def division(node: Node, x: Inputs) -> Outputs:
    """Whole numbers are divided by known ones only: a processor ends the program that divides by 0.

    So it does for the lowest number divided by -1.
    """
    if x[0].dtype in INTEGERS or x[0].dtype is None:
        divisor = x[1].data
        require(
            divisor is not None and not bool(np.isin(divisor, (0, -1)).any()),
            "divides whole numbers by something else than constants, of which none is 0 or -1",
        )
    return elementwise(node, x)


def prelu(node: Node, x: Inputs) -> Outputs:
    """The slope is stretched to the input, not the other way."""
    require(broadcast([x[0].shape, x[1].shape]) == x[0].shape, mismatch(x))
    return same(node, x)


def along_axis(node: Node, x: Inputs) -> Outputs:
    """The same shape; the axis is one of the input's."""
    as_axis(node.attribute("axis", -1), len(x[0].shape))
    return same(node, x)


def cum_sum(node: Node, x: Inputs) -> Outputs:
    """The axis is an input."""
    as_axis(scalar_of(x, 1), len(x[0].shape))
    return same(node, x)


# ---------------------------------------------------------------- reductions
def reduction(node: Node, x: Inputs) -> Outputs:
    """Axes are an attribute before opset 18 (ReduceSum: 13), an input from then on."""
    shape: Shape = x[0].shape
    axes = node.attribute("axes")
    if len(x) > 1 and x[1] is not None:
        require(axes is None, "has its axes twice")
        axes = ints_of(x, 1)
    if not axes:
        if node.attribute("noop_with_empty_axes", 0):
            return same(node, x)
        axes = range(len(shape))
    kept = as_axes(axes, len(shape))
    return [Value(x[0].dtype, _reduced(shape, kept, node.attribute("keepdims", 1)))]


def arg_reduction(node: Node, x: Inputs) -> Outputs:
    """Positions, int64."""
    axis = as_axis(node.attribute("axis", 0), len(x[0].shape))
    return [Value(INT64, _reduced(x[0].shape, {axis}, node.attribute("keepdims", 1)))]


def top_k(node: Node, x: Inputs) -> Outputs:
    """Values, and their positions as int64."""
    shape = list(x[0].shape)
    axis = as_axis(node.attribute("axis", -1), len(shape))
    count = scalar_of(x, 1)
    require(1 <= count <= shape[axis], f"takes {count} of {shape[axis]}")
    shape[axis] = count
    return [Value(x[0].dtype, tuple(shape)), Value(INT64, tuple(shape))]


def _reduced(shape: Shape, axes: set[int], keepdims: int) -> Shape:
    sizes = [1 if axis in axes else size for axis, size in enumerate(shape)]
    return tuple(s for axis, s in enumerate(sizes) if keepdims or axis not in axes)


# ---------------------------------------------------------------- normalisation
def batch_norm(node: Node, x: Inputs) -> Outputs:
    """Only as at inference: with `training_mode` the second and later outputs would be statistics."""
    require(not node.attribute("training_mode", 0), "is in training mode")
    require(len(node.outputs) == 1, "gives statistics of training")
    return channel_norm(node, x)


def channel_norm(node: Node, x: Inputs) -> Outputs:
    """Each further input has one number for each channel."""
    require(len(x[0].shape) >= 2, mismatch(x))
    require(all(value.shape == x[0].shape[1:2] for value in x[1:]), mismatch(x))
    return same(node, x)


def group_norm(node: Node, x: Inputs) -> Outputs:
    """Scale and bias are per group in opset 18, per channel from 21 on."""
    require(len(x[0].shape) >= 3, mismatch(x))
    channels, groups = x[0].shape[1], node.attribute("num_groups", 0)
    require(groups >= 1 and channels % groups == 0, f"has {groups} groups of {channels} channels")
    require(x[1].shape == x[2].shape and x[1].shape in {(groups,), (channels,)}, mismatch(x))
    return same(node, x)


def layer_norm(node: Node, x: Inputs) -> Outputs:
    """The result, the mean and the inverse deviation."""
    shape = x[0].shape
    axis = as_axis(node.attribute("axis", -1), len(shape))
    for value in x[1:]:
        fits = value is None or broadcast([shape[axis:], value.shape]) == shape[axis:]
        require(fits, mismatch(x))
    statistics = Value(FLOAT, (*shape[:axis], *[1] * (len(shape) - axis)))
    return [*same(node, x), statistics, statistics]


def axes_norm(node: Node, x: Inputs) -> Outputs:
    """MeanVarianceNormalization: over N, H, W by default."""
    as_axes(node.attribute("axes", [0, 2, 3]), len(x[0].shape))
    return same(node, x)


def response_norm(node: Node, x: Inputs) -> Outputs:
    """LRN: a sum over neighbouring channels."""
    size = node.attribute("size", 0)
    require(len(x[0].shape) >= 3 and 1 <= size <= x[0].shape[1] * 2 + 1, f"has the size {size}")
    return same(node, x)


# ---------------------------------------------------------------- products
def mat_mul(node: Node, x: Inputs) -> Outputs:
    """As numpy.matmul."""
    return [Value(x[0].dtype, _mat_mul(x[0].shape, x[1].shape))]


def mat_mul_integer(node: Node, x: Inputs) -> Outputs:
    """The same in whole numbers; zero points per tensor, row or column."""
    a, b = x[0].shape, x[1].shape
    shape = _mat_mul(a, b)
    for value, sides in zip(x[2:], ((a[-2:-1],), (b[-1:],)), strict=False):
        require(value is None or value.num_elements == 1 or value.shape in sides, mismatch(x))
    return [Value(INT32, shape)]


def quantized_mat_mul(node: Node, x: Inputs) -> Outputs:
    """a, its scale and zero point, b, its scale and zero point, scale and zero point of y."""
    for index in (1, 2, 6, 7):
        require(x[index].num_elements == 1, mismatch(x))
    for index in (4, 5):
        require(x[index].num_elements == 1 or x[index].shape == x[3].shape[-1:], mismatch(x))
    return [Value(x[7].dtype, _mat_mul(x[0].shape, x[3].shape))]


def gemm(node: Node, x: Inputs) -> Outputs:
    """Product of two matrices, plus `c`."""
    a, b = x[0].shape, x[1].shape
    require(len(a) == len(b) == 2, mismatch(x))
    a = a[::-1] if node.attribute("transA", 0) else a
    b = b[::-1] if node.attribute("transB", 0) else b
    shape = (a[0], b[1])
    require(a[1] == b[0], mismatch(x))
    addend = x[2] if len(x) > 2 else None
    require(addend is None or broadcast([shape, addend.shape]) == shape, mismatch(x))
    return [Value(x[0].dtype, shape)]


def einsum(node: Node, x: Inputs) -> Outputs:
    """Only terms without repeated letters and without an ellipsis, and with an explicit result."""
    equation = node.attribute("equation", b"").decode("ascii", "replace").replace(" ", "")
    require(
        re.fullmatch(r"[a-zA-Z]*(,[a-zA-Z]*)*->[a-zA-Z]*", equation) is not None,
        f"has the equation {equation[:80]!r}",
    )
    left, _, right = equation.partition("->")
    sizes: dict[str, int] = {}
    terms = left.split(",")
    require(len(terms) == len(x), f"has {len(x)} inputs for {equation!r}")
    for term, value in zip(terms, x, strict=True):
        require(len(term) == len(value.shape) == len(set(term)), mismatch(x))
        for letter, size in zip(term, value.shape, strict=True):
            require(sizes.setdefault(letter, size) == size, mismatch(x))
    require(len(set(right)) == len(right) and set(right) <= sizes.keys(), f"gives {right!r}")
    return [Value(x[0].dtype, tuple(sizes[letter] for letter in right))]


def _mat_mul(a: Shape, b: Shape) -> Shape:
    require(bool(a) and bool(b), "multiplies scalars")
    rows, columns = (1, *a)[-2:], (b if len(b) > 1 else (*b, 1))[-2:]
    require(rows[1] == columns[0], f"multiplies {list(a)} and {list(b)}")
    shape = broadcast([a[:-2], b[:-2]])
    return (*shape, *a[-2:-1], *(b[-1:] if len(b) > 1 else ()))


# ---------------------------------------------------------------- quantisation
def quantize(node: Node, x: Inputs) -> Outputs:
    """Per tensor, or per slice of an axis; not in blocks."""
    _check_scales(node, x)
    zero = x[2] if len(x) > 2 else None
    dtype = zero.dtype if zero is not None else node.attribute("output_dtype", 0) or UINT8
    require(dtype in DTYPES, f"gives the type {dtype}, which a bundle may not have")
    return [Value(dtype, x[0].shape)]


def dequantize(node: Node, x: Inputs) -> Outputs:
    """The scale has the type of the result."""
    _check_scales(node, x)
    return [Value(x[1].dtype, x[0].shape)]


def dynamic_quantize(node: Node, x: Inputs) -> Outputs:
    """The levels, their scale and their zero point."""
    return [Value(UINT8, x[0].shape), Value(FLOAT, ()), Value(UINT8, ())]


def _check_scales(node: Node, x: Inputs) -> None:
    require(not node.attribute("block_size", 0), "quantises in blocks")
    scale, zero = x[1], x[2] if len(x) > 2 else None
    require(zero is None or zero.shape == scale.shape, mismatch(x))
    if scale.num_elements != 1:
        axis = as_axis(node.attribute("axis", 1), len(x[0].shape))
        require(scale.shape == (x[0].shape[axis],), mismatch(x))


# ---------------------------------------------------------------- recurrent
def recurrent(gates: int) -> Rule:
    """A rule for (T, N, C) with so many gates; all steps, the last, and for LSTM the last cell."""

    def infer(node: Node, x: Inputs) -> Outputs:
        width = node.attribute("hidden_size", 0)
        both = 2 if node.attribute("direction", b"forward") == b"bidirectional" else 1
        require(not node.attribute("layout", 0) and len(x[0].shape) == 3, mismatch(x))
        steps, batch, channels = x[0].shape
        expected = [
            x[0].shape,
            (both, gates * width, channels),
            (both, gates * width, width),
            (both, 2 * gates * width),
            (batch,),
            (both, batch, width),
            (both, batch, width),
            (both, 3 * width),
        ]
        for value, wanted in zip(x, expected, strict=False):
            require(value is None or value.shape == wanted, mismatch(x))
        last = Value(x[0].dtype, (both, batch, width))
        return [Value(x[0].dtype, (steps, both, batch, width)), last, last]

    return infer
