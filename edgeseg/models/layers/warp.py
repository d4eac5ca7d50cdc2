"""Moves a map along a flow."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeseg.ops.sampling import grid_coordinate


def warp(map_BCHW: Tensor, offset_B2HW: Tensor) -> Tensor:
    """Return for each cell the map's value at cell + offset, interpolated bilinearly; 0 outside the map.

    Args:
        map_BCHW: (B, C, H, W).
        offset_B2HW: (B, 2, H, W) in cells of the map, first x, then y.
    """
    height, width = map_BCHW.shape[2:]
    x_W, y_H = (torch.arange(size).to(offset_B2HW) for size in (width, height))
    x_BHW = x_W + offset_B2HW[:, 0]
    y_BHW = y_H[:, None] + offset_B2HW[:, 1]
    grid_BHW2 = torch.stack([grid_coordinate(x_BHW, width), grid_coordinate(y_BHW, height)], dim=-1)
    return F.grid_sample(
        map_BCHW, grid_BHW2, mode="bilinear", padding_mode="zeros", align_corners=False
    )
