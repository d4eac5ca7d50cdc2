"""Finds by how much the mean of each channel moves when a convolution becomes int8, to take it off its bias.

Small values are rounded to 0 more often on one side than on the other, large ones are clipped, and rounded weights add
up to something else. Every convolution is looked at alone: its int8 form reads the float32 graph's values, rounded, and
its output is compared with the float32 one. One walk over the pictures serves for all of them. (Nagel et al.,
Data-free quantization through weight equalization and bias correction, ICCV 2019, section 4.2, on pictures.)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper

from edgeseg_export.feeds import feeds_of
from edgeseg_export.onnx_model import Array, OnnxModel
from edgeseg_export.passes.quantize import WEIGHT_AXES
from edgeseg_export.precision import Assignment, nodes_in
from edgeseg_export.sessions import Graphs, cpu_session
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.picture.image import Image

Shifts = Mapping[str, Mapping[str, Array]]
"""Of each graph, node -> (C,) what is added to its bias."""

ROUNDING = ("QuantizeLinear", "DequantizeLinear")


def bias_shifts(
    reference: Graphs,
    lowered: Graphs,
    manifest: Manifest,
    assignments: Mapping[str, Assignment],
    pictures: Sequence[Image],
    *,
    on_picture: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, dict[str, Array]]:
    """Return what has to be added to the biases of int8 convolutions, so that their means stay.

    Args:
        reference: complete graphs in float32.
        lowered: the same graphs in int8.
        manifest: of the model.
        assignments: which of the nodes are int8.
        pictures: (H, W, 3) uint8 BGR, like those that the model will see.
        on_picture: called as on_picture(done, total).
    """
    means = {
        name: outputs
        for name in reference
        if (outputs := _means(lowered[name], nodes_in(assignments.get(name, {}), "int8")))
    }
    sessions = {
        name: cpu_session(_with_both(reference[name], lowered[name], list(outputs)))
        for name, outputs in means.items()
    }
    sums: dict[str, dict[str, Array]] = {name: {} for name in reference}
    counts: dict[str, int] = dict.fromkeys(sessions, 0)
    for done, feeds in enumerate(feeds_of(reference, manifest, pictures), 1):
        for name in feeds.keys() & sessions.keys():
            found = sessions[name].run(list(means[name].values()), feeds[name])
            counts[name] += len(found[0])
            for node, mean in zip(means[name], found, strict=True):
                moved = mean.reshape(mean.shape[:2]).sum(0, dtype=np.float64)
                sums[name][node] = sums[name].get(node, 0.0) + moved
        on_picture(done, len(pictures))
    return {
        name: {node: -moved / counts[name] for node, moved in of_nodes.items()}
        for name, of_nodes in sums.items()
    }


def _means(lowered: OnnxModel, nodes: Collection[str]) -> dict[str, str]:
    """Return int8 convolution -> name of the value that tells how far its means move."""
    return {
        node.name: f"{node.name}/alone.mean"
        for node in lowered.graph.node
        if node.name in nodes and node.op_type in WEIGHT_AXES
    }


def _with_both(reference: OnnxModel, lowered: OnnxModel, nodes: Sequence[str]) -> OnnxModel:
    """Return the float32 graph, with the int8 form of some convolutions beside each of them."""
    both = reference.copy()
    makers = {value: node for node in lowered.graph.node for value in node.output}
    named = {node.name: node for node in lowered.graph.node}
    del both.graph.output[:]
    for name in nodes:
        node = named[name]
        values = {node.input[1]: f"{name}/alone.weight"}
        steps = [makers[node.input[1]], *_rounding_before(node, makers), node]
        for step in steps:
            values |= {value: f"{name}/alone.{value}" for value in step.output}
            both.graph.node.append(_renamed(step, values, f"{name}/alone.{step.name}"))
        moved = f"{name}/alone.moved"
        both.graph.node.extend(
            (
                helper.make_node("Sub", [values[node.output[0]], node.output[0]], [moved]),
                helper.make_node("GlobalAveragePool", [moved], [f"{name}/alone.mean"]),
            )
        )
        both.graph.output.append(
            helper.make_tensor_value_info(f"{name}/alone.mean", TensorProto.FLOAT, None)
        )
    _add_constants(both, lowered)
    return both


def _rounding_before(node: NodeProto, makers: Mapping[str, NodeProto]) -> list[NodeProto]:
    """Return the nodes that round what a convolution reads, the first one first.

    A LeakyReLU reads rounded values, too, and what it is from there on belongs to the convolution's inputs.
    """
    steps: list[NodeProto] = []
    value = node.input[0]
    while (maker := makers.get(value)) is not None and maker.op_type in (*ROUNDING, "LeakyRelu"):
        if maker.op_type == "LeakyRelu" and not _is_rounded(maker, makers):
            break
        steps.insert(0, maker)
        value = maker.input[0]
    return steps


def _is_rounded(node: NodeProto, makers: Mapping[str, NodeProto]) -> bool:
    maker = makers.get(node.input[0])
    return maker is not None and maker.op_type == "DequantizeLinear"


def _renamed(node: NodeProto, values: Mapping[str, str], name: str) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.name = name
    for names in (copy.input, copy.output):
        names[:] = [values.get(value, value) for value in names]
    return copy


def _add_constants(model: OnnxModel, source: OnnxModel) -> None:
    """Give a model the initializers of another one that its nodes read."""
    held = {tensor.name for tensor in model.graph.initializer}
    missing = {value for node in model.graph.node for value in node.input} - held
    for tensor in source.graph.initializer:
        if tensor.name in missing:
            model.add_initializer(tensor.name, source.array(tensor))
