"""Agreement of points: 1 for the same points, less the further they are apart, None without any."""

import numpy as np
import pytest

from edgeseg_bench.metrics.placed_points import agreement_of_points

NUM_POINTS = 10


def placed(shift=0.0, *, scores=1.0, image_id=1, annotation_id=None, size=(40, 100)):
    """Return a result whose points lie ``shift`` pixels right of where they are without."""
    points = np.random.default_rng(0).uniform(0, 40, (NUM_POINTS, 2))
    flat = np.column_stack(
        [points + np.array([shift, 0]), np.broadcast_to(scores, NUM_POINTS)]
    ).ravel()
    result = {
        "image_id": image_id,
        "category_id": 1,
        "bbox": [5.0, 5.0, *map(float, size)],
        "score": float(np.mean(scores)),
        "keypoints": flat.tolist(),
    }
    return result if annotation_id is None else {**result, "annotation_id": annotation_id}


def compare(reference, candidate):
    images = [{"id": i, "height": 200, "width": 200} for i in (1, 2, 3)]
    return agreement_of_points(reference, candidate, images=images)


@pytest.mark.parametrize("score", [1.0, 0.1], ids=["sure", "unsure"])
def test_equal_points_agree_perfectly_whatever_their_score(score):
    agreement = compare([placed(scores=score)], [placed(scores=score)])
    assert (agreement.ap, agreement.lowest) == ({"points": 1.0}, 1.0)
    assert (agreement.nme, agreement.score_mae, agreement.mean_iou) == (0.0, 0.0, None)
    assert (agreement.num_reference, agreement.num_matched, agreement.count_delta) == (1, 1, 0)
    assert [picture.quality for picture in agreement.worst] == [1.0]


@pytest.mark.parametrize(
    ("shift", "expected"), [(0.1, 0.98), (2.5, 0.5), (4.9, 0.02), (5.1, 0.0), (1000, 0.0)]
)
def test_points_further_apart_agree_less(shift, expected):
    agreement = compare([placed()], [placed(shift)])
    assert agreement.ap["points"] == pytest.approx(expected)
    assert agreement.nme == pytest.approx(min(shift / 100, 1.0))
    assert agreement.worst[0].quality == pytest.approx(1 - agreement.nme)


def test_the_longer_side_of_the_box_is_the_size():
    assert compare([placed(size=(200, 40))], [placed(2.2)]).nme == pytest.approx(0.011)


@pytest.mark.parametrize(("score", "expected"), [(1.0, 0.5), (0.25, 0.8), (0.0, 1.0), (-0.1, 1.0)])
def test_a_point_counts_as_much_as_the_reference_is_sure_of_it(score, expected):
    scores = np.where(np.arange(NUM_POINTS) % 2, 1.0, score)
    far = placed(scores=scores)
    for number in range(0, NUM_POINTS, 2):
        far["keypoints"][3 * number] += 1000
    assert compare([placed(scores=scores)], [far]).ap["points"] == pytest.approx(expected)


def test_a_missing_result_agrees_in_nothing():
    agreement = compare([placed(), placed(image_id=2)], [placed()])
    assert agreement.ap == {"points": 0.5}
    assert (agreement.num_matched, agreement.count_delta) == (1, -1)
    assert [(p.image_id, p.quality, p.num_candidate) for p in agreement.worst] == [
        (2, 0.0, 0),
        (1, 1.0, 1),
    ]


def test_the_boxes_of_a_picture_are_told_apart():
    reference = [placed(30 * number, annotation_id=number) for number in range(4)]
    agreement = compare(reference, reference[::-1])
    assert agreement.ap == {"points": 1.0}
    assert [(p.image_id, p.num_reference) for p in agreement.worst] == [(1, 4)]


@pytest.mark.parametrize(
    "results", [[], [placed(scores=0.0)]], ids=["no result", "no point that counts"]
)
def test_nothing_to_compare_is_no_agreement(results):
    agreement = compare(results, results)
    assert agreement.ap == {"points": None}
    assert (agreement.lowest, agreement.nme, agreement.worst) == (None, None, ())
