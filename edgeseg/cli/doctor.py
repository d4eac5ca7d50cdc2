"""`edgeseg doctor`: examines this machine."""

from __future__ import annotations

import typer

from edgeseg.cli.parameters import Json, Quiet, Verbose
from edgeseg.cli.terminal import terminal_of


def doctor(
    ctx: typer.Context, json: Json = False, verbose: Verbose = 0, quiet: Quiet = False
) -> None:
    """Examine this machine: versions, engines that really run, and how to mend the rest."""
    from edgeseg_runtime.commands.doctor import doctor as examine_with

    raise typer.Exit(examine_with(terminal_of(ctx, json, verbose, quiet)))
