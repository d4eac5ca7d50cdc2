"""Measures what it takes to merge instances and stuff into segments: CPU time of one thread, and memory.

    python benchmarks/panoptic_merge.py --out benchmarks/results/panoptic_merge.json

Scenes are random, of Cityscapes' size and classes unless told otherwise. "full" is the memory that an array with a
channel for each stuff, instance and unknown would take.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgeseg_bench.environment import read_environment
from edgeseg_runtime.files import write_atomic
from edgeseg_runtime.geometry import Geometry
from edgeseg_runtime.merge import (
    Contender,
    labels_from_logits,
    mask_window,
    remove_masks,
    resized_mask,
    semantic_window,
    settle_segments,
    unify,
)

NUM_STUFF, NUM_THINGS = 11, 8
STUFF_AREA = 2048
NUM_RUNS = 9


def main() -> None:
    """Measures, prints and records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", default="1024x2048")
    parser.add_argument("--instances", default="0,30,100")
    parser.add_argument("--out", type=Path, help="samples to write, as .json")
    arguments = parser.parse_args()
    height, width = (int(side) for side in arguments.size.split("x"))
    cv2.setNumThreads(1)
    counts = [int(count) for count in arguments.instances.split(",")]
    records = [measure((height, width), count) for count in counts]
    if arguments.out is not None:
        document = {"environment": dataclasses.asdict(read_environment()), "scenes": records}
        write_atomic(arguments.out, (json.dumps(document, indent=1) + "\n").encode())


def measure(size: tuple[int, int], count: int) -> dict[str, Any]:
    """Measures one scene with so many candidates, prints and returns the figures."""
    rng = np.random.default_rng(count)
    logits = rng.normal(size=(NUM_STUFF + NUM_THINGS, size[0] // 4, size[1] // 4))
    geometry = Geometry.at_top_left(source=size, resized=size, network=size)
    semantic = labels_from_logits(logits.astype(np.float32), geometry)
    stuff_scores = rng.normal(size=size).astype(np.float32)
    thing_scores = stuff_scores - np.float32(0.2)
    corners = rng.uniform(0, 0.8, (count, 2)) * size[::-1]
    ends = np.minimum(corners + rng.uniform(40, 300, (count, 2)), np.array(size[::-1]) - 1)
    boxes = np.concatenate([corners, ends], axis=1).astype(np.float32)
    masks = rng.normal(0.3, 1, (count, 28, 28)).astype(np.float32)
    labels = (NUM_STUFF + rng.integers(0, NUM_THINGS, count)).tolist()
    kept = remove_masks(masks, boxes, labels, size)
    contenders = [contender(thing_scores, masks[n], boxes[n], size) for n in kept]
    merge = partial(
        unify,
        stuff_scores,
        np.minimum(semantic, NUM_STUFF - 1),
        contenders,
        num_stuff=NUM_STUFF,
        thing_scores_HW=thing_scores,
    )
    steps: dict[str, Callable[[], Any]] = {
        "semantic map": lambda: labels_from_logits(logits.astype(np.float32), geometry),
        "removal": lambda: remove_masks(masks, boxes, labels, size),
        "merge": merge,
        "segments": partial(
            settle_segments,
            merge(),
            semantic,
            [labels[number] for number in kept],
            num_stuff=NUM_STUFF,
            stuff_area=STUFF_AREA,
        ),
    }
    samples = {name: [cpu_ns(step) for _ in range(NUM_RUNS)] for name, step in steps.items()}
    peak, full = peak_bytes(merge), 4 * (NUM_STUFF + len(kept) + 1) * size[0] * size[1]
    times = ", ".join(f"{n} {statistics.median(s) / 1e6:.1f} ms" for n, s in samples.items())
    print(
        f"{size[0]}x{size[1]}, {count} candidates, {len(kept)} kept: {times}; "
        f"the merge takes {peak / 1e6:.0f} MB, full {full / 1e6:.0f} MB"
    )
    return {
        "size": size,
        "candidates": count,
        "kept": len(kept),
        "peak_bytes_of_merge": peak,
        "bytes_of_full_form": full,
        "cpu_ns": samples,
    }


def contender(scores: Any, mask: Any, box: Any, size: tuple[int, int]) -> Contender:
    """Returns an instance; its class's logits are the best of all things."""
    window = semantic_window(box, size)
    return Contender(
        window,
        lambda: scores[window],
        mask_window(box, size),
        lambda: resized_mask(mask, box, size),
    )


def cpu_ns(step: Callable[[], Any]) -> int:
    """Returns the CPU time of a step, which other programs do not lengthen much."""
    start = time.process_time_ns()
    step()
    return time.process_time_ns() - start


def peak_bytes(step: Callable[[], Any]) -> int:
    """Returns how much memory a step takes at most, beside what it is given."""
    tracemalloc.start()
    step()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


if __name__ == "__main__":
    main()
