"""Reads and writes JSON that a stranger may have written: bounded, strict, with a digest of its content."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NoReturn

from edgeseg_runtime.errors import ManifestError

__all__ = ["MAX_BYTES", "MAX_DEPTH", "check_digest", "digest_of", "format_json", "parse_json"]

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 16

# A string without an end takes the rest of the text with it: looked for again at each quote in it, it
# would take a time that grows with the square of its length.
_BRACKETS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{]|[\]}]', re.DOTALL)


def parse_json(text: str) -> dict[str, Any]:
    """Return the document of a JSON text, bounded in size and depth before it is parsed."""
    if len(text) > MAX_BYTES:
        raise ManifestError(f"{len(text)} characters, expected at most {MAX_BYTES}")
    depth = 0
    for match in _BRACKETS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
        if depth > MAX_DEPTH:
            raise ManifestError(f"nested deeper than {MAX_DEPTH} levels; this is not a manifest")
    try:
        document = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise ManifestError(
            f"not valid JSON ({error}). The file is damaged or was edited by hand: "
            "copy or export the bundle again."
        ) from error
    if not isinstance(document, dict):
        raise ManifestError(f"expected a JSON object, found {type(document).__name__}")
    return document


def digest_of(document: Mapping[str, Any]) -> str:
    """Return "sha256:" and the digest of a document, whatever the order of its keys and its layout."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"sha256:{hashlib.sha256(canonical.encode('ascii')).hexdigest()}"


def check_digest(digest: Any, document: Mapping[str, Any]) -> None:
    """Raise ManifestError if a document does not have the digest that was recorded."""
    found = digest_of(document)
    if digest != found:
        raise ManifestError(
            f"the content was changed after it was written: its digest is {found}, "
            f"recorded is {digest!r}. If you edited it on purpose, remove the key 'digest'; "
            "otherwise copy or export the bundle again."
        )


def format_json(value: Any, indent: int = 0) -> str:
    """Return JSON with one line per entry, and lists of scalars that fit on one line."""
    if isinstance(value, dict) and value:
        items = [
            f"{json.dumps(key)}: {format_json(item, indent + 2)}" for key, item in value.items()
        ]
        brackets = "{}"
    elif isinstance(value, list) and value:
        line = json.dumps(value, allow_nan=False, ensure_ascii=False)
        is_flat = not any(isinstance(item, (dict, list)) for item in value)
        if is_flat and len(line) <= 80:
            return line
        items = [format_json(item, indent + 2) for item in value]
        brackets = "[]"
    else:
        return json.dumps(value, allow_nan=False, ensure_ascii=False)
    pad = " " * (indent + 2)
    body = ",\n".join(pad + item for item in items)
    return f"{brackets[0]}\n{body}\n{' ' * indent}{brackets[1]}"


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ManifestError(f"the key {twice!r} is given twice; remove one of them")
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise ManifestError(f"{name} is not a number that a manifest may hold")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ManifestError(f"the number {text[:40]} is out of range")
    return value
