"""Which rows of two results are the same one, and which of the others a rounding accounts for.

A model and its graph round differently. So a row whose score is next to a bar may be on one side only, and
where two overlapping boxes have the same score either may suppress the other: that is how a tie falls, not
what the model finds.

Shape suffixes: N M rows of one picture, P pairs of rows, F features that tell rows apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.models.reference import Candidates

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]

MAX_BOX_DISTANCE = 1.0
"""Network pixels (sum over the four sides) within which two rows are the same one."""
SCORE_MARGIN = 1e-3
"""Scores this close are tied: with each other, with the threshold, with the worst of a full list."""
IOU_MARGIN = 1e-3
"""An overlap this close to the limit may suppress a box or not."""


def match_rows(
    features_NF: Array, others_MF: Array, is_used_N: Array, is_used_M: Array
) -> npt.NDArray[np.intp]:
    """Return for each row (N,) the other side's row that is the same one, or -1.

    No row is taken twice: the closest pairs come first. Rows that are not used are nobody's counterpart.
    """
    with np.errstate(invalid="ignore"):  # infinite numbers have no distance
        distances_NM = np.abs(features_NF[:, None, :] - others_MF[None, :, :]).sum(axis=-1)
    is_pair_NM = np.logical_and.outer(is_used_N, is_used_M) & (distances_NM <= MAX_BOX_DISTANCE)
    row_P, match_P = np.nonzero(is_pair_NM)  # without those whose distance is not a number
    match_N = np.full(len(features_NF), -1)
    is_free_M = np.ones(len(others_MF), bool)
    for pair in np.argsort(distances_NM[row_P, match_P], kind="stable"):
        row, match = row_P[pair], match_P[pair]
        if match_N[row] < 0 and is_free_M[match]:
            match_N[row] = match
            is_free_M[match] = False
    return match_N


def match_boxes(reference: Array, found: Array) -> npt.NDArray[np.intp]:
    """Return for each box of (1, N, 4) the one of (1, M, 4) that is the same; all 0 is an empty row."""
    boxes_N4, boxes_M4 = (boxes[0].astype(np.float64) for boxes in (reference, found))
    return match_rows(boxes_N4, boxes_M4, boxes_N4.any(axis=1), boxes_M4.any(axis=1))


def match_detections(reference: Tensors, found: Tensors) -> npt.NDArray[np.intp]:
    """Return for each detection (N,) the one of the other side that is the same, or -1.

    Args:
        reference: "boxes" (1, N, 4), "scores" (1, N), "labels" (1, N); the score of an empty row is 0.
        found: the same of the other side.
    """
    features, is_used = [], []
    for side in (reference, found):
        labels_N1 = side["labels"][0][:, None] * 1e3
        scores_N1 = side["scores"][0][:, None]
        features.append(
            np.concatenate([side["boxes"][0].astype(np.float64), labels_N1, scores_N1], axis=1)
        )
        is_used.append(side["scores"][0] != 0)
    return match_rows(features[0], features[1], is_used[0], is_used[1])


def num_unmatched(
    match_N: npt.NDArray[np.intp],
    reference: Tensors,
    found: Tensors,
    *,
    score_threshold: float,
    candidates: Candidates | None = None,
) -> int:
    """Return how many detections of either side are missing on the other, and should not be.

    A detection may be missing whose score is at the threshold or at the worst of a full list. If the
    candidates are known, so may one that a tied or better one of the other side suppresses there. What the
    graph has instead must then be a choice from the candidates that suppression allows.

    Args:
        match_N: from `match_detections`.
        reference: "boxes" (1, N, 4), "scores" (1, N), "labels" (1, N) of the model.
        found: the same of the graph.
        score_threshold: what a detection's score exceeds on both sides.
        candidates: what the model chose from; None allows for no ties.
    """
    lost, added = _Side.of(reference, match_N), _Side.of(found, _inverse(match_N, found))
    threshold = score_threshold if candidates is None else candidates.score_threshold
    is_missing_N = lost.is_single & (lost.scores > _bar(added.scores, threshold))
    is_missing_M = added.is_single & (added.scores > _bar(lost.scores, threshold))
    if candidates is not None:
        is_missing_N &= ~_is_suppressed(lost, added, candidates)
        is_missing_M &= ~_is_suppressed(added, lost, candidates)
        is_above_M = added.scores > score_threshold + SCORE_MARGIN
        is_missing_M |= added.is_single & is_above_M & ~_is_choice(added, candidates)
    return int(is_missing_N.sum() + is_missing_M.sum())


@dataclass(frozen=True)
class _Side:
    """The rows of one side that hold something, and which of them have no counterpart."""

    boxes: Array
    scores: Array
    labels: Array
    is_single: Array

    @classmethod
    def of(cls, side: Tensors, match_N: Array) -> _Side:
        boxes_N4 = side["boxes"][0].astype(np.float64)
        return cls(boxes_N4, side["scores"][0], side["labels"][0], match_N < 0)


def _inverse(match_N: Array, found: Tensors) -> Array:
    """Return for each row of the other side the row that it is the counterpart of, or -1."""
    inverse_M = np.full(found["scores"].shape[1], -1)
    rows = np.flatnonzero(match_N >= 0)
    inverse_M[match_N[rows]] = rows
    return inverse_M


def _bar(scores_N: Array, score_threshold: float) -> float:
    """Return the score above which a detection of the other side must be on this one, too."""
    is_full = bool((scores_N > 0).all())
    lowest = max(score_threshold, float(scores_N.min())) if is_full else score_threshold
    return lowest + SCORE_MARGIN


def _is_suppressed(side: _Side, other: _Side, candidates: Candidates) -> Array:
    """Return (N,) which rows of a side the other side lacks because of a box that it has instead.

    That box is tied or better and overlaps the row. Either this side lacks it in turn, so that a tie fell the
    other way, here or further up the chain of boxes that suppress each other; or this side has both, and so
    the overlap must be at the limit. Where such a chain begins, both boxes are tied.
    """
    overlap_NM = box_overlaps(side.boxes, other.boxes, pixel=candidates.pixel)
    may_suppress_NM = overlap_NM > candidates.iou_threshold - IOU_MARGIN
    may_suppress_NM &= side.labels[:, None] == other.labels
    may_suppress_NM &= (other.scores > 0) & (other.scores >= side.scores[:, None] - SCORE_MARGIN)
    is_at_limit_NM = overlap_NM < candidates.iou_threshold + IOU_MARGIN
    return np.any(may_suppress_NM & (other.is_single | is_at_limit_NM), axis=1)


def _is_choice(side: _Side, candidates: Candidates) -> Array:
    """Return (N,) which rows are candidates that no other row of the side should have suppressed.

    Only rows without a counterpart are looked at.
    """
    boxes_M4, scores_M, labels_M = (
        values.cpu().numpy() for values in (candidates.boxes, candidates.scores, candidates.labels)
    )
    overlap_NN = box_overlaps(side.boxes, side.boxes, pixel=candidates.pixel)
    clashes_NN = overlap_NN > candidates.iou_threshold + IOU_MARGIN
    clashes_NN &= (side.labels[:, None] == side.labels) & (side.scores > 0)
    np.fill_diagonal(clashes_NN, val=False)
    is_choice_N: Array = np.logical_not(clashes_NN.any(axis=1))
    for row in np.flatnonzero(side.is_single & (side.scores > 0)):
        is_it_M = np.abs(boxes_M4 - side.boxes[row]).sum(axis=1) <= MAX_BOX_DISTANCE
        is_it_M &= np.abs(scores_M - side.scores[row]) <= SCORE_MARGIN
        is_it_M &= labels_M == side.labels[row]
        is_choice_N[row] &= is_it_M.any()
    return is_choice_N


def box_overlaps(boxes_N4: Array, boxes_M4: Array, *, pixel: float = 0.0) -> Array:
    """Return the intersections over unions (N, M) of boxes x1 y1 x2 y2; 0 where there is no area.

    Args:
        boxes_N4: some boxes.
        boxes_M4: others.
        pixel: added to every width and height, those of the intersection included.
    """
    low_NM2 = np.maximum(boxes_N4[:, None, :2], boxes_M4[:, :2])
    high_NM2 = np.minimum(boxes_N4[:, None, 2:], boxes_M4[:, 2:])
    with np.errstate(invalid="ignore"):  # infinite boxes overlap none
        shared_NM = np.maximum(high_NM2 - low_NM2 + pixel, 0).prod(axis=2)
        area_N, area_M = ((b[:, 2:] - b[:, :2] + pixel).prod(axis=1) for b in (boxes_N4, boxes_M4))
        union_NM = area_N[:, None] + area_M - shared_NM
        return np.divide(shared_NM, union_NM, out=np.zeros_like(shared_NM), where=union_NM > 0)
