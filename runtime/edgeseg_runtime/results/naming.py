"""Names, numbers and categories of labels, the same for every result that has them."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["category_of_label", "name_of_label", "number_of_label"]


def name_of_label(label: int, names: Sequence[str]) -> str:
    """Return the name of a label number, or the number where there is no name."""
    return names[label] if 0 <= label < len(names) and names[label] else str(label)


def number_of_label(label: int | str, names: Sequence[str]) -> int:
    """Return the number of a label that is given by number or name.

    Raises:
        ValueError: there is no such name.
    """
    if not isinstance(label, str):
        return label
    if label not in names:
        raise ValueError(f"there is no label {label!r}; expected one of {tuple(names)}")
    return names.index(label)


def category_of_label(label: int, category_ids: Sequence[int]) -> int:
    """Return the COCO category of a label number: the number itself where none is known."""
    return category_ids[label] if 0 <= label < len(category_ids) else label
