"""Trains centernet_tiny on the shapes data.

    python benchmarks/training/centernet.py --out runs/centernet_tiny

`loop.py` says what is written and how a run is resumed.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgeseg.models.centernet.config import STRIDE
from edgeseg.models.centernet.model import CenterNet
from edgeseg.models.layers.peaks import take_places
from edgeseg_bench.datasets import Dataset, open_dataset
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.picture.geometry import scale_boxes_to_network
from edgeseg_runtime.tasks import create_task
from loop import Arrays, Defaults, mirrored, train

MAX_OBJECTS = 10
MIN_OVERLAP = 0.7
SIZE_WEIGHT = 0.2  # the paper has 0.1 (section 3), for larger pictures and so larger sizes


def make_sample(manifest: Manifest, number: int) -> Arrays:
    """Return a picture of the training split in the network's frame, with its maps and centres."""
    dataset = _training_split()
    sample = dataset[number % len(dataset)]
    flips = number // len(dataset)  # later rounds over the same pictures see them mirrored
    inputs, geometry = create_task(manifest).preprocess(mirrored(sample.image, flips))
    height, width = manifest.preprocess.height // STRIDE, manifest.preprocess.width // STRIDE
    heatmap_YHW = np.zeros((len(manifest.labels), height, width), np.float32)
    place = np.zeros(MAX_OBJECTS, np.int64)
    offset, size = np.zeros((2, MAX_OBJECTS, 2), np.float32)
    is_object = np.zeros(MAX_OBJECTS, np.float32)
    for row, annotation in enumerate(sample.annotations[:MAX_OBJECTS]):
        box = _mirrored_box(annotation["bbox"], sample.height, sample.width, flips)
        box = scale_boxes_to_network(box[None], geometry)[0].clip(0, manifest.preprocess.width)
        x1, y1, x2, y2 = box / STRIDE
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        column, line = min(int(x), width - 1), min(int(y), height - 1)
        label = manifest.category_ids.index(annotation["category_id"])
        radius = gaussian_radius(math.ceil(y2 - y1), math.ceil(x2 - x1))
        draw_gaussian(heatmap_YHW[label], column, line, radius)
        place[row] = line * width + column
        offset[row], size[row] = (x - column, y - line), (x2 - x1, y2 - y1)
        is_object[row] = 1
    return {
        "image": inputs["image"][0],
        "heatmap": heatmap_YHW,
        "place": place,
        "offset": offset,
        "size": size,
        "is_object": is_object,
    }


def gaussian_radius(height: float, width: float) -> int:
    """Return how far both corners of a box may move for the moved one to overlap it by `MIN_OVERLAP`.

    The smallest of three cases, as CornerNet's and CenterNet's trainers have it (utils/image.py), with
    its quirk of a root divided by 2 instead of 2 a.
    """
    total, area = height + width, height * width
    inside = 4 * total**2 - 16 * (1 - MIN_OVERLAP) * area
    outside = 4 * (MIN_OVERLAP * total) ** 2 - 16 * MIN_OVERLAP * (MIN_OVERLAP - 1) * area
    shifted = total**2 - 4 * area * (1 - MIN_OVERLAP) / (1 + MIN_OVERLAP)
    radii = (
        (total + math.sqrt(shifted)) / 2,
        (2 * total + math.sqrt(inside)) / 2,
        (-2 * MIN_OVERLAP * total + math.sqrt(outside)) / 2,
    )
    return max(0, int(min(radii)))


def draw_gaussian(map_HW: npt.NDArray[np.float32], column: int, row: int, radius: int) -> None:
    """Raise the map to a Gaussian of height 1 about a place, cut off at ``radius``."""
    height, width = map_HW.shape
    sigma = (2 * radius + 1) / 6
    ys = np.arange(max(0, row - radius), min(height, row + radius + 1))
    xs = np.arange(max(0, column - radius), min(width, column + radius + 1))
    squares = (ys[:, None] - row) ** 2 + (xs - column) ** 2
    region = map_HW[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
    np.maximum(region, np.exp(-squares / (2 * sigma**2)), out=region)


def losses(model: CenterNet, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the three losses of the paper, sections 3 and 4."""
    x_B3HW = model.normalize(batch["image"])
    maps = model.predict(model.features(x_B3HW)["neck"])
    is_object_BK1 = batch["is_object"][..., None]
    count = (2 * is_object_BK1.sum()).clamp(min=1)
    distances = {
        name: ((take_places(maps[name], batch["place"]) - batch[name]).abs() * is_object_BK1).sum()
        for name in ("offset", "size")
    }
    return {
        "heatmap": focal_loss(maps["heatmap"], batch["heatmap"]),
        "offset": distances["offset"] / count,
        "size": SIZE_WEIGHT * distances["size"] / count,
    }


def focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the pixel-wise logistic regression of the paper's equation 1, per centre."""
    probability = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    is_centre = target == 1
    found = torch.log(probability) * (1 - probability) ** 2
    missed = torch.log(1 - probability) * probability**2 * (1 - target) ** 4
    return -torch.where(is_centre, found, missed).sum() / is_centre.sum().clamp(min=1)


def _mirrored_box(
    bbox: list[float], height: int, width: int, flips: int
) -> npt.NDArray[np.float32]:
    """Return x1 y1 x2 y2 of a COCO box in the mirrored picture."""
    x, y, w, h = bbox
    x = width - x - w if flips & 1 else x
    y = height - y - h if flips & 2 else y
    return np.array([x, y, x + w, y + h], np.float32)


@functools.cache
def _training_split() -> Dataset:
    return open_dataset("shapes", split="train")


if __name__ == "__main__":
    train(
        "centernet_tiny",
        sample=make_sample,
        losses=losses,
        defaults=Defaults(steps=1450, batch_size=10, lr=2e-3, warm_up_steps=100),
    )
