"""Second stage of R-CNN models: classification, masks and key points of regions.

Shape suffixes: B pictures, R regions of a picture, K detections (or features of a dense layer),
C channels, Y classes, M mask side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseg.models.layers.boxes import (
    clip_boxes,
    decode_boxes,
    has_min_size,
    take_rows,
    with_last_pixel,
)
from edgeseg.models.layers.conv import ConvNorm, dense
from edgeseg.ops import nms

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


class BoxHead(nn.Module):
    """Optional 3x3 convolutions, then fully connected layers, over pooled regions."""

    def __init__(
        self,
        in_channels: int,
        *,
        pool_size: int = 7,
        num_convs: int = 0,
        num_fcs: int = 2,
        fc_channels: int = 1024,
        norm_eps: float | None = None,
    ) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            *(ConvNorm(in_channels, in_channels, norm_eps=norm_eps) for _ in range(num_convs))
        )
        widths = [in_channels * pool_size**2, *[fc_channels] * num_fcs]
        self.fcs = nn.ModuleList(
            nn.Linear(width_in, width_out) for width_in, width_out in pairwise(widths)
        )

    @property
    def is_dense(self) -> bool:
        """Whether the head has no convolutions: it reads pooled regions as columns."""
        return len(self.convs) == 0

    def forward(self, regions_BRCHW: Tensor) -> Tensor:
        """Return the features of each region, (B, fc_channels, R)."""
        if not self.is_dense:
            num_regions = regions_BRCHW.shape[1]
            regions = self.convs(fold_regions(regions_BRCHW))
            regions_BRCHW = unfold_regions(regions, num_regions)
        x_BKR = regions_BRCHW.permute(0, 2, 3, 4, 1).flatten(1, 3)
        for fc in self.fcs:
            assert isinstance(fc, nn.Linear)
            x_BKR = torch.relu(dense(x_BKR, fc))
        return x_BKR


class BoxPredictor(nn.Module):
    """Class logits and per-class box deltas of each region."""

    def __init__(self, in_channels: int, num_logits: int, num_box_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_channels, num_logits)
        self.bbox_pred = nn.Linear(in_channels, num_box_classes * 4)

    def forward(self, features_BKR: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, R, num_logits) and deltas (B, R, num_box_classes * 4), class-major."""
        logits_BYR, deltas_BDR = (
            dense(features_BKR, layer) for layer in (self.cls_score, self.bbox_pred)
        )
        return logits_BYR.transpose(1, 2), deltas_BDR.transpose(1, 2)


class MaskHead(nn.Module):
    """3x3 convolutions, a doubling deconvolution and one mask per class."""

    def __init__(
        self,
        in_channels: int,
        num_masks: int,
        *,
        channels: int = 256,
        num_convs: int = 4,
        norm_eps: float | None = None,
    ) -> None:
        super().__init__()
        widths = [in_channels, *[channels] * num_convs]
        self.convs = nn.Sequential(
            *(
                ConvNorm(width_in, width_out, norm_eps=norm_eps)
                for width_in, width_out in pairwise(widths)
            )
        )
        self.deconv = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.predictor = nn.Conv2d(channels, num_masks, 1)

    def forward(self, regions_RCHW: Tensor) -> Tensor:
        """Return mask logits (R, num_masks, 2 H, 2 W)."""
        return interleave_corners(self.corners(regions_RCHW))

    def corners(self, regions_RCHW: Tensor) -> list[Tensor]:
        """Return the mask logits of the four corners of doubled pixels, row by row, each (R, num_masks, H, W).

        A 2x2 deconvolution of stride 2 is four 1x1 convolutions, one for each corner. ReLU and
        predictor work on each pixel alone, so the corners can wait to be interleaved until a mask
        of each region has been chosen.
        """
        hidden_RCHW = self.convs(regions_RCHW)
        kernels = self.deconv.weight.permute(2, 3, 1, 0).flatten(0, 1)[..., None, None]
        return [
            self.predictor(torch.relu(F.conv2d(hidden_RCHW, kernels[corner], self.deconv.bias)))
            for corner in range(4)
        ]


class KeypointHead(nn.Module):
    """Eight 3x3 convolutions, a doubling deconvolution and a bilinear doubling: J heat maps.

    torchvision/models/detection/keypoint_rcnn.py.
    """

    def __init__(self, in_channels: int, num_keypoints: int, *, channels: int = 512) -> None:
        super().__init__()
        widths = [in_channels, *[channels] * 8]
        self.convs = nn.Sequential(
            *(ConvNorm(width_in, width_out) for width_in, width_out in pairwise(widths))
        )
        self.deconv = nn.ConvTranspose2d(channels, num_keypoints, 4, stride=2, padding=1)

    def forward(self, regions_RCHW: Tensor) -> Tensor:
        """Return heat map logits (R, J, 4 H, 4 W)."""
        maps = self.deconv(self.convs(regions_RCHW))
        return F.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=False)


@dataclass(frozen=True, kw_only=True)
class DetectionRule:
    """How class scores and deltas of regions become detections.

    ``background_first`` tells the column of the background class: 0 (torchvision) or the last
    (detectron2). ``max_candidates`` bounds the (region, class) pairs that enter the suppression:
    the result is the original's whenever it has no more above ``score_thresh``, or when those
    suffice to fill ``max_detections``. ``pixel`` is 1 where the pixel at x2 y2 is part of a box, see
    `decode_boxes`.
    """

    num_classes: int
    background_first: bool
    score_thresh: float
    nms_thresh: float
    max_detections: int
    max_candidates: int
    min_box_size: float | None
    pixel: float = 0.0


@dataclass(frozen=True)
class Detections:
    """Boxes (B, K, 4) in network pixels, scores (B, K) falling, labels (B, K) int32.

    Rows without a detection have score 0 and a zero box.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def select_detections(
    logits_BRY: Tensor,
    deltas_BRD: Tensor,
    proposals_BR4: Tensor,
    is_proposal_BR: Tensor,
    image_size_B2: Tensor,
    rule: DetectionRule,
) -> Detections:
    """Return the best detections of each picture after per-class suppression.

    Args:
        logits_BRY: class logits, background included.
        deltas_BRD: box deltas, class-major, for every column (background first) or for the
            foreground only (background last).
        proposals_BR4: x1 y1 x2 y2 in network pixels.
        is_proposal_BR: which rows hold a proposal.
        image_size_B2: height and width of the valid part of the network input.
        rule: thresholds and limits.
    """
    probabilities_BRY = logits_BRY.softmax(-1)
    foreground = slice(1, None) if rule.background_first else slice(None, rule.num_classes)
    scores_BRF = torch.where(is_proposal_BR[..., None], probabilities_BRY[..., foreground], 0.0)
    num_foreground = scores_BRF.shape[-1]

    scores_BM = scores_BRF.flatten(1)
    num_candidates = min(rule.max_candidates, scores_BM.shape[1])
    scores_BT, order_BT = scores_BM.topk(num_candidates, dim=1)
    region_BT = order_BT // num_foreground
    column_BT = order_BT % num_foreground + (1 if rule.background_first else 0)

    num_box_classes = deltas_BRD.shape[-1] // 4
    row_BT = region_BT * num_box_classes + column_BT
    deltas_BT4 = take_rows(deltas_BRD.reshape(deltas_BRD.shape[0], -1, 4), row_BT)
    boxes_BT4 = decode_boxes(
        deltas_BT4, take_rows(proposals_BR4, region_BT), weights=BOX_WEIGHTS, pixel=rule.pixel
    )
    boxes_BT4 = clip_boxes(boxes_BT4, image_size_B2, pixel=rule.pixel)
    if rule.min_box_size is not None:
        is_large = has_min_size(boxes_BT4, rule.min_box_size, pixel=rule.pixel)
        scores_BT = torch.where(is_large, scores_BT, 0.0)

    kept_BK, is_kept_BK = nms(
        with_last_pixel(boxes_BT4, rule.pixel),
        scores_BT,
        column_BT,
        iou_threshold=rule.nms_thresh,
        max_output=rule.max_detections,
        score_threshold=rule.score_thresh,
    )
    return Detections(
        boxes=torch.where(is_kept_BK[..., None], take_rows(boxes_BT4, kept_BK), 0.0),
        scores=torch.where(is_kept_BK, scores_BT.gather(1, kept_BK), 0.0),
        labels=torch.where(is_kept_BK, column_BT.gather(1, kept_BK), 0).to(torch.int32),
    )


@dataclass(frozen=True, kw_only=True)
class ContenderRule:
    """How regions become the instances that compete for the pixels of a panoptic map.

    ``score_thresh`` is at least 0.5, so that a region has one class above it at most. Column 0 is the
    background. ``pixel`` as in `DetectionRule`.
    """

    score_thresh: float
    nms_thresh: float
    max_contenders: int
    pixel: float = 1.0

    def __post_init__(self) -> None:
        if not 0.5 <= self.score_thresh <= 1:
            raise ValueError(
                f"score_thresh {self.score_thresh} found, expected 0.5 to 1: a region contends for one "
                "class"
            )


def select_contenders(
    logits_BRY: Tensor,
    deltas_BRD: Tensor,
    proposals_BR4: Tensor,
    is_proposal_BR: Tensor,
    limit_B2: Tensor,
    rule: ContenderRule,
) -> Detections:
    """Return the regions that compete for pixels, after one suppression over all classes (UPSNet, mask_roi.py).

    Args:
        logits_BRY: class logits, that of the background first.
        deltas_BRD: box deltas, class-major, those of the background first.
        proposals_BR4: x1 y1 x2 y2 in network pixels.
        is_proposal_BR: which rows hold a proposal.
        limit_B2: height and width that boxes are clipped to: of the valid part of the input (UPSNet) or of all (VPSNet).
        rule: thresholds and limits.
    """
    scores_BR, column_BR = logits_BRY.softmax(-1)[..., 1:].max(dim=-1)
    column_BR = column_BR + 1
    scores_BR = torch.where(is_proposal_BR, scores_BR, 0.0)
    num_classes = deltas_BRD.shape[-1] // 4
    regions = torch.arange(proposals_BR4.shape[1], device=column_BR.device)
    row_BR = regions * num_classes + column_BR
    deltas_BR4 = take_rows(deltas_BRD.reshape(deltas_BRD.shape[0], -1, 4), row_BR)
    boxes_BR4 = decode_boxes(deltas_BR4, proposals_BR4, weights=BOX_WEIGHTS, pixel=rule.pixel)
    boxes_BR4 = clip_boxes(boxes_BR4, limit_B2, pixel=rule.pixel)
    kept_BK, is_kept_BK = nms(
        with_last_pixel(boxes_BR4, rule.pixel),
        scores_BR,
        iou_threshold=rule.nms_thresh,
        max_output=rule.max_contenders,
        score_threshold=rule.score_thresh,
    )
    return Detections(
        boxes=torch.where(is_kept_BK[..., None], take_rows(boxes_BR4, kept_BK), 0.0),
        scores=torch.where(is_kept_BK, scores_BR.gather(1, kept_BK), 0.0),
        labels=torch.where(is_kept_BK, column_BR.gather(1, kept_BK), 0).to(torch.int32),
    )


def select_masks(corners: Sequence[Tensor], labels_BK: Tensor) -> Tensor:
    """Return the probabilities (B, K, M, M) of each detection's own class; see `select_mask_logits`."""
    return select_mask_logits(corners, labels_BK).sigmoid()


def select_mask_logits(corners: Sequence[Tensor], labels_BK: Tensor) -> Tensor:
    """Return the mask logits (B, K, M, M) of each detection's own class.

    Args:
        corners: :meth:`MaskHead.corners` of all detections, each (B * K, Y, M / 2, M / 2).
        labels_BK: number of each detection's mask, 0 to Y - 1.
    """
    index_R1 = labels_BK.reshape(-1, 1).long()
    size = corners[0].shape[2:]
    chosen = [take_rows(corner.flatten(2), index_R1).reshape(-1, 1, *size) for corner in corners]
    masks = interleave_corners(chosen).squeeze(1)
    return masks.reshape(*labels_BK.shape, *masks.shape[1:])


def interleave_corners(corners: Sequence[Tensor]) -> Tensor:
    """Return (R, Y, 2 H, 2 W), whose pixels 2 i + v, 2 j + u are pixels i, j of corner 2 v + u, each (R, Y, H, W)."""
    regions, masks, height, width = corners[0].shape
    together = torch.stack(list(corners), dim=-1).reshape(regions, masks, height, width, 2, 2)
    return together.transpose(3, 4).reshape(regions, masks, 2 * height, 2 * width)


def fold_regions(x_BR: Tensor) -> Tensor:
    """Return (B, R, ...) as (B * R, ...)."""
    return x_BR.flatten(0, 1)


def unfold_regions(x: Tensor, num_regions: int) -> Tensor:
    """Return (B * R, ...) as (B, R, ...)."""
    return x.reshape(-1, num_regions, *x.shape[1:])
