"""Compares what our reader of ONNX files finds in one with what protobuf finds, at any depth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from edgeseg_runtime.onnx.model import Function, Graph, Model, Node, Tensor, ValueInfo

BFLOAT16 = 16


def assert_same_model(model: Model, reference: onnx.ModelProto) -> None:
    """Raise AssertionError where the two differ, or where a tensor keeps its data elsewhere."""
    for tensor in tensors_of(reference):
        assert not tensor.external_data, "data elsewhere"
        assert not tensor.data_location, "data elsewhere"
    assert not reference.training_info
    assert model.ir_version == reference.ir_version
    assert dict(model.opsets) == _opsets(reference)
    _assert_same_graph(model.graph, reference.graph)
    assert len(model.functions) == len(reference.functions)
    for function, other in zip(model.functions.values(), reference.functions, strict=True):
        _assert_same_function(function, other)


def tensors_of(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield all tensors of a model: initializers and attributes, in subgraphs and functions too."""
    pending: list[Any] = [model.graph, *model.functions]
    while pending:
        body = pending.pop()
        yield from getattr(body, "initializer", ())
        for sparse in getattr(body, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for attribute in (a for node in body.node for a in node.attribute):
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            pending += [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]


def _opsets(message: Any) -> dict[str, int]:
    return {
        "" if item.domain == "ai.onnx" else item.domain: item.version
        for item in message.opset_import
    }


def _assert_same_function(function: Function, other: onnx.FunctionProto) -> None:
    assert function.key == (other.domain, other.name, other.overload)
    assert function.inputs == (*other.input,)
    assert function.outputs == (*other.output,)
    assert dict(function.opsets) == _opsets(other)
    _assert_same_values(function.values, other.value_info)
    _assert_same_nodes(function.nodes, other.node)


def _assert_same_graph(graph: Graph, other: onnx.GraphProto) -> None:
    assert not other.sparse_initializer
    _assert_same_values(graph.inputs, other.input)
    _assert_same_values(graph.outputs, other.output)
    _assert_same_values(graph.values, other.value_info)
    assert [tensor.name for tensor in graph.initializers] == [t.name for t in other.initializer]
    for tensor, twin in zip(graph.initializers, other.initializer, strict=True):
        _assert_same_tensor(tensor, twin)
    _assert_same_nodes(graph.nodes, other.node)


def _assert_same_values(values: tuple[ValueInfo, ...], others: Any) -> None:
    assert [value.name for value in values] == [other.name for other in others]
    for value, other in zip(values, others, strict=True):
        assert other.type.WhichOneof("value") == "tensor_type"
        kind = other.type.tensor_type
        shape = None
        if kind.HasField("shape"):
            shape = tuple(
                size.dim_value if size.HasField("dim_value") else None for size in kind.shape.dim
            )
        assert (value.dtype, value.shape) == (kind.elem_type, shape)


def _assert_same_nodes(nodes: tuple[Node, ...], others: Any) -> None:
    assert len(nodes) == len(others)
    for node, other in zip(nodes, others, strict=True):
        domain = "" if other.domain == "ai.onnx" else other.domain
        assert (node.domain, node.operator, node.overload) == (
            domain,
            other.op_type,
            other.overload,
        )
        assert (node.inputs, node.outputs) == ((*other.input,), (*other.output,))
        assert node.name == other.name
        assert [*node.attributes] == [item.name for item in other.attribute]
        for (kind, value), item in zip(node.attributes.values(), other.attribute, strict=True):
            assert kind == item.type
            assert not item.ref_attr_name
            _assert_same_attribute(value, onnx.helper.get_attribute_value(item))


def _assert_same_attribute(value: Any, twin: Any) -> None:
    if isinstance(value, Tensor):
        _assert_same_tensor(value, twin)
    elif isinstance(value, Graph):
        _assert_same_graph(value, twin)
    elif isinstance(value, bytes):
        assert value == twin
    elif isinstance(value, list) and value and isinstance(value[0], bytes):
        assert value == list(twin)
    else:
        assert np.array_equal(np.asarray(value), np.asarray(twin), equal_nan=True)


def _assert_same_tensor(tensor: Tensor, twin: onnx.TensorProto) -> None:
    assert (tensor.name, tensor.dtype, tensor.shape) == (twin.name, twin.data_type, (*twin.dims,))
    array = tensor.array()
    if array is None or tensor.dtype == BFLOAT16:
        return
    assert np.array_equal(
        array.reshape(-1).view(np.uint8)
        if array.flags.contiguous
        else array.ravel().view(np.uint8),
        np.ascontiguousarray(numpy_helper.to_array(twin)).reshape(-1).view(np.uint8),
    )
