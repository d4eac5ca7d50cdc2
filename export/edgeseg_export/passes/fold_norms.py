"""Takes a normalisation behind a deformable convolution into its weights, as the exporter does for ordinary ones."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import helper

from edgeseg_export.onnx_model import Array, OnnxModel

FOLDED = ("edgeseg", "DeformConv2d")


def fold_norms(model: OnnxModel) -> OnnxModel:
    """Return the model without batch normalisations whose input is a DeformConv2d of constant weights.

    A convolution that something else reads too keeps its normalisation.
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(output.name for output in graph.output)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    removed: set[int] = set()
    for norm in graph.node:
        conv = makers.get(norm.input[0]) if norm.op_type == "BatchNormalization" else None
        if conv is None or (conv.domain, conv.op_type) != FOLDED or readers[norm.input[0]] > 1:
            continue
        weights = [conv.input[2], *conv.input[3:4], *norm.input[1:]]
        if not all(name in constants for name in weights if name):
            continue
        values = {name: model.array(constants[name]) for name in weights if name}
        _fold(model, conv, norm, values)
        conv.output[0] = norm.output[0]
        removed.add(id(norm))
    kept = [node for node in graph.node if id(node) not in removed]
    used = {name for node in kept for name in node.input} | {output.name for output in graph.output}
    del graph.node[:]
    graph.node.extend(kept)
    model.keep_initializers(used)
    return model


def _fold(
    model: OnnxModel, conv: onnx.NodeProto, norm: onnx.NodeProto, values: dict[str, Array]
) -> None:
    """Give the convolution weights and a bias that compute both, in double precision."""
    scale, shift, mean, variance = (values[name].astype(np.float64) for name in norm.input[1:])
    attributes = {item.name: helper.get_attribute_value(item) for item in norm.attribute}
    factor = scale / np.sqrt(variance + attributes.get("epsilon", 1e-5))
    weight = values[conv.input[2]]
    has_bias = len(conv.input) > 3 and conv.input[3]
    bias = values[conv.input[3]] if has_bias else np.zeros(len(weight))
    folded = {
        f"{norm.output[0]}.weight": weight * factor[:, None, None, None],
        f"{norm.output[0]}.bias": (bias - mean) * factor + shift,
    }
    for position, (name, value) in enumerate(folded.items(), 2):
        model.add_initializer(name, value.astype(weight.dtype))
        if position < len(conv.input):
            conv.input[position] = name
        else:
            conv.input.append(name)
