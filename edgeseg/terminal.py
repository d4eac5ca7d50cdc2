"""What the command line writes: results on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from rich.console import (
    Console,
    ConsoleOptions,
    ConsoleRenderable,
    RenderableType,
    RenderHook,
    RenderResult,
)
from rich.logging import RichHandler
from rich.segment import Segment
from rich.text import Text

from edgeseg.progress import StageProgress
from edgeseg_runtime.errors import EdgesegError
from edgeseg_runtime.streams import silence
from edgeseg_runtime.text import printable

PIPE_WIDTH = 200
"""Columns of tables that are written to a file or pipe."""
PACKAGES = ("edgeseg", "edgeseg_bench", "edgeseg_export", "edgeseg_runtime")
_LEVELS = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}


class StreamError(EdgesegError):
    """A result cannot be written to stdout."""


class Terminal:
    """The two output streams of one command.

    With `--json` stdout gets exactly one JSON object, and what is meant for people goes to stderr.

    Args:
        arguments: of the command line.

    Attributes:
        arguments: the same.
        is_json: whether a machine reads the result.
        verbosity: -1 quiet, 0 normal, 1 with details and tracebacks, 2 with debugging output.
        has_result: whether the result was written.
        is_interrupted: whether a signal asked the command to end.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = tuple(arguments)
        self.is_json = "--json" in arguments
        self.verbosity = 0
        self.has_result = False
        self.is_interrupted = False
        self._stdout: TextIO = sys.stdout
        self._people = _console(sys.stdout)
        self.errors = _console(sys.stderr, _Forgiving(sys.stderr))
        self._handler = RichHandler(
            console=self.errors, show_time=False, show_path=False, markup=False
        )
        self._handler.setFormatter(logging.Formatter("%(message)s"))

    def configure(self, *, is_json: bool, verbose: int, quiet: bool) -> None:
        """Choose the form and amount of output, and send the libraries' logs to stderr."""
        self.is_json = is_json
        self.verbosity = -1 if quiet else verbose
        if is_json:
            self._people = self.errors
        level = _LEVELS.get(self.verbosity, logging.DEBUG)
        for name in PACKAGES:
            logging.getLogger(name).setLevel(level)
        logging.getLogger("py.warnings").setLevel(logging.WARNING if verbose > 0 else logging.ERROR)
        logging.captureWarnings(True)
        logging.getLogger().addHandler(self._handler)

    def close(self) -> None:
        """Leave logging as it was."""
        logging.getLogger().removeHandler(self._handler)
        logging.captureWarnings(False)
        for name in (*PACKAGES, "py.warnings"):
            logging.getLogger(name).setLevel(logging.NOTSET)

    def progress(self, *, keeps_stages: bool = True) -> StageProgress:
        """Return the progress of stages on stderr; it raises KeyboardInterrupt after a signal."""
        return StageProgress(
            self.errors,
            keeps_stages=keeps_stages,
            is_visible=self.verbosity >= 0,
            is_cancelled=lambda: self.is_interrupted,
        )

    def show(self, *renderables: RenderableType) -> None:
        """Write what people want to see of a result."""
        if self.verbosity >= 0:
            with self._translated():
                for renderable in renderables:
                    self._people.print(renderable)

    def note(self, message: str) -> None:
        """Write a remark to stderr."""
        if self.verbosity >= 0:
            self.errors.print(Text.assemble(("note: ", "cyan"), message), soft_wrap=True)

    def finish(self, document: Mapping[str, Any], *, last_line: object = None) -> None:
        """Write the result: the document with `--json`, else the line that a script may read."""
        with self._translated():
            if self.is_json:
                self._stdout.write(json.dumps(document, indent=1, allow_nan=False) + "\n")
            elif last_line is not None:
                self._stdout.write(f"{last_line}\n")
            self._stdout.flush()
        self.has_result = True

    def fail(self, error: BaseException, message: str, *, exit_code: int) -> None:
        """Write why the command failed; with -v, the traceback too."""
        if self.verbosity > 0:
            self.errors.print(
                Text("".join(traceback.format_exception(error)).rstrip()), soft_wrap=True
            )
        self.errors.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
        if self.is_json and not self.has_result:
            kind = type(error).__name__
            with contextlib.suppress(BrokenPipeError, StreamError):
                self.finish({"error": {"type": kind, "message": message, "exit_code": exit_code}})

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Say what is wrong with stdout, and let it lead nowhere.

        Raises:
            BrokenPipeError: its reader is gone, which is no mistake of anybody.
            StreamError: it cannot be written for another reason.
        """
        try:
            yield
        except OSError as error:
            silence(self._stdout)
            self.has_result = True  # as far as it goes
            if isinstance(error, BrokenPipeError):
                raise
            raise StreamError(
                f"the result cannot be written to stdout: {error.strerror or error}"
            ) from error


class _Forgiving:
    """Stderr, without the errors of a pipe whose reader is gone or of a full disk: work goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            silence(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            silence(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _console(stream: TextIO, file: Any = None) -> Console:
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
