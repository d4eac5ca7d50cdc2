"""Panoptic results go through `run`, `bench` and comparisons."""

import itertools
import json
import threading

import cv2
import numpy as np
from fake_model import FakeBackend, fake_predictor
from fake_panoptic import HEIGHT, WIDTH, panoptic_manifest, panoptic_outputs

from edgeseg.recording import record
from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.datasets.clips import NUM_FRAMES
from edgeseg_bench.evaluation import compare_results, comparisons, records_of
from edgeseg_bench.latency import Plan
from edgeseg_bench.metrics.panoptic import map_from_records
from edgeseg_bench.report import markdown
from edgeseg_bench.runner import run_bench
from edgeseg_runtime import Predictor, Source
from edgeseg_runtime.outputs import OutputFolder
from edgeseg_runtime.tasks import create_task

PLAN = Plan(warmup_runs=1, warmup_seconds=0, max_warmup_seconds=1, min_queries=2, min_seconds=0)


def test_the_segments_of_a_run_can_be_made_again_from_its_records(tmp_path):
    picture = tmp_path / "street.png"
    assert cv2.imwrite(str(picture), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    predictor = fake_predictor(panoptic_manifest(), panoptic_outputs())
    outcome = record(
        predictor,
        [Source(str(picture))],
        OutputFolder(tmp_path / "seen"),
        score=0.7,
        stop=threading.Event(),
        progress=lambda *_: None,
    )
    assert (outcome.num_frames, outcome.num_detections) == (1, 3)
    records = json.loads((tmp_path / "seen" / "predictions.json").read_text())
    expected = predictor(cv2.imread(str(picture))).filter(score=0.7)
    numbers = map_from_records(records, (HEIGHT, WIDTH)).numbers
    ids = np.array([0, *(record["segment_id"] for record in records)])
    np.testing.assert_array_equal(ids[numbers], expected.ids)
    assert [record["file_name"] for record in records] == [str(picture)] * 3
    assert cv2.imread(str(tmp_path / "seen" / "street.jpg")).max() > 50


def test_bench_gives_panoptic_quality_and_agreement():
    names = ("disc", "square", "sky", "ground")
    manifest = panoptic_manifest(labels=names, category_ids=(1, 2, 3, 4))
    semantic = panoptic_outputs()["semantic_logits"][:, :, ::-1]  # the ground above
    report = run_bench(
        {
            "torch": fake_predictor(manifest, panoptic_outputs()),
            "onnxruntime": fake_predictor(manifest, panoptic_outputs()),
            "broken": fake_predictor(manifest, panoptic_outputs(semantic)),
        },
        open_dataset("shapes", kind="panoptic", limit=4),
        plan=PLAN,
    )
    reference, equal, broken = report.backends
    assert set(reference.accuracy) == {"panoptic"}
    assert reference.accuracy["panoptic"]["PQst"] > 0.05
    assert reference.accuracy["panoptic"]["PQ"] > broken.accuracy["panoptic"]["PQ"]
    assert equal.agreement.ap == {"pq": 1.0}
    assert broken.agreement.ap == {"pq": 0.5}  # the things are the same
    table = markdown(report)
    assert "PQ things" in table
    assert "segment" in table


class CountingTask:
    """The fake's task, with readers that note the number of each frame in its stream."""

    def __init__(self, manifest):
        self.task = create_task(manifest)
        self.preprocess = self.task.preprocess
        self.frames = []

    def open_reader(self):
        numbers = itertools.count()

        def read(outputs, geometry):
            self.frames.append(next(numbers))
            return self.task.postprocess(outputs, geometry)

        return read


def test_the_frames_of_a_clip_are_one_stream():
    manifest = panoptic_manifest(labels=("disc", "square", "sky", "ground"))
    for kind, expected in (("clips", [*range(NUM_FRAMES), 0, 1]), ("panoptic", [0, 0, 0])):
        task = CountingTask(manifest)
        predictor = Predictor(manifest, task, FakeBackend(panoptic_outputs()))
        dataset = open_dataset("shapes", kind=kind, limit=len(expected))
        run_bench({"torch": predictor}, dataset, plan=PLAN)
        assert task.frames[: len(expected)] == expected


def test_two_runs_are_compared_by_their_segments():
    manifest = panoptic_manifest()
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    fewer = panoptic_outputs(scores=np.array([[0.9, 0, 0]], np.float32))
    runs = [
        records_of(fake_predictor(manifest, given)(image), image, 1)
        for given in (panoptic_outputs(), fewer)
    ]
    images = [{"id": 1, "height": HEIGHT, "width": WIDTH}]
    ways = comparisons(manifest)
    assert [how.kind for how in ways] == ["pq"]
    found = compare_results(ways, *runs, images=images)
    assert found.ap["pq"] < 1
    assert (found.num_reference, found.count_delta) == (4, -1)
    assert compare_results(ways, runs[0], runs[0], images=images).ap == {"pq": 1.0}
