"""VPSNet (Kim et al., 2020, arXiv 2006.11339): panoptic segmentation of videos, with identities.

Shape suffixes: B pictures, K detections, C channels, H W of a map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from edgeseg.models.layers.anchors import once_rounded_anchors
from edgeseg.models.layers.boxes import with_last_pixel
from edgeseg.models.layers.conv import dense
from edgeseg.models.layers.fpn import FPN
from edgeseg.models.layers.image import ImageNormalization
from edgeseg.models.layers.resnet import ResNet, SmallResNet
from edgeseg.models.layers.roi_heads import (
    BoxHead,
    BoxPredictor,
    ContenderRule,
    MaskHead,
    fold_regions,
    select_contenders,
    select_mask_logits,
)
from edgeseg.models.layers.rpn import RPN, AnchorGrid
from edgeseg.models.layers.semantic_head import DeformableSemanticHead
from edgeseg.models.reference import ReferenceModel, check_image_size
from edgeseg.models.vpsnet.config import STRIDES, VPSNetConfig
from edgeseg.models.vpsnet.flownet2 import FlowNet2
from edgeseg.models.vpsnet.fuse import FuseNeck, gather, scatter
from edgeseg.models.vpsnet.small_flow import SmallFlowNet
from edgeseg.ops import atlas_roi_align, pyramid_atlas

SEED, MAIN = "seed", "main"
CARRIED = ("gathered", "picture")
"""Outputs of a frame that the next one reads."""


class TrackHead(nn.Module):
    """Two fully connected layers, a ReLU between them: what an object looks like."""

    def __init__(self, in_channels: int, hidden: int, channels: int) -> None:
        super().__init__()
        self.fcs = nn.ModuleList([nn.Linear(in_channels, hidden), nn.Linear(hidden, channels)])

    def forward(self, columns_BKR: Tensor) -> Tensor:
        """Return embeddings (B, R, channels) of pooled regions, given as columns (B, in_channels, R)."""
        first, second = self.fcs
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
        return dense(torch.relu(dense(columns_BKR, first)), second).transpose(1, 2)


class VPSNet(ReferenceModel):
    """A panoptic network that fuses the pyramid of a frame with that of the frame before, and tracks.

    The graph "seed" makes of the first frame what "main" reads of the frame before: its gathered pyramid and its picture.
    So the first frame is fused with itself, as in the original.
    """

    threshold_option = "score_thresh"
    config: VPSNetConfig
    outputs = (
        "contender_boxes",
        "contender_scores",
        "contender_labels",
        "contender_masks",
        "contender_embeddings",
        "semantic_logits",
    )

    def __init__(self, name: str, config: VPSNetConfig) -> None:
        super().__init__()
        self.name = name
        self.config = config
        channels = config.fpn_channels
        self.normalize = ImageNormalization(config.mean, config.std, order="rgb")
        self.backbone: ResNet | SmallResNet = (
            SmallResNet(config.backbone_channels, norm_eps=config.backbone_norm_eps)
            if config.backbone == "small"
            else ResNet(50, norm_eps=config.backbone_norm_eps)
        )
        self.fpn = FPN(self.backbone.channels, channels)
        self.flow_net: FlowNet2 | SmallFlowNet = (
            FlowNet2() if config.flow_net == "flownet2" else SmallFlowNet(config.flow_widths)
        )
        self.fuse = FuseNeck(channels, config.correction_widths)
        self.rpn = RPN(
            channels,
            AnchorGrid(
                sizes=config.anchor_sizes, ratios=config.anchor_ratios, cell=once_rounded_anchors
            ),
            config.image_size,
            pre_nms_top_n=config.rpn_pre_nms_top_n,
            post_nms_top_n=config.rpn_post_nms_top_n,
            nms_thresh=config.rpn_nms_thresh,
            pixel=config.pixel,
            clamps_small=True,
        )
        self.box_head = BoxHead(channels, fc_channels=config.box_fc_channels)
        self.box_predictor = BoxPredictor(
            config.box_fc_channels, config.num_classes, config.num_classes
        )
        self.track_head = TrackHead(
            channels * 49, config.box_fc_channels, config.embedding_channels
        )
        self.mask_head = MaskHead(
            channels,
            config.num_classes,
            channels=config.mask_channels,
            num_convs=config.mask_num_convs,
        )
        self.semantic_head = DeformableSemanticHead(
            channels,
            config.semantic_channels,
            config.num_stuff + config.num_classes - 1,
            num_levels=len(STRIDES),
            has_norm=True,
        )
        self.score_threshold = config.score_thresh

    def graph_stages(self, graph: str, **inputs: Tensor) -> dict[str, Tensor]:
        """Return outputs and intermediate stages of "seed" or "main", see :class:`VPSNet`."""
        return self.seed_stages(**inputs) if graph == SEED else self.main_stages(**inputs)

    def stages(self, image: Tensor, image_size: Tensor) -> dict[str, Tensor]:
        """Return the stages of a first frame; arguments and results are those of :meth:`main_stages`."""
        stages = self.seed_stages(image, image_size)
        return stages | self._fused_stages(stages, stages, image_size)

    def seed_stages(self, image: Tensor, image_size: Tensor) -> dict[str, Tensor]:
        """Return the stages up to what the next frame reads.

        These are gathered (B, C, H / 4, W / 4), the mean of the pyramid's levels, and picture (B, 3, H, W), grey levels
        R, G, B, with the mean colour where the picture does not reach.

        Args:
            image: (B, H, W, 3) uint8 BGR, the resized picture at the top left.
            image_size: (B, 2) int32, height and width of the resized picture.

        Raises:
            ValueError: ``image`` is not of the size that the model was built for.
        """
        check_image_size(image, self.config.image_size)
        normalize = self.normalize
        stages = {"input": normalize(image, image_size)}
        stages["picture"] = stages["input"] * normalize.std + normalize.mean
        features = self.backbone(stages["input"])
        stages |= {f"c{level}": feature for level, feature in enumerate(features, 2)}
        pyramid = self.fpn(features)
        stages |= {f"p{level}": feature for level, feature in enumerate(pyramid, 2)}
        return stages | {"gathered": gather(pyramid)}

    def main_stages(
        self, image: Tensor, image_size: Tensor, before_gathered: Tensor, before_picture: Tensor
    ) -> dict[str, Tensor]:
        """Return the results of a frame, and before them every intermediate stage.

        The results have ``max_detections`` rows K: contender_boxes (B, K, 4) x1 y1 x2 y2 in network pixels, the pixel at
        x2 y2 included; contender_scores (B, K) falling, 0 in empty rows; contender_labels (B, K) int32 from 1;
        contender_masks (B, K, 28, 28) logits inside each box; contender_embeddings (B, K, embedding_channels);
        semantic_logits (B, classes, H / 4, W / 4), stuff first. Further outputs are those of :meth:`seed_stages`.

        Args:
            image: as for :meth:`seed_stages`.
            image_size: likewise.
            before_gathered: of the frame before, or of this one if it is the first.
            before_picture: likewise.
        """
        stages = self.seed_stages(image, image_size)
        before = {"gathered": before_gathered, "picture": before_picture}
        return stages | self._fused_stages(stages, before, image_size)

    def fuse_stages(
        self, frame: Mapping[str, Tensor], before: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the stages from the flow to the fused pyramid, fused_p2 to fused_p6.

        Args:
            frame: its stages of :meth:`seed_stages`.
            before: gathered and picture of the frame before.
        """
        stages: dict[str, Tensor] = self.flow_net(frame["picture"], before["picture"])
        stages |= self.fuse(frame["gathered"], before["gathered"], stages["flow"])
        own = [frame[f"p{level}"] for level in range(2, 7)]
        fused = scatter(own, stages["refined"])
        return stages | {f"fused_p{level}": feature for level, feature in enumerate(fused, 2)}

    def _fused_stages(
        self, frame: Mapping[str, Tensor], before: Mapping[str, Tensor], image_size: Tensor
    ) -> dict[str, Tensor]:
        """Return all stages from the flow on.

        Args:
            frame: its own stages so far.
            before: gathered and picture of the frame before.
            image_size: (B, 2) int32.
        """
        stages = self.fuse_stages(frame, before)
        pyramid = [stages[f"fused_p{level}"] for level in range(2, 7)]

        logits, deltas = self.rpn(pyramid)
        for level, (logit, delta) in enumerate(zip(logits, deltas, strict=True), 2):
            stages |= {f"rpn_logits_p{level}": logit, f"rpn_deltas_p{level}": delta}
        proposals, is_proposal = self.rpn.propose(logits, deltas, image_size)
        stages["proposals"] = proposals
        stages["semantic_logits"] = self.semantic_head(pyramid)

        stages["atlas"] = self.atlas(pyramid)
        stages["box_features"] = self._columns(stages["atlas"], proposals).permute(0, 4, 1, 2, 3)
        class_logits, box_deltas = self.classify(stages["box_features"])
        stages |= {"class_logits": class_logits, "box_deltas": box_deltas}
        config = self.config
        found = select_contenders(
            class_logits,
            box_deltas,
            proposals,
            is_proposal,
            # The original cuts proposals to the picture, but detections to the padded input.
            image_size.new_tensor([config.image_size]),
            ContenderRule(
                score_thresh=config.score_thresh,
                nms_thresh=config.nms_thresh,
                max_contenders=config.max_detections,
            ),
        )
        stages |= {
            "contender_boxes": found.boxes,
            "contender_scores": found.scores,
            "contender_labels": found.labels,
        }
        return stages | self._branch_stages(stages["atlas"], found.boxes, found.labels)

    def _branch_stages(
        self, atlas: Tensor, boxes_BK4: Tensor, labels_BK: Tensor
    ) -> dict[str, Tensor]:
        """Return masks and embeddings of the detections."""
        corners = self.mask_head.corners(fold_regions(self.pool(atlas, boxes_BK4, 14)))
        return {
            "contender_masks": select_mask_logits(corners, labels_BK),
            "contender_embeddings": self.embed(atlas, boxes_BK4),
        }

    def atlas(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Return the levels that boxes are pooled from, all but the coarsest, as one map."""
        return pyramid_atlas(pyramid[: len(STRIDES)])

    def pool(self, atlas: Tensor, boxes_BR4: Tensor, output_size: int) -> Tensor:
        """Return the pooled features of ``boxes_BR4``, (B, R, C, output_size, output_size)."""
        return self._pool(atlas, boxes_BR4, output_size, rois_last=False)

    def classify(self, regions_BRCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits (B, R, num_classes) and box deltas (B, R, num_classes * 4) of pooled regions."""
        logits, deltas = self.box_predictor(self.box_head(regions_BRCHW))
        return logits, deltas

    def embed(self, atlas: Tensor, boxes_BR4: Tensor) -> Tensor:
        """Return what is in ``boxes_BR4`` as (B, R, embedding_channels)."""
        embeddings: Tensor = self.track_head(self._columns(atlas, boxes_BR4).flatten(1, 3))
        return embeddings

    def _columns(self, atlas: Tensor, boxes_BR4: Tensor) -> Tensor:
        """Return what fully connected layers read of each box, (B, C, 7, 7, R)."""
        return self._pool(atlas, boxes_BR4, 7, rois_last=True)

    def _pool(
        self, atlas: Tensor, boxes_BR4: Tensor, output_size: int, *, rois_last: bool
    ) -> Tensor:
        height, width = self.config.image_size
        return atlas_roi_align(
            atlas,
            with_last_pixel(boxes_BR4, self.config.pixel),
            level_sizes=[(height // stride, width // stride) for stride in STRIDES],
            strides=STRIDES,
            output_size=output_size,
            sampling_ratio=2,
            aligned=False,
            level_rule="mmdetection",
            canonical_scale=self.config.roi_canonical_scale,
            canonical_level=2,
            rois_last=rois_last,
            min_cells=0.0,
        )
