"""Draws the figures, textures and backgrounds of the shapes data set with numpy and cv2.

Every function is a pure function of its arguments: all chance comes from the random generator that is
passed in, or was already settled in the description that is drawn.

Shape suffixes: H, W = picture, h, w = a window of it, 3 = blue, green, red; P = points of a contour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

Float: TypeAlias = npt.NDArray[np.float32]
Contour: TypeAlias = npt.NDArray[np.float64]
Colour: TypeAlias = tuple[float, float, float]

SUPERSAMPLING = 4  # silhouettes are filled on a grid this much finer, then averaged


@dataclass(frozen=True, kw_only=True)
class Paint:
    """How a surface is coloured: a pattern that mixes two colours.

    Attributes:
        pattern: key of PATTERNS.
        colours: the two BGR colours, 0..255.
        period: length of the pattern's repetition in pixels.
        angle: direction of the pattern in radians.
    """

    pattern: str
    colours: tuple[Colour, Colour]
    period: float
    angle: float


@dataclass(frozen=True, kw_only=True)
class Silhouette:
    """The outline of a figure.

    Attributes:
        kind: key of CONTOURS.
        centre: x, y in pixels of the picture.
        radius: of the circle around the figure, in pixels.
        angle: rotation in radians.
        squeeze: the figure's height is shrunk by this factor before it is turned, 0 < squeeze <= 1.
        waist: 0..1, how thin the thin parts are: inner radius of star and ring, arms of the cross.
    """

    kind: str
    centre: tuple[float, float]
    radius: float
    angle: float
    squeeze: float
    waist: float


def _regular(corners: int, *, radius: float = 1.0, start: float = -0.5) -> Contour:
    """Return the corners of a regular polygon, the first of them at the angle `start * pi`."""
    turns = 2 * np.pi * np.arange(corners) / corners + start * np.pi
    return radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)


def _star(waist: float) -> list[Contour]:
    points = _regular(10)
    points[1::2] *= 0.36 + 0.16 * waist
    return [points]


def _cross(waist: float) -> list[Contour]:
    a = 0.2 + 0.16 * waist  # half the width of an arm
    b = float(np.sqrt(1 - a * a))
    corners = [(a, b), (a, a), (b, a), (b, -a), (a, -a), (a, -b)]
    return [np.array(corners + [(-x, -y) for x, y in corners])]


# Contours of a figure inside the unit circle; where two overlap is a hole.
CONTOURS: Mapping[str, Callable[[float], list[Contour]]] = {
    "disc": lambda _waist: [_regular(64)],
    "square": lambda _waist: [_regular(4, start=0.25)],
    "triangle": lambda _waist: [_regular(3)],
    "star": _star,
    "ring": lambda waist: [_regular(64), _regular(64, radius=0.5 + 0.22 * waist)],
    "cross": _cross,
}


def coverage(silhouette: Silhouette, *, height: int, width: int) -> tuple[slice, slice, Float]:
    """Return the window of the picture that a silhouette touches, and how much of each pixel it covers.

    Returns:
        rows, columns: the window; empty where the silhouette lies outside the picture.
        coverage_hw: float32 in 0..1 within the window.
    """
    (x, y), reach = silhouette.centre, silhouette.radius + 1
    rows = slice(max(0, int(y - reach)), max(0, min(height, int(y + reach) + 1)))
    columns = slice(max(0, int(x - reach)), max(0, min(width, int(x + reach) + 1)))
    size = (max(0, rows.stop - rows.start), max(0, columns.stop - columns.start))
    if 0 in size:
        return rows, columns, np.zeros(size, dtype=np.float32)
    cos, sin = np.cos(silhouette.angle), np.sin(silhouette.angle)
    turn = np.array([[cos, sin], [-sin, cos]])
    contours = []
    for contour_P2 in CONTOURS[silhouette.kind](silhouette.waist):
        points_P2 = (contour_P2 * (1.0, silhouette.squeeze)) @ turn * silhouette.radius
        points_P2 += (x - columns.start, y - rows.start)
        # cv2 draws pixel i around coordinate i, the picture's pixel i lies between i and i + 1.
        contours.append(np.rint(points_P2 * SUPERSAMPLING - 0.5).astype(np.int32))
    fine_hw = np.zeros((size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING), dtype=np.uint8)
    cv2.fillPoly(fine_hw, contours, 255)
    mean_hw = cv2.resize(fine_hw, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    return rows, columns, mean_hw.astype(np.float32) / np.float32(255)


def _stripes(u: Float, _v: Float, _rng: np.random.Generator) -> Float:
    return np.asarray(0.5 + 0.5 * np.sin(u), dtype=np.float32)


def _checks(u: Float, v: Float, _rng: np.random.Generator) -> Float:
    return np.asarray((np.sin(u) * np.sin(v)) > 0, dtype=np.float32)


def _dots(u: Float, v: Float, _rng: np.random.Generator) -> Float:
    return np.asarray(np.sin(u) * np.sin(v) > 0.5, dtype=np.float32)


def _gradient(u: Float, _v: Float, _rng: np.random.Generator) -> Float:
    low, high = float(u.min()), float(u.max())
    return (u - low) / max(high - low, 1e-6)


def _clouds(u: Float, _v: Float, rng: np.random.Generator) -> Float:
    h, w = u.shape
    coarse = rng.random((max(2, h // 6), max(2, w // 6)), dtype=np.float32)
    return cv2.resize(coarse, (w, h), interpolation=cv2.INTER_LINEAR).astype(np.float32)


def _plain(u: Float, _v: Float, _rng: np.random.Generator) -> Float:
    return np.zeros_like(u)


# Share of the second colour at each pixel; u and v are the phases along and across the pattern.
PATTERNS: Mapping[str, Callable[[Float, Float, np.random.Generator], Float]] = {
    "plain": _plain,
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
    "gradient": _gradient,
    "clouds": _clouds,
}


def painted(paint: Paint, *, height: int, width: int, rng: np.random.Generator) -> Float:
    """Return a (height, width, 3) float32 surface in that paint, 0..255."""
    x = np.arange(width, dtype=np.float32)[None, :]
    y = np.arange(height, dtype=np.float32)[:, None]
    return painted_at(paint, x, y, rng)


def painted_at(paint: Paint, x: Float, y: Float, rng: np.random.Generator) -> Float:
    """Return the (h, w, 3) float32 colours of that paint at places.

    Args:
        paint: "gradient" and "clouds" fill the window; the others go with x and y, wherever it is.
        x: of places, in pixels of the surface; broadcasts with y to (h, w).
        y: of these places.
        rng: for the patterns that need chance.
    """
    phase = 2 * np.pi / paint.period
    x, y = x * phase, y * phase
    cos, sin = np.float32(np.cos(paint.angle)), np.float32(np.sin(paint.angle))
    share_hw = PATTERNS[paint.pattern](cos * x + sin * y, cos * y - sin * x, rng)
    first, second = (np.array(colour, dtype=np.float32) for colour in paint.colours)
    return first + share_hw[:, :, None] * (second - first)


def blend(
    canvas_HW3: Float, silhouette: Silhouette, paint: Paint, rng: np.random.Generator
) -> None:
    """Draw a painted silhouette over the canvas, in place, with smooth edges."""
    height, width = canvas_HW3.shape[:2]
    rows, columns, cover_hw = coverage(silhouette, height=height, width=width)
    if cover_hw.size == 0:
        return
    surface_hw3 = painted(paint, height=cover_hw.shape[0], width=cover_hw.shape[1], rng=rng)
    under_hw3 = canvas_HW3[rows, columns]
    under_hw3 += cover_hw[:, :, None] * (surface_hw3 - under_hw3)


def background(
    base: Colour, paint: Paint, *, height: int, width: int, rng: np.random.Generator
) -> Float:
    """Return a (height, width, 3) float32 backdrop: patches of light and colour around `base`, and a texture."""
    patches = np.array(base, dtype=np.float32) + rng.normal(0, 22, (4, 5, 3)).astype(np.float32)
    canvas_HW3 = cv2.resize(patches, (width, height), interpolation=cv2.INTER_CUBIC)
    texture_HW3 = painted(paint, height=height, width=width, rng=rng)
    return np.asarray(canvas_HW3 + texture_HW3, dtype=np.float32)


def scribble(canvas_HW3: Float, rng: np.random.Generator) -> None:
    """Draw one open stroke that belongs to no class, in place: a line, a bent line or an arc."""
    height, width = canvas_HW3.shape[:2]
    colour = tuple(float(c) for c in rng.uniform(10, 245, 3))
    thickness = int(rng.integers(1, 4))
    start = rng.uniform((0, 0), (width, height))
    length = float(rng.uniform(10, 90))
    if rng.random() < 0.4:
        angle, span = float(rng.uniform(0, 360)), float(rng.uniform(60, 200))
        axes = (int(length / 2) + 3, int(length * rng.uniform(0.2, 0.5)) + 3)
        centre = (int(start[0]), int(start[1]))
        cv2.ellipse(canvas_HW3, centre, axes, angle, 0, span, colour, thickness)
        return
    turns = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.uniform(-1.2, 1.2, rng.integers(1, 4)))
    steps = np.stack([np.cos(turns), np.sin(turns)], axis=1) * length / len(turns)
    points = np.concatenate([start[None], start + np.cumsum(steps, axis=0)])
    cv2.polylines(canvas_HW3, [np.rint(points).astype(np.int32)], False, colour, thickness)


def photographed(
    canvas_HW3: Float, *, gain: float, blur: float, noise: float, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Return the canvas as a camera would deliver it.

    Args:
        canvas_HW3: the scene, 0..255.
        gain: factor on the brightness.
        blur: standard deviation of a Gaussian in pixels, 0 = sharp.
        noise: standard deviation of the sensor's noise in grey levels.
        rng: source of the noise.

    Returns:
        (H, W, 3) uint8.
    """
    if blur > 0:
        canvas_HW3 = cv2.GaussianBlur(canvas_HW3, (0, 0), blur).astype(np.float32)
    grain_HW3 = rng.standard_normal(canvas_HW3.shape, dtype=np.float32)
    exposed_HW3 = canvas_HW3 * np.float32(gain) + grain_HW3 * np.float32(noise)
    return np.clip(np.rint(exposed_HW3), 0, 255).astype(np.uint8)
