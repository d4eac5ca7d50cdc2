"""Greedy non-maximum suppression with a fixed number of results.

Shape suffixes: N boxes of a picture, in falling score order inside the helpers, K results.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor | None = None,
    *,
    iou_threshold: float,
    max_output: int,
    score_threshold: float = float("-inf"),
) -> tuple[Tensor, Tensor]:
    """Return the indices of the boxes that no better kept box overlaps, best first.

    Agrees with torchvision's nms (CPU kernel), per group: equal scores keep their input order, a box goes when its
    float32 IoU with a kept one is above the threshold, boxes without area (IoU 0/0) stay. Candidates whose score is not a
    number or not above `score_threshold` take no part. Not differentiable.

    Inside `torch.onnx.export(dynamo=True)` this is one node, `edgeseg::Nms`.

    Args:
        boxes: (B, N, 4) float x1 y1 x2 y2, any unit.
        scores: (B, N) float.
        groups: (B, N) integers or None; boxes of different groups never suppress each other.
        iou_threshold: A box with an IoU above it is suppressed; equal is kept.
        max_output: K, the number of results.
        score_threshold: Only higher scores take part.

    Returns:
        indices (B, K) int64 into N and valid (B, K) bool. The padding behind the last kept box has index 0, valid False.

    Raises:
        ValueError: if the shapes do not fit together, `max_output` is below 1 or `iou_threshold` not within 0 to 1.
    """
    if boxes.dim() != 3 or boxes.shape[-1] != 4:
        raise ValueError(f"boxes have the shape {tuple(boxes.shape)}, expected (B, N, 4)")
    for name, tensor in (("scores", scores), ("groups", groups)):
        if tensor is not None and tensor.shape != boxes.shape[:2]:
            raise ValueError(
                f"{name} have the shape {tuple(tensor.shape)}, boxes {tuple(boxes.shape)}: expected (B, N)"
            )
    if max_output < 1:
        raise ValueError(f"max_output is {max_output}, expected at least 1")
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold is {iou_threshold}, expected 0 to 1")
    if torch.onnx.is_in_onnx_export():
        indices, valid = torch.onnx.ops.symbolic_multi_out(
            "edgeseg::Nms",
            [boxes, scores] if groups is None else [boxes, scores, groups],
            {
                "iou_threshold": largest_kept_iou(iou_threshold),  # attributes are float32
                "max_output": max_output,
                "score_threshold": float(score_threshold),
            },
            dtypes=[torch.int64, torch.bool],
            shapes=[(boxes.shape[0], max_output)] * 2,
            version=1,
        )
        return indices, valid
    boxes, scores = boxes.detach().float(), scores.detach().float()
    indices = boxes.new_zeros((len(boxes), max_output), dtype=torch.int64)
    valid = torch.zeros_like(indices, dtype=torch.bool)
    for picture in range(len(boxes)):
        candidates_N = (scores[picture] > score_threshold).nonzero()[:, 0]  # NaN is not above
        order_N = scores[picture, candidates_N].argsort(descending=True, stable=True)
        order_N = candidates_N[order_N]
        kept_K = _greedy(
            boxes[picture, order_N],
            None if groups is None else groups[picture, order_N],
            largest_kept_iou(iou_threshold),
            max_output,
        )
        indices[picture, : len(kept_K)] = order_N[kept_K]
        valid[picture, : len(kept_K)] = True
    return indices, valid


def largest_kept_iou(iou_threshold: float) -> float:
    """Return the largest float32 that is not above the threshold.

    A float32 IoU is above the float64 threshold exactly when it is above this number (the float32 nearest to 0.1 is itself
    above 0.1), so that a comparison in float32 decides as the original's comparison in float64 does.
    """
    nearest = np.float32(iou_threshold)
    if float(nearest) > iou_threshold:
        nearest = np.nextafter(nearest, np.float32(-np.inf))
    return float(nearest)


def _greedy(
    boxes_N4: Tensor, group_N: Tensor | None, largest_kept: float, max_output: int, block: int = 512
) -> Tensor:
    """Return the first `max_output` kept boxes, (K,) int64 rising, found block by block of the sorted boxes.

    Within a block the kept boxes are the fixed point of keep = alive and not any(kept box before that overlaps). It is
    unique, since a box depends only on those before it, and is reached in as many steps as the longest chain of boxes
    that suppress each other in turn has links.
    """
    kept_K = torch.zeros(0, dtype=torch.int64, device=boxes_N4.device)
    for start in range(0, len(boxes_N4), block):
        if len(kept_K) >= max_output:
            break
        block_N = torch.arange(start, min(start + block, len(boxes_N4)), device=boxes_N4.device)
        alive = ~_overlaps(boxes_N4, group_N, kept_K, block_N, largest_kept).any(0)
        block_N = block_N[alive]
        suppresses = _overlaps(boxes_N4, group_N, block_N, block_N, largest_kept).triu_(1).float()
        keep = torch.ones_like(block_N, dtype=torch.bool)
        while not keep.equal(following := keep.float() @ suppresses == 0):
            keep = following
        kept_K = torch.cat([kept_K, block_N[keep]])
    return kept_K[:max_output]


def _overlaps(
    boxes_N4: Tensor, group_N: Tensor | None, rows: Tensor, columns: Tensor, largest_kept: float
) -> Tensor:
    """Return which boxes are of one group and have an IoU above the threshold, (rows, columns) bool."""
    x1, y1, x2, y2 = boxes_N4[rows, :, None].unbind(1)
    u1, v1, u2, v2 = boxes_N4[columns].unbind(1)
    width = (torch.minimum(x2, u2) - torch.maximum(x1, u1)).clamp_(min=0)
    height = (torch.minimum(y2, v2) - torch.maximum(y1, v1)).clamp_(min=0)
    inter = width.mul_(height)
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - inter
    overlaps = inter / union > largest_kept  # 0/0 of boxes without area is not
    return overlaps if group_N is None else overlaps & (group_N[rows, None] == group_N[columns])
