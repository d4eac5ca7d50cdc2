"""Drawn landscapes with figures in them: sky, ground and water as stuff, seen by a camera that may move.

A `Landscape` says what is where at every time; `view` gives the picture of one time and whose each pixel is, and
`flow` where each pixel goes. Everything moves rigidly, so that the flow is exact and not estimated.

Positions are in pixels, pixel i lies between i and i + 1. Shape suffixes: H W of the picture, h w of the world, which
is larger; 2 = x, y.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg_bench.datasets import shapes_draw
from edgeseg_bench.datasets.base import Annotation, Category
from edgeseg_bench.datasets.figures import (
    CLASSES,
    MIN_CONTRAST,
    NUM_FIGURES,
    Figure,
    inside,
    invent_figure,
    visible_figures,
)
from edgeseg_bench.datasets.segment_files import annotations_of
from edgeseg_bench.datasets.setting import SIDES, varied_colour
from edgeseg_bench.datasets.shapes_draw import Colour, Float, Silhouette
from edgeseg_runtime.results import Panoptic

STUFF = ("sky", "ground", "water")
CATEGORIES: tuple[Category, ...] = (
    *({"id": number, "name": name, "supercategory": "shape", "isthing": 1}
      for number, name in enumerate(CLASSES, 1)),
    *({"id": number, "name": name, "supercategory": "landscape", "isthing": 0}
      for number, name in enumerate(STUFF, 1 + len(CLASSES))),
)  # fmt: skip
STUFF_COLOURS: dict[str, Colour] = {
    "sky": (215.0, 170.0, 120.0),
    "ground": (70.0, 115.0, 125.0),
    "water": (150.0, 105.0, 45.0),
}
"""Mean colours, BGR."""
FIRST_FIGURE = 1 + len(STUFF)  # what a pixel's number is: 0 void, then stuff, then figures
MARGIN_SHARE = 0.45  # of the world around the first picture, in its longer side
MIN_PIXELS = 12  # of a segment; what is smaller is void, since nobody could tell what it is
VOID_CHANCE = 0.35

Numbers: TypeAlias = npt.NDArray[np.int32]
Points: TypeAlias = npt.NDArray[np.float64]


class Pose(NamedTuple):
    """A turned, scaled and moved picture: position = scale * turn @ point + shift."""

    angle: float
    scale: float
    shift: tuple[float, float]

    @property
    def matrix(self) -> Points:
        """(2, 2), scale and turn in one."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return self.scale * np.array([[cos, -sin], [sin, cos]])

    def apply(self, points: Points) -> Points:
        """Return points (..., 2) after it."""
        return points @ self.matrix.T + np.array(self.shift)

    def undo(self, points: Points) -> Points:
        """Return points (..., 2) before it."""
        return (points - np.array(self.shift)) @ np.linalg.inv(self.matrix).T

    def before(self, other: Pose) -> Pose:
        """Return what does this, then the other."""
        x, y = other.apply(np.array(self.shift)).tolist()
        return Pose(self.angle + other.angle, self.scale * other.scale, (x, y))


@dataclass(frozen=True, kw_only=True)
class Motion:
    """How something moves: linearly, with a swing, and there and back again over the whole clip.

    Attributes:
        speed: x, y per frame.
        swing: x, y of the largest deviation.
        period: of the swing, in frames.
        excursion: x, y of the way to where it turns, half-way through the clip.
        spin: radians per frame.
        zoom: largest relative change of size.
    """

    speed: tuple[float, float] = (0.0, 0.0)
    swing: tuple[float, float] = (0.0, 0.0)
    period: float = 8.0
    excursion: tuple[float, float] = (0.0, 0.0)
    spin: float = 0.0
    zoom: float = 0.0

    def at(self, time: int, num_frames: int) -> tuple[Points, float, float]:
        """Return the displacement (2,), the turn and the factor on the size at a time; none at time 0."""
        wave = np.sin(2 * np.pi * time / self.period)
        turning = np.sin(np.pi * time / max(num_frames - 1, 1))
        moved = (
            np.array(self.speed) * time
            + np.array(self.swing) * wave
            + np.array(self.excursion) * turning
        )
        return moved, self.spin * time, 1 + self.zoom * float(wave)


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """What is where, at every time.

    Attributes:
        height, width: of the picture.
        num_frames: of the clip.
        seed: of the textures.
        horizon: of the first picture's height.
        shore: x, y and half axes of the water, in the first picture's width and height.
        fog: the same of what belongs to no class; None without.
        colours: of sky, ground and water.
        figures: from the farthest to the nearest, where they are in the first picture.
        motions: of the figures, in the world.
        camera: its own motion.
        gain, noise: of the camera's sensor, see `shapes_draw.photographed`.
    """

    height: int
    width: int
    num_frames: int
    seed: int
    horizon: float
    shore: tuple[float, float, float, float]
    fog: tuple[float, float, float, float] | None
    colours: tuple[Colour, ...]
    figures: tuple[Figure, ...]
    motions: tuple[Motion, ...]
    camera: Motion
    gain: float
    noise: float

    @property
    def margin(self) -> int:
        """Pixels of the world on each side of the first picture."""
        return round(MARGIN_SHARE * max(self.height, self.width)) if self.num_frames > 1 else 2

    def camera_pose(self, time: int) -> Pose:
        """Return how the first picture's pixels lie in the picture of a time."""
        moved, angle, scale = self.camera.at(time, self.num_frames)
        middle = np.array([self.width / 2, self.height / 2])
        turn = Pose(angle, scale, (0.0, 0.0))
        x, y = (middle - turn.apply(middle + moved)).tolist()
        return Pose(angle, scale, (x, y))

    def figure_pose(self, index: int, time: int) -> Pose:
        """Return how a figure's own pixels, about its centre, lie in the picture of a time."""
        silhouette = self.figures[index].silhouette
        moved, angle, scale = self.motions[index].at(time, self.num_frames)
        x, y = (np.array(silhouette.centre) + moved).tolist()
        return Pose(silhouette.angle + angle, scale, (x, y)).before(self.camera_pose(time))

    def silhouette(self, index: int, time: int) -> Silhouette:
        """Return a figure's outline in the picture of a time."""
        pose, first = self.figure_pose(index, time), self.figures[index].silhouette
        return replace(first, centre=pose.shift, radius=first.radius * pose.scale, angle=pose.angle)


class Flow(NamedTuple):
    """Where the pixels of one picture are in another one.

    Attributes:
        flow: (H, W, 2) float32 x, y from each pixel's centre to where it is in the other picture.
        is_visible: (H, W) bool: it is inside that picture, and nothing hides it there.
    """

    flow: npt.NDArray[np.float32]
    is_visible: npt.NDArray[np.bool_]


def invent_landscape(rng: np.random.Generator, *, num_frames: int = 1) -> Landscape:
    """Invent a landscape, with a camera and figures that move if it has several frames.

    Of a clip, one figure leaves the picture half-way and comes back.
    """
    height, width = (int(side) for side in rng.integers(SIDES[0], SIDES[1] + 1, 2))
    colours = tuple(varied_colour(rng, STUFF_COLOURS[name], 0.12) for name in STUFF)
    horizon = float(rng.uniform(0.25, 0.55))
    figures = _invent_figures(rng, height, width, colours)
    moves = num_frames > 1
    return Landscape(
        height=height,
        width=width,
        num_frames=num_frames,
        seed=int(rng.integers(2**31)),
        horizon=horizon,
        shore=(
            float(rng.uniform(0.2, 0.8)),
            float(rng.uniform(horizon + 0.2, 0.95)),
            float(rng.uniform(0.25, 0.5)),
            float(rng.uniform(0.1, 0.3)),
        ),
        fog=_invent_fog(rng) if rng.random() < VOID_CHANCE else None,
        colours=colours,
        figures=figures,
        motions=tuple(
            _invent_motion(rng, figure, (height, width), leaves=index == len(figures) - 1)
            if moves
            else Motion()
            for index, figure in enumerate(figures)
        ),
        camera=_invent_camera(rng, (height, width), num_frames) if moves else Motion(),
        gain=float(rng.uniform(0.75, 1.1)),
        noise=float(rng.uniform(1, 8)),
    )


def view(landscape: Landscape, time: int = 0) -> tuple[Float, Numbers]:
    """Return the picture of a time and whose each pixel is.

    Returns:
        canvas: (H, W, 3) float32, BGR, before the camera's noise.
        numbers: (H, W): 0 void, 1.. sky, ground, water, then the figures.
    """
    world_hw3, numbers_hw = _world(landscape)
    places_HW2 = landscape.camera_pose(time).undo(_pixels(landscape)) + landscape.margin
    x, y = np.moveaxis(places_HW2.astype(np.float32) - np.float32(0.5), 2, 0)
    canvas_HW3: Float = np.asarray(
        cv2.remap(world_hw3, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32
    )
    column, row = np.moveaxis(np.floor(places_HW2).astype(int), 2, 0)
    numbers_HW = numbers_hw[
        row.clip(0, numbers_hw.shape[0] - 1), column.clip(0, numbers_hw.shape[1] - 1)
    ].astype(np.int32)
    for index in range(len(landscape.figures)):
        _draw_figure(landscape, index, time, canvas_HW3, numbers_HW)
    return canvas_HW3, numbers_HW


def flow(landscape: Landscape, time: int, other: int) -> Flow:
    """Return where the pixels of the picture of one time are at another time."""
    _, numbers_HW = view(landscape, time)
    _, others_HW = view(landscape, other)
    pixels_HW2 = _pixels(landscape)
    at_other_HW2 = landscape.camera_pose(other).apply(landscape.camera_pose(time).undo(pixels_HW2))
    for index in range(len(landscape.figures)):
        own = numbers_HW == FIRST_FIGURE + index
        before, after = landscape.figure_pose(index, time), landscape.figure_pose(index, other)
        at_other_HW2[own] = after.apply(before.undo(pixels_HW2[own]))
    column, row = np.moveaxis(np.floor(at_other_HW2).astype(int), 2, 0)
    height, width = numbers_HW.shape
    is_visible = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    seen = others_HW[row.clip(0, height - 1), column.clip(0, width - 1)]
    return Flow((at_other_HW2 - pixels_HW2).astype(np.float32), is_visible & (seen == numbers_HW))


def panoptic_annotations(
    landscape: Landscape, numbers_HW: Numbers, *, image_id: int
) -> tuple[Annotation, ...]:
    """Return one annotation for each figure and each stuff that is seen; of a clip with "track_id".

    Segments of fewer than `MIN_PIXELS` pixels are void.
    """
    counts = np.bincount(numbers_HW.ravel(), minlength=FIRST_FIGURE + len(landscape.figures))
    seen = [number for number in range(1, len(counts)) if counts[number] >= MIN_PIXELS]
    categories = np.array([_category(landscape, number) for number in seen], np.int64)
    is_thing = np.array([number >= FIRST_FIGURE for number in seen], np.bool_)
    tracks = np.array([number - FIRST_FIGURE + 1 for number in seen], np.int64)
    found = Panoptic(
        np.where(np.isin(numbers_HW, seen), numbers_HW, 0),
        np.array(seen, np.int64),
        categories,
        is_thing,
        np.ones(len(seen), np.float32),
        track_ids=np.where(is_thing, tracks, -1) if landscape.num_frames > 1 else None,
    )
    return annotations_of(found, image_id=image_id)


def draw(
    rng: np.random.Generator, *, image_id: int
) -> tuple[npt.NDArray[np.uint8], tuple[Annotation, ...]]:
    """Return a picture of a landscape that follows from the generator, and its segments."""
    landscape = invent_landscape(rng)
    canvas_HW3, numbers_HW = view(landscape)
    return (
        photographed(landscape, canvas_HW3, rng),
        panoptic_annotations(landscape, numbers_HW, image_id=image_id),
    )


def photographed(
    landscape: Landscape, canvas_HW3: Float, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Return a view as the landscape's camera delivers it, (H, W, 3) uint8."""
    return shapes_draw.photographed(
        canvas_HW3, gain=landscape.gain, blur=0.0, noise=landscape.noise, rng=rng
    )


def _category(landscape: Landscape, number: int) -> int:
    if number >= FIRST_FIGURE:
        return landscape.figures[number - FIRST_FIGURE].category_id
    return len(CLASSES) + number


def _pixels(landscape: Landscape) -> Points:
    """Return (H, W, 2) the centres of the picture's pixels."""
    y, x = np.mgrid[: landscape.height, : landscape.width] + 0.5
    return np.stack([x, y], axis=2)


def _invent_figures(
    rng: np.random.Generator, height: int, width: int, colours: Sequence[Colour]
) -> tuple[Figure, ...]:
    figures: list[Figure] = []
    wanted = int(rng.integers(NUM_FIGURES[0], NUM_FIGURES[1] + 1))
    while len(figures) < wanted:
        figure = invent_figure(rng, height, width, colours[0], figures)
        if all(_contrast(figure.paint.colours[0], colour) >= MIN_CONTRAST for colour in colours):
            # What fills the window, and not the figure, would not move with it.
            patterns = ("plain", "stripes", "checks", "dots")
            pattern = figure.paint.pattern
            if pattern not in patterns:
                pattern = str(rng.choice(patterns))
            figures.append(replace(figure, paint=replace(figure.paint, pattern=pattern)))
    return visible_figures(figures, height, width)


def _contrast(first: Colour, second: Colour) -> float:
    return max(abs(a - b) for a, b in zip(first, second, strict=True))


def _invent_fog(rng: np.random.Generator) -> tuple[float, float, float, float]:
    x, y = rng.uniform(0.1, 0.9, 2).tolist()
    half_width, half_height = rng.uniform(0.08, 0.2, 2).tolist()
    return x, y, half_width, half_height


def _invent_motion(
    rng: np.random.Generator, figure: Figure, size: tuple[int, int], *, leaves: bool
) -> Motion:
    swing_x, swing_y = rng.uniform(-8, 8, 2).tolist()
    excursion = (0.0, 0.0)
    if leaves:  # sideways, towards the nearer border, past the reach of the camera
        height, width = size
        x, _ = figure.silhouette.centre
        way = x if x < width / 2 else width - x
        way += 2 * figure.silhouette.radius + MARGIN_SHARE * max(height, width)
        excursion = (way if x >= width / 2 else -way, 0.0)
    speed_x, speed_y = (0.0, 0.0) if leaves else rng.uniform(-3, 3, 2).tolist()
    return Motion(
        speed=(speed_x, speed_y),
        swing=(swing_x, swing_y),
        period=float(rng.uniform(6, 14)),
        excursion=excursion,
        spin=float(rng.uniform(-0.15, 0.15)),
        zoom=float(rng.uniform(0, 0.15)),
    )


def _invent_camera(rng: np.random.Generator, size: tuple[int, int], num_frames: int) -> Motion:
    """Return a motion in which the camera stays in its world: see `MARGIN_SHARE`."""
    reach = 0.15 * max(size)
    speed_x, speed_y = (rng.uniform(-1, 1, 2) * min(4.0, reach / num_frames)).tolist()
    swing_x, swing_y = (rng.uniform(-0.3, 0.3, 2) * reach).tolist()
    return Motion(
        speed=(speed_x, speed_y),
        swing=(swing_x, swing_y),
        period=float(rng.uniform(8, 20)),
        spin=float(rng.uniform(-0.06, 0.06)) / num_frames,
        zoom=float(rng.uniform(0, 0.05)),
    )


@functools.lru_cache(maxsize=4)
def _world(landscape: Landscape) -> tuple[Float, npt.NDArray[np.uint8]]:
    """Return the surroundings without figures: colours (h, w, 3) and numbers (h, w)."""
    rng = np.random.default_rng(landscape.seed)
    height, width = (side + 2 * landscape.margin for side in (landscape.height, landscape.width))
    y, x = np.mgrid[:height, :width].astype(np.float32) + np.float32(0.5)
    x = (x - landscape.margin) / landscape.width  # now in sides of the first picture
    y = (y - landscape.margin) / landscape.height
    hills = 0.04 * np.sin(2 * np.pi * (x * rng.uniform(0.6, 1.6) + rng.random()))
    is_ground = y > landscape.horizon + hills
    numbers_hw = np.where(is_ground, np.uint8(2), np.uint8(1))
    numbers_hw[is_ground & _blob(x, y, landscape.shore, rng)] = 3
    surfaces = [
        _surface(name, colour, (height, width), rng)
        for name, colour in zip(STUFF, landscape.colours, strict=True)
    ]
    world_hw3 = np.choose((numbers_hw - 1)[:, :, None], surfaces)
    if landscape.fog is not None:
        is_fog = _blob(x, y, landscape.fog, rng)
        numbers_hw[is_fog] = 0
        world_hw3[is_fog] = rng.normal(190, 14, (int(is_fog.sum()), 1))
    return np.asarray(world_hw3, np.float32), numbers_hw


def _blob(
    x: Float, y: Float, place: tuple[float, float, float, float], rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Return where a wavy ellipse of centre x, y and half axes is."""
    dx, dy = (x - place[0]) / place[2], (y - place[1]) / place[3]
    waves = 0.12 * np.sin(int(rng.integers(2, 6)) * np.arctan2(dy, dx) + rng.uniform(0, 6))
    return np.asarray(np.hypot(dx, dy) < 1 + waves)


def _surface(name: str, colour: Colour, size: tuple[int, int], rng: np.random.Generator) -> Float:
    """Return (h, w, 3) float32 of one stuff: sky has clouds, ground is grainy, water has waves."""
    height, width = size
    if name == "sky":
        coarse = rng.random((max(2, height // 24), max(2, width // 36)), dtype=np.float32)
        shade = 70 * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) - 25
    elif name == "ground":
        grain = rng.normal(0, 22, (height, width)).astype(np.float32)
        shade = cv2.GaussianBlur(grain, (0, 0), 0.8) + 8 * np.sin(
            np.arange(width, dtype=np.float32) / float(rng.uniform(3, 6))
        )
    else:
        rows = np.arange(height, dtype=np.float32)[:, None]
        columns = np.arange(width, dtype=np.float32)[None]
        ripple = 1.5 * np.sin(columns / float(rng.uniform(8, 16)))
        shade = 20 * np.sin(rows * float(rng.uniform(0.5, 0.9)) + ripple)
    surface = np.array(colour, np.float32) + np.asarray(shade, np.float32)[:, :, None]
    return np.asarray(surface.clip(0, 255), np.float32)


def _draw_figure(
    landscape: Landscape, index: int, time: int, canvas_HW3: Float, numbers_HW: Numbers
) -> None:
    """Draw a figure over canvas and numbers; its texture moves and turns with it."""
    silhouette = landscape.silhouette(index, time)
    height, width = numbers_HW.shape
    rows, columns, cover_hw = shapes_draw.coverage(silhouette, height=height, width=width)
    if cover_hw.size == 0:
        return
    y, x = np.mgrid[rows, columns] + 0.5
    own_hw2 = landscape.figure_pose(index, time).undo(np.stack([x, y], axis=2))
    paint = landscape.figures[index].paint
    surface_hw3 = shapes_draw.painted_at(
        paint,
        own_hw2[:, :, 0].astype(np.float32),
        own_hw2[:, :, 1].astype(np.float32),
        np.random.default_rng(landscape.seed),
    )
    under_hw3 = canvas_HW3[rows, columns]
    under_hw3 += cover_hw[:, :, None] * (surface_hw3 - under_hw3)
    rows, columns, inside_hw = inside(silhouette, height, width)
    numbers_HW[rows, columns][inside_hw] = FIRST_FIGURE + index
