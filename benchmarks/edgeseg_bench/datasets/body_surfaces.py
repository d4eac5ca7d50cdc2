"""The surface of the drawn people: which of 24 parts every pixel shows, and where on it, all in closed form.

A body is made of tubes, the limbs, the trunk, the head, hands and feet, which are joined at single points. A tube is
two charts, its back and its front (of the head its right and its left); u runs across a chart, v along the tube from
0 where it hangs on the body, or from the shoulders and the neck, to 1. The distance between two points is that of the
shortest way over the tubes: a metric, which needs no table. Parts are numbered as in DensePose-COCO.

Shape suffixes: N points, H W pixels; 2 = x, y in the picture.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg_bench.datasets import bodies
from edgeseg_bench.datasets.bodies import Body, Float
from edgeseg_bench.datasets.heads import rotation

Ints = npt.NDArray[np.int64]
Window: TypeAlias = tuple[slice, slice]
"""Rows and columns of a picture."""
Point: TypeAlias = "tuple[Float | float, Float | float]"
"""x around a tube and y along it, of one point or of many."""

NUM_PARTS = 24
SUBPIXEL_BITS = 4


@dataclass(frozen=True, kw_only=True)
class Tube:
    """A stretch of the surface around one part of the body, for a scale of 1.

    Attributes:
        charts: numbers of its back and its front.
        length: along v.
        width: of each chart, across.
        hangs_on: the tube that it is joined to; None for the trunk.
        place: x from the middle of that one's front, and y along it, of the point where it is joined.
    """

    charts: tuple[int, int]
    length: float
    width: float
    hangs_on: str | None = None
    place: tuple[float, float] = (0.0, 0.0)


def _side_tubes(side: str, sign: int, charts: dict[str, tuple[int, int]]) -> dict[str, Tube]:
    hip = (sign * bodies.HIP_HALF_WIDTH, bodies.TORSO)
    shoulder = (sign * bodies.SHOULDER_HALF_WIDTH, 0.0)
    sizes = {
        "thigh": (bodies.THIGH, 0.1, "trunk", hip),
        "shin": (bodies.SHIN, 0.07, f"{side}_thigh", (0.0, bodies.THIGH)),
        "foot": (0.08, 0.05, f"{side}_shin", (0.0, bodies.SHIN)),
        "upper_arm": (bodies.UPPER_ARM, 0.07, "trunk", shoulder),
        "forearm": (bodies.FOREARM, 0.05, f"{side}_upper_arm", (0.0, bodies.UPPER_ARM)),
        "hand": (0.05, 0.04, f"{side}_forearm", (0.0, bodies.FOREARM)),
    }
    return {
        f"{side}_{name}": Tube(
            charts=charts[name], length=length, width=width, hangs_on=parent, place=place
        )
        for name, (length, width, parent, place) in sizes.items()
    }


TUBES: dict[str, Tube] = {
    "trunk": Tube(charts=(1, 2), length=bodies.TORSO, width=2 * bodies.SHOULDER_HALF_WIDTH),
    "head": Tube(charts=(23, 24), length=bodies.HEAD, width=0.11, hangs_on="trunk"),
    **_side_tubes(
        "right",
        bodies.RIGHT,
        {
            "thigh": (7, 9),
            "shin": (11, 13),
            "foot": (6, 6),
            "upper_arm": (16, 18),
            "forearm": (20, 22),
            "hand": (3, 3),
        },
    ),
    **_side_tubes(
        "left",
        bodies.LEFT,
        {
            "thigh": (8, 10),
            "shin": (12, 14),
            "foot": (5, 5),
            "upper_arm": (15, 17),
            "forearm": (19, 21),
            "hand": (4, 4),
        },
    ),
}
_NAMES = tuple(TUBES)


# ---------------------------------------------------------------- distances


@dataclass(frozen=True)
class Places:
    """Points on the surface: (N,) number of the tube, (N,) x around it from the middle of its front, (N,) y along it."""

    tube: Ints
    x: Float
    y: Float

    def take(self, rows_M: Ints) -> Places:
        """Return some of the points."""
        return Places(self.tube[rows_M], self.x[rows_M], self.y[rows_M])


def places(parts_N: Ints, u_N: Float, v_N: Float) -> Places:
    """Return where charts and their coordinates are on the surface."""
    tube_of = np.zeros(NUM_PARTS + 1, np.int64)
    is_back = np.zeros(NUM_PARTS + 1, np.bool_)
    for number, tube in enumerate(TUBES.values()):
        back, front = tube.charts
        tube_of[[back, front]] = number
        is_back[back] = back != front
    tube_N = tube_of[parts_N]
    length, width = (
        np.array([getattr(tube, name) for tube in TUBES.values()])[tube_N]
        for name in ("length", "width")
    )
    across_N = (u_N - 0.5) * width
    return Places(tube_N, np.where(is_back[parts_N], width - across_N, across_N), v_N * length)


def geodesic(first: Places, second: Places) -> Float:
    """Return the distances (N,) of pairs of points over the surface, for a body of scale 1."""
    distances_N = np.zeros(len(first.x))
    pairs_N2 = np.stack([first.tube, second.tube], axis=1)
    for pair in np.unique(pairs_N2, axis=0):
        here = (pairs_N2 == pair).all(axis=1)
        way = _way(*(_NAMES[number] for number in pair))
        start, end = ((points.x[here], points.y[here]) for points in (first, second))
        if way is None:
            distances_N[here] = _on_tube(_NAMES[pair[0]], start, end)
        else:
            leave, between, enter = way
            distances_N[here] = (
                _on_tube(_NAMES[pair[0]], start, leave)
                + between
                + _on_tube(_NAMES[pair[1]], enter, end)
            )
    return distances_N


def _on_tube(name: str, start: Point, end: Point) -> Float:
    """Return the distances between points x, y of one tube: around it whichever way is shorter."""
    around = 2 * TUBES[name].width
    across = np.abs(np.subtract(start[0], end[0])) % around
    distance: Float = np.hypot(np.minimum(across, around - across), np.subtract(start[1], end[1]))
    return distance


@cache
def _way(first: str, second: str) -> tuple[tuple[float, float], float, tuple[float, float]] | None:
    """Return where the way from one tube to another leaves, how far it then is, and where it enters; None on one tube."""
    if first == second:
        return None
    up, down = list(_upwards(first)), list(_upwards(second))
    shared = next(name for name in up if name in down)
    steps = up[: up.index(shared)]
    others = down[: down.index(shared)]
    leave = (0.0, 0.0) if steps else TUBES[others[-1]].place
    enter = (0.0, 0.0) if others else TUBES[steps[-1]].place
    length = sum(_through(name, below) for below, name in itertools.pairwise(steps))
    length += sum(_through(name, below) for below, name in itertools.pairwise(others))
    if steps and others:
        ends = (TUBES[steps[-1]].place, TUBES[others[-1]].place)
        length += float(_on_tube(shared, *ends))
    return leave, length, enter


def _through(name: str, below: str) -> float:
    """Return the way over a tube from where another hangs on it to where it hangs itself."""
    return float(_on_tube(name, TUBES[below].place, (0.0, 0.0)))


def _upwards(name: str | None) -> Iterator[str]:
    while name is not None:
        yield name
        name = TUBES[name].hangs_on


# ---------------------------------------------------------------- pictures


@dataclass(frozen=True, eq=False)
class SurfacePicture:
    """The surface of one person in a picture: (H, W) part, 0 where it is not; (H, W) u and v."""

    parts: npt.NDArray[np.uint8]
    u: npt.NDArray[np.float32]
    v: npt.NDArray[np.float32]


def surface_of_body(body: Body, size: tuple[int, int]) -> SurfacePicture:
    """Return the surface of a person whom nothing hides, in a picture of height, width.

    The tubes lie over one another as `people_draw.draw_person` paints them.
    """
    painter = _Painter(body, size)
    order: list[tuple[float, Callable[[], None]]] = [
        (painter.depth(bodies.HEAD_BONE), painter.head),
        (painter.depth(bodies.TRUNK[2]), painter.trunk),
        *((painter.depth(bone), partial(painter.limb, bone)) for bone in bodies.LIMBS),
    ]
    for _, paint in sorted(order, key=lambda step: step[0], reverse=True):
        paint()
    return SurfacePicture(painter.parts, painter.u, painter.v)


class _Painter:
    """Paints tubes of one person, each over what is there: `people_draw` has the same outlines."""

    def __init__(self, body: Body, size: tuple[int, int]) -> None:
        self.body = body
        self.joints = dict(zip(bodies.JOINTS, bodies.joints(body), strict=True))
        self.parts = np.zeros(size, np.uint8)
        self.u, self.v = np.zeros(size, np.float32), np.zeros(size, np.float32)
        towards = np.array([0.0, 0.0, -1.0]) @ rotation(body.yaw, body.pitch, body.lean).T
        self.is_facing = bool(towards[2] < 0)

    def depth(self, bone: bodies.Bone) -> float:
        """Return how far from the camera the middle of a bone is; limbs count as behind the trunk."""
        first, second = (self.joints[name][2] for name in bone.joints)
        bias = 0.0 if bone in bodies.LIMBS else -0.01
        return float(first + second) / 2 + bias * self.body.scale

    def limb(self, bone: bodies.Bone) -> None:
        """Paint an arm's or leg's half, below it the hand or foot at its end."""
        scale = self.body.scale
        side = bone.joints[0].partition("_")[0]
        first, second = (self.joints[name][:2] for name in bone.joints)
        thick, thin = (radius * scale for radius in bone.radii)
        if bone.garment == "shin":
            toes = rotation(self.body.yaw, 0.0, self.body.lean) @ (0.0, 0.03, -0.07)
            self.capsule(
                f"{side}_foot", second, second + toes[:2] * scale, 0.026 * scale, 0.022 * scale
            )
        if bone.garment == "forearm":
            hand = second + 0.12 * (second - first)
            self.capsule(f"{side}_hand", hand, hand, thin, thin)
        self.capsule(f"{side}_{bone.garment}", first, second, thick, thin)

    def trunk(self) -> None:
        """Paint the trunk."""
        names = ("right_shoulder", "left_shoulder", "left_hip", "right_hip")
        corners = np.array([self.joints[name][:2] for name in names])
        radius = bodies.TRUNK[0].radii[1] * self.body.scale
        outline = np.rint(corners * 2**SUBPIXEL_BITS).astype(np.int32)
        inside = np.zeros(self.parts.shape, np.uint8)
        cv2.fillPoly(inside, [outline], 1, shift=SUBPIXEL_BITS)
        thickness = max(1, round(2 * radius))
        cv2.polylines(inside, [outline], True, 1, thickness=thickness, shift=SUBPIXEL_BITS)
        top, bottom = (corners[0] + corners[1]) / 2, (corners[2] + corners[3]) / 2
        window = self.window(corners, thickness)
        along, across = self.along_and_across(top, bottom, window)
        half_widths = np.array(
            [np.hypot(*(corners[1] - corners[0])), np.hypot(*(corners[2] - corners[3]))]
        )
        share = along / max(float(np.hypot(*(bottom - top))), 1e-6)
        half = half_widths[0] + (half_widths[1] - half_widths[0]) * np.clip(share, 0, 1)
        self.paint("trunk", window, inside[window] > 0, across / (half / 2 + radius), share)

    def head(self) -> None:
        """Paint the neck as a part of the trunk, and the head."""
        scale = self.body.scale
        neck, top = self.joints["upper_neck"][:2], self.joints["head_top"][:2]
        thorax = self.joints["thorax"][:2]
        throat = 0.032 * scale
        self.capsule("trunk", neck, thorax, throat, throat, at_v=0.0)
        radius = bodies.HEAD_BONE.radii[0] * scale
        half = (top - neck) / 2
        length = max(float(np.hypot(*half)), radius)
        window = self.window(np.stack([neck, top]), max(radius, length))
        along, across = self.along_and_across(neck, top, window)
        middle = along - np.hypot(*half)
        inside = (middle / length) ** 2 + (across / radius) ** 2 <= 1
        share = np.clip(across / radius, -1, 1)
        is_right = share < 0 if self.is_facing else share > 0
        v = 0.5 + 0.5 * middle / length
        right, left = TUBES["head"].charts
        for chart, is_here in ((right, is_right), (left, ~is_right)):
            self.put(chart, window, inside & is_here, np.abs(share), v)

    def capsule(
        self,
        name: str,
        first: Float,
        second: Float,
        first_radius: float,
        second_radius: float,
        *,
        at_v: float | None = None,
    ) -> None:
        """Paint a stretch with round ends."""
        window = self.window(np.stack([first, second]), max(first_radius, second_radius))
        along, across = self.along_and_across(first, second, window)
        length = float(np.hypot(*(second - first)))
        share = np.clip(along / max(length, 1e-6), 0, 1)
        radius = first_radius + (second_radius - first_radius) * share
        beyond = np.maximum(np.maximum(-along, along - length), 0)
        inside = across**2 + beyond**2 <= radius**2
        v = (along + first_radius) / (length + first_radius + second_radius)
        v = v if at_v is None else np.full_like(v, at_v)
        self.paint(name, window, inside, across / radius, v)

    def window(self, points_N2: Float, reach: float) -> Window:
        """Return the part of the picture that is at most so far from some points."""
        low = np.floor(points_N2.min(axis=0) - reach).astype(int) - 1
        high = np.ceil(points_N2.max(axis=0) + reach).astype(int) + 1
        height, width = self.parts.shape
        (left, top), (right, bottom) = (np.clip(each, 0, (width, height)) for each in (low, high))
        return slice(int(top), int(bottom)), slice(int(left), int(right))

    def along_and_across(self, first: Float, second: Float, window: Window) -> tuple[Float, Float]:
        """Return how many pixels along a stretch every pixel's centre lies, and how many beside it.

        Beside it counts from the person's right to the left as it is seen from the front, for a
        stretch that points down.
        """
        rows, columns = np.mgrid[window]
        offset = np.stack([columns + 0.5 - first[0], rows + 0.5 - first[1]], axis=-1)
        length = float(np.hypot(*(second - first)))
        axis = (second - first) / length if length > 1e-6 else np.array([0.0, 1.0])
        normal = np.array([axis[1], -axis[0]])
        return offset @ axis, offset @ normal

    def paint(
        self, name: str, window: Window, inside: npt.NDArray[np.bool_], across: Float, v: Float
    ) -> None:
        """Paint the chart of a tube that faces the camera."""
        back, front = TUBES[name].charts
        self.put(front if self.is_facing else back, window, inside, (across + 1) / 2, v)

    def put(
        self, chart: int, window: Window, inside: npt.NDArray[np.bool_], u: Float, v: Float
    ) -> None:
        """Write part, u and v where they belong, (h, w) arrays of a window."""
        self.parts[window][inside] = chart
        self.u[window][inside] = np.clip(u[inside], 0, 1)
        self.v[window][inside] = np.clip(v[inside], 0, 1)
