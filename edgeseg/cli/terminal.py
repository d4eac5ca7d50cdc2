"""What the command line writes on a workstation: with colours, tables and bars."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from typing import IO, Any, TextIO, cast

import typer
from rich.console import (
    Console,
    ConsoleOptions,
    ConsoleRenderable,
    RenderHook,
    RenderResult,
)
from rich.logging import RichHandler
from rich.segment import Segment
from rich.text import Text

from edgeseg.cli.progress import Bars
from edgeseg.cli.tables import drawn
from edgeseg_runtime.commands import terminal as plain
from edgeseg_runtime.commands.progress import Lines, View
from edgeseg_runtime.commands.tables import Table
from edgeseg_runtime.text import printable

PIPE_WIDTH = 200
"""Columns of tables that are written to a file or pipe."""
_STYLES = {"note": "cyan", "error": "bold red"}


class Terminal(plain.Terminal):
    """The two output streams of one command, drawn with rich; shows its renderables, too."""

    packages = ("edgeseg", "edgeseg_bench", "edgeseg_export", "edgeseg_runtime")

    def __init__(self, arguments: Sequence[str]) -> None:
        self._people = _console(sys.stdout)
        self._errors = _console(sys.stderr, cast("IO[str]", plain.Forgiving(sys.stderr)))
        super().__init__(arguments)

    def _make_handler(self) -> logging.Handler:
        handler = RichHandler(console=self._errors, show_time=False, show_path=False, markup=False)
        handler.setFormatter(logging.Formatter("%(message)s"))
        return handler

    def _view(self, keeps_stages: bool) -> View:
        if self._errors.is_terminal:
            return Bars(self._errors, keeps_stages=keeps_stages)
        return Lines(self._write_trace, keeps_stages=keeps_stages)

    def _write_part(self, part: Any) -> None:
        console = self._errors if self.is_json else self._people
        if isinstance(part, Table):
            console.print(drawn(part))
        else:  # a line stays a line: terminals wrap it, and programs read it
            console.print(part, soft_wrap=isinstance(part, str))

    def _write_remark(self, kind: str, message: str) -> None:
        style = _STYLES[kind]
        self._errors.print(Text.assemble((f"{kind}: ", style), message), soft_wrap=True)

    def _write_trace(self, text: str) -> None:
        self._errors.print(Text(text), soft_wrap=True)


def terminal_of(ctx: typer.Context, json: bool, verbose: int, quiet: bool) -> Terminal:
    """Return the terminal of this command; from here on libraries that print do so on stderr."""
    terminal = ctx.obj
    assert isinstance(terminal, Terminal)
    terminal.configure(is_json=json, verbose=verbose, quiet=quiet)
    ctx.with_resource(contextlib.redirect_stdout(sys.stderr))
    return terminal


def _console(stream: TextIO, file: IO[str] | None = None) -> Console:
    is_wide = stream.isatty() or "COLUMNS" in os.environ
    console = Console(
        file=file or stream,
        width=None if is_wide else PIPE_WIDTH,
        highlight=False,
        markup=False,  # paths and messages may hold brackets
        emoji=False,
    )
    console.push_render_hook(_PrintableOnly())
    return console


class _PrintableOnly(RenderHook):
    """Writes as escapes what a terminal would obey: rich lets it pass in tables, logs and messages alike."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Escaped(renderable) for renderable in renderables]


class _Escaped:
    def __init__(self, renderable: ConsoleRenderable) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        segments: Iterable[Segment] = console.render(self._renderable, options)
        for text, style, control in segments:
            yield Segment(text if control else printable(text), style, control)
