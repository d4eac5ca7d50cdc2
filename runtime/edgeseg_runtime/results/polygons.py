"""Polygons of masks: outlines along the edges of pixels, from which the mask can be made again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg_runtime.results.paste import MaskCrop

__all__ = ["Polygon", "lists_from_polygons", "polygons_from_crop"]

Points = npt.NDArray[np.float32]


class Polygon(NamedTuple):
    """A part of a mask whose pixels hang together, edges or corners touching.

    Rings are not closed: the last point is not the first one again. Points are x, y in source
    pixels, where pixel (row, column) covers column..column + 1, row..row + 1 as in boxes.

    Attributes:
        outline: (P, 2) around it.
        holes: (P, 2) around each hole in it.
    """

    outline: Points
    holes: tuple[Points, ...]

    @property
    def rings(self) -> list[Points]:
        """The outline, then the holes: a polygon in the order of GeoJSON and shapely."""
        return [self.outline, *self.holes]


def polygons_from_crop(crop: MaskCrop) -> list[Polygon]:
    """Return the polygons of a mask, top to bottom; none of a mask without pixels.

    The area of the outlines less that of the holes is the number of pixels, exactly.
    """
    if not crop.bits.any():
        return []
    doubled = crop.bits.view(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    parents = hierarchy[0, :, 3]
    rings = [_ring(contour, crop) for contour in contours]
    outlines = np.flatnonzero(parents < 0)
    polygons = [
        Polygon(rings[outer], tuple(rings[hole] for hole in np.flatnonzero(parents == outer)))
        for outer in outlines
    ]
    return sorted(polygons, key=lambda polygon: tuple(polygon.outline.min(axis=0)[::-1]))


def lists_from_polygons(polygons: Iterable[Polygon]) -> list[list[list[list[float]]]]:
    """Return polygons for JSON: of each the rings, of each ring the points [x, y]."""
    return [[ring.tolist() for ring in polygon.rings] for polygon in polygons]


def _ring(contour: npt.NDArray[Any], crop: MaskCrop) -> Points:
    """Return a contour of the doubled mask as corners of pixels of the picture.

    A pixel is 2 x 2 there, and the contour runs through the outer ones of the four: number 2i is
    the low edge of pixel i, 2i + 1 its high one. Where an outline turns inwards the contour cuts the
    corner, and both of its ends are that corner.
    """
    corners = (contour[:, 0].astype(np.int64) + 1) // 2
    corners = corners[(corners != np.roll(corners, 1, axis=0)).any(axis=1)]
    before, after = corners - np.roll(corners, 1, axis=0), np.roll(corners, -1, axis=0) - corners
    is_turn = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    return (corners[is_turn] + [crop.left, crop.top]).astype(np.float32)
