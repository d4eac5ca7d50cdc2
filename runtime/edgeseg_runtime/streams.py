"""The standard streams of a command, which may be closed, or lead into a pipe or a full disk."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from typing import TextIO

__all__ = ["exit_code_after_flush", "open_standard_streams", "silence"]

_ANY_TEXT = "edgeseg"  # name of the error handler below


def open_standard_streams() -> None:
    """Let streams that are closed lead nowhere.

    Otherwise the next file that is opened gets the stream's number, and what a library prints.
    Stdout takes every text: the name of a file that is not UTF-8 as its bytes, what its encoding
    lacks as an escape.
    """
    codecs.register_error(_ANY_TEXT, _bytes_or_escape)
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=_ANY_TEXT)


def _bytes_or_escape(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return what to write in place of characters that an encoding lacks; see codecs.register_error."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


def silence(stream: TextIO) -> None:
    """Let a stream that cannot be written lead nowhere; Python writes what is left at its end."""
    with contextlib.suppress(OSError, ValueError):
        number = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def exit_code_after_flush(exit_code: int) -> int:
    """Return a command's exit code, 1 in place of 0 if stdout cannot take what was written to it.

    Python would find that at its end and exit with 120.
    """
    try:
        sys.stdout.flush()
    except OSError:
        silence(sys.stdout)
        return exit_code or 1
    return exit_code
