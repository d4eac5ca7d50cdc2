"""DarkNet-53 (Redmon and Farhadi, 2018, arXiv 1804.02767) as a backbone."""

from __future__ import annotations

from torch import Tensor, nn

from edgeseg.models.layers.conv import ConvNorm

BLOCKS = (1, 2, 8, 8, 4)
NEGATIVE_SLOPE = 0.1


class DarkNetBlock(nn.Module):
    """A 1x1 and a 3x3 convolution around an identity, with no activation behind the sum."""

    def __init__(self, channels: int, *, norm_eps: float) -> None:
        super().__init__()
        self.conv1 = _conv(channels, channels // 2, kernel_size=1, norm_eps=norm_eps)
        self.conv2 = _conv(channels // 2, channels, kernel_size=3, norm_eps=norm_eps)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return a map of the same shape."""
        return x_BCHW + self.conv2(self.conv1(x_BCHW))


class DarkNet53(nn.Module):
    """DarkNet-53 without its classifier: C1..C5 at strides 2, 4, 8, 16, 32."""

    channels = (64, 128, 256, 512, 1024)

    def __init__(self, *, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.stem = _conv(3, 32, kernel_size=3, norm_eps=norm_eps)
        widths_in = (32, *self.channels[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(
                _conv(width_in, width, kernel_size=3, stride=2, norm_eps=norm_eps),
                *(DarkNetBlock(width, norm_eps=norm_eps) for _ in range(num_blocks)),
            )
            for width_in, width, num_blocks in zip(widths_in, self.channels, BLOCKS, strict=True)
        )

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        """Return C1..C5 of a normalised picture (B, 3, H, W)."""
        x_BCHW = self.stem(x_BCHW)
        features = []
        for stage in self.stages:
            x_BCHW = stage(x_BCHW)
            features.append(x_BCHW)
        return features


def _conv(
    in_channels: int, out_channels: int, *, kernel_size: int, norm_eps: float, stride: int = 1
) -> ConvNorm:
    return ConvNorm(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        stride=stride,
        norm_eps=norm_eps,
        negative_slope=NEGATIVE_SLOPE,
    )
