"""Pictures of analytic faces with boxes, landmarks, gender and mesh, for the built-in data set.

A `Scene` says who stands where; `render` turns it into a picture, `face_annotations` describes the faces.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg_bench.datasets import faces_draw, heads, shapes_draw
from edgeseg_bench.datasets.base import Annotation, Category
from edgeseg_bench.datasets.faces_draw import Looks
from edgeseg_bench.datasets.heads import (
    MEAN_SHAPE,
    NUM_VERTICES,
    POINTS_5_FROM_98,
    POINTS_68_FROM_98,
    TRIANGLES,
    VERTICES_5,
    Float,
    Head,
)
from edgeseg_bench.datasets.setting import (
    Setting,
    draw_backdrop,
    invent_setting,
    photograph,
    random_colour,
    varied_colour,
)
from edgeseg_bench.datasets.shapes_draw import Colour, Paint, Silhouette
from edgeseg_bench.datasets.sketch import Canvas

__all__ = [
    "CATEGORIES",
    "GENDERS",
    "MEAN_SHAPE",
    "NUM_VERTICES",
    "POINTS_5_FROM_98",
    "POINTS_68_FROM_98",
    "TRIANGLES",
    "VERTICES_5",
    "Face",
    "Scene",
    "draw",
    "face_annotations",
    "make_scene",
    "render",
]

CATEGORIES: tuple[Category, ...] = ({"id": 1, "name": "face", "supercategory": "person"},)
GENDERS = ("female", "male")

NUM_FACES = (1, 6)
HEIGHTS = (16.0, 150.0)  # of an upright face, in pixels
LARGEST_HEIGHT_SHARE = 0.7  # of the shorter picture side
MAX_YAW, MAX_PITCH, MAX_ROLL = np.deg2rad((50.0, 25.0, 30.0))
MIN_INSIDE_SHARE = 0.8  # of a face's vertices, inside the picture
MAX_HIDDEN_SHARE = 0.2  # of those, behind others

SKINS: tuple[Colour, ...] = (  # from light to dark, BGR
    (180.0, 205.0, 240.0),
    (150.0, 185.0, 228.0),
    (120.0, 160.0, 210.0),
    (90.0, 130.0, 185.0),
    (60.0, 92.0, 145.0),
    (42.0, 62.0, 100.0),
)
HAIRS: tuple[Colour, ...] = (
    (22.0, 20.0, 22.0),
    (28.0, 40.0, 60.0),
    (35.0, 65.0, 105.0),
    (90.0, 160.0, 205.0),
    (40.0, 80.0, 160.0),
    (165.0, 165.0, 165.0),
)
IRISES: tuple[Colour, ...] = ((30.0, 50.0, 80.0), (140.0, 100.0, 50.0), (70.0, 110.0, 80.0))


@dataclass(frozen=True, kw_only=True)
class Face:
    """One annotated person.

    Attributes:
        head: shape, expression and pose.
        looks: colours and light.
        gender: 0 = female, 1 = male.
        stroke: two ends, picture coordinates, of something in front of the face; None = nothing.
    """

    head: Head
    looks: Looks
    gender: int
    stroke: tuple[tuple[float, float], tuple[float, float]] | None


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that is in a picture, before it is drawn.

    Attributes:
        setting: size, backdrop and camera.
        decoys: figures without a face, as a silhouette and its paint.
        faces: from the farthest to the nearest.
    """

    setting: Setting
    decoys: tuple[tuple[Silhouette, Paint], ...]
    faces: tuple[Face, ...]


def make_scene(rng: np.random.Generator) -> Scene:
    """Invent a scene."""
    setting = invent_setting(rng)
    decoys = tuple(_invent_decoy(rng, setting) for _ in range(int(rng.integers(0, 5))))
    number = int(rng.integers(NUM_FACES[0], NUM_FACES[1] + 1))
    largest = min(HEIGHTS[1], LARGEST_HEIGHT_SHARE * min(setting.height, setting.width))
    heights = np.sort(HEIGHTS[0] * (largest / HEIGHTS[0]) ** rng.random(number))
    faces: list[Face] = []
    taken_HW = np.zeros((setting.height, setting.width), dtype=np.uint8)
    for height in heights[::-1]:  # from the nearest to the farthest
        face = _invent_face(rng, setting, float(height), taken_HW)
        if face is not None:
            faces.append(face)
            for outline_P2 in faces_draw.body_outlines(face.head):
                cv2.fillPoly(taken_HW, [np.rint(outline_P2).astype(np.int32)], 1)
    return Scene(setting=setting, decoys=decoys, faces=tuple(reversed(faces)))


def render(scene: Scene, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draw a scene: (H, W, 3) uint8, BGR."""
    canvas_HW3 = draw_backdrop(scene.setting, rng)
    for silhouette, paint in scene.decoys:
        shapes_draw.blend(canvas_HW3, silhouette, paint, rng)
    for face in scene.faces:
        faces_draw.draw_head(canvas_HW3, face.head, face.looks, rng)
        if face.stroke is not None:
            _draw_stroke(canvas_HW3, face, rng)
    return photograph(scene.setting, canvas_HW3, rng)


def face_annotations(scene: Scene, *, image_id: int) -> tuple[Annotation, ...]:
    """Return one annotation per face: COCO's fields and those of faces.

    "bbox" is the box of the projected mesh and landmarks, cut off at the border of the picture;
    "landmarks" (5, 2): pupils, tip of the nose, corners of the mouth, left before right as seen;
    "points_68" and "points_98": landmarks in the orders of iBUG (300W) and WFLW;
    "gender": 0 female, 1 male;
    "mesh" (NUM_VERTICES, 3): x, y in pixels, z in pixels away from the camera, 0 inside the head.
    Landmarks and mesh may leave the picture.
    """
    first_id = image_id * (NUM_FACES[1] + 1) + 1
    return tuple(
        _annotation(face.head, scene.setting)
        | {
            "id": first_id + number,
            "image_id": image_id,
            "category_id": 1,
            "iscrowd": 0,
            "gender": face.gender,
        }
        for number, face in enumerate(scene.faces)
    )


def draw(
    rng: np.random.Generator, *, image_id: int
) -> tuple[npt.NDArray[np.uint8], tuple[Annotation, ...]]:
    """Return a picture that follows from the generator, and its annotations."""
    scene = make_scene(rng)
    return render(scene, rng), face_annotations(scene, image_id=image_id)


def _annotation(head: Head, setting: Setting) -> Annotation:
    mesh_V3 = heads.mesh(head)
    points_N2 = heads.landmarks(head)
    extent = np.concatenate([mesh_V3[:, :2], points_N2])
    border = (setting.width, setting.height)
    low = np.clip(extent.min(axis=0), 0, border)
    high = np.clip(extent.max(axis=0), 0, border)
    box = np.round(np.concatenate([low, high - low]), 2)
    points_98 = np.round(points_N2, 2).tolist()
    return {
        "bbox": box.tolist(),
        "area": round(float(box[2] * box[3]), 2),
        "landmarks": [points_98[number] for number in POINTS_5_FROM_98],
        "points_68": [points_98[number] for number in POINTS_68_FROM_98],
        "points_98": points_98,
        "mesh": np.round(mesh_V3, 2).tolist(),
    }


def _invent_face(
    rng: np.random.Generator, setting: Setting, height: float, taken_HW: npt.NDArray[np.uint8]
) -> Face | None:
    """Return a face that is mostly visible, or None where no room was found for one.

    taken_HW is 1 where nearer people may hide it.
    """
    gender = int(rng.integers(0, 2))
    shape = heads.invent_shape(rng, gender=gender)
    yaw, pitch, roll = (
        float(np.clip(rng.normal(0, 0.5), -1, 1) * limit)
        for limit in (MAX_YAW, MAX_PITCH, MAX_ROLL)
    )
    head = Head(
        shape=shape,
        centre=(0.0, 0.0),
        scale=height / 1.85,
        yaw=yaw,
        pitch=pitch,
        roll=roll,
    )
    looks = _invent_looks(rng, gender)
    has_stroke = rng.random() < 0.12
    places_N2 = heads.mesh(head)[::3, :2]
    for _ in range(12):
        margin = 0.35 * height
        centre = rng.uniform(margin, (setting.width - margin, setting.height - margin))
        if _is_visible(places_N2 + centre, taken_HW):
            break
    else:
        if taken_HW.any():
            return None
        centre = np.array((setting.width / 2, setting.height / 2))
    head = replace(head, centre=(float(centre[0]), float(centre[1])))
    stroke = _invent_stroke(rng, head) if has_stroke else None
    return Face(head=head, looks=looks, gender=gender, stroke=stroke)


def _is_visible(places_N2: Float, taken_HW: npt.NDArray[np.uint8]) -> bool:
    height, width = taken_HW.shape
    columns, rows = np.floor(places_N2).astype(int).T
    is_inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    if is_inside.mean() < MIN_INSIDE_SHARE:
        return False
    return bool(taken_HW[rows[is_inside], columns[is_inside]].mean() <= MAX_HIDDEN_SHARE)


def _invent_looks(rng: np.random.Generator, gender: int) -> Looks:
    """Invent looks that tell the gender in most but not in all cases."""
    is_male = gender == 1
    skin_number = int(rng.integers(0, len(SKINS)))
    skin = varied_colour(rng, SKINS[skin_number], 0.08)
    # The darker the skin, the rarer is fair hair.
    hair = varied_colour(rng, HAIRS[int(rng.integers(0, 6 if skin_number < 3 else 2))], 0.12)
    lengths, shares = (
        ("bald", "short", "long"),
        (0.15, 0.73, 0.12) if is_male else (0.01, 0.24, 0.75),
    )
    beard = float(rng.uniform(0.3, 1.0)) if is_male and rng.random() < 0.45 else 0.0
    red = rng.uniform(0.4, 1.0) if not is_male and rng.random() < 0.6 else rng.uniform(0, 0.35)
    natural = np.array(skin) * (0.72, 0.66, 0.85)
    lips = natural + red * (np.array((60.0, 35.0, 190.0)) - natural)
    light = np.array((rng.uniform(-0.8, 0.8), rng.uniform(-0.8, 0.2), -1.0))
    light /= np.linalg.norm(light)
    return Looks(
        skin=skin,
        hair=hair,
        lips=(float(lips[0]), float(lips[1]), float(lips[2])),
        iris=IRISES[int(rng.integers(0, len(IRISES)))],
        clothes=random_colour(rng),
        hair_length=str(rng.choice(lengths, p=shares)),
        fringe=float(rng.uniform(-0.05, 0.25)),
        beard=beard,
        brow_thickness=float(rng.uniform(0.05, 0.09) if is_male else rng.uniform(0.03, 0.065)),
        lashes=float(rng.uniform(0.5, 1.0) if is_male else rng.uniform(0.8, 1.8)),
        glasses=_scaled_grey(rng) if rng.random() < 0.12 else None,
        light=(float(light[0]), float(light[1]), float(light[2])),
        contrast=float(rng.uniform(0.4, 1.0)),
    )


def _scaled_grey(rng: np.random.Generator) -> Colour:
    grey = float(rng.uniform(10, 120))
    return grey, grey, grey


def _invent_decoy(rng: np.random.Generator, setting: Setting) -> tuple[Silhouette, Paint]:
    """Return a figure in the colours of skin or hair that is not a face."""
    colours = (SKINS, HAIRS)[int(rng.random() < 0.3)]
    first = varied_colour(rng, colours[int(rng.integers(0, len(colours)))], 0.1)
    silhouette = Silhouette(
        kind=str(rng.choice(("disc", "disc", "square", "star", "ring"))),
        centre=(float(rng.uniform(0, setting.width)), float(rng.uniform(0, setting.height))),
        radius=float(np.exp(rng.uniform(np.log(8), np.log(50)))),
        angle=float(rng.uniform(0, 2 * np.pi)),
        squeeze=float(rng.uniform(0.6, 1.0)),
        waist=float(rng.random()),
    )
    paint = Paint(
        pattern=str(rng.choice(list(shapes_draw.PATTERNS))),
        colours=(first, random_colour(rng)),
        period=float(rng.uniform(4, 16)),
        angle=float(rng.uniform(0, np.pi)),
    )
    return silhouette, paint


def _invent_stroke(
    rng: np.random.Generator, head: Head
) -> tuple[tuple[float, float], tuple[float, float]]:
    middle = np.array(head.centre) + rng.uniform(-0.5, 0.5, 2) * head.scale
    angle, reach = rng.uniform(0, np.pi), rng.uniform(0.4, 1.0) * head.scale
    step = reach * np.array((np.cos(angle), np.sin(angle)))
    first, second = (middle - step).tolist(), (middle + step).tolist()
    return (first[0], first[1]), (second[0], second[1])


def _draw_stroke(canvas_HW3: Canvas, face: Face, rng: np.random.Generator) -> None:
    assert face.stroke is not None
    first, second = (np.rint(end).astype(int).tolist() for end in face.stroke)
    thickness = max(1, round(face.head.scale * float(rng.uniform(0.08, 0.2))))
    cv2.line(canvas_HW3, first, second, random_colour(rng), thickness)
