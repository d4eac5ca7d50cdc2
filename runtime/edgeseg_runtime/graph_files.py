"""Reads the graphs of a bundle, ready for an engine."""

from __future__ import annotations

import os

from edgeseg_runtime.manifest import Manifest, read_artifact
from edgeseg_runtime.onnx_check import check_self_contained
from edgeseg_runtime.shared_weights import with_weights

__all__ = ["read_graph"]


def read_graph(
    folder: str | os.PathLike[str], manifest: Manifest, name: str, *, verify: bool = True
) -> bytes:
    """Return a graph of a bundle as an ONNX model that was verified and holds all of its weights.

    Args:
        folder: the bundle.
        manifest: its manifest, or a view of it.
        name: of the graph.
        verify: compare the files with their sha256.

    Raises:
        BundleError: if a file is missing or damaged, or the model refers to other files.
    """
    graph = manifest.graphs[name]
    artifact = manifest.artifact(graph.artifact)
    onnx = read_artifact(folder, artifact, verify=verify)
    if graph.weights is not None:
        shared = manifest.artifact(graph.weights)
        weights = read_artifact(folder, shared, verify=verify)
        onnx = with_weights(onnx, weights, file=artifact.file, weights_file=shared.file)
    check_self_contained(onnx, file=artifact.file)
    return onnx
