"""Soft-NMS: boxes lose score for what they share with better ones (Bodla et al., 2017, arXiv 1704.04503).

The Gaussian form of CornerNet and CenterNet: sigma 0.5, and widths of x2 - x1 + 1.

Shape suffixes: N boxes, M boxes of one label or that are left to choose from.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["MODES", "Suppressed", "soft_nms"]

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]

MODES = ("gaussian", "original")
SIGMA = np.float32(0.5)
FLOOR = np.float32(0.001)
"""A box whose score falls below it is taken out."""


class Suppressed(NamedTuple):
    """The rows of a result, best first: which box each is, (K,), and the score that is left, (K,)."""

    rows: Indices
    scores: Floats


def soft_nms(
    boxes: Floats,
    scores: Floats,
    labels: npt.NDArray[np.integer],
    *,
    max_detections: int,
    mode: str = "gaussian",
) -> Suppressed:
    """Return the best boxes after each has lowered the scores of those of its label that overlap it.

    Args:
        boxes: (N, 4) x1 y1 x2 y2 in pixels, finite.
        scores: (N,).
        labels: (N,); boxes of different labels leave each other alone.
        max_detections: of all labels together, at least 1.
        mode: "gaussian" gives each box once at most. "original" is what CornerNet and CenterNet return:
            their function (external/nms.pyx) moves the last row to where one was taken out, and its
            callers keep the array with all that stays behind. So a box can come twice, with a score
            from before or below the floor, and so can one that was taken out; and as many rows as tie
            with the last one.
    """
    assert mode in MODES, mode
    if mode == "gaussian":
        return _best(boxes, scores, labels, max_detections)
    found = [Suppressed(np.zeros(0, np.intp), np.zeros(0, np.float32))]
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        rows, left = _with_leftovers(boxes[own], scores[own])
        found.append(Suppressed(own[rows], left))
    rows = np.concatenate([each.rows for each in found])
    left = np.concatenate([each.scores for each in found])
    if len(left) > max_detections:
        is_kept = left >= np.partition(left, -max_detections)[-max_detections]
        rows, left = rows[is_kept], left[is_kept]
    order = np.argsort(-left, kind="stable")
    return Suppressed(rows[order], left[order])


def _best(boxes: Floats, scores: Floats, labels: npt.NDArray[np.integer], count: int) -> Suppressed:
    """Return the ``count`` best: scores only fall, so whatever is chosen later is worse."""
    left = scores.astype(np.float32)
    is_free = np.ones(len(left), np.bool_)
    rows: list[int] = []
    for _ in range(min(count, len(left))):
        best = int(np.where(is_free, left, -np.inf).argmax())
        if not is_free[best]:
            break
        rows.append(best)
        is_free[best] = False
        others = np.flatnonzero(is_free & (labels == labels[best]))
        lowered, is_overlapping = _lowered(boxes[best], boxes[others], left[others])
        is_free[others[is_overlapping & (lowered < FLOOR)]] = False
        left[others] = lowered
    chosen = np.array(rows, np.intp)
    return Suppressed(chosen, left[chosen])


def _with_leftovers(boxes: Floats, scores: Floats) -> tuple[Indices, Floats]:
    """Return row and score of every place of the original's array when its function has returned."""
    rows = np.arange(len(scores))
    left = scores.astype(np.float32)
    end = len(left)
    for place in range(len(left)):
        if place >= end:  # the original goes on, and changes nothing
            break
        best = place + int(left[place:end].argmax())
        rows[[place, best]], left[[place, best]] = rows[[best, place]], left[[best, place]]
        first = place + 1
        lowered, is_overlapping = _lowered(
            boxes[rows[place]], boxes[rows[first:end]], left[first:end]
        )
        is_out = is_overlapping & (lowered < FLOOR)
        came_from, end = _close_up(is_out, first, end)
        visited = slice(first, first + len(came_from))
        rows[visited], left[visited] = rows[came_from], lowered[came_from - first]
    return rows, left


def _close_up(is_out: npt.NDArray[np.bool_], first: int, end: int) -> tuple[Indices, int]:
    """Return which place each row comes from once the last ones were moved to where rows are out.

    Args:
        is_out: (M,) of the places from ``first`` to ``end``.
        first: place of the first one.
        end: place behind the last one.

    Returns:
        The places (M',) that the rows from ``first`` on come from, and the new end. A row behind it
        that is not among them stays as it was before its score was lowered.
    """
    came_from = np.arange(first, end)
    is_visited_to = -1
    for place in (np.flatnonzero(is_out) + first).tolist():
        if place >= end:
            break
        current = place
        while is_out[current - first]:
            end -= 1
            if end == place:  # the last row is moved onto itself
                is_visited_to = place + 1
                break
            current = end
        came_from[place - first] = current
    return came_from[: max(end, is_visited_to) - first], end


def _lowered(box: Floats, others: Floats, scores: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return the scores (M,) that a better box leaves to others, and which of them it overlaps."""
    one = np.float32(1)
    size = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]) + one
    is_overlapping: npt.NDArray[np.bool_] = np.logical_and(size[:, 0] > 0, size[:, 1] > 0)
    shared = size[:, 0] * size[:, 1]
    area, areas = ((each[..., 2:] - each[..., :2] + one).prod(axis=-1) for each in (box, others))
    overlap = np.divide(
        shared, area + areas - shared, out=np.zeros_like(shared), where=is_overlapping
    )
    # The original: float32 but for the exponential, whose result is rounded to it.
    weight: Floats = np.exp((-(overlap * overlap) / SIGMA).astype(np.float64)).astype(np.float32)
    return weight * scores, is_overlapping
