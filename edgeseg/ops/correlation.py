"""Correlation of two maps (Dosovitskiy et al., 2015, arXiv 1504.06852, section 3): how alike are cells that lie apart.

Shape suffixes: B pictures, C channels, H W of a map, D shifts along both axes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_SHIFTS = 4096
"""No network compares more; a body has a few nodes for each row of shifts."""


def correlation(first: Tensor, second: Tensor, *, radius: int, step: int = 1) -> Tensor:
    """Return for each cell the mean over the channels of first[cell] * second[cell + shift], for all shifts.

    Shifts go from -radius to radius steps along both axes, dy before dx; outside the map `second` counts as 0. Agrees with
    the correlation of FlowNet2 (kernel size 1, its correlation_package). Differentiable with respect to both maps.

    Inside `torch.onnx.export(dynamo=True)` this is one node, `edgeseg::Correlation`.

    Args:
        first: (B, C, H, W) float.
        second: Of the same shape and dtype.
        radius: Steps to each side, at least 1.
        step: Cells between two shifts, at least 1.

    Returns:
        (B, (2 * radius + 1)^2, H, W), dtype of `first`.

    Raises:
        ValueError: if the shapes differ or a number is too small or too large.
    """
    _check(first, second, radius, step)
    pictures, _, height, width = first.shape
    count = 2 * radius + 1
    if torch.onnx.is_in_onnx_export():
        return torch.onnx.ops.symbolic(
            "edgeseg::Correlation",
            [first, second],
            {"radius": radius, "step": step},
            dtype=first.dtype,
            shape=(pictures, count**2, height, width),
            version=1,
        )
    reach = radius * step
    padded = F.pad(second, (reach,) * 4)
    shifted = (
        padded[:, :, top : top + height, left : left + width]
        for top in range(0, 2 * reach + 1, step)
        for left in range(0, 2 * reach + 1, step)
    )
    return torch.stack([(first * other).mean(dim=1) for other in shifted], dim=1)


def _check(first: Tensor, second: Tensor, radius: int, step: int) -> None:
    if first.dim() != 4 or first.shape != second.shape:
        raise ValueError(
            f"first has the shape {tuple(first.shape)}, second {tuple(second.shape)}: expected (B, C, H, W) of both"
        )
    if radius < 1 or step < 1 or (2 * radius + 1) ** 2 > MAX_SHIFTS:
        raise ValueError(
            f"radius is {radius}, step {step}: expected at least 1, and no more than {MAX_SHIFTS} shifts"
        )
