"""From instances and a semantic map to one segment per pixel, without an array per instance or class.

stack_segments    Panoptic FPN: the best instances on top of one another, stuff where there is room
remove_masks, unify, settle_segments
                  UPSNet and VPSNet: every instance and every stuff competes for each pixel

Shape suffixes: H W pixels of the picture, h w of a window, N candidates, K kept instances, C classes, M cells of a mask.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg_runtime.picture.geometry import Geometry
from edgeseg_runtime.results.paste import MaskCrop

__all__ = [
    "Contender",
    "Settled",
    "Stacked",
    "labels_from_logits",
    "mask_window",
    "remove_masks",
    "resized_mask",
    "semantic_window",
    "settle_segments",
    "stack_segments",
    "unify",
]

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int32]
Window: TypeAlias = tuple[slice, slice]


# ---------------------------------------------------------------- Panoptic FPN


class Stacked(NamedTuple):
    """Segments of one picture.

    Attributes:
        ids: (H, W) int32: 0 void, then the instances, then the stuff, numbered from 1.
        instances: row of each instance that became a segment.
        stuff: class of each stuff segment.
    """

    ids: Ids
    instances: tuple[int, ...]
    stuff: tuple[int, ...]


def labels_from_logits(logits_CHW: Floats, geometry: Geometry) -> Ids:
    """Return the best class of each source pixel, the lowest of equal ones.

    Logits are enlarged to the network's input, cut to the picture and brought to its size, each time bilinearly with
    half-pixel centres (detectron2, `sem_seg_postprocess`), one class after the other.

    Args:
        logits_CHW: of a map that covers the network's input; NaN loses against everything.
        geometry: where the picture lies: at the top left.
    """
    height, width = geometry.source
    best = np.full((height, width), -np.inf, np.float32)
    labels = np.zeros((height, width), np.int32)
    is_better = np.empty((height, width), np.bool_)
    for number in _possible_classes(logits_CHW, geometry.network):
        large = cv2.resize(np.ascontiguousarray(logits_CHW[number]), geometry.network[::-1])
        inside = large[: geometry.resized[0], : geometry.resized[1]]
        plane = cv2.resize(inside, (width, height)) if inside.shape != best.shape else inside
        np.greater(plane, best, out=is_better)
        np.copyto(best, plane, where=is_better)
        np.copyto(labels, number, where=is_better)
    return labels


def _possible_classes(logits_CHW: Floats, network: tuple[int, int]) -> list[int]:
    """Return the classes that can be the best one somewhere: most are nowhere near it.

    An enlarged value lies between the least and the greatest of a 3x3 window of cells. So a class whose greatest is below
    another one's least in every window need not be enlarged.
    """
    if logits_CHW.shape[1] > network[0] or logits_CHW.shape[2] > network[1]:
        return list(range(len(logits_CHW)))
    window = np.ones((3, 3), np.uint8)
    known_CHW = np.where(np.isnan(logits_CHW), np.float32(-np.inf), logits_CHW)
    surest_HW = np.full(logits_CHW.shape[1:], -np.inf, np.float32)
    for logits_hw in known_CHW:
        np.maximum(surest_HW, cv2.erode(logits_hw, window), out=surest_HW)
    # What rounding may take from one value and add to another.
    margin = np.abs(surest_HW, where=np.isfinite(surest_HW), out=np.zeros_like(surest_HW)).max()
    surest_HW -= np.float32(1e-4) * max(margin, np.float32(1))
    return [
        number
        for number, logits_hw in enumerate(known_CHW)
        if (cv2.dilate(logits_hw, window) >= surest_HW).any()
    ]


def stack_segments(
    crops: Iterable[MaskCrop],
    semantic_HW: Ids,
    *,
    overlap: float = 0.5,
    stuff_area: int = 4096,
) -> Stacked:
    """Return the segments of Panoptic FPN (detectron2, `combine_semantic_and_instance_outputs`).

    An instance of which more than `overlap` is covered by better ones is dropped. What instances leave of a stuff class
    becomes a segment if it is at least `stuff_area` pixels.

    Args:
        crops: masks of the instances, the best one first.
        semantic_HW: class of each pixel, 0 for things.
        overlap: share of the mask.
        stuff_area: in pixels.
    """
    ids = np.zeros(semantic_HW.shape, np.int32)
    instances: list[int] = []
    for row, (top, left, bits) in enumerate(crops):
        region = ids[top : top + bits.shape[0], left : left + bits.shape[1]]
        is_free = bits & (region == 0)
        area, num_free = int(bits.sum()), int(is_free.sum())
        if area == 0 or (area - num_free) / area > overlap:
            continue
        instances.append(row)
        region[is_free] = len(instances)
    stuff: list[int] = []
    rest = np.where(ids == 0, semantic_HW, 0)
    counts = np.bincount(rest.ravel())
    for label in np.flatnonzero(counts >= max(stuff_area, 1)):
        if label != 0:
            stuff.append(int(label))
            ids[rest == label] = len(instances) + len(stuff)
    return Stacked(ids, tuple(instances), tuple(stuff))


# ---------------------------------------------------------------- UPSNet


class Contender(NamedTuple):
    """An instance that competes for pixels; outside of its windows its channel is 0.

    Attributes:
        semantic: rows and columns in which the logits of its class count.
        class_logits: returns them, (h, w); called when they are needed, and the result is not kept.
        mask: rows and columns in which its mask logits count; None for an instance without.
        mask_logits: returns those.
    """

    semantic: Window
    class_logits: Callable[[], Floats]
    mask: Window | None = None
    mask_logits: Callable[[], Floats] | None = None


class Settled(NamedTuple):
    """Segments of one picture.

    Attributes:
        ids: (H, W) int32: 0 void, else the row of the segment + 1.
        labels: class of each segment, as the semantic map counts.
        instances: of each segment the number of its instance, -1 for stuff.
    """

    ids: Ids
    labels: tuple[int, ...]
    instances: tuple[int, ...]


def semantic_window(box: Floats, size: tuple[int, int]) -> Window:
    """Return where the logits of an instance's class count (UPSNet, unary_logits.py).

    The box's first corner is truncated, its second one rounded half to even, and the pixel there counts.

    Args:
        box: (4,) x1 y1 x2 y2 in pixels of the map, not negative.
        size: height, width of the map.
    """
    x1, y1, x2, y2 = (float(value) for value in box)
    return (
        slice(min(int(y1), size[0]), min(int(round(y2) + 1), size[0])),
        slice(min(int(x1), size[1]), min(int(round(x2) + 1), size[1])),
    )


def mask_window(box: Floats, size: tuple[int, int]) -> Window:
    """Return where an instance's mask counts (UPSNet, mask_removal.py).

    Both corners of the box are truncated, and the pixel at the second one counts.

    Args:
        box: (4,) x1 y1 x2 y2 in pixels of the map, not negative.
        size: height, width of the map.
    """
    x1, y1, x2, y2 = (int(value) for value in box)
    return (
        slice(min(y1, size[0]), min(y1 + max(y2 - y1 + 1, 1), size[0])),
        slice(min(x1, size[1]), min(x1 + max(x2 - x1 + 1, 1), size[1])),
    )


def resized_mask(logits_MM: Floats, box: Floats, size: tuple[int, int]) -> Floats:
    """Return the mask logits inside of `mask_window`, (h, w): bilinear, with half-pixel centres."""
    x1, y1, x2, y2 = (int(value) for value in box)
    large = cv2.resize(np.ascontiguousarray(logits_MM), (max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)))
    rows, columns = mask_window(box, size)
    return np.asarray(large[: rows.stop - rows.start, : columns.stop - columns.start], np.float32)


def remove_masks(
    logits_NMM: Floats,
    boxes_N4: Floats,
    labels_N: Sequence[int],
    size: tuple[int, int],
    *,
    overlap: float = 0.3,
) -> tuple[int, ...]:
    """Return which candidates are kept (UPSNet, mask_removal.py), the best one first.

    One is dropped if its mask is empty in the picture, or if more than `overlap` of it is covered by better ones of its
    own class. One map serves all classes, one after the other.

    Args:
        logits_NMM: mask logits of the candidates, the best one first; above 0 is set.
        boxes_N4: x1 y1 x2 y2 in pixels of the map.
        labels_N: their classes.
        size: height, width of the map.
        overlap: share of the mask.
    """
    by_label: defaultdict[int, list[int]] = defaultdict(list)
    for number, label in enumerate(labels_N):
        by_label[int(label)].append(number)
    covered = np.zeros(size, np.bool_)
    kept: list[int] = []
    for numbers in by_label.values():
        covered[:] = False
        for number in numbers:
            mask = resized_mask(logits_NMM[number], boxes_N4[number], size) > 0
            region = covered[mask_window(boxes_N4[number], size)]
            area = int(mask.sum())
            if area == 0 or int((mask & region).sum()) / area > overlap:
                continue
            region |= mask
            kept.append(number)
    return tuple(sorted(kept))


def unify(
    stuff_scores_HW: Floats,
    stuff_labels_HW: Ids,
    contenders: Sequence[Contender],
    *,
    num_stuff: int,
    thing_scores_HW: Floats | None = None,
) -> Ids:
    """Return the channel that wins each pixel: the argmax over stuff, instances and unknown.

    The same as of a full array with a channel for each of them: stuff first, then the instances in their order, then
    unknown; the lowest one of equal ones. An instance's channel is 0 outside of its windows, which beats negative stuff.

    Args:
        stuff_scores_HW: best stuff logit.
        stuff_labels_HW: its class, the lowest one of equal ones.
        contenders: the kept instances. Without any the originals let one compete that is 0 everywhere.
        num_stuff: number of stuff classes.
        thing_scores_HW: best logit of any thing class, for UPSNet's unknown channel, from the same interpolation as the
            contenders' class logits; None for no such channel (VPSNet).

    Returns:
        (H, W) int32: the stuff's class, num_stuff + the instance's number, or after the last one unknown.
    """
    best, winner = stuff_scores_HW.copy(), stuff_labels_HW.astype(np.int32)
    first_zero = np.zeros(best.shape, np.int32)  # lowest instance that is 0 here
    used = np.full(best.shape, -np.inf, np.float32)  # best class logit of an instance
    num_semantic = np.zeros(best.shape, np.int32)
    for number, contender in enumerate(contenders):
        window = _hull(contender)
        values, is_inside, logits = _channel(contender, window)
        is_better = is_inside & (values > best[window])
        best[window][is_better] = values[is_better]
        winner[window][is_better] = num_stuff + number
        passed = is_inside & (first_zero[window] == number)
        first_zero[window][passed] = number + 1
        np.maximum(used[contender.semantic], logits, out=used[contender.semantic])
        num_semantic[contender.semantic] += 1
    count = max(len(contenders), 1)  # the one that is 0 everywhere
    zero = num_stuff + first_zero
    is_zero = (first_zero < count) & ((best < 0) | ((best == 0) & (zero < winner)))
    best[is_zero] = 0
    winner[is_zero] = zero[is_zero]
    if thing_scores_HW is not None:
        np.maximum(used, np.float32(0), out=used, where=num_semantic < count)
        winner[thing_scores_HW - used > best] = num_stuff + count
    return winner


def settle_segments(
    channels_HW: Ids,
    semantic_HW: Ids,
    labels: Sequence[int],
    *,
    num_stuff: int,
    stuff_area: int,
) -> Settled:
    """Return the segments of UPSNet (base_dataset.py, `get_unified_pan_result`).

    An instance's segment turns into a stuff of which at least half of it is, by the semantic map. Stuff of fewer than
    `stuff_area` pixels becomes void. The instance that is 0 everywhere, the originals' stand-in for none, counts as the
    last stuff and is part of its segment.

    Args:
        channels_HW: from `unify`.
        semantic_HW: class of each pixel; of thing classes no more is needed than that they are not below `num_stuff`.
        labels: class of each instance; may be empty.
        num_stuff: number of stuff classes.
        stuff_area: in pixels.
    """
    labels = labels or (num_stuff - 1,)
    shape = num_stuff + len(labels) + 1, num_stuff + 1
    places = channels_HW * shape[1] + np.minimum(semantic_HW, num_stuff)
    counts = np.bincount(places.ravel(), minlength=shape[0] * shape[1]).reshape(shape)
    areas = counts.sum(axis=1)
    stuff_of = np.full(len(areas), -1)  # channel -> the stuff that it is part of
    stuff_of[:num_stuff] = np.arange(num_stuff)
    for channel in range(num_stuff, num_stuff + len(labels)):
        majority = int(counts[channel, :num_stuff].argmax())
        label = labels[channel - num_stuff]
        if areas[channel] and counts[channel, majority] >= 0.5 * areas[channel]:
            stuff_of[channel] = majority
        elif label < num_stuff:
            stuff_of[channel] = label
    stuff_areas = np.bincount(stuff_of[stuff_of >= 0], areas[stuff_of >= 0], minlength=num_stuff)
    found_labels: list[int] = []
    instances: list[int] = []
    table = np.zeros(len(areas), np.int32)
    for stuff in np.flatnonzero(stuff_areas >= max(stuff_area, 1)):
        found_labels.append(int(stuff))
        instances.append(-1)
        table[stuff_of == stuff] = len(found_labels)
    for number, label in enumerate(labels):
        channel = num_stuff + number
        if areas[channel] and stuff_of[channel] < 0:
            found_labels.append(int(label))
            instances.append(number)
            table[channel] = len(found_labels)
    return Settled(table[channels_HW], tuple(found_labels), tuple(instances))


def _hull(contender: Contender) -> Window:
    """Return rows and columns that hold both windows."""
    windows = [contender.semantic, *([] if contender.mask is None else [contender.mask])]
    windows = [w for w in windows if all(side.stop > side.start for side in w)]
    if not windows:
        return slice(0, 0), slice(0, 0)
    rows, columns = zip(*windows, strict=True)
    return (
        slice(min(side.start for side in rows), max(side.stop for side in rows)),
        slice(min(side.start for side in columns), max(side.stop for side in columns)),
    )


def _channel(contender: Contender, window: Window) -> tuple[Floats, npt.NDArray[np.bool_], Floats]:
    """Return an instance's channel in a window, where it is more than 0 by rule, and its class's logits."""
    shape = window[0].stop - window[0].start, window[1].stop - window[1].start
    values, is_inside = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
    logits = contender.class_logits()
    parts = [(contender.semantic, logits)]
    if contender.mask is not None and contender.mask_logits is not None:
        parts.append((contender.mask, contender.mask_logits()))
    for (rows, columns), part in parts:
        if part.size:
            place = (
                slice(rows.start - window[0].start, rows.stop - window[0].start),
                slice(columns.start - window[1].start, columns.stop - window[1].start),
            )
            values[place] += part
            is_inside[place] = True
    return values, is_inside, logits
