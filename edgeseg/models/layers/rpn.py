"""Region proposal network (Ren et al., 2015) over a feature pyramid, with static shapes.

Shape suffixes: B pictures, L levels, A anchors a place, N anchors of a level, T candidates of a
level, P proposals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseg.models.layers.anchors import base_anchors, grid_anchors
from edgeseg.models.layers.boxes import (
    MAX_LOG_SCALE,
    clip_boxes,
    decode_boxes,
    has_min_size,
    with_last_pixel,
)
from edgeseg.models.layers.conv import ConvNorm
from edgeseg.ops import nms


@dataclass(frozen=True, kw_only=True)
class AnchorGrid:
    """Where the anchors of a pyramid lie.

    ``sizes`` holds one size in network pixels per level. ``strides_from_map`` divides the network
    size by the map size (torchvision: a 13-row map of 800 rows has stride 61); otherwise level l
    has stride 4 * 2**l. ``rounded`` rounds the corners of the base anchors. ``cell`` makes the base anchors of a level in
    another way, from its size, the ratios and its stride.
    """

    sizes: tuple[float, ...] = (32, 64, 128, 256, 512)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rounded: bool = False
    strides_from_map: bool = False
    cell: Callable[[float, Sequence[float], int], Tensor] | None = None

    def anchors(self, image_size: tuple[int, int]) -> list[Tensor]:
        """Return the anchors of every level for a network input of (height, width)."""
        height, width = image_size
        anchors = []
        for level, size in enumerate(self.sizes):
            nominal = 4 << level
            map_size = (-(-height // nominal), -(-width // nominal))
            stride = (
                (height // map_size[0], width // map_size[1])
                if self.strides_from_map
                else (nominal, nominal)
            )
            base_A4 = (
                base_anchors(size, self.ratios, rounded=self.rounded)
                if self.cell is None
                else self.cell(size, self.ratios, nominal)
            )
            anchors.append(grid_anchors(base_A4, map_size, stride))
        return anchors


class RPN(nn.Module):
    """Objectness and box deltas of every anchor, and the best of them as proposals."""

    def __init__(
        self,
        in_channels: int,
        grid: AnchorGrid,
        image_size: tuple[int, int],
        *,
        conv_depth: int = 1,
        pre_nms_top_n: int = 1000,
        post_nms_top_n: int = 1000,
        nms_thresh: float = 0.7,
        min_box_size: float = 0.0,
        score_is_probability: bool = True,
        pixel: float = 0.0,
        clamps_small: bool = False,
    ) -> None:
        """Build the network.

        Args:
            in_channels: channels of the pyramid.
            grid: the anchors.
            image_size: height and width of the network input.
            conv_depth: 3x3 convolutions before the two predictors.
            pre_nms_top_n: candidates kept per level.
            post_nms_top_n: proposals kept per picture.
            nms_thresh: boxes of a level that overlap more are suppressed.
            min_box_size: shortest side of a proposal, in network pixels.
            score_is_probability: rank by the sigmoid (torchvision: saturated logits tie) or by the
                logit itself (detectron2).
            pixel: 1 where the pixel at x2 y2 is part of a box, see `decode_boxes`.
            clamps_small: bound predicted size ratios below, too (mmdetection).
        """
        super().__init__()
        num_anchors = len(grid.ratios)
        self.conv = nn.Sequential(*(ConvNorm(in_channels, in_channels) for _ in range(conv_depth)))
        self.objectness = nn.Conv2d(in_channels, num_anchors, 1)
        self.deltas = nn.Conv2d(in_channels, num_anchors * 4, 1)
        self.pre_nms_top_n = pre_nms_top_n
        self.post_nms_top_n = post_nms_top_n
        self.nms_thresh = nms_thresh
        self.min_box_size = min_box_size
        self.score_is_probability = score_is_probability
        self.pixel = pixel
        self.min_log_scale = -MAX_LOG_SCALE if clamps_small else None
        self.num_levels = len(grid.sizes)
        for level, anchors_N4 in enumerate(grid.anchors(image_size)):
            self.register_buffer(f"anchors_{level}", anchors_N4, persistent=False)

    @property
    def anchors(self) -> list[Tensor]:
        """The anchors of every level, (N, 4) x1 y1 x2 y2 in network pixels; order y, x, anchor."""
        return [self.get_buffer(f"anchors_{level}") for level in range(self.num_levels)]

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return, per level, the logits (B, A, H, W) and the deltas (B, A * 4, H, W).

        Delta channels are anchor-major: dx dy dw dh of anchor 0, then of anchor 1 ...
        """
        hidden = [self.conv(feature) for feature in pyramid]
        return [self.objectness(h) for h in hidden], [self.deltas(h) for h in hidden]

    def propose(
        self, logits: Sequence[Tensor], deltas: Sequence[Tensor], image_size_B2: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the proposals of each picture, best first.

        Args:
            logits: per level (B, A, H, W).
            deltas: per level (B, A * 4, H, W).
            image_size_B2: height and width of the valid part of the network input.

        Returns:
            Boxes (B, P, 4) in network pixels and (B, P) bool: which rows hold a proposal.
        """
        candidates = [
            self._candidates(*level) for level in zip(logits, deltas, self.anchors, strict=True)
        ]
        num_candidates = max(scores_BT.shape[1] for scores_BT, _ in candidates)
        scores_BLT = torch.stack([_pad(s, num_candidates, -torch.inf) for s, _ in candidates], 1)
        boxes_BLT4 = torch.stack([_pad(b, num_candidates, 0.0) for _, b in candidates], 1)

        boxes_BM4 = clip_boxes(boxes_BLT4.flatten(1, 2), image_size_B2, pixel=self.pixel)
        scores_BM = scores_BLT.flatten(1, 2)
        is_large = has_min_size(boxes_BM4, self.min_box_size, pixel=self.pixel)
        scores_BM = torch.where(is_large, scores_BM, -torch.inf)

        # Each level is a row of its own: levels never suppress each other.
        shape_LT = (-1, num_candidates)
        kept, is_kept = nms(
            with_last_pixel(boxes_BM4, self.pixel).reshape(*shape_LT, 4),
            scores_BM.reshape(shape_LT),
            iou_threshold=self.nms_thresh,
            max_output=num_candidates,
        )
        scores = scores_BM.reshape(shape_LT).gather(1, kept)
        scores_BM = torch.where(is_kept, scores, -torch.inf).reshape(-1, scores_BM.shape[1])
        boxes = boxes_BM4.reshape(*shape_LT, 4).gather(1, kept[..., None].expand(-1, -1, 4))
        boxes_BM4 = boxes.reshape(-1, scores_BM.shape[1], 4)

        num_proposals = min(self.post_nms_top_n, scores_BM.shape[1])
        best_BP, order_BP = scores_BM.topk(num_proposals, dim=1)
        boxes_BP4 = boxes_BM4.gather(1, order_BP[..., None].expand(-1, -1, 4))
        is_proposal_BP = best_BP > -torch.inf
        return torch.where(is_proposal_BP[..., None], boxes_BP4, 0.0), is_proposal_BP

    def _candidates(
        self, logits_BAHW: Tensor, deltas_BDHW: Tensor, anchors_N4: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the scores (B, T) and boxes (B, T, 4) of a level's best anchors."""
        logits_BN = logits_BAHW.permute(0, 2, 3, 1).flatten(1)
        deltas_BN4 = deltas_BDHW.permute(0, 2, 3, 1).reshape(deltas_BDHW.shape[0], -1, 4)
        num_candidates = min(self.pre_nms_top_n, anchors_N4.shape[0])
        best_BT, order_BT = logits_BN.topk(num_candidates, dim=1)
        deltas_BT4 = deltas_BN4.gather(1, order_BT[..., None].expand(-1, -1, 4))
        boxes_BT4 = decode_boxes(
            deltas_BT4,
            anchors_N4[order_BT],
            pixel=self.pixel,
            min_log_scale=self.min_log_scale,
        )
        return best_BT.sigmoid() if self.score_is_probability else best_BT, boxes_BT4


def _pad(x: Tensor, num_candidates: int, value: float) -> Tensor:
    """Return ``x`` (B, T, ...) lengthened to ``num_candidates`` rows."""
    missing = num_candidates - x.shape[1]
    if missing == 0:
        return x
    return F.pad(x, (*(0, 0) * (x.dim() - 2), 0, missing), value=value)
