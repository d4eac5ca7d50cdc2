"""Trains yolact_tiny on the shapes data.

    python benchmarks/training/yolact.py --out runs/yolact_tiny

`loop.py` says what is written and how a run is resumed.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
from torch import Tensor

from edgeseg.models.yolact.model import Yolact
from edgeseg_bench.datasets import Dataset, open_dataset
from edgeseg_bench.datasets.segmentation import mask_from_segmentation
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.tasks import create_task
from loop import Arrays, Defaults, mirrored, train
from yolact_losses import Targets, yolact_losses

MAX_OBJECTS = 10


def make_sample(manifest: Manifest, number: int) -> Arrays:
    """Return a picture of the training split in the network's frame, with its labels."""
    dataset = _training_split()
    sample = dataset[number % len(dataset)]
    flips = number // len(dataset)  # later rounds over the same pictures see them mirrored
    inputs, _ = create_task(manifest).preprocess(mirrored(sample.image, flips))
    image = inputs["image"][0]
    height, width = image.shape[:2]
    cells = next(spec.shape[2:] for spec in manifest.outputs if spec.name == "masks")
    boxes = np.zeros((MAX_OBJECTS, 4), np.float32)
    labels = np.zeros(MAX_OBJECTS, np.int64)
    masks = np.zeros((MAX_OBJECTS, *cells), np.float32)
    for row, annotation in enumerate(sample.annotations[:MAX_OBJECTS]):
        mask = mask_from_segmentation(
            annotation["segmentation"], height=sample.height, width=sample.width
        ).astype(np.float32)
        mask = mirrored(mask, flips)
        ys, xs = np.nonzero(cv2.resize(mask, (width, height)) > 0.5)
        if len(xs):
            boxes[row] = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
            labels[row] = annotation["category_id"]
            masks[row] = cv2.resize(mask, cells[::-1], interpolation=cv2.INTER_AREA) > 0.5
    return {"image": image, "boxes": boxes, "labels": labels, "masks": masks}


def losses(model: Yolact, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the paper's losses of boxes, classes and masks."""
    targets = Targets(boxes=batch["boxes"], labels=batch["labels"], masks=batch["masks"])
    return yolact_losses(model, batch["image"], targets)


@functools.cache
def _training_split() -> Dataset:
    return open_dataset("shapes", split="train")


if __name__ == "__main__":
    train(
        "yolact_tiny",
        sample=make_sample,
        losses=losses,
        defaults=Defaults(steps=1000, batch_size=16, lr=2e-3),
    )
