"""The squares that the originals of landmark models cut out of a picture, pixel for pixel.

Their corners are whole source pixels, outside of the picture there is black, and resizing works in fixed point.

Shape suffixes: H W rows and columns of the result, C channels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg_runtime.picture.image import Image
from edgeseg_runtime.picture.pillow_bilinear import resize_pillow_bilinear

__all__ = [
    "PixelSquare",
    "hrnet_crop",
    "hrnet_square",
    "pfld_camera_square",
    "pfld_crop",
    "pfld_square",
]

Box = tuple[float, float, float, float]
Point = tuple[float, float]
_CV2_ONE = 2048  # the weight 1 in cv2.resize's fixed point


class PixelSquare(NamedTuple):
    """A square of whole source pixels; its first ones may lie outside of the picture."""

    left: int
    top: int
    side: int


def pfld_square(source: tuple[int, int], box: Box | None, margin: float) -> PixelSquare:
    """Return the square of PFLD's data (data/SetPreparation.py), about the whole pixels that a box touches.

    Args:
        source: height, width of the picture.
        box: x1 y1 x2 y2; None for the whole picture, without a margin.
        margin: side over the longer side of the box.
    """
    if box is None:
        box, margin = (0, 0, source[1], source[0]), 1.0
    left, top, end_x, end_y = int(box[0]), int(box[1]), math.ceil(box[2]), math.ceil(box[3])
    width, height = end_x - left, end_y - top
    side = max(int(max(width, height) * margin), 1)
    return PixelSquare(int(left + width / 2) - side // 2, int(top + height / 2) - side // 2, side)


def pfld_camera_square(source: tuple[int, int], box: Box | None, margin: float) -> PixelSquare:
    """Return the square of PFLD's camera.py: corners are rounded to pixels, of which the last ones count too.

    So it is a pixel times the margin larger than that of the data. See `pfld_square`.
    """
    if box is None:
        box, margin = (0, 0, source[1] - 1, source[0] - 1), 1.0
    left, top, right, bottom = (int(corner + 0.5) for corner in box)
    width, height = right - left + 1, bottom - top + 1
    side = max(int(max(width, height) * margin), 1)
    return PixelSquare(left + width // 2 - side // 2, top + height // 2 - side // 2, side)


def pfld_crop(image: Image, square: PixelSquare, size: tuple[int, int]) -> Image:
    """Return the square (H, W, 3), black outside of the picture, as cv2.resize makes it height, width.

    The result depends neither on the version of OpenCV nor, in time and memory, on how large the square is.
    """
    rows = _cv2_taps(square.side, size[0], is_row=True)
    columns = _cv2_taps(square.side, size[1], is_row=False)
    upper_HWC, lower_HWC = (
        _pixels(image, square.top + taken, square.left + columns.low) * columns.low_weight[:, None]
        + _pixels(image, square.top + taken, square.left + columns.high)
        * columns.high_weight[:, None]
        for taken in (rows.low, rows.high)
    )
    # Each product is cut to 16 bits before the sum is rounded (modules/imgproc/src/resize.cpp, VResizeLinear).
    sum_HWC = (upper_HWC >> 4) * rows.low_weight[:, None, None] >> 16
    sum_HWC += (lower_HWC >> 4) * rows.high_weight[:, None, None] >> 16
    return np.asarray((sum_HWC + 2) >> 2, np.uint8)


def hrnet_square(source: tuple[int, int], box: Box | None, margin: float) -> tuple[Point, float]:
    """Return centre and side of what HRNet looks at, as its annotations and data sets make them.

    Args:
        source: height, width of the picture.
        box: x1 y1 x2 y2; None for the whole picture, without a margin.
        margin: side over the longer side of the box.
    """
    if box is None:
        box, margin = (0, 0, source[1], source[0]), 1.0
    x1, y1, x2, y2 = box
    scale = max(x2 - x1, y2 - y1) / 200 * margin
    return (float(np.float32((x1 + x2) / 2)), float(np.float32((y1 + y2) / 2))), 200 * scale


def hrnet_crop(image: Image, centre: Point, side: float, size: int) -> Image:
    """Return HRNet's picture (size, size, 3) of a square: `crop` of lib/utils/transforms.py.

    A square of twice the size or more is cut out of a picture that was shrunk first. Its resizing, that of
    scipy.misc before 1.3, spreads grey levels over 0..255 and is antialiased.
    """
    scale = side / 200
    reduction = scale * 200 / size
    if reduction >= 2:
        height, width = (int(length / reduction) for length in image.shape[:2])
        if max(height, width) < 2:
            return np.zeros((size, size, 3), np.uint8)
        image = _imresize(image, (max(height, 1), max(width, 1)))
        centre = (
            float(np.float32(centre[0]) / np.float32(reduction)),
            float(np.float32(centre[1]) / np.float32(reduction)),
        )
        scale /= reduction
    first, last = (_source_pixel(pixel, centre, 200 * scale, size) for pixel in (0, size))
    rows, columns = (np.arange(first[axis], max(last[axis], first[axis] + 1)) for axis in (1, 0))
    return _imresize(_pixels(image, rows, columns).astype(np.uint8), (size, size))


def _source_pixel(pixel: int, centre: Point, side: float, size: int) -> npt.NDArray[np.int64]:
    """Return the source pixel x, y of a network pixel on the diagonal, both counted from 1 (`transform_pixel`).

    The inverse is left to NumPy, as it is there: a corner on a whole pixel depends on the last bit.
    """
    matrix = np.eye(3)
    for axis in (0, 1):
        matrix[axis, axis] = size / side
        matrix[axis, 2] = size * (-centre[axis] / side + 0.5)
    source = np.dot(np.linalg.inv(matrix), np.array([pixel - 1, pixel - 1, 1.0]))
    return source[:2].astype(np.int64) + 1


def _imresize(image: Image, size: tuple[int, int]) -> Image:
    """Return the picture with its grey levels spread over 0..255, resized to height, width as Pillow does."""
    low, high = int(image.min()), int(image.max())
    levels = np.arange(256, dtype=np.float32) - np.float32(low)
    levels *= np.float32(255) / np.float32(high - low or 1)
    table = (levels.clip(0, 255) + np.float32(0.5)).astype(np.uint8)
    return resize_pillow_bilinear(np.asarray(cv2.LUT(image, table), np.uint8), size)


class _Taps(NamedTuple):
    """The two pixels of a square that every result pixel of one axis is made of; weights in 1/2048."""

    low: npt.NDArray[np.int64]
    high: npt.NDArray[np.int64]
    low_weight: npt.NDArray[np.int64]
    high_weight: npt.NDArray[np.int64]


def _cv2_taps(length: int, size: int, *, is_row: bool) -> _Taps:
    """Return the taps with which cv2.resize makes `size` pixels of `length`.

    Beyond the outermost pixel's centre, rows are blended with themselves, which rounds once more, columns not.
    """
    positions = ((np.arange(size) + 0.5) * (1 / (size / length)) - 0.5).astype(np.float32)
    low = np.floor(positions).astype(np.int64)
    fraction = positions - low.astype(np.float32)
    if not is_row:
        fraction[(low < 0) | (low >= length - 1)] = 0
    high_weight = np.rint(fraction * np.float32(_CV2_ONE)).astype(np.int64)
    low_weight = np.rint((np.float32(1) - fraction) * np.float32(_CV2_ONE)).astype(np.int64)
    return _Taps(low.clip(0, length - 1), (low + 1).clip(0, length - 1), low_weight, high_weight)


def _pixels(
    image: Image, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return the picture (H, W, 3) at rows and columns, 0 where these lie outside."""
    height, width = image.shape[:2]
    taken_HWC = image[rows.clip(0, height - 1)][:, columns.clip(0, width - 1)].astype(np.int64)
    taken_HWC[(rows < 0) | (rows >= height)] = 0
    taken_HWC[:, (columns < 0) | (columns >= width)] = 0
    return taken_HWC
