"""Corner, cascade corner and centre pooling: the modules that look along rows and columns of a map."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from edgeseg.models.layers.conv import ConvNorm
from edgeseg.models.layers.running_max import corner_pool

CORNERS = {"top_left": ("top", "left"), "bottom_right": ("bottom", "right")}
"""Corner -> the directions of its two branches."""


class PooledBranches(nn.Module):
    """What all three share: two pooled branches and a 1x1 convolution of the input, summed up.

    Args:
        channels: of input and output.
        width: of each branch.
        norm_eps: of the batch normalisation.
    """

    def __init__(self, channels: int, width: int, *, norm_eps: float) -> None:
        super().__init__()
        self.first = ConvNorm(channels, width, norm_eps=norm_eps)
        self.second = ConvNorm(channels, width, norm_eps=norm_eps)
        self.merge = ConvNorm(width, channels, norm_eps=norm_eps, relu=False)
        self.shortcut = ConvNorm(channels, channels, kernel_size=1, norm_eps=norm_eps, relu=False)
        self.output = ConvNorm(channels, channels, norm_eps=norm_eps)

    @abstractmethod
    def pooled(self, x_BCHW: Tensor) -> Tensor:
        """Return the sum of both branches, (B, width, H, W)."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, channels, H, W)."""
        merged = self.merge(self.pooled(x_BCHW)) + self.shortcut(x_BCHW)
        return self.output(torch.relu(merged))


class CornerPool(PooledBranches):
    """Looks from a corner along both sides of a box (Law and Deng, 2018, section 3.4).

    Args:
        channels: of input and output.
        width: of each branch.
        corner: a key of `CORNERS`.
        norm_eps: of the batch normalisation.
    """

    def __init__(self, channels: int, width: int, corner: str, *, norm_eps: float) -> None:
        super().__init__(channels, width, norm_eps=norm_eps)
        self.directions = CORNERS[corner]

    def pooled(self, x_BCHW: Tensor) -> Tensor:
        """Return the sum of both branches, (B, width, H, W)."""
        vertical, horizontal = self.directions
        return corner_pool(self.first(x_BCHW), vertical) + corner_pool(
            self.second(x_BCHW), horizontal
        )


class CascadeCornerPool(CornerPool):
    """Looks along a side, and from there into the box (Duan et al., 2019, arXiv 1904.08189, section 3.2)."""

    def __init__(self, channels: int, width: int, corner: str, *, norm_eps: float) -> None:
        super().__init__(channels, width, corner, norm_eps=norm_eps)
        self.first_look = ConvNorm(channels, width, norm_eps=norm_eps)
        self.second_look = ConvNorm(channels, width, norm_eps=norm_eps)
        # Nothing follows these two: a quirk of the original (models/CenterNet-104.py).
        self.first_joined = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_joined = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def pooled(self, x_BCHW: Tensor) -> Tensor:
        """Return the sum of both branches, (B, width, H, W)."""
        vertical, horizontal = self.directions
        seen = corner_pool(self.first_look(x_BCHW), horizontal)
        first = corner_pool(self.first_joined(self.first(x_BCHW) + seen), vertical)
        seen = corner_pool(self.second_look(x_BCHW), vertical)
        second = corner_pool(self.second_joined(self.second(x_BCHW) + seen), horizontal)
        return first + second


class CenterPool(PooledBranches):
    """Looks along the whole column and the whole row (Duan et al., 2019, section 3.2).

    Top pooling after bottom pooling gives every place of a column the column's maximum.
    """

    def pooled(self, x_BCHW: Tensor) -> Tensor:
        """Return the sum of both branches, (B, width, H, W)."""
        columns_BC1W = self.first(x_BCHW).amax(dim=2, keepdim=True)
        rows_BCH1 = self.second(x_BCHW).amax(dim=3, keepdim=True)
        return columns_BC1W + rows_BCH1
