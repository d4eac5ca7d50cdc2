"""COCO AP equals pycocotools, and is defined where nothing is detected or annotated."""

import contextlib
import copy
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from edgeseg_bench.datasets.segmentation import rle_from_mask
from edgeseg_bench.metrics.coco import coco_ap

SIDE = 240
# Our names in the order of pycocotools' summary; AR at 1 and 10 detections is not ours.
STATS = {
    "bbox": ["AP", "AP50", "AP75", "APs", "APm", "APl", "-", "-", "AR", "ARs", "ARm", "ARl"],
    "segm": ["AP", "AP50", "AP75", "APs", "APm", "APl", "-", "-", "AR", "ARs", "ARm", "ARl"],
    "keypoints": ["AP", "AP50", "AP75", "APm", "APl", "AR", "-", "-", "ARm", "ARl"],
}


def mask_of_box(x, y, width, height):
    mask_HW = np.zeros((SIDE, SIDE), dtype=bool)
    mask_HW[int(y) : int(y + height) + 1, int(x) : int(x + width) + 1] = True
    return rle_from_mask(mask_HW)


def random_objects(rng, count):
    sizes = rng.uniform(6, 130, (count, 2))
    corners = rng.uniform(0, SIDE - sizes)
    return np.concatenate([corners, sizes], axis=1)


def keypoints_of_box(rng, box, jitter):
    points = box[:2] + box[2:] * rng.uniform(0, 1, (17, 2)) + rng.normal(0, jitter, (17, 2))
    return np.column_stack([points, np.full(17, 2)]).ravel().tolist()


def random_case(seed, *, num_images=12, num_categories=3):
    """Labels with crowds, and detections of them with jitter, misses, extras and equal scores."""
    rng = np.random.default_rng(seed)
    images = [{"id": i, "height": SIDE, "width": SIDE} for i in range(1, num_images + 1)]
    categories = [
        {"id": c, "name": str(c), "keypoints": [], "skeleton": []}
        for c in range(1, num_categories + 1)
    ]
    annotations, results = [], []
    for image in images:
        for box in random_objects(rng, rng.integers(0, 7)):
            category_id = int(rng.integers(1, num_categories + 1))
            keypoints = keypoints_of_box(rng, box, 0)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": category_id,
                    "bbox": box.tolist(),
                    "area": float(box[2] * box[3]),
                    "iscrowd": int(rng.random() < 0.1),
                    "segmentation": mask_of_box(*box),
                    "keypoints": keypoints,
                    "num_keypoints": 17,
                }
            )
            if rng.random() < 0.8:
                moved = np.clip(box + rng.normal(0, 4, 4), 1, SIDE / 2 + 50)
                points = np.array(keypoints).reshape(17, 3)
                points[:, :2] += rng.normal(0, 3, (17, 2))
                results.append(result_of(image, category_id, moved, rng, points.ravel().tolist()))
        for box in random_objects(rng, rng.integers(0, 4)):
            category_id = int(rng.integers(1, num_categories + 1))
            results.append(result_of(image, category_id, box, rng, keypoints_of_box(rng, box, 3)))
    return {"images": images, "annotations": annotations, "categories": categories}, results


def result_of(image, category_id, box, rng, keypoints):
    return {
        "image_id": image["id"],
        "category_id": category_id,
        "bbox": [float(v) for v in box],
        "score": float(np.round(rng.random(), 1)),
        "segmentation": mask_of_box(*box),
        "keypoints": keypoints,
    }


def pycocotools_stats(truth, results, iou_type):
    key = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}[iou_type]
    kept = [{k: r[k] for k in ("image_id", "category_id", "score", key)} for r in results]
    with contextlib.redirect_stdout(io.StringIO()):
        labels = COCO()
        labels.dataset = copy.deepcopy({"info": {}, **truth})
        labels.createIndex()
        evaluator = COCOeval(labels, labels.loadRes(kept), iou_type)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats


@pytest.mark.parametrize("iou_type", ["bbox", "segm", "keypoints"])
@pytest.mark.parametrize("seed", range(4))
def test_ap_equals_pycocotools(iou_type, seed):
    truth, results = random_case(seed)
    found = coco_ap(truth, results, iou_type=iou_type)
    stats = pycocotools_stats(truth, results, iou_type)
    named = {n: v for n, v in zip(STATS[iou_type], stats, strict=True) if n != "-"}
    assert set(found) == set(named)
    for name, expected in named.items():
        assert found[name] == pytest.approx(expected if expected > -1 else None, abs=1e-12), name
    assert 0 < found["AP"] < 1


def test_arguments_are_left_alone():
    truth, results = random_case(0)
    before = copy.deepcopy((truth, results))
    coco_ap(truth, results, iou_type="segm")
    assert (truth, results) == before


def test_nothing_detected_is_zero():
    truth, _ = random_case(1)
    scores = coco_ap(truth, [])
    assert scores["AP"] == scores["AR"] == scores["AP50"] == 0.0


@pytest.mark.parametrize("with_results", [False, True], ids=["nothing-found", "something-found"])
def test_nothing_annotated_is_undefined(with_results):
    truth, results = random_case(2)
    scores = coco_ap({**truth, "annotations": []}, results if with_results else [])
    assert set(scores.values()) == {None}


def test_sizes_that_do_not_occur_are_undefined():
    truth, results = random_case(3)
    small = [a for a in truth["annotations"] if a["area"] < 32**2]
    scores = coco_ap({**truth, "annotations": small}, results)
    assert scores["APs"] is not None
    assert scores["APm"] is None
    assert scores["APl"] is None


def test_ap_is_silent(capsys):
    coco_ap(*random_case(0))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("change", "iou_type", "message"),
    [
        ({"image_id": 99}, "bbox", "image 99, which is not among the 12 annotated pictures"),
        ({"category_id": 44}, "bbox", r"category 44, the data set has \[1, 2, 3\].*category_ids"),
        ({}, "iou", r"iou_type is 'iou': choose from \['bbox', 'segm', 'keypoints'\]"),
    ],
    ids=["image", "category", "iou-type"],
)
def test_results_of_another_data_set_are_refused(change, iou_type, message):
    truth, results = random_case(0)
    with pytest.raises(ValueError, match=message):
        coco_ap(truth, [{**results[0], **change}], iou_type=iou_type)


def test_mask_ap_needs_masks():
    truth, results = random_case(0)
    boxes = [{k: v for k, v in r.items() if k != "segmentation"} for r in results]
    with pytest.raises(ValueError, match="segm AP needs 'segmentation' in every result"):
        coco_ap(truth, boxes, iou_type="segm")
