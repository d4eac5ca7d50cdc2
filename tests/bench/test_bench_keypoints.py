"""PCKh against cases computed by hand, and OKS AP on MPII's joints against pycocotools."""

import contextlib
import copy
import io
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from edgeseg_bench.metrics.coco import OKS_SIGMAS, coco_ap
from edgeseg_bench.metrics.keypoints import GROUPS, head_size, pckh

JOINTS = 16


def person(number=1, *, offset=0.0, unlabelled=(), **further):
    """An annotation whose joints lie on a diagonal, 10 pixels apart; its head has the size 20."""
    joints = [[10.0 * j + offset, 10.0 * j, 0 if j in unlabelled else 2] for j in range(JOINTS)]
    return {
        "id": number,
        "image_id": 1,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [0, 0, 160, 160],
        "area": 160.0 * 160.0,
        "keypoints": np.ravel(joints).tolist(),
        "num_keypoints": JOINTS - len(unlabelled),
        "head_size": 20.0,
        **further,
    }


def result(annotation, moved=None):
    """The annotation's own joints, some of them moved to the right: {joint: pixels}."""
    joints = np.array(annotation["keypoints"], np.float64).reshape(JOINTS, 3)
    for joint, distance in (moved or {}).items():
        joints[joint, 0] += distance
    return {
        "image_id": annotation["image_id"],
        "category_id": 1,
        "score": 0.9,
        "annotation_id": annotation["id"],
        "keypoints": joints.ravel().tolist(),
    }


def truth_of(*annotations):
    joints = [str(joint) for joint in range(JOINTS)]
    return {
        "images": [{"id": 1, "height": 200, "width": 200}],
        "annotations": list(annotations),
        "categories": [{"id": 1, "name": "person", "keypoints": joints, "skeleton": []}],
    }


def test_nobody_is_undefined():
    assert set(pckh(truth_of(), []).values()) == {None}


def test_a_person_without_a_result_is_missed():
    scores = pckh(truth_of(person()), [])
    assert set(scores) == {"PCKh", *GROUPS}
    assert set(scores.values()) == {0.0}


def test_perfect_joints_are_all_right():
    label = person()
    assert set(pckh(truth_of(label), [result(label)]).values()) == {1.0}


def test_a_joint_is_right_up_to_half_the_head_s_size():
    label = person()
    scores = pckh(truth_of(label), [result(label, {10: 10.0, 15: 10.1, 0: -300.0})])
    assert scores["wrist"] == 0.5
    assert scores["ankle"] == 0.5
    assert scores["PCKh"] == pytest.approx(12 / 14)
    strict = pckh(truth_of(label), [result(label, {10: 10.0})], threshold=0.4)
    assert strict["wrist"] == 0.5


def test_the_distance_counts_both_axes():
    label = person()
    moved = result(label, {11: 8.0})
    moved["keypoints"][11 * 3 + 1] += 8.0  # 11.3 pixels away, where 10 are allowed
    assert pckh(truth_of(label), [moved])["elbow"] == 0.5


def test_pelvis_and_thorax_take_no_part():
    label = person()
    assert pckh(truth_of(label), [result(label, {6: 100, 7: 100})])["PCKh"] == 1.0


def test_joints_without_a_label_are_ignored():
    label = person(unlabelled=(0, 5, 10))
    scores = pckh(truth_of(label), [result(label, {0: 100, 10: 100, 15: 100})])
    assert scores["ankle"] is None
    assert scores["wrist"] == 0.0
    assert scores["PCKh"] == pytest.approx(10 / 11)


def test_every_joint_of_every_person_counts_alike():
    """Two persons: 14 joints, all right, and 2 joints, both wrong."""
    whole = person(1)
    part = person(2, unlabelled=tuple(j for j in range(JOINTS) if j not in (1, 4)))
    scores = pckh(truth_of(whole, part), [result(whole), result(part, {1: 50, 4: 50})])
    assert scores["PCKh"] == pytest.approx(14 / 16)
    assert scores["knee"] == 0.5


@pytest.mark.parametrize(
    ("annotation", "size"),
    [
        pytest.param(person(), 20.0, id="given"),
        pytest.param(
            {**person(), "head_size": 0.0, "head_box": [0, 0, 30, 40]}, None, id="no-size"
        ),
        pytest.param(
            {k: v for k, v in person(head_box=[5, 5, 30, 40]).items() if k != "head_size"},
            30.0, id="0.6-of-the-box-s-diagonal",
        ),
        pytest.param(
            {k: v for k, v in person().items() if k != "head_size"},
            math.hypot(10, 10), id="neck-to-top",
        ),
        pytest.param(
            {k: v for k, v in person(unlabelled=(9,)).items() if k != "head_size"},
            None, id="top-without-a-label",
        ),
    ],
)  # fmt: skip
def test_the_head_s_size(annotation, size):
    assert head_size(annotation) == pytest.approx(size)


def test_a_person_whose_head_has_no_size_is_left_out():
    label, headless = person(1), person(2, head_size=0.0)
    assert pckh(truth_of(label, headless), [result(label)])["PCKh"] == 1.0


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([result(person(7))], "person 7, who is not among the 1"),
        ([result(person())] * 2, "Two results are for person 1"),
        ([{"annotation_id": 1, "keypoints": [0.0] * 51}], "17 key points found: .* MPII's 16"),
    ],
)
def test_results_that_do_not_fit_are_refused(results, message):
    with pytest.raises(ValueError, match=message):
        pckh(truth_of(person()), results)


def test_oks_of_one_joint_is_what_the_formula_gives():
    """With one labelled joint, OKS is exp(-d^2 / (2 area (2 sigma)^2)); AP counts the thresholds below."""
    wrist = 10
    label = person(unlabelled=tuple(j for j in range(JOINTS) if j != wrist))
    variance = (2 * OKS_SIGMAS[16][wrist]) ** 2
    for oks in (0.52, 0.72, 0.93):
        distance = math.sqrt(-2 * math.log(oks) * label["area"] * variance)
        scores = coco_ap(truth_of(label), [result(label, {wrist: distance})], iou_type="keypoints")
        passed = sum(threshold <= oks for threshold in np.arange(0.5, 0.96, 0.05))
        assert scores["AP"] == pytest.approx(passed / 10), oks


@pytest.mark.parametrize("seed", range(3))
def test_oks_ap_on_sixteen_joints_equals_pycocotools(seed):
    rng = np.random.default_rng(seed)
    labels = [
        person(
            number,
            offset=float(rng.uniform(0, 40)),
            unlabelled=tuple(rng.choice(JOINTS, rng.integers(0, 6), replace=False).tolist()),
        )
        for number in range(1, 9)
    ]
    for label in labels:
        label["image_id"] = 1 + label["id"] % 3
    truth = truth_of(*labels)
    truth["images"] = [{"id": i, "height": 200, "width": 200} for i in (1, 2, 3)]
    results = [
        result(label, dict(enumerate(rng.normal(0, 12, JOINTS))))
        | {"score": float(np.round(rng.random(), 2))}
        for label in labels
    ]
    found = coco_ap(truth, results, iou_type="keypoints")
    stats = _pycocotools_stats(truth, results)
    assert 0 < stats[0] < 1
    names = ("AP", "AP50", "AP75", "APm", "APl", "AR")
    for name, expected in zip(names, stats[:6], strict=True):
        assert found[name] == pytest.approx(expected if expected > -1 else None, abs=1e-12), name


def _pycocotools_stats(truth, results):
    kept = [{k: r[k] for k in ("image_id", "category_id", "score", "keypoints")} for r in results]
    with contextlib.redirect_stdout(io.StringIO()):
        labels = COCO()
        labels.dataset = copy.deepcopy({"info": {}, **truth})
        labels.createIndex()
        evaluator = COCOeval(labels, labels.loadRes(kept), "keypoints")
        evaluator.params.kpt_oks_sigmas = np.array(OKS_SIGMAS[16])
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats
