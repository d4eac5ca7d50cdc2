"""Box coding and clipping, x1 y1 x2 y2 in network pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_LOG_SCALE = math.log(1000.0 / 16)
"""Bound of a predicted log size ratio (Detectron's BBOX_XFORM_CLIP)."""


def decode_boxes(
    deltas: Tensor,
    anchors: Tensor,
    *,
    weights: Sequence[float] = (1, 1, 1, 1),
    pixel: float = 0.0,
    min_log_scale: float | None = None,
) -> Tensor:
    """Return the boxes (..., 4) that ``deltas`` dx dy dw dh (..., 4) make of ``anchors`` (..., 4).

    R-CNN's parameterisation (Girshick et al., 2014, appendix C) divided by ``weights``. ``pixel`` is
    what a width is more than the difference of its sides: 1 where the pixel at x2 y2 is part of a box.
    ``min_log_scale`` bounds the predicted log size ratio below.
    """
    sizes = box_sides(anchors, pixel)
    centers = anchors[..., :2] + 0.5 * sizes
    shifts = torch.stack([deltas[..., 0] / weights[0], deltas[..., 1] / weights[1]], dim=-1)
    scales = torch.stack([deltas[..., 2] / weights[2], deltas[..., 3] / weights[3]], dim=-1)
    new_centers = shifts * sizes + centers
    half_sizes = 0.5 * (torch.exp(scales.clamp(min=min_log_scale, max=MAX_LOG_SCALE)) * sizes)
    ends = new_centers + half_sizes
    return torch.cat([new_centers - half_sizes, ends - pixel if pixel else ends], dim=-1)


def encode_boxes(
    boxes: Tensor,
    anchors: Tensor,
    *,
    weights: Sequence[float] = (1, 1, 1, 1),
    pixel: float = 0.0,
) -> Tensor:
    """Return the deltas (..., 4) with which :func:`decode_boxes` gives ``boxes`` back."""
    anchor_sizes, sizes = box_sides(anchors, pixel), box_sides(boxes, pixel)
    anchor_centers = anchors[..., :2] + 0.5 * anchor_sizes
    centers = boxes[..., :2] + 0.5 * sizes
    shifts = (centers - anchor_centers) / anchor_sizes
    scales = torch.log(sizes / anchor_sizes)
    return torch.cat([shifts, scales], dim=-1) * boxes.new_tensor(list(weights))


def clip_boxes(boxes_BN4: Tensor, image_size_B2: Tensor, *, pixel: float = 0.0) -> Tensor:
    """Return the boxes cut at the border of the valid picture (height, width); ``pixel`` as of `decode_boxes`."""
    limits_B2 = image_size_B2.to(boxes_BN4.dtype).flip(-1)
    limits_B2 = limits_B2 - pixel if pixel else limits_B2
    limits_B14 = torch.cat([limits_B2, limits_B2], dim=-1)[:, None, :]
    return torch.minimum(boxes_BN4.clamp(min=0), limits_B14)


def has_min_size(boxes: Tensor, min_size: float, *, pixel: float = 0.0) -> Tensor:
    """Return (...) bool: both sides are at least ``min_size``, or above 0 where that is 0."""
    sides = box_sides(boxes, pixel)
    enough = sides >= min_size if min_size > 0 else sides > 0
    return enough.all(dim=-1)


def box_sides(boxes: Tensor, pixel: float = 0.0) -> Tensor:
    """Return width and height (..., 2) of boxes (..., 4); ``pixel`` as of `decode_boxes`."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return sides + pixel if pixel else sides


def with_last_pixel(boxes: Tensor, pixel: float) -> Tensor:
    """Return the boxes (..., 4) with the far sides of the pixels at x2 y2; the same boxes if ``pixel`` is 0."""
    return boxes if pixel == 0 else boxes + boxes.new_tensor([0, 0, pixel, pixel])


def take_rows(rows_BNC: Tensor, index_BT: Tensor) -> Tensor:
    """Return (B, T, C): of each picture the rows with these numbers, which may repeat."""
    return rows_BNC.gather(1, index_BT[..., None].expand(-1, -1, rows_BNC.shape[-1]))
