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


def twice_rounded_anchors(size: float, ratios: Sequence[float], *, stride: int) -> Tensor:
    """Return the anchors of one place, (A, 4) x1 y1 x2 y2, of which the pixel at x2 y2 is part.

    py-faster-rcnn, generate_anchors.py, which UPSNet took over: a square of the stride's size is reshaped to a whole
    width and from that to a whole height, each rounded half to even, and then enlarged about its centre.
    """
    ratios_A = torch.tensor(ratios, dtype=torch.float64)
    widths_A = torch.sqrt(stride**2 / ratios_A).round()
    heights_A = (widths_A * ratios_A).round()
    sizes_A2 = torch.stack([widths_A, heights_A], dim=1) * (size / stride)
    centre = (stride - 1) / 2
    half_A2 = (sizes_A2 - 1) / 2
    return torch.cat([centre - half_A2, centre + half_A2], dim=1).float()


def once_rounded_anchors(size: float, ratios: Sequence[float], stride: int) -> Tensor:
    """Return the anchors of one place, (A, 4) x1 y1 x2 y2, of which the pixel at x2 y2 is part.

    mmdetection 1, anchor_generator.py, which VPSNet took over: they lie about the middle of the first cell, and corners
    are rounded half to even.
    """
    ratios_A = torch.tensor(ratios, dtype=torch.float32)
    sizes_A2 = torch.stack([size / ratios_A.sqrt(), size * ratios_A.sqrt()], dim=1)
    centre = (stride - 1) / 2
    half_A2 = (sizes_A2 - 1) / 2
    return torch.cat([centre - half_A2, centre + half_A2], dim=1).round()


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


def centered_anchors(
    widths: Sequence[float],
    heights: Sequence[float],
    map_size: tuple[int, int],
    image_size: tuple[int, int],
) -> Tensor:
    """Return the anchors of a whole map, (H * W * A, 4) x1 y1 x2 y2, ordered by y, x, anchor.

    They are centred in equal cells that cover the whole picture, whatever the stride of the map.

    Args:
        widths: of the A anchors of a cell, in pixels.
        heights: as long as ``widths``.
        map_size: height and width of the map.
        image_size: height and width of the picture in pixels.
    """
    size_A2 = torch.tensor([*zip(widths, heights, strict=True)], dtype=torch.float64)
    ys_H, xs_W = (
        (torch.arange(cells, dtype=torch.float64) + 0.5) / cells * pixels
        for cells, pixels in zip(map_size, image_size, strict=True)
    )
    y_HW, x_HW = torch.meshgrid(ys_H, xs_W, indexing="ij")
    center_HW12 = torch.stack([x_HW, y_HW], dim=-1)[:, :, None]
    corners_HWA4 = torch.cat([center_HW12 - size_A2 / 2, center_HW12 + size_A2 / 2], dim=-1)
    return corners_HWA4.reshape(-1, 4).float()
