"""Measures whether exported graphs compute what the PyTorch model computes, stage by stage.

Shape suffixes: N rows (proposals or detections) of one picture.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgeseg.models.reference import Candidates, ReferenceModel
from edgeseg.models.torch_backend import TorchBackend
from edgeseg_export.agreement import ParityError
from edgeseg_export.matching import match_boxes, match_detections, num_unmatched
from edgeseg_export.sessions import GraphBackend, Graphs, cpu_session
from edgeseg_runtime.backends import CheckedBackend, Tensors
from edgeseg_runtime.backends.state import KeptTensors
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.session import rows_found, run_frame
from edgeseg_runtime.tasks import create_task

Array = npt.NDArray[Any]
Image = npt.NDArray[np.uint8]

FREE = "free run."
LISTS = ("", "contender_")
"""What the names of boxes, scores, labels and all else of one list of detections begin with."""
DETECTIONS = tuple(f"{prefix}boxes" for prefix in LISTS)
ROW_STAGES = ("proposals", "centers", *DETECTIONS)
"""Stages that select rows: what follows with as many rows belongs to these, in their order.

What has the name of another list belongs to that one, wherever it stands.
"""
OUTLIER_SHARE = 0.01
"""Share of a stage's elements that a different rounding may turn over (ties, thresholds)."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far the exported graphs are from their PyTorch model.

    Attributes:
        data: where the pictures came from.
        num_images: how many there were.
        num_detections: detections of the PyTorch model on them; 0 for dense outputs.
        score_threshold: what their scores exceed, which is lower than the model's if that finds nothing.
        num_unmatched: detections that one side has and the other should have; see `matching.py`.
        max_abs: per output, the largest difference over matched rows.
        stages: per stage and output, in the order of computation, the difference that 99 % of the
            elements stay below, relative to the stage's largest value; the worst picture counts.
            Of several graphs each is given what the model gives it, and its name stands before the
            stage's; what they give when they run on their own stands behind `FREE`.
        tolerance: bound of that relative difference.
        largest_label: the highest class number among the detections; -1 without any.
    """

    data: str
    num_images: int
    num_detections: int
    score_threshold: float
    num_unmatched: int
    max_abs: Mapping[str, float]
    stages: Mapping[str, float]
    tolerance: float
    largest_label: int = -1

    @property
    def first_stage_outside(self) -> str | None:
        """The earliest stage whose difference is not within the tolerance."""
        outside = (name for name, error in self.stages.items() if not error <= self.tolerance)
        return next(outside, None)

    @property
    def finds_nothing(self) -> bool:
        """Whether there was no detection to compare, although the model gives detections."""
        return self.num_detections == 0 and any(name in self.max_abs for name in DETECTIONS)

    @property
    def is_within_tolerance(self) -> bool:
        """Whether every stage agrees and every detection has its counterpart."""
        return self.first_stage_outside is None and self.num_unmatched == 0

    def check(self) -> None:
        """Do nothing if the graph agrees.

        Raises:
            ParityError: names the first stage outside the tolerance, or the unmatched detections.
        """
        stage = self.first_stage_outside
        if stage is not None:
            raise ParityError(
                f"the exported graph differs from the PyTorch model: {stage} is the first stage "
                f"outside the tolerance (relative difference {self.stages[stage]:.2e} found, at most "
                f"{self.tolerance:.0e} expected, on {self.num_images} pictures of {self.data}). "
                "Nothing was written; allow it with --allow-mismatch"
            )
        if self.num_unmatched:
            raise ParityError(
                f"the exported graph differs from the PyTorch model: {self.num_unmatched} of "
                f"{self.num_detections} detections have no counterpart on {self.num_images} "
                f"pictures of {self.data}. Nothing was written; allow it with --allow-mismatch"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the figures for the manifest; a difference that is not a number is null."""
        return {
            "reference": f"torch {torch.__version__}",
            "engine": "onnxruntime",
            "data": self.data,
            "num_images": self.num_images,
            "num_detections": self.num_detections,
            "score_threshold": self.score_threshold,
            "num_unmatched": self.num_unmatched,
            "tolerance": self.tolerance,
            "is_within_tolerance": self.is_within_tolerance,
            "first_stage_outside": self.first_stage_outside,
            "max_abs": {name: _json_number(value) for name, value in self.max_abs.items()},
            "stages": {name: _json_number(value) for name, value in self.stages.items()},
        }


@dataclass
class _Totals:
    score_threshold: float
    contender_threshold: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    max_abs: dict[str, float] = field(default_factory=dict)
    num_images: int = 0
    num_detections: int = 0
    num_unmatched: int = 0
    largest_label: int = -1

    def add(
        self, prefix: str, name: str, expected: Array, found: Array, *, is_result: bool
    ) -> None:
        """Add the difference of a stage; the largest one counts."""
        difference = np.abs(expected.astype(np.float64) - found.astype(np.float64))
        stage = f"{prefix}{name}"
        self.stages[stage] = max(self.stages.get(stage, 0.0), _relative(difference, expected))
        if is_result:
            largest = float(difference.max(initial=0.0))
            self.max_abs[name] = max(self.max_abs.get(name, 0.0), largest)


def measure_parity(
    model: ReferenceModel,
    tapped: Graphs,
    exported: Graphs,
    manifest: Manifest,
    images: Iterable[Image],
    *,
    data: str,
    tolerance: float,
    on_image: Callable[[], None] = lambda: None,
) -> Parity:
    """Run model and graphs on pictures and compare every stage.

    Results are read from the graphs that are shipped, opened as a device opens them: without the further
    outputs an engine fuses other nodes.

    Args:
        model: the PyTorch model.
        tapped: its graphs with the intermediate stages as further outputs.
        exported: its graphs with the results alone.
        manifest: of the graphs; the pictures go through the runtime's own preprocessing.
        images: (H, W, 3) uint8 BGR; a video model takes them as one clip.
        data: what to call the pictures.
        tolerance: bound of the relative difference of a stage.
        on_image: called after each picture.
    """
    sides = _Sides(
        reference=TorchBackend(model, manifest),
        exported=GraphBackend(exported, manifest, as_loaded=True),
        tapped=GraphBackend(
            tapped, manifest, open_session=functools.partial(cpu_session, keeps_order=True)
        ),
    )
    alone = CheckedBackend("exported", sides.exported, manifest)
    states = sides.reference.open_state(), alone.open_state()
    task = create_task(manifest)
    totals = _Totals(
        score_threshold=model.score_threshold, contender_threshold=model.contender_threshold
    )
    frame = 0
    for image in images:
        inputs, _ = task.preprocess(image)
        reference, found, candidates = _compare_graphs(
            totals, sides, states[0], manifest, inputs, frame
        )
        if len(manifest.graphs) > 1:
            found = run_frame(manifest, alone, inputs, states[1], frame=frame)
            _compare_results(totals, reference, found, _free_lists(manifest))
        _count_detections(totals, reference, found, candidates)
        frame = manifest.schedule.following(frame)
        on_image()
    return Parity(
        data=data,
        num_images=totals.num_images,
        num_detections=totals.num_detections,
        score_threshold=totals.score_threshold,
        num_unmatched=totals.num_unmatched,
        max_abs=totals.max_abs,
        stages=totals.stages,
        tolerance=tolerance,
        largest_label=totals.largest_label,
    )


@dataclass(frozen=True, kw_only=True)
class _Sides:
    reference: TorchBackend
    tapped: GraphBackend
    exported: GraphBackend


def _compare_graphs(
    totals: _Totals,
    sides: _Sides,
    state: KeptTensors[torch.Tensor],
    manifest: Manifest,
    inputs: Tensors,
    frame: int,
) -> tuple[dict[str, Array], dict[str, Array], Candidates | None]:
    """Run every graph of a frame on what the model gives it, and add its stages.

    Returns:
        The results of the model and of the graphs, and what the model chose its detections from.
    """
    expected: dict[str, Array] = {}
    found: dict[str, Array] = {}
    candidates = None
    for name in manifest.schedule.graphs(frame):
        graph = manifest.graphs[name]
        # Of all detections, also of those that the task will leave out.
        rows = None if graph.rows is None else rows_found(expected, graph.rows, 0.0)
        if rows == 0:
            continue
        fed = {spec.name: inputs[spec.name] for spec in graph.fed}
        taken = {
            key: tensor.cpu().numpy()
            for key, tensor in sides.reference.taken(name, state, rows).items()
        }
        tensors = sides.reference.stages(fed, name, state, rows)
        candidates = candidates or sides.reference.model.candidates(tensors)
        stages = {stage: tensor.cpu().numpy() for stage, tensor in tensors.items()}
        outputs = sides.exported.run_whole(fed | taken, name)
        prefix = f"{name}." if len(manifest.graphs) > 1 else ""
        tapped = sides.tapped.run_whole(fed | taken, name)
        _add_stages(totals, prefix, stages, tapped, outputs, kept=graph.kept)
        for spec in graph.given:
            expected[spec.name], found[spec.name] = stages[spec.name], outputs[spec.name]
    return expected, found, candidates


def _add_stages(
    totals: _Totals,
    prefix: str,
    reference: Tensors,
    tapped: Tensors,
    exported: Tensors,
    *,
    kept: Collection[str],
) -> None:
    """Add a graph's stages: intermediate ones are read from one graph, its results from the other."""
    rows_N: dict[tuple[str, bool], Array | None] = {}
    for name, expected in reference.items():
        is_output, prefix_of_list = name in exported, _list_of(name)
        if name in ROW_STAGES:
            for side, is_side in ((tapped, False), (exported, True)):
                rows_N[prefix_of_list, is_side] = (
                    _matching_rows(name, reference, side) if is_output or not is_side else None
                )
        found = (exported if is_output else tapped)[name]
        pair = _same_rows(expected, found, rows_N.get((prefix_of_list, is_output)))
        totals.add(prefix, name, *pair, is_result=is_output and name not in kept)


def _free_lists(manifest: Manifest) -> frozenset[str]:
    """Return the results that have as many rows as were found."""
    stages = [graph for graph in manifest.graphs.values() if graph.rows is not None]
    return frozenset(spec.name for graph in stages for spec in graph.given)


def _compare_results(
    totals: _Totals, reference: Tensors, found: Tensors, free_lists: Collection[str]
) -> None:
    """Add what the graphs give when they run on their own; of rows those that both sides have."""
    lists = {
        prefix: _matching_rows(boxes, reference, found)
        for prefix, boxes in zip(LISTS, DETECTIONS, strict=True)
        if boxes in reference
    }
    for name, expected in reference.items():
        actual, rows_N = found[name], lists.get(_list_of(name))
        if rows_N is not None and name in free_lists:
            num_rows = min(expected.shape[1], actual.shape[1])
            is_known_N = (np.arange(len(rows_N)) < num_rows) & (rows_N < num_rows) & (rows_N >= 0)
            expected, actual = expected[0, is_known_N.nonzero()[0]], actual[0, rows_N[is_known_N]]
        elif rows_N is not None:
            expected, actual = _same_rows(expected, actual, rows_N)
        totals.add(FREE, name, expected, actual, is_result=True)


def _count_detections(
    totals: _Totals, reference: Tensors, found: Tensors, candidates: Candidates | None
) -> None:
    totals.num_images += 1
    for prefix, boxes in zip(LISTS, DETECTIONS, strict=True):
        if boxes not in reference:
            continue
        ours, theirs = _detections(prefix, reference), _detections(prefix, found)
        is_found = ours["scores"] > 0
        totals.num_detections += int(is_found.sum())
        labels = ours["labels"][is_found]
        totals.largest_label = max(totals.largest_label, int(labels.max(initial=-1)))
        totals.num_unmatched += num_unmatched(
            match_detections(ours, theirs),
            ours,
            theirs,
            score_threshold=totals.contender_threshold if prefix else totals.score_threshold,
            candidates=None if prefix else candidates,
        )


def _matching_rows(name: str, reference: Tensors, found: Tensors) -> Array:
    """Return for each row (N,) of a stage the other side's row that is the same one, or -1."""
    if name in DETECTIONS:
        prefix = _list_of(name)
        return match_detections(_detections(prefix, reference), _detections(prefix, found))
    return match_boxes(reference[name], found[name])


def _list_of(name: str) -> str:
    """Return what the names of the list begin with that a stage belongs to, or would."""
    return next((prefix for prefix in LISTS if prefix and name.startswith(prefix)), "")


def _detections(prefix: str, side: Tensors) -> dict[str, Array]:
    """Return boxes, scores and labels of one list."""
    return {part: side[f"{prefix}{part}"] for part in ("boxes", "scores", "labels")}


def _same_rows(expected: Array, found: Array, rows_N: Array | None) -> tuple[Array, Array]:
    """Return the rows of both that have a counterpart, in one order; whatever is not a list of rows."""
    if rows_N is None or expected.shape[1:2] != rows_N.shape:
        return expected, found
    return expected[0, rows_N >= 0], found[0, rows_N[rows_N >= 0]]


def _relative(difference: Array, expected: Array) -> float:
    """Return the difference that all but a few elements stay below, over the largest value."""
    if difference.size == 0:
        return 0.0
    if not np.isfinite(difference).all():
        return math.inf
    typical = float(np.quantile(difference, 1 - OUTLIER_SHARE, method="lower"))
    return typical / max(float(np.abs(expected).max()), 1e-12)


def _json_number(value: float) -> float | None:
    return float(f"{value:.3g}") if math.isfinite(value) else None
