"""How far two models place the same points apart, for models that are given their object.

Every object is given, so nothing is found or missed and no score decides what counts: the results of one box are
compared point by point. A point counts as much as the reference is sure of it: a joint outside the picture has a low
peak anywhere, and says nothing.

Shape suffixes: J = points of one object.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg_bench.metrics.agreement import (
    NUM_WORST,
    Agreement,
    ImageAgreement,
    least_agreeing,
)

Floats = npt.NDArray[np.float64]

REACH = 0.05
"""Points further apart than this share of the size do not agree at all."""
FURTHEST = 1.0
"""Points further apart than the size, or missing, count as this."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PlacedPoints:
    """The points of one object, placed by two models.

    Attributes:
        image_id: of the picture it is in.
        distances: (J,) between both models' points over the size, the longer side of the box; at most `FURTHEST`.
        weights: (J,) the reference's scores, at least 0.
        score_error: absolute difference of the results' scores; None if the candidate has no such result.
    """

    image_id: int
    distances: Floats
    weights: Floats
    score_error: float | None


def agreement_of_points(
    reference: Sequence[Mapping[str, Any]],
    candidate: Sequence[Mapping[str, Any]],
    *,
    images: Sequence[Mapping[str, Any]],
    kinds: Sequence[str] = ("points",),
    num_worst: int = NUM_WORST,
) -> Agreement:
    """Compare a candidate's points with a reference's.

    Args:
        reference: records of the reference, see `placed_points`; all of them count.
        candidate: the same of the candidate.
        images: COCO image entries (id, height, width) of the pictures.
        kinds: what to call it in `Agreement.ap`.
        num_worst: how many of the least agreeing pictures to name.
    """
    objects = placed_points(reference, candidate)
    by_image: defaultdict[int, list[PlacedPoints]] = defaultdict(list)
    for each in objects:
        by_image[each.image_id].append(each)
    score_errors = [each.score_error for each in objects if each.score_error is not None]
    num_found = Counter(result["image_id"] for result in candidate)
    pictures = [
        ImageAgreement(
            image_id=image["id"],
            quality=1 - distance,
            num_reference=len(by_image[image["id"]]),
            num_candidate=num_found[image["id"]],
        )
        for image in images
        if (distance := normalised_distance(by_image[image["id"]])) is not None
    ]
    return Agreement(
        ap=dict.fromkeys(kinds, points_agreement(objects)),
        score_threshold=0.0,
        num_reference=len(reference),
        num_matched=len(score_errors),
        num_label_flips=0,
        count_delta=len(candidate) - len(reference),
        mean_iou=None,
        score_mae=float(np.mean(score_errors)) if score_errors else None,
        worst=least_agreeing(pictures, num_worst),
        nme=normalised_distance(objects),
    )


def placed_points(
    reference: Sequence[Mapping[str, Any]], candidate: Sequence[Mapping[str, Any]]
) -> list[PlacedPoints]:
    """Return the points of every result of the reference beside the candidate's for the same box.

    Args:
        reference: COCO results with "bbox" and "keypoints"; an "annotation_id" tells those of one picture apart.
        candidate: the same of the other model, in any order.
    """
    others = {_key(result): result for result in candidate}
    return [_placed(result, others.get(_key(result))) for result in reference]


def points_agreement(objects: Sequence[PlacedPoints]) -> float | None:
    """Return the weighted share of points within a distance, averaged over 0 to `REACH`; None without points.

    That is the area under the curve of errors: a point counts 1 where it is the same and 0 from `REACH` on.
    """
    distances, weights = _joined(objects)
    if not weights.sum():
        return None
    return float(np.average(np.maximum(1 - distances / REACH, 0), weights=weights))


def normalised_distance(objects: Sequence[PlacedPoints]) -> float | None:
    """Return the weighted mean distance of the points over the size; None without points."""
    distances, weights = _joined(objects)
    return float(np.average(distances, weights=weights)) if weights.sum() else None


def _key(result: Mapping[str, Any]) -> tuple[int, int | None]:
    return result["image_id"], result.get("annotation_id")


def _placed(result: Mapping[str, Any], other: Mapping[str, Any] | None) -> PlacedPoints:
    expected_J3 = np.reshape(np.asarray(result["keypoints"], np.float64), (-1, 3))
    distances_J = np.full(len(expected_J3), FURTHEST)
    if other is not None:
        found_J3 = np.reshape(np.asarray(other["keypoints"], np.float64), (-1, 3))
        size = max(*result["bbox"][2:], 1.0)
        apart_J = np.linalg.norm(found_J3[:, :2] - expected_J3[:, :2], axis=1)
        distances_J = np.minimum(apart_J / size, FURTHEST)
    return PlacedPoints(
        image_id=result["image_id"],
        distances=distances_J,
        weights=np.maximum(expected_J3[:, 2], 0.0),
        score_error=None if other is None else abs(result["score"] - other["score"]),
    )


def _joined(objects: Sequence[PlacedPoints]) -> tuple[Floats, Floats]:
    none = np.zeros(0)
    return (
        np.concatenate([none, *(each.distances for each in objects)]),
        np.concatenate([none, *(each.weights for each in objects)]),
    )
