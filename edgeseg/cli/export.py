"""`edgeseg export`: writes a model as a bundle, and tells people what came of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeseg.cli.options import (
    image_size_from_text,
    labels_from_text,
    look_for_modules_here,
    settings_from_text,
)
from edgeseg.cli.parameters import Json, Quiet, Verbose, WeightsKey
from edgeseg.cli.terminal import Terminal, terminal_of
from edgeseg.models import get_spec
from edgeseg.models.labels import is_placeholder
from edgeseg_runtime import Manifest
from edgeseg_runtime.commands.options import names_from_text
from edgeseg_runtime.commands.tables import (
    Table,
    table_of_rows,
    text_from_agreement,
    text_from_bytes,
)

IMAGE_SIZE_HELP = "Network input, HEIGHTxWIDTH or one number; the model's own if left out."
FREE_RUN = "free run."
"""Stands before the stages of several graphs that run on their own; see `edgeseg_export.parity`."""


def export(
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A name that `edgeseg models` lists, or MODULE:NAME for a model of your own.",
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option(
            help='Checkpoint, or "shapes" for the built-in ones (a model of your own may have others); '
            "random if left out."
        ),
    ] = None,
    weights_key: WeightsKey = None,
    image_size: Annotated[str | None, typer.Option(help=IMAGE_SIZE_HELP)] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the bundle; NAME-HxW if left out.")
    ] = None,
    opset: Annotated[
        int,
        typer.Option(help="ONNX opset: 20, or 17 for TensorRT 8.5 and 8.6 (JetPack 5, 6.0)."),
    ] = 20,
    precision: Annotated[
        str,
        typer.Option(help="fp32, fp16, int8, mixed (int8 and fp16), or auto: int8 if harmless."),
    ] = "fp32",
    calibrate: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|DATA",
            help="Pictures that int8 values are fitted to: a folder, shapes or coco:DIR.",
        ),
    ] = None,
    num_calibration: Annotated[int, typer.Option(min=1, help="How many of them to take.")] = 100,
    calibration_method: Annotated[
        str, typer.Option(help="minmax, entropy or percentile.")
    ] = "minmax",
    max_drop: Annotated[
        float,
        typer.Option(min=0, max=1, help="Loss of agreement that auto may cause."),
    ] = 0.01,
    backends: Annotated[
        str, typer.Option(help="Engines the bundle is for; TensorRT's are compiled right away.")
    ] = "onnxruntime",
    target: Annotated[
        str | None, typer.Option(help="GPU architectures for tensorrt_rtx, such as sm86,sm89.")
    ] = None,
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="Leave the batch size free.")
    ] = False,
    stages: Annotated[
        str,
        typer.Option(
            metavar="on|off", help="Masks or key points in a graph that runs once per detection."
        ),
    ] = "on",
    variants: Annotated[
        bool, typer.Option(help="Add the other orientation, where the original turns its sizes.")
    ] = True,
    num_classes: Annotated[
        int | None, typer.Option(min=1, help="Classes of the checkpoint, as its original counts.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES|FILE|coco:DIR",
            help="Names of the classes: cat,dog, a file with a name in each line, or a data set.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any field of the model's configuration. Values of a list are separated by "
            "commas, lists in a list by semicolons (quote them): 'min_sizes=16,32;64,128;256,512'.",
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Pictures for the parity check; built-in if left out.")
    ] = None,
    num_images: Annotated[int, typer.Option(min=1, help="How many pictures to check.")] = 4,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Largest relative difference from the PyTorch model.")
    ] = 1e-3,
    allow_mismatch: Annotated[
        bool, typer.Option("--allow-mismatch", help="Write the bundle even if the check fails.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle.")] = False,
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Export a model as a bundle, and prove that it computes what PyTorch computes."""
    terminal = terminal_of(ctx, json, verbose, quiet)
    look_for_modules_here(name)
    spec = get_spec(name)
    size = image_size_from_text(image_size) if image_size else None
    if stages not in ("on", "off"):
        raise ValueError(f"--stages {stages!r} found, expected on or off")
    engines = names_from_text("--backends", backends)
    targets = names_from_text("--target", target) if target else ()
    started = time.monotonic()
    with terminal.progress() as progress:
        progress("load PyTorch and the model", 0, 1)
        config = settings_from_text(spec, settings or ())
        if num_classes is not None:
            config["num_classes"] = num_classes
        if labels is not None:
            config |= labels_from_text(labels)
        from edgeseg.models.provenance import build_model, weights_source
        from edgeseg_bench.pictures import calibration_pictures, first_pictures
        from edgeseg_export.bundle import export_bundle

        model = build_model(
            name, weights=weights, weights_key=weights_key, image_size=size, config=config
        )
        height, width = model.config.image_size
        if weights is None:
            terminal.note(f"the weights of {name} are random: give --weights CHECKPOINT")
        if calibrate:
            progress("read pictures for calibration", 0, 1)
        folder = export_bundle(
            model,
            out or Path(f"{spec.name}-{height}x{width}"),
            opset=opset,
            precision=precision,
            calibration=calibration_pictures(calibrate, num_calibration, model, progress=progress)
            if calibrate
            else None,
            calibration_method=calibration_method,
            max_drop=max_drop,
            backends=engines,
            targets=targets,
            dynamic_batch=dynamic_batch,
            stages=stages == "on",
            variants=variants,
            images=first_pictures(images, num_images) if images else None,
            num_images=num_images,
            tolerance=tolerance,
            allow_mismatch=allow_mismatch,
            overwrite=overwrite,
            command=["edgeseg", *terminal.arguments],
            weights_source=weights_source(name, weights),
            progress=progress,
        )
    _finish_export(terminal, folder, time.monotonic() - started)


def _finish_export(terminal: Terminal, folder: Path, seconds: float) -> None:
    manifest = Manifest.load(folder)
    terminal.show(*parts(manifest, seconds))
    for remark in remarks(manifest):
        terminal.note(remark)
    document = {
        "folder": str(folder),
        "name": manifest.name,
        "precision": manifest.precision,
        "size_bytes": sum(file.size_bytes for file in manifest.artifacts.values()),
        "seconds": round(seconds, 2),
        "parity": dict(manifest.parity),
    }
    terminal.finish(document, last_line=folder)


def parts(manifest: Manifest, seconds: float) -> Iterator[str | Table]:
    """Yield what people want to see of a fresh bundle.

    Args:
        manifest: of the bundle.
        seconds: that the export took.
    """
    parity = manifest.parity
    rows = [
        {"output": name, "largest difference": value, "relative": _relative(parity, name)}
        for name, value in parity["max_abs"].items()
    ]
    yield table_of_rows(f"Parity with {parity['reference']}", rows)
    yield (
        f"{parity['num_images']} pictures of {parity['data']}, {parity['num_detections']} "
        f"detections, {parity['num_unmatched']} unmatched; tolerance {parity['tolerance']:g}"
    )
    if "precision" in parity:
        yield from _precision(parity["precision"])
    for name, variant in parity.get("variants", {}).items():
        yield f"{name}: {variant['num_detections']} detections, {variant['num_unmatched']} unmatched"
    files = (
        f"{file.file} {text_from_bytes(file.size_bytes)}" for file in manifest.artifacts.values()
    )
    yield f"{', '.join(files)}, {seconds:.1f} s"


def remarks(manifest: Manifest) -> Iterator[str]:
    """Yield what a user should know before a fresh bundle is used."""
    unnamed = [label for label in manifest.labels if is_placeholder(label)]
    if unnamed:
        first, last = unnamed[0], unnamed[-1]
        what = f"{first} to {last} have no names" if len(unnamed) > 1 else f"{first} has no name"
        yield f"the class{'es' * (len(unnamed) > 1)} {what}: give --labels a,b,c, a file or coco:DIR"
    key, others = (manifest.provenance.get(name) for name in ("weights_key", "weights_others"))
    if key:
        yield f"the weights are those of {key!r} in {manifest.provenance['weights']}"
    if others:
        yield (
            f"these are averaged weights; {' and '.join(map(repr, others))} would have fitted as well: "
            f"choose with --weights-key {others[0]}"
        )
    if manifest.precision == "fp16":
        yield "float16 is for GPUs: x86 processors compute it in float32, no faster"
    checked = [manifest.parity, *manifest.parity.get("variants", {}).values()]
    if any(_found_nothing(parity) for parity in checked):
        yield "nothing was found to compare: check with --images of what the model looks for"
    if not all(parity["is_within_tolerance"] for parity in checked):
        yield "the bundle differs from the PyTorch model more than the tolerance allows"


def _found_nothing(parity: Mapping[str, Any]) -> bool:
    """Tell whether there was nothing to compare of a model that gives detections."""
    has_lists = any(name in parity["max_abs"] for name in ("boxes", "contender_boxes"))
    return parity["num_detections"] == 0 and has_lists


def _relative(parity: Mapping[str, Any], output: str) -> float | None:
    """Return the relative difference of an output, of several graphs when they run on their own."""
    stages = parity["stages"]
    return stages.get(f"{FREE_RUN}{output}", stages.get(output))


def _precision(lowered: Mapping[str, Any]) -> Iterator[str | Table]:
    """Yield what a precision below fp32 changed and cost, and how a search found it."""
    nodes = ", ".join(f"{count} in {name}" for name, count in lowered["num_nodes"].items())
    agreement = lowered["agreement_with_fp32"]
    yield (
        f"nodes: {nodes} ({lowered['calibration']} over {lowered['num_calibration']} pictures); "
        f"agreement with fp32 on {agreement['num_pictures']} pictures: "
        f"{text_from_agreement(agreement['ap'])}"
    )
    found = lowered.get("search")
    if found is not None:
        yield table_of_rows("Search", found["modules"])
        yield (
            f"agreement on {found['num_pictures']} calibration pictures: "
            f"{found['agreement_ap']:.3f}, all modules in int8: {found['agreement_ap_all_int8']:.3f}, "
            f"allowed: {1 - found['max_drop']:.3f}"
        )
