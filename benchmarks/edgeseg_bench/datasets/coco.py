"""Reads data sets that are annotated in COCO's format, in the layouts of COCO and of annotation tools."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeseg_bench.datasets.base import (
    Annotation,
    Category,
    DatasetError,
    Sample,
    coco_from_parts,
)
from edgeseg_bench.datasets.coco_content import read_coco_file
from edgeseg_runtime.picture.image import read_image

PREFERRED_SPLITS = ("val2017", "val", "valid", "validation")
OTHER_NAMES = {"val": ("valid", "validation")}
"""Split -> what tools call it that are not COCO's."""
SPLIT_FILES = (
    "annotations/{kind}_{split}.json",  # COCO, CVAT
    "{split}/_annotations.coco.json",  # Roboflow
    "annotations/{split}.json",
)
WHOLE_FILES = (
    "_annotations.coco.json",  # one split of Roboflow's
    "annotations.json",
    "annotations/annotations.json",
    "labels.json",  # FiftyOne
    "result.json",  # Label Studio
)
PICTURE_FOLDERS = (
    "{folder}/{split}",
    "{folder}/images/{split}",
    "{source}",  # beside the annotations
    "{source}/images",
    "{source}/data",  # FiftyOne
    "{folder}/images",
    "{folder}",
)
PICTURES_OF = {"minival2014": "val2014", "valminusminival2014": "val2014"}
"""Split -> the one among whose pictures its own are: DensePose-COCO divides COCO's of 2014."""
SURFACE_FOLDER = "densepose_data"
"""Beside `annotations`: the files of the surface that labelled points lie on, see `metrics.surface_files`."""
NUM_PROBED = 20
"""Pictures by which their folder is found."""


class CocoDataset:
    """The pictures and annotations of one split of a data set in COCO's format.

    Pictures are read when they are asked for. Whether a crowd or the area is missing in an annotation, as in the
    files of some tools, they are none and that of the box.

    Args:
        place: a folder in one of the layouts `SPLIT_FILES` and `WHOLE_FILES`, or an annotation file.
        split: such as "val2017"; "val" also finds "val2017" and "valid". None = the usual ones for validation, or the
            only one there is.
        limit: use only the first pictures of the annotation file; None = all.
        kind: prefix of COCO's annotation file: "instances", "person_keypoints" or "densepose".

    Raises:
        DatasetError: the layout or the annotation file is not COCO's.
        ValueError: the limit is not positive, or an annotation file is given together with a split.
    """

    def __init__(
        self,
        place: str | Path,
        split: str | None = None,
        *,
        limit: int | None = None,
        kind: str = "instances",
    ) -> None:
        if limit is not None and limit < 1:
            raise ValueError(
                f"limit is {limit}: give the number of pictures, at least 1, or None for all."
            )
        self.place = Path(place)
        source, self.split = find_annotations(self.place, split, kind)
        content = read_coco_file(source, limit=limit)
        self._images: list[dict[str, Any]] = content["images"][:limit]
        self._pictures = find_pictures(self.place, source, self.split, self._images)
        self._annotations: dict[int, list[Annotation]] = defaultdict(list)
        taken = {entry["id"] for entry in self._images}
        for annotation in content["annotations"]:
            if annotation["image_id"] in taken:
                self._annotations[annotation["image_id"]].append(_completed(annotation))
        used = {annotation["category_id"] for annotation in content["annotations"]}
        self._categories = tuple(_without_groups(content["categories"], used))
        if any("dp_x" in annotation for annotation in content["annotations"]):
            folder = self.place if self.place.is_dir() else source.parent.parent
            surface = str(folder / SURFACE_FOLDER)
            self._categories = tuple({**entry, "surface": surface} for entry in self._categories)

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"coco:{self.place.name}{f':{self.split}' if self.split else ''}"

    @property
    def categories(self) -> tuple[Category, ...]:
        """COCO categories of the annotation file."""
        return self._categories

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        entry = self._images[index]
        path = picture_path(self._pictures, entry)
        image = read_image(path)
        found, expected = image.shape[:2], (entry["height"], entry["width"])
        if found != expected:
            raise DatasetError(
                f"{path} has {found[0]} x {found[1]} pixels (height x width), "
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
        f"Expected FOLDER/annotations/{kind}_SPLIT.json and the pictures in FOLDER/SPLIT/ or FOLDER/images/SPLIT/, "
        "FOLDER/SPLIT/_annotations.coco.json with its pictures beside it, or the path of an annotation file."
    )


def find_annotations(place: Path, split: str | None, kind: str) -> tuple[Path, str | None]:
    """Return the annotation file, and the split that it is of if it names one.

    Raises:
        DatasetError: there is none, or the place cannot be read.
        ValueError: a file is given together with a split.
    """
    try:
        return _find_annotations(place, split, kind)
    except OSError as error:
        raise DatasetError(f"{place} cannot be read: {error.strerror}.") from error


def _find_annotations(place: Path, split: str | None, kind: str) -> tuple[Path, str | None]:
    if place.is_file():
        if split is not None:
            raise ValueError(f"{place} is an annotation file: leave the split {split!r} out.")
        return place, None
    if not place.is_dir():
        raise DatasetError(f"There is no folder {place}. {_layout(kind)}")
    wanted = (
        PREFERRED_SPLITS if split is None else (split, f"{split}2017", *OTHER_NAMES.get(split, ()))
    )
    for candidate in wanted:
        for pattern in SPLIT_FILES:
            source = place / pattern.format(kind=kind, split=candidate)
            if source.is_file():
                return source, candidate
    present = _present_splits(place, kind)
    if split is None and len(present) == 1:
        return next(iter(present.items()))[::-1]
    whole = [place / name for name in WHOLE_FILES if (place / name).is_file()]
    if split is None and whole:
        return whole[0], None
    asked = "None of the usual splits" if split is None else f"No split {split!r}"
    names = sorted(present)
    found = f"found the splits {names}: name one of them" if names else "found no such file"
    raise DatasetError(f"{asked} in {place}: {found}. {_layout(kind)}")


def _present_splits(place: Path, kind: str) -> dict[str, Path]:
    """Return the splits that a folder has, and their annotation files."""
    prefix = f"{kind}_"
    found = {path.parent.name: path for path in place.glob("*/_annotations.coco.json")}
    found |= {
        path.stem.removeprefix(prefix): path for path in place.glob(f"annotations/{prefix}*.json")
    }
    return found


def find_pictures(
    place: Path, source: Path, split: str | None, images: Sequence[Mapping[str, Any]]
) -> Path:
    """Return the folder that the file names are relative to: the one that has most of the first pictures."""
    folder = place if place.is_dir() else source.parent.parent
    parts = source.stem.split("_")  # a file that is named alone may be called instances_SPLIT.json
    splits = [split] if split else ["_".join(parts[number:]) for number in range(len(parts))]
    splits += [PICTURES_OF[name] for name in splits if name in PICTURES_OF]
    candidates = [
        Path(pattern.format(folder=folder, source=source.parent, split=name))
        for pattern in PICTURE_FOLDERS
        for name in splits
    ]
    probed = images[:NUM_PROBED]
    counts = [sum(_is_file(picture_path(path, entry)) for entry in probed) for path in candidates]
    if images and not any(counts):
        places = ", ".join(dict.fromkeys(str(path) for path in candidates))
        raise DatasetError(
            f"{place} has annotations{f' for {split!r}' if split else ''} but no pictures: there is no "
            f"{images[0]['file_name']} in {places}. {_layout('instances')}"
        )
    return candidates[counts.index(max(counts))]


def picture_path(folder: Path, entry: Mapping[str, Any]) -> Path:
    """Return the path of a picture; folders in its name may be those of the machine that wrote the file."""
    name = entry["file_name"].replace("\\", "/")
    whole, alone = folder / name, folder / Path(name).name
    return alone if not _is_file(whole) and _is_file(alone) else whole


def _is_file(path: Path) -> bool:
    """Tell whether a file is there; a name that no file can have is not an error."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises where a name is too long


def _completed(annotation: Annotation) -> Annotation:
    known = {key: value for key, value in annotation.items() if value is not None}
    if "bbox" not in known:
        return known
    _, _, width, height = known["bbox"]
    return {"iscrowd": 0, "area": width * height, **known}


def _without_groups(categories: Sequence[Category], used: Collection[int]) -> Iterator[Category]:
    """Yield the categories but for those that only stand for a group of others, as in Roboflow's files."""
    above = [category.get("supercategory") for category in categories]
    num_members = Counter(name for name in above if isinstance(name, str))
    for category in categories:
        is_own = category.get("supercategory") == category["name"]
        is_group = num_members[category["name"]] > is_own
        if not is_group or category["id"] in used:
            yield category
