"""High-resolution network (Sun et al., 2019, arXiv 1904.04514): branches that keep their resolution.

Shape suffixes: B pictures, C channels, H W the map of the finest branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseg.models.layers.conv import ConvNorm
from edgeseg.models.layers.resnet import BasicBlock, Bottleneck


class HRNet(nn.Module):
    """A stem of stride 4, then stages with one more branch each, at half the last one's resolution.

    HRNetV2: the result is every branch, brought to the finest one's size, side by side.
    """

    def __init__(
        self,
        widths: Sequence[int],
        num_modules: Sequence[int],
        *,
        num_blocks: int = 4,
        stem_channels: int = 64,
        stem_blocks: int = 4,
        norm_eps: float = 1e-5,
    ) -> None:
        """Build the network.

        Args:
            widths: channels of each branch, the finest first.
            num_modules: of each stage; there is one stage less than branches.
            num_blocks: residual blocks of each branch in each module.
            stem_channels: of the two convolutions of stride 2.
            stem_blocks: bottlenecks behind them.
            norm_eps: of every batch normalisation.
        """
        super().__init__()
        if len(widths) != len(num_modules) + 1 or len(widths) < 2:
            raise ValueError(
                f"{len(widths)} widths and {len(num_modules)} stages found, "
                "expected at least two widths and one stage less"
            )
        self.channels = sum(widths)
        self.stem = nn.Sequential(
            ConvNorm(3, stem_channels, stride=2, norm_eps=norm_eps),
            ConvNorm(stem_channels, stem_channels, stride=2, norm_eps=norm_eps),
        )
        width = stem_channels * Bottleneck.expansion
        self.bottlenecks = nn.Sequential(
            *(
                Bottleneck(
                    width if block else stem_channels,
                    stem_channels,
                    stride=1,
                    stride_in_1x1=False,
                    norm_eps=norm_eps,
                )
                for block in range(stem_blocks)
            )
        )
        self.narrow = ConvNorm(width, widths[0], norm_eps=norm_eps)
        self.spawn = nn.ModuleList(
            ConvNorm(width_in, width_out, stride=2, norm_eps=norm_eps)
            for width_in, width_out in pairwise((width, *widths[1:]))
        )
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    ExchangeModule(widths[: stage + 2], num_blocks=num_blocks, norm_eps=norm_eps)
                    for _ in range(number)
                )
            )
            for stage, number in enumerate(num_modules)
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the features of a normalised picture, (B, sum of widths, H / 4, W / 4)."""
        return fuse_sizes(self.stage_outputs(x_BCHW)[-1])

    def stage_outputs(self, x_BCHW: Tensor) -> list[list[Tensor]]:
        """Return the branches behind the stem, and behind each stage."""
        stem_BCHW = self.bottlenecks(self.stem(x_BCHW))
        outputs = [[stem_BCHW]]
        branches = [self.narrow(stem_BCHW), self.spawn[0](stem_BCHW)]
        for number, stage in enumerate(self.stages):
            if number:
                branches = [*branches, self.spawn[number](branches[-1])]
            branches = stage(branches)
            outputs.append(branches)
        return outputs


class ExchangeModule(nn.Module):
    """Residual blocks on every branch; then each branch gets the sum of all, at its own size.

    Finer branches come down by 3x3 convolutions of stride 2, coarser ones up by a 1x1 convolution
    and bilinear interpolation (figure 2 of the paper).
    """

    def __init__(self, widths: Sequence[int], *, num_blocks: int, norm_eps: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                *(BasicBlock(width, width, stride=1, norm_eps=norm_eps) for _ in range(num_blocks))
            )
            for width in widths
        )
        self.fuse = nn.ModuleList(
            nn.ModuleList(
                _exchange(widths, source, target, norm_eps) for source in range(len(widths))
            )
            for target in range(len(widths))
        )

    def forward(self, branches: Sequence[Tensor]) -> list[Tensor]:
        """Return as many branches as were given, in their sizes."""
        features = [blocks(x) for blocks, x in zip(self.branches, branches, strict=True)]
        fused = []
        for target, layers in enumerate(self.fuse):
            assert isinstance(layers, nn.ModuleList)
            size = features[target].shape[-2:]
            parts = [layer(x) for layer, x in zip(layers, features, strict=True)]
            total = parts[0]
            for part in parts[1:]:
                total = total + _resized(part, size)
            fused.append(torch.relu(total))
        return fused


def fuse_sizes(branches: Sequence[Tensor]) -> Tensor:
    """Return the branches at the size of the first, side by side, (B, sum of channels, H, W)."""
    size = branches[0].shape[-2:]
    return torch.cat([_resized(x_BCHW, size) for x_BCHW in branches], dim=1)


def _exchange(widths: Sequence[int], source: int, target: int, norm_eps: float) -> nn.Module:
    """Return what a branch passes before it is added to another."""
    if source == target:
        return nn.Identity()
    if source > target:
        return ConvNorm(
            widths[source], widths[target], kernel_size=1, norm_eps=norm_eps, relu=False
        )
    steps = [*[widths[source]] * (target - source), widths[target]]
    return nn.Sequential(
        *(
            ConvNorm(
                width_in,
                width_out,
                stride=2,
                norm_eps=norm_eps,
                relu=step + 1 < target - source,
            )
            for step, (width_in, width_out) in enumerate(pairwise(steps))
        )
    )


def _resized(x_BCHW: Tensor, size: Sequence[int]) -> Tensor:
    """Return the map in a size of at least its own; the same map if it has it."""
    if tuple(x_BCHW.shape[-2:]) == tuple(size):
        return x_BCHW
    return F.interpolate(x_BCHW, size=tuple(size), mode="bilinear", align_corners=False)
