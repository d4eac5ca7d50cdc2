"""The built-in data set: labelled pictures of figures, faces, people or landscapes, drawn on demand.

A picture is a pure function of (seed, split, kind, index): it does not depend on the order of access, on
the process or on any global state. A `Scene` says what stands where; `render` turns it into a picture and
the visible mask of every figure; `instance_annotations` describes them the COCO way. `faces`,
`people` and `landscapes` have the same three steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg_bench.datasets import faces, landscapes, people, people_surfaces, shapes_draw
from edgeseg_bench.datasets.base import (
    Annotation,
    Category,
    Sample,
    coco_from_parts,
    coco_from_samples,
    coco_image,
)
from edgeseg_bench.datasets.coco_panoptic import write_coco_panoptic
from edgeseg_bench.datasets.figures import (
    CLASSES,
    NUM_FIGURES,
    Figure,
    inside,
    invent_figure,
    visible_figures,
)
from edgeseg_bench.datasets.segmentation import box_xywh, rle_from_mask
from edgeseg_bench.datasets.setting import SIDES, backdrop_paint, random_colour
from edgeseg_bench.datasets.shapes_draw import Colour, Paint

CATEGORIES: tuple[Category, ...] = tuple(
    {"id": number, "name": name, "supercategory": "shape"} for number, name in enumerate(CLASSES, 1)
)
SPLIT_SIZES = {"train": 20_000, "val": 1_000}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that stands in a picture, before it is drawn.

    Attributes:
        height, width: of the picture in pixels.
        base: mean colour of the backdrop, BGR.
        backdrop: its texture, as a deviation from `base`.
        figures: from the farthest to the nearest; each is visible enough to be annotated.
        num_scribbles: strokes between backdrop and figures that belong to no class.
        gain, blur, noise: see `shapes_draw.photographed`.
    """

    height: int
    width: int
    base: Colour
    backdrop: Paint
    figures: tuple[Figure, ...]
    num_scribbles: int
    gain: float
    blur: float
    noise: float


def make_scene(rng: np.random.Generator) -> Scene:
    """Invent a scene."""
    height, width = (int(side) for side in rng.integers(SIDES[0], SIDES[1] + 1, 2))
    base = random_colour(rng)
    figures: list[Figure] = []
    for _ in range(int(rng.integers(NUM_FIGURES[0], NUM_FIGURES[1] + 1))):
        figures.append(invent_figure(rng, height, width, base, figures))
    return Scene(
        height=height,
        width=width,
        base=base,
        backdrop=backdrop_paint(rng),
        figures=visible_figures(figures, height, width),
        num_scribbles=int(rng.integers(4, 19)),
        gain=float(rng.uniform(0.65, 1.15)),
        blur=float(rng.uniform(0.4, 1.2)) if rng.random() < 0.4 else 0.0,
        noise=float(rng.uniform(1, 12)),
    )


def render(
    scene: Scene, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Draw a scene.

    Returns:
        image: (H, W, 3) uint8, BGR.
        masks: (N, H, W) bool, the visible pixels of each figure; they do not overlap.
    """
    height, width = scene.height, scene.width
    canvas_HW3 = shapes_draw.background(
        scene.base, scene.backdrop, height=height, width=width, rng=rng
    )
    for _ in range(scene.num_scribbles):
        shapes_draw.scribble(canvas_HW3, rng)
    for figure in scene.figures:
        shapes_draw.blend(canvas_HW3, figure.silhouette, figure.paint, rng)
    image = shapes_draw.photographed(
        canvas_HW3, gain=scene.gain, blur=scene.blur, noise=scene.noise, rng=rng
    )
    masks_NHW = np.zeros((len(scene.figures), height, width), dtype=np.bool_)
    for number, figure in enumerate(scene.figures):
        rows, columns, inside_hw = inside(figure.silhouette, height, width)
        masks_NHW[:number, rows, columns] &= ~inside_hw
        masks_NHW[number, rows, columns] = inside_hw
    return image, masks_NHW


def instance_annotations(
    scene: Scene, masks_NHW: npt.NDArray[np.bool_], *, image_id: int
) -> tuple[Annotation, ...]:
    """Return one COCO annotation per figure: the box and RLE mask of what is visible of it."""
    first_id = image_id * (NUM_FIGURES[1] + 1) + 1
    return tuple(
        {
            "id": first_id + number,
            "image_id": image_id,
            "category_id": figure.category_id,
            "bbox": box_xywh(mask_HW),
            "area": int(mask_HW.sum()),
            "iscrowd": 0,
            "segmentation": rle_from_mask(mask_HW),
        }
        for number, (figure, mask_HW) in enumerate(zip(scene.figures, masks_NHW, strict=True))
    )


def draw(
    rng: np.random.Generator, *, image_id: int
) -> tuple[npt.NDArray[np.uint8], tuple[Annotation, ...]]:
    """Return a picture of geometric figures that follows from the generator, and its annotations."""
    scene = make_scene(rng)
    image, masks_NHW = render(scene, rng)
    return image, instance_annotations(scene, masks_NHW, image_id=image_id)


Draw: TypeAlias = Callable[..., tuple[npt.NDArray[np.uint8], tuple[Annotation, ...]]]

# What can be drawn: name, categories, draw(generator, image_id=...). Their order is part of the seeds.
KINDS: Mapping[str, tuple[tuple[Category, ...], Draw]] = {
    "instances": (CATEGORIES, draw),
    "faces": (faces.CATEGORIES, faces.draw),
    "person_keypoints": (people.CATEGORIES, people.draw),
    "panoptic": (landscapes.CATEGORIES, landscapes.draw),
    "densepose": (people_surfaces.CATEGORIES, people_surfaces.draw),
}


class ShapesDataset:
    """The pictures of one split.

    Args:
        split: "train" or "val"; no picture is in both.
        kind: what is drawn, a key of KINDS: "instances" are geometric figures with masks.
        limit: use only the first pictures; None = all.
        seed: another seed is another, disjoint data set.

    Raises:
        ValueError: there is no such split or kind, or the limit is not positive.
    """

    def __init__(
        self,
        split: str = "val",
        *,
        kind: str = "instances",
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        if split not in SPLIT_SIZES:
            raise ValueError(
                f"Data set shapes has no split {split!r}: choose from {list(SPLIT_SIZES)}."
            )
        if kind not in KINDS:
            raise ValueError(f"Data set shapes has no kind {kind!r}: choose from {list(KINDS)}.")
        if limit is not None and limit < 1:
            raise ValueError(
                f"limit is {limit}: give the number of pictures, at least 1, or None for all."
            )
        self.split = split
        self.kind = kind
        self.seed = seed
        self._length = min(limit or SPLIT_SIZES[split], SPLIT_SIZES[split])
        self._split_number = list(SPLIT_SIZES).index(split)

    @property
    def name(self) -> str:
        """What reports call it."""
        suffix = "" if self.kind == "instances" else f":{self.kind}"
        return f"shapes:{self.split}{suffix}"

    @property
    def categories(self) -> tuple[Category, ...]:
        """COCO categories; the ids count from 1."""
        return KINDS[self.kind][0]

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        if not -self._length <= index < self._length:
            raise IndexError(f"Picture {index} of {self._length}.")
        index %= self._length
        # numpy takes missing numbers of a seed for 0: instances are what they were before other kinds.
        kind_number = list(KINDS).index(self.kind)
        rng = np.random.default_rng((self.seed, self._split_number, index, kind_number))
        image_id = index + 1
        image, annotations = KINDS[self.kind][1](rng, image_id=image_id)
        return Sample(
            image=image,
            image_id=image_id,
            file_name=f"{image_id:06d}.png",
            annotations=annotations,
        )

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(self._length))

    def coco(self) -> dict[str, Any]:
        """Return the ground truth as a COCO data set; draws every picture."""
        return coco_from_samples(self, self.categories)


def write_coco(dataset: ShapesDataset, folder: str | Path) -> Path:
    """Write the pictures and their annotations in the standard COCO layout.

    The files are `FOLDER/SPLIT/000001.png` ... and `FOLDER/annotations/KIND_SPLIT.json`; the data
    set `coco:FOLDER:SPLIT` of the same kind reads them back.

    Returns:
        The folder.

    Raises:
        OSError: a file cannot be written.
    """
    if dataset.kind == "panoptic":
        return write_coco_panoptic(dataset, folder, split=dataset.split)
    folder = Path(folder)
    pictures = folder / dataset.split
    pictures.mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[Annotation] = []
    for sample in dataset:
        _, png = cv2.imencode(".png", sample.image)
        (pictures / sample.file_name).write_bytes(png.tobytes())
        images.append(coco_image(sample))
        annotations.extend(sample.annotations)
    coco = coco_from_parts(images, annotations, dataset.categories)
    target = folder / "annotations" / f"{dataset.kind}_{dataset.split}.json"
    target.write_text(json.dumps(coco), encoding="utf-8")
    return folder
