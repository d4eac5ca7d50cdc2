"""`edgeseg compare`: finds where a bundle loses accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeseg.cli.options import look_for_modules_here
from edgeseg.cli.parameters import (
    ExportedWeights,
    Json,
    Model,
    Overwrite,
    Quiet,
    Verbose,
    WeightsKey,
)
from edgeseg.cli.terminal import terminal_of


def compare(
    ctx: typer.Context,
    reference: Annotated[
        str, typer.Argument(metavar="REF", help="Bundle to compare with, or torch.")
    ],
    candidate: Annotated[Path, typer.Argument(metavar="CAND", help="Bundle to judge.")],
    data: Annotated[
        str, typer.Option(metavar="DIR|DATA", help="Folder of pictures, shapes or coco:DIR.")
    ] = "shapes",
    limit: Annotated[int, typer.Option(min=1, help="Only the first pictures.")] = 50,
    score: Annotated[
        float, typer.Option(min=0, max=1, help="Reference detections that count for agreement.")
    ] = 0.3,
    weights: ExportedWeights = None,
    weights_key: WeightsKey = None,
    model: Model = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(metavar="CONDITION", help='Exit with 1 if it holds: "agreement_ap<0.98".'),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for JSON, Markdown and the worst pictures."),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Find where a bundle loses accuracy against another one or the PyTorch model."""
    from edgeseg_export.compare import METRICS
    from edgeseg_export.compare import compare as compare_sides
    from edgeseg_export.comparison import (
        open_pictures,
        open_sides,
        report_folder,
        tables,
        verdict,
        write_report,
    )
    from edgeseg_export.conditions import conditions_from_text, conditions_met

    terminal = terminal_of(ctx, json, verbose, quiet)
    conditions = conditions_from_text(fail_on or (), METRICS)
    look_for_modules_here(model)
    files: list[Path] = []
    outputs = None if out is None else report_folder(out, overwrite=overwrite)
    with terminal.progress() as progress:
        progress("load", 0, 1)
        sides = open_sides(
            reference, candidate, model=model, weights=weights, weights_key=weights_key
        )
        pictures, count, name = open_pictures(data, sides[0].manifest, limit, progress=progress)
        report = compare_sides(
            *sides, pictures, count, data=name, score_threshold=score, progress=progress
        )
        if outputs is not None:
            progress("write", 0, 1)
            files = write_report(report, outputs, sides, pictures, score=score)
    met = [str(condition) for condition in conditions_met(conditions, report.metrics())]
    terminal.show(*tables(report, is_full=verbose > 0), *([verdict(report)] if out else []))
    document = {
        "report": report.to_document(),
        "files": [str(file) for file in files],
        "failed_on": met,
    }
    terminal.finish(document, last_line=out or verdict(report))
    if met:
        values = report.metrics()
        for condition in conditions:
            if str(condition) in met:
                terminal.note(f"{condition} holds: it is {values[condition.metric]:.4g}")
        raise typer.Exit(1)
