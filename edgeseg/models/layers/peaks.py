"""The best peaks of dense heat maps, and what other maps say at their places.

Shape suffixes: B pictures, Y classes or joints, C channels, H W a map, P = H * W places, K peaks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TopPeaks:
    """The best places of heat maps, best first; each (B, K), or (B, Y, K) for each map.

    Attributes:
        score: the value there.
        label: int64, which map it is of.
        row: float, counted in places of the map.
        column: float.
        place: int64, row * W + column.
    """

    score: Tensor
    label: Tensor
    row: Tensor
    column: Tensor
    place: Tensor


def top_peaks(maps_BYHW: Tensor, count: int) -> TopPeaks:
    """Return the ``count`` best places of all maps of a picture together.

    One selection over all maps: the originals select per class first, which gives the same set.
    """
    height, width = maps_BYHW.shape[2:]
    score_BK, number_BK = maps_BYHW.flatten(1).topk(count)
    label_BK = number_BK // (height * width)
    return _peaks(score_BK, label_BK, number_BK - label_BK * (height * width), width)


def top_peaks_of_each(maps_BYHW: Tensor, count: int) -> TopPeaks:
    """Return the ``count`` best places of each map."""
    score_BYK, place_BYK = maps_BYHW.flatten(2).topk(count)
    label_Y1 = torch.arange(maps_BYHW.shape[1], device=maps_BYHW.device)[:, None]
    return _peaks(score_BYK, label_Y1.expand_as(place_BYK), place_BYK, maps_BYHW.shape[3])


def take_places(maps_BCHW: Tensor, place_BK: Tensor) -> Tensor:
    """Return (B, K, C): the values of all maps at these places."""
    channels = maps_BCHW.shape[1]
    index_BCK = place_BK[:, None].expand(-1, channels, -1)
    return maps_BCHW.flatten(2).gather(2, index_BCK).transpose(1, 2)


def _peaks(score: Tensor, label: Tensor, place: Tensor, width: int) -> TopPeaks:
    row = place // width
    return TopPeaks(
        score=score,
        label=label,
        row=row.to(score.dtype),
        column=(place - row * width).to(score.dtype),
        place=place,
    )
