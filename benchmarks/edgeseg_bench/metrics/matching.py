"""Matches what was found to what is labelled, for metrics of what a model says beside the box."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

Entry = Mapping[str, Any]

MATCH_IOU = 0.5


def matched_pairs(
    ground_truth: Entry, results: Sequence[Entry], *, key: str
) -> Iterator[tuple[Entry, Entry]]:
    """Yield each labelled object that has the key with the detection that found it.

    Detections are matched to objects, best score first, one to one at an IoU of 0.5, whatever their labels.

    Args:
        ground_truth: a COCO data set.
        results: COCO results.
        key: of the annotations.
    """
    objects_of, found_of = defaultdict(list), defaultdict(list)
    for annotation in ground_truth["annotations"]:
        objects_of[annotation["image_id"]].append(annotation)
    for result in results:
        found_of[result["image_id"]].append(result)
    for image in ground_truth["images"]:
        objects = objects_of[image["id"]]
        is_free = np.ones(len(objects), np.bool_)
        for found in sorted(found_of[image["id"]], key=lambda result: -result["score"]):
            ious = np.where(is_free, [_iou(item["bbox"], found["bbox"]) for item in objects], 0.0)
            if ious.size and ious.max() >= MATCH_IOU:
                best = int(ious.argmax())
                is_free[best] = False
                if objects[best].get(key) is not None:
                    yield objects[best], found


def _iou(box: Sequence[float], other: Sequence[float]) -> float:
    """Return the overlap of two boxes x, y, width, height."""
    width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    inside = max(width, 0.0) * max(height, 0.0)
    union = box[2] * box[3] + other[2] * other[3] - inside
    return inside / union if union > 0 else 0.0
