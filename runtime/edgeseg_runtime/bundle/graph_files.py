"""Reads the graphs of a bundle, ready for an engine."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from typing import NamedTuple

from edgeseg_runtime.bundle.manifest import Manifest, read_artifact
from edgeseg_runtime.bundle.weights import with_weights
from edgeseg_runtime.onnx.check import check_graph

__all__ = ["GraphOrigin", "all_graphs", "read_graph"]


class GraphOrigin(NamedTuple):
    """Where a graph of a bundle stands.

    Attributes:
        label: what to call it, such as "detect" or, of a variant, "portrait.detect".
        view: the manifest of the variant that has it.
        name: its name there.
    """

    label: str
    view: Manifest
    name: str


def all_graphs(manifest: Manifest) -> Iterator[GraphOrigin]:
    """Yield every graph of every variant."""
    for variant, view in zip(("", *manifest.variants), manifest.views, strict=True):
        for name in view.graphs:
            yield GraphOrigin(f"{variant}.{name}" if variant else name, view, name)


def read_graph(
    folder: str | os.PathLike[str],
    manifest: Manifest,
    name: str,
    *,
    verify: bool = True,
    allow_operators: Collection[str] = (),
) -> bytes:
    """Return a graph of a bundle as an ONNX model that an engine may see, with all of its weights.

    Args:
        folder: the bundle.
        manifest: its manifest, or a view of it.
        name: of the graph.
        verify: compare the files with their sha256.
        allow_operators: operators that the caller vouches for, see `onnx.check.check_graph`.

    Raises:
        BundleError: if a file is missing or damaged, or the model holds what no bundle may hold.
    """
    graph = manifest.graphs[name]
    artifact = manifest.artifact(graph.artifact)
    onnx = read_artifact(folder, artifact, verify=verify)
    if graph.weights is not None:
        shared = manifest.artifact(graph.weights)
        weights = read_artifact(folder, shared, verify=verify)
        onnx = with_weights(onnx, weights, file=artifact.file, weights_file=shared.file)
    check_graph(onnx, file=artifact.file, allow_operators=allow_operators)
    return onnx
