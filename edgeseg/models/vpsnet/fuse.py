"""Brings what the frame before shows into the pyramid of a frame (Kim et al., 2020, arXiv 2006.11339, section 4.2).

Shape suffixes: B pictures, C channels, H W of a map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseg.models.layers.conv import ConvNorm
from edgeseg.models.vpsnet.flownet2 import LEAK, conv
from edgeseg.ops import correlation, warp

RADIUS = 4


def gather(pyramid: Sequence[Tensor]) -> Tensor:
    """Return the mean of all levels, each brought to the size of the finest one by its nearest cells."""
    size = pyramid[0].shape[2:]
    total = pyramid[0]
    for level in pyramid[1:]:
        total = total + F.interpolate(level, size=size, mode="nearest")
    return total / len(pyramid)


def scatter(pyramid: Sequence[Tensor], map_BCHW: Tensor) -> list[Tensor]:
    """Return the levels, to each of which the map's greatest values in its cells are added."""
    levels = []
    for level in pyramid:
        factor = map_BCHW.shape[2] // level.shape[2]
        levels.append(level + (F.max_pool2d(map_BCHW, factor) if factor > 1 else map_BCHW))
    return levels


class FlowCorrection(nn.Module):
    """Finds what a flow has left between two maps, one of which has been moved along it.

    Args:
        channels: of the maps.
        widths: of the three hidden layers.
    """

    def __init__(self, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        seen = channels + (2 * RADIUS + 1) ** 2 + 2
        self.hidden = nn.Sequential(
            *(conv(a, b) for a, b in zip((seen, *widths), widths, strict=False))
        )
        self.predict = nn.Conv2d(widths[-1], 2, 3, padding=1)

    def forward(self, map_BCHW: Tensor, moved_BCHW: Tensor, flow_B2HW: Tensor) -> Tensor:
        """Return the flow (B, 2, H, W) along which the moved map is to be moved once more."""
        alike = correlation(map_BCHW, moved_BCHW, radius=RADIUS)
        flow: Tensor = self.predict(self.hidden(torch.cat([map_BCHW, alike, flow_B2HW], dim=1)))
        return flow


class FrameAttention(nn.Module):
    """Joins the maps of two frames: first weighed by how alike they are, then place by place (EDVR, arXiv 1905.02716)."""

    def __init__(self, channels: int) -> None:
        super().__init__()

        def point(in_channels: int) -> ConvNorm:
            return ConvNorm(in_channels, channels, kernel_size=1, negative_slope=LEAK)

        self.embed_map = ConvNorm(channels, channels, relu=False)
        self.embed_centre = ConvNorm(channels, channels, relu=False)
        self.join = point(2 * channels)
        self.narrow = point(2 * channels)
        self.pooled = nn.Sequential(point(2 * channels), conv(channels, channels))
        self.logits = ConvNorm(channels, channels, relu=False)
        self.add = nn.Sequential(
            point(channels), ConvNorm(channels, channels, kernel_size=1, relu=False)
        )

    def forward(self, map_BCHW: Tensor, other_BCHW: Tensor) -> Tensor:
        """Return the joint map; the first one is that of the frame itself, and its sides are even."""
        centre = self.embed_centre(map_BCHW)
        weighed = []
        for each in (map_BCHW, other_BCHW):
            likeness = (self.embed_map(each) * centre).sum(dim=1, keepdim=True)
            weighed.append(each * likeness.sigmoid())
        both = torch.cat(weighed, dim=1)
        narrow = self.narrow(both)
        pooled = self.pooled(
            torch.cat(
                [
                    F.max_pool2d(narrow, 3, stride=2, padding=1),
                    F.avg_pool2d(narrow, 3, stride=2, padding=1),  # the padding counts
                ],
                dim=1,
            )
        )
        pooled = F.interpolate(pooled, scale_factor=2.0, mode="bilinear", align_corners=False)
        logits = self.logits(pooled)
        joint: Tensor = self.join(both) * logits.sigmoid() * 2 + self.add(logits)
        return joint


class FuseNeck(nn.Module):
    """Moves the gathered map of the frame before to the present one, and adds what both show to each level.

    Args:
        channels: of the pyramid.
        correction_widths: hidden layers of :class:`FlowCorrection`.
    """

    def __init__(self, channels: int, correction_widths: Sequence[int]) -> None:
        super().__init__()
        self.correct = FlowCorrection(channels, correction_widths)
        self.attention = FrameAttention(channels)
        self.refine = ConvNorm(channels, channels)

    def forward(
        self, gathered_BCHW: Tensor, before_BCHW: Tensor, flow_B2HW: Tensor
    ) -> dict[str, Tensor]:
        """Return the stages up to the refined map, which :func:`scatter` adds to the levels.

        Args:
            gathered_BCHW: of the frame, see :func:`gather`.
            before_BCHW: of the frame before.
            flow_B2HW: from the frame to the one before, in cells.
        """
        moved = warp(before_BCHW, flow_B2HW, spacing="stretched")
        residual = self.correct(gathered_BCHW, moved, flow_B2HW)
        # The moved map is moved again, as in the original (bfp_tcea.py): the flows are not added.
        moved = warp(moved, residual, spacing="stretched")
        joint = self.attention(gathered_BCHW, moved)
        return {"flow_residual": residual, "joint": joint, "refined": self.refine(joint)}
