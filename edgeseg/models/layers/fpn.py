"""Feature pyramid networks (Lin et al., 2017)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from edgeseg.models.layers.conv import ConvNorm, dense


class FPN(nn.Module):
    """Top-down pyramid over C2..C5, and P6 as every second pixel of P5.

    ``norm_eps`` adds a batch normalisation behind every convolution (torchvision's v2 models). With
    ``has_global_average`` the mean of C5 over the whole map, through a linear layer, is part of the lateral of C5 and so
    of every level (UPSNet).
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        *,
        norm_eps: float | None = None,
        has_global_average: bool = False,
    ) -> None:
        super().__init__()
        self.global_average = (
            nn.Linear(in_channels[-1], out_channels) if has_global_average else None
        )
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
        if self.global_average is not None:
            mean_BC1 = features[-1].mean(dim=(2, 3))[..., None]
            merged[-1] = merged[-1] + dense(mean_BC1, self.global_average)[..., None]
        for level in range(len(merged) - 2, -1, -1):
            size = merged[level].shape[-2:]
            merged[level] = merged[level] + F.interpolate(merged[level + 1], size=size)
        pyramid = [output(feature) for output, feature in zip(self.output, merged, strict=True)]
        return [*pyramid, F.max_pool2d(pyramid[-1], kernel_size=1, stride=2)]


class BilinearFPN(nn.Module):
    """YOLACT's pyramid: C3..C5 in, and two levels more out; everything from fine to coarse.

    The top-down path enlarges bilinearly to the size of the finer map, which is not always twice the
    coarser one's. A ReLU follows the 3x3 convolutions, none the strided ones behind them (yolact.py).
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int, *, num_downsample: int = 2
    ) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(
            ConvNorm(channels, out_channels, kernel_size=1, relu=False) for channels in in_channels
        )
        self.output = nn.ModuleList(ConvNorm(out_channels, out_channels) for _ in in_channels)
        self.downsample = nn.ModuleList(
            ConvNorm(out_channels, out_channels, stride=2, relu=False)
            for _ in range(num_downsample)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return P3..P7, each (B, out_channels, H_level, W_level), from C3..C5."""
        return self.refine(self.merge(features))

    def merge(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the laterals of C3..C5, each with the coarser ones added."""
        return self.top_down(self.laterals(features))

    def laterals(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return C3..C5 in the pyramid's number of channels; of fewer maps, those of the finest levels."""
        return [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=False)]

    def top_down(self, laterals: Sequence[Tensor]) -> list[Tensor]:
        """Return the laterals, each with the coarser ones added."""
        merged = list(laterals)
        for level in range(len(merged) - 2, -1, -1):
            size = merged[level].shape[-2:]
            merged[level] = merged[level] + F.interpolate(
                merged[level + 1], size=size, mode="bilinear", align_corners=False
            )
        return merged

    def refine(self, merged: Sequence[Tensor]) -> list[Tensor]:
        """Return P3..P7 of the merged maps."""
        pyramid = [output(feature) for output, feature in zip(self.output, merged, strict=True)]
        for downsample in self.downsample:
            pyramid.append(downsample(pyramid[-1]))
        return pyramid
