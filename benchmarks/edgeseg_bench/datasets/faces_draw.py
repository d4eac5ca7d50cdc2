"""Draws heads in their pose: shaded skin, painted features, hair, neck and shoulders.

Every function is a pure function of its arguments. Shape suffixes: R, S = rows and columns of the grid
on the head, P = corners of a polygon, N = points; 2 = x, y; 3 = x, y, z or BGR.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeseg_bench.datasets import heads
from edgeseg_bench.datasets.heads import Float, Head
from edgeseg_bench.datasets.shapes_draw import Colour
from edgeseg_bench.datasets.sketch import Canvas, Sketch, enlargement_for, scaled

TEETH: Colour = (215.0, 225.0, 230.0)
SCLERA: Colour = (225.0, 228.0, 232.0)
THROAT: Colour = (30.0, 25.0, 60.0)
PUPIL: Colour = (18.0, 15.0, 16.0)


@dataclass(frozen=True, kw_only=True)
class Looks:
    """How a person is coloured, groomed and lit.

    Attributes:
        skin, hair, lips, iris, clothes: BGR colours, 0..255.
        hair_length: "bald", "short" or "long".
        fringe: how far the hair hangs into the forehead, -0.1..0.3.
        beard: 0 = none .. 1 = full.
        brow_thickness: in face coordinates.
        lashes: width of the line along the upper lid, relative to the eye.
        glasses: colour of the frame, None = none.
        light: direction towards the light, unit length.
        contrast: 0 = flat light .. 1 = hard light.
    """

    skin: Colour
    hair: Colour
    lips: Colour
    iris: Colour
    clothes: Colour
    hair_length: str
    fringe: float
    beard: float
    brow_thickness: float
    lashes: float
    glasses: Colour | None
    light: tuple[float, float, float]
    contrast: float


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Something painted on the face.

    Attributes:
        outline: (P, 2) u, v in face coordinates.
        colour: BGR, 0..255.
        line_width: of a line along the outline, in head coordinates; None = the outline is filled.
    """

    outline: Float
    colour: Colour
    line_width: float | None = None


def draw_head(canvas_HW3: Canvas, head: Head, looks: Looks, rng: np.random.Generator) -> None:
    """Draw a head with neck and shoulders over the canvas, in place."""
    back = _back_hair(head, looks)
    body = _body(head)
    outline_P2 = np.concatenate([*body, back, _skull_box(head)])
    sketch = Sketch(canvas_HW3, outline_P2, enlargement_for(1.85 * head.scale))
    if sketch.is_empty:
        return
    if looks.hair_length == "long":
        sketch.fill(back, scaled(looks.hair, 0.7))
    neck, shoulders = body
    sketch.fill(neck, scaled(looks.skin, 0.72))
    sketch.fill(shoulders, looks.clothes)
    _draw_ears(sketch, head, looks, in_front=False)
    _draw_skin(sketch, head, looks, rng)
    _draw_ears(sketch, head, looks, in_front=True)
    marks = [*_eyes(head, looks), *_brows(head, looks), *_nose(looks), *_mouth(head, looks)]
    _draw_marks(sketch, head, marks if looks.glasses is None else marks + _glasses(looks.glasses))
    sketch.blend_into(canvas_HW3)


def body_outlines(head: Head) -> list[Float]:
    """Return polygons (P, 2) that cover the drawn head and its shoulders: what they may hide."""
    return [_skull_box(head), *_body(head)]


def _in_head(head: Head, points: Float) -> Float:
    return heads.projected(head, points)[..., :2]


def _ellipse(centre: tuple[float, float], radii: tuple[float, float], corners: int = 24) -> Float:
    return _circle(corners) * radii + centre


@functools.cache
def _circle(corners: int) -> Float:
    turns = 2 * np.pi * np.arange(corners) / corners
    return np.stack([np.cos(turns), np.sin(turns)], axis=1)


def _skull_box(head: Head) -> Float:
    outline = np.zeros((24, 3))
    outline[:, :2] = _ellipse((0.0, -0.15), (1.0, 1.4))
    return _in_head(head, outline)


def _back_hair(head: Head, looks: Looks) -> Float:
    if looks.hair_length != "long":
        return _skull_box(head)
    outline = np.zeros((24, 3))
    outline[:, :2] = _ellipse((0.0, 0.05), (0.92, 1.42))
    outline[:, 1] = np.minimum(outline[:, 1], 1.2 + looks.fringe)
    outline[:, 2] = 0.3
    return _in_head(head, outline)


def _body(head: Head) -> list[Float]:
    """Return neck and shoulders, which turn less than the head."""
    lean = 0.3 * head.roll
    turn = np.array([[np.cos(lean), np.sin(lean)], [-np.sin(lean), np.cos(lean)]])
    # The neck begins behind the jaw, wherever the head has turned to.
    root = heads.turned(head, np.array([0.0, 0.55, 0.15]))[:2]
    neck = np.array([(-0.42, 0.0), (0.42, 0.0), (0.46, 1.0), (-0.46, 1.0)])
    half = [(0.42, 0.62), (0.62, 0.78), (1.05, 0.95), (1.3, 1.2), (1.4, 1.6)]
    shoulders = np.array([*((-x, y) for x, y in reversed(half)), *half])
    return [(part @ turn + root) * head.scale + head.centre for part in (neck, shoulders)]


def _draw_ears(sketch: Sketch, head: Head, looks: Looks, *, in_front: bool) -> None:
    if looks.hair_length == "long":
        return
    for side in (-1.0, 1.0):
        faces_camera = heads.turned(head, np.array([side, 0.0, 0.1]))[2] < -0.12
        if faces_camera != in_front:
            continue
        ear = np.zeros((16, 3))
        ear[:, 1:] = _ellipse((-0.02, 0.05), (0.24, 0.1), corners=16)
        ear[:, 0] = side * (0.74 + 0.035 * head.shape.width + 0.9 * np.maximum(ear[:, 2], 0))
        sketch.fill(_in_head(head, ear), scaled(looks.skin, 0.82))
        inside = ear * (1, 0.6, 0.5) + (0, -0.01, 0.02)
        sketch.fill(_in_head(head, inside), scaled(looks.skin, 0.62))


def _draw_skin(sketch: Sketch, head: Head, looks: Looks, rng: np.random.Generator) -> None:
    """Draw the surface of the head as shaded facets, the far ones first."""
    fineness = float(np.clip((head.scale / 80) ** 0.5, 0.4, 0.85))
    rows, columns = round(34 * fineness), round(44 * fineness)
    u, v = np.linspace(-1, 1, columns)[None, :], np.linspace(-1.27, 1.04, rows)[:, None]
    u = 1.75 * np.sign(u) * np.abs(u) ** 1.25  # finer in the middle, round to the back of the head
    is_hair_RS = _is_hair(looks, u, v)
    points_RS3 = heads.surface(head.shape, u, v)
    points_RS3 *= np.where(is_hair_RS, 1.07, 1.0)[:, :, None]
    points_RS3 = heads.projected(head, points_RS3)
    first = points_RS3[1:, 1:] - points_RS3[:-1, :-1]
    second = points_RS3[1:, :-1] - points_RS3[:-1, 1:]
    inwards = np.cross(first, second)
    inwards /= np.linalg.norm(inwards, axis=-1, keepdims=True) + 1e-9
    light = np.clip(-(inwards @ np.array(looks.light)), 0, 1)
    brightness = 1 - looks.contrast * (1 - light) * 0.75
    colours = _albedo(looks, u, v, is_hair_RS, rng)[:-1, :-1] * brightness[..., None]
    corners = np.stack(
        [points_RS3[:-1, :-1], points_RS3[:-1, 1:], points_RS3[1:, 1:], points_RS3[1:, :-1]], axis=2
    )
    visible = np.flatnonzero(inwards[..., 2].ravel() > 0)
    depth = corners[..., 2].mean(axis=2).ravel()[visible]
    order = visible[np.argsort(-depth, kind="stable")]
    sketch.facets(
        corners.reshape(-1, 4, 3)[order, :, :2], np.clip(colours, 0, 255).reshape(-1, 3)[order]
    )
    sketch.soften(0.014 * head.scale / fineness)


def _is_hair(looks: Looks, u: Float, v: Float) -> npt.NDArray[np.bool_]:
    u = np.abs(u)
    if looks.hair_length == "bald":
        return np.asarray((u > 1.15) & (v > -0.5) & (v < 0.3))
    hairline = -0.86 + looks.fringe + 0.5 * np.clip(u, 0, 1.1) ** 3
    nape = 1.1 if looks.hair_length == "long" else 0.35
    edge = 0.93 if looks.hair_length == "long" else 1.08
    return np.asarray((v < hairline) | ((u > edge) & (v < nape)))


def _albedo(
    looks: Looks,
    u: Float,
    v: Float,
    is_hair_RS: npt.NDArray[np.bool_],
    rng: np.random.Generator,
) -> Float:
    """Return the colour of the surface under full light."""
    u = np.abs(u)
    skin = np.array(looks.skin) * (1 + 0.03 * rng.standard_normal((*is_hair_RS.shape, 1)))
    blush = 0.12 * np.exp(-(((u - 0.45) / 0.2) ** 2) - ((v - 0.2) / 0.2) ** 2)
    skin = skin * (1 - blush[..., None] * (1, 0.8, 0))
    jaw = np.clip((v - 0.3 - 0.25 * (u < 0.2) * (v < 0.42)) / 0.12, 0, 1)
    sides = np.clip((u - 0.72) / 0.1, 0, 1) * np.clip((v + 0.1) / 0.2, 0, 1)
    share = looks.beard * np.clip(np.maximum(jaw, sides), 0, 1)
    beard = np.array(looks.hair) * (0.85 + 0.2 * rng.standard_normal((*is_hair_RS.shape, 1)))
    skin += share[..., None] * (beard - skin)
    strands = 1 + 0.16 * rng.standard_normal((1, is_hair_RS.shape[1], 1))
    return np.where(is_hair_RS[..., None], np.array(looks.hair) * strands, skin)


def _draw_marks(sketch: Sketch, head: Head, marks: list[Mark]) -> None:
    ends = np.cumsum([len(mark.outline) for mark in marks])
    u, v = np.concatenate([mark.outline for mark in marks]).T
    points_N2 = sketch.fixed_point(heads.projected(head, heads.surface(head.shape, u, v))[:, :2])
    for mark, points_P2 in zip(marks, np.split(points_N2, ends[:-1]), strict=True):
        width = None if mark.line_width is None else mark.line_width * head.scale
        sketch.fill_or_line(points_P2, mark.colour, width)


def _eyes(head: Head, looks: Looks) -> list[Mark]:
    marks = []
    for side in (-1, 1):
        outline = heads.eye_coordinates(head.shape, side=side, points_per_lid=9)
        marks.append(Mark(outline=outline, colour=SCLERA))
        for radius, colour in ((0.062, looks.iris), (0.03, PUPIL)):
            disc = _ellipse((side * heads.EYE_U, heads.EYE_V), (radius, radius * 1.05), corners=16)
            along = np.clip((disc[:, 0] - side * heads.EYE_U) / heads.EYE_HALF_WIDTH, -1, 1)
            lid = heads.lid_height(head.shape, along)
            disc[:, 1] = np.clip(disc[:, 1], heads.EYE_V - lid, heads.EYE_V + 0.6 * lid)
            marks.append(Mark(outline=disc, colour=colour))
        upper_lid, crease = outline[:11], outline[1:10] - (0, 0.045)
        marks.append(Mark(outline=upper_lid, colour=PUPIL, line_width=0.03 * looks.lashes))
        marks.append(Mark(outline=crease, colour=scaled(looks.skin, 0.7), line_width=0.012))
    return marks


def _brows(head: Head, looks: Looks) -> list[Mark]:
    outlines = (
        heads.brow_coordinates(head.shape, side=side, thickness=looks.brow_thickness)
        for side in (-1, 1)
    )
    colour = scaled(looks.hair, 0.75)
    return [Mark(outline=outline, colour=colour) for outline in outlines]


def _nose(looks: Looks) -> list[Mark]:
    marks = []
    for side in (-1.0, 1.0):
        nostril = _ellipse((side * 0.05, heads.NOSE_BASE_V - 0.02), (0.025, 0.014), corners=12)
        marks.append(Mark(outline=nostril, colour=scaled(looks.skin, 0.35)))
        wing = np.array([(0.115, 0.25), (0.135, 0.29), (0.12, 0.33), (0.09, 0.34)]) * (side, 1)
        marks.append(Mark(outline=wing, colour=scaled(looks.skin, 0.55), line_width=0.018))
    return marks


def _mouth(head: Head, looks: Looks) -> list[Mark]:
    lips = heads.lip_coordinates(head.shape, inner=False)
    gap = heads.lip_coordinates(head.shape, inner=True)
    upper, lower = gap[:5], gap[[0, 7, 6, 5, 4]]
    marks = [Mark(outline=lips, colour=looks.lips)]
    if head.shape.mouth_opening == 0:
        seam = 0.5 * (upper + lower)
        return [*marks, Mark(outline=seam, colour=scaled(looks.lips, 0.45), line_width=0.015)]
    teeth = np.concatenate([upper, (0.65 * upper + 0.35 * lower)[::-1]])
    return [
        *marks,
        Mark(outline=gap, colour=THROAT),
        Mark(outline=teeth, colour=TEETH),
    ]


def _glasses(colour: Colour) -> list[Mark]:
    rings = (_ellipse((side * heads.EYE_U, heads.EYE_V + 0.02), (0.19, 0.14)) for side in (-1, 1))
    bridge = np.array([(-0.08, -0.14), (0.0, -0.16), (0.08, -0.14)])
    lines = [*(np.concatenate([ring, ring[:1]]) for ring in rings), bridge]
    return [Mark(outline=line, colour=colour, line_width=0.035) for line in lines]
