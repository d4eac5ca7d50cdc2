"""Finds where a candidate's accuracy is lost against a reference: by step, by node, by picture.

The way from the reference to the candidate is gone in steps, each of which exchanges one part: the PyTorch model for
its float32 graphs, those for the candidate's, the preprocessing, the postprocessing. A video model takes the pictures
as one clip.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgeseg_bench.evaluation import (
    COMPARISONS,
    Record,
    compare_results,
    comparisons,
    records_of,
)
from edgeseg_bench.metrics.agreement import SCORE_THRESHOLD, Agreement
from edgeseg_export.feeds import feeds_of
from edgeseg_export.sessions import GraphBackend, Graphs
from edgeseg_export.taps import TapDifference, TapMeter, first_bad
from edgeseg_runtime.backends import Backend, CheckedBackend
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.picture.image import Image
from edgeseg_runtime.progress import Progress
from edgeseg_runtime.session import Route, Session
from edgeseg_runtime.tasks import Task, create_task

NUM_TAP_PICTURES = 8
"""Nodes are compared on the first pictures only: every value of a picture counts."""
METRICS = (
    "agreement_ap",
    *(f"agreement_ap_{how.kind}" for how in COMPARISONS),
    "nme",
    "mean_iou",
    "score_mae",
    "num_unmatched",
    "num_label_flips",
    "count_delta",
    "worst_quality",
    "min_snr_db",
    "min_own_snr_db",
    "min_cosine",
    "num_bad_taps",
)
"""What conditions may ask for; see `CompareReport.metrics`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """One of the two that are compared.

    Attributes:
        name: what a report calls it.
        manifest: of the model.
        graphs: its complete graphs.
        backend: what really runs them, if that is not ONNX Runtime: the PyTorch model.
    """

    name: str
    manifest: Manifest
    graphs: Graphs
    backend: Backend | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """A picture to compare on.

    Attributes:
        image_id: unique among the pictures.
        name: of its file, or what else tells it from others.
        image: (H, W, 3) uint8, BGR.
    """

    image_id: int
    name: str
    image: Image


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the exchange of one part changed.

    Attributes:
        name: of the part that was exchanged.
        is_same: both sides have the same part, so nothing was run.
        ap_to_previous: agreement by kind, see `Agreement.ap`, with the results before this step.
        ap_to_reference: the same with the reference's results.
    """

    name: str
    is_same: bool
    ap_to_previous: Mapping[str, float | None]
    ap_to_reference: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class CompareReport:
    """How far a candidate is from a reference, and where that comes from.

    Attributes:
        reference: what was compared with.
        candidate: what was compared.
        model: name of both.
        data: what the pictures are called.
        num_pictures: for steps and agreement.
        num_tap_pictures: for the nodes.
        steps: from the reference to the candidate.
        taps: nodes in the graph's order; none if the sides differ in size.
        first_bad_tap: name of the first node that spoils its result, if any.
        agreement: of the candidate with the reference; `worst` names the worst pictures.
        names: of the worst pictures, by image id.
    """

    reference: str
    candidate: str
    model: str
    data: str
    num_pictures: int
    num_tap_pictures: int
    steps: tuple[Step, ...]
    taps: tuple[TapDifference, ...]
    first_bad_tap: str | None
    agreement: Agreement
    names: Mapping[int, str]

    def metrics(self) -> dict[str, float]:
        """Return what conditions may ask for, by name; what has no value here is left out."""
        agreement, taps = self.agreement, self.taps
        found: dict[str, float | None] = {
            "agreement_ap": agreement.lowest,
            **{f"agreement_ap_{kind}": value for kind, value in agreement.ap.items()},
            "nme": agreement.nme,
            "mean_iou": agreement.mean_iou,
            "score_mae": agreement.score_mae,
            "num_unmatched": agreement.num_reference - agreement.num_matched,
            "num_label_flips": agreement.num_label_flips,
            "count_delta": agreement.count_delta,
            "worst_quality": min((p.quality for p in agreement.worst), default=None),
            "min_snr_db": min((tap.snr_db for tap in taps), default=None),
            "min_own_snr_db": min((tap.own_snr_db for tap in taps), default=None),
            "min_cosine": min((tap.cosine for tap in taps), default=None),
            "num_bad_taps": sum(tap.is_bad for tap in taps) if taps else None,
        }
        return {name: float(value) for name, value in found.items() if value is not None}

    def to_json(self) -> str:
        """Return everything, and the metrics."""
        return json.dumps(self.to_document(), indent=1, allow_nan=False) + "\n"

    def to_document(self) -> dict[str, Any]:
        """Return the content of `to_json`."""
        taps = [{**asdict(tap), "is_bad": tap.is_bad} for tap in self.taps]
        return {**asdict(self), "taps": taps, "metrics": self.metrics()}


def compare(
    reference: Side,
    candidate: Side,
    pictures: Callable[[], Iterable[Picture]],
    num_pictures: int,
    *,
    data: str,
    score_threshold: float = SCORE_THRESHOLD,
    progress: Progress = lambda stage, done, total: None,
) -> CompareReport:
    """Compare two exports of one model.

    Args:
        reference: its confident detections, or all its points, take the place of labels.
        candidate: what to judge.
        pictures: gives them from the first on, as often as it is called.
        num_pictures: how many to take at most.
        data: what to call them.
        score_threshold: from which score the reference's detections count; points all do.
        progress: called as progress(stage, done, total).

    Raises:
        ValueError: the sides are not of one model, or there is no picture.
    """
    _check_sides(reference, candidate)
    variants = _variants(reference, candidate)
    results: list[list[Record]] = [[] for _ in variants]
    images: list[dict[str, Any]] = []
    names: dict[int, str] = {}
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(_session(variant)) for variant in variants]
        for picture in itertools.islice(pictures(), num_pictures):
            height, width = picture.image.shape[:2]
            images.append({"id": picture.image_id, "height": height, "width": width})
            names[picture.image_id] = picture.name
            for number, entries in enumerate(_entries(variants, sessions, picture)):
                results[number] += entries
            progress("run the steps", len(images), num_pictures)
    if not images:
        raise ValueError(f"{data} has no picture to compare on; give at least one")
    num_taps = min(len(images), NUM_TAP_PICTURES)
    taps = _measure_taps(reference, candidate, pictures(), num_taps, progress)
    progress("score", 0, 1)
    agree = functools.partial(
        compare_results,
        comparisons(reference.manifest),
        images=images,
        score_threshold=score_threshold,
    )
    agreement = agree(results[0], results[-1])
    bad = first_bad(taps)
    return CompareReport(
        reference=reference.name,
        candidate=candidate.name,
        model=candidate.manifest.name,
        data=data,
        num_pictures=len(images),
        num_tap_pictures=num_taps if taps else 0,
        steps=_steps(variants, results, agree),
        taps=tuple(taps),
        first_bad_tap=None if bad is None else bad.name,
        agreement=agreement,
        names={picture.image_id: names[picture.image_id] for picture in agreement.worst},
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Variant:
    """One point on the way from the reference to the candidate.

    Attributes:
        name: of the part that was exchanged last.
        is_same: that part is the one from before.
        route: from a picture to the result.
    """

    name: str
    is_same: bool = False
    route: Route[Any]


def _variants(reference: Side, candidate: Side) -> list[_Variant]:
    task_R, task_C = create_task(reference.manifest), create_task(candidate.manifest)
    graph_R, graph_C = _checked(reference), _checked(candidate)
    variants: list[_Variant] = []
    if reference.backend is not None:
        torch = CheckedBackend(reference.name, reference.backend, reference.manifest)
        variants.append(_Variant(name=reference.name, route=_route(task_R, torch, task_R)))
    name = f"ONNX {reference.manifest.precision}, traced anew" if variants else reference.name
    variants.append(_Variant(name=name, route=_route(task_R, graph_R, task_R)))
    name = f"ONNX {candidate.manifest.precision}"
    if not _have_same_tensors(reference, candidate):
        whole = f"{name}, pre- and post-processing of another size"
        return [*variants, _Variant(name=whole, route=_route(task_C, graph_C, task_C))]
    return [
        *variants,
        _Variant(
            name=name,
            is_same=_have_same_graphs(reference, candidate),
            route=_route(task_R, graph_C, task_R),
        ),
        _Variant(
            name="pre-processing",
            is_same=reference.manifest.preprocess == candidate.manifest.preprocess,
            route=_route(task_C, graph_C, task_R),
        ),
        _Variant(
            name="post-processing",
            is_same=_postprocess(reference) == _postprocess(candidate),
            route=_route(task_C, graph_C, task_C),
        ),
    ]


def _route(pre: Task[Any], backend: CheckedBackend, post: Task[Any]) -> Route[Any]:
    return Route(manifest=backend.manifest, task=pre, backend=backend, open_reader=post.open_reader)


def _session(variant: _Variant) -> Session[Any]:
    return Session(lambda _size: variant.route)


def _steps(
    variants: Sequence[_Variant],
    results: Sequence[Sequence[Record]],
    agree: Callable[[Sequence[Record], Sequence[Record]], Agreement],
) -> tuple[Step, ...]:
    """Return what each variant changed; a step that changes nothing is not scored against the last."""
    steps: list[Step] = []
    for number, variant in enumerate(variants[1:], 1):
        to_reference = dict(agree(results[0], results[number]).ap)
        if variant.is_same:
            to_previous = {kind: v if v is None else 1.0 for kind, v in to_reference.items()}
        else:
            to_previous = dict(agree(results[number - 1], results[number]).ap)
        steps.append(
            Step(
                name=variant.name,
                is_same=variant.is_same,
                ap_to_previous=to_previous,
                ap_to_reference=to_reference,
            )
        )
    return tuple(steps)


def _checked(side: Side) -> CheckedBackend:
    return CheckedBackend(side.name, GraphBackend(side.graphs, side.manifest), side.manifest)


def _entries(
    variants: Sequence[_Variant], sessions: Sequence[Session[Any]], picture: Picture
) -> Iterator[list[Record]]:
    """Yield every variant's records for a picture; what is the same is not run again."""
    entries: list[Record] = []
    for number, (variant, session) in enumerate(zip(variants, sessions, strict=True)):
        if number == 0 or not variant.is_same:
            entries = records_of(session(picture.image), picture.image, picture.image_id)
        yield entries


def _measure_taps(
    reference: Side,
    candidate: Side,
    pictures: Iterable[Picture],
    count: int,
    progress: Progress,
) -> list[TapDifference]:
    is_alike = reference.manifest.graphs.keys() == candidate.manifest.graphs.keys()
    if not is_alike or not _have_same_tensors(reference, candidate):
        return []
    progress("compare the nodes", 0, count)
    meters = {
        name: TapMeter(graph, candidate.graphs[name]) for name, graph in reference.graphs.items()
    }
    images = (picture.image for picture in itertools.islice(pictures, count))
    for done, feeds in enumerate(feeds_of(reference.graphs, reference.manifest, images), 1):
        for name, feed in feeds.items():
            meters[name].add(feed)
        progress("compare the nodes", done, count)
    if len(meters) == 1:
        return [tap for meter in meters.values() for tap in meter.differences()]
    return [
        replace(tap, name=f"{name}/{tap.name}")
        for name, meter in meters.items()
        for tap in meter.differences()
    ]


def _check_sides(reference: Side, candidate: Side) -> None:
    one, other = reference.manifest, candidate.manifest
    for what, expected, found in (
        ("the model", one.name, other.name),
        ("the task", one.task, other.task),
        ("the labels", one.labels, other.labels),
        ("the categories", one.category_ids, other.category_ids),
    ):
        if expected != found:
            raise ValueError(
                f"{what} of {candidate.name}, {found!r}, found, expected that of "
                f"{reference.name}, {expected!r}: compare two exports of one model"
            )


def _have_same_graphs(reference: Side, candidate: Side) -> bool:
    """Tell whether both sides are made of the same objects; graphs are not compared."""
    return reference.graphs.keys() == candidate.graphs.keys() and all(
        graph is candidate.graphs[name] for name, graph in reference.graphs.items()
    )


def _have_same_tensors(reference: Side, candidate: Side) -> bool:
    """Tell whether one side's inputs and outputs fit the other; the batch axis may be free."""
    one, other = (
        [
            (spec.name, spec.dtype, spec.shape[1:])
            for spec in (*side.manifest.inputs, *side.manifest.outputs)
        ]
        for side in (reference, candidate)
    )
    return one == other


def _postprocess(side: Side) -> tuple[Any, ...]:
    manifest = side.manifest
    return dict(manifest.postprocess), manifest.labels, manifest.category_ids
