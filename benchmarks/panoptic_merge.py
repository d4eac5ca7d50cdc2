"""Measures what it takes to merge instances and stuff into segments: CPU time of one thread, and memory.

    python benchmarks/panoptic_merge.py --out benchmarks/results/panoptic_merge.json

Scenes are random, of Cityscapes' size and classes unless told otherwise. "full" is the memory that an array with a
channel for each stuff, instance and unknown would take. "contest" is all that UPSNet's and VPSNet's map takes from the
outputs of the graphs to a channel for each pixel, with logits of which every class is the best one somewhere near, and of
a street, where each is at its place.
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

from edgeseg_runtime.bundle.files import write_atomic
from edgeseg_runtime.environment import read_environment
from edgeseg_runtime.picture.geometry import Geometry
from edgeseg_runtime.tasks.merge import (
    Contender,
    labels_from_logits,
    mask_window,
    remove_masks,
    resized_mask,
    semantic_window,
    settle_segments,
    unify,
)
from edgeseg_runtime.tasks.pixel_contest import Contenders, hold_contest

NUM_STUFF, NUM_THINGS = 11, 8
NUM_SEEN = 4
SEEN = np.arange(NUM_SEEN)[:, None, None]
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
    shape = NUM_STUFF + NUM_THINGS, size[0] // 4, size[1] // 4
    logits = rng.normal(size=shape).astype(np.float32)
    geometry = Geometry.at_top_left(source=size, resized=size, network=size)
    semantic = labels_from_logits(logits, geometry)
    few = logits.copy()
    few[:NUM_SEEN] += 20 * (np.arange(size[0] // 4)[:, None] * NUM_SEEN // (size[0] // 4) == SEEN)
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
    contenders_given = Contenders(boxes, labels, masks)
    contests = {
        name: partial(hold_contest, given, contenders_given, geometry, num_stuff=NUM_STUFF)
        for name, given in (
            ("contest", logits),
            ("contest, street", street_logits(shape, boxes, labels)),
        )
    }
    steps: dict[str, Callable[[], Any]] = {
        "semantic map": lambda: labels_from_logits(logits, geometry),
        f"semantic map, {NUM_SEEN} classes seen": lambda: labels_from_logits(few, geometry),
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
        **contests,
    }
    samples = {name: [cpu_ns(step) for _ in range(NUM_RUNS)] for name, step in steps.items()}
    peak_of_contest = peak_bytes(contests["contest"])
    peak, full = peak_bytes(merge), 4 * (NUM_STUFF + len(kept) + 1) * size[0] * size[1]
    times = ", ".join(f"{n} {statistics.median(s) / 1e6:.1f} ms" for n, s in samples.items())
    print(
        f"{size[0]}x{size[1]}, {count} candidates, {len(kept)} kept: {times}; "
        f"the merge takes {peak / 1e6:.0f} MB, the contest {peak_of_contest / 1e6:.0f} MB, "
        f"full {full / 1e6:.0f} MB"
    )
    return {
        "size": size,
        "candidates": count,
        "kept": len(kept),
        "peak_bytes_of_merge": peak,
        "peak_bytes_of_contest": peak_of_contest,
        "bytes_of_full_form": full,
        "cpu_ns": samples,
    }


def street_logits(shape: tuple[int, int, int], boxes: Any, labels: list[int]) -> Any:
    """Returns logits (C, h, w) of four stuff classes in bands, with the instances' classes in their boxes."""
    rng = np.random.default_rng(0)
    logits = rng.normal(-5, 1, shape).astype(np.float32)
    bands = np.arange(shape[1]) * NUM_SEEN // shape[1]
    logits[bands, np.arange(shape[1])] += 12
    for (x1, y1, x2, y2), label in zip((boxes / 4).astype(int).tolist(), labels, strict=True):
        logits[label, y1 : y2 + 1, x1 : x2 + 1] += 18
    return logits


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
