"""Draws the pictures of the documentation: what the small models find in pictures that they have not seen.

    python benchmarks/result_pictures.py --out docs/images

One strip of three for each kind of result. Needs no GPU and no download; takes half a minute on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

import edgeseg
from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.datasets.base import Sample
from edgeseg_bench.evaluation import dataset_kind
from edgeseg_runtime import Predictor

Image = npt.NDArray[np.uint8]

STRIPS = {
    "masks": "maskrcnn_tiny",
    "faces": "retinaface_tiny",
    "landmarks": "landmarks_heatmap_tiny",
    "keypoints": "hourglass_tiny",
}
"""Name of a picture -> the model whose results it shows."""
NUM_PICTURES = 3
NUM_SEEN = 24
"""Pictures of which the most crowded ones are shown; those that are higher than wide are left out."""
SIDE, GAP = 240, 6  # pixels
MIN_SCORE = 0.5
JPEG_QUALITY = 85


def main() -> None:
    """Write all strips."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in STRIPS.items():
        path = folder / f"{name}.jpg"
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        path.write_bytes(cv2.imencode(".jpg", strip_of(model), quality)[1].tobytes())
        print(path)


def strip_of(name: str) -> Image:
    """Return pictures side by side with what a model finds drawn in."""
    predictor = edgeseg.torch_predictor(edgeseg.create_model(name, weights="shapes"))
    dataset = open_dataset("shapes", kind=dataset_kind(predictor.manifest), limit=NUM_SEEN)
    wide = [sample for sample in dataset if sample.width >= sample.height]
    crowded = sorted(wide, key=lambda sample: -len(sample.annotations))[:NUM_PICTURES]
    return side_by_side([drawn(predictor, sample) for sample in crowded])


def drawn(predictor: Predictor[Any], sample: Sample) -> Image:
    """Return a picture with what is found in it; a model of one box at a time is given the labelled ones."""
    image: Image = sample.image
    if not predictor.manifest.looks_at_boxes:
        return predictor(image).filter(score=MIN_SCORE).draw(image)
    boxes = np.array([annotation["bbox"] for annotation in sample.annotations], np.float64)
    boxes[:, 2:] += boxes[:, :2]
    for found in predictor(image, boxes=boxes):
        image = found.draw(image)
    return image


def side_by_side(images: list[Image]) -> Image:
    """Return pictures of one height, `SIDE`, with white gaps."""
    gap = np.full((SIDE, GAP, 3), 255, np.uint8)
    tiles: list[Image] = []
    for image in images:
        width = round(image.shape[1] * SIDE / image.shape[0])
        tile = cv2.resize(image, (width, SIDE), interpolation=cv2.INTER_AREA)
        tiles += [gap, np.asarray(tile, np.uint8)]
    return np.hstack(tiles[1:])


if __name__ == "__main__":
    main()
