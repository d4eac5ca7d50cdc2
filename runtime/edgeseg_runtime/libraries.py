"""Imports the libraries of engines, which fail in ways of their own."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

__all__ = ["import_library"]

_ENVIRONMENT: Mapping[str, Mapping[str, str]] = {"onnxruntime": {"ORT_DISABLE_TELEMETRY": "1"}}
"""What a library finds in the environment where nobody has chosen.

ONNX Runtime reads this when it is imported. From 1.32 on it otherwise writes an id and a database of
events below HOME and TMPDIR, sends them, and warns on stderr where it cannot write.
`onnxruntime.disable_telemetry_events()` comes too late for the files and the warning.
"""


def import_library(name: str) -> Any:
    """Return a library's module; the first time its telemetry is switched off, unless the user chose.

    Raises:
        ImportError: if it is not installed, or raises anything while it is imported: OSError for a
            missing shared library, RuntimeError of OpenVINO for a user without a home folder.
    """
    if name not in sys.modules:
        for variable, value in _ENVIRONMENT.get(name, {}).items():
            os.environ.setdefault(variable, value)
    try:
        return importlib.import_module(name)
    except ImportError:
        raise
    except Exception as error:
        raise ImportError(f"{name} fails on import, {type(error).__name__}: {error}") from error
