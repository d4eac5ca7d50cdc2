"""Landmarks of one object, by both ways of the literature: regressed coordinates, and heat maps.

Regression as polarisZhao/PFLD-pytorch runs PFLD (Guo et al., 2019, arXiv 1902.10859); heat maps as
HRNet/HRNet-Facial-Landmark-Detection runs HRNetV2 (Sun et al., 2019, arXiv 1904.04514), or on a
Stacked Hourglass.

Shape suffixes: B pictures, C channels, J points, H W a feature map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeseg.models.hourglass.config import HourglassConfig
from edgeseg.models.hourglass.model import StackedHourglass
from edgeseg.models.landmarks.config import REGRESSION_DIVISOR, STRIDE, LandmarksConfig
from edgeseg.models.layers.conv import ConvNorm, dense
from edgeseg.models.layers.heatmaps import find_peaks, quarter_shifts, soft_argmax
from edgeseg.models.layers.hrnet import HRNet, fuse_sizes
from edgeseg.models.layers.image import ImageNormalization
from edgeseg.models.layers.mobilenet import InvertedResidual
from edgeseg.models.reference import ReferenceModel, check_image_size

NORM_EPS = 1e-5


class LandmarkRegressor(ReferenceModel):
    """A light network that gives the coordinates of every point as numbers."""

    outputs = ("points", "scores")
    size_xy: Tensor

    def __init__(self, name: str, config: LandmarksConfig) -> None:
        super().__init__()
        self.name = name
        self.config = config
        height, width = config.image_size
        first, second = config.pfld_channels
        narrow, scale2, scale3 = config.pfld_scales
        self.input = NetworkInput(config)
        self.stem = nn.Sequential(
            ConvNorm(3, first, stride=2, norm_eps=NORM_EPS),
            ConvNorm(first, first, norm_eps=NORM_EPS),
        )
        self.stages4 = _blocks(first, first, config.pfld_blocks[0], stride=2, expansion=2)
        self.down8 = _block(first, second, stride=2, expansion=2)
        self.stages8 = _blocks(second, second, config.pfld_blocks[1], stride=1, expansion=4)
        self.narrow = _block(second, narrow, expansion=2)
        self.down16 = ConvNorm(narrow, scale2, stride=2, norm_eps=NORM_EPS)
        self.whole = nn.Conv2d(
            scale2, scale3, (height // REGRESSION_DIVISOR, width // REGRESSION_DIVISOR)
        )
        self.coordinates = nn.Linear(narrow + scale2 + scale3, 2 * config.num_points)
        size_xy = torch.tensor([width, height], dtype=torch.float32)
        self.register_buffer("size_xy", size_xy, persistent=False)

    def stages(self, image: Tensor) -> dict[str, Tensor]:
        """Return the results of each picture, and before them every intermediate stage.

        The results are points (B, J, 2) x, y in network pixels and scores (B, J), all 1: the model
        does not tell how sure it is.

        Args:
            image: (B, H, W, 3) uint8 BGR, the crop around one object.

        Raises:
            ValueError: ``image`` is not of the size that the model was built for.
        """
        stages = {"input": self.input(image)}
        stages["c4"] = self.stages4(self.stem(stages["input"]))
        stages["c8"] = self.stages8(self.down8(stages["c4"]))
        stages["narrow"] = self.narrow(stages["c8"])
        stages["c16"] = self.down16(stages["narrow"])
        stages["whole"] = torch.relu(self.whole(stages["c16"]))
        scales = [stages[name].mean((2, 3)) for name in ("narrow", "c16", "whole")]
        features_BC1 = torch.cat(scales, dim=1)[:, :, None]
        coordinates_B2J1 = dense(features_BC1, self.coordinates)
        stages["coordinates"] = coordinates_B2J1.reshape(-1, self.config.num_points, 2)
        stages["points"] = stages["coordinates"] * self.size_xy
        # Computed, because not every engine takes a constant as an output; NaN stays NaN.
        stages["scores"] = stages["points"].sum(-1) * 0 + 1
        return stages


class LandmarkHeatmaps(ReferenceModel):
    """A network that gives one heat map a point, at a quarter of the picture's size."""

    outputs = ("points", "scores")

    def __init__(self, name: str, config: LandmarksConfig) -> None:
        super().__init__()
        self.name = name
        self.config = config
        self.input = NetworkInput(config)
        self.trunk: HRNetHeatmaps | HourglassHeatmaps = (
            HourglassHeatmaps(config) if config.trunk == "hourglass" else HRNetHeatmaps(config)
        )

    def stages(self, image: Tensor) -> dict[str, Tensor]:
        """Return the results of each picture, and before them every intermediate stage.

        The results are points (B, J, 2) x, y in network pixels and scores (B, J), the highest value
        of each heat map: about 1 where the model is sure, for a model that was trained on maps
        whose peak is 1.

        Args:
            image: (B, H, W, 3) uint8 BGR, the crop around one object.

        Raises:
            ValueError: ``image`` is not of the size that the model was built for.
        """
        config = self.config
        stages = {"input": self.input(image)}
        stages |= self.trunk(stages["input"])
        stages["points"] = (
            decode_soft(stages["heatmaps"], config.sharpness, config.window)
            if config.decoding == "soft_argmax"
            else decode_quarter(stages["heatmaps"])
        )
        stages["scores"] = stages["heatmaps"].amax((2, 3))
        return stages


class HRNetHeatmaps(nn.Module):
    """Heat maps from all branches of HRNetV2, brought to the finest one's size."""

    def __init__(self, config: LandmarksConfig) -> None:
        super().__init__()
        self.hrnet = HRNet(
            config.hrnet_widths,
            config.hrnet_modules,
            num_blocks=config.hrnet_blocks,
            stem_channels=config.hrnet_stem_channels,
            stem_blocks=config.hrnet_stem_blocks,
            norm_eps=NORM_EPS,
        )
        channels = self.hrnet.channels
        self.head = nn.Sequential(
            ConvNorm(channels, channels, kernel_size=1, norm_eps=NORM_EPS, bias=True),
            nn.Conv2d(channels, config.num_points, 1),
        )

    def forward(self, x_B3HW: Tensor) -> dict[str, Tensor]:
        """Return every stage up to "heatmaps" (B, J, H / 4, W / 4)."""
        stages: dict[str, Tensor] = {}
        branches: list[Tensor] = []
        for number, branches in enumerate(self.hrnet.stage_outputs(x_B3HW), 1):
            stages |= {f"stage{number}_{i}": branch for i, branch in enumerate(branches)}
        stages["features"] = fuse_sizes(branches)
        stages["heatmaps"] = self.head(stages["features"])
        return stages


class HourglassHeatmaps(nn.Module):
    """Heat maps of the last stack of a Stacked Hourglass."""

    def __init__(self, config: LandmarksConfig) -> None:
        super().__init__()
        self.hourglass = StackedHourglass(
            "landmarks",
            HourglassConfig(
                image_size=config.image_size,
                num_keypoints=config.num_points,
                num_stacks=config.hourglass_stacks,
                channels=config.hourglass_channels,
                flip_test=False,
            ),
        )

    def forward(self, x_B3HW: Tensor) -> dict[str, Tensor]:
        """Return every stage up to "heatmaps" (B, J, H / 4, W / 4)."""
        stages = self.hourglass.stack_stages(x_B3HW)
        stages["heatmaps"] = stages.pop(f"heatmaps{self.hourglass.config.num_stacks - 1}")
        return stages


class NetworkInput(nn.Module):
    """Turns uint8 BGR crops into the normalised input of the network."""

    def __init__(self, config: LandmarksConfig) -> None:
        super().__init__()
        self.image_size = config.image_size
        self.stretch_contrast = config.stretch_contrast
        self.normalize = ImageNormalization(config.mean, config.std, order=config.channel_order)

    def forward(self, image_BHW3: Tensor) -> Tensor:
        """Return (B, 3, H, W) float32."""
        check_image_size(image_BHW3, self.image_size)
        if self.stretch_contrast:
            image_BHW3 = stretch_contrast(image_BHW3.to(torch.float32))
        return self.normalize(image_BHW3)


def stretch_contrast(image_BHW3: Tensor) -> Tensor:
    """Return each picture with its darkest value at 0 and its brightest at 255, in whole levels.

    A quirk of the original's (lib/utils/transforms.py): ``scipy.misc.imresize`` scales floating
    point pictures so. A picture of one colour becomes black.
    """
    lowest_B111 = image_BHW3.amin((1, 2, 3), keepdim=True)
    span_B111 = image_BHW3.amax((1, 2, 3), keepdim=True) - lowest_B111
    span_B111 = torch.where(span_B111 > 0, span_B111, 1.0)
    gain_B111 = torch.full_like(span_B111, 255) / span_B111  # 255 / span would round twice
    return torch.floor((image_BHW3 - lowest_B111) * gain_B111 + 0.5)


def decode_quarter(heatmaps_BJHW: Tensor) -> Tensor:
    """Return x, y (B, J, 2) in network pixels of each map's peak.

    lib/core/evaluation.py of the original: a quarter of a pixel towards the higher neighbour along
    both axes, unless the peak touches any border; then half a pixel to the centre. A map without a
    positive value gives the pixel before the first, (-1, -1).
    """
    _, _, height, width = heatmaps_BJHW.shape
    peaks = find_peaks(heatmaps_BJHW)
    is_inside_BJ = (
        (peaks.column > 0) & (peaks.column < width - 1) & (peaks.row > 0) & (peaks.row < height - 1)
    )
    shift_BJ2 = quarter_shifts(heatmaps_BJHW, peaks, at_tie=0.0, at_border=True)
    place_BJ2 = torch.stack((peaks.column, peaks.row), dim=-1).to(heatmaps_BJHW.dtype)
    place_BJ2 = place_BJ2 + torch.where(is_inside_BJ[..., None], shift_BJ2, 0.0)
    place_BJ2 = torch.where(peaks.value[..., None] > 0, place_BJ2, -1.0)
    return (place_BJ2 + 0.5) * STRIDE


def decode_soft(heatmaps_BJHW: Tensor, sharpness: float, window: int) -> Tensor:
    """Return x, y (B, J, 2) in network pixels: each map's mean place, see ``soft_argmax``."""
    return (soft_argmax(heatmaps_BJHW, sharpness=sharpness, window=window) + 0.5) * STRIDE


def _block(
    in_channels: int,
    out_channels: int,
    *,
    stride: int = 1,
    expansion: int,
    residual: bool = False,
) -> InvertedResidual:
    return InvertedResidual(
        in_channels,
        out_channels,
        stride=stride,
        expansion=expansion,
        residual=residual,
        norm_eps=NORM_EPS,
    )


def _blocks(
    in_channels: int, out_channels: int, num_residual: int, *, stride: int, expansion: int
) -> nn.Sequential:
    """Return a block without a shortcut, even where one would fit, and blocks with one."""
    first = _block(in_channels, out_channels, stride=stride, expansion=expansion)
    others = (
        _block(out_channels, out_channels, expansion=expansion, residual=True)
        for _ in range(num_residual)
    )
    return nn.Sequential(first, *others)
