"""The configuration of Mask R-CNN, Keypoint R-CNN and Panoptic FPN, and that of each variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgeseg.models.labels import (
    BACKGROUND,
    COCO_80,
    COCO_80_IDS,
    COCO_91,
    COCO_STUFF,
    COCO_STUFF_IDS,
    SHAPES,
)
from edgeseg.models.layers.limits import MAX_TOP_K
from edgeseg_runtime.bundle.manifest import INTERPOLATIONS, SIZE_ROUNDINGS
from edgeseg_runtime.results.paste import PASTE_RULES

STRIDES = (4, 8, 16, 32)
SIZE_DIVISOR = 32
NORM_GROUPS = 32
DETECT = "detect"
"""Name of the graph that finds the detections."""
CHOICES = {
    "interpolation": INTERPOLATIONS,
    "rounding": SIZE_ROUNDINGS,
    "channel_order": ("rgb", "bgr"),
    "roi_level_rule": ("torchvision", "detectron2", "upsnet", "mmdetection"),
}
"""Fields of `DetectorConfig` that hold the name of a rule."""


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """Everything that tells one detector of two stages from another, whatever it does with its detections.

    Input: ``image_size`` is height and width of the network input, padding included; pictures are
    resized so that their shorter side is ``min_size`` unless the longer would exceed ``max_size``,
    with the resampling ``interpolation`` and the rounding of the size ``rounding``. The original
    may resample in floating point: with ``takes_fraction`` the network gets what uint8 would lose
    as a second picture. ``mean`` and ``std`` are in grey levels, in the order ``channel_order``.

    Names of thresholds and limits are torchvision's. ``num_classes`` counts as the original does:
    with the background when ``background_first`` (torchvision), without it otherwise (detectron2).
    """

    image_size: tuple[int, int] = (800, 1344)
    min_size: int = 800
    max_size: int = 1333
    interpolation: str = "linear"
    rounding: str = "floor"
    takes_fraction: bool = True
    channel_order: str = "rgb"
    mean: tuple[float, float, float] = (0.485 * 255, 0.456 * 255, 0.406 * 255)
    std: tuple[float, float, float] = (0.229 * 255, 0.224 * 255, 0.225 * 255)

    num_classes: int = 91
    background_first: bool = True
    labels: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()

    backbone: str = "resnet50"
    backbone_norm_eps: float = 0.0
    stride_in_1x1: bool = False
    backbone_channels: tuple[int, ...] = ()
    fpn_channels: int = 256
    head_norm_eps: float | None = None

    anchor_sizes: tuple[float, ...] = (32, 64, 128, 256, 512)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    anchors_rounded: bool = True
    anchor_strides_from_map: bool = True
    rpn_conv_depth: int = 1
    rpn_pre_nms_top_n: int = 1000
    rpn_post_nms_top_n: int = 1000
    rpn_nms_thresh: float = 0.7
    rpn_min_box_size: float = 1e-3
    rpn_score_is_probability: bool = True

    roi_sampling_ratio: int = 2
    roi_aligned: bool = False
    roi_level_rule: str = "torchvision"
    roi_canonical_scale: float = 224
    box_num_convs: int = 0
    box_num_fcs: int = 2
    box_fc_channels: int = 1024
    box_score_thresh: float = 0.05
    box_nms_thresh: float = 0.5
    box_detections_per_img: int = 100
    box_candidates: int = 1000
    box_min_size: float | None = 1e-2

    drop_empty_boxes: bool = False

    def __post_init__(self) -> None:
        self._check_input()
        self._check_classes()
        self._check_choices()
        self._check_anchors()
        self._check_selection()

    def _check_input(self) -> None:
        height, width = self.image_size
        if height % SIZE_DIVISOR or width % SIZE_DIVISOR or height <= 0 or width <= 0:
            raise ValueError(
                f"image_size {height}x{width} found, expected positive multiples of {SIZE_DIVISOR}: "
                f"use {_round_up(height)}x{_round_up(width)}"
            )
        if self.min_size <= 0 or self.max_size < self.min_size:
            raise ValueError(
                f"min_size {self.min_size}, max_size {self.max_size} found, "
                "expected 0 < min_size <= max_size"
            )

    def _check_classes(self) -> None:
        if self.num_classes < 1 + self.background_first:
            raise ValueError(
                f"num_classes {self.num_classes} found, expected at least {1 + self.background_first}"
                + (" (the background counts)" if self.background_first else "")
            )
        for name in ("labels", "category_ids"):
            values = getattr(self, name)
            if values and len(values) != self.num_classes:
                raise ValueError(
                    f"{name} with {len(values)} entries found, expected one per class number: "
                    f"{self.num_classes}"
                )

    def _check_choices(self) -> None:
        for name, choices in CHOICES.items():
            check_choice(name, getattr(self, name), choices)

    def _check_anchors(self) -> None:
        num_levels = len(STRIDES) + 1
        if len(self.anchor_sizes) != num_levels or min(self.anchor_sizes) <= 0:
            raise ValueError(
                f"anchor_sizes {self.anchor_sizes} found, expected {num_levels} positive sizes, one "
                "for each level P2 to P6"
            )
        if not self.anchor_ratios or min(self.anchor_ratios) <= 0:
            raise ValueError(f"anchor_ratios {self.anchor_ratios} found, expected positive numbers")

    def _check_selection(self) -> None:
        for name in ("rpn_nms_thresh", "box_score_thresh", "box_nms_thresh"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} found, expected 0 to 1")
        for name in (
            "rpn_pre_nms_top_n",
            "rpn_post_nms_top_n",
            "box_candidates",
            "box_detections_per_img",
        ):
            if not 1 <= getattr(self, name) <= MAX_TOP_K:
                raise ValueError(
                    f"{name} {getattr(self, name)} found, expected 1 to {MAX_TOP_K}: TensorRT "
                    "sorts no more"
                )

    @property
    def pixel(self) -> float:
        """What a box is wider than the difference of its sides: 1 where the pixel at x2 y2 is part of it."""
        return 0.0

    @property
    def num_logits(self) -> int:
        """Columns of the classifier, background included."""
        return self.num_classes + (0 if self.background_first else 1)


@dataclass(frozen=True, kw_only=True)
class MaskRCNNConfig(DetectorConfig):
    """Everything that tells one Mask R-CNN from another: the detector, and what it adds to each detection.

    With ``stuff_labels`` the model is a Panoptic FPN: a semantic head tells these apart, and the
    result is panoptic. Instances of which more than ``overlap_threshold`` is covered by better ones,
    or with a score below ``panoptic_score_thresh``, and stuff of fewer than ``stuff_area`` pixels are
    left out of it.
    """

    mask_num_convs: int = 4
    mask_channels: int = 256
    mask_paste: str = "expanded_box"
    num_keypoints: int = 0

    stuff_labels: tuple[str, ...] = ()
    stuff_category_ids: tuple[int, ...] = ()
    semantic_channels: int = 128
    overlap_threshold: float = 0.5
    stuff_area: int = 4096
    panoptic_score_thresh: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("mask_paste", self.mask_paste, tuple(PASTE_RULES))
        if self.num_keypoints < 0:
            raise ValueError(
                f"num_keypoints {self.num_keypoints} found, expected 0 (a mask branch) or more"
            )
        self._check_stuff()

    def _check_stuff(self) -> None:
        count = len(self.stuff_labels)
        if self.stuff_category_ids and len(self.stuff_category_ids) != count:
            raise ValueError(
                f"stuff_category_ids with {len(self.stuff_category_ids)} entries found, expected one "
                f"per stuff label: {count}"
            )
        if count and self.num_keypoints:
            raise ValueError(
                "stuff_labels found together with key points, expected a mask branch: segments are "
                "made of masks"
            )
        for name in ("overlap_threshold", "panoptic_score_thresh"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} found, expected 0 to 1")
        if self.stuff_area < 0:
            raise ValueError(f"stuff_area {self.stuff_area} found, expected 0 or more pixels")
        if self.semantic_channels <= 0 or self.semantic_channels % NORM_GROUPS:
            raise ValueError(
                f"semantic_channels {self.semantic_channels} found, expected a multiple of "
                f"{NORM_GROUPS}, the groups of its normalisation"
            )

    @property
    def stuff_ids(self) -> tuple[int, ...]:
        """COCO category of each stuff label; without any given, numbers behind those of the things."""
        if self.stuff_category_ids or not self.stuff_labels:
            return self.stuff_category_ids
        first = 1 + max(self.category_ids, default=self.num_classes - 1)
        return tuple(range(first, first + len(self.stuff_labels)))


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a field that is not among its choices."""
    if value not in choices:
        raise ValueError(f"{name} {value!r} found, expected one of {', '.join(choices)}")


def _round_up(size: int) -> int:
    return max(SIZE_DIVISOR, -(-size // SIZE_DIVISOR) * SIZE_DIVISOR)


TORCHVISION = MaskRCNNConfig(labels=COCO_91)
V2 = MaskRCNNConfig(
    labels=COCO_91,
    backbone_norm_eps=1e-5,
    head_norm_eps=1e-5,
    rpn_conv_depth=2,
    box_num_convs=4,
    box_num_fcs=1,
)
DETECTRON2 = MaskRCNNConfig(
    takes_fraction=False,
    interpolation="pillow_bilinear",
    rounding="half_up",
    channel_order="bgr",
    mean=(103.53, 116.28, 123.675),
    std=(1.0, 1.0, 1.0),
    num_classes=80,
    labels=COCO_80,
    category_ids=COCO_80_IDS,
    background_first=False,
    backbone_norm_eps=1e-5,
    stride_in_1x1=True,
    anchors_rounded=False,
    anchor_strides_from_map=False,
    rpn_min_box_size=0.0,
    rpn_score_is_probability=False,
    roi_sampling_ratio=0,
    roi_aligned=True,
    roi_level_rule="detectron2",
    box_min_size=None,
    mask_paste="grid_sample",
    drop_empty_boxes=True,
)
TINY = MaskRCNNConfig(
    takes_fraction=False,
    image_size=(256, 256),
    min_size=256,
    max_size=256,
    num_classes=len(SHAPES),
    labels=SHAPES,
    backbone="small",
    backbone_channels=(24, 40, 64, 96),
    backbone_norm_eps=1e-5,
    fpn_channels=48,
    anchor_sizes=(16, 32, 64, 128, 192),
    rpn_pre_nms_top_n=200,
    rpn_post_nms_top_n=100,
    roi_canonical_scale=112,
    box_num_fcs=1,
    box_fc_channels=120,
    box_detections_per_img=30,
    box_candidates=300,
    mask_num_convs=2,
    mask_channels=48,
)
PANOPTIC = replace(DETECTRON2, stuff_labels=COCO_STUFF, stuff_category_ids=COCO_STUFF_IDS)
PRESETS: Mapping[str, MaskRCNNConfig] = {
    "keypointrcnn_resnet50_fpn": replace(
        TORCHVISION, num_classes=2, labels=(BACKGROUND, "person"), num_keypoints=17
    ),
    "maskrcnn_resnet101_fpn_3x": replace(DETECTRON2, backbone="resnet101"),
    "maskrcnn_resnet50_fpn": TORCHVISION,
    "maskrcnn_resnet50_fpn_3x": DETECTRON2,
    "maskrcnn_resnet50_fpn_v2": V2,
    "maskrcnn_tiny": TINY,
    "panoptic_fpn_resnet101_3x": replace(PANOPTIC, backbone="resnet101"),
    "panoptic_fpn_resnet50_3x": PANOPTIC,
}
"""Model name -> its configuration."""
