"""Says what an error means to whoever typed the command: its exit code and a message that helps."""

from __future__ import annotations

from edgeseg_runtime.errors import EdgesegError

__all__ = ["UsageError", "explain", "explain_known"]


class UsageError(EdgesegError):
    """A command line that cannot be understood."""

    exit_code = 2


def explain(error: Exception) -> tuple[int, str]:
    """Return the exit code and the message of an error."""
    return explain_known(error) or (
        1,
        (
            f"unexpected {type(error).__name__}: {error}. This is a mistake in edgeseg: please "
            "report it with what -v shows"
        ),
    )


def explain_known(error: Exception) -> tuple[int, str] | None:
    """Return the exit code and the message of an error of a kind that is to be expected, or None."""
    if isinstance(error, EdgesegError):
        return error.exit_code, str(error)
    if isinstance(error, MemoryError):
        return 5, f"the memory is exhausted: choose a smaller --image-size ({error})"
    if isinstance(error, ImportError):
        return 4, f"{error}; install it with pip (`edgeseg doctor` shows what is there)"
    if isinstance(error, ValueError | FileExistsError):
        return 2, str(error)
    if isinstance(error, OSError):
        return 1, _system_message(error)
    return None


def _system_message(error: OSError) -> str:
    """Return what the system says, and of which file."""
    if error.strerror is None or error.filename is None:
        return str(error.strerror or error)
    files = " to ".join(str(file) for file in (error.filename, error.filename2) if file is not None)
    return f"{files}: {error.strerror}"
