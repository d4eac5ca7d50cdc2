"""The training loop that every small model shares: seeded, on the CPU, resumable, with progress and a log.

A script gives a model's name, a function that makes one training picture and one that makes the losses:

    train("maskrcnn_tiny", sample=sample, losses=losses, defaults=Defaults(steps=800, batch_size=16, lr=2e-3))

OUT/<name>.safetensors (float16) and OUT/log.json are written at the end. An interrupted run goes on where
its last checkpoint stands when the command is given again, and ends with the weights of a run without interruption.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader

import edgeseg
from edgeseg.models import get_spec, model_manifest
from edgeseg.models.reference import ReferenceModel
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.environment import portable

RESUMED = ("seed", "batch_size", "steps", "lr", "weight_decay", "warm_up_steps")
"""Options that a run has in common with the checkpoint that it goes on from."""
MAX_GRADIENT_NORM = 5.0

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]
MakeSample: TypeAlias = Callable[[Manifest, int], Arrays]
"""Called with the model's manifest and a picture's number; returns inputs and targets of fixed shapes.

A pure function of the number, which counts on over all rounds through the data set.
"""
MakeLosses: TypeAlias = Callable[[Any, dict[str, Tensor]], dict[str, Tensor]]
"""Called with the model in training mode and a batch; returns the losses whose sum is minimised."""


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What the command line may change."""

    steps: int
    batch_size: int
    lr: float
    weight_decay: float = 0.02
    warm_up_steps: int = 200


def train(
    name: str,
    *,
    sample: MakeSample,
    losses: MakeLosses,
    defaults: Defaults,
    arguments: Sequence[str] | None = None,
) -> None:
    """Train a small model as the command line says, and write weights and log.

    Args:
        name: a model that `edgeseg.create_model` makes.
        sample: see `MakeSample`.
        losses: see `MakeLosses`.
        defaults: of the command line's options.
        arguments: of the command line; all that the program was given if None.

    Raises:
        ValueError: OUT holds the checkpoint of a run with another seed, batch size or schedule.
    """
    options = _options(name, defaults, arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    model = edgeseg.create_model(name)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=options.lr, weight_decay=options.weight_decay
    )
    log: list[dict[str, Any]] = []
    checkpoint_path = options.out / "checkpoint.pt"
    settings = {name: getattr(options, name) for name in RESUMED}
    start = _resume(checkpoint_path, model, optimizer, log, settings=settings)
    console = Console()
    began = time.monotonic() - (log[-1]["seconds"] if log else 0.0)
    with _progress(console) as progress:
        bar = progress.add_task(name, total=options.steps, completed=start, loss="")
        for step, batch in enumerate(_batches(model, sample, options, start), start):
            for group in optimizer.param_groups:
                group["lr"] = options.lr * _schedule(step, options)
            values = _train_step(model, optimizer, losses, batch, seed=options.seed + step)
            text = " ".join(f"{loss} {value:.3f}" for loss, value in values.items())
            progress.update(bar, completed=step + 1, loss=text)
            if (step + 1) % options.checkpoint_every == 0 or step + 1 == options.steps:
                seconds = round(time.monotonic() - began, 1)
                log.append({"step": step + 1, "seconds": seconds, **values})
                _save(checkpoint_path, model, optimizer, log, settings=settings)
                console.log(f"step {step + 1}: {text}")
    _finish(model, options, log, console)


def mirrored(array: npt.NDArray[Any], flips: int) -> npt.NDArray[Any]:
    """Return ``array`` mirrored left-right where bit 0 of ``flips`` is set, top-down for bit 1."""
    array = array[:, ::-1] if flips & 1 else array
    return np.ascontiguousarray(array[::-1] if flips & 2 else array)


class _Samples(torch.utils.data.Dataset[Arrays]):
    """The pictures of the steps that are left, in their order."""

    def __init__(self, manifest: Manifest, sample: MakeSample, *, first: int, end: int) -> None:
        self.manifest = manifest
        self.sample = sample
        self.first = first
        self.end = end

    def __len__(self) -> int:
        return self.end - self.first

    def __getitem__(self, index: int) -> Arrays:
        return self.sample(self.manifest, self.first + index)


def _options(name: str, defaults: Defaults, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=f"Trains {name} on the shapes data.")
    parser.add_argument("--out", type=Path, required=True, help="folder of weights and log")
    parser.add_argument("--steps", type=int, default=defaults.steps, help="optimiser steps")
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size)
    parser.add_argument("--lr", type=float, default=defaults.lr, help="peak learning rate")
    parser.add_argument("--weight-decay", type=float, default=defaults.weight_decay)
    parser.add_argument("--warm-up-steps", type=int, default=defaults.warm_up_steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint-every", type=int, default=100, help="steps")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw pictures")
    return parser.parse_args(arguments)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn(), TextColumn("{task.fields[loss]}"))  # fmt: skip
    return Progress(*columns, console=console)


def _batches(
    model: ReferenceModel, sample: MakeSample, options: argparse.Namespace, start: int
) -> Iterator[dict[str, Tensor]]:
    samples = _Samples(
        model_manifest(model),
        sample,
        first=start * options.batch_size,
        end=options.steps * options.batch_size,
    )
    yield from DataLoader(samples, batch_size=options.batch_size, num_workers=options.workers)


def _schedule(step: int, options: argparse.Namespace) -> float:
    """Linear warm-up, then half a cosine down to 0."""
    if step < options.warm_up_steps:
        return (step + 1) / options.warm_up_steps
    share = (step - options.warm_up_steps) / (options.steps - options.warm_up_steps)
    return 0.5 * (1 + math.cos(math.pi * share))


def _train_step(
    model: ReferenceModel,
    optimizer: torch.optim.Optimizer,
    make_losses: MakeLosses,
    batch: dict[str, Tensor],
    *,
    seed: int,
) -> dict[str, float]:
    torch.manual_seed(seed)  # whatever the losses draw does not depend on where a run was resumed
    model.train()
    losses = make_losses(model, batch)
    optimizer.zero_grad()
    torch.autograd.backward(torch.stack(list(losses.values())).sum())
    torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
    optimizer.step()
    return {name: round(loss.item(), 4) for name, loss in losses.items()}


def _resume(
    path: Path,
    model: ReferenceModel,
    optimizer: torch.optim.Optimizer,
    log: list[dict[str, Any]],
    *,
    settings: dict[str, Any],
) -> int:
    """Load a checkpoint, if there is one, and return how many steps were done."""
    if not path.is_file():
        return 0
    checkpoint = torch.load(path, weights_only=True)
    found = checkpoint.get("settings", {})
    others = [k for k, value in settings.items() if found.get(k) != value]
    if others:
        pairs = (f"{name} {found.get(name)} found, expected {settings[name]}" for name in others)
        raise ValueError(
            f"{path} is of another run: {'; '.join(pairs)}. Give the options of that run, "
            "or another folder with --out"
        )
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    log.extend(checkpoint["log"])
    return int(log[-1]["step"])


def _save(
    path: Path,
    model: ReferenceModel,
    optimizer: torch.optim.Optimizer,
    log: list[dict[str, Any]],
    *,
    settings: dict[str, Any],
) -> None:
    temporary = path.with_suffix(".tmp")
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "log": log}
    state["settings"] = settings
    torch.save(state, temporary)
    temporary.replace(path)


def _finish(
    model: ReferenceModel, options: argparse.Namespace, log: list[dict[str, Any]], console: Console
) -> None:
    state = {
        name: value.to(torch.float16).contiguous()
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    weights = options.out / f"{get_spec(model.name).name}.safetensors"
    save_file(state, weights)
    settings = {
        key: portable(str(value)) if isinstance(value, Path) else value
        for key, value in vars(options).items()
    }
    record = {
        "model": model.name,
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "command": ["python", *map(portable, sys.argv)],
        "settings": settings,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg(),
        "steps": log,
    }
    (options.out / "log.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    console.print(f"wrote {weights} ({weights.stat().st_size / 1e6:.2f} MB)")
