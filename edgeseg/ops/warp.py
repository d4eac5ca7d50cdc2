"""Moves a map along a flow.

Shape suffixes: B pictures, C channels, H W of a map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

OUTSIDE = ("zeros", "border")
SPACINGS = ("cells", "stretched")


def warp(map_: Tensor, flow: Tensor, *, outside: str = "zeros", spacing: str = "cells") -> Tensor:
    """Return for each cell the map's value at cell + flow, interpolated bilinearly.

    With the border outside this is FlowNet2's `Resample2d`, which takes each of the four neighbours that lies outside from
    the nearest border cell: their weights add up to 1, so the position itself may be clamped. "stretched" is the warp of
    VPSNet, which makes its grid for the centres of the outermost cells and reads it as their outer borders: position p
    is read at p * size / (size - 1) - 1/2, and even without flow the map moves. Differentiable with respect to both inputs.

    Inside `torch.onnx.export(dynamo=True)` this is one node, `edgeseg::Warp`.

    Args:
        map_: (B, C, H, W) float.
        flow: (B, 2, H, W) in cells of the map, first x, then y.
        outside: What the map is there: "zeros", or "border" for its outermost cells.
        spacing: Where a position is read: "cells" at itself, or "stretched".

    Returns:
        (B, C, H, W), dtype of `map_`.

    Raises:
        ValueError: if the shapes do not fit together or a rule is unknown.
    """
    _check(map_, flow, outside, spacing)
    if torch.onnx.is_in_onnx_export():
        return torch.onnx.ops.symbolic(
            "edgeseg::Warp",
            [map_, flow],
            {"outside": outside, "spacing": spacing},
            dtype=map_.dtype,
            shape=tuple(map_.shape),
            version=1,
        )
    height, width = map_.shape[2:]
    x_W, y_H = (torch.arange(size).to(flow) for size in (width, height))
    grid = [
        _in_grid(position, size, outside, spacing)
        for position, size in (
            (x_W + flow[:, 0], width),
            (y_H[:, None] + flow[:, 1], height),
        )
    ]
    return F.grid_sample(
        map_,
        torch.stack(grid, dim=-1),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )


def grid_line(size: int, spacing: str) -> tuple[float, float]:
    """Return slope and start of the line from positions along an axis to what `grid_sample` counts from -1 to 1.

    Without `align_corners`, cell i has its centre at (2 i + 1) / size - 1.
    """
    if spacing == "stretched":
        return 2 / (size - 1), -1.0
    return 2 / size, 1 / size - 1


def grid_bounds(size: int, outside: str) -> tuple[float, float]:
    """Return the least and the greatest coordinate of an axis that `grid_sample` is given.

    What is a cell or more outside counts as 0 however far it is: bounds keep it from overflowing an integer. For the border
    they are the centres of the outermost cells.
    """
    beyond = 0 if outside == "border" else 2
    return (1 - 2 * beyond) / size - 1, (2 * beyond - 1) / size + 1


def _in_grid(position: Tensor, size: int, outside: str, spacing: str) -> Tensor:
    slope, start = grid_line(size, spacing)
    return (position * slope + start).clamp(*grid_bounds(size, outside))


def _check(map_: Tensor, flow: Tensor, outside: str, spacing: str) -> None:
    expected = (map_.shape[0], 2, *map_.shape[2:])
    if map_.dim() != 4 or flow.shape != expected:
        raise ValueError(
            f"map_ has the shape {tuple(map_.shape)}, flow {tuple(flow.shape)}: expected (B, C, H, W) and (B, 2, H, W)"
        )
    for name, value, choices in (("outside", outside, OUTSIDE), ("spacing", spacing, SPACINGS)):
        if value not in choices:
            raise ValueError(f"{name} is {value!r}, expected one of {', '.join(choices)}")
    if spacing == "stretched" and min(map_.shape[2:]) < 2:
        raise ValueError(
            f"map_ has the shape {tuple(map_.shape)}, expected at least 2 cells along each axis to stretch"
        )
