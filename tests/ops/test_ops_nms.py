"""Suppression, in PyTorch and as ONNX, against the greedy algorithm written as two loops."""

import numpy as np
import pytest
import torch

from edgeseg.ops import nms
from edgeseg.ops.nms import largest_kept_iou


def greedy(boxes, scores, groups, *, iou_threshold, max_output, score_threshold=-np.inf):
    """Kept indices of one picture: the textbook loop, float32 quotient against float64 threshold."""
    candidates = [i for i in range(len(scores)) if scores[i] > score_threshold]
    candidates.sort(key=lambda i: -scores[i])  # stable
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    for i in candidates:
        others = np.array([j for j in kept if groups is None or groups[j] == groups[i]], int)
        low = np.maximum(boxes[others, :2], boxes[i, :2])
        high = np.minimum(boxes[others, 2:], boxes[i, 2:])
        inter = np.maximum(high - low, 0).prod(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            iou = inter / (area[others] + area[i] - inter)
        if not (iou.astype(np.float64) > iou_threshold).any():
            kept.append(i)
    return kept[:max_output]


def assert_both_agree(run_onnx, boxes, scores, groups=None, **settings):
    inputs = [boxes, scores, *([] if groups is None else [groups])]
    torch_outputs = [value.numpy() for value in nms(*map(torch.from_numpy, inputs), **settings)]
    attributes = {"score_threshold": -np.inf, **settings}
    attributes["iou_threshold"] = largest_kept_iou(settings["iou_threshold"])
    onnx_outputs = run_onnx("Nms", inputs, **attributes)
    for picture in range(len(boxes)):
        group = None if groups is None else groups[picture]
        expected = greedy(boxes[picture], scores[picture], group, **settings)
        for indices, valid in (torch_outputs, onnx_outputs):
            assert valid[picture].tolist() == [
                place < len(expected) for place in range(settings["max_output"])
            ]
            assert indices[picture, : len(expected)].tolist() == expected
            assert not indices[picture, len(expected) :].any()


def random_boxes(rng, pictures, count, size=100):
    corners = rng.uniform(-20, size, (pictures, count, 2))
    sides = rng.exponential(size / 4, (pictures, count, 2))
    return np.concatenate([corners, corners + sides], 2).astype(np.float32)


def chain(count, step=0.3):
    """Each box suppresses the next one but not the one after: every second box stays."""
    left = np.arange(count, dtype=np.float32) * step
    boxes = np.stack([left, np.zeros(count), left + 1, np.ones(count)], 1)
    return boxes[None].astype(np.float32), np.linspace(1, 0.1, count, dtype=np.float32)[None]


@pytest.mark.parametrize("seed", range(12))
def test_random_boxes(run_onnx, seed):
    rng = np.random.default_rng(seed)
    pictures, count = rng.integers(1, 4), int(rng.integers(1, 400))
    boxes = random_boxes(rng, pictures, count)
    boxes[rng.random((pictures, count)) < 0.05] = boxes[0, 0]  # identical
    scores = rng.normal(size=(pictures, count)).astype(np.float32)
    if seed % 2:
        scores = scores.round(1)  # ties
    scores[rng.random(scores.shape) < 0.05] = rng.choice([np.nan, np.inf, -np.inf])
    groups = rng.integers(0, 3, (pictures, count)) if seed % 3 else None
    assert_both_agree(
        run_onnx,
        boxes,
        scores,
        groups,
        iou_threshold=float(rng.choice([0.0, 0.3, 0.5, 0.7, 1.0])),
        max_output=int(rng.choice([1, 50, 500])),
        score_threshold=float(rng.choice([-np.inf, 0.0])),
    )


@pytest.mark.parametrize("seed", range(4))
def test_more_boxes_than_are_unrolled(run_onnx, seed):
    """Some pictures have no candidate, some a few, some fill the output long before the last block."""
    rng = np.random.default_rng(seed)
    pictures, count = 3, int(rng.integers(1025, 1600))
    boxes = random_boxes(rng, pictures, count, size=300)
    boxes[0, : count // 2] = boxes[0, 0]
    scores = rng.random((pictures, count)).astype(np.float32)
    scores[rng.random(scores.shape) < rng.choice([0, 0.9, 1], (pictures, 1))] = np.nan
    assert_both_agree(
        run_onnx,
        boxes,
        scores,
        rng.integers(0, 2, (pictures, count)) if seed % 2 else None,
        iou_threshold=0.4,
        max_output=[20, 400, count][seed % 3],
        score_threshold=0.02,
    )


@pytest.mark.parametrize("count", [2, 255, 256, 257, 700, 1300])
def test_a_chain_through_all_blocks_is_followed_to_its_end(run_onnx, count):
    boxes, scores = chain(count)
    assert_both_agree(run_onnx, boxes, scores, iou_threshold=0.5, max_output=count)


def test_a_chain_from_worst_to_best_is_followed_to_its_end(run_onnx):
    boxes, scores = chain(300)
    assert_both_agree(run_onnx, boxes, scores[:, ::-1].copy(), iou_threshold=0.5, max_output=300)


def test_boxes_without_area_and_inverted_boxes_neither_suppress_nor_go(run_onnx):
    square, flat_x, flat_y = [0, 0, 10, 10], [8, 2, 2, 8], [2, 8, 8, 2]
    point, turned, inner = [5, 5, 5, 5], [9, 9, 1, 1], [1, 1, 10, 10]
    boxes = np.array(
        [[square, point, point, flat_x, flat_y, turned, inner, flat_x, flat_y]], np.float32
    )
    scores = np.linspace(1, 0.2, 9, dtype=np.float32)[None]
    assert_both_agree(run_onnx, boxes, scores, iou_threshold=0.0, max_output=9)


def test_without_candidates_everything_is_padding(run_onnx):
    boxes = random_boxes(np.random.default_rng(0), 2, 5)
    scores = np.array([[np.nan] * 5, [0.1, -np.inf, 0, 0.5, -1]], np.float32)
    assert_both_agree(run_onnx, boxes, scores, iou_threshold=0.5, max_output=3, score_threshold=0.5)


def test_boxes_that_are_not_a_number_stay_and_suppress_none(run_onnx):
    boxes = random_boxes(np.random.default_rng(0), 1, 8, size=10)
    boxes[0, 2:4] = np.nan
    scores = np.linspace(1, 0.3, 8, dtype=np.float32)[None]
    assert_both_agree(run_onnx, boxes, scores, iou_threshold=0.1, max_output=8)


def test_four_thousand_boxes_in_pytorch():
    rng = np.random.default_rng(0)
    boxes = random_boxes(rng, 1, 4000, size=1000)
    scores = rng.random((1, 4000), np.float32)
    indices, valid = nms(
        torch.from_numpy(boxes), torch.from_numpy(scores), iou_threshold=0.5, max_output=4000
    )
    expected = greedy(boxes[0], scores[0], None, iou_threshold=0.5, max_output=4000)
    assert indices[valid].tolist() == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": torch.zeros(3, 4)}, r"boxes have the shape \(3, 4\), expected \(B, N, 4\)"),
        ({"scores": torch.zeros(1, 2)}, r"scores have the shape \(1, 2\)"),
        ({"groups": torch.zeros(1, 4)}, r"groups have the shape \(1, 4\)"),
        ({"max_output": 0}, "max_output is 0, expected at least 1"),
        ({"iou_threshold": -0.1}, "iou_threshold is -0.1, expected 0 to 1"),
    ],
)
def test_wrong_arguments_are_named(changes, message):
    arguments = {
        "boxes": torch.zeros(1, 3, 4),
        "scores": torch.zeros(1, 3),
        "iou_threshold": 0.5,
        "max_output": 3,
    }
    with pytest.raises(ValueError, match=message):
        nms(**arguments | changes)
