"""Draw into a picture: tinted masks, boxes, points, bones and captions."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg_runtime.picture.image import Image, check_image
from edgeseg_runtime.results.paste import MaskCrop

__all__ = [
    "Colour",
    "canvas_from_image",
    "colour_from_number",
    "draw_box",
    "draw_caption",
    "draw_pixels",
    "draw_points",
    "line_width",
    "muted_colour_from_number",
    "placed_points",
    "tint",
    "tint_all",
]

Colour = tuple[int, int, int]
Floats = npt.NDArray[np.float32]

_TINT = 0.45
_GOLDEN_RATIO = 0.618033988749895  # consecutive numbers get hues that are far apart
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def canvas_from_image(image: Image, size: tuple[int, int] | None) -> Image:
    """Return a copy of a picture to draw into.

    Args:
        image: the source picture.
        size: height, width of the picture that the result belongs to; None if unknown.

    Raises:
        ImageError: if it is not a picture.
        ValueError: if it has another size.
    """
    check_image(image)
    if size not in {None, image.shape[:2]}:
        raise ValueError(
            f"the picture is {image.shape[0]}x{image.shape[1]}, the result belongs to one of {size}"
        )
    return np.array(image, order="C")


def colour_from_number(number: int) -> Colour:
    """Return the same strong B, G, R colour for the same number, always."""
    return _colour(number, saturation=0.85, brightness=1.0)


def muted_colour_from_number(number: int) -> Colour:
    """Return the same pale, dark B, G, R colour for the same number: for what lies behind objects."""
    return _colour(number, saturation=0.5, brightness=0.6)


def _colour(number: int, *, saturation: float, brightness: float) -> Colour:
    hue = (number * _GOLDEN_RATIO) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, brightness)
    return round(255 * blue), round(255 * green), round(255 * red)


def line_width(canvas: Image) -> int:
    """Return the width of lines, in pixels, that suits the picture's size."""
    return max(1, round(min(canvas.shape[:2]) / 400))


def tint(canvas: Image, crop: MaskCrop, colour: Colour) -> None:
    """Tint the pixels of a mask."""
    height, width = crop.bits.shape
    if height == 0 or width == 0:
        return
    region = canvas[crop.top : crop.top + height, crop.left : crop.left + width]
    paint = np.empty_like(region)
    paint[:] = colour
    tinted = cv2.addWeighted(region, 1 - _TINT, paint, _TINT, 0)
    cv2.copyTo(tinted, crop.bits.view(np.uint8), region)


def tint_all(canvas: Image, numbers: npt.NDArray[np.intp], colours: Sequence[Colour]) -> None:
    """Tint each pixel in the colour of its number, and outline where numbers meet.

    Args:
        canvas: the picture, drawn into.
        numbers: (H, W) of a colour for each pixel; -1 for none.
        colours: of the numbers.
    """
    if not colours:
        return
    paint = np.array([*colours, (0, 0, 0)], np.uint8)[numbers]
    tinted = cv2.addWeighted(canvas, 1 - _TINT, paint, _TINT, 0)
    is_edge = np.zeros(numbers.shape, np.bool_)
    is_edge[:, 1:] = numbers[:, 1:] != numbers[:, :-1]
    is_edge[1:] |= numbers[1:] != numbers[:-1]
    tinted[is_edge] = 255
    cv2.copyTo(tinted, ((numbers >= 0) | is_edge).view(np.uint8), canvas)


def draw_box(canvas: Image, box: Floats, colour: Colour) -> None:
    """Draw a box x1 y1 x2 y2."""
    x1, y1, x2, y2 = _pixels(box)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, line_width(canvas))


def placed_points(points: Floats, scores: Floats) -> Floats:
    """Return points (J, 2) with NaN for those without a score: they are not drawn."""
    is_placed = np.isfinite(scores) & (scores > 0)
    return np.where(is_placed[:, None], points, np.float32(np.nan))


def draw_points(
    canvas: Image,
    points: Floats,
    skeleton: Sequence[tuple[int, int]],
    colour: Colour,
    *,
    radius: int,
) -> None:
    """Draw the points (J, 2) that are there, and the bones between two such points."""
    is_there = np.isfinite(points[:, 0] + points[:, 1])
    for start, end in skeleton:
        if is_there[start] and is_there[end]:
            ends = _pixels(points[start]), _pixels(points[end])
            cv2.line(canvas, *ends, colour, line_width(canvas), cv2.LINE_AA)
    for point in points[is_there]:
        cv2.circle(canvas, _pixels(point), radius, colour, cv2.FILLED, cv2.LINE_AA)


def draw_pixels(canvas: Image, points: Floats, colour: Colour) -> None:
    """Paint one pixel for each point (V, 2) inside of the picture: a mesh has very many."""
    x_V, y_V = np.floor(np.nan_to_num(points, nan=-1.0).astype(np.float64)).T
    is_inside_V = (x_V >= 0) & (x_V < canvas.shape[1]) & (y_V >= 0) & (y_V < canvas.shape[0])
    canvas[y_V[is_inside_V].astype(np.intp), x_V[is_inside_V].astype(np.intp)] = colour


def draw_caption(canvas: Image, text: str, box: Floats, colour: Colour) -> None:
    """Write on a filled plate above the box, or inside it where there is no room above."""
    scale, thickness = max(0.35, min(canvas.shape[:2]) / 1400), line_width(canvas)
    (width, height), baseline = cv2.getTextSize(text, _FONT, scale, thickness)
    x1, y1, _, _ = _pixels(box)
    left = max(0, min(x1, canvas.shape[1] - width))
    bottom = y1 if y1 >= height + baseline else y1 + height + baseline
    cv2.rectangle(
        canvas, (left, bottom - height - baseline), (left + width, bottom), colour, cv2.FILLED
    )
    brightness = 0.114 * colour[0] + 0.587 * colour[1] + 0.299 * colour[2]
    ink = (0, 0, 0) if brightness > 110 else (255, 255, 255)
    cv2.putText(canvas, text, (left, bottom - baseline), _FONT, scale, ink, thickness, cv2.LINE_AA)


def _pixels(values: Floats) -> tuple[int, ...]:
    """Return whole pixels that OpenCV's int32 arithmetic can hold."""
    clipped = np.nan_to_num(np.asarray(values, np.float64)).clip(-(2**15), 2**15)
    return tuple(np.rint(clipped).astype(int).tolist())
