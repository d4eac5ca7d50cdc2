"""What to measure on which kind of model: how it is asked, and which metrics fit its outputs and the labels.

Whatever a model finds becomes COCO results, with further keys beside those of COCO ("landmarks", "gender", "mesh",
"points", "annotation_id"), so that one table of metrics serves every task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from edgeseg_bench.datasets.base import Sample
from edgeseg_bench.metrics.agreement import POINTS
from edgeseg_bench.metrics.coco import Scores, coco_ap
from edgeseg_bench.metrics.faces import gender_accuracy, landmark_nme, mesh_nme
from edgeseg_bench.metrics.keypoints import NUM_JOINTS, head_size, pckh
from edgeseg_bench.metrics.landmarks import OUTER_EYE_CORNERS, landmark_scores
from edgeseg_bench.metrics.wider import wider_ap
from edgeseg_runtime.image import Image
from edgeseg_runtime.manifest import Manifest
from edgeseg_runtime.predictor import Predictor

Result: TypeAlias = dict[str, Any]
Annotation: TypeAlias = Mapping[str, Any]
GroundTruth: TypeAlias = Mapping[str, Any]

REGION_TASKS = ("keypoints", "landmarks")
"""Of models that look at one object at a time and place its points."""
POINT_LABELS = {5: "landmarks"}
"""Number of points -> the annotation's key, where it is not points_NUMBER."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A way to compare results with labels.

    Attributes:
        name: its key in a report.
        columns: the scores that a table shows -> their headings.
        tasks: of the models that it fits.
        outputs: a model must have one of these outputs.
        has_label: tells whether an annotation has what it needs.
        leaves_out: it measures the annotations that are labelled, one is enough; others need all of them.
        score: the function, of ground truth and results.
    """

    name: str
    columns: Mapping[str, str]
    tasks: tuple[str, ...] = ("instances",)
    outputs: tuple[str, ...]
    has_label: Callable[[Annotation], bool]
    leaves_out: bool = False
    score: Callable[[GroundTruth, Sequence[Result]], Scores]

    def fits(self, manifest: Manifest) -> bool:
        """Tell whether a model's results can be measured in this way."""
        names = {spec.name for spec in manifest.outputs}
        return manifest.task in self.tasks and bool(names & set(self.outputs))

    def is_labelled(self, ground_truth: GroundTruth) -> bool:
        """Tell whether the labels have what it needs; many data sets have boxes only."""
        are_labelled = map(self.has_label, ground_truth["annotations"])
        return any(are_labelled) if self.leaves_out else all(are_labelled)


def _has(name: str) -> Callable[[Annotation], bool]:
    return lambda annotation: annotation.get(name) is not None


def _has_head(person: Annotation) -> bool:
    has_joints = np.size(person.get("keypoints", ())) == 3 * NUM_JOINTS
    return has_joints and head_size(person) is not None


def _localisation(ground_truth: GroundTruth, results: Sequence[Result]) -> Scores:
    """Return the errors of a landmark model, against the labels with as many points as it places."""
    found_of = {result["annotation_id"]: result["keypoints"] for result in results}
    if not found_of:
        return {"NME": None}
    points = {key: np.reshape(flat, (-1, 3))[:, :2] for key, flat in found_of.items()}
    num_points = len(next(iter(points.values())))
    label = POINT_LABELS.get(num_points, f"points_{num_points}")
    faces = [face for face in ground_truth["annotations"] if face.get(label) is not None]
    if not faces:
        raise ValueError(
            f"The model places {num_points} points, the data set has no labels {label!r}: "
            "use a model or a data set of the same markup."
        )
    missing = np.full((num_points, 2), np.nan)
    return landmark_scores(
        np.array([points.get(face["id"], missing) for face in faces]),
        np.array([face[label] for face in faces]),
        normalization="inter_ocular" if num_points in OUTER_EYE_CORNERS else "inter_pupil",
    )


METRICS: tuple[Metric, ...] = (
    Metric(
        name="bbox",
        columns={"AP": "box AP"},
        outputs=("boxes",),
        has_label=_has("bbox"),
        score=partial(coco_ap, iou_type="bbox"),
    ),
    Metric(
        name="segm",
        columns={"AP": "mask AP"},
        outputs=("masks",),
        has_label=_has("segmentation"),
        score=partial(coco_ap, iou_type="segm"),
    ),
    Metric(
        name="keypoints",
        columns={"AP": "key-point AP"},
        tasks=("instances", "keypoints"),
        outputs=("keypoints", "keypoint_heatmaps"),
        has_label=_has("keypoints"),
        score=partial(coco_ap, iou_type="keypoints"),
    ),
    Metric(
        name="pckh",
        columns={"PCKh": "PCKh@0.5"},
        tasks=("keypoints",),
        outputs=("keypoints",),
        has_label=_has_head,
        leaves_out=True,
        score=pckh,
    ),
    Metric(
        name="wider",
        columns={"easy": "easy AP", "medium": "medium AP", "hard": "hard AP"},
        outputs=("landmarks",),
        has_label=_has("bbox"),
        score=wider_ap,
    ),
    Metric(
        name="points",
        columns={"NME": "NME", "AUC@0.10": "AUC@0.10", "failures@0.10": "failures"},
        tasks=("landmarks",),
        outputs=("points",),
        has_label=_has("landmarks"),
        leaves_out=True,
        score=_localisation,
    ),
    Metric(
        name="landmarks",
        columns={"NME": "landmark NME"},
        outputs=("landmarks",),
        has_label=_has("landmarks"),
        leaves_out=True,
        score=landmark_nme,
    ),
    Metric(
        name="gender",
        columns={"balanced": "gender accuracy"},
        outputs=("gender",),
        has_label=_has("gender"),
        leaves_out=True,
        score=gender_accuracy,
    ),
    Metric(
        name="mesh",
        columns={"NME": "mesh NME"},
        outputs=("mesh",),
        has_label=_has("mesh"),
        leaves_out=True,
        score=mesh_nme,
    ),
)


def dataset_kind(manifest: Manifest) -> str:
    """Return the kind of labels that a model is measured on: see `datasets.open_dataset`."""
    outputs = {spec.name for spec in manifest.outputs}
    if manifest.task == "landmarks" or "landmarks" in outputs:
        return "faces"
    if outputs & {"keypoints", "keypoint_heatmaps"}:
        return "person_keypoints"
    return "instances"


def pictures_seen(manifest: Manifest, samples: Iterable[Sample]) -> Iterator[Image]:
    """Yield what a model looks at, to calibrate or compare it on, (H, W, 3) uint8 BGR.

    That is the whole picture, or for a model that looks at one box at a time the square about each
    labelled box, black where it leaves the picture.
    """
    for sample in samples:
        if not manifest.looks_at_boxes:
            yield sample.image
            continue
        for annotation in _objects(sample):
            yield _square(sample.image, annotation["bbox"], manifest.preprocess.crop_margin)


def _objects(sample: Sample) -> list[Annotation]:
    """Return the labels that are each of one object, not of a crowd."""
    return [annotation for annotation in sample.annotations if not annotation.get("iscrowd")]


def _square(image: Image, bbox: Sequence[float], margin: float) -> Image:
    """Return the square about a box x y width height, its side `margin` times the longer one's."""
    x, y, width, height = bbox
    side = max(round(margin * max(width, height)), 1)
    top, left = round(y + height / 2 - side / 2), round(x + width / 2 - side / 2)
    square = np.zeros((side, side, 3), np.uint8)
    seen = image[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)]
    first_row, first_column = max(-top, 0), max(-left, 0)
    square[first_row : first_row + seen.shape[0], first_column : first_column + seen.shape[1]] = (
        seen
    )
    return square


def detect(predictor: Predictor[Any], sample: Sample) -> list[Result]:
    """Return what a model finds in a picture.

    A model that looks at one box at a time is given the labelled boxes; each of its results names the
    "annotation_id" it is for.
    """
    if not predictor.manifest.looks_at_boxes:
        return list(predictor(sample.image).to_coco(image_id=sample.image_id))
    annotations = _objects(sample)
    boxes = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    found = predictor(sample.image, boxes=boxes)
    return [
        {**one.to_coco(image_id=sample.image_id)[0], "annotation_id": annotation["id"]}
        for one, annotation in zip(found, annotations, strict=True)
    ]


def measure_accuracy(
    manifest: Manifest, ground_truth: GroundTruth, results: Sequence[Result]
) -> dict[str, Scores]:
    """Return every metric that fits the model and the labels, by name."""
    return {
        metric.name: metric.score(ground_truth, results)
        for metric in METRICS
        if metric.fits(manifest) and metric.is_labelled(ground_truth)
    }


def agreement_types(manifest: Manifest) -> list[str]:
    """Return the kinds of geometry in which two runs of a model can be compared: see `agreement_ap`."""
    if manifest.task in REGION_TASKS:
        return [POINTS]
    kinds = ("bbox", "segm", "keypoints")
    return [metric.name for metric in METRICS if metric.name in kinds and metric.fits(manifest)]
