"""Pictures of people with labelled surfaces, for the built-in data set: those of `people`, seen by `body_surfaces`.

The annotations are those of DensePose-COCO, beside the key points: dp_x and dp_y of some points, 0..255 inside the box,
and the part dp_I with dp_U and dp_V that each shows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg_bench.datasets import people
from edgeseg_bench.datasets.base import Annotation, Category
from edgeseg_bench.datasets.body_surfaces import SurfacePicture, surface_of_body

DRAWN = "drawn"
"""What a category says of the surface that its points lie on."""
CATEGORIES: tuple[Category, ...] = tuple({**entry, "surface": DRAWN} for entry in people.CATEGORIES)
NUM_POINTS = 100
"""Labelled points of a person; annotators gave about as many."""


def draw(
    rng: np.random.Generator, *, image_id: int
) -> tuple[npt.NDArray[np.uint8], tuple[Annotation, ...]]:
    """Return a picture of people that follows from the generator, and its annotations."""
    scene = people.make_scene(rng)
    image, masks_NHW, areas_N = people.render(scene, rng)
    annotations = people.keypoint_annotations(scene, masks_NHW, areas_N, image_id=image_id)
    first_id = people.first_id(image_id)
    labelled = []
    for annotation in annotations:
        number = annotation["id"] - first_id
        seen = surface_of_body(scene.people[number].body, masks_NHW.shape[1:])
        points = _points(seen, masks_NHW[number], annotation["bbox"], rng)
        labelled.append({**annotation, **points})
    return image, tuple(labelled)


def _points(
    seen: SurfacePicture,
    mask_HW: npt.NDArray[np.bool_],
    bbox: list[float],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Return the labels of some of the pixels that show a part of the person; none if no pixel does."""
    rows, columns = np.nonzero((seen.parts > 0) & mask_HW)
    if len(rows) == 0:
        return {}
    chosen = np.sort(rng.choice(len(rows), min(NUM_POINTS, len(rows)), replace=False))
    rows, columns = rows[chosen], columns[chosen]
    left, top, width, height = bbox
    u, v = (values[rows, columns].astype(np.float64) for values in (seen.u, seen.v))
    return {
        "dp_x": np.round((columns + 0.5 - left) / width * 255, 3).tolist(),
        "dp_y": np.round((rows + 0.5 - top) / height * 255, 3).tolist(),
        "dp_I": seen.parts[rows, columns].tolist(),
        "dp_U": np.round(u, 4).tolist(),
        "dp_V": np.round(v, 4).tolist(),
    }
