"""An ONNX model whose large weights stand beside its protobuf, where copies of it share them.

A protobuf message is copied with every byte that is in it, and memory of what is deleted from one goes back
only with the whole message. An export makes half a dozen copies of a graph that differ in a few nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeseg_runtime.onnx.fields import Field, fields_between, opening, text_of

Array = npt.NDArray[Any]
Buffer = bytes | memoryview

MIN_BYTES = 1024
"""Smaller tensors stay in the protobuf."""

IN_MEMORY = "#weights"
"""A place of external data other than a file: what begins with # lies in memory (onnx/model_container.py)."""

_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_NAME, _TENSOR_RAW_DATA = 7, 5, 8, 9


@dataclass
class OnnxModel:
    """A model; `graph` and `proto` may be changed in place.

    Attributes:
        proto: all of it but the content of large initializers, of which it has name, type and shape.
        weights: that content, by the initializers' names. The arrays are shared, with other models and
            with the parameters of PyTorch's: they are replaced, never written to.
    """

    proto: onnx.ModelProto
    weights: dict[str, Array] = field(default_factory=dict)

    @property
    def graph(self) -> onnx.GraphProto:
        """The graph of the protobuf."""
        return self.proto.graph

    def copy(self) -> OnnxModel:
        """Return a model of its own with the same weights."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        return OnnxModel(proto, dict(self.weights))

    def array(self, initializer: TensorProto) -> Array:
        """Return the content of one of the graph's initializers; read-only."""
        held = self.weights.get(initializer.name)
        return numpy_helper.to_array(initializer) if held is None else held

    def add_initializer(self, name: str, value: Array) -> None:
        """Give the graph a further initializer."""
        if value.nbytes < MIN_BYTES:
            self.graph.initializer.append(numpy_helper.from_array(value, name))
            return
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        self.graph.initializer.append(TensorProto(name=name, data_type=kind, dims=value.shape))
        self.weights[name] = np.ascontiguousarray(value)

    def keep_initializers(self, names: Collection[str]) -> None:
        """Drop the initializers that have other names."""
        kept = [tensor for tensor in self.graph.initializer if tensor.name in names]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)
        self.weights = {name: value for name, value in self.weights.items() if name in names}

    def described(self) -> onnx.ModelProto:
        """Return a copy of the protobuf that says of what it does not hold that it lies in memory."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        for initializer in proto.graph.initializer:
            if initializer.name in self.weights:
                initializer.data_location = TensorProto.EXTERNAL
                initializer.external_data.add(key="location", value=IN_MEMORY)
        return proto

    def to_proto(self) -> onnx.ModelProto:
        """Return the whole model as one protobuf."""
        return onnx.ModelProto.FromString(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return the whole model, encoded."""
        return b"".join(self.encoded())

    def encoded(self) -> list[Buffer]:
        """Return the whole model as `SerializeToString` would, in pieces; of the weights nothing is copied."""
        skeleton = self.proto.SerializeToString(deterministic=True)
        pieces: list[Buffer] = []
        for entry in fields_between(skeleton, 0, len(skeleton)):
            if entry.number == _MODEL_GRAPH:
                graph = list(self._encoded_graph(skeleton, entry))
                pieces += [opening(_MODEL_GRAPH, num_bytes(graph)), *graph]
            else:
                pieces.append(skeleton[entry.start : entry.end])
        return pieces

    def _encoded_graph(self, skeleton: bytes, graph: Field) -> Iterator[Buffer]:
        for entry in fields_between(skeleton, graph.content, graph.end):
            value = None
            if entry.number == _GRAPH_INITIALIZER:
                value = self.weights.get(_name_of(skeleton, entry))
            if value is None:
                yield skeleton[entry.start : entry.end]
                continue
            described = skeleton[entry.content : entry.end]
            content = opening(_TENSOR_RAW_DATA, value.nbytes)
            size = len(described) + len(content) + value.nbytes
            yield opening(_GRAPH_INITIALIZER, size) + described + content
            yield value.reshape(-1).view(np.uint8).data


def model_from_proto(proto: onnx.ModelProto) -> OnnxModel:
    """Return a protobuf with its large weights beside it; the protobuf itself stays as it is."""
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(proto)
    model = OnnxModel(skeleton)
    tensors = list(skeleton.graph.initializer)
    del skeleton.graph.initializer[:]
    for tensor in tensors:
        model.add_initializer(tensor.name, numpy_helper.to_array(tensor))
    return model.copy()  # without what the deleted ones have left in memory


def num_bytes(pieces: Collection[Buffer]) -> int:
    """Return the size of all pieces together."""
    return sum(len(piece) for piece in pieces)


def _name_of(skeleton: bytes, initializer: Field) -> str:
    names = (
        text_of(skeleton[entry.content : entry.end])
        for entry in fields_between(skeleton, initializer.content, initializer.end)
        if entry.number == _TENSOR_NAME
    )
    return next(names, "")
