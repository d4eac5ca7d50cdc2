"""Average precision of faces as WIDER FACE defines it: easy, medium and hard.

Source of the protocol: the benchmark's `eval_tools` (wider_eval.m), whose quirks are kept: scores are stretched
to 0..1 over the whole data set, precision is read at 1000 thresholds, widths and heights count a pixel more.

Shape suffixes: N faces and D detections of one picture, T thresholds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg_bench.metrics.coco import Scores

SUBSETS = ("easy", "medium", "hard")
MATCH_IOU = 0.5
NUM_THRESHOLDS = 1000
SMALLEST_SIDE = {"easy": 50.0, "medium": 30.0, "hard": 10.0}
"""Pixels of a face's height; the rule of thumb for data without the benchmark's own lists."""

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def wider_ap(
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    min_score: float = 0.0,
) -> Scores:
    """Return the average precision on each subset of the faces.

    Args:
        ground_truth: a COCO data set of faces. An annotation's "subsets" lists those it belongs to; without
            it, they follow from its height: see `SMALLEST_SIDE`. A face outside a subset is neither asked
            for nor held against a detection of it.
        results: COCO results of all its pictures.
        min_score: results below it do not count.

    Returns:
        easy, medium and hard in 0..1; None where a subset has no face.
    """
    truth_of, found_of = defaultdict(list), defaultdict(list)
    for annotation in ground_truth["annotations"]:
        truth_of[annotation["image_id"]].append(annotation)
    for result in results:
        if result["score"] >= min_score:
            found_of[result["image_id"]].append(result)
    scores = [result["score"] for rows in found_of.values() for result in rows]
    low, high = (min(scores), max(scores)) if scores else (0.0, 1.0)
    pictures = [
        _Picture(truth_of[image["id"]], found_of[image["id"]], low=low, high=high)
        for image in ground_truth["images"]
    ]
    return {subset: _average_precision(pictures, subset) for subset in SUBSETS}


class _Picture:
    """The overlaps of one picture's detections, best score first, with its faces."""

    def __init__(
        self,
        faces: Sequence[Mapping[str, Any]],
        found: Sequence[Mapping[str, Any]],
        *,
        low: float,
        high: float,
    ) -> None:
        found = sorted(found, key=lambda result: -result["score"])
        self.faces = faces
        self.scores_D = (np.array([result["score"] for result in found], np.float64) - low) / max(
            high - low, 1e-12
        )
        self.iou_DN = _ious(_boxes(found), _boxes(faces))

    def asked(self, subset: str) -> Bools:
        """Return (N,) bool: the faces of the subset."""
        return np.array([_is_in(face, subset) for face in self.faces], np.bool_)

    def curve(self, asked_N: Bools) -> tuple[Floats, Floats]:
        """Return for every threshold, highest first, the detections that count and the faces found, (T,)."""
        num_found = len(self.scores_D)
        counts_D = np.ones(num_found, np.bool_)
        recalled_D = np.zeros(num_found)
        is_found_N = np.zeros(len(self.faces), np.bool_)
        for row, iou_N in enumerate(self.iou_DN):
            best = int(iou_N.argmax())
            if iou_N[best] >= MATCH_IOU:
                if asked_N[best]:
                    is_found_N[best] = True  # a second detection of it counts as a false one
                else:
                    counts_D[row] = False
            recalled_D[row] = is_found_N.sum()
        thresholds_T = 1 - np.arange(1, NUM_THRESHOLDS + 1) / NUM_THRESHOLDS
        # How many detections reach each threshold; the scores fall.
        reached_T = np.searchsorted(-self.scores_D, -thresholds_T, side="right")
        before = np.concatenate([[0.0], np.cumsum(counts_D)]), np.concatenate([[0.0], recalled_D])
        return before[0][reached_T], before[1][reached_T]


def _average_precision(pictures: Sequence[_Picture], subset: str) -> float | None:
    num_faces = 0
    counted_T, recalled_T = np.zeros(NUM_THRESHOLDS), np.zeros(NUM_THRESHOLDS)
    for picture in pictures:
        asked_N = picture.asked(subset)
        num_faces += int(asked_N.sum())
        # As the original: detections in pictures without any face are not held against a model.
        if len(picture.faces) and len(picture.scores_D):
            counted, recalled = picture.curve(asked_N)
            counted_T += counted
            recalled_T += recalled
    if not num_faces:
        return None
    precision_T = recalled_T / np.maximum(counted_T, 1)
    return _area(recalled_T / num_faces, precision_T)


def _area(recall_T: Floats, precision_T: Floats) -> float:
    """Return the area under the envelope of the curve, as PASCAL VOC 2010 defines it."""
    recall = np.concatenate([[0.0], recall_T, [1.0]])
    precision = np.concatenate([[0.0], precision_T, [0.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall) * envelope[1:]).sum())


def _is_in(face: Mapping[str, Any], subset: str) -> bool:
    if face.get("iscrowd"):
        return False
    if "subsets" in face:
        return subset in face["subsets"]
    return bool(face["bbox"][3] >= SMALLEST_SIDE[subset])


def _boxes(entries: Sequence[Mapping[str, Any]]) -> Floats:
    """Return the corners x1 y1 x2 y2 (N, 4) of COCO boxes."""
    boxes = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _ious(found_D4: Floats, faces_N4: Floats) -> Floats:
    """Return the overlaps (D, N); both sides of a box count a pixel more, as in the original."""
    left_top = np.maximum(found_D4[:, None, :2], faces_N4[None, :, :2])
    right_bottom = np.minimum(found_D4[:, None, 2:], faces_N4[None, :, 2:])
    inside_DN = np.clip(right_bottom - left_top + 1, 0, None).prod(axis=-1)
    area_D = (found_D4[:, 2:] - found_D4[:, :2] + 1).prod(axis=-1)
    area_N = (faces_N4[:, 2:] - faces_N4[:, :2] + 1).prod(axis=-1)
    return inside_DN / np.maximum(area_D[:, None] + area_N[None, :] - inside_DN, 1e-12)
