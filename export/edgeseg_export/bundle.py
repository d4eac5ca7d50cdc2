"""Exports a reference model as a bundle: a folder that holds all a device needs."""

from __future__ import annotations

import dataclasses
import functools
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from edgeseg.models import get_spec, model_manifest
from edgeseg.models.checkpoint import check_finite
from edgeseg.models.provenance import weights_sha256
from edgeseg.models.reference import ReferenceModel
from edgeseg_export.agreement import check_agreement
from edgeseg_export.calibration import DEFAULT_METHOD, warn_of_pictures
from edgeseg_export.folder import check_folder, new_folder
from edgeseg_export.graph_files import write_graphs
from edgeseg_export.heap import give_back_freed_memory
from edgeseg_export.options import check_options, pictures_to_compare
from edgeseg_export.parity import Image
from edgeseg_export.prove import prove_bundle
from edgeseg_export.search import DEFAULT_MAX_DROP
from edgeseg_export.trace import OPSET
from edgeseg_export.views import checked_views, lowered_views, parity_document, traced_view
from edgeseg_runtime import __version__
from edgeseg_runtime.bundle.manifest import with_variants
from edgeseg_runtime.progress import Progress
from edgeseg_runtime.tensorrt.engines import build_bundle
from edgeseg_runtime.tensorrt.key import PORTABLE

COMPILED = ("tensorrt", "tensorrt_rtx")
"""Engines that an export compiles right away."""


def export_bundle(
    model: ReferenceModel,
    folder: str | os.PathLike[str],
    *,
    opset: int = OPSET,
    precision: str = "fp32",
    calibration: Sequence[Image] | None = None,
    calibration_method: str = DEFAULT_METHOD,
    max_drop: float = DEFAULT_MAX_DROP,
    backends: Sequence[str] = ("onnxruntime",),
    targets: Sequence[str] = (),
    dynamic_batch: bool = False,
    stages: bool = True,
    variants: bool = True,
    images: Sequence[Image] | None = None,
    num_images: int = 4,
    tolerance: float = 1e-3,
    allow_mismatch: bool = False,
    overwrite: bool = False,
    command: Sequence[str] | None = None,
    weights_source: str | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Path:
    """Export ``model`` to ``folder`` and prove that its graphs compute what the model computes.

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
        calibration_method: "mse", "minmax", "entropy" or "percentile"; see `calibration.py`.
        max_drop: for "auto", how far agreement with fp32 may be below 1; see `search.py`.
        backends: engines that the bundle is for. All of them read the same ONNX file; "tensorrt"
            and "tensorrt_rtx" are compiled right away as ``edgeseg build`` would.
        targets: GPU architectures for "tensorrt_rtx", such as "sm86"; all from Ampere on if empty.
        dynamic_batch: leave the batch axis free; otherwise it is 1.
        stages: let what is computed once for each instance be a graph of its own, which runs for as
            many as were found; False for one graph, whose work is always that of a full list.
        variants: put the same model for further shapes of pictures into the bundle, where the
            original turns its sizes with the picture; a picture then takes the one that shrinks it
            least. Mask R-CNN for 800x1344 has one for 1344x800.
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
        CheckpointError: the model's weights hold NaN.
        ExportError: the model cannot be turned into a graph, or the bundle is not one that a device can use.
        ParityError: the graph differs from the model, or in lower precision finds other things than
            in float32; nothing is written.
    """
    folder = Path(folder)
    give_back_freed_memory()
    check_options(opset, precision, calibration, calibration_method, max_drop, backends, targets)
    check_folder(folder, overwrite=overwrite)
    if calibration is not None:
        warn_of_pictures(calibration)
    check_finite(model)
    was_training = model.training
    model.eval()
    try:
        models = {"": model, **(get_spec(model.name).variants(model) if variants else {})}
        shown = {
            name: pictures_to_compare(images, num_images, model_manifest(shaped))
            for name, shaped in models.items()
        }
        measure = functools.partial(
            traced_view,
            stages=stages,
            dynamic_batch=dynamic_batch,
            opset=opset,
            tolerance=tolerance,
            progress=progress,
        )
        views = checked_views(models, shown, measure, allow_mismatch=allow_mismatch)
    finally:
        model.train(was_training)
    pictures, _ = shown[""]
    if precision != "fp32":
        views, precision, loss = lowered_views(
            views,
            recipe=get_spec(model.name).precision,
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
    else:
        loss = {}
    progress("write", 0, 1)
    with new_folder(folder, overwrite=overwrite) as partial_folder:
        written, artifacts = write_graphs(views, partial_folder)
        own, *others = written
        names = [view.name for view in views[1:]]
        dataclasses.replace(
            with_variants(own, dict(zip(names, others, strict=True))),
            precision=precision,
            artifacts=artifacts,
            parity=parity_document(views) | loss,
            provenance=_provenance(model, opset, command, weights_source),
        ).save(partial_folder)
        del views  # an engine now reads their weights from the disk
        prove_bundle(partial_folder, [picture for seen, _ in shown.values() for picture in seen])
        _compile(partial_folder, backends, targets, progress)
        progress("finish", 0, 1)  # what is cancelled by now leaves nothing
    return folder


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
    loaded = model.loaded_weights
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
        "model": model.name,
        "weights": weights_source,
        "weights_key": loaded.key if loaded else None,
        "weights_others": list(loaded.others) if loaded else [],
        "weights_sha256": weights_sha256(model),
        "config": {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(model.config).items()
        },
    }
