"""Trains landmarks_regression_tiny or landmarks_heatmap_tiny on the faces of the shapes data.

    python benchmarks/training/landmarks.py regression --out runs/landmarks_regression_tiny
    python benchmarks/training/landmarks.py heatmap --out runs/landmarks_heatmap_tiny

Both see the same crops. `loop.py` says what is written and how a run is resumed.
"""

from __future__ import annotations

import argparse
import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgeseg.models.landmarks.config import STRIDE
from edgeseg.models.landmarks.model import LandmarkHeatmaps, LandmarkRegressor, decode_soft
from edgeseg_bench.datasets import Dataset, open_dataset
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.picture.geometry import Box, fit_image, geometry_of, scale_points_to_network
from loop import Arrays, Defaults, MakeLosses, mirrored, train

MIRROR_68 = (
    *range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31,
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40, 54, 53, 52, 51, 50, 49, 48,
    59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65,
)  # fmt: skip
"""The point of 300W's markup that each one becomes in a mirror."""

CROPS = 4  # of the faces of one picture: drawing is what takes time
MAX_SHIFT = 0.08  # of a box, over its longer side
MAX_ZOOM = 0.15
SIGMA = 1.5  # of the heat maps' targets, in their pixels
HEATMAP_WEIGHT = 100.0  # most of a target is 0: the mean of its squared errors is a small number
WING_WIDTH = 10.0
WING_CURVATURE = 2.0

DEFAULTS = {
    "regression": Defaults(steps=1200, batch_size=12, lr=3e-3, warm_up_steps=50),
    "heatmap": Defaults(steps=950, batch_size=12, lr=3e-3, warm_up_steps=50),
}

Floats = npt.NDArray[np.float32]


def make_sample(manifest: Manifest, number: int) -> Arrays:
    """Return crops around faces of one training picture, and their points in network pixels."""
    dataset = _training_split()
    sample = dataset[number % len(dataset)]
    rng = np.random.default_rng((11, number))
    flips = int(rng.integers(2))
    picture = mirrored(sample.image, flips)
    crops = [
        _crop(picture, face, manifest, rng, mirror_width=sample.width if flips else None)
        for face in rng.choice(np.array(sample.annotations, object), CROPS)
    ]
    images, points = zip(*crops, strict=True)
    return {"image": np.stack(images), "points": np.stack(points)}


def regression_losses(model: LandmarkRegressor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the wing loss of the coordinates."""
    image, points_BJ2 = _flat(batch)
    return {"wing": wing_loss(model.stages(image)["points"], points_BJ2)}


def heatmap_losses(model: LandmarkHeatmaps, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the squared error of the heat maps, and the wing loss of the points read off them."""
    image, points_BJ2 = _flat(batch)
    heatmaps_BJHW = model.stages(image)["heatmaps"]
    targets_BJHW = gaussians(points_BJ2 / STRIDE, height=heatmaps_BJHW.shape[2])
    found_BJ2 = decode_soft(heatmaps_BJHW, model.config.sharpness, window=0)
    return {
        "heatmaps": HEATMAP_WEIGHT * (heatmaps_BJHW - targets_BJHW).square().mean(),
        "wing": wing_loss(found_BJ2, points_BJ2),
    }


def wing_loss(found_BJ2: Tensor, points_BJ2: Tensor) -> Tensor:
    """Return the mean wing loss in pixels (Feng et al., 2018, arXiv 1711.06753, equation 5).

    Logarithmic below ``WING_WIDTH``: small errors, of which a face has most, count for more.
    """
    errors = (found_BJ2 - points_BJ2).abs()
    offset = WING_WIDTH - WING_WIDTH * math.log(1 + WING_WIDTH / WING_CURVATURE)
    near = WING_WIDTH * torch.log(1 + errors / WING_CURVATURE)
    return torch.where(errors < WING_WIDTH, near, errors - offset).mean()


def gaussians(points_BJ2: Tensor, *, height: int) -> Tensor:
    """Return a bell of height 1 around every point, (B, J, height, height).

    Args:
        points_BJ2: x, y in pixels of the maps, with the centre of the first pixel at 0.5.
        height: of the maps, and their width.
    """
    centres = torch.arange(height) + 0.5
    x_BJW, y_BJH = (
        torch.exp(-((centres - points_BJ2[..., axis, None]) ** 2) / (2 * SIGMA**2))
        for axis in (0, 1)
    )
    return y_BJH[..., None] * x_BJW[:, :, None]


def _flat(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the crops and points of all pictures in one row."""
    return batch["image"].flatten(0, 1), batch["points"].flatten(0, 1)


def _crop(
    picture: npt.NDArray[np.uint8],
    face: dict[str, Any],
    manifest: Manifest,
    rng: np.random.Generator,
    *,
    mirror_width: int | None,
) -> tuple[npt.NDArray[np.uint8], Floats]:
    """Return the network's view of a face, whose box is a little off, and its points there."""
    points_J2 = np.array(face["points_68"], np.float32)
    x, y, width, height = face["bbox"]
    if mirror_width is not None:
        points_J2 = points_J2[list(MIRROR_68)]
        points_J2[:, 0] = mirror_width - points_J2[:, 0]
        x = mirror_width - x - width
    box = _jittered((x, y, x + width, y + height), rng)
    geometry = geometry_of((picture.shape[0], picture.shape[1]), manifest.preprocess, box)
    image = fit_image(picture, geometry, manifest.preprocess)[0]
    return image, scale_points_to_network(points_J2, geometry)


def _jittered(box: Box, rng: np.random.Generator) -> Box:
    """Return the box shifted and zoomed about its centre, as a detector would miss it."""
    x1, y1, x2, y2 = box
    longer = max(x2 - x1, y2 - y1)
    shift_x, shift_y = longer * rng.uniform(-MAX_SHIFT, MAX_SHIFT, 2)
    zoom = rng.uniform(1 - MAX_ZOOM, 1 + MAX_ZOOM) / 2
    x, y = (x1 + x2) / 2 + shift_x, (y1 + y2) / 2 + shift_y
    half_width, half_height = zoom * (x2 - x1), zoom * (y2 - y1)
    return x - half_width, y - half_height, x + half_width, y + half_height


@functools.cache
def _training_split() -> Dataset:
    return open_dataset("shapes", split="train", kind="faces")


LOSSES: dict[str, MakeLosses] = {"regression": regression_losses, "heatmap": heatmap_losses}


def main() -> None:
    """Train the model that the first argument names; the others are those of `loop.py`."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("way", choices=DEFAULTS)
    chosen, others = parser.parse_known_args()
    train(
        f"landmarks_{chosen.way}_tiny",
        sample=make_sample,
        losses=LOSSES[chosen.way],
        defaults=DEFAULTS[chosen.way],
        arguments=others,
    )


if __name__ == "__main__":
    main()
