"""Anchor boxes of a feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def base_anchors(size: float, ratios: Sequence[float], *, rounded: bool) -> Tensor:
    """Return the anchors of one place, (A, 4) x1 y1 x2 y2 around the origin.

    ``ratios`` are height / width at constant area size**2. torchvision rounds the corners to whole
    numbers, half to even (models/detection/anchor_utils.py); detectron2 does not.
    """
    ratios_A = torch.tensor(ratios, dtype=torch.float32)
    heights_A = size * torch.sqrt(ratios_A)
    widths_A = size / torch.sqrt(ratios_A)
    anchors_A4 = torch.stack([-widths_A, -heights_A, widths_A, heights_A], dim=1) / 2
    return anchors_A4.round() if rounded else anchors_A4


def grid_anchors(base_A4: Tensor, map_size: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Return the anchors of a whole map, (H * W * A, 4), ordered by y, x, anchor.

    Places lie at (x * stride, y * stride), with no offset into the cell.
    """
    height, width = map_size
    ys_H = torch.arange(height, dtype=torch.float32) * stride[0]
    xs_W = torch.arange(width, dtype=torch.float32) * stride[1]
    y_HW, x_HW = torch.meshgrid(ys_H, xs_W, indexing="ij")
    shifts_HW4 = torch.stack([x_HW, y_HW, x_HW, y_HW], dim=-1)
    return (shifts_HW4[:, :, None, :] + base_A4).reshape(-1, 4)
