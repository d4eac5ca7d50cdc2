"""Deep layer aggregation (Yu et al., 2018, arXiv 1707.06484): the backbone DLA-34 and the way back to its finest map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseg.models.layers.conv import ConvNorm
from edgeseg.models.layers.deform import ModulatedDeformConv2d

NORM_EPS = 1e-5


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut that the caller supplies."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, out_channels, stride=stride, norm_eps=NORM_EPS)
        self.conv2 = ConvNorm(out_channels, out_channels, norm_eps=NORM_EPS, relu=False)

    def forward(self, x_BCHW: Tensor, shortcut_BCHW: Tensor) -> Tensor:
        """Return relu(residual + shortcut)."""
        return torch.relu(self.conv2(self.conv1(x_BCHW)) + shortcut_BCHW)


class Tree(nn.Module):
    """Two blocks whose outputs, and those of earlier nodes, a 1x1 convolution aggregates."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, extra_channels: int
    ) -> None:
        super().__init__()
        self.stride = stride
        self.blocks = nn.ModuleList(
            (
                Block(in_channels, out_channels, stride=stride),
                Block(out_channels, out_channels, stride=1),
            )
        )
        self.root = ConvNorm(
            2 * out_channels + extra_channels, out_channels, kernel_size=1, norm_eps=NORM_EPS
        )
        self.project = (
            ConvNorm(in_channels, out_channels, kernel_size=1, norm_eps=NORM_EPS, relu=False)
            if in_channels != out_channels
            else None
        )

    def forward(self, x_BCHW: Tensor, extras: Sequence[Tensor] = ()) -> Tensor:
        """Return the aggregate of both blocks and ``extras``, at 1 / stride of the size."""
        shortcut = _shrink(x_BCHW, self.stride)
        if self.project is not None:
            shortcut = self.project(shortcut)
        first = self.blocks[0](x_BCHW, shortcut)
        second = self.blocks[1](first, first)
        return self.root(torch.cat([second, first, *extras], dim=1))


class DoubleTree(nn.Module):
    """A tree behind a tree; the second also aggregates the first and the shrunken input."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.trees = nn.ModuleList(
            (
                Tree(in_channels, out_channels, stride=stride, extra_channels=0),
                Tree(
                    out_channels, out_channels, stride=1, extra_channels=in_channels + out_channels
                ),
            )
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the aggregate, at 1 / stride of the size."""
        first = self.trees[0](x_BCHW)
        return self.trees[1](first, (_shrink(x_BCHW, self.stride), first))


class SingleTree(Tree):
    """A tree that also aggregates its own shrunken input."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__(in_channels, out_channels, stride=stride, extra_channels=in_channels)

    def forward(self, x_BCHW: Tensor, extras: Sequence[Tensor] = ()) -> Tensor:
        """Return the aggregate, at 1 / stride of the size."""
        return super().forward(x_BCHW, (_shrink(x_BCHW, self.stride), *extras))


class DLA34(nn.Module):
    """DLA-34 without its classifier: levels 2..5 at strides 4, 8, 16, 32."""

    channels = (64, 128, 256, 512)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            ConvNorm(3, 16, kernel_size=7, norm_eps=NORM_EPS),
            ConvNorm(16, 16, norm_eps=NORM_EPS),
            ConvNorm(16, 32, stride=2, norm_eps=NORM_EPS),
        )
        self.levels = nn.ModuleList(
            (
                Tree(32, 64, stride=2, extra_channels=0),
                DoubleTree(64, 128, stride=2),
                DoubleTree(128, 256, stride=2),
                SingleTree(256, 512, stride=2),
            )
        )

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        """Return levels 2..5 of a normalised picture (B, 3, H, W)."""
        x_BCHW = self.stem(x_BCHW)
        features = []
        for level in self.levels:
            x_BCHW = level(x_BCHW)
            features.append(x_BCHW)
        return features


class IterativeUp(nn.Module):
    """Brings maps of falling size, one after the other, to the size of the first and joins them.

    Every map but the first is projected to ``out_channels``, enlarged by its factor and joined with
    the result of the map before it: with ``deformable`` by deformable convolutions around a sum
    (CenterNet's dla_34), otherwise by a 3x3 convolution of both side by side (dlav0_34).
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        factors: Sequence[int],
        *,
        deformable: bool,
    ) -> None:
        super().__init__()
        self.deformable = deformable
        self.projections = nn.ModuleList()
        self.ups = nn.ModuleList()
        self.nodes = nn.ModuleList()
        for channels, factor in zip(in_channels[1:], factors[1:], strict=True):
            if deformable:
                self.projections.append(_deformable(channels, out_channels))
                self.nodes.append(_deformable(out_channels, out_channels))
            else:
                self.projections.append(
                    ConvNorm(channels, out_channels, kernel_size=1, norm_eps=NORM_EPS)
                )
                self.nodes.append(ConvNorm(2 * out_channels, out_channels, norm_eps=NORM_EPS))
            self.ups.append(_bilinear_up(out_channels, factor))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the first map as it is and each of the others joined with those before it."""
        joined = [features[0]]
        for feature, project, up, node in zip(
            features[1:], self.projections, self.ups, self.nodes, strict=True
        ):
            enlarged = up(project(feature))
            pair = (
                (enlarged + joined[-1]) if self.deformable else torch.cat([joined[-1], enlarged], 1)
            )
            joined.append(node(pair))
        return joined


class DLAUp(nn.Module):
    """Hierarchical aggregation from the coarsest map on, each time one map finer.

    With ``deformable`` the results of the three finest sizes are joined once more, as in CenterNet's
    dla_34; without, the finest is the result, as in its dlav0_34.
    """

    def __init__(self, in_channels: Sequence[int], *, deformable: bool) -> None:
        super().__init__()
        channels = list(in_channels)
        self.steps = nn.ModuleList()
        for first in range(len(channels) - 2, -1, -1):
            factors = [1] + [2] * (len(channels) - 1 - first)
            self.steps.append(
                IterativeUp(channels[first:], channels[first], factors, deformable=deformable)
            )
            channels[first + 1 :] = [channels[first]] * (len(channels) - first - 1)
        self.final = (
            IterativeUp(
                in_channels[:-1],
                in_channels[0],
                [1 << level for level in range(len(in_channels) - 1)],
                deformable=True,
            )
            if deformable
            else None
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return the finest map, enriched by all others, (B, in_channels[0], H / 4, W / 4)."""
        maps: list[Tensor] = list(features)
        finer: list[Tensor] = []
        for number, step in enumerate(self.steps):
            first = len(maps) - 2 - number
            maps[first:] = step(maps[first:])
            finer.insert(0, maps[-1])
        return finer[0] if self.final is None else self.final(finer)[-1]


def _deformable(in_channels: int, out_channels: int) -> ConvNorm:
    conv = ModulatedDeformConv2d(in_channels, out_channels)
    return ConvNorm(in_channels, out_channels, norm_eps=NORM_EPS, conv=conv)


def _bilinear_up(channels: int, factor: int) -> nn.ConvTranspose2d:
    """Return an enlargement of each channel for itself, bilinear before training."""
    up = nn.ConvTranspose2d(
        channels,
        channels,
        2 * factor,
        stride=factor,
        padding=factor // 2,
        groups=channels,
        bias=False,
    )
    ramp = 1 - (torch.arange(2 * factor) - (factor - 0.5)).abs() / factor
    with torch.no_grad():
        up.weight.copy_(ramp[:, None] * ramp)
    return up


def _shrink(x_BCHW: Tensor, stride: int) -> Tensor:
    return F.max_pool2d(x_BCHW, stride) if stride > 1 else x_BCHW
