"""Average precision of surfaces by geodesic point similarity (GPS), as detectron2's DensePose evaluation has it.

Source: projects/DensePose/densepose/evaluation/densepose_coco_evaluation.py. Its numbers are kept, quirks included.

Shape suffixes: V vertices, N points, T thresholds, D detections, G labelled persons.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
from faster_coco_eval.core import mask as coco_mask

from edgeseg_bench.metrics.coco import Scores

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Entry = Mapping[str, Any]

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = 20
AREAS = {"": (0, 1e10), "m": (32**2, 96**2), "l": (96**2, 1e10)}
"""Suffix of a score -> least and largest area in square pixels."""
BOX_IOU = 0.8
"""From which overlap on an unmatched detection belongs to a person that is left out."""
MAP_SCALE = 0.1
"""The distance of u and v at which a pixel counts exp(-1/2); two points of a part are 0.52 apart on average."""
GRID = 255.0
"""Labelled points are given in a box of this side, masks in one of a pixel more."""


class Distances(Protocol):
    """Distances between the corners of a surface, by the number that `condensed` gives a pair."""

    def __getitem__(self, numbers: Ints, /) -> Any:
        """Return the distances of pairs."""
        ...


@dataclass(frozen=True, eq=False)
class SurfaceModel:
    """A surface that labelled and found points lie on: what the distance between two of them is.

    Attributes:
        parts: (V,) the part that a vertex belongs to, from 1 on.
        u: (V,) where it lies on its part.
        v: (V,)
        corners: (V,) the corner, from 0 on, at which distances from it are measured.
        distances: of each pair of corners, see `condensed`.
        scales: (parts + 1,) of each part the distance at which a point counts exp(-1/2).
    """

    parts: Ints
    u: Floats
    v: Floats
    corners: Ints
    distances: Distances
    scales: Floats

    def nearest(self, parts_N: Ints, u_N: Floats, v_N: Floats) -> Ints:
        """Return the vertex of the same part that is nearest to each point, -1 for what is on no part."""
        found_N = np.full(len(parts_N), -1, np.int64)
        for part in np.unique(parts_N):
            vertices = np.flatnonzero(self.parts == part)
            if part < 1 or len(vertices) == 0:
                continue
            is_here_N = parts_N == part
            along = np.subtract.outer(u_N[is_here_N], self.u[vertices])
            across = np.subtract.outer(v_N[is_here_N], self.v[vertices])
            found_N[is_here_N] = vertices[(along**2 + across**2).argmin(axis=1)]
        return found_N

    def between(self, vertices_N: Ints, others_N: Ints) -> Floats:
        """Return the distances of pairs of vertices; infinite where the other one is -1."""
        distances_N = np.full(len(vertices_N), np.inf)
        is_there_N = others_N >= 0
        first, second = self.corners[vertices_N[is_there_N]], self.corners[others_N[is_there_N]]
        apart = first != second
        values = np.zeros(len(first))
        numbers = condensed(first[apart], second[apart])
        values[apart] = np.asarray(self.distances[numbers], np.float64).reshape(-1)
        distances_N[is_there_N] = values
        return distances_N


def condensed(first_N: Ints, second_N: Ints) -> Ints:
    """Return the number of each pair of different corners: 1-0, 2-0, 2-1, 3-0 ..."""
    low_N, high_N = np.minimum(first_N, second_N), np.maximum(first_N, second_N)
    return high_N * (high_N - 1) // 2 + low_N


def point_similarity(person: Entry, found: Entry, model: SurfaceModel) -> float:
    """Return the GPS of a detection and a labelled person, 0..1.

    Args:
        person: an annotation with bbox, dp_x, dp_y (0..255 inside of it), dp_I, dp_U and dp_V.
        found: a record with bbox and densepose.
        model: of the surface.
    """
    left, top, width, height = person["bbox"]
    x_N = np.asarray(person["dp_x"], np.float64) * width / GRID + left - found["bbox"][0]
    y_N = np.asarray(person["dp_y"], np.float64) * height / GRID + top - found["bbox"][1]
    column_N, row_N = x_N.astype(np.int64), y_N.astype(np.int64)
    is_inside_N = (column_N >= 0) & (column_N < int(found["bbox"][2]))
    is_inside_N &= (row_N >= 0) & (row_N < int(found["bbox"][3]))
    if not is_inside_N.any():
        return 0.0
    iuv = iuv_of_record(found)
    part_N, u_N, v_N = iuv[:, np.where(is_inside_N, row_N, 0), np.where(is_inside_N, column_N, 0)]
    part_N = np.where(is_inside_N, part_N, 0).astype(np.int64)
    seen_N = model.nearest(part_N, u_N / 255.0, v_N / 255.0)
    labelled = (np.asarray(person[f"dp_{name}"], np.float64) for name in "UV")
    true_N = model.nearest(np.asarray(person["dp_I"]).astype(np.int64), *labelled)
    is_labelled_N = true_N >= 0
    true_N, seen_N = true_N[is_labelled_N], seen_N[is_labelled_N]
    if len(true_N) == 0:
        return 0.0
    scales_N = model.scales[model.parts[true_N]]
    similarity = np.exp(-(model.between(true_N, seen_N) ** 2) / (2 * scales_N**2))
    return float(similarity.mean())


def map_similarity(person: Entry, found: Entry) -> float:
    """Return how far two records show the same surface in the same place, 0..1.

    Of all pixels at which one of them shows a part: 0 where the other one shows another part or none,
    else exp(-d^2 / (2 `MAP_SCALE`^2)) for a distance d of u and v.

    Args:
        person: a record with bbox and densepose.
        found: another.
    """
    surfaces = [
        (int(one["bbox"][0]), int(one["bbox"][1]), iuv_of_record(one)) for one in (person, found)
    ]
    ends = [(left + iuv.shape[2], top + iuv.shape[1]) for left, top, iuv in surfaces]
    left, top = max(one[0] for one in surfaces), max(one[1] for one in surfaces)
    right, bottom = (min(end[axis] for end in ends) for axis in (0, 1))
    num_shown = sum(int((iuv[0] > 0).sum()) for *_, iuv in surfaces)
    if right <= left or bottom <= top or num_shown == 0:
        return 0.0
    first, second = (
        iuv[:, top - y : bottom - y, left - x : right - x].astype(np.float64)
        for x, y, iuv in surfaces
    )
    num_shown -= int(((first[0] > 0) & (second[0] > 0)).sum())
    is_same = (first[0] > 0) & (first[0] == second[0])
    squares = (((first[1:, is_same] - second[1:, is_same]) / GRID) ** 2).sum(axis=0)
    return float(np.exp(-squares / (2 * MAP_SCALE**2)).sum() / num_shown)


def iuv_of_record(record: Entry) -> npt.NDArray[np.uint8]:
    """Return (3, h, w) part, u and v of a record as bytes; no pixels for one without a surface.

    Raises:
        ValueError: what stands under "densepose" is not what `Instances.to_coco` writes.
    """
    stored = record.get("densepose")
    if stored is None:
        return np.zeros(
            (3, max(int(record["bbox"][3]), 1), max(int(record["bbox"][2]), 1)), np.uint8
        )
    try:
        png = base64.b64decode(stored["labels_uv_str"])
        shape = tuple(stored["shape_chw"])
    except (KeyError, TypeError, binascii.Error) as error:
        raise ValueError(f"densepose of a record is {str(stored)[:80]}; {_EXPECTED}") from error
    decoded = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR) if png else None
    if decoded is None or (3, *decoded.shape[:2]) != shape:
        raise ValueError(f"densepose of a record holds no PNG of shape {shape}; {_EXPECTED}")
    return np.moveaxis(decoded[..., ::-1], -1, 0).astype(np.uint8)


_EXPECTED = "expected shape_chw and labels_uv_str, as Instances.to_coco gives them"


def surface_ap(
    ground_truth: Entry, results: Sequence[Entry], *, model: SurfaceModel, masks: bool = False
) -> Scores:
    """Return average precision and recall by GPS, or by GPSm.

    Persons without labelled points are left out, and what is found there does not count against a
    model. A picture without any person does not count at all, whatever is found in it: a quirk of
    the original.

    Args:
        ground_truth: a COCO data set whose annotations may have dp_x, dp_y, dp_I, dp_U, dp_V and
            dp_masks.
        results: records with "densepose", such as `Instances.to_coco` gives.
        model: of the surface.
        masks: GPSm: the geometric mean of GPS and the overlap of the masks.

    Returns:
        AP over the thresholds 0.50, 0.55 ... 0.95, AP50, AP75, APm, APl and AR, in 0..1; None =
        undefined.
    """
    similarity = partial(point_similarity, model=model)
    return average_precision(ground_truth, results, similarity=similarity, masks=masks)


def average_precision(
    ground_truth: Entry,
    results: Sequence[Entry],
    *,
    similarity: Callable[[Entry, Entry], float],
    masks: bool = False,
    max_detections: int = MAX_DETECTIONS,
) -> Scores:
    """Return average precision and recall by a similarity of an annotation and a record, 0..1.

    Args:
        ground_truth: a COCO data set; only annotations with "dp_x" or "densepose" are labelled.
        results: records.
        similarity: of a labelled annotation and a record.
        masks: use the geometric mean of the similarity and the overlap of the masks.
        max_detections: how many of the best detections of a picture count.

    Returns:
        What `surface_ap` does.
    """
    of_category = [
        [(picture, _Overlaps.of(picture, similarity, masks=masks)) for picture in pictures]
        for category in ground_truth["categories"]
        if (pictures := list(_pictures(ground_truth, results, category["id"], max_detections)))
    ]
    scores: Scores = {}
    for suffix, area in AREAS.items():
        curves = [_curves([_match(*pair, area) for pair in pairs]) for pairs in of_category]
        known = [curve for curve in curves if curve is not None]
        precision_KTR = np.array([precision for precision, _ in known])
        if suffix:
            scores[f"AP{suffix}"] = _mean(precision_KTR)
            continue
        scores["AP"] = _mean(precision_KTR)
        for percent in (50, 75):
            number = int(np.abs(THRESHOLDS - percent / 100).argmin())
            scores[f"AP{percent}"] = _mean(precision_KTR[:, number] if known else precision_KTR)
        scores["AR"] = _mean(np.array([recall for _, recall in known]))
    return scores


@dataclass(frozen=True, eq=False)
class _Picture:
    """The persons of one picture and category, and its best detections, best first."""

    size: tuple[int, int]
    persons: list[Entry]
    found: list[Entry]


def _pictures(
    ground_truth: Entry, results: Sequence[Entry], category: int, max_detections: int
) -> Iterable[_Picture]:
    persons: dict[int, list[Entry]] = {}
    found: dict[int, list[Entry]] = {}
    for entries, entry in (
        *((persons, annotation) for annotation in ground_truth["annotations"]),
        *((found, result) for result in results),
    ):
        if entry["category_id"] == category:
            entries.setdefault(entry["image_id"], []).append(entry)
    for image in sorted(ground_truth["images"], key=lambda image: image["id"]):
        here, seen = persons.get(image["id"], []), found.get(image["id"], [])
        if here or seen:
            best = sorted(seen, key=lambda result: -result["score"])[:max_detections]
            yield _Picture((image["height"], image["width"]), here, best)


@dataclass(frozen=True, eq=False)
class _Overlaps:
    """(D, G) similarity, and overlap of the boxes."""

    similarity: Floats
    boxes: Floats

    @classmethod
    def of(
        cls, picture: _Picture, similarity_of: Callable[[Entry, Entry], float], *, masks: bool
    ) -> _Overlaps:
        shape = len(picture.found), len(picture.persons)
        similarity = np.zeros(shape)
        if 0 in shape:
            return cls(similarity, similarity)
        for column, person in enumerate(picture.persons):
            if _is_labelled(person):
                for row, found in enumerate(picture.found):
                    similarity[row, column] = similarity_of(person, found)
        is_crowd = [int(person.get("iscrowd", 0)) for person in picture.persons]
        if masks:
            pairs = _found_masks(picture), _true_masks(picture)
            similarity = np.sqrt(similarity * np.asarray(coco_mask.iou(*pairs, is_crowd)))
        boxes = (
            [list(map(float, entry["bbox"])) for entry in group]
            for group in (picture.found, picture.persons)
        )
        return cls(similarity, np.asarray(coco_mask.iou(*boxes, is_crowd)))


def _is_labelled(person: Entry) -> bool:
    return person.get("dp_x") is not None or person.get("densepose") is not None


def _found_masks(picture: _Picture) -> list[Any]:
    return [
        _placed((iuv_of_record(found)[0] > 0), found["bbox"], picture.size)
        for found in picture.found
    ]


def _true_masks(picture: _Picture) -> list[Any]:
    """Return the masks of the persons: of their labelled parts, or what COCO has."""
    return [_true_mask(person, picture.size) for person in picture.persons]


def _true_mask(person: Entry, size: tuple[int, int]) -> Any:
    if "dp_masks" in person:
        mask = np.zeros((256, 256))
        for part in person["dp_masks"][:14]:
            if part:
                mask[np.asarray(coco_mask.decode(part)) > 0] = 1
        _, _, width, height = person["bbox"]
        sides = (max(height, 1), max(width, 1))
        return _placed(_zoomed(mask, sides) > 0.5, person["bbox"], size)
    outline = person.get("segmentation")
    if isinstance(outline, list) and outline:
        return coco_mask.merge(coco_mask.frPyObjects(outline, *size))
    if isinstance(outline, dict):
        is_list = isinstance(outline["counts"], list)
        return coco_mask.frPyObjects(outline, *size) if is_list else outline
    return _placed(np.zeros((0, 0), np.bool_), person["bbox"], size)


def _zoomed(mask: Floats, sides: tuple[float, float]) -> Floats:
    """Return a map at the rounded size of a box: linear, the corners' centres on the corners' centres.

    As `scipy.ndimage.zoom` of order 1 has it.
    """
    for axis, side in enumerate(sides):
        cells, length = mask.shape[axis], round(side)
        position = np.arange(length) * ((cells - 1) / max(length - 1, 1))
        low = np.minimum(position.astype(np.int64), cells - 1)
        high = np.minimum(low + 1, cells - 1)
        share = np.expand_dims(position - low, 1 - axis)
        mask = mask.take(low, axis) * (1 - share) + mask.take(high, axis) * share
    return mask


def _placed(mask: npt.NDArray[np.bool_], bbox: Sequence[float], size: tuple[int, int]) -> Any:
    """Return the encoding of a mask over the picture, with its upper left pixel at the box's, truncated."""
    x, y, width, height = bbox
    left, top = int(x), int(y)
    x1 = min(int(x + width), size[1], left + mask.shape[1])
    y1 = min(int(y + height), size[0], top + mask.shape[0])
    whole = np.zeros(size, np.uint8, order="F")
    x0, y0 = max(left, 0), max(top, 0)
    if x1 > x0 and y1 > y0:
        whole[y0:y1, x0:x1] = mask[y0 - top : y1 - top, x0 - left : x1 - left]
    return coco_mask.encode(whole)


@dataclass(frozen=True, eq=False)
class _Matches:
    """What became of the detections of a picture: (D,) scores, (T, D) matched, (T, D) left out; persons that count."""

    scores: Floats
    is_matched: npt.NDArray[np.bool_]
    is_ignored: npt.NDArray[np.bool_]
    num_persons: int


def _match(picture: _Picture, overlaps: _Overlaps, area: tuple[float, float]) -> _Matches:
    """Match detections to persons at every threshold, best detection first, persons that are left out last."""
    is_out = np.array(
        [not _is_labelled(p) or not area[0] <= p["area"] <= area[1] for p in picture.persons], bool
    )
    order = np.argsort(is_out, kind="stable")
    persons, is_out = [picture.persons[index] for index in order], is_out[order]
    similarity, boxes = overlaps.similarity[:, order], overlaps.boxes[:, order]
    is_crowd = np.array([bool(person.get("iscrowd", 0)) for person in persons], bool)
    num_found = len(picture.found)
    is_matched = np.zeros((len(THRESHOLDS), num_found), np.bool_)
    is_ignored = np.full((len(THRESHOLDS), num_found), bool(is_out.all()))
    is_taken = np.zeros(len(persons), np.bool_)
    for number, threshold in enumerate(THRESHOLDS):
        is_taken = np.zeros(len(persons), np.bool_)
        for row in range(num_found):
            best = _best(similarity[row], min(threshold, 1 - 1e-10), is_taken & ~is_crowd, is_out)
            if best >= 0:
                is_matched[number, row] = is_taken[best] = True
                is_ignored[number, row] = is_out[best]
    _leave_out(boxes, is_matched, is_ignored, is_taken, is_crowd, is_out)
    areas = [found["bbox"][2] * found["bbox"][3] for found in picture.found]
    is_outside = np.array([not area[0] <= size <= area[1] for size in areas], bool)
    is_ignored |= ~is_matched & is_outside
    scores = np.array([found["score"] for found in picture.found], np.float64)
    return _Matches(scores, is_matched, is_ignored, int((~is_out).sum()))


def _best(
    similarity_G: Floats,
    least: float,
    is_closed: npt.NDArray[np.bool_],
    is_out: npt.NDArray[np.bool_],
) -> int:
    """Return the most similar person that is free, -1 if there is none; of equals the last one."""
    best = -1
    for index, value in enumerate(similarity_G):
        if is_closed[index]:
            continue
        if best >= 0 and not is_out[best] and is_out[index]:
            break
        if value < least or value == 0:
            continue
        least, best = value, index
    return best


def _leave_out(
    boxes: Floats,
    is_matched: npt.NDArray[np.bool_],
    is_ignored: npt.NDArray[np.bool_],
    is_taken: npt.NDArray[np.bool_],
    is_crowd: npt.NDArray[np.bool_],
    is_out: npt.NDArray[np.bool_],
) -> None:
    """Let unmatched detections go by the persons whose boxes they overlap.

    The original looks only at what is matched at the last threshold, and then decides for all.
    """
    for row in range(len(boxes)):
        if is_matched[-1, row]:
            continue
        best, overlap = -1, BOX_IOU
        for index, value in enumerate(boxes[row]):
            if (is_crowd[index] or not is_taken[index]) and value >= overlap:
                best, overlap = index, value
        if best >= 0:
            is_ignored[:, row] = is_out[best]
            if is_out[best]:
                is_matched[-1, row] = is_taken[best] = True


def _curves(matches: Sequence[_Matches]) -> tuple[Floats, Floats] | None:
    """Return precision (T, recalls) and recall (T,) of a category; None where nobody counts."""
    num_persons = sum(match.num_persons for match in matches)
    if num_persons == 0:
        return None
    order = np.argsort(-np.concatenate([match.scores for match in matches]), kind="stable")
    is_matched = np.concatenate([match.is_matched for match in matches], axis=1)[:, order]
    is_counted = ~np.concatenate([match.is_ignored for match in matches], axis=1)[:, order]
    right, wrong = (np.cumsum(part & is_counted, axis=1) for part in (is_matched, ~is_matched))
    precision_TR = np.zeros((len(THRESHOLDS), len(RECALLS)))
    recall_T = np.zeros(len(THRESHOLDS))
    for number, (true, false) in enumerate(zip(right, wrong, strict=True)):
        if len(true):
            recall = true / num_persons
            precision = np.maximum.accumulate((true / (true + false + np.spacing(1)))[::-1])[::-1]
            place = np.searchsorted(recall, RECALLS, side="left")
            is_reached = place < len(true)
            precision_TR[number, is_reached] = precision[place[is_reached]]
            recall_T[number] = recall[-1]
    return precision_TR, recall_T


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if values.size else None
