r"""Measures what lower precisions cost in accuracy and gain in time.

    python benchmarks/precision.py --model maskrcnn_tiny --out benchmarks/results/maskrcnn_tiny_int8
    python benchmarks/precision.py --model retinaface_mobilenet025 --checkpoint mobilenet0.25_Final.pth \
        --image-size 640x640 --calibration FOLDER --test FOLDER --precisions fp32,int8,auto

All bundles run in ONNX Runtime. On the shapes data they are calibrated on pictures of the training split and measured on
the validation split. On a folder of photographs without labels results are compared with those of the first precision.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

import edgeseg
import edgeseg_runtime
from edgeseg.cli.options import image_size_from_text
from edgeseg.models import model_manifest
from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.evaluation import dataset_kind
from edgeseg_bench.latency import QUICK, THOROUGH, measure_interleaved, paired_ratio, warm_up
from edgeseg_bench.memory import peak_memory
from edgeseg_bench.pictures import calibration_pictures, first_pictures
from edgeseg_bench.report import render_table, write_report
from edgeseg_bench.runner import run_bench
from edgeseg_export.agreement import agreement_of, records_on
from edgeseg_export.calibration import DEFAULT_METHOD, METHODS
from edgeseg_runtime.bundle.files import write_atomic
from edgeseg_runtime.environment import read_environment
from edgeseg_runtime.predictor import Predictor

SHAPES = "shapes"
CALIBRATED = ("int8", "mixed", "auto")


def main() -> None:
    """Exports, measures, prints and records."""
    arguments = parse_arguments()
    console = Console()
    model = edgeseg.create_model(
        arguments.model,
        weights=arguments.checkpoint or SHAPES,
        image_size=image_size_from_text(arguments.image_size) if arguments.image_size else None,
    )
    calibration = calibration_pictures(arguments.calibration, arguments.num_calibration, model)
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        predictors: dict[str, Predictor[Any]] = {}
        for precision in arguments.precisions.split(","):
            console.print(f"Exporting {precision}")
            folder = edgeseg.export_bundle(
                model,
                Path(scratch) / precision,
                precision=precision,
                calibration=calibration if precision in CALIBRATED else None,
                calibration_method=arguments.calibration_method,
            )
            predictors[precision] = stack.enter_context(
                edgeseg_runtime.load(folder, backend="onnxruntime", threads=arguments.threads)
            )
        console.print("Measuring")
        if arguments.test == SHAPES:
            measure_on_shapes(model, predictors, Path(scratch), len(calibration), arguments)
        else:
            measure_on_folder(predictors, len(calibration), arguments)


def measure_on_shapes(
    model: Any,
    predictors: dict[str, Predictor[Any]],
    folder: Path,
    num_calibration: int,
    arguments: argparse.Namespace,
) -> None:
    """Measure accuracy, agreement and time on labelled pictures, print and record."""
    memory = {
        precision: peak_memory(
            folder / precision, {"backend": "onnxruntime", "threads": arguments.threads}
        ).peak_bytes
        for precision in predictors
    }
    report = run_bench(
        predictors,
        open_dataset(SHAPES, kind=dataset_kind(model_manifest(model)), limit=arguments.limit),
        limit=arguments.limit,
        quick=arguments.quick,
        peak_memory_bytes=memory,
        settings={
            "threads": arguments.threads,
            "calibration": (
                f"{num_calibration} pictures of {arguments.calibration}, {arguments.calibration_method}"
            ),
        },
    )
    Console().print(render_table(report))
    if arguments.out is not None:
        write_report(report, arguments.out.parent, name=arguments.out.name, overwrite=True)


def measure_on_folder(
    predictors: dict[str, Predictor[Any]], num_calibration: int, arguments: argparse.Namespace
) -> None:
    """Compare results on pictures without labels with those of the first precision, print and record."""
    pictures = first_pictures(Path(arguments.test), arguments.limit)
    reference = next(iter(predictors))
    found = {name: records_on(predictor, pictures) for name, predictor in predictors.items()}
    calls = {
        name: lambda number, predictor=predictor: predictor(
            pictures[number % len(pictures)]
        ).materialize()
        for name, predictor in predictors.items()
    }
    plan = QUICK if arguments.quick else THOROUGH
    for call in calls.values():
        warm_up(call, plan)
    samples = {
        name: latency.samples_ns for name, latency in measure_interleaved(calls, plan).items()
    }
    rows = [
        {
            "precision": name,
            "agreement": dict(
                agreement_of(found[reference], found[name], predictor.manifest, pictures).ap
            ),
            "time_over_reference": dataclasses.asdict(
                paired_ratio(samples[name], samples[reference])
            ),
            "share_of_multiply_adds_in_int8": share_in_int8(predictor),
            "lowering": predictor.manifest.parity.get("precision"),
        }
        for name, predictor in predictors.items()
    ]
    print_rows(rows)
    if arguments.out is not None:
        document = {
            "model": arguments.model,
            "num_calibration": num_calibration,
            "calibration_method": arguments.calibration_method,
            "num_pictures": len(pictures),
            "threads": arguments.threads,
            "environment": dataclasses.asdict(read_environment()),
            "precisions": rows,
            "samples_ns": samples,
        }
        text = json.dumps(document, indent=1) + "\n"
        write_atomic(arguments.out.with_suffix(".json"), text.encode())


def share_in_int8(predictor: Predictor[Any]) -> float | None:
    """Return the share of the multiply-adds of a recipe's int8 modules that a search has left in int8."""
    lowered = predictor.manifest.parity.get("precision")
    if lowered is None or "search" not in lowered:
        return None
    return sum(
        row["share_of_multiply_adds"]
        for row in lowered["search"]["modules"]
        if row["precision"] == "int8"
    )


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Print agreement, time and share in int8 of each precision."""
    console = Console()
    for row in rows:
        agreement = ", ".join(f"{kind} {value}" for kind, value in row["agreement"].items())
        share = row["share_of_multiply_adds_in_int8"]
        console.print(
            f"{row['precision']}: agreement {agreement}, time {row['time_over_reference']['median']:.2f}"
            + ("" if share is None else f", {share:.3f} of the multiply-adds in int8"),
            highlight=False,
        )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="maskrcnn_tiny")
    parser.add_argument(
        "--checkpoint", help="file of an official checkpoint; the weights for shapes"
    )
    parser.add_argument("--image-size", help="HEIGHTxWIDTH of the network input; the model's own")
    parser.add_argument("--calibration", default=SHAPES, help="folder, or a data set")
    parser.add_argument("--calibration-method", choices=METHODS, default=DEFAULT_METHOD)
    parser.add_argument("--test", default=SHAPES, help="folder of pictures, or shapes")
    parser.add_argument("--precisions", default="fp32,int8", help="the first one is the reference")
    parser.add_argument("--num-calibration", type=int, default=100)
    parser.add_argument("--limit", type=int, default=200, help="pictures to measure on")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="seconds instead of a minute")
    parser.add_argument("--out", type=Path, help="results to write, as .json (of shapes and .md)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
