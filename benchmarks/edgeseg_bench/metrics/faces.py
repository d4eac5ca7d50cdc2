"""What a face detector says beside the box: how good its landmarks, genders and meshes are.

What is measured is measured on matched pairs (see `matching`), and says nothing about the faces that were missed:
read it beside the average precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg_bench.metrics.coco import Scores
from edgeseg_bench.metrics.landmarks import points_label
from edgeseg_bench.metrics.matching import matched_pairs

FAILURE_NME = 0.1

Entry = Mapping[str, Any]
Floats = npt.NDArray[np.float64]


def landmark_nme(ground_truth: Entry, results: Sequence[Entry]) -> Scores:
    """Return the error of the landmarks of matched faces.

    Distances are divided by the square root of the labelled box's area, the normaliser of WIDER and AFLW, whose
    profile faces have no useful distance between the eyes. Only labels with as many landmarks count.

    Returns:
        NME (mean over points and faces), failures (share of faces above 0.1), matched (share of labelled faces
        that were found); None without a matched face.
    """
    key = points_label(len(results[0]["landmarks"])) if results else "landmarks"
    errors = [
        _mean_distance(face[key], found["landmarks"]) / _size(face)
        for face, found in matched_pairs(ground_truth, results, key=key)
    ]
    return {
        "NME": float(np.mean(errors)) if errors else None,
        "failures": float(np.mean(np.array(errors) > FAILURE_NME)) if errors else None,
        "matched": _matched_share(ground_truth, len(errors), key=key),
    }


def gender_accuracy(ground_truth: Entry, results: Sequence[Entry]) -> Scores:
    """Return how often the gender of a matched face is right, at a probability of 0.5.

    Returns:
        accuracy and balanced (the mean of both genders' accuracies); None without matched faces, or with one
        gender only.
    """
    pairs = [
        (int(face["gender"]), int(found["gender"] > 0.5))
        for face, found in matched_pairs(ground_truth, results, key="gender")
    ]
    is_right = [label == found for label, found in pairs]
    of_each = [[label == found for label, found in pairs if label == gender] for gender in (0, 1)]
    return {
        "accuracy": float(np.mean(is_right)) if is_right else None,
        "balanced": float(np.mean([np.mean(part) for part in of_each])) if all(of_each) else None,
    }


def mesh_nme(ground_truth: Entry, results: Sequence[Entry]) -> Scores:
    """Return the error of the vertices of matched faces, divided by the square root of the box's area.

    Depth has no origin in a picture: for the error in space both meshes are put at their mean depth. Only labels
    with as many vertices count.

    Returns:
        NME (in the picture) and NME3D (in space); None without a matched face.
    """
    flat, spatial = [], []
    for face, found in matched_pairs(ground_truth, results, key="mesh"):
        label, mesh = np.asarray(face["mesh"], np.float64), np.asarray(found["mesh"], np.float64)
        if label.shape != mesh.shape:
            continue
        flat.append(_mean_distance(label[:, :2], mesh[:, :2]) / _size(face))
        spatial.append(_mean_distance(_centred_depth(label), _centred_depth(mesh)) / _size(face))
    return {
        "NME": float(np.mean(flat)) if flat else None,
        "NME3D": float(np.mean(spatial)) if spatial else None,
    }


def _matched_share(ground_truth: Entry, num_matched: int, *, key: str) -> float | None:
    num_faces = sum(face.get(key) is not None for face in ground_truth["annotations"])
    return num_matched / num_faces if num_faces else None


def _mean_distance(label: npt.ArrayLike, found: npt.ArrayLike) -> float:
    difference = np.asarray(label, np.float64) - np.asarray(found, np.float64)
    return float(np.sqrt((difference**2).sum(axis=-1)).mean())


def _centred_depth(mesh: Floats) -> Floats:
    return np.concatenate([mesh[:, :2], mesh[:, 2:] - mesh[:, 2:].mean()], axis=1)


def _size(face: Entry) -> float:
    return float(np.sqrt(face["bbox"][2] * face["bbox"][3]))
