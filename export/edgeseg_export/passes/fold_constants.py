"""Computes what depends on weights alone, so that engines see weights as constants."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

FOLDED = frozenset({"Concat", "Gather", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that only rearrange: the result is no larger than the inputs."""


def fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with rearranged weights in the place of rearranging nodes."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
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
        values = {name: numpy_helper.to_array(constants[name]) for name in node.input}
        run = ReferenceEvaluator(node, opsets={"": _opset(model)}).run
        (result,) = list(run(None, values))
        constants[node.output[0]] = numpy_helper.from_array(np.asarray(result), node.output[0])
    used = {name for node in kept for name in node.input} | outputs
    del graph.node[:]
    graph.node.extend(kept)
    del graph.initializer[:]
    graph.initializer.extend(tensor for name, tensor in constants.items() if name in used)
    return model


def _opset(model: onnx.ModelProto) -> int:
    return next(entry.version for entry in model.opset_import if not entry.domain)
