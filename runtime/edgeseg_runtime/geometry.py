"""Where a picture lies in the network's input, and the way back for boxes and points.

Two frames: the source picture, and the network's input, whose top-left part the resized picture
covers. Boxes are x1 y1 x2 y2, sizes are height, width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.image import Image, resize_image, resize_linear_fixed_point
from edgeseg_runtime.manifest import Preprocess

__all__ = [
    "Geometry",
    "clip_boxes",
    "fit_image",
    "fit_image_with_fraction",
    "geometry_of",
    "resized_size",
    "scale_boxes_to_source",
    "scale_points_to_source",
]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The sizes of one picture on its way through the network, each height, width.

    Attributes:
        source: of the picture as it was handed in.
        resized: of the picture inside the network's input, without padding.
        network: of the network's input, with padding.
    """

    source: tuple[int, int]
    resized: tuple[int, int]
    network: tuple[int, int]


def geometry_of(source: tuple[int, int], preprocess: Preprocess) -> Geometry:
    """Return where a picture of a given size lands."""
    return Geometry(
        source=source,
        resized=resized_size(source, preprocess),
        network=(preprocess.height, preprocess.width),
    )


def resized_size(source: tuple[int, int], preprocess: Preprocess) -> tuple[int, int]:
    """Return height, width of the resized picture, never larger than the network's input.

    The order of the operations, all in double precision, is that of the originals: with the
    rounding "floor" torchvision's `GeneralizedRCNNTransform`, with "half_up" detectron2's
    `ResizeShortestEdge.get_output_shape`.
    """
    bound = preprocess.height, preprocess.width
    if preprocess.resize == "stretch":
        return bound
    round_size = _ROUND[preprocess.rounding]
    height, width = float(source[0]), float(source[1])
    if preprocess.resize == "shortest_edge":
        height, width = _shortest_edge(source, preprocess)
    resized = round_size(height), round_size(width)
    does_not_fit = resized[0] > bound[0] or resized[1] > bound[1]
    if preprocess.resize == "letterbox" or does_not_fit:
        scales = bound[0] / source[0], bound[1] / source[1]
        if scales[0] <= scales[1]:  # the side that fills the input fills it exactly
            resized = bound[0], round_size(source[1] * scales[0])
        else:
            resized = round_size(source[0] * scales[1]), bound[1]
    return min(max(resized[0], 1), bound[0]), min(max(resized[1], 1), bound[1])


def fit_image(image: Image, geometry: Geometry, preprocess: Preprocess) -> Image:
    """Return the network's input (1, H, W, 3) uint8: the resized picture top-left, padding."""
    resized = resize_image(
        np.ascontiguousarray(image), geometry.resized, interpolation=preprocess.interpolation
    )
    return _padded(resized, geometry, preprocess.pad_value)


def fit_image_with_fraction(
    image: Image, geometry: Geometry, preprocess: Preprocess
) -> tuple[Image, Image]:
    """Return the network's input as whole grey levels and their fractions in 1/256.

    Both are (1, H, W, 3) uint8; see `resize_linear_fixed_point`.
    """
    whole, fraction = resize_linear_fixed_point(np.ascontiguousarray(image), geometry.resized)
    return (
        _padded(whole, geometry, preprocess.pad_value),
        _padded(fraction, geometry, (0, 0, 0)),
    )


def _padded(resized: Image, geometry: Geometry, pad_value: tuple[int, int, int]) -> Image:
    height, width = geometry.resized
    canvas = np.empty((1, *geometry.network, 3), np.uint8)
    canvas[0, :height, :width] = resized
    canvas[0, :height, width:] = pad_value
    canvas[0, height:] = pad_value
    return canvas


def scale_boxes_to_source(boxes: Floats, geometry: Geometry) -> Floats:
    """Return boxes (N, 4) of the network's frame in source pixels, in float32 as the originals."""
    return (boxes * np.tile(_ratio_xy(geometry), 2)).astype(np.float32, copy=False)


def scale_points_to_source(points: Floats, geometry: Geometry) -> Floats:
    """Return points (..., 2) x, y of the network's frame in source pixels."""
    return (points * _ratio_xy(geometry)).astype(np.float32, copy=False)


def clip_boxes(boxes: Floats, size: tuple[int, int]) -> Floats:
    """Return boxes (N, 4) clipped to a picture of height, width."""
    height, width = size
    limit = np.array([width, height, width, height], np.float32)
    return np.clip(boxes, np.float32(0), limit)


def _shortest_edge(source: tuple[int, int], preprocess: Preprocess) -> tuple[float, float]:
    """Return the size before rounding, without regard to the network's input."""
    assert preprocess.min_size is not None
    height, width = source
    max_size = math.inf if preprocess.max_size is None else float(preprocess.max_size)
    scale = preprocess.min_size / min(height, width)
    if preprocess.rounding == "floor":
        scale = min(scale, max_size / max(height, width))
        return height * scale, width * scale
    if height < width:
        new_height, new_width = float(preprocess.min_size), scale * width
    else:
        new_height, new_width = scale * height, float(preprocess.min_size)
    if max(new_height, new_width) > max_size:
        scale = max_size / max(new_height, new_width)
        new_height, new_width = new_height * scale, new_width * scale
    return new_height, new_width


def _ratio_xy(geometry: Geometry) -> Floats:
    """Return source / resized size for x and y, each rounded to float32 once."""
    source = np.array(geometry.source[::-1], np.float64)
    resized = np.array(geometry.resized[::-1], np.float64)
    return (source / resized).astype(np.float32)


def _half_up(size: float) -> int:
    return int(size + 0.5)


_ROUND: dict[str, Callable[[float], int]] = {"floor": math.floor, "half_up": _half_up}
