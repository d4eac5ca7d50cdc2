"""Configuration of Spotter, and its variants; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgeseg.models.labels import SHAPES
from edgeseg.models.layers.limits import MAX_TOP_K

STRIDE = 8
"""Network pixels a place of the maps."""
SIZE_DIVISOR = 16
"""Both sides of the network input are multiples of it."""


@dataclass(frozen=True, kw_only=True)
class SpotterConfig:
    """Everything that tells one Spotter from another.

    ``image_size`` is height and width of the network input. ``labels`` names every class number
    and ``category_ids`` gives its COCO id. ``widths`` are the channels at strides 2, 4, 8, 16,
    ``head_channels`` the width inside the head, ``max_detections`` the number of results.
    """

    image_size: tuple[int, int]
    num_classes: int
    labels: tuple[str, ...]
    category_ids: tuple[int, ...]
    widths: tuple[int, int, int, int]
    head_channels: int
    max_detections: int

    def __post_init__(self) -> None:
        height, width = self.image_size
        if height % SIZE_DIVISOR or width % SIZE_DIVISOR or min(height, width) <= 0:
            raise ValueError(
                f"image_size {height}x{width} found, expected positive multiples of {SIZE_DIVISOR}"
            )
        limit = min(height // STRIDE * (width // STRIDE), MAX_TOP_K)
        if not 1 <= self.max_detections <= limit:
            raise ValueError(f"max_detections {self.max_detections} found, expected 1 to {limit}")
        if min(self.num_classes, self.head_channels, *self.widths) < 1:
            raise ValueError("a number of classes or channels below 1 found, expected at least 1")


TINY = SpotterConfig(
    image_size=(160, 160),
    num_classes=len(SHAPES) - 1,
    labels=SHAPES[1:],
    category_ids=tuple(range(1, len(SHAPES))),
    widths=(16, 32, 40, 64),
    head_channels=64,
    max_detections=30,
)
PRESETS: Mapping[str, SpotterConfig] = {
    "spotter_small": replace(TINY, widths=(32, 64, 80, 128), head_channels=128),
    "spotter_tiny": TINY,
}
"""Model name -> its configuration."""
