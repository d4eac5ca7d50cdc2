"""A canvas for polygons with smooth edges, on which faces and people are drawn.

Shape suffixes: H, W = picture, h, w = a window of it, P = corners of a polygon, N = polygons; 2 = x, y;
3 = blue, green, red; 4 = those and the coverage.
"""

from __future__ import annotations

from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg_bench.datasets.shapes_draw import Colour

Float: TypeAlias = npt.NDArray[np.float64]
Float32: TypeAlias = npt.NDArray[np.float32]
Canvas: TypeAlias = npt.NDArray[np.float32]
Layer: TypeAlias = npt.NDArray[np.uint8]

SUBPIXEL_BITS = 4


def enlargement_for(height: float) -> int:
    """Return by how much to enlarge the sketch of something that is so many pixels high."""
    return 4 if height < 30 else 3 if height < 60 else 2


def scaled(colour: Colour, factor: float) -> Colour:
    """Return a darker or brighter colour."""
    blue, green, red = (min(255.0, c * factor) for c in colour)
    return blue, green, red


class Sketch:
    """A window of the picture, enlarged, on which polygons are drawn; later averaged and blended in.

    Points are given in picture coordinates.
    """

    def __init__(self, canvas_HW3: Canvas, outline_P2: Float, enlargement: int) -> None:
        height, width = canvas_HW3.shape[:2]
        low = np.floor(outline_P2.min(axis=0)).astype(int) - 2
        high = np.ceil(outline_P2.max(axis=0)).astype(int) + 2
        self.columns = slice(min(max(0, low[0]), width), max(0, min(width, high[0])))
        self.rows = slice(min(max(0, low[1]), height), max(0, min(height, high[1])))
        self.enlargement = enlargement
        self._size = (
            max(0, self.rows.stop - self.rows.start),
            max(0, self.columns.stop - self.columns.start),
        )
        self.layer_hw4: Layer = np.zeros(
            (self._size[0] * enlargement, self._size[1] * enlargement, 4), dtype=np.uint8
        )

    @property
    def is_empty(self) -> bool:
        """Whether the window lies outside the picture."""
        return 0 in self._size

    def fill(self, points_P2: Float, colour: Colour) -> None:
        """Draw a polygon."""
        self.fill_or_line(self.fixed_point(points_P2), colour, None)

    def fill_or_line(
        self, points_P2: npt.NDArray[np.int32], colour: Colour, width: float | None
    ) -> None:
        """Draw a polygon or, with a width in pixels of the picture, an open line; points as `fixed_point`."""
        if width is None:
            cv2.fillPoly(self.layer_hw4, [points_P2], (*colour, 255), shift=SUBPIXEL_BITS)
            return
        thickness = max(1, round(width * self.enlargement))
        cv2.polylines(
            self.layer_hw4,
            [points_P2],
            False,
            (*colour, 255),
            thickness,
            shift=SUBPIXEL_BITS,
        )

    def facets(self, corners_N42: Float, colours_N3: Float) -> None:
        """Draw convex quadrilaterals in their order."""
        corners = self.fixed_point(corners_N42)
        for corner_42, colour in zip(corners, colours_N3.tolist(), strict=True):
            cv2.fillConvexPoly(self.layer_hw4, corner_42, (*colour, 255), shift=SUBPIXEL_BITS)

    def soften(self, sigma: float) -> None:
        """Blur what was drawn so far; sigma is in pixels of the picture."""
        side = 1 + 2 * round(1.5 * sigma * self.enlargement)  # a box of about this deviation
        self.layer_hw4 = cv2.blur(self.layer_hw4, (side, side)).astype(np.uint8, copy=False)

    def blend_into(self, canvas_HW3: Canvas) -> Float32:
        """Draw the sketch over the canvas, in place, with smooth edges.

        Returns:
            (h, w) float32 0..1: how much of each pixel of the window `rows`, `columns` was covered.
        """
        mean_hw4 = cv2.resize(self.layer_hw4, self._size[::-1], interpolation=cv2.INTER_AREA)
        under_hw3 = canvas_HW3[self.rows, self.columns]
        cover_hw1 = mean_hw4[:, :, 3:].astype(np.float32) / np.float32(255)
        under_hw3 *= 1 - cover_hw1
        under_hw3 += mean_hw4[:, :, :3]
        return cover_hw1[:, :, 0]

    def fixed_point(self, points_P2: Float) -> npt.NDArray[np.int32]:
        """Return points of the picture as cv2 wants them."""
        # cv2 draws pixel i around coordinate i, the picture's pixel i lies between i and i + 1.
        local_P2 = (points_P2 - (self.columns.start, self.rows.start)) * self.enlargement - 0.5
        return np.rint(local_P2 * (1 << SUBPIXEL_BITS)).astype(np.int32)
