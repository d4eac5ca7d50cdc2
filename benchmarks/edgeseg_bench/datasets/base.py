"""What every labelled data set looks like to the metrics, the runner and the training scripts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.errors import InputError

Annotation: TypeAlias = dict[str, Any]
Category: TypeAlias = dict[str, Any]


MAX_LIST_BYTES = 2**28
"""Of a list of labelled pictures; WFLW's have 14 MB."""


class DatasetError(InputError):
    """A data set on disk that is missing, incomplete or contradicts itself."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One picture and what is known about it.

    Attributes:
        image: (H, W, 3) uint8, BGR.
        image_id: COCO image id, unique in the data set.
        file_name: name of the picture's file, relative to the folder of the pictures.
        annotations: COCO annotations; boxes are x, y, width, height in pixels of `image`.
        video_id: of the clip that the picture is a frame of; None for a picture alone.
    """

    image: npt.NDArray[np.uint8]
    image_id: int
    file_name: str
    annotations: tuple[Annotation, ...]
    video_id: int | None = None

    @property
    def height(self) -> int:
        """Rows of the picture."""
        return int(self.image.shape[0])

    @property
    def width(self) -> int:
        """Columns of the picture."""
        return int(self.image.shape[1])


class Dataset(Protocol):
    """A sequence of samples that share their categories."""

    @property
    def name(self) -> str:
        """What reports call it, such as "shapes:val"."""

    @property
    def categories(self) -> tuple[Category, ...]:
        """COCO categories: id, name, supercategory."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def __iter__(self) -> Iterator[Sample]: ...

    def coco(self) -> dict[str, Any]:
        """Return the ground truth of these pictures as a COCO data set (images, annotations, categories)."""


def read_file(source: Path, *, max_bytes: int = MAX_LIST_BYTES) -> bytes:
    """Return the content of a file of labels.

    Raises:
        DatasetError: it cannot be read, or is too large to be one.
    """
    try:
        if not source.is_file():  # reading a pipe would wait for a writer
            raise DatasetError(f"{source} does not exist or is not a file.")
        if source.stat().st_size > max_bytes:
            raise DatasetError(
                f"{source} has more than {max_bytes} bytes, which no file of labels has. Download it again."
            )
        return source.read_bytes()
    except OSError as error:
        raise DatasetError(f"{source} cannot be read: {error.strerror}.") from error


def lines_of(source: Path) -> list[str]:
    """Return the lines of a list of labels; see `read_file`."""
    return read_file(source).decode("utf-8", "replace").splitlines()


def coco_from_parts(
    images: Iterable[Mapping[str, Any]],
    annotations: Iterable[Mapping[str, Any]],
    categories: Sequence[Category],
) -> dict[str, Any]:
    """Return a COCO data set of copies of its parts, so that an evaluator may write into it."""
    return {
        "info": {},
        "licenses": [],
        "images": [dict(image) for image in images],
        "annotations": [dict(annotation) for annotation in annotations],
        "categories": [dict(category) for category in categories],
    }


def coco_from_samples(samples: Iterable[Sample], categories: Sequence[Category]) -> dict[str, Any]:
    """Return the COCO data set of pictures that are at hand, or drawn now."""
    images: list[dict[str, Any]] = []
    annotations: list[Annotation] = []
    for sample in samples:
        images.append(coco_image(sample))
        annotations.extend(sample.annotations)
    return coco_from_parts(images, annotations, categories)


def coco_image(sample: Sample) -> dict[str, Any]:
    """Return the COCO image entry of a sample."""
    entry = {
        "id": sample.image_id,
        "file_name": sample.file_name,
        "height": sample.height,
        "width": sample.width,
    }
    return entry if sample.video_id is None else {**entry, "video_id": sample.video_id}
