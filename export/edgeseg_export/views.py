"""The shapes that one model has in a bundle: traced, compared with the model, lowered."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeseg.models import PrecisionRecipe, model_manifest
from edgeseg.models.reference import ReferenceModel
from edgeseg_export.agreement import measure_agreement
from edgeseg_export.graph import (
    complete_graph,
    in_one_graph,
    trace_graphs,
    with_free_batch,
    without_stages,
)
from edgeseg_export.lower import find_lowering
from edgeseg_export.onnx_model import OnnxModel
from edgeseg_export.parity import Image, Parity, measure_parity
from edgeseg_export.prove import check_names
from edgeseg_export.sessions import Graphs
from edgeseg_export.thresholds import without_threshold
from edgeseg_export.weights import share_arrays
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.progress import Progress

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class View:
    """One variant on its way into a bundle.

    Attributes:
        name: of the variant; "" for the model's own shape.
        model: built for this shape.
        manifest: of the model, without artifacts.
        plain: its graphs in float32 with all stages, operators without bodies.
        graphs: what is shipped so far.
        parity: of the float32 graphs.
    """

    name: str
    model: ReferenceModel
    manifest: Manifest
    plain: Graphs
    graphs: Graphs
    parity: Parity


def checked_views(
    models: Mapping[str, ReferenceModel],
    shown: Mapping[str, tuple[Sequence[Image], str]],
    measure: Callable[..., View],
    *,
    allow_mismatch: bool,
) -> list[View]:
    """Trace a model in all of its shapes, and check each of them.

    Args:
        models: by the names of the variants.
        shown: the pictures to compare each of them on, and what to call them.
        measure: :func:`traced_view` with its other options.
        allow_mismatch: do not ask for parity.
    """
    views: list[View] = []
    for name, model in models.items():
        sharing = [graph for view in views for graph in view.plain.values()]
        views.append(measure(name, model, *shown[name], sharing=sharing))
        check_names(views[-1].parity.largest_label, views[-1].manifest)
        if not allow_mismatch:
            views[-1].parity.check()
    return views


def traced_view(
    name: str,
    model: ReferenceModel,
    pictures: Sequence[Image],
    data: str,
    *,
    sharing: Sequence[OnnxModel],
    stages: bool,
    dynamic_batch: bool,
    opset: int,
    tolerance: float,
    progress: Progress,
) -> View:
    """Trace a model and compare its graphs with it.

    Where the model finds nothing, its graphs could place and select as they like. Then the parity is that of the
    same model without a threshold. What has the weights of graphs traced before, in ``sharing``, has their arrays.
    """
    suffix = f" ({name})" if name else ""
    progress(f"trace{suffix}", 0, 1)
    manifest = model_manifest(model)
    if not stages:
        manifest = in_one_graph(manifest)
    plain = trace_graphs(model, manifest, dynamic_batch=dynamic_batch)
    share_arrays([*sharing, *plain.values()])
    tapped = {key: complete_graph(graph, opset=opset) for key, graph in plain.items()}
    graphs = without_stages(tapped, manifest)
    stage = f"parity{suffix}"
    progress(stage, 0, len(pictures))
    done = iter(range(1, len(pictures) + 1))
    parity = measure_parity(
        model,
        tapped,
        graphs,
        manifest,
        pictures,
        data=data,
        tolerance=tolerance,
        on_image=lambda: progress(stage, next(done), len(pictures)),
    )
    if parity.finds_nothing:
        unlimited = without_threshold(model)
        _tell_of_nothing(parity, is_unlimited=unlimited is not None)
        if unlimited is not None:
            parity = traced_view(
                name,
                unlimited,
                pictures,
                data,
                sharing=[*sharing, *plain.values()],
                stages=stages,
                dynamic_batch=dynamic_batch,
                opset=opset,
                tolerance=tolerance,
                progress=progress,
            ).parity
    return View(
        name=name,
        model=model,
        manifest=with_free_batch(manifest) if dynamic_batch else manifest,
        plain=plain,
        graphs=graphs,
        parity=parity,
    )


def _tell_of_nothing(parity: Parity, *, is_unlimited: bool) -> None:
    _log.warning(
        "the model finds nothing on the %d pictures of %s: %s",
        parity.num_images,
        parity.data,
        "its best detections are compared whatever their score. Pictures of what it looks for prove more"
        if is_unlimited
        else "how its graph places and selects detections was not compared. Give pictures of what it looks for",
    )


def lowered_views(
    views: Sequence[View],
    *,
    recipe: PrecisionRecipe,
    opset: int,
    precision: str,
    calibration: Sequence[Image],
    method: str,
    max_drop: float,
    pictures: Sequence[Image],
    progress: Progress,
) -> tuple[list[View], str, dict[str, Any]]:
    """Return the views in a lower precision, which one that is, and what it cost, for the manifest.

    The ranges are found on the model's own shape and hold for its variants, whose nodes are the same.

    Args:
        views: in float32.
        recipe: which modules may compute in which precision.
        opset: of the graphs.
        precision: see :func:`export_bundle`.
        calibration: pictures to find the ranges of values on.
        method: of calibration.
        max_drop: what a search may lose.
        pictures: to compare the results on.
        progress: called as progress(stage, done, total).
    """
    complete = functools.partial(complete_graph, opset=opset)
    own = views[0]
    lowering = find_lowering(
        without_stages(own.plain, own.manifest),
        own.graphs,
        own.manifest,
        recipe,
        precision=precision,
        calibration=calibration,
        method=method,
        max_drop=max_drop,
        complete=complete,
        progress=progress,
    )
    lowered = []
    for view in views:
        plain = lowering.lowered(without_stages(view.plain, view.manifest))
        graphs = {name: complete(graph) for name, graph in plain.items()}
        lowered.append(dataclasses.replace(view, graphs=graphs))
        share_arrays(graph for each in lowered for graph in each.graphs.values())
    agreement = measure_agreement(
        own.graphs,
        lowered[0].graphs,
        own.manifest,
        pictures,
        on_picture=functools.partial(progress, "agreement with fp32"),
    )
    summary = {**lowering.summary, "agreement_with_fp32": agreement}
    return lowered, lowering.precision, {"precision": summary}


def parity_document(views: Sequence[View]) -> dict[str, Any]:
    """Return the figures of the model's own shape, with those of its variants behind."""
    own, *others = views
    variants = {view.name: view.parity.to_json() for view in others}
    return own.parity.to_json() | ({"variants": variants} if variants else {})
