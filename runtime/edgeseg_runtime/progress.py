"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

__all__ = ["Progress", "silent"]

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called as progress(stage, done, total), with a total of 0 where nobody knows it."""


def silent(stage: str, done: int, total: int) -> None:
    """Show nothing."""
