"""Draws articulated people: limbs as capsules in textured clothes, a head with hair.

Every function is a pure function of its arguments. Shape suffixes: P = corners of a polygon, h, w = a
window of the picture; 2 = x, y; 3 = x, y, z.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgeseg_bench.datasets import bodies
from edgeseg_bench.datasets.bodies import Body, Bone, Float
from edgeseg_bench.datasets.heads import rotation
from edgeseg_bench.datasets.shapes_draw import Colour
from edgeseg_bench.datasets.sketch import Canvas, Float32, Sketch, enlargement_for, scaled

EYES: Colour = (20.0, 18.0, 20.0)
PATTERNS = ("plain", "hoops", "stripes")


@dataclass(frozen=True, kw_only=True)
class Outfit:
    """How a person is coloured and dressed.

    Attributes:
        skin, hair, top, bottom, shoes: BGR colours, 0..255.
        trim: colour of the pattern of the top.
        pattern: of the top: "plain", "hoops" (across limbs and trunk) or "stripes" (along them).
        period: of the hoops, for a scale of 1.
        long_sleeves, long_trousers: whether the forearms and shins are covered.
        long_hair: whether the hair reaches the shoulders.
        shade: how much darker the far limbs are, 0..0.4.
    """

    skin: Colour
    hair: Colour
    top: Colour
    bottom: Colour
    shoes: Colour
    trim: Colour
    pattern: str
    period: float
    long_sleeves: bool
    long_trousers: bool
    long_hair: bool
    shade: float


def draw_person(canvas_HW3: Canvas, body: Body, outfit: Outfit) -> tuple[slice, slice, Float32]:
    """Draw a person over the canvas, in place, the far parts of the body first.

    Returns:
        rows, columns: the window of the picture that was drawn on; empty outside the picture.
        cover_hw: how much of each of its pixels is covered, 0..1.
    """
    joints = dict(zip(bodies.JOINTS, bodies.joints(body), strict=True))
    reach = 0.13 * body.scale
    places_P2 = np.array(list(joints.values()))[:, :2]
    window_P2 = np.concatenate([places_P2 - reach, places_P2 + reach])
    sketch = Sketch(canvas_HW3, window_P2, enlargement_for(0.4 * body.scale))
    if sketch.is_empty:
        return sketch.rows, sketch.columns, np.zeros((0, 0), dtype=np.float32)
    painter = _Painter(sketch=sketch, joints=joints, body=body, outfit=outfit)
    steps: list[tuple[float, Callable[[], None]]] = [
        (painter.depth(bodies.HEAD_BONE), painter.head),
        (painter.depth(bodies.TRUNK[2]), painter.trunk),
        *((painter.depth(bone), functools.partial(painter.limb, bone)) for bone in bodies.LIMBS),
    ]
    for _, paint in sorted(steps, key=lambda step: step[0], reverse=True):
        paint()
    return sketch.rows, sketch.columns, sketch.blend_into(canvas_HW3)


def head_outline(body: Body) -> Float:
    """Return the outline (24, 2) of the head in the picture, without hair that hangs on the shoulders."""
    joints = dict(zip(bodies.JOINTS, bodies.joints(body), strict=True))
    first, second = joints["upper_neck"][:2], joints["head_top"][:2]
    radius = bodies.HEAD_BONE.radii[0] * body.scale
    along = (second - first) / 2
    # A head that nods is seen from above: it does not get shorter than it is wide.
    length = float(np.hypot(*along)) + 1e-9
    along *= max(1.0, radius / length)
    across = np.array([-along[1], along[0]]) / max(length, radius) * radius
    turns = 2 * np.pi * np.arange(24)[:, None] / 24
    outline: Float = (first + second) / 2 + np.cos(turns) * along + np.sin(turns) * across
    return outline


@dataclass(frozen=True, kw_only=True)
class _Painter:
    """Draws the parts of one person.

    Attributes:
        sketch: what is drawn on.
        joints: name: x, y, z in the picture.
        body, outfit: of the person.
    """

    sketch: Sketch
    joints: dict[str, Float]
    body: Body
    outfit: Outfit

    def depth(self, bone: Bone) -> float:
        """Return how far from the camera the middle of a bone is; limbs count as behind the trunk."""
        first, second = (self.joints[name][2] for name in bone.joints)
        bias = 0.0 if bone in bodies.LIMBS else -0.01
        return float(first + second) / 2 + bias * self.body.scale

    def limb(self, bone: Bone) -> None:
        """Draw an arm's or leg's half with its clothes, and the hand or foot at its end."""
        outfit, scale = self.outfit, self.body.scale
        shade = 1 - outfit.shade * float(np.clip(self.depth(bone) / (0.15 * scale), -0.3, 1))
        first, second = (self.joints[name][:2] for name in bone.joints)
        thick, thin = (radius * scale for radius in bone.radii)
        if bone.garment == "shin":
            toes = rotation(self.body.yaw, 0.0, self.body.lean) @ (0.0, 0.03, -0.07)
            foot = _capsule(second, second + toes[:2] * scale, 0.026 * scale, 0.022 * scale)
            self.sketch.fill(foot, scaled(outfit.shoes, shade))
        if bone.garment == "forearm":
            hand = second + 0.12 * (second - first)
            self.sketch.fill(_capsule(hand, hand, thin, thin), scaled(outfit.skin, 0.95 * shade))
        colour = scaled(self._colour(bone), shade)
        self.sketch.fill(_capsule(first, second, thick, thin), colour)
        lit = (first + second) / 2 + 0.35 * (first - second)
        light = _capsule(lit, second, 0.45 * thick, 0.3 * thin) - 0.25 * thin
        self.sketch.fill(light, scaled(colour, 1.15))
        if self._has_top(bone):
            normal = _normal(first, second)
            edges = (first - normal * thick, second - normal * thin)
            others = (first + normal * thick, second + normal * thin)
            self._pattern(edges, others, scaled(outfit.trim, shade))

    def trunk(self) -> None:
        """Draw the trunk: the top, and the waistband of the trousers."""
        outfit, scale = self.outfit, self.body.scale
        names = ("right_shoulder", "left_shoulder", "left_hip", "right_hip")
        corners = np.array([self.joints[name][:2] for name in names])
        radius = bodies.TRUNK[0].radii[1] * scale
        self._rounded(corners, outfit.top, radius)
        right, left = (corners[0], corners[3]), (corners[1], corners[2])
        outwards = _normal(corners[0], corners[3]) * radius
        sign = 1.0 if (corners[1] - corners[0]) @ outwards < 0 else -1.0
        self._pattern(
            (right[0] + sign * outwards, right[1] + sign * outwards),
            (left[0] - sign * outwards, left[1] - sign * outwards),
            outfit.trim,
        )
        waist = [0.8 * hip + 0.2 * shoulder for shoulder, hip in (right, left)]
        self._rounded(np.array([*waist, left[1], right[1]]), outfit.bottom, 0.95 * radius)

    def head(self) -> None:
        """Draw the neck, the hair and, unless the person looks away, the face."""
        outfit, scale = self.outfit, self.body.scale
        neck, top = self.joints["upper_neck"], self.joints["head_top"]
        thorax = self.joints["thorax"]
        forwards = bodies.forwards(self.body)
        is_turned_away = forwards[2] > 0.1
        if outfit.long_hair and not is_turned_away:
            self._long_hair(neck[:2], top[:2])
        throat = _capsule(thorax[:2], neck[:2], 0.032 * scale, 0.032 * scale)
        self.sketch.fill(throat, scaled(outfit.skin, 0.8))
        self.sketch.fill(head_outline(self.body), outfit.hair)
        if is_turned_away:
            if outfit.long_hair:
                self._long_hair(neck[:2], top[:2])
            return
        upwards = (top - neck) / (np.linalg.norm(top - neck) + 1e-9)
        sidewards = np.cross(upwards, forwards)
        centre = (top + neck) / 2
        turns = 2 * np.pi * np.arange(20)[:, None] / 20
        rim = 0.048 * np.cos(turns) * sidewards + (0.06 * np.sin(turns) - 0.018) * upwards
        face = centre + scale * (rim + (0.03 - 0.02 * np.cos(turns) ** 2) * forwards)
        self.sketch.fill(face[:, :2], outfit.skin)
        for side in (-1, 1):
            eye = 0.02 * side * sidewards - 0.006 * upwards + 0.05 * forwards
            place = (centre + scale * eye)[:2]
            self.sketch.fill(_capsule(place, place, 0.008 * scale, 0.008 * scale), EYES)
        lips = centre + scale * (
            0.016 * np.array([[-1.0], [1.0]]) * sidewards - 0.042 * upwards + 0.045 * forwards
        )
        self.sketch.fill(
            _capsule(lips[0, :2], lips[1, :2], 0.005 * scale, 0.005 * scale),
            scaled(outfit.skin, 0.55),
        )

    def _long_hair(self, neck: Float, top: Float) -> None:
        scale = self.body.scale
        low = neck + 0.25 * (neck - top)
        hair = _capsule((neck + top) / 2, low, 0.064 * scale, 0.06 * scale)
        self.sketch.fill(hair, scaled(self.outfit.hair, 0.85))

    def _colour(self, bone: Bone) -> Colour:
        outfit = self.outfit
        return {
            "thigh": outfit.bottom,
            "shin": outfit.bottom if outfit.long_trousers else outfit.skin,
            "upper_arm": outfit.top,
            "forearm": outfit.top if outfit.long_sleeves else outfit.skin,
        }[bone.garment]

    def _has_top(self, bone: Bone) -> bool:
        return bone.garment == "upper_arm" or (
            bone.garment == "forearm" and self.outfit.long_sleeves
        )

    def _rounded(self, corners_P2: Float, colour: Colour, radius: float) -> None:
        self.sketch.fill(corners_P2, colour)
        ring = self.sketch.fixed_point(np.concatenate([corners_P2, corners_P2[:1]]))
        self.sketch.fill_or_line(ring, colour, 2 * radius)

    def _pattern(
        self, edge: tuple[Float, Float], other: tuple[Float, Float], colour: Colour
    ) -> None:
        """Draw the pattern of the top on the quadrilateral between two edges (start, end)."""
        period = self.outfit.period * self.body.scale
        if self.outfit.pattern == "hoops":
            number = max(1, round(float(np.hypot(*(edge[1] - edge[0]))) / period))
            for share in (np.arange(number) + 0.5) / number:
                ends = [start + share * (end - start) for start, end in (edge, other)]
                self._line(ends, colour, 0.4 * period)
        elif self.outfit.pattern == "stripes":
            for share in (0.25, 0.5, 0.75):
                ends = [a + share * (b - a) for a, b in zip(edge, other, strict=True)]
                width = 0.12 * float(np.hypot(*(other[0] - edge[0])))
                self._line(ends, colour, width)

    def _line(self, points: list[Float], colour: Colour, width: float) -> None:
        self.sketch.fill_or_line(self.sketch.fixed_point(np.array(points)), colour, width)


def _normal(first: Float, second: Float) -> Float:
    """Return the unit vector (2,) across the way from one point to another."""
    x, y = second - first
    return np.array([-y, x]) / (np.hypot(x, y) + 1e-9)


def _capsule(first: Float, second: Float, first_radius: float, second_radius: float) -> Float:
    """Return the outline (P, 2) of a stretch with round ends."""
    x, y = second - first
    turns = np.arctan2(y, x) + np.pi * np.linspace(0.5, 1.5, 9)
    half = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    return np.concatenate([first + first_radius * half, second - second_radius * half])
