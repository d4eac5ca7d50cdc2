"""Trains hourglass_tiny on the figures of the shapes data.

    python benchmarks/training/hourglass.py --out runs/hourglass_tiny

`loop.py` says what is written and how a run is resumed.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from edgeseg.models.hourglass.config import STRIDE
from edgeseg.models.hourglass.model import StackedHourglass
from edgeseg.models.labels import MPII_FLIP_ORDER
from edgeseg_bench.datasets import Dataset, open_dataset
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.picture.geometry import fit_image, geometry_of, scale_points_to_network
from loop import Arrays, Defaults, mirrored, train

SIGMA = 1.0  # of the targets, in pixels of the heat maps, as the original
LOSS_WEIGHT = 100.0  # most of a target is 0: the mean of its squared errors is a small number
MAX_SHIFT = 0.1  # of a box, over its longer side
MAX_ZOOM = 0.2

Floats = npt.NDArray[np.float32]


def make_sample(manifest: Manifest, number: int) -> Arrays:
    """Return the crop around one person of the training split, and a heat map for every joint."""
    dataset = _training_split()
    sample = dataset[number % len(dataset)]
    round_number = number // len(dataset)
    rng = np.random.default_rng((7, number))
    people = [a for a in sample.annotations if a["num_keypoints"]]
    person = people[round_number % len(people)]
    flips = (round_number // len(people)) % 2  # each person is seen once before it is mirrored
    joints, box = _labels(person, sample.width if flips else None)
    preprocess = manifest.preprocess
    geometry = geometry_of((sample.height, sample.width), preprocess, _jittered(box, rng))
    image = fit_image(mirrored(sample.image, flips), geometry, preprocess)[0]
    points_J2 = scale_points_to_network(joints[:, :2], geometry)
    height, width = preprocess.height // STRIDE, preprocess.width // STRIDE
    return {
        "image": image,
        "heatmaps": gaussians(points_J2 / np.float32(STRIDE), height=height, width=width),
        "is_labelled": joints[:, 2] > 0,
    }


def losses(model: StackedHourglass, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the mean squared error of every stack's heat maps over the labelled joints."""
    stages = model.stages(batch["image"])
    weights_BJ11 = LOSS_WEIGHT * batch["is_labelled"].float()[:, :, None, None]
    return {
        f"stack{stack}": (
            weights_BJ11 * (stages[f"heatmaps{stack}"] - batch["heatmaps"]).square()
        ).mean()
        for stack in range(model.config.num_stacks)
    }


def gaussians(points_J2: Floats, *, height: int, width: int) -> Floats:
    """Return a bell of height 1 around every point, (J, height, width).

    Args:
        points_J2: x, y in pixels of the maps, with the centre of the first pixel at 0.5.
        height: of the maps.
        width: of the maps.
    """
    columns_W = np.arange(width, dtype=np.float32) + 0.5
    rows_H = np.arange(height, dtype=np.float32) + 0.5
    x_JW = np.exp(-((columns_W - points_J2[:, :1]) ** 2) / (2 * SIGMA**2))
    y_JH = np.exp(-((rows_H - points_J2[:, 1:]) ** 2) / (2 * SIGMA**2))
    return (y_JH[:, :, None] * x_JW[:, None, :]).astype(np.float32)


def _labels(person: dict[str, Any], mirror_width: int | None) -> tuple[Floats, Floats]:
    """Return joints (J, 3) x, y, visibility and the box x1 y1 x2 y2, mirrored if a width is given."""
    joints = np.array(person["keypoints"], np.float32).reshape(-1, 3)
    x, y, width, height = person["bbox"]
    if mirror_width is not None:
        joints = joints[list(MPII_FLIP_ORDER)]
        joints[:, 0] = mirror_width - joints[:, 0]
        x = mirror_width - x - width
    return joints, np.array([x, y, x + width, y + height], np.float32)


def _jittered(box: Floats, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Return the box shifted and zoomed about its centre, as a detector would miss it."""
    centre, size = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
    centre = centre + size.max() * rng.uniform(-MAX_SHIFT, MAX_SHIFT, 2)
    size = size * rng.uniform(1 - MAX_ZOOM, 1 + MAX_ZOOM)
    x1, y1 = (float(value) for value in centre - size / 2)
    x2, y2 = (float(value) for value in centre + size / 2)
    return x1, y1, x2, y2


@functools.cache
def _training_split() -> Dataset:
    return open_dataset("shapes", split="train", kind="person_keypoints")


if __name__ == "__main__":
    train(
        "hourglass_tiny",
        sample=make_sample,
        losses=losses,
        defaults=Defaults(steps=1400, batch_size=16, lr=3e-3, warm_up_steps=60),
    )
