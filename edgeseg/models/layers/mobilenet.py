"""MobileNetV1 (Howard et al., 2017, arXiv 1704.04861) and MobileNetV2 (Sandler et al., 2018, arXiv 1801.04381)."""

from __future__ import annotations

from torch import Tensor, nn

from edgeseg.models.layers.conv import ConvNorm

STAGES = (
    ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1)),
    ((128, 2), (128, 1), (128, 1), (128, 1), (128, 1), (128, 1)),
    ((256, 2), (256, 1)),
)
"""Per stage, output channels at width 0.25 and stride of each separable convolution."""


V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
)
"""Per stage of MobileNetV2: expansion, output channels, blocks, stride of the first (the paper's table 2)."""
V2_MAPS = (1, 2, 3, 5)
"""The stages whose outputs detectors take: at strides 4, 8, 16 and 32."""


class SeparableConv(nn.Module):
    """A depthwise 3x3 and a pointwise convolution, each with batch normalisation and activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        norm_eps: float,
        negative_slope: float,
    ) -> None:
        super().__init__()
        self.depthwise = ConvNorm(
            in_channels,
            in_channels,
            stride=stride,
            groups=in_channels,
            norm_eps=norm_eps,
            negative_slope=negative_slope,
        )
        self.pointwise = ConvNorm(
            in_channels,
            out_channels,
            kernel_size=1,
            norm_eps=norm_eps,
            negative_slope=negative_slope,
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, out_channels, H / stride, W / stride)."""
        return self.pointwise(self.depthwise(x_BCHW))


class MobileNetV1(nn.Module):
    """MobileNetV1 without its classifier: maps at strides 8, 16, 32.

    ``width`` multiplies the channels of the paper's network (its section 3.3). A leaky activation
    (``negative_slope``) is what face detectors train it with.
    """

    def __init__(
        self, *, width: float = 0.25, norm_eps: float = 1e-5, negative_slope: float = 0.1
    ) -> None:
        super().__init__()
        widths = [[round(channels * 4 * width) for channels, _ in stage] for stage in STAGES]
        self.channels = tuple(stage[-1] for stage in widths)
        in_channels = round(32 * width)
        self.stem = ConvNorm(
            3, in_channels, stride=2, norm_eps=norm_eps, negative_slope=negative_slope
        )
        self.stages = nn.ModuleList()
        for stage, stage_widths in zip(STAGES, widths, strict=True):
            units = nn.Sequential()
            for (_, stride), out_channels in zip(stage, stage_widths, strict=True):
                units.append(
                    SeparableConv(
                        in_channels,
                        out_channels,
                        stride=stride,
                        norm_eps=norm_eps,
                        negative_slope=negative_slope,
                    )
                )
                in_channels = out_channels
            self.stages.append(units)

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        """Return the maps at strides 8, 16 and 32 of a normalised picture (B, 3, H, W)."""
        x_BCHW = self.stem(x_BCHW)
        features = []
        for stage in self.stages:
            x_BCHW = stage(x_BCHW)
            features.append(x_BCHW)
        return features


class InvertedResidual(nn.Module):
    """A block of MobileNetV2: wider, depthwise, narrower.

    With ``residual`` the input is added to the result. ``ceiling`` bounds the activations (6: ReLU6).
    ``expands`` is false for a block that has no first convolution, as in the paper without expansion.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        expansion: int,
        residual: bool,
        norm_eps: float,
        ceiling: float | None = None,
        expands: bool = True,
    ) -> None:
        super().__init__()
        width = in_channels * expansion
        self.expand = (
            ConvNorm(in_channels, width, kernel_size=1, norm_eps=norm_eps, ceiling=ceiling)
            if expands
            else None
        )
        self.depthwise = ConvNorm(
            width, width, stride=stride, groups=width, norm_eps=norm_eps, ceiling=ceiling
        )
        self.project = ConvNorm(width, out_channels, kernel_size=1, norm_eps=norm_eps, relu=False)
        self.residual = residual

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, out_channels, H / stride, W / stride)."""
        wide_BCHW = x_BCHW if self.expand is None else self.expand(x_BCHW)
        y_BCHW = self.project(self.depthwise(wide_BCHW))
        return x_BCHW + y_BCHW if self.residual else y_BCHW


class MobileNetV2(nn.Module):
    """MobileNetV2 at width 1 without its last 320 and 1280 channels: C2..C5 at strides 4, 8, 16, 32.

    C4 is the map of 64 channels: the stage of 96, which has the same stride, comes behind it.
    """

    def __init__(self, *, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.channels = tuple(V2_STAGES[stage][1] for stage in V2_MAPS)
        self.stem = ConvNorm(3, 32, stride=2, norm_eps=norm_eps, ceiling=6)
        self.stages = nn.ModuleList()
        in_channels = 32
        for expansion, out_channels, num_blocks, stride in V2_STAGES:
            blocks = nn.Sequential()
            for block in range(num_blocks):
                blocks.append(
                    InvertedResidual(
                        in_channels,
                        out_channels,
                        stride=1 if block else stride,
                        expansion=expansion,
                        residual=in_channels == out_channels,
                        norm_eps=norm_eps,
                        ceiling=6,
                        expands=expansion > 1,
                    )
                )
                in_channels = out_channels
            self.stages.append(blocks)

    def forward(self, x_BCHW: Tensor, num_maps: int = len(V2_MAPS)) -> list[Tensor]:
        """Return C2..C5 of a normalised picture (B, 3, H, W), or the first of them."""
        x_BCHW = self.stem(x_BCHW)
        features = []
        for number in range(V2_MAPS[num_maps - 1] + 1):
            x_BCHW = self.stages[number](x_BCHW)
            if number in V2_MAPS:
                features.append(x_BCHW)
        return features
