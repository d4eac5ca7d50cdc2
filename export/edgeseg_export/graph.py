"""Turns a reference model into ONNX graphs that any engine runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx

from edgeseg.models.reference import ReferenceModel
from edgeseg_export.functions import add_functions
from edgeseg_export.onnx_model import OnnxModel
from edgeseg_export.passes import Pass, apply, without_weights
from edgeseg_export.passes.drop_outputs import drop_outputs
from edgeseg_export.passes.fold_constants import fold_constants
from edgeseg_export.passes.fold_norms import fold_norms
from edgeseg_export.passes.name_operators import name_operators
from edgeseg_export.passes.opset import OLDER_OPSET, to_opset17
from edgeseg_export.passes.strip_metadata import strip_metadata
from edgeseg_export.sessions import Graphs
from edgeseg_export.trace import OPSET, ExportError, stage_names, trace
from edgeseg_runtime import __version__
from edgeseg_runtime.bundle.graphs import Graph, Schedule, TensorSpec, one_graph
from edgeseg_runtime.bundle.manifest import Manifest

GRAPH_PASSES = (
    name_operators,
    strip_metadata,
    fold_constants,
    fold_norms,
)
"""What every graph goes through; edgeseg's operators get their bodies last, see `complete_graph`."""
COMPLETING_PASSES: dict[int, tuple[Pass, ...]] = {
    OLDER_OPSET: (without_weights(add_functions), without_weights(to_opset17)),
    OPSET: (without_weights(add_functions),),
}
"""Opset that a graph can be written in -> what completes it."""


def trace_graphs(
    model: ReferenceModel, manifest: Manifest, *, dynamic_batch: bool = False
) -> dict[str, OnnxModel]:
    """Return the model's graphs with every intermediate stage as a further output.

    edgeseg's operators have no bodies yet: see :func:`complete_graph`.
    """
    return {name: _traced(model, manifest, name, dynamic_batch) for name in manifest.graphs}


def complete_graph(plain: OnnxModel, *, opset: int = OPSET) -> OnnxModel:
    """Return a copy of a graph in which edgeseg's operators have bodies, so that any engine runs it.

    Args:
        plain: from :func:`trace_graphs`.
        opset: of the copy, one of `COMPLETING_PASSES`.

    Raises:
        ExportError: the result is not valid ONNX.
    """
    complete = apply(plain.copy(), COMPLETING_PASSES[opset])
    try:
        onnx.checker.check_model(complete.described())
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the graph is not valid ONNX: {error}") from error
    return complete


def without_stages(graphs: Graphs, manifest: Manifest) -> dict[str, OnnxModel]:
    """Return graphs that give no more than the manifest lists."""
    return {
        name: drop_outputs(graph, [spec.name for spec in manifest.graphs[name].outputs])
        for name, graph in graphs.items()
    }


def in_one_graph(manifest: Manifest) -> Manifest:
    """Return the manifest of a still model whose stages are one graph.

    Raises:
        ValueError: it is a model of videos: its graphs run in different frames.
    """
    if manifest.is_stateful:
        raise ValueError(
            f"stages 'off' found for {manifest.name}, expected 'on': the graphs of a video model run "
            "in different frames"
        )
    return dataclasses.replace(
        manifest, graphs=one_graph(manifest.inputs, manifest.outputs), schedule=Schedule()
    )


def with_free_batch(manifest: Manifest) -> Manifest:
    """Return the manifest of a model whose batch axis is free."""

    def free(specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(dataclasses.replace(spec, shape=(-1, *spec.shape[1:])) for spec in specs)

    def with_free(graph: Graph) -> Graph:
        return dataclasses.replace(graph, inputs=free(graph.inputs), outputs=free(graph.outputs))

    graphs = {name: with_free(graph) for name, graph in manifest.graphs.items()}
    return dataclasses.replace(manifest, graphs=graphs)


def _traced(model: ReferenceModel, manifest: Manifest, name: str, dynamic_batch: bool) -> OnnxModel:
    taps = stage_names(model, manifest, name)
    plain = trace(model, manifest, name, taps=taps, dynamic_batch=dynamic_batch)
    plain = apply(plain, GRAPH_PASSES)
    plain.proto.producer_name = "edgeseg"
    plain.proto.producer_version = __version__
    return plain
