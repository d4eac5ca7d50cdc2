"""Gives edgeseg's operators and the exporter's nodes names that a reader of the graph can follow."""

from __future__ import annotations

from collections import Counter

import onnx


def name_operators(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with every node called after its operator and a running number."""
    counts: Counter[str] = Counter()
    for node in model.graph.node:
        node.name = f"{node.op_type}_{counts[node.op_type]}"
        counts[node.op_type] += 1
    return model
