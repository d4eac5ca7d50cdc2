"""Says what an error means to whoever typed the command: its exit code and a message that helps."""

from __future__ import annotations

import difflib
import re
import shlex
import traceback
from collections.abc import Sequence
from typing import Any

from edgeseg_runtime.commands.failures import explain as explain_any
from edgeseg_runtime.commands.failures import explain_known
from edgeseg_runtime.errors import EdgesegError

SPELLINGS = {
    "batch": "--dynamic-batch", "conf": "--score", "device": "--backend", "format": "--backends",
    "half": "--precision fp16", "imgsz": "--image-size", "int8": "--precision int8",
    "model": "--weights", "output": "--out", "save": "--draw", "source": "the second argument",
}  # fmt: skip
"""Options of other exporters -> ours, for the message when somebody types one."""


def explain(error: Exception, arguments: Sequence[str], options: Sequence[str]) -> tuple[int, str]:
    """Return the exit code and the message of an error.

    Args:
        error: what ended the command.
        arguments: of the command line, to tell what was probably meant.
        options: all that exist, such as "--out".
    """
    if hasattr(error, "format_message"):  # click's; typer brings its own copy of click, or not
        return 2, _usage_message(error, arguments, options)
    if "DefaultCPUAllocator" in str(error) and not isinstance(error, EdgesegError):  # torch's
        error = MemoryError(str(error))
    place = None if explain_known(error) else _place_in_named_module(error, arguments)
    if place:
        return 1, f"{type(error).__name__}: {error} ({place}); -v shows how it came to that"
    return explain_any(error)


def _place_in_named_module(error: Exception, arguments: Sequence[str]) -> str | None:
    """Return file and line of an error in a package that the command line names as MODULE:NAME."""
    packages = {
        argument.partition(":")[0].split(".")[0] for argument in arguments if ":" in argument
    }
    places = [
        f"{frame.f_code.co_filename}, line {line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).split(".")[0] in packages
    ]
    return places[-1] if places else None


def _usage_message(error: Any, arguments: Sequence[str], options: Sequence[str]) -> str:
    """Return click's message, what was probably meant, and where to read on."""
    message = str(error.format_message()).rstrip(".")
    message += "" if message.endswith("?") else "."
    hints = [hint for argument in arguments if (hint := _hint(argument, options))]
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "edgeseg"
    return " ".join([message, *hints, f"See {command} --help."])


def _hint(argument: str, options: Sequence[str]) -> str | None:
    """Return how to write `key=value` or another exporter's `--option` here, if that is known."""
    match = re.fullmatch(r"(-*)([A-Za-z][\w-]*)(=.*)?", argument)
    if match is None:
        return None
    dashes, name, value = match.groups()
    option = f"--{name.replace('_', '-')}"
    if (dashes and option in options) or (not dashes and value is None):
        return None
    known = SPELLINGS.get(name.replace("-", "_"))
    if known is None and not dashes:
        known = next(iter(difflib.get_close_matches(option, options, n=1)), None)
    return f"For {shlex.quote(argument)} write {known}." if known else None
