"""The detector of two stages that Mask R-CNN and its relatives begin with, as torchvision and detectron2 run it.

Shape suffixes: B pictures, P proposals, R regions, K detections, C channels, Y classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from edgeseg.models.layers.fpn import FPN
from edgeseg.models.layers.image import ImageNormalization
from edgeseg.models.layers.resnet import ResNet, SmallResNet
from edgeseg.models.layers.roi_heads import (
    BoxHead,
    BoxPredictor,
    DetectionRule,
    select_detections,
)
from edgeseg.models.layers.rpn import RPN, AnchorGrid
from edgeseg.models.maskrcnn.config import STRIDES, DetectorConfig
from edgeseg.models.reference import ReferenceModel, check_image_size
from edgeseg.ops import atlas_roi_align, pyramid_atlas


class RegionDetector(ReferenceModel):
    """A detector of two stages with a fixed number of results; subclasses add a branch for each of them.

    The module works on one picture size, ``config.image_size``: every shape of its graph is known
    when it is exported.
    """

    threshold_option = "box_score_thresh"
    config: DetectorConfig

    def __init__(self, name: str, config: DetectorConfig) -> None:
        super().__init__()
        self.name = name
        self.config = config
        self.normalize = ImageNormalization(config.mean, config.std, order=config.channel_order)
        self.backbone: ResNet | SmallResNet = self.make_backbone(config)
        self.fpn = self.make_fpn(config)
        self.rpn = RPN(
            config.fpn_channels,
            self.anchor_grid(config),
            config.image_size,
            conv_depth=config.rpn_conv_depth,
            pre_nms_top_n=config.rpn_pre_nms_top_n,
            post_nms_top_n=config.rpn_post_nms_top_n,
            nms_thresh=config.rpn_nms_thresh,
            min_box_size=config.rpn_min_box_size,
            score_is_probability=config.rpn_score_is_probability,
            pixel=config.pixel,
        )
        self.box_head = BoxHead(
            config.fpn_channels,
            num_convs=config.box_num_convs,
            num_fcs=config.box_num_fcs,
            fc_channels=config.box_fc_channels,
            norm_eps=config.head_norm_eps,
        )
        self.box_predictor = BoxPredictor(
            config.box_fc_channels, config.num_logits, config.num_classes
        )
        self.score_threshold = config.box_score_thresh

    @property
    def detection_rule(self) -> DetectionRule:
        """How regions become detections."""
        config = self.config
        return DetectionRule(
            num_classes=config.num_classes,
            background_first=config.background_first,
            score_thresh=config.box_score_thresh,
            nms_thresh=config.box_nms_thresh,
            max_detections=config.box_detections_per_img,
            max_candidates=config.box_candidates,
            min_box_size=config.box_min_size,
            pixel=config.pixel,
        )

    def make_backbone(self, config: DetectorConfig) -> ResNet | SmallResNet:
        """Return a new backbone."""
        return _backbone(config)

    def make_fpn(self, config: DetectorConfig) -> FPN:
        """Return a new pyramid on the backbone that there is."""
        return FPN(self.backbone.channels, config.fpn_channels, norm_eps=config.head_norm_eps)

    def anchor_grid(self, config: DetectorConfig) -> AnchorGrid:
        """Return where the anchors lie."""
        return AnchorGrid(
            sizes=config.anchor_sizes,
            ratios=config.anchor_ratios,
            rounded=config.anchors_rounded,
            strides_from_map=config.anchor_strides_from_map,
        )

    def detect_stages(
        self, image: Tensor, image_size: Tensor, image_fraction: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the stages up to the detections: what runs once, whatever is in the picture.

        What a branch goes on from are atlas, see :func:`pyramid_atlas`, boxes and labels.

        Args:
            image: (B, H, W, 3) uint8 BGR, the resized picture at the top left.
            image_size: (B, 2) int32, height and width of the resized picture.
            image_fraction: (B, H, W, 3) uint8, what the resized picture has above ``image`` in
                1/256 of a grey level; None for a picture that was rounded.

        Raises:
            ValueError: ``image`` is not of the size that the model was built for.
        """
        check_image_size(image, self.config.image_size)
        stages = {"input": self.normalize(image, image_size, image_fraction)}
        features = self.backbone(stages["input"])
        stages |= {f"c{level}": feature for level, feature in enumerate(features, 2)}
        pyramid = self.fpn(features)
        stages |= {f"p{level}": feature for level, feature in enumerate(pyramid, 2)}

        logits, deltas = self.rpn(pyramid)
        for level, (logit, delta) in enumerate(zip(logits, deltas, strict=True), 2):
            stages |= {f"rpn_logits_p{level}": logit, f"rpn_deltas_p{level}": delta}
        proposals, is_proposal = self.rpn.propose(logits, deltas, image_size)
        stages["proposals"] = proposals

        stages |= self.picture_stages(pyramid)
        stages["atlas"] = self.atlas(pyramid)
        stages["box_features"] = self._pool_for_boxes(stages["atlas"], proposals)
        class_logits, box_deltas = self.classify(stages["box_features"])
        stages |= {"class_logits": class_logits, "box_deltas": box_deltas}
        return stages | self.region_results(
            class_logits, box_deltas, proposals, is_proposal, image_size
        )

    def region_results(
        self,
        class_logits: Tensor,
        box_deltas: Tensor,
        proposals: Tensor,
        is_proposal: Tensor,
        image_size: Tensor,
    ) -> dict[str, Tensor]:
        """Return the results that do not need a branch; for the arguments see :func:`select_detections`."""
        detections = select_detections(
            class_logits, box_deltas, proposals, is_proposal, image_size, self.detection_rule
        )
        return {
            "boxes": detections.boxes,
            "scores": detections.scores,
            "labels": detections.labels,
        }

    def picture_stages(self, _pyramid: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return further stages that the whole picture has, by name; here none.

        Args:
            _pyramid: P2..P6, each (B, C, H_level, W_level).
        """
        return {}

    def atlas(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Return the levels that boxes are pooled from, all but the coarsest, as one map."""
        return pyramid_atlas(pyramid[: len(STRIDES)])

    def pool(self, atlas: Tensor, boxes_BR4: Tensor, output_size: int) -> Tensor:
        """Return the pooled features of ``boxes_BR4``, (B, R, C, output_size, output_size)."""
        return self._pool(atlas, boxes_BR4, output_size, rois_last=False)

    def _pool(
        self, atlas: Tensor, boxes_BR4: Tensor, output_size: int, *, rois_last: bool
    ) -> Tensor:
        height, width = self.config.image_size
        return atlas_roi_align(
            atlas,
            boxes_BR4,
            level_sizes=[(height // stride, width // stride) for stride in STRIDES],
            strides=STRIDES,
            output_size=output_size,
            sampling_ratio=self.config.roi_sampling_ratio,
            aligned=self.config.roi_aligned,
            canonical_scale=self.config.roi_canonical_scale,
            level_rule=self.config.roi_level_rule,
            rois_last=rois_last,
        )

    def classify(self, regions_BRCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits (B, R, Y) and box deltas (B, R, num_classes * 4) of pooled regions."""
        return self.box_predictor(self.box_head(regions_BRCHW))

    def _pool_for_boxes(self, atlas: Tensor, boxes_BR4: Tensor) -> Tensor:
        if not self.box_head.is_dense:
            return self.pool(atlas, boxes_BR4, 7)
        # The head undoes this permutation, and so the graph has neither.
        return self._pool(atlas, boxes_BR4, 7, rois_last=True).permute(0, 4, 1, 2, 3)


def _backbone(config: DetectorConfig) -> ResNet | SmallResNet:
    if config.backbone == "small":
        return SmallResNet(config.backbone_channels, norm_eps=config.backbone_norm_eps)
    depths = {"resnet50": 50, "resnet101": 101}
    if config.backbone not in depths:
        raise ValueError(f"backbone {config.backbone!r} found, expected {[*depths, 'small']}")
    return ResNet(
        depths[config.backbone],
        stride_in_1x1=config.stride_in_1x1,
        norm_eps=config.backbone_norm_eps,
    )
