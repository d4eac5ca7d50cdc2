"""Boxes from heat maps of their corners: the best corners of each kind, and which of them belong together.

Shape suffixes: B pictures, Y classes, H W a map, K corners of a kind, N pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgeseg.models.layers.boxes import take_rows
from edgeseg.models.layers.heatmaps import suppress_neighbours
from edgeseg.models.layers.peaks import take_places, top_peaks


@dataclass(frozen=True)
class KeyPoints:
    """The best places of heat maps, best first.

    Attributes:
        place: (B, K, 2) x, y in places of the map.
        score: (B, K).
        label: (B, K) int64.
        index: (B, K) int64, row * W + column.
    """

    place: Tensor
    score: Tensor
    label: Tensor
    index: Tensor


@dataclass(frozen=True)
class Pairs:
    """Boxes from two corners each, best first.

    Attributes:
        boxes: (B, N, 4) x1 y1 x2 y2 in places of the map; 0 in empty rows.
        scores: (B, N), 0 in empty rows.
        labels: (B, N) int64.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def find_key_points(heatmap_BYHW: Tensor, offset_B2HW: Tensor, count: int) -> KeyPoints:
    """Return the best peaks of all classes together.

    Args:
        heatmap_BYHW: logits.
        offset_B2HW: x, y of the key point beside its place.
        count: K.
    """
    peaks = top_peaks(suppress_neighbours(heatmap_BYHW.sigmoid()), count)
    place_BK2 = torch.stack((peaks.column, peaks.row), dim=-1)
    return KeyPoints(
        place=place_BK2 + take_places(offset_B2HW, peaks.place),
        score=peaks.score,
        label=peaks.label,
        index=peaks.place,
    )


def pair_corners(
    first: KeyPoints,
    last: KeyPoints,
    first_embedding_BK1: Tensor,
    last_embedding_BK1: Tensor,
    *,
    max_distance: float,
    count: int,
) -> Pairs:
    """Return the best pairs of a top left and a bottom right corner that can be a box.

    Both have one class and embeddings of a small distance, and lie as their names say; the score is
    their mean. One selection serves all pairs: TensorRT bounds its result, not what it is taken from.

    Args:
        first: top left corners.
        last: bottom right corners.
        first_embedding_BK1: of the top left corners.
        last_embedding_BK1: of the bottom right corners.
        max_distance: largest difference of the embeddings.
        count: N, at most K * K.
    """
    num_last = last.score.shape[1]
    distance_BKK = (first_embedding_BK1 - last_embedding_BK1.transpose(1, 2)).abs()
    is_ordered_BKK2 = first.place[:, :, None] <= last.place[:, None]
    is_pair_BKK = (
        (first.label[:, :, None] == last.label[:, None])
        & (distance_BKK <= max_distance)
        & is_ordered_BKK2[..., 0]
        & is_ordered_BKK2[..., 1]
        & (torch.minimum(first.score[:, :, None], last.score[:, None]) > 0)  # 0: there were no more
    )
    mean_BKK = (first.score[:, :, None] + last.score[:, None]) / 2
    scores_BN, pair_BN = torch.where(is_pair_BKK, mean_BKK, 0.0).flatten(1).topk(count)
    number_BN = pair_BN // num_last
    boxes_BN4 = torch.cat(
        (
            take_rows(first.place, number_BN),
            take_rows(last.place, pair_BN - number_BN * num_last),
        ),
        dim=-1,
    )
    is_found_BN = scores_BN > 0
    return Pairs(
        boxes=torch.where(is_found_BN[..., None], boxes_BN4, 0.0),
        scores=scores_BN,
        labels=torch.where(is_found_BN, first.label.gather(1, number_BN), 0),
    )
