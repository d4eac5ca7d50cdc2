"""The configuration of UPSNet, and that of each variant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgeseg.models.labels import (
    BACKGROUND,
    CITYSCAPES_STUFF,
    CITYSCAPES_STUFF_IDS,
    CITYSCAPES_THING_IDS,
    CITYSCAPES_THINGS,
    COCO_80,
    COCO_80_IDS,
    COCO_STUFF,
    COCO_STUFF_IDS,
)
from edgeseg.models.layers.limits import MAX_TOP_K
from edgeseg.models.maskrcnn.config import DetectorConfig

DEFORMABLE_FROM = 1
"""Stage of the backbone, from 0, from which on its 3x3 convolutions are deformable, where they are."""


@dataclass(frozen=True, kw_only=True)
class UPSNetConfig(DetectorConfig):
    """Everything that tells one UPSNet from another: the detector, the semantic head, and how they are joined.

    ``stuff_labels`` and ``stuff_category_ids`` belong together. ``semantic_widths`` are the channels
    behind each deformable convolution of the semantic head.

    Regions with a score above ``contender_score_thresh`` compete for pixels, ``max_contenders`` at
    most; one is dropped if more than ``overlap_threshold`` of its mask is covered by better ones of
    its class. Stuff of fewer than ``stuff_area`` pixels becomes void. With ``has_unknown`` so do the
    pixels of a thing that no contender has.

    With ``gives_instances`` the model also gives the detections of its Mask R-CNN branch, those above
    ``box_score_thresh`` with their masks, which the map does not depend on.
    """

    channel_order: str = "bgr"
    mean: tuple[float, float, float] = (102.9801, 115.9465, 122.7717)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    rounding: str = "factor"

    backbone_norm_eps: float = 1e-5
    stride_in_1x1: bool = True
    has_deformable_backbone: bool = False
    has_global_average: bool = False

    rpn_min_box_size: float = 0.0
    roi_level_rule: str = "upsnet"
    box_min_size: float | None = None

    mask_num_convs: int = 4
    mask_channels: int = 256
    semantic_widths: tuple[int, ...] = (256, 128, 128)
    stuff_labels: tuple[str, ...] = COCO_STUFF
    stuff_category_ids: tuple[int, ...] = ()

    contender_score_thresh: float = 0.6
    contender_nms_thresh: float = 0.5
    max_contenders: int = 100
    overlap_threshold: float = 0.3
    stuff_area: int = 4096
    has_unknown: bool = True
    gives_instances: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.background_first:
            raise ValueError("background_first False found, expected True: UPSNet counts so")
        if not self.semantic_widths or min(self.semantic_widths) < 1:
            raise ValueError(
                f"semantic_widths {self.semantic_widths} found, expected positive numbers of channels"
            )
        if not self.stuff_labels:
            raise ValueError("no stuff_labels found, expected one at least")
        count = len(self.stuff_labels)
        if self.stuff_category_ids and len(self.stuff_category_ids) != count:
            raise ValueError(
                f"stuff_category_ids with {len(self.stuff_category_ids)} entries found, expected one "
                f"per stuff label: {count}"
            )
        self._check_contest()

    def _check_contest(self) -> None:
        if not 0.5 <= self.contender_score_thresh <= 1:
            raise ValueError(
                f"contender_score_thresh {self.contender_score_thresh} found, expected 0.5 to 1: a "
                "region contends for one class"
            )
        for name in ("contender_nms_thresh", "overlap_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} found, expected 0 to 1")
        if not 1 <= self.max_contenders <= MAX_TOP_K:
            raise ValueError(
                f"max_contenders {self.max_contenders} found, expected 1 to {MAX_TOP_K}"
            )
        if self.stuff_area < 0:
            raise ValueError(f"stuff_area {self.stuff_area} found, expected 0 or more pixels")

    @property
    def pixel(self) -> float:
        """The pixel at x2 y2 is part of a box."""
        return 1.0

    @property
    def num_semantic(self) -> int:
        """Classes of the semantic head: the stuff, then the things."""
        return len(self.stuff_labels) + self.num_classes - 1

    @property
    def stuff_ids(self) -> tuple[int, ...]:
        """COCO category of each stuff label; without any given, numbers behind those of the things."""
        if self.stuff_category_ids:
            return self.stuff_category_ids
        first = 1 + max(self.category_ids, default=self.num_classes - 1)
        return tuple(range(first, first + len(self.stuff_labels)))


COCO = UPSNetConfig(
    num_classes=81,
    labels=(BACKGROUND, *COCO_80),
    category_ids=(0, *COCO_80_IDS),
    stuff_category_ids=COCO_STUFF_IDS,
    has_global_average=True,
)
CITYSCAPES = UPSNetConfig(
    image_size=(1024, 2048),
    min_size=1024,
    max_size=2048,
    num_classes=9,
    labels=(BACKGROUND, *CITYSCAPES_THINGS),
    category_ids=(0, *CITYSCAPES_THING_IDS),
    stuff_labels=CITYSCAPES_STUFF,
    stuff_category_ids=CITYSCAPES_STUFF_IDS,
    semantic_widths=(128, 128),
    stuff_area=2048,
)
PRESETS: Mapping[str, UPSNetConfig] = {
    "upsnet_resnet101_cityscapes": replace(CITYSCAPES, backbone="resnet101"),
    "upsnet_resnet101_dcn_coco": replace(COCO, backbone="resnet101", has_deformable_backbone=True),
    "upsnet_resnet50_cityscapes": CITYSCAPES,
    "upsnet_resnet50_coco": COCO,
}
"""Model name -> its configuration."""
