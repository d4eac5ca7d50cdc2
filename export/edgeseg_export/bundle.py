"""Exports a reference model as a bundle: a folder that holds all a device needs."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from edgeseg.models import PrecisionRecipe, get_spec, model_manifest
from edgeseg.models.checkpoint import check_finite
from edgeseg.models.provenance import weights_sha256
from edgeseg.models.reference import ReferenceModel
from edgeseg_export.agreement import check_agreement, measure_agreement
from edgeseg_export.calibration import METHODS, warn_of_pictures
from edgeseg_export.contents import check_exported
from edgeseg_export.folder import check_folder, new_folder
from edgeseg_export.graph import (
    COMPLETING_PASSES,
    complete_graph,
    in_one_graph,
    trace_graphs,
    with_free_batch,
    without_stages,
)
from edgeseg_export.heap import give_back_freed_memory
from edgeseg_export.lower import AUTO, CALIBRATED, find_lowering
from edgeseg_export.onnx_model import Buffer, OnnxModel, num_bytes
from edgeseg_export.parity import Image, Parity, measure_parity
from edgeseg_export.precision import PRECISIONS
from edgeseg_export.prove import check_names, prove_bundle
from edgeseg_export.search import DEFAULT_MAX_DROP
from edgeseg_export.sessions import Graphs
from edgeseg_export.thresholds import without_threshold
from edgeseg_export.trace import OPSET, ExportError
from edgeseg_export.weights import share_arrays, share_weights
from edgeseg_runtime import __version__
from edgeseg_runtime.bundle.files import write_atomic
from edgeseg_runtime.bundle.graphs import MAIN
from edgeseg_runtime.bundle.manifest import Artifact, Manifest, with_variants
from edgeseg_runtime.progress import Progress
from edgeseg_runtime.tensorrt.engines import build_bundle
from edgeseg_runtime.tensorrt.key import PORTABLE, group_targets

_log = logging.getLogger(__name__)

ONNX = "onnx"
"""Artifact of the graph of a model that has one."""
MAX_ONNX_BYTES = 2**31 - 1
"""A protobuf's limit; a bundle's graph holds its own weights."""
WEIGHTS, WEIGHTS_FILE = "weights", "weights.safetensors"
"""Artifact and file of the weights that graphs share."""
ENGINES = ("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx")
COMPILED = ("tensorrt", "tensorrt_rtx")
"""Engines that an export compiles right away."""


@dataclass(frozen=True, kw_only=True)
class _View:
    """One variant on its way into a bundle.

    Attributes:
        name: of the variant; "" for the model's own shape.
        model: built for this shape.
        manifest: of the model, without artifacts.
        plain: its graphs in float32 with all stages, operators without bodies.
        graphs: what is shipped so far.
        parity: of the float32 graphs.
    """

    name: str
    model: ReferenceModel
    manifest: Manifest
    plain: Graphs
    graphs: Graphs
    parity: Parity


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
        calibration_method: "minmax", "entropy" or "percentile"; see `calibration.py`.
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
    _check_options(opset, precision, calibration, calibration_method, max_drop, backends, targets)
    check_folder(folder, overwrite=overwrite)
    if calibration is not None:
        warn_of_pictures(calibration)
    check_finite(model)
    was_training = model.training
    model.eval()
    try:
        models = {"": model, **(get_spec(model.name).variants(model) if variants else {})}
        shown = {
            name: _pictures(images, num_images, model_manifest(shaped))
            for name, shaped in models.items()
        }
        measure = functools.partial(
            _traced_view,
            stages=stages,
            dynamic_batch=dynamic_batch,
            opset=opset,
            tolerance=tolerance,
            progress=progress,
        )
        views = _checked_views(models, shown, measure, allow_mismatch=allow_mismatch)
    finally:
        model.train(was_training)
    pictures, _ = shown[""]
    if precision != "fp32":
        views, precision, loss = _lowered(
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
        written, artifacts = _write_graphs(views, partial_folder)
        own, *others = written
        names = [view.name for view in views[1:]]
        dataclasses.replace(
            with_variants(own, dict(zip(names, others, strict=True))),
            precision=precision,
            artifacts=artifacts,
            parity=_parity_document(views) | loss,
            provenance=_provenance(model, opset, command, weights_source),
        ).save(partial_folder)
        del views  # an engine now reads their weights from the disk
        prove_bundle(partial_folder, [picture for seen, _ in shown.values() for picture in seen])
        _compile(partial_folder, backends, targets, progress)
        progress("finish", 0, 1)  # what is cancelled by now leaves nothing
    return folder


def _checked_views(
    models: Mapping[str, ReferenceModel],
    shown: Mapping[str, tuple[Sequence[Image], str]],
    measure: Callable[..., _View],
    *,
    allow_mismatch: bool,
) -> list[_View]:
    """Trace a model in all of its shapes, and check each of them.

    Args:
        models: by the names of the variants.
        shown: the pictures to compare each of them on, and what to call them.
        measure: :func:`_traced_view` with its other options.
        allow_mismatch: do not ask for parity.
    """
    views: list[_View] = []
    for name, model in models.items():
        sharing = [graph for view in views for graph in view.plain.values()]
        views.append(measure(name, model, *shown[name], sharing=sharing))
        check_names(views[-1].parity.largest_label, views[-1].manifest)
        if not allow_mismatch:
            views[-1].parity.check()
    return views


def _traced_view(
    name: str,
    model: ReferenceModel,
    pictures: Sequence[Image],
    data: str,
    *,
    sharing: Sequence[OnnxModel],
    stages: bool,
    dynamic_batch: bool,
    opset: int,
    tolerance: float,
    progress: Progress,
) -> _View:
    """Trace a model and compare its graphs with it.

    Where the model finds nothing, its graphs could place and select as they like. Then the parity is that of the
    same model without a threshold. What has the weights of graphs traced before, in ``sharing``, has their arrays.
    """
    suffix = f" ({name})" if name else ""
    progress(f"trace{suffix}", 0, 1)
    manifest = model_manifest(model)
    if not stages:
        manifest = in_one_graph(manifest)
    plain = trace_graphs(model, manifest, dynamic_batch=dynamic_batch)
    share_arrays([*sharing, *plain.values()])
    tapped = {key: complete_graph(graph, opset=opset) for key, graph in plain.items()}
    graphs = without_stages(tapped, manifest)
    stage = f"parity{suffix}"
    progress(stage, 0, len(pictures))
    done = iter(range(1, len(pictures) + 1))
    parity = measure_parity(
        model,
        tapped,
        graphs,
        manifest,
        pictures,
        data=data,
        tolerance=tolerance,
        on_image=lambda: progress(stage, next(done), len(pictures)),
    )
    if parity.finds_nothing:
        unlimited = without_threshold(model)
        _tell_of_nothing(parity, is_unlimited=unlimited is not None)
        if unlimited is not None:
            parity = _traced_view(
                name,
                unlimited,
                pictures,
                data,
                sharing=[*sharing, *plain.values()],
                stages=stages,
                dynamic_batch=dynamic_batch,
                opset=opset,
                tolerance=tolerance,
                progress=progress,
            ).parity
    return _View(
        name=name,
        model=model,
        manifest=with_free_batch(manifest) if dynamic_batch else manifest,
        plain=plain,
        graphs=graphs,
        parity=parity,
    )


def _tell_of_nothing(parity: Parity, *, is_unlimited: bool) -> None:
    _log.warning(
        "the model finds nothing on the %d pictures of %s: %s",
        parity.num_images,
        parity.data,
        "its best detections are compared whatever their score. Pictures of what it looks for prove more"
        if is_unlimited
        else "how its graph places and selects detections was not compared. Give pictures of what it looks for",
    )


def _lowered(
    views: Sequence[_View],
    *,
    recipe: PrecisionRecipe,
    opset: int,
    precision: str,
    calibration: Sequence[Image],
    method: str,
    max_drop: float,
    pictures: Sequence[Image],
    progress: Progress,
) -> tuple[list[_View], str, dict[str, Any]]:
    """Return the views in a lower precision, which one that is, and what it cost, for the manifest.

    The ranges are found on the model's own shape and hold for its variants, whose nodes are the same.

    Args:
        views: in float32.
        recipe: which modules may compute in which precision.
        opset: of the graphs.
        precision: see :func:`export_bundle`.
        calibration: pictures to find the ranges of values on.
        method: of calibration.
        max_drop: what a search may lose.
        pictures: to compare the results on.
        progress: called as progress(stage, done, total).
    """
    complete = functools.partial(complete_graph, opset=opset)
    own = views[0]
    lowering = find_lowering(
        without_stages(own.plain, own.manifest),
        own.graphs,
        own.manifest,
        recipe,
        precision=precision,
        calibration=calibration,
        method=method,
        max_drop=max_drop,
        complete=complete,
        progress=progress,
    )
    lowered = []
    for view in views:
        plain = lowering.lowered(without_stages(view.plain, view.manifest))
        graphs = {name: complete(graph) for name, graph in plain.items()}
        lowered.append(dataclasses.replace(view, graphs=graphs))
        share_arrays(graph for each in lowered for graph in each.graphs.values())
    agreement = measure_agreement(
        own.graphs,
        lowered[0].graphs,
        own.manifest,
        pictures,
        on_picture=functools.partial(progress, "agreement with fp32"),
    )
    summary = {**lowering.summary, "agreement_with_fp32": agreement}
    return lowered, lowering.precision, {"precision": summary}


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


def _pictures(
    images: Sequence[Image] | None, num_images: int, manifest: Manifest
) -> tuple[Sequence[Image], str]:
    """Return the pictures to compare on, by default built-in ones with what the model looks for."""
    if images is not None:
        if not len(images):
            raise ValueError("images is empty, expected at least one picture")
        _check_frames(len(images), manifest)
        return images, "given pictures"
    _check_frames(num_images, manifest)
    from edgeseg_bench.checks import check_pictures

    return check_pictures(manifest, num_images)


def _check_frames(num_images: int, manifest: Manifest) -> None:
    """Refuse too few pictures for every graph of a video model to run."""
    num_kinds = manifest.schedule.num_kinds
    if num_images < num_kinds:
        raise ValueError(
            f"{num_images} picture found to compare on, expected at least {num_kinds}, which are taken as "
            f"a video: {', '.join(manifest.schedule.then)} runs behind the first one"
        )


def _parity_document(views: Sequence[_View]) -> dict[str, Any]:
    """Return the figures of the model's own shape, with those of its variants behind."""
    own, *others = views
    variants = {view.name: view.parity.to_json() for view in others}
    return own.parity.to_json() | ({"variants": variants} if variants else {})


def _write_graphs(
    views: Sequence[_View], folder: Path
) -> tuple[list[Manifest], dict[str, Artifact]]:
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
