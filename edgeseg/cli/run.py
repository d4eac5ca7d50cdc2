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
    draw: Annotated[bool, typer.Option(help=RUN_HELP["draw"])] = True,
    surfaces: Annotated[str | None, typer.Option(help=RUN_HELP["surfaces"])] = None,
    iuv: Annotated[bool, typer.Option("--iuv", help=RUN_HELP["iuv"])] = False,
    save_json: Annotated[bool, typer.Option(help=RUN_HELP["save_json"])] = True,
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
        draw=draw,
        surfaces=surfaces,
        iuv=iuv,
        save_json=save_json,
        threads=threads,
        winograd=winograd,
        engines=engines,
    )
    raise typer.Exit(code)
