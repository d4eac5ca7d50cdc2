"""The arrays of Instances that have one row per instance: what each holds, and where it goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.results.masks import read_only

__all__ = [
    "OPTIONAL_FIELDS",
    "RESERVED_NAMES",
    "ROW_FIELDS",
    "RowField",
    "check_rows",
    "extra_array",
    "row_array",
]

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class RowField:
    """One array of `Instances`, and the model's output of the same name.

    Attributes:
        name: of both.
        axes: after the row's: a number, or a letter for any size.
        columns: what the numbers of the last axis are: x and y are positions in pixels, z has
            their unit, s is a score; "" if none of them depends on the picture's size.
        dtype: of the array; an output may have another of the same kind.
        key: in the records.
        is_flat: it stands there as one list of numbers.
        slot: the argument of `supervision.Detections`; None for an entry of its `data`.
        dot: radius of a point in a drawing, in widths of a line; 0 for one pixel, None if these
            are not points.
        is_named: `keypoint_names` and `skeleton` are those of its points, or of the first such
            array that there is.
        is_required: all Instances have it.
    """

    name: str
    axes: tuple[str | int, ...] = ()
    columns: str = ""
    dtype: type[np.float32 | np.int64] = np.float32
    key: str
    is_flat: bool = False
    slot: str | None = None
    dot: int | None = None
    is_named: bool = False
    is_required: bool = False


ROW_FIELDS: tuple[RowField, ...] = (
    RowField(name="boxes", axes=(4,), columns="xyxy", key="bbox", slot="xyxy", is_required=True),
    RowField(name="scores", key="score", slot="confidence", is_required=True),
    RowField(name="labels", dtype=np.int64, key="category_id", slot="class_id", is_required=True),
    RowField(
        name="keypoints",
        axes=("J", 3),
        columns="xys",
        key="keypoints",
        is_flat=True,
        dot=2,
        is_named=True,
    ),
    RowField(name="landmarks", axes=("L", 2), columns="xy", key="landmarks", dot=1, is_named=True),
    RowField(name="gender", key="gender"),
    RowField(name="mesh", axes=("V", 3), columns="xyz", key="mesh", dot=0),
    RowField(name="mask_scores", key="mask_score"),
    RowField(name="track_ids", dtype=np.int64, key="track_id", slot="tracker_id"),
)

OPTIONAL_FIELDS = tuple(field for field in ROW_FIELDS if not field.is_required)

RESERVED_NAMES = frozenset(
    {field.name for field in ROW_FIELDS}
    | {field.key for field in ROW_FIELDS}
    | {
        "masks",
        "segmentation",
        "surfaces",
        "densepose",
        "image_id",
        "annotation_id",
        "file_name",
        "class_name",
    }
)
"""What further arrays cannot be called: records and other results have something else there."""


def row_array(field: RowField, values: npt.ArrayLike | None) -> Array | None:
    """Return a field's array, read-only; None if there is none.

    Raises:
        ValueError: for numbers with a fraction where integers are expected.
    """
    if values is None:
        return None
    if field.dtype is np.float32:
        return read_only(np.asarray(values, np.float32))
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"{field.name} is {array.dtype}; expected integers")
    return read_only(array.astype(field.dtype))


def extra_array(name: str, values: npt.ArrayLike) -> Array:
    """Return a further array, of whatever dtype JSON can hold, read-only.

    Raises:
        ValueError: for a name that is taken, or another dtype.
    """
    if name in RESERVED_NAMES:
        raise ValueError(f"extra has an array {name!r}; expected another name: this one is taken")
    array = np.asarray(values)
    if array.dtype.kind not in "biufU":
        raise ValueError(
            f"the extra array {name!r} is {array.dtype}; expected numbers, bools or text"
        )
    return read_only(array)


def check_rows(rows: Mapping[str, Array], extra: Mapping[str, Array]) -> None:
    """Do nothing if the arrays, by name, fit together.

    Raises:
        ValueError: if one has other axes, or not as many rows as `scores`.
    """
    scores = rows["scores"]
    count = len(scores) if scores.ndim == 1 else None
    for field in sorted(ROW_FIELDS, key=lambda field: field.name != "scores"):
        if field.name in rows and not _has_shape(rows[field.name].shape, count, field.axes):
            text = ", ".join(map(str, ("N", *field.axes))) + ("" if field.axes else ",")
            raise ValueError(
                f"{field.name} has shape {rows[field.name].shape}; expected ({text}), N as in scores"
            )
    for name, array in extra.items():
        if array.shape[:1] != (count,):
            raise ValueError(
                f"the extra array {name!r} has shape {array.shape}; expected ({count}, ...), one "
                "row for each instance"
            )


def _has_shape(shape: tuple[int, ...], count: int | None, axes: tuple[str | int, ...]) -> bool:
    return (
        shape[:1] == (count,)
        and len(shape) == 1 + len(axes)
        and all(
            isinstance(axis, str) or size == axis
            for size, axis in zip(shape[1:], axes, strict=True)
        )
    )
