"""Describes a bundle or an ONNX file, and checks that nothing in it is damaged."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import mmap
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg_runtime.backends import missing_graph, open_backend
from edgeseg_runtime.engine_store import cache_folder, list_engines
from edgeseg_runtime.errors import BundleError, CorruptArtifact, EdgesegError
from edgeseg_runtime.graph_files import all_graphs, read_graph
from edgeseg_runtime.manifest import Artifact, Graph, Manifest, read_artifact
from edgeseg_runtime.onnx_fields import fields_between

if TYPE_CHECKING:
    from edgeseg_bench.runner import Progress

OWN_DOMAIN = "edgeseg"
STANDARD_DOMAINS = ("", "ai.onnx")
ENGINES_FOLDER = "engines"
MAX_OPERATORS = 16
MAX_ONNX_BYTES = 2**31 - 1


def inspect_path(
    path: Path, *, progress: Progress = lambda stage, done, total: None
) -> dict[str, Any]:
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
        **_inspect_graph(path.read_bytes(), path.name),
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
        progress("load it with ONNX Runtime", 0, 1)
        document["onnxruntime"] = _loaded(folder, manifest)
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
            found = _inspect_graph(content, file, has_borders=False)
            operators.update(found["operators"])
            graphs[name] = {**_border(graph), **found.get("graph", {})}
    return {
        "graphs": graphs,
        "operators": _in_order(operators),
        "engines": list(engines.values()),
    }


def _loaded(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Return what ONNX Runtime says of the model, whose digest is known, or why it does not load."""
    try:
        with contextlib.closing(
            open_backend("onnxruntime", folder, manifest, threads=1, verify=False)
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


def _inspect_graph(raw: bytes, name: str, *, has_borders: bool = True) -> dict[str, Any]:
    """Return opset, producer and operators of a graph, or only why they are not known."""
    if importlib.util.find_spec("onnx") is None:
        return {"operators": {"unknown": "onnx is not installed; pip install onnx"}}
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return _described_graph(onnx.load_model_from_string(raw), name, has_borders=has_borders)
    except DecodeError as error:
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


def _described_graph(model: Any, name: str, *, has_borders: bool) -> dict[str, Any]:
    if not model.graph.node:
        raise CorruptArtifact(name, "an ONNX model", "no graph")
    document: dict[str, Any] = {
        "graph": {
            "producer": f"{_text(model.producer_name)} {_text(model.producer_version)}".strip(),
            "ir_version": model.ir_version,
            "opsets": {
                _text(entry.domain) or "ai.onnx": entry.version for entry in model.opset_import
            },
            "num_nodes": len(model.graph.node),
            "functions": [
                f"{_text(function.domain)}::{_text(function.name)}" for function in model.functions
            ],
        },
        "operators": _histogram(model),
    }
    if has_borders:
        weights = {tensor.name for tensor in model.graph.initializer}
        document["inputs"] = [
            _value_info(value) for value in model.graph.input if value.name not in weights
        ]
        document["outputs"] = [_value_info(value) for value in model.graph.output]
    return document


def _histogram(model: Any) -> dict[str, int]:
    """Return how often each operator occurs."""
    names = ((_text(node.domain), _text(node.op_type)) for node in model.graph.node)
    counts = Counter(
        operator if domain in STANDARD_DOMAINS else f"{domain}::{operator}"
        for domain, operator in names
    )
    return _in_order(counts)


def _in_order(counts: Mapping[str, int]) -> dict[str, int]:
    """Return counts of operators, edgeseg's own first, then by number."""
    order = sorted(
        counts, key=lambda name: (not name.startswith(f"{OWN_DOMAIN}::"), -counts[name], name)
    )
    return {name: counts[name] for name in order}


def _value_info(value: Any) -> dict[str, Any]:
    import onnx

    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):  # a sequence, a map: not of this project's
        return {
            "name": _text(value.name),
            "dtype": value.type.WhichOneof("value") or "?",
            "shape": [],
        }
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    except KeyError:  # of a newer ONNX, or damaged
        dtype = f"type {tensor.elem_type}"
    return {
        "name": _text(value.name),
        "dtype": dtype,
        "shape": [
            size.dim_value if size.HasField("dim_value") else _text(size.dim_param) or "?"
            for size in tensor.shape.dim
        ],
    }


def _text(value: str | bytes) -> str:
    """Return a text of a protobuf message, which gives bytes where these are not UTF-8."""
    return value if isinstance(value, str) else value.decode("utf-8", "backslashreplace")


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
