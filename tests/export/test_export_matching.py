"""Which rows of two results are the same: how ties fall does not count as a difference, everything else does."""

import itertools

import numpy as np
import pytest
import torch

from edgeseg.models.reference import Candidates
from edgeseg.ops import nms
from edgeseg_export.matching import (
    MAX_BOX_DISTANCE,
    SCORE_MARGIN,
    box_overlaps,
    match_boxes,
    match_detections,
    num_unmatched,
)

IOU = 0.4
THRESHOLD = 0.02


def detections(*rows, length=6):
    """Return the result with these rows (x, side, score[, label]) of square boxes at y 0."""
    values = np.zeros((length, 6), np.float32)
    for index, (x, side, score, *label) in enumerate(rows):
        values[index] = (x, 0, x + side, side, score, *(label or [1]))
    return {
        "boxes": values[None, :, :4],
        "scores": values[None, :, 4],
        "labels": values[None, :, 5].astype(np.int32),
    }


def candidates(*rows, score_threshold=THRESHOLD):
    result = detections(*rows, length=len(rows))
    return Candidates(
        **{name: torch.from_numpy(array[0]) for name, array in result.items()},
        score_threshold=score_threshold,
        iou_threshold=IOU,
    )


def unmatched(reference, found, chosen_from=None, *, score_threshold=THRESHOLD):
    return num_unmatched(
        match_detections(reference, found),
        reference,
        found,
        score_threshold=score_threshold,
        candidates=chosen_from,
    )


@pytest.mark.parametrize(
    ("boxes", "others", "expected"),
    [
        ([], [], []),
        ([[0, 0, 0, 0]], [[0, 0, 0, 0]], [-1]),
        ([[0, 0, 9, 9]], [[5, 5, 9, 9], [0, 0, 9, 9]], [1]),
        ([[0, 0, 9, 9]], [[0, 0, 9, 9 + MAX_BOX_DISTANCE]], [0]),
        ([[0, 0, 9, 9]], [[0, 0, 9, 9.1 + MAX_BOX_DISTANCE]], [-1]),
        ([[0, 0, 9, 9], [0, 0, 9, 9.5]], [[0, 0, 9, 9.4]], [-1, 0]),
        ([[0, 0, 9, 9]] * 2, [[0, 0, 9, 9]] * 2, [0, 1]),
        ([[0, 0, 9, 9]], [[0, 0, 9, np.nan]], [-1]),
        ([[0, 0, 9, np.inf]], [[0, 0, 9, np.inf]], [-1]),
    ],
    ids=["none", "empty", "order", "at the limit", "beyond", "closest", "equal", "nan", "inf"],
)
def test_boxes_find_the_closest_counterpart(boxes, others, expected):
    sides = (np.array(side, np.float64).reshape(1, -1, 4) for side in (boxes, others))
    assert match_boxes(*sides).tolist() == expected


@pytest.mark.parametrize(
    ("row", "is_same"),
    [((0, 9, 0.5), True), ((0, 9, 0.5, 2), False), ((0, 9, 0.0), False), ((2, 9, 0.5), False)],
    ids=["equal", "label", "empty", "place"],
)
def test_a_detection_is_the_same_if_place_label_and_score_are(row, is_same):
    match = match_detections(detections((0, 9, 0.5)), detections(row))
    assert (match[0] == 0) == is_same
    assert (match[1:] == -1).all()


@pytest.mark.parametrize(
    ("box", "other", "pixel", "overlap"),
    [
        ((0, 0, 0, 0), (0, 0, 0, 0), 0, 0.0),
        ((0, 0, 2, 2), (2, 0, 4, 2), 0, 0.0),
        ((0, 0, 2, 2), (5, 5, 9, 9), 0, 0.0),
        ((0, 0, 2, 2), (0, 0, 2, 4), 0, 0.5),
        ((0, 0, 1, 1), (1, 0, 2, 1), 1, 1 / 3),
        ((0, 0, np.inf, np.inf), (0, 0, 1, 1), 0, 0.0),
    ],
    ids=["no area", "touching", "apart", "half", "pixels", "inf"],
)
def test_overlaps_are_intersections_over_unions(box, other, pixel, overlap):
    found = box_overlaps(np.array([box], float), np.array([other], float), pixel=pixel)
    assert found.tolist() == [[pytest.approx(overlap)]]


TIED = (0, 10, 0.5), (3, 10, 0.5)  # overlap 7 / 13
CHAIN = (*TIED, (7, 10, 0.3), (11, 10, 0.2))  # each overlaps the next
APART = (0, 10, 0.5), (40, 10, 0.5)


@pytest.mark.parametrize(
    ("expected", "found", "chosen_from", "count"),
    [
        ([], [], CHAIN, 0),
        ([TIED[0]], [TIED[1]], TIED, 0),
        ([TIED[0]], [TIED[1]], None, 2),
        ([TIED[0]], [], TIED, 1),
        ([], [TIED[0]], TIED, 1),
        ([TIED[0]], [(3.0, 10, 0.5, 2)], TIED, 2),
        ([TIED[0]], [(4, 10, 0.5)], TIED, 1),
        ([TIED[0]], [(3, 10, 0.4)], [*TIED, (3, 10, 0.4)], 1),
        ([APART[0]], [APART[1]], APART, 2),
        ([TIED[0], TIED[1]], [TIED[0]], TIED, 1),
        ([CHAIN[0], CHAIN[2]], [CHAIN[1], CHAIN[3]], CHAIN, 0),
        ([CHAIN[0], CHAIN[2]], [CHAIN[1], CHAIN[3]], CHAIN[:3], 1),
    ],
    ids=[
        "nothing",
        "the other one of a tie",
        "a tie among unknown candidates",
        "none of a tie",
        "one too many",
        "another label",
        "no candidate",
        "a worse one",
        "tied but apart",
        "suppressed by what both have",
        "a chain behind a tie",
        "a chain with a stranger",
    ],
)
def test_only_a_tie_of_candidates_excuses_a_missing_detection(expected, found, chosen_from, count):
    chosen_from = candidates(*chosen_from) if chosen_from else None
    assert unmatched(detections(*expected), detections(*found), chosen_from) == count


def test_an_overlap_at_the_limit_may_suppress_or_not():
    side = 1400.0
    shift = side * (1 - IOU) / (1 + IOU)  # overlap exactly IOU
    for moved, count in ((shift, 0), (0.98 * shift, 1), (1.02 * shift, 1)):
        rows = (0, side, 0.9), (moved, side, 0.5)
        both, one = detections(*rows), detections(rows[0])
        assert unmatched(both, one, candidates(*rows)) == count
        assert unmatched(one, both, candidates(*rows)) == count


@pytest.mark.parametrize("length", [2, 3], ids=["full", "not full"])
def test_the_worst_of_a_full_list_may_be_another_one(length):
    best, *tied = (0, 10, 0.5), (40, 10, 0.1), (80, 10, 0.1), (120, 10, 0.1)
    for one, other in itertools.permutations(tied, 2):
        sides = (detections(best, row, length=length) for row in (one, other))
        assert unmatched(*sides, candidates(best, *tied)) == (0 if length == 2 else 2)


def test_candidates_at_the_cut_of_a_top_k_may_be_missing():
    rows = (0, 10, 0.5), (40, 10, 0.1), (80, 10, 0.1)
    sides = detections(*rows[:2]), detections(rows[0], rows[2])
    assert unmatched(*sides, candidates(*rows)) == 2
    assert unmatched(*sides, candidates(*rows, score_threshold=0.1)) == 0


def test_a_detection_at_the_threshold_may_be_missing():
    row = (0, 10, 0.5)
    for threshold, count in ((0.5 - SCORE_MARGIN / 2, 0), (0.5 - 2 * SCORE_MARGIN, 1)):
        assert unmatched(detections(row), detections(), score_threshold=threshold) == count


NUM_CANDIDATES, NUM_LEVELS = 600, 4


def tied_candidates(rng):
    """Return boxes and scores with many ties: few levels of score, places on a grid as in padding."""
    corner = rng.integers(0, 20, (NUM_CANDIDATES, 2)) * 5
    side = rng.choice([10, 16, 32], NUM_CANDIDATES)[:, None]
    boxes = np.concatenate([corner, corner + side], axis=1).astype(np.float32)
    scores = rng.choice(np.linspace(0.03, 0.9, NUM_LEVELS), NUM_CANDIDATES).astype(np.float32)
    return boxes, scores


def of_arrays(boxes, scores):
    return Candidates(
        boxes=torch.from_numpy(boxes),
        scores=torch.from_numpy(scores),
        labels=torch.ones(NUM_CANDIDATES),
        score_threshold=THRESHOLD,
        iou_threshold=IOU,
    )


def selected(rng, boxes, scores, *, length, broken=lambda result: None):
    """Return what suppression keeps after a rounding of its own, as a graph would."""
    boxes = boxes + rng.normal(0, 1e-4, boxes.shape).astype(np.float32)
    scores = scores * (1 + rng.normal(0, 1e-6, scores.shape)).astype(np.float32)
    kept, is_kept = nms(
        torch.from_numpy(boxes)[None],
        torch.from_numpy(scores)[None],
        iou_threshold=IOU,
        max_output=length,
        score_threshold=THRESHOLD,
    )
    valid = is_kept[0].numpy()
    rows = kept[0].numpy()
    result = {
        "boxes": (boxes[rows] * valid[:, None])[None],
        "scores": (scores[rows] * valid)[None],
        "labels": np.ones((1, length), np.int32),
    }
    broken(result)
    return result


@pytest.mark.parametrize("length", [200, 60], ids=["all", "cut"])
def test_how_ties_fall_is_no_difference(length):
    for seed in range(15):
        rng = np.random.default_rng(seed)
        boxes, scores = tied_candidates(rng)
        sides = [selected(rng, boxes, scores, length=length) for _ in range(2)]
        match = match_detections(*sides)
        assert (match[sides[0]["scores"][0] > 0] < 0).sum() > 10, "no tie fell differently"
        assert unmatched(*sides, of_arrays(boxes, scores)) == 0


def _moved(result):
    result["boxes"][0, ::2] += 2


def _all_moved(result):
    result["boxes"] += 2


def _lower(result):
    result["scores"] *= 0.9


def _lost(result):
    for array in result.values():
        array[0, 30:] = 0


def _twice(result):
    for array in result.values():
        array[0, 30:60] = array[0, :30]


@pytest.mark.parametrize("length", [200, 60], ids=["all", "cut"])
@pytest.mark.parametrize("broken", [_moved, _all_moved, _lower, _lost, _twice])
def test_a_fault_among_ties_is_a_difference(broken, length):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        boxes, scores = tied_candidates(rng)
        sound = selected(rng, boxes, scores, length=length)
        faulty = selected(rng, boxes, scores, length=length, broken=broken)
        assert unmatched(sound, faulty, of_arrays(boxes, scores)) > 0
