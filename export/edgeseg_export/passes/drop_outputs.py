"""Takes away the taps of a graph, and what was computed for them alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx

from edgeseg_export.onnx_model import OnnxModel


def drop_outputs(model: OnnxModel, keep: Collection[str]) -> OnnxModel:
    """Return a copy of ``model`` whose graph has only the outputs ``keep`` and what they need.

    The nodes that stay are unchanged. (TensorRT would leave out the others; ONNX Runtime runs them.)
    """
    slim = model.copy()
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
    slim.keep_initializers(needed)
    return slim


def _values_used(node: onnx.NodeProto) -> Iterable[str]:
    """Yield the inputs of a node and of the nodes in its bodies."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _values_used(inner)
