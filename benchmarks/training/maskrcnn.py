"""Trains maskrcnn_tiny on the shapes data.

    python benchmarks/training/maskrcnn.py --out runs/maskrcnn_tiny

`loop.py` says what is written and how a run is resumed.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
from torch import Tensor

from edgeseg.models.maskrcnn.model import MaskRCNN
from edgeseg_bench.datasets import Dataset, open_dataset
from edgeseg_bench.datasets.segmentation import mask_from_segmentation
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.tasks import create_task
from loop import Arrays, Defaults, mirrored, train
from rcnn_losses import Targets, maskrcnn_losses

MAX_OBJECTS = 10


def make_sample(manifest: Manifest, number: int) -> Arrays:
    """Return a picture of the training split in the network's frame, with its labels."""
    dataset = _training_split()
    sample = dataset[number % len(dataset)]
    flips = number // len(dataset)  # later rounds over the same pictures see them mirrored
    inputs, _ = create_task(manifest).preprocess(mirrored(sample.image, flips))
    image, image_size = inputs["image"][0], inputs["image_size"][0]
    height, width = (int(side) for side in image_size)
    boxes = np.zeros((MAX_OBJECTS, 4), np.float32)
    labels = np.zeros(MAX_OBJECTS, np.int64)
    masks = np.zeros((MAX_OBJECTS, *image.shape[:2]), np.uint8)
    for row, annotation in enumerate(sample.annotations[:MAX_OBJECTS]):
        mask = mask_from_segmentation(
            annotation["segmentation"], height=sample.height, width=sample.width
        ).astype(np.uint8)
        masks[row, :height, :width] = cv2.resize(
            mirrored(mask, flips), (width, height), interpolation=cv2.INTER_LINEAR
        )
        ys, xs = np.nonzero(masks[row])
        if len(xs):
            boxes[row] = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
            labels[row] = annotation["category_id"]
    return {
        "image": image,
        "image_size": image_size,
        "boxes": boxes,
        "labels": labels,
        "masks": masks,
    }


def losses(model: MaskRCNN, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the five losses of the paper, unweighted."""
    targets = Targets(boxes=batch["boxes"], labels=batch["labels"], masks=batch["masks"])
    return maskrcnn_losses(model, batch["image"], batch["image_size"], targets)


@functools.cache
def _training_split() -> Dataset:
    return open_dataset("shapes", split="train")


if __name__ == "__main__":
    train(
        "maskrcnn_tiny",
        sample=make_sample,
        losses=losses,
        defaults=Defaults(steps=800, batch_size=16, lr=2e-3),
    )
