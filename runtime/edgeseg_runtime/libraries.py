"""Imports the libraries of engines, which fail in ways of their own."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["import_library"]


def import_library(name: str) -> Any:
    """Return a library's module.

    Raises:
        ImportError: if it is not installed, or raises anything while it is imported: OSError for a
            missing shared library, RuntimeError of OpenVINO for a user without a home folder.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise
    except Exception as error:
        raise ImportError(f"{name} fails on import, {type(error).__name__}: {error}") from error
