"""Checks of single values of a manifest; each error says where the value stands and what was expected."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence, Sized
from typing import Any, NoReturn

from edgeseg_runtime.bundle.strict_json import MAX_DEPTH
from edgeseg_runtime.errors import ManifestError

__all__ = [
    "as_list",
    "as_mapping",
    "as_tuple",
    "check_choice",
    "check_int",
    "check_name",
    "check_number",
    "check_number_of",
    "check_scalar",
    "check_str",
    "is_int",
    "plain_json",
    "refuse",
]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/+-]{0,127}")


def refuse(where: str, found: Any, expected: str) -> NoReturn:
    """Raise ManifestError: what was found where, and what was expected."""
    text = repr(found)
    if len(text) > 80:
        text = text[:77] + "..."
    raise ManifestError(f"{where} is {text}; expected {expected}")


def is_int(value: Any) -> bool:
    """Tell whether a value is an integer; a truth value is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_int(where: str, value: Any, low: int, high: int) -> None:
    """Refuse all but an integer from low to high."""
    if not is_int(value) or not low <= value <= high:
        refuse(where, value, f"an integer in {low}..{high}")


def check_number(where: str, value: Any, low: float, high: float) -> None:
    """Refuse all but a number from low to high."""
    is_number = is_int(value) or isinstance(value, float)
    if not is_number or not low <= value <= high:
        refuse(where, value, f"a number in {low:g}..{high:g}")


def check_number_of(where: str, items: Sized, most: int) -> None:
    """Refuse more entries than there may be, before anything is done with one."""
    if len(items) > most:
        refuse(where, f"{len(items)} entries", f"at most {most}")


def check_str(where: str, value: Any) -> None:
    """Refuse all but a printable text of at most 1000 characters."""
    if not isinstance(value, str):
        refuse(where, value, "text")
    if len(value) > 1000:
        refuse(where, f"{len(value)} characters", "at most 1000")
    if value and not value.isprintable():
        refuse(where, value, "printable text")


def check_name(where: str, value: Any) -> None:
    """Refuse all but a name as tensors and models have."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        refuse(where, value, "a name of letters, digits and _ . : / + - (at most 128)")


def check_choice(where: str, value: Any, choices: Sequence[str]) -> None:
    """Refuse all but one of the choices."""
    if value not in choices:
        refuse(where, value, f"one of {', '.join(choices)}")


def check_scalar(where: str, value: Any) -> None:
    """Refuse all but a text, a finite number or a truth value."""
    if isinstance(value, str):
        check_str(where, value)
    elif isinstance(value, float):
        if not math.isfinite(value):
            refuse(where, value, "a finite number")
    elif isinstance(value, int):  # bool too
        check_int(where, int(value), -(2**53), 2**53)
    else:
        refuse(where, value, "text, a number or a truth value")


def as_list(where: str, value: Any) -> list[Any]:
    """Return a list as it is; refuse all else."""
    if not isinstance(value, list):
        refuse(where, value, "a list")
    return value


def as_tuple(where: str, value: Any) -> tuple[Any, ...]:
    """Return a tuple or list as a tuple; refuse all else."""
    if not isinstance(value, (tuple, list)):
        refuse(where, value, "a list")
    return tuple(value)


def as_mapping(where: str, value: Any) -> dict[str, Any]:
    """Return a mapping as a dict; refuse all else."""
    if not isinstance(value, Mapping):
        refuse(where, value, "an object")
    return dict(value)


def plain_json(where: str, value: Any, depth: int = 0) -> Any:
    """Return a copy of a value as JSON would give it back; tuples become lists."""
    if depth > MAX_DEPTH - 4:
        refuse(where, value, "less nesting")
    if isinstance(value, Mapping):
        for key in value:
            check_str(f"a key of {where}", key)
        return {key: plain_json(f"{where}.{key}", item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(f"{where}[{i}]", item, depth + 1) for i, item in enumerate(value)]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            refuse(where, value, "text that UTF-8 can hold")
        return value
    check_scalar(where, value)
    return value
