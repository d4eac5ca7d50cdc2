"""Lays out a JSON document for people: the same facts that `--json` gives, as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

__all__ = [
    "Table",
    "lines_of_table",
    "sections_from_document",
    "table_of_facts",
    "table_of_rows",
    "text_from_agreement",
    "text_from_bytes",
    "text_from_value",
]

MAX_ITEMS = 12
"""Items of a list of scalars that are shown; the rest is counted."""
_BYTES = "_bytes"
_DIGEST_DIGITS = 12


@dataclass(frozen=True, kw_only=True)
class Table:
    """Texts in rows and columns.

    Attributes:
        title: above the table; empty for none.
        names: of the columns; empty where the first column holds the names of the rows.
        rows: as many texts each as there are columns.
        numbers: the columns that hold numbers, from 0 on.
    """

    title: str
    names: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = frozenset()


def sections_from_document(document: Mapping[str, Any]) -> list[Table]:
    """Return one table per mapping or list of mappings, after one of the document's scalars.

    Lists of mappings inside a mapping follow it as tables of their own.
    """
    scalars = {key: value for key, value in document.items() if not _is_section(value)}
    sections = [table_of_facts("", scalars)] if scalars else []
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
    shown = ((name, value) for name, value in _flat(facts) if not _is_rows(value))
    return Table(
        title=title,
        rows=tuple((_heading(name), text_from_value(name, value)) for name, value in shown),
    )


def table_of_rows(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table with one column for every key that a row has."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Table(
        title=title,
        names=tuple(map(_heading, names)),
        rows=tuple(tuple(text_from_value(name, row.get(name)) for name in names) for row in rows),
        numbers=frozenset(
            column
            for column, name in enumerate(names)
            if all(isinstance(row.get(name), int | float | None) for row in rows)
        ),
    )


def lines_of_table(table: Table) -> list[str]:
    """Return a table as lines of text, for whoever has nothing better to draw it with."""
    rows = [table.names, *table.rows] if table.names else list(table.rows)
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    return [
        *([table.title] if table.title else []),
        *(_line(row, widths, table.numbers) for row in rows),
    ]


def _line(row: Sequence[str], widths: Sequence[int], numbers: frozenset[int]) -> str:
    cells = (
        text.rjust(width) if column in numbers else text.ljust(width)
        for column, (text, width) in enumerate(zip(row, widths, strict=True))
    )
    return f"  {'  '.join(cells)}".rstrip()


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


def _title(key: str) -> str:
    return key.replace("_", " ").capitalize()


def _heading(name: str) -> str:
    return name.removesuffix(_BYTES)
