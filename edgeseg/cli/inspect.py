"""`edgeseg inspect`: describes a bundle or an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeseg.cli.parameters import Json, Quiet, Verbose
from edgeseg.cli.terminal import terminal_of
from edgeseg_runtime.commands.options import INSPECT_HELP


def inspect(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="PATH", help=INSPECT_HELP["path"])],
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Describe a bundle or an ONNX file (-v: in full), and check that nothing is damaged."""
    from edgeseg_runtime.commands.inspect import inspect as inspect_with

    inspect_with(terminal_of(ctx, json, verbose, quiet), path)
