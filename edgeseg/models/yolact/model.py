"""YOLACT and YOLACT++: instance masks as combinations of prototypes, in one stage.

Shape suffixes: B pictures, N priors, Y foreground classes, K detections, C channels or prototypes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
from edgeseg.models.layers.limits import MAX_TOP_K
from edgeseg.models.layers.prototypes import (
    SCORER_MIN_SIZE,
    MaskScorer,
    PredictionHead,
    ProtoNet,
    assemble_masks,
    crop_masks,
)
from edgeseg.models.layers.resnet import BLOCKS as RESNET_BLOCKS
from edgeseg.models.layers.resnet import ResNet, SmallResNet
from edgeseg.models.reference import ReferenceModel, check_image_size

STRIDES = (8, 16, 32, 64, 128)
BACKBONE_LEVELS = 3
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""The reciprocals of the original's variances 0.1 and 0.2 (layers/box_utils.py)."""
NMS_RULES = ("fast", "fast_cross_class", "traditional")
OUTSIDE = -1e6
"""A coordinate that no picture reaches: a mask that is cropped there is empty."""


@dataclass(frozen=True, kw_only=True)
class YolactConfig:
    """Everything that tells one YOLACT from another; names of thresholds and limits are the original's.

    Input: a picture is stretched to ``image_size``, height and width of the network input. The
    original resamples in floating point: with ``takes_fraction`` the network gets what uint8 would
    lose as a second picture. ``mean`` and ``std`` are in grey levels, R, G, B.

    ``num_classes`` counts the background, as in the original; ``labels`` and ``category_ids``, like
    the results, do not: 0 is the first class.

    Backbone: of stage s the last ``dcn_layers[s]`` blocks are deformable if their number is
    divisible by ``dcn_interval``; the first block of a stage is if all of the stage may be.

    Priors: one size ``pred_scales`` in network pixels for each level P3..P7, ``scales_per_level``
    octave parts of it (3: times 1, 2^(1/3), 2^(2/3)) and ``pred_aspect_ratios``, width over height.
    ``use_square_anchors`` takes each prior's width for its height too.

    Selection: priors whose best class has more than ``nms_conf_thresh``, then one of
    :data:`NMS_RULES`: "fast" takes the best ``nms_top_k`` of each class, "fast_cross_class" of all,
    "traditional" the best ``nms_candidates`` pairs of a prior and a class.
    """

    image_size: tuple[int, int] = (550, 550)
    takes_fraction: bool = True
    mean: tuple[float, float, float] = (123.68, 116.78, 103.94)
    std: tuple[float, float, float] = (58.40, 57.12, 57.38)

    num_classes: int = 81
    labels: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()

    backbone: str = "resnet101"
    backbone_norm_eps: float = 1e-5
    backbone_channels: tuple[int, ...] = ()
    dcn_layers: tuple[int, int, int, int] = (0, 0, 0, 0)
    dcn_interval: int = 1
    fpn_channels: int = 256
    head_channels: int = 256
    proto_channels: int = 256
    mask_dim: int = 32
    use_maskiou: bool = False

    pred_scales: tuple[float, ...] = (24, 48, 96, 192, 384)
    scales_per_level: int = 1
    pred_aspect_ratios: tuple[float, ...] = (1, 0.5, 2)
    use_square_anchors: bool = True

    nms: str = "fast"
    nms_top_k: int = 200
    nms_conf_thresh: float = 0.05
    nms_thresh: float = 0.5
    nms_candidates: int = 1000
    max_num_detections: int = 100

    def __post_init__(self) -> None:
        self._check_input()
        self._check_classes()
        self._check_priors()
        self._check_selection()
        if any(count < 0 for count in self.dcn_layers) or self.dcn_interval < 1:
            raise ValueError(
                f"dcn_layers {self.dcn_layers}, dcn_interval {self.dcn_interval} found, expected "
                "counts of blocks and an interval of at least 1"
            )

    def _check_input(self) -> None:
        height, width = self.image_size
        smallest = STRIDES[2]
        if self.use_maskiou:  # masks have twice the resolution of the finest map
            smallest = STRIDES[0] * (SCORER_MIN_SIZE // 2) + 1
        if min(height, width) < smallest:
            raise ValueError(
                f"image_size {height}x{width} found, expected at least {smallest}x{smallest}"
                + (" with use_maskiou" if self.use_maskiou else "")
            )

    def _check_classes(self) -> None:
        if self.num_classes < 2:
            raise ValueError(
                f"num_classes {self.num_classes} found, expected at least 2 (the background counts)"
            )
        for name in ("labels", "category_ids"):
            values = getattr(self, name)
            if values and len(values) != self.num_classes - 1:
                raise ValueError(
                    f"{name} with {len(values)} entries found, expected one per class without the "
                    f"background: {self.num_classes - 1}"
                )

    def _check_priors(self) -> None:
        if len(self.pred_scales) != len(STRIDES) or min(self.pred_scales) <= 0:
            raise ValueError(
                f"pred_scales {self.pred_scales} found, expected {len(STRIDES)} positive sizes, one "
                "for each level P3 to P7"
            )
        if not self.pred_aspect_ratios or min(self.pred_aspect_ratios) <= 0:
            raise ValueError(
                f"pred_aspect_ratios {self.pred_aspect_ratios} found, expected positive numbers"
            )
        if self.scales_per_level < 1:
            raise ValueError(f"scales_per_level {self.scales_per_level} found, expected at least 1")

    def _check_selection(self) -> None:
        if self.nms not in NMS_RULES:
            raise ValueError(f"nms {self.nms!r} found, expected one of {', '.join(NMS_RULES)}")
        for name in ("nms_conf_thresh", "nms_thresh"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} found, expected 0 to 1")
        for name in ("nms_top_k", "nms_candidates", "max_num_detections"):
            if not 1 <= getattr(self, name) <= MAX_TOP_K:
                raise ValueError(
                    f"{name} {getattr(self, name)} found, expected 1 to {MAX_TOP_K}: TensorRT "
                    "sorts no more"
                )

    @property
    def num_anchors(self) -> int:
        """Priors of a cell."""
        return self.scales_per_level * len(self.pred_aspect_ratios)

    @property
    def map_sizes(self) -> list[tuple[int, int]]:
        """Height and width of the maps P3 to P7."""
        height, width = self.image_size
        return [(-(-height // stride), -(-width // stride)) for stride in STRIDES]

    @property
    def mask_size(self) -> tuple[int, int]:
        """Height and width of the prototypes."""
        height, width = self.map_sizes[0]
        return 2 * height, 2 * width

    @property
    def num_results(self) -> int:
        """Rows of the results; the original does not cut the suppression across classes to 100."""
        num_priors = sum(height * width * self.num_anchors for height, width in self.map_sizes)
        if self.nms == "fast_cross_class":
            return min(self.nms_top_k, num_priors)
        if self.nms == "fast":
            num_candidates = min(self.nms_top_k, num_priors) * (self.num_classes - 1)
            return min(self.max_num_detections, num_candidates)
        return self.max_num_detections

    def priors(self) -> Tensor:
        """Return the priors (N, 4) x1 y1 x2 y2 in network pixels; order level, y, x, scale, ratio."""
        levels = []
        for map_size, scale in zip(self.map_sizes, self.pred_scales, strict=True):
            sizes = [scale * 2 ** (i / self.scales_per_level) for i in range(self.scales_per_level)]
            roots = [math.sqrt(ratio) for ratio in self.pred_aspect_ratios]
            widths = [size * root for size in sizes for root in roots]
            heights = [size / root for size in sizes for root in roots]
            if self.use_square_anchors:  # an old bug that the weights depend on (yolact.py)
                heights = widths
            levels.append(centered_anchors(widths, heights, map_size, self.image_size))
        return torch.cat(levels)


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
        self.backbone: ResNet | DarkNet53 | SmallResNet = _backbone(config)
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
        self.register_buffer("priors", config.priors(), persistent=False)
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
        pyramid = self.fpn(features)
        stages |= {f"p{level}": feature for level, feature in enumerate(pyramid, 3)}
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


def _backbone(config: YolactConfig) -> ResNet | DarkNet53 | SmallResNet:
    if config.backbone == "small":
        return SmallResNet(config.backbone_channels, norm_eps=config.backbone_norm_eps)
    if config.backbone == "darknet53":
        return DarkNet53(norm_eps=config.backbone_norm_eps)
    depths = {"resnet50": 50, "resnet101": 101}
    if config.backbone not in depths:
        raise ValueError(
            f"backbone {config.backbone!r} found, expected {[*depths, 'darknet53', 'small']}"
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
