"""Measures the output that is Spotter's own: the share of its box that an object fills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeseg_bench.metrics.coco import Scores
from edgeseg_bench.metrics.matching import matched_pairs

Entry = Mapping[str, Any]


def fill_error(ground_truth: Entry, results: Sequence[Entry]) -> Scores:
    """Return the mean error of the fill, of what was found, and of one value for all objects.

    Args:
        ground_truth: a COCO data set with areas.
        results: COCO results with the key "fill".
    """
    pairs = list(matched_pairs(ground_truth, results, key="area"))
    if not pairs:
        return {"error": None, "error_of_mean": None}
    labelled = np.array([item["area"] / (item["bbox"][2] * item["bbox"][3]) for item, _ in pairs])
    found = np.array([found["fill"] for _, found in pairs])
    return {
        "error": float(np.abs(found - labelled).mean()),
        "error_of_mean": float(np.abs(labelled - labelled.mean()).mean()),
    }
