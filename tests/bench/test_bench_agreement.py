"""Agreement with a reference is 1 for the reference itself and falls with every kind of difference."""

import numpy as np
import pytest

from edgeseg_bench.datasets.segmentation import rle_from_mask
from edgeseg_bench.metrics.agreement import agreement_ap

SIDE = 200
IMAGES = [{"id": i, "height": SIDE, "width": SIDE} for i in (1, 2, 3)]


def detection(image_id, box, *, category_id=1, score=0.9):
    x, y, width, height = box
    mask_HW = np.zeros((SIDE, SIDE), dtype=bool)
    mask_HW[y : y + height, x : x + width] = True
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [float(v) for v in box],
        "score": score,
        "segmentation": rle_from_mask(mask_HW),
    }


def random_detections(seed, *, per_image=120):
    rng = np.random.default_rng(seed)
    return [
        detection(
            image["id"],
            (*rng.integers(0, 150, 2), *rng.integers(1, 50, 2)),
            category_id=int(rng.integers(1, 4)),
            score=float(np.round(rng.random(), 2)),
        )
        for image in IMAGES
        for _ in range(per_image)
    ]


REFERENCE = [
    detection(1, (10, 10, 40, 40), score=0.9),
    detection(1, (100, 100, 30, 60), category_id=2, score=0.8),
    detection(2, (20, 30, 50, 50), score=0.7),
    detection(2, (120, 30, 20, 20), score=0.1),  # noise: below the threshold
]


def compare(candidate, reference=REFERENCE, **options):
    return agreement_ap(reference, candidate, images=IMAGES, kinds=("bbox", "segm"), **options)


@pytest.mark.parametrize("seed", range(3))
def test_a_model_agrees_with_itself_even_with_ties_and_crowded_pictures(seed):
    detections = random_detections(seed)
    shuffled = [detections[i] for i in np.random.default_rng(seed).permutation(len(detections))]
    agreement = compare(shuffled, detections)
    assert agreement.ap["bbox"] == pytest.approx(1.0, abs=1e-3)
    assert agreement.num_matched == agreement.num_reference > 200
    assert (agreement.num_label_flips, agreement.count_delta) == (0, 0)
    assert agreement.mean_iou == pytest.approx(1.0)


def test_equal_detections_agree_perfectly():
    agreement = compare(REFERENCE)
    assert agreement.ap == {"bbox": 1.0, "segm": 1.0}
    assert (agreement.num_reference, agreement.num_matched) == (3, 3)
    assert agreement.mean_iou == 1.0
    assert agreement.score_mae == 0.0
    assert all(picture.quality == 1.0 for picture in agreement.worst)


def test_a_score_just_below_the_threshold_still_matches():
    agreement = compare([{**d, "score": d["score"] - 0.45} for d in REFERENCE[:3]])
    assert agreement.num_matched == 3
    assert agreement.ap["bbox"] == 1.0
    assert agreement.score_mae == pytest.approx(0.45)
    assert agreement.count_delta == -1  # 0.25 is not confident


def test_another_label_is_a_flip():
    agreement = compare([{**REFERENCE[0], "category_id": 2}, *REFERENCE[1:3]])
    assert agreement.num_label_flips == 1
    assert agreement.num_matched == 2
    assert agreement.ap["bbox"] < 1.0
    assert agreement.worst[0].image_id == 1


def test_a_shifted_mask_lowers_only_the_mask_agreement():
    shifted = detection(1, (14, 10, 40, 40))["segmentation"]
    agreement = compare([{**REFERENCE[0], "segmentation": shifted}, *REFERENCE[1:3]])
    assert agreement.ap["bbox"] == 1.0
    assert 0.5 < agreement.ap["segm"] < 1.0


def test_missing_and_additional_detections_are_counted():
    extra = [detection(3, (x, 0, 10, 10)) for x in (0, 50, 100)]
    agreement = compare([*REFERENCE[1:3], *extra])
    assert agreement.count_delta == 2
    assert agreement.num_matched == 2
    assert [(p.image_id, p.quality) for p in agreement.worst[:2]] == [(3, 0.0), (1, 0.5)]


@pytest.mark.parametrize(
    ("reference", "candidate", "expected"),
    [
        ([], [], None),
        ([], REFERENCE, 0.0),
        (REFERENCE, [], 0.0),
        (REFERENCE[3:], REFERENCE[3:], None),
        ([], REFERENCE[3:], None),
    ],
    ids=["both-empty", "reference-empty", "candidate-empty", "both-noise", "candidate-noise"],
)
def test_empty_results_are_defined(reference, candidate, expected):
    agreement = compare(candidate, reference)
    assert agreement.ap == {"bbox": expected, "segm": expected}
    assert agreement.lowest == expected
    assert {picture.quality for picture in agreement.worst} == (set() if expected is None else {0})
    assert agreement.mean_iou is None
    assert agreement.score_mae is None


def test_detections_without_extent_take_no_part():
    nothing = detection(1, (10, 10, 0, 5))
    agreement = compare([*REFERENCE, nothing], [*REFERENCE, nothing])
    assert agreement.ap == {"bbox": 1.0, "segm": 1.0}
