"""What the conversions of results to other libraries share."""

from __future__ import annotations

from typing import Any

__all__ = ["import_supervision"]


def import_supervision() -> Any:
    """Return the module supervision, which is asked for only here.

    Raises:
        ModuleNotFoundError: if it is not installed.
    """
    try:
        import supervision
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "to_supervision needs supervision: pip install supervision"
        ) from error
    return supervision
