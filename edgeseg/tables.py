"""Lays out a JSON document for people: the same facts that `--json` gives, as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

MAX_ITEMS = 12
"""Items of a list of scalars that are shown; the rest is counted."""
_BYTES = "_bytes"
_DIGEST_DIGITS = 12


def sections_from_document(document: Mapping[str, Any]) -> list[RenderableType]:
    """Return one table per mapping or list of mappings, after one of the document's scalars.

    Lists of mappings inside a mapping follow it as tables of their own.
    """
    scalars = {key: value for key, value in document.items() if not _is_section(value)}
    sections: list[RenderableType] = [table_of_facts("", scalars)] if scalars else []
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            sections.append(table_of_facts(_title(key), value))
            rows = ((name, inner) for name, inner in _flat(value, f"{key} ") if _is_rows(inner))
            sections += [table_of_rows(_title(name), inner) for name, inner in rows]
        elif _is_section(value) and value:
            sections.append(table_of_rows(_title(key), value))
    return sections


def table_of_facts(title: str, facts: Mapping[str, Any]) -> Table:
    """Return a table of names and values; nested mappings become names with dots."""
    table = _table(title)
    table.show_header = False
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _flat(facts):
        if _is_rows(value):
            continue
        table.add_row(Text(_heading(name)), Text(text_from_value(name, value)))
    return table


def table_of_rows(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table with one column for every key that a row has."""
    table = _table(title)
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        is_number = all(isinstance(row.get(name), int | float | None) for row in rows)
        table.add_column(
            Text(_heading(name)), justify="right" if is_number else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(text_from_value(name, row.get(name))) for name in names))
    return table


def text_from_value(name: str, value: Any) -> str:
    """Return a value as a person reads it; the name tells bytes and digests from the rest."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith(_BYTES):
        return text_from_bytes(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return _text_from_list(name, value)
    text = str(value)
    return text[:_DIGEST_DIGITS] if name.endswith("sha256") else text


def text_from_agreement(ap: Mapping[str, float | None]) -> str:
    """Return an agreement by kind, such as "bbox 0.942, segm 0.951"."""
    if all(value is None for value in ap.values()):
        return "nothing to compare"
    return ", ".join(f"{k} {'-' if v is None else format(v, '.3f')}" for k, v in ap.items())


def text_from_bytes(size_bytes: float) -> str:
    """Return a size in the decimal unit that suits it."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes:.0f} B"


def _text_from_list(name: str, values: Sequence[Any]) -> str:
    if name == "shape":
        return "x".join("batch" if size == -1 else str(size) for size in values)
    shown = [text_from_value("", value) for value in values[:MAX_ITEMS]]
    more = [f"and {len(values) - MAX_ITEMS} more"] if len(values) > MAX_ITEMS else []
    return ", ".join([*shown, *more]) or "none"


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, Mapping):
            yield f"{prefix}{name}", None
        else:
            yield f"{prefix}{name}", value


def _is_section(value: Any) -> bool:
    if isinstance(value, Mapping):
        return True
    return isinstance(value, list) and all(isinstance(item, Mapping) for item in value)


def _is_rows(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], Mapping)


def _table(title: str) -> Table:
    return Table(
        title=Text(title) if title else None,
        title_justify="left",
        title_style="bold cyan",
        box=None,
    )


def _title(key: str) -> str:
    return key.replace("_", " ").capitalize()


def _heading(name: str) -> str:
    return name.removesuffix(_BYTES)
