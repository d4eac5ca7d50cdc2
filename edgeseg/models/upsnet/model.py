"""UPSNet (Xiong et al., 2019, arXiv 1901.03784), as uber-research/UPSNet runs it.

Shape suffixes: B pictures, P proposals, R regions, N contenders, K detections, C channels, Y classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from edgeseg.models.layers.anchors import twice_rounded_anchors
from edgeseg.models.layers.fpn import FPN
from edgeseg.models.layers.resnet import ResNet, SmallResNet
from edgeseg.models.layers.roi_heads import (
    ContenderRule,
    MaskHead,
    fold_regions,
    select_contenders,
    select_mask_logits,
)
from edgeseg.models.layers.rpn import AnchorGrid
from edgeseg.models.layers.semantic_head import DeformableSemanticHead
from edgeseg.models.maskrcnn.config import DETECT, STRIDES, DetectorConfig
from edgeseg.models.maskrcnn.detector import RegionDetector
from edgeseg.models.upsnet.config import DEFORMABLE_FROM, UPSNetConfig

CONTEND, MASK = "contend", "mask"
"""Names of the graphs that run once for each contender, and once for each detection."""
PREFIX = "contender_"


class UPSNet(RegionDetector):
    """A detector of two stages, a mask head and a semantic head over one pyramid.

    The panoptic map is made of contenders and semantic logits in the runtime. Boxes are the
    original's: the pixel at x2 y2 is part of them.
    """

    config: UPSNetConfig

    def __init__(self, name: str, config: UPSNetConfig) -> None:
        super().__init__(name, config)
        self.contender_threshold = config.contender_score_thresh
        self.mask_head = MaskHead(
            config.fpn_channels,
            config.num_classes,
            channels=config.mask_channels,
            num_convs=config.mask_num_convs,
        )
        self.semantic_head = DeformableSemanticHead(
            config.fpn_channels,
            config.semantic_widths,
            config.num_semantic,
            num_levels=len(STRIDES),
        )
        self.outputs = (
            "semantic_logits",
            *(f"{PREFIX}{part}" for part in ("boxes", "scores", "labels", "masks")),
            *(("boxes", "scores", "labels", "masks") if config.gives_instances else ()),
        )

    def make_backbone(self, config: DetectorConfig) -> ResNet | SmallResNet:
        """Return a new backbone, with deformable convolutions if the configuration says so."""
        assert isinstance(config, UPSNetConfig)
        if not config.has_deformable_backbone:
            return super().make_backbone(config)
        return ResNet(
            int(config.backbone.removeprefix("resnet")),
            stride_in_1x1=config.stride_in_1x1,
            norm_eps=config.backbone_norm_eps,
            is_deformable=lambda stage, _: stage >= DEFORMABLE_FROM,
            modulated=False,
        )

    def make_fpn(self, config: DetectorConfig) -> FPN:
        """Return a new pyramid, with the branch of the global average if the configuration says so."""
        assert isinstance(config, UPSNetConfig)
        return FPN(
            self.backbone.channels,
            config.fpn_channels,
            has_global_average=config.has_global_average,
        )

    def anchor_grid(self, config: DetectorConfig) -> AnchorGrid:
        """Return where the anchors lie."""
        return AnchorGrid(
            sizes=config.anchor_sizes,
            ratios=config.anchor_ratios,
            cell=lambda size, ratios, stride: twice_rounded_anchors(size, ratios, stride=stride),
        )

    def stages(
        self, image: Tensor, image_size: Tensor, image_fraction: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the results of each picture, and before them every intermediate stage.

        Semantic_logits (B, Y, H / 4, W / 4): stuff first, then things. Contenders have N rows:
        contender_boxes (B, N, 4) x1 y1 x2 y2 in network pixels, contender_scores (B, N) falling, 0 in
        empty rows, contender_labels (B, N) int32 from 1, contender_masks (B, N, 28, 28) logits. So
        have detections, K of them: boxes, scores, labels, masks, of which the masks are probabilities.

        Arguments and errors are those of :meth:`detect_stages`.
        """
        stages = self.detect_stages(image, image_size, image_fraction)
        branches = [CONTEND, MASK] if self.config.gives_instances else [CONTEND]
        for branch in branches:
            taken = {name: stages[name] for name in TAKES[branch]}
            stages |= self.graph_stages(branch, **taken)
        return stages

    def picture_stages(self, pyramid: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the semantic logits."""
        return {"semantic_logits": self.semantic_head(pyramid)}

    def region_results(
        self,
        class_logits: Tensor,
        box_deltas: Tensor,
        proposals: Tensor,
        is_proposal: Tensor,
        image_size: Tensor,
    ) -> dict[str, Tensor]:
        """Return the contenders, and the detections of the Mask R-CNN branch if they are wanted."""
        regions = class_logits, box_deltas, proposals, is_proposal, image_size
        found = select_contenders(*regions, self.contender_rule)
        contenders = {
            f"{PREFIX}boxes": found.boxes,
            f"{PREFIX}scores": found.scores,
            f"{PREFIX}labels": found.labels,
        }
        if not self.config.gives_instances:
            return contenders
        return contenders | super().region_results(*regions)

    @property
    def contender_rule(self) -> ContenderRule:
        """How regions become contenders."""
        return ContenderRule(
            score_thresh=self.config.contender_score_thresh,
            nms_thresh=self.config.contender_nms_thresh,
            max_contenders=self.config.max_contenders,
            pixel=self.config.pixel,
        )

    def graph_stages(self, graph: str, **inputs: Tensor) -> dict[str, Tensor]:
        """Return the stages of one graph: "detect", "contend", "mask", or "main" for all in one."""
        if graph == DETECT:
            return self.detect_stages(**inputs)
        if graph in TAKES:
            atlas, boxes, labels = (inputs[name] for name in TAKES[graph])
            logits = self.mask_logits(atlas, boxes, labels)
            if graph == CONTEND:
                return {f"{PREFIX}masks": logits}
            return {"masks": logits.sigmoid()}
        return super().graph_stages(graph, **inputs)

    def mask_logits(self, atlas: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """Return the mask logits (B, R, 28, 28) of boxes at their classes.

        Args:
            atlas: stage of :meth:`detect_stages`.
            boxes: (B, R, 4) x1 y1 x2 y2 in network pixels.
            labels: (B, R) int32.
        """
        regions = self.pool(atlas, boxes, 14)
        return select_mask_logits(self.mask_head.corners(fold_regions(regions)), labels)


TAKES = {
    CONTEND: ("atlas", f"{PREFIX}boxes", f"{PREFIX}labels"),
    MASK: ("atlas", "boxes", "labels"),
}
"""Graph that runs once for each row -> what it takes from the detector."""
