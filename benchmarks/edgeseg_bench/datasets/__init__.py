"""Labelled data sets by name: "shapes" draws its own pictures, "coco:FOLDER" reads COCO's file layout."""

from pathlib import Path

from edgeseg_bench.datasets.base import Annotation, Category, Dataset, Sample

__all__ = ["Annotation", "Category", "Dataset", "Sample", "open_dataset"]


def open_dataset(
    name: str, *, split: str | None = None, limit: int | None = None, kind: str = "instances"
) -> Dataset:
    """Open a data set.

    Args:
        name: "shapes", "coco:FOLDER" or "coco:FOLDER:SPLIT".
        split: "train" or "val" for shapes, such as "val2017" for COCO; None = the validation split.
        limit: use only the first pictures; None = all.
        kind: what is labelled: "instances", "person_keypoints" or "faces". The built-in data set draws
            pictures of it, a COCO data set reads `annotations/KIND_SPLIT.json`.

    Raises:
        ValueError: no data set has this name, or it has no such split.
        edgeseg_runtime.errors.InputError: the files on disk are not a COCO data set.
    """
    scheme, _, place = name.partition(":")
    if name == "shapes":
        from edgeseg_bench.datasets.shapes import ShapesDataset

        return ShapesDataset(split or "val", kind=kind, limit=limit)
    if scheme == "coco" and place:
        from edgeseg_bench.datasets.coco import CocoDataset

        folder, named_split = _split_place(place)
        if named_split and split and named_split != split:
            raise ValueError(f"{name!r} names the split {named_split!r}, but split is {split!r}.")
        return CocoDataset(folder, named_split or split, limit=limit, kind=kind)
    raise ValueError(
        f"There is no data set {name!r}: give 'shapes', 'coco:FOLDER' or 'coco:FOLDER:SPLIT'."
    )


def _split_place(place: str) -> tuple[Path, str | None]:
    """Separate FOLDER:SPLIT; a folder whose own name has a colon stays whole."""
    folder, colon, split = place.rpartition(":")
    if not colon or Path(place).is_dir() or "/" in split or "\\" in split:
        return Path(place), None
    return Path(folder), split
