"""Puts weights that graphs share into one file, so that a bundle holds them once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping

import onnx
from onnx import TensorProto, numpy_helper
from safetensors.numpy import save

MIN_BYTES = 1024
"""Smaller tensors stay in their graphs."""

Key = tuple[int, tuple[int, ...], bytes]


def share_weights(graphs: Mapping[str, onnx.ModelProto]) -> bytes | None:
    """Take what graphs have in common out of them and return it as a safetensors file, or None.

    A tensor is shared by its name, and only where it has the same content in every graph that has one of
    that name. What is left of it in the graphs are name, type and shape.

    Args:
        graphs: complete; changed in place if something is shared.
    """
    if len(graphs) < 2:
        return None
    counts: Counter[str] = Counter()
    contents: dict[str, set[Key]] = {}
    tensors: dict[str, list[TensorProto]] = {}
    for graph in graphs.values():
        for tensor in graph.graph.initializer:
            if len(tensor.raw_data) >= MIN_BYTES:
                counts[tensor.name] += 1
                contents.setdefault(tensor.name, set()).add(_key(tensor))
                tensors.setdefault(tensor.name, []).append(tensor)
    shared = [name for name, count in counts.items() if count > 1 and len(contents[name]) == 1]
    if not shared:
        return None
    content = save({name: numpy_helper.to_array(tensors[name][0]) for name in shared})
    for name in shared:
        for tensor in tensors[name]:
            tensor.ClearField("raw_data")
    return content


def _key(tensor: TensorProto) -> Key:
    return tensor.data_type, tuple(tensor.dims), hashlib.sha256(tensor.raw_data).digest()
