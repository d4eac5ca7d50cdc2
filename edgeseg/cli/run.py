"""`edgeseg run`: runs a bundle on pictures, a video or a camera."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeseg.cli.parameters import Bundle, Engines, Json, Overwrite, Quiet, Threads, Verbose
from edgeseg.cli.terminal import terminal_of
from edgeseg_runtime.commands.options import RUN_HELP


def run(
    ctx: typer.Context,
    bundle: Bundle,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help=RUN_HELP["source"],
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help=RUN_HELP["out"])] = Path("edgeseg-run"),
    overwrite: Overwrite = False,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help=RUN_HELP["recursive"])
    ] = False,
    backend: Annotated[str, typer.Option(help=RUN_HELP["backend"])] = "auto",
    score: Annotated[float, typer.Option(min=0, max=1, help=RUN_HELP["score"])] = 0.3,
    reconnect: Annotated[
        int | None,
        typer.Option(min=0, help=RUN_HELP["reconnect"]),
    ] = None,
    scene_cut: Annotated[float | None, typer.Option(help=RUN_HELP["scene_cut"])] = None,
    batch: Annotated[int, typer.Option(min=1, help=RUN_HELP["batch"])] = 1,
    track: Annotated[bool, typer.Option("--track", help=RUN_HELP["track"])] = False,
    then: Annotated[Path | None, typer.Option(metavar="LANDMARKS", help=RUN_HELP["then"])] = None,
    draw: Annotated[bool, typer.Option(help=RUN_HELP["draw"])] = True,
    draw_labels: Annotated[bool, typer.Option(help=RUN_HELP["draw_labels"])] = True,
    draw_scores: Annotated[bool, typer.Option(help=RUN_HELP["draw_scores"])] = True,
    colours: Annotated[str | None, typer.Option(help=RUN_HELP["colours"])] = None,
    keypoint_score: Annotated[float | None, typer.Option(help=RUN_HELP["keypoint_score"])] = None,
    line_width: Annotated[int | None, typer.Option(min=1, help=RUN_HELP["line_width"])] = None,
    surfaces: Annotated[str | None, typer.Option(help=RUN_HELP["surfaces"])] = None,
    iuv: Annotated[bool, typer.Option("--iuv", help=RUN_HELP["iuv"])] = False,
    save_json: Annotated[bool, typer.Option(help=RUN_HELP["save_json"])] = True,
    save_lines: Annotated[bool, typer.Option("--save-lines", help=RUN_HELP["save_lines"])] = False,
    threads: Threads = None,
    winograd: Annotated[
        str | None, typer.Option(metavar="auto|off", help=RUN_HELP["winograd"])
    ] = None,
    engines: Engines = None,
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Run a bundle on pictures, a video or a camera; needs no torch."""
    from edgeseg_runtime.commands.run import run as run_bundle

    code = run_bundle(
        terminal_of(ctx, json, verbose, quiet),
        bundle,
        sources,
        out=out,
        overwrite=overwrite,
        recursive=recursive,
        backend=backend,
        score=score,
        reconnect=reconnect,
        scene_cut=scene_cut,
        batch=batch,
        track=track,
        then=then,
        draw=draw,
        draw_labels=draw_labels,
        draw_scores=draw_scores,
        colours=colours,
        keypoint_score=keypoint_score,
        line_width=line_width,
        surfaces=surfaces,
        iuv=iuv,
        save_json=save_json,
        save_lines=save_lines,
        threads=threads,
        winograd=winograd,
        engines=engines,
    )
    raise typer.Exit(code)
