"""A whole run: real pictures, task and predictor, with backends that know the answers."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from stateful_bundle import pictures, write_stateful_bundle

from edgeseg_bench.datasets.segmentation import mask_from_segmentation
from edgeseg_bench.datasets.shapes import CATEGORIES, ShapesDataset
from edgeseg_bench.latency import Plan
from edgeseg_bench.report import markdown
from edgeseg_bench.results import BenchReport
from edgeseg_bench.runner import Query, StagedCall, Step, graph_latencies, run_bench
from edgeseg_bench.system import Counters
from edgeseg_runtime import load
from edgeseg_runtime.bundle.manifest import Manifest, Preprocess, TensorSpec, one_graph
from edgeseg_runtime.picture.geometry import geometry_of
from edgeseg_runtime.predictor import Predictor
from edgeseg_runtime.tasks import create_task

SIDE, K, M = 256, 10, 28
MS = 1_000_000
MANIFEST = Manifest(
    name="oracle",
    task="instances",
    precision="fp32",
    graphs=one_graph(
        inputs=(
            TensorSpec(name="image", dtype="uint8", shape=(1, SIDE, SIDE, 3)),
            TensorSpec(name="image_size", dtype="int32", shape=(1, 2)),
        ),
        outputs=(
            TensorSpec(name="boxes", dtype="float32", shape=(1, K, 4)),
            TensorSpec(name="scores", dtype="float32", shape=(1, K)),
            TensorSpec(name="labels", dtype="int32", shape=(1, K)),
            TensorSpec(name="masks", dtype="float32", shape=(1, K, M, M)),
        ),
    ),
    preprocess=Preprocess(height=SIDE, width=SIDE, resize="letterbox"),
    postprocess={
        "mask_paste": "expanded_box",
        "mask_threshold": 0.5,
        "drop_empty_boxes": False,
        "score_threshold": 0.0,
        "keypoints": "none",
    },
    labels=("", *(category["name"] for category in CATEGORIES)),
    category_ids=(0, *(category["id"] for category in CATEGORIES)),
)


class FakeClock:
    """Time passes only inside the backends."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now


class OracleBackend:
    """Recognises the pictures of the data set and puts out their labels, moved by some pixels.

    Every `burst_every`-th run takes ten times as long.
    """

    def __init__(self, task, dataset, clock, *, duration_ms, shift=0.0, found=1.0, burst_every=0):
        self.clock, self.duration_ns = clock, round(duration_ms * MS)
        self.num_runs, self.burst_every = 0, burst_every
        self.answers = {}
        for sample in dataset:
            inputs, _ = task.preprocess(sample.image)
            self.answers[inputs["image"].tobytes()] = outputs_of(sample, shift=shift, found=found)

    def run(self, inputs, graph="main", state=None, rows=None):
        self.num_runs += 1
        is_burst = self.burst_every and self.num_runs % self.burst_every == 0
        self.clock.now += self.duration_ns * (10 if is_burst else 1)
        return {name: a.copy() for name, a in self.answers[inputs["image"].tobytes()].items()}

    def close(self):
        pass


def outputs_of(sample, *, shift, found):
    geometry = geometry_of((sample.height, sample.width), MANIFEST.preprocess)
    scale_y, scale_x = np.divide(geometry.resized, geometry.source)
    boxes = np.zeros((1, K, 4), dtype=np.float32)
    scores = np.zeros((1, K), dtype=np.float32)
    labels = np.zeros((1, K), dtype=np.int32)
    masks = np.zeros((1, K, M, M), dtype=np.float32)
    for n, annotation in enumerate(sample.annotations[: round(found * len(sample.annotations))]):
        x, y, width, height = (int(v) for v in annotation["bbox"])
        mask_HW = mask_from_segmentation(
            annotation["segmentation"], height=sample.height, width=sample.width
        )
        crop = mask_HW[y : y + height, x : x + width].astype(np.float32)
        masks[0, n] = cv2.resize(crop, (M, M), interpolation=cv2.INTER_AREA)
        boxes[0, n] = np.multiply([x, y, x + width, y + height], [scale_x, scale_y] * 2) + shift
        scores[0, n] = 0.9 - n / 100
        labels[0, n] = annotation["category_id"]
    return {"boxes": boxes, "scores": scores, "labels": labels, "masks": masks}


@pytest.fixture
def dataset():
    return ShapesDataset("val", limit=6)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def predictor_of(dataset, clock):
    def build(precision="fp32", **options):
        manifest = replace(MANIFEST, precision=precision)
        task = create_task(manifest)
        return Predictor(manifest, task, OracleBackend(task, dataset, clock, **options))

    return build


PLAN = Plan(warmup_runs=4, warmup_seconds=0, max_warmup_seconds=1, min_queries=64, min_seconds=0)


@pytest.fixture
def report(dataset, clock, predictor_of):
    predictors = {
        "exact": predictor_of(duration_ms=10),
        "torch": predictor_of(duration_ms=20),
        "int8": predictor_of(duration_ms=5, precision="int8", shift=2.0, found=0.7),
    }
    return run_bench(
        predictors,
        dataset,
        plan=PLAN,
        clock=clock,
        quick=True,
        peak_memory_bytes={"int8": 1000},
        settings={"threads": 1},
    )


def by_name(report):
    return {backend.name: backend for backend in report.backends}


def test_the_labels_themselves_score_one(report):
    exact = by_name(report)["exact"]
    assert exact.accuracy["bbox"]["AP"] == pytest.approx(1.0)
    assert exact.accuracy["segm"]["AP"] > 0.7  # 28 x 28 masks cannot hold every edge
    assert exact.num_detections == sum(len(s.annotations) for s in ShapesDataset("val", limit=6))


def test_worse_results_score_less_against_labels_and_reference(report):
    exact, int8 = by_name(report)["exact"], by_name(report)["int8"]
    assert int8.accuracy["bbox"]["AP"] < 0.8
    assert exact.agreement.ap == {"bbox": 1.0, "segm": pytest.approx(1.0)}
    assert int8.agreement.ap["bbox"] < 0.8
    assert int8.agreement.count_delta < 0


def test_torch_is_the_reference_wherever_it_stands(report):
    assert report.reference == "torch"
    torch = by_name(report)["torch"]
    assert (torch.agreement, torch.ratio_model, torch.ratio_end_to_end) == (None, None, None)


def test_latencies_and_ratios_are_those_of_the_clock(report):
    for name, duration_ms, ratio in (("exact", 10, 0.5), ("int8", 5, 0.25)):
        backend = by_name(report)[name]
        assert backend.latency.model.samples_ns == (duration_ms * MS,) * 64
        assert backend.latency.end_to_end.samples_ns == (duration_ms * MS,) * 64
        assert backend.ratio_model.median == backend.ratio_model.low == ratio
        assert backend.warm_up.is_stable


def test_the_report_says_what_ran(report):
    assert (report.dataset, report.num_pictures, report.is_quick) == ("shapes:val", 6, True)
    assert report.settings == {"threads": 1}
    assert [b.precision for b in report.backends] == ["fp32", "fp32", "int8"]
    assert [b.peak_memory_bytes for b in report.backends] == [None, None, 1000]
    hashes = [b.manifest_sha256 for b in report.backends]
    assert hashes[0] == hashes[1] != hashes[2]
    assert BenchReport.from_json(report.to_json()) == report


def graph_runs(manifest, queries):
    """Return the parts as (graph, frame, rows) -> (runs, p50 in ms)."""
    parts = graph_latencies(manifest, queries)
    return {(p.graph, p.frame, p.rows): (p.num_runs, p.p50_ms) for p in parts}


def query_of(*steps):
    """Return a query that is ready after 1 ms, from (graph, milliseconds, rows)."""
    tick, taken = MS, []
    for graph, duration_ms, rows in steps:
        tick += duration_ms * MS
        taken.append(Step(graph, tick, rows))
    return Query(0, MS, tuple(taken), tick + MS)


def test_a_model_of_one_graph_has_no_time_by_graph(report):
    assert [backend.graphs for backend in report.backends] == [(), (), ()]


def test_a_stage_is_timed_by_its_number_of_rows(tmp_path):
    manifest = write_stateful_bundle(tmp_path, "staged")  # buckets of 1, 4 and K rows
    rows = (0, 1, 2, 4, 3, 0)
    queries = [query_of(("detect", 10, None), ("mask", 2 * n, n)) for n in rows]
    assert graph_runs(manifest, queries) == {
        ("detect", None, None): (6, 10.0),
        ("mask", None, (0, 0)): (2, 0.0),
        ("mask", None, (1, 1)): (1, 2.0),
        ("mask", None, (2, 4)): (3, 6.0),
    }


@pytest.mark.parametrize(
    ("kind", "key", "other"),
    [
        ("key_step", [("key", 30, None)], [("step", 10, None)]),
        ("seed_main", [("seed", 5, None), ("main", 25, None)], [("main", 10, None)]),
    ],
    ids=["key-and-step", "seed-and-main"],
)
def test_key_frames_and_the_others_are_timed_apart(tmp_path, kind, key, other):
    manifest = write_stateful_bundle(tmp_path, kind)
    queries = [query_of(*(key if number % 5 == 0 else other)) for number in range(10)]
    assert graph_runs(manifest, queries) == {
        (None, "first", None): (2, 30.0),
        **{(graph, "first", None): (2, float(ms)) for graph, ms, _ in key},
        (None, "then", None): (8, 10.0),
        **{(graph, "then", None): (8, float(ms)) for graph, ms, _ in other},
    }


@pytest.mark.parametrize("kind", ["staged", "key_step"])
def test_the_graphs_of_a_real_engine_make_up_the_model(tmp_path, kind):
    write_stateful_bundle(tmp_path, kind)
    with load(tmp_path, backend="onnxruntime", threads=1) as predictor:
        call = StagedCall(predictor, pictures(3), FakeClock())
        for number in range(6):
            call(number)
    first = predictor.manifest.schedule.first
    assert tuple(step.graph for step in call.queries[0].steps) == first
    assert {part.graph for part in call.graphs()} >= set(predictor.manifest.graphs)
    alone = [part for part in call.graphs() if part.graph == first[0]]
    assert sum(part.num_runs for part in alone) == (6 if kind == "staged" else 2)


def test_interference_while_latencies_are_measured_is_recorded(dataset, clock, predictor_of):
    quiet = Counters(wall_s=0.0, own_s=0.0, num_cores=2, core_s=0.0, busy_s=0.0, steal_s=0.0)
    later = replace(quiet, wall_s=10.0, own_s=5.0, core_s=20.0, busy_s=17.0, load_average=2.5)
    readings = iter([quiet, later])
    predictors = {"a": predictor_of(duration_ms=1), "b": predictor_of(duration_ms=2)}
    report = run_bench(
        predictors, dataset, limit=2, plan=PLAN, clock=clock, counters=lambda: next(readings)
    )
    assert report.interference.others_share == pytest.approx(0.6)
    assert (report.interference.own_cores, report.interference.load_average) == (0.5, 2.5)
    assert [finding.text for finding in report.findings] == [
        "other processes took 60% of the usable cores"
    ]
    assert "Trust neither times nor ratios" in markdown(report)
    assert BenchReport.from_json(report.to_json()) == report


def test_bursts_that_strike_one_backend_are_recorded(dataset, clock, predictor_of):
    struck = predictor_of(duration_ms=10, burst_every=5)
    other = predictor_of(duration_ms=20)
    report = run_bench({"a": other, "b": struck}, dataset, limit=2, plan=PLAN, clock=clock)
    a, b = report.backends
    assert (a.disturbed_rounds, a.disturbed_ratios) == (0.0, None)
    assert b.disturbed_rounds == b.disturbed_ratios == pytest.approx(0.2, abs=0.02)
    assert "the ratio of b was 1.5-fold off in 20% of the rounds" in markdown(report)


def test_progress_names_every_stage(dataset, clock, predictor_of):
    seen = []
    run_bench(
        {"only": predictor_of(duration_ms=1)},
        dataset,
        limit=2,
        plan=PLAN,
        clock=clock,
        on_progress=lambda *step: seen.append(step),
    )
    assert list(dict.fromkeys(stage for stage, _, _ in seen)) == [
        "accuracy", "warm-up", "latency", "scoring",
    ]  # fmt: skip
    last = {stage: (done, expected) for stage, done, expected in seen}
    assert last == {"accuracy": (2, 2), "warm-up": (1, 1), "latency": (64, 64), "scoring": (1, 1)}


def test_a_model_that_finds_nothing_has_a_report(dataset, clock, predictor_of):
    blind = predictor_of(duration_ms=1, found=0)
    report = run_bench({"a": blind, "b": blind}, dataset, limit=2, plan=PLAN, clock=clock)
    assert report.backends[0].accuracy["bbox"]["AP"] == 0.0
    assert report.backends[1].agreement.ap == {"bbox": None, "segm": None}
    assert report.backends[1].ratio_model.is_equal
    row = next(line for line in markdown(report).splitlines() if line.startswith("| b |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[5:7] == ["-", "-"], "there is nothing to agree on"


def test_labels_without_masks_give_box_ap_only(dataset, clock, predictor_of):
    class Boxes(ShapesDataset):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            kept = [{k: v for k, v in a.items() if k != "segmentation"} for a in sample.annotations]
            return replace(sample, annotations=tuple(kept))

    exact = predictor_of(duration_ms=1)
    report = run_bench({"a": exact, "b": exact}, Boxes(limit=2), plan=PLAN, clock=clock)
    assert set(report.backends[1].accuracy) == {"bbox"}
    assert set(report.backends[1].agreement.ap) == {"bbox", "segm"}


def test_nothing_to_measure_is_refused(dataset):
    with pytest.raises(ValueError, match="nothing to measure: give at least one predictor"):
        run_bench({}, dataset)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(dataset, predictor_of, limit):
    with pytest.raises(ValueError, match=f"limit is {limit}: give"):
        run_bench({"a": predictor_of(duration_ms=1)}, dataset, limit=limit)


class _Renumbered:
    """A data set whose categories have other ids, as an annotation tool gives them."""

    def __init__(self, dataset, ids, names=None):
        self._dataset, self._ids = dataset, ids
        self.name = dataset.name
        self.categories = tuple(
            {
                **category,
                "id": ids[category["id"]],
                "name": (names or {}).get(category["name"], category["name"]),
            }
            for category in dataset.categories
        )

    def __len__(self):
        return len(self._dataset)

    def __getitem__(self, index):
        sample = self._dataset[index]
        annotations = (
            {**annotation, "category_id": self._ids[annotation["category_id"]]}
            for annotation in sample.annotations
        )
        return replace(sample, annotations=tuple(annotations))


def test_classes_are_matched_by_name_where_a_data_set_has_other_ids(dataset, clock, predictor_of):
    shuffled = _Renumbered(dataset, {1: 6, 2: 1, 3: 2, 4: 3, 5: 4, 6: 5})
    reports = [
        run_bench({"torch": predictor_of(duration_ms=1)}, data, plan=PLAN, clock=clock)
        for data in (dataset, shuffled)
    ]
    expected, found = (report.backends[0].accuracy for report in reports)
    assert expected["bbox"]["AP"] > 0.9
    assert found["bbox"]["AP"] == pytest.approx(expected["bbox"]["AP"])
    assert found["segm"]["AP"] == pytest.approx(expected["segm"]["AP"])


def test_other_classes_are_refused_before_anything_is_run(dataset, clock, predictor_of):
    names = {category["name"]: f"Teil {category['id']}" for category in CATEGORIES}
    other = _Renumbered(dataset, {number: number for number in range(1, 7)}, names)
    predictor = predictor_of(duration_ms=1)
    with pytest.raises(
        ValueError, match=r"No class of the model \(disc, .* in the data set \(Teil 1, "
    ):
        run_bench({"torch": predictor}, other, plan=PLAN, clock=clock)
    assert clock.now == 0
    report = run_bench({"torch": predictor}, other, plan=PLAN, clock=clock, match="id")
    assert report.backends[0].accuracy["bbox"]["AP"] > 0.9
