"""Describes a bundle or an ONNX file, and checks that nothing in it is damaged."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import mmap
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeseg_runtime.backends import missing_graph, open_backend
from edgeseg_runtime.bundle.graph_files import all_graphs, read_graph
from edgeseg_runtime.bundle.manifest import Artifact, Graph, Manifest, read_artifact
from edgeseg_runtime.commands.tables import sections_from_document
from edgeseg_runtime.commands.terminal import Terminal
from edgeseg_runtime.errors import BundleError, CorruptArtifact, EdgesegError
from edgeseg_runtime.libraries import import_library
from edgeseg_runtime.onnx.fields import fields_between
from edgeseg_runtime.onnx.summary import in_order, summarise
from edgeseg_runtime.progress import Progress, silent
from edgeseg_runtime.tensorrt.store import cache_folder, list_engines

__all__ = ["inspect", "inspect_path", "summary_from_document"]

ENGINES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
ENGINES_FOLDER = "engines"
MAX_OPERATORS = 16
MAX_ONNX_BYTES = 2**31 - 1


def inspect(terminal: Terminal, path: Path) -> None:
    """Describe a bundle or an ONNX file, in full with -v.

    Raises:
        BundleError: something of the bundle is damaged; it is described all the same.
    """
    with terminal.progress(keeps_stages=False) as progress:
        document = inspect_path(path, progress=progress)
    shown = document if terminal.verbosity > 0 else summary_from_document(document)
    terminal.show(*sections_from_document(shown))
    terminal.finish(document)
    if not document["is_intact"]:
        damaged = [entry["status"] for entry in document["artifacts"] if entry["status"] != "ok"]
        raise BundleError("\n".join(damaged))


def inspect_path(path: Path, *, progress: Progress = silent) -> dict[str, Any]:
    """Return what there is to know of a bundle's folder or an .onnx file, as a JSON document.

    `is_intact` tells whether every file is as recorded.

    Args:
        path: of the folder or the file.
        progress: called as progress(stage, done, total).

    Raises:
        ValueError: the path is neither.
        BundleError: the manifest is missing or damaged, or the file is no ONNX model.
    """
    if path.is_dir():
        return _inspect_bundle(path, progress)
    if not path.is_file():
        raise ValueError(f"{path} does not exist; expected a bundle's folder or an .onnx file")
    if path.suffix.lower() != ".onnx":
        raise ValueError(f"{path} found, expected a bundle's folder or an .onnx file")
    if path.stat().st_size > MAX_ONNX_BYTES:
        raise CorruptArtifact(path.name, "at most 2 GiB", f"{path.stat().st_size} bytes")
    _check_fields(path)
    return {
        "path": str(path),
        "kind": "onnx",
        "size_bytes": path.stat().st_size,
        "is_intact": True,
        **_summary(path.read_bytes(), path.name),
    }


def summary_from_document(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `inspect_path` found without its long parts, which a person rarely wants."""
    summary = dict(document)
    for section, part in (("parity", "stages"), ("provenance", "config")):
        if section in summary:
            summary[section] = {k: v for k, v in summary[section].items() if k != part}
    operators = list(summary["operators"].items()) if "operators" in summary else []
    if len(operators) > MAX_OPERATORS:
        rest = sum(count for _, count in operators[MAX_OPERATORS:])
        summary["operators"] = {**dict(operators[:MAX_OPERATORS]), "all others": rest}
    return summary


def _inspect_bundle(folder: Path, progress: Progress) -> dict[str, Any]:
    manifest = Manifest.load(folder)
    artifacts: list[dict[str, Any]] = []
    for kind, artifact in manifest.artifacts.items():
        progress(f"read {artifact.file}", 0, 1)
        artifacts.append(_artifact(kind, artifact, _status(folder, artifact)))
    document: dict[str, Any] = {
        "path": str(folder),
        "kind": "bundle",
        "is_intact": all(entry["status"] == "ok" for entry in artifacts),
        "model": {
            "name": manifest.name,
            "task": manifest.task,
            "precision": manifest.precision,
            "schema": manifest.schema,
            "requires": list(manifest.requires),
        },
        "inputs": [_tensor(spec) for spec in manifest.inputs],
        "outputs": [_tensor(spec) for spec in manifest.outputs],
        "graphs": {name: _border(graph) for name, graph in manifest.graphs.items()},
        "schedule": dataclasses.asdict(manifest.schedule),
        "preprocess": dataclasses.asdict(manifest.preprocess),
        "variants": {
            name: dataclasses.asdict(variant.preprocess)
            for name, variant in manifest.variants.items()
        },
        "postprocess": dict(manifest.postprocess),
        "labels": {"count": len(manifest.labels), "names": list(manifest.labels)},
        "artifacts": artifacts,
        "parity": dict(manifest.parity),
        "provenance": dict(manifest.provenance),
    }
    if missing_graph(folder, manifest) is None and document["is_intact"]:
        progress("count the operators", 0, 1)
        document |= _inspect_graphs(folder, manifest)
        engine = _engine_at_hand()
        progress(f"load it with {ENGINES[engine]}", 0, 1)
        document[engine] = _loaded(engine, folder, manifest)
    return document


def _inspect_graphs(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Return the operators of the graphs of the model's own shape, and the engines of all shapes."""
    operators: Counter[str] = Counter()
    graphs: dict[str, Any] = {}
    engines: dict[str, dict[str, Any]] = {}
    for label, view, name in all_graphs(manifest):
        content = read_graph(folder, view, name, verify=False)
        for engine in _engines(folder, content):
            engines.setdefault(engine["file"], {"graphs": [], **engine})["graphs"].append(label)
        if label == name:
            graph = view.graphs[name]
            file = manifest.artifact(graph.artifact).file
            found = _summary(content, file)
            operators.update(found["operators"])
            graphs[name] = {**_border(graph), **found["graph"]}
    return {
        "graphs": graphs,
        "operators": in_order(operators),
        "engines": list(engines.values()),
    }


def _engine_at_hand() -> str:
    """Return the first engine for CPUs that can be imported; the first one of all if none can."""
    for name in ENGINES:
        with contextlib.suppress(ImportError):
            import_library(name)
            return name
    return next(iter(ENGINES))


def _loaded(engine: str, folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Return what an engine says of the model, whose digest is known, or why it does not load."""
    try:
        with contextlib.closing(
            open_backend(engine, folder, manifest, threads=1, verify=False)
        ) as backend:
            return {k: v for k, v in backend.describe().items() if k not in {"engine", "threads"}}
    except EdgesegError as error:
        return {"problem": str(error)}


def _status(folder: Path, artifact: Artifact) -> str:
    """Return "ok" of a file that is as recorded, else what is wrong."""
    try:
        read_artifact(folder, artifact)
    except BundleError as error:
        return str(error)
    return "ok"


def _artifact(kind: str, artifact: Artifact, status: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "file": artifact.file,
        "size_bytes": artifact.size_bytes,
        "sha256": artifact.sha256,
        "status": status,
    }


def _tensor(spec: Any) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}


def _border(graph: Graph) -> dict[str, Any]:
    """Return what a graph takes and gives, and what it has to do with the others."""
    document: dict[str, Any] = {
        "artifact": graph.artifact,
        "inputs": [_tensor(spec) for spec in graph.inputs],
        "outputs": [_tensor(spec) for spec in graph.outputs],
    }
    for key in ("takes", "reads", "writes"):
        if getattr(graph, key):
            document[key] = dict(getattr(graph, key))
    if graph.rows is not None:
        document["rows"] = dataclasses.asdict(graph.rows)
    return document


def _summary(raw: bytes, name: str) -> dict[str, Any]:
    """Return opset, producer, operators and border of a graph.

    Raises:
        CorruptArtifact: it is no ONNX model.
    """
    try:
        return summarise(raw)
    except ValueError as error:
        raise CorruptArtifact(name, "an ONNX model", f"something else ({error})") from error


def _check_fields(path: Path) -> None:
    """Walk over the fields of a file without reading what is in them: it may be a hole of 2 GiB."""
    try:
        with (
            path.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view,
        ):
            for _ in fields_between(view, 0, len(view)):
                pass
    except ValueError as error:  # of an empty file, too
        raise CorruptArtifact(path.name, "an ONNX model", f"something else ({error})") from error


def _engines(folder: Path, onnx: bytes) -> list[dict[str, Any]]:
    return [
        {
            "file": str(engine.path),
            "engine": engine.key.flavour,
            "version": engine.key.version,
            "targets": list(engine.key.targets),
            "device": engine.key.device or None,
            "rows": list(engine.key.buckets),
            "size_bytes": engine.size_bytes,
        }
        for place in (folder / ENGINES_FOLDER, cache_folder())
        for engine in list_engines(place, hashlib.sha256(onnx).hexdigest())
    ]
