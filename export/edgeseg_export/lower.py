"""Brings the graphs of a model into a lower precision, and measures what that cost."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgeseg.models import PrecisionRecipe
from edgeseg_export.calibration import Magnitudes, calibrate
from edgeseg_export.onnx_model import OnnxModel
from edgeseg_export.precision import (
    Assignments,
    assign,
    convert,
    values_needed,
    values_unclipped,
)
from edgeseg_export.search import search, values_for_search
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
        summary: how it was found, for the manifest.
    """

    precision: str
    assignments: Assignments
    magnitudes: Magnitudes
    summary: dict[str, Any]

    def lowered(self, plain: Graphs) -> dict[str, OnnxModel]:
        """Return copies of graphs, operators without bodies, in which the nodes compute as assigned."""
        return {
            name: convert(graph, self.assignments[name], self.magnitudes[name])
            for name, graph in plain.items()
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
    summary: dict[str, Any] = {}
    if is_searched:
        found = search(
            plain,
            manifest,
            recipe,
            magnitudes,
            calibration,
            complete=complete,
            max_drop=max_drop,
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
        precision=precision, assignments=assignments, magnitudes=magnitudes, summary=summary
    )
