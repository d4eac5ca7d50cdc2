"""Residual backbones (He et al., 2015) in the two variants that detectors use."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseg.models.layers.conv import ConvNorm
from edgeseg.models.layers.deform import DeformConv2d, ModulatedDeformConv2d

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
BOTTLENECK_DEPTHS = (50, 101)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around an identity or projected shortcut.

    ``stride_in_1x1`` puts the stride in the first convolution (the MSRA weights that detectron2
    uses); otherwise it is in the 3x3 (torchvision, "v1.5"). ``deformable`` makes the 3x3 one that
    samples at learned offsets (DCN v2, or v1 unless ``modulated``, then of stride 1).
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        stride: int,
        stride_in_1x1: bool,
        norm_eps: float,
        deformable: bool = False,
        modulated: bool = True,
    ) -> None:
        super().__init__()
        out_channels = width * self.expansion
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        conv: nn.Module | None = None
        if deformable:
            assert modulated or stride_3x3 == 1
            conv = (
                ModulatedDeformConv2d(width, width, stride=stride_3x3)
                if modulated
                else DeformConv2d(width, width, bias=False)
            )
        self.conv1 = ConvNorm(
            in_channels, width, kernel_size=1, stride=stride_1x1, norm_eps=norm_eps
        )
        self.conv2 = ConvNorm(
            width,
            width,
            stride=stride_3x3,
            norm_eps=norm_eps,
            conv=conv,
        )
        self.conv3 = ConvNorm(width, out_channels, kernel_size=1, norm_eps=norm_eps, relu=False)
        self.shortcut = (
            ConvNorm(
                in_channels,
                out_channels,
                kernel_size=1,
                stride=stride,
                norm_eps=norm_eps,
                relu=False,
            )
            if stride != 1 or in_channels != out_channels
            else None
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return relu(residual + shortcut)."""
        shortcut = x_BCHW if self.shortcut is None else self.shortcut(x_BCHW)
        return torch.relu(self.conv3(self.conv2(self.conv1(x_BCHW))) + shortcut)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around an identity or projected shortcut."""

    def __init__(self, in_channels: int, width: int, *, stride: int, norm_eps: float) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, width, stride=stride, norm_eps=norm_eps)
        self.conv2 = ConvNorm(width, width, norm_eps=norm_eps, relu=False)
        self.shortcut = (
            ConvNorm(
                in_channels, width, kernel_size=1, stride=stride, norm_eps=norm_eps, relu=False
            )
            if stride != 1 or in_channels != width
            else None
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return relu(residual + shortcut)."""
        shortcut = x_BCHW if self.shortcut is None else self.shortcut(x_BCHW)
        return torch.relu(self.conv2(self.conv1(x_BCHW)) + shortcut)


class ResNet(nn.Module):
    """ResNet-18, -34, -50 or -101 without its classifier: C2..C5 at strides 4, 8, 16, 32.

    ``is_deformable`` tells from the number of a stage and of a block in it, both from 0, whether the
    block is a deformable one (bottlenecks only), ``modulated`` of which version. ``channels`` has the number of channels of C2..C5.
    """

    def __init__(
        self,
        depth: int,
        *,
        stride_in_1x1: bool = False,
        norm_eps: float,
        is_deformable: Callable[[int, int], bool] = lambda stage, block: False,
        modulated: bool = True,
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"depth {depth} found, expected one of {sorted(BLOCKS)}")
        has_bottlenecks = depth in BOTTLENECK_DEPTHS
        expansion = Bottleneck.expansion if has_bottlenecks else 1
        self.channels = tuple((64 << stage) * expansion for stage in range(len(BLOCKS[depth])))
        self.stem = ConvNorm(3, 64, kernel_size=7, stride=2, norm_eps=norm_eps)
        self.stages = nn.ModuleList()
        in_channels = 64
        for stage, num_blocks in enumerate(BLOCKS[depth]):
            blocks = nn.Sequential()
            for block in range(num_blocks):
                width, stride = 64 << stage, 2 if stage > 0 and block == 0 else 1
                blocks.append(
                    Bottleneck(
                        in_channels,
                        width,
                        stride=stride,
                        stride_in_1x1=stride_in_1x1,
                        norm_eps=norm_eps,
                        deformable=is_deformable(stage, block),
                        modulated=modulated,
                    )
                    if has_bottlenecks
                    else BasicBlock(in_channels, width, stride=stride, norm_eps=norm_eps)
                )
                in_channels = self.channels[stage]
            self.stages.append(blocks)

    def forward(self, x_BCHW: Tensor, num_maps: int = 4) -> list[Tensor]:
        """Return C2..C5 of a normalised picture (B, 3, H, W), or the first of them."""
        x_BCHW = F.max_pool2d(self.stem(x_BCHW), kernel_size=3, stride=2, padding=1)
        return _collect(self.stages[:num_maps], x_BCHW)


class SmallResNet(nn.Module):
    """A narrow backbone of basic blocks for the small variants: C2..C5 at strides 4, 8, 16, 32."""

    def __init__(self, channels: tuple[int, ...], *, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.channels = channels
        self.stem = nn.Sequential(
            ConvNorm(3, channels[0] // 2, stride=2, norm_eps=norm_eps),
            ConvNorm(channels[0] // 2, channels[0], stride=2, norm_eps=norm_eps),
        )
        widths_in = (channels[0], *channels[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(
                BasicBlock(width_in, width, stride=2 if stage else 1, norm_eps=norm_eps),
                BasicBlock(width, width, stride=1, norm_eps=norm_eps),
            )
            for stage, (width_in, width) in enumerate(zip(widths_in, channels, strict=True))
        )

    def forward(self, x_BCHW: Tensor, num_maps: int = 4) -> list[Tensor]:
        """Return C2..C5 of a normalised picture (B, 3, H, W), or the first of them."""
        return _collect(self.stages[:num_maps], self.stem(x_BCHW))


def _collect(stages: Iterable[nn.Module], x_BCHW: Tensor) -> list[Tensor]:
    features = []
    for stage in stages:
        x_BCHW = stage(x_BCHW)
        features.append(x_BCHW)
    return features
