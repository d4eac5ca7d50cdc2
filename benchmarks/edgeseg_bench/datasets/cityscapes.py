"""Reads and writes segments in the file layouts of Cityscapes and Cityscapes-VPS."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeseg_bench.datasets.base import Dataset, DatasetError
from edgeseg_bench.datasets.coco_content import read_annotation_file
from edgeseg_bench.datasets.face_files import check_folder, check_limit, write_picture
from edgeseg_bench.datasets.segment_files import (
    REQUIRED_KEYS,
    SegmentFile,
    SegmentFiles,
    panoptic_of,
    segments_of,
)

SPLITS = ("val", "train")
LAYOUT = (
    "Expected FOLDER/gtFine/cityscapes_panoptic_SPLIT.json, the PNG files of the segments in "
    "FOLDER/gtFine/cityscapes_panoptic_SPLIT/ (both from createPanopticImgs of cityscapesScripts), and the pictures "
    "in FOLDER/leftImg8bit/SPLIT/CITY/."
)
VPS_LAYOUT = (
    "Expected FOLDER/panoptic_gt_SPLIT_city_vps.json, the PNG files of the segments in FOLDER/SPLIT/panoptic_video/, "
    "and the pictures in FOLDER/SPLIT/img/ or FOLDER/SPLIT/img_all/."
)
CITY = "shapes"  # of written pictures
PICTURE_ENDINGS = ("_leftImg8bit.png", "_newImg8bit.png")
"""Of the labelled frames, and of those between them."""
DOWNLOAD = "Download it again."


def open_cityscapes(
    folder: str | Path, split: str | None = None, *, limit: int | None = None
) -> SegmentFiles:
    """Return the pictures of Cityscapes and their segments.

    Args:
        folder: see LAYOUT.
        split: "val" or "train"; None = val.
        limit: use only the first pictures; None = all.

    Raises:
        DatasetError: a file is missing, damaged or contradicts another.
        ValueError: there is no such split, or the limit is not positive.
    """
    folder, split = _checked(folder, split, limit, "Cityscapes", LAYOUT)
    labels = folder / "gtFine" / f"cityscapes_panoptic_{split}"
    content = _content(labels.with_suffix(".json"), labels, LAYOUT)
    annotations = segments_of(content["annotations"], labels.with_suffix(".json"))
    pictures = folder / "leftImg8bit" / split
    files = []
    for image in content["images"][:limit]:
        name = str(image["id"])
        # The JSON file calls the picture NAME_gtFine_leftImg8bit.png, which is the name of no file.
        picture = pictures / name.split("_")[0] / f"{name}_leftImg8bit.png"
        entry = _entry(annotations, image, labels)
        files.append(
            SegmentFile(
                picture=picture,
                labels=labels / entry["file_name"],
                segments=tuple(entry["segments_info"]),
                file_name=str(picture.relative_to(pictures)),
            )
        )
    return SegmentFiles(f"cityscapes:{split}", files, content["categories"])


def write_cityscapes(dataset: Dataset, folder: str | Path, *, split: str = "val") -> Path:
    """Write pictures and segments in the layout of Cityscapes; `cityscapes:FOLDER:SPLIT` reads them back.

    Returns:
        The folder.

    Raises:
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    labels = folder / "gtFine" / f"cityscapes_panoptic_{split}"
    names = [f"{CITY}_{number:06d}_000000" for number in range(len(dataset))]
    pictures = [folder / "leftImg8bit" / split / CITY / f"{name}_leftImg8bit.png" for name in names]
    _write(
        dataset,
        labels.with_suffix(".json"),
        [(name, f"{name}_gtFine_leftImg8bit.png", picture, labels / f"{name}_gtFine_panoptic.png")
         for name, picture in zip(names, pictures, strict=True)],
    )  # fmt: skip
    return folder


def open_cityscapes_vps(
    folder: str | Path, split: str | None = None, *, limit: int | None = None
) -> SegmentFiles:
    """Return the labelled frames of Cityscapes-VPS, clip by clip, with their segments and identities.

    Args:
        folder: see VPS_LAYOUT.
        split: "val" or "train"; None = val.
        limit: use only the first frames; None = all.

    Raises:
        DatasetError: a file is missing, damaged or contradicts another.
        ValueError: there is no such split, or the limit is not positive.
    """
    folder, split = _checked(folder, split, limit, "Cityscapes-VPS", VPS_LAYOUT)
    source, labels = (
        folder / f"panoptic_gt_{split}_city_vps.json",
        folder / split / "panoptic_video",
    )
    content = _content(source, labels, VPS_LAYOUT)
    annotations = segments_of(content["annotations"], source)
    files = []
    for image in sorted(content["images"], key=lambda image: str(image["id"]))[:limit]:
        picture = _frame(folder / split, image)
        entry = _entry(annotations, image, source)
        files.append(
            SegmentFile(
                picture=picture,
                labels=labels / Path(entry["file_name"]).name,
                segments=tuple(entry["segments_info"]),
                file_name=picture.name,
                video_id=_clip_number(picture.name, source),
            )
        )
    return SegmentFiles(f"cityscapes-vps:{split}", files, content["categories"])


def write_cityscapes_vps(dataset: Dataset, folder: str | Path, *, split: str = "val") -> Path:
    """Write clips in the layout of Cityscapes-VPS; `cityscapes-vps:FOLDER:SPLIT` reads them back.

    Returns:
        The folder.

    Raises:
        OSError: a file cannot be written.
        ValueError: a picture does not belong to a clip.
    """
    folder = Path(folder)
    places = []
    for index, sample in enumerate(dataset):
        if sample.video_id is None:
            raise ValueError(
                f"{sample.file_name} does not belong to a clip; give a data set of clips."
            )
        name = f"{sample.video_id:04d}_{index:04d}_{CITY}_{sample.video_id:06d}_{index:06d}"
        picture = folder / split / "img" / f"{name}_leftImg8bit.png"
        labels = folder / split / "panoptic_video" / f"{name}_gtFine_color.png"
        places.append((name, picture.name, picture, labels))
    _write(dataset, folder / f"panoptic_gt_{split}_city_vps.json", places)
    return folder


def _checked(
    folder: str | Path, split: str | None, limit: int | None, name: str, layout: str
) -> tuple[Path, str]:
    folder, split = Path(folder), split or SPLITS[0]
    if split not in SPLITS:
        raise ValueError(f"{name} has no labelled split {split!r}: choose from {list(SPLITS)}.")
    check_limit(limit)
    check_folder(folder, layout)
    return folder, split


def _content(source: Path, labels: Path, layout: str) -> dict[str, Any]:
    if not source.is_file() or not labels.is_dir():
        missing = labels if source.is_file() else source
        raise DatasetError(f"There is no {missing}. {layout}")
    return read_annotation_file(source, REQUIRED_KEYS)


def _entry(
    annotations: Mapping[Any, Mapping[str, Any]], image: Mapping[str, Any], source: Path
) -> Mapping[str, Any]:
    if image["id"] not in annotations:
        raise DatasetError(f"{source} has no segments for picture {image['id']!r}. {DOWNLOAD}")
    return annotations[image["id"]]


def _frame(folder: Path, image: Mapping[str, Any]) -> Path:
    """Return the picture of a labelled frame; the first name is the one to report where none is there."""
    name = Path(image["file_name"]).name
    stem = name.rsplit("_", 1)[0].removesuffix("_gtFine")
    names = [name, *(f"{stem}{ending}" for ending in PICTURE_ENDINGS)]
    candidates = [folder / place / name for place in ("img", "img_all") for name in names]
    return next((path for path in candidates if path.is_file()), candidates[0])


def _clip_number(name: str, source: Path) -> int:
    number = name.split("_")[0]
    if not number.isdigit():
        raise DatasetError(
            f"{source}: {name!r} begins with no number of a clip, as in 0005_0025_frankfurt_000000_001736. {DOWNLOAD}"
        )
    return int(number)


def _write(dataset: Dataset, source: Path, places: Sequence[tuple[str, str, Path, Path]]) -> None:
    """Write each sample: id and name of its picture in the JSON file, the picture's file, the labels' file."""
    images, annotations = [], []
    for sample, (name, file_name, picture, labels) in zip(dataset, places, strict=True):
        png, entry = panoptic_of(sample)
        write_picture(picture, sample.image)
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_bytes(png)
        size = {"height": sample.height, "width": sample.width}
        images.append({"id": name, "file_name": file_name, **size})
        annotations.append({**entry, "image_id": name, "file_name": labels.name})
    content = {"images": images, "annotations": annotations, "categories": dataset.categories}
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(json.dumps(content), encoding="utf-8")
