"""A panoptic head in which every instance competes with every stuff for each pixel (UPSNet, VPSNet).

From logits of a quarter of the input's sides to a channel and a class for each pixel, without an array of the input's
size for each class or instance.

Shape suffixes: C classes, stuff first, then things; h w cells of the logits; H W pixels; N contenders, M cells of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import combinations
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg_runtime.picture.geometry import Geometry
from edgeseg_runtime.tasks.merge import (
    Contender,
    Window,
    mask_window,
    remove_masks,
    resized_mask,
    semantic_window,
    unify,
)

__all__ = ["Contenders", "Contest", "enlarged", "hold_contest", "nearest_source", "semantic_maps"]

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]

TILE = 32
"""Cells of a tile's side: which classes can win is asked tile by tile."""
NUM_LEADING = 6
"""Classes that are looked at in pairs, see `_surest`."""
_HUGE = 1e30


class Contenders(NamedTuple):
    """Instances that compete for pixels, the best one first.

    Attributes:
        boxes: (N, 4) x1 y1 x2 y2 in pixels of the network's input, the pixel at x2 y2 included.
        classes: (N,) class of each, as the logits count.
        masks: (N, M, M) logits over the boxes.
    """

    boxes: Floats
    classes: Sequence[int]
    masks: Floats


class Contest(NamedTuple):
    """What came out, for the part of the input that shows the picture.

    Attributes:
        channels: (H, W) int32: class of the stuff, number of stuff classes + the number of the instance in `kept`, or
            after the last one unknown.
        semantic: (H, W) int32: best class of each pixel.
        kept: of each instance the row among the contenders.
    """

    channels: Ids
    semantic: Ids
    kept: tuple[int, ...]


def hold_contest(
    logits_Chw: Floats,
    contenders: Contenders,
    geometry: Geometry,
    *,
    num_stuff: int,
    overlap: float = 0.3,
    has_unknown: bool = True,
) -> Contest:
    """Return the channel that wins each pixel, with the instances that took part.

    Masks are removed at the size of the network's input, as in the originals (`mask_removal.py`). If none of several
    contenders is kept, the best one competes without its mask.

    Args:
        logits_Chw: semantic logits; NaN loses against everything.
        contenders: may be none.
        geometry: where the picture lies: at the top left.
        num_stuff: number of stuff classes.
        overlap: an instance is dropped if more of its mask is covered by better ones of its class.
        has_unknown: whether a channel says that a thing is there which no instance has (UPSNet).
    """
    size = geometry.resized
    factor = geometry.network[0] // logits_Chw.shape[1]
    # Infinite numbers times a weight of 0 would be none.
    logits_Chw = np.nan_to_num(logits_Chw, nan=-_HUGE, posinf=_HUGE, neginf=-_HUGE)
    kept = remove_masks(
        contenders.masks,
        contenders.boxes,
        contenders.classes,
        geometry.network,
        overlap=overlap,
    )
    has_masks = len(kept) > 0
    if not has_masks and len(contenders.boxes):
        kept = (0,)
    channels = [
        _contender(logits_Chw, contenders, row, size, factor=factor, has_mask=has_masks)
        for row in kept
    ]
    maps = semantic_maps(
        logits_Chw,
        size,
        num_stuff=num_stuff,
        factor=factor,
        exact=_common_window([channel.semantic for channel in channels]),
    )
    winner = unify(
        maps.stuff_scores,
        maps.stuff_labels,
        channels,
        num_stuff=num_stuff,
        thing_scores_HW=maps.thing_scores if has_unknown else None,
    )
    semantic = np.where(
        maps.stuff_scores >= maps.thing_scores, maps.stuff_labels, maps.thing_labels
    )
    return Contest(winner, semantic, kept)


class SemanticMaps(NamedTuple):
    """Best logit of each pixel among the stuff and among the things, and its class, the lowest of equal ones."""

    stuff_scores: Floats
    stuff_labels: Ids
    thing_scores: Floats
    thing_labels: Ids


def semantic_maps(
    logits_Chw: Floats,
    size: tuple[int, int],
    *,
    num_stuff: int,
    factor: int = 4,
    exact: Window | None = None,
) -> SemanticMaps:
    """Return the best stuff and the best thing of each pixel.

    Of classes only those are enlarged that can win somewhere in a tile. Where no thing can be better than the stuff,
    the best thing is -inf, except in the window `exact`.

    Args:
        logits_Chw: semantic logits without NaN.
        size: height, width of the maps, at most `factor` times those of the logits.
        num_stuff: number of stuff classes.
        factor: pixels of a cell's side.
        exact: rows and columns where the best thing is wanted however bad it is; None for nowhere.
    """
    maps = SemanticMaps(
        np.full(size, -np.inf, np.float32),
        np.zeros(size, np.int32),
        np.full(size, -np.inf, np.float32),
        np.full(size, num_stuff, np.int32),
    )
    stuff, things = logits_Chw[:num_stuff], logits_Chw[num_stuff:]
    # What rounding may add to one value and take from another.
    rounding = np.float32(1e-6) * np.abs(logits_Chw).max(initial=0)
    sure_hw, sure_stuff_hw, sure_thing_hw = (
        _surest(group) - rounding for group in (logits_Chw, stuff, things)
    )
    best_stuff_Chw = _possible(stuff, sure_stuff_hw)
    best_thing_Chw, winning_Chw = _possible(things, sure_thing_hw), _possible(things, sure_hw)
    groups = (
        (0, best_stuff_Chw, best_stuff_Chw, maps.stuff_scores, maps.stuff_labels),
        (num_stuff, winning_Chw, best_thing_Chw, maps.thing_scores, maps.thing_labels),
    )
    for tile in _tiles(logits_Chw.shape[1:]):
        pixels = _pixels(tile, size, factor)
        is_exact = exact is not None and _touch(pixels, exact)
        for first, winning, possible, scores, labels in groups:
            wanted_Chw = (possible if is_exact else winning)[:, tile[0], tile[1]]
            for label in np.flatnonzero(wanted_Chw.any(axis=(1, 2))):
                window = _pixels(_around(wanted_Chw[label], tile), size, factor)
                plane = enlarged(logits_Chw[first + label], window, factor=factor)
                is_better = plane > scores[window]
                np.copyto(scores[window], plane, where=is_better)
                np.copyto(labels[window], np.int32(first + label), where=is_better)
    return maps


def enlarged(logits_hw: Floats, window: Window, *, factor: int = 4) -> Floats:
    """Return a window of a map that is enlarged bilinearly, with half-pixel centres and the border repeated.

    A value depends on its four cells alone: every window has the same bits. So a class's logits inside a box equal the
    best of all logits where that class is the best one.

    Args:
        logits_hw: of one class.
        window: rows and columns of the enlarged map.
        factor: how much it is enlarged.
    """
    if any(side.stop <= side.start for side in window):
        return np.zeros([max(side.stop - side.start, 0) for side in window], np.float32)
    rows, columns = window
    top, bottom, y_H = (values[rows] for values in _taps(logits_hw.shape[0], factor))
    left, right, x_W = (values[columns] for values in _taps(logits_hw.shape[1], factor))
    first, end = int(top[0]), int(bottom[-1]) + 1
    used_hw = logits_hw[first:end]
    wide_hW = used_hw[:, left] * (1 - x_W) + used_hw[:, right] * x_W
    large_HW = wide_hW[top - first]
    large_HW *= 1 - y_H[:, None]
    lower_HW = wide_hW[bottom - first]
    lower_HW *= y_H[:, None]
    large_HW += lower_HW
    return large_HW


def nearest_source(array_HW: Ids, geometry: Geometry) -> Ids:
    """Return a map of the resized picture in source pixels: row i is row floor(i * scale).

    The originals' own map has the resized size over the scale, rounded, and so may have a row or column more or less
    than the picture. Here it is always the picture's size: one too many is left out, for a missing one the last is repeated.
    """
    if array_HW.shape == geometry.source and geometry.step == (1.0, 1.0):
        return array_HW
    rows, columns = (
        np.minimum(np.floor(np.arange(length) * _float32_ratio(step)).astype(np.intp), limit - 1)
        for length, step, limit in zip(
            geometry.source, geometry.step[::-1], array_HW.shape, strict=True
        )
    )
    return array_HW[rows[:, None], columns]


def _float32_ratio(step: float) -> float:
    """Return network pixels per source pixel, from the factor that the originals give in float32."""
    return 1 / float(np.float32(1) / np.float32(1 / step))


def _contender(
    logits_Chw: Floats,
    contenders: Contenders,
    row: int,
    size: tuple[int, int],
    *,
    factor: int,
    has_mask: bool,
) -> Contender:
    box, mask = contenders.boxes[row], contenders.masks[row]
    window = semantic_window(box, size)
    logits_hw = logits_Chw[int(contenders.classes[row])]
    return Contender(
        window,
        partial(enlarged, logits_hw, window, factor=factor),
        mask_window(box, size) if has_mask else None,
        partial(resized_mask, mask, box, size) if has_mask else None,
    )


def _common_window(windows: Sequence[Window]) -> Window | None:
    """Return the rows and columns that lie in all windows; None without any."""
    if not windows:
        return None
    rows, columns = zip(*windows, strict=True)
    return (
        slice(max(side.start for side in rows), min(side.stop for side in rows)),
        slice(max(side.start for side in columns), min(side.stop for side in columns)),
    )


def _touch(window: Window, other: Window) -> bool:
    return all(
        max(a.start, b.start) < min(a.stop, b.stop) for a, b in zip(window, other, strict=True)
    )


def _surest(logits_Chw: Floats) -> Floats:
    """Return (h, w) what the best class is at least, in all pixels of a cell, but for rounding.

    An enlarged value lies between the least and the greatest of a 3x3 window of cells. The better one of two classes is
    at least their mean, which says more where one gives way to the other: so the leading classes count in pairs, too.
    """
    surest_hw = np.full(logits_Chw.shape[1:], -np.inf, np.float32)
    for logits_hw in logits_Chw:
        np.maximum(surest_hw, cv2.erode(logits_hw, _NEIGHBOURS), out=surest_hw)
    num_best = (logits_Chw >= logits_Chw.max(axis=0)).sum(axis=(1, 2))
    leading = np.argsort(-num_best, kind="stable")[:NUM_LEADING]
    for first, second in combinations(leading[num_best[leading] > 0].tolist(), 2):
        mean_hw = (logits_Chw[first] + logits_Chw[second]) * np.float32(0.5)
        np.maximum(surest_hw, cv2.erode(mean_hw, _NEIGHBOURS), out=surest_hw)
    return surest_hw


def _possible(logits_Chw: Floats, surest_hw: Floats) -> Bools:
    """Return (C, h, w) in which cells a class may reach what is sure."""
    found = np.empty(logits_Chw.shape, np.bool_)
    for number, logits_hw in enumerate(logits_Chw):
        np.greater_equal(cv2.dilate(logits_hw, _NEIGHBOURS), surest_hw, out=found[number])
    return found


_NEIGHBOURS = np.ones((3, 3), np.uint8)


def _tiles(shape: Sequence[int]) -> list[Window]:
    height, width = shape
    return [
        (slice(y, min(y + TILE, height)), slice(x, min(x + TILE, width)))
        for y in range(0, height, TILE)
        for x in range(0, width, TILE)
    ]


def _pixels(cells: Window, size: tuple[int, int], factor: int) -> Window:
    """Return the rows and columns of the enlarged map that lie over cells; beyond its size there are none."""
    rows, columns = (
        slice(min(side.start * factor, limit), min(side.stop * factor, limit))
        for side, limit in zip(cells, size, strict=True)
    )
    return rows, columns


def _around(is_set_hw: Bools, tile: Window) -> Window:
    """Return the rows and columns of the map between which all set cells of a tile lie."""
    rows, columns = (
        slice(side.start + int(found[0]), side.start + int(found[-1]) + 1)
        for side, found in zip(
            tile, (np.flatnonzero(is_set_hw.any(axis=axis)) for axis in (1, 0)), strict=True
        )
    )
    return rows, columns


@lru_cache(maxsize=16)
def _taps(cells: int, factor: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Floats]:
    """Return the two cells that each pixel of an axis lies between, and the weight of the second one."""
    position = np.maximum((np.arange(cells * factor) + 0.5) / factor - 0.5, 0)
    low = np.floor(position).astype(np.intp)
    return low, np.minimum(low + 1, cells - 1), (position - low).astype(np.float32)
