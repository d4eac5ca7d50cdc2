"""Features of a frame made from those of its key frame (Liu et al., 2021, arXiv 2012.12259, section 4.2).

What the original computes and discards is left out: the flow at the finest level.

Shape suffixes: B pictures, C channels, H W of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseg.models.layers.conv import ConvNorm
from edgeseg.ops import warp

LEAK = 0.1
FLOW_UNIT = 8.0
"""What the flow is divided by, at every level, to be in half widths or heights of the map (warp_utils.py)."""


@dataclass(frozen=True, kw_only=True)
class Motion:
    """How a map of the key frame becomes that of the current frame.

    Attributes:
        flow: (B, 2, H, W), x and y in `FLOW_UNIT` half widths and heights between the centres of the
            outermost cells.
        scale: (B, C, H, W), a factor.
        bias: (B, C, H, W), what is added afterwards.
    """

    flow: Tensor
    scale: Tensor
    bias: Tensor

    def carry(self, map_BCHW: Tensor) -> Tensor:
        """Return what a map (B, C, H, W) of the key frame is in the current frame."""
        return warp(map_BCHW, flow_in_cells(self.flow)) * self.scale + self.bias


class MotionHead(nn.Module):
    """The three maps that carry a level from one frame to another."""

    def __init__(self, in_channels: int, map_channels: int) -> None:
        super().__init__()
        self.flow = nn.Conv2d(in_channels, 2, 3, padding=1, bias=False)
        self.scale = nn.Conv2d(in_channels, map_channels, 1)
        self.bias = nn.Conv2d(in_channels, map_channels, 1)

    def forward(self, x_BCHW: Tensor) -> Motion:
        """Return the motion at the resolution of a map."""
        return Motion(flow=self.flow(x_BCHW), scale=self.scale(x_BCHW), bias=self.bias(x_BCHW))


class FlowNet(nn.Module):
    """Finds the motion between two frames from their reduced laterals, at the levels 4 and 5.

    ``widths`` are the channels at the levels 3, 4 and 5.
    """

    def __init__(self, in_channels: int, widths: tuple[int, ...], map_channels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(
                ConvNorm(width_in, width, stride=stride, negative_slope=LEAK),
                ConvNorm(width, width, negative_slope=LEAK),
            )
            for (width_in, width), stride in zip(
                pairwise((2 * in_channels, *widths)), (1, 2, 2), strict=True
            )
        )
        middle, coarse = widths[1:]
        self.coarse = MotionHead(coarse, map_channels)
        self.up_feature = nn.Conv2d(coarse, middle, 3, padding=1, bias=False)
        self.up_flow = nn.Conv2d(2, 2, 3, padding=1, bias=False)
        self.fine = MotionHead(2 * middle + 2, map_channels)

    def forward(self, current_BCHW: Tensor, key_BCHW: Tensor) -> tuple[Motion, Motion]:
        """Return the motion at the levels 4 and 5."""
        x_BCHW = torch.cat([current_BCHW, key_BCHW], dim=1)
        maps = []
        for level in self.levels:
            x_BCHW = level(x_BCHW)
            maps.append(x_BCHW)
        coarse = self.coarse(maps[2])
        size = maps[1].shape[2:]
        features = [
            maps[1],
            self.up_feature(_resize(maps[2], size)),
            self.up_flow(_resize(coarse.flow, size)),  # enlarged, but its values stay
        ]
        return self.fine(torch.cat(features, dim=1)), coarse


class PartialFeatures(nn.Module):
    """Everything that a model of videos has beside YOLACT.

    Args:
        channels: of the pyramid.
        reduced_channels: of the laterals that are compared.
        widths: channels of the flow network.
        use_spa: correct the carried maps by the lateral of the current frame.
    """

    def __init__(
        self, channels: int, reduced_channels: int, widths: tuple[int, ...], *, use_spa: bool
    ) -> None:
        super().__init__()
        self.reduce = ConvNorm(channels, reduced_channels, negative_slope=LEAK)
        self.flow_net = FlowNet(reduced_channels, widths, channels)
        self.spa = nn.ModuleList(
            ConvNorm(2 * channels, channels, negative_slope=LEAK) for _ in range(2 * use_spa)
        )

    def forward(
        self, lateral_BCHW: Tensor, key_maps: Sequence[Tensor], key_reduced_BCHW: Tensor
    ) -> dict[str, Tensor]:
        """Return the stages up to the merged maps of the current frame, merged3 to merged5.

        Args:
            lateral_BCHW: L3 of the current frame.
            key_maps: the key frame's M4 and M5.
            key_reduced_BCHW: the key frame's L3, reduced.
        """
        reduced = self.reduce(lateral_BCHW)
        stages = {"lateral": lateral_BCHW, "reduced": reduced}
        motions = self.flow_net(reduced, key_reduced_BCHW)
        carried = [motion.carry(key) for motion, key in zip(motions, key_maps, strict=True)]
        for level, motion, moved in zip((4, 5), motions, carried, strict=True):
            stages |= {
                f"flow{level}": motion.flow,
                f"scale{level}": motion.scale,
                f"bias{level}": motion.bias,
                f"carried{level}": moved,
            }
        # Before the correction, as in the original (yolact.py).
        stages["merged3"] = _resize(carried[0], lateral_BCHW.shape[2:]) + lateral_BCHW
        detail = lateral_BCHW
        for number, refine in enumerate(self.spa):
            detail = _resize(detail, carried[number].shape[2:])  # the second one from the first one
            carried[number] = carried[number] + refine(torch.cat([carried[number], detail], dim=1))
        return stages | {"merged4": carried[0], "merged5": carried[1]}


def flow_in_cells(flow_B2HW: Tensor) -> Tensor:
    """Return a flow (B, 2, H, W) in cells of the map that it moves, see :class:`Motion`."""
    height, width = flow_B2HW.shape[2:]
    units = flow_B2HW.new_tensor([width - 1, height - 1]) / (2 * FLOW_UNIT)
    return flow_B2HW * units[:, None, None]


def _resize(map_BCHW: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(map_BCHW, size=tuple(size), mode="bilinear", align_corners=False)
