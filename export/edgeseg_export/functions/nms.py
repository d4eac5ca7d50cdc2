"""The body of `edgeseg::Nms`: exact greedy suppression in standard operators with static shapes.

Shape suffixes: B pictures, N boxes in falling score order, M boxes of a block, L boxes from the block on, K results.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from onnx import FunctionProto, TensorProto, helper

from edgeseg_export.functions.body import OPSET, Body

BLOCK = 256  # boxes: smaller wastes less of the triangle, larger needs fewer nodes
MAX_UNROLLED = 4 * BLOCK
"""With more boxes most are candidates seldom: the blocks are looped over, and only those that hold some."""


def nms_function(
    name: str,
    num_boxes: int,
    *,
    has_groups: bool,
    iou_threshold: float,
    max_output: int,
    score_threshold: float,
) -> FunctionProto:
    """Return the function for N boxes a picture, which computes what `edgeseg.ops.nms` does.

    The sorted boxes are taken in blocks. The kept boxes of a block are the fixed point of keep = alive and not any(kept
    box before that overlaps), iterated until nothing changes; then they suppress the boxes of all later blocks. How
    many iterations that takes depends on the boxes, no shape does, and the result is exact for every input. Many boxes
    take time for those above `score_threshold` only, up to the block in which `max_output` of them are kept.

    Args:
        name: Of the function, in the domain `edgeseg`.
        num_boxes: N, at most 3840 (TensorRT's limit for TopK).
        has_groups: Whether the node has the third input.
        iou_threshold: The node's attribute, a float32, as is the score threshold.
        max_output: K.
        score_threshold: Only higher scores take part.
    """
    body = Body()
    threshold = body.floats(score_threshold)
    is_candidate = body.op("Greater", "scores", threshold)  # not NaN, which TopK would rank first
    clean_scores = body.op("Where", is_candidate, "scores", body.floats(-math.inf))
    scores_BN, order_BN = body.sort(clean_scores, num_boxes)
    alive_BN = _as_float(body, body.op("Greater", scores_BN, threshold))

    boxes_BN5 = _boxes_and_areas(body, body.gather_rows("boxes", order_BN))
    groups_BN1 = ""
    if has_groups:
        groups_BN = body.op("Cast", "groups", to=TensorProto.INT64)
        groups_BN1 = body.gather_rows(body.op("Unsqueeze", groups_BN, body.ints(2)), order_BN)
    if num_boxes > MAX_UNROLLED:
        keep_BN = _keep_in_tiles(
            body, boxes_BN5, groups_BN1, alive_BN, num_boxes, max_output, iou_threshold
        )
    else:
        keep_BN = _keep_in_blocks(body, boxes_BN5, groups_BN1, alive_BN, num_boxes, iou_threshold)
    _first_kept(body, keep_BN, order_BN, num_boxes, max_output)
    return helper.make_function(
        "edgeseg",
        name,
        ["boxes", "scores", "groups"] if has_groups else ["boxes", "scores"],
        ["indices", "valid"],
        body.nodes,
        [helper.make_opsetid("", OPSET)],
        ["iou_threshold", "max_output", "score_threshold"],
    )


def _keep_in_blocks(
    body: Body, boxes_BN5: str, groups_BN1: str, alive_BN: str, num_boxes: int, iou_threshold: float
) -> str:
    """Return 1 for the kept boxes, (B, N) float: block by block, each against all later ones."""
    alive_B1L = body.op("Unsqueeze", alive_BN, body.ints(1))
    boxes_B5N = body.op("Transpose", boxes_BN5, perm=[0, 2, 1])
    groups_B1N = body.op("Transpose", groups_BN1, perm=[0, 2, 1]) if groups_BN1 else ""
    kept = []
    for start in range(0, num_boxes, BLOCK):
        stop = min(start + BLOCK, num_boxes)
        overlaps_BML = _overlaps(
            body,
            body.slice(boxes_BN5, start, stop, axis=1),
            body.slice(boxes_B5N, start, num_boxes, axis=2),
            iou_threshold,
        )
        if groups_BN1:
            same_BML = body.op(
                "Equal",
                body.slice(groups_BN1, start, stop, axis=1),
                body.slice(groups_B1N, start, num_boxes, axis=2),
            )
            overlaps_BML = body.op("And", overlaps_BML, same_BML)
        overlaps_BML = _as_float(body, overlaps_BML)
        keep_B1M = _fixed_point(body, alive_B1L, overlaps_BML, stop - start)
        kept.append(keep_B1M)
        if stop < num_boxes:
            later = (stop - start, num_boxes - start)
            alive_B1L = _survivors(
                body,
                keep_B1M,
                body.slice(overlaps_BML, *later, axis=2),
                body.slice(alive_B1L, *later, axis=2),
            )
    keep_B1N = kept[0] if len(kept) == 1 else body.op("Concat", *kept, axis=2)
    return body.op("Squeeze", keep_B1N, body.ints(1))


def _keep_in_tiles(
    body: Body,
    boxes_BN5: str,
    groups_BN1: str,
    alive_BN: str,
    num_boxes: int,
    max_output: int,
    iou_threshold: float,
) -> str:
    """Return 1 for the kept boxes, (B, N) float, as far as the first `max_output` of each picture are concerned.

    One loop over the tiles (row, column) of pairs of blocks, column by column down to the diagonal: the rows' boxes are
    final when they suppress the column's, and the diagonal makes these final. It ends where no candidates are left.
    """
    num_blocks = -(-num_boxes // BLOCK)
    blocks_1C1 = body.floats(np.arange(num_blocks)[None, :, None])
    missing = num_blocks * BLOCK - num_boxes
    boxes_BCM5, alive_BCM = (
        body.reshape(_lengthened(body, value, missing, rank), 0, num_blocks, BLOCK, *rest)
        for value, rank, rest in ((boxes_BN5, 3, (5,)), (alive_BN, 2, ()))
    )
    groups_BCM1 = groups_BN1 and body.reshape(
        _lengthened(body, groups_BN1, missing, 3), 0, num_blocks, BLOCK, 1
    )
    num_candidates_B = body.op("ReduceSum", alive_BN, body.ints(1), keepdims=0)
    num_candidates = body.op("ReduceMax", num_candidates_B, keepdims=0)

    def step(inner: Body, row: str, column: str, alive_BCM: str) -> tuple[tuple[str, ...], str]:
        places = tuple(inner.op("Equal", blocks_1C1, index) for index in (row, column))
        overlaps_BMM = _overlaps(
            inner, *_tile(inner, boxes_BCM5, places, inner.floats(0)), iou_threshold
        )
        if groups_BCM1:
            same_BMM = inner.op("Equal", *_tile(inner, groups_BCM1, places, inner.ints(0)))
            overlaps_BMM = inner.op("And", overlaps_BMM, same_BMM)
        is_diagonal = inner.op("Equal", row, column)
        is_above = _as_float(inner, inner.op("Less", row, column))
        keep_B1M = _settled_column(inner, alive_BCM, overlaps_BMM, places, is_diagonal, is_above)
        alive_BCM = inner.op("Where", places[1], keep_B1M, alive_BCM)

        next_column = inner.op("Add", column, _as_float(inner, is_diagonal))
        next_row = inner.op("Mul", inner.op("Add", row, inner.floats(1)), is_above)
        is_final_1C1 = _as_float(inner, inner.op("Less", blocks_1C1, next_column))
        final_BCM = inner.op("Mul", alive_BCM, is_final_1C1)
        num_kept_B = inner.op("ReduceSum", final_BCM, inner.ints(1, 2), keepdims=0)
        fewest = inner.op("ReduceMin", num_kept_B, keepdims=0)
        start = inner.op("Mul", next_column, inner.floats(BLOCK))
        again = inner.op(
            "And",
            inner.op("Less", start, num_candidates),
            inner.op("Less", fewest, inner.floats(max_output)),
        )
        return (next_row, next_column, alive_BCM), again

    first = body.floats(0)
    is_needed = body.op("Greater", num_candidates, body.floats(0))
    *_, keep_BCM = body.loop_while(is_needed, (first, first, alive_BCM), step)
    return body.slice(body.reshape(keep_BCM, 0, -1), 0, num_boxes, axis=1)


def _block(body: Body, blocks: str, is_it: str, zero: str, *, keepdims: int = 0) -> str:
    """Return one of the blocks along axis 1.

    Not a Gather: TensorRT-RTX 1.7.1 compiles none whose index is a state of a loop.
    """
    chosen = body.op("Where", is_it, blocks, zero)
    return body.op("ReduceSum", chosen, body.ints(1), keepdims=keepdims)


def _tile(body: Body, blocks_BCMX: str, places: Sequence[str], zero: str) -> tuple[str, str]:
    """Return a tile's rows (B, M, X) and columns (B, X, M); `places` tell which blocks these are, (1, C, 1) bool."""
    rows_BMX, columns_BMX = (
        _block(body, blocks_BCMX, body.op("Unsqueeze", is_it_1C1, body.ints(3)), zero)
        for is_it_1C1 in places
    )
    return rows_BMX, body.op("Transpose", columns_BMX, perm=[0, 2, 1])


def _settled_column(
    body: Body,
    alive_BCM: str,
    overlaps_BMM: str,
    places: Sequence[str],
    is_diagonal: str,
    is_above: str,
) -> str:
    """Return 1 for the boxes of a tile's column that its rows leave, (B, 1, M) float.

    The rows above the diagonal are final. On it they are the column itself, whose kept boxes are a fixed point.
    """
    before_1MM = body.floats(np.triu(np.ones((1, BLOCK, BLOCK)), 1))
    suppresses_BMM = body.op(
        "Mul", _as_float(body, overlaps_BMM), body.op("Max", before_1MM, is_above)
    )
    kept_B1M, alive_B1M = (
        _block(body, alive_BCM, is_it_1C1, body.floats(0), keepdims=1) for is_it_1C1 in places
    )

    def suppress(inner: Body, keep_B1M: str) -> tuple[tuple[str, ...], str]:
        rows_B1M = inner.op("Where", is_diagonal, keep_B1M, kept_B1M)
        following = _survivors(inner, rows_B1M, suppresses_BMM, alive_B1M)
        return (following,), _has_changed(inner, keep_B1M, following)

    return body.loop_while(body.true(), (alive_B1M,), suppress)[0]


def _lengthened(body: Body, value: str, missing: int, rank: int) -> str:
    """Return the value with so many zeros more along axis 1."""
    if not missing:
        return value
    ends = [0] * rank
    ends[1] = missing
    return body.op("Pad", value, body.ints(*[0] * rank, *ends))


def _as_float(body: Body, condition: str) -> str:
    return body.op("Cast", condition, to=TensorProto.FLOAT)


def _boxes_and_areas(body: Body, boxes_BN4: str) -> str:
    """Return x1 y1 x2 y2 area, (B, N, 5), where a box with x2 < x1 or y2 < y1 lies too far away to overlap any."""
    low_BN2 = body.slice(boxes_BN4, 0, 2, axis=2)
    high_BN2 = body.slice(boxes_BN4, 2, 4, axis=2)
    is_inverted = _as_float(body, body.op("Less", high_BN2, low_BN2))
    is_inverted = body.op("ReduceMax", is_inverted, body.ints(2), keepdims=1)
    is_inverted = body.op("Greater", is_inverted, body.floats(0.5))
    boxes_BN4 = body.op("Where", is_inverted, body.floats(1e9), boxes_BN4)
    x1, y1, x2, y2 = body.split(boxes_BN4, 4, axis=2)
    area_BN1 = body.op("Mul", body.op("Sub", x2, x1), body.op("Sub", y2, y1))
    return body.op("Concat", boxes_BN4, area_BN1, axis=2)


def _overlaps(body: Body, rows_BM5: str, columns_B5L: str, iou_threshold: float) -> str:
    """Return whether the IoU is above the threshold, (B, M, L) bool, in the arithmetic of the original."""
    x1, y1, x2, y2, area = body.split(rows_BM5, 5, axis=2)
    u1, v1, u2, v2, other = body.split(columns_B5L, 5, axis=1)
    width = body.op("Sub", body.op("Min", x2, u2), body.op("Max", x1, u1))
    height = body.op("Sub", body.op("Min", y2, v2), body.op("Max", y1, v1))
    # One Relu is enough: a negative intersection is not above the threshold, nor is 0, as no area is negative.
    inter = body.op("Mul", body.op("Relu", width), height)
    union = body.op("Sub", body.op("Add", area, other), inter)
    return body.op("Greater", body.op("Div", inter, union), body.floats(iou_threshold))


def _fixed_point(body: Body, alive_B1L: str, overlaps_BML: str, size: int) -> str:
    """Return 1 for the kept boxes of the block, (B, 1, M) float."""
    alive_B1M = body.slice(alive_B1L, 0, size, axis=2)
    overlaps_BMM = body.slice(overlaps_BML, 0, size, axis=2)
    before_MM = body.floats(np.triu(np.ones((size, size)), 1))
    suppresses_BMM = body.op("Mul", overlaps_BMM, before_MM)

    def step(inner: Body, keep_B1M: str) -> tuple[tuple[str, ...], str]:
        following = _survivors(inner, keep_B1M, suppresses_BMM, alive_B1M)
        return (following,), _has_changed(inner, keep_B1M, following)

    return body.loop_while(body.true(), (alive_B1M,), step)[0]


def _has_changed(body: Body, before: str, after: str) -> str:
    """Return whether two tensors of zeros and ones differ, a scalar bool."""
    change = body.op("Abs", body.op("Sub", after, before))
    largest = body.op("ReduceMax", change, keepdims=0)
    return body.op("Greater", largest, body.floats(0.5))


def _survivors(body: Body, keep_B1M: str, suppresses_BML: str, alive_B1L: str) -> str:
    """Return 1 for the boxes that were alive and that no kept one suppresses, (B, 1, L) float.

    Not a MatMul: TensorRT-RTX has none in float32 for Turing.
    """
    keep_BM1 = body.op("Transpose", keep_B1M, perm=[0, 2, 1])
    suppressed = body.op("Mul", suppresses_BML, keep_BM1)
    suppressed_B1L = body.op("ReduceMax", suppressed, body.ints(1), keepdims=1)
    return body.op("Mul", alive_B1L, body.op("Sub", body.floats(1), suppressed_B1L))


def _first_kept(body: Body, keep_BN: str, order_BN: str, num_boxes: int, max_output: int) -> None:
    """Write the outputs: the first K kept boxes have the K largest of keep * (N - position)."""
    keys_BN = body.op("Mul", keep_BN, body.floats(np.arange(num_boxes, 0, -1)))
    count = min(max_output, num_boxes)
    keys_BK, position_BK = body.sort(keys_BN, count)
    indices_BK = body.gather_rows(order_BN, position_BK)
    valid_BK = body.op("Greater", keys_BK, body.floats(0.5))
    zero = body.op("Cast", body.floats(0), to=TensorProto.INT64)
    indices_BK = body.op("Where", valid_BK, indices_BK, zero)
    if count < max_output:
        padding = body.ints(0, 0, 0, max_output - count)
        indices_BK = body.op("Pad", indices_BK, padding)
        padded = body.op("Pad", _as_float(body, valid_BK), padding)
        valid_BK = body.op("Greater", padded, body.floats(0.5))
    body.output("indices", indices_BK)
    body.output("valid", valid_BK)
