"""Turn the network's mask maps into bits in source pixels, only where they can be set.

Both rules for box-aligned maps are bilinear and separable: mask = Y @ map @ X.T, where a row of Y
holds the weights max(0, 1 - |position - k|) of one output row. The rules differ in how an output
pixel is turned into a position in the map.

Shape suffixes: M cells of a map's side, H W pixels of the crop, J key points, S heat-map side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg_runtime.blas import matmul_serial
from edgeseg_runtime.picture.geometry import FAR, Geometry

__all__ = [
    "PASTE_RULES",
    "MaskCrop",
    "crop_image_aligned",
    "keypoints_bicubic_argmax",
    "paste_expanded_box",
    "paste_grid_sample",
]

Floats = npt.NDArray[np.float32]


class MaskCrop(NamedTuple):
    """One mask, stored only where it can be set.

    Attributes:
        top: row of the crop's first pixel in the picture.
        left: column of the crop's first pixel in the picture.
        bits: (h, w) bool; outside of it the mask is False. May have no pixels.
    """

    top: int
    left: int
    bits: npt.NDArray[np.bool_]


def paste_expanded_box(
    mask: Floats, box: Floats, size: tuple[int, int], *, threshold: float
) -> MaskCrop:
    """Return a mask pasted by torchvision's rule (`paste_masks_in_image`).

    The map is padded with one zero on each side, the box enlarged accordingly about its centre and
    truncated to whole pixels, of which the last one counts too.

    Args:
        mask: (M, M) probabilities.
        box: (4,) x1 y1 x2 y2 in source pixels, finite.
        size: height, width of the picture.
        threshold: a pixel is set where the interpolated value is at least this.
    """
    expanded = _expand_box(box, np.float32((mask.shape[0] + 2) / mask.shape[0]))
    left, top, right, bottom = np.clip(expanded, -FAR, FAR).astype(np.int64).tolist()
    return _paste(
        np.pad(mask, 1),
        _Axis(top, max(bottom - top + 1, 1), size[0]).stretched(mask.shape[0] + 2),
        _Axis(left, max(right - left + 1, 1), size[1]).stretched(mask.shape[1] + 2),
        threshold,
    )


def paste_grid_sample(
    mask: Floats, box: Floats, size: tuple[int, int], *, threshold: float
) -> MaskCrop:
    """Return a mask pasted by detectron2's rule (`paste_masks_in_image` with `grid_sample`).

    Pixel centres are looked up in the map that lies over the box; outside of it there are zeros.
    For the arguments see `paste_expanded_box`. A box without extent gives an empty crop.
    """
    if not (box[2] > box[0] and box[3] > box[1]):
        return MaskCrop(0, 0, np.zeros((0, 0), np.bool_))
    return _paste(
        mask,
        _sampled_axis(box[1], box[3], size[0], mask.shape[0]),
        _sampled_axis(box[0], box[2], size[1], mask.shape[1]),
        threshold,
    )


PASTE_RULES: dict[str, Callable[..., MaskCrop]] = {
    "expanded_box": paste_expanded_box,
    "grid_sample": paste_grid_sample,
}


def crop_image_aligned(mask: Floats, geometry: Geometry, *, threshold: float) -> MaskCrop:
    """Return a mask that lies over the network's whole input, where it can be set.

    The map is enlarged to the source picture (bilinear, half-pixel centres, the border of what
    lies over the picture repeated), as YOLACT does: the mask is not cut at its box. Only those
    pixels are computed that take part of a cell above the threshold.

    Args:
        mask: (h, w) probabilities over the network's input, at any resolution.
        geometry: of the picture.
        threshold: a pixel is set where the interpolated value is greater than this.
    """
    is_set = mask > np.float32(threshold)
    if not is_set.any():
        return MaskCrop(0, 0, np.zeros((0, 0), np.bool_))
    rows, columns = (
        _aligned_axis(np.flatnonzero(is_set.any(axis=axis)), mask.shape[1 - axis], geometry, axis)
        for axis in (1, 0)
    )
    above = np.nextafter(np.float32(threshold), np.float32(np.inf))
    return _paste(
        mask[rows.cells, columns.cells],
        _Weights(rows.first, rows.matrix),
        _Weights(columns.first, columns.matrix),
        above,
    )


def keypoints_bicubic_argmax(heatmaps: Floats, box: Floats) -> Floats:
    """Return (J, 3) x, y, score by torchvision's rule (`heatmaps_to_keypoints`).

    The maps are enlarged bicubically (A = -0.75) to the box's size rounded up; the key point is
    the centre of the largest pixel, its score the value there, a logit.

    Args:
        heatmaps: (J, S, S) logits over the box.
        box: (4,) x1 y1 x2 y2; the points come back in the same frame.
    """
    width, height = np.maximum(box[2:] - box[:2], np.float32(1))
    num_columns, num_rows = math.ceil(width), math.ceil(height)
    points = np.empty((len(heatmaps), 3), np.float32)
    for index, heatmap in enumerate(heatmaps):
        enlarged = cv2.resize(heatmap, (num_columns, num_rows), interpolation=cv2.INTER_CUBIC)
        row, column = divmod(int(enlarged.argmax()), num_columns)
        points[index] = (
            (np.float32(column) + np.float32(0.5)) * (width / np.float32(num_columns)) + box[0],
            (np.float32(row) + np.float32(0.5)) * (height / np.float32(num_rows)) + box[1],
            enlarged[row, column],
        )
    return points


class _Weights(NamedTuple):
    """The visible output pixels of one axis and what each takes from the map."""

    first: int  # first visible pixel of the picture
    matrix: Floats  # (visible pixels, cells)


class _Axis(NamedTuple):
    """A stretch of output pixels: where it begins, how long it is, how long the picture is."""

    first: int
    length: int
    limit: int

    def stretched(self, num_cells: int) -> _Weights:
        """Return the weights that stretch the cells over the length; the border is repeated."""
        visible = _visible(self.first, self.first + self.length, self.limit)
        ratio = np.float32(num_cells / self.length)
        position = ratio * (visible - np.float32(self.first) + np.float32(0.5)) - np.float32(0.5)
        return _weights(visible, np.clip(position, 0, num_cells - 1), num_cells)


def _sampled_axis(low: np.float32, high: np.float32, limit: int, num_cells: int) -> _Weights:
    """Return grid_sample's weights (align_corners false, zeros outside) for one axis of a box."""
    visible = _visible(_whole(np.floor(low)) - 1, _whole(np.ceil(high)) + 1, limit)
    relative = (visible + np.float32(0.5) - low) / (high - low) * np.float32(2) - np.float32(1)
    cells = np.float32(num_cells)
    position = ((relative + np.float32(1)) * cells - np.float32(1)) / np.float32(2)
    return _weights(visible, position, num_cells)


class _AlignedWeights(NamedTuple):
    """`_Weights` of the cells in a slice of the map; all others have no part in the crop."""

    first: int
    matrix: Floats
    cells: slice


def _aligned_axis(
    set_cells: npt.NDArray[np.intp], num_cells: int, geometry: Geometry, axis: int
) -> _AlignedWeights:
    """Return the weights of the source pixels that a set cell has a part in, x with axis 0."""
    limit, size = geometry.source[1 - axis], geometry.network[1 - axis]
    ratio = num_cells / (geometry.step[axis] * size)  # cells in a source pixel
    offset = geometry.shift[axis] * num_cells / size  # cells before the source's first pixel
    covered = max(math.floor(offset), 0), min(math.ceil(offset + ratio * limit), num_cells) - 1
    low, high = int(set_cells[0]), int(set_cells[-1])
    # A border cell has part in all pixels beyond it, another in those less than a cell away.
    first = 0 if low <= covered[0] else math.ceil((low - 0.5 - offset) / ratio - 0.5)
    end = limit if high >= covered[1] else math.ceil((high + 1.5 - offset) / ratio - 0.5)
    visible = _visible(first, end, limit)
    position = (visible + np.float32(0.5)) * np.float32(ratio) + np.float32(offset - 0.5)
    inside = np.clip(position, covered[0], max(covered))
    if len(inside) == 0:
        return _AlignedWeights(0, np.zeros((0, 0), np.float32), slice(0, 0))
    used = slice(math.floor(inside[0]), min(math.floor(inside[-1]) + 2, num_cells))
    weights = _weights(visible, inside - np.float32(used.start), used.stop - used.start)
    return _AlignedWeights(weights.first, weights.matrix, used)


def _whole(value: np.floating) -> int:
    return int(min(max(float(value), -FAR), FAR))


def _visible(first: int, end: int, limit: int) -> Floats:
    """Return the whole numbers of [first, end) that lie in [0, limit), as float32."""
    start = min(max(first, 0), limit)
    return np.arange(start, max(min(end, limit), start), dtype=np.float32)


def _weights(visible: Floats, position: Floats, num_cells: int) -> _Weights:
    first = int(visible[0]) if len(visible) else 0
    cells = np.arange(num_cells, dtype=np.float32)
    matrix = np.float32(1) - np.abs(position[:, None] - cells)
    return _Weights(first, np.maximum(matrix, np.float32(0)))


def _paste(
    mask_MM: Floats, rows: _Weights, columns: _Weights, threshold: float | np.float32
) -> MaskCrop:
    values_HW = matmul_serial(rows.matrix, matmul_serial(mask_MM, columns.matrix.T))
    return MaskCrop(rows.first, columns.first, values_HW >= np.float32(threshold))


def _expand_box(box: Floats, scale: np.float32) -> Floats:
    """Return the box enlarged about its centre, in torchvision's order of operations."""
    half = (box[2:] - box[:2]) * np.float32(0.5) * scale
    centre = (box[2:] + box[:2]) * np.float32(0.5)
    return np.concatenate([centre - half, centre + half])
