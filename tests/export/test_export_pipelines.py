"""FacePipeline with real bundles: faces of the small detector, points of the small landmark model."""

import numpy as np
import pytest

import edgeseg_runtime
from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.metrics.landmarks import landmark_scores
from edgeseg_runtime import FacePipeline
from edgeseg_runtime.predictor import Predictor
from edgeseg_runtime.tasks import RegionTask

SAMPLES = list(open_dataset("shapes", kind="faces", limit=6))


@pytest.fixture(scope="module")
def detector(bundle_of):
    with loaded(bundle_of("retinaface_tiny")) as predictor:
        yield predictor


@pytest.fixture(scope="module")
def landmarks(bundle_of):
    with loaded(bundle_of("landmarks_heatmap_tiny")) as predictor:
        yield predictor


def loaded(folder):
    return edgeseg_runtime.load(folder, backend="onnxruntime", threads=1)


def test_the_points_of_the_faces_that_are_found_are_those_of_the_labels(detector, landmarks):
    pipeline = FacePipeline(detector, landmarks)
    pairs = [
        pair for sample in SAMPLES for pair in matched(pipeline(sample.image), sample.annotations)
    ]
    assert len(pairs) > 0.9 * sum(len(sample.annotations) for sample in SAMPLES)
    points, labels = map(np.array, zip(*pairs, strict=True))
    assert landmark_scores(points, labels)["NME"] < 0.065


def matched(found, annotations):
    """Yield found and labelled points of each face whose label's centre lies in a box that was found."""
    for face in annotations:
        x, y, width, height = face["bbox"]
        centre = np.array([x + width / 2, y + height / 2])
        is_inside = (found.boxes[:, :2] < centre) & (centre < found.boxes[:, 2:])
        for row in np.flatnonzero(is_inside.all(axis=1))[:1]:
            yield found.landmarks[row], face["points_68"]


def test_a_pipeline_is_both_predictors_called_by_hand(detector, landmarks):
    for sample in SAMPLES[:3]:
        found = FacePipeline(detector, landmarks)(sample.image)
        faces = detector(sample.image).filter(score=0.5)
        points = [face.points for face in landmarks(sample.image, boxes=faces)]
        assert len(found) == len(points) > 0
        np.testing.assert_array_equal(found.boxes, faces.boxes)
        np.testing.assert_array_equal(found.gender, faces.gender)
        np.testing.assert_array_equal(found.landmarks, points)


class Watched:
    """A task that remembers the pictures it is given."""

    def __init__(self, task):
        self.task, self.images = task, []
        self.open_reader = task.open_reader

    def preprocess(self, image, *box):
        self.images.append(image)
        return self.task.preprocess(image, *box)


class WatchedRegion(Watched, RegionTask):
    def gather(self, results, size, **options):
        return self.task.gather(results, size, **options)


def test_a_picture_is_not_copied_for_any_face(detector, landmarks):
    tasks = Watched(detector.task), WatchedRegion(landmarks.task)
    pipeline = FacePipeline(
        *(
            Predictor(predictor.manifest, task, predictor.backend)
            for predictor, task in zip((detector, landmarks), tasks, strict=True)
        )
    )
    image = SAMPLES[0].image
    found = pipeline(image)
    assert [len(task.images) for task in tasks] == [1, len(found)]
    for task in tasks:
        assert all(np.shares_memory(given, image) for given in task.images)
