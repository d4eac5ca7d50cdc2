"""Semantic heads, which make one map of class logits of a pyramid.

SemanticHead             of Panoptic FPN (Kirillov et al., 2019)
DeformableSemanticHead   of UPSNet (Xiong et al., 2019) and VPSNet

Shape suffixes: B pictures, C channels, Y classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseg.models.layers.deform import DeformConv2d

GROUPS = 32
NORM_EPS = 1e-5


class ConvGroupNorm(nn.Module):
    """A 3x3 convolution without bias, group normalisation and ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(GROUPS, out_channels, eps=NORM_EPS)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, out_channels, H, W)."""
        return torch.relu(self.norm(self.conv(x_BCHW)))


class SemanticHead(nn.Module):
    """Brings P2..P5 to the size of P2, adds them and classifies each pixel.

    A level of which the sides are 2^n times smaller than P2's passes n convolutions, each of them followed by a bilinear
    doubling; P2 passes one (detectron2, modeling/meta_arch/semantic_seg.py, `SemSegFPNHead`).
    """

    def __init__(
        self, in_channels: int, channels: int, num_classes: int, *, num_levels: int
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.ModuleList(
                ConvGroupNorm(in_channels if step == 0 else channels, channels)
                for step in range(max(level, 1))
            )
            for level in range(num_levels)
        )
        self.predictor = nn.Conv2d(channels, num_classes, 1)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Return logits (B, Y, H, W) of the size of the pyramid's first level."""
        sums = [
            self._enlarged(level, features)
            for level, features in enumerate(pyramid[: len(self.levels)])
        ]
        total = sums[0]
        for other in sums[1:]:
            total = total + other
        logits: Tensor = self.predictor(total)
        return logits

    def _enlarged(self, level: int, features: Tensor) -> Tensor:
        for block in self.levels[level]:  # type: ignore[attr-defined]
            features = block(features)
            if level > 0:
                features = F.interpolate(
                    features, scale_factor=2.0, mode="bilinear", align_corners=False
                )
        return features


class DeformableSemanticHead(nn.Module):
    """The same deformable 3x3 convolutions over P2..P5, brought to the size of P2, side by side, and classified.

    With `has_norm` the convolutions have no bias, and are followed by a group normalisation (VPSNet).
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        num_classes: int,
        *,
        num_levels: int = 4,
        has_norm: bool = False,
    ) -> None:
        """Build the head.

        Args:
            in_channels: channels of the pyramid.
            widths: channels behind each convolution.
            num_classes: channels of the result.
            num_levels: levels of the pyramid that are looked at, the finest ones.
            has_norm: whether the convolutions are normalised.
        """
        super().__init__()
        self.num_levels = num_levels
        self.convs = nn.ModuleList(
            DeformConv2d(width_in, width_out, bias=not has_norm)
            for width_in, width_out in pairwise([in_channels, *widths])
        )
        self.norms = nn.ModuleList(
            nn.GroupNorm(GROUPS, width, eps=NORM_EPS) for width in (widths if has_norm else ())
        )
        self.predictor = nn.Conv2d(num_levels * widths[-1], num_classes, 1)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Return logits (B, Y, H, W) of the size of the pyramid's first level."""
        levels = [self._features(level) for level in pyramid[: self.num_levels]]
        enlarged = [
            F.interpolate(features, scale_factor=2.0**level, mode="bilinear", align_corners=False)
            if level
            else features
            for level, features in enumerate(levels)
        ]
        logits: Tensor = self.predictor(torch.cat(enlarged, dim=1))
        return logits

    def _features(self, x_BCHW: Tensor) -> Tensor:
        for number, conv in enumerate(self.convs):
            x_BCHW = conv(x_BCHW)
            if len(self.norms):
                x_BCHW = self.norms[number](x_BCHW)
            x_BCHW = torch.relu(x_BCHW)
        return x_BCHW
