"""Reads data sets in the standard COCO file layout."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeseg_bench.datasets.base import (
    Annotation,
    Category,
    DatasetError,
    Sample,
    coco_from_parts,
)
from edgeseg_runtime.image import read_image

PREFERRED_SPLITS = ("val2017", "val")


class CocoDataset:
    """The pictures and annotations of one split of a COCO data set.

    Pictures are read when they are asked for.

    Args:
        folder: holds `annotations/` and a folder of pictures for the split.
        split: such as "val2017"; "val" also finds "val2017". None = val2017, val, or the only one there is.
        limit: use only the first pictures of the annotation file; None = all.
        kind: prefix of the annotation file: "instances" or "person_keypoints".

    Raises:
        DatasetError: the layout or the annotation file is not COCO's.
        ValueError: the limit is not positive.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str | None = None,
        *,
        limit: int | None = None,
        kind: str = "instances",
    ) -> None:
        if limit is not None and limit < 1:
            raise ValueError(
                f"limit is {limit}: give the number of pictures, at least 1, or None for all."
            )
        self.folder = Path(folder)
        self.split = _find_split(self.folder, split, kind)
        source = _annotation_file(self.folder, self.split, kind)
        content = _read_annotation_file(source)
        self._pictures = _find_pictures(self.folder, self.split, kind)
        self._images: list[dict[str, Any]] = content["images"][:limit]
        self._categories: tuple[Category, ...] = tuple(content["categories"])
        self._annotations: dict[int, list[Annotation]] = defaultdict(list)
        for annotation in content["annotations"]:
            self._annotations[annotation["image_id"]].append(annotation)

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"coco:{self.folder.name}:{self.split}"

    @property
    def categories(self) -> tuple[Category, ...]:
        """COCO categories of the annotation file."""
        return self._categories

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        entry = self._images[index]
        image = read_image(self._pictures / entry["file_name"])
        found, expected = image.shape[:2], (entry["height"], entry["width"])
        if found != expected:
            raise DatasetError(
                f"{self._pictures / entry['file_name']} has {found[0]} x {found[1]} pixels (height x width), "
                f"its annotations are for {expected[0]} x {expected[1]}: the picture was resized or turned. "
                "Use the original pictures."
            )
        return Sample(
            image=image,
            image_id=entry["id"],
            file_name=entry["file_name"],
            annotations=tuple(self._annotations[entry["id"]]),
        )

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def coco(self) -> dict[str, Any]:
        """Return the ground truth of these pictures as a COCO data set."""
        annotations = (a for entry in self._images for a in self._annotations[entry["id"]])
        return coco_from_parts(self._images, annotations, self._categories)


def _layout(kind: str) -> str:
    return (
        f"Expected FOLDER/annotations/{kind}_SPLIT.json and the pictures in FOLDER/SPLIT/ "
        "or FOLDER/images/SPLIT/."
    )


def _annotation_file(folder: Path, split: str, kind: str) -> Path:
    return folder / "annotations" / f"{kind}_{split}.json"


def _find_split(folder: Path, split: str | None, kind: str) -> str:
    if not folder.is_dir():
        raise DatasetError(f"There is no folder {folder}. {_layout(kind)}")
    wanted = PREFERRED_SPLITS if split is None else (split, f"{split}2017")
    for candidate in wanted:
        if _annotation_file(folder, candidate, kind).is_file():
            return candidate
    prefix = f"{kind}_"
    present = sorted(
        path.stem.removeprefix(prefix) for path in folder.glob(f"annotations/{prefix}*.json")
    )
    if split is None and len(present) == 1:
        return present[0]
    asked = "None of the usual splits" if split is None else f"No split {split!r}"
    found = f"found the splits {present}: name one of them" if present else "found no such file"
    raise DatasetError(f"{asked} in {folder / 'annotations'}: {found}. {_layout(kind)}")


def _find_pictures(folder: Path, split: str, kind: str) -> Path:
    candidates = (folder / split, folder / "images" / split)
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise DatasetError(
        f"{folder} has annotations for {split!r} but no pictures: neither {candidates[0]} nor "
        f"{candidates[1]} is a folder. {_layout(kind)}"
    )


def _read_annotation_file(source: Path) -> dict[str, Any]:
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DatasetError(
            f"{source} is not JSON: {error}. Download or export it again."
        ) from error
    keys = {"images", "annotations", "categories"}
    missing = keys - set(content) if isinstance(content, dict) else keys
    if missing:
        raise DatasetError(
            f"{source} lacks {sorted(missing)}: a COCO annotation file is an object with {sorted(keys)}."
        )
    for entry in content["images"]:
        lacking = {"id", "file_name", "height", "width"} - set(entry)
        if lacking:
            raise DatasetError(f"{source}: image {entry} lacks {sorted(lacking)}.")
    return dict(content)
