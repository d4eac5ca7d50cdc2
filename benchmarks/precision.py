"""Measures what lower precisions cost in accuracy and gain in time, for a model with weights for the shapes data.

    python benchmarks/precision.py --model maskrcnn_tiny --out benchmarks/results/maskrcnn_tiny_int8

All bundles run in ONNX Runtime. They are calibrated on pictures of the training split and measured on the validation
split.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

import edgeseg
import edgeseg_runtime
from edgeseg.models import model_manifest
from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.evaluation import dataset_kind
from edgeseg_bench.memory import peak_memory
from edgeseg_bench.pictures import calibration_pictures
from edgeseg_bench.report import render_table, write_report
from edgeseg_bench.runner import run_bench

CALIBRATED = ("int8", "mixed")


def main() -> None:
    """Exports, measures, prints and records."""
    arguments = parse_arguments()
    console = Console()
    model = edgeseg.create_model(arguments.model, weights="shapes")
    calibration = calibration_pictures("shapes", arguments.num_calibration, model)
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        predictors: dict[str, Any] = {}
        memory: dict[str, int] = {}
        for precision in arguments.precisions.split(","):
            console.print(f"Exporting {precision}")
            folder = edgeseg.export_bundle(
                model,
                Path(scratch) / precision,
                precision=precision,
                calibration=calibration if precision in CALIBRATED else None,
            )
            predictors[precision] = stack.enter_context(
                edgeseg_runtime.load(folder, backend="onnxruntime", threads=arguments.threads)
            )
            memory[precision] = peak_memory(
                folder, {"backend": "onnxruntime", "threads": arguments.threads}
            ).peak_bytes
        console.print("Measuring")
        report = run_bench(
            predictors,
            open_dataset("shapes", kind=dataset_kind(model_manifest(model)), limit=arguments.limit),
            limit=arguments.limit,
            quick=arguments.quick,
            peak_memory_bytes=memory,
            settings={
                "threads": arguments.threads,
                "calibration": f"{len(calibration)} pictures of shapes train, minmax",
            },
        )
    console.print(render_table(report))
    if arguments.out is not None:
        write_report(report, arguments.out.parent, name=arguments.out.name, overwrite=True)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="maskrcnn_tiny")
    parser.add_argument("--precisions", default="fp32,int8", help="the first one is the reference")
    parser.add_argument("--num-calibration", type=int, default=100)
    parser.add_argument("--limit", type=int, default=200, help="pictures to measure on")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="seconds instead of a minute")
    parser.add_argument("--out", type=Path, help="results to write, as .json and .md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
