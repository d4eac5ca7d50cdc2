"""The centre check of CenterNet's key-point triplets: a box counts if a centre of its label lies in its middle.

Duan et al., 2019, arXiv 1904.08189, section 3.3; the rules are those of the original's test/coco.py.

Shape suffixes: N boxes, C centres.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.picture.geometry import clip_boxes

__all__ = ["CheckedBoxes", "check_centers"]

Floats = npt.NDArray[np.float32]

BORDER = 5.0
"""Pixels of the scaled picture: a box that reaches this far out is dropped."""
SMALL_AREA = 22500.0
"""Square pixels up to which a centre may lie in the middle third, and not fifth, of a box's sides."""


class CheckedBoxes(NamedTuple):
    """What is left, best first: (M,) rows of the boxes, their scores, and (M, 4) the clipped boxes."""

    rows: npt.NDArray[np.intp]
    scores: Floats
    boxes: Floats


def check_centers(
    boxes: Floats,
    scores: Floats,
    labels: npt.NDArray[np.integer],
    centers: Floats,
    *,
    size: tuple[int, int],
    step: tuple[float, float],
) -> CheckedBoxes:
    """Return the boxes with a centre in their middle, which adds to their score.

    Args:
        boxes: (N, 4) x1 y1 x2 y2 in source pixels, not clipped.
        scores: (N,).
        labels: (N,).
        centers: (C, 4) x, y in source pixels, not clipped, score and label.
        size: height, width of the source.
        step: x, y; source pixels of one network pixel.
    """
    low, high = boxes[:, :2], boxes[:, 2:]
    border = np.array(step, np.float32) * np.float32(BORDER)
    is_inside = (low > -border) & (high < np.array(size[::-1], np.float32) + border)
    # A quirk of the original: the box is clipped before its middle is taken, the centre is not.
    clipped = clip_boxes(boxes, size)
    is_small = (clipped[:, 2:] - clipped[:, :2]).prod(axis=1) <= SMALL_AREA
    is_center_NC = _in_middle(clipped, is_small, centers) & (labels[:, None] == centers[:, 3])
    kept = np.flatnonzero(is_inside.all(axis=1) & is_center_NC.any(axis=1))
    if not len(kept):
        return CheckedBoxes(kept, scores[kept], clipped[kept])
    # The first centre that fits, not the best one: those of the mirrored picture stand behind.
    center_score = centers[is_center_NC[kept].argmax(axis=1), 2]
    raised = (scores[kept] * np.float32(2) + center_score) / np.float32(3)
    # The original sorts large boxes in front of small ones before it sorts by score.
    order = np.lexsort((is_small[kept], -raised))
    return CheckedBoxes(kept[order], raised[order], clipped[kept[order]])


def _in_middle(
    boxes: Floats, is_small: npt.NDArray[np.bool_], centers: Floats
) -> npt.NDArray[np.bool_]:
    """Return (N, C) bool: which centres lie inside the middle third, or fifth, of both sides."""
    n = np.where(is_small, np.float32(3), np.float32(5))[:, None]
    low, high = boxes[:, :2], boxes[:, 2:]
    first = ((n + 1) * low + (n - 1) * high) / (2 * n)
    last = ((n - 1) * low + (n + 1) * high) / (2 * n)
    places = centers[:, :2]
    is_between = (places > first[:, None]) & (places < last[:, None])
    is_inside: npt.NDArray[np.bool_] = is_between.all(axis=2)
    return is_inside
