"""Feature pyramid network (Lin et al., 2017)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from edgeseg.models.layers.conv import ConvNorm


class FPN(nn.Module):
    """Top-down pyramid over C2..C5, and P6 as every second pixel of P5.

    ``norm_eps`` adds a batch normalisation behind every convolution (torchvision's v2 models).
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int, *, norm_eps: float | None = None
    ) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(
            ConvNorm(channels, out_channels, kernel_size=1, norm_eps=norm_eps, relu=False)
            for channels in in_channels
        )
        self.output = nn.ModuleList(
            ConvNorm(out_channels, out_channels, norm_eps=norm_eps, relu=False) for _ in in_channels
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return P2..P6, each (B, out_channels, H_level, W_level), from C2..C5."""
        merged = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=True)]
        for level in range(len(merged) - 2, -1, -1):
            size = merged[level].shape[-2:]
            merged[level] = merged[level] + F.interpolate(merged[level + 1], size=size)
        pyramid = [output(feature) for output, feature in zip(self.output, merged, strict=True)]
        return [*pyramid, F.max_pool2d(pyramid[-1], kernel_size=1, stride=2)]
