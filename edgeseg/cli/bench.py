"""`edgeseg bench`: compares accuracy and latency of a bundle's engines and the PyTorch model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from edgeseg.cli.options import look_for_modules_here
from edgeseg.cli.parameters import (
    Bundle,
    Engines,
    EqualThreads,
    ExportedWeights,
    Json,
    Model,
    Overwrite,
    Quiet,
    Verbose,
    WeightsKey,
)
from edgeseg.cli.terminal import terminal_of
from edgeseg_runtime.commands.options import check_engines, names_from_text


def bench(
    ctx: typer.Context,
    bundle: Bundle,
    data: Annotated[
        str,
        typer.Option(
            help='"shapes" (built in), "coco:FOLDER" or "coco:FOLDER:SPLIT"; faces also with wider:, '
            "300w: or wflw:, segments with cityscapes: or cityscapes-vps:, clips with youtube-vis:."
        ),
    ] = "shapes",
    backends: Annotated[
        str, typer.Option(help="What to compare; torch is the original model.")
    ] = "torch,onnxruntime",
    weights: ExportedWeights = None,
    weights_key: WeightsKey = None,
    model: Model = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first pictures.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Seconds instead of a minute.")] = False,
    score: Annotated[
        float, typer.Option(min=0, max=1, help="Reference detections that count for agreement.")
    ] = 0.3,
    match: Annotated[
        str | None,
        typer.Option(
            metavar="name|id",
            help="How the model's classes are those of the data set; by name where they have some.",
        ),
    ] = None,
    max_drop: Annotated[
        float,
        typer.Option(min=0, max=1, help="Accuracy that the recommended engine may lose."),
    ] = 0.01,
    threads: EqualThreads = None,
    engines: Engines = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of the report; NAME-bench if left out."),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Compare accuracy and latency of a bundle's engines and the PyTorch model."""
    from edgeseg_bench.bundle import benchmark
    from edgeseg_bench.report import advice_lines, render_table, report_folder, write_report

    terminal = terminal_of(ctx, json, verbose, quiet)
    names = names_from_text("--backends", backends)
    check_engines(engines, names)
    folder = out or Path(f"{bundle.resolve().name}-bench")
    report_folder(folder, overwrite=overwrite)
    look_for_modules_here(model)
    with terminal.progress() as progress:
        report = benchmark(
            bundle,
            data=data,
            backends=names,
            model=model,
            weights=weights,
            weights_key=weights_key,
            limit=limit,
            is_quick=quick,
            score=score,
            match=match,
            max_drop=max_drop,
            threads=threads,
            engines_folder=engines,
            progress=progress,
        )
    files = [str(file) for file in write_report(report, folder, overwrite=overwrite)]
    terminal.show(
        render_table(report), *advice_lines(report, str(bundle)), f"wrote {' and '.join(files)}"
    )
    terminal.finish({"files": files, "report": dataclasses.asdict(report)}, last_line=folder)
