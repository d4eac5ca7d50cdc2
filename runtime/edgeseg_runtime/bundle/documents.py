"""Dataclasses as JSON objects, strict on the way in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from edgeseg_runtime.bundle.values import as_mapping
from edgeseg_runtime.errors import ManifestError


def read_object(
    kind: type,
    where: str,
    value: Any,
    convert: Mapping[str, Callable[[str, Any], Any]],
    *,
    ignore_unknown: bool,
) -> Any:
    """Build a dataclass from a JSON object; only keys with a default may be left out."""
    document = as_mapping(where or "the document", value)
    known = [item.name for item in fields(kind)]
    required = [
        item.name
        for item in fields(kind)
        if item.default is MISSING and item.default_factory is MISSING
    ]
    missing = [key for key in required if key not in document]
    unknown = [key for key in document if key not in known]
    place = f"in {where}" if where else "at the top level"
    if missing:
        raise ManifestError(f"the key {missing[0]!r} is missing {place}. Export the bundle again.")
    if unknown and not ignore_unknown:
        raise ManifestError(
            f"unknown key {unknown[0]!r} {place}; expected {', '.join(known)}. "
            "Remove it, or upgrade: pip install -U edgeseg-runtime"
        )
    values = {key: document[key] for key in known if key in document}
    for key in values.keys() & convert.keys():
        values[key] = convert[key](f"{where}.{key}" if where else key, values[key])
    try:
        return kind(**values)
    except ManifestError as error:
        if not where:
            raise
        raise ManifestError(f"{where}.{error}") from error


def document_from(value: Any) -> Any:
    """Return dataclasses as objects and tuples as lists, in the order of the fields."""
    if dataclasses.is_dataclass(value):
        return {item.name: document_from(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {key: document_from(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [document_from(item) for item in value]
    return value
