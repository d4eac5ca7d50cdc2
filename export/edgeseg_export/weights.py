"""Puts weights that graphs share into one file, so that a bundle holds them once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
from safetensors.numpy import save

from edgeseg_export.onnx_model import Array, OnnxModel


def share_arrays(models: Iterable[OnnxModel]) -> None:
    """Let models have one array where each has its own of the same name and content."""
    known: dict[str, Array] = {}
    for model in models:
        for name, value in model.weights.items():
            first = known.setdefault(name, value)
            if _is_same(first, value):
                model.weights[name] = first


def share_weights(graphs: Mapping[str, OnnxModel]) -> bytes | None:
    """Take what graphs have in common out of them and return it as a safetensors file, or None.

    A tensor is shared by its name, and only where it has the same content in every graph that has one of
    that name. What is left of it in the graphs are name, type and shape.

    Args:
        graphs: complete; changed in place if something is shared.
    """
    holders: dict[str, list[dict[str, Array]]] = defaultdict(list)
    for graph in graphs.values():
        for name in graph.weights:
            holders[name].append(graph.weights)
    shared = {
        name: first[name]
        for name, (first, *others) in holders.items()
        if others and all(_is_same(first[name], other[name]) for other in others)
    }
    if not shared:
        return None
    for name in shared:
        for weights in holders[name]:
            del weights[name]
    return save(shared)


def _is_same(one: Array, other: Array) -> bool:
    """Tell whether two arrays have the same type, shape and bits."""
    if one is other:
        return True
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return np.array_equal(one.reshape(-1).view(np.uint8), other.reshape(-1).view(np.uint8))
