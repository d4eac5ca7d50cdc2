"""What the conversions of results to other libraries share."""

from __future__ import annotations

from typing import Any

from edgeseg_runtime.libraries import import_library

__all__ = ["import_supervision"]


def import_supervision() -> Any:
    """Return the module supervision, which is asked for only here.

    Raises:
        ModuleNotFoundError: if it is not installed.
    """
    try:
        return import_library("supervision")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"to_supervision needs supervision ({error}): pip install supervision"
        ) from error
