"""A data set without the pictures that cannot be read, which is found out before anything is measured."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from edgeseg_bench.datasets.base import (
    Category,
    Dataset,
    DatasetError,
    Sample,
    coco_from_samples,
)
from edgeseg_runtime.bundle.files import listed
from edgeseg_runtime.errors import ImageError

__all__ = ["Checked", "OnPicture", "check_pictures", "skipped_pictures"]

OnPicture: TypeAlias = Callable[[int, int], object]
"""Called with the number of pictures read so far, and of all."""

_log = logging.getLogger(__name__)


def check_pictures(dataset: Dataset, *, on_picture: OnPicture) -> Checked:
    """Read every picture, and return the data set without those for which that fails.

    The same rule as for a folder: such pictures are named, left out and counted.

    Args:
        dataset: pictures and labels.
        on_picture: see `OnPicture`.

    Raises:
        DatasetError: no picture can be read, or one is not that of its labels.
    """
    kept: list[int] = []
    left_out: list[str] = []
    for index in range(len(dataset)):
        on_picture(index, len(dataset))
        try:
            _ = dataset[index]
        except ImageError as error:
            _log.warning("skipped: %s", error)
            left_out.append(str(error))
        else:
            kept.append(index)
    on_picture(len(dataset), len(dataset))
    if left_out and not kept:
        raise DatasetError(
            f"None of the {len(left_out)} pictures of {dataset.name} can be read: {listed(left_out, most=1)}."
        )
    return Checked(dataset, kept)


def skipped_pictures(dataset: Dataset) -> dict[str, int]:
    """Return how many pictures were left out, for a record; nothing where all can be read."""
    num_skipped = dataset.num_skipped if isinstance(dataset, Checked) else 0
    return {"num_skipped_pictures": num_skipped} if num_skipped else {}


class Checked:
    """Those pictures of a data set that can be read, and their labels.

    Args:
        dataset: the whole data set.
        kept: numbers of its pictures that can be read.

    Attributes:
        num_skipped: pictures that cannot.
    """

    def __init__(self, dataset: Dataset, kept: Sequence[int]) -> None:
        self._dataset = dataset
        self._kept = kept
        self.num_skipped = len(dataset) - len(kept)

    @property
    def name(self) -> str:
        """What reports call it."""
        return self._dataset.name

    @property
    def categories(self) -> tuple[Category, ...]:
        """COCO categories."""
        return self._dataset.categories

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Sample:
        return self._dataset[self._kept[index]]

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def coco(self) -> dict[str, Any]:
        """Return the ground truth of these pictures as a COCO data set."""
        return coco_from_samples(self, self.categories)
