"""Times soft-NMS of many candidates beside the network that gives them.

    python benchmarks/soft_nms.py cornernet_squeeze --out benchmarks/results/soft_nms.json

The candidates are boxes of 80 labels in crowds, so that many lower one another's score. The network runs in ONNX Runtime at
its official size, without what follows it. Time is processor time of one thread, which other programs disturb little.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import edgeseg
import edgeseg_runtime
from edgeseg_runtime.bundle.files import write_atomic
from edgeseg_runtime.environment import read_environment
from edgeseg_runtime.tasks.soft_nms import MODES, soft_nms
from product_share import load_fill, make_model

NUM_LABELS = 80
MAX_DETECTIONS = 100

Floats = npt.NDArray[np.float32]


def main() -> None:
    """Measures, prints and records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=5, help="of the network")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    document: dict[str, Any] = {
        **{name: value for name, value in vars(arguments).items() if name != "out"},
        "load_average": os.getloadavg(),
        "environment": dataclasses.asdict(read_environment()),
        "soft_nms_ms": suppression_ms(arguments.candidates),
        "networks": [],
    }
    for name in arguments.models:
        samples = network_ms(name, runs=arguments.runs)
        network = float(np.median(samples))
        shares = {
            mode: float(np.median(own)) / network for mode, own in document["soft_nms_ms"].items()
        }
        document["networks"].append({"model": name, "samples_ms": samples, "share": shares})
        text = ", ".join(f"{mode} {share:.2%}" for mode, share in shares.items())
        print(
            f"{name}: {network:.0f} ms; soft-NMS of {arguments.candidates} candidates {text} of it"
        )
    if arguments.out is not None:
        write_atomic(arguments.out, (json.dumps(document, indent=1) + "\n").encode())


def suppression_ms(count: int) -> dict[str, list[float]]:
    """Return samples of the time of each mode."""
    boxes, scores, labels = candidates(count)
    return {
        mode: samples_ms(
            partial(soft_nms, boxes, scores, labels, max_detections=MAX_DETECTIONS, mode=mode), 20
        )
        for mode in MODES
    }


def candidates(count: int) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """Return boxes (N, 4), scores (N,) and labels (N,): ten about each of some objects."""
    rng = np.random.default_rng(0)
    of_object = np.arange(count) // 10
    centers = rng.uniform(0, 640, (count // 10 + 1, 2))[of_object] + rng.normal(0, 6, (count, 2))
    halves = rng.uniform(10, 120, (count // 10 + 1, 2))[of_object] * rng.uniform(
        0.8, 1.2, (count, 2)
    )
    boxes = np.concatenate([centers - halves, centers + halves], axis=1).astype(np.float32)
    labels = rng.integers(0, NUM_LABELS, count // 10 + 1)[of_object]
    return boxes, rng.uniform(0.01, 1, count).astype(np.float32), labels


def network_ms(name: str, *, runs: int) -> list[float]:
    """Return samples of the time of a network at its official size."""
    model = make_model(name)
    picture = load_fill().sample_image(7, *model.config.image_size)
    with tempfile.TemporaryDirectory() as scratch:
        folder = edgeseg.export_bundle(
            model, Path(scratch) / name, images=[picture], variants=False, allow_mismatch=True
        )
        with edgeseg_runtime.load(folder, backend="onnxruntime", threads=1) as predictor:
            inputs, _ = predictor.task.preprocess(picture)
            return samples_ms(lambda: predictor.backend.run(inputs), runs)


def samples_ms(call: Callable[[], object], runs: int) -> list[float]:
    """Return the time of each of some calls, after one that does not count."""
    call()
    samples = []
    for _ in range(runs):
        begin_s = time.process_time()
        call()
        samples.append(1e3 * (time.process_time() - begin_s))
    return samples


if __name__ == "__main__":
    main()
