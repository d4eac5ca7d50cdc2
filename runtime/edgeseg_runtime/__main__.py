"""The command `edgeseg` of a device: build, run, inspect, doctor.

The workstation's `edgeseg` does the same with the same options, and exports; this one needs nothing but the
runtime and an engine.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from edgeseg_runtime import __version__
from edgeseg_runtime.commands.failures import UsageError
from edgeseg_runtime.commands.options import (
    BUILD_HELP,
    BUNDLE_HELP,
    COMMAND_HELP,
    COMMON_HELP,
    INSPECT_HELP,
    RUN_HELP,
)
from edgeseg_runtime.commands.running import exit_code_of
from edgeseg_runtime.commands.terminal import Terminal
from edgeseg_runtime.streams import exit_code_after_flush, open_standard_streams

COMMANDS: dict[str, str] = {
    "build": "edgeseg_runtime.commands.build:build",
    "run": "edgeseg_runtime.commands.run:run",
    "inspect": "edgeseg_runtime.commands.inspect:inspect",
    "doctor": "edgeseg_runtime.commands.doctor:doctor",
}
"""Name -> "module:function", imported when it is asked for: help comes at once."""
ELSEWHERE = ("bench", "compare", "export", "models")
"""Commands that the workstation alone has."""
EPILOG = """exit codes: 0 ok, 1 a check failed, 2 usage, 3 corrupt artifact, 4 engine or device missing,
5 out of memory, 130 interrupted"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `arguments` are those of the process if None."""
    open_standard_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    terminal = Terminal(words)
    return exit_code_after_flush(exit_code_of(lambda: _command(terminal, words), terminal))


def _command(terminal: Terminal, words: Sequence[str]) -> int | None:
    if not words or words[0].startswith("-"):
        _overview().parse_args(words or ["--help"])
        raise UsageError("Missing command. See edgeseg --help.")
    name, *rest = words
    if name not in COMMANDS:
        raise UsageError(_unknown(name))
    options = vars(parser_of(name).parse_intermixed_args(rest))
    terminal.configure(
        is_json=options.pop("json"), verbose=options.pop("verbose"), quiet=options.pop("quiet")
    )
    module, _, function = COMMANDS[name].partition(":")
    with contextlib.redirect_stdout(sys.stderr):  # what libraries print
        code: int | None = getattr(importlib.import_module(module), function)(terminal, **options)
    return code


def _unknown(name: str) -> str:
    if name in ELSEWHERE:
        return (
            f"The command {name!r} needs PyTorch: run it where the package edgeseg is installed. "
            f"Here are {', '.join(COMMANDS)}."
        )
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"No such command {name!r}.{hint} See edgeseg --help."


class _Help(argparse.RawDescriptionHelpFormatter):
    """Tells the defaults that are values."""

    def _get_help_string(self, action: argparse.Action) -> str:
        is_value = isinstance(action.default, str | float | int | Path)
        is_shown = is_value and action.nargs != 0 and action.option_strings
        return f"{action.help}{' [default: %(default)s]' if is_shown else ''}"


class _Parser(argparse.ArgumentParser):
    """Raises an error of ours in place of writing one of its own, and takes whole options only."""

    def __init__(self, prog: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=_Help,
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. See {self.prog} --help.")


def _overview() -> argparse.ArgumentParser:
    commands = "\n".join(f"  {name:8} {COMMAND_HELP[name]}" for name in COMMANDS)
    parser = _Parser(
        "edgeseg", f"Runs exported bundles on a device.\n\ncommands:\n{commands}", EPILOG
    )
    parser.usage = "edgeseg COMMAND ..."
    version = f"edgeseg-runtime {__version__}"
    parser.add_argument(
        "--version", action="version", version=version, help="Show the version and exit."
    )
    return parser


def parser_of(name: str) -> argparse.ArgumentParser:
    """Return the parser of a command; its destinations are the parameters of the command's function."""
    parser = _Parser(f"edgeseg {name}", COMMAND_HELP[name])
    _ADD_OPTIONS[name](parser)
    parser.add_argument("--json", action="store_true", help=COMMON_HELP["json"])
    parser.add_argument("--verbose", "-v", action="count", default=0, help=COMMON_HELP["verbose"])
    parser.add_argument("--quiet", "-q", action="store_true", help=COMMON_HELP["quiet"])
    return parser


def _build_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help=BUNDLE_HELP)
    parser.add_argument("--target", help=BUILD_HELP["target"])
    parser.add_argument("--engine", help=BUILD_HELP["engine"])
    parser.add_argument("--out", "-o", type=Path, help=BUILD_HELP["out"])
    parser.add_argument("--force", action="store_true", help=BUILD_HELP["force"])
    parser.add_argument("--batch", type=int, default=1, help=BUILD_HELP["batch"])
    parser.add_argument("--workspace", type=float, help=BUILD_HELP["workspace"])
    parser.add_argument("--level", type=int, default=3, help=BUILD_HELP["level"])


def _run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help=BUNDLE_HELP)
    parser.add_argument("sources", metavar="SOURCE", nargs="+", help=RUN_HELP["source"])
    parser.add_argument("--out", "-o", type=Path, default=Path("edgeseg-run"), help=RUN_HELP["out"])
    parser.add_argument("--overwrite", action="store_true", help=RUN_HELP["overwrite"])
    parser.add_argument("--recursive", "-r", action="store_true", help=RUN_HELP["recursive"])
    parser.add_argument("--backend", default="auto", help=RUN_HELP["backend"])
    parser.add_argument("--score", type=_share, default=0.3, help=RUN_HELP["score"])
    parser.add_argument("--reconnect", type=_count_from(0), help=RUN_HELP["reconnect"])
    parser.add_argument("--scene-cut", type=float, help=RUN_HELP["scene_cut"])
    parser.add_argument("--batch", type=_count_from(1), default=1, help=RUN_HELP["batch"])
    parser.add_argument("--track", action="store_true", help=RUN_HELP["track"])
    parser.add_argument("--then", type=Path, metavar="LANDMARKS", help=RUN_HELP["then"])
    _add_switch(parser, "draw", RUN_HELP["draw"])
    _add_switch(parser, "draw-labels", RUN_HELP["draw_labels"])
    _add_switch(parser, "draw-scores", RUN_HELP["draw_scores"])
    parser.add_argument("--colours", help=RUN_HELP["colours"])
    parser.add_argument("--keypoint-score", type=float, help=RUN_HELP["keypoint_score"])
    parser.add_argument("--line-width", type=_count_from(1), help=RUN_HELP["line_width"])
    parser.add_argument("--surfaces", help=RUN_HELP["surfaces"])
    parser.add_argument("--iuv", action="store_true", help=RUN_HELP["iuv"])
    _add_switch(parser, "save-json", RUN_HELP["save_json"])
    parser.add_argument("--save-lines", action="store_true", help=RUN_HELP["save_lines"])
    parser.add_argument("--threads", type=_count_from(1), help=RUN_HELP["threads"])
    parser.add_argument("--winograd", help=RUN_HELP["winograd"])
    parser.add_argument("--engines", type=Path, help=RUN_HELP["engines"])


def _inspect_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", type=Path, help=INSPECT_HELP["path"])


def _doctor_options(_parser: argparse.ArgumentParser) -> None:
    """Add nothing: it has none of its own."""


_ADD_OPTIONS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "build": _build_options,
    "run": _run_options,
    "inspect": _inspect_options,
    "doctor": _doctor_options,
}


def _add_switch(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    """Add --NAME, which is the default, and --no-NAME."""
    target = name.replace("-", "_")
    parser.add_argument(f"--{name}", dest=target, action="store_true", default=True, help=text)
    parser.add_argument(f"--no-{name}", dest=target, action="store_false", help="Or not.")


def _share(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} found, expected a number from 0 to 1")


def _count_from(least: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        with contextlib.suppress(ValueError):
            if int(text) >= least:
                return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} found, expected a whole number from {least} on")

    return count


if __name__ == "__main__":
    sys.exit(main())
