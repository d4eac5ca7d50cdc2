"""Where a picture lies in the network's input, and the way there and back for boxes and points.

Two frames: the source picture and the network's input, each with the corner of its first pixel at
(0, 0). Boxes are x1 y1 x2 y2, sizes are height, width, pairs of one number per axis are x, y.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg_runtime.bundle.manifest import FACTOR, SAMPLED_RESIZES, Preprocess
from edgeseg_runtime.picture.crops import (
    PixelSquare,
    hrnet_crop,
    hrnet_square,
    pfld_camera_square,
    pfld_crop,
    pfld_square,
)
from edgeseg_runtime.picture.image import Image, resize_image, resize_linear_fixed_point
from edgeseg_runtime.picture.sampling import image_from_fine, levels_from_fine, sample_fine, taps_at

__all__ = [
    "FAR",
    "Box",
    "Geometry",
    "clip_boxes",
    "fit_image",
    "fit_image_with_fraction",
    "geometry_of",
    "kept_scale",
    "resized_size",
    "scale_boxes_to_network",
    "scale_boxes_to_source",
    "scale_of",
    "scale_points_to_network",
    "scale_points_to_source",
]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Box = tuple[float, float, float, float]
FineImage = npt.NDArray[np.uint16]

FAR = 2.0**30
"""Pixels beyond which a position counts as infinite: outside of every picture, within float32."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Where one picture lies in the network's input: source = network * step + origin per axis.

    Attributes:
        source: height, width of the picture as it was handed in.
        network: height, width of the network's input, with padding.
        step: x, y; source pixels from one network pixel to the next.
        origin: x, y; where the top left corner of the network's input lies in the source.
        box: x1 y1 x2 y2 in source pixels of what the input shows; None for the whole picture.
        size: height, width of the whole picture in network pixels, rounded; None for what the steps
            give, which may round a tie in another way.
    """

    source: tuple[int, int]
    network: tuple[int, int]
    step: tuple[float, float]
    origin: tuple[float, float]
    box: Box | None = None
    size: tuple[int, int] | None = None

    @classmethod
    def at_top_left(
        cls, *, source: tuple[int, int], resized: tuple[int, int], network: tuple[int, int]
    ) -> Geometry:
        """Return the geometry of a picture that is resized and laid at the top left."""
        step = source[1] / resized[1], source[0] / resized[0]
        return cls(source=source, network=network, step=step, origin=(0.0, 0.0))

    @property
    def resized(self) -> tuple[int, int]:
        """Height, width of the whole picture in network pixels, rounded."""
        if self.size is not None:
            return self.size
        return round(self.source[0] / self.step[1]), round(self.source[1] / self.step[0])

    @property
    def scale(self) -> tuple[float, float]:
        """x, y; network = source * scale + shift."""
        return 1 / self.step[0], 1 / self.step[1]

    @property
    def shift(self) -> tuple[float, float]:
        """x, y; where the top left corner of the source lies in the network's input."""
        return -self.origin[0] / self.step[0], -self.origin[1] / self.step[1]


def geometry_of(
    source: tuple[int, int], preprocess: Preprocess, box: Box | None = None
) -> Geometry:
    """Return where a picture of height, width lands.

    Args:
        source: height, width of the picture.
        preprocess: the rule.
        box: what "square_crop" looks at, in source pixels; None for the whole picture.

    Raises:
        ValueError: if there is a box and the rule is another one.
    """
    network = preprocess.height, preprocess.width
    if preprocess.resize == "square_crop":
        return _square_crop(source, network, box, preprocess)
    if box is not None:
        raise ValueError(f"resize {preprocess.resize!r} shows the whole picture; it takes no box")
    if preprocess.resize == "affine":
        return _about_centre(source, network, step=max(source) / network[1])
    if preprocess.resize in _CENTERED:
        fits = source[0] <= network[0] and source[1] <= network[1]
        if fits:
            return _centred(source, network)
        return _about_centre(
            source, network, step=max(source[0] / network[0], source[1] / network[1])
        )
    if preprocess.rounding == FACTOR:
        return _by_factor(source, preprocess)
    resized = resized_size(source, preprocess)
    return Geometry.at_top_left(source=source, resized=resized, network=network)


def scale_of(source: tuple[int, int], preprocess: Preprocess) -> float:
    """Return network pixels per source pixel of a picture of height, width, along the axis that has fewer."""
    return min(geometry_of(source, preprocess).scale)


def kept_scale(source: tuple[int, int], preprocess: Preprocess) -> float:
    """Return how much is left of the scale that the original gives a picture of height, width.

    1, or less where the picture would not fit into the network's input and is shrunk further.
    """
    wanted = float(source[0]), float(source[1])
    if preprocess.rounding == FACTOR:
        factor = _original_factor(source, preprocess)
        wanted = source[0] * factor, source[1] * factor
    elif preprocess.resize == "shortest_edge":
        wanted = _shortest_edge(source, preprocess)
    elif preprocess.resize not in ("original", *_CENTERED):
        return 1.0
    scale = geometry_of(source, preprocess).scale
    # The originals round sizes as well: half a pixel is not a loss.
    found = source[0] * scale[1] + 1, source[1] * scale[0] + 1
    return min(found[0] / wanted[0], found[1] / wanted[1], 1.0)


def resized_size(source: tuple[int, int], preprocess: Preprocess) -> tuple[int, int]:
    """Return height, width of a picture at the top left, never larger than the network's input.

    The order of the operations, all in double precision, is that of the originals: with the
    rounding "floor" torchvision's `GeneralizedRCNNTransform`, with "half_up" detectron2's
    `ResizeShortestEdge.get_output_shape`.
    """
    bound = preprocess.height, preprocess.width
    if preprocess.resize == "stretch":
        return bound
    if preprocess.rounding == FACTOR:
        return geometry_of(source, preprocess).resized
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
    """Return the network's input (1, H, W, 3) uint8: the picture in its place, padding around."""
    if preprocess.resize == "affine" or (preprocess.resize in _CENTERED and not _fits(geometry)):
        return _warp(image, geometry, preprocess.pad_value)[None]
    if preprocess.resize in _CENTERED:
        return _laid_in_middle(image, geometry, preprocess)
    if preprocess.rounding in _CROPS:
        return _CROPS[preprocess.rounding](image, geometry, preprocess)[None]
    if preprocess.resize in SAMPLED_RESIZES:
        return image_from_fine(_sample(image, geometry, preprocess))[None]
    if preprocess.rounding == FACTOR:
        return fit_image_with_fraction(image, geometry, preprocess)[0]
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
    if preprocess.rounding in _CROPS:
        cropped = fit_image(image, geometry, preprocess)
        return cropped, np.zeros_like(cropped)
    if preprocess.resize in _CENTERED and _fits(geometry):
        whole = _laid_in_middle(image, geometry, preprocess)
        return whole, np.zeros_like(whole)
    if preprocess.resize in SAMPLED_RESIZES:
        whole, fraction = levels_from_fine(_sample(image, geometry, preprocess))
        return whole[None], fraction[None]
    scale = geometry.scale if preprocess.rounding == FACTOR else None
    whole, fraction = resize_linear_fixed_point(
        np.ascontiguousarray(image), geometry.resized, scale=scale
    )
    return (
        _padded(whole, geometry, preprocess.pad_value),
        _padded(fraction, geometry, (0, 0, 0)),
    )


def scale_boxes_to_source(boxes: Floats, geometry: Geometry) -> Floats:
    """Return boxes (N, 4) of the network's frame in source pixels, in float32 as the originals."""
    return scale_points_to_source(boxes.reshape(-1, 2, 2), geometry).reshape(-1, 4)


def scale_points_to_source(
    points: Floats, geometry: Geometry, *, truncates: bool = False
) -> Floats:
    """Return points (..., 2) x, y of the network's frame in source pixels.

    Args:
        points: x, y in network pixels.
        geometry: of the picture.
        truncates: cut the result to whole pixels, toward zero, before it is rounded to float32.
    """
    if geometry.origin == (0.0, 0.0) and not truncates:
        # The originals multiply in float32, by the ratio rounded to float32 once.
        return (points * np.array(geometry.step, np.float32)).astype(np.float32, copy=False)
    exact = points.astype(np.float64) * geometry.step + geometry.origin
    return (np.trunc(exact) if truncates else exact).astype(np.float32)


def scale_boxes_to_network(boxes: npt.NDArray[np.floating], geometry: Geometry) -> Floats:
    """Return boxes (N, 4) of the source picture in network pixels."""
    return scale_points_to_network(boxes.reshape(-1, 2, 2), geometry).reshape(-1, 4)


def scale_points_to_network(points: npt.NDArray[np.floating], geometry: Geometry) -> Floats:
    """Return points (..., 2) x, y of the source picture in network pixels."""
    return ((points.astype(np.float64) - geometry.origin) / geometry.step).astype(np.float32)


def clip_boxes(boxes: Floats, size: tuple[int, int]) -> Floats:
    """Return boxes (N, 4) clipped to a picture of height, width."""
    height, width = size
    limit = np.array([width, height, width, height], np.float32)
    return np.clip(boxes, np.float32(0), limit)


# ---------------------------------------------------------------- pictures at the top left


def _padded(resized: Image, geometry: Geometry, pad_value: tuple[int, int, int]) -> Image:
    height, width = resized.shape[:2]
    canvas = np.empty((1, *geometry.network, 3), np.uint8)
    canvas[0, :height, :width] = resized
    canvas[0, :height, width:] = pad_value
    canvas[0, height:] = pad_value
    return canvas


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


def _original_factor(source: tuple[int, int], preprocess: Preprocess) -> float:
    """Return network pixels per source pixel without regard to the network's input (UPSNet, base_dataset.py)."""
    assert preprocess.min_size is not None
    scale = preprocess.min_size / min(source)
    if preprocess.max_size is not None and round(scale * max(source)) > preprocess.max_size:
        scale = preprocess.max_size / max(source)
    return scale


def _by_factor(source: tuple[int, int], preprocess: Preprocess) -> Geometry:
    """Return where a picture lies that is resized by one factor for both axes.

    One that would not fit is shrunk further. A side of which that leaves nothing is one pixel.
    """
    network = preprocess.height, preprocess.width
    scale = _original_factor(source, preprocess)
    for side, bound in zip(source, network, strict=True):
        if round(side * scale) > bound:
            scale = bound / side
    height, width = (round(side * scale) for side in source)
    rows, columns = (1 / scale if round(side * scale) else float(side) for side in source)
    return Geometry(
        source=source,
        network=network,
        step=(columns, rows),
        origin=(0.0, 0.0),
        size=(max(height, 1), max(width, 1)),
    )


def _half_up(size: float) -> int:
    return int(size + 0.5)


_ROUND: dict[str, Callable[[float], int]] = {"floor": math.floor, "half_up": _half_up}


# ---------------------------------------------------------------- pictures about their centre


_CENTERED = ("center", "center_odd")
"""Rules that leave a picture its scale if it fits."""


def _laid_in_middle(image: Image, geometry: Geometry, preprocess: Preprocess) -> Image:
    """Return (1, H, W, 3): a picture that fits, pixel by pixel."""
    left, top = (-int(origin) for origin in geometry.origin)
    height, width = geometry.source
    if preprocess.resize == "center_odd":
        # A quirk of CornerNet (utils/image.py, crop_image): half the input's size, rounded down, is
        # taken on each side of the centre.
        height = min(height, geometry.source[0] // 2 + geometry.network[0] // 2)
        width = min(width, geometry.source[1] // 2 + geometry.network[1] // 2)
    canvas = np.empty((1, *geometry.network, 3), np.uint8)
    canvas[:] = preprocess.pad_value
    canvas[0, top : top + height, left : left + width] = image[:height, :width]
    return canvas


def _about_centre(source: tuple[int, int], network: tuple[int, int], *, step: float) -> Geometry:
    """Return CenterNet's `get_affine_transform`: one scale, centre onto centre."""
    return Geometry(
        source=source,
        network=network,
        step=(step, step),
        origin=(
            source[1] / 2 - network[1] / 2 * step,
            source[0] / 2 - network[0] / 2 * step,
        ),
    )


def _centred(source: tuple[int, int], network: tuple[int, int]) -> Geometry:
    """Return the same for a picture that keeps its scale: whole pixels onto whole pixels."""
    return Geometry(
        source=source,
        network=network,
        step=(1.0, 1.0),
        origin=(
            float(source[1] // 2 - network[1] // 2),
            float(source[0] // 2 - network[0] // 2),
        ),
    )


def _square_crop(
    source: tuple[int, int], network: tuple[int, int], box: Box | None, preprocess: Preprocess
) -> Geometry:
    """Return the square about a box, or about the whole picture, stretched over the input.

    The order of the operations gives, bit for bit, the inverted matrix of Stacked Hourglass
    (utils/img.py, `get_transform`), whose truncated corners depend on it.
    """
    if preprocess.rounding in _PIXEL_SQUARES:
        left, top, length = _pixel_square(source, box, preprocess)
        return Geometry(
            source=source,
            network=network,
            step=(length / network[1], length / network[0]),
            origin=(float(left), float(top)),
            box=box,
        )
    if preprocess.rounding == "hrnet":
        centre, side = hrnet_square(source, box, preprocess.crop_margin)
    elif box is None:
        centre, side = (source[1] / 2, source[0] / 2), float(max(source))
    else:
        x1, y1, x2, y2 = box
        centre = (x1 + x2) / 2, (y1 + y2) / 2
        side = preprocess.crop_margin * max(x2 - x1, y2 - y1)
        if preprocess.rounding == "truncate":
            centre, side = _as_annotated(centre, side)
    step, origin = [], []
    for middle, size in zip(centre, network[::-1], strict=True):
        step.append(1 / (size / side))
        origin.append(-(size * (-middle / side + 0.5) * step[-1]))
    return Geometry(
        source=source,
        network=network,
        step=(step[0], step[1]),
        origin=(origin[0], origin[1]),
        box=box,
    )


def _hrnet_crop(image: Image, geometry: Geometry, preprocess: Preprocess) -> Image:
    centre, side = hrnet_square(geometry.source, geometry.box, preprocess.crop_margin)
    return hrnet_crop(image, centre, side, preprocess.height)


def _pfld_crop(image: Image, geometry: Geometry, preprocess: Preprocess) -> Image:
    square = _pixel_square(geometry.source, geometry.box, preprocess)
    return pfld_crop(image, square, geometry.network)


def _pixel_square(source: tuple[int, int], box: Box | None, preprocess: Preprocess) -> PixelSquare:
    return _PIXEL_SQUARES[preprocess.rounding](source, box, preprocess.crop_margin)


_PIXEL_SQUARES = {"pfld": pfld_square, "pfld_camera": pfld_camera_square}
_CROPS = {"hrnet": _hrnet_crop, **dict.fromkeys(_PIXEL_SQUARES, _pfld_crop)}
"""Originals whose cropping is followed in full."""


def _as_annotated(centre: tuple[float, float], side: float) -> tuple[tuple[float, float], float]:
    """Return centre and side as Stacked Hourglass computes them of MPII's annotation.

    That gives a centre and a scale in decimals; the side is 200 * scale. The corners of a box are
    such decimals only nearly, and a corner of the square that lies on a whole pixel would be
    truncated to the one before it.
    """
    scale = max(round(side / 200, 6), 1e-6)  # never an empty square
    return (round(centre[0], 4), round(centre[1], 4)), 200 * scale


def _fits(geometry: Geometry) -> bool:
    return geometry.step == (1.0, 1.0)


def _warp(image: Image, geometry: Geometry, pad_value: tuple[int, int, int]) -> Image:
    """Return CenterNet's affine picture (H, W, 3): its matrix maps indices, not corners."""
    matrix = np.array(
        [[geometry.scale[0], 0, geometry.shift[0]], [0, geometry.scale[1], geometry.shift[1]]]
    )
    warped = cv2.warpAffine(
        np.ascontiguousarray(image),
        matrix,
        geometry.network[::-1],
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=pad_value,
    )
    return cast("Image", warped)


def _sample(image: Image, geometry: Geometry, preprocess: Preprocess) -> FineImage:
    """Return the network's view of the picture, (H, W, 3) in 1/256 grey levels."""
    columns, rows = (
        taps_at(_positions(geometry, preprocess, axis), geometry.source[1 - axis])
        for axis in (0, 1)
    )
    return sample_fine(image, rows, columns, pad_value=preprocess.pad_value)


def _positions(geometry: Geometry, preprocess: Preprocess, axis: int) -> Doubles:
    """Return the source position of every network pixel of an axis, 0 for the first pixel."""
    size = geometry.network[1 - axis]
    step, origin = geometry.step[axis], geometry.origin[axis]
    pixels = np.arange(size, dtype=np.float64)
    if preprocess.resize != "square_crop":  # CenterNet's matrix maps indices, not corners
        return pixels * step + origin
    if preprocess.rounding == "none":
        return (pixels + 0.5) * step + origin - 0.5
    # Stacked Hourglass cuts whole pixels out and resizes those with cv2.resize, in float32.
    first, last = math.trunc(origin), math.trunc(step * size + origin) - 1
    length = max(last - first + 1, 1)
    inside = ((pixels + 0.5) * (1 / (size / length)) - 0.5).astype(np.float32)
    return np.clip(inside.astype(np.float64), 0, length - 1) + first
