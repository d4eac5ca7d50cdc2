"""Draw the surfaces of persons: their parts, u or v as colours, lines of equal u and v, or all as one picture."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg_runtime.picture.image import Image
from edgeseg_runtime.results.draw import colour_from_number
from edgeseg_runtime.results.surfaces import Surface

__all__ = ["SURFACE_STYLES", "check_style", "draw_surface"]

_OPACITY = 0.6
_NUM_LEVELS = 8
"""Into how many bands lines of equal u and v divide a part."""
_PART_COLOURS = np.array([colour_from_number(number) for number in range(256)], np.uint8)


def draw_surface(canvas: Image, surface: Surface, style: str) -> None:
    """Draw a surface into a picture, where it shows a part.

    Args:
        canvas: (H, W, 3) uint8 BGR.
        surface: of a person in it.
        style: one of `SURFACE_STYLES`: "parts" tints each part in its colour, "u" and "v" in a
            colour that goes with the coordinate, "contours" draws lines of equal u and v, "iuv"
            paints part, u and v as blue, green and red.
    """
    left, top, width, height = surface.box_xywh
    region = canvas[top : top + height, left : left + width]
    if region.size == 0:
        return
    paint, is_painted, opacity = SURFACE_STYLES[style](surface)
    rows, columns = (slice(0, size) for size in region.shape[:2])
    paint, is_painted = paint[rows, columns], is_painted[rows, columns]
    tinted = cv2.addWeighted(region, 1 - opacity, np.ascontiguousarray(paint), opacity, 0)
    np.copyto(region, tinted, where=is_painted[..., None])


def check_style(style: str) -> None:
    """Refuse a style that is not one of `SURFACE_STYLES`.

    Raises:
        ValueError: it is another.
    """
    if style not in SURFACE_STYLES:
        raise ValueError(f"surfaces is {style!r}; expected one of {', '.join(SURFACE_STYLES)}")


_Paint = tuple[Image, npt.NDArray[np.bool_], float]


def _parts(surface: Surface) -> _Paint:
    return _PART_COLOURS[surface.parts], surface.parts > 0, _OPACITY


def _u(surface: Surface) -> _Paint:
    return _coloured(surface.iuv()[1]), surface.parts > 0, _OPACITY


def _v(surface: Surface) -> _Paint:
    return _coloured(surface.iuv()[2]), surface.parts > 0, _OPACITY


def _contours(surface: Surface) -> _Paint:
    """Paint the pixels at which u or v enters another band of the same part."""
    parts, u, v = surface.iuv()
    paint = np.zeros((*parts.shape, 3), np.uint8)
    is_line = np.zeros(parts.shape, np.bool_)
    for values in (u, v):
        bands = values.astype(np.intp) * _NUM_LEVELS // 256
        is_border = np.zeros(parts.shape, np.bool_)
        for axis in (0, 1):
            differs = np.diff(bands, axis=axis) != 0
            is_one_part = np.diff(parts.astype(np.int16), axis=axis) == 0
            after = (slice(1, None), slice(None)) if axis == 0 else (slice(None), slice(1, None))
            is_border[after] |= differs & is_one_part
        is_border &= parts > 0
        levels = (bands * 255 // (_NUM_LEVELS - 1)).astype(np.uint8)
        np.copyto(paint, _coloured(levels), where=is_border[..., None])
        is_line |= is_border
    return paint, is_line, 1.0


def _iuv(surface: Surface) -> _Paint:
    parts, u, v = surface.iuv()
    scaled = (parts.astype(np.intp) * 255 // max(24, int(parts.max()))).astype(np.uint8)
    return np.stack([scaled, u, v], axis=-1), parts > 0, 1.0


def _coloured(values_hw: npt.NDArray[np.uint8]) -> Image:
    coloured: Image = cv2.applyColorMap(values_hw, cv2.COLORMAP_VIRIDIS).astype(np.uint8)
    return coloured


SURFACE_STYLES: dict[str, Callable[[Surface], _Paint]] = {
    "parts": _parts,
    "u": _u,
    "v": _v,
    "contours": _contours,
    "iuv": _iuv,
}
"""Style -> what paints it: (h, w, 3) BGR, (h, w) bool where, and how opaque."""
