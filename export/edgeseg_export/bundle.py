"""Exports a reference model as a bundle: a folder that a device needs nothing else than."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import glob
import hashlib
import os
import platform
import secrets
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from edgeseg.models import PrecisionRecipe, get_spec, model_manifest
from edgeseg.models.reference import ReferenceModel
from edgeseg_export.agreement import check_agreement, measure_agreement
from edgeseg_export.calibration import METHODS, calibrate
from edgeseg_export.functions import add_functions
from edgeseg_export.parity import Image, Parity, measure_parity
from edgeseg_export.passes import Pass, apply
from edgeseg_export.passes.drop_outputs import drop_outputs
from edgeseg_export.passes.fold_constants import fold_constants
from edgeseg_export.passes.fold_norms import fold_norms
from edgeseg_export.passes.name_operators import name_operators
from edgeseg_export.passes.opset import OLDER_OPSET, to_opset17
from edgeseg_export.passes.strip_metadata import strip_metadata
from edgeseg_export.precision import (
    PRECISIONS,
    assign,
    convert,
    values_needed,
    values_unclipped,
)
from edgeseg_export.search import DEFAULT_MAX_DROP, search, values_for_search
from edgeseg_export.trace import OPSET, ExportError, stage_names, trace
from edgeseg_runtime import __version__
from edgeseg_runtime.engine_key import PORTABLE, group_targets
from edgeseg_runtime.engines import build_bundle
from edgeseg_runtime.files import sync_folder, write_atomic
from edgeseg_runtime.manifest import FILE_NAME, Artifact, Manifest, TensorSpec

ONNX_FILE = "model.onnx"
MAX_ONNX_BYTES = 2**31 - 1
"""A protobuf's limit; a bundle's graph holds its own weights."""
GRAPH_PASSES = (
    name_operators,
    strip_metadata,
    fold_constants,
    fold_norms,
)
"""What every graph goes through; edgeseg's operators get their bodies last, see `complete_graph`."""
COMPLETING_PASSES: dict[int, tuple[Pass, ...]] = {
    OLDER_OPSET: (add_functions, to_opset17),
    OPSET: (add_functions,),
}
"""Opset that a graph can be written in -> what completes it."""
ENGINES = ("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx")
COMPILED = ("tensorrt", "tensorrt_rtx")
"""Engines that an export compiles right away."""
LITTER_AGE_S = 24 * 3600
"""After this long, an unfinished folder is that of an export that was killed."""
AUTO = "auto"
"""Precision that is searched: see `search.py`."""
CALIBRATED = ("int8", "mixed", AUTO)
"""Precisions with int8 values, whose ranges are found on pictures."""

Progress = Callable[[str, int, int], None]
"""Called as progress(stage, done, total)."""


def export_bundle(
    model: ReferenceModel,
    folder: str | os.PathLike[str],
    *,
    opset: int = OPSET,
    precision: str = "fp32",
    calibration: Sequence[Image] | None = None,
    calibration_method: str = "minmax",
    max_drop: float = DEFAULT_MAX_DROP,
    backends: Sequence[str] = ("onnxruntime",),
    targets: Sequence[str] = (),
    dynamic_batch: bool = False,
    images: Sequence[Image] | None = None,
    num_images: int = 4,
    tolerance: float = 1e-3,
    allow_mismatch: bool = False,
    overwrite: bool = False,
    command: Sequence[str] | None = None,
    weights_source: str | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Path:
    """Export ``model`` to ``folder`` and prove that the graph computes what the model computes.

    The folder appears complete or not at all: it is written under another name and renamed.

    Args:
        model: made by ``edgeseg.create_model``.
        folder: must not exist, or be empty, unless ``overwrite``.
        opset: 20, or 17 for TensorRT 8.5 and 8.6 (JetPack 5, 6.0), which read nothing newer; the
            results are the same.
        precision: "fp32", "fp16", "int8", "mixed" (int8 and fp16), see `precision.py`, or "auto":
            int8 where that loses little. Below fp32, the manifest also tells how far the results
            agree with those of the fp32 graph.
        calibration: pictures like those of the application, (H, W, 3) uint8 BGR, on which the
            ranges of int8 values are found; "int8", "mixed" and "auto" need them, 100 are usual.
        calibration_method: "minmax", "entropy" or "percentile"; see `calibration.py`.
        max_drop: for "auto", how far agreement with fp32 may be below 1; see `search.py`.
        backends: engines that the bundle is for. All of them read the same ONNX file; "tensorrt"
            and "tensorrt_rtx" are compiled right away as ``edgeseg build`` would.
        targets: GPU architectures for "tensorrt_rtx", such as "sm86"; all from Ampere on if empty.
        dynamic_batch: leave the batch axis free; otherwise it is 1.
        images: pictures for the parity check, (H, W, 3) uint8 BGR; the first ``num_images``
            of the built-in shapes data if None.
        num_images: how many built-in pictures to take.
        tolerance: bound of the relative difference of any stage from the PyTorch model.
        allow_mismatch: write the bundle even if the check fails; the manifest says so.
        overwrite: replace an existing bundle.
        command: the command line, for the record.
        weights_source: where the weights came from, for the record: ``edgeseg bench`` rebuilds
            the model from there.
        progress: called as progress(stage, done, total).

    Returns:
        The folder.

    Raises:
        ValueError: an option that does not exist.
        FileExistsError: ``folder`` holds something and ``overwrite`` is not set.
        ExportError: the model cannot be turned into a graph.
        ParityError: the graph differs from the model, or in lower precision finds other things than
            in float32; nothing is written.
    """
    folder = Path(folder)
    _check_options(opset, precision, calibration, calibration_method, max_drop, backends, targets)
    _check_folder(folder, overwrite=overwrite)
    was_training = model.training
    model.eval()
    try:
        progress("trace", 0, 1)
        manifest = model_manifest(model)
        pictures, data = _pictures(images, num_images, manifest)
        plain = trace_graph(model, manifest, dynamic_batch=dynamic_batch)
        tapped = complete_graph(plain, opset=opset)
        outputs = [spec.name for spec in manifest.outputs]
        graph = drop_outputs(tapped, outputs)
        progress("parity", 0, len(pictures))
        parity = _measure(model, tapped, graph, manifest, pictures, data, tolerance, progress)
        if not allow_mismatch:
            parity.check()
    finally:
        model.train(was_training)
    if dynamic_batch:
        manifest = _with_free_batch(manifest)
    loss: dict[str, Any] = {}
    if precision != "fp32":
        reference = graph
        graph, precision, loss = _lower(
            drop_outputs(plain, outputs),
            reference,
            manifest,
            recipe=get_spec(manifest.name).precision,
            opset=opset,
            precision=precision,
            calibration=calibration if calibration is not None else pictures,
            method=calibration_method,
            max_drop=max_drop,
            pictures=pictures,
            progress=progress,
        )
        if not allow_mismatch:
            check_agreement(loss["precision"]["agreement_with_fp32"], precision)
    progress("write", 0, 1)
    with _new_folder(folder, overwrite=overwrite) as partial_folder:
        artifact = _write_graph(graph, partial_folder)
        dataclasses.replace(
            manifest,
            precision=precision,
            artifacts={"onnx": artifact},
            parity=parity.to_json() | loss,
            provenance=_provenance(model, opset, command, weights_source),
        ).save(partial_folder)
        _compile(partial_folder, backends, targets, progress)
        progress("finish", 0, 1)  # what is cancelled by now leaves nothing
    return folder


def trace_graph(
    model: ReferenceModel, manifest: Manifest, *, dynamic_batch: bool = False
) -> onnx.ModelProto:
    """Return the model's graph with every intermediate stage as a further output.

    edgeseg's operators have no bodies yet: see :func:`complete_graph`.
    """
    plain = trace(model, manifest, taps=stage_names(model, manifest), dynamic_batch=dynamic_batch)
    plain = apply(plain, GRAPH_PASSES)
    plain.producer_name = "edgeseg"
    plain.producer_version = __version__
    return plain


def complete_graph(plain: onnx.ModelProto, *, opset: int = OPSET) -> onnx.ModelProto:
    """Return a copy of a graph in which edgeseg's operators have bodies, so that any engine runs it.

    Args:
        plain: from :func:`trace_graph`.
        opset: of the copy, one of `COMPLETING_PASSES`.

    Raises:
        ExportError: the result is not valid ONNX.
    """
    complete = onnx.ModelProto()
    complete.CopyFrom(plain)
    complete = apply(complete, COMPLETING_PASSES[opset])
    try:
        onnx.checker.check_model(complete)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the graph is not valid ONNX: {error}") from error
    return complete


def _lower(
    plain: onnx.ModelProto,
    reference: onnx.ModelProto,
    manifest: Manifest,
    *,
    recipe: PrecisionRecipe,
    opset: int,
    precision: str,
    calibration: Sequence[Image],
    method: str,
    max_drop: float,
    pictures: Sequence[Image],
    progress: Progress,
) -> tuple[onnx.ModelProto, str, dict[str, Any]]:
    """Return the graph in a lower precision, which one that is, and what it cost, for the manifest.

    Args:
        plain: the float32 graph, edgeseg's operators without bodies.
        reference: the same, complete.
        manifest: of the model.
        recipe: which modules may compute in which precision.
        opset: of the graph.
        precision: see :func:`export_bundle`.
        calibration: pictures to find the ranges of values on.
        method: of calibration.
        max_drop: what a search may lose.
        pictures: to compare the results on.
        progress: called as progress(stage, done, total).
    """
    complete = functools.partial(complete_graph, opset=opset)
    is_searched = precision == AUTO
    assignment = assign(plain, recipe, "int8" if is_searched else precision)
    values = values_for_search(plain, recipe) if is_searched else values_needed(plain, assignment)
    magnitudes = calibrate(
        reference,
        manifest,
        calibration,
        values,
        method=method,
        unclipped=values_unclipped(plain, assignment),
        on_step=functools.partial(progress, "calibrate"),
    )
    table: dict[str, Any] = {}
    if is_searched:
        found = search(
            plain,
            manifest,
            recipe,
            magnitudes,
            calibration,
            complete=complete,
            max_drop=max_drop,
            progress=progress,
        )
        assignment = dict(found.assignment)
        precision = "int8" if assignment else "fp32"
        table = {"search": found.to_json()}
    graph = complete(convert(plain, assignment, magnitudes))
    agreement = measure_agreement(
        reference,
        graph,
        manifest,
        pictures,
        on_picture=functools.partial(progress, "agreement with fp32"),
    )
    counts = Counter(assignment.values())
    loss = {
        "num_nodes": dict(sorted(counts.items())),
        "calibration": method,
        "num_calibration": len(calibration),
        "agreement_with_fp32": agreement,
        **table,
    }
    return graph, precision, {"precision": loss}


def weights_sha256(model: ReferenceModel) -> str:
    """Return the digest of a model's parameters and buffers, names included."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()


def _check_options(
    opset: int,
    precision: str,
    calibration: Sequence[Image] | None,
    method: str,
    max_drop: float,
    backends: Sequence[str],
    targets: Sequence[str],
) -> None:
    if opset not in COMPLETING_PASSES:
        raise ValueError(
            f"opset {opset} found, expected one of {', '.join(map(str, COMPLETING_PASSES))}"
        )
    known = (*PRECISIONS, AUTO)
    if precision not in known:
        raise ValueError(f"precision {precision!r} found, expected one of {', '.join(known)}")
    if precision in CALIBRATED and not calibration:
        raise ValueError(
            f"precision {precision!r} found without pictures to calibrate on; give some like those "
            "of the application (--calibrate), 100 are usual"
        )
    if precision == "fp32" and calibration is not None:
        raise ValueError("calibration found, expected None: fp32 needs no calibration")
    if method not in METHODS:
        raise ValueError(
            f"calibration method {method!r} found, expected one of {', '.join(METHODS)}"
        )
    if not 0 <= max_drop <= 1:
        raise ValueError(f"max_drop {max_drop} found, expected 0 to 1, a loss of agreement")
    unknown = sorted(set(backends) - set(ENGINES))
    if unknown or not backends:
        raise ValueError(f"backends {list(backends)} found, expected some of {', '.join(ENGINES)}")
    if targets and "tensorrt_rtx" not in backends:
        raise ValueError(
            f"targets {', '.join(targets)} found for {', '.join(backends)}; only tensorrt_rtx "
            "compiles for other machines: add it to the backends, or leave the targets out"
        )
    if targets:
        group_targets(targets)


def _check_folder(folder: Path, *, overwrite: bool) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise FileExistsError(f"{folder} is not a folder; give another name for the bundle")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise FileExistsError(f"{folder} is not empty; give another folder, or --overwrite")
    if not (folder / FILE_NAME).is_file():
        raise FileExistsError(
            f"{folder} holds something else than a bundle and is not overwritten; give another folder"
        )


def _pictures(
    images: Sequence[Image] | None, num_images: int, manifest: Manifest
) -> tuple[Sequence[Image], str]:
    """Return the pictures to compare on, by default built-in ones with what the model looks for."""
    if images is not None:
        if not len(images):
            raise ValueError("images is empty, expected at least one picture")
        return images, "given pictures"
    from edgeseg_bench.datasets import open_dataset
    from edgeseg_bench.evaluation import dataset_kind, pictures_seen

    dataset = open_dataset("shapes", kind=dataset_kind(manifest), limit=num_images)
    seen = pictures_seen(manifest, dataset, limit=num_images)
    return [picture.image for picture in seen], dataset.name


def _measure(
    model: ReferenceModel,
    tapped: onnx.ModelProto,
    exported: onnx.ModelProto,
    manifest: Manifest,
    pictures: Sequence[Image],
    data: str,
    tolerance: float,
    progress: Progress,
) -> Parity:
    done = iter(range(1, len(pictures) + 1))
    return measure_parity(
        model,
        tapped,
        exported,
        manifest,
        pictures,
        data=data,
        tolerance=tolerance,
        on_image=lambda: progress("parity", next(done), len(pictures)),
    )


def _with_free_batch(manifest: Manifest) -> Manifest:
    def free(specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(dataclasses.replace(spec, shape=(-1, *spec.shape[1:])) for spec in specs)

    return dataclasses.replace(
        manifest, inputs=free(manifest.inputs), outputs=free(manifest.outputs)
    )


def _write_graph(graph: onnx.ModelProto, folder: Path) -> Artifact:
    if graph.ByteSize() > MAX_ONNX_BYTES:
        raise ExportError(
            f"the graph has {graph.ByteSize()} bytes, expected at most {MAX_ONNX_BYTES}: "
            "one ONNX file holds no more"
        )
    raw = graph.SerializeToString(deterministic=True)
    write_atomic(folder / ONNX_FILE, raw)
    return Artifact(file=ONNX_FILE, sha256=hashlib.sha256(raw).hexdigest(), size_bytes=len(raw))


def _compile(
    folder: Path, backends: Sequence[str], targets: Sequence[str], progress: Progress
) -> None:
    for backend in backends:
        if backend in COMPILED:
            stage = f"compile for {backend}"
            progress(stage, 0, 1)
            # Its many phases are one stage here; being called at all lets Ctrl-C end the build.
            build_bundle(
                folder,
                flavour=backend,
                targets=(targets or (PORTABLE,)) if backend == "tensorrt_rtx" else None,
                progress=functools.partial(_report_stage, progress, stage),
            )


def _report_stage(
    progress: Progress, stage: str, _phase: str, _num_done: int, _num_steps: int
) -> None:
    progress(stage, 0, 1)


def _provenance(
    model: ReferenceModel, opset: int, command: Sequence[str] | None, weights_source: str | None
) -> dict[str, Any]:
    return {
        "edgeseg": __version__,
        "opset": opset,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "command": list(
            command if command is not None else [Path(sys.argv[0]).name, *sys.argv[1:]]
        ),
        "weights": weights_source,
        "weights_sha256": weights_sha256(model),
        "config": {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(model.config).items()
        },
    }


@contextlib.contextmanager
def _new_folder(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a folder to fill; it takes its place only if the block ends well."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_litter(folder)
    fresh = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
    fresh.mkdir()
    try:
        yield fresh
        _replace(folder, fresh, overwrite=overwrite)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _remove_litter(folder: Path) -> None:
    """Remove what exports to this folder left that were killed a day ago or earlier."""
    for path in folder.parent.glob(f".{glob.escape(folder.name)}.*.partial"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > LITTER_AGE_S:
                shutil.rmtree(path)


def _replace(folder: Path, fresh: Path, *, overwrite: bool) -> None:
    """Put a finished folder in its place; if that fails, the old one is there again."""
    old = fresh.with_suffix(".old")
    _check_folder(folder, overwrite=overwrite)
    is_replaced = folder.exists()
    if is_replaced:
        folder.rename(old)
    try:
        fresh.rename(folder)
    except BaseException:
        if is_replaced:
            old.rename(folder)
        raise
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
