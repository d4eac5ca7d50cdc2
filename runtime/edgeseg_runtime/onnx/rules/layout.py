"""Rules of operators that rearrange, index or make values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.onnx.model import DTYPES, Node, Tensor
from edgeseg_runtime.onnx.rules.arithmetic import same
from edgeseg_runtime.onnx.rules.values import (
    FLOAT,
    INT64,
    MAX_RANK,
    Inputs,
    Outputs,
    Shape,
    Value,
    as_axes,
    as_axis,
    broadcast,
    ints_of,
    mismatch,
    numbers_of,
    require,
    scalar_of,
)


# ---------------------------------------------------------------- layout
def reshape(node: Node, x: Inputs) -> Outputs:
    """0 keeps a size (unless `allowzero`), -1 takes what is left."""
    before, wanted = x[0].shape, ints_of(x, 1)
    text = f"makes {list(before)} to {wanted}"
    require(len(x[1].shape) == 1 and all(size >= -1 for size in wanted), text)
    require(wanted.count(-1) <= 1, text)
    if not node.attribute("allowzero", 0):
        require(all(size or axis < len(before) for axis, size in enumerate(wanted)), text)
        wanted = [size or before[axis] for axis, size in enumerate(wanted)]
    if -1 in wanted:
        known = math.prod(size for size in wanted if size >= 0)
        require(known > 0 and math.prod(before) % known == 0, text)
        wanted[wanted.index(-1)] = math.prod(before) // known
    require(math.prod(wanted) == math.prod(before), text)
    return [Value(x[0].dtype, tuple(wanted))]


def transpose(node: Node, x: Inputs) -> Outputs:
    """Axes in reverse by default."""
    shape = x[0].shape
    perm = list(node.attribute("perm", range(len(shape))[::-1]))
    require(sorted(perm) == list(range(len(shape))), f"orders {len(shape)} axes by {perm}")
    return [Value(x[0].dtype, tuple(shape[axis] for axis in perm))]


def flatten(node: Node, x: Inputs) -> Outputs:
    """Two axes."""
    shape, axis = x[0].shape, node.attribute("axis", 1)
    require(-len(shape) <= axis <= len(shape), f"has the axis {axis} for {list(shape)}")
    axis = axis + len(shape) if axis < 0 else axis
    return [Value(x[0].dtype, (math.prod(shape[:axis]), math.prod(shape[axis:])))]


def squeeze(node: Node, x: Inputs) -> Outputs:
    """Without axes of size 1; those of a free size are not known to be, so axes must be named."""
    shape = x[0].shape
    require(len(x) > 1 and x[1] is not None, "does not name its axes")
    axes = as_axes(ints_of(x, 1), len(shape))
    require(
        all(shape[axis] == 1 for axis in axes), f"drops the axes {sorted(axes)} of {list(shape)}"
    )
    return [Value(x[0].dtype, tuple(s for axis, s in enumerate(shape) if axis not in axes))]


def unsqueeze(node: Node, x: Inputs) -> Outputs:
    """Axes count in the result."""
    added = ints_of(x, 1)
    rank = len(x[0].shape) + len(added)
    axes = as_axes(added, rank)
    rest = iter(x[0].shape)
    return [Value(x[0].dtype, tuple(1 if axis in axes else next(rest) for axis in range(rank)))]


def concat(node: Node, x: Inputs) -> Outputs:
    """The axis has no default."""
    first = list(x[0].shape)
    axis = as_axis(node.attribute("axis", MAX_RANK), len(first))
    for value in x:
        others = list(value.shape)
        require(len(others) == len(first), mismatch(x))
        others[axis] = first[axis]
        require(others == first, mismatch(x))
    first[axis] = sum(value.shape[axis] for value in x)
    return [Value(x[0].dtype, tuple(first))]


def split(node: Node, x: Inputs) -> Outputs:
    """Sizes as an input, or as equal as their number allows."""
    shape = x[0].shape
    axis = as_axis(node.attribute("axis", 0), len(shape))
    count = len(node.outputs)
    if len(x) > 1 and x[1] is not None:
        sizes = ints_of(x, 1)
    else:
        require(node.attribute("num_outputs", count) == count, "has another number of outputs")
        size = -(-shape[axis] // count)
        sizes = [size] * (count - 1) + [shape[axis] - size * (count - 1)]
    require(
        len(sizes) == count and min(sizes) >= 0 and sum(sizes) == shape[axis],
        f"cuts {shape[axis]} into {sizes}",
    )
    return [Value(x[0].dtype, (*shape[:axis], size, *shape[axis + 1 :])) for size in sizes]


def slice_(node: Node, x: Inputs) -> Outputs:
    """As Python slices, with bounds far outside."""
    shape = list(x[0].shape)
    starts, ends = ints_of(x, 1), ints_of(x, 2)
    has_axes, has_steps = (len(x) > index and x[index] is not None for index in (3, 4))
    axes = ints_of(x, 3) if has_axes else list(range(len(starts)))
    steps = ints_of(x, 4) if has_steps else [1] * len(starts)
    require(len(starts) == len(ends) == len(axes) == len(steps), "has bounds of several lengths")
    as_axes(axes, len(shape))
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        require(step != 0, "has a step of 0")
        # The engines clamp an end of -2^63 for a step backwards, which Python counts from the end.
        stop = None if step < 0 and end < -shape[axis] else end
        shape[axis] = len(range(*slice(start, stop, step).indices(shape[axis])))
    return [Value(x[0].dtype, tuple(shape))]


def pad(node: Node, x: Inputs) -> Outputs:
    """Before and after each axis; below 0 cuts off."""
    shape = list(x[0].shape)
    pads = ints_of(x, 1)
    has_axes = len(x) > 3 and x[3] is not None
    axes = (
        [as_axis(axis, len(shape)) for axis in ints_of(x, 3)]
        if has_axes
        else list(range(len(shape)))
    )
    require(len(pads) == 2 * len(axes) and len(set(axes)) == len(axes), f"has the pads {pads}")
    mode = node.attribute("mode", b"constant")
    room = {b"reflect": -1, b"wrap": 0}  # what is taken from inside must lie inside
    for axis, before, after in zip(axes, pads, pads[len(axes) :], strict=False):
        size = shape[axis]
        require(max(before, after) <= size + room.get(mode, 2**31), f"has the pads {pads}")
        require(-size < before and -size < after, f"has the pads {pads}")
        shape[axis] += before + after
    require(len(x) < 3 or x[2] is None or x[2].num_elements == 1, "pads with no scalar")
    return [Value(x[0].dtype, tuple(shape))]


def depth_to_space(node: Node, x: Inputs) -> Outputs:
    """(N, C b b, H, W) -> (N, C, H b, W b)."""
    shape, size = x[0].shape, node.attribute("blocksize", 0)
    fits = len(shape) == 4 and 1 <= size < 2**15 and shape[1] % (size * size) == 0
    require(fits, f"has blocks of {size} for {list(shape)}")
    n, c, h, w = shape
    return [Value(x[0].dtype, (n, c // (size * size), h * size, w * size))]


def space_to_depth(node: Node, x: Inputs) -> Outputs:
    """(N, C, H b, W b) -> (N, C b b, H, W)."""
    shape, size = x[0].shape, node.attribute("blocksize", 0)
    fits = len(shape) == 4 and size >= 1 and not any(side % size for side in shape[2:])
    require(fits, f"has blocks of {size} for {list(shape)}")
    n, c, h, w = shape
    return [Value(x[0].dtype, (n, c * size * size, h // size, w // size))]


def trilu(node: Node, x: Inputs) -> Outputs:
    """A triangle of the last two axes."""
    require(len(x[0].shape) >= 2, mismatch(x))
    if len(x) > 1 and x[1] is not None:
        scalar_of(x, 1)
    return same(node, x)


def reverse_sequence(node: Node, x: Inputs) -> Outputs:
    """The lengths are one for each entry of the batch."""
    axes = [node.attribute("batch_axis", 1), node.attribute("time_axis", 0)]
    require(sorted(axes) == [0, 1] and len(x[0].shape) >= 2, f"has the axes {axes}")
    require(x[1].shape == (x[0].shape[axes[0]],), mismatch(x))
    return same(node, x)


# ---------------------------------------------------------------- indices
def gather(node: Node, x: Inputs) -> Outputs:
    """Whole slices along an axis."""
    shape = x[0].shape
    axis = as_axis(node.attribute("axis", 0), len(shape))
    _check_indices(x[1], shape[axis])
    return [Value(x[0].dtype, (*shape[:axis], *x[1].shape, *shape[axis + 1 :]))]


def gather_elements(node: Node, x: Inputs) -> Outputs:
    """One element for each index."""
    _check_elements(node, x[0].shape, x[1])
    return [Value(x[0].dtype, x[1].shape)]


def gather_nd(node: Node, x: Inputs) -> Outputs:
    """Slices at the positions (..., k)."""
    shape, places, shared = x[0].shape, x[1].shape, node.attribute("batch_dims", 0)
    require(bool(places) and 0 <= shared < min(len(shape), len(places)), mismatch(x))
    depth = shared + places[-1]
    require(shared < depth <= len(shape) and shape[:shared] == places[:shared], mismatch(x))
    return [Value(x[0].dtype, (*places[:-1], *shape[depth:]))]


def scatter_elements(node: Node, x: Inputs) -> Outputs:
    """Data with the updates at the indices."""
    _check_elements(node, x[0].shape, x[1])
    require(x[1].shape == x[2].shape, mismatch(x))
    return same(node, x)


def scatter_nd(node: Node, x: Inputs) -> Outputs:
    """Data with the updates at the positions (..., k)."""
    shape, places = x[0].shape, x[1].shape
    require(bool(places) and 1 <= places[-1] <= len(shape), mismatch(x))
    require(x[2].shape == (*places[:-1], *shape[places[-1] :]), mismatch(x))
    if x[1].data is not None:
        rows = x[1].data.reshape(-1, places[-1])
        for axis in range(places[-1]):
            _check_range(rows[:, axis], shape[axis])
    return same(node, x)


def one_hot(node: Node, x: Inputs) -> Outputs:
    """The new axis has the size `depth`."""
    depth = scalar_of(x, 1)
    require(depth >= 1 and x[2].shape == (2,), f"has the depth {depth}")
    rank = len(x[0].shape) + 1
    axis = as_axis(node.attribute("axis", -1), rank)
    return [Value(x[2].dtype, (*x[0].shape[:axis], depth, *x[0].shape[axis:]))]


def _check_elements(node: Node, shape: Shape, indices: Value) -> None:
    axis = as_axis(node.attribute("axis", 0), len(shape))
    places = indices.shape or ()
    fits = len(places) == len(shape) and all(
        place <= size or i == axis
        for i, (place, size) in enumerate(zip(places, shape, strict=False))
    )
    require(fits, f"has indices {list(places)} into {list(shape)}")
    _check_indices(indices, shape[axis])


def _check_indices(indices: Value, size: int) -> None:
    if indices.data is not None:
        _check_range(indices.data, size)


def _check_range(indices: npt.NDArray[Any], size: int) -> None:
    is_inside = indices.size == 0 or (-size <= indices.min() and indices.max() < size)
    require(bool(is_inside), f"has indices outside of an axis of {size}")


# ---------------------------------------------------------------- new values
def constant(node: Node, x: Inputs) -> Outputs:
    """One of the attributes."""
    require(len(node.attributes) == 1, "holds not one value")
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
    sizes = ints_of(x, 0)
    require(len(x[0].shape) == 1 and all(size >= 0 for size in sizes), f"gives the shape {sizes}")
    fill = node.attribute("value")
    require(fill is None or fill.num_elements == 1, "is filled with no scalar")
    return [Value(FLOAT if fill is None else fill.dtype, tuple(sizes))]


def expand(node: Node, x: Inputs) -> Outputs:
    """Both ways: a size of 1 in the wanted shape keeps the input's."""
    wanted = ints_of(x, 1)
    require(len(x[1].shape) == 1, mismatch(x))
    return [Value(x[0].dtype, broadcast([x[0].shape, tuple(wanted)]))]


def tile(node: Node, x: Inputs) -> Outputs:
    """One number of repetitions for each axis."""
    repeats = ints_of(x, 1)
    fits = len(repeats) == len(x[0].shape) and all(count >= 1 for count in repeats)
    require(fits, f"repeats {list(x[0].shape)} by {repeats}")
    return [Value(x[0].dtype, tuple(s * r for s, r in zip(x[0].shape, repeats, strict=True)))]


def range_(node: Node, x: Inputs) -> Outputs:
    """From start up to limit by delta."""
    start, limit, delta = (numbers_of(x, index) for index in range(3))
    require(len(start) == len(limit) == len(delta) == 1 and delta[0] != 0, "counts by 0")
    steps = (limit[0] - start[0]) / delta[0]
    require(math.isfinite(steps), "counts without end")
    return [Value(x[0].dtype, (max(math.ceil(steps), 0),))]


def eye_like(node: Node, x: Inputs) -> Outputs:
    """A diagonal of ones."""
    require(len(x[0].shape) == 2, mismatch(x))
    dtype = node.attribute("dtype", x[0].dtype)
    require(dtype in DTYPES, f"gives the type {dtype}, which a bundle may not have")
    return [Value(dtype, x[0].shape)]


def shape(node: Node, x: Inputs) -> Outputs:
    """Sizes from `start` to `end`."""
    sizes = x[0].shape[slice(node.attribute("start", 0), node.attribute("end"))]
    return [Value(INT64, (len(sizes),), np.array(sizes, np.int64))]


def size(node: Node, x: Inputs) -> Outputs:
    """Number of elements."""
    return [Value(INT64, (), np.array(x[0].num_elements, np.int64))]
