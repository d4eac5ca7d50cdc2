"""Writes nodes and constants of an encoded ONNX model, without a protobuf library.

Field numbers: onnx/onnx.proto. Encoding: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.onnx.fields import VARINT, delimited, encoded_varint

__all__ = ["constant_field", "node_field"]

_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OPERATOR, _NODE_ATTRIBUTE = 1, 2, 3, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_INTS, _ATTRIBUTE_TYPE = 1, 3, 8, 20
_INT, _INTS = 2, 7  # onnx.AttributeProto.AttributeType
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW_DATA = 1, 2, 8, 9
_TYPES = {np.dtype(np.float32): 1, np.dtype(np.int64): 7}  # onnx.TensorProto.DataType


def node_field(
    operator: str, inputs: Sequence[str], output: str, **attributes: int | Sequence[int]
) -> bytes:
    """Return a standard operator with one output as an encoded field of a graph; the output names it."""
    parts = [delimited(_NODE_INPUT, name.encode()) for name in inputs]
    parts += [delimited(number, output.encode()) for number in (_NODE_OUTPUT, _NODE_NAME)]
    parts.append(delimited(_NODE_OPERATOR, operator.encode()))
    parts += [delimited(_NODE_ATTRIBUTE, _attribute(*item)) for item in attributes.items()]
    return delimited(_GRAPH_NODE, b"".join(parts))


def constant_field(name: str, values: npt.NDArray[Any]) -> bytes:
    """Return an array of float32 or int64 as an encoded initializer of a graph."""
    little = values.astype(values.dtype.newbyteorder("<"))
    parts = [_number(_TENSOR_DIMS, size) for size in values.shape]
    parts += [_number(_TENSOR_TYPE, _TYPES[values.dtype]), delimited(_TENSOR_NAME, name.encode())]
    parts.append(delimited(_TENSOR_RAW_DATA, little.tobytes()))
    return delimited(_GRAPH_INITIALIZER, b"".join(parts))


def _attribute(name: str, value: int | Sequence[int]) -> bytes:
    if isinstance(value, int):
        content = _number(_ATTRIBUTE_INT, value) + _number(_ATTRIBUTE_TYPE, _INT)
    else:
        items = b"".join(_number(_ATTRIBUTE_INTS, item) for item in value)
        content = items + _number(_ATTRIBUTE_TYPE, _INTS)
    return delimited(_ATTRIBUTE_NAME, name.encode()) + content


def _number(number: int, value: int) -> bytes:
    """Return a field that holds a whole number; a negative one as its complement of 64 bits."""
    return encoded_varint(number << 3 | VARINT) + encoded_varint(value % 2**64)
