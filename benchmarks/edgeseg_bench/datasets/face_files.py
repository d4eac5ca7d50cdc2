"""Data sets of labelled faces in files: what WIDER FACE, 300W and WFLW have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg_bench.datasets.base import (
    Annotation,
    Category,
    DatasetError,
    Sample,
    coco_from_parts,
    coco_image,
)
from edgeseg_bench.datasets.faces import CATEGORIES
from edgeseg_runtime.picture.image import read_image

Points = npt.NDArray[np.float64]


class FaceFiles:
    """Pictures in a folder and the annotations of their faces.

    Pictures are read when they are asked for; they are numbered from 1 in the order of the list.

    Args:
        name: what reports call it, such as "wider:val".
        folder: the file names are relative to it.
        faces: file name of a picture and the annotations of its faces, without ids.

    Raises:
        DatasetError: there are no pictures in the list.
    """

    def __init__(
        self, name: str, folder: Path, faces: Sequence[tuple[str, Sequence[Annotation]]]
    ) -> None:
        if not faces:
            raise DatasetError(f"{folder} has no labelled pictures for {name!r}.")
        self._name = name
        self._folder = folder
        self._files = [file_name for file_name, _ in faces]
        self._annotations: list[tuple[Annotation, ...]] = []
        next_id = 1
        for number, (_, labelled) in enumerate(faces, 1):
            ids = range(next_id, next_id + len(labelled))
            common = {"image_id": number, "category_id": 1}
            self._annotations.append(
                tuple(
                    {"id": annotation_id, **common, **annotation}
                    for annotation_id, annotation in zip(ids, labelled, strict=True)
                )
            )
            next_id += len(labelled)

    @property
    def name(self) -> str:
        """What reports call it."""
        return self._name

    @property
    def categories(self) -> tuple[Category, ...]:
        """One COCO category: face."""
        return CATEGORIES

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"Picture {index} of {len(self)}.")
        index %= len(self)
        return Sample(
            image=read_image(self._folder / self._files[index]),
            image_id=index + 1,
            file_name=self._files[index],
            annotations=self._annotations[index],
        )

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def coco(self) -> dict[str, Any]:
        """Return the ground truth as a COCO data set; reads every picture for its size."""
        images = [coco_image(sample) for sample in self]
        annotations = (a for annotations in self._annotations for a in annotations)
        return coco_from_parts(images, annotations, self.categories)


def check_folder(folder: Path, layout: str) -> None:
    """Check that the folder of a data set exists.

    Raises:
        DatasetError: it does not; the message describes the layout.
    """
    if not folder.is_dir():
        raise DatasetError(f"There is no folder {folder}. {layout}")


def check_limit(limit: int | None) -> None:
    """Check a number of pictures.

    Raises:
        ValueError: it is not positive.
    """
    if limit is not None and limit < 1:
        raise ValueError(
            f"limit is {limit}: give the number of pictures, at least 1, or None for all."
        )


def numbers_in(words: Sequence[str], *, source: Path, line: int) -> Points:
    """Return the numbers of a line of a label file.

    Raises:
        DatasetError: one of them is not a finite number.
    """
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError as error:
        raise DatasetError(f"{source}, line {line}: {error}. Download the file again.") from error
    if not np.isfinite(numbers).all():
        raise DatasetError(f"{source}, line {line}: a number is not finite. Download it again.")
    return numbers


def box_annotation(box_xywh: Sequence[float]) -> Annotation:
    """Return COCO's fields of a face that has this box, without ids."""
    x, y, width, height = (float(value) for value in box_xywh)
    return {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0}


def write_picture(path: Path, image: npt.NDArray[np.uint8]) -> None:
    """Write a picture as PNG and make the folders above it.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _, png = cv2.imencode(".png", image)
    path.write_bytes(png.tobytes())
