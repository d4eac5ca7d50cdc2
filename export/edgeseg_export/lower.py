"""Brings the graphs of a model into a lower precision, and measures what that cost."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgeseg.models import PrecisionRecipe
from edgeseg_bench.evaluation import Record
from edgeseg_export.agreement import results_to_find
from edgeseg_export.bias_correction import Shifts, bias_shifts
from edgeseg_export.calibration import Magnitudes, calibrate
from edgeseg_export.equalization import Equalization, equalize
from edgeseg_export.onnx_model import OnnxModel
from edgeseg_export.precision import (
    Assignments,
    assign,
    convert,
    values_needed,
    values_unclipped,
)
from edgeseg_export.search import (
    INT8_MAX_DROP,
    INT8_MAX_FLOAT_SHARE,
    NUM_PICTURES,
    search,
    values_for_search,
)
from edgeseg_export.sessions import Graphs
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.picture.image import Image
from edgeseg_runtime.progress import Progress

AUTO = "auto"
"""Precision that is searched: see `search.py`."""
CALIBRATED = ("int8", "mixed", AUTO)
"""Precisions with int8 values, whose ranges are found on pictures."""


@dataclass(frozen=True, kw_only=True)
class Lowering:
    """Which nodes leave float32, and within which ranges.

    Attributes:
        precision: what a manifest calls it: that of the export, or what a search has found.
        assignments: of each graph.
        magnitudes: of each graph's values that the assignments need.
        equalization: what happens to the float32 graphs before, if int8 values need it.
        shifts: of each graph, what is added to the biases of int8 nodes.
        summary: how it was found, for the manifest.
    """

    precision: str
    assignments: Assignments
    magnitudes: Magnitudes
    summary: dict[str, Any]
    equalization: Equalization | None = None
    shifts: Shifts = field(default_factory=dict)

    def lowered(self, plain: Graphs) -> dict[str, OnnxModel]:
        """Return copies of graphs, operators without bodies, in which the nodes compute as assigned."""
        equal = self.equalization.applied(plain) if self.equalization is not None else plain
        return {
            name: convert(
                graph, self.assignments[name], self.magnitudes[name], self.shifts.get(name, {})
            )
            for name, graph in equal.items()
        }


def find_lowering(
    plain: Graphs,
    reference: Graphs,
    manifest: Manifest,
    recipe: PrecisionRecipe,
    *,
    precision: str,
    calibration: Sequence[Image],
    method: str,
    max_drop: float,
    complete: Callable[[OnnxModel], OnnxModel],
    progress: Progress,
) -> Lowering:
    """Decide which nodes compute in fewer bits, and find the ranges of their values.

    Args:
        plain: the float32 graphs, edgeseg's operators without bodies.
        reference: the same, complete.
        manifest: of the model.
        recipe: which modules may compute in which precision.
        precision: "fp16", "int8", "mixed" or "auto".
        calibration: pictures to find the ranges of values on.
        method: of calibration.
        max_drop: what a search may lose.
        complete: gives a graph's operators their bodies.
        progress: called as progress(stage, done, total).

    Raises:
        ValueError: the recipe names no module for this precision.
    """
    is_searched = precision == AUTO
    assigned = "int8" if is_searched else precision
    assignments = {name: assign(graph, recipe, assigned) for name, graph in plain.items()}
    if not any(assignments.values()):
        raise ValueError(
            f"precision {precision!r} found, but the recipe of this model names no module for it: "
            "export with precision 'fp32'"
        )
    equalization = None
    expected: list[Record] | None = None
    if any("int8" in chosen.values() for chosen in assignments.values()):
        expected = results_to_find(
            reference,
            manifest,
            calibration[:NUM_PICTURES],
            on_picture=functools.partial(progress, "look at the pictures"),
        )
        equalization = equalize(
            plain,
            reference,
            manifest,
            assignments,
            calibration,
            on_picture=functools.partial(progress, "equalise the channels"),
        )
        plain = equalization.applied(plain)
        reference = {name: complete(graph) for name, graph in plain.items()}
    # Without anything to find, "auto" says so in the search, and "int8" is what the recipe says.
    is_searched |= precision == "int8" and expected is not None
    values = (
        values_for_search(plain, recipe)
        if is_searched
        else {name: values_needed(plain[name], assignments[name]) for name in plain}
    )
    magnitudes = calibrate(
        reference,
        manifest,
        calibration,
        values,
        method=method,
        unclipped={name: values_unclipped(plain[name], assignments[name]) for name in plain},
        on_step=functools.partial(progress, "calibrate"),
    )
    shifts: Shifts = {}
    if equalization is not None:
        lowered = {
            name: complete(convert(graph, assignments[name], magnitudes[name]))
            for name, graph in plain.items()
        }
        shifts = bias_shifts(
            reference,
            lowered,
            manifest,
            assignments,
            calibration,
            on_picture=functools.partial(progress, "correct the biases"),
        )
    summary: dict[str, Any] = {}
    if is_searched:
        found = search(
            plain,
            manifest,
            recipe,
            magnitudes,
            calibration,
            complete=complete,
            max_drop=max_drop if precision == AUTO else INT8_MAX_DROP,
            max_float_share=1.0 if precision == AUTO else INT8_MAX_FLOAT_SHARE,
            shifts=shifts,
            expected=expected,
            progress=progress,
        )
        assignments = {name: dict(chosen) for name, chosen in found.assignments.items()}
        precision = "int8" if any(assignments.values()) else "fp32"
        summary = {"search": found.to_json()}
    counts: Counter[str] = Counter()
    for chosen in assignments.values():
        counts.update(chosen.values())
    summary |= {
        "num_nodes": dict(sorted(counts.items())),
        "calibration": method,
        "num_calibration": len(calibration),
    }
    return Lowering(
        precision=precision,
        assignments=assignments,
        magnitudes=magnitudes,
        summary=summary,
        equalization=equalization,
        shifts=shifts,
    )
