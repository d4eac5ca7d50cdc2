"""Trains maskrcnn_tiny on the shapes data: seeded, on the CPU, resumable.

    python benchmarks/training/maskrcnn.py --out runs/maskrcnn_tiny

writes OUT/maskrcnn_tiny.safetensors (float16) and OUT/log.json. An interrupted run goes on where its
last checkpoint stands when the command is given again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader

import edgeseg
from edgeseg.models import model_manifest
from edgeseg.models.maskrcnn.model import MaskRCNN
from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.datasets.segmentation import mask_from_segmentation
from edgeseg_runtime.manifest import Manifest
from edgeseg_runtime.tasks import create_task
from rcnn_losses import Targets, maskrcnn_losses

MAX_OBJECTS = 10
WARM_UP_STEPS = 200
CHECKPOINT_EVERY = 100
LOSS_WEIGHTS = {"rpn_score": 1.0, "rpn_box": 1.0, "class": 1.0, "box": 1.0, "mask": 1.0}


class TrainingPictures(torch.utils.data.Dataset[dict[str, np.ndarray]]):
    """The pictures of the training split in the network's frame, in the order of the steps."""

    def __init__(self, manifest: Manifest, num_pictures: int, first: int) -> None:
        self.dataset = open_dataset("shapes", split="train")
        self.task = create_task(manifest)
        self.first = first
        self.num_pictures = num_pictures

    def __len__(self) -> int:
        return self.num_pictures - self.first

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        number = self.first + index
        sample = self.dataset[number % len(self.dataset)]
        # Later rounds over the same pictures see them mirrored.
        flips = number // len(self.dataset)
        inputs, _ = self.task.preprocess(_flip(sample.image, flips))
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
                _flip(mask, flips), (width, height), interpolation=cv2.INTER_LINEAR
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


def main() -> None:
    """Train, with progress, and write weights and log."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    model = edgeseg.create_model("maskrcnn_tiny")
    assert isinstance(model, MaskRCNN)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=0.02)
    log: list[dict[str, Any]] = []
    checkpoint_path = options.out / "checkpoint.pt"
    start = _resume(checkpoint_path, model, optimizer, log)
    console = Console()
    began = time.monotonic() - (log[-1]["seconds"] if log else 0.0)
    with _progress(console) as progress:
        bar = progress.add_task("train", total=options.steps, completed=start, loss="")
        for step, batch in enumerate(_batches(model, options, start), start):
            for group in optimizer.param_groups:
                group["lr"] = options.lr * _schedule(step, options.steps)
            losses = _train_step(model, optimizer, batch, seed=options.seed + step)
            text = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
            progress.update(bar, completed=step + 1, loss=text)
            if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == options.steps:
                seconds = round(time.monotonic() - began, 1)
                log.append({"step": step + 1, "seconds": seconds, **losses})
                _save(checkpoint_path, model, optimizer, log)
                console.log(f"step {step + 1}: {text}")
    _finish(model, options, log, console)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of weights and log")
    parser.add_argument("--steps", type=int, default=800, help="optimiser steps")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw pictures")
    return parser.parse_args()


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn(), TextColumn("{task.fields[loss]}"))  # fmt: skip
    return Progress(*columns, console=console)


def _batches(
    model: MaskRCNN, options: argparse.Namespace, start: int
) -> Iterator[dict[str, Tensor]]:
    pictures = TrainingPictures(
        model_manifest(model), options.steps * options.batch_size, start * options.batch_size
    )
    yield from DataLoader(pictures, batch_size=options.batch_size, num_workers=options.workers)


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to 0."""
    if step < WARM_UP_STEPS:
        return (step + 1) / WARM_UP_STEPS
    return 0.5 * (1 + math.cos(math.pi * (step - WARM_UP_STEPS) / (steps - WARM_UP_STEPS)))


def _train_step(
    model: MaskRCNN, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor], *, seed: int
) -> dict[str, float]:
    torch.manual_seed(seed)
    model.train()
    targets = Targets(boxes=batch["boxes"], labels=batch["labels"], masks=batch["masks"])
    losses = maskrcnn_losses(model, batch["image"], batch["image_size"], targets)
    total = torch.stack([LOSS_WEIGHTS[name] * loss for name, loss in losses.items()]).sum()
    optimizer.zero_grad()
    torch.autograd.backward(total)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimizer.step()
    return {name: round(loss.item(), 4) for name, loss in losses.items()}


def _resume(
    path: Path, model: MaskRCNN, optimizer: torch.optim.Optimizer, log: list[dict[str, Any]]
) -> int:
    if not path.is_file():
        return 0
    checkpoint = torch.load(path, weights_only=True)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    log.extend(checkpoint["log"])
    return int(log[-1]["step"])


def _save(
    path: Path, model: MaskRCNN, optimizer: torch.optim.Optimizer, log: list[dict[str, Any]]
) -> None:
    temporary = path.with_suffix(".tmp")
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "log": log}
    torch.save(state, temporary)
    temporary.replace(path)


def _finish(
    model: MaskRCNN, options: argparse.Namespace, log: list[dict[str, Any]], console: Console
) -> None:
    state = {
        name: value.to(torch.float16).contiguous()
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    weights = options.out / f"{model.name}.safetensors"
    save_file(state, weights)
    settings = {key: str(v) if isinstance(v, Path) else v for key, v in vars(options).items()}
    record = {
        "model": model.name,
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "settings": settings,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg(),
        "steps": log,
    }
    (options.out / "log.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    console.print(f"wrote {weights} ({weights.stat().st_size / 1e6:.2f} MB)")


def _flip(array: np.ndarray, flips: int) -> np.ndarray:
    """Return ``array`` mirrored left-right where bit 0 of ``flips`` is set, top-down for bit 1."""
    array = array[:, ::-1] if flips & 1 else array
    return np.ascontiguousarray(array[::-1] if flips & 2 else array)


if __name__ == "__main__":
    main()
