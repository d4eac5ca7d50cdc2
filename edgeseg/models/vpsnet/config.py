"""The configuration of VPSNet, and that of each variant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeseg.models.labels import BACKGROUND, CITYSCAPES_STUFF, CITYSCAPES_THINGS
from edgeseg.models.layers.limits import MAX_TOP_K

STRIDES = (4, 8, 16, 32)
SIZE_DIVISOR = 64
"""FlowNet2 halves the pictures six times, the pyramid has a level of stride 64."""
NORM_GROUPS = 32
FLOW_NETS = ("flownet2", "small")
BACKBONES = ("resnet50", "small")


@dataclass(frozen=True, kw_only=True)
class VPSNetConfig:
    """Everything that tells one VPSNet from another.

    Input: ``image_size`` is height and width of the network input, padding included; pictures are resized to fit into
    ``min_size`` by ``max_size``. ``mean`` and ``std`` are in grey levels, R, G, B.

    ``num_classes`` counts the things and the background, ``stuff_labels`` the stuff. ``flow_net`` is "flownet2", or "small"
    with channels ``flow_widths`` at the strides 2, 4 and 8. ``correction_widths`` are the hidden layers of the network that
    corrects its flow. ``semantic_channels`` are those of the deformable convolutions of the semantic head.

    Detections have scores above ``score_thresh``, at least a half. Those of which more than ``overlap_threshold`` is covered
    by better ones of their class, and stuff of fewer than ``stuff_area`` pixels, are left out of the result.

    Tracking, options of the task: an object that was not seen for ``track_frames`` frames is forgotten (0: never, as in the
    original), and ``original_ids`` reproduces two faults of the original, see the family's README.
    """

    image_size: tuple[int, int] = (1024, 2048)
    min_size: int = 1024
    max_size: int = 2048
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)

    num_classes: int = 9
    labels: tuple[str, ...] = (BACKGROUND, *CITYSCAPES_THINGS)
    category_ids: tuple[int, ...] = (0, 11, 12, 13, 14, 15, 16, 17, 18)
    stuff_labels: tuple[str, ...] = CITYSCAPES_STUFF
    stuff_category_ids: tuple[int, ...] = tuple(range(11))

    backbone: str = "resnet50"
    backbone_norm_eps: float = 1e-5
    backbone_channels: tuple[int, ...] = ()
    fpn_channels: int = 256
    flow_net: str = "flownet2"
    flow_widths: tuple[int, ...] = ()
    correction_widths: tuple[int, ...] = (64, 64, 32)
    semantic_channels: tuple[int, ...] = (256, 128, 128)

    anchor_sizes: tuple[float, ...] = (32, 64, 128, 256, 512)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rpn_pre_nms_top_n: int = 1000
    rpn_post_nms_top_n: int = 1000
    rpn_nms_thresh: float = 0.7
    roi_canonical_scale: float = 56
    box_fc_channels: int = 1024
    embedding_channels: int = 1024
    mask_num_convs: int = 4
    mask_channels: int = 256
    score_thresh: float = 0.6
    nms_thresh: float = 0.5
    max_detections: int = 100

    overlap_threshold: float = 0.3
    stuff_area: int = 2048
    track_frames: int = 300
    original_ids: bool = False

    def __post_init__(self) -> None:
        self._check_input()
        self._check_classes()
        self._check_parts()
        self._check_selection()

    def _check_input(self) -> None:
        height, width = self.image_size
        if height <= 0 or width <= 0 or height % SIZE_DIVISOR or width % SIZE_DIVISOR:
            wanted = "x".join(
                str(max(1, -(-side // SIZE_DIVISOR)) * SIZE_DIVISOR) for side in (height, width)
            )
            raise ValueError(
                f"image_size {height}x{width} found, expected positive multiples of {SIZE_DIVISOR}: "
                f"use {wanted}"
            )
        if not 0 < self.min_size <= self.max_size:
            raise ValueError(
                f"min_size {self.min_size}, max_size {self.max_size} found, "
                "expected 0 < min_size <= max_size"
            )

    def _check_classes(self) -> None:
        if self.num_classes < 2:
            raise ValueError(
                f"num_classes {self.num_classes} found, expected at least 2 (the background counts)"
            )
        if not self.stuff_labels:
            raise ValueError("no stuff_labels found, expected at least one name")
        for name, count in (
            ("labels", self.num_classes),
            ("category_ids", self.num_classes),
            ("stuff_category_ids", len(self.stuff_labels)),
        ):
            values = getattr(self, name)
            if values and len(values) != count:
                raise ValueError(
                    f"{name} with {len(values)} entries found, expected one for each: {count}"
                )

    def _check_parts(self) -> None:
        for name, choices in (("backbone", BACKBONES), ("flow_net", FLOW_NETS)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} {getattr(self, name)!r} found, expected one of {', '.join(choices)}"
                )
        for name, count in (
            ("backbone_channels", 4 if self.backbone == "small" else 0),
            ("flow_widths", 3 if self.flow_net == "small" else 0),
            ("correction_widths", 3),
            ("semantic_channels", 3),
        ):
            values = getattr(self, name)
            if len(values) != count or min(values, default=1) < 1:
                raise ValueError(f"{name} {values} found, expected {count} positive numbers")
        if any(channels % NORM_GROUPS for channels in self.semantic_channels):
            raise ValueError(
                f"semantic_channels {self.semantic_channels} found, expected multiples of "
                f"{NORM_GROUPS}, the groups of their normalisation"
            )
        if len(self.anchor_sizes) != len(STRIDES) + 1 or min(self.anchor_sizes) <= 0:
            raise ValueError(
                f"anchor_sizes {self.anchor_sizes} found, expected {len(STRIDES) + 1} positive "
                "sizes, one for each level P2 to P6"
            )
        if not self.anchor_ratios or min(self.anchor_ratios) <= 0:
            raise ValueError(f"anchor_ratios {self.anchor_ratios} found, expected positive numbers")

    def _check_selection(self) -> None:
        for name, low in (
            ("rpn_nms_thresh", 0.0),
            ("nms_thresh", 0.0),
            ("overlap_threshold", 0.0),
            ("score_thresh", 0.5),  # so that a region has one class
        ):
            if not low <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} found, expected {low:g} to 1")
        for name in ("rpn_pre_nms_top_n", "rpn_post_nms_top_n", "max_detections"):
            if not 1 <= getattr(self, name) <= MAX_TOP_K:
                raise ValueError(
                    f"{name} {getattr(self, name)} found, expected 1 to {MAX_TOP_K}: TensorRT "
                    "sorts no more"
                )
        for name in ("stuff_area", "track_frames"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} {getattr(self, name)} found, expected 0 or more")

    @property
    def pixel(self) -> float:
        """The pixel at x2 y2 is part of a box."""
        return 1.0

    @property
    def num_stuff(self) -> int:
        """Classes of stuff, which are the first semantic ones; those of the things follow."""
        return len(self.stuff_labels)

    @property
    def stuff_ids(self) -> tuple[int, ...]:
        """Category of each stuff label; without any given, numbers behind those of the things."""
        first = 1 + max(self.category_ids, default=self.num_classes - 1)
        return self.stuff_category_ids or tuple(range(first, first + self.num_stuff))


PRESETS: Mapping[str, VPSNetConfig] = {"vpsnet_fusetrack_cityscapes": VPSNetConfig()}
"""Model name -> its configuration."""
