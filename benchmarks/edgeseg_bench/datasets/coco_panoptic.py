"""Reads and writes data sets in COCO's panoptic file layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeseg_bench.datasets.base import Dataset, DatasetError, coco_image
from edgeseg_bench.datasets.coco import (
    find_annotations,
    find_pictures,
    picture_path,
)
from edgeseg_bench.datasets.coco_content import read_annotation_file
from edgeseg_bench.datasets.face_files import check_limit, write_picture
from edgeseg_bench.datasets.segment_files import (
    REQUIRED_KEYS,
    SegmentFile,
    SegmentFiles,
    panoptic_of,
    segments_of,
)

LAYOUT = (
    "Expected FOLDER/annotations/panoptic_SPLIT.json, the PNG files of the segments in "
    "FOLDER/annotations/panoptic_SPLIT/, and the pictures in FOLDER/SPLIT/."
)


def open_coco_panoptic(
    place: str | Path, split: str | None = None, *, limit: int | None = None
) -> SegmentFiles:
    """Return the pictures of a COCO panoptic data set and their segments.

    Args:
        place: a folder, see LAYOUT, or the JSON file.
        split: such as "val2017"; None = the usual ones for validation.
        limit: use only the first pictures; None = all.

    Raises:
        DatasetError: a file is missing, damaged or contradicts another.
        ValueError: the limit is not positive, or a file is given together with a split.
    """
    check_limit(limit)
    place = Path(place)
    source, split = find_annotations(place, split, "panoptic")
    content = read_annotation_file(source, REQUIRED_KEYS)
    labels = source.with_suffix("")
    if not labels.is_dir():
        raise DatasetError(f"{source} has no segments: {labels} is not a folder. {LAYOUT}")
    annotations = segments_of(content["annotations"], source)
    images = [image for image in content["images"] if image["id"] in annotations][:limit]
    pictures = find_pictures(place, source, split, images)
    files = [
        SegmentFile(
            picture=picture_path(pictures, image),
            labels=labels / annotations[image["id"]]["file_name"],
            segments=tuple(annotations[image["id"]]["segments_info"]),
            file_name=image["file_name"],
        )
        for image in images
    ]
    name = f"coco:{place.name}{f':{split}' if split else ''}:panoptic"
    return SegmentFiles(name, files, content["categories"])


def write_coco_panoptic(dataset: Dataset, folder: str | Path, *, split: str = "val") -> Path:
    """Write pictures and their segments in COCO's panoptic layout; `coco:FOLDER:SPLIT` reads them back.

    Args:
        dataset: of the kind "panoptic".
        folder: is made.
        split: in the names of files and folders.

    Returns:
        The folder.

    Raises:
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    labels = folder / "annotations" / f"panoptic_{split}"
    labels.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for sample in dataset:
        png, entry = panoptic_of(sample)
        file_name = str(Path(sample.file_name).with_suffix(".png"))
        write_picture(folder / split / file_name, sample.image)
        target = labels / file_name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(png)
        images.append({**coco_image(sample), "file_name": file_name})
        annotations.append(entry)
    content = {"images": images, "annotations": annotations, "categories": dataset.categories}
    labels.with_suffix(".json").write_text(json.dumps(content), encoding="utf-8")
    return folder
