"""What a command writes: results on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, TextIO, cast

from edgeseg_runtime.commands.progress import Lines, OneLine, StageProgress, View
from edgeseg_runtime.commands.tables import Table, lines_of_table
from edgeseg_runtime.errors import EdgesegError
from edgeseg_runtime.streams import silence
from edgeseg_runtime.text import printable

__all__ = ["Forgiving", "StreamError", "Terminal"]

_CLEAR_LINE = "\r\x1b[K"
_LEVELS = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}


class StreamError(EdgesegError):
    """A result cannot be written to stdout."""


class Terminal:
    """The two output streams of one command, in plain text; a subclass may draw them better.

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

    packages: ClassVar[tuple[str, ...]] = ("edgeseg_runtime",)
    """Whose logs are shown, as far as the verbosity asks for them."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = tuple(arguments)
        self.is_json = "--json" in arguments
        self.verbosity = 0
        self.has_result = False
        self.is_interrupted = False
        self._stdout: TextIO = sys.stdout
        self._stderr = Forgiving(sys.stderr)
        self._handler = self._make_handler()

    def configure(self, *, is_json: bool, verbose: int, quiet: bool) -> None:
        """Choose the form and amount of output, and send the libraries' logs to stderr."""
        self.is_json = is_json
        self.verbosity = -1 if quiet else verbose
        level = _LEVELS.get(self.verbosity, logging.DEBUG)
        for name in self.packages:
            logging.getLogger(name).setLevel(level)
        logging.getLogger("py.warnings").setLevel(logging.WARNING if verbose > 0 else logging.ERROR)
        logging.captureWarnings(True)
        logging.getLogger().addHandler(self._handler)

    def close(self) -> None:
        """Leave logging as it was."""
        logging.getLogger().removeHandler(self._handler)
        logging.captureWarnings(False)
        for name in (*self.packages, "py.warnings"):
            logging.getLogger(name).setLevel(logging.NOTSET)

    def progress(self, *, keeps_stages: bool = True) -> StageProgress:
        """Return the progress of stages on stderr; it raises KeyboardInterrupt after a signal."""
        return StageProgress(
            self._view(keeps_stages) if self.verbosity >= 0 else None,
            is_cancelled=lambda: self.is_interrupted,
        )

    def show(self, *parts: Any) -> None:
        """Write what people want to see of a result: texts and tables."""
        if self.verbosity >= 0:
            with self._translated():
                for part in parts:
                    self._write_part(part)

    def note(self, message: str) -> None:
        """Write a remark to stderr."""
        if self.verbosity >= 0:
            self._write_remark("note", message)

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
            self._write_trace("".join(traceback.format_exception(error)).rstrip())
        self._write_remark("error", message)
        if self.is_json and not self.has_result:
            kind = type(error).__name__
            with contextlib.suppress(BrokenPipeError, StreamError):
                self.finish({"error": {"type": kind, "message": message, "exit_code": exit_code}})

    # What a better terminal does in another way.

    def _make_handler(self) -> logging.Handler:
        handler = logging.StreamHandler(cast("TextIO", self._stderr))
        handler.setFormatter(_PrintableFormatter("%(levelname)s: %(message)s"))
        return handler

    def _view(self, keeps_stages: bool) -> View:
        if self._stderr.isatty():
            return OneLine(self._stderr, keeps_stages=keeps_stages)
        return Lines(self._write_trace, keeps_stages=keeps_stages)

    def _write_part(self, part: Any) -> None:
        text = "\n".join(lines_of_table(part)) if isinstance(part, Table) else str(part)
        stream = self._stderr if self.is_json else self._stdout
        stream.write(printable(text) + "\n")

    def _write_remark(self, kind: str, message: str) -> None:
        self._write_trace(f"{kind}: {message}")

    def _write_trace(self, text: str) -> None:
        self._stderr.write(printable(text) + "\n")

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Say what is wrong with stdout, and let it lead nowhere.

        Raises:
            BrokenPipeError: its reader is gone, which is nobody's mistake.
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


class Forgiving:
    """Stderr, without the errors of a pipe whose reader is gone or of a full disk: work goes on.

    Its last line may be a status, which makes room for what is written next.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._has_status = False

    def show_status(self, line: str) -> None:
        """Replace the status; an empty one takes it away."""
        self.write(f"{_CLEAR_LINE}{line}")
        self.flush()
        self._has_status = bool(line)

    def write(self, text: str) -> int:
        """Write, in place of the status, or let the stream lead nowhere."""
        if self._has_status:
            self._has_status = False
            text = _CLEAR_LINE + text
        try:
            return self._stream.write(text)
        except OSError:
            silence(self._stream)
            return len(text)

    def flush(self) -> None:
        """Flush, or let the stream lead nowhere."""
        try:
            self._stream.flush()
        except OSError:
            silence(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _PrintableFormatter(logging.Formatter):
    """Writes as escapes what a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
