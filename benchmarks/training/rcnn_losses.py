"""Training losses of two-stage detectors (Ren et al., 2015; He et al., 2017).

Shape suffixes: B pictures, G annotated objects (padded), N anchors or proposals, R sampled regions,
P sampled regions that hold an object.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeseg.models.layers.boxes import encode_boxes
from edgeseg.models.layers.roi_heads import BOX_WEIGHTS, fold_regions
from edgeseg.models.maskrcnn.model import MaskRCNN

RPN_SAMPLES, RPN_POSITIVE_SHARE = 128, 0.5
ROI_SAMPLES, ROI_POSITIVE_SHARE = 64, 0.375
RPN_LOW, RPN_HIGH = 0.3, 0.7
ROI_HIGH = 0.5


@dataclass(frozen=True)
class Targets:
    """What is annotated in a batch, in network pixels.

    Attributes:
        boxes: (B, G, 4) x1 y1 x2 y2; padding rows are zero.
        labels: (B, G) int64; 0 in padding rows.
        masks: (B, G, H, W) uint8.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor


def maskrcnn_losses(
    model: MaskRCNN, image: Tensor, image_size: Tensor, targets: Targets
) -> dict[str, Tensor]:
    """Return the five losses of a batch: rpn_score, rpn_box, class, box and mask."""
    pyramid = model.fpn(model.backbone(model.normalize(image, image_size)))
    logits, deltas = model.rpn(pyramid)
    losses = _rpn_losses(model, logits, deltas, targets)
    with torch.no_grad():
        proposals, _ = model.rpn.propose(
            [x.detach() for x in logits], [x.detach() for x in deltas], image_size
        )
        regions = sample_regions(proposals, targets)
    atlas = model.atlas(pyramid)
    class_logits, box_deltas = model.classify(model.pool(atlas, regions.boxes, 7))
    return (
        losses
        | _box_losses(class_logits, box_deltas, regions)
        | _mask_loss(model, atlas, regions, targets)
    )


@dataclass(frozen=True)
class Regions:
    """Sampled regions: boxes (B, R, 4), the class of each (B, R; 0 = background) and its object."""

    boxes: Tensor
    labels: Tensor
    object_index: Tensor
    object_boxes: Tensor


def box_iou(boxes_BN4: Tensor, others_BG4: Tensor) -> Tensor:
    """Return the IoU of every pair, (B, N, G); 0 where both have no area."""
    top_left = torch.maximum(boxes_BN4[:, :, None, :2], others_BG4[:, None, :, :2])
    bottom_right = torch.minimum(boxes_BN4[:, :, None, 2:], others_BG4[:, None, :, 2:])
    overlap = (bottom_right - top_left).clamp(min=0).prod(-1)
    areas = [(b[..., 2:] - b[..., :2]).prod(-1) for b in (boxes_BN4, others_BG4)]
    union = areas[0][:, :, None] + areas[1][:, None, :] - overlap
    return overlap / union.clamp(min=1e-6)


def sample_regions(proposals_BP4: Tensor, targets: Targets) -> Regions:
    """Return a fixed number of regions per picture, a part of them on objects.

    The annotated boxes themselves take part, as in the originals.
    """
    boxes_BN4 = torch.cat([proposals_BP4, targets.boxes], dim=1)
    iou_BN, object_BN = box_iou(boxes_BN4, targets.boxes).max(dim=2)
    is_box_BN = (boxes_BN4[..., 2:] > boxes_BN4[..., :2]).all(-1)
    is_positive_BN = (iou_BN >= ROI_HIGH) & is_box_BN
    chosen_BR = _sample(
        is_positive_BN, is_box_BN & ~is_positive_BN, ROI_SAMPLES, ROI_POSITIVE_SHARE
    )
    positive_BR = is_positive_BN.gather(1, chosen_BR)
    object_BR = object_BN.gather(1, chosen_BR)
    index_BR4 = object_BR[..., None].expand(-1, -1, 4)
    return Regions(
        boxes=boxes_BN4.gather(1, chosen_BR[..., None].expand(-1, -1, 4)),
        labels=torch.where(positive_BR, targets.labels.gather(1, object_BR), 0),
        object_index=object_BR,
        object_boxes=targets.boxes.gather(1, index_BR4),
    )


def _sample(positive_BN: Tensor, negative_BN: Tensor, count: int, share: float) -> Tensor:
    """Return ``count`` random indices per picture, at most ``share`` of them positive.

    Positives come first; where there are too few negatives, ignored places fill up.
    """
    noise_BN = torch.rand(positive_BN.shape)
    order_BN = torch.where(positive_BN, noise_BN, -1.0).argsort(dim=1, descending=True)
    rank_BN = torch.empty_like(order_BN).scatter_(
        1, order_BN, torch.arange(order_BN.shape[1]).expand_as(order_BN)
    )
    is_chosen_BN = positive_BN & (rank_BN < int(count * share))
    priority_BN = torch.where(is_chosen_BN, 2.0, torch.where(negative_BN, 1.0, -1.0)) + noise_BN
    return priority_BN.topk(count, dim=1).indices


def _rpn_losses(
    model: MaskRCNN, logits: list[Tensor], deltas: list[Tensor], targets: Targets
) -> dict[str, Tensor]:
    logits_BN = torch.cat([x.permute(0, 2, 3, 1).flatten(1) for x in logits], dim=1)
    deltas_BN4 = torch.cat([x.permute(0, 2, 3, 1).reshape(len(x), -1, 4) for x in deltas], dim=1)
    anchors_N4 = torch.cat(model.rpn.anchors)
    iou_BNG = box_iou(anchors_N4.expand(len(logits_BN), -1, -1), targets.boxes)
    iou_BN, object_BN = iou_BNG.max(dim=2)
    # Every object's best anchor is positive, however small its overlap.
    best_BG = iou_BNG.amax(dim=1, keepdim=True).clamp(min=1e-3)
    is_positive_BN = (iou_BN >= RPN_HIGH) | (iou_BNG >= best_BG).any(dim=2)
    chosen_BR = _sample(
        is_positive_BN, (iou_BN < RPN_LOW) & ~is_positive_BN, RPN_SAMPLES, RPN_POSITIVE_SHARE
    )
    positive_BR = is_positive_BN.gather(1, chosen_BR)
    score_loss = F.binary_cross_entropy_with_logits(
        logits_BN.gather(1, chosen_BR), positive_BR.float()
    )
    index_BR4 = chosen_BR[..., None].expand(-1, -1, 4)
    objects_BR4 = targets.boxes.gather(
        1, object_BN.gather(1, chosen_BR)[..., None].expand(-1, -1, 4)
    )
    wanted = encode_boxes(objects_BR4[positive_BR], anchors_N4[chosen_BR[positive_BR]])
    found = deltas_BN4.gather(1, index_BR4)[positive_BR]
    box_loss = F.smooth_l1_loss(found, wanted, beta=1 / 9, reduction="sum")
    return {"rpn_score": score_loss, "rpn_box": box_loss / chosen_BR.numel()}


def _box_losses(class_logits: Tensor, box_deltas: Tensor, regions: Regions) -> dict[str, Tensor]:
    class_loss = F.cross_entropy(class_logits.flatten(0, 1), regions.labels.flatten())
    positive_BR = regions.labels > 0
    deltas_BRY4 = box_deltas.reshape(*box_deltas.shape[:2], -1, 4)
    index = regions.labels[..., None, None].expand(-1, -1, 1, 4)
    found = deltas_BRY4.gather(2, index).squeeze(2)[positive_BR]
    wanted = encode_boxes(
        regions.object_boxes[positive_BR], regions.boxes[positive_BR], weights=BOX_WEIGHTS
    )
    box_loss = F.smooth_l1_loss(found, wanted, reduction="sum")
    return {"class": class_loss, "box": box_loss / regions.labels.numel()}


def _mask_loss(
    model: MaskRCNN, atlas: Tensor, regions: Regions, targets: Targets
) -> dict[str, Tensor]:
    """Return the loss of the masks; positives come first in every picture's regions."""
    assert model.mask_head is not None
    count = int(ROI_SAMPLES * ROI_POSITIVE_SHARE)
    positives, order = (regions.labels > 0).long().topk(count, dim=1)
    boxes_BP4 = regions.boxes.gather(1, order[..., None].expand(-1, -1, 4))
    is_positive = positives.flatten() > 0
    labels_P = regions.labels.gather(1, order).flatten()[is_positive]
    features = fold_regions(model.pool(atlas, boxes_BP4, 14))[is_positive]
    logits_PMM = model.mask_head(features)[torch.arange(len(labels_P)), labels_P]
    object_P = regions.object_index.gather(1, order).flatten()[is_positive]
    picture_P = torch.arange(len(order)).repeat_interleave(count)[is_positive]
    wanted_PMM = crop_masks(
        targets.masks[picture_P, object_P],
        boxes_BP4.flatten(0, 1)[is_positive],
        logits_PMM.shape[-1],
    )
    return {"mask": F.binary_cross_entropy_with_logits(logits_PMM, wanted_PMM)}


def crop_masks(masks_PHW: Tensor, boxes_P4: Tensor, size: int) -> Tensor:
    """Return each mask inside its box, (P, size, size) in 0..1, sampled at the cells' centres."""
    height, width = masks_PHW.shape[-2:]
    steps = (torch.arange(size) + 0.5) / size
    x1, y1, x2, y2 = boxes_P4[..., None].unbind(1)
    xs_PM = (x1 + steps * (x2 - x1)) / width * 2 - 1
    ys_PM = (y1 + steps * (y2 - y1)) / height * 2 - 1
    grid = torch.stack(
        [xs_PM[:, None, :].expand(-1, size, -1), ys_PM[:, :, None].expand(-1, -1, size)], dim=-1
    )
    return F.grid_sample(masks_PHW[:, None].float(), grid, align_corners=False)[:, 0]
