"""The body of `edgeseg::PyramidRoiAlign`: GridSample on an atlas of all levels, with static shapes.

Shape suffixes: B pictures, R boxes, M boxes of a chunk, L levels, C channels, S samples of a
bin, U rows or columns of bins, P bins of a box, Q bins of all boxes, K columns of a table.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from onnx import FunctionProto, TensorProto, helper

from edgeseg.ops.pyramid_roi_align import MAX_BIN_CELLS, level_boundaries
from edgeseg_export.functions.body import OPSET, Body

BLOCK = 4  # samples of a bin that are taken at once
NUM_CHUNKS, MIN_CHUNK = 8, 32  # of boxes with like numbers of samples
OUTSIDE = -3.0  # a coordinate that GridSample gives 0 for: the atlas is -1..1


class Atlas(NamedTuple):
    """All levels in one map: the finest on top, the others side by side below it."""

    value: str
    height: int
    width: int
    corners: tuple[tuple[int, int], ...]  # x, y of each level


class Boxes(NamedTuple):
    """Values of each box, [B,1,M,1] float or constant: its bins in cells, its map's size and corner in the atlas."""

    left: str
    top: str
    bin_width: str
    bin_height: str
    count_x: str
    count_y: str
    width: str
    height: str
    x0: str
    y0: str


def pyramid_roi_align_function(
    overload: str,
    sizes: Sequence[tuple[int, int]],
    channels: int,
    num_rois: int,
    *,
    strides: Sequence[int],
    output_size: tuple[int, int],
    sampling_ratio: int,
    aligned: bool,
    level_rule: str,
    canonical_scale: float,
    canonical_level: int,
    is_half: bool = False,
) -> FunctionProto:
    """The function for R boxes a picture, which computes what `edgeseg.ops.pyramid_roi_align` does.

    The levels are laid side by side in one map, each sample of each box becomes a point in it, and one GridSample reads
    them all: bilinear, zero padding, align_corners 0, which is the form that ONNX Runtime (from 1.25) has a fast path for.

    Adaptive sampling has no fixed number of samples. Boxes are sorted by their number, the first four samples of every
    bin are taken of all boxes at once, the rest in loops over small chunks of boxes of like numbers, each for as long as its
    largest box needs. The work is close to what the boxes ask for, memory is bounded, the result exact for every input.

    Args:
        overload: Tells this body from those of other sizes.
        sizes: Height and width of each level, finest first.
        channels: C.
        num_rois: R.
        strides: The node's attribute, as are the following.
        output_size: Bins per box, height and width.
        sampling_ratio: Samples per bin along each axis, 0 = adaptive.
        aligned: Whether boxes are shifted by half a cell.
        level_rule: How the level of a box is rounded.
        canonical_scale: Side in pixels of the box that belongs to `canonical_level`.
        canonical_level: log2 of the stride from which a box of `canonical_scale` is pooled.
        is_half: Whether the features are float16; they are sampled in float32.
    """
    body = Body()
    features = [f"features_{level}" for level in range(len(sizes))]
    atlas = _atlas(body, features, sizes, is_half)
    boundaries = level_boundaries(
        tuple(strides),
        level_rule=level_rule,
        canonical_scale=canonical_scale,
        canonical_level=canonical_level,
    )
    boxes = _boxes(
        body, sizes, atlas.corners, strides, boundaries, output_size, sampling_ratio, aligned
    )
    if sampling_ratio > 0:
        pooled_BRCP = _fixed(body, atlas, boxes, num_rois, sampling_ratio, output_size)
    else:
        pooled_BRCP = _adaptive(body, atlas, boxes, num_rois, output_size)
    if is_half:
        pooled_BRCP = body.op("Cast", pooled_BRCP, to=TensorProto.FLOAT16)
    body.output("pooled", body.reshape(pooled_BRCP, 0, num_rois, channels, *output_size))
    return helper.make_function(
        "edgeseg",
        "PyramidRoiAlign",
        [*features, "rois"],
        ["pooled"],
        body.nodes,
        [helper.make_opsetid("", OPSET)],
        [
            "strides",
            "output_size",
            "sampling_ratio",
            "aligned",
            "level_rule",
            "canonical_scale",
            "canonical_level",
        ],
        overload=overload,
    )


def _atlas(
    body: Body, features: Sequence[str], sizes: Sequence[tuple[int, int]], is_half: bool
) -> Atlas:
    """Copies each level as rarely as possible, since the fine ones are large: only the coarse ones are padded."""
    widths = [width for _, width in sizes[1:]]
    height = sizes[0][0] + max((height for height, _ in sizes[1:]), default=0)
    width = max(sizes[0][1], sum(widths))
    corners = [(0, 0), *((sum(widths[:level]), sizes[0][0]) for level in range(len(widths)))]
    atlas = features[0]
    if widths:
        strip, strip_height = features[-1], sizes[-1][0]
        free = width - sum(widths)  # columns to the right of the coarsest level
        for feature, (level_height, _) in zip(features[-2:0:-1], sizes[-2:0:-1], strict=True):
            strip = _pad(body, strip, level_height - strip_height, free)
            strip = body.op("Concat", feature, strip, axis=3)
            strip_height, free = level_height, 0
        finest = _pad(body, atlas, 0, width - sizes[0][1])
        atlas = body.op("Concat", finest, _pad(body, strip, 0, free), axis=2)
    if is_half:
        atlas = body.op("Cast", atlas, to=TensorProto.FLOAT)
    return Atlas(atlas, height, width, tuple(corners))


def _pad(body: Body, value: str, rows: int, columns: int) -> str:
    if rows == 0 and columns == 0:
        return value
    return body.op("Pad", value, body.ints(0, 0, 0, 0, 0, 0, rows, columns))


def _boxes(
    body: Body,
    sizes: Sequence[tuple[int, int]],
    corners: Sequence[tuple[int, int]],
    strides: Sequence[int],
    boundaries: Sequence[float],
    output_size: tuple[int, int],
    sampling_ratio: int,
    aligned: bool,
) -> Boxes:
    """What the samples of each box depend on, taken from the level of its area."""
    rois_B1R4 = body.op("Unsqueeze", "rois", body.ints(1))
    x1, y1, x2, y2 = body.split(rois_B1R4, 4, axis=3)
    area = body.op("Mul", body.op("Sub", x2, x1), body.op("Sub", y2, y1))
    is_above_B1RL = body.op("GreaterOrEqual", area, body.floats(boundaries or [np.inf]))
    steps_B1RL = body.op("Cast", is_above_B1RL, to=TensorProto.INT64)
    level_B1R = body.op("ReduceSum", steps_B1RL, body.ints(3), keepdims=0)
    table_L5 = [
        (1 / stride, width, height, *corner)
        for stride, (height, width), corner in zip(strides, sizes, corners, strict=True)
    ]
    of_level = body.op("Gather", body.floats(table_L5), level_B1R, axis=0)
    scale, width, height, x0, y0 = body.split(of_level, 5, axis=3)

    in_cells = body.op("Mul", rois_B1R4, scale)
    if aligned:
        in_cells = body.op("Sub", in_cells, body.floats(0.5))
    left, top, right, bottom = body.split(in_cells, 4, axis=3)
    bin_width, count_x = _bins(body, left, right, output_size[1], sampling_ratio, aligned)
    bin_height, count_y = _bins(body, top, bottom, output_size[0], sampling_ratio, aligned)
    return Boxes(left, top, bin_width, bin_height, count_x, count_y, width, height, x0, y0)


def _bins(
    body: Body, low: str, high: str, bins: int, sampling_ratio: int, aligned: bool
) -> tuple[str, str]:
    """Size of a bin in cells and its number of samples along one axis."""
    size = body.op("Sub", high, low)
    if not aligned:  # what is not finite stays so: its samples are outside
        one, lowest = body.floats(1), body.floats(np.finfo(np.float32).min)
        is_small = body.op(
            "And", body.op("Less", size, one), body.op("GreaterOrEqual", size, lowest)
        )
        size = body.op("Where", is_small, one, size)
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
    body: Body,
    atlas: Atlas,
    boxes: Boxes,
    sample_y: str,
    sample_x: str,
    is_sample: str | None,
    num_boxes: int,
    num_samples: int,
    output_size: tuple[int, int],
) -> str:
    """[B,C,S,M*P]: each bin's samples, 0 where there is none.

    `sample_y` and `sample_x` are the row and column in its bin of each sample, `is_sample` (bool, None for all) says which
    of them there are; all broadcast to [B,S,M,1].
    """
    rows, columns = output_size
    y_BSMU = _axis(
        body,
        (boxes.top, boxes.bin_height, boxes.count_y, boxes.height, boxes.y0),
        sample_y,
        rows,
        atlas.height,
        is_sample,
    )
    x_BSMU = _axis(
        body,
        (boxes.left, boxes.bin_width, boxes.count_x, boxes.width, boxes.x0),
        sample_x,
        columns,
        atlas.width,
        None,
    )
    points = body.ints(1, num_samples, num_boxes, rows, columns)
    y = body.op("Expand", body.op("Unsqueeze", y_BSMU, body.ints(4)), points)
    x = body.op("Expand", body.op("Unsqueeze", x_BSMU, body.ints(3)), points)
    grid = body.op("Concat", *(body.op("Unsqueeze", v, body.ints(5)) for v in (x, y)), axis=5)
    grid = body.reshape(grid, 0, num_samples, num_boxes * rows * columns, 2)
    return body.op(
        "GridSample", atlas.value, grid, mode="linear", padding_mode="zeros", align_corners=0
    )


def _axis(
    body: Body,
    box: tuple[str, str, str, str, str],
    sample: str,
    bins: int,
    atlas_size: int,
    is_sample: str | None,
) -> str:
    """[B,S,M,U]: GridSample's coordinate along one axis of each sample of each row or column of bins."""
    low, bin_size, count, size, corner = box
    step = body.op("Add", sample, body.floats(0.5))
    step = body.op("Mul", step, body.op("Div", bin_size, count))
    position = body.op("Add", low, body.op("Mul", body.floats(np.arange(bins)), bin_size))
    position = body.op("Add", position, step)
    is_valid = body.op(
        "And",
        body.op("GreaterOrEqual", position, body.floats(-1)),
        body.op("LessOrEqual", position, size),
    )
    if is_sample is not None:
        is_valid = body.op("And", is_valid, is_sample)
    one = body.floats(1)
    position = body.op("Max", position, body.floats(0))
    position = body.op("Min", position, body.op("Sub", size, one))
    position = body.op("Add", position, corner)
    # align_corners=0: cell i has its centre at (2 i + 1) / size - 1.
    position = body.op("Add", body.op("Mul", position, body.floats(2)), one)
    position = body.op("Sub", body.op("Div", position, body.floats(atlas_size)), one)
    return body.op("Where", is_valid, position, body.floats(OUTSIDE))


def _fixed(
    body: Body,
    atlas: Atlas,
    boxes: Boxes,
    num_rois: int,
    sampling_ratio: int,
    output_size: tuple[int, int],
) -> str:
    """[B,R,C,P] with the same number of samples in every bin."""
    sample = np.arange(sampling_ratio**2).reshape(-1, 1, 1)
    sampled_BCSQ = _sample(
        body,
        atlas,
        boxes,
        body.floats(sample // sampling_ratio),
        body.floats(sample % sampling_ratio),
        None,
        num_rois,
        sampling_ratio**2,
        output_size,
    )
    pooled_BCQ = body.op("ReduceMean", sampled_BCSQ, body.ints(2), keepdims=0)
    pooled_BCRP = body.reshape(pooled_BCQ, 0, 0, num_rois, math.prod(output_size))
    return body.op("Transpose", pooled_BCRP, perm=[0, 2, 1, 3])


def _adaptive(
    body: Body, atlas: Atlas, boxes: Boxes, num_rois: int, output_size: tuple[int, int]
) -> str:
    """[B,R,C,P] with as many samples in each bin as its size asks for."""
    bins = math.prod(output_size)
    columns = body.op("Concat", *boxes, axis=3)
    columns_BRK = body.op("Squeeze", columns, body.ints(1))
    samples = body.op("Mul", boxes.count_x, boxes.count_y)
    samples_BR, order_BR = body.sort(body.op("Squeeze", samples, body.ints(1, 3)), num_rois)
    columns = body.op("Unsqueeze", body.gather_rows(columns_BRK, order_BR), body.ints(1))

    def block(inner: Body, chunk: Boxes, num_boxes: int, first: str) -> str:
        """[B,C,M*P]: the sum of the samples from `first` on."""
        sample = inner.op("Add", first, inner.floats(np.arange(BLOCK).reshape(-1, 1, 1)))
        # The half keeps the quotient of whole numbers away from the rounding of the next whole number.
        halfway = inner.op("Add", sample, inner.floats(0.5))
        row = inner.op("Floor", inner.op("Div", halfway, chunk.count_x))
        column = inner.op("Sub", sample, inner.op("Mul", row, chunk.count_x))
        sampled_BCSQ = _sample(
            inner,
            atlas,
            chunk,
            row,
            column,
            inner.op("Less", row, chunk.count_y),
            num_boxes,
            BLOCK,
            output_size,
        )
        return inner.op("ReduceSum", sampled_BCSQ, inner.ints(2), keepdims=0)

    def split(start: int, stop: int) -> Boxes:
        return Boxes(*body.split(body.slice(columns, start, stop, axis=2), 10, axis=3))

    first_BCQ = block(body, split(0, num_rois), num_rois, body.floats(0))
    sums = []
    size = max(MIN_CHUNK, -(-num_rois // NUM_CHUNKS))
    for start in range(0, num_rois, size):
        stop = min(start + size, num_rois)
        chunk = split(start, stop)
        most = body.op("ReduceMax", body.slice(samples_BR, start, stop, axis=1), keepdims=0)

        def step(
            inner: Body,
            first: str,
            sum_BCQ: str,
            chunk: Boxes = chunk,
            most: str = most,
            num_boxes: int = stop - start,
        ) -> tuple[tuple[str, ...], str]:
            sum_BCQ = inner.op("Add", sum_BCQ, block(inner, chunk, num_boxes, first))
            following = inner.op("Add", first, inner.floats(BLOCK))
            return (following, sum_BCQ), inner.op("Greater", most, following)

        is_needed = body.op("Greater", most, body.floats(BLOCK))
        first_BCMP = body.slice(first_BCQ, start * bins, stop * bins, axis=2)
        _, sum_BCQ = body.loop_while(is_needed, (body.floats(BLOCK), first_BCMP), step)
        sum_BCMP = body.reshape(sum_BCQ, 0, 0, stop - start, bins)
        sums.append(body.op("Transpose", sum_BCMP, perm=[0, 2, 1, 3]))
    sums_BRCP = sums[0] if len(sums) == 1 else body.op("Concat", *sums, axis=1)
    divisor_BR = body.op("Max", samples_BR, body.floats(1))
    pooled_BRCP = body.op("Div", sums_BRCP, body.op("Unsqueeze", divisor_BR, body.ints(2, 3)))
    _, place_BR = body.sort(
        body.op("Cast", order_BR, to=TensorProto.FLOAT), num_rois, largest=False
    )
    return body.gather_rows(pooled_BRCP, place_BR)
