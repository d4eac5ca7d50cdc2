"""Records panoptic qualities as COCO's own evaluation gives them.

    python record.py PANOPTICAPI

PANOPTICAPI is a checkout of cocodataset/panopticapi, which is run as it is; nothing of edgeseg takes part. Scenes are
random, and with each seed other things go wrong in them: segments are cut, joined, moved, left out, take another
category, or lie on void and crowds.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
SIZE = 48, 64
CATEGORIES = [
    {"id": 1, "name": "cat", "isthing": 1},
    {"id": 3, "name": "dog", "isthing": 1},
    {"id": 4, "name": "cow, never there", "isthing": 1},
    {"id": 90, "name": "sky", "isthing": 0},
    {"id": 200, "name": "ground", "isthing": 0},
]
PRESENT = [1, 3, 90, 200]
CASES = {  # name -> seeds of its pictures, chance of: void, crowd, cut, joined, moved, left out, other category
    "equal": (range(3), (0, 0, 0, 0, 0, 0, 0)),
    "moved": (range(10, 14), (0, 0, 0, 0, 1, 0, 0)),
    "many to one": (range(20, 24), (0, 0, 0.6, 0.4, 0.5, 0, 0)),
    "void": (range(30, 34), (0.4, 0, 0.2, 0, 0.6, 0.2, 0)),
    "crowd": (range(40, 46), (0.1, 0.5, 0.4, 0, 0.5, 0, 0.2)),
    "everything": (range(50, 60), (0.2, 0.2, 0.3, 0.2, 0.5, 0.2, 0.2)),
    "nothing found": (range(60, 62), (0, 0, 0, 0, 0, 1, 0)),
}


def voronoi(rng, count):
    """Return a map of so many regions, some of which may be hidden."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    centres = rng.uniform((0, 0), SIZE, (count, 2))
    distances = [(y - cy) ** 2 + (x - cx) ** 2 for cy, cx in centres]
    return np.argmin(distances, axis=0)


def draw_scene(seed, chances):
    """Return labelled ids and segments, and found ones."""
    rng = np.random.default_rng(seed)
    void, crowd, cut, joined, moved, left_out, other = chances
    regions = voronoi(rng, int(rng.integers(6, 14)))
    numbers = rng.permutation(np.arange(1, 300_000, 7_001))
    truth, truth_segments = np.zeros(SIZE, np.int64), []
    found, found_segments = np.zeros(SIZE, np.int64), []
    halves = voronoi(rng, 9) % 2 == 0
    previous = None
    for number, region in enumerate(np.unique(regions)):
        pixels = regions == region
        category = int(rng.choice(PRESENT))
        if rng.random() >= void:
            truth[pixels] = numbers[number]
            is_crowd = int(category < 90 and rng.random() < crowd)
            truth_segments.append(
                {"id": int(numbers[number]), "category_id": category, "iscrowd": is_crowd}
            )
        if rng.random() < left_out:
            continue
        if rng.random() < moved:
            pixels = np.roll(pixels, rng.integers(-4, 5, 2), axis=(0, 1))
        category = int(rng.choice(PRESENT)) if rng.random() < other else category
        parts = [pixels & halves, pixels & ~halves] if rng.random() < cut else [pixels]
        for part in parts:
            if previous is not None and rng.random() < joined:
                found[part] = previous
                continue
            previous = len(found_segments) * 1_111 + 5
            found[part] = previous
            found_segments.append({"id": previous, "category_id": category})
    return with_areas(truth, truth_segments), with_areas(found, found_segments)


def with_areas(ids, segments):
    """Return the ids, and the segments that have pixels with how many these are."""
    areas = {s["id"]: int((ids == s["id"]).sum()) for s in segments}
    return ids, [{**s, "area": areas[s["id"]]} for s in segments if areas[s["id"]]]


def write(folder, name, pictures):
    """Write ids and segments as COCO does."""
    (folder / name).mkdir()
    annotations = []
    for image_id, (ids, segments) in enumerate(pictures, 1):
        file_name = f"{image_id}.png"
        rgb = np.stack([ids % 256, ids // 256 % 256, ids // 256**2], axis=2).astype(np.uint8)
        Image.fromarray(rgb).save(folder / name / file_name)
        annotations.append(
            {"image_id": image_id, "file_name": file_name, "segments_info": segments}
        )
    content = {"annotations": annotations, "categories": CATEGORIES}
    (folder / f"{name}.json").write_text(json.dumps(content))


def evaluate(original, folder):
    """Run the original evaluation, which counts over all pictures."""
    from panopticapi.evaluation import pq_compute

    return pq_compute(str(folder / "truth.json"), str(folder / "found.json"))


def main():
    """Write scenes.npz and scores.json."""
    original = Path(sys.argv[1])
    sys.path.insert(0, str(original))
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=original, check=True, capture_output=True, text=True
    ).stdout.strip()
    arrays, cases = {}, {}
    for name, (seeds, chances) in CASES.items():
        scenes = [draw_scene(seed, chances) for seed in seeds]
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), "truth", [truth for truth, _ in scenes])
            write(Path(folder), "found", [found for _, found in scenes])
            scores = evaluate(original, Path(folder))
        scores["per_class"] = {str(key): value for key, value in scores["per_class"].items()}
        cases[name] = {
            "truth": [segments for (_, segments), _ in scenes],
            "found": [segments for _, (_, segments) in scenes],
            "scores": scores,
        }
        arrays[f"{name}:truth"] = np.stack([ids for (ids, _), _ in scenes]).astype(np.int32)
        arrays[f"{name}:found"] = np.stack([ids for _, (ids, _) in scenes]).astype(np.int32)
    np.savez_compressed(HERE / "scenes.npz", **arrays)
    content = {
        "source": "https://github.com/cocodataset/panopticapi",
        "commit": commit,
        "categories": CATEGORIES,
        "cases": cases,
    }
    (HERE / "scores.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
