"""Measures VPSNet with what it carries from frame to frame beside the same computed again, as the original does.

    python benchmarks/carried_state.py --image-size 384x768 --rounds 8 --out benchmarks/results/vpsnet_carried_state.json

Carried: the graph "main". Again: "seed" on the frame before, then "main". Random weights; both ways see the same frames,
take turns, and give the same numbers, which is checked first.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

import edgeseg
from edgeseg_bench.datasets.clips import NUM_FRAMES, ClipsDataset
from edgeseg_bench.latency import Plan, measure_interleaved, paired_ratio, warm_up
from edgeseg_runtime import Manifest
from edgeseg_runtime.backends import CheckedBackend, State, Tensors, open_backend
from edgeseg_runtime.environment import read_environment
from edgeseg_runtime.files import write_atomic
from edgeseg_runtime.session import run_frame
from edgeseg_runtime.tasks import create_task

CARRIED, AGAIN = "carried", "computed again"


def main() -> None:
    """Exports, checks, measures, prints and records."""
    arguments = parse_arguments()
    height, width = map(int, arguments.image_size.split("x"))
    model = edgeseg.create_model(arguments.model, image_size=(height, width))
    with tempfile.TemporaryDirectory() as scratch:
        frames = clip_of((height, width))
        folder = edgeseg.export_bundle(model, Path(scratch) / "bundle", images=frames[:2])
        del model
        backend = open_backend(
            arguments.engine, folder, Manifest.load(folder).views[0], threads=arguments.threads
        )
        task = create_task(backend.manifest)
        inputs = [task.preprocess(frame)[0] for frame in frames]
        difference = check(backend, inputs)
        record = measure(backend, inputs, arguments.rounds)
        backend.close()
    record |= {
        "model": arguments.model,
        "image_size": [height, width],
        "engine": arguments.engine,
        "threads": arguments.threads,
        "max_difference": difference,
        "load_average": os.getloadavg(),
        "environment": dataclasses.asdict(read_environment()),
    }
    if arguments.out is not None:
        write_atomic(arguments.out, (json.dumps(record, indent=1) + "\n").encode())


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="vpsnet_fusetrack_cityscapes")
    parser.add_argument("--image-size", default="384x768")
    parser.add_argument("--engine", default="onnxruntime")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--out", type=Path, help="samples to write, as .json")
    return parser.parse_args()


def clip_of(size: tuple[int, int]) -> list[np.ndarray]:
    """The frames of a drawn clip, enlarged to the network's input."""
    clip = ClipsDataset("val", limit=NUM_FRAMES)
    return [cv2.resize(sample.image, size[::-1]) for sample in clip]


def check(backend: CheckedBackend, inputs: list[Tensors]) -> float:
    """The largest difference between both ways over the frames of a clip."""
    state, again = backend.open_state(), backend.open_state()
    assert state is not None
    run_frame(backend.manifest, backend, inputs[0], state)
    worst = 0.0
    for before, frame in pairwise(inputs[:4]):
        found = run_frame(backend.manifest, backend, frame, state, frame=1)
        expected = _again(backend, before, frame, again)
        for name, array in found.items():
            worst = max(worst, float(np.abs(array.astype(np.float64) - expected[name]).max()))
    return worst


def measure(backend: CheckedBackend, inputs: list[Tensors], rounds: int) -> dict[str, object]:
    """The times of both ways in turns, and their ratio."""
    state, again = backend.open_state(), backend.open_state()
    assert state is not None
    run_frame(backend.manifest, backend, inputs[0], state)

    def carried(number: int) -> object:
        frame = inputs[(number + 1) % len(inputs)]
        return run_frame(backend.manifest, backend, frame, state, frame=1)

    def computed_again(number: int) -> object:
        before, frame = (inputs[(number + step) % len(inputs)] for step in (0, 1))
        return _again(backend, before, frame, again)

    calls: dict[str, Callable[[int], object]] = {CARRIED: carried, AGAIN: computed_again}
    plan = Plan(
        warmup_runs=1,
        warmup_seconds=0,
        max_warmup_seconds=60,
        min_queries=rounds,
        min_seconds=0,
        max_seconds=None,
    )
    for call in calls.values():
        warm_up(call, plan)
    found = measure_interleaved(calls, plan)
    ratio = paired_ratio(found[CARRIED].samples_ns, found[AGAIN].samples_ns)
    print(
        f"{backend.manifest.name}: {found[CARRIED].p50_ms:.0f} ms instead of "
        f"{found[AGAIN].p50_ms:.0f}, ratio {ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
    )
    return {
        **dataclasses.asdict(ratio),
        "samples_ns": {way: list(latency.samples_ns) for way, latency in found.items()},
    }


def _again(
    backend: CheckedBackend, before: Tensors, frame: Tensors, state: State | None
) -> Tensors:
    """Run the seed on the frame before, and then the frame."""
    seed = backend.manifest.graphs["seed"]
    backend.run({spec.name: before[spec.name] for spec in seed.fed}, "seed", state)
    return run_frame(backend.manifest, backend, frame, state, frame=1)


if __name__ == "__main__":
    main()
