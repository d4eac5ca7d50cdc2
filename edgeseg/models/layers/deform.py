"""Deformable convolutions that find their offsets themselves (Dai et al., 2017; Zhu et al., 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeseg.ops import deform_conv2d


class DeformConv2d(nn.Module):
    """A 3x3 convolution whose taps sample at learned offsets (DCN v1); padding keeps the size.

    The offsets, dy before dx of each tap, come from an ordinary 3x3 convolution of the same input. Before training it is an
    ordinary convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.offset = nn.Conv2d(in_channels, 18, 3, padding=1)
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the convolution's output, (B, out_channels, H, W)."""
        return deform_conv2d(x_BCHW, self.offset(x_BCHW), self.weight, self.bias, padding=1)


class ModulatedDeformConv2d(nn.Module):
    """A convolution whose taps sample at learned offsets, each with a learned weight between 0 and 1.

    Padding keeps the size at stride 1. The state dict is that of the original's `DCN` layer: `weight`, `bias` and
    `conv_offset_mask`, an ordinary convolution with three channels per tap and offset group: first all offsets, dy before
    dx, then all logits of the weights. Before training it is an ordinary convolution of half the weights.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        offset_groups: int = 1,
    ) -> None:
        super().__init__()
        self.stride, self.dilation = stride, dilation
        self.padding = dilation * (kernel_size // 2)
        self.num_taps = offset_groups * kernel_size**2
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.conv_offset_mask = nn.Conv2d(
            in_channels,
            3 * self.num_taps,
            kernel_size,
            stride=stride,
            padding=self.padding,
            dilation=dilation,
        )
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        nn.init.zeros_(self.conv_offset_mask.weight)
        nn.init.zeros_(self.conv_offset_mask.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the convolution's output, (B, out_channels, H / stride, W / stride)."""
        offset, mask = self.conv_offset_mask(x_BCHW).split([2 * self.num_taps, self.num_taps], 1)
        return deform_conv2d(
            x_BCHW,
            offset,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            mask=mask.sigmoid(),
        )
