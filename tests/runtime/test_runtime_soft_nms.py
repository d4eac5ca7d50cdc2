"""Soft-NMS and the centre check against the originals' rules and recorded results."""

import numpy as np
import pytest
from cornernet_cases import match
from golden import load_case

from edgeseg_runtime.tasks.centers import check_centers
from edgeseg_runtime.tasks.soft_nms import soft_nms


def original_soft_nms(boxes):
    """The loop of external/nms.pyx, on rows x1 y1 x2 y2 score number, in place."""
    end = len(boxes)
    one = np.float32(1)
    for i in range(len(boxes)):
        if i < end:
            best = i + int(boxes[i:end, 4].argmax())
            boxes[[i, best]] = boxes[[best, i]]
        place = i + 1
        while place < end:
            low = np.maximum(boxes[i, :2], boxes[place, :2])
            high = np.minimum(boxes[i, 2:4], boxes[place, 2:4])
            width, height = high - low + one
            if width > 0 and height > 0:
                areas = [
                    (b[2] - b[0] + one) * (b[3] - b[1] + one) for b in (boxes[i], boxes[place])
                ]
                overlap = width * height / (areas[0] + areas[1] - width * height)
                weight = np.float32(np.exp(float(-(overlap * overlap) / np.float32(0.5))))
                boxes[place, 4] *= weight
                if boxes[place, 4] < 0.001:
                    boxes[place] = boxes[end - 1]
                    end -= 1
                    place -= 1
            place += 1
    return boxes


def crowd(seed, count):
    """Boxes in a few heaps, so that many fall below the floor; some scores tie."""
    rng = np.random.default_rng(seed)
    centre = rng.choice(rng.uniform(0, 200, (4, 2)), count) + rng.normal(0, 2, (count, 2))
    size = rng.uniform(20, 26, (count, 2))
    scores = np.round(rng.uniform(0.001, 0.9, count), 2)
    return np.concatenate([centre - size, centre + size], axis=1).astype(np.float32), scores.astype(
        np.float32
    )


@pytest.mark.parametrize("count", [0, 1, 2, 7, 60])
def test_the_original_s_leftovers_are_kept_row_by_row(count):
    for seed in range(20):
        boxes, scores = crowd(seed, count)
        rows = np.concatenate([boxes, scores[:, None], np.arange(count)[:, None]], axis=1)
        expected = original_soft_nms(rows.astype(np.float32))
        found = soft_nms(
            boxes, scores, np.zeros(count, np.int64), max_detections=1000, mode="original"
        )
        order = np.argsort(-expected[:, 4], kind="stable")
        np.testing.assert_array_equal(found.rows, expected[order, 5].astype(int))
        np.testing.assert_array_equal(found.scores, expected[order, 4])


def test_each_box_comes_once_and_none_below_the_floor():
    for seed in range(20):
        boxes, scores = crowd(seed, 60)
        labels = np.arange(60) % 2
        found = soft_nms(boxes, scores, labels, max_detections=60)
        assert len(set(found.rows)) == len(found.rows) < 60
        assert (found.scores >= 0.001).all()
        assert (np.diff(found.scores) <= 0).all()
        for label in (0, 1):  # what the original has in front of its leftovers
            own = np.flatnonzero(labels == label)
            alone = soft_nms(boxes[own], scores[own], labels[own], max_detections=60)
            is_own = labels[found.rows] == label
            np.testing.assert_array_equal(own[alone.rows], found.rows[is_own])
            np.testing.assert_array_equal(alone.scores, found.scores[is_own])


def test_the_best_are_the_same_however_many_are_asked_for():
    boxes, scores = crowd(3, 60)
    labels = np.zeros(60, np.int64)
    few, many = (soft_nms(boxes, scores, labels, max_detections=count) for count in (5, 60))
    np.testing.assert_array_equal(few.rows, many.rows[:5])


def test_boxes_of_other_labels_and_apart_keep_their_scores():
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 9], [50, 50, 59, 59]], np.float32)
    found = soft_nms(
        boxes, np.array([0.9, 0.8, 0.7], np.float32), np.array([0, 1, 0]), max_detections=10
    )
    np.testing.assert_array_equal(found.rows, [0, 1, 2])
    np.testing.assert_array_equal(found.scores, np.array([0.9, 0.8, 0.7], np.float32))


@pytest.mark.parametrize(
    ("system", "case"),
    [
        ("cornernet", "dev"),
        ("cornernet", "dev_squeeze"),
        ("centernet_triplet", "dev"),
        ("centernet_triplet", "dev_large"),
    ],
)
def test_the_originals_final_boxes_come_from_their_candidates(system, case):
    golden = load_case(system, case)
    candidates, final = golden.arrays["candidates"], golden.arrays["final"]
    boxes, scores, labels = candidates[:, :4], candidates[:, 4], candidates[:, 7]
    found = soft_nms(boxes, scores, labels, max_detections=100, mode="original")
    match(boxes[found.rows], labels[found.rows], found.scores, final, box=1e-6, score=1e-6)


@pytest.mark.parametrize("case", ["dev", "dev_large"])
def test_the_original_s_candidates_have_a_centre_in_their_middle(case):
    golden = load_case("centernet_triplet", case)
    settings = golden.description["image"]
    size = settings["height"], settings["width"]
    network = golden.input_size
    cells = np.array([(side + 1) // 4 for side in network[::-1]], np.float32)
    border = [side // 2 - own // 2 for side, own in zip(network[::-1], size[::-1], strict=True)]

    def to_source(points):
        return points / (cells / np.array(network[::-1], np.float32)) - np.array(border, np.float32)

    pairs = [golden.arrays["decoded_0"].copy(), golden.arrays["decoded_1"].copy()]
    pairs[1][:, [0, 2]] = cells[0] - pairs[1][:, [2, 0]]
    pairs = np.concatenate(pairs)
    centers = golden.arrays["centers"].copy()
    centers[1, :, 0] = cells[0] - centers[1, :, 0]
    centers = centers.reshape(-1, 4)
    places = to_source(centers[:, :2])
    checked = check_centers(
        to_source(pairs[:, :4].reshape(-1, 2, 2)).reshape(-1, 4),
        pairs[:, 4],
        pairs[:, 7],
        np.concatenate([places, centers[:, [3, 2]]], axis=1),
        size=size,
        step=(1.0, 1.0),
    )
    expected = golden.arrays["candidates"]
    match(checked.boxes, pairs[checked.rows, 7], checked.scores, expected, box=1e-4, score=1e-6)
    assert (np.diff(checked.scores) <= 0).all()


@pytest.mark.parametrize(
    ("box", "center", "score"),
    [
        pytest.param((10, 10, 100, 100), (55, 55, 0.3, 2), 0.7, id="in-the-middle"),
        pytest.param((10, 10, 100, 100), (55, 55, 0.3, 1), None, id="of-another-label"),
        pytest.param((10, 10, 100, 100), (40, 55, 0.3, 2), None, id="on-the-border-of-the-third"),
        pytest.param((0, 0, 150, 150), (51, 75, 0.3, 2), 0.7, id="middle-third-of-a-small-box"),
        pytest.param((0, 0, 151, 151), (51, 75, 0.3, 2), None, id="middle-fifth-of-a-large-box"),
        pytest.param((-5, 10, 85, 100), (40, 55, 0.3, 2), None, id="box-five-pixels-outside"),
        pytest.param((-4, 10, 86, 100), (43, 55, 0.3, 2), 0.7, id="box-less-outside"),
        pytest.param((170, 10, 245, 80), (190, 45, 0.3, 2), None, id="box-out-on-the-right"),
    ],
)  # fmt: skip
def test_a_box_counts_with_a_centre_of_its_label_in_its_middle(box, center, score):
    found = check_centers(
        np.array([box], np.float32),
        np.array([0.9], np.float32),
        np.array([2]),
        np.array([center, (np.nan, 1, 0.5, 2)], np.float32),
        size=(200, 240),
        step=(1.0, 1.0),
    )
    np.testing.assert_allclose(found.scores, [] if score is None else [score], rtol=1e-6)
