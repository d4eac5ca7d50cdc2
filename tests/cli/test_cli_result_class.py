"""A result class that nothing here knows goes through recording and benchmarks without a change to them."""

import dataclasses
import json
import threading
from dataclasses import dataclass

import cv2
import numpy as np
from fake_model import FakeBackend, task_manifest

from edgeseg_bench.datasets.shapes import ShapesDataset
from edgeseg_bench.latency import Plan
from edgeseg_bench.report import markdown
from edgeseg_bench.runner import run_bench
from edgeseg_runtime import Predictor, Source
from edgeseg_runtime.commands.recording import record
from edgeseg_runtime.outputs import OutputFolder
from edgeseg_runtime.tasks.inputs import PictureInput

SCORES = (0.9, 0.2)
PLAN = Plan(warmup_runs=1, warmup_seconds=0, max_warmup_seconds=1, min_queries=2, min_seconds=0)


@dataclass(frozen=True)
class Regions:
    """A map of the whole picture: the number of the region that a pixel belongs to."""

    ids: np.ndarray
    scores: tuple = SCORES
    num_nonfinite: int = 1
    backend: str = ""

    @property
    def num_left_out(self):
        return 0

    @property
    def num_detections(self):
        return len(self.scores)

    def __len__(self):
        return len(self.scores)

    def filter(self, *, score=None):
        return dataclasses.replace(self, scores=tuple(s for s in self.scores if s >= (score or 0)))

    def with_backend(self, name):
        return dataclasses.replace(self, backend=name)

    def materialize(self):
        COUNTED.append(self)

    def records(self, image_id):
        return [{"image_id": image_id, "region": i, "score": s} for i, s in enumerate(self.scores)]

    def draw(self, image):
        return np.where(self.ids[..., None] > 0, np.uint8(255), image)


COUNTED = []


class RegionMaps:
    def __init__(self, manifest):
        self.preprocess = PictureInput(manifest)

    def open_reader(self):
        return lambda outputs, geometry: Regions(
            np.full(geometry.source, int(outputs["ids"][0, 0]))
        )


def predictor():
    preprocess = {"resize": "stretch", "rounding": "floor"}
    manifest = task_manifest("regions", {"ids": (1,)}, preprocess=preprocess)
    return Predictor(manifest, RegionMaps(manifest), FakeBackend({"ids": np.ones((1, 1), "f4")}))


def test_another_result_class_is_recorded(tmp_path):
    picture = tmp_path / "a.png"
    assert cv2.imwrite(str(picture), np.zeros((20, 30, 3), np.uint8))
    outcome = record(
        predictor(),
        [Source(picture)],
        OutputFolder(tmp_path / "out"),
        score=0.5,
        stop=threading.Event(),
        progress=lambda stage, done, total: None,
    )
    assert (outcome.num_detections, outcome.num_nonfinite) == (1, 1)
    written = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert written == [{"image_id": 0, "region": 0, "score": 0.9, "file_name": str(picture)}]
    assert cv2.imread(str(tmp_path / "out" / "a.jpg")).min() == 255


def test_another_result_class_is_benchmarked():
    dataset = ShapesDataset("val", limit=2)
    report = run_bench({"one": predictor(), "other": predictor()}, dataset, plan=PLAN)
    assert [b.num_detections for b in report.backends] == [4, 4]
    assert all(b.accuracy == {} and b.agreement is None for b in report.backends)
    assert len(COUNTED) >= 4, "what is lazy is computed while the clock runs"
    assert "| other |" in markdown(report)
