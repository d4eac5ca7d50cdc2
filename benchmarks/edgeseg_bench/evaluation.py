"""What to measure on which kind of model: how it is asked, and which metrics fit its outputs and the labels.

Whatever a model finds becomes records, COCO results with further keys beside those of COCO ("landmarks", "gender",
"mesh", "annotation_id"), so that one table of metrics serves every task.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from edgeseg_bench.datasets.base import Sample
from edgeseg_bench.metrics.agreement import SCORE_THRESHOLD, Agreement, agreement_ap
from edgeseg_bench.metrics.coco import Scores, coco_ap
from edgeseg_bench.metrics.faces import gender_accuracy, landmark_nme, mesh_nme
from edgeseg_bench.metrics.keypoints import NUM_JOINTS, head_size, pckh
from edgeseg_bench.metrics.landmarks import OUTER_EYE_CORNERS, landmark_scores, points_label
from edgeseg_bench.metrics.panoptic import (
    agreement_of_segments,
    panoptic_scores,
    video_panoptic_scores,
)
from edgeseg_bench.metrics.placed_points import agreement_of_points
from edgeseg_bench.metrics.surface_files import surface_of
from edgeseg_bench.metrics.surfaces import surface_ap
from edgeseg_bench.metrics.wider import wider_ap
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.picture.image import Image
from edgeseg_runtime.predictor import Predictor
from edgeseg_runtime.results import Result
from edgeseg_runtime.session import Session

Record: TypeAlias = dict[str, Any]
Annotation: TypeAlias = Mapping[str, Any]
GroundTruth: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A way to compare what two runs of a model find in the same pictures.

    Attributes:
        kind: its key in `Agreement.ap`.
        noun: what tables call that which is compared.
        measure: the function, of the records of a reference and a candidate, `images` and `kinds` as in
            `agreement_ap`; called once for all kinds that share it.
        counts_all: every record counts, whatever its score; other functions take a `score_threshold`.
    """

    kind: str
    noun: str
    measure: Callable[..., Agreement]
    counts_all: bool = False


BOXES = Comparison(kind="bbox", noun="box", measure=agreement_ap)
MASKS = Comparison(kind="segm", noun="mask", measure=agreement_ap)
SURFACES = Comparison(kind="surfaces", noun="surface", measure=agreement_ap)
KEYPOINTS = Comparison(kind="keypoints", noun="key-point", measure=agreement_ap)
POINTS = Comparison(kind="points", noun="point", measure=agreement_of_points, counts_all=True)
SEGMENTS = Comparison(kind="pq", noun="segment", measure=agreement_of_segments)
TUBES = Comparison(kind="vpq", noun="tube", measure=agreement_of_segments)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A way to compare results with labels, and where it is one, with those of another run.

    Attributes:
        name: its key in a report.
        columns: the scores that a table shows -> their headings.
        data: the kind of labels that it needs: see `datasets.open_dataset`.
        tasks: of the models that it fits.
        outputs: a model must have one of these outputs.
        is_of_boxes: it needs a result for each labelled box, so only models that look at boxes can be measured.
        agreement: task -> how two results are compared in the same respect.
        has_label: tells whether an annotation has what it needs.
        leaves_out: it measures the annotations that are labelled, one is enough; others need all of them.
        score: the function, of ground truth and results.
    """

    name: str
    columns: Mapping[str, str]
    data: str
    tasks: tuple[str, ...] = ("instances",)
    outputs: tuple[str, ...]
    is_of_boxes: bool = False
    agreement: Mapping[str, Comparison] = field(default_factory=dict)
    has_label: Callable[[Annotation], bool]
    leaves_out: bool = False
    score: Callable[[GroundTruth, Sequence[Record]], Scores]

    def concerns(self, manifest: Manifest) -> bool:
        """Tell whether a model gives what it looks at."""
        names = {spec.name for spec in manifest.outputs}
        return manifest.task in self.tasks and bool(names & set(self.outputs))

    def fits(self, manifest: Manifest) -> bool:
        """Tell whether a model's results can be measured in this way."""
        return self.concerns(manifest) and (manifest.looks_at_boxes or not self.is_of_boxes)

    def is_labelled(self, ground_truth: GroundTruth) -> bool:
        """Tell whether the labels have what it needs; many data sets have boxes only."""
        are_labelled = map(self.has_label, ground_truth["annotations"])
        return any(are_labelled) if self.leaves_out else all(are_labelled)


def _has(name: str) -> Callable[[Annotation], bool]:
    return lambda annotation: annotation.get(name) is not None


def _has_head(person: Annotation) -> bool:
    has_joints = np.size(person.get("keypoints", ())) == 3 * NUM_JOINTS
    return has_joints and head_size(person) is not None


def _localisation(ground_truth: GroundTruth, results: Sequence[Record]) -> Scores:
    """Return the errors of a landmark model, against the labels with as many points as it places."""
    found_of = {result["annotation_id"]: result["keypoints"] for result in results}
    if not found_of:
        return {"NME": None}
    points = {key: np.reshape(flat, (-1, 3))[:, :2] for key, flat in found_of.items()}
    num_points = len(next(iter(points.values())))
    label = points_label(num_points)
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


def _surface_ap(ground_truth: GroundTruth, results: Sequence[Record], *, masks: bool) -> Scores:
    """Return GPS or GPSm AP; None where the surface is not at hand."""
    model = surface_of(ground_truth)
    return (
        {"AP": None}
        if model is None
        else surface_ap(ground_truth, results, model=model, masks=masks)
    )


METRICS: tuple[Metric, ...] = (
    Metric(
        name="bbox",
        columns={"AP": "box AP"},
        data="instances",
        outputs=("boxes",),
        agreement={"instances": BOXES},
        has_label=_has("bbox"),
        score=partial(coco_ap, iou_type="bbox"),
    ),
    Metric(
        name="segm",
        columns={"AP": "mask AP"},
        data="instances",
        outputs=("masks", "surface_coarse"),  # the mask of a surface is where it shows a part
        agreement={"instances": MASKS},
        has_label=_has("segmentation"),
        score=partial(coco_ap, iou_type="segm"),
    ),
    *(
        Metric(
            name=name.lower(),
            columns={"AP": f"{name} AP"},
            data="densepose",
            outputs=("surface_coarse",),
            agreement={"instances": SURFACES},
            has_label=_has("dp_x"),
            leaves_out=True,
            score=partial(_surface_ap, masks=masks),
        )
        for name, masks in (("GPS", False), ("GPSm", True))
    ),
    Metric(
        name="keypoints",
        columns={"AP": "key-point AP"},
        data="person_keypoints",
        tasks=("instances", "keypoints"),
        outputs=("keypoints", "keypoint_heatmaps"),
        agreement={"instances": KEYPOINTS, "keypoints": POINTS},
        has_label=_has("keypoints"),
        score=partial(coco_ap, iou_type="keypoints"),
    ),
    Metric(
        name="pckh",
        columns={"PCKh": "PCKh@0.5"},
        data="person_keypoints",
        tasks=("keypoints",),
        outputs=("keypoints",),
        is_of_boxes=True,
        has_label=_has_head,
        leaves_out=True,
        score=pckh,
    ),
    Metric(
        name="wider",
        columns={"easy": "easy AP", "medium": "medium AP", "hard": "hard AP"},
        data="faces",
        outputs=("landmarks",),
        has_label=_has("bbox"),
        score=wider_ap,
    ),
    Metric(
        name="points",
        columns={"NME": "NME", "AUC@0.10": "AUC@0.10", "failures@0.10": "failures"},
        data="faces",
        tasks=("landmarks",),
        outputs=("points",),
        is_of_boxes=True,
        agreement={"landmarks": POINTS},
        has_label=_has("landmarks"),
        leaves_out=True,
        score=_localisation,
    ),
    Metric(
        name="landmarks",
        columns={"NME": "landmark NME"},
        data="faces",
        outputs=("landmarks",),
        has_label=_has("landmarks"),
        leaves_out=True,
        score=landmark_nme,
    ),
    Metric(
        name="gender",
        columns={"balanced": "gender accuracy"},
        data="faces",
        outputs=("gender",),
        has_label=_has("gender"),
        leaves_out=True,
        score=gender_accuracy,
    ),
    Metric(
        name="mesh",
        columns={"NME": "mesh NME"},
        data="faces",
        outputs=("mesh",),
        has_label=_has("mesh"),
        leaves_out=True,
        score=mesh_nme,
    ),
    Metric(
        name="panoptic",
        columns={"PQ": "PQ", "PQth": "PQ things", "PQst": "PQ stuff"},
        data="panoptic",
        tasks=("panoptic",),
        outputs=("semantic_logits",),
        agreement={"panoptic": SEGMENTS},
        has_label=_has("isthing"),
        score=panoptic_scores,
    ),
    Metric(
        name="video",
        columns={"VPQ": "VPQ"},
        data="clips",
        tasks=("panoptic",),
        outputs=("embeddings",),
        agreement={"panoptic": TUBES},
        has_label=_has("isthing"),
        score=video_panoptic_scores,
    ),
)
"""Where a model fits several, those of its own kind of data stand last."""

COMPARISONS = tuple(dict.fromkeys(how for metric in METRICS for how in metric.agreement.values()))


def dataset_kind(manifest: Manifest) -> str:
    """Return the kind of labels that a model is measured on: see `datasets.open_dataset`."""
    kinds = [metric.data for metric in METRICS if metric.concerns(manifest)]
    kind = kinds[-1] if kinds else "instances"
    is_of_videos = manifest.schedule.num_kinds > 1
    return "instance_clips" if is_of_videos and kind == "instances" else kind


class Seen(NamedTuple):
    """What a model looks at: (H, W, 3) uint8 BGR, and what to call it."""

    name: str
    image: Image


def pictures_seen(
    manifest: Manifest, samples: Iterable[Sample], *, limit: int | None = None
) -> Iterator[Seen]:
    """Yield what a model looks at in the pictures of a data set, to calibrate or compare it on.

    That is the whole picture, or for a model that looks at one box at a time the square about each
    labelled box, black where it leaves the picture.

    Args:
        manifest: of the model.
        samples: of the data set.
        limit: stop after so many; None = all.
    """
    return itertools.islice((seen for sample in samples for seen in _seen(manifest, sample)), limit)


def _seen(manifest: Manifest, sample: Sample) -> list[Seen]:
    if not manifest.looks_at_boxes:
        return [Seen(sample.file_name, sample.image)]
    boxes = [annotation["bbox"] for annotation in _objects(sample)]
    squares = [_square(sample.image, box, manifest.preprocess.crop_margin) for box in boxes]
    if len(squares) == 1:
        return [Seen(sample.file_name, squares[0])]
    file = Path(sample.file_name)
    return [
        Seen(f"{file.stem}_{number}{file.suffix}", square)
        for number, square in enumerate(squares, 1)
    ]


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


def detect(
    predictor: Predictor[Any], sample: Sample, *, session: Session[Any] | None = None
) -> list[Record]:
    """Return what a model finds in a picture.

    A model that looks at one box at a time is given the labelled boxes; each of its results names the
    "annotation_id" it is for.

    Args:
        predictor: of the model.
        sample: picture and labels.
        session: of the predictor, for the next frame of a clip; None for a picture alone.
    """
    if not predictor.manifest.looks_at_boxes:
        ask = predictor if session is None else session
        return records_of(ask(sample.image), sample.image, sample.image_id)
    annotations = _objects(sample)
    boxes = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    found = predictor(sample.image, boxes=boxes)
    return [
        {**one.records(sample.image_id)[0], "annotation_id": annotation["id"]}
        for one, annotation in zip(found, annotations, strict=True)
    ]


def records_of(found: Result, image: Image, image_id: int) -> list[Record]:
    """Return a result's records; what has no box of its own stands for the whole picture."""
    height, width = image.shape[:2]
    whole = [0.0, 0.0, float(width), float(height)]
    return [{**record, "bbox": record.get("bbox", whole)} for record in found.records(image_id)]


def measure_accuracy(
    manifest: Manifest, ground_truth: GroundTruth, results: Sequence[Record]
) -> dict[str, Scores]:
    """Return every metric that fits the model and the labels, by name."""
    return {
        metric.name: metric.score(ground_truth, results)
        for metric in METRICS
        if metric.fits(manifest) and metric.is_labelled(ground_truth)
    }


def comparisons(*manifests: Manifest) -> list[Comparison]:
    """Return the ways in which runs of these models, which may be one, can be compared."""
    ways = [
        {metric.agreement.get(m.task) for metric in METRICS if metric.concerns(m)}
        for m in manifests
    ]
    return [how for how in COMPARISONS if all(how in known for known in ways)]


def compare_results(
    ways: Sequence[Comparison],
    reference: Sequence[Record],
    candidate: Sequence[Record],
    *,
    images: Sequence[Mapping[str, Any]],
    score_threshold: float = SCORE_THRESHOLD,
) -> Agreement:
    """Return how far a candidate agrees with a reference.

    Args:
        ways: from `comparisons`, at least one.
        reference: records of the reference on all pictures.
        candidate: records of the candidate on the same pictures.
        images: COCO image entries (id, height, width) of those pictures.
        score_threshold: from which score the reference's records count, unless all do.
    """
    assert ways, "nothing tells how these results are compared"
    ((measure, counts_all),) = {(how.measure, how.counts_all) for how in ways}
    options = {} if counts_all else {"score_threshold": score_threshold}
    kinds = [how.kind for how in ways]
    return measure(reference, candidate, images=images, kinds=kinds, **options)
