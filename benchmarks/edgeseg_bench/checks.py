"""Built-in pictures to check a model on, which show what it looks for all over its input."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import cv2
import numpy as np

from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.evaluation import dataset_kind, pictures_seen
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.picture.image import Image

MIN_CELL = 128
"""Pixels of a cell's shorter side, below which drawn objects become too small."""
DENSITIES = (1, 2, 3)
"""Rows of drawn pictures in a picture, by turns: large objects, middling ones, small ones."""


def check_pictures(manifest: Manifest, count: int) -> tuple[list[Image], str]:
    """Return built-in pictures (H, W, 3) uint8 BGR that leave nothing of the model's input empty, and their name.

    They have the size of the input, so that no rule of resizing pads them by more than its margin; drawn
    pictures stand in them side by side. A model that looks at one object at a time gets squares about
    objects instead, which fill its input anyway.
    """
    dataset = open_dataset("shapes", split="val", kind=dataset_kind(manifest))
    drawn = (seen.image for seen in pictures_seen(manifest, dataset))
    if manifest.looks_at_boxes:
        return list(itertools.islice(drawn, count)), dataset.name
    size = manifest.preprocess.height, manifest.preprocess.width
    densities = [rows for rows in DENSITIES if rows * MIN_CELL <= min(size)] or [1]
    by_turns = itertools.islice(itertools.cycle(densities), count)
    return [mosaic(drawn, size, rows) for rows in by_turns], dataset.name


def mosaic(pictures: Iterator[Image], size: tuple[int, int], cells: int) -> Image:
    """Return a picture of height, width filled with the next ones.

    Args:
        pictures: (H, W, 3) uint8 each; as many are taken as there are cells.
        size: height, width of the result.
        cells: along the shorter side; along the longer one as many as make them nearly square.
    """
    shorter = min(size)
    rows, columns = (max(round(cells * side / shorter), 1) for side in size)
    edges_y, edges_x = (
        np.linspace(0, side, count + 1).round().astype(int)
        for side, count in zip(size, (rows, columns), strict=True)
    )
    canvas = np.empty((*size, 3), np.uint8)
    for (top, bottom), (left, right) in itertools.product(
        itertools.pairwise(edges_y), itertools.pairwise(edges_x)
    ):
        canvas[top:bottom, left:right] = _covering(next(pictures), (bottom - top, right - left))
    return canvas


def _covering(picture: Image, size: tuple[int, int]) -> Image:
    """Return the middle of a picture, enlarged or shrunk until it covers height, width."""
    height, width = picture.shape[:2]
    scale = max(size[0] / height, size[1] / width)
    scaled = max(round(height * scale), size[0]), max(round(width * scale), size[1])
    resized = cv2.resize(picture, scaled[::-1], interpolation=cv2.INTER_LINEAR)
    top, left = (scaled[0] - size[0]) // 2, (scaled[1] - size[1]) // 2
    return np.asarray(resized[top : top + size[0], left : left + size[1]])
