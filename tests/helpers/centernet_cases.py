"""The golden cases of CenterNet: which model each is of, with which options, and how its results are matched."""

import functools

import numpy as np
from golden import load_case

import edgeseg

NAMES = {
    "dev": "centernet_resnet18_dcn",
    "dev_dla34": "centernet_dla34",
    "dev_dlav0": "centernet_dlav0_34",
    "dev_multi_pose": "centernet_dla34_pose",
}


@functools.cache
def golden_model(case):
    """The case and the model with its weights."""
    golden = load_case("centernet_points", case)
    config = golden.description["config"]
    model = edgeseg.create_model(
        NAMES[case],
        weights=golden.weights(),
        image_size=golden.input_size,
        keep_res=config["keep_res"],
        mean=tuple(255 * value for value in config["mean"]),
        std=tuple(255 * value for value in config["std"]),
    )
    return golden, model


def match(boxes, labels, scores, expected, *, box, score):
    """The row of each expected detection: x1 y1 x2 y2, score and, behind all others, the class.

    Neighbouring scores are as close as 1e-6, so rows are matched by place and label.
    """
    expected_labels = expected[:, 5] if expected.shape[1] == 6 else np.zeros(len(expected))
    distance = np.abs(boxes[None] - expected[:, None, :4]).max(axis=-1)
    distance[labels[None] != expected_labels[:, None]] = np.inf
    rows = distance.argmin(axis=1)
    assert len(boxes) == len(expected)
    assert sorted(rows) == list(range(len(expected)))
    assert distance.min(axis=1).max() <= box
    np.testing.assert_allclose(scores[rows], expected[:, 4], rtol=0, atol=score)
    return rows
