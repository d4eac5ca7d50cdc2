"""The configuration of YolactEdge, and that of each variant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgeseg.models.labels import COCO_80, COCO_80_IDS, YOUTUBE_VIS_2019
from edgeseg.models.yolact.config import YolactConfig

VIDEO_BACKBONES = ("resnet50", "resnet101", "mobilenet_v2", "small")


@dataclass(frozen=True, kw_only=True)
class YolactEdgeConfig(YolactConfig):
    """YOLACT's configuration, and what a model of videos adds to it.

    ``flow_channels`` is what the lateral of C3 is reduced to before the flow network compares two
    frames; 0 makes a model of pictures, which is YOLACT with other names in its checkpoint.
    ``flow_widths`` are the channels of the flow network at the levels 3, 4 and 5.
    ``use_spa``: the carried maps are corrected by the lateral of the current frame. Every
    ``key_interval`` frames a key frame is computed in full (``every_k_frames`` of the original).
    """

    flow_channels: int = 0
    flow_widths: tuple[int, ...] = (64, 128, 256)
    use_spa: bool = True
    key_interval: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.flow_channels < 0 or len(self.flow_widths) != 3 or min(self.flow_widths) < 1:
            raise ValueError(
                f"flow_channels {self.flow_channels}, flow_widths {self.flow_widths} found, expected "
                "a number of channels (0: a model of pictures), and one for each of the levels 3 to 5"
            )
        if self.key_interval < 1:
            raise ValueError(f"key_interval {self.key_interval} found, expected at least 1 frame")
        if self.flow_channels and self.backbone not in VIDEO_BACKBONES:
            raise ValueError(
                f"backbone {self.backbone!r} found for a model of videos, expected one of "
                f"{', '.join(VIDEO_BACKBONES)}"
            )

    @property
    def is_video(self) -> bool:
        """Whether the model carries features from key frames to the frames behind them."""
        return self.flow_channels > 0


COCO = YolactEdgeConfig(labels=COCO_80, category_ids=COCO_80_IDS)
VIDEO = YolactEdgeConfig(
    num_classes=41,
    labels=YOUTUBE_VIS_2019,
    category_ids=tuple(range(1, 41)),
    flow_channels=64,
)
PRESETS: Mapping[str, YolactEdgeConfig] = {
    "yolact_edge_mobilenetv2": replace(COCO, backbone="mobilenet_v2"),
    "yolact_edge_resnet50": replace(COCO, backbone="resnet50"),
    "yolact_edge_resnet101": COCO,
    "yolact_edge_vid_minimal": replace(VIDEO, use_spa=False),
    "yolact_edge_vid_resnet50": replace(VIDEO, backbone="resnet50"),
    "yolact_edge_vid_resnet101": VIDEO,
}
"""Model name -> its configuration."""
