"""Trains vpsnet_tiny on the drawn clips of the shapes data.

    python benchmarks/training/vpsnet.py --out runs/vpsnet_tiny

`loop.py` says what is written and how a run is resumed. Of two frames in a row the second one has all labels: segments,
the flow to the first one, and which of its things are in that, too.
"""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from edgeseg.models.vpsnet.model import VPSNet
from edgeseg_bench.datasets.base import Sample
from edgeseg_bench.datasets.clips import NUM_FRAMES, SPLIT_SIZES, ClipsDataset
from edgeseg_bench.datasets.segmentation import mask_from_segmentation
from edgeseg_runtime.manifest import Manifest
from edgeseg_runtime.tasks import create_task
from loop import Arrays, Defaults, mirrored, train
from rcnn_losses import Targets, region_losses

MAX_OBJECTS = 10
STRIDE = 4  # of semantic logits and flow
IGNORED = -1  # class of void and padding, track of no object
FLOW_WEIGHT = 0.3  # of an error of a cell


def make_sample(manifest: Manifest, number: int) -> Arrays:
    """Return a frame of a training clip and the one before it in the network's frame, with labels."""
    dataset = _training_split()
    num_clips = SPLIT_SIZES["train"]
    clip, turn = number % num_clips, number // num_clips
    index = clip * NUM_FRAMES + 1 + (7 * clip + 5 * turn) % (NUM_FRAMES - 1)
    flips = turn & 1  # every other round sees the pictures mirrored; the sky stays above
    frame, before = dataset[index], dataset[index - 1]
    task = create_task(manifest)
    inputs, _ = task.preprocess(mirrored(frame.image, flips))
    inputs_before, _ = task.preprocess(mirrored(before.image, flips))
    size = inputs["image"].shape[1:3]
    height, width = (int(side) for side in inputs["image_size"][0])
    labels = _labels(manifest, frame, flips, (height, width), size)
    earlier = _labels(manifest, before, flips, (height, width), size)
    flow, is_known = _flow(dataset.flow(index, index - 1), flips, (height, width), size)
    return {
        "image": inputs["image"][0],
        "image_before": inputs_before["image"][0],
        "image_size": inputs["image_size"][0],
        **labels,
        "boxes_before": earlier["boxes"],
        "tracks_before": earlier["tracks"],
        "flow": flow,
        "flow_is_known": is_known,
    }


def losses(model: VPSNet, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the losses of Mask R-CNN, of the semantic head, of the flow and of the identities."""
    size = batch["image_size"]
    frame = model.seed_stages(batch["image"], size)
    with torch.no_grad():
        before = model.seed_stages(batch["image_before"], size)
        pyramid_before = _pyramid(model.fuse_stages(before, before))
    fused = model.fuse_stages(frame, before)
    pyramid = _pyramid(fused)
    targets = Targets(boxes=batch["boxes"], labels=batch["labels"], masks=batch["masks"])
    logits = model.semantic_head(pyramid)
    return {
        **region_losses(model, pyramid, size, targets),
        "semantic": F.cross_entropy(logits, batch["semantic"], ignore_index=IGNORED),
        "flow": FLOW_WEIGHT * _flow_loss(fused, batch),
        "track": _track_loss(model, pyramid, pyramid_before, batch),
    }


def _pyramid(stages: dict[str, Tensor]) -> list[Tensor]:
    return [stages[f"fused_p{level}"] for level in range(2, 7)]


def _flow_loss(stages: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
    """Return the mean error in cells where the flow is known, of the result and the coarse stage."""
    is_known = batch["flow_is_known"][:, None].float()
    coarse = F.interpolate(2 * stages["flow_coarse"], scale_factor=2.0, mode="bilinear")
    errors = [(flow - batch["flow"]).abs() * is_known for flow in (stages["flow"], coarse)]
    return torch.stack(errors).sum() / (2 * is_known.sum().clamp(min=1))


def _track_loss(
    model: VPSNet,
    pyramid: list[Tensor],
    pyramid_before: list[Tensor],
    batch: dict[str, Tensor],
) -> Tensor:
    """Return how badly things of a frame are told from those of the frame before, and from new ones."""
    now = model.embed(model.atlas(pyramid), batch["boxes"])
    earlier = model.embed(model.atlas(pyramid_before), batch["boxes_before"])
    likeness = now @ earlier.transpose(1, 2)
    tracks, tracks_before = batch["tracks"], batch["tracks_before"]
    likeness = likeness.masked_fill((tracks_before == IGNORED)[:, None], -1e4)
    is_same = (tracks[:, :, None] == tracks_before[:, None]) & (tracks != IGNORED)[:, :, None]
    column = torch.where(is_same.any(dim=2), 1 + is_same.long().argmax(dim=2), 0)
    wanted = torch.where(tracks == IGNORED, IGNORED, column)
    total = F.cross_entropy(
        F.pad(likeness, (1, 0)).flatten(0, 1),
        wanted.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
    )
    return total / (tracks != IGNORED).sum().clamp(min=1)


def _labels(
    manifest: Manifest, sample: Sample, flips: int, resized: tuple[int, int], size: tuple[int, ...]
) -> Arrays:
    """Return boxes, labels, masks, tracks and semantic classes of a frame in the network's frame."""
    height, width = resized
    num_stuff = int(manifest.postprocess["num_stuff"])
    num_things = len(manifest.labels) - 1 - num_stuff
    boxes = np.zeros((MAX_OBJECTS, 4), np.float32)
    labels = np.zeros(MAX_OBJECTS, np.int64)
    tracks = np.full(MAX_OBJECTS, IGNORED, np.int64)
    masks = np.zeros((MAX_OBJECTS, *size), np.uint8)
    semantic = np.full(size, IGNORED, np.int64)
    row = 0
    for annotation in sample.annotations:
        mask = mask_from_segmentation(
            annotation["segmentation"], height=sample.height, width=sample.width
        ).astype(np.uint8)
        mask = cv2.resize(mirrored(mask, flips), (width, height), interpolation=cv2.INTER_LINEAR)
        category = int(annotation["category_id"])  # 1 .. of things, then of stuff
        is_thing = category <= num_things
        channel = category - 1 + num_stuff if is_thing else category - 1 - num_things
        semantic[:height, :width][mask > 0] = channel
        ys, xs = np.nonzero(mask)
        if is_thing and len(xs) and row < MAX_OBJECTS:
            masks[row, :height, :width] = mask
            boxes[row] = xs.min(), ys.min(), xs.max(), ys.max()
            labels[row] = category
            tracks[row] = annotation["track_id"]
            row += 1
    return {
        "boxes": boxes,
        "labels": labels,
        "tracks": tracks,
        "masks": masks,
        "semantic": semantic[STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE],
    }


def _flow(
    found: Any, flips: int, resized: tuple[int, int], size: tuple[int, ...]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return the flow (2, H / 4, W / 4) in cells, and where it is known."""
    source = np.array(found.flow.shape[1::-1], np.float32)
    flow = mirrored(found.flow, flips) * (np.array(resized[::-1]) / source / STRIDE)
    if flips & 1:
        flow = flow * [-1, 1]
    whole = np.zeros((*size, 3), np.float32)
    whole[: resized[0], : resized[1]] = np.dstack(
        [
            cv2.resize(flow.astype(np.float32), resized[::-1]),
            cv2.resize(
                mirrored(found.is_visible, flips).astype(np.float32),
                resized[::-1],
                interpolation=cv2.INTER_NEAREST,
            ),
        ]
    )
    cells = whole[STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
    return np.ascontiguousarray(cells[..., :2].transpose(2, 0, 1)), cells[..., 2] > 0


@functools.cache
def _training_split() -> ClipsDataset:
    return ClipsDataset("train")


if __name__ == "__main__":
    train(
        "vpsnet_tiny",
        sample=make_sample,
        losses=losses,
        defaults=Defaults(steps=500, batch_size=6, lr=2e-3),
    )
