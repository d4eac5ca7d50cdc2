"""Hourglass-104, the trunk of CornerNet (Law and Deng, 2018, arXiv 1808.01244) and of both CenterNets.

With one hourglass it is Hourglass-52; with fire modules that of CornerNet-Squeeze (Law et al., 2019,
arXiv 1904.08900).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseg.models.layers.conv import ConvNorm
from edgeseg.models.layers.resnet import BasicBlock

NORM_EPS = 1e-5
WIDTHS = (256, 256, 384, 384, 384, 512)
"""Channels from the outermost hourglass to the innermost residuals."""
NUM_BLOCKS = (2, 2, 2, 2, 2, 4)
"""Residuals in a row at each of these depths."""

MakeBlock: TypeAlias = Callable[[int, int, int], nn.Module]
"""Called with the channels in and out, and the stride."""


class FireModule(nn.Module):
    """Half the channels by a 1x1 convolution, then as many again by a 1x1 and a depthwise 3x3 one.

    Without an activation between them. The input is added where it has the same shape.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.squeeze = ConvNorm(in_channels, half, kernel_size=1, norm_eps=NORM_EPS, relu=False)
        self.expand_1x1 = nn.Conv2d(half, half, 1, stride=stride, bias=False)
        self.expand_3x3 = nn.Conv2d(
            half, half, 3, stride=stride, padding=1, groups=half, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels, eps=NORM_EPS)
        self.has_skip = stride == 1 and in_channels == out_channels

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, out_channels, H / stride, W / stride)."""
        squeezed = self.squeeze(x_BCHW)
        y_BCHW = torch.cat([self.expand_1x1(squeezed), self.expand_3x3(squeezed)], dim=1)
        y_BCHW = self.norm(y_BCHW)
        return torch.relu(y_BCHW + x_BCHW if self.has_skip else y_BCHW)


def residual(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Return the block of Hourglass-104."""
    return BasicBlock(in_channels, out_channels, stride=stride, norm_eps=NORM_EPS)


class Hourglass(nn.Module):
    """Down to half the size, through a smaller hourglass and up again, beside a branch of blocks.

    Args:
        widths: channels from here to the innermost blocks.
        num_blocks: in a row at each of these depths.
        make_block: of which everything is made.
        has_deconv: whether a transposed convolution enlarges the map, or each place is repeated.
    """

    def __init__(
        self,
        widths: Sequence[int],
        num_blocks: Sequence[int],
        *,
        make_block: MakeBlock = residual,
        has_deconv: bool = False,
    ) -> None:
        super().__init__()
        outer, inner = widths[:2]
        count = num_blocks[0]
        self.skip = _row(make_block, count, outer, outer)
        self.entry = _row(make_block, count, outer, inner, stride=2)
        self.inner: nn.Module = (
            Hourglass(widths[1:], num_blocks[1:], make_block=make_block, has_deconv=has_deconv)
            if len(widths) > 2
            else _row(make_block, num_blocks[1], inner, inner)
        )
        self.exit = nn.Sequential(
            *_row(make_block, count - 1, inner, inner), make_block(inner, outer, 1)
        )
        self.up = nn.ConvTranspose2d(outer, outer, 4, stride=2, padding=1) if has_deconv else None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, widths[0], H, W)."""
        low_BCHW = self.exit(self.inner(self.entry(x_BCHW)))
        if self.up is None:
            return self.skip(x_BCHW) + F.interpolate(low_BCHW, scale_factor=2.0, mode="nearest")
        return self.skip(x_BCHW) + self.up(low_BCHW)


class StackedHourglass(nn.Module):
    """Hourglasses in a row over a stem.

    Args:
        num_stacks: hourglasses in a row, 1 or 2.
        widths: of each, see `Hourglass`.
        num_blocks: of each.
        stem_blocks: residual blocks of stride 2 behind the stem's convolution of stride 2.
        make_block: what the hourglasses are made of.
        has_deconv: see `Hourglass`.
    """

    def __init__(
        self,
        *,
        num_stacks: int = 2,
        widths: Sequence[int] = WIDTHS,
        num_blocks: Sequence[int] = NUM_BLOCKS,
        stem_blocks: int = 1,
        make_block: MakeBlock = residual,
        has_deconv: bool = False,
    ) -> None:
        super().__init__()
        assert num_stacks in (1, 2), num_stacks
        outer = widths[0]
        self.channels = outer
        self.stem = nn.Sequential(
            ConvNorm(3, outer // 2, kernel_size=7, stride=2, norm_eps=NORM_EPS),
            residual(outer // 2, outer, 2),
            *(residual(outer, outer, 2) for _ in range(stem_blocks - 1)),
        )
        self.hourglasses = nn.ModuleList(
            Hourglass(widths, num_blocks, make_block=make_block, has_deconv=has_deconv)
            for _ in range(num_stacks)
        )
        self.features = nn.ModuleList(
            ConvNorm(outer, outer, norm_eps=NORM_EPS) for _ in range(num_stacks)
        )
        if num_stacks == 2:
            self.merge_input = ConvNorm(outer, outer, kernel_size=1, norm_eps=NORM_EPS, relu=False)
            self.merge_features = ConvNorm(
                outer, outer, kernel_size=1, norm_eps=NORM_EPS, relu=False
            )
            self.between = residual(outer, outer, 1)

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        """Return the features behind each hourglass, (B, widths[0], h, w), the last the best."""
        x_BCHW = self.stem(x_BCHW)
        found = [self.features[0](self.hourglasses[0](x_BCHW))]
        if len(self.hourglasses) == 2:
            merged = torch.relu(self.merge_input(x_BCHW) + self.merge_features(found[0]))
            found.append(self.features[1](self.hourglasses[1](self.between(merged))))
        return found


def _row(
    make_block: MakeBlock, count: int, in_channels: int, out_channels: int, *, stride: int = 1
) -> nn.Sequential:
    """Return blocks in a row, of which the first changes width and size."""
    blocks = nn.Sequential()
    for number in range(count):
        first = number == 0
        blocks.append(
            make_block(in_channels if first else out_channels, out_channels, stride if first else 1)
        )
    return blocks
