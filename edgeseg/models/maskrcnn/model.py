"""Mask R-CNN, Keypoint R-CNN and Panoptic FPN, as torchvision and detectron2 run them.

Shape suffixes: B pictures, P proposals, K detections, C channels, Y classes, J key points.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from edgeseg.models.layers.roi_heads import (
    KeypointHead,
    MaskHead,
    fold_regions,
    interleave_corners,
    select_masks,
    unfold_regions,
)
from edgeseg.models.layers.semantic_head import SemanticHead
from edgeseg.models.maskrcnn.config import DETECT, STRIDES, MaskRCNNConfig
from edgeseg.models.maskrcnn.detector import RegionDetector

MASK, KEYPOINTS = "mask", "keypoints"
"""Names of the graphs that run once for each detection."""


class MaskRCNN(RegionDetector):
    """A :class:`RegionDetector` with a mask or key-point branch, or a mask branch and a semantic head."""

    config: MaskRCNNConfig

    def __init__(self, name: str, config: MaskRCNNConfig) -> None:
        super().__init__(name, config)
        self.mask_head: MaskHead | None = None
        self.keypoint_head: KeypointHead | None = None
        if config.num_keypoints:
            self.keypoint_head = KeypointHead(config.fpn_channels, config.num_keypoints)
        else:
            self.mask_head = MaskHead(
                config.fpn_channels,
                config.num_classes,
                channels=config.mask_channels,
                num_convs=config.mask_num_convs,
                norm_eps=config.head_norm_eps,
            )
        self.semantic_head: SemanticHead | None = None
        if config.stuff_labels:
            self.semantic_head = SemanticHead(
                config.fpn_channels,
                config.semantic_channels,
                1 + len(config.stuff_labels),
                num_levels=len(STRIDES),
            )
        self.outputs = (
            "boxes",
            "scores",
            "labels",
            *(() if self.semantic_head is None else ("semantic_logits",)),
            "keypoint_heatmaps" if config.num_keypoints else "masks",
        )

    def stages(
        self, image: Tensor, image_size: Tensor, image_fraction: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the results of each picture, and before them every intermediate stage.

        The results have ``box_detections_per_img`` rows K: boxes (B, K, 4) x1 y1 x2 y2 in network
        pixels; scores (B, K) falling, 0 in empty rows; labels (B, K) int32; masks (B, K, 28, 28)
        probabilities inside each box, or keypoint_heatmaps (B, K, J, 56, 56) logits inside it; of a Panoptic FPN
        semantic_logits (B, 1 + stuff classes, H / 4, W / 4), class 0 for all things.

        Arguments and errors are those of :meth:`detect_stages`.
        """
        stages = self.detect_stages(image, image_size, image_fraction)
        return stages | self.branch_stages(stages["atlas"], stages["boxes"], stages["labels"])

    def picture_stages(self, pyramid: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the semantic logits of a Panoptic FPN."""
        if self.semantic_head is None:
            return {}
        return {"semantic_logits": self.semantic_head(pyramid)}

    def graph_stages(self, graph: str, **inputs: Tensor) -> dict[str, Tensor]:
        """Return the stages of one graph: "detect", the branch, or "main" for both in one."""
        if graph == DETECT:
            return self.detect_stages(**inputs)
        if graph == self.branch:
            return self.branch_stages(**inputs)
        return super().graph_stages(graph, **inputs)

    @property
    def branch(self) -> str:
        """Name of the graph that runs once for each detection: "mask" or "keypoints"."""
        return MASK if self.keypoint_head is None else KEYPOINTS

    def branch_stages(
        self, atlas: Tensor, boxes: Tensor, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the stages of the mask or key-point branch: what runs once for each detection.

        A row of the results depends on its own box and label alone, and there may be any number.

        Args:
            atlas: stage of :meth:`detect_stages`.
            boxes: (B, K, 4) x1 y1 x2 y2 in network pixels.
            labels: (B, K) int32; key points do not depend on them.
        """
        regions = self.pool(atlas, boxes, 14)
        num_detections = regions.shape[1]
        if self.keypoint_head is not None:
            heatmaps = self.keypoint_head(fold_regions(regions))
            return {
                "keypoint_features": regions,
                "keypoint_heatmaps": unfold_regions(heatmaps, num_detections),
            }
        assert self.mask_head is not None
        assert labels is not None
        corners = self.mask_head.corners(fold_regions(regions))
        return {
            "mask_features": regions,
            "mask_logits": unfold_regions(interleave_corners(corners), num_detections),
            "masks": select_masks(corners, labels),
        }
