"""How well identities stay with their objects: HOTA and IDF1, computed by the library trackers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgeseg_runtime import Instances
from edgeseg_runtime.libraries import import_library

__all__ = ["track_scores"]


def track_scores(
    truth: Sequence[Mapping[int, Sequence[float]]], found: Sequence[Instances]
) -> dict[str, float]:
    """Return HOTA, DetA, AssA and IDF1 (at IoU 0.5) of boxes, over the frames of one or several clips.

    Args:
        truth: of each frame the labelled boxes x, y, width, height by their identity; clips share none.
        found: of each frame what was found, with `track_ids`; what has none takes no part.

    Raises:
        ImportError: the library trackers is not installed: pip install trackers.
    """
    box_iou = import_library("trackers.eval.box").box_iou
    true_ids = [np.array(list(frame), np.int64) for frame in truth]
    given_ids, overlaps = [], []
    for frame, instances in zip(truth, found, strict=True):
        if instances.track_ids is None:
            raise ValueError("a result has no track_ids; expected those of a tracker")
        followed = instances[instances.track_ids >= 0]
        assert followed.track_ids is not None
        given_ids.append(followed.track_ids)
        xywh = np.array(list(frame.values()), np.float64).reshape(-1, 4)
        boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        overlaps.append(box_iou(boxes, followed.boxes.astype(np.float64)))
    identity = import_library("trackers.eval.identity").compute_identity_metrics(
        _numbered(true_ids), _numbered(given_ids), overlaps
    )
    hota = import_library("trackers.eval.hota").compute_hota_metrics(
        _numbered(true_ids), _numbered(given_ids), overlaps
    )
    return {
        **{name: float(hota[name]) for name in ("HOTA", "DetA", "AssA")},
        "IDF1": float(identity["IDF1"]),
    }


def _numbered(ids: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return identities as numbers from 0 on without gaps, as the library expects them."""
    known = np.unique(np.concatenate(ids)) if ids else np.zeros(0, np.int64)
    return [np.searchsorted(known, frame) for frame in ids]
