"""Measures small models of one task beside one another: what accuracy costs in time.

    python benchmarks/side_by_side.py landmarks_regression_tiny landmarks_heatmap_tiny --out benchmarks/results/landmarks_tradeoff

All run in ONNX Runtime, in turns on the same pictures of the shapes data. Times are relative to the first one's. A model
may come with fields of its configuration: cornernet_tiny+mirror_test=false.
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
from edgeseg.cli.options import settings_from_text
from edgeseg.models import get_spec, model_manifest
from edgeseg.models.reference import ReferenceModel
from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.evaluation import dataset_kind
from edgeseg_bench.report import render_table, write_report
from edgeseg_bench.runner import run_bench


def main() -> None:
    """Exports, measures, prints and records."""
    arguments = parse_arguments()
    console = Console()
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        predictors: dict[str, Any] = {}
        models = [make_model(name) for name in arguments.models]
        for name, model in zip(arguments.models, models, strict=True):
            folder = edgeseg.export_bundle(model, Path(scratch) / name)
            predictors[name] = stack.enter_context(
                edgeseg_runtime.load(folder, backend="onnxruntime", threads=arguments.threads)
            )
        report = run_bench(
            predictors,
            open_dataset(
                "shapes", kind=dataset_kind(model_manifest(models[0])), limit=arguments.limit
            ),
            limit=arguments.limit,
            quick=arguments.quick,
            settings={"threads": arguments.threads},
        )
    console.print(render_table(report))
    if arguments.out is not None:
        write_report(report, arguments.out.parent, name=arguments.out.name, overwrite=True)


def make_model(text: str) -> ReferenceModel:
    """Return a model with the weights for the shapes data, of NAME or NAME+FIELD=VALUE+FIELD=VALUE."""
    name, *settings = text.split("+")
    config = settings_from_text(get_spec(name), settings)
    return edgeseg.create_model(name, weights="shapes", **config)


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", help="small models that see the same pictures")
    parser.add_argument("--limit", type=int, default=200, help="pictures to measure on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="seconds instead of a minute")
    parser.add_argument("--out", type=Path, help="results to write, as .json and .md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
