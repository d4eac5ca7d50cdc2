"""Removes what the exporter noted about the machine and the source code it ran on."""

from __future__ import annotations

import onnx


def strip_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model without stack traces, paths and scopes on graph, nodes and values."""
    graph = model.graph
    del model.metadata_props[:]
    del graph.metadata_props[:]
    graph.doc_string = model.doc_string = ""
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
