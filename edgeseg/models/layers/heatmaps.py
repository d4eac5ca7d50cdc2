"""Points from heat maps: where each map peaks, and the part of a pixel beside it.

Shape suffixes: B pictures, J key points, H W a map, P = H * W places.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Peaks:
    """The highest place of each map: column, row (B, J) int64, and the value there (B, J)."""

    column: Tensor
    row: Tensor
    value: Tensor


def suppress_neighbours(maps_BJHW: Tensor, *, window: int = 3) -> Tensor:
    """Return the maps with 0 wherever a place within ``window`` x ``window`` is higher.

    Args:
        maps_BJHW: heat maps.
        window: side of the neighbourhood in pixels, an odd number.
    """
    highest = F.max_pool2d(maps_BJHW, window, stride=1, padding=window // 2)
    return torch.where(maps_BJHW == highest, maps_BJHW, 0.0)


def find_peaks(maps_BJHW: Tensor) -> Peaks:
    """Return the highest place of each map; the first in reading order among equals."""
    width = maps_BJHW.shape[3]
    value_BJ, place_BJ = maps_BJHW.flatten(2).max(dim=2)
    row_BJ = place_BJ // width
    return Peaks(column=place_BJ - row_BJ * width, row=row_BJ, value=value_BJ)


def quarter_shifts(maps_BJHW: Tensor, peaks: Peaks, *, at_tie: float, at_border: bool) -> Tensor:
    """Return x, y (B, J, 2): a quarter of a pixel from each peak towards its higher neighbour.

    Args:
        maps_BJHW: the heat maps, with the neighbours in place.
        peaks: a place in each.
        at_tie: shift along an axis whose two neighbours are equal: -0.25 (Stacked Hourglass, which
            asks only whether the right one is higher) or 0 (the sign of the difference).
        at_border: whether a peak at the border is shifted along the axis on which it lacks a
            neighbour. It then stands in for the neighbour itself (Stacked Hourglass).
    """
    _, _, height, width = maps_BJHW.shape
    maps_BJP = maps_BJHW.flatten(2)
    shifts = []
    for place_BJ, size, stride, base_BJ in (
        (peaks.column, width, 1, peaks.row * width),
        (peaks.row, height, width, peaks.column),
    ):
        before_BJ = base_BJ + (place_BJ - 1).clamp(min=0) * stride
        after_BJ = base_BJ + (place_BJ + 1).clamp(max=size - 1) * stride
        slope_BJ = _at(maps_BJP, after_BJ) - _at(maps_BJP, before_BJ)
        shift_BJ = torch.where(slope_BJ > 0, 0.25, torch.where(slope_BJ < 0, -0.25, at_tie))
        if not at_border:
            is_inside_BJ = (place_BJ > 0) & (place_BJ < size - 1)
            shift_BJ = torch.where(is_inside_BJ, shift_BJ, 0.0)
        shifts.append(shift_BJ)
    return torch.stack(shifts, dim=-1)


def soft_argmax(maps_BJHW: Tensor, *, sharpness: float = 1.0, window: int = 0) -> Tensor:
    """Return x, y (B, J, 2) in pixels of the maps, where 0 is the centre of the first pixel.

    The mean place under the soft-max of ``sharpness`` times the map (Sun et al., 2018, arXiv
    1711.08229): an argmax with a sub-pixel part, and with a gradient.

    Args:
        maps_BJHW: heat maps.
        sharpness: factor of the maps in front of the soft-max.
        window: side of the square around the peak that counts, an odd number; 0 for all places.
    """
    _, _, height, width = maps_BJHW.shape
    xs_W = torch.arange(width, dtype=maps_BJHW.dtype, device=maps_BJHW.device)
    ys_H = torch.arange(height, dtype=maps_BJHW.dtype, device=maps_BJHW.device)
    logits_BJHW = sharpness * maps_BJHW
    if window:
        peaks = find_peaks(maps_BJHW)
        is_near_BJW = (xs_W - peaks.column[..., None]).abs() <= window // 2
        is_near_BJH = (ys_H - peaks.row[..., None]).abs() <= window // 2
        is_near_BJHW = is_near_BJH[..., None] & is_near_BJW[:, :, None]
        logits_BJHW = torch.where(is_near_BJHW, logits_BJHW, -torch.inf)
    weights_BJHW = logits_BJHW.flatten(2).softmax(-1).reshape(maps_BJHW.shape)
    x_BJ = (weights_BJHW.sum(2) * xs_W).sum(2)
    y_BJ = (weights_BJHW.sum(3) * ys_H).sum(2)
    return torch.stack([x_BJ, y_BJ], dim=-1)


def _at(maps_BJP: Tensor, place_BJ: Tensor) -> Tensor:
    return maps_BJP.gather(2, place_BJ[..., None]).squeeze(2)
