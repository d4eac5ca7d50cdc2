"""Computes what depends on weights alone, so that engines see weights as constants."""

from __future__ import annotations

import numpy as np
from onnx.reference import ReferenceEvaluator

from edgeseg_export.onnx_model import OnnxModel

FOLDED = frozenset({"Concat", "Gather", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that only rearrange: the result is not larger than the inputs."""


def fold_constants(model: OnnxModel) -> OnnxModel:
    """Return the model with rearranged weights in the place of rearranging nodes."""
    graph = model.graph
    constants = {tensor.name: model.array(tensor) for tensor in graph.initializer}
    outputs = {output.name for output in graph.output}
    kept = []
    for node in graph.node:
        is_constant = all(name in constants for name in node.input)
        if (
            node.op_type not in FOLDED
            or node.domain
            or not is_constant
            or node.output[0] in outputs
        ):
            kept.append(node)
            continue
        run = ReferenceEvaluator(node, opsets={"": _opset(model)}).run
        (result,) = list(run(None, {name: constants[name] for name in node.input}))
        constants[node.output[0]] = np.asarray(result)
        model.add_initializer(node.output[0], constants[node.output[0]])
    used = {name for node in kept for name in node.input} | outputs
    del graph.node[:]
    graph.node.extend(kept)
    model.keep_initializers(used)
    return model


def _opset(model: OnnxModel) -> int:
    return next(entry.version for entry in model.proto.opset_import if not entry.domain)
