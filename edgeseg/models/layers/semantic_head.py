"""The semantic head of Panoptic FPN (Kirillov et al., 2019): one map of class logits from a pyramid.

Shape suffixes: B pictures, C channels, Y classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
