"""Geometric figures: what they are, how they are invented, and which pixels they cover."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeseg_bench.datasets import shapes_draw
from edgeseg_bench.datasets.setting import random_colour
from edgeseg_bench.datasets.shapes_draw import Colour, Paint, Silhouette

CLASSES = ("disc", "square", "triangle", "star", "ring", "cross")  # category ids 1..6
NUM_FIGURES = (2, 8)
SMALLEST_RADIUS = 7.0
LARGEST_RADIUS_SHARE = 0.30  # of the shorter picture side
MIN_VISIBLE_SHARE = 0.25  # of the figure's own area
MIN_VISIBLE_PIXELS = 50
MIN_CONTRAST = (
    70.0  # between a figure's colour and the backdrop's, in the channel where they differ most
)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One object: its class, outline and paint."""

    category_id: int
    silhouette: Silhouette
    paint: Paint


def _contrasting_colour(rng: np.random.Generator, other: Colour) -> Colour:
    colour = random_colour(rng)
    while max(abs(a - b) for a, b in zip(colour, other, strict=True)) < MIN_CONTRAST:
        colour = random_colour(rng)
    return colour


def invent_figure(
    rng: np.random.Generator, height: int, width: int, base: Colour, others: list[Figure]
) -> Figure:
    """Return a figure for a picture of height, width: none of the others' place, and not the colour `base`."""
    category_id = int(rng.integers(1, len(CLASSES) + 1))
    largest = LARGEST_RADIUS_SHARE * min(height, width)
    # Between uniform and log-uniform: all sizes, but not mostly tiny ones.
    radius = float(SMALLEST_RADIUS * (largest / SMALLEST_RADIUS) ** (rng.random() ** 0.6))
    silhouette = Silhouette(
        kind=CLASSES[category_id - 1],
        centre=_free_centre(rng, height, width, radius, others),
        radius=radius,
        angle=float(rng.uniform(0, 2 * np.pi)),
        squeeze=float(rng.uniform(0.75, 1.0)),
        waist=float(rng.random()),
    )
    first = _contrasting_colour(rng, base)
    second = tuple(float(c) for c in np.clip(np.array(first) + rng.uniform(-60, 60, 3), 0, 255))
    paint = Paint(
        pattern=str(rng.choice(list(shapes_draw.PATTERNS))),
        colours=(first, (second[0], second[1], second[2])),
        period=float(rng.uniform(4, 16)),
        angle=float(rng.uniform(0, np.pi)),
    )
    return Figure(category_id=category_id, silhouette=silhouette, paint=paint)


def _free_centre(
    rng: np.random.Generator, height: int, width: int, radius: float, others: list[Figure]
) -> tuple[float, float]:
    """Return a place that mostly avoids the others; after some tries any place, so that figures occlude."""
    margin = 0.6 * radius  # up to a fifth of the figure may be cut off by the border
    x = y = 0.0
    for _ in range(4):
        x = float(rng.uniform(margin, width - margin))
        y = float(rng.uniform(margin, height - margin))
        if all(_is_apart(x, y, radius, other.silhouette) for other in others):
            break
    return x, y


def _is_apart(x: float, y: float, radius: float, other: Silhouette) -> bool:
    distance = float(np.hypot(x - other.centre[0], y - other.centre[1]))
    return distance > 0.75 * (radius + other.radius)


def inside(
    silhouette: Silhouette, height: int, width: int
) -> tuple[slice, slice, npt.NDArray[np.bool_]]:
    """Return the window of a picture that a figure touches, and which of its pixels it covers by half at least."""
    rows, columns, cover_hw = shapes_draw.coverage(silhouette, height=height, width=width)
    return rows, columns, cover_hw >= 0.5


def visible_figures(figures: list[Figure], height: int, width: int) -> tuple[Figure, ...]:
    """Leave out the figures that the nearer ones hide, so that whatever is drawn is annotated."""
    taken_HW = np.zeros((height, width), dtype=np.bool_)
    kept: list[Figure] = []
    for figure in reversed(figures):
        rows, columns, inside_hw = inside(figure.silhouette, height, width)
        visible = int((inside_hw & ~taken_HW[rows, columns]).sum())
        if visible >= max(MIN_VISIBLE_PIXELS, MIN_VISIBLE_SHARE * int(inside_hw.sum())):
            kept.append(figure)
            taken_HW[rows, columns] |= inside_hw
    return tuple(reversed(kept))
