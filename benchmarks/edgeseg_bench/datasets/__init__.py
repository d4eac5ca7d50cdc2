"""Labelled data sets by name: "shapes" draws its own pictures."""

from edgeseg_bench.datasets.base import Annotation, Category, Dataset, Sample
from edgeseg_bench.datasets.shapes import ShapesDataset

__all__ = ["Annotation", "Category", "Dataset", "Sample", "open_dataset"]


def open_dataset(name: str, *, split: str | None = None, limit: int | None = None) -> Dataset:
    """Open a data set.

    Args:
        name: "shapes".
        split: "train" or "val"; None = "val".
        limit: use only the first pictures; None = all.

    Raises:
        ValueError: no data set has this name, or it has no such split.
    """
    if name == "shapes":
        return ShapesDataset(split or "val", limit=limit)
    raise ValueError(f"There is no data set {name!r}: give 'shapes'.")
