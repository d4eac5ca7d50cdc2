"""Draws tables with rich."""

from __future__ import annotations

from rich.table import Table as RichTable
from rich.text import Text

from edgeseg_runtime.commands.tables import Table


def drawn(table: Table) -> RichTable:
    """Return a table as rich draws it, in as many columns as the terminal has."""
    found = RichTable(
        title=Text(table.title) if table.title else None,
        title_justify="left",
        title_style="bold cyan",
        box=None,
    )
    if table.names:
        for column, name in enumerate(table.names):
            found.add_column(
                Text(name),
                justify="right" if column in table.numbers else "left",
                overflow="fold",
            )
    else:
        found.show_header = False
        found.add_column(style="bold", no_wrap=True)
        found.add_column(overflow="fold")
    for row in table.rows:
        found.add_row(*map(Text, row))
    return found
