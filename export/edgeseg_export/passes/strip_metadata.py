"""Removes what the exporter noted about the machine and the source code it ran on."""

from __future__ import annotations

from edgeseg_export.onnx_model import OnnxModel


def strip_metadata(model: OnnxModel) -> OnnxModel:
    """Return the model without stack traces, paths and scopes on graph, nodes and values."""
    graph = model.graph
    del model.proto.metadata_props[:]
    del graph.metadata_props[:]
    graph.doc_string = model.proto.doc_string = ""
    for item in (
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    ):
        del item.metadata_props[:]
        item.doc_string = ""
    return model
