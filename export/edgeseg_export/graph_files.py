"""Writes the graphs of a bundle, and once what they have in common."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

from edgeseg_export.contents import check_exported
from edgeseg_export.onnx_model import Buffer, OnnxModel, num_bytes
from edgeseg_export.trace import ExportError
from edgeseg_export.views import View
from edgeseg_export.weights import share_weights
from edgeseg_runtime.bundle.files import write_atomic
from edgeseg_runtime.bundle.graphs import MAIN
from edgeseg_runtime.bundle.manifest import Artifact, Manifest

ONNX = "onnx"
"""Artifact of the graph of a model that has one."""
MAX_ONNX_BYTES = 2**31 - 1
"""A protobuf's limit; a bundle's graph holds its own weights."""
WEIGHTS, WEIGHTS_FILE = "weights", "weights.safetensors"
"""Artifact and file of the weights that graphs share."""


def write_graphs(views: Sequence[View], folder: Path) -> tuple[list[Manifest], dict[str, Artifact]]:
    """Write the graphs, and once what they have in common.

    Returns:
        The views' manifests, whose graphs name their files, and the files.
    """
    graphs = {
        _artifact_name(view.name, name): graph
        for view in views
        for name, graph in view.graphs.items()
    }
    weights = share_weights(graphs)
    artifacts = {
        key: _write(folder, f"{'model' if key == ONNX else key}.onnx", _encoded(key, graph))
        for key, graph in graphs.items()
    }
    if weights is not None:
        artifacts[WEIGHTS] = _write(folder, WEIGHTS_FILE, [weights])
    manifests = []
    for view in views:
        named = {
            name: dataclasses.replace(
                graph,
                artifact=_artifact_name(view.name, name),
                weights=None if weights is None else WEIGHTS,
            )
            for name, graph in view.manifest.graphs.items()
        }
        manifests.append(dataclasses.replace(view.manifest, graphs=named))
    return manifests, artifacts


def _artifact_name(variant: str, graph: str) -> str:
    name = ONNX if graph == MAIN else graph
    return f"{variant}.{name}" if variant else name


def _encoded(name: str, graph: OnnxModel) -> list[Buffer]:
    pieces = graph.encoded()
    size = num_bytes(pieces)
    if size > MAX_ONNX_BYTES:
        raise ExportError(
            f"the graph {name!r} has {size} bytes, expected at most {MAX_ONNX_BYTES}: "
            "one ONNX file holds no more"
        )
    check_exported(graph.proto.SerializeToString(), name)
    return pieces


def _write(folder: Path, file: str, pieces: Sequence[Buffer]) -> Artifact:
    write_atomic(folder / file, pieces)
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return Artifact(file=file, sha256=digest.hexdigest(), size_bytes=num_bytes(pieces))
