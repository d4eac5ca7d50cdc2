"""Measures what convolutions in Winograd's form save whole models, and what they cost when a bundle is loaded.

    python benchmarks/winograd_models.py maskrcnn_resnet50_fpn:800x1344 yolact_resnet50_fpn retinaface_tiny \
        --threads 2 --bundles bundles --out benchmarks/results/winograd_models

The same bundle is loaded twice, with `winograd="auto"` and "off". Both run in turns on the same picture, and must find the same. The
weights are random, scaled so that a picture has many results; those of the tiny models are the ones in the package.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

import edgeseg
import edgeseg_runtime
from edgeseg.models import get_spec
from edgeseg_bench.latency import Plan, Ratio, measure_interleaved, paired_ratio, warm_up
from edgeseg_bench.memory import peak_memory
from edgeseg_bench.runner import StagedCall
from edgeseg_runtime.bundle.files import write_atomic
from edgeseg_runtime.environment import read_environment
from maskrcnn_profile import make_model as make_maskrcnn
from maskrcnn_profile import make_picture
from product_share import load_fill, make_model

Picture = npt.NDArray[np.uint8]

FORMS = ("off", "auto")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was measured of one model with one engine.

    Attributes:
        model: its name.
        size: height x width of the network's input.
        backend: the engine.
        num_rewritten: convolutions in Winograd's form.
        num_results: on the picture.
        max_score_difference: between both forms, of results in their order.
        max_box_difference: the same in pixels of the picture; None for results without boxes.
        time: of the graphs, over that of the plain form.
        end_to_end: the same from the picture to pasted masks.
        load_s: time to load the bundle, by form.
        peak_bytes: most memory of a process that loads the bundle and runs it, by form.
        samples_ns: of the graphs, by form.
    """

    model: str
    size: str
    backend: str
    num_rewritten: int
    num_results: int
    max_score_difference: float
    max_box_difference: float | None
    time: Ratio
    end_to_end: Ratio
    load_s: dict[str, float]
    peak_bytes: dict[str, int]
    samples_ns: dict[str, tuple[int, ...]]


def main() -> None:
    """Exports, measures, prints and records."""
    arguments = parse_arguments()
    console = Console()
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        bundles = arguments.bundles
        if bundles is None:
            bundles = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for text in arguments.models:
            name, _, size = text.partition(":")
            with console.status(f"{name}: exporting"):
                picture, folder = export(name, size, bundles)
            for backend in arguments.backends.split(","):
                with console.status(f"{name}: {backend}"):
                    rows.append(measure(name, folder, picture, backend, arguments))
                console.print(markdown_row(rows[-1]))
    if arguments.out is not None:
        lines = [*HEADING, *map(markdown_row, rows)]
        record = {
            **{
                key: value
                for key, value in vars(arguments).items()
                if key not in {"out", "bundles"}
            },
            "load_average": os.getloadavg(),
            "environment": dataclasses.asdict(read_environment()),
            "rows": [dataclasses.asdict(row) for row in rows],
        }
        text = json.dumps(record, indent=1) + "\n"
        write_atomic(arguments.out.with_suffix(".json"), text.encode())
        write_atomic(arguments.out.with_suffix(".md"), ("\n".join(lines) + "\n").encode())


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", metavar="NAME[:HEIGHTxWIDTH]")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--backends", default="onnxruntime")
    parser.add_argument("--rounds", type=int, default=16, help="pairs of runs, at least")
    parser.add_argument("--seconds", type=float, default=5.0, help="at least, for each model")
    parser.add_argument(
        "--bundles", type=Path, help="folder of bundles that stay, and are used again"
    )
    parser.add_argument("--out", type=Path, help="results to write, as .json and .md")
    return parser.parse_args()


def export(name: str, size: str, bundles: Path) -> tuple[Picture, Path]:
    """Return a picture and the bundle of a model, which is exported unless it is there."""
    folder = bundles / f"{name}{'-' if size else ''}{size}"
    is_maskrcnn = get_spec(name).family == "maskrcnn" and "tiny" not in name
    if is_maskrcnn:
        picture = make_picture()
    else:
        picture = np.asarray(load_fill().sample_image(7, 480, 640))
    if folder.exists():
        return picture, folder
    if "tiny" in name:
        model = edgeseg.create_model(name, weights="shapes")
    elif is_maskrcnn:
        model = make_maskrcnn(name, size)
    else:
        height, width = size.split("x") if size else ("", "")
        model = make_model(name, image_size=(int(height), int(width)) if size else None)
    edgeseg.export_bundle(model, folder, images=[picture], variants=False, allow_mismatch=True)
    return picture, folder


def measure(
    name: str, folder: Path, picture: Picture, backend: str, arguments: argparse.Namespace
) -> Row:
    """Return what was measured of a bundle with one engine."""
    options = {form: options_of(form, backend, arguments.threads) for form in FORMS}
    plan = Plan(
        warmup_runs=2,
        warmup_seconds=0,
        max_warmup_seconds=30,
        min_queries=arguments.rounds,
        min_seconds=arguments.seconds,
        max_seconds=None,
    )
    with contextlib.ExitStack() as stack:
        predictors, load_s = {}, {}
        for form in FORMS:
            before = time.perf_counter()
            predictors[form] = stack.enter_context(edgeseg_runtime.load(folder, **options[form]))
            load_s[form] = time.perf_counter() - before
        manifest = predictors["auto"].manifest
        plain, rewritten = (predictors[form](picture) for form in FORMS)
        calls = {
            form: StagedCall(p, [picture], time.perf_counter_ns) for form, p in predictors.items()
        }
        for call in calls.values():
            warm_up(call, plan)
            call.queries.clear()
        measure_interleaved(calls, plan)
        num_rewritten = predictors["auto"].backend.describe()["num_winograd"]
    latencies = {form: call.latency() for form, call in calls.items()}
    if len(plain) != len(rewritten):
        raise SystemExit(f"{name}: {len(plain)} results, and {len(rewritten)} in the other form")
    samples = {form: latency.model.samples_ns for form, latency in latencies.items()}
    whole = {form: latency.end_to_end.samples_ns for form, latency in latencies.items()}
    return Row(
        model=name,
        size=f"{manifest.preprocess.height}x{manifest.preprocess.width}",
        backend=backend,
        num_rewritten=num_rewritten,
        num_results=len(plain),
        max_score_difference=largest_difference(plain, rewritten, "scores") or 0.0,
        max_box_difference=largest_difference(plain, rewritten, "boxes"),
        time=paired_ratio(samples["auto"], samples["off"]),
        end_to_end=paired_ratio(whole["auto"], whole["off"]),
        load_s=load_s,
        peak_bytes={
            form: peak_memory(folder, options[form], num_runs=2).peak_bytes for form in FORMS
        },
        samples_ns=samples,
    )


def options_of(form: str, backend: str, threads: int) -> dict[str, Any]:
    """Return how a bundle is loaded."""
    return {"backend": backend, "threads": threads, "winograd": form}


def largest_difference(one: Any, other: Any, name: str) -> float | None:
    """Return the largest difference of an array of two results; None if they have none."""
    first, second = getattr(one, name, None), getattr(other, name, None)
    if first is None or second is None:
        return None
    return float(np.abs(np.asarray(first) - np.asarray(second)).max(initial=0))


COLUMNS = (
    "model",
    "size",
    "engine",
    "rewritten",
    "time",
    "picture to result",
    "results",
    "scores differ by",
    "boxes by",
    "load s, off and auto",
    "peak MB, off and auto",
)
HEADING = (f"| {' | '.join(COLUMNS)} |", "|" + " --- |" * len(COLUMNS))


def markdown_row(row: Row) -> str:
    """Return a line of the table."""
    boxes = "-" if row.max_box_difference is None else f"{row.max_box_difference:.1e}"
    cells: Sequence[object] = (
        row.model,
        row.size,
        row.backend,
        row.num_rewritten,
        row.time.text(3),
        row.end_to_end.text(3),
        row.num_results,
        f"{row.max_score_difference:.1e}",
        boxes,
        " and ".join(f"{row.load_s[form]:.1f}" for form in FORMS),
        " and ".join(f"{row.peak_bytes[form] / 1e6:.0f}" for form in FORMS),
    )
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
