"""How good the landmarks of faces are: normalised error, its cumulative curve, the area under it, failures.

Shape suffixes: N faces, J points. Points are x, y in source pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from edgeseg_bench.metrics.coco import Scores

Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]
Normalization: TypeAlias = Literal["inter_ocular", "inter_pupil", "box_diagonal"]

OUTER_EYE_CORNERS: dict[int, tuple[int, int]] = {29: (8, 9), 68: (36, 45), 98: (60, 72)}
"""Number of points -> the outer eye corners, of COFW's, 300W's and WFLW's markup; numbered from 0."""

PUPILS: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {
    5: ((0,), (1,)),
    29: ((16,), (17,)),
    68: (tuple(range(36, 42)), tuple(range(42, 48))),
    98: ((96,), (97,)),
}
"""Number of points -> the points whose mean is the left and the right pupil (300W has none: its eyes' contours)."""

_LABELS = {5: "landmarks"}
"""Number of points -> the annotation's key, where it is not points_NUMBER."""

THRESHOLDS = (0.08, 0.10)
"""Errors above which a face counts as failed: 300W's and WFLW's figures."""


def points_label(num_points: int) -> str:
    """Return the key under which an annotation has so many points."""
    return _LABELS.get(num_points, f"points_{num_points}")


def normalised_mean_errors(
    points: Floats,
    labels: Floats,
    *,
    normalization: Normalization = "inter_ocular",
    boxes: Floats | None = None,
) -> Doubles:
    """Return the error (N,) of each face: the mean distance of its points over the size of the face.

    Args:
        points: (N, J, 2); a face without a result has NaN, and an infinite error.
        labels: (N, J, 2).
        normalization: the face's size is the distance of the labelled outer eye corners ("inter_ocular": 300W's
            challenge, WFLW), of the pupils ("inter_pupil"), or the diagonal of its box ("box_diagonal").
        boxes: (N, 4) x1 y1 x2 y2; for "box_diagonal", without it the points' own extent.

    Raises:
        ValueError: for shapes that do not fit, a markup without those points, or a face of size 0.
    """
    found_NJ2, labels_NJ2 = np.asarray(points, np.float64), np.asarray(labels, np.float64)
    if found_NJ2.shape != labels_NJ2.shape or labels_NJ2.ndim != 3 or labels_NJ2.shape[2] != 2:
        raise ValueError(
            f"points {found_NJ2.shape} and labels {labels_NJ2.shape} found, expected both (N, J, 2)"
        )
    sizes_N = face_sizes(labels_NJ2, normalization, boxes)
    if not (sizes_N > 0).all():
        number = int(np.flatnonzero(~(sizes_N > 0))[0])
        raise ValueError(f"face {number} has the {normalization} size {sizes_N[number]}")
    distances_NJ = np.linalg.norm(found_NJ2 - labels_NJ2, axis=2)
    errors_N = distances_NJ.mean(axis=1) / sizes_N
    return np.where(np.isnan(errors_N), np.inf, errors_N)


def face_sizes(
    labels_NJ2: Doubles, normalization: Normalization, boxes: Floats | None = None
) -> Doubles:
    """Return the number of pixels (N,) that the errors of each face are divided by.

    Raises:
        ValueError: for an unknown rule, a markup without its points, or boxes of another shape.
    """
    num_faces, num_points, _ = labels_NJ2.shape
    if normalization == "box_diagonal":
        if boxes is None:
            boxes = np.concatenate([labels_NJ2.min(axis=1), labels_NJ2.max(axis=1)], axis=1)
        if boxes.shape != (num_faces, 4):
            raise ValueError(f"boxes of shape {boxes.shape} found, expected ({num_faces}, 4)")
        boxes_N4 = np.asarray(boxes, np.float64)
        return np.linalg.norm(boxes_N4[:, 2:] - boxes_N4[:, :2], axis=1)
    if normalization == "inter_ocular":
        left_right: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {
            n: ((a,), (b,)) for n, (a, b) in OUTER_EYE_CORNERS.items()
        }
    elif normalization == "inter_pupil":
        left_right = PUPILS
    else:
        raise ValueError(
            f"normalization {normalization!r} found, expected inter_ocular, inter_pupil or box_diagonal"
        )
    if num_points not in left_right:
        raise ValueError(
            f"{normalization} is not known of {num_points} points, "
            f"only of {', '.join(str(n) for n in left_right)}; box_diagonal is of any number"
        )
    left_N2, right_N2 = (labels_NJ2[:, eye].mean(axis=1) for eye in left_right[num_points])
    return np.linalg.norm(left_N2 - right_N2, axis=1)


def cumulative_errors(errors: Doubles, thresholds: Sequence[float] | Doubles) -> Doubles:
    """Return the cumulative error distribution: the share of faces whose error is at most each threshold."""
    if len(errors) == 0:
        raise ValueError("no errors found, expected at least one face")
    ordered = np.sort(errors)
    return np.searchsorted(ordered, np.asarray(thresholds), side="right") / len(errors)


def area_under_curve(errors: Doubles, threshold: float) -> float:
    """Return the area under the cumulative error distribution from 0 to ``threshold``, over ``threshold``.

    Exact: the curve is a staircase. (The usual Simpson's rule over steps of 1e-4 approaches this value.)
    """
    if len(errors) == 0:
        raise ValueError("no errors found, expected at least one face")
    return float(np.clip(1 - errors / threshold, 0, None).mean())


def failure_rate(errors: Doubles, threshold: float) -> float:
    """Return the share of faces whose error is above ``threshold``."""
    if len(errors) == 0:
        raise ValueError("no errors found, expected at least one face")
    return float((errors > threshold).mean())


def landmark_scores(
    points: Floats,
    labels: Floats,
    *,
    normalization: Normalization = "inter_ocular",
    boxes: Floats | None = None,
) -> Scores:
    """Return the figures that papers give.

    Returns:
        NME (mean over the faces that have a result), AUC@0.08, AUC@0.10, failures@0.08 and failures@0.10 (a face
        without a result has failed), all in 0..1 but the NME; None without a face.

    Raises:
        ValueError: see `normalised_mean_errors`.
    """
    errors_N = normalised_mean_errors(points, labels, normalization=normalization, boxes=boxes)
    has_result_N = np.isfinite(errors_N)
    scores: Scores = {"NME": float(errors_N[has_result_N].mean()) if has_result_N.any() else None}
    for name, measure in (("AUC", area_under_curve), ("failures", failure_rate)):
        for threshold in THRESHOLDS:
            scores[f"{name}@{threshold:.2f}"] = (
                measure(errors_N, threshold) if len(errors_N) else None
            )
    return scores
