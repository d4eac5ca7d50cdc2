"""Shows text that a stranger may have written."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    """Return a text with its control characters as escapes: a terminal would obey them.

    So are what hides or turns the text around it, and what no encoding can write (half a surrogate
    pair). Line breaks and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii")
        for c in text
    )
