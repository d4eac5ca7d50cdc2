"""All commands together, from the arguments of the process to its exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from edgeseg.cli.bench import bench
from edgeseg.cli.build import build
from edgeseg.cli.compare import compare
from edgeseg.cli.doctor import doctor
from edgeseg.cli.export import export
from edgeseg.cli.failures import explain
from edgeseg.cli.inspect import inspect
from edgeseg.cli.models import models
from edgeseg.cli.run import run
from edgeseg.cli.terminal import Terminal
from edgeseg_runtime import __version__
from edgeseg_runtime.commands.running import exit_code_of
from edgeseg_runtime.streams import exit_code_after_flush, open_standard_streams

app = typer.Typer(
    name="edgeseg",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (models, export, build, bench, compare, run, inspect, doctor):
    app.command()(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `arguments` are those of the process if None."""
    open_standard_streams()
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    terminal = Terminal(words)
    code = exit_code_of(
        lambda: _run(terminal, words),
        terminal,
        explain=lambda error: explain(error, words, option_names()),
    )
    return exit_code_after_flush(code)


def _run(terminal: Terminal, words: list[str]) -> object:
    command = typer.main.get_command(app)
    try:
        return command.main(words, prog_name="edgeseg", standalone_mode=False, obj=terminal)
    except typer.Abort as error:
        raise KeyboardInterrupt from error


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"edgeseg {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Export, verify and deploy segmentation and key-point models."""


def option_names() -> list[str]:
    """Return the names of all commands' options, such as "--out"."""
    commands = getattr(typer.main.get_command(app), "commands", {})
    names = {name for command in commands.values() for p in command.params for name in p.opts}
    return sorted(name for name in names if name.startswith("--"))
