"""Reads an annotation file in COCO's format, and checks in it all that a metric would stumble over later."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from edgeseg_bench.datasets.base import DatasetError, read_file
from edgeseg_runtime.results.rle import mask_from_rle

MAX_BYTES = 4 * 2**30
"""Of a file; that of Objects365, with 27 million boxes, has 6 GB, that of COCO's training pictures 0.5 GB."""
MAX_ID = 2**53
"""Numbers of entries: JSON readers, and evaluators, keep no larger ones exactly."""
MAX_SIDE = 2**16
MAX_OUTLINE = 4e6
"""Pixels along a polygon, and from the picture's corner to it."""
MAX_SHOWN = 120

Entry: TypeAlias = Mapping[str, Any]
Check: TypeAlias = Callable[[Any], bool]


def read_coco_file(source: Path, *, limit: int | None) -> dict[str, Any]:
    """Return the content of an annotation file of instances.

    Args:
        source: the file.
        limit: of the pictures; what their annotations hold is checked, that of others is not.

    Raises:
        DatasetError: it cannot be read, or is not what it should be; names the entry and the key.
    """
    content = read_annotation_file(source, ENTRIES)
    for name, entries in ENTRIES.items():
        _check_entries(source, name, content[name], entries)
    sizes = {entry["id"]: (entry["height"], entry["width"]) for entry in content["images"][:limit]}
    categories = {entry["id"] for entry in content["categories"]}
    for number, entry in enumerate(content["annotations"]):
        if entry["image_id"] not in sizes:
            continue
        if entry["category_id"] not in categories:
            expected = f"one of the {len(categories)} categories"
            _refuse(source, f"annotations[{number}].category_id", entry["category_id"], expected)
        _check_shape(source, number, entry, sizes[entry["image_id"]])
    return content


def read_annotation_file(source: Path, required: Mapping[str, Collection[str]]) -> dict[str, Any]:
    """Return the content of a JSON file of annotations.

    Args:
        source: the file.
        required: of its lists, the keys that every entry must have.

    Raises:
        DatasetError: it cannot be read, is not JSON, or lacks one of these lists or keys.
    """
    content = _read_json(source)
    missing = required.keys() - set(content if isinstance(content, dict) else ())
    if missing:
        raise DatasetError(
            f"{source} lacks {sorted(missing)}: expected an object with {sorted(required)}."
        )
    for name, keys in required.items():
        _check_keys(source, name, content[name], keys)
    return dict(content)


def _read_json(source: Path) -> Any:
    content = read_file(source, max_bytes=MAX_BYTES)
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f"{source} is not JSON: {error}. Download or export it again."
        ) from error


def _check_keys(source: Path, name: str, entries: Any, keys: Collection[str]) -> None:
    if not isinstance(entries, list):
        raise DatasetError(f"{source}: {name} is {_shown(entries)}; expected a list.")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DatasetError(
                f"{source}: {name}[{number}] is {_shown(entry)}; expected an object."
            )
        lacking = set(keys) - entry.keys()
        if lacking:
            raise DatasetError(
                f"{source}: an entry of {name}, {_shown(entry)}, lacks {sorted(lacking)}."
            )


# ---------------------------------------------------------------- entries


def _is_id(value: Any) -> bool:
    return type(value) is int and -MAX_ID < value < MAX_ID


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and "\0" not in value


def _is_side(value: Any) -> bool:
    return type(value) is int and 0 < value <= MAX_SIDE


ENTRIES: dict[str, dict[str, tuple[Check, str]]] = {
    "images": {
        "id": (_is_id, "a whole number"),
        "file_name": (_is_text, "a name"),
        "height": (_is_side, f"1 to {MAX_SIDE} pixels"),
        "width": (_is_side, f"1 to {MAX_SIDE} pixels"),
    },
    "categories": {"id": (_is_id, "a whole number"), "name": (_is_text, "a name")},
    "annotations": {
        "id": (_is_id, "a whole number"),
        "image_id": (_is_id, "a whole number"),
        "category_id": (_is_id, "a whole number"),
    },
}
"""List -> what each of its entries must have."""


def _check_entries(
    source: Path,
    name: str,
    entries: Sequence[Entry],
    checks: Mapping[str, tuple[Check, str]],
) -> None:
    known: set[int] = set()
    for number, entry in enumerate(entries):
        for key, (is_right, expected) in checks.items():
            if not is_right(entry[key]):
                _refuse(source, f"{name}[{number}].{key}", entry[key], expected)
        if entry["id"] in known:
            _refuse(
                source,
                f"{name}[{number}].id",
                entry["id"],
                "another number than that of an earlier entry",
            )
        known.add(entry["id"])


# ---------------------------------------------------------------- what is annotated


def _check_shape(source: Path, number: int, entry: Entry, size: tuple[int, int]) -> None:
    """Check what an annotation may have; a key that is null is as good as none."""
    for key, (is_right, expected) in SHAPES.items():
        value = entry.get(key)
        if value is not None and not is_right(value):
            _refuse(source, f"annotations[{number}].{key}", value, expected)
    segmentation = entry.get("segmentation")
    if isinstance(segmentation, dict) and not _is_rle(segmentation, size):
        expected = (
            f"runs that cover the {size[0]} x {size[1]} pixels of its picture (height x width)"
        )
        _refuse(source, f"annotations[{number}].segmentation", segmentation, expected)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < MAX_ID and math.isfinite(value)


def _are_numbers(value: Any, counts: Collection[int] | None = None) -> bool:
    return (
        isinstance(value, list)
        and (counts is None or len(value) in counts)
        and all(map(_is_number, value))
    )


def _is_box(value: Any) -> bool:
    return _are_numbers(value, (4,)) and value[2] >= 0 and value[3] >= 0


def _is_segmentation(value: Any) -> bool:
    if isinstance(value, dict):
        return {"size", "counts"} <= value.keys()
    return isinstance(value, list) and all(map(_is_polygon, value))


def _is_polygon(value: Any) -> bool:
    """Tell whether a list is a polygon; evaluators walk along it in steps of a fifth of a pixel."""
    if not _are_numbers(value) or len(value) < 6 or len(value) % 2:
        return False
    least, most = min(value), max(value)
    if least < -MAX_OUTLINE or most > MAX_OUTLINE:
        return False
    if len(value) * (most - least) < MAX_OUTLINE:  # so it is with all but the largest
        return True
    corners = list(zip(value[::2], value[1::2], strict=True))
    sides = zip(corners, [*corners[1:], corners[0]], strict=True)
    return sum(abs(x2 - x1) + abs(y2 - y1) for (x1, y1), (x2, y2) in sides) < MAX_OUTLINE


def _is_rle(value: Entry, size: tuple[int, int]) -> bool:
    if value["size"] != list(size):
        return False
    counts = value["counts"]
    if isinstance(counts, str):
        try:
            mask_from_rle(counts, size)
        except ValueError:
            return False
        return True
    are_runs = isinstance(counts, list) and all(type(run) is int and run >= 0 for run in counts)
    return are_runs and sum(counts) == size[0] * size[1]


SHAPES: dict[str, tuple[Check, str]] = {
    "bbox": (_is_box, "x, y, width, height in pixels"),
    "area": (_is_number, "a number of pixels"),
    "iscrowd": (lambda value: type(value) in (bool, int) and value in (0, 1), "0 or 1"),
    "segmentation": (
        _is_segmentation,
        "polygons of three corners or more, [[x, y, x, y, ...], ...], or runs {size, counts}",
    ),
    "keypoints": (
        lambda value: _are_numbers(value) and len(value) % 3 == 0,
        "x, y, visibility of each key point in one list",
    ),
    "num_keypoints": (_is_id, "a whole number"),
}
"""Key of an annotation -> what it is if it is there."""


def _refuse(source: Path, where: str, found: Any, expected: str) -> None:
    raise DatasetError(
        f"{source}: {where} is {_shown(found)}; expected {expected}. Mend the file, or export it again."
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
