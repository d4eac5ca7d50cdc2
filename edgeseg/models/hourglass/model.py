"""Stacked Hourglass (Newell et al., 2016) as princeton-vl/pytorch_stacked_hourglass runs it.

Shape suffixes: B pictures, C channels, J key points, H W a feature map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseg.models.hourglass.config import STRIDE, HourglassConfig
from edgeseg.models.layers.conv import ConvNorm
from edgeseg.models.layers.heatmaps import find_peaks, quarter_shifts, suppress_neighbours
from edgeseg.models.layers.image import ImageNormalization
from edgeseg.models.reference import ReferenceModel, check_image_size

NORM_EPS = 1e-5


class Residual(nn.Module):
    """1x1, 3x3, 1x1 convolutions, each behind its normalisation and ReLU, around a shortcut."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        hidden = out_channels // 2
        self.norm1 = nn.BatchNorm2d(in_channels, eps=NORM_EPS)
        self.conv1 = nn.Conv2d(in_channels, hidden, 1)
        self.norm2 = nn.BatchNorm2d(hidden, eps=NORM_EPS)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.norm3 = nn.BatchNorm2d(hidden, eps=NORM_EPS)
        self.conv3 = nn.Conv2d(hidden, out_channels, 1)
        self.shortcut = (
            nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return residual + shortcut, (B, out_channels, H, W)."""
        y_BCHW = self.conv1(torch.relu(self.norm1(x_BCHW)))
        y_BCHW = self.conv2(torch.relu(self.norm2(y_BCHW)))
        y_BCHW = self.conv3(torch.relu(self.norm3(y_BCHW)))
        return y_BCHW + (x_BCHW if self.shortcut is None else self.shortcut(x_BCHW))


class Stem(nn.Module):
    """A 7x7 convolution and three residuals down to a quarter of the picture's size."""

    def __init__(self, stem_channels: tuple[int, int, int], channels: int) -> None:
        super().__init__()
        first, second, third = stem_channels
        self.conv = ConvNorm(3, first, kernel_size=7, stride=2, norm_eps=NORM_EPS, bias=True)
        self.residuals = nn.ModuleList(
            (Residual(first, second), Residual(second, third), Residual(third, channels))
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, channels, H / 4, W / 4)."""
        before, *behind = self.residuals
        x_BCHW = F.max_pool2d(before(self.conv(x_BCHW)), 2)
        for residual in behind:
            x_BCHW = residual(x_BCHW)
        return x_BCHW


class Hourglass(nn.Module):
    """Down to half the size, through a smaller hourglass and up again, beside a skip branch."""

    def __init__(self, depth: int, channels: int) -> None:
        super().__init__()
        self.skip = Residual(channels, channels)
        self.entry = Residual(channels, channels)
        self.inner: nn.Module = (
            Hourglass(depth - 1, channels) if depth > 1 else Residual(channels, channels)
        )
        self.exit = Residual(channels, channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, C, H, W)."""
        low_BCHW = self.exit(self.inner(self.entry(F.max_pool2d(x_BCHW, 2))))
        return self.skip(x_BCHW) + F.interpolate(low_BCHW, scale_factor=2.0, mode="nearest")


class StackedHourglass(ReferenceModel):
    """Heat maps of one person's joints, refined stack by stack, and the points they peak at."""

    outputs = ("keypoints",)
    mirror: Tensor
    map_mirror: Tensor
    flip_order: Tensor

    def __init__(self, name: str, config: HourglassConfig) -> None:
        super().__init__()
        self.name = name
        self.config = config
        channels, joints, stacks = config.channels, config.num_keypoints, config.num_stacks
        self.normalize = ImageNormalization((0.0, 0.0, 0.0), (255.0, 255.0, 255.0), order="rgb")
        self.stem = Stem(config.stem_channels, channels)
        self.hourglasses = nn.ModuleList(Hourglass(config.depth, channels) for _ in range(stacks))
        self.features = nn.ModuleList(
            nn.Sequential(
                Residual(channels, channels),
                ConvNorm(channels, channels, kernel_size=1, norm_eps=NORM_EPS, bias=True),
            )
            for _ in range(stacks)
        )
        self.heads = nn.ModuleList(nn.Conv2d(channels, joints, 1) for _ in range(stacks))
        self.merge_features = nn.ModuleList(
            nn.Conv2d(channels, channels, 1) for _ in range(stacks - 1)
        )
        self.merge_heatmaps = nn.ModuleList(
            nn.Conv2d(joints, channels, 1) for _ in range(stacks - 1)
        )
        if config.flip_test:
            columns = torch.arange(config.image_size[1])
            self.register_buffer("mirror", columns.flip(0), persistent=False)
            map_columns = columns[: config.image_size[1] // STRIDE]
            self.register_buffer("map_mirror", map_columns.flip(0), persistent=False)
            self.register_buffer("flip_order", torch.tensor(config.flip_order), persistent=False)

    def stages(self, image: Tensor, image_fraction: Tensor | None = None) -> dict[str, Tensor]:
        """Return the results of each picture, and before them every intermediate stage.

        The result is keypoints (B, J, 3): x, y in network pixels and the value of the heat map's
        peak, at most 1. With ``flip_test`` the stages between "input" and "heatmaps" have 2 B rows:
        each picture, then its mirror image.

        Args:
            image: (B, H, W, 3) uint8 BGR, the crop around one person.
            image_fraction: (B, H, W, 3) uint8, what the resized crop has above ``image`` in 1/256
                of a grey level; None for a crop that was rounded.

        Raises:
            ValueError: ``image`` is not of the size that the model was built for.
        """
        check_image_size(image, self.config.image_size)
        stages = {"input": self.normalize(image, None, image_fraction)}
        stages |= self.stack_stages(self._with_mirror_image(stages["input"]))
        last = self.config.num_stacks - 1
        stages["heatmaps"] = self._without_mirror_image(stages[f"heatmaps{last}"]).clamp(max=1)
        stages["keypoints"] = decode(stages["heatmaps"])
        return stages

    def stack_stages(self, x_B3HW: Tensor) -> dict[str, Tensor]:
        """Return the stem of a normalised picture, then hourglass, features and heat maps of every stack."""
        stages = {"stem": self.stem(x_B3HW)}
        x_BCHW = stages["stem"]
        last = self.config.num_stacks - 1
        for stack in range(self.config.num_stacks):
            stages[f"hourglass{stack}"] = self.hourglasses[stack](x_BCHW)
            features = self.features[stack](stages[f"hourglass{stack}"])
            heatmaps = self.heads[stack](features)
            stages |= {f"features{stack}": features, f"heatmaps{stack}": heatmaps}
            if stack != last:
                x_BCHW = (
                    x_BCHW
                    + self.merge_heatmaps[stack](heatmaps)
                    + self.merge_features[stack](features)
                )
        return stages

    def _with_mirror_image(self, x_B3HW: Tensor) -> Tensor:
        if not self.config.flip_test:
            return x_B3HW
        mirrored_B3HW = x_B3HW.index_select(3, self.mirror)
        return torch.stack((x_B3HW, mirrored_B3HW), dim=1).flatten(0, 1)

    def _without_mirror_image(self, maps: Tensor) -> Tensor:
        """Return the mean (B, J, H, W) of the maps of each picture and its mirror image (2 B, J, H, W)."""
        if not self.config.flip_test:
            return maps
        maps_B2JHW = maps.reshape(-1, 2, *maps.shape[1:])
        mirrored_BJHW = maps_B2JHW[:, 1].index_select(1, self.flip_order)
        mirrored_BJHW = mirrored_BJHW.index_select(3, self.map_mirror)
        return (maps_B2JHW[:, 0] + mirrored_BJHW) / 2


def decode(heatmaps_BJHW: Tensor) -> Tensor:
    """Return x, y in network pixels and the value of each map's peak, (B, J, 3).

    utils/group.py of the original: a quarter of a pixel towards the higher neighbour, then half a
    pixel to the centre; neither where the peak is not above 0.
    """
    peaks = find_peaks(suppress_neighbours(heatmaps_BJHW))
    shift_BJ2 = quarter_shifts(heatmaps_BJHW, peaks, at_tie=-0.25, at_border=True) + 0.5
    value_BJ1 = peaks.value[..., None]
    place_BJ2 = torch.stack((peaks.column, peaks.row), dim=-1).to(value_BJ1.dtype)
    points_BJ2 = place_BJ2 + torch.where(value_BJ1 > 0, shift_BJ2, 0.0)
    return torch.cat((points_BJ2 * STRIDE, value_BJ1), dim=-1)
