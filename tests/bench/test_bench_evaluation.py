"""Which metrics are taken of which model, and how models of one object at a time are asked."""

import numpy as np
import pytest

from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.evaluation import (
    METRICS,
    agreement_types,
    dataset_kind,
    detect,
    measure_accuracy,
)
from edgeseg_runtime.manifest import Manifest, Preprocess, TensorSpec
from edgeseg_runtime.predictor import Predictor
from edgeseg_runtime.tasks import create_task

SIDE = 64
BOXES = {"boxes": (1, 2, 4), "scores": (1, 2), "labels": (1, 2)}


def manifest_of(task, outputs, *, names=()):
    preprocess = (
        Preprocess(height=SIDE, width=SIDE, resize="stretch")
        if task == "instances"
        else Preprocess(height=SIDE, width=SIDE, resize="square_crop", rounding="none")
    )
    return Manifest(
        name="fake",
        task=task,
        precision="fp32",
        inputs=(TensorSpec(name="image", dtype="uint8", shape=(1, SIDE, SIDE, 3)),),
        outputs=tuple(
            TensorSpec(name=name, dtype="int32" if name == "labels" else "float32", shape=shape)
            for name, shape in outputs.items()
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
}


@pytest.mark.parametrize(
    ("name", "kind", "metrics", "agreement"),
    [
        ("boxes", "instances", ["bbox"], ["bbox"]),
        ("masks", "instances", ["bbox", "segm"], ["bbox", "segm"]),
        ("poses", "person_keypoints", ["bbox", "keypoints"], ["bbox", "keypoints"]),
        ("faces", "faces", ["bbox", "wider", "landmarks", "gender", "mesh"], ["bbox"]),
        ("top-down", "person_keypoints", ["keypoints", "pckh"], ["keypoints"]),
        ("landmarks", "faces", ["points"], ["keypoints"]),
    ],
)
def test_a_model_is_measured_on_what_it_gives(name, kind, metrics, agreement):
    manifest = MANIFESTS[name]
    assert dataset_kind(manifest) == kind
    assert [metric.name for metric in METRICS if metric.fits(manifest)] == metrics
    assert agreement_types(manifest) == agreement


@pytest.mark.parametrize("kind", ["instances", "faces", "person_keypoints"])
def test_the_built_in_labels_have_what_their_models_are_measured_on(kind):
    truth = open_dataset("shapes", kind=kind, limit=2).coco()
    for name, manifest in MANIFESTS.items():
        if dataset_kind(manifest) == kind:
            assert all(m.is_labelled(truth) for m in METRICS if m.fits(manifest)), name


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

    def run(self, inputs):
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
