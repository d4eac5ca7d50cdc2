"""Which priors become detections: YOLACT's Fast NMS per class or across classes, or the greedy one.

Shape suffixes: B pictures, N priors, Y classes, T candidates (of a class), K results.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgeseg.models.layers.boxes import take_rows
from edgeseg.ops import nms

BLOCK = 50
"""Boxes that are compared with all earlier ones at a time: half of a whole square would be in vain."""


@dataclass(frozen=True)
class Selection:
    """The chosen (prior, class) pairs, best first.

    Attributes:
        priors: (B, K) int64.
        labels: (B, K) int64, the number of the class.
        scores: (B, K) falling; 0 in rows without a detection.
    """

    priors: Tensor
    labels: Tensor
    scores: Tensor


def fast_nms(
    boxes_BN4: Tensor, scores_BYN: Tensor, *, top_k: int, iou_threshold: float, max_output: int
) -> Selection:
    """Return the best pairs after Fast NMS in each class (section 3.3 of the paper).

    A candidate goes if any better one of its class overlaps it more than ``iou_threshold``, be that
    one itself suppressed or not. Exact for every input: all priors take part in every class, and
    only ``top_k`` bounds the candidates, as in the original.

    Args:
        boxes_BN4: x1 y1 x2 y2 in any unit.
        scores_BYN: 0 where a prior is not a candidate.
        top_k: candidates of each class.
        iou_threshold: the largest overlap that is kept.
        max_output: K, the number of results of all classes together.
    """
    num_classes, num_priors = scores_BYN.shape[1:]
    num_candidates = min(top_k, num_priors)
    scores_BYT, prior_BYT = scores_BYN.topk(num_candidates, dim=2)
    boxes_BYT4 = take_rows(boxes_BN4, prior_BYT.flatten(1)).reshape(
        -1, num_classes, num_candidates, 4
    )
    scores_BYT = torch.where(_has_better(boxes_BYT4, iou_threshold), 0.0, scores_BYT)
    scores_BK, place_BK = scores_BYT.flatten(1).topk(
        min(max_output, num_classes * num_candidates), dim=1
    )
    return Selection(
        priors=prior_BYT.flatten(1).gather(1, place_BK),
        labels=place_BK // num_candidates,
        scores=scores_BK,
    )


def fast_nms_cross_class(
    boxes_BN4: Tensor, scores_BYN: Tensor, *, top_k: int, iou_threshold: float
) -> Selection:
    """Return what Fast NMS leaves of the ``top_k`` best priors, each with its best class only.

    See :func:`fast_nms` for the arguments; K is ``top_k``.
    """
    best_BN, label_BN = scores_BYN.max(dim=1)
    scores_BT, prior_BT = best_BN.topk(min(top_k, best_BN.shape[1]), dim=1)
    is_worse_BT = _has_better(take_rows(boxes_BN4, prior_BT), iou_threshold)
    scores_BK, place_BK = torch.where(is_worse_BT, 0.0, scores_BT).topk(scores_BT.shape[1], dim=1)
    prior_BK = prior_BT.gather(1, place_BK)
    return Selection(priors=prior_BK, labels=label_BN.gather(1, prior_BK), scores=scores_BK)


def greedy_nms(
    boxes_BN4: Tensor,
    scores_BYN: Tensor,
    *,
    score_threshold: float,
    iou_threshold: float,
    max_output: int,
    max_candidates: int,
) -> Selection:
    """Return the best pairs after greedy suppression in each class, counted in whole pixels.

    The original's utils/cython_nms.pyx: widths are x2 - x1 + 1, and an overlap of exactly
    ``iou_threshold`` suppresses. The ``max_candidates`` best pairs take part: the result is the
    original's whenever no more are above ``score_threshold``, or when those suffice for
    ``max_output``.

    Args:
        boxes_BN4: x1 y1 x2 y2 in network pixels.
        scores_BYN: 0 where a prior is not a candidate.
        score_threshold: only better pairs take part.
        iou_threshold: the smallest overlap that suppresses.
        max_output: K, the number of results of all classes together.
        max_candidates: bound of the pairs.
    """
    num_classes, num_priors = scores_BYN.shape[1:]
    scores_BT, pair_BT = scores_BYN.flatten(1).topk(
        min(max_candidates, num_classes * num_priors), dim=1
    )
    label_BT, prior_BT = pair_BT // num_priors, pair_BT % num_priors
    last_pixel = boxes_BN4.new_tensor([0.0, 0.0, 1.0, 1.0])
    kept_BK, is_kept_BK = nms(
        take_rows(boxes_BN4, prior_BT) + last_pixel,
        scores_BT,
        label_BT,
        iou_threshold=float(np.nextafter(np.float32(iou_threshold), np.float32(0))),
        max_output=max_output,
        score_threshold=score_threshold,
    )
    return Selection(
        priors=prior_BT.gather(1, kept_BK),
        labels=label_BT.gather(1, kept_BK),
        scores=torch.where(is_kept_BK, scores_BT.gather(1, kept_BK), 0.0),
    )


def _has_better(boxes: Tensor, iou_threshold: float) -> Tensor:
    """Return (..., T) bool: a box before this one, of (..., T, 4), overlaps it too much.

    A box that is not a number overlaps none.
    """
    num_boxes = boxes.shape[-2]
    return torch.cat(
        [
            _overlaps_earlier(boxes, start, min(start + BLOCK, num_boxes), iou_threshold)
            for start in range(0, num_boxes, BLOCK)
        ],
        dim=-1,
    )


def _overlaps_earlier(boxes: Tensor, start: int, end: int, iou_threshold: float) -> Tensor:
    """Return (..., end - start) bool: of :func:`_has_better`, what belongs to a block of boxes."""
    x1, y1, x2, y2 = boxes[..., start:end, None, :].unbind(-1)  # the later box
    u1, v1, u2, v2 = boxes[..., None, :end, :].unbind(-1)  # the earlier one
    width = torch.minimum(x2, u2) - torch.maximum(x1, u1)
    height = torch.minimum(y2, v2) - torch.maximum(y1, v1)
    # One bound is enough: a negative intersection is not above the threshold.
    inter = F.relu(width) * height
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - inter
    is_earlier = torch.ones(end - start, end, dtype=boxes.dtype, device=boxes.device).tril(
        start - 1
    )
    overlaps = torch.where(inter / union > iou_threshold, is_earlier, 0.0)
    return overlaps.amax(dim=-1) > 0
