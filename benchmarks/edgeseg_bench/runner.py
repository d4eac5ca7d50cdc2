"""Runs predictors over a labelled data set: accuracy, agreement and latency side by side."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from edgeseg_bench.categories import categories_of_classes, in_categories, warn_of_unknown
from edgeseg_bench.datasets.base import Annotation, Dataset, coco_from_parts, coco_image
from edgeseg_bench.evaluation import compare_results, comparisons, detect, measure_accuracy
from edgeseg_bench.interference import (
    Interference,
    disturbed_share,
    findings_of,
    interference_between,
)
from edgeseg_bench.latency import (
    QUICK,
    THOROUGH,
    Clock,
    Latency,
    Plan,
    Ratio,
    WarmUp,
    measure_interleaved,
    paired_ratio,
    warm_up,
)
from edgeseg_bench.results import BackendReport, BenchReport, GraphLatency, StageLatency
from edgeseg_bench.system import Counters, read_counters
from edgeseg_runtime.backends import Tensors
from edgeseg_runtime.bundle.graphs import Graph
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.environment import read_environment
from edgeseg_runtime.picture.geometry import Geometry
from edgeseg_runtime.predictor import Predictor
from edgeseg_runtime.progress import Progress
from edgeseg_runtime.session import Probe

Results: TypeAlias = list[dict[str, Any]]

REFERENCE = "torch"
NUM_LATENCY_PICTURES = 32


def run_bench(
    predictors: Mapping[str, Predictor[Any]],
    dataset: Dataset,
    *,
    limit: int | None = None,
    quick: bool = False,
    plan: Plan | None = None,
    score_threshold: float = 0.3,
    match: str | None = None,
    peak_memory_bytes: Mapping[str, int] | None = None,
    settings: Mapping[str, Any] | None = None,
    clock: Clock = time.perf_counter_ns,
    counters: Callable[[], Counters] = read_counters,
    on_progress: Progress | None = None,
) -> BenchReport:
    """Measure predictors of one model against the labels, against one another, and the clock.

    First every predictor sees every picture once, for accuracy and agreement. Then the first pictures, at most
    32, are run in turns for latency: see `edgeseg_bench.latency`.

    Args:
        predictors: by name; "torch", or else the first, is the reference.
        dataset: pictures and labels.
        limit: use only the first pictures; None = all.
        quick: measure for seconds rather than a minute. The number of samples stays at least 64.
        plan: how long to measure; overrides `quick`.
        score_threshold: from which score the reference's detections count for agreement.
        match: how a model's classes are those of the data set, by "name" or "id"; see `edgeseg_bench.categories`.
        peak_memory_bytes: by name, where known, such as from `edgeseg_bench.memory.peak_memory`.
        settings: what else should stand in the report, such as threads.
        clock: nanoseconds, monotonic.
        counters: what the system has counted, read before and after latencies are measured.
        on_progress: told the stage, the steps done and those expected, outside timed sections.

    Raises:
        ValueError: no predictors, no pictures, a limit below 1, or a model of other categories than the data set's.
        edgeseg_runtime.errors.EdgesegError: a picture cannot be read or an engine fails.
    """
    if not predictors:
        raise ValueError("There is nothing to measure: give at least one predictor.")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}: give the number of pictures, or None for all.")
    if not len(dataset):
        raise ValueError(f"Data set {dataset.name} has no pictures: check its annotation file.")
    num_pictures = min(len(dataset), limit or len(dataset))
    progress = on_progress or _no_progress
    category_of = {
        name: categories_of_classes(predictor.manifest, dataset.categories, match=match)
        for name, predictor in predictors.items()
    }
    reference = REFERENCE if REFERENCE in predictors else next(iter(predictors))
    warn_of_unknown(category_of[reference], dataset.categories)
    environment = read_environment()  # before measuring: the load average is of the others
    results, truth = _detect(predictors, dataset, num_pictures, progress)
    images = [dataset[i].image for i in range(min(num_pictures, NUM_LATENCY_PICTURES))]
    chosen_plan = plan or (QUICK if quick else THOROUGH)
    warm_ups, calls, interference = _time(
        predictors, images, chosen_plan, clock, counters, progress
    )
    latencies = {name: call.latency() for name, call in calls.items()}
    backends: list[BackendReport] = []
    for name, predictor in predictors.items():
        progress("scoring", len(backends), len(predictors))
        is_reference = name == reference
        ways = comparisons(predictors[reference].manifest, predictor.manifest)
        backends.append(
            BackendReport(
                name=name,
                model=predictor.manifest.name,
                precision=predictor.manifest.precision,
                manifest_sha256=hashlib.sha256(predictor.manifest.to_json().encode()).hexdigest(),
                accuracy=measure_accuracy(
                    predictor.manifest, truth, in_categories(results[name], category_of[name])
                ),
                agreement=None
                if is_reference or not ways
                else compare_results(
                    ways,
                    results[reference],
                    results[name],
                    images=truth["images"],
                    score_threshold=score_threshold,
                ),
                num_detections=len(results[name]),
                num_shrunk=_num_shrunk(predictor, truth),
                latency=latencies[name],
                graphs=calls[name].graphs(),
                disturbed_rounds=disturbed_share(
                    latencies[name].end_to_end.samples_ns, calls[name].works()
                ),
                disturbed_ratios=None
                if is_reference
                else disturbed_share(
                    _pair_ratios(latencies[name].end_to_end, latencies[reference].end_to_end),
                    calls[name].works(),
                ),
                warm_up=warm_ups[name],
                ratio_end_to_end=None
                if is_reference
                else _ratio(latencies[name].end_to_end, latencies[reference].end_to_end),
                ratio_model=None
                if is_reference
                else _ratio(latencies[name].model, latencies[reference].model),
                peak_memory_bytes=(peak_memory_bytes or {}).get(name),
                engine=predictor.backend.describe(),
            )
        )
    progress("scoring", len(predictors), len(predictors))
    return BenchReport(
        dataset=dataset.name,
        num_pictures=num_pictures,
        num_latency_pictures=len(images),
        reference=reference,
        is_quick=quick,
        backends=tuple(backends),
        environment=environment,
        settings=dict(settings or {}),
        interference=interference,
        findings=findings_of(
            interference,
            disturbed_rounds={backend.name: backend.disturbed_rounds for backend in backends},
            disturbed_ratios={backend.name: backend.disturbed_ratios for backend in backends},
        ),
    )


class Step(NamedTuple):
    """A graph that has run.

    Attributes:
        graph: its name.
        tick: when it had run, in nanoseconds.
        rows: how many instances it ran for; None unless it is a stage with rows.
    """

    graph: str
    tick: int
    rows: int | None


class Query(NamedTuple):
    """The ticks of one picture, in nanoseconds: when it was given, ready, through each graph, and read."""

    start: int
    ready: int
    steps: tuple[Step, ...]
    end: int

    @property
    def ran(self) -> int:
        """When the last graph had run."""
        return self.steps[-1].tick if self.steps else self.ready


class StagedCall(Probe):
    """Runs a predictor on pictures in turn and keeps the duration of each stage.

    Args:
        predictor: whose session is followed.
        images: (H, W, 3) uint8, BGR; call number i takes picture i modulo their number.
        clock: nanoseconds, monotonic.
    """

    def __init__(
        self, predictor: Predictor[Any], images: Sequence[npt.NDArray[np.uint8]], clock: Clock
    ) -> None:
        self._session = predictor.session(probe=self)
        self._manifest = predictor.manifest
        self._images = images
        self._clock = clock
        self._ready = 0
        self._steps: list[Step] = []
        self.queries: list[Query] = []

    def __call__(self, number: int) -> None:
        """Run one query."""
        image = self._images[number % len(self._images)]
        start = self._clock()
        result = self._session(image)
        # Masks are pasted when they are read: an application asks for them, so they count.
        result.materialize()
        end = self._clock()
        self.queries.append(Query(start, self._ready, tuple(self._steps), end))

    def preprocessed(self, inputs: Tensors, geometry: Geometry) -> None:
        """Note when the inputs were ready."""
        self._steps = []
        self._ready = self._clock()

    def ran(self, graph: str, inputs: Tensors, outputs: Tensors, rows: int | None) -> None:
        """Note when a graph had run."""
        self._steps.append(Step(graph, self._clock(), rows))

    def latency(self) -> StageLatency:
        """Return the stages of all queries so far."""
        return StageLatency(
            end_to_end=_latency(query.end - query.start for query in self.queries),
            pre=_latency(query.ready - query.start for query in self.queries),
            model=_latency(query.ran - query.ready for query in self.queries),
            post=_latency(query.end - query.ran for query in self.queries),
        )

    def works(self) -> list[tuple[int, tuple[str, ...]]]:
        """Return what each query had to do: the number of its picture, and the graphs of its frame."""
        return [
            (number % len(self._images), tuple(step.graph for step in query.steps))
            for number, query in enumerate(self.queries)
        ]

    def graphs(self) -> tuple[GraphLatency, ...]:
        """Return the model's time by graph, kind of frame and number of instances."""
        return graph_latencies(self._manifest, self.queries)


def graph_latencies(manifest: Manifest, queries: Sequence[Query]) -> tuple[GraphLatency, ...]:
    """Return the time of each graph, split where a median would be one over a mixture.

    Key frames are told from the others, and stages that run for each instance are split by the
    buckets of their rows, with no instance apart.

    Returns:
        Empty for a model that runs the same single graph in every frame.
    """
    schedule = manifest.schedule
    graphs = {name: graph for view in manifest.views for name, graph in view.graphs.items()}
    has_kinds = schedule.first != schedule.then
    if not has_kinds and len(schedule.first) == 1:
        return ()
    found: dict[tuple[str | None, str | None, int | None], list[tuple[int, int]]] = defaultdict(
        list
    )
    for query in queries:
        is_first = tuple(step.graph for step in query.steps) == schedule.first
        frame = ("first" if is_first else "then") if has_kinds else None
        if has_kinds:
            found[None, frame, None].append((query.ran - query.ready, 0))
        before = query.ready
        for graph, tick, rows in query.steps:
            bucket = None if rows is None else _bucket(graphs[graph], rows)
            found[graph, frame, bucket].append((tick - before, rows or 0))
            before = tick
    places = {name: place for place, name in enumerate((None, *graphs))}
    return tuple(
        GraphLatency(
            graph=graph,
            frame=frame,
            rows=None if bucket is None else (min(n for _, n in runs), max(n for _, n in runs)),
            num_runs=len(runs),
            p50_ms=_latency(duration for duration, _ in runs).p50_ms,
        )
        for (graph, frame, bucket), runs in sorted(
            found.items(), key=lambda item: (item[0][1] or "", places[item[0][0]], item[0][2] or 0)
        )
    )


def _bucket(graph: Graph, rows: int) -> int:
    assert graph.rows is not None
    return graph.rows.bucket(rows) if rows else 0


def _latency(durations_ns: Iterable[int]) -> Latency:
    return Latency(samples_ns=tuple(durations_ns))


def _detect(
    predictors: Mapping[str, Predictor[Any]],
    dataset: Dataset,
    num_pictures: int,
    progress: Progress,
) -> tuple[dict[str, Results], dict[str, Any]]:
    """Run every predictor once on every picture; the frames of a clip are one stream.

    Returns:
        results: COCO results by predictor.
        truth: the labels of these pictures as a COCO data set.
    """
    results: dict[str, Results] = {name: [] for name in predictors}
    pictures: list[dict[str, Any]] = []
    annotations: list[Annotation] = []
    with contextlib.ExitStack() as stack:
        sessions = {name: stack.enter_context(p.session()) for name, p in predictors.items()}
        video_id: int | None = None
        for index in range(num_pictures):
            progress("accuracy", index, num_pictures)
            sample = dataset[index]
            pictures.append(coco_image(sample))
            annotations += sample.annotations
            if sample.video_id != video_id:
                video_id = sample.video_id
                for one in sessions.values():
                    one.reset()
            for name, predictor in predictors.items():
                session = None if video_id is None else sessions[name]
                results[name] += detect(predictor, sample, session=session)
    progress("accuracy", num_pictures, num_pictures)
    return results, coco_from_parts(pictures, annotations, dataset.categories)


def _num_shrunk(predictor: Predictor[Any], truth: Mapping[str, Any]) -> int:
    sizes = [(image["height"], image["width"]) for image in truth["images"]]
    return sum(predictor.kept_scale(size) < 1 for size in sizes)


def _time(
    predictors: Mapping[str, Predictor[Any]],
    images: Sequence[npt.NDArray[np.uint8]],
    plan: Plan,
    clock: Clock,
    counters: Callable[[], Counters],
    progress: Progress,
) -> tuple[dict[str, WarmUp], dict[str, StagedCall], Interference]:
    warm_ups: dict[str, WarmUp] = {}
    for done, (name, predictor) in enumerate(predictors.items()):
        progress("warm-up", done, len(predictors))
        warm_ups[name] = warm_up(StagedCall(predictor, images, clock), plan, clock=clock)
    progress("warm-up", len(predictors), len(predictors))
    calls = {name: StagedCall(predictor, images, clock) for name, predictor in predictors.items()}
    before = counters()
    measure_interleaved(
        calls, plan, clock=clock, on_round=lambda done, total: progress("latency", done, total)
    )
    return warm_ups, calls, interference_between(before, counters())


def _ratio(candidate: Latency, reference: Latency) -> Ratio:
    return paired_ratio(candidate.samples_ns, reference.samples_ns)


def _pair_ratios(candidate: Latency, reference: Latency) -> list[float]:
    pairs = zip(candidate.samples_ns, reference.samples_ns, strict=True)
    return [ours / max(1, theirs) for ours, theirs in pairs]


def _no_progress(_stage: str, _done: int, _expected: int) -> None:
    """Report nothing."""
