"""Tells which category of a data set each class of a model is."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgeseg.models.labels import BACKGROUND, is_placeholder
from edgeseg_bench.datasets.base import Category
from edgeseg_runtime.bundle.manifest import Manifest

MATCHES = ("name", "id")
_NUM_SHOWN = 6
_log = logging.getLogger(__name__)


def categories_of_classes(
    manifest: Manifest, categories: Sequence[Category], *, match: str | None = None
) -> dict[int, int]:
    """Return the data set's category id of each of the model's that the data set has, too.

    Args:
        manifest: of the model; a model without classes has none.
        categories: of the data set.
        match: "name" or "id"; by name if None and the model's classes have names.

    Raises:
        ValueError: the model finds nothing that the data set has labels for, or `match` is another.
    """
    if match not in {None, *MATCHES}:
        raise ValueError(f"match is {match!r}: expected one of {', '.join(MATCHES)}")
    classes = {
        category: name
        for category, name in zip(manifest.category_ids, manifest.labels, strict=True)
        if name not in {"", BACKGROUND}
    }
    if not classes:
        return {}
    if match is None:
        match = "id" if all(map(is_placeholder, classes.values())) else "name"
    return _by_name(classes, categories) if match == "name" else _by_id(classes, categories)


def in_categories(
    records: Iterable[Mapping[str, Any]], category_of: Mapping[int, int]
) -> list[dict[str, Any]]:
    """Return results with the data set's category ids; those of other classes are left out."""
    if not category_of:
        return [dict(record) for record in records]
    return [
        {**record, "category_id": category_of[record["category_id"]]}
        for record in records
        if record["category_id"] in category_of
    ]


def warn_of_unknown(category_of: Mapping[int, int], categories: Sequence[Category]) -> None:
    """Log the categories of a data set that a model of some classes does not know."""
    known = set(category_of.values())
    others = [category["name"] for category in categories if category["id"] not in known]
    if known and others:
        _log.warning(
            "the model does not know %d of the data set's %d categories, which count as not found: %s",
            len(others),
            len(categories),
            _listed(others),
        )


def _by_name(classes: Mapping[int, str], categories: Sequence[Category]) -> dict[int, int]:
    ids: defaultdict[str, list[int]] = defaultdict(list)
    for category in categories:
        ids[_plain(category["name"])].append(int(category["id"]))
    found = {
        category: _one_of(ids[_plain(name)], category, name)
        for category, name in classes.items()
        if _plain(name) in ids
    }
    if not found:
        raise ValueError(
            f"No class of the model ({_listed(classes.values())}) is in the data set "
            f"({_listed(category['name'] for category in categories)}). Where they are the same under "
            "other names, match them by their category ids (--match id)."
        )
    return found


def _one_of(ids: Sequence[int], category: int, name: str) -> int:
    """Return the category of a name; of several, the one with the model's own id."""
    if category in ids:
        return category
    if len(ids) > 1:
        raise ValueError(
            f"The data set has {len(ids)} categories named {name!r}, with the ids {_listed(ids)}, and "
            f"the model's has the id {category}. Give them names of their own, or match by category "
            "ids (--match id)."
        )
    return ids[0]


def _by_id(classes: Mapping[int, str], categories: Sequence[Category]) -> dict[int, int]:
    ids = {int(category["id"]) for category in categories}
    found = {category: category for category in classes if category in ids}
    if len(found) < min(len(classes), len(ids)):
        raise ValueError(
            f"The model's classes ({_listed(classes.values())}) have the category ids "
            f"{_listed(classes)}, the data set's ({_listed(c['name'] for c in categories)}) "
            f"{_listed(sorted(ids))}. Export the model with the names of its classes (--labels a,b,c or "
            "coco:DIR): they are then matched by name."
        )
    return found


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _listed(values: Iterable[Any]) -> str:
    values = list(values)
    more = " ..." if len(values) > _NUM_SHOWN else ""
    return ", ".join(map(str, values[:_NUM_SHOWN])) + more
