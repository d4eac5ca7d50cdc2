"""The body of `edgeseg::AtlasRoiAlign`: GridSample on the atlas of a pyramid; no shape depends on data.

Shape suffixes: B pictures, R boxes, M boxes of a chunk, L levels, C channels, S samples of a
bin, U rows or columns of bins, P bins of a box, Q bins of all boxes, K columns of a table.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import FunctionProto, TensorProto, helper

from edgeseg.ops.pyramid_atlas import atlas_layout
from edgeseg.ops.pyramid_roi_align import LAST_PIXEL, MAX_BIN_CELLS, level_boundaries
from edgeseg_export.functions.axis import Axis, fixed_samples, num_taps, taps
from edgeseg_export.functions.body import OPSET, Body

BLOCK = 4  # taps of a bin that are read at once
LATER_BLOCK = 2  # where boxes that need no more wait for those that do: these mostly have six
NUM_CHUNKS, MIN_CHUNK = 8, 32  # of boxes with like numbers of samples


def atlas_roi_align_function(
    name: str,
    channels: int,
    num_rois: int | None,
    *,
    level_sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    output_size: tuple[int, int],
    sampling_ratio: int,
    aligned: bool,
    level_rule: str,
    canonical_scale: float,
    canonical_level: int,
    rois_last: bool = False,
    min_cells: float = 1.0,
    is_half: bool = False,
) -> FunctionProto:
    """Return the function for R boxes a picture, which computes what `edgeseg.ops.atlas_roi_align` does.

    Each sample of each box becomes a point in the atlas, and one GridSample reads them all: bilinear, zero padding,
    align_corners 0, which is the form that ONNX Runtime (from 1.25) has a fast path for.

    Adaptive sampling has no fixed number of samples. The samples of a bin are merged to the fewest reads (`axis.taps`); the
    first four of every bin are read for all boxes at once, the rest in a loop for as long as the largest box needs. Of a
    known number of boxes, those are first sorted by their number of reads, and chunks of like boxes have a loop each. The
    work is close to what the boxes ask for, memory is bounded, the result exact for every input.

    Args:
        name: Of the function, in the domain `edgeseg`.
        channels: C.
        num_rois: R, or None where that axis is free.
        level_sizes: Height and width of each level, finest first (of the node's attribute, as are the following).
        strides: Network pixels per cell of each level.
        output_size: Bins per box, height and width.
        sampling_ratio: Samples per bin along each axis, 0 = adaptive.
        aligned: Whether boxes are shifted by half a cell.
        level_rule: How the level of a box is rounded.
        canonical_scale: Side in pixels of the box that belongs to `canonical_level`.
        canonical_level: log2 of the stride from which a box of `canonical_scale` is pooled.
        rois_last: Whether the boxes are the last axis of the result instead of the second.
        min_cells: Least width and height of a box in cells, unless aligned.
        is_half: Whether the atlas is float16; it is sampled in float32.
    """
    body = Body()
    atlas = body.op("Cast", "atlas", to=TensorProto.FLOAT) if is_half else "atlas"
    boundaries = level_boundaries(
        tuple(strides),
        level_rule=level_rule,
        canonical_scale=canonical_scale,
        canonical_level=canonical_level,
    )
    y, x = _axes(
        body,
        level_sizes,
        strides,
        boundaries,
        output_size,
        sampling_ratio,
        aligned,
        None if aligned else min_cells,
        LAST_PIXEL.get(level_rule, 0.0),
    )
    if sampling_ratio > 0:
        pooled = _fixed(body, atlas, y, x, channels, sampling_ratio, rois_last)
    else:
        pooled = _adaptive(body, atlas, y, x, num_rois)
        if rois_last:
            pooled = body.op("Transpose", pooled, perm=[0, 2, 3, 1])
    if is_half:
        pooled = body.op("Cast", pooled, to=TensorProto.FLOAT16)
    # Zeros stand for B and R, which both may be free.
    shape = (channels, *output_size, -1) if rois_last else (0, channels, *output_size)
    body.output("pooled", body.reshape(pooled, 0, *shape))
    return helper.make_function(
        "edgeseg",
        name,
        ["atlas", "rois"],
        ["pooled"],
        body.nodes,
        [helper.make_opsetid("", OPSET)],
        [
            "level_sizes",
            "strides",
            "output_size",
            "sampling_ratio",
            "aligned",
            "level_rule",
            "canonical_scale",
            "canonical_level",
            "rois_last",
            "min_cells",
        ],
    )


def _axes(
    body: Body,
    level_sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    boundaries: Sequence[float],
    output_size: tuple[int, int],
    sampling_ratio: int,
    aligned: bool,
    min_cells: float | None,
    pixel: float,
) -> tuple[Axis, Axis]:
    """Return what the samples of each box depend on, y and x, taken from the level of its area."""
    rois_B1R4 = body.op("Unsqueeze", "rois", body.ints(1))
    x1, y1, x2, y2 = body.split(rois_B1R4, 4, axis=3)
    width, height = body.op("Sub", x2, x1), body.op("Sub", y2, y1)
    if pixel:
        width, height = (body.op("Add", side, body.floats([pixel])) for side in (width, height))
    area = body.op("Mul", width, height)
    is_above_B1RL = body.op("GreaterOrEqual", area, body.floats(boundaries or [np.inf]))
    steps_B1RL = body.op("Cast", is_above_B1RL, to=TensorProto.INT64)
    level_B1R = body.op("ReduceSum", steps_B1RL, body.ints(3), keepdims=0)
    layout = atlas_layout(level_sizes)
    table_L5 = [
        (1 / stride, width, height, *corner)
        for stride, (height, width), corner in zip(
            strides, level_sizes, layout.corners, strict=True
        )
    ]
    of_level = body.op("Gather", body.floats(table_L5), level_B1R, axis=0)
    scale, width, height, x0, y0 = body.split(of_level, 5, axis=3)

    in_cells = body.op("Mul", rois_B1R4, scale)
    if aligned:
        in_cells = body.op("Sub", in_cells, body.floats(0.5))
    left, top, right, bottom = body.split(in_cells, 4, axis=3)
    bin_width, count_x = _bins(body, left, right, output_size[1], sampling_ratio, min_cells)
    bin_height, count_y = _bins(body, top, bottom, output_size[0], sampling_ratio, min_cells)
    return (
        Axis(top, bin_height, count_y, height, y0, output_size[0], layout.height),
        Axis(left, bin_width, count_x, width, x0, output_size[1], layout.width),
    )


def _bins(
    body: Body, low: str, high: str, bins: int, sampling_ratio: int, min_cells: float | None
) -> tuple[str, str]:
    """Return the size of a bin in cells and its number of samples along one axis."""
    size = body.op("Sub", high, low)
    if min_cells is not None:  # what is not finite stays so: its samples are outside
        least, lowest = body.floats(min_cells), body.floats(np.finfo(np.float32).min)
        is_small = body.op(
            "And", body.op("Less", size, least), body.op("GreaterOrEqual", size, lowest)
        )
        size = body.op("Where", is_small, least, size)
    bin_size = body.op("Div", size, body.floats(bins))
    if sampling_ratio > 0:
        return bin_size, body.floats(sampling_ratio)
    zero = body.floats(0)
    is_sampled = body.op(
        "And",
        body.op("Greater", bin_size, zero),
        body.op("LessOrEqual", bin_size, body.floats(MAX_BIN_CELLS)),
    )
    return bin_size, body.op("Where", is_sampled, body.op("Ceil", bin_size), zero)


def _sample(
    body: Body, atlas: str, y: Axis, x: Axis, y_BSMU: str, x_BSMU: str, *, rois_last: bool = False
) -> str:
    """Return the atlas at each combination of y and x, (B, C, S, Q).

    The points of a sample are ordered by box and bin, with `rois_last` by bin and box.
    """
    axis_y, axis_x = 4, 3
    if rois_last:
        axis_y, axis_x = 3, 2
        y_BSMU, x_BSMU = (body.op("Transpose", v, perm=[0, 1, 3, 2]) for v in (y_BSMU, x_BSMU))

    def repeat(value: str, axis: int, count: int) -> str:
        shape = [count if index == axis else 1 for index in range(5)]
        wide = body.op("Expand", body.op("Unsqueeze", value, body.ints(axis)), body.ints(*shape))
        return body.op("Unsqueeze", wide, body.ints(5))

    xy = body.op("Concat", repeat(x_BSMU, axis_x, y.bins), repeat(y_BSMU, axis_y, x.bins), axis=5)
    grid = body.reshape(xy, 0, 0, -1, 2)
    # Linear is the default. By the name that opset 20 gives it TensorRT's parser, up to 11.1 at least, does not know it
    # and takes the nearest cell in silence (onnx/onnx-tensorrt pull request 1060, NVIDIA/TensorRT issue 4646).
    return body.op("GridSample", atlas, grid, padding_mode="zeros", align_corners=0)


def _fixed(
    body: Body, atlas: str, y: Axis, x: Axis, channels: int, sampling_ratio: int, rois_last: bool
) -> str:
    """Return (B, R, C, P) or (B, C, Q) with the same number of samples in every bin."""
    sample = np.arange(sampling_ratio**2).reshape(-1, 1, 1)
    sampled_BCSQ = _sample(
        body,
        atlas,
        y,
        x,
        fixed_samples(body, y, body.floats(sample // sampling_ratio)),
        fixed_samples(body, x, body.floats(sample % sampling_ratio)),
        rois_last=rois_last,
    )
    # The mean over the samples, as a convolution from S channels to one: in ONNX Runtime in 0.6 of ReduceMean's time.
    # Flatten makes B * C rows, which Reshape cannot say while Q is free too.
    columns = body.reshape(body.op("Flatten", sampled_BCSQ, axis=2), 0, len(sample), -1)
    weights = body.floats(np.full((1, len(sample), 1), 1 / len(sample)))
    pooled_BCQ = body.reshape(body.op("Conv", columns, weights), -1, channels, 0)
    return pooled_BCQ if rois_last else _by_box(body, pooled_BCQ, y, x)


def _by_box(body: Body, pooled_BCQ: str, y: Axis, x: Axis) -> str:
    """Return (B, R, C, P) for (B, C, Q)."""
    pooled_BCRP = body.reshape(pooled_BCQ, 0, 0, -1, y.bins * x.bins)
    return body.op("Transpose", pooled_BCRP, perm=[0, 2, 1, 3])


def _adaptive(body: Body, atlas: str, y: Axis, x: Axis, num_rois: int | None) -> str:
    """Return (B, R, C, P) with as many samples in each bin as its size asks for."""
    num_taps_B1R1 = body.op("Mul", num_taps(body, y), num_taps(body, x))
    if num_rois is not None:
        return _adaptive_in_chunks(body, atlas, y, x, num_taps_B1R1, num_rois)
    first_BCQ = _block(body, atlas, y, x, body.floats(0), BLOCK)
    sum_BCQ = _remaining_blocks(body, atlas, y, x, first_BCQ, num_taps_B1R1, LATER_BLOCK)
    return _by_box(body, sum_BCQ, y, x)


def _adaptive_in_chunks(
    body: Body, atlas: str, y: Axis, x: Axis, num_taps_B1R1: str, num_rois: int
) -> str:
    """Return (B, R, C, P) for a known number of boxes: chunks of like boxes do not wait for the largest of all."""
    num_bins = y.bins * x.bins
    num_taps_BR, order_BR = body.sort(body.op("Squeeze", num_taps_B1R1, body.ints(1, 3)), num_rois)
    columns = body.op("Concat", *y.values(), *x.values(), axis=3)
    columns = body.gather_rows(body.op("Squeeze", columns, body.ints(1)), order_BR)
    sorted_B1RK = body.op("Unsqueeze", columns, body.ints(1))

    def boxes(start: int, stop: int) -> tuple[Axis, Axis]:
        values = body.split(body.slice(sorted_B1RK, start, stop, axis=2), 10, axis=3)
        return y.with_values(values[:5]), x.with_values(values[5:])

    first_BCQ = _block(body, atlas, *boxes(0, num_rois), body.floats(0), BLOCK)
    chunks = []
    size = max(MIN_CHUNK, -(-num_rois // NUM_CHUNKS))
    for start in range(0, num_rois, size):
        stop = min(start + size, num_rois)
        sum_BCQ = _remaining_blocks(
            body,
            atlas,
            *boxes(start, stop),
            body.slice(first_BCQ, start * num_bins, stop * num_bins, axis=2),
            body.slice(num_taps_BR, start, stop, axis=1),
            BLOCK,
        )
        chunks.append(_by_box(body, sum_BCQ, y, x))
    sorted_BRCP = chunks[0] if len(chunks) == 1 else body.op("Concat", *chunks, axis=1)
    place = body.op("Cast", order_BR, to=TensorProto.FLOAT)
    _, place_BR = body.sort(place, num_rois, largest=False)
    return body.gather_rows(sorted_BRCP, place_BR)


def _remaining_blocks(
    body: Body, atlas: str, y: Axis, x: Axis, sum_BCQ: str, num_taps: str, size: int
) -> str:
    """Return the sum with all taps, (B, C, Q), given that of the first `BLOCK`, in a loop as long as the largest box needs.

    Each turn reads `size` taps of every bin.
    """
    most = body.op("ReduceMax", num_taps, keepdims=0)
    done = body.floats(BLOCK)

    def step(inner: Body, first: str, sum_BCQ: str) -> tuple[tuple[str, ...], str]:
        sum_BCQ = inner.op("Add", sum_BCQ, _block(inner, atlas, y, x, first, size))
        following = inner.op("Add", first, body.floats(size))
        return (following, sum_BCQ), inner.op("Greater", most, following)

    is_needed = body.op("Greater", most, done)
    return body.loop_while(is_needed, (done, sum_BCQ), step)[1]


def _block(body: Body, atlas: str, y: Axis, x: Axis, first: str, size: int) -> str:
    """Return the weighted sum of `size` taps from `first` on, counted row by row in each bin, (B, C, Q)."""
    number = body.op("Add", first, body.floats(np.arange(size).reshape(-1, 1, 1)))
    taps_of_row = body.op("Max", num_taps(body, x), body.floats(1))
    # The half keeps quotients of whole numbers from being rounded down to the one before.
    row = body.op("Div", body.op("Add", number, body.floats(0.5)), taps_of_row)
    row = body.op("Floor", row)
    column = body.op("Sub", number, body.op("Mul", row, taps_of_row))
    y_BSMU, weight_y_BSMU = taps(body, y, row)
    x_BSMU, weight_x_BSMU = taps(body, x, column)
    sampled_BCSQ = _sample(body, atlas, y, x, y_BSMU, x_BSMU)
    weight = body.op(
        "Mul",
        body.op("Unsqueeze", weight_y_BSMU, body.ints(4)),
        body.op("Unsqueeze", weight_x_BSMU, body.ints(3)),
    )
    weight_B1SQ = body.op("Unsqueeze", body.reshape(weight, 0, size, -1), body.ints(1))
    return body.op("ReduceSum", body.op("Mul", sampled_BCSQ, weight_B1SQ), body.ints(2), keepdims=0)
