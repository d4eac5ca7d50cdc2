"""Deformable convolution, first version and modulated: each tap of the kernel samples at an offset of its own.

Shape suffixes: B pictures, C input channels, G offset groups, T taps of the kernel, K rows or columns of it, R rows and S
columns of the output.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from edgeseg.ops.sampling import grid_coordinate


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Return a convolution whose taps read the map at y + dy and x + dx, bilinearly, weighted with the mask.

    Agrees with torchvision's deform_conv2d (CPU kernel), and so with the layers of Deformable ConvNets (arXiv:1703.06211) and
    their second version (arXiv:1811.11168): cells outside the map count as 0. Differentiable with respect to all inputs.

    Inside `torch.onnx.export(dynamo=True)` this is one node, `edgeseg::DeformConv2d`.

    Args:
        x: (B, C, H, W) float.
        offset: (B, 2*G*T, R, S) in cells. Channel 2*(g*T + t) is dy and the following dx of tap t (row by row of the kernel), for the
            input channels of offset group g, which are C/G neighbours.
        weight: (O, C/groups, KH, KW), which says the number of groups of the convolution.
        bias: [O] or None.
        stride: Of the output, height and width, as are the following.
        padding: Cells around the map that the kernel may reach without an offset.
        dilation: Cells from one tap to the next.
        mask: (B, G*T, R, S), factor of each sample (normally a sigmoid's result), or None.

    Returns:
        (B, O, R, S), dtype of `x`.

    Raises:
        ValueError: if the shapes do not fit together.
    """
    stride, padding, dilation = (_pair(value) for value in (stride, padding, dilation))
    groups, size = _check(x, offset, weight, mask, stride, padding, dilation)
    if torch.onnx.is_in_onnx_export():
        if bias is None and mask is not None:  # TensorRT's parser knows no gap in a node's inputs
            bias = weight.new_zeros(len(weight))
        return torch.onnx.ops.symbolic(
            "edgeseg::DeformConv2d",
            [x, offset, weight, bias, mask],
            {
                "stride": list(stride),
                "padding": list(padding),
                "dilation": list(dilation),
                "groups": groups,
                "offset_groups": offset.shape[1] // (2 * weight.shape[2] * weight.shape[3]),
            },
            dtype=x.dtype,
            shape=(x.shape[0], weight.shape[0], *size),
            version=1,
        )
    pictures, channels, height, width = x.shape
    kernel = weight.shape[2], weight.shape[3]
    taps = kernel[0] * kernel[1]

    # Each offset group samples as a picture of its own.
    offset_BGT2RS = offset.reshape(-1, taps, 2, *size)
    y_TR1, x_T1S = tap_positions(kernel, size, stride, padding, dilation)
    y_BGTRS = offset_BGT2RS[:, :, 0] + torch.from_numpy(y_TR1).to(offset)
    x_BGTRS = offset_BGT2RS[:, :, 1] + torch.from_numpy(x_T1S).to(offset)
    grid_BGTRS2 = torch.stack(
        [grid_coordinate(x_BGTRS, width), grid_coordinate(y_BGTRS, height)], dim=4
    )
    samples = F.grid_sample(
        x.reshape(len(grid_BGTRS2), -1, height, width),
        grid_BGTRS2.reshape(-1, taps * size[0], size[1], 2),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    if mask is not None:
        samples = samples * mask.reshape(-1, 1, taps * size[0], size[1])
    # Channel by channel, tap by tap: the order that the weights are stored in.
    samples_BCTRS = samples.reshape(pictures, channels * taps, *size)
    return F.conv2d(samples_BCTRS, weight.reshape(len(weight), -1, 1, 1), bias, groups=groups)


def tap_positions(
    kernel: tuple[int, int],
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return where each tap of each output cell samples without an offset: y (T, R, 1) and x (T, 1, S) in cells."""
    y_KR, x_KS = (
        np.arange(size[axis]) * stride[axis]
        - padding[axis]
        + np.arange(kernel[axis])[:, None] * dilation[axis]
        for axis in (0, 1)
    )
    return (
        np.repeat(y_KR, kernel[1], axis=0)[:, :, None].astype(np.float32),
        np.tile(x_KS, (kernel[0], 1))[:, None].astype(np.float32),
    )


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _check(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, tuple[int, int]]:
    """Return the number of groups of the convolution and the size of its output.

    Raises:
        ValueError: the shapes do not fit together.
    """
    if x.dim() != 4 or weight.dim() != 4:
        raise ValueError(
            f"x has the shape {tuple(x.shape)}, weight {tuple(weight.shape)}: expected (B, C, H, W) and (O, C/groups, KH, KW)"
        )
    channels, in_group, taps = x.shape[1], weight.shape[1], weight.shape[2] * weight.shape[3]
    if channels % in_group or weight.shape[0] % (channels // in_group):
        raise ValueError(
            f"weight of the shape {tuple(weight.shape)} makes no groups of {channels} channels"
        )
    rows, columns = (
        (x.shape[2 + axis] + 2 * padding[axis] - dilation[axis] * (weight.shape[2 + axis] - 1) - 1)
        // stride[axis]
        + 1
        for axis in (0, 1)
    )
    offset_groups = offset.shape[1] // (2 * taps)
    expected = (x.shape[0], 2 * taps * offset_groups, rows, columns)
    if not offset_groups or channels % offset_groups or offset.shape != expected:
        raise ValueError(
            f"offset has the shape {tuple(offset.shape)}, expected ({x.shape[0]}, G*{2 * taps}, {rows}, {columns}) "
            f"with a divisor G of {channels}"
        )
    expected = (x.shape[0], taps * offset_groups, rows, columns)
    if mask is not None and mask.shape != expected:
        raise ValueError(f"mask has the shape {tuple(mask.shape)}, expected {tuple(expected)}")
    return channels // in_group, (rows, columns)
