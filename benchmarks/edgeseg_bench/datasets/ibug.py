"""Reads and writes data sets in the file layout of 300W: 68 points in .pts files beside the pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeseg_bench.datasets.base import Annotation, Dataset, DatasetError, lines_of
from edgeseg_bench.datasets.face_files import (
    FaceFiles,
    Points,
    box_annotation,
    check_folder,
    check_limit,
    numbers_in,
    write_picture,
)

# The protocol of 300W: which folders make up a split. The public test set has two parts.
SPLITS = {
    "train": ("afw", "helen/trainset", "lfpw/trainset"),
    "common": ("helen/testset", "lfpw/testset"),
    "challenging": ("ibug",),
    "full": ("helen/testset", "lfpw/testset", "ibug"),
    "private": ("300W/01_Indoor", "300W/02_Outdoor"),
}
NUM_POINTS = 68
PICTURE_SUFFIXES = (".jpg", ".png", ".jpeg", ".JPG", ".PNG")
LAYOUT = (
    "Expected FOLDER/helen/testset, FOLDER/lfpw/testset, FOLDER/ibug (and for training FOLDER/afw, "
    "FOLDER/helen/trainset, FOLDER/lfpw/trainset) with NAME.pts beside each NAME.jpg or NAME.png."
)


def open_300w(
    folder: str | Path, split: str | None = None, *, limit: int | None = None
) -> FaceFiles:
    """Return the pictures of 300W, one face in each.

    An annotation has "points_68", "landmarks" (5, 2: centres of the eyes, tip of the nose, corners of the
    mouth) and, as box, the extent of the points. Points count from the picture's upper left corner: the
    files' own, which count pixels from 1, are moved by 1.

    Args:
        folder: see LAYOUT.
        split: a key of SPLITS; None = "full".
        limit: use only the first pictures; None = all.

    Raises:
        DatasetError: a folder or picture is missing, or a .pts file is damaged.
        ValueError: there is no such split, or the limit is not positive.
    """
    folder, split = Path(folder), split or "full"
    if split not in SPLITS:
        raise ValueError(f"300W has no split {split!r}: choose from {list(SPLITS)}.")
    check_limit(limit)
    check_folder(folder, LAYOUT)
    faces: list[tuple[str, list[Annotation]]] = []
    for part in SPLITS[split]:
        place = folder / part
        if not place.is_dir():
            raise DatasetError(f"300W's split {split!r} needs the folder {place}. {LAYOUT}")
        for source in sorted(place.rglob("*.pts")):
            picture = _picture_beside(source)
            faces.append(
                (picture.relative_to(folder).as_posix(), [_annotation(read_points(source))])
            )
    return FaceFiles(f"300w:{split}", folder, faces[:limit])


def write_300w(dataset: Dataset, folder: str | Path, *, part: str = "ibug") -> Path:
    """Write faces with 68 points in the layout of 300W, one picture for each face.

    Args:
        dataset: its annotations have "points_68".
        folder: what `300w:FOLDER` reads.
        part: the folder inside it, such as "ibug", "helen/testset" or "afw".

    Returns:
        The folder.

    Raises:
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    for sample in dataset:
        stem = Path(sample.file_name).stem
        for number, annotation in enumerate(sample.annotations, 1):
            target = folder / part / f"{stem}_{number}.png"
            write_picture(target, sample.image)
            write_points(target.with_suffix(".pts"), np.array(annotation["points_68"]))
    return folder


def read_points(source: Path) -> Points:
    """Return the points (68, 2) of a .pts file, counted from 0.

    Raises:
        DatasetError: the file does not hold 68 points.
    """
    lines = lines_of(source)
    try:
        first, last = lines.index("{") + 1, lines.index("}")
    except ValueError:
        first, last = 0, 0
    rows = [
        numbers_in(text.split(), source=source, line=number)
        for number, text in enumerate(lines[first:last], first + 1)
        if text.strip()
    ]
    if len(rows) != NUM_POINTS or any(len(row) != 2 for row in rows):
        raise DatasetError(
            f"{source} holds {len(rows)} lines of points between braces, expected {NUM_POINTS} with x and y. "
            "Download it again."
        )
    return np.array(rows) - 1


def write_points(target: Path, points_N2: Points) -> None:
    """Write points, counted from 0, as a .pts file, which counts from 1.

    Raises:
        OSError: the file cannot be written.
    """
    rows = "\n".join(f"{x:.3f} {y:.3f}" for x, y in (points_N2 + 1).tolist())
    target.write_text(
        f"version: 1\nn_points:  {len(points_N2)}\n{{\n{rows}\n}}\n", encoding="utf-8"
    )


def five_from_68(points_N2: Points) -> Points:
    """Return the centres of the eyes, the tip of the nose and the corners of the mouth (5, 2)."""
    eyes = (points_N2[36:42].mean(axis=0), points_N2[42:48].mean(axis=0))
    return np.stack([*eyes, *points_N2[[30, 48, 54]]])


def _picture_beside(source: Path) -> Path:
    for suffix in PICTURE_SUFFIXES:
        if source.with_suffix(suffix).is_file():
            return source.with_suffix(suffix)
    raise DatasetError(
        f"{source} has no picture beside it ({', '.join(PICTURE_SUFFIXES)}). {LAYOUT}"
    )


def _annotation(points_N2: Points) -> Annotation:
    low, high = points_N2.min(axis=0), points_N2.max(axis=0)
    return box_annotation([*low, *(high - low)]) | {
        "points_68": points_N2.tolist(),
        "landmarks": five_from_68(points_N2).tolist(),
    }
