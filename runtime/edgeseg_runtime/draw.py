"""Draw results into a copy of the picture, with colours that depend on the label only."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg_runtime.image import Image, check_image

if TYPE_CHECKING:
    from edgeseg_runtime.results import Instances, Landmarks

__all__ = ["colour_from_number", "draw_instances", "draw_landmarks"]

Colour = tuple[int, int, int]
Floats = npt.NDArray[np.float32]

_TINT = 0.45
_GOLDEN_RATIO = 0.618033988749895  # consecutive numbers get hues that are far apart
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_instances(image: Image, instances: Instances) -> Image:
    """Return a copy of the picture with masks, boxes, points, bones, and names with scores.

    The best instance is drawn last, on top. Tracked instances are coloured by their track.
    """
    canvas = _canvas(image, instances.image_size)
    numbers = instances.labels if instances.track_ids is None else instances.track_ids
    colours = [colour_from_number(int(number)) for number in numbers]
    order = np.argsort(instances.scores, kind="stable")
    if instances.has_masks:
        crops = list(instances.mask_crops)
        for index in order:
            _tint(canvas, crops[index].top, crops[index].left, crops[index].bits, colours[index])
    thickness = _thickness(canvas)
    for index in order:
        _draw_box(canvas, instances.boxes[index], colours[index], thickness)
        if instances.mesh is not None:
            _draw_pixels(canvas, instances.mesh[index, :, :2], colours[index])
        if instances.landmarks is not None:
            bones = instances.skeleton if instances.keypoints is None else ()
            _draw_points(canvas, instances.landmarks[index], bones, colours[index], thickness)
        if instances.keypoints is not None:
            points = _placed(instances.keypoints[index, :, :2], instances.keypoints[index, :, 2])
            _draw_points(canvas, points, instances.skeleton, colours[index], 2 * thickness)
    for index in order:
        text = _caption(instances, index)
        _draw_text(canvas, text, instances.boxes[index], colours[index], thickness)
    return canvas


def draw_landmarks(image: Image, landmarks: Landmarks) -> Image:
    """Return a copy of the picture with the points, the bones between them and the box."""
    canvas = _canvas(image, landmarks.image_size)
    colour = colour_from_number(1)
    if landmarks.box is not None:
        _draw_box(canvas, landmarks.box, colour, _thickness(canvas))
    points = _placed(landmarks.points, landmarks.scores)
    _draw_points(canvas, points, landmarks.skeleton, colour, _thickness(canvas))
    return canvas


def colour_from_number(number: int) -> Colour:
    """Return the same strong B, G, R colour for the same number, always."""
    hue = (number * _GOLDEN_RATIO) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 1.0)
    return round(255 * blue), round(255 * green), round(255 * red)


def _canvas(image: Image, size: tuple[int, int] | None) -> Image:
    check_image(image)
    if size not in {None, image.shape[:2]}:
        raise ValueError(
            f"the picture is {image.shape[0]}x{image.shape[1]}, the result belongs to one of {size}"
        )
    return np.array(image, order="C")


def _thickness(canvas: Image) -> int:
    return max(1, round(min(canvas.shape[:2]) / 400))


def _caption(instances: Instances, index: int) -> str:
    caption = f"{instances.label_name(index)} {instances.scores[index]:.2f}"
    if instances.gender is None:
        return caption
    male = float(instances.gender[index])
    return f"{caption} {'male' if male >= 0.5 else 'female'} {max(male, 1 - male):.2f}"


def _tint(canvas: Image, top: int, left: int, bits: npt.NDArray[np.bool_], colour: Colour) -> None:
    height, width = bits.shape
    if height == 0 or width == 0:
        return
    region = canvas[top : top + height, left : left + width]
    paint = np.empty_like(region)
    paint[:] = colour
    tinted = cv2.addWeighted(region, 1 - _TINT, paint, _TINT, 0)
    cv2.copyTo(tinted, bits.view(np.uint8), region)


def _draw_box(canvas: Image, box: Floats, colour: Colour, thickness: int) -> None:
    x1, y1, x2, y2 = _pixels(box)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, thickness)


def _placed(points: Floats, scores: Floats) -> Floats:
    """Return points (J, 2) with NaN for those without a score: they are not drawn."""
    is_placed = np.isfinite(scores) & (scores > 0)
    return np.where(is_placed[:, None], points, np.float32(np.nan))


def _draw_points(
    canvas: Image,
    points: Floats,
    skeleton: Sequence[tuple[int, int]],
    colour: Colour,
    radius: int,
) -> None:
    """Draw the points (J, 2) that are there, and the bones between two such points."""
    is_there = np.isfinite(points[:, 0] + points[:, 1])
    for start, end in skeleton:
        if is_there[start] and is_there[end]:
            ends = _pixels(points[start]), _pixels(points[end])
            cv2.line(canvas, *ends, colour, _thickness(canvas), cv2.LINE_AA)
    for point in points[is_there]:
        cv2.circle(canvas, _pixels(point), radius, colour, cv2.FILLED, cv2.LINE_AA)


def _draw_pixels(canvas: Image, points: Floats, colour: Colour) -> None:
    """Paint one pixel for each point (V, 2) inside of the picture: a mesh has very many."""
    x_V, y_V = np.floor(np.nan_to_num(points, nan=-1.0).astype(np.float64)).T
    is_inside_V = (x_V >= 0) & (x_V < canvas.shape[1]) & (y_V >= 0) & (y_V < canvas.shape[0])
    canvas[y_V[is_inside_V].astype(np.intp), x_V[is_inside_V].astype(np.intp)] = colour


def _draw_text(canvas: Image, text: str, box: Floats, colour: Colour, thickness: int) -> None:
    """Write on a filled plate above the box, or inside it where there is no room above."""
    scale = max(0.35, min(canvas.shape[:2]) / 1400)
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
