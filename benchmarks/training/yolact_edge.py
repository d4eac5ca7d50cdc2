"""Trains yolact_edge_tiny on pairs of frames of the shapes data's clips.

    python benchmarks/training/yolact_edge.py --out runs/yolact_edge_tiny

Each pair is a key frame and one of the four behind it. Both are labelled, and the flow between them is known exactly.
`loop.py` says what is written and how a run is resumed.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgeseg.models.yolact_edge.flow import flow_in_cells
from edgeseg.models.yolact_edge.model import FIRST_MAPS, YolactEdge
from edgeseg_bench.datasets.clips import NUM_FRAMES, SPLIT_SIZES, ClipsDataset
from edgeseg_runtime.manifest import Manifest
from loop import Arrays, Defaults, train
from yolact import labelled_picture
from yolact_losses import Targets, pyramid_losses

FLOW_WEIGHT = 1.0
STRIDES = (16, 32)
"""Of the maps that the flow moves."""


def make_sample(manifest: Manifest, number: int) -> Arrays:
    """Return a key frame and a frame behind it in the network's frame, labels of both, and the flow.

    "flow" is (2, H, W): how far, in network pixels, each pixel of the second frame is from its place in
    the key frame; NaN where it is not seen there.
    """
    dataset = _training_clips()
    rng = np.random.default_rng((number, 0))
    distance = int(rng.integers(1, manifest.schedule.first_every or 5))
    key = (number % SPLIT_SIZES["train"]) * NUM_FRAMES + int(rng.integers(NUM_FRAMES - distance))
    sample = {}
    for prefix, index in (("key_", key), ("", key + distance)):
        frame = dataset[index]
        things = [a for a in frame.annotations if a["isthing"]]
        picture = labelled_picture(manifest, frame, things, 0)
        sample |= {f"{prefix}{name}": array for name, array in picture.items()}
    flow, is_visible = dataset.flow(key + distance, key)
    height, width = sample["image"].shape[:2]
    scale = np.array([width / flow.shape[1], height / flow.shape[0]], np.float32)
    flow = np.where(is_visible[..., None], flow * scale, np.nan)
    flow = cv2.resize(flow, (width, height), interpolation=cv2.INTER_NEAREST)
    return sample | {"flow": np.ascontiguousarray(flow.transpose(2, 0, 1))}


def losses(model: YolactEdge, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the losses of the key frame, those of the frame behind it, and that of the flow."""
    assert model.partial is not None
    features = model.backbone(model.normalize(batch["key_image"]))[-3:]
    laterals = model.fpn.laterals(features)
    merged = model.fpn.top_down(laterals)
    found = pyramid_losses(model, model.fpn.refine(merged), _targets(batch, "key_"))

    c3 = model.backbone(model.normalize(batch["image"]), FIRST_MAPS)[-1]
    stages = model.partial(
        model.fpn.laterals([c3])[0], merged[1:], model.partial.reduce(laterals[0])
    )
    maps = [stages[f"merged{level}"] for level in (3, 4, 5)]
    behind = pyramid_losses(model, model.fpn.refine(maps), _targets(batch, ""))
    found |= {f"{name}_step": loss for name, loss in behind.items()}
    errors = [
        _flow_error(stages[f"flow{level}"], batch["flow"], stride)
        for level, stride in zip((4, 5), STRIDES, strict=True)
    ]
    return found | {"flow": FLOW_WEIGHT * torch.stack(errors).sum()}


def _targets(batch: dict[str, Tensor], prefix: str) -> Targets:
    return Targets(**{name: batch[f"{prefix}{name}"] for name in ("boxes", "labels", "masks")})


def _flow_error(found_B2HW: Tensor, flow_B2HW: Tensor, stride: int) -> Tensor:
    """Return the mean distance in cells from the true flow, where things are seen in both frames."""
    cells = flow_in_cells(found_B2HW)
    is_known = flow_B2HW.isfinite().all(dim=1, keepdim=True).float()
    share = F.adaptive_avg_pool2d(is_known, cells.shape[2:])
    true = F.adaptive_avg_pool2d(flow_B2HW.nan_to_num(0.0), cells.shape[2:]) / stride
    true = true / share.clamp(min=1e-6)
    distance = F.smooth_l1_loss(cells, true, reduction="none").sum(dim=1, keepdim=True)
    return (distance * share).sum() / share.sum().clamp(min=1)


@functools.cache
def _training_clips() -> ClipsDataset:
    return ClipsDataset("train")


if __name__ == "__main__":
    train(
        "yolact_edge_tiny",
        sample=make_sample,
        losses=losses,
        defaults=Defaults(steps=1200, batch_size=8, lr=2e-3),
    )
