"""The configuration of Stacked Hourglass, and that of each variant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgeseg.models.labels import MPII_FLIP_ORDER

STRIDE = 4
"""Network pixels a pixel of the heat maps."""


@dataclass(frozen=True, kw_only=True)
class HourglassConfig:
    """Everything that tells one Stacked Hourglass from another.

    Input: the square of ``crop_margin`` times the longer side of a person's box, resized to
    ``image_size``. The original crops from corners cut to whole pixels (``crop_rounding``
    "truncate"; "none" takes the exact square) and resizes in floating point: with
    ``takes_fraction`` the network gets what uint8 would lose as a second picture.

    ``labels`` and ``category_ids`` are those of the background and of whose key points are found.

    ``num_stacks``, ``channels`` and ``depth`` are the original's nstack, inp_dim and 4;
    ``stem_channels`` are the widths behind the first convolution and the two residuals before the
    last. ``flip_test`` averages the heat maps with those of the mirrored picture, at twice the
    cost; ``flip_order`` tells which key point each one becomes in a mirror.
    ``point_rounding`` "truncate" cuts key points to whole pixels of the picture.
    """

    image_size: tuple[int, int] = (256, 256)
    crop_margin: float = 1.25
    crop_rounding: str = "truncate"
    takes_fraction: bool = True
    point_rounding: str = "truncate"

    labels: tuple[str, ...] = ("__background__", "person")
    category_ids: tuple[int, ...] = (0, 1)
    num_keypoints: int = 16
    keypoint_names: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    flip_test: bool = True
    flip_order: tuple[int, ...] = MPII_FLIP_ORDER

    num_stacks: int = 8
    depth: int = 4
    channels: int = 256
    stem_channels: tuple[int, int, int] = (64, 128, 128)

    def __post_init__(self) -> None:
        self._check_network()
        height, width = self.image_size
        divisor = STRIDE << self.depth
        if height != width or height % divisor or height <= 0:
            side = max(divisor, -(-max(height, width) // divisor) * divisor)
            raise ValueError(
                f"image_size {height}x{width} found, expected a square whose side is a multiple of "
                f"{divisor}: use {side}x{side}"
            )
        if self.crop_margin <= 0:
            raise ValueError(f"crop_margin {self.crop_margin} found, expected a positive number")
        for name in ("crop_rounding", "point_rounding"):
            if getattr(self, name) not in ("none", "truncate"):
                raise ValueError(
                    f"{name} {getattr(self, name)!r} found, expected 'none' or 'truncate'"
                )
        self._check_keypoints()

    def _check_network(self) -> None:
        for name in ("num_keypoints", "num_stacks", "depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} found, expected at least 1")
        if len(self.stem_channels) != 3:
            raise ValueError(f"stem_channels {self.stem_channels} found, expected three widths")
        widths = (self.channels, *self.stem_channels[1:])
        odd = [width for width in widths if width < 2 or width % 2]
        if odd or self.stem_channels[0] < 1:
            raise ValueError(
                f"channels {self.channels}, stem_channels {self.stem_channels} found, expected "
                "positive even widths: a residual block halves them"
            )

    def _check_keypoints(self) -> None:
        joints = self.num_keypoints
        if self.keypoint_names and len(self.keypoint_names) != joints:
            raise ValueError(
                f"keypoint_names with {len(self.keypoint_names)} entries found, expected one per "
                f"key point: {joints}"
            )
        order = self.flip_order
        is_mirror = sorted(order) == list(range(joints)) and all(
            order[mirrored] == joint for joint, mirrored in enumerate(order)
        )
        if self.flip_test and not is_mirror:
            raise ValueError(
                f"flip_order {order} found, expected for each of the {joints} key points the "
                "number of its mirror image, or flip_test False"
            )
        if any(not 0 <= joint < joints for bone in self.skeleton for joint in bone):
            raise ValueError(f"skeleton {self.skeleton} found, expected numbers below {joints}")


STACK8 = HourglassConfig()
TINY = HourglassConfig(
    image_size=(128, 128),
    crop_rounding="none",
    takes_fraction=False,
    point_rounding="none",
    flip_test=False,
    num_stacks=2,
    channels=64,
    stem_channels=(16, 32, 32),
)
PRESETS: Mapping[str, HourglassConfig] = {
    "hourglass_stack2": replace(STACK8, num_stacks=2),
    "hourglass_stack8": STACK8,
    "hourglass_tiny": TINY,
}
"""Model name -> its configuration."""
