"""The golden cases of CornerNet and CenterNet's triplets: which model each is of, and how boxes are matched."""

import functools

import numpy as np
import torch
from golden import load_case

import edgeseg

NAMES = {
    ("cornernet", "dev"): "cornernet_hourglass104",
    ("cornernet", "dev_squeeze"): "cornernet_squeeze",
    ("centernet_triplet", "dev"): "centernet_triplet_hourglass52",
    ("centernet_triplet", "dev_large"): "centernet_triplet_hourglass52",
}


@functools.lru_cache(maxsize=1)
def golden_model(system, case):
    """The case and the model with its weights, which gives what the original gives."""
    golden = load_case(system, case)
    model = edgeseg.create_model(
        NAMES[system, case],
        weights=golden.weights(),
        image_size=golden.input_size,
        soft_nms="original",
    )
    return golden, model


SMALL = {
    "image_size": 63,
    "num_classes": 3,
    "widths": (8, 8, 8),
    "num_blocks": (1, 1, 1),
    "num_stacks": 1,
    "pool_width": 8,
    "head_channels": 8,
    "top_k": 10,
    "max_pairs": 20,
    "max_detections": 15,
}
"""Options of a model of a few channels."""


def small_model(kind="corners", **options):
    """A model of a few channels with random weights, always the same ones."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return edgeseg.create_model("cornernet_hourglass104", kind=kind, **{**SMALL, **options})


def match(boxes, labels, scores, expected, *, box, score):
    """Pair boxes one to one with expected rows x1 y1 x2 y2 score ... class; the row of each.

    Scores are as close together as 1e-6 and boxes come twice, so each takes the nearest that is free.
    """
    assert len(boxes) == len(expected)
    distance = np.abs(boxes[None] - expected[:, None, :4]).max(axis=-1) / box
    distance = np.maximum(distance, np.abs(scores[None] - expected[:, None, 4]) / score)
    distance[labels[None] != expected[:, None, -1]] = np.inf
    rows = []
    for each in distance:
        each[rows] = np.inf
        rows.append(int(each.argmin()))
        assert each[rows[-1]] <= 1, f"no counterpart of {expected[len(rows) - 1]}"
    return rows
