"""Which metrics are taken of which model, and how models of one object at a time are asked."""

from types import SimpleNamespace

import numpy as np
import pytest
from fake_model import fake_predictor

from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.evaluation import (
    METRICS,
    compare_results,
    comparisons,
    dataset_kind,
    detect,
    measure_accuracy,
    pictures_seen,
)
from edgeseg_runtime.bundle.manifest import Manifest, Preprocess, TensorSpec, one_graph
from edgeseg_runtime.predictor import Predictor
from edgeseg_runtime.tasks import create_task

SIDE = 64
BOXES = {"boxes": (1, 2, 4), "scores": (1, 2), "labels": (1, 2)}

SEGMENTS = {**BOXES, "masks": (1, 2, 16, 16), "semantic_logits": (1, 3, 16, 16)}


def manifest_of(task, outputs, *, names=(), is_whole=False):
    preprocess = (
        Preprocess(height=SIDE, width=SIDE, resize="stretch")
        if is_whole or task == "instances"
        else Preprocess(height=SIDE, width=SIDE, resize="square_crop", rounding="none")
    )
    return Manifest(
        name="fake",
        task=task,
        precision="fp32",
        graphs=one_graph(
            inputs=(TensorSpec(name="image", dtype="uint8", shape=(1, SIDE, SIDE, 3)),),
            outputs=tuple(
                TensorSpec(name=name, dtype="int32" if name == "labels" else "float32", shape=shape)
                for name, shape in outputs.items()
            ),
        ),
        preprocess=preprocess,
        labels=names,
        category_ids=tuple(range(len(names))),
    )


MANIFESTS = {
    "boxes": manifest_of("instances", BOXES),
    "masks": manifest_of("instances", {**BOXES, "masks": (1, 2, 16, 16)}),
    "poses": manifest_of("instances", {**BOXES, "keypoints": (1, 2, 17, 3)}),
    "faces": manifest_of(
        "instances",
        {**BOXES, "landmarks": (1, 2, 5, 2), "gender": (1, 2), "mesh": (1, 2, 169, 3)},
    ),
    "top-down": manifest_of("keypoints", {"keypoints": (1, 16, 3)}, names=("", "person")),
    "landmarks": manifest_of("landmarks", {"points": (1, 68, 2), "scores": (1, 68)}),
    "segments": manifest_of("panoptic", SEGMENTS, is_whole=True),
    "tubes": manifest_of("panoptic", {**SEGMENTS, "embeddings": (1, 2, 8)}, is_whole=True),
}


WHOLE = {
    "pose of a picture": manifest_of(
        "keypoints", {"keypoints": (1, 16, 3)}, names=("", "person"), is_whole=True
    ),
    "landmarks of a picture": manifest_of(
        "landmarks", {"points": (1, 68, 2), "scores": (1, 68)}, is_whole=True
    ),
}
"""Models that place the points of one object, in whole pictures only."""


@pytest.mark.parametrize(
    ("name", "kind", "metrics", "agreement"),
    [
        ("boxes", "instances", ["bbox"], ["bbox"]),
        ("masks", "instances", ["bbox", "segm"], ["bbox", "segm"]),
        ("poses", "person_keypoints", ["bbox", "keypoints"], ["bbox", "keypoints"]),
        ("faces", "faces", ["bbox", "wider", "landmarks", "gender", "mesh"], ["bbox"]),
        ("top-down", "person_keypoints", ["keypoints", "pckh"], ["points"]),
        ("landmarks", "faces", ["points"], ["points"]),
        ("segments", "panoptic", ["panoptic"], ["pq"]),
        ("tubes", "clips", ["panoptic", "video"], ["pq", "vpq"]),
        ("pose of a picture", "person_keypoints", ["keypoints"], ["points"]),
        ("landmarks of a picture", "faces", [], ["points"]),
    ],
)
def test_a_model_is_measured_on_what_it_gives(name, kind, metrics, agreement):
    manifest = {**MANIFESTS, **WHOLE}[name]
    assert dataset_kind(manifest) == kind
    assert [metric.name for metric in METRICS if metric.fits(manifest)] == metrics
    assert [how.kind for how in comparisons(manifest)] == agreement


def test_runs_are_compared_in_what_both_models_give():
    boxes, masks, pose = (MANIFESTS[name] for name in ("boxes", "masks", "top-down"))
    assert [how.kind for how in comparisons(masks, boxes)] == ["bbox"]
    assert comparisons(masks, pose) == []


@pytest.mark.parametrize("name", WHOLE)
def test_a_model_of_whole_pictures_is_asked_once_for_each(name):
    manifest = WHOLE[name]
    points = np.full((1, 68, 2), 20, np.float32)
    outputs = {
        "keypoints": np.full((1, 16, 3), 20, np.float32),
        "points": points,
        "scores": np.ones((1, 68), np.float32),
    }
    given = {spec.name: outputs[spec.name] for spec in manifest.outputs}
    dataset = open_dataset("shapes", kind=dataset_kind(manifest), limit=2)
    assert max(len(sample.annotations) for sample in dataset) > 1
    results = [r for s in dataset for r in detect(fake_predictor(manifest, given), s)]
    sizes = [[0, 0, sample.width, sample.height] for sample in dataset]
    assert [result["bbox"] for result in results] == sizes
    assert set(measure_accuracy(manifest, dataset.coco(), results)) <= {"keypoints"}
    images = dataset.coco()["images"]
    agreement = compare_results(comparisons(manifest), results, results, images=images)
    assert (agreement.ap, agreement.num_matched) == ({"points": 1.0}, 2)
    (seen, _) = pictures_seen(manifest, dataset)
    assert seen.image.shape == dataset[0].image.shape


@pytest.mark.parametrize("kind", ["instances", "faces", "person_keypoints", "panoptic", "clips"])
def test_the_built_in_labels_have_what_their_models_are_measured_on(kind):
    truth = open_dataset("shapes", kind=kind, limit=2).coco()
    for name, manifest in MANIFESTS.items():
        if dataset_kind(manifest) == kind:
            assert all(m.is_labelled(truth) for m in METRICS if m.fits(manifest)), name


PARTLY_LABELLED = {
    "landmarks": ("faces", "landmarks"),
    "gender": ("faces", "gender"),
    "mesh": ("faces", "mesh"),
    "points": ("faces", "landmarks"),
    "pckh": ("person_keypoints", "head_box"),
}
"""Metric -> kind of data, key of the labels."""


@pytest.mark.parametrize("name", PARTLY_LABELLED)
def test_one_annotation_without_a_label_costs_no_metric(name):
    kind, key = PARTLY_LABELLED[name]
    truth = open_dataset("shapes", kind=kind, limit=4).coco()
    (metric,) = (metric for metric in METRICS if metric.name == name)
    first, *others = truth["annotations"]
    assert others
    for annotation in (first, *others):
        assert metric.is_labelled(truth)
        del annotation[key]
        annotation["keypoints"] = [0.0] * 48  # nor do joints tell the size of a head
    assert not metric.is_labelled(truth)


def test_faces_without_landmarks_are_left_out_of_their_error():
    truth = open_dataset("shapes", kind="faces", limit=2).coco()
    results = [
        {key: face[key] for key in ("image_id", "category_id", "bbox", "landmarks")}
        | {"score": 0.9, "gender": face["gender"], "mesh": face["mesh"]}
        for face in truth["annotations"]
    ]
    truth["annotations"][0]["landmarks"] = None
    scores = measure_accuracy(MANIFESTS["faces"], truth, results)
    assert scores["landmarks"]["NME"] == 0
    assert scores["landmarks"]["matched"] == 1


def test_the_size_of_a_head_may_come_from_its_joints():
    truth = open_dataset("shapes", kind="person_keypoints", limit=2).coco()
    for person in truth["annotations"]:
        del person["head_box"]
    assert "pckh" in measure_accuracy(MANIFESTS["top-down"], truth, [])


def test_joints_of_another_markup_have_no_pckh():
    truth = open_dataset("shapes", kind="person_keypoints", limit=2).coco()
    for person in truth["annotations"]:
        person["keypoints"] = [1.0] * 51
    (metric,) = (metric for metric in METRICS if metric.name == "pckh")
    assert not metric.is_labelled(truth)


class Oracle:
    """Puts out the labelled points of the object that was cropped, in the order of the boxes."""

    def __init__(self, manifest, sample, points_of):
        self.task = create_task(manifest)
        self.outputs = []
        for annotation in sample.annotations:
            x, y, width, height = annotation["bbox"]
            box = (x, y, x + width, y + height)
            _, geometry = self.task.preprocess(sample.image, box)
            scale, shift = np.array(geometry.scale), np.array(geometry.shift)
            self.outputs.append(points_of(annotation) * scale + shift)

    def run(self, inputs, graph="main", state=None, rows=None):
        return self.as_outputs(self.outputs.pop(0).astype(np.float32)[None])

    def close(self):
        pass


class LandmarkOracle(Oracle):
    def as_outputs(self, points):
        return {"points": points, "scores": np.ones(points.shape[:2], np.float32)}


class PoseOracle(Oracle):
    def as_outputs(self, points):
        scores = np.full((*points.shape[:2], 1), 0.9, np.float32)
        return {"keypoints": np.concatenate([points, scores], axis=2)}


def asked(name, kind, oracle, points_of):
    manifest = MANIFESTS[name]
    dataset = open_dataset("shapes", kind=kind, limit=3)
    results = []
    for sample in dataset:
        backend = oracle(manifest, sample, points_of)
        results += detect(Predictor(manifest, backend.task, backend), sample)
    return manifest, dataset.coco(), results


def test_the_labelled_boxes_are_given_to_landmark_models():
    manifest, truth, results = asked(
        "landmarks", "faces", LandmarkOracle, lambda face: np.array(face["points_68"])
    )
    assert [r["annotation_id"] for r in results] == [a["id"] for a in truth["annotations"]]
    scores = measure_accuracy(manifest, truth, results)["points"]
    assert scores["NME"] < 1e-3
    assert scores["failures@0.10"] == 0


def test_the_labelled_boxes_are_given_to_pose_models():
    manifest, truth, results = asked(
        "top-down",
        "person_keypoints",
        PoseOracle,
        lambda person: np.reshape(person["keypoints"], (-1, 3))[:, :2],
    )
    scores = measure_accuracy(manifest, truth, results)
    assert scores["pckh"]["PCKh"] == 1
    assert scores["keypoints"]["AP"] > 0.99
    results[0]["keypoints"] = [0.0] * 48
    assert measure_accuracy(manifest, truth, results)["pckh"]["PCKh"] < 1


def test_labels_of_another_markup_are_refused():
    manifest = manifest_of("landmarks", {"points": (1, 29, 2), "scores": (1, 29)})
    truth = open_dataset("shapes", kind="faces", limit=1).coco()
    result = {"annotation_id": truth["annotations"][0]["id"], "keypoints": [0.0] * 87}
    with pytest.raises(
        ValueError, match="places 29 points, the data set has no labels 'points_29'"
    ):
        measure_accuracy(manifest, truth, [result])


def test_a_landmark_model_without_results_has_no_error_to_report():
    truth = open_dataset("shapes", kind="faces", limit=1).coco()
    assert measure_accuracy(MANIFESTS["landmarks"], truth, []) == {"points": {"NME": None}}


def test_a_detector_sees_whole_pictures_and_a_pose_model_each_person():
    people = open_dataset("shapes", kind="person_keypoints", limit=3)
    whole = list(pictures_seen(MANIFESTS["boxes"], people))
    assert [seen.image.shape for seen in whole] == [sample.image.shape for sample in people]
    persons = [seen.image for seen in pictures_seen(MANIFESTS["top-down"], people)]
    boxes = [a["bbox"] for sample in people for a in sample.annotations]
    assert len(persons) == len(boxes) > 3
    for picture, (_, _, width, height) in zip(persons, boxes, strict=True):
        assert picture.shape == (picture.shape[0], picture.shape[0], 3)
        assert picture.shape[0] == pytest.approx(1.25 * max(width, height), abs=1)


@pytest.mark.parametrize("limit", [0, 1, 4])
def test_what_is_seen_has_a_name_of_its_own_and_a_limit(limit):
    people = open_dataset("shapes", kind="person_keypoints", limit=3)
    all_names = [seen.name for seen in pictures_seen(MANIFESTS["top-down"], people)]
    assert len(set(all_names)) == len(all_names) > 4
    limited = pictures_seen(MANIFESTS["top-down"], people, limit=limit)
    assert [seen.name for seen in limited] == all_names[:limit]


@pytest.mark.parametrize(
    ("bbox", "rows", "columns"),
    [
        ([20, 16, 16, 8], (10, 30), (18, 38)),
        ([50, 30, 16, 8], (24, 40), (48, 60)),
        ([-6, -4, 16, 8], (0, 10), (0, 12)),
    ],
    ids=["inside", "over the end", "over the beginning"],
)
def test_the_square_about_a_box_is_black_outside_the_picture(bbox, rows, columns):
    image = np.random.default_rng(0).integers(1, 256, (40, 60, 3), np.uint8)
    sample = SimpleNamespace(image=image, file_name="1.png", annotations=[{"bbox": bbox}])
    ((name, seen),) = pictures_seen(MANIFESTS["top-down"], [sample])
    assert name == "1.png"
    assert seen.shape == (20, 20, 3)
    inside = image[slice(*rows), slice(*columns)]
    found = seen[: len(inside), : inside.shape[1]] if bbox[0] > 0 else seen[10:, 8:]
    np.testing.assert_array_equal(found, inside)
    assert np.count_nonzero(seen) == inside.size
