"""Makes chosen nodes compute in float16; all others, and the graph's outputs, stay float32.

Must run before edgeseg's operators get their bodies: a body is written for the types of its inputs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from edgeseg_export.onnx_model import Array, OnnxModel

HALF_INPUTS: dict[str, tuple[int, ...] | None] = {
    "Add": None,
    "AtlasRoiAlign": (0,),  # the second input are the boxes
    "AveragePool": (0,),
    "Clip": None,
    "Concat": None,
    "Conv": None,
    "ConvTranspose": None,
    "DeformConv2d": (0, 2, 3, 4),  # the second input are the offsets
    "Flatten": (0,),
    "GlobalAveragePool": (0,),
    "LeakyRelu": (0,),
    "MaxPool": (0,),
    "Mul": None,
    "PRelu": None,
    "PyramidAtlas": None,
    "Relu": (0,),
    "Reshape": (0,),
    "Resize": (0,),
    "Sigmoid": (0,),
    "Slice": (0,),
    "Sub": None,
    "Tanh": (0,),
    "Transpose": (0,),
}
"""Operators that may compute in float16 -> their inputs that then are float16; None for all."""
LARGEST = 1e4
"""Magnitude from which an activation stays in float32; float16 ends at 65504."""

_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def half_nodes(model: OnnxModel, chosen: Collection[str]) -> list[str]:
    """Return the names of the nodes among ``chosen`` that can compute in float16, in the graph's order."""
    floats = _float_values(model.graph)
    return [
        node.name
        for node in model.graph.node
        if node.name in chosen
        and node.op_type in HALF_INPUTS
        and all(name in floats for name in node.output)
        and all(node.input[i] in floats for i in _half_inputs(node))
    ]


def values_in_half(model: OnnxModel, nodes: Collection[str]) -> list[str]:
    """Return the activations that float16 must hold if ``nodes`` compute in it, in the graph's order."""
    weights = {tensor.name for tensor in model.graph.initializer}
    values = (v for node in model.graph.node if node.name in nodes for v in _values(node))
    return list(dict.fromkeys(value for value in values if value not in weights))


def nodes_that_fit(
    model: OnnxModel, nodes: Collection[str], magnitudes: Mapping[str, float]
) -> list[str]:
    """Return those of ``nodes`` whose activations and weights float16 holds, in the graph's order.

    Args:
        model: in float32.
        nodes: from :func:`half_nodes`.
        magnitudes: of all :func:`values_in_half`.
    """
    weights = {tensor.name: model.array(tensor) for tensor in model.graph.initializer}
    too_large = {name for name, value in weights.items() if _overflows(value)}
    return [
        node.name
        for node in model.graph.node
        if node.name in nodes
        and too_large.isdisjoint(_values(node))
        and all(magnitudes.get(value, 0.0) <= LARGEST for value in _values(node))
    ]


def to_half(model: OnnxModel, nodes: Collection[str]) -> OnnxModel:
    """Return the model with ``nodes`` in float16 and casts where the precision changes.

    Args:
        model: changed in place.
        nodes: from :func:`half_nodes`.
    """
    graph = model.graph
    infos = {info.name: info for info in (*graph.value_info, *graph.input, *graph.output)}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    made: set[str] = set()  # values that exist in float16
    kept: list[NodeProto] = []
    read_in_float = {output.name for output in graph.output}
    for node in graph.node:
        is_half = node.name in nodes
        half_inputs = _half_inputs(node) if is_half else ()
        read_in_float |= {name for i, name in enumerate(node.input) if i not in half_inputs}
    for node in graph.node:
        if node.name not in nodes:
            kept.append(node)
            continue
        for index in _half_inputs(node):
            name = node.input[index]
            node.input[index] = half = f"{name}_half"
            if half in made:
                continue
            made.add(half)
            if name in weights:
                model.add_initializer(half, model.array(weights[name]).astype(np.float16))
                continue
            kept.append(helper.make_node("Cast", [name], [half], name=f"{half}/Cast", to=_HALF))
            _note_half(graph, infos.get(name), half)
        kept.append(node)
        for index, name in enumerate(node.output):
            node.output[index] = half = f"{name}_half"
            made.add(half)
            _note_half(graph, infos.get(name), half)
            if name in read_in_float:
                kept.append(
                    helper.make_node("Cast", [half], [name], name=f"{name}/Cast", to=_FLOAT)
                )
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in graph.node for name in node.input}
    model.keep_initializers(used)
    known = used | {name for node in graph.node for name in node.output}
    infos_kept = [info for info in graph.value_info if info.name in known]
    del graph.value_info[:]
    graph.value_info.extend(infos_kept)
    return model


def _half_inputs(node: NodeProto) -> tuple[int, ...]:
    """Return which inputs of a node are float16 if it computes so; absent ones are none."""
    indices = HALF_INPUTS[node.op_type]
    if indices is None:
        indices = tuple(range(len(node.input)))
    return tuple(i for i in indices if i < len(node.input) and node.input[i])


def _values(node: NodeProto) -> list[str]:
    """Return what is float16 if a node computes so: inputs, weights among them, and outputs."""
    return [*(node.input[i] for i in _half_inputs(node)), *node.output]


def _overflows(weight: Array) -> bool:
    """Tell whether a weight has values that float16 cannot hold."""
    if weight.dtype != np.float32:
        return False
    largest = np.abs(weight).max(initial=0)
    return not largest <= np.finfo(np.float16).max  # nor can it be compared if it is NaN


def _float_values(graph: onnx.GraphProto) -> set[str]:
    """Return the names of all values that are known to be float32."""
    values = {tensor.name for tensor in graph.initializer if tensor.data_type == _FLOAT}
    for info in (*graph.value_info, *graph.input, *graph.output):
        if info.type.tensor_type.elem_type == _FLOAT:
            values.add(info.name)
    return values


def _note_half(graph: onnx.GraphProto, info: onnx.ValueInfoProto | None, name: str) -> None:
    """Describe a value as its float32 counterpart, in float16."""
    if info is None:
        return
    note = onnx.ValueInfoProto()
    note.CopyFrom(info)
    note.name = name
    note.type.tensor_type.elem_type = _HALF
    graph.value_info.append(note)
