"""Average precision against labels, as COCO defines it: boxes, masks and key points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from faster_coco_eval import COCO, COCOeval_faster

Scores: TypeAlias = dict[str, float | None]

# What a result must hold, beside image_id, category_id and score. Mask results go without their
# box, so that small, medium and large are told by the area of the mask.
GEOMETRY = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}
AREAS = {"s": "small", "m": "medium", "l": "large"}

# How far annotators disagree on a key point, over the square root of the object's area: the sigmas of OKS.
OKS_SIGMAS: dict[int, tuple[float, ...]] = {
    # COCO, from pycocotools.
    17: (0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107,
         0.087, 0.087, 0.089, 0.089),
    # MPII, as mmpose sets them.
    16: (0.089, 0.083, 0.107, 0.107, 0.083, 0.089, 0.026, 0.026, 0.026, 0.026, 0.062, 0.072, 0.179,
         0.179, 0.072, 0.062),
}  # fmt: skip
OTHER_SIGMA = 0.026  # of sets of points without published sigmas: that of COCO's nose


def coco_ap(
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    iou_type: str = "bbox",
    max_detections: int | None = None,
) -> Scores:
    """Return average precision and recall.

    Args:
        ground_truth: a COCO data set, such as `Dataset.coco()` gives; left as it is.
        results: COCO results of all its pictures, such as `Instances.to_coco` gives; left as they are.
        iou_type: "bbox", "segm" or "keypoints".
            Key points are compared with the sigmas of `OKS_SIGMAS` that belong to their number.
        max_detections: how many of the best detections of a picture count; None = COCO's 100, or 20 for key points.

    Returns:
        AP (mean over the IoU thresholds 0.50, 0.55 ... 0.95), AP50, AP75, APs, APm, APl, and AR, ARs, ARm, ARl
        (at `max_detections`), each in 0..1; key points have no APs and ARs. None = undefined: nothing of that
        size is annotated. Without any detection they are 0.

    Raises:
        ValueError: an unknown iou_type, or results that do not belong to this ground truth.
    """
    if iou_type not in GEOMETRY:
        raise ValueError(f"iou_type is {iou_type!r}: choose from {list(GEOMETRY)}.")
    truth = COCO(
        {
            "images": [dict(image) for image in ground_truth["images"]],
            "annotations": [dict(annotation) for annotation in ground_truth["annotations"]],
            "categories": [dict(category) for category in ground_truth["categories"]],
        }
    )
    detections = truth.loadRes(_results_of_type(results, ground_truth, iou_type))
    evaluator = COCOeval_faster(
        truth,
        detections,
        iou_type,
        print_function=_silent,
        kpt_oks_sigmas=_sigmas(ground_truth) if iou_type == "keypoints" else None,
    )
    if max_detections is not None:
        evaluator.params.maxDets = [max_detections]
    evaluator.evaluate()
    evaluator.accumulate()
    return _summary(evaluator)


def _sigmas(ground_truth: Mapping[str, Any]) -> list[float] | None:
    counts = {len(entry["keypoints"]) // 3 for entry in ground_truth["annotations"]}
    if len(counts) > 1:
        raise ValueError(f"Annotations with {sorted(counts)} key points: expected one number.")
    number = next(iter(counts), 17)
    return list(OKS_SIGMAS.get(number, [OTHER_SIGMA] * number))


def _silent(*_args: object) -> None:
    """Take the evaluator's progress messages."""


def _results_of_type(
    results: Sequence[Mapping[str, Any]], ground_truth: Mapping[str, Any], iou_type: str
) -> list[dict[str, Any]]:
    key = GEOMETRY[iou_type]
    image_ids = {image["id"] for image in ground_truth["images"]}
    category_ids = {category["id"] for category in ground_truth["categories"]}
    for result in results:
        if result["image_id"] not in image_ids:
            raise ValueError(
                f"A result is for image {result['image_id']}, which is not among the "
                f"{len(image_ids)} annotated pictures."
            )
        if result["category_id"] not in category_ids:
            raise ValueError(
                f"A result has category {result['category_id']}, the data set has {sorted(category_ids)}: "
                "the model was trained for other classes, or its manifest's category_ids are wrong."
            )
        if key not in result:
            raise ValueError(
                f"{iou_type} AP needs {key!r} in every result, found {sorted(result)}."
            )
    common = ("image_id", "category_id", "score", key)
    return [{name: result[name] for name in common} for result in results]


def _summary(evaluator: COCOeval_faster) -> Scores:
    """Average the tables of precision and recall.

    The evaluator's own summary depends on its version; its tables are those of pycocotools:
    precision_TRKAM and recall_TKAM with T IoU thresholds, R recalls, K categories, A areas, M maxima.
    """
    params = evaluator.params
    precision_TRK = {
        area: evaluator.eval["precision"][:, :, :, number, -1]
        for number, area in enumerate(params.areaRngLbl)
    }
    recall_TK = {
        area: evaluator.eval["recall"][:, :, number, -1]
        for number, area in enumerate(params.areaRngLbl)
    }
    scores: Scores = {"AP": _mean(precision_TRK["all"])}
    for percent in (50, 75):
        threshold = int(np.argmin(np.abs(params.iouThrs - percent / 100)))
        scores[f"AP{percent}"] = _mean(precision_TRK["all"][threshold])
    present = {suffix: area for suffix, area in AREAS.items() if area in precision_TRK}
    scores |= {f"AP{suffix}": _mean(precision_TRK[area]) for suffix, area in present.items()}
    scores["AR"] = _mean(recall_TK["all"])
    scores |= {f"AR{suffix}": _mean(recall_TK[area]) for suffix, area in present.items()}
    return scores


def _mean(table: npt.NDArray[np.float64]) -> float | None:
    """Average the entries that are defined; the evaluator marks the others with -1."""
    defined = table[table > -1]
    return float(defined.mean()) if defined.size else None
