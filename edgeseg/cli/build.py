"""`edgeseg build`: compiles a bundle's TensorRT engines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeseg.cli.parameters import Bundle, Json, Quiet, Verbose
from edgeseg.cli.terminal import terminal_of
from edgeseg_runtime.commands.options import BUILD_HELP


def build(
    ctx: typer.Context,
    bundle: Bundle,
    target: Annotated[
        str | None,
        typer.Option(help=BUILD_HELP["target"]),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help=BUILD_HELP["engine"]),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help=BUILD_HELP["out"])] = None,
    force: Annotated[bool, typer.Option("--force", help=BUILD_HELP["force"])] = False,
    batch: Annotated[int, typer.Option(min=1, help=BUILD_HELP["batch"])] = 1,
    workspace: Annotated[float | None, typer.Option(help=BUILD_HELP["workspace"])] = None,
    level: Annotated[int, typer.Option(min=0, max=5, help=BUILD_HELP["level"])] = 3,
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Compile a bundle's TensorRT engines; needs no torch."""
    from edgeseg_runtime.commands.build import build as build_engines

    build_engines(
        terminal_of(ctx, json, verbose, quiet),
        bundle,
        target=target,
        engine=engine,
        out=out,
        force=force,
        batch=batch,
        workspace=workspace,
        level=level,
    )
