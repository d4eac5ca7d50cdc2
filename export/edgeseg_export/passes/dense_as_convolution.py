"""Writes fully connected layers as 1x1 convolutions, which every GPU architecture compiles in fp32.

TensorRT-RTX 1.7 has no fp32 matrix product for Turing (sm75): "FP32 GEMM is not supported".
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper


def dense_as_convolution(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with y = x W^T + b, x (R, K), as a convolution over (1, K, R, 1).

    Only products with constant weights are changed; the transpositions between consecutive layers
    cancel in the engines' optimisers.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    axes = "dense_as_convolution.axes"
    for node in model.graph.node:
        if not _is_dense(node, weights):
            nodes.append(node)
            continue
        kernel = _as_kernel(weights[node.input[1]])
        if kernel is not None:
            weights[kernel.name].CopyFrom(kernel)
        nodes.extend(_convolution(node, axes))
    if len(nodes) > len(model.graph.node):
        model.graph.initializer.append(numpy_helper.from_array(np.array([0, 3]), axes))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _is_dense(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> bool:
    if node.op_type != "Gemm" or node.domain or node.input[1] not in weights:
        return False
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    is_plain = attributes.get("alpha", 1.0) == 1.0 and attributes.get("beta", 1.0) == 1.0
    return is_plain and attributes.get("transB", 0) == 1 and attributes.get("transA", 0) == 0


def _as_kernel(weight: onnx.TensorProto) -> onnx.TensorProto | None:
    """Return (N, K) weights as (N, K, 1, 1), or None where another layer shares them already."""
    if len(weight.dims) != 2:
        return None
    kernel = onnx.TensorProto()
    kernel.CopyFrom(weight)
    kernel.dims.extend((1, 1))
    return kernel


def _convolution(node: onnx.NodeProto, axes: str) -> list[onnx.NodeProto]:
    x, y = node.input[0], node.output[0]
    return [
        helper.make_node("Transpose", [x], [f"{y}.columns"], perm=[1, 0]),
        helper.make_node("Unsqueeze", [f"{y}.columns", axes], [f"{y}.map"]),
        helper.make_node(
            "Conv", [f"{y}.map", *node.input[1:]], [f"{y}.convolved"], kernel_shape=[1, 1]
        ),
        helper.make_node("Squeeze", [f"{y}.convolved", axes], [f"{y}.rows"]),
        helper.make_node("Transpose", [f"{y}.rows"], [y], perm=[1, 0]),
    ]
