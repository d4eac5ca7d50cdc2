"""Bilinear sampling of a picture at computed rows and columns, outside of which there is padding.

For what `cv2.resize` cannot express: a stretch of the picture that begins between two pixels or
reaches outside. Memory and time depend on the result's size only, however far the stretch reaches,
and the result is the same with every version of OpenCV.

Shape suffixes: H W rows and columns of the result, C channels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.picture.image import Image

__all__ = ["Taps", "image_from_fine", "levels_from_fine", "sample_fine", "taps_at"]

Floats = npt.NDArray[np.float32]
_FINE = 256  # fine levels in a grey level


class Taps(NamedTuple):
    """The two source pixels that every result pixel of one axis is made of.

    A tap outside of the picture has weight 0.
    """

    low: npt.NDArray[np.intp]
    high: npt.NDArray[np.intp]
    low_weight: Floats
    high_weight: Floats


def taps_at(positions: npt.NDArray[np.float64], limit: int) -> Taps:
    """Return the taps at positions (N,) of an axis with `limit` pixels, pixel 0 at position 0."""
    inside = np.clip(positions, -2.0, limit + 1.0)  # all that is further out is outside alike
    first = np.floor(inside)
    fraction = (inside - first).astype(np.float32)
    low = first.astype(np.intp)
    high = low + 1
    return Taps(
        np.clip(low, 0, limit - 1),
        np.clip(high, 0, limit - 1),
        np.where((low >= 0) & (low < limit), np.float32(1) - fraction, np.float32(0)),
        np.where((high >= 0) & (high < limit), fraction, np.float32(0)),
    )


def sample_fine(
    image: Image, rows: Taps, columns: Taps, *, pad_value: tuple[int, int, int]
) -> npt.NDArray[np.uint16]:
    """Return the picture (H, W, 3) at rows and columns, in 1/256 grey levels, rounded once."""
    first, end = int(columns.low.min()), int(columns.high.max()) + 1
    used = image[:, first:end]
    upper_HWC, lower_HWC = used[rows.low], used[rows.high]
    upper_weight_H11 = rows.low_weight[:, None, None]
    lower_weight_H11 = rows.high_weight[:, None, None]

    def blend_rows(taken: npt.NDArray[np.intp]) -> Floats:
        upper = upper_HWC.take(taken - first, axis=1) * upper_weight_H11
        upper += lower_HWC.take(taken - first, axis=1) * lower_weight_H11
        return upper

    result_HWC = blend_rows(columns.low) * columns.low_weight[:, None]
    result_HWC += blend_rows(columns.high) * columns.high_weight[:, None]
    if any(pad_value):
        coverage_HW = np.outer(
            rows.low_weight + rows.high_weight, columns.low_weight + columns.high_weight
        )
        result_HWC += (np.float32(1) - coverage_HW)[..., None] * np.array(pad_value, np.float32)
    return np.rint(result_HWC * np.float32(_FINE)).astype(np.uint16)


def image_from_fine(fine: npt.NDArray[np.uint16]) -> Image:
    """Return fine levels rounded to grey levels, half up."""
    return ((fine.astype(np.uint32) + _FINE // 2) // _FINE).astype(np.uint8)


def levels_from_fine(fine: npt.NDArray[np.uint16]) -> tuple[Image, Image]:
    """Return whole grey levels and what is above them in 1/256 grey levels."""
    return (fine // _FINE).astype(np.uint8), (fine % _FINE).astype(np.uint8)
