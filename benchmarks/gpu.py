"""Measures Mask R-CNN on every engine that a machine with an NVIDIA GPU has, beside ONNX Runtime on its CPU.

    python benchmarks/gpu.py --out benchmarks/results

The small model has its weights for the shapes data, the large one none: its latency depends on shapes alone, its
accuracy says nothing. Engines that are missing are named and left out.
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
from edgeseg.models.reference import ReferenceModel
from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.pictures import calibration_pictures
from edgeseg_bench.report import render_table, write_report
from edgeseg_bench.runner import run_bench
from edgeseg_runtime.errors import BackendUnavailable
from edgeseg_runtime.tensorrt import cuda

ENGINES: dict[str, tuple[str, dict[str, Any]]] = {
    "onnxruntime": ("onnxruntime", {}),
    "onnxruntime_cuda": (
        "onnxruntime",
        {"providers": ["CUDAExecutionProvider", "CPUExecutionProvider"]},
    ),
    "tensorrt": ("tensorrt", {}),
    "tensorrt_rtx": ("tensorrt_rtx", {}),
}
"""Name in the report -> backend, its options. The first is the reference."""
MODELS: dict[str, dict[str, Any]] = {
    "maskrcnn_tiny": {"weights": "shapes"},
    "maskrcnn_resnet50_fpn": {"image_size": (800, 1344), "num_classes": 7},  # as shapes has
}
CALIBRATED = ("int8", "mixed")


def main() -> None:
    """Exports, measures, prints and records; without a GPU it ends in an error."""
    arguments = parse_arguments()
    cuda.probe()
    console = Console()
    for name, options in MODELS.items():
        model = edgeseg.create_model(name, **options)
        for precision in arguments.precisions.split(","):
            with tempfile.TemporaryDirectory() as scratch:
                console.print(f"Exporting {name} in {precision}")
                folder = export(model, Path(scratch) / "bundle", precision)
                measure(folder, f"gpu_{name}_{precision}", arguments, console)


def export(model: ReferenceModel, folder: Path, precision: str) -> Path:
    """Writes a bundle and returns its folder."""
    calibration = calibration_pictures("shapes", 100, model) if precision in CALIBRATED else None
    return edgeseg.export_bundle(
        model,
        folder,
        precision=precision,
        calibration=calibration,
        allow_mismatch=True,  # of untrained weights; the report shows the agreement
    )


def measure(folder: Path, name: str, arguments: argparse.Namespace, console: Console) -> None:
    """Measures a bundle on all engines in turns, and writes NAME.json and NAME.md."""
    with contextlib.ExitStack() as stack:
        predictors = {}
        for engine, (backend, options) in ENGINES.items():
            try:
                predictor = edgeseg_runtime.load(folder, backend=backend, **options)
            except BackendUnavailable as error:
                console.print(f"{engine} is left out: {error}")
                continue
            predictors[engine] = stack.enter_context(predictor)
        report = run_bench(
            predictors, open_dataset("shapes", limit=arguments.limit), quick=arguments.quick
        )
    console.print(render_table(report))
    write_report(report, arguments.out, name=name, overwrite=True)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--precisions", default="fp32,fp16,int8")
    parser.add_argument("--limit", type=int, default=50, help="pictures to measure on")
    parser.add_argument("--quick", action="store_true", help="seconds instead of a minute")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
