"""Fast NMS, across classes too, and the greedy rule of pixels against their plain definitions."""

import numpy as np
import pytest
import torch

from edgeseg.models.layers.fast_nms import BLOCK, fast_nms, fast_nms_cross_class, greedy_nms


def _iou(a, b, extra=0.0):
    """Overlap of two boxes in float32; widths are longer by `extra`."""
    one = np.float32(extra)
    width = max(min(a[2], b[2]) - max(a[0], b[0]) + one, np.float32(0))
    height = max(min(a[3], b[3]) - max(a[1], b[1]) + one, np.float32(0))
    areas = [(box[2] - box[0] + one) * (box[3] - box[1] + one) for box in (a, b)]
    inter = width * height
    return inter / (areas[0] + areas[1] - inter)


def _fast(boxes, scores, top_k):
    """(class, prior) that no better candidate of the class, itself kept or not, overlaps."""
    kept = []
    for label, row in enumerate(scores):
        order = [i for i in np.argsort(-row, kind="stable")[:top_k] if row[i] > 0]
        for rank, prior in enumerate(order):
            if all(_iou(boxes[prior], boxes[better]) <= 0.5 for better in order[:rank]):
                kept.append((label, int(prior)))
    return kept


def _greedy(boxes, scores, threshold):
    """(class, prior) that no better kept one of the class overlaps, counted in pixels."""
    kept = []
    for label, row in enumerate(scores):
        chosen = []
        for prior in np.argsort(-row, kind="stable"):
            if row[prior] > threshold and all(
                _iou(boxes[prior], boxes[better], extra=1) < 0.5 for better in chosen
            ):
                chosen.append(prior)
        kept += [(label, int(prior)) for prior in chosen]
    return kept


def _random(seed, num_priors, num_classes=3):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 40, (num_priors, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(1, 30, (num_priors, 2))], axis=1)
    scores = rng.permutation(num_classes * num_priors) / (num_classes * num_priors)
    return boxes.astype(np.float32), scores.reshape(num_classes, num_priors).astype(np.float32)


def _pairs(selection):
    is_found = selection.scores[0] > 0
    labels, priors = (x[0][is_found].tolist() for x in (selection.labels, selection.priors))
    return list(zip(labels, priors, strict=True))


def _best_first(pairs, scores, count):
    return sorted(pairs, key=lambda pair: -scores[pair])[:count]


SIZES = [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7]


@pytest.mark.parametrize("num_priors", SIZES)
@pytest.mark.parametrize("top_k", [20, 200])
def test_fast_nms_is_the_rule_of_each_class(num_priors, top_k):
    boxes, scores = _random(num_priors, num_priors)
    found = fast_nms(
        torch.from_numpy(boxes)[None], torch.from_numpy(scores)[None],
        top_k=top_k, iou_threshold=0.5, max_output=25,
    )  # fmt: skip
    assert _pairs(found) == _best_first(_fast(boxes, scores, top_k), scores, 25)


@pytest.mark.parametrize("num_priors", SIZES)
def test_across_classes_a_prior_has_its_best_class_only(num_priors):
    boxes, scores = _random(num_priors, num_priors)
    found = fast_nms_cross_class(
        torch.from_numpy(boxes)[None], torch.from_numpy(scores)[None], top_k=60, iou_threshold=0.5
    )
    best = scores.max(axis=0)
    kept = [prior for _, prior in _fast(boxes, best[None], 60)]
    expected = [(int(scores[:, prior].argmax()), prior) for prior in kept]
    assert _pairs(found) == _best_first(expected, scores, 60)


@pytest.mark.parametrize("seed", range(4))
def test_the_greedy_rule_counts_pixels(seed):
    boxes, scores = _random(seed, 80)
    found = greedy_nms(
        torch.from_numpy(boxes)[None], torch.from_numpy(scores)[None],
        score_threshold=0.3, iou_threshold=0.5, max_output=40, max_candidates=1000,
    )  # fmt: skip
    assert _pairs(found) == _best_first(_greedy(boxes, scores, 0.3), scores, 40)


@pytest.mark.parametrize(
    ("second", "fast_keeps", "greedy_keeps"),
    [
        pytest.param([0, 0, 20, 10], True, False, id="exactly-one-half"),
        pytest.param([0, 0, 19, 10], False, False, id="above-one-half"),
        pytest.param([0, 0, 23, 10], True, True, id="below-one-half"),
    ],
)
def test_an_overlap_of_exactly_the_threshold(second, fast_keeps, greedy_keeps):
    """Fast NMS keeps it, the greedy rule does not."""
    boxes = torch.tensor([[[0, 0, 10, 10], second]], dtype=torch.float32)
    scores = torch.tensor([[[0.9, 0.8]]])
    fast = fast_nms(boxes, scores, top_k=2, iou_threshold=0.5, max_output=2)
    last_pixels = boxes - torch.tensor([0.0, 0, 1, 1])
    greedy = greedy_nms(
        last_pixels, scores,
        score_threshold=0.0, iou_threshold=0.5, max_output=2, max_candidates=2,
    )  # fmt: skip
    assert (len(_pairs(fast)) == 2) == fast_keeps
    assert (len(_pairs(greedy)) == 2) == greedy_keeps


def test_a_suppressed_box_still_suppresses():
    boxes = torch.tensor([[[0, 0, 10, 10], [4, 0, 14, 10], [7, 0, 17, 10]]], dtype=torch.float32)
    scores = torch.tensor([[[0.9, 0.8, 0.7]]])
    overlap = [_iou(*boxes[0, pair].numpy()) for pair in ([0, 1], [1, 2], [0, 2])]
    threshold = 0.4
    assert overlap[0] > threshold < overlap[1]
    assert overlap[2] < threshold
    fast = fast_nms(boxes, scores, top_k=3, iou_threshold=threshold, max_output=3)
    greedy = greedy_nms(
        boxes, scores, score_threshold=0, iou_threshold=threshold, max_output=3, max_candidates=3
    )
    assert _pairs(fast) == [(0, 0)]
    assert _pairs(greedy) == [(0, 0), (0, 2)]


def test_a_box_that_is_not_a_number_harms_no_other():
    boxes, scores = _random(0, 30)
    clean = fast_nms(
        torch.from_numpy(boxes)[None], torch.from_numpy(scores)[None],
        top_k=40, iou_threshold=0.5, max_output=100,
    )  # fmt: skip
    boxes = np.concatenate([boxes, np.full((1, 4), np.nan, np.float32)])
    scores = np.concatenate([scores, np.full((3, 1), 2, np.float32)], axis=1)
    found = fast_nms(
        torch.from_numpy(boxes)[None], torch.from_numpy(scores)[None],
        top_k=40, iou_threshold=0.5, max_output=100,
    )  # fmt: skip
    assert [pair for pair in _pairs(found) if pair[1] != 30] == _pairs(clean)
