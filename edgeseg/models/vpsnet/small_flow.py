"""A small flow network in the place of FlowNet2, for pictures that it is trained on.

Shape suffixes: B pictures, C channels, H W of a map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseg.models.vpsnet.flownet2 import centred, conv
from edgeseg.ops import correlation, warp

RADIUS = 4


class SmallFlowNet(nn.Module):
    """Compares two pictures at stride 8, and improves the flow at stride 4.

    Args:
        widths: channels at strides 2, 4 and 8.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        first, second, third = widths
        shifts = (2 * RADIUS + 1) ** 2
        self.conv1 = conv(3, first, stride=2)
        self.conv2 = nn.Sequential(conv(first, second, stride=2), conv(second, second))
        self.conv3 = nn.Sequential(conv(second, third, stride=2), conv(third, third))
        self.coarse = nn.Sequential(
            conv(shifts + third, third), conv(third, third), nn.Conv2d(third, 2, 3, padding=1)
        )
        self.fine = nn.Sequential(
            conv(shifts + second + 2, second),
            conv(second, second),
            nn.Conv2d(second, 2, 3, padding=1),
        )

    def forward(self, first_B3HW: Tensor, second_B3HW: Tensor) -> dict[str, Tensor]:
        """Return the stages up to flow, as :class:`FlowNet2` does; sides are multiples of 8."""
        (a4, a8), (b4, b8) = (self._maps(x) for x in centred(first_B3HW, second_B3HW))
        coarse = self.coarse(torch.cat([correlation(a8, b8, radius=RADIUS), a8], dim=1))
        # Twice the cells, so twice the flow.
        large = 2 * F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
        alike = correlation(a4, warp(b4, large, outside="border"), radius=RADIUS)
        return {
            "flow_coarse": coarse,
            "flow": large + self.fine(torch.cat([alike, a4, large], dim=1)),
        }

    def _maps(self, picture_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.conv2(self.conv1(picture_B3HW))
        return fine, self.conv3(fine)
