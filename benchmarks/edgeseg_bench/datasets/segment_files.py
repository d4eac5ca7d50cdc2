"""Data sets of segments in PNG files: what COCO's panoptic layout and those of Cityscapes have in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg_bench.datasets.base import (
    Annotation,
    Category,
    DatasetError,
    Sample,
    coco_from_parts,
)
from edgeseg_bench.datasets.segmentation import mask_from_segmentation
from edgeseg_runtime.picture.image import read_image
from edgeseg_runtime.results import CocoPanoptic, Panoptic

REQUIRED_KEYS = {
    "images": {"id", "file_name"},
    "annotations": {"image_id", "file_name", "segments_info"},
    "categories": {"id", "name", "isthing"},
}
SEGMENT_KEYS = {"id", "category_id"}
MAX_SEGMENTS = 10_000
"""Of one picture: what tells the ids of its annotations from those of the next one."""
THINGS_PER_CATEGORY = 1_000
"""Segment id of a thing = this * category + its number; of stuff and crowds the category (Cityscapes)."""


@dataclass(frozen=True, kw_only=True)
class SegmentFile:
    """One picture, and where its segments are.

    Attributes:
        picture: its file.
        labels: PNG with the id of each pixel's segment.
        segments: what the JSON file says of them: id, category_id, iscrowd.
        file_name: what reports call the picture.
        video_id: of the clip that the picture is a frame of; None for a picture alone.
    """

    picture: Path
    labels: Path
    segments: tuple[Mapping[str, Any], ...]
    file_name: str
    video_id: int | None = None


class SegmentFiles:
    """Pictures and their segments, both read when they are asked for; numbered from 1 in their order.

    An annotation is one segment, with "segment_id" and "isthing" beside COCO's keys; things of a clip have their id as
    "track_id".

    Args:
        name: what reports call it, such as "cityscapes:val".
        files: the pictures.
        categories: COCO's, with "isthing".

    Raises:
        DatasetError: there are no pictures, or a segment has a category that is not there.
    """

    def __init__(
        self, name: str, files: Sequence[SegmentFile], categories: Sequence[Category]
    ) -> None:
        if not files:
            raise DatasetError(f"There are no labelled pictures for {name!r}.")
        self._name = name
        self._files = files
        self._categories = tuple(dict(category) for category in categories)
        self._is_thing = {c["id"]: bool(c["isthing"]) for c in self._categories}
        for file in files:
            _check_segments(file, self._is_thing)

    @property
    def name(self) -> str:
        """What reports call it."""
        return self._name

    @property
    def categories(self) -> tuple[Category, ...]:
        """COCO categories, with "isthing"."""
        return self._categories

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"Picture {index} of {len(self)}.")
        index %= len(self)
        file, ids = self._files[index], self._ids(index)
        image = read_image(file.picture)
        if image.shape[:2] != ids.shape:
            raise DatasetError(
                f"{file.picture} has {image.shape[0]} x {image.shape[1]} pixels (height x width), {file.labels} has "
                f"{ids.shape[0]} x {ids.shape[1]}: they do not belong together. Use the original pictures."
            )
        return Sample(
            image=image,
            image_id=index + 1,
            file_name=file.file_name,
            annotations=self._annotations(index, ids),
            video_id=file.video_id,
        )

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def coco(self) -> dict[str, Any]:
        """Return the ground truth as a COCO data set; reads every PNG of labels, and no picture."""
        images: list[dict[str, Any]] = []
        annotations: list[Annotation] = []
        for index, file in enumerate(self._files):
            ids = self._ids(index)
            video = {} if file.video_id is None else {"video_id": file.video_id}
            size = {"height": ids.shape[0], "width": ids.shape[1]}
            images.append({"id": index + 1, "file_name": file.file_name, **size, **video})
            annotations += self._annotations(index, ids)
        return coco_from_parts(images, annotations, self.categories)

    def _ids(self, index: int) -> npt.NDArray[np.int32]:
        blue, green, red = np.moveaxis(read_image(self._files[index].labels).astype(np.int32), 2, 0)
        return red + 256 * green + 256**2 * blue

    def _annotations(self, index: int, ids: npt.NDArray[np.int32]) -> tuple[Annotation, ...]:
        file = self._files[index]
        segment_ids = np.array([segment["id"] for segment in file.segments], np.int64)
        categories = [segment["category_id"] for segment in file.segments]
        is_thing = np.array([self._is_thing[category] for category in categories], np.bool_)
        try:
            found = Panoptic(
                ids,
                segment_ids,
                np.array(categories, np.int64),
                is_thing,
                np.ones(len(categories), np.float32),
                track_ids=None if file.video_id is None else np.where(is_thing, segment_ids, -1),
            )
        except ValueError as error:
            raise DatasetError(
                f"{file.labels} and its entry in the JSON file contradict: {error}. Download both again."
            ) from error
        is_crowd = [bool(segment.get("iscrowd", 0)) for segment in file.segments]
        return annotations_of(found, image_id=index + 1, is_crowd=is_crowd)


def annotations_of(
    found: Panoptic, *, image_id: int, is_crowd: Sequence[bool] = ()
) -> tuple[Annotation, ...]:
    """Return labelled segments, whose labels are COCO categories, as annotations.

    Args:
        found: the segments.
        image_id: of the picture, from 1; ids of annotations follow from it.
        is_crowd: of each segment; none of them by default.
    """
    annotations = []
    for row, record in enumerate(found.records(image_id)):
        del record["score"]
        own = {
            "id": (image_id - 1) * MAX_SEGMENTS + row + 1,
            "iscrowd": int(bool(is_crowd) and is_crowd[row]),
        }
        annotations.append({**own, **record})
    return tuple(annotations)


def segments_of(
    annotations: Sequence[Mapping[str, Any]], source: Path
) -> dict[Any, Mapping[str, Any]]:
    """Return the entries of a panoptic JSON file by the id of their picture.

    Raises:
        DatasetError: a picture has two.
    """
    found: dict[Any, Mapping[str, Any]] = {}
    for annotation in annotations:
        if annotation["image_id"] in found:
            raise DatasetError(
                f"{source} has two annotations for picture {annotation['image_id']!r}. Download it again."
            )
        found[annotation["image_id"]] = annotation
    return found


def panoptic_from_sample(sample: Sample, categories: Sequence[Category] = ()) -> Panoptic:
    """Return a sample's segments as a result whose labels are the categories, to draw it or to look into it.

    Args:
        sample: of the kind "panoptic" or "clips".
        categories: of its data set, for their names.

    Raises:
        ValueError: two segments overlap, or are the same stuff.
    """
    ids = np.zeros((sample.height, sample.width), np.int32)
    segment_ids = _segment_ids(sample.annotations)
    for annotation, segment_id in zip(sample.annotations, segment_ids, strict=True):
        mask = mask_from_segmentation(
            annotation["segmentation"], height=sample.height, width=sample.width
        )
        if ids[mask].any():
            raise ValueError(
                f"Segments of {sample.file_name} overlap; expected a panoptic picture."
            )
        ids[mask] = segment_id
    names = {int(category["id"]): str(category["name"]) for category in categories}
    return Panoptic(
        ids,
        np.array(segment_ids, np.int64),
        np.array([a["category_id"] for a in sample.annotations], np.int64),
        np.array([a["isthing"] for a in sample.annotations], np.bool_),
        np.ones(len(sample.annotations), np.float32),
        track_ids=np.array([a.get("track_id", -1) for a in sample.annotations], np.int64),
        label_names=tuple(names.get(number, "") for number in range(1 + max(names, default=-1))),
    )


def panoptic_of(sample: Sample) -> CocoPanoptic:
    """Return the PNG of a sample's segments and its entry of the JSON file.

    Raises:
        ValueError: two segments overlap, or are the same stuff.
    """
    found = panoptic_from_sample(sample)
    file_name = str(Path(sample.file_name).with_suffix(".png"))
    png, entry = found.to_coco_panoptic(sample.image_id, file_name)
    for segment, annotation in zip(entry["segments_info"], sample.annotations, strict=True):
        del segment["score"]
        segment.pop("track_id", None)
        segment["iscrowd"] = int(annotation.get("iscrowd", 0))
    return CocoPanoptic(png, entry)


def _segment_ids(annotations: Sequence[Annotation]) -> list[int]:
    """Return an id for each segment, by the rule of Cityscapes; the same one in every frame of a clip."""
    counts: defaultdict[int, int] = defaultdict(int)
    ids = []
    for annotation in annotations:
        category = int(annotation["category_id"])
        if not annotation["isthing"] or annotation.get("iscrowd"):
            ids.append(category)
            continue
        number = annotation.get("track_id", counts[category])
        counts[category] += 1
        ids.append(category * THINGS_PER_CATEGORY + int(number) % THINGS_PER_CATEGORY)
    if len(set(ids)) < len(ids):
        raise ValueError(f"Two segments have one id among {ids}; expected one segment per stuff.")
    return ids


def _check_segments(file: SegmentFile, known: Mapping[int, bool]) -> None:
    if len(file.segments) > MAX_SEGMENTS:
        raise DatasetError(
            f"{file.labels} has {len(file.segments)} segments; at most {MAX_SEGMENTS}."
        )
    for segment in file.segments:
        lacking = SEGMENT_KEYS - set(segment)
        if lacking:
            raise DatasetError(f"{file.labels}: a segment, {segment}, lacks {sorted(lacking)}.")
        if segment["category_id"] not in known:
            raise DatasetError(
                f"{file.labels}: segment {segment['id']} has category {segment['category_id']}, which is not among "
                f"the {len(known)} categories. Download the annotations again."
            )
