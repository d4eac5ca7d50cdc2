"""Takes away the taps of a graph, and what was computed for them alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx


def drop_outputs(model: onnx.ModelProto, keep: Collection[str]) -> onnx.ModelProto:
    """Return a copy of ``model`` whose graph has only the outputs ``keep`` and what they need.

    The nodes that stay are unchanged. (TensorRT would leave out the others; ONNX Runtime runs them.)
    """
    slim = onnx.ModelProto()
    slim.CopyFrom(model)
    outputs = [output for output in model.graph.output if output.name in keep]
    taps = [output for output in model.graph.output if output.name not in keep]
    del slim.graph.output[:]
    slim.graph.output.extend(outputs)
    needed = {output.name for output in outputs}
    kept = []
    for node in reversed(slim.graph.node):
        if needed.intersection(node.output):
            needed.update(_values_used(node))
            kept.append(node)
    kept.reverse()
    del slim.graph.node[:]
    slim.graph.node.extend(kept)
    slim.graph.value_info.extend(tap for tap in taps if tap.name in needed)
    weights = [tensor for tensor in slim.graph.initializer if tensor.name in needed]
    del slim.graph.initializer[:]
    slim.graph.initializer.extend(weights)
    return slim


def _values_used(node: onnx.NodeProto) -> Iterable[str]:
    """Yield the inputs of a node and of the nodes in its bodies."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _values_used(inner)
