"""Measures what of Mask R-CNN's time in ONNX Runtime is convolution, and what pictures and masks add to it.

    python benchmarks/maskrcnn_profile.py --size 800x1344 --out benchmarks/results/maskrcnn_profile.json

The model has random weights, scaled so that the picture fills all 100 detections; no download is needed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table

import edgeseg
import edgeseg_runtime
from edgeseg.models.reference import ReferenceModel
from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.latency import Plan, Ratio, measure_interleaved, paired_ratio, warm_up
from edgeseg_bench.nodes import PRODUCTS, NodeTimes, operator_times, product_share, profile_nodes
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.environment import read_environment
from edgeseg_runtime.session import run_frame
from edgeseg_runtime.tasks import create_task

PICTURE_SIZE = 1080, 1920
GAINS = (
    (r"conv3\.norm\.weight", 0.4),
    (r"rpn\.deltas", 0.1),
    (r"fpn\.output\.0", 0.4),
    (r"fpn\.output\.1", 0.8),
    (r"fpn\.output\.2", 1.6),
    (r"fpn\.output\.3", 3.0),
    (r"box_predictor\.bbox_pred", 4.0),
    (r"box_predictor\.cls_score", 7.0),
    (r"mask_head\.predictor", 12.0),
)
"""Factors that make random weights behave like trained ones: boxes of many sizes, sure scores, masks with an outline."""


def main() -> None:
    """Measures, prints and records."""
    arguments = parse_arguments()
    console = Console()
    picture = make_picture()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.bundle
        if folder is None:
            folder = Path(scratch) / "bundle"
            with console.status("Exporting"):
                model = make_model(arguments.model, arguments.size)
                edgeseg.export_bundle(model, folder, images=[picture], variants=False)
        with console.status("Profiling"):
            times = profile(folder, picture, arguments)
        with console.status("Timing pictures"):
            num_detections, samples_ns = time_pictures(folder, picture, arguments)
    ratio = paired_ratio(samples_ns["picture to masks"], samples_ns["session"])
    console.print(operator_table(times))
    console.print(node_table(times, arguments.nodes))
    console.print(
        f"Conv, Gemm and MatMul: [bold]{product_share(times):.2%}[/bold] of the time of all nodes"
    )
    console.print(
        f"Picture to {num_detections} pasted masks, relative to the session alone: "
        f"[bold]{ratio.median:.4f}[/bold] ({ratio.interval_text(4)})"
    )
    if arguments.out is not None:
        record = make_record(arguments, times, num_detections, samples_ns, ratio)
        arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="maskrcnn_resnet50_fpn")
    parser.add_argument("--size", default="800x1344", help="height x width of the network input")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=8, help="profiled runs")
    parser.add_argument("--rounds", type=int, default=16, help="pairs of pictures and bare runs")
    parser.add_argument("--nodes", type=int, default=20, help="how many single nodes to list")
    parser.add_argument("--bundle", type=Path, help="measure this bundle, export none")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args()


def make_model(name: str, size: str) -> ReferenceModel:
    """The model with weights that depend on nothing but the names and shapes of its parameters."""
    height, width = (int(side) for side in size.split("x"))
    model = edgeseg.create_model(name, image_size=(height, width))
    state = model.state_dict()
    generator = torch.Generator().manual_seed(105)
    for key, value in state.items():
        state[key] = _random_weights(key, value, generator)
    model.load_state_dict(state)
    return model


def _random_weights(key: str, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if not like.is_floating_point():
        return like
    if key.endswith("running_var"):
        return torch.rand(like.shape, generator=generator) + 0.5
    if like.dim() > 1:
        value = torch.randn(like.shape, generator=generator) / math.sqrt(like[0].numel())
    elif key.endswith("norm.weight"):
        value = torch.rand(like.shape, generator=generator) + 0.5
    else:
        value = torch.randn(like.shape, generator=generator) * 0.1
    gains = (gain for pattern, gain in GAINS if re.search(pattern, key))
    return value * math.prod(gains)


def make_picture() -> npt.NDArray[np.uint8]:
    """A drawn picture of 1920x1080."""
    (sample,) = open_dataset("shapes", limit=1)
    height, width = PICTURE_SIZE
    picture = cv2.resize(sample.image, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(picture, np.uint8)


def profile(
    folder: Path, picture: npt.NDArray[np.uint8], arguments: argparse.Namespace
) -> NodeTimes:
    """The time of every node, the median over the profiled runs."""
    inputs, _ = create_task(Manifest.load(folder)).preprocess(picture)
    return profile_nodes(folder, inputs, threads=arguments.threads, runs=arguments.runs)


def time_pictures(
    folder: Path, picture: npt.NDArray[np.uint8], arguments: argparse.Namespace
) -> tuple[int, dict[str, tuple[int, ...]]]:
    """Detections, and paired samples of the bare session and of the whole way from picture to pasted masks."""
    plan = Plan(
        warmup_runs=2,
        warmup_seconds=0,
        max_warmup_seconds=10,
        min_queries=arguments.rounds,
        min_seconds=0,
        max_seconds=None,
    )
    with edgeseg_runtime.load(
        folder, backend="onnxruntime", threads=arguments.threads
    ) as predictor:
        inputs, _ = predictor.task.preprocess(picture)
        state = predictor.backend.open_state()
        calls = {
            "session": lambda _round: run_frame(
                predictor.manifest, predictor.backend, inputs, state
            ),
            "picture to masks": lambda _round: predictor(picture).masks,
        }
        num_detections = len(predictor(picture))
        if num_detections < 100:
            raise SystemExit(f"{num_detections} detections found, expected 100: other weights?")
        for call in calls.values():
            warm_up(call, plan)
        latencies = measure_interleaved(calls, plan)
    return num_detections, {name: latency.samples_ns for name, latency in latencies.items()}


def operator_table(times: NodeTimes, *, smallest_share: float = 5e-4) -> Table:
    """The operator types that matter."""
    totals = operator_times(times)
    table = Table("operator", "ms", "share", title="Time of each operator type")
    rest = sum(totals.values())
    for op_type, time_ms in totals.items():
        share = time_ms / sum(totals.values())
        if share >= smallest_share:
            table.add_row(op_type, f"{time_ms:.1f}", f"{share:.2%}")
            rest -= time_ms
    table.add_row("others", f"{rest:.1f}", f"{rest / sum(totals.values()):.2%}")
    return table


def node_table(times: NodeTimes, count: int) -> Table:
    """The longest nodes other than convolutions and matrix products."""
    table = Table("node", "operator", "ms", title="Longest nodes beside the products")
    others = {key: time_ms for key, time_ms in times.items() if key[0] not in PRODUCTS}
    for (op_type, node), time_ms in sorted(others.items(), key=lambda item: -item[1])[:count]:
        table.add_row(node, op_type, f"{time_ms:.1f}")
    return table


def make_record(
    arguments: argparse.Namespace,
    times: NodeTimes,
    num_detections: int,
    samples_ns: Mapping[str, tuple[int, ...]],
    ratio: Ratio,
) -> dict[str, Any]:
    """Everything measured, with what it was measured on."""
    return {
        "model": arguments.model,
        "size": arguments.size,
        "threads": arguments.threads,
        "runs": arguments.runs,
        "load_average": os.getloadavg(),
        "environment": dataclasses.asdict(read_environment()),
        "product_share": product_share(times),
        "operator_ms": operator_times(times),
        "node_ms": [[*key, time_ms] for key, time_ms in times.items()],
        "num_detections": num_detections,
        "picture_to_masks_ratio": dataclasses.asdict(ratio),
        "samples_ns": dict(samples_ns),
    }


if __name__ == "__main__":
    main()
