"""Runs bundles with no detection, one and as many as they can give, twice in a row each, beside PyTorch.

    python benchmarks/detection_counts.py cornernet_squeeze --size 127x191 --out benchmarks/results/detection_counts.json

The threshold that a bundle is loaded with lets so many of the same picture's detections through. What PyTorch finds from
there on is compared one to one. A file that is there is added to.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import edgeseg
import edgeseg_runtime
from eager_ratio import add_record
from edgeseg.cli.options import image_size_from_text
from edgeseg_runtime.environment import read_environment
from edgeseg_runtime.results import Instances
from product_share import load_fill, make_model
from stages import threshold_for


def main() -> None:
    """Runs one model after another, prints and records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--size", help="height x width of the network input; the official one")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--out", type=Path, help="JSON file to write or add to")
    arguments = parser.parse_args()
    size = image_size_from_text(arguments.size) if arguments.size else None
    for name in arguments.models:
        record = measure(name, size, arguments.backend)
        for count in record["counts"]:
            print(f"{name} {record['size']}: {count}")
        if arguments.out is not None:
            add_record(arguments.out, record)


def measure(name: str, size: tuple[int, int] | None, backend: str) -> dict[str, Any]:
    """Return what a model's bundle finds with each number of detections."""
    model = make_model(name, image_size=size)
    height, width = model.config.image_size
    picture = load_fill().sample_image(7, height, width)
    expected = edgeseg.torch_predictor(model)(picture)
    counts = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = edgeseg.export_bundle(
            model, Path(scratch) / name, images=[picture], variants=False, allow_mismatch=True
        )
        for wanted in (0, 1, len(expected)):
            threshold = threshold_for(wanted, np.sort(expected.scores)[::-1])
            with edgeseg_runtime.load(
                folder, backend=backend, threads=1, score_threshold=threshold
            ) as predictor:
                first, second = predictor(picture), predictor(picture)
            counts.append(
                {
                    "wanted": wanted,
                    "found": [len(first), len(second)],
                    "is_same_twice": is_same(first, second),
                    "max_box_difference": farthest(expected.filter(score=threshold), first),
                    "num_left_out": first.num_left_out,
                }
            )
    return {
        "model": name,
        "size": f"{height}x{width}",
        "backend": backend,
        "environment": dataclasses.asdict(read_environment()),
        "counts": counts,
    }


def is_same(first: Instances, second: Instances) -> bool:
    """Tell whether two results are the same to the bit, surfaces included."""
    pairs = [
        (getattr(first, name), getattr(second, name)) for name in ("boxes", "scores", "labels")
    ]
    for one, other in zip(first.surfaces or (), second.surfaces or (), strict=True):
        if one is not None and other is not None:
            pairs.append((one.iuv(), other.iuv()))
    return all(np.array_equal(one, other) for one, other in pairs)


def farthest(expected: Instances, found: Instances) -> float | None:
    """Return how far a box is at most from the nearest expected one of its label, in pixels; None without boxes."""
    if not len(found):
        return None
    apart: npt.NDArray[np.float32] = np.abs(expected.boxes[:, None] - found.boxes[None]).max(axis=2)
    apart[expected.labels[:, None] != found.labels[None]] = np.inf
    return float(apart.min(axis=0).max()) if len(expected) else float("inf")


if __name__ == "__main__":
    main()
