"""How far a candidate's detections agree with those of a reference, on pictures without labels.

The confident detections of the reference take the place of the labels. Detections are matched, never
compared position by position: equal scores may come in any order. Models whose objects are given find nothing
themselves: their points are compared instead, see `placed_points`.

Shape suffixes: R = reference detections, C = candidate detections of one picture.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from faster_coco_eval.core import mask as rle_codec

from edgeseg_bench.metrics.coco import GEOMETRY, coco_ap
from edgeseg_bench.metrics.surfaces import average_precision, map_similarity

Result: TypeAlias = Mapping[str, Any]

MATCH_IOU = 0.5
SCORE_THRESHOLD = 0.3
NUM_WORST = 10
MAX_DETECTIONS = (
    1000  # far above what a picture can hold: a limit would make a model disagree with itself
)


@dataclass(frozen=True, kw_only=True)
class ImageAgreement:
    """How far two models agree on one picture.

    Attributes:
        image_id: COCO image id.
        quality: sum of the IoUs of detections matched with the same label, divided by the larger number of
            detections. Of points: 1 - their mean distance over the size of the box. 1 = equal.
        num_reference: detections of the reference at or above the threshold.
        num_candidate: detections of the candidate at or above the threshold.
    """

    image_id: int
    quality: float
    num_reference: int
    num_candidate: int


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far a candidate agrees with a reference.

    Attributes:
        ap: agreement by kind. "bbox", "segm", "keypoints": COCO AP of the candidate with the reference's
            detections as labels. "surfaces": the same by the similarity of surfaces, see `map_similarity`. "points": share of points within 0 to 5 % of the size of the box, averaged.
            "pq", "vpq": panoptic quality, picture by picture or over tubes, with the reference's segments as labels.
            Where the reference found nothing at or above the threshold: None, nothing to compare, if the
            candidate did not either, else 0.0.
        score_threshold: reference detections count from this score on; all results do where points are compared.
        num_reference: how many those are.
        num_matched: how many of them the candidate found, box IoU >= 0.5 with the same label.
        num_label_flips: how many more it found under another label.
        count_delta: confident detections of the candidate minus those of the reference.
        mean_iou: mean box IoU of the matched pairs; None without any, and of points.
        score_mae: mean absolute difference of the matched pairs' scores; None without any.
        worst: the pictures that agree least, worst first; without those in which both found nothing.
        nme: mean distance of the points over the size of the box; None of detections.
    """

    ap: Mapping[str, float | None]
    score_threshold: float
    num_reference: int
    num_matched: int
    num_label_flips: int
    count_delta: int
    mean_iou: float | None
    score_mae: float | None
    worst: tuple[ImageAgreement, ...]
    nme: float | None = None

    @property
    def lowest(self) -> float | None:
        """The agreement of the kind that agrees least; None if there was nothing to compare."""
        return min((value for value in self.ap.values() if value is not None), default=None)


def agreement_ap(
    reference: Sequence[Result],
    candidate: Sequence[Result],
    *,
    images: Sequence[Mapping[str, Any]],
    kinds: Sequence[str] = ("bbox",),
    score_threshold: float = SCORE_THRESHOLD,
    num_worst: int = NUM_WORST,
) -> Agreement:
    """Compare a candidate's detections with a reference's.

    Args:
        reference: COCO results of the reference on all pictures.
        candidate: COCO results of the candidate on the same pictures.
        images: COCO image entries (id, height, width) of those pictures.
        kinds: what to compare: "bbox", "segm", "keypoints", "surfaces".
        score_threshold: below it, reference detections are noise: ties and threshold crossers.
        num_worst: how many of the least agreeing pictures to name.
    """
    confident = [result for result in reference if result["score"] >= score_threshold]
    reference_of = _by_image(confident)
    candidate_of = _by_image(candidate)
    ious: list[float] = []
    score_errors: list[float] = []
    num_label_flips = 0
    pictures: list[ImageAgreement] = []
    for image in images:
        expected, found = reference_of[image["id"]], candidate_of[image["id"]]
        same, flipped = _match(expected, found, score_threshold)
        ious += [iou for _, _, iou in same]
        score_errors += [abs(expected[r]["score"] - found[c]["score"]) for r, c, _ in same]
        num_label_flips += len(flipped)
        num_found = sum(result["score"] >= score_threshold for result in found)
        if expected or num_found:
            pictures.append(_image_agreement(image["id"], same, len(expected), num_found))
    num_candidate = sum(result["score"] >= score_threshold for result in candidate)
    return Agreement(
        ap={kind: _ap(confident, candidate, images, kind, score_threshold) for kind in kinds},
        score_threshold=score_threshold,
        num_reference=len(confident),
        num_matched=len(ious),
        num_label_flips=num_label_flips,
        count_delta=num_candidate - len(confident),
        mean_iou=float(np.mean(ious)) if ious else None,
        score_mae=float(np.mean(score_errors)) if score_errors else None,
        worst=least_agreeing(pictures, num_worst),
    )


def least_agreeing(
    pictures: Sequence[ImageAgreement], count: int = NUM_WORST
) -> tuple[ImageAgreement, ...]:
    """Return the pictures that agree least, worst first."""
    return tuple(sorted(pictures, key=lambda picture: picture.quality)[:count])


def _ap(
    confident: Sequence[Result],
    candidate: Sequence[Result],
    images: Sequence[Mapping[str, Any]],
    iou_type: str,
    score_threshold: float,
) -> float | None:
    if iou_type == "surfaces":
        return _surface_ap(confident, candidate, images, score_threshold)
    confident = [result for result in confident if _has_extent(result, iou_type)]
    candidate = [result for result in candidate if _has_extent(result, iou_type)]
    if not confident:
        return 0.0 if any(r["score"] >= score_threshold for r in candidate) else None
    truth = {
        "images": images,
        "annotations": [
            _annotation_from_result(result, number, iou_type)
            for number, result in enumerate(confident, 1)
        ],
        "categories": [
            {"id": category_id, "name": str(category_id)}
            for category_id in sorted({r["category_id"] for r in (*confident, *candidate)})
        ],
    }
    score = coco_ap(truth, candidate, iou_type=iou_type, max_detections=MAX_DETECTIONS)["AP"]
    assert score is not None  # there are labels of every size that is asked for
    return score


def _surface_ap(
    confident: Sequence[Result],
    candidate: Sequence[Result],
    images: Sequence[Mapping[str, Any]],
    score_threshold: float,
) -> float | None:
    """Return the AP of surfaces by `map_similarity`; who has none, since a model bounds them, is left out."""
    confident, candidate = (
        [result for result in results if result.get("densepose") is not None]
        for results in (confident, candidate)
    )
    if not confident:
        return 0.0 if any(r["score"] >= score_threshold for r in candidate) else None
    truth = {
        "images": images,
        "annotations": [
            {**result, "id": number, "area": result["bbox"][2] * result["bbox"][3], "iscrowd": 0}
            for number, result in enumerate(confident, 1)
        ],
        "categories": [{"id": i} for i in sorted({r["category_id"] for r in confident})],
    }
    score = average_precision(
        truth, candidate, similarity=map_similarity, max_detections=MAX_DETECTIONS
    )["AP"]
    assert score is not None  # there are labels
    return score


def _has_extent(result: Result, iou_type: str) -> bool:
    """Tell whether a detection covers anything; what is empty overlaps nothing, not even itself."""
    if iou_type == "segm":
        return int(rle_codec.area(result["segmentation"])) > 0
    _, _, width, height = result["bbox"]
    return bool(width > 0 and height > 0)


def _annotation_from_result(result: Result, number: int, iou_type: str) -> dict[str, Any]:
    _, _, width, height = result["bbox"]
    annotation = {
        "id": number,
        "image_id": result["image_id"],
        "category_id": result["category_id"],
        "bbox": result["bbox"],
        "area": float(width) * float(height),
        "iscrowd": 0,
        GEOMETRY[iou_type]: result[GEOMETRY[iou_type]],
    }
    if iou_type == "keypoints":
        annotation["num_keypoints"] = len(result["keypoints"]) // 3
    return annotation


def _by_image(results: Sequence[Result]) -> defaultdict[int, list[Result]]:
    groups: defaultdict[int, list[Result]] = defaultdict(list)
    for result in results:
        groups[result["image_id"]].append(result)
    return groups


def _match(
    expected: Sequence[Result], found: Sequence[Result], score_threshold: float
) -> tuple[list[tuple[int, int, float]], list[tuple[int, int, float]]]:
    """Pair detections one to one, best IoU first.

    Returns:
        same: (reference, candidate, IoU) with the same label; the candidate may have any score.
        flipped: pairs of what is left, with different labels, the candidate at or above the threshold.
    """
    if not expected or not found:
        return [], []
    iou_RC = _box_ious(expected, found)
    label_R = np.array([result["category_id"] for result in expected])
    label_C = np.array([result["category_id"] for result in found])
    is_same_RC = label_R[:, None] == label_C[None, :]
    same = _greedy(np.where(is_same_RC, iou_RC, 0.0))
    rest_RC = np.where(is_same_RC, 0.0, iou_RC)
    rest_RC[[r for r, _, _ in same], :] = 0.0
    rest_RC[:, [c for _, c, _ in same]] = 0.0
    rest_RC[:, [result["score"] < score_threshold for result in found]] = 0.0
    return same, _greedy(rest_RC)


def _box_ious(expected: Sequence[Result], found: Sequence[Result]) -> npt.NDArray[np.float64]:
    boxes_R4 = np.array([result["bbox"] for result in expected], dtype=np.float64)
    boxes_C4 = np.array([result["bbox"] for result in found], dtype=np.float64)
    crowds = np.zeros(len(boxes_C4), dtype=np.uint8).tolist()
    return np.asarray(rle_codec.iou(boxes_R4, boxes_C4, crowds), dtype=np.float64)


def _greedy(iou_RC: npt.NDArray[np.float64]) -> list[tuple[int, int, float]]:
    pairs: list[tuple[int, int, float]] = []
    remaining_RC = iou_RC.copy()
    while remaining_RC.size and float(remaining_RC.max()) >= MATCH_IOU:
        r, c = (int(i) for i in np.unravel_index(remaining_RC.argmax(), remaining_RC.shape))
        pairs.append((r, c, float(remaining_RC[r, c])))
        remaining_RC[r, :] = 0.0
        remaining_RC[:, c] = 0.0
    return pairs


def _image_agreement(
    image_id: int, same: Sequence[tuple[int, int, float]], num_expected: int, num_found: int
) -> ImageAgreement:
    return ImageAgreement(
        image_id=image_id,
        quality=sum(iou for _, _, iou in same) / max(num_expected, num_found),
        num_reference=num_expected,
        num_candidate=num_found,
    )
