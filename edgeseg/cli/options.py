"""Turns the text of command-line options into values, or says what was expected."""

from __future__ import annotations

import difflib
import json
import re
import sys
import types
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from edgeseg.models import ModelSpec

_SIZE = re.compile(r"(\d{1,5})(?:[xX](\d{1,5}))?")
LABEL_SUFFIXES = (".json", ".names", ".txt")
OTHER_SUFFIXES = (".csv", ".xml", ".yaml", ".yml")
"""Of files whose lines are more than names."""
MAX_LABEL_BYTES = 2**30  # a file of COCO annotations may give the names
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def image_size_from_text(text: str) -> tuple[int, int]:
    """Return height and width of "800x1344", or of "640" for a square.

    Raises:
        ValueError: the text is neither.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"--image-size {text!r} found, expected HEIGHTxWIDTH such as 800x1344, or one number "
            "for a square"
        )
    return int(match[1]), int(match[2] or match[1])


def labels_from_text(text: str) -> dict[str, tuple[Any, ...]]:
    """Return the fields `labels` and, of COCO categories, `category_ids` of a configuration.

    Args:
        text: "cat,dog"; a file with a name in each line, with a JSON list of names, or with COCO
            annotations; or a data set "coco:DIR".

    Raises:
        ValueError: there are no names in it.
        DatasetError: the folder is no COCO data set.
    """
    path = Path(text)
    if text.startswith("coco:"):
        from edgeseg_bench.datasets import open_dataset

        return _labels_of_categories(text, open_dataset(text).categories)
    if path.is_file():
        return _labels_of_file(path)
    if path.suffix in LABEL_SUFFIXES or len(path.parts) > 1:
        raise ValueError(f"--labels {text} found, but there is no such file")
    return {"labels": _without_gaps(text, text.split(","))}


def _labels_of_file(path: Path) -> dict[str, tuple[Any, ...]]:
    try:
        if path.stat().st_size > MAX_LABEL_BYTES:
            raise ValueError(f"it has more than {MAX_LABEL_BYTES} bytes")
        content = path.read_text(encoding="utf-8-sig")  # Windows editors begin with a mark
        lines = content.rstrip().splitlines()
        found = json.loads(content) if path.suffix == ".json" else lines
    except UnicodeDecodeError as error:
        raise ValueError(
            f"--labels {path} cannot be read: found bytes that are no UTF-8 text ({error.reason} at "
            f"byte {error.start}); save it as UTF-8"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--labels {path} cannot be read: {error}") from error
    if isinstance(found, dict) and isinstance(found.get("categories"), list):
        return _labels_of_categories(str(path), found["categories"])
    names = tuple(found) if isinstance(found, list) else ()
    if path.suffix in OTHER_SUFFIXES or not names or not all(isinstance(n, str) for n in names):
        raise ValueError(
            f"--labels {path} holds no list of names and no COCO annotations; expected a text file "
            "with a name in each line, or JSON"
        )
    # In JSON an empty name is meant: a number that the model skips.
    return {"labels": names if path.suffix == ".json" else _without_gaps(str(path), names)}


def _without_gaps(text: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names, one for each class; without one of them, all that follow would be of the wrong class."""
    stripped = tuple(map(str.strip, names))
    if "" in stripped:
        where = stripped.index("") + 1
        raise ValueError(
            f"--labels {text} has {len(names)} entries, and number {where} is empty; expected a name "
            "for each class in the order of their numbers, such as cat,dog"
        )
    return stripped


def _labels_of_categories(text: str, categories: Sequence[Any]) -> dict[str, tuple[Any, ...]]:
    """Return the names of COCO categories in the order of their ids, as trainers number them."""
    try:
        found = sorted((int(category["id"]), str(category["name"])) for category in categories)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"--labels {text}: a category without id or name ({error})") from error
    if not found:
        raise ValueError(f"--labels {text} has no categories")
    ids, names = zip(*found, strict=True)
    return {"labels": names, "category_ids": ids}


def settings_from_text(spec: ModelSpec, assignments: Iterable[str]) -> dict[str, Any]:
    """Return the fields of a model's configuration that `--set key=value` assigns, typed.

    Args:
        spec: of the model.
        assignments: such as "box_score_thresh=0.3" or "anchor_sizes=16,32,64,128,256"; tuples of
            tuples such as "min_sizes=16,32;64,128;256,512".

    Raises:
        ValueError: a form other than key=value, an unknown field, one given twice, or a value of
            another type.
    """
    texts: dict[str, str] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not key.strip():
            raise ValueError(f"--set {assignment!r} found, expected key=value")
        if key.strip() in texts:
            raise ValueError(f"--set {key.strip()} is given twice; remove one of them")
        texts[key.strip()] = text.strip()
    if not texts:
        return {}
    kinds = get_type_hints(type(spec.preset))
    for key in texts:
        if key not in kinds:
            close = difflib.get_close_matches(key, kinds, n=3) or sorted(kinds)
            raise ValueError(f"--set {key!r} found, expected one of {', '.join(close)}")
    return {key: _value(text, kinds[key], key) for key, text in texts.items()}


def look_for_modules_here(name: str | None) -> None:
    """Let a module outside edgeseg lie in the current folder, as `python -m` does.

    Only where the user has named one: other commands import nothing from there. Python's own switch
    against such imports (-P, PYTHONSAFEPATH) counts here too.
    """
    here = str(Path.cwd())
    is_module = name is not None and (":" in name or "." in name)
    if is_module and here not in sys.path and not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, here)


def _value(text: str, kind: Any, key: str) -> Any:
    """Return the value of a text as the type `kind`: a scalar, a tuple of values, or None."""
    if get_origin(kind) in (Union, types.UnionType):
        if text.lower() == "none":
            return None
        kind = next(member for member in get_args(kind) if member is not types.NoneType)
    if get_origin(kind) is tuple:
        return _tuple(text, get_args(kind), key)
    if kind not in _SCALARS:
        raise ValueError(
            f"--set {key} found, expected another field: text becomes no {kind}; give it to "
            "edgeseg.create_model in Python"
        )
    expected, read = _SCALARS[kind]
    try:
        return read(text)
    except (ValueError, KeyError) as error:
        raise ValueError(f"--set {key}={text} found, expected {expected}") from error


def _tuple(text: str, kinds: tuple[Any, ...], key: str) -> tuple[Any, ...]:
    separator = ";" if get_origin(kinds[0]) is tuple else ","
    parts = [part.strip() for part in text.split(separator)] if text else []
    if kinds[1:] == (Ellipsis,):
        return tuple(_value(part, kinds[0], key) for part in parts)
    if len(parts) != len(kinds):
        raise ValueError(
            f"--set {key}={text} found, expected {len(kinds)} values separated by commas"
        )
    return tuple(_value(part, kind, key) for part, kind in zip(parts, kinds, strict=True))


_SCALARS: dict[Any, tuple[str, Callable[[str], Any]]] = {
    bool: ("true or false", lambda text: _TRUTHS[text.lower()]),
    int: ("a whole number", int),
    float: ("a number", float),
    str: ("text", str),
}
