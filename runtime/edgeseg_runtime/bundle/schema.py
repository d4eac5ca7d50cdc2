"""Which forms of a manifest this runtime reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from edgeseg_runtime.bundle.graphs import MAIN
from edgeseg_runtime.bundle.values import refuse
from edgeseg_runtime.errors import ManifestError, SchemaTooNew

SCHEMA = "2.0"
OLDEST_SCHEMA = "1.0"
KNOWN_REQUIREMENTS: frozenset[str] = frozenset()
"""What a bundle may demand of this runtime."""
_SCHEMA = re.compile(r"(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})")


def check_requirements(requires: Sequence[str]) -> None:
    """Refuse a bundle that demands what this runtime does not know."""
    unknown = [name for name in requires if name not in KNOWN_REQUIREMENTS]
    if unknown:
        raise SchemaTooNew(
            f"the bundle requires {unknown[0]!r}, which this runtime does not know. "
            "Upgrade it: pip install -U edgeseg-runtime"
        )


def check_schema(schema: Any) -> str:
    """Return a version that this runtime reads.

    Raises:
        SchemaTooNew: only a newer runtime reads it.
        ManifestError: it is too old, or not a version.
    """
    if not isinstance(schema, str) or not _SCHEMA.fullmatch(schema):
        refuse("schema", schema, f"a version such as {SCHEMA!r}")
    if version_of(schema)[0] > version_of(SCHEMA)[0]:
        raise SchemaTooNew(
            f"schema {schema} is newer than {SCHEMA}, the newest that this runtime reads. "
            "Upgrade it: pip install -U edgeseg-runtime"
        )
    if version_of(schema)[0] < version_of(OLDEST_SCHEMA)[0]:
        raise ManifestError(
            f"schema {schema} is older than this runtime reads ({OLDEST_SCHEMA}). "
            "Export the bundle again."
        )
    return schema


def version_of(schema: str) -> tuple[int, int]:
    """Return major and minor version."""
    major, _, minor = schema.partition(".")
    return int(major), int(minor)


def in_todays_form(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document of schema 1, whose one graph stood at the top level, in the form of today."""
    found = dict(document)
    if found.pop("state", []):
        refuse("state", document["state"], "an empty list, as every release wrote it")
    graph = {key: found.pop(key) for key in ("inputs", "outputs") if key in found}
    return {**found, "schema": SCHEMA, "graphs": {MAIN: graph}}
