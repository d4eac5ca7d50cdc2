"""An analytic head: a smooth surface with a person's shape and expression, its mesh and its landmarks.

The surface is a formula, so that every landmark and mesh vertex is known exactly in all poses.

Coordinates:
    face: u from -1 (the ear on the left of a frontal picture) to 1, v from -0.85 (hairline) to 1 (chin).
        A feature such as the tip of the nose has the same u, v in every person.
    head: x to the right, y down, z away from the camera; the face is 1.85 units high, the origin lies
        inside the head, at half the height of the face.
    picture: x, y in pixels, z in pixels relative to the origin of the head.

Shape suffixes: N = points, V = vertices of the mesh, T = triangles, C = points of the jaw's contour,
K = candidates for one of them; 2 = u, v or x, y; 3 = x, y, z.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Float: TypeAlias = npt.NDArray[np.float64]

# Places of the features in face coordinates.
HAIRLINE_V, BROW_V, EYE_V, NOSE_TIP_V, NOSE_BASE_V, MOUTH_V = -0.85, -0.33, -0.14, 0.24, 0.34, 0.56
EYE_U = MOUTH_CORNER_U = 0.27
EYE_HALF_WIDTH = 0.125
CONTOUR_V = -0.14  # the jaw's contour starts beside the eyes
EAR_LONGITUDE = np.deg2rad(85)  # of u = 1

# A mesh vertex lies at each combination, so that the eyes, the tip of the nose and the corners of the
# mouth are vertices.
MESH_U = (-1.0, -0.85, -0.65, -0.45, -EYE_U, -0.12, 0.0, 0.12, EYE_U, 0.45, 0.65, 0.85, 1.0)
MESH_V = (
    HAIRLINE_V,
    -0.6,
    BROW_V,
    EYE_V,
    0.03,
    0.14,
    NOSE_TIP_V,
    NOSE_BASE_V,
    0.45,
    MOUTH_V,
    0.69,
    0.84,
    0.98,
)
NUM_VERTICES = len(MESH_U) * len(MESH_V)
MESH_UV: Float = np.array([(u, v) for v in MESH_V for u in MESH_U])

NUM_CONTOUR = 33
NUM_LANDMARKS = 98
# Which of WFLW's 98 points are iBUG's 68: every second point of the contour, the upper edges of the
# brows, six of eight points around each eye; WFLW's pupils have no counterpart.
POINTS_68_FROM_98 = (
    *range(0, 33, 2),
    *range(33, 38),
    *range(42, 47),
    *range(51, 60),
    *(60, 61, 63, 64, 65, 67),
    *(68, 69, 71, 72, 73, 75),
    *range(76, 96),
)
# Pupils, tip of the nose, corners of the mouth: left before right as seen in the picture.
POINTS_5_FROM_98 = (96, 97, 54, 76, 82)


def _vertex(u: float, v: float) -> int:
    return MESH_V.index(v) * len(MESH_U) + MESH_U.index(u)


# The vertices that are the five landmarks, in their order.
VERTICES_5 = (
    _vertex(-EYE_U, EYE_V),
    _vertex(EYE_U, EYE_V),
    _vertex(0.0, NOSE_TIP_V),
    _vertex(-MOUTH_CORNER_U, MOUTH_V),
    _vertex(MOUTH_CORNER_U, MOUTH_V),
)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A person's head and expression.

    The first group are deviations from the mean head: most people lie between -1 and 1, all between
    -1.6 and 1.6. The second group is the expression: 0 = at rest, 1 = as far as it goes.
    """

    width: float = 0.0
    jaw: float = 0.0
    chin: float = 0.0
    cheeks: float = 0.0
    brow_ridge: float = 0.0
    brow_height: float = 0.0
    brow_tilt: float = 0.0
    eye_spacing: float = 0.0
    eye_height: float = 0.0
    nose_length: float = 0.0
    nose_width: float = 0.0
    nose_protrusion: float = 0.0
    mouth_width: float = 0.0
    mouth_height: float = 0.0
    lips: float = 0.0

    mouth_opening: float = 0.0
    smile: float = 0.0
    squint: float = 0.0


# How much the mean man differs from the mean person; the mean woman differs by the opposite.
MALE_DEVIATION = {"width": 0.3, "jaw": 0.7, "chin": 0.4, "brow_ridge": 0.7, "lips": -0.5}
BUILD = tuple(field.name for field in fields(Shape))[:-3]  # all but the expression


@dataclass(frozen=True, kw_only=True)
class Head:
    """A head in front of the camera.

    Attributes:
        shape: the person and the expression.
        centre: x, y of its origin in the picture.
        scale: pixels per unit of length.
        yaw: radians, positive = the face looks to the right of the picture.
        pitch: radians, positive = the face looks down.
        roll: radians, positive = turned clockwise in the picture.
    """

    shape: Shape
    centre: tuple[float, float]
    scale: float
    yaw: float
    pitch: float
    roll: float


def invent_shape(rng: np.random.Generator, *, gender: int) -> Shape:
    """Invent a person; gender is 0 = female or 1 = male."""
    means = [MALE_DEVIATION.get(name, 0.0) * (1 if gender else -1) for name in BUILD]
    build = np.clip(rng.normal(means, 0.65), -1.6, 1.6).tolist()
    opening = float(rng.uniform(0.2, 1.0)) if rng.random() < 0.35 else 0.0
    smile = float(rng.uniform(0.3, 1.0)) if rng.random() < 0.4 else float(rng.uniform(-0.3, 0.3))
    squint = float(rng.uniform(0, 0.6))
    return Shape(
        **dict(zip(BUILD, build, strict=True)), mouth_opening=opening, smile=smile, squint=squint
    )


def surface(shape: Shape, u: Float, v: Float) -> Float:
    """Return the points (..., 3) in head coordinates that lie at the face coordinates u, v.

    u and v are broadcast. u beyond -1 and 1 is the back of the head, v below -0.85 the crown.
    """
    longitude = _longitude(shape, u, v)
    height = _height(shape, u, v)
    # Below the temples a rounded jaw, above them half an ellipsoid.
    reach = 1.2 + 0.15 * shape.mouth_opening + 0.06 * shape.chin
    down = np.clip((height + 0.15) / reach, 0, 0.985)
    up = np.clip((-0.15 - height) / 1.12, 0, 1)
    profile = np.sqrt((1 - down ** (2.2 + 0.3 * shape.jaw)) * (1 - up**2))
    half_width = (0.72 + 0.035 * shape.width) * profile
    x = half_width * np.sin(longitude)
    jaw_forward = 0.33 * np.clip((height - 0.1) / 0.9, 0, 1.1) ** 2  # the neck is behind the jaw
    z = -0.8 * profile**0.8 * np.cos(longitude) - jaw_forward - _relief(shape, u, v)
    return np.stack(np.broadcast_arrays(x, height - 0.5 * (1 + HAIRLINE_V), z), axis=-1)


def landmark_coordinates(shape: Shape) -> Float:
    """Return the face coordinates (98, 2) of the landmarks in the order of WFLW.

    Those of the jaw's contour are for a frontal picture; `landmarks` moves them to the visible outline.
    """
    return _neutral_landmarks() + np.tensordot(
        (shape.brow_tilt, shape.squint, shape.lips), _landmark_shifts(), axes=1
    )


@functools.cache
def _neutral_landmarks() -> Float:
    return _landmark_outlines(Shape())


@functools.cache
def _landmark_shifts() -> Float:
    """Return how brow_tilt, squint and lips move the landmarks (3, 98, 2): all outlines are linear in them."""
    units = (Shape(brow_tilt=1.0), Shape(squint=1.0), Shape(lips=1.0))
    return np.stack([_landmark_outlines(unit) for unit in units]) - _neutral_landmarks()


def _landmark_outlines(shape: Shape) -> Float:
    return np.concatenate(
        [
            contour_coordinates(),
            brow_coordinates(shape, side=-1),
            brow_coordinates(shape, side=1),
            [(0, -0.12), (0, 0.0), (0, 0.12), (0, NOSE_TIP_V)],
            [(u, NOSE_BASE_V - 0.06 * abs(u) / 0.12) for u in (-0.12, -0.06, 0, 0.06, 0.12)],
            eye_coordinates(shape, side=-1),
            eye_coordinates(shape, side=1),
            lip_coordinates(shape, inner=False),
            lip_coordinates(shape, inner=True),
            [(-EYE_U, EYE_V), (EYE_U, EYE_V)],
        ]
    )


def contour_coordinates() -> Float:
    """Return the contour of the jaw (33, 2) from the left ear over the chin to the right ear."""
    t = np.linspace(-1, 1, NUM_CONTOUR)
    side = np.clip((np.abs(t) - 0.28) / 0.72, 0, 1)  # 0 at the corner of the chin, 1 at the ear
    below = np.clip(np.abs(t) / 0.28, 0, 1)  # 0 at the tip of the chin, 1 at its corner
    v = np.where(side > 0, 0.92 + side * (CONTOUR_V - 0.92), 1.0 - 0.08 * below**2)
    return np.stack([np.sign(t) * below, v], axis=1)


def brow_coordinates(shape: Shape, *, side: int, thickness: float = 0.055) -> Float:
    """Return the outline of a brow (9, 2): five points above from left to right, four below back."""
    along = np.linspace(-1, 1, 5)  # from the temple to the nose
    u = side * (0.29 - 0.19 * along)
    arch = 0.05 * (1 - along**2) - 0.02 * along
    above = BROW_V - arch + 0.025 * shape.brow_tilt * along
    inwards = np.stack([u, above], axis=1)
    below = np.stack([u, above + thickness], axis=1)[1:]
    if side < 0:
        return np.concatenate([inwards, below[::-1]])
    return np.concatenate([inwards[::-1], below])


def eye_coordinates(shape: Shape, *, side: int, points_per_lid: int = 3) -> Float:
    """Return the outline of an eye (2 * points_per_lid + 2, 2), clockwise from its left corner."""
    along = np.linspace(-1, 1, points_per_lid + 2)
    u = side * EYE_U + EYE_HALF_WIDTH * along
    upper = np.stack([u, EYE_V - lid_height(shape, along)], axis=1)
    lower = np.stack([u, EYE_V + 0.6 * lid_height(shape, along)], axis=1)
    return np.concatenate([upper, lower[-2:0:-1]])


def lid_height(shape: Shape, along: Float) -> Float:
    """Return how far the upper lid is above the corners, for -1 to 1 along the eye."""
    return 0.07 * (1 - 0.7 * shape.squint) * (1 - along**2) ** 0.8


def lip_coordinates(shape: Shape, *, inner: bool) -> Float:
    """Return the outer (12, 2) or inner (8, 2) outline of the lips, clockwise from the left corner."""
    num_above = 3 if inner else 5
    width = MOUTH_CORNER_U * (0.88 if inner else 1.0)
    u = np.linspace(-width, width, num_above + 2)
    taper = 1 - (u / width) ** 2
    above = below = 0.02 * taper
    if not inner:
        dip = 0.02 * np.exp(-((u / 0.05) ** 2))
        above = (0.075 + 0.015 * shape.lips) * taper**0.8 - dip
        below = (0.095 + 0.02 * shape.lips) * taper**0.8
    upper = np.stack([u, MOUTH_V - above], axis=1)
    lower = np.stack([u, MOUTH_V + below], axis=1)
    return np.concatenate([upper, lower[-2:0:-1]])


def turned(head: Head, points_N3: Float) -> Float:
    """Return points (..., 3) in head coordinates as the camera sees their directions: yaw, pitch, roll."""
    return points_N3 @ rotation(head.yaw, head.pitch, head.roll).T


def projected(head: Head, points_N3: Float) -> Float:
    """Return points (..., 3) in head coordinates as picture coordinates, under weak perspective."""
    return turned(head, points_N3) * head.scale + (*head.centre, 0.0)


@functools.lru_cache(maxsize=32)
def rotation(yaw: float, pitch: float, roll: float) -> Float:
    """Return the 3 x 3 matrix that turns by yaw, then pitch, then roll; see `Head` for their signs."""
    cos, sin = np.cos((yaw, pitch, roll)), np.sin((yaw, pitch, roll))
    about_y = np.array([[cos[0], 0, -sin[0]], [0, 1, 0], [sin[0], 0, cos[0]]])
    about_x = np.array([[1, 0, 0], [0, cos[1], -sin[1]], [0, sin[1], cos[1]]])
    about_z = np.array([[cos[2], -sin[2], 0], [sin[2], cos[2], 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


def mesh(head: Head) -> Float:
    """Return the vertices (V, 3) in picture coordinates."""
    return projected(head, surface(head.shape, *MESH_UV.T))


def landmarks(head: Head) -> Float:
    """Return the 98 landmarks of WFLW (98, 2) in the picture.

    The contour follows the outline of the face that is visible in this pose, as annotators draw it:
    each of its points is the outermost one at its height between its frontal place and the cheek.
    """
    u, v = landmark_coordinates(head.shape).T
    points_N2 = projected(head, surface(head.shape, u, v))[:, :2]
    u_C, v_C = u[:NUM_CONTOUR], v[:NUM_CONTOUR]
    candidates_KC3 = surface(head.shape, u_C * np.linspace(1, 0.45, 12)[:, None], v_C)
    upright_KC3 = candidates_KC3 @ rotation(head.yaw, head.pitch, 0.0).T
    outermost_C = np.argmax(upright_KC3[..., 0] * np.sign(u_C), axis=0)
    contour_C3 = candidates_KC3[outermost_C, np.arange(NUM_CONTOUR)]
    points_N2[:NUM_CONTOUR] = projected(head, contour_C3)[:, :2]
    return points_N2


def _bump(x: Float, centre: float, width: float) -> Float:
    return np.exp(-(((x - centre) / width) ** 2))


def _longitude(shape: Shape, u: Float, v: Float) -> Float:
    """Return the angle around the vertical axis: eyes, nose and mouth stretch sideways."""
    stretch = (
        0.07 * shape.eye_spacing * _bump(v, EYE_V, 0.25)
        + 0.14 * shape.nose_width * _bump(v, 0.3, 0.12)
        + (0.08 * shape.mouth_width + 0.12 * shape.smile - 0.1 * shape.mouth_opening)
        * _bump(v, MOUTH_V, 0.14)
    )
    return EAR_LONGITUDE * u * (1 + stretch * np.clip(1 - u**2, 0, 1))


def _height(shape: Shape, u: Float, v: Float) -> Float:
    """Return the height in the head: features move up and down, the jaw opens, the mouth smiles."""
    opening, across = shape.mouth_opening, np.clip(1 - (u / MOUTH_CORNER_U) ** 2, 0, 1)
    lower_lip = np.clip((v - MOUTH_V + 0.02) / 0.04, 0, 1)
    towards_chin = np.clip((v - MOUTH_V) / (1 - MOUTH_V), 0, 1)
    drop = opening * lower_lip * (0.2 * across * (1 - towards_chin) + 0.15 * towards_chin)
    corners = 0.06 * shape.smile * _bump(v, MOUTH_V, 0.12) * _bump(np.abs(u), MOUTH_CORNER_U, 0.14)
    return (
        v
        + 0.03 * shape.eye_height * _bump(v, EYE_V, 0.3)
        - 0.03 * shape.brow_height * _bump(v, BROW_V, 0.13)
        + 0.035 * shape.nose_length * _bump(v, 0.27, 0.2)
        + 0.03 * shape.mouth_height * _bump(v, MOUTH_V, 0.2)
        + 0.06 * shape.chin * towards_chin
        + drop
        - corners
    )


def _relief(shape: Shape, u: Float, v: Float) -> Float:
    """Return how far the surface stands out towards the camera."""
    ridge = np.where(
        v < NOSE_TIP_V,
        np.clip((v + 0.22) / (NOSE_TIP_V + 0.22), 0, 1) ** 1.2,
        _bump(v, NOSE_TIP_V, 0.08),
    )
    aside = np.abs(u)
    return (
        0.26
        * (1 + 0.2 * shape.nose_protrusion)
        * ridge
        * np.exp(-((u / (0.06 + 0.04 * ridge)) ** 2))
        + 0.06 * _bump(aside, 0.1, 0.05) * _bump(v, 0.29, 0.06)
        + (0.05 + 0.03 * shape.brow_ridge) * _bump(v, -0.3, 0.09) * _bump(u, 0, 0.5)
        - 0.08 * _bump(aside, EYE_U, 0.16) * _bump(v, -0.12, 0.1)
        + (0.04 + 0.02 * shape.cheeks + 0.03 * shape.smile)
        * _bump(aside, 0.45, 0.2)
        * _bump(v, 0.2, 0.18)
        + (0.06 + 0.02 * shape.lips) * _bump(u, 0, 0.22) * _bump(v, MOUTH_V, 0.1)
        + (0.06 + 0.03 * shape.chin) * _bump(u, 0, 0.2) * _bump(v, 0.88, 0.14)
    )


def _triangles() -> npt.NDArray[np.int64]:
    """Return the two triangles of every cell of the grid, clockwise in a frontal picture."""
    columns = len(MESH_U)
    corners = [
        row * columns + column for row in range(len(MESH_V) - 1) for column in range(columns - 1)
    ]
    first = np.array(corners)
    upper = np.stack([first, first + 1, first + columns], axis=1)
    lower = np.stack([first + 1, first + columns + 1, first + columns], axis=1)
    return np.concatenate([upper, lower])


def _mean_shape() -> Float:
    """Return the mean head's vertices, centred and scaled to a box of height 1."""
    vertices_V3 = surface(Shape(), *MESH_UV.T)
    low, high = vertices_V3.min(axis=0), vertices_V3.max(axis=0)
    vertices_V3[:, :2] -= (low + high)[:2] / 2
    return vertices_V3 / (high[1] - low[1])


TRIANGLES = _triangles()  # (T, 3) numbers of vertices
MEAN_SHAPE = (
    _mean_shape()
)  # (V, 3): the box of a frontal mean head has height 1 and its centre at 0, 0
