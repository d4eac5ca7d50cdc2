"""Measures how well identities stay with their objects on the drawn clips, with a small model and without one.

    python benchmarks/tracking.py --out benchmarks/results/tracking.json

Needs the library trackers, which also computes the scores.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import edgeseg
import edgeseg_runtime
from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.datasets.base import Sample
from edgeseg_bench.datasets.clips import NUM_FRAMES
from edgeseg_bench.metrics.tracks import track_scores
from edgeseg_runtime import ByteTracker, Instances
from edgeseg_runtime.bundle.files import write_atomic
from edgeseg_runtime.environment import read_environment

MODEL = "maskrcnn_tiny"
FRAMES_PER_SECOND = 10
"""Of the clips: figures move by many pixels from frame to frame."""


def main() -> None:
    """Measures, prints and records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--out", type=Path, help="file to write, as .json")
    arguments = parser.parse_args()
    samples = list(
        open_dataset("shapes", kind="instance_clips", limit=arguments.clips * NUM_FRAMES)
    )
    with tempfile.TemporaryDirectory() as scratch:
        model = edgeseg.create_model(MODEL, weights="shapes")
        folder = edgeseg.export_bundle(model, Path(scratch) / "bundle", num_images=1)
        with edgeseg_runtime.load(folder, threads=1) as predictor:
            found = {
                "labelled boxes": scores_of(samples, labelled),
                MODEL: scores_of(samples, lambda sample: predictor(sample.image)),
            }
    for name, ways in found.items():
        for way, scores in ways.items():
            print(name, way, ", ".join(f"{k} {v:.3f}" for k, v in scores.items()))
    if arguments.out is not None:
        document = {
            "environment": dataclasses.asdict(read_environment()),
            "num_clips": arguments.clips,
            "frames_per_clip": NUM_FRAMES,
            "scores": found,
        }
        write_atomic(arguments.out, (json.dumps(document, indent=1) + "\n").encode())


def scores_of(
    samples: list[Sample], find: Callable[[Sample], Instances]
) -> dict[str, dict[str, float]]:
    """Returns the scores of ByteTrack, and of identities that are the rows of each frame."""
    truth = [
        {e["track_id"] + 1000 * (number // NUM_FRAMES): e["bbox"] for e in sample.annotations}
        for number, sample in enumerate(samples)
    ]
    frames = [find(sample) for sample in samples]
    sure = [found.filter(score=0.5) for found in frames]
    rows = [
        one.replace(track_ids=np.arange(len(one)) + 1000 * (n // NUM_FRAMES))
        for n, one in enumerate(sure)
    ]
    tracked = [one.filter(score=0.5) for one in followed(frames)]
    return {"ByteTrack": track_scores(truth, tracked), "rows": track_scores(truth, rows)}


def followed(frames: list[Instances]) -> Iterator[Instances]:
    """Yields the frames with identities, those of each clip its own."""
    tracker = ByteTracker(frames_per_second=FRAMES_PER_SECOND)
    for first in range(0, len(frames), NUM_FRAMES):
        tracker.reset()
        for found in frames[first : first + NUM_FRAMES]:
            yield tracker.update(found)


def labelled(sample: Sample) -> Instances:
    """Returns the labels of a frame as detections without a doubt, in an order that says nothing."""
    entries = sample.annotations
    order = np.random.default_rng(sample.image_id).permutation(len(entries))
    xywh = np.array([entries[row]["bbox"] for row in order], np.float64).reshape(-1, 4)
    boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    size = (sample.height, sample.width)
    return Instances(boxes, np.full(len(boxes), 0.99), np.ones(len(boxes), int), image_size=size)


if __name__ == "__main__":
    main()
