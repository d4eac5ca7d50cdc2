"""Times bundles in ONNX Runtime beside PyTorch's eager mode and int8 beside fp32, taking turns on one picture.

    python benchmarks/eager_ratio.py cornernet_squeeze --size 511x767 --out benchmarks/results/eager_ratio.json

Each contender goes from a picture in memory to the final result. PyTorch runs the model as its original computes it, by
one operator after another, and with the same numbers, as the recorded cases in tests/golden show. A file that is there
is added to: what it holds of the same model and size is replaced.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import edgeseg
import edgeseg_runtime
from edgeseg.cli.options import image_size_from_text
from edgeseg_bench.latency import Plan, measure_interleaved, paired_ratio, warm_up
from edgeseg_runtime.bundle.files import write_atomic
from edgeseg_runtime.environment import read_environment
from product_share import load_fill, make_model

EAGER, FP32, INT8 = "torch eager", "fp32", "int8"
COMPARISONS = ((FP32, EAGER), (INT8, FP32), (INT8, EAGER))
"""The first one's time is divided by the second one's."""


def main() -> None:
    """Measures one model after another, prints and records."""
    arguments = parse_arguments()
    console = Console()
    torch.set_num_threads(arguments.threads)
    for name in arguments.models:
        record = measure(name, arguments)
        console.print(line_of(record), highlight=False)
        if arguments.out is not None:
            add_record(arguments.out, record)
        gc.collect()


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--size", help="height x width of the network input; the official one")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--out", type=Path, help="JSON file to write or add to")
    return parser.parse_args()


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the ratios of one model, and the samples that they come from."""
    size = image_size_from_text(arguments.size) if arguments.size else None
    model = make_model(name, image_size=size)
    height, width = model.config.image_size
    picture = load_fill().sample_image(7, height, width)
    plan = Plan(
        warmup_runs=2,
        warmup_seconds=0,
        max_warmup_seconds=60,
        min_queries=arguments.rounds,
        min_seconds=0,
        max_seconds=None,
    )
    load_before = os.getloadavg()
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        contenders = {EAGER: edgeseg.torch_predictor(model)}
        for precision in (FP32, INT8):
            folder = edgeseg.export_bundle(
                model,
                Path(scratch) / precision,
                precision=precision,
                calibration=[picture] if precision == INT8 else None,
                images=[picture],
                allow_mismatch=True,  # of int8: the weights are random
                variants=False,
            )
            contenders[precision] = stack.enter_context(
                edgeseg_runtime.load(folder, backend="onnxruntime", threads=arguments.threads)
            )
        num_results = {way: len(predictor(picture)) for way, predictor in contenders.items()}
        calls = {
            way: lambda _round, predictor=predictor: predictor(picture).materialize()
            for way, predictor in contenders.items()
        }
        for call in calls.values():
            warm_up(call, plan)
        latencies = measure_interleaved(calls, plan)
    samples = {way: latency.samples_ns for way, latency in latencies.items()}
    return {
        "model": name,
        "size": f"{height}x{width}",
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "load_average": [load_before, os.getloadavg()],
        "environment": dataclasses.asdict(read_environment()),
        "num_results": num_results,
        "p50_ms": {way: latency.p50_ms for way, latency in latencies.items()},
        "ratios": {
            f"{way} / {other}": dataclasses.asdict(paired_ratio(samples[way], samples[other]))
            for way, other in COMPARISONS
        },
        "samples_ns": samples,
    }


def line_of(record: dict[str, Any]) -> str:
    """Return a record as a line of text."""
    ratios = ", ".join(f"{pair} {ratio['median']:.2f}" for pair, ratio in record["ratios"].items())
    times = ", ".join(f"{way} {ms:.0f} ms" for way, ms in record["p50_ms"].items())
    return f"{record['model']} {record['size']}: {ratios} ({times})"


def add_record(file: Path, record: dict[str, Any]) -> None:
    """Write a record beside those of other models and sizes that a file holds."""
    records = json.loads(file.read_text(encoding="utf-8"))["models"] if file.exists() else []
    key = record["model"], record["size"]
    others = [each for each in records if (each["model"], each["size"]) != key]
    ordered = sorted([*others, record], key=lambda each: (each["model"], each["size"]))
    write_atomic(file, (json.dumps({"models": ordered}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
