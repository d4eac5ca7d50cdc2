"""What operators of ONNX give: element types and shapes, and small values from which shapes are computed.

Each rule takes a node and its inputs (None for one that is left out) and returns its outputs. A free
axis counts as 1. A rule raises ValueError where the inputs do not fit the operator, and where a
shape depends on what the graph computes; the message goes on after the node's name.

Semantics: onnx/docs/Operators.md, opsets 13 to 23.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.onnx_model import DTYPES, Node, Tensor

__all__ = ["Inputs", "Shape", "Value", "evaluate"]

MAX_RANK = 8
MAX_EVALUATED = 4096
"""Elements up to which a value is computed here."""
BOOL, INT32, INT64, UINT8, FLOAT = 9, 6, 7, 2, 1
_INTEGERS = frozenset({2, 3, 4, 5, 6, 7, 12, 13})

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """What is known of a value.

    Attributes:
        dtype: key of `onnx_model.DTYPES`, None if unknown.
        shape: sizes, 1 for a free axis; None if unknown, as behind an operator of the user's own.
        data: its numbers, as far as they are few and do not depend on the graph's inputs.
        is_constant: whether an engine may compute it when it loads the model, and keep it.
    """

    dtype: int | None
    shape: Shape | None
    data: npt.NDArray[Any] | None = None
    is_constant: bool = False

    @property
    def num_elements(self) -> int:
        """How many numbers it has; 0 if that is unknown."""
        return 0 if self.shape is None else math.prod(self.shape)


Inputs = Sequence[Any]  # of Value with a known shape, or None
Outputs = list[Value]
Rule = Callable[[Node, Inputs], Outputs]


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
    _require(dtype in DTYPES, f"casts to the type {dtype}, which a bundle may not have")
    return [Value(dtype, x[0].shape)]


def cast_like(node: Node, x: Inputs) -> Outputs:
    """The first input's shape in the second's type."""
    return [Value(x[1].dtype, x[0].shape)]


def clip(node: Node, x: Inputs) -> Outputs:
    """Bounds are scalars."""
    _require(
        all(bound is None or bound.num_elements == 1 for bound in x[1:]),
        "has bounds that are no scalars",
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
    if x[0].dtype in _INTEGERS or x[0].dtype is None:
        divisor = x[1].data
        _require(
            divisor is not None and not bool(np.isin(divisor, (0, -1)).any()),
            "divides whole numbers by something else than constants, of which none is 0 or -1",
        )
    return elementwise(node, x)


def prelu(node: Node, x: Inputs) -> Outputs:
    """The slope is stretched to the input, not the other way."""
    _require(broadcast([x[0].shape, x[1].shape]) == x[0].shape, _mismatch(x))
    return same(node, x)


def along_axis(node: Node, x: Inputs) -> Outputs:
    """The same shape; the axis is one of the input's."""
    _axis(node.attribute("axis", -1), len(x[0].shape))
    return same(node, x)


def cum_sum(node: Node, x: Inputs) -> Outputs:
    """The axis is an input."""
    _axis(_scalar(x, 1), len(x[0].shape))
    return same(node, x)


# ---------------------------------------------------------------- reductions


def reduction(node: Node, x: Inputs) -> Outputs:
    """Axes are an attribute before opset 18 (ReduceSum: 13), an input from then on."""
    shape: Shape = x[0].shape
    axes = node.attribute("axes")
    if len(x) > 1 and x[1] is not None:
        _require(axes is None, "has its axes twice")
        axes = _ints(x, 1)
    if not axes:
        if node.attribute("noop_with_empty_axes", 0):
            return same(node, x)
        axes = range(len(shape))
    kept = _axes(axes, len(shape))
    return [Value(x[0].dtype, _reduced(shape, kept, node.attribute("keepdims", 1)))]


def arg_reduction(node: Node, x: Inputs) -> Outputs:
    """Positions, int64."""
    axis = _axis(node.attribute("axis", 0), len(x[0].shape))
    return [Value(INT64, _reduced(x[0].shape, {axis}, node.attribute("keepdims", 1)))]


def top_k(node: Node, x: Inputs) -> Outputs:
    """Values, and their positions as int64."""
    shape = list(x[0].shape)
    axis = _axis(node.attribute("axis", -1), len(shape))
    count = _scalar(x, 1)
    _require(1 <= count <= shape[axis], f"takes {count} of {shape[axis]}")
    shape[axis] = count
    return [Value(x[0].dtype, tuple(shape)), Value(INT64, tuple(shape))]


def _reduced(shape: Shape, axes: set[int], keepdims: int) -> Shape:
    sizes = [1 if axis in axes else size for axis, size in enumerate(shape)]
    return tuple(s for axis, s in enumerate(sizes) if keepdims or axis not in axes)


# ---------------------------------------------------------------- normalisation


def batch_norm(node: Node, x: Inputs) -> Outputs:
    """Only as at inference: with `training_mode` the second and later outputs would be statistics."""
    _require(not node.attribute("training_mode", 0), "is in training mode")
    _require(len(node.outputs) == 1, "gives statistics of training")
    return channel_norm(node, x)


def channel_norm(node: Node, x: Inputs) -> Outputs:
    """Each further input has one number for each channel."""
    _require(len(x[0].shape) >= 2, _mismatch(x))
    _require(all(value.shape == x[0].shape[1:2] for value in x[1:]), _mismatch(x))
    return same(node, x)


def group_norm(node: Node, x: Inputs) -> Outputs:
    """Scale and bias are per group in opset 18, per channel from 21 on."""
    _require(len(x[0].shape) >= 3, _mismatch(x))
    channels, groups = x[0].shape[1], node.attribute("num_groups", 0)
    _require(groups >= 1 and channels % groups == 0, f"has {groups} groups of {channels} channels")
    _require(x[1].shape == x[2].shape and x[1].shape in {(groups,), (channels,)}, _mismatch(x))
    return same(node, x)


def layer_norm(node: Node, x: Inputs) -> Outputs:
    """The result, the mean and the inverse deviation."""
    shape = x[0].shape
    axis = _axis(node.attribute("axis", -1), len(shape))
    for value in x[1:]:
        fits = value is None or broadcast([shape[axis:], value.shape]) == shape[axis:]
        _require(fits, _mismatch(x))
    statistics = Value(FLOAT, (*shape[:axis], *[1] * (len(shape) - axis)))
    return [*same(node, x), statistics, statistics]


def axes_norm(node: Node, x: Inputs) -> Outputs:
    """MeanVarianceNormalization: over N, H, W by default."""
    _axes(node.attribute("axes", [0, 2, 3]), len(x[0].shape))
    return same(node, x)


def response_norm(node: Node, x: Inputs) -> Outputs:
    """LRN: a sum over neighbouring channels."""
    size = node.attribute("size", 0)
    _require(len(x[0].shape) >= 3 and 1 <= size <= x[0].shape[1] * 2 + 1, f"has the size {size}")
    return same(node, x)


# ---------------------------------------------------------------- convolutions and pooling


def conv(node: Node, x: Inputs) -> Outputs:
    """(N, C, *S) and weights (M, C / group, *K)."""
    return [
        Value(x[0].dtype, _conv_shape(node, x[0].shape, x[1].shape, x[2] if len(x) > 2 else None))
    ]


def conv_integer(node: Node, x: Inputs) -> Outputs:
    """The same in whole numbers."""
    _require(
        all(zero is None or zero.num_elements in {1, x[1].shape[0]} for zero in x[2:]), _mismatch(x)
    )
    return [Value(INT32, _conv_shape(node, x[0].shape, x[1].shape, None))]


def quantized_conv(node: Node, x: Inputs) -> Outputs:
    """x, its scale and zero point, w, its scale and zero point, scale and zero point of y, bias."""
    for index in (1, 2, 6, 7):
        _require(x[index].num_elements == 1, _mismatch(x))
    for index in (4, 5):
        _require(x[index].num_elements in {1, x[3].shape[0]}, _mismatch(x))
    return [
        Value(x[7].dtype, _conv_shape(node, x[0].shape, x[3].shape, x[8] if len(x) > 8 else None))
    ]


def _conv_shape(node: Node, image: Shape, weight: Shape, bias: Value | None) -> Shape:
    _require(
        len(image) == len(weight) >= 3, f"has a picture {list(image)} and weights {list(weight)}"
    )
    group = node.attribute("group", 1)
    _require(
        group >= 1 and image[1] == weight[1] * group and weight[0] % group == 0,
        f"has weights {list(weight)} in {group} groups for {image[1]} channels",
    )
    _require(bias is None or bias.shape == weight[:1], "has a bias that does not fit its weights")
    kernel = tuple(node.attribute("kernel_shape", weight[2:]))
    _require(kernel == weight[2:], f"has the kernel {list(kernel)} and weights {list(weight)}")
    return (image[0], weight[0], *_window_sizes(node, image[2:], kernel))


def conv_transpose(node: Node, x: Inputs) -> Outputs:
    """(N, C, *S) and weights (C, M / group, *K)."""
    image, weight = x[0].shape, x[1].shape
    _require(len(image) == len(weight) >= 3 and image[1] == weight[0], _mismatch(x))
    group = node.attribute("group", 1)
    _require(group >= 1 and image[1] % group == 0, f"has {group} groups of {image[1]} channels")
    channels = weight[1] * group
    _require(len(x) < 3 or x[2] is None or x[2].shape == (channels,), _mismatch(x))
    kernel = tuple(node.attribute("kernel_shape", weight[2:]))
    _require(kernel == weight[2:], f"has the kernel {list(kernel)} and weights {list(weight)}")
    strides, dilations, pads = _windows(node, len(kernel))
    more = _per_axis(node, "output_padding", 0, len(kernel), low=0)
    sizes = node.attribute("output_shape")
    _require(
        all(extra < max(s, d) for extra, s, d in zip(more, strides, dilations, strict=True)),
        "has an output padding as wide as its stride",
    )
    if sizes is None:
        is_same = node.attribute("auto_pad", b"NOTSET") in {b"SAME_UPPER", b"SAME_LOWER"}
        sizes = [
            n * s if is_same else (n - 1) * s + extra + d * (k - 1) + 1 - sum(pad)
            for n, s, d, k, extra, pad in zip(
                image[2:], strides, dilations, kernel, more, pads, strict=True
            )
        ]
    sizes = tuple(sizes[-len(kernel) :])
    widest = [
        n * s + d * k + extra
        for n, s, d, k, extra in zip(image[2:], strides, dilations, kernel, more, strict=True)
    ]
    fits = len(sizes) == len(kernel) and all(
        1 <= size <= most for size, most in zip(sizes, widest, strict=True)
    )
    _require(fits, f"gives the sizes {list(sizes)}")
    return [Value(x[0].dtype, (image[0], channels, *sizes))]


def deform_conv(node: Node, x: Inputs) -> Outputs:
    """Picture, weights, offsets (N, groups * K * 2, *out), bias, mask (N, groups * K, *out)."""
    bias = x[3] if len(x) > 3 else None
    shape = _conv_shape(node, x[0].shape, x[1].shape, bias)
    group = node.attribute("offset_group", 1)
    _require(group >= 1 and x[0].shape[1] % group == 0, f"has {group} groups of offsets")
    cells = group * math.prod(x[1].shape[2:])
    _require(x[2].shape == (shape[0], cells * len(shape[2:]), *shape[2:]), _mismatch(x))
    mask = x[4] if len(x) > 4 else None
    _require(mask is None or mask.shape == (shape[0], cells, *shape[2:]), _mismatch(x))
    return [Value(x[0].dtype, shape)]


def pool(node: Node, x: Inputs) -> Outputs:
    """The result, and for MaxPool where each maximum lies."""
    shape = x[0].shape
    kernel = tuple(node.attribute("kernel_shape", ()))
    _require(len(shape) >= 3 and len(kernel) == len(shape) - 2, f"has the kernel {list(kernel)}")
    _require(all(1 <= size < 2**15 for size in kernel), f"has the kernel {list(kernel)}")
    _, _, pads = _windows(node, len(kernel))
    _require(
        all(max(pad) < size for pad, size in zip(pads, kernel, strict=True)),
        "pads by a whole kernel or more",
    )
    is_ceil = bool(node.attribute("ceil_mode", 0))
    sizes = _window_sizes(node, shape[2:], kernel, is_ceil=is_ceil)
    result = (*shape[:2], *sizes)
    return [Value(x[0].dtype, result), Value(INT64, result)]


def global_pool(node: Node, x: Inputs) -> Outputs:
    """(N, C, 1, ...)."""
    _require(len(x[0].shape) >= 3, _mismatch(x))
    return [Value(x[0].dtype, (*x[0].shape[:2], *[1] * (len(x[0].shape) - 2)))]


Pads = list[tuple[int, int]]


def _windows(node: Node, rank: int) -> tuple[list[int], list[int], Pads]:
    """Return strides, dilations and (before, after) of each axis; with `auto_pad` no pads."""
    strides = _per_axis(node, "strides", 1, rank, low=1)
    dilations = _per_axis(node, "dilations", 1, rank, low=1)
    pads = _per_axis(node, "pads", 0, 2 * rank, low=0)
    if node.attribute("auto_pad", b"NOTSET") != b"NOTSET":
        _require("pads" not in node.attributes, "has pads and auto_pad")
    return strides, dilations, list(zip(pads[:rank], pads[rank:], strict=True))


def _window_sizes(node: Node, sizes: Shape, kernel: Shape, *, is_ceil: bool = False) -> Shape:
    strides, dilations, pads = _windows(node, len(kernel))
    mode = node.attribute("auto_pad", b"NOTSET")
    _require(mode in {b"NOTSET", b"VALID", b"SAME_UPPER", b"SAME_LOWER"}, f"has auto_pad {mode!r}")
    found = []
    for n, k, s, d, (before, after) in zip(sizes, kernel, strides, dilations, pads, strict=True):
        if mode in {b"SAME_UPPER", b"SAME_LOWER"}:
            found.append(-(-n // s))
            continue
        free = n + before + after - d * (k - 1) - 1
        _require(free >= 0, f"has a kernel of {d * (k - 1) + 1} for {n + before + after} cells")
        count = (-(-free // s) if is_ceil else free // s) + 1
        if is_ceil and (count - 1) * s >= n + before:  # a window that lies in the padding alone
            count -= 1
        found.append(count)
    return tuple(found)


def _per_axis(node: Node, name: str, default: int, count: int, *, low: int) -> list[int]:
    values: list[int] = node.attribute(name, [default] * count)
    _require(
        len(values) == count and all(low <= value < 2**15 for value in values),
        f"has {name} {values}",
    )
    return values


# ---------------------------------------------------------------- products


def mat_mul(node: Node, x: Inputs) -> Outputs:
    """As numpy.matmul."""
    return [Value(x[0].dtype, _mat_mul(x[0].shape, x[1].shape))]


def mat_mul_integer(node: Node, x: Inputs) -> Outputs:
    """The same in whole numbers; zero points per tensor, row or column."""
    a, b = x[0].shape, x[1].shape
    shape = _mat_mul(a, b)
    for value, sides in zip(x[2:], ((a[-2:-1],), (b[-1:],)), strict=False):
        _require(value is None or value.num_elements == 1 or value.shape in sides, _mismatch(x))
    return [Value(INT32, shape)]


def quantized_mat_mul(node: Node, x: Inputs) -> Outputs:
    """a, its scale and zero point, b, its scale and zero point, scale and zero point of y."""
    for index in (1, 2, 6, 7):
        _require(x[index].num_elements == 1, _mismatch(x))
    for index in (4, 5):
        _require(x[index].num_elements == 1 or x[index].shape == x[3].shape[-1:], _mismatch(x))
    return [Value(x[7].dtype, _mat_mul(x[0].shape, x[3].shape))]


def gemm(node: Node, x: Inputs) -> Outputs:
    """Product of two matrices, plus `c`."""
    a, b = x[0].shape, x[1].shape
    _require(len(a) == len(b) == 2, _mismatch(x))
    a = a[::-1] if node.attribute("transA", 0) else a
    b = b[::-1] if node.attribute("transB", 0) else b
    shape = (a[0], b[1])
    _require(a[1] == b[0], _mismatch(x))
    addend = x[2] if len(x) > 2 else None
    _require(addend is None or broadcast([shape, addend.shape]) == shape, _mismatch(x))
    return [Value(x[0].dtype, shape)]


def einsum(node: Node, x: Inputs) -> Outputs:
    """Only terms without repeated letters and without an ellipsis, and with an explicit result."""
    equation = node.attribute("equation", b"").decode("ascii", "replace").replace(" ", "")
    _require(
        re.fullmatch(r"[a-zA-Z]*(,[a-zA-Z]*)*->[a-zA-Z]*", equation) is not None,
        f"has the equation {equation[:80]!r}",
    )
    left, _, right = equation.partition("->")
    sizes: dict[str, int] = {}
    terms = left.split(",")
    _require(len(terms) == len(x), f"has {len(x)} inputs for {equation!r}")
    for term, value in zip(terms, x, strict=True):
        _require(len(term) == len(value.shape) == len(set(term)), _mismatch(x))
        for letter, size in zip(term, value.shape, strict=True):
            _require(sizes.setdefault(letter, size) == size, _mismatch(x))
    _require(len(set(right)) == len(right) and set(right) <= sizes.keys(), f"gives {right!r}")
    return [Value(x[0].dtype, tuple(sizes[letter] for letter in right))]


def _mat_mul(a: Shape, b: Shape) -> Shape:
    _require(bool(a) and bool(b), "multiplies scalars")
    rows, columns = (1, *a)[-2:], (b if len(b) > 1 else (*b, 1))[-2:]
    _require(rows[1] == columns[0], f"multiplies {list(a)} and {list(b)}")
    shape = broadcast([a[:-2], b[:-2]])
    return (*shape, *a[-2:-1], *(b[-1:] if len(b) > 1 else ()))


# ---------------------------------------------------------------- layout


def reshape(node: Node, x: Inputs) -> Outputs:
    """0 keeps a size (unless `allowzero`), -1 takes what is left."""
    before, wanted = x[0].shape, _ints(x, 1)
    text = f"makes {list(before)} to {wanted}"
    _require(len(x[1].shape) == 1 and all(size >= -1 for size in wanted), text)
    _require(wanted.count(-1) <= 1, text)
    if not node.attribute("allowzero", 0):
        _require(all(size or axis < len(before) for axis, size in enumerate(wanted)), text)
        wanted = [size or before[axis] for axis, size in enumerate(wanted)]
    if -1 in wanted:
        known = math.prod(size for size in wanted if size >= 0)
        _require(known > 0 and math.prod(before) % known == 0, text)
        wanted[wanted.index(-1)] = math.prod(before) // known
    _require(math.prod(wanted) == math.prod(before), text)
    return [Value(x[0].dtype, tuple(wanted))]


def transpose(node: Node, x: Inputs) -> Outputs:
    """Axes in reverse by default."""
    shape = x[0].shape
    perm = list(node.attribute("perm", range(len(shape))[::-1]))
    _require(sorted(perm) == list(range(len(shape))), f"orders {len(shape)} axes by {perm}")
    return [Value(x[0].dtype, tuple(shape[axis] for axis in perm))]


def flatten(node: Node, x: Inputs) -> Outputs:
    """Two axes."""
    shape, axis = x[0].shape, node.attribute("axis", 1)
    _require(-len(shape) <= axis <= len(shape), f"has the axis {axis} for {list(shape)}")
    axis = axis + len(shape) if axis < 0 else axis
    return [Value(x[0].dtype, (math.prod(shape[:axis]), math.prod(shape[axis:])))]


def squeeze(node: Node, x: Inputs) -> Outputs:
    """Without axes of size 1; those of a free size are not known to be, so axes must be named."""
    shape = x[0].shape
    _require(len(x) > 1 and x[1] is not None, "does not name its axes")
    axes = _axes(_ints(x, 1), len(shape))
    _require(
        all(shape[axis] == 1 for axis in axes), f"drops the axes {sorted(axes)} of {list(shape)}"
    )
    return [Value(x[0].dtype, tuple(s for axis, s in enumerate(shape) if axis not in axes))]


def unsqueeze(node: Node, x: Inputs) -> Outputs:
    """Axes count in the result."""
    added = _ints(x, 1)
    rank = len(x[0].shape) + len(added)
    axes = _axes(added, rank)
    rest = iter(x[0].shape)
    return [Value(x[0].dtype, tuple(1 if axis in axes else next(rest) for axis in range(rank)))]


def concat(node: Node, x: Inputs) -> Outputs:
    """The axis has no default."""
    first = list(x[0].shape)
    axis = _axis(node.attribute("axis", MAX_RANK), len(first))
    for value in x:
        others = list(value.shape)
        _require(len(others) == len(first), _mismatch(x))
        others[axis] = first[axis]
        _require(others == first, _mismatch(x))
    first[axis] = sum(value.shape[axis] for value in x)
    return [Value(x[0].dtype, tuple(first))]


def split(node: Node, x: Inputs) -> Outputs:
    """Sizes as an input, or as equal as their number allows."""
    shape = x[0].shape
    axis = _axis(node.attribute("axis", 0), len(shape))
    count = len(node.outputs)
    if len(x) > 1 and x[1] is not None:
        sizes = _ints(x, 1)
    else:
        _require(node.attribute("num_outputs", count) == count, "has another number of outputs")
        size = -(-shape[axis] // count)
        sizes = [size] * (count - 1) + [shape[axis] - size * (count - 1)]
    _require(
        len(sizes) == count and min(sizes) >= 0 and sum(sizes) == shape[axis],
        f"cuts {shape[axis]} into {sizes}",
    )
    return [Value(x[0].dtype, (*shape[:axis], size, *shape[axis + 1 :])) for size in sizes]


def slice_(node: Node, x: Inputs) -> Outputs:
    """As Python slices, with bounds far outside."""
    shape = list(x[0].shape)
    starts, ends = _ints(x, 1), _ints(x, 2)
    has_axes, has_steps = (len(x) > index and x[index] is not None for index in (3, 4))
    axes = _ints(x, 3) if has_axes else list(range(len(starts)))
    steps = _ints(x, 4) if has_steps else [1] * len(starts)
    _require(len(starts) == len(ends) == len(axes) == len(steps), "has bounds of several lengths")
    _axes(axes, len(shape))
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        _require(step != 0, "has a step of 0")
        # The engines clamp an end of -2^63 for a step backwards, which Python counts from the end.
        stop = None if step < 0 and end < -shape[axis] else end
        shape[axis] = len(range(*slice(start, stop, step).indices(shape[axis])))
    return [Value(x[0].dtype, tuple(shape))]


def pad(node: Node, x: Inputs) -> Outputs:
    """Before and after each axis; below 0 cuts off."""
    shape = list(x[0].shape)
    pads = _ints(x, 1)
    has_axes = len(x) > 3 and x[3] is not None
    axes = (
        [_axis(axis, len(shape)) for axis in _ints(x, 3)] if has_axes else list(range(len(shape)))
    )
    _require(len(pads) == 2 * len(axes) and len(set(axes)) == len(axes), f"has the pads {pads}")
    mode = node.attribute("mode", b"constant")
    room = {b"reflect": -1, b"wrap": 0}  # what is taken from inside must lie inside
    for axis, before, after in zip(axes, pads, pads[len(axes) :], strict=False):
        size = shape[axis]
        _require(max(before, after) <= size + room.get(mode, 2**31), f"has the pads {pads}")
        _require(-size < before and -size < after, f"has the pads {pads}")
        shape[axis] += before + after
    _require(len(x) < 3 or x[2] is None or x[2].num_elements == 1, "pads with no scalar")
    return [Value(x[0].dtype, tuple(shape))]


def depth_to_space(node: Node, x: Inputs) -> Outputs:
    """(N, C b b, H, W) -> (N, C, H b, W b)."""
    shape, size = x[0].shape, node.attribute("blocksize", 0)
    fits = len(shape) == 4 and 1 <= size < 2**15 and shape[1] % (size * size) == 0
    _require(fits, f"has blocks of {size} for {list(shape)}")
    n, c, h, w = shape
    return [Value(x[0].dtype, (n, c // (size * size), h * size, w * size))]


def space_to_depth(node: Node, x: Inputs) -> Outputs:
    """(N, C, H b, W b) -> (N, C b b, H, W)."""
    shape, size = x[0].shape, node.attribute("blocksize", 0)
    fits = len(shape) == 4 and size >= 1 and not any(side % size for side in shape[2:])
    _require(fits, f"has blocks of {size} for {list(shape)}")
    n, c, h, w = shape
    return [Value(x[0].dtype, (n, c * size * size, h // size, w // size))]


def trilu(node: Node, x: Inputs) -> Outputs:
    """A triangle of the last two axes."""
    _require(len(x[0].shape) >= 2, _mismatch(x))
    if len(x) > 1 and x[1] is not None:
        _scalar(x, 1)
    return same(node, x)


def reverse_sequence(node: Node, x: Inputs) -> Outputs:
    """The lengths are one for each entry of the batch."""
    axes = [node.attribute("batch_axis", 1), node.attribute("time_axis", 0)]
    _require(sorted(axes) == [0, 1] and len(x[0].shape) >= 2, f"has the axes {axes}")
    _require(x[1].shape == (x[0].shape[axes[0]],), _mismatch(x))
    return same(node, x)


# ---------------------------------------------------------------- indices


def gather(node: Node, x: Inputs) -> Outputs:
    """Whole slices along an axis."""
    shape = x[0].shape
    axis = _axis(node.attribute("axis", 0), len(shape))
    _check_indices(x[1], shape[axis])
    return [Value(x[0].dtype, (*shape[:axis], *x[1].shape, *shape[axis + 1 :]))]


def gather_elements(node: Node, x: Inputs) -> Outputs:
    """One element for each index."""
    _check_elements(node, x[0].shape, x[1])
    return [Value(x[0].dtype, x[1].shape)]


def gather_nd(node: Node, x: Inputs) -> Outputs:
    """Slices at the positions (..., k)."""
    shape, places, shared = x[0].shape, x[1].shape, node.attribute("batch_dims", 0)
    _require(bool(places) and 0 <= shared < min(len(shape), len(places)), _mismatch(x))
    depth = shared + places[-1]
    _require(shared < depth <= len(shape) and shape[:shared] == places[:shared], _mismatch(x))
    return [Value(x[0].dtype, (*places[:-1], *shape[depth:]))]


def scatter_elements(node: Node, x: Inputs) -> Outputs:
    """Data with the updates at the indices."""
    _check_elements(node, x[0].shape, x[1])
    _require(x[1].shape == x[2].shape, _mismatch(x))
    return same(node, x)


def scatter_nd(node: Node, x: Inputs) -> Outputs:
    """Data with the updates at the positions (..., k)."""
    shape, places = x[0].shape, x[1].shape
    _require(bool(places) and 1 <= places[-1] <= len(shape), _mismatch(x))
    _require(x[2].shape == (*places[:-1], *shape[places[-1] :]), _mismatch(x))
    if x[1].data is not None:
        rows = x[1].data.reshape(-1, places[-1])
        for axis in range(places[-1]):
            _check_range(rows[:, axis], shape[axis])
    return same(node, x)


def one_hot(node: Node, x: Inputs) -> Outputs:
    """The new axis has the size `depth`."""
    depth = _scalar(x, 1)
    _require(depth >= 1 and x[2].shape == (2,), f"has the depth {depth}")
    rank = len(x[0].shape) + 1
    axis = _axis(node.attribute("axis", -1), rank)
    return [Value(x[2].dtype, (*x[0].shape[:axis], depth, *x[0].shape[axis:]))]


def _check_elements(node: Node, shape: Shape, indices: Value) -> None:
    axis = _axis(node.attribute("axis", 0), len(shape))
    places = indices.shape or ()
    fits = len(places) == len(shape) and all(
        place <= size or i == axis
        for i, (place, size) in enumerate(zip(places, shape, strict=False))
    )
    _require(fits, f"has indices {list(places)} into {list(shape)}")
    _check_indices(indices, shape[axis])


def _check_indices(indices: Value, size: int) -> None:
    if indices.data is not None:
        _check_range(indices.data, size)


def _check_range(indices: npt.NDArray[Any], size: int) -> None:
    is_inside = indices.size == 0 or (-size <= indices.min() and indices.max() < size)
    _require(bool(is_inside), f"has indices outside of an axis of {size}")


# ---------------------------------------------------------------- sampling


def resize(node: Node, x: Inputs) -> Outputs:
    """Sizes, or scales whose results are rounded down."""
    shape = list(x[0].shape)
    axes = [_axis(axis, len(shape)) for axis in node.attribute("axes", range(len(shape)))]
    _require(len(set(axes)) == len(axes), "names an axis twice")
    _require(
        node.attribute("keep_aspect_ratio_policy", b"stretch") == b"stretch",
        "keeps the aspect ratio, which engines round in different ways",
    )
    scales, sizes = ((x[i] if len(x) > i else None) for i in (2, 3))
    if scales is not None and scales.num_elements == 0:
        scales = None
    _require((scales is None) != (sizes is None), "has not one of scales and sizes")
    values = _numbers(x, 2 if sizes is None else 3)
    _require(
        len(values) == len(axes) and all(value > 0 for value in values), f"resizes by {values}"
    )
    for axis, value in zip(axes, values, strict=True):
        shape[axis] = int(
            value if sizes is not None else math.floor(shape[axis] * min(value, 2**31))
        )
    return [Value(x[0].dtype, tuple(shape))]


def grid_sample(node: Node, x: Inputs) -> Outputs:
    """(N, C, *S) at the points (N, *out, len(S))."""
    image, grid = x[0].shape, x[1].shape
    fits = len(image) == len(grid) >= 4 and grid[-1] == len(image) - 2 and image[0] == grid[0]
    _require(fits, _mismatch(x))
    return [Value(x[0].dtype, (*image[:2], *grid[1:-1]))]


def affine_grid(node: Node, x: Inputs) -> Outputs:
    """Points (N, *out, rank) for (N, rank, rank + 1) matrices."""
    size = _ints(x, 1)
    rank = len(size) - 2
    _require(rank in {2, 3} and x[0].shape == (size[0], rank, rank + 1), _mismatch(x))
    return [Value(x[0].dtype, (size[0], *size[2:], rank))]


# ---------------------------------------------------------------- new values


def constant(node: Node, x: Inputs) -> Outputs:
    """One of the attributes."""
    _require(len(node.attributes) == 1, "holds not one value")
    name, (_, value) = next(iter(node.attributes.items()))
    if isinstance(value, Tensor):
        return [value_of(value)]
    array = np.asarray(value, np.int64 if "int" in name else np.float32)
    return [Value(INT64 if "int" in name else FLOAT, array.shape, array, is_constant=True)]


def value_of(tensor: Tensor) -> Value:
    """A constant's."""
    return Value(tensor.dtype, tensor.shape, tensor.array(), is_constant=True)


def constant_of_shape(node: Node, x: Inputs) -> Outputs:
    """float32 zeros by default."""
    sizes = _ints(x, 0)
    _require(len(x[0].shape) == 1 and all(size >= 0 for size in sizes), f"gives the shape {sizes}")
    fill = node.attribute("value")
    _require(fill is None or fill.num_elements == 1, "is filled with no scalar")
    return [Value(FLOAT if fill is None else fill.dtype, tuple(sizes))]


def expand(node: Node, x: Inputs) -> Outputs:
    """Both ways: a size of 1 in the wanted shape keeps the input's."""
    wanted = _ints(x, 1)
    _require(len(x[1].shape) == 1, _mismatch(x))
    return [Value(x[0].dtype, broadcast([x[0].shape, tuple(wanted)]))]


def tile(node: Node, x: Inputs) -> Outputs:
    """One number of repetitions for each axis."""
    repeats = _ints(x, 1)
    fits = len(repeats) == len(x[0].shape) and all(count >= 1 for count in repeats)
    _require(fits, f"repeats {list(x[0].shape)} by {repeats}")
    return [Value(x[0].dtype, tuple(s * r for s, r in zip(x[0].shape, repeats, strict=True)))]


def range_(node: Node, x: Inputs) -> Outputs:
    """From start up to limit by delta."""
    start, limit, delta = (_numbers(x, index) for index in range(3))
    _require(len(start) == len(limit) == len(delta) == 1 and delta[0] != 0, "counts by 0")
    steps = (limit[0] - start[0]) / delta[0]
    _require(math.isfinite(steps), "counts without end")
    return [Value(x[0].dtype, (max(math.ceil(steps), 0),))]


def eye_like(node: Node, x: Inputs) -> Outputs:
    """A diagonal of ones."""
    _require(len(x[0].shape) == 2, _mismatch(x))
    dtype = node.attribute("dtype", x[0].dtype)
    _require(dtype in DTYPES, f"gives the type {dtype}, which a bundle may not have")
    return [Value(dtype, x[0].shape)]


def shape(node: Node, x: Inputs) -> Outputs:
    """Sizes from `start` to `end`."""
    sizes = x[0].shape[slice(node.attribute("start", 0), node.attribute("end"))]
    return [Value(INT64, (len(sizes),), np.array(sizes, np.int64))]


def size(node: Node, x: Inputs) -> Outputs:
    """Number of elements."""
    return [Value(INT64, (), np.array(x[0].num_elements, np.int64))]


# ---------------------------------------------------------------- quantisation


def quantize(node: Node, x: Inputs) -> Outputs:
    """Per tensor, or per slice of an axis; not in blocks."""
    _check_scales(node, x)
    zero = x[2] if len(x) > 2 else None
    dtype = zero.dtype if zero is not None else node.attribute("output_dtype", 0) or UINT8
    _require(dtype in DTYPES, f"gives the type {dtype}, which a bundle may not have")
    return [Value(dtype, x[0].shape)]


def dequantize(node: Node, x: Inputs) -> Outputs:
    """The scale has the type of the result."""
    _check_scales(node, x)
    return [Value(x[1].dtype, x[0].shape)]


def dynamic_quantize(node: Node, x: Inputs) -> Outputs:
    """The levels, their scale and their zero point."""
    return [Value(UINT8, x[0].shape), Value(FLOAT, ()), Value(UINT8, ())]


def _check_scales(node: Node, x: Inputs) -> None:
    _require(not node.attribute("block_size", 0), "quantises in blocks")
    scale, zero = x[1], x[2] if len(x) > 2 else None
    _require(zero is None or zero.shape == scale.shape, _mismatch(x))
    if scale.num_elements != 1:
        axis = _axis(node.attribute("axis", 1), len(x[0].shape))
        _require(scale.shape == (x[0].shape[axis],), _mismatch(x))


# ---------------------------------------------------------------- recurrent


def recurrent(gates: int) -> Rule:
    """A rule for (T, N, C) with so many gates; all steps, the last, and for LSTM the last cell."""

    def infer(node: Node, x: Inputs) -> Outputs:
        width = node.attribute("hidden_size", 0)
        both = 2 if node.attribute("direction", b"forward") == b"bidirectional" else 1
        _require(not node.attribute("layout", 0) and len(x[0].shape) == 3, _mismatch(x))
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
            _require(value is None or value.shape == wanted, _mismatch(x))
        last = Value(x[0].dtype, (both, batch, width))
        return [Value(x[0].dtype, (steps, both, batch, width)), last, last]

    return infer


# ---------------------------------------------------------------- small values


def evaluate(node: Node, x: Inputs, outputs: Outputs) -> Outputs:
    """Return the outputs with their numbers where these are few and follow from known ones."""
    compute = _EVALUATED.get(node.operator)
    is_known = all(value is None or value.data is not None for value in x)
    if compute is None or not x or not is_known or outputs[0].num_elements > MAX_EVALUATED:
        return outputs
    if any(value is not None and value.num_elements > MAX_EVALUATED for value in x):
        return outputs
    arrays = [None if value is None else value.data for value in x]
    try:
        with np.errstate(all="ignore"):
            data = np.asarray(compute(node, arrays, outputs[0]))
    except (ArithmeticError, TypeError, ValueError):
        return outputs
    name = DTYPES.get(outputs[0].dtype or 0, "bfloat16")
    if data.shape != outputs[0].shape or name == "bfloat16":
        return outputs
    first = Value(outputs[0].dtype, outputs[0].shape, data.astype(name))
    return [first, *outputs[1:]]


def _reduced_data(function: Any) -> Any:
    def compute(node: Node, x: list[Any], out: Value) -> Any:
        axes = node.attribute("axes") or (
            x[1].tolist() if len(x) > 1 and x[1] is not None else None
        )
        if not axes and node.attribute("noop_with_empty_axes", 0):
            return x[0]
        result = function(x[0], axis=tuple(axes) if axes else None)
        return result.reshape(out.shape)

    return compute


def _sliced(node: Node, x: list[Any], out: Value) -> Any:
    axes = x[3] if len(x) > 3 and x[3] is not None else range(len(x[1]))
    steps = x[4] if len(x) > 4 and x[4] is not None else [1] * len(x[1])
    index = [slice(None)] * x[0].ndim
    for start, end, axis, step in zip(x[1], x[2], axes, steps, strict=True):
        size = x[0].shape[axis]
        index[axis] = slice(int(start), None if step < 0 and end < -size else int(end), int(step))
    return x[0][tuple(index)]


def _divided(node: Node, x: list[Any], out: Value) -> Any:
    if x[0].dtype.kind == "f":
        return x[0] / x[1]
    return np.trunc(x[0] / x[1])  # toward zero, as the engines do; exact below 2^53


def _modulo(node: Node, x: list[Any], out: Value) -> Any:
    return np.fmod(x[0], x[1]) if node.attribute("fmod", 0) else np.mod(x[0], x[1])


def _ufunc(function: Any) -> Any:
    return lambda node, x, out: function(*x)


def _folded(function: Any) -> Any:
    return lambda node, x, out: list(itertools.accumulate(x, function))[-1]


def _reshaped(node: Node, x: list[Any], out: Value) -> Any:
    return x[0].reshape(out.shape)


_EVALUATED: dict[str, Callable[[Node, list[Any], Value], Any]] = {
    "Abs": _ufunc(np.abs),
    "Add": _ufunc(np.add),
    "And": _ufunc(np.logical_and),
    "Cast": lambda node, x, out: x[0],
    "Ceil": _ufunc(np.ceil),
    "Concat": lambda node, x, out: np.concatenate(x, node.attribute("axis")),
    "ConstantOfShape": lambda node, x, out: np.full(
        out.shape or (),
        0 if node.attribute("value") is None else node.attribute("value").array().item(),
    ),
    "Div": _divided,
    "Equal": _ufunc(np.equal),
    "Expand": lambda node, x, out: np.broadcast_to(x[0], out.shape or ()),
    "Flatten": _reshaped,
    "Floor": _ufunc(np.floor),
    "Gather": lambda node, x, out: np.take(x[0], x[1], axis=node.attribute("axis", 0)),
    "Greater": _ufunc(np.greater),
    "GreaterOrEqual": _ufunc(np.greater_equal),
    "Identity": lambda node, x, out: x[0],
    "Less": _ufunc(np.less),
    "LessOrEqual": _ufunc(np.less_equal),
    "Max": _folded(np.maximum),
    "Min": _folded(np.minimum),
    "Mod": _modulo,
    "Mul": _ufunc(np.multiply),
    "Neg": _ufunc(np.negative),
    "Not": _ufunc(np.logical_not),
    "Or": _ufunc(np.logical_or),
    "Range": lambda node, x, out: x[0] + np.arange(out.num_elements) * x[2],
    "ReduceMax": _reduced_data(np.max),
    "ReduceMin": _reduced_data(np.min),
    "ReduceProd": _reduced_data(np.prod),
    "ReduceSum": _reduced_data(np.sum),
    "Reshape": _reshaped,
    "Slice": _sliced,
    "Sqrt": _ufunc(np.sqrt),
    "Squeeze": _reshaped,
    "Sub": _ufunc(np.subtract),
    "Tile": lambda node, x, out: np.tile(x[0], x[1]),
    "Transpose": lambda node, x, out: np.transpose(x[0], node.attribute("perm")),
    "Unsqueeze": _reshaped,
    "Where": _ufunc(np.where),
}
"""Operators from which shapes are computed."""


# ---------------------------------------------------------------- helpers


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """Return the shape of values that are stretched to each other."""
    rank = max(map(len, shapes))
    result = []
    for sizes in zip(*((1,) * (rank - len(shape)) + tuple(shape) for shape in shapes), strict=True):
        others = {size for size in sizes if size != 1}
        if len(others) > 1:
            raise ValueError(f"joins {', '.join(str(list(shape)) for shape in shapes[:8])}")
        result.append(others.pop() if others else 1)
    return tuple(result)


def _require(condition: bool, problem: str | Callable[[], str]) -> None:
    if not condition:
        raise ValueError(problem if isinstance(problem, str) else problem())


def _mismatch(x: Inputs) -> Callable[[], str]:
    """Return what writes the shapes of inputs that do not fit; they may be many."""
    return lambda: (
        f"joins {', '.join('nothing' if v is None else str(list(v.shape)) for v in x[:8])}"
    )


def _axis(axis: int, rank: int) -> int:
    _require(-rank <= axis < rank, f"has the axis {axis} of {rank}")
    return axis % rank


def _axes(axes: Sequence[int], rank: int) -> set[int]:
    found = {_axis(axis, rank) for axis in axes}
    _require(len(found) == len(axes), "names an axis twice")
    return found


def _numbers(x: Inputs, index: int) -> list[Any]:
    """Return the numbers of an input that a shape depends on."""
    value = x[index] if len(x) > index else None
    _require(value is not None, f"has no input {index}")
    assert value is not None
    _require(
        value.data is not None and len(value.shape) <= 1,
        f"has a shape that is computed: its input {index} is neither constant nor a few sizes",
    )
    assert value.data is not None
    numbers: list[Any] = np.atleast_1d(value.data).tolist()
    return numbers


def _ints(x: Inputs, index: int) -> list[int]:
    numbers = _numbers(x, index)
    _require(all(isinstance(number, int) for number in numbers), f"has {numbers[:8]} as sizes")
    return numbers


def _scalar(x: Inputs, index: int) -> int:
    numbers = _numbers(x, index)
    is_whole = len(numbers) == 1 and math.isfinite(numbers[0]) and numbers[0] == int(numbers[0])
    _require(is_whole, f"has {numbers[:8]} where one whole number is expected")
    return int(numbers[0])
