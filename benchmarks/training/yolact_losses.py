"""Training losses of YOLACT (Bolya et al., 2019, arXiv 1904.02689, section 3.1; layers/modules/multibox_loss.py).

Shape suffixes: B pictures, G annotated objects (padded), N priors, P positive priors of all pictures,
C prototypes, H W of the prototypes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeseg.models.layers.boxes import encode_boxes
from edgeseg.models.layers.prototypes import crop_masks
from edgeseg.models.yolact.model import BOX_WEIGHTS, Yolact
from rcnn_losses import box_iou

POSITIVE_IOU, NEGATIVE_IOU = 0.5, 0.4
NEGATIVES_PER_POSITIVE = 3
BOX_ALPHA, MASK_ALPHA = 1.5, 6.125
BACKGROUND, NEUTRAL = 0, -1


@dataclass(frozen=True)
class Targets:
    """What is annotated in a batch.

    Attributes:
        boxes: (B, G, 4) x1 y1 x2 y2 in network pixels; padding rows are zero.
        labels: (B, G) int64; 0 in padding rows.
        masks: (B, G, H, W) 0 or 1, at the resolution of the prototypes.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor


@dataclass(frozen=True)
class Matches:
    """What each prior has to predict: the class (B, N) and the number of its object (B, N)."""

    labels: Tensor
    objects: Tensor


def yolact_losses(model: Yolact, image: Tensor, targets: Targets) -> dict[str, Tensor]:
    """Return the losses of a batch: box, class and mask, each over the number of positive priors."""
    pyramid = model.fpn(model.backbone(model.normalize(image))[-3:])
    prototypes_BCHW = model.prototypes(pyramid[0])
    logits_BNY, deltas_BN4, coefficients_BNC = model.head(pyramid)
    with torch.no_grad():
        matches = match_priors(model.priors, targets)
    is_positive_BN = matches.labels > 0
    num_positive = is_positive_BN.sum().clamp(min=1)
    picture_P, prior_P = is_positive_BN.nonzero(as_tuple=True)
    object_P = matches.objects[picture_P, prior_P]
    boxes_P4 = targets.boxes[picture_P, object_P]
    wanted_P4 = encode_boxes(boxes_P4, model.priors[prior_P], weights=BOX_WEIGHTS)
    box_loss = F.smooth_l1_loss(deltas_BN4[picture_P, prior_P], wanted_P4, reduction="sum")
    mask_loss = _mask_loss(
        prototypes_BCHW[picture_P],
        coefficients_BNC[picture_P, prior_P].tanh(),
        boxes_P4,
        targets.masks[picture_P, object_P],
        model.config.image_size,
    )
    return {
        "box": BOX_ALPHA * box_loss / num_positive,
        "class": _class_loss(logits_BNY, matches.labels) / num_positive,
        "mask": MASK_ALPHA * mask_loss / num_positive,
    }


def match_priors(priors_N4: Tensor, targets: Targets) -> Matches:
    """Return what each prior has to predict.

    A prior belongs to the object that it overlaps most, if by half or more; between the two bounds
    it is left alone. Every object has its best prior, however small the overlap.
    """
    iou_BNG = box_iou(priors_N4.expand(len(targets.boxes), -1, -1), targets.boxes)
    iou_BNG = torch.where(targets.labels[:, None, :] > 0, iou_BNG, -1.0)
    best_prior_BG = iou_BNG.argmax(dim=1)
    for row in range(targets.labels.shape[1]):  # a later object takes a prior that two of them want
        is_object_B = targets.labels[:, row] > 0
        pictures = is_object_B.nonzero()[:, 0]
        priors = best_prior_BG[pictures, row]
        iou_BNG[pictures, priors] = -1.0
        iou_BNG[pictures, priors, row] = 2.0
    iou_BN, object_BN = iou_BNG.max(dim=2)
    labels_BN = targets.labels.gather(1, object_BN)
    labels_BN = torch.where(iou_BN < POSITIVE_IOU, NEUTRAL, labels_BN)
    return Matches(torch.where(iou_BN < NEGATIVE_IOU, BACKGROUND, labels_BN), object_BN)


def _class_loss(logits_BNY: Tensor, labels_BN: Tensor) -> Tensor:
    """Return the summed cross-entropy of the positives and of the hardest negatives of each picture."""
    losses_BN = F.cross_entropy(
        logits_BNY.transpose(1, 2), labels_BN.clamp(min=0), reduction="none"
    )
    is_negative_BN = labels_BN == BACKGROUND
    hardness_BN = torch.where(is_negative_BN, losses_BN.detach(), -1.0)
    rank_BN = hardness_BN.argsort(dim=1, descending=True).argsort(dim=1)
    num_wanted_B1 = NEGATIVES_PER_POSITIVE * (labels_BN > 0).sum(dim=1, keepdim=True).clamp(min=1)
    is_hard_BN = is_negative_BN & (rank_BN < num_wanted_B1)
    return losses_BN[(labels_BN > 0) | is_hard_BN].sum()


def _mask_loss(
    prototypes_PCHW: Tensor,
    coefficients_PC: Tensor,
    boxes_P4: Tensor,
    masks_PHW: Tensor,
    image_size: tuple[int, int],
) -> Tensor:
    """Return the summed binary cross-entropy inside the annotated boxes, each over its box's area."""
    logits_PHW = torch.einsum("pchw,pc->phw", prototypes_PCHW, coefficients_PC)
    losses_PHW = F.binary_cross_entropy_with_logits(logits_PHW, masks_PHW, reduction="none")
    inside_PHW = crop_masks(losses_PHW[None], boxes_P4[None], image_size)[0]
    height, width = masks_PHW.shape[1:]
    cells = (height * width) / (image_size[0] * image_size[1])
    areas_P = (boxes_P4[:, 2:] - boxes_P4[:, :2]).prod(dim=1) * cells
    return (inside_PHW.sum(dim=(1, 2)) / areas_P.clamp(min=1)).sum()
