"""Measures what a stage that runs once per detection saves over one graph, by the number of detections.

    python benchmarks/stages.py --size 800x1344 --threads 2 --out benchmarks/results/maskrcnn_stages

Both bundles hold the same model. Their score threshold is set so that exactly so many detections are above it. They
run in turns on the same picture, and must find the same.
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
from edgeseg_bench.latency import Plan, Ratio, measure_interleaved, paired_ratio, warm_up
from edgeseg_bench.results import StageLatency
from edgeseg_bench.runner import StagedCall
from edgeseg_runtime.environment import read_environment
from maskrcnn_profile import make_model, make_picture

Picture = npt.NDArray[np.uint8]

FORMS = ("one graph", "stages")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was measured with one engine and number of detections.

    Attributes:
        backend: the engine.
        num_detections: above the threshold.
        num_mask_pixels: that differ between both forms.
        max_box_difference: between both forms, in pixels.
        model: time of the stages over that of one graph, without pre- and postprocessing.
        end_to_end: the same from the picture to pasted masks.
        samples_ns: end to end, by form.
    """

    backend: str
    num_detections: int
    num_mask_pixels: int
    max_box_difference: float
    model: Ratio
    end_to_end: Ratio
    samples_ns: dict[str, tuple[int, ...]]


def main() -> None:
    """Exports, measures, prints and records."""
    arguments = parse_arguments()
    console = Console()
    picture = make_picture()
    counts = [int(count) for count in arguments.detections.split(",")]
    with tempfile.TemporaryDirectory() as scratch:
        with console.status("Exporting"):
            folders = export_both(arguments, picture, Path(scratch))
        rows: list[Row] = []
        for backend in arguments.backends.split(","):
            for count in counts:
                with console.status(f"{backend}, {count} detections"):
                    rows.append(measure(folders, picture, backend, count, arguments))
    lines = markdown(arguments, rows)
    console.print("\n".join(lines))
    if arguments.out is not None:
        record = {
            **{key: value for key, value in vars(arguments).items() if key != "out"},
            "load_average": os.getloadavg(),
            "environment": dataclasses.asdict(read_environment()),
            "rows": [dataclasses.asdict(row) for row in rows],
        }
        text = json.dumps(record, indent=1) + "\n"
        arguments.out.with_suffix(".json").write_text(text, encoding="utf-8")
        arguments.out.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="maskrcnn_resnet50_fpn")
    parser.add_argument("--size", default="800x1344", help="height x width of the network input")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=16, help="pairs of runs")
    parser.add_argument("--detections", default="0,3,10,30,100")
    parser.add_argument("--backends", default="onnxruntime,openvino")
    parser.add_argument("--out", type=Path, help="results to write, as .json and .md")
    return parser.parse_args()


def export_both(arguments: argparse.Namespace, picture: Picture, scratch: Path) -> dict[str, Path]:
    """Return the bundles of both forms."""
    model = make_model(arguments.model, arguments.size)
    return {
        form: edgeseg.export_bundle(
            model,
            scratch / form.replace(" ", "_"),
            images=[picture],
            stages=form == "stages",
            variants=False,
        )
        for form in FORMS
    }


def measure(
    folders: dict[str, Path],
    picture: Picture,
    backend: str,
    count: int,
    arguments: argparse.Namespace,
) -> Row:
    """Return the ratios for one number of detections.

    Raises:
        SystemExit: if the picture does not give so many.
    """
    plan = Plan(
        warmup_runs=2,
        warmup_seconds=0,
        max_warmup_seconds=30,
        min_queries=arguments.rounds,
        min_seconds=0,
        max_seconds=None,
    )
    with contextlib.ExitStack() as stack:
        options: dict[str, Any] = {"backend": backend, "threads": arguments.threads}
        with edgeseg_runtime.load(folders["stages"], **options) as whole:
            threshold = threshold_for(count, whole(picture).scores)
        predictors = {
            form: stack.enter_context(
                edgeseg_runtime.load(folder, score_threshold=threshold, **options)
            )
            for form, folder in folders.items()
        }
        one, staged = (predictors[form](picture) for form in FORMS)
        if not len(one) == len(staged) == count:
            raise SystemExit(f"{len(one)} and {len(staged)} detections found, expected {count}")
        calls = {
            form: StagedCall(p, [picture], time.perf_counter_ns) for form, p in predictors.items()
        }
        for call in calls.values():
            warm_up(call, plan)
            call.queries.clear()
        measure_interleaved(calls, plan)
    latencies = {form: call.latency() for form, call in calls.items()}
    return Row(
        backend=backend,
        num_detections=count,
        num_mask_pixels=int((one.masks != staged.masks).sum()),
        max_box_difference=float(np.abs(one.boxes - staged.boxes).max(initial=0)),
        model=_ratio(latencies, "model"),
        end_to_end=_ratio(latencies, "end_to_end"),
        samples_ns={form: found.end_to_end.samples_ns for form, found in latencies.items()},
    )


def threshold_for(count: int, scores: npt.NDArray[np.float32]) -> float:
    """Return a threshold that so many of the falling scores are above."""
    if count >= len(scores):
        return 0.0
    if count == 0:
        return 1.0
    return float(scores[count - 1] + scores[count]) / 2


def markdown(arguments: argparse.Namespace, rows: Sequence[Row]) -> list[str]:
    """Return the table."""
    lines = [
        f"# {arguments.model} at {arguments.size}: stages over one graph",
        "",
        f"{arguments.threads} threads, {arguments.rounds} rounds; the interval is that of the median.",
        "",
        "| engine | detections | model time | picture to masks | mask pixels that differ |",
        "| --- | --- | --- | --- | --- |",
    ]
    return lines + [
        f"| {row.backend} | {row.num_detections} | {row.model.text(3)} | {row.end_to_end.text(3)} | "
        f"{row.num_mask_pixels} |"
        for row in rows
    ]


def _ratio(latencies: dict[str, StageLatency], part: str) -> Ratio:
    one, staged = (getattr(latencies[form], part) for form in FORMS)
    return paired_ratio(staged.samples_ns, one.samples_ns)


if __name__ == "__main__":
    main()
