"""MobileNetV1 (Howard et al., 2017, arXiv 1704.04861) as a backbone, and the block of MobileNetV2."""

from __future__ import annotations

from torch import Tensor, nn

from edgeseg.models.layers.conv import ConvNorm

STAGES = (
    ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1)),
    ((128, 2), (128, 1), (128, 1), (128, 1), (128, 1), (128, 1)),
    ((256, 2), (256, 1)),
)
"""Per stage, output channels at width 0.25 and stride of each separable convolution."""


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
    """A block of MobileNetV2 (Sandler et al., 2018, arXiv 1801.04381): wider, depthwise, narrower.

    With ``residual`` the input is added to the result. Activations are ReLU without an upper bound.
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
    ) -> None:
        super().__init__()
        width = in_channels * expansion
        self.expand = ConvNorm(in_channels, width, kernel_size=1, norm_eps=norm_eps)
        self.depthwise = ConvNorm(width, width, stride=stride, groups=width, norm_eps=norm_eps)
        self.project = ConvNorm(width, out_channels, kernel_size=1, norm_eps=norm_eps, relu=False)
        self.residual = residual

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, out_channels, H / stride, W / stride)."""
        y_BCHW = self.project(self.depthwise(self.expand(x_BCHW)))
        return x_BCHW + y_BCHW if self.residual else y_BCHW
