"""Pictures of articulated people with key points and masks, for the built-in data set.

A `Scene` says who stands where; `render` turns it into a picture and the visible mask of every person;
`keypoint_annotations` describes them the COCO way, with the 16 joints of MPII.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgeseg_bench.datasets import bodies, people_draw, shapes_draw
from edgeseg_bench.datasets.base import Annotation, Category
from edgeseg_bench.datasets.bodies import Body, Float
from edgeseg_bench.datasets.faces import HAIRS, SKINS
from edgeseg_bench.datasets.people_draw import Outfit
from edgeseg_bench.datasets.segmentation import box_xywh, rle_from_mask
from edgeseg_bench.datasets.setting import (
    Setting,
    draw_backdrop,
    invent_setting,
    photograph,
    random_colour,
    varied_colour,
)
from edgeseg_bench.datasets.shapes_draw import Paint, Silhouette

CATEGORIES: tuple[Category, ...] = (
    {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(bodies.JOINTS),
        "skeleton": [list(pair) for pair in bodies.SKELETON],
    },
)

NUM_PEOPLE = (1, 4)
SCALES = (60.0, 260.0)  # pixels per body height
MIN_INSIDE_JOINTS = 9  # of a person whom the border of the picture cuts off
CUT_OFF_SHARE = 0.2  # of the people
MIN_VISIBLE_SHARE = 0.2  # of the person's own area
NOT_LABELLED, HIDDEN, VISIBLE = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Person:
    """One person: pose and place, and clothes."""

    body: Body
    outfit: Outfit


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that is in a picture, before it is drawn.

    Attributes:
        setting: size, backdrop and camera.
        decoys: figures behind the people.
        people: from the farthest to the nearest.
        obstacles: figures in front of the people.
    """

    setting: Setting
    decoys: tuple[tuple[Silhouette, Paint], ...]
    people: tuple[Person, ...]
    obstacles: tuple[tuple[Silhouette, Paint], ...]


def make_scene(rng: np.random.Generator) -> Scene:
    """Invent a scene."""
    setting = invent_setting(rng)
    number = int(rng.integers(NUM_PEOPLE[0], NUM_PEOPLE[1] + 1))
    scales = np.sort(SCALES[0] * (SCALES[1] / SCALES[0]) ** rng.random(number))
    people: list[Person] = []
    for scale in scales:
        people.append(_invent_person(rng, setting, float(scale), people))
    num_obstacles = int(rng.integers(1, 3)) if rng.random() < 0.4 else 0
    return Scene(
        setting=setting,
        decoys=tuple(_invent_figure(rng, setting) for _ in range(int(rng.integers(0, 5)))),
        people=tuple(people),
        obstacles=tuple(_invent_figure(rng, setting) for _ in range(num_obstacles)),
    )


def render(
    scene: Scene, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Draw a scene.

    Returns:
        image: (H, W, 3) uint8, BGR.
        masks: (N, H, W) bool, the visible pixels of each person; they do not overlap.
        areas: (N,) pixels of each person, hidden ones included.
    """
    height, width = scene.setting.height, scene.setting.width
    canvas_HW3 = draw_backdrop(scene.setting, rng)
    for silhouette, paint in scene.decoys:
        shapes_draw.blend(canvas_HW3, silhouette, paint, rng)
    masks_NHW = np.zeros((len(scene.people), height, width), dtype=np.bool_)
    areas_N = np.zeros(len(scene.people), dtype=np.int64)
    for number, person in enumerate(scene.people):
        rows, columns, cover_hw = people_draw.draw_person(canvas_HW3, person.body, person.outfit)
        inside_hw = cover_hw >= 0.5
        masks_NHW[:number, rows, columns] &= ~inside_hw
        masks_NHW[number, rows, columns] = inside_hw
        areas_N[number] = inside_hw.sum()
    for silhouette, paint in scene.obstacles:
        shapes_draw.blend(canvas_HW3, silhouette, paint, rng)
        rows, columns, cover_hw = shapes_draw.coverage(silhouette, height=height, width=width)
        masks_NHW[:, rows, columns] &= cover_hw < 0.5
    return photograph(scene.setting, canvas_HW3, rng), masks_NHW, areas_N


def keypoint_annotations(
    scene: Scene,
    masks_NHW: npt.NDArray[np.bool_],
    areas_N: npt.NDArray[np.int64],
    *,
    image_id: int,
) -> tuple[Annotation, ...]:
    """Return one COCO annotation per person who is visible enough.

    "bbox", "area" and "segmentation" are of what is visible of the person;
    "keypoints": x, y, v of each joint; v is 2 = visible, 1 = hidden, 0 = outside the picture (x = y = 0);
    "head_box": x, y, width, height of the whole head, for measures relative to its size.
    """
    first = first_id(image_id)
    annotations: list[Annotation] = []
    for number, (person, mask_HW) in enumerate(zip(scene.people, masks_NHW, strict=True)):
        if mask_HW.sum() < MIN_VISIBLE_SHARE * max(1, areas_N[number]):
            continue
        keypoints_J3 = _keypoints(person.body, mask_HW)
        outline_P2 = people_draw.head_outline(person.body)
        low, high = outline_P2.min(axis=0), outline_P2.max(axis=0)
        annotations.append(
            {
                "id": first + number,
                "image_id": image_id,
                "category_id": 1,
                "bbox": box_xywh(mask_HW),
                "area": int(mask_HW.sum()),
                "iscrowd": 0,
                "segmentation": rle_from_mask(mask_HW),
                "keypoints": keypoints_J3.ravel().tolist(),
                "num_keypoints": int((keypoints_J3[:, 2] > NOT_LABELLED).sum()),
                "head_box": np.round(np.concatenate([low, high - low]), 2).tolist(),
            }
        )
    return tuple(annotations)


def first_id(image_id: int) -> int:
    """Return the number of the annotation of a picture's first person; the others follow it."""
    return image_id * (NUM_PEOPLE[1] + 1) + 1


def draw(
    rng: np.random.Generator, *, image_id: int
) -> tuple[npt.NDArray[np.uint8], tuple[Annotation, ...]]:
    """Return a picture of people that follows from the generator, and its annotations."""
    scene = make_scene(rng)
    image, masks_NHW, areas_N = render(scene, rng)
    return image, keypoint_annotations(scene, masks_NHW, areas_N, image_id=image_id)


def _keypoints(body: Body, mask_HW: npt.NDArray[np.bool_]) -> Float:
    """Return x, y, v of each joint (16, 3)."""
    places_J2 = np.round(bodies.joints(body)[:, :2], 2)
    height, width = mask_HW.shape
    is_inside_J = np.all((places_J2 >= 0) & (places_J2 < (width, height)), axis=1)
    columns, rows = np.clip(np.floor(places_J2), 0, (width - 1, height - 1)).astype(int).T
    is_visible_J = _grown(mask_HW)[rows, columns] & ~bodies.hidden_by_own_body(body)
    flags_J = np.where(is_visible_J, VISIBLE, HIDDEN) * is_inside_J
    return np.column_stack([places_J2 * is_inside_J[:, None], flags_J])


def _grown(mask_HW: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the mask and its neighbours: the top of the head lies on the edge."""
    grown_HW = mask_HW.copy()
    grown_HW[1:] |= mask_HW[:-1]
    grown_HW[:-1] |= mask_HW[1:]
    grown_HW[:, 1:] |= mask_HW[:, :-1]
    grown_HW[:, :-1] |= mask_HW[:, 1:]
    return grown_HW


def _invent_person(
    rng: np.random.Generator, setting: Setting, scale: float, farther: list[Person]
) -> Person:
    """Return a person at a place that mostly avoids the others; after some tries at any place."""
    body = bodies.invent_body(rng, scale=scale)
    outfit = _invent_outfit(rng)
    places_J2 = bodies.joints(body)[:, :2]
    centre = np.zeros(2)
    wanted = MIN_INSIDE_JOINTS if rng.random() < CUT_OFF_SHARE else bodies.NUM_JOINTS
    for _ in range(12):
        centre = rng.uniform((0.0, 0.0), (setting.width, setting.height))
        moved_J2 = places_J2 + centre
        is_inside_J = np.all((moved_J2 >= 0) & (moved_J2 < (setting.width, setting.height)), axis=1)
        if is_inside_J.sum() >= wanted and _is_apart(centre, scale, farther):
            break
    else:
        middle = (places_J2.min(axis=0) + places_J2.max(axis=0)) / 2
        centre = np.array((setting.width, setting.height)) / 2 - middle
    body = replace(body, centre=(float(centre[0]), float(centre[1])))
    return Person(body=body, outfit=outfit)


def _is_apart(centre: Float, scale: float, others: list[Person]) -> bool:
    return all(
        np.hypot(*(centre - other.body.centre)) > 0.3 * (scale + other.body.scale)
        for other in others
    )


def _invent_outfit(rng: np.random.Generator) -> Outfit:
    skin = SKINS[int(rng.integers(0, len(SKINS)))]
    hair = HAIRS[int(rng.integers(0, len(HAIRS)))]
    return Outfit(
        skin=varied_colour(rng, skin, 0.08),
        hair=varied_colour(rng, hair, 0.12),
        top=random_colour(rng),
        bottom=random_colour(rng),
        shoes=random_colour(rng),
        trim=random_colour(rng),
        pattern=str(rng.choice(people_draw.PATTERNS)),
        period=float(rng.uniform(0.04, 0.09)),
        long_sleeves=bool(rng.random() < 0.5),
        long_trousers=bool(rng.random() < 0.65),
        long_hair=bool(rng.random() < 0.4),
        shade=float(rng.uniform(0.05, 0.4)),
    )


def _invent_figure(rng: np.random.Generator, setting: Setting) -> tuple[Silhouette, Paint]:
    """Return a geometric figure that is not a person."""
    silhouette = Silhouette(
        kind=str(rng.choice(list(shapes_draw.CONTOURS))),
        centre=(float(rng.uniform(0, setting.width)), float(rng.uniform(0, setting.height))),
        radius=float(np.exp(rng.uniform(np.log(8), np.log(45)))),
        angle=float(rng.uniform(0, 2 * np.pi)),
        squeeze=float(rng.uniform(0.4, 1.0)),
        waist=float(rng.random()),
    )
    paint = Paint(
        pattern=str(rng.choice(list(shapes_draw.PATTERNS))),
        colours=(random_colour(rng), random_colour(rng)),
        period=float(rng.uniform(4, 16)),
        angle=float(rng.uniform(0, np.pi)),
    )
    return silhouette, paint
