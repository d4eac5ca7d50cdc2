"""YOLACT and YOLACT++: instance masks as combinations of prototypes, in one stage.

Shape suffixes: B pictures, N priors, Y foreground classes, K detections, C channels or prototypes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from edgeseg.models.layers.anchors import centered_anchors
from edgeseg.models.layers.boxes import decode_boxes, take_rows
from edgeseg.models.layers.darknet import DarkNet53
from edgeseg.models.layers.fast_nms import (
    Selection,
    fast_nms,
    fast_nms_cross_class,
    greedy_nms,
)
from edgeseg.models.layers.fpn import BilinearFPN
from edgeseg.models.layers.image import ImageNormalization
from edgeseg.models.layers.mobilenet import MobileNetV2
from edgeseg.models.layers.prototypes import (
    MaskScorer,
    PredictionHead,
    ProtoNet,
    assemble_masks,
    crop_masks,
)
from edgeseg.models.layers.resnet import BLOCKS as RESNET_BLOCKS
from edgeseg.models.layers.resnet import ResNet, SmallResNet
from edgeseg.models.reference import ReferenceModel, check_image_size
from edgeseg.models.yolact.config import YolactConfig

BACKBONE_LEVELS = 3
BACKBONES = ("resnet50", "resnet101", "darknet53", "mobilenet_v2", "small")
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""The reciprocals of the original's variances 0.1 and 0.2 (layers/box_utils.py)."""
OUTSIDE = -1e6
"""A coordinate that no picture reaches: a mask that is cropped there is empty."""


class Yolact(ReferenceModel):
    """A one-stage instance segmenter with a fixed number of results.

    The module works on one picture size, ``config.image_size``: every shape of its graph is known
    when it is exported.
    """

    threshold_option = "nms_conf_thresh"
    priors: Tensor

    def __init__(self, name: str, config: YolactConfig) -> None:
        super().__init__()
        self.name = name
        self.config = config
        self.normalize = ImageNormalization(config.mean, config.std, order="rgb")
        self.backbone = _backbone(config)
        self.fpn = BilinearFPN(self.backbone.channels[-BACKBONE_LEVELS:], config.fpn_channels)
        self.prototypes = ProtoNet(
            config.fpn_channels, config.mask_dim, channels=config.proto_channels
        )
        self.head = PredictionHead(
            config.fpn_channels,
            num_anchors=config.num_anchors,
            num_logits=config.num_classes,
            num_prototypes=config.mask_dim,
            channels=config.head_channels,
        )
        self.mask_scorer = MaskScorer(config.num_classes - 1) if config.use_maskiou else None
        self.register_buffer("priors", priors_of(config), persistent=False)
        self.score_threshold = config.nms_conf_thresh
        self.outputs = ("boxes", "scores", "labels", "masks")
        if config.use_maskiou:
            self.outputs += ("mask_scores",)

    def stages(self, image: Tensor, image_fraction: Tensor | None = None) -> dict[str, Tensor]:
        """Return the results of each picture, and before them every intermediate stage.

        The results have ``config.num_results`` rows K: boxes (B, K, 4) x1 y1 x2 y2 in network
        pixels, not clipped; scores (B, K) falling, 0 in empty rows; labels (B, K) int32, 0 for the
        first class; masks (B, K, h, w) probabilities over the network input, 0 outside the boxes;
        and of a YOLACT++ mask_scores (B, K), the score times the fit of the mask.

        Args:
            image: (B, H, W, 3) uint8 BGR, the picture stretched to the network's size.
            image_fraction: (B, H, W, 3) uint8, what the resized picture has above ``image`` in
                1/256 of a grey level; None for a picture that was rounded.

        Raises:
            ValueError: ``image`` is not of the size that the model was built for.
        """
        check_image_size(image, self.config.image_size)
        stages = {"input": self.normalize(image, None, image_fraction)}
        features = self.backbone(stages["input"])[-BACKBONE_LEVELS:]
        stages |= {f"c{level}": feature for level, feature in enumerate(features, 3)}
        return stages | self.pyramid_stages(self.fpn.merge(features))

    def pyramid_stages(self, merged: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return every stage behind the pyramid's top-down path, results included.

        Args:
            merged: the laterals of C3..C5 with the coarser ones added, each (B, C, H_level, W_level).
        """
        pyramid = self.fpn.refine(merged)
        stages = {f"p{level}": feature for level, feature in enumerate(pyramid, 3)}
        stages["prototypes"] = self.prototypes(pyramid[0])
        names = ("class_logits", "box_deltas", "mask_coefficients")
        stages |= zip(names, self.head(pyramid), strict=True)
        return stages | self.detect(stages)

    def detect(self, heads: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the results that prototypes and heads make; see :meth:`stages`.

        Args:
            heads: prototypes (B, C, h, w), class_logits (B, N, Y + 1), box_deltas (B, N, 4) and
                mask_coefficients (B, N, C).
        """
        boxes_BN4 = decode_boxes(heads["box_deltas"], self.priors, weights=BOX_WEIGHTS)
        selection = self._select(boxes_BN4, heads["class_logits"])
        boxes_BK4 = take_rows(boxes_BN4, selection.priors)
        is_found_BK = selection.scores > 0
        coefficients_BKC = take_rows(heads["mask_coefficients"], selection.priors).tanh()
        masks = crop_masks(
            assemble_masks(heads["prototypes"], coefficients_BKC),
            torch.where(is_found_BK[..., None], boxes_BK4, OUTSIDE),
            self.config.image_size,
        )
        results = {
            "boxes": torch.where(is_found_BK[..., None], boxes_BK4, 0.0),
            "scores": selection.scores,
            "labels": torch.where(is_found_BK, selection.labels, 0).to(torch.int32),
            "masks": masks,
        }
        if self.mask_scorer is not None:
            fit_BKY = self.mask_scorer(masks)
            results["mask_fit"] = fit_BKY
            fit_BK = fit_BKY.gather(2, selection.labels[..., None]).squeeze(-1)
            results["mask_scores"] = selection.scores * fit_BK
        return results

    def _select(self, boxes_BN4: Tensor, logits_BNY: Tensor) -> Selection:
        config = self.config
        scores_BNY = logits_BNY.softmax(-1)[..., 1:]
        # A kept prior takes part in every class, whatever its score there. Not a number is no
        # candidate: TopK would put it first.
        is_kept_BN1 = scores_BNY.amax(dim=-1, keepdim=True) > config.nms_conf_thresh
        scores_BYN = torch.where(is_kept_BN1, scores_BNY, 0.0).transpose(1, 2)
        if config.nms == "fast_cross_class":
            return fast_nms_cross_class(
                boxes_BN4, scores_BYN, top_k=config.nms_top_k, iou_threshold=config.nms_thresh
            )
        if config.nms == "fast":
            return fast_nms(
                boxes_BN4,
                scores_BYN,
                top_k=config.nms_top_k,
                iou_threshold=config.nms_thresh,
                max_output=config.max_num_detections,
            )
        return greedy_nms(
            boxes_BN4,
            scores_BYN,
            score_threshold=config.nms_conf_thresh,
            iou_threshold=config.nms_thresh,
            max_output=config.max_num_detections,
            max_candidates=config.nms_candidates,
        )


def priors_of(config: YolactConfig) -> Tensor:
    """Return the priors (N, 4) x1 y1 x2 y2 in network pixels; order level, y, x, scale, ratio."""
    levels = []
    for map_size, scale in zip(config.map_sizes, config.pred_scales, strict=True):
        sizes = [scale * 2 ** (i / config.scales_per_level) for i in range(config.scales_per_level)]
        roots = [math.sqrt(ratio) for ratio in config.pred_aspect_ratios]
        widths = [size * root for size in sizes for root in roots]
        heights = [size / root for size in sizes for root in roots]
        if config.use_square_anchors:  # an old bug that the weights depend on (yolact.py)
            heights = widths
        levels.append(centered_anchors(widths, heights, map_size, config.image_size))
    return torch.cat(levels)


def _backbone(config: YolactConfig) -> ResNet | DarkNet53 | MobileNetV2 | SmallResNet:
    if config.backbone == "small":
        return SmallResNet(config.backbone_channels, norm_eps=config.backbone_norm_eps)
    if config.backbone == "darknet53":
        return DarkNet53(norm_eps=config.backbone_norm_eps)
    if config.backbone == "mobilenet_v2":
        return MobileNetV2(norm_eps=config.backbone_norm_eps)
    depths = {"resnet50": 50, "resnet101": 101}
    if config.backbone not in depths:
        raise ValueError(
            f"backbone {config.backbone!r} found, expected one of {', '.join(BACKBONES)}"
        )
    return ResNet(
        depths[config.backbone],
        stride_in_1x1=False,
        norm_eps=config.backbone_norm_eps,
        is_deformable=lambda stage, block: _is_deformable(config, stage, block),
    )


def _is_deformable(config: YolactConfig, stage: int, block: int) -> bool:
    """Tell whether a block is deformable (backbone.py, _make_layer)."""
    num_blocks = RESNET_BLOCKS[int(config.backbone.removeprefix("resnet"))][stage]
    is_among_last = block + config.dcn_layers[stage] >= num_blocks
    return is_among_last and block % config.dcn_interval == 0
