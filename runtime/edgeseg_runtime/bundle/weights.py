"""Puts the weights that graphs share into an encoded ONNX model.

The graphs of a bundle may leave out the content of an initializer; it then stands, under the initializer's
name, in a safetensors file beside them (https://github.com/huggingface/safetensors: the size of a JSON header,
the header, the tensors). Nothing refers to that file from within the model, so an engine reads no file at all.

Field numbers: onnx/onnx.proto.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgeseg_runtime.bundle.strict_json import parse_json
from edgeseg_runtime.bundle.values import is_int
from edgeseg_runtime.errors import CorruptArtifact, ManifestError
from edgeseg_runtime.onnx.fields import Field, delimited, fields_between, read_varint, text_of

__all__ = ["with_weights"]

_MODEL_GRAPH, _GRAPH_INITIALIZER = 7, 5
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW_DATA = 1, 2, 8, 9
_TENSOR_CONTENT = frozenset({4, 5, 6, 7, 9, 10, 11, 13})
"""Fields that hold a tensor's content, or name the file that does."""
_TYPES = {  # safetensors -> onnx.TensorProto.DataType, bytes of an element
    "F32": (1, 4),
    "U8": (2, 1),
    "I8": (3, 1),
    "I32": (6, 4),
    "I64": (7, 8),
    "BOOL": (9, 1),
    "F16": (10, 2),
}
_METADATA = "__metadata__"
_MAX_AXES = 16
_MAX_TEXT = 300
_MAX_BYTES = 2**31 - 1
"""Of a model: protobuf's limit."""


@dataclass(frozen=True)
class _Tensor:
    data_type: int
    shape: tuple[int, ...]
    start: int
    end: int


def with_weights(onnx: bytes, weights: bytes, *, file: str, weights_file: str) -> bytes:
    """Return a model in which every initializer has its content.

    Args:
        onnx: the encoded model.
        weights: a safetensors file.
        file: name of the model, for the messages.
        weights_file: name of the other file, for the messages.

    Raises:
        CorruptArtifact: if a file is not of its format, or an initializer without content has no
            tensor of its name, type and shape.
    """
    try:
        tensors = _tensors(weights)
    except (ManifestError, UnicodeDecodeError, ValueError) as error:
        raise CorruptArtifact(weights_file, "a safetensors file", str(error)) from error
    try:
        return _filled(onnx, weights, tensors)
    except ValueError as error:
        raise CorruptArtifact(file, f"a model for {weights_file}", str(error)) from error


def _tensors(weights: bytes) -> dict[str, _Tensor]:
    """Return where the tensors lie in the file.

    Raises:
        ValueError: if the header is not one, or a tensor lies outside of the file or on another.
    """
    size = int.from_bytes(weights[:8], "little")
    first = 8 + size
    if len(weights) < 8 or first > len(weights):
        raise ValueError(f"a header of {size} bytes in a file of {len(weights)}")
    header = parse_json(weights[8:first].decode("utf-8"))
    tensors = {
        name: _tensor(name, entry, first, len(weights))
        for name, entry in header.items()
        if name != _METADATA
    }
    end = first
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if tensor.start < end:
            raise ValueError(f"the tensor {name!r} lies on another one")
        end = tensor.end
    return tensors


def _tensor(name: str, entry: object, first: int, end: int) -> _Tensor:
    if not isinstance(entry, Mapping) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"the tensor {name!r} has no dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    are_lists = isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2
    if (
        not are_lists
        or not isinstance(dtype, str)
        or dtype not in _TYPES
        or len(shape) > _MAX_AXES
        or not all(is_int(size) and size >= 0 for size in (*shape, *offsets))
    ):
        raise ValueError(f"the tensor {name!r} has dtype {dtype!r}, shape {shape!r}"[:_MAX_TEXT])
    data_type, itemsize = _TYPES[dtype]
    low, high = first + offsets[0], first + offsets[1]
    if high > end or high - low != math.prod(shape) * itemsize:
        raise ValueError(f"the tensor {name!r} does not lie where its data_offsets say")
    return _Tensor(data_type, tuple(shape), low, high)


def _filled(onnx: bytes, weights: bytes, tensors: Mapping[str, _Tensor]) -> bytes:
    """Return the model; what is not filled is copied as it stands."""
    parts = []
    for field in fields_between(onnx, 0, len(onnx)):
        if field.number == _MODEL_GRAPH and field.has_content:
            graph = _filled_graph(onnx, field, weights, tensors)
            parts.append(delimited(_MODEL_GRAPH, graph))
        else:
            parts.append(onnx[field.start : field.end])
    return b"".join(parts)


def _filled_graph(
    onnx: bytes, graph: Field, weights: bytes, tensors: Mapping[str, _Tensor]
) -> bytes:
    parts = []
    num_left = _MAX_BYTES  # several initializers may ask for the same bytes
    for field in fields_between(onnx, graph.content, graph.end):
        content = b""
        if field.number == _GRAPH_INITIALIZER and field.has_content:
            content = _missing_content(onnx, field, weights, tensors)
        num_left -= len(content)
        if num_left < 0:
            raise ValueError(f"more than {_MAX_BYTES} bytes of shared weights in one graph")
        if content:
            initializer = onnx[field.content : field.end] + content
            parts.append(delimited(_GRAPH_INITIALIZER, initializer))
        else:
            parts.append(onnx[field.start : field.end])
    return b"".join(parts)


def _missing_content(
    onnx: bytes, initializer: Field, weights: bytes, tensors: Mapping[str, _Tensor]
) -> bytes:
    """Return the field that an initializer lacks, or nothing if it has all."""
    name, data_type, shape = "", 0, []
    for field in fields_between(onnx, initializer.content, initializer.end):
        if field.number in _TENSOR_CONTENT:
            return b""
        if field.number == _TENSOR_NAME:
            name = text_of(onnx[field.content : field.end])
        elif field.number == _TENSOR_TYPE:
            data_type = field.value
        elif field.number == _TENSOR_DIMS:
            shape += _dims(onnx, field)
    if 0 in shape:
        return b""
    found = tensors.get(name)
    if found is None or (found.data_type, found.shape) != (data_type, tuple(shape)):
        raise ValueError(f"the weights hold no {name!r} of type {data_type} and shape {shape}")
    return delimited(_TENSOR_RAW_DATA, weights[found.start : found.end])


def _dims(onnx: bytes, field: Field) -> list[int]:
    """Return the sizes that a field holds: one, or several in the packed form."""
    if not field.has_content:
        return [field.value]
    sizes: list[int] = []
    position = field.content
    while position < field.end:
        if len(sizes) == _MAX_AXES:
            raise ValueError(f"a tensor of more than {_MAX_AXES} axes")
        size, position = read_varint(onnx, position, field.end)
        sizes.append(size)
    return sizes
