"""Makes chosen nodes compute in int8: QuantizeLinear and DequantizeLinear around them, one file for every engine.

Everything is symmetric: zero point 0, int8 from -127 to 127, one scale for an activation and one for each output
channel of a weight. Biases stay float32: ONNX Runtime quantises them when it loads the graph, and TensorRT knows no
int32 DequantizeLinear.

A ReLU stays between its convolution (or addition) and QuantizeLinear, where TensorRT expects it. The result is never
negative and has a zero point of its own, by which ONNX Runtime is told so: quantising then clears negative values, and
the ReLU needs no kernel, see `edgeseg_runtime.onnx.quantized`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import NodeProto, helper

from edgeseg_export.onnx_model import Array, OnnxModel
from edgeseg_runtime.onnx.quantized import NONNEGATIVE_ZERO_POINT, ZERO_POINT

LEVELS = 127
WEIGHT_AXES = {"Conv": 0, "ConvTranspose": 1}
"""Operators with weights -> the axis of the output channels."""
ON_SCALE_OF_INPUT = frozenset({"Relu", "MaxPool", "Resize"})
"""Operators whose output needs no scale of its own."""
JOINING = frozenset({"Add", "Concat", "LeakyRelu"})
CLEARED = frozenset(WEIGHT_AXES) | {"Add"}
"""Operators that compute in int8 with a ReLU behind them."""
INT8_OPERATORS = frozenset(WEIGHT_AXES) | ON_SCALE_OF_INPUT | JOINING


def int8_nodes(model: OnnxModel, chosen: Collection[str]) -> list[str]:
    """Return the names of the nodes among ``chosen`` that can compute in int8, in the graph's order.

    Those with weights always can; the others only between them, where their inputs are int8 already.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    found: list[str] = []
    is_int8_value: set[str] = set()
    for node in model.graph.node:
        if node.name not in chosen or node.domain or node.op_type not in INT8_OPERATORS:
            continue
        if node.op_type in WEIGHT_AXES:
            can = node.input[1] in weights and _has_one_axis_of_outputs(node)
        else:
            can = all(name in is_int8_value for name in _activations(node)) and _is_nearest(node)
        if can:
            found.append(node.name)
            is_int8_value.add(node.output[0])
    return found


def values_to_calibrate(model: OnnxModel, nodes: Collection[str]) -> list[str]:
    """Return the activations whose range :func:`quantize` must know, in the graph's order."""
    values: dict[str, None] = {}
    for node in model.graph.node:
        if node.name in nodes:
            values |= dict.fromkeys((*_activations(node), node.output[0]))
    cleared = _cleared_values(model.graph, nodes)
    return [value for value in values if value not in cleared]


def quantize(model: OnnxModel, nodes: Collection[str], largest: Mapping[str, float]) -> OnnxModel:
    """Return the model with ``nodes`` in int8.

    Args:
        model: changed in place.
        nodes: from :func:`int8_nodes`.
        largest: magnitude that a value is clipped at, for all of :func:`values_to_calibrate`.

    Raises:
        ValueError: a range that is missing or no positive number.
    """
    graph = model.graph
    cleared = _cleared_values(graph, nodes)
    scales = _scales(graph, nodes, largest, cleared)
    activations = _Activations(model, scales, _nonnegative_values(graph, nodes, cleared))
    weights = _Weights(model)
    kept = [activations.quantizer(value.name) for value in graph.input if value.name in scales]
    is_int8_only: set[str] = set()  # values that a fused kernel never has in float
    for node in graph.node:
        is_int8 = node.name in nodes
        for index, name in enumerate(node.input):
            if name in scales and (is_int8 or name in is_int8_only):
                # One for each int8 reader: ONNX Runtime fuses none that is shared.
                reader = f"{node.name}.{index}" if is_int8 else f"{name}.float"
                kept += activations.dequantizer(name, reader=reader)
                node.input[index] = reader
        if is_int8 and node.op_type in WEIGHT_AXES:
            kept.append(weights.quantize(node))
        kept.append(node)
        for name in node.output:
            if name in scales:
                kept.append(activations.quantizer(name))
                if is_int8:
                    is_int8_only.add(name)
    del graph.node[:]
    graph.node.extend(kept)
    activations.finish()
    weights.finish()
    return model


class _Activations:
    """The activations of a graph that become int8, each with a scale and one of two zero points."""

    def __init__(
        self, model: OnnxModel, scales: Mapping[str, float], nonnegative: Collection[str]
    ) -> None:
        self.model = model
        self.scales = scales
        self.nonnegative = nonnegative
        graph = model.graph
        self.infos = {info.name: info for info in (*graph.value_info, *graph.input, *graph.output)}
        self.dequantized: set[str] = set()

    def quantizer(self, name: str) -> NodeProto:
        """Return the node that turns a value into int8."""
        return helper.make_node(
            "QuantizeLinear",
            [name, f"{name}_scale", self._zero_point(name)],
            [f"{name}_quantized"],
            name=f"{name}/QuantizeLinear",
        )

    def dequantizer(self, name: str, *, reader: str) -> list[NodeProto]:
        """Return the node that turns a value back for a reader, if there is none yet."""
        if reader in self.dequantized:
            return []
        self.dequantized.add(reader)
        if name in self.infos:  # edgeseg's operators must know types and shapes
            self.model.graph.value_info.append(_renamed(self.infos[name], reader))
        return [
            helper.make_node(
                "DequantizeLinear",
                [f"{name}_quantized", f"{name}_scale", self._zero_point(name)],
                [reader],
                name=f"{reader}/DequantizeLinear",
            )
        ]

    def finish(self) -> None:
        """Add scales and zero points to the graph."""
        tensors = {name: np.array(0, np.int8) for name in (ZERO_POINT, NONNEGATIVE_ZERO_POINT)}
        tensors |= {
            f"{name}_scale": np.array(scale, np.float32) for name, scale in self.scales.items()
        }
        for name, value in tensors.items():
            self.model.add_initializer(name, value)

    def _zero_point(self, name: str) -> str:
        return NONNEGATIVE_ZERO_POINT if name in self.nonnegative else ZERO_POINT


class _Weights:
    """The weights of a graph; each node gets int8 ones of its own.

    ONNX Runtime cannot load a graph with shared ones on x86 without VNNI: where it makes them uint8
    (`edgeseg_runtime.onnx.quantized.prepare_for_cpu`) it does so once for each reader, under one name.
    """

    def __init__(self, model: OnnxModel) -> None:
        self.model = model
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self.num_readers: Counter[str] = Counter()

    def quantize(self, node: NodeProto) -> NodeProto:
        """Make a node read its weight from int8; return the node that turns it into floats."""
        shared, axis = node.input[1], WEIGHT_AXES[node.op_type]
        name = f"{shared}.{self.num_readers[shared]}" if shared in self.num_readers else shared
        self.num_readers[shared] += 1
        weight = self.model.array(self.tensors[shared]).astype(np.float32, copy=False)
        names = (f"{name}_quantized", f"{name}_scale", f"{name}_zero")
        for part, value in zip(names, _int8_weight(weight, axis), strict=True):
            self.model.add_initializer(part, value)
        node.input[1] = f"{node.name}.weight"
        return helper.make_node(
            "DequantizeLinear",
            list(names),
            [node.input[1]],
            name=f"{node.input[1]}/DequantizeLinear",
            axis=axis,
        )

    def finish(self) -> None:
        """Drop the float weights that nobody reads any more."""
        self.model.keep_initializers(
            {name for node in self.model.graph.node for name in node.input}
        )


def _cleared_values(graph: onnx.GraphProto, nodes: Collection[str]) -> set[str]:
    """Return the values that only a ReLU reads, and nobody needs in int8."""
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    kept = {value.name for value in graph.output}
    return {
        node.output[0]
        for node in graph.node
        if node.name in nodes
        and node.op_type in CLEARED
        and node.output[0] not in kept
        and [reader.op_type for reader in readers[node.output[0]]] == ["Relu"]
        and readers[node.output[0]][0].name in nodes
    }


def _nonnegative_values(
    graph: onnx.GraphProto, nodes: Collection[str], cleared: Collection[str]
) -> set[str]:
    """Return the int8 values that a ReLU has cleared, and what is only taken from them."""
    found: set[str] = set()
    for node in graph.node:
        keeps_values = node.name in nodes and node.op_type in ON_SCALE_OF_INPUT
        if keeps_values and (node.input[0] in cleared or node.input[0] in found):
            found.add(node.output[0])
    return found


def _scales(
    graph: onnx.GraphProto,
    nodes: Collection[str],
    largest: Mapping[str, float],
    cleared: Collection[str],
) -> dict[str, float]:
    """Return the scale of every activation that becomes int8."""
    magnitudes: dict[str, float] = {}
    for node in graph.node:
        if node.name not in nodes:
            continue
        value = node.output[0]
        inputs = [name for name in _activations(node) if name not in cleared]
        for name in inputs:
            magnitudes.setdefault(name, _magnitude(name, largest))
        if node.op_type in ON_SCALE_OF_INPUT and inputs:
            magnitudes[value] = magnitudes[inputs[0]]
        elif value not in cleared:
            magnitudes[value] = _magnitude(value, largest)
    return {name: magnitude / LEVELS for name, magnitude in magnitudes.items()}


def _magnitude(name: str, largest: Mapping[str, float]) -> float:
    magnitude = largest.get(name)
    if magnitude is None or not np.isfinite(magnitude) or magnitude < 0:
        raise ValueError(f"the range of {name} is {magnitude}, expected a finite number")
    return magnitude or 1.0  # a value that was never other than 0


def _activations(node: NodeProto) -> list[str]:
    """Return the inputs other than weights, shapes and sizes."""
    return list(node.input) if node.op_type in {"Add", "Concat"} else [node.input[0]]


def _has_one_axis_of_outputs(node: NodeProto) -> bool:
    """Tell whether one axis of a weight counts all output channels; that of grouped deconvolutions does not."""
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    return node.op_type == "Conv" or groups == 1


def _is_nearest(node: NodeProto) -> bool:
    """Tell whether a node leaves the values of its input as they are; only a resizing one may not."""
    modes = [attribute.s for attribute in node.attribute if attribute.name == "mode"]
    return node.op_type != "Resize" or modes == [b"nearest"]


def _renamed(info: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    """Return type and shape of a value for another one."""
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(info)
    copy.name = name
    return copy


def _int8_weight(weight: Array, axis: int) -> tuple[Array, Array, Array]:
    """Return levels, scales and zero points of a float32 weight, one scale for each index of the axis."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    magnitudes = np.abs(weight).max(axis=others)
    scales = np.where(magnitudes > 0, magnitudes, 1).astype(np.float32) / np.float32(LEVELS)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    levels = np.clip(np.rint(weight / scales.reshape(shape)), -LEVELS, LEVELS).astype(np.int8)
    return levels, scales, np.zeros(len(scales), np.int8)
