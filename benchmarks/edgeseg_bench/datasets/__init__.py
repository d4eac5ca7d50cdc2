"""Labelled data sets by name: "shapes" draws its own pictures, others read their standard file layouts."""

from __future__ import annotations

import logging
from pathlib import Path

from edgeseg_bench.datasets.base import Annotation, Category, Dataset, DatasetError, Sample

__all__ = [
    "Annotation",
    "Category",
    "Dataset",
    "DatasetError",
    "Sample",
    "open_dataset",
    "open_training_split",
]

SCHEMES = ("coco", "wider", "300w", "wflw")

_log = logging.getLogger(__name__)


def open_dataset(
    name: str, *, split: str | None = None, limit: int | None = None, kind: str | None = None
) -> Dataset:
    """Open a data set.

    Args:
        name: "shapes", or "SCHEME:FOLDER" or "SCHEME:FOLDER:SPLIT", where the scheme says which layout the
            folder has: "coco", "wider" (WIDER FACE), "300w" or "wflw".
        split: "train" or "val" for shapes and WIDER FACE, such as "val2017" for COCO, "train", "full",
            "common", "challenging" or "private" for 300W, "train" or "test" for WFLW; None = the one for
            validation.
        limit: use only the first pictures; None = all.
        kind: what is labelled: "instances", "person_keypoints" or "faces". Shapes draws pictures of it, a COCO
            data set reads `annotations/KIND_SPLIT.json`; None = instances. The other schemes have faces.

    Raises:
        ValueError: no data set has this name, or it has no such split or kind.
        DatasetError: the files on disk are not such a data set.
    """
    if name == "shapes":
        from edgeseg_bench.datasets.shapes import ShapesDataset

        return ShapesDataset(split or "val", kind=kind or "instances", limit=limit)
    scheme, _, place = name.partition(":")
    if scheme not in SCHEMES or not place:
        raise ValueError(
            f"There is no data set {name!r}: give 'shapes', 'coco:FOLDER' or 'coco:FOLDER:SPLIT', "
            "or the same with wider, 300w or wflw."
        )
    folder, named_split = _split_place(place)
    if named_split and split and named_split != split:
        raise ValueError(f"{name!r} names the split {named_split!r}, but split is {split!r}.")
    return _open_files(scheme, folder, named_split or split, limit=limit, kind=kind)


def open_training_split(name: str, *, limit: int | None = None, kind: str | None = None) -> Dataset:
    """Open a data set's split for training, or the split that its name says.

    A data set without one is opened as `open_dataset` does, and a warning is logged.

    Args:
        name: see `open_dataset`; so are the others.
        limit: use only the first pictures; None = all.
        kind: what is labelled.

    Raises:
        ValueError: no data set has this name, or it has no such split or kind.
        DatasetError: the files on disk are not such a data set.
    """
    _, _, place = name.partition(":")
    if place and _split_place(place)[1]:
        return open_dataset(name, limit=limit, kind=kind)
    try:
        return open_dataset(name, split="train", limit=limit, kind=kind)
    except DatasetError as error:
        dataset = open_dataset(name, limit=limit, kind=kind)
        _log.warning(
            "%s has no training split (%s) and %s is used: measure accuracy on other pictures",
            name,
            error,
            dataset.name,
        )
        return dataset


def _open_files(
    scheme: str, folder: Path, split: str | None, *, limit: int | None, kind: str | None
) -> Dataset:
    if scheme == "coco":
        from edgeseg_bench.datasets.coco import CocoDataset

        return CocoDataset(folder, split, limit=limit, kind=kind or "instances")
    if kind not in {None, "faces"}:
        raise ValueError(f"Data sets of {scheme!r} have labelled faces, kind is {kind!r}.")
    if scheme == "wider":
        from edgeseg_bench.datasets.wider import open_wider

        return open_wider(folder, split, limit=limit)
    if scheme == "300w":
        from edgeseg_bench.datasets.ibug import open_300w

        return open_300w(folder, split, limit=limit)
    from edgeseg_bench.datasets.wflw import open_wflw

    return open_wflw(folder, split, limit=limit)


def _split_place(place: str) -> tuple[Path, str | None]:
    """Separate FOLDER:SPLIT; a folder whose own name has a colon stays whole."""
    folder, colon, split = place.rpartition(":")
    if not colon or Path(place).is_dir() or "/" in split or "\\" in split:
        return Path(place), None
    return Path(folder), split
