"""Rules of operators that look at places of a map: convolutions, pooling, sampling."""

from __future__ import annotations

import math

from edgeseg_runtime.onnx.model import Node
from edgeseg_runtime.onnx.rules.values import (
    INT32,
    INT64,
    Inputs,
    Outputs,
    Shape,
    Value,
    as_axis,
    ints_of,
    mismatch,
    numbers_of,
    require,
)


# ---------------------------------------------------------------- convolutions and pooling
def conv(node: Node, x: Inputs) -> Outputs:
    """(N, C, *S) and weights (M, C / group, *K)."""
    return [
        Value(x[0].dtype, _conv_shape(node, x[0].shape, x[1].shape, x[2] if len(x) > 2 else None))
    ]


def conv_integer(node: Node, x: Inputs) -> Outputs:
    """The same in whole numbers."""
    require(
        all(zero is None or zero.num_elements in {1, x[1].shape[0]} for zero in x[2:]), mismatch(x)
    )
    return [Value(INT32, _conv_shape(node, x[0].shape, x[1].shape, None))]


def quantized_conv(node: Node, x: Inputs) -> Outputs:
    """x, its scale and zero point, w, its scale and zero point, scale and zero point of y, bias."""
    for index in (1, 2, 6, 7):
        require(x[index].num_elements == 1, mismatch(x))
    for index in (4, 5):
        require(x[index].num_elements in {1, x[3].shape[0]}, mismatch(x))
    return [
        Value(x[7].dtype, _conv_shape(node, x[0].shape, x[3].shape, x[8] if len(x) > 8 else None))
    ]


def _conv_shape(node: Node, image: Shape, weight: Shape, bias: Value | None) -> Shape:
    require(
        len(image) == len(weight) >= 3, f"has a picture {list(image)} and weights {list(weight)}"
    )
    group = node.attribute("group", 1)
    require(
        group >= 1 and image[1] == weight[1] * group and weight[0] % group == 0,
        f"has weights {list(weight)} in {group} groups for {image[1]} channels",
    )
    require(bias is None or bias.shape == weight[:1], "has a bias that does not fit its weights")
    kernel = tuple(node.attribute("kernel_shape", weight[2:]))
    require(kernel == weight[2:], f"has the kernel {list(kernel)} and weights {list(weight)}")
    return (image[0], weight[0], *_window_sizes(node, image[2:], kernel))


def conv_transpose(node: Node, x: Inputs) -> Outputs:
    """(N, C, *S) and weights (C, M / group, *K)."""
    image, weight = x[0].shape, x[1].shape
    require(len(image) == len(weight) >= 3 and image[1] == weight[0], mismatch(x))
    group = node.attribute("group", 1)
    require(group >= 1 and image[1] % group == 0, f"has {group} groups of {image[1]} channels")
    channels = weight[1] * group
    require(len(x) < 3 or x[2] is None or x[2].shape == (channels,), mismatch(x))
    kernel = tuple(node.attribute("kernel_shape", weight[2:]))
    require(kernel == weight[2:], f"has the kernel {list(kernel)} and weights {list(weight)}")
    strides, dilations, pads = _windows(node, len(kernel))
    more = _per_axis(node, "output_padding", 0, len(kernel), low=0)
    sizes = node.attribute("output_shape")
    require(
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
    require(fits, f"gives the sizes {list(sizes)}")
    return [Value(x[0].dtype, (image[0], channels, *sizes))]


def deform_conv(node: Node, x: Inputs) -> Outputs:
    """Picture, weights, offsets (N, groups * K * 2, *out), bias, mask (N, groups * K, *out)."""
    bias = x[3] if len(x) > 3 else None
    shape = _conv_shape(node, x[0].shape, x[1].shape, bias)
    group = node.attribute("offset_group", 1)
    require(group >= 1 and x[0].shape[1] % group == 0, f"has {group} groups of offsets")
    cells = group * math.prod(x[1].shape[2:])
    require(x[2].shape == (shape[0], cells * len(shape[2:]), *shape[2:]), mismatch(x))
    mask = x[4] if len(x) > 4 else None
    require(mask is None or mask.shape == (shape[0], cells, *shape[2:]), mismatch(x))
    return [Value(x[0].dtype, shape)]


def pool(node: Node, x: Inputs) -> Outputs:
    """The result, and for MaxPool where each maximum lies."""
    shape = x[0].shape
    kernel = tuple(node.attribute("kernel_shape", ()))
    require(len(shape) >= 3 and len(kernel) == len(shape) - 2, f"has the kernel {list(kernel)}")
    require(all(1 <= size < 2**15 for size in kernel), f"has the kernel {list(kernel)}")
    _, _, pads = _windows(node, len(kernel))
    require(
        all(max(pad) < size for pad, size in zip(pads, kernel, strict=True)),
        "pads by a whole kernel or more",
    )
    is_ceil = bool(node.attribute("ceil_mode", 0))
    sizes = _window_sizes(node, shape[2:], kernel, is_ceil=is_ceil)
    result = (*shape[:2], *sizes)
    return [Value(x[0].dtype, result), Value(INT64, result)]


def global_pool(node: Node, x: Inputs) -> Outputs:
    """(N, C, 1, ...)."""
    require(len(x[0].shape) >= 3, mismatch(x))
    return [Value(x[0].dtype, (*x[0].shape[:2], *[1] * (len(x[0].shape) - 2)))]


Pads = list[tuple[int, int]]


def _windows(node: Node, rank: int) -> tuple[list[int], list[int], Pads]:
    """Return strides, dilations and (before, after) of each axis; with `auto_pad` no pads."""
    strides = _per_axis(node, "strides", 1, rank, low=1)
    dilations = _per_axis(node, "dilations", 1, rank, low=1)
    pads = _per_axis(node, "pads", 0, 2 * rank, low=0)
    if node.attribute("auto_pad", b"NOTSET") != b"NOTSET":
        require("pads" not in node.attributes, "has pads and auto_pad")
    return strides, dilations, list(zip(pads[:rank], pads[rank:], strict=True))


def _window_sizes(node: Node, sizes: Shape, kernel: Shape, *, is_ceil: bool = False) -> Shape:
    strides, dilations, pads = _windows(node, len(kernel))
    mode = node.attribute("auto_pad", b"NOTSET")
    require(mode in {b"NOTSET", b"VALID", b"SAME_UPPER", b"SAME_LOWER"}, f"has auto_pad {mode!r}")
    found = []
    for n, k, s, d, (before, after) in zip(sizes, kernel, strides, dilations, pads, strict=True):
        if mode in {b"SAME_UPPER", b"SAME_LOWER"}:
            found.append(-(-n // s))
            continue
        free = n + before + after - d * (k - 1) - 1
        require(free >= 0, f"has a kernel of {d * (k - 1) + 1} for {n + before + after} cells")
        count = (-(-free // s) if is_ceil else free // s) + 1
        if is_ceil and (count - 1) * s >= n + before:  # a window that lies in the padding alone
            count -= 1
        found.append(count)
    return tuple(found)


def _per_axis(node: Node, name: str, default: int, count: int, *, low: int) -> list[int]:
    values: list[int] = node.attribute(name, [default] * count)
    require(
        len(values) == count and all(low <= value < 2**15 for value in values),
        f"has {name} {values}",
    )
    return values


# ---------------------------------------------------------------- sampling
def resize(node: Node, x: Inputs) -> Outputs:
    """Sizes, or scales whose results are rounded down."""
    shape = list(x[0].shape)
    axes = [as_axis(axis, len(shape)) for axis in node.attribute("axes", range(len(shape)))]
    require(len(set(axes)) == len(axes), "names an axis twice")
    require(
        node.attribute("keep_aspect_ratio_policy", b"stretch") == b"stretch",
        "keeps the aspect ratio, which engines round in different ways",
    )
    scales, sizes = ((x[i] if len(x) > i else None) for i in (2, 3))
    if scales is not None and scales.num_elements == 0:
        scales = None
    require((scales is None) != (sizes is None), "has not one of scales and sizes")
    values = numbers_of(x, 2 if sizes is None else 3)
    require(len(values) == len(axes) and all(value > 0 for value in values), f"resizes by {values}")
    for axis, value in zip(axes, values, strict=True):
        shape[axis] = int(
            value if sizes is not None else math.floor(shape[axis] * min(value, 2**31))
        )
    return [Value(x[0].dtype, tuple(shape))]


def grid_sample(node: Node, x: Inputs) -> Outputs:
    """(N, C, *S) at the points (N, *out, len(S))."""
    image, grid = x[0].shape, x[1].shape
    fits = len(image) == len(grid) >= 4 and grid[-1] == len(image) - 2 and image[0] == grid[0]
    require(fits, mismatch(x))
    return [Value(x[0].dtype, (*image[:2], *grid[1:-1]))]


def affine_grid(node: Node, x: Inputs) -> Outputs:
    """Points (N, *out, rank) for (N, rank, rank + 1) matrices."""
    size = ints_of(x, 1)
    rank = len(size) - 2
    require(rank in {2, 3} and x[0].shape == (size[0], rank, rank + 1), mismatch(x))
    return [Value(x[0].dtype, (size[0], *size[2:], rank))]
