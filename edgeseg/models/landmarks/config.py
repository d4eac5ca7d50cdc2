"""The configuration of the landmark models, and that of each variant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeseg.models.hourglass.config import HourglassConfig
from edgeseg_runtime.bundle.manifest import CROP_ROUNDINGS

STRIDE = 4
"""Network pixels a pixel of the heat maps."""
REGRESSION_DIVISOR = 16
TRUNKS = ("pfld", "hrnet", "hourglass")
DECODINGS = ("argmax_quarter", "soft_argmax")


@dataclass(frozen=True, kw_only=True)
class LandmarksConfig:
    """Everything that tells one landmark model from another.

    Input: the square of ``crop_margin`` times the longer side of a box, resized to ``image_size``;
    ``crop_rounding`` "truncate" cuts its corners to whole pixels, "none" takes the exact square, "hrnet",
    "pfld" (its data) and "pfld_camera" (its camera script) follow the originals in all of their
    cropping, HRNet's contrast included.
    ``stretch_contrast`` spreads the grey levels of each crop, already resized, over 0..255. ``mean`` and ``std`` are
    in grey levels, in the order ``channel_order``.

    ``trunk`` decides the way: "pfld" regresses coordinates, "hrnet" and "hourglass" make heat maps.
    Of these,
    ``decoding`` takes the highest pixel, moved by a quarter towards its higher neighbour
    ("argmax_quarter"), or the mean place under the soft-max of ``sharpness`` times the map, of
    which a square of side ``window`` about the highest pixel counts, or all if 0 ("soft_argmax").

    ``pfld_channels`` are the widths at stride 4 and 8, ``pfld_blocks`` the residual blocks there,
    ``pfld_scales`` the widths of the three maps that the last layer reads. The fields of HRNet are
    those of :class:`~edgeseg.models.layers.hrnet.HRNet`, ``hourglass_stacks`` and
    ``hourglass_channels`` those of ``HourglassConfig``.
    """

    image_size: tuple[int, int] = (256, 256)
    crop_margin: float = 1.25
    crop_rounding: str = "truncate"
    stretch_contrast: bool = False
    channel_order: str = "rgb"
    mean: tuple[float, float, float] = (0.485 * 255, 0.456 * 255, 0.406 * 255)
    std: tuple[float, float, float] = (0.229 * 255, 0.224 * 255, 0.225 * 255)

    num_points: int = 98
    trunk: str = "hrnet"
    decoding: str = "argmax_quarter"
    sharpness: float = 8.0
    window: int = 7

    pfld_channels: tuple[int, int] = (64, 128)
    pfld_blocks: tuple[int, int] = (4, 5)
    pfld_scales: tuple[int, int, int] = (16, 32, 128)

    hrnet_widths: tuple[int, ...] = (18, 36, 72, 144)
    hrnet_modules: tuple[int, ...] = (1, 4, 3)
    hrnet_blocks: int = 4
    hrnet_stem_channels: int = 64
    hrnet_stem_blocks: int = 4

    hourglass_stacks: int = 2
    hourglass_channels: int = 256

    def __post_init__(self) -> None:
        for name, choices in (
            ("trunk", TRUNKS),
            ("decoding", DECODINGS),
            ("crop_rounding", CROP_ROUNDINGS),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} {getattr(self, name)!r} found, expected one of {', '.join(choices)}"
                )
        if self.num_points < 1:
            raise ValueError(f"num_points {self.num_points} found, expected at least 1")
        if self.window and (self.window < 3 or self.window % 2 == 0):
            raise ValueError(f"window {self.window} found, expected an odd number above 1, or 0")
        for name in ("crop_margin", "sharpness"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} {getattr(self, name)} found, expected a positive number")
        height, width = self.image_size
        if self.crop_rounding == "hrnet" and height != width:
            raise ValueError(
                f"image_size {height}x{width} found, expected a square with crop_rounding 'hrnet'"
            )
        divisor = self.size_divisor
        if height % divisor or width % divisor or min(height, width) < 2 * divisor:
            raise ValueError(
                f"image_size {height}x{width} found, expected multiples of {divisor}, two at least: "
                f"use {_round_up(height, divisor)}x{_round_up(width, divisor)}"
            )

    @property
    def is_regression(self) -> bool:
        """Whether coordinates are regressed rather than read off heat maps."""
        return self.trunk == "pfld"

    @property
    def size_divisor(self) -> int:
        """What the sides of the network's input are multiples of."""
        if self.is_regression:
            return REGRESSION_DIVISOR
        if self.trunk == "hourglass":
            return STRIDE << HourglassConfig.depth
        return STRIDE << (len(self.hrnet_widths) - 1)


def _round_up(size: int, divisor: int) -> int:
    return max(2 * divisor, -(-size // divisor) * divisor)


PRESETS: Mapping[str, LandmarksConfig] = {
    "landmarks_heatmap_hourglass": LandmarksConfig(
        mean=(0.0, 0.0, 0.0),
        std=(255.0, 255.0, 255.0),
        trunk="hourglass",
    ),
    "landmarks_heatmap_hrnet_w18": LandmarksConfig(
        crop_rounding="hrnet",
    ),
    "landmarks_heatmap_tiny": LandmarksConfig(
        image_size=(80, 80),
        crop_rounding="none",
        num_points=68,
        decoding="soft_argmax",
        sharpness=12.0,
        window=0,
        hrnet_widths=(16, 32, 64),
        hrnet_modules=(1, 2),
        hrnet_blocks=2,
        hrnet_stem_channels=16,
        hrnet_stem_blocks=1,
    ),
    "landmarks_regression_pfld": LandmarksConfig(
        image_size=(112, 112),
        crop_margin=1.2,
        crop_rounding="pfld",
        channel_order="bgr",
        mean=(0.0, 0.0, 0.0),
        std=(255.0, 255.0, 255.0),
        trunk="pfld",
    ),
    "landmarks_regression_tiny": LandmarksConfig(
        image_size=(80, 80),
        crop_rounding="none",
        num_points=68,
        trunk="pfld",
        pfld_channels=(24, 48),
        pfld_blocks=(1, 2),
        pfld_scales=(16, 32, 64),
    ),
}
"""Model name -> its configuration."""
