"""Panoptic quality of pictures (PQ) and clips (VPQ), and how far two panoptic results agree.

PQ is that of Kirillov et al. (arXiv 1801.00868) as COCO's panopticapi evaluates it. VPQ is that of Kim et al. (arXiv
2006.11339, section 4): the same count, over the tubes that segments form in every window of k labelled frames.

Shape suffixes: T = labelled segments, F = found segments; row and column 0 of a table are void.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgeseg_bench.datasets.segmentation import mask_from_segmentation
from edgeseg_bench.metrics.agreement import (
    NUM_WORST,
    SCORE_THRESHOLD,
    Agreement,
    ImageAgreement,
    least_agreeing,
)
from edgeseg_bench.metrics.coco import Scores

MATCH_IOU = 0.5  # above it a segment can have one partner at most
WINDOWS = (1, 2, 3, 4)
"""Labelled frames of a window: those of Cityscapes-VPS, where every fifth frame is labelled."""
NOTHING = -1
"""Category of what a reference leaves void, which is a finding too."""
PARTS = {"": None, "th": True, "st": False}
"""Suffix of a score's name -> whether it is of things, stuff or both."""

Table: TypeAlias = npt.NDArray[np.int64]
Record: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class SegmentLabel:
    """What is known of a segment.

    Attributes:
        category_id: COCO category.
        area: in pixels, as the labels say; of found segments it is counted.
        is_crowd: several objects in one; neither found nor missed.
        tube: segments of several frames with the same one are one tube; None for one that is alone.
        score: of found segments.
    """

    category_id: int
    area: int = 0
    is_crowd: bool = False
    tube: Hashable = None
    score: float = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmentMap:
    """Which segment each pixel belongs to.

    Attributes:
        numbers: (H, W), or (frames, H, W), integers: n for segment n - 1, 0 for void.
        segments: the segments.
    """

    numbers: npt.NDArray[np.integer]
    segments: tuple[SegmentLabel, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Matches:
    """How the found segments of a picture lie on the labelled ones.

    Attributes:
        same: labelled segment, found segment, IoU: of pairs with the same category.
        flipped: the same of pairs with different categories.
        false_negatives, false_positives: numbers of segments that are missed, or found without being there.
    """

    same: tuple[tuple[int, int, float], ...]
    flipped: tuple[tuple[int, int, float], ...]
    false_negatives: tuple[int, ...]
    false_positives: tuple[int, ...]


def match_segments(truth: SegmentMap, found: SegmentMap) -> Matches:
    """Return which segments match: IoU above 0.5, which nothing else can have then.

    What lies on void does not count: neither for the IoU, nor as found if it is more than half of a segment, together
    with what lies on a crowd of its category. Of several crowds of a category the last one counts (panopticapi).

    Args:
        truth: labelled segments.
        found: of the same picture or clip.

    Raises:
        ValueError: they are of different sizes.
    """
    if truth.numbers.shape != found.numbers.shape:
        raise ValueError(
            f"The labels are {truth.numbers.shape} pixels, the result {found.numbers.shape}: they belong to "
            "different pictures."
        )
    overlap = _overlap(truth, found)
    void_F, shared_TF = overlap[0, 1:], overlap[1:, 1:]
    area_F = overlap[:, 1:].sum(axis=0)
    area_T = np.array([segment.area for segment in truth.segments], np.int64)
    category_T = np.array([segment.category_id for segment in truth.segments], np.int64)
    category_F = np.array([segment.category_id for segment in found.segments], np.int64)
    is_crowd_T = np.array([segment.is_crowd for segment in truth.segments], np.bool_)
    union_TF = area_T[:, None] + area_F[None] - shared_TF - void_F[None]
    iou_TF = np.where(shared_TF > 0, shared_TF / np.maximum(union_TF, 1), 0.0)
    is_pair_TF = (iou_TF > MATCH_IOU) & ~is_crowd_T[:, None]
    is_same_TF = category_T[:, None] == category_F[None]
    same = _pairs(is_pair_TF & is_same_TF, iou_TF)
    ignored_F = void_F.copy()
    crowds = {c: t for t, c in enumerate(category_T.tolist()) if is_crowd_T[t]}
    for f, category in enumerate(category_F.tolist()):
        if category in crowds:
            ignored_F[f] += shared_TF[crowds[category], f]
    matched_T, matched_F = {t for t, _, _ in same}, {f for _, f, _ in same}
    return Matches(
        same=same,
        flipped=_pairs(is_pair_TF & ~is_same_TF, iou_TF),
        false_negatives=tuple(
            t for t in range(len(area_T)) if t not in matched_T and not is_crowd_T[t]
        ),
        false_positives=tuple(
            f for f in range(len(area_F)) if f not in matched_F and ignored_F[f] <= 0.5 * area_F[f]
        ),
    )


class Tally:
    """Matches, counted by category over any number of pictures."""

    def __init__(self) -> None:
        self._iou: defaultdict[int, float] = defaultdict(float)
        self._counts: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0, 0])

    def add(self, truth: SegmentMap, found: SegmentMap) -> Matches:
        """Count a picture or a clip, and return what matches in it."""
        matches = match_segments(truth, found)
        for t, _, iou in matches.same:
            category = truth.segments[t].category_id
            self._iou[category] += iou
            self._counts[category][0] += 1
        for f in matches.false_positives:
            self._counts[found.segments[f].category_id][1] += 1
        for t in matches.false_negatives:
            self._counts[truth.segments[t].category_id][2] += 1
        return matches

    def scores(self, categories: Iterable[Mapping[str, Any]], *, prefix: str = "") -> Scores:
        """Return PQ, SQ and RQ of all categories, and with "th" and "st" behind of things and stuff.

        They are means over the categories that were labelled or found; None without any.

        Args:
            categories: COCO's, with "isthing".
            prefix: of the names.
        """
        rows = [
            (bool(category.get("isthing", 1)), self._qualities(int(category["id"])))
            for category in categories
        ]
        scores: Scores = {}
        for suffix, wanted in PARTS.items():
            counted = [q for is_thing, q in rows if q is not None and wanted in {None, is_thing}]
            for index, name in enumerate(("PQ", "SQ", "RQ")):
                values = [qualities[index] for qualities in counted]
                scores[f"{prefix}{name}{suffix}"] = float(np.mean(values)) if values else None
        return scores

    def _qualities(self, category_id: int) -> tuple[float, float, float] | None:
        tp, fp, fn = self._counts.get(category_id, (0, 0, 0))
        if tp + fp + fn == 0:
            return None
        total, iou = tp + 0.5 * fp + 0.5 * fn, self._iou[category_id]
        return iou / total, iou / tp if tp else 0.0, tp / total


def panoptic_quality(
    pairs: Iterable[tuple[SegmentMap, SegmentMap]], categories: Sequence[Mapping[str, Any]]
) -> Scores:
    """Return PQ, SQ and RQ, and the same of things (PQth ...) and stuff (PQst ...).

    Args:
        pairs: labels and result of each picture.
        categories: COCO's, with "isthing".
    """
    tally = Tally()
    for truth, found in pairs:
        tally.add(truth, found)
    return tally.scores(categories)


def video_panoptic_quality(
    clips: Iterable[Sequence[tuple[SegmentMap, SegmentMap]]],
    categories: Sequence[Mapping[str, Any]],
    *,
    windows: Sequence[int] = WINDOWS,
) -> Scores:
    """Return VPQ, VPQth and VPQst: the mean of the windows' own, such as VPQ1, VPQ1th ...

    A window slides by one frame and never leaves its clip; clips that are shorter have none of that length. Without any
    window a score is None.

    Args:
        clips: labels and result of the frames of each clip, in order.
        categories: COCO's, with "isthing".
        windows: lengths in labelled frames.
    """
    tallies = {length: Tally() for length in windows}
    for clip in clips:
        for length, tally in tallies.items():
            for first in range(len(clip) - length + 1):
                frames = clip[first : first + length]
                tally.add(_tubes([t for t, _ in frames]), _tubes([f for _, f in frames]))
    found: Scores = {}
    for length, tally in tallies.items():
        scores = tally.scores(categories)
        found |= {f"VPQ{length}{suffix}": scores[f"PQ{suffix}"] for suffix in PARTS}
    for suffix in PARTS:
        values = [found[f"VPQ{length}{suffix}"] for length in windows]
        known = [value for value in values if value is not None]
        found[f"VPQ{suffix}"] = float(np.mean(known)) if known else None
    return found


def map_from_records(records: Sequence[Record], size: tuple[int, int]) -> SegmentMap:
    """Return the map of one picture's records or annotations, each with a "segmentation".

    Where segments overlap, which those of a panoptic result do not, the first one is in front.

    Args:
        records: of one picture: COCO results or annotations.
        size: its height and width.
    """
    height, width = size
    numbers = np.zeros(size, np.int32)
    for number, record in reversed(list(enumerate(records, 1))):
        mask = mask_from_segmentation(record["segmentation"], height=height, width=width)
        numbers[mask] = number
    return SegmentMap(numbers=numbers, segments=tuple(_label(record) for record in records))


def panoptic_scores(ground_truth: Mapping[str, Any], results: Sequence[Record]) -> Scores:
    """Return `panoptic_quality` of records, for a COCO data set whose annotations are segments."""
    return panoptic_quality(_pairs_of(ground_truth, results), ground_truth["categories"])


def video_panoptic_scores(ground_truth: Mapping[str, Any], results: Sequence[Record]) -> Scores:
    """Return `video_panoptic_quality` of records; images of one "video_id" are a clip, in their order."""
    clips: defaultdict[Hashable, list[tuple[SegmentMap, SegmentMap]]] = defaultdict(list)
    pairs = _pairs_of(ground_truth, results)
    for image, pair in zip(ground_truth["images"], pairs, strict=True):
        clips[image.get("video_id", image["id"])].append(pair)
    return video_panoptic_quality(clips.values(), ground_truth["categories"])


def agreement_of_segments(
    reference: Sequence[Record],
    candidate: Sequence[Record],
    *,
    images: Sequence[Mapping[str, Any]],
    kinds: Sequence[str] = ("pq",),
    score_threshold: float = SCORE_THRESHOLD,
    num_worst: int = NUM_WORST,
) -> Agreement:
    """Compare a candidate's segments with a reference's, which take the place of the labels.

    What the reference leaves void counts as such; what it finds below the threshold is not judged.

    Args:
        reference: records of the reference on all pictures, from `Panoptic.records`.
        candidate: those of the candidate.
        images: COCO image entries (id, height, width) of those pictures; of clips in order, with "video_id" where
            there are several.
        kinds: "pq", picture by picture; "vpq", over the tubes of each clip.
        score_threshold: reference segments count from this score on.
        num_worst: how many of the least agreeing pictures to name.
    """
    reference_of, candidate_of = _by_image(reference), _by_image(candidate)
    tally = Tally()
    clips: defaultdict[Hashable, list[tuple[SegmentMap, SegmentMap]]] = defaultdict(list)
    ious: list[float] = []
    score_errors: list[float] = []
    num_flips = num_reference = num_candidate = 0
    pictures: list[ImageAgreement] = []
    for image in images:
        expected, found = (
            map_from_records(by_image[image["id"]], (image["height"], image["width"]))
            for by_image in (reference_of, candidate_of)
        )
        expected = _judged(expected, score_threshold)
        clips[image.get("video_id")].append((expected, found))
        matches = tally.add(expected, found)
        ious += [iou for _, _, iou in matches.same]
        score_errors += [
            abs(expected.segments[t].score - found.segments[f].score) for t, f, _ in matches.same
        ]
        num_flips += sum(expected.segments[t].category_id != NOTHING for t, _, _ in matches.flipped)
        counts = [
            sum(s.category_id != NOTHING for s in expected.segments),
            sum(s.score >= score_threshold for s in found.segments),
        ]
        num_reference, num_candidate = num_reference + counts[0], num_candidate + counts[1]
        if any(counts):
            quality = sum(iou for _, _, iou in matches.same) / max(counts)
            pictures.append(
                ImageAgreement(
                    image_id=image["id"],
                    quality=quality,
                    num_reference=counts[0],
                    num_candidate=counts[1],
                )
            )
    categories = [
        {"id": category_id}
        for category_id in sorted({r["category_id"] for r in (*reference, *candidate)})
    ]
    measured = {"pq": tally.scores(categories)["PQ"]}
    if "vpq" in kinds:
        measured["vpq"] = video_panoptic_quality(clips.values(), categories)["VPQ"]
    if not num_reference:
        measured = dict.fromkeys(measured, 0.0 if num_candidate else None)
    return Agreement(
        ap={kind: measured[kind] for kind in kinds},
        score_threshold=score_threshold,
        num_reference=num_reference,
        num_matched=len(ious),
        num_label_flips=num_flips,
        count_delta=num_candidate - num_reference,
        mean_iou=float(np.mean(ious)) if ious else None,
        score_mae=float(np.mean(score_errors)) if score_errors else None,
        worst=least_agreeing(pictures, num_worst),
    )


def _overlap(truth: SegmentMap, found: SegmentMap) -> Table:
    """Return (1 + T, 1 + F) pixels that each pair of segments shares."""
    shape = 1 + len(truth.segments), 1 + len(found.segments)
    pairs = truth.numbers.astype(np.int64) * shape[1] + found.numbers
    return np.bincount(pairs.ravel(), minlength=shape[0] * shape[1]).reshape(shape)


def _pairs(
    is_pair_TF: npt.NDArray[np.bool_], iou_TF: npt.NDArray[np.float64]
) -> tuple[tuple[int, int, float], ...]:
    return tuple((int(t), int(f), float(iou_TF[t, f])) for t, f in np.argwhere(is_pair_TF))


def _label(record: Record) -> SegmentLabel:
    track = record.get("track_id")
    is_stuff = not record.get("isthing", 1)
    return SegmentLabel(
        category_id=int(record["category_id"]),
        area=int(record["area"]),
        is_crowd=bool(record.get("iscrowd", 0)),
        tube="stuff" if is_stuff else track,
        score=float(record.get("score", 1.0)),
    )


def _judged(reference: SegmentMap, score_threshold: float) -> SegmentMap:
    """Return a reference as labels: void is a segment of no category, what has a low score becomes void."""
    numbers = np.zeros(1 + len(reference.segments), np.int32)
    segments = []
    for number, segment in enumerate(reference.segments, 1):
        if segment.score >= score_threshold:
            segments.append(segment)
            numbers[number] = len(segments)
    num_void = int((reference.numbers == 0).sum())
    if num_void:
        segments.append(SegmentLabel(category_id=NOTHING, area=num_void))
        numbers[0] = len(segments)
    return SegmentMap(numbers=numbers[reference.numbers], segments=tuple(segments))


def _tubes(frames: Sequence[SegmentMap]) -> SegmentMap:
    """Return the frames of a window as one map of tubes: segments of one category and identity."""
    tubes: dict[Hashable, SegmentLabel] = {}
    places: dict[Hashable, int] = {}
    numbers = []
    for index, frame in enumerate(frames):
        table = np.zeros(1 + len(frame.segments), np.int32)
        for number, segment in enumerate(frame.segments, 1):
            alone = (index, number) if segment.tube is None else None
            key = (segment.category_id, segment.is_crowd, segment.tube, alone)
            table[number] = places.setdefault(key, 1 + len(places))
            area = segment.area + (tubes[key].area if key in tubes else 0)
            tubes[key] = SegmentLabel(
                category_id=segment.category_id, area=area, is_crowd=segment.is_crowd
            )
        numbers.append(table[frame.numbers])
    return SegmentMap(numbers=np.stack(numbers), segments=tuple(tubes.values()))


def _by_image(records: Iterable[Record]) -> defaultdict[int, list[Record]]:
    groups: defaultdict[int, list[Record]] = defaultdict(list)
    for record in records:
        groups[record["image_id"]].append(record)
    return groups


def _pairs_of(
    ground_truth: Mapping[str, Any], results: Sequence[Record]
) -> Iterable[tuple[SegmentMap, SegmentMap]]:
    truth_of, found_of = _by_image(ground_truth["annotations"]), _by_image(results)
    for image in ground_truth["images"]:
        size = image["height"], image["width"]
        yield tuple(map_from_records(by[image["id"]], size) for by in (truth_of, found_of))  # type: ignore[misc]
