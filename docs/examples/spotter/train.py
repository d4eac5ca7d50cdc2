"""Trains spotter_tiny on the shapes data, in a checkout of edgeseg.

    cd docs/examples
    PYTHONPATH=../../benchmarks/training python -m spotter.train --out runs/spotter_tiny

`benchmarks/training/loop.py` says what is written and how a run is resumed.

Shape suffixes: B pictures, K objects of a picture (padded), H W a map of stride 8.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from torch import Tensor

from centernet import draw_gaussian, focal_loss, gaussian_radius
from edgeseg.models.layers.peaks import take_places
from edgeseg_bench.datasets import Sample, open_dataset
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.picture.geometry import scale_boxes_to_network
from edgeseg_runtime.tasks import create_task
from loop import Arrays, Defaults, mirrored, train
from spotter.config import STRIDE
from spotter.model import Spotter

NUM_PICTURES = 800  # drawn in the first round, mirrored in later ones: drawing takes time
MAX_OBJECTS = 10
FILL_WEIGHT = 2.0


def make_sample(manifest: Manifest, number: int) -> Arrays:
    """Return a picture of the training split in the network's frame, with its maps and centres."""
    flips, index = divmod(number, NUM_PICTURES)
    sample = _sample(index)
    inputs, geometry = create_task(manifest).preprocess(mirrored(sample.image, flips))
    height, width = manifest.preprocess.height // STRIDE, manifest.preprocess.width // STRIDE
    heatmap_YHW = np.zeros((len(manifest.labels), height, width), np.float32)
    place = np.zeros(MAX_OBJECTS, np.int64)
    offset, size = np.zeros((2, MAX_OBJECTS, 2), np.float32)
    fill, is_object = np.zeros((2, MAX_OBJECTS), np.float32)
    for row, annotation in enumerate(sample.annotations[:MAX_OBJECTS]):
        x, y, w, h = annotation["bbox"]
        fill[row] = annotation["area"] / (w * h)
        x = sample.width - x - w if flips & 1 else x
        y = sample.height - y - h if flips & 2 else y
        box = np.array([[x, y, x + w, y + h]], np.float32)
        x1, y1, x2, y2 = scale_boxes_to_network(box, geometry)[0] / STRIDE
        column, line = min(int((x1 + x2) / 2), width - 1), min(int((y1 + y2) / 2), height - 1)
        label = manifest.category_ids.index(annotation["category_id"])
        radius = gaussian_radius(math.ceil(y2 - y1), math.ceil(x2 - x1))
        draw_gaussian(heatmap_YHW[label], column, line, radius)
        place[row] = line * width + column
        offset[row] = (x1 + x2) / 2 - column, (y1 + y2) / 2 - line
        size[row] = np.log((x2 - x1, y2 - y1))
        is_object[row] = 1
    targets = {"heatmap": heatmap_YHW, "offset": offset, "size": size, "fill": fill}
    return {"image": inputs["image"][0], "place": place, "is_object": is_object, **targets}


def losses(model: Spotter, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return CenterNet's losses (Zhou et al., 2019, sections 3 and 4), with that of the fill."""
    maps = model.head_stages(batch["image"])
    is_object_BK = batch["is_object"]

    def mean(errors_BK: Tensor) -> Tensor:
        return (errors_BK * is_object_BK).sum() / is_object_BK.sum().clamp(min=1)

    found = {name: take_places(maps[name], batch["place"]) for name in model.maps}
    fill_BK = found["fill_logit"][..., 0].sigmoid()
    return {
        "heatmap": focal_loss(maps["heatmap"], batch["heatmap"]),
        "offset": mean((found["offset"] - batch["offset"]).abs().mean(dim=2)),
        "size": mean((found["size"] - batch["size"]).abs().mean(dim=2)),
        "fill": FILL_WEIGHT * mean((fill_BK - batch["fill"]).abs()),
    }


@functools.lru_cache(NUM_PICTURES)
def _sample(index: int) -> Sample:
    return open_dataset("shapes", split="train")[index]


if __name__ == "__main__":
    train(
        "spotter:spotter_tiny",
        sample=make_sample,
        losses=losses,
        defaults=Defaults(steps=1000, batch_size=8, lr=4e-3, warm_up_steps=60),
    )
