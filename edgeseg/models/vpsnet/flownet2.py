"""FlowNet2 (Ilg et al., 2017, arXiv 1612.01925): the optical flow between two pictures, from five networks.

Written from the paper and a description of its structure. Shape suffixes: B pictures, C channels, H W of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseg.models.layers.conv import ConvNorm
from edgeseg.ops import correlation, warp

LEAK = 0.1
FLOW_FACTOR = 20.0
"""The networks for large motion give the flow divided by this; that for small motion multiplied by it."""
SIZE_DIVISOR = 64
"""The maps are halved six times."""
LADDER = (64, 128, 256, 512, 512, 1024)
"""Channels of a network at strides 2 to 64."""
DECODER = (512, 256, 128, 64)
"""Channels of what is enlarged, from stride 32 to stride 4."""
RADIUS, STEP = 10, 2


def conv(in_channels: int, out_channels: int, *, kernel_size: int = 3, stride: int = 1) -> ConvNorm:
    """Return a convolution with bias and a leaky ReLU."""
    return ConvNorm(
        in_channels, out_channels, kernel_size=kernel_size, stride=stride, negative_slope=LEAK
    )


class Enlarge(nn.Module):
    """A deconvolution that doubles a map, with a leaky ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.deconv = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, out_channels, 2 H, 2 W)."""
        return F.leaky_relu(self.deconv(x_BCHW), LEAK)


class Refinement(nn.Module):
    """Predicts the flow from coarse to fine; each level joins a map of the encoder, the enlarged level, and its flow.

    Args:
        skips: channels of the encoder's maps, the coarsest first.
        widths: channels of the enlarged levels, one less than ``skips``.
        enlarges_with_bias: whether the deconvolutions of the flow have biases.
        between: channels of a convolution without activation between what is joined and its prediction; empty for none.
    """

    def __init__(
        self,
        skips: Sequence[int],
        widths: Sequence[int],
        *,
        enlarges_with_bias: bool = True,
        between: Sequence[int] = (),
    ) -> None:
        super().__init__()
        joined = [skips[0]]
        joined += [skip + width + 2 for skip, width in zip(skips[1:], widths, strict=True)]
        self.enlarge = nn.ModuleList(
            Enlarge(channels, width) for channels, width in zip(joined, widths, strict=False)
        )
        self.enlarge_flow = nn.ModuleList(
            nn.ConvTranspose2d(2, 2, 4, stride=2, padding=1, bias=enlarges_with_bias)
            for _ in widths
        )
        self.between = nn.ModuleList(
            ConvNorm(channels, width, relu=False)
            for channels, width in zip(joined[1:], between, strict=False)
        )
        read = [skips[0], *(between or joined[1:])]
        self.predict = nn.ModuleList(nn.Conv2d(channels, 2, 3, padding=1) for channels in read)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the flow (B, 2, H, W) of the size of the last one of the encoder's maps, the coarsest first."""
        x_BCHW = maps[0]
        flow: Tensor = self.predict[0](x_BCHW)
        for level, skip in enumerate(maps[1:]):
            enlarged = self.enlarge[level](x_BCHW)
            x_BCHW = torch.cat([skip, enlarged, self.enlarge_flow[level](flow)], dim=1)
            hidden = self.between[level](x_BCHW) if len(self.between) else x_BCHW
            flow = self.predict[level + 1](hidden)
        return flow


def _coarse_levels() -> nn.ModuleList:
    """Return the levels at strides 16 to 64: a convolution that halves and one that does not."""
    return nn.ModuleList(
        nn.Sequential(conv(width_in, width, stride=2), conv(width, width))
        for width_in, width in pairwise(LADDER[2:])
    )


class FlowNetC(nn.Module):
    """Looks at both pictures alone down to stride 8, and then at how alike their cells are."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third = LADDER[:3]
        self.conv1 = conv(3, first, kernel_size=7, stride=2)
        self.conv2 = conv(first, second, kernel_size=5, stride=2)
        self.conv3 = conv(second, third, kernel_size=5, stride=2)
        self.redirect = conv(third, 32, kernel_size=1)
        self.join = conv((2 * RADIUS + 1) ** 2 + 32, third)
        self.levels = _coarse_levels()
        self.refine = Refinement((*LADDER[:1:-1], second), DECODER)

    def forward(self, first_B3HW: Tensor, second_B3HW: Tensor) -> Tensor:
        """Return the flow / 20 at stride 4."""
        fine_BCHW = self.conv2(self.conv1(first_B3HW))
        a_BCHW = self.conv3(fine_BCHW)
        b_BCHW = self.conv3(self.conv2(self.conv1(second_B3HW)))
        alike = F.leaky_relu(correlation(a_BCHW, b_BCHW, radius=RADIUS, step=STEP), LEAK)
        maps = [fine_BCHW, self.join(torch.cat([self.redirect(a_BCHW), alike], dim=1))]
        for level in self.levels:
            maps.append(level(maps[-1]))
        flow: Tensor = self.refine(maps[::-1])
        return flow


class FlowNetS(nn.Module):
    """Improves a flow: looks at both pictures, the second one moved along it, and what then differs."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third = LADDER[:3]
        self.conv1 = conv(12, first, kernel_size=7, stride=2)
        self.conv2 = conv(first, second, kernel_size=5, stride=2)
        self.conv3 = nn.Sequential(conv(second, third, kernel_size=5, stride=2), conv(third, third))
        self.levels = _coarse_levels()
        self.refine = Refinement((*LADDER[:1:-1], second), DECODER, enlarges_with_bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the flow / 20 at stride 4."""
        maps = [self.conv2(self.conv1(x_BCHW))]
        for level in (self.conv3, *self.levels):
            maps.append(level(maps[-1]))
        flow: Tensor = self.refine(maps[::-1])
        return flow


class FlowNetSD(nn.Module):
    """Finds small motion, by 3x3 convolutions alone."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third = LADDER[:3]
        self.conv0 = conv(6, first)
        self.conv1 = nn.Sequential(conv(first, first, stride=2), conv(first, second))
        self.conv2 = nn.Sequential(conv(second, second, stride=2), conv(second, second))
        self.conv3 = nn.Sequential(conv(second, third, stride=2), conv(third, third))
        self.levels = _coarse_levels()
        self.refine = Refinement((*LADDER[:1:-1], second), DECODER, between=DECODER)

    def forward(self, pictures_B6HW: Tensor) -> Tensor:
        """Return 20 times the flow at stride 4."""
        maps = [self.conv2(self.conv1(self.conv0(pictures_B6HW)))]
        for level in (self.conv3, *self.levels):
            maps.append(level(maps[-1]))
        flow: Tensor = self.refine(maps[::-1])
        return flow


class FlowNetFusion(nn.Module):
    """Chooses between the flows for large and for small motion, at the size of the pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = conv(11, 64)
        self.conv1 = nn.Sequential(conv(64, 64, stride=2), conv(64, 128))
        self.conv2 = nn.Sequential(conv(128, 128, stride=2), conv(128, 128))
        self.refine = Refinement((128, 128, 64), (32, 16), between=(32, 16))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the flow (B, 2, H, W) in pixels."""
        maps = [self.conv0(x_BCHW)]
        for level in (self.conv1, self.conv2):
            maps.append(level(maps[-1]))
        flow: Tensor = self.refine(maps[::-1])
        return flow


class FlowNet2(nn.Module):
    """The flow from one picture to another: three networks improve it in turn, a fourth one finds small motion."""

    def __init__(self) -> None:
        super().__init__()
        self.c = FlowNetC()
        self.s = nn.ModuleList([FlowNetS(), FlowNetS()])
        self.sd = FlowNetSD()
        self.fusion = FlowNetFusion()

    def forward(self, first_B3HW: Tensor, second_B3HW: Tensor) -> dict[str, Tensor]:
        """Return the stages up to flow: (B, 2, H / 4, W / 4) in cells of such a map, x first, from the first to the second.

        Args:
            first_B3HW: grey levels (0..255), R, G, B; sides are multiples of 64.
            second_B3HW: of the same size.
        """
        first, second = centred(first_B3HW, second_B3HW)
        both = torch.cat([first, second], dim=1)
        stages = {"flow_c": self.c(first, second)}
        large = _enlarged(stages["flow_c"] * FLOW_FACTOR, mode="bilinear")
        for number, (network, mode) in enumerate(
            zip(self.s, ("bilinear", "nearest"), strict=True), 1
        ):
            moved = warp(second, large, outside="border")
            seen = [both, moved, large / FLOW_FACTOR, length(first - moved)]
            stages[f"flow_s{number}"] = network(torch.cat(seen, dim=1))
            large = _enlarged(stages[f"flow_s{number}"] * FLOW_FACTOR, mode=mode)
        stages["flow_sd"] = self.sd(both)
        small = _enlarged(stages["flow_sd"] / FLOW_FACTOR, mode="nearest")
        errors = [length(first - warp(second, flow, outside="border")) for flow in (small, large)]
        seen = [first, small, large, length(small), length(large), *errors]
        stages["flow_full"] = self.fusion(torch.cat(seen, dim=1))
        return stages | {"flow": at_quarter(stages["flow_full"])}


def centred(first_B3HW: Tensor, second_B3HW: Tensor) -> tuple[Tensor, Tensor]:
    """Return both pictures less the mean of each colour over the two, over 255."""
    both = torch.cat([first_B3HW, second_B3HW], dim=2)
    mean = both.mean(dim=(2, 3), keepdim=True)
    return (first_B3HW - mean) / 255, (second_B3HW - mean) / 255


def length(x_BCHW: Tensor) -> Tensor:
    """Return the root of the sum of squares over the channels, (B, 1, H, W)."""
    return x_BCHW.square().sum(dim=1, keepdim=True).sqrt()


def at_quarter(flow_B2HW: Tensor) -> Tensor:
    """Return a flow in pixels as one of maps four times smaller, in their cells: bilinear, so the mean of the middle 2x2 of 4x4."""
    return F.avg_pool2d(flow_B2HW[:, :, 1:-1, 1:-1], 2, stride=4) / 4


def _enlarged(flow_B2HW: Tensor, *, mode: str) -> Tensor:
    corners = False if mode == "bilinear" else None
    return F.interpolate(flow_B2HW, scale_factor=4.0, mode=mode, align_corners=corners)
