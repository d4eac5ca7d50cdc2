"""How good the joints of a pose are: PCKh, the measure of the MPII human pose data set.

The other measure of poses, OKS AP, is `coco.coco_ap(iou_type="keypoints")`. It asks how far annotators disagree on each
joint (`coco.OKS_SIGMAS`); MPII has never published that, and the figures used for its 16 joints are mmpose's, which takes
those of COCO's joints: an OKS AP on MPII's joints compares with mmpose's only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg_bench.metrics.coco import Scores

NUM_JOINTS = 16
GROUPS: dict[str, tuple[int, ...]] = {
    "head": (8, 9),
    "shoulder": (12, 13),
    "elbow": (11, 14),
    "wrist": (10, 15),
    "hip": (2, 3),
    "knee": (1, 4),
    "ankle": (0, 5),
}
"""Joint group -> its joints in MPII's order; pelvis and thorax belong to none, as in MPII's own evaluation."""
HEAD_BOX_FACTOR = 0.6
"""Head size over the diagonal of the head's box: MPII annotates boxes larger than the head segment."""

Entry = Mapping[str, Any]
Floats = npt.NDArray[np.float64]


def pckh(ground_truth: Entry, results: Sequence[Entry], *, threshold: float = 0.5) -> Scores:
    """Return the share of labelled joints that lie within a part of the head's size of their label.

    A person is measured if `head_size` knows the size of the head. Joints with visibility 0 are not labelled and do not
    count; those of a person without a result count as missed.

    Args:
        ground_truth: a COCO data set whose annotations have "keypoints" x, y, visibility of MPII's 16 joints.
        results: top-down results, each with the "annotation_id" of its person and "keypoints" x, y, score.
        threshold: largest distance that is right, in head sizes.

    Returns:
        PCKh (over all joints of the groups) and the share of each group of `GROUPS`, in 0..1; None = undefined: no
        joint of it is labelled.

    Raises:
        ValueError: a result for no person of the data set, two for one, or another number of joints.
    """
    found_of = _results_of_persons(ground_truth, results)
    rights: list[npt.NDArray[np.bool_]] = []
    labels: list[npt.NDArray[np.bool_]] = []
    for person in ground_truth["annotations"]:
        size = head_size(person)
        if size is None:
            continue
        label_J3 = _joints(person["keypoints"])
        found_J3 = found_of.get(person["id"], np.full((NUM_JOINTS, 3), np.nan))
        distance_J = np.hypot(*(label_J3 - found_J3)[:, :2].T)
        rights.append(distance_J <= threshold * size)  # a missed joint is at no distance: NaN
        labels.append(label_J3[:, 2] > 0)
    right_NJ = np.array(rights, np.bool_).reshape(-1, NUM_JOINTS)
    is_label_NJ = np.array(labels, np.bool_).reshape(-1, NUM_JOINTS)
    grouped = [joint for joints in GROUPS.values() for joint in joints]
    scores: Scores = {"PCKh": _share(right_NJ, is_label_NJ, grouped)}
    return scores | {
        group: _share(right_NJ, is_label_NJ, joints) for group, joints in GROUPS.items()
    }


def head_size(person: Entry) -> float | None:
    """Return the size of a person's head in pixels, or None if nothing tells it.

    It is the annotation's "head_size" (the published MPII lists have it), else 0.6 of the diagonal of its "head_box"
    x, y, width, height, else the distance from upper neck to head top, which that stands for.
    """
    if "head_size" in person:
        size = float(person["head_size"])
    elif "head_box" in person:
        size = HEAD_BOX_FACTOR * math.hypot(*person["head_box"][2:])
    else:
        neck, top = _joints(person["keypoints"])[[8, 9]]
        if not (neck[2] > 0 and top[2] > 0):
            return None
        size = math.dist(neck[:2], top[:2])
    return size if size > 0 else None


def _results_of_persons(ground_truth: Entry, results: Sequence[Entry]) -> dict[int, Floats]:
    known = {person["id"] for person in ground_truth["annotations"]}
    found: dict[int, Floats] = {}
    for result in results:
        person_id = result["annotation_id"]
        if person_id not in known:
            raise ValueError(
                f"A result is for person {person_id}, who is not among the {len(known)} annotated ones."
            )
        if person_id in found:
            raise ValueError(f"Two results are for person {person_id}: expected one each.")
        found[person_id] = _joints(result["keypoints"])
    return found


def _joints(keypoints: Sequence[float]) -> Floats:
    """Return flat or nested key points as (16, 3) x, y and visibility or score."""
    joints = np.asarray(keypoints, np.float64).reshape(-1, 3)
    if len(joints) != NUM_JOINTS:
        raise ValueError(
            f"{len(joints)} key points found: PCKh is defined for MPII's {NUM_JOINTS}."
        )
    return joints


def _share(
    right_NJ: npt.NDArray[np.bool_], is_label_NJ: npt.NDArray[np.bool_], joints: Sequence[int]
) -> float | None:
    right, is_label = right_NJ[:, list(joints)], is_label_NJ[:, list(joints)]
    return float(right[is_label].mean()) if is_label.any() else None
