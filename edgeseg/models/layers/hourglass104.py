"""Hourglass-104, the trunk of CornerNet (Law and Deng, 2018, arXiv 1808.01244) and of the CenterNets."""

from __future__ import annotations

from collections.abc import Sequence

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


class Hourglass(nn.Module):
    """Down to half the size, through a smaller hourglass and up again, beside a branch of residuals."""

    def __init__(self, widths: Sequence[int], num_blocks: Sequence[int]) -> None:
        super().__init__()
        outer, inner = widths[:2]
        count = num_blocks[0]
        self.skip = _residuals(count, outer, outer)
        self.entry = _residuals(count, outer, inner, stride=2)
        self.inner: nn.Module = (
            Hourglass(widths[1:], num_blocks[1:])
            if len(widths) > 2
            else _residuals(num_blocks[1], inner, inner)
        )
        self.exit = nn.Sequential(
            *_residuals(count - 1, inner, inner),
            BasicBlock(inner, outer, stride=1, norm_eps=NORM_EPS),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, widths[0], H, W)."""
        low_BCHW = self.exit(self.inner(self.entry(x_BCHW)))
        return self.skip(x_BCHW) + F.interpolate(low_BCHW, scale_factor=2.0, mode="nearest")


class Hourglass104(nn.Module):
    """Two stacked hourglasses over a stem; what each gives has stride 4."""

    channels = WIDTHS[0]

    def __init__(
        self, *, widths: Sequence[int] = WIDTHS, num_blocks: Sequence[int] = NUM_BLOCKS
    ) -> None:
        super().__init__()
        outer = widths[0]
        self.stem = nn.Sequential(
            ConvNorm(3, outer // 2, kernel_size=7, stride=2, norm_eps=NORM_EPS),
            BasicBlock(outer // 2, outer, stride=2, norm_eps=NORM_EPS),
        )
        self.hourglasses = nn.ModuleList(Hourglass(widths, num_blocks) for _ in range(2))
        self.features = nn.ModuleList(ConvNorm(outer, outer, norm_eps=NORM_EPS) for _ in range(2))
        self.merge_input = ConvNorm(outer, outer, kernel_size=1, norm_eps=NORM_EPS, relu=False)
        self.merge_features = ConvNorm(outer, outer, kernel_size=1, norm_eps=NORM_EPS, relu=False)
        self.between = BasicBlock(outer, outer, stride=1, norm_eps=NORM_EPS)

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        """Return the features behind each hourglass, (B, 256, H / 4, W / 4), the last the best."""
        x_BCHW = self.stem(x_BCHW)
        first = self.features[0](self.hourglasses[0](x_BCHW))
        x_BCHW = torch.relu(self.merge_input(x_BCHW) + self.merge_features(first))
        second = self.features[1](self.hourglasses[1](self.between(x_BCHW)))
        return [first, second]


def _residuals(
    count: int, in_channels: int, out_channels: int, *, stride: int = 1
) -> nn.Sequential:
    """Return residual blocks in a row, of which the first changes width and size."""
    blocks = nn.Sequential()
    for number in range(count):
        blocks.append(
            BasicBlock(
                in_channels if number == 0 else out_channels,
                out_channels,
                stride=stride if number == 0 else 1,
                norm_eps=NORM_EPS,
            )
        )
    return blocks
