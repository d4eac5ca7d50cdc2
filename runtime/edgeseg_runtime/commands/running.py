"""Runs a command to its exit code, whatever happens on the way."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from edgeseg_runtime.commands.failures import explain
from edgeseg_runtime.commands.terminal import Terminal
from edgeseg_runtime.streams import silence

__all__ = ["INTERRUPTED", "exit_code_of"]

INTERRUPTED = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def exit_code_of(
    command: Callable[[], object],
    terminal: Terminal,
    *,
    explain: Callable[[Exception], tuple[int, str]] = explain,
) -> int:
    """Run a command and return its exit code; whatever it raises becomes one, and a message.

    Args:
        command: returns its exit code, or anything else for 0.
        terminal: is told, and closed.
        explain: gives the exit code and the message of an error.
    """
    try:
        with _signals_as_interrupts(terminal):
            code = command()
    except BrokenPipeError:
        silence(sys.stdout)
        return 1
    except SystemExit as error:  # argparse, which has shown its help
        return error.code if isinstance(error.code, int) else 0
    except KeyboardInterrupt as error:
        return _interrupted(terminal, error)
    except Exception as error:  # noqa: BLE001  the one place where everything ends
        if terminal.is_interrupted:  # a library made another error of it
            return _interrupted(terminal, error)
        exit_code, message = explain(error)
        terminal.fail(error, message, exit_code=exit_code)
        return exit_code
    finally:
        terminal.close()
    if (code == INTERRUPTED or terminal.is_interrupted) and not terminal.has_result:
        return _interrupted(terminal, KeyboardInterrupt())
    return code if isinstance(code, int) else 0


def _interrupted(terminal: Terminal, error: BaseException) -> int:
    terminal.fail(error, "interrupted", exit_code=INTERRUPTED)
    return INTERRUPTED


@contextlib.contextmanager
def _signals_as_interrupts(terminal: Terminal) -> Iterator[None]:
    """Let SIGTERM end a command the way Ctrl-C does, so that it cleans up behind itself.

    An exception that is raised while a vendor's library calls back may get lost there (TensorRT's
    builder swallows it), so the terminal remembers the signal and its progress bars raise again.
    The first signal while a module is imported is only remembered: a half of PyTorch may crash.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, frame: FrameType | None) -> None:
        is_first = not terminal.is_interrupted
        terminal.is_interrupted = True
        if not (is_first and _is_importing(frame)):
            raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_importing(frame: FrameType | None) -> bool:
    """Tell whether a module is being imported where a signal came."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False
