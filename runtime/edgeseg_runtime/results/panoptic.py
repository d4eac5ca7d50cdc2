"""The segments of one picture: every pixel belongs to one of them at most.

Shape suffixes: H W pixels, S segments, R runs of equal pixels along the rows of the picture.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg_runtime.picture.image import Image
from edgeseg_runtime.results.draw import (
    Colour,
    canvas_from_image,
    colour_from_number,
    draw_caption,
    muted_colour_from_number,
    tint_all,
)
from edgeseg_runtime.results.instances import Instances
from edgeseg_runtime.results.masks import MaskSet, read_only
from edgeseg_runtime.results.naming import category_of_label, name_of_label, number_of_label
from edgeseg_runtime.results.paste import MaskCrop
from edgeseg_runtime.results.rle import rle_from_crop

__all__ = ["MAX_SEGMENT_ID", "CocoPanoptic", "Panoptic", "Segment"]

Ints = npt.NDArray[np.int64]
Ids = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

MAX_SEGMENT_ID = 256**3 - 1
"""What the three channels of a COCO panoptic PNG can hold."""
_MAX_TABLE = 1 << 16  # largest id for which rows are looked up in a table


class CocoPanoptic(NamedTuple):
    """One picture's result in COCO's panoptic format.

    Attributes:
        png: file with the segments' ids, R + 256 G + 256^2 B.
        annotation: its entry of the JSON file's "annotations".
    """

    png: bytes
    annotation: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One row of a `Panoptic`, for reading; its box is x1 y1 x2 y2 in source pixels."""

    id: int
    label: int
    name: str
    is_thing: bool
    score: float
    area: int
    box: tuple[float, float, float, float]
    track_id: int | None


@dataclass(frozen=True, eq=False)
class Panoptic:
    """The segments of one picture: things, each an object of its own, and stuff, one per class.

    Read-only: the arrays cannot be written into either. Rows are aligned, one per segment.

    Attributes:
        ids: (H, W) int32, the id of the segment that each pixel belongs to, 0 for none (void).
        segment_ids: (S,) int64, 1..2^24 - 1, each in `ids` and none twice.
        labels: (S,) int64 label numbers of the model.
        is_thing: (S,) bool.
        scores: (S,) float32, usually in 0..1; 1 for stuff that the model does not judge.
        track_ids: (S,) int64 identities over the frames of a video, negative for segments without
            one, such as stuff; None if the model does not track.
        semantic: (H, W) int32 label of each pixel before segments were made, negative for none;
            None if it was not asked for.
        instances: what the model found apart from the segments, whose masks may overlap; None if it
            gives none. `to_instances` are the things of the map.
        label_names: name of label number i; empty if unknown.
        category_ids: COCO category id of label number i; empty if they are the label numbers.
        num_nonfinite: what was dropped because a number in it was NaN or infinite.
        backend: what computed it, such as "onnxruntime"; empty if unknown.
        areas: (S,) int64 pixels of each segment.
        boxes: (S, 4) float32 x1 y1 x2 y2 in source pixels, around each segment's pixels.

    Raises:
        ValueError: on construction, if the arrays do not fit together.
    """

    ids: Ids
    segment_ids: Ints
    labels: Ints
    is_thing: Bools
    scores: Floats
    track_ids: Ints | None = None
    semantic: Ids | None = None
    instances: Instances | None = None
    label_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    num_nonfinite: int = 0
    backend: str = ""
    areas: Ints = field(init=False)
    boxes: Floats = field(init=False)

    def __post_init__(self) -> None:
        self._set("ids", _integers("ids", self.ids, np.int32))
        for name in ("segment_ids", "labels", "track_ids"):
            if getattr(self, name) is not None:
                self._set(name, _integers(name, getattr(self, name), np.int64))
        if self.semantic is not None:
            self._set("semantic", _integers("semantic", self.semantic, np.int32))
        self._set("is_thing", np.asarray(self.is_thing, np.bool_))
        self._set("scores", np.asarray(self.scores, np.float32))
        self._check()
        runs = _Runs.of(self.ids, self.segment_ids)
        self._set("areas", runs.areas(len(self)))
        self._set("boxes", runs.boxes(len(self)))
        missing = self.segment_ids[self.areas == 0]
        if len(missing):
            raise ValueError(
                f"segment {missing[0]} has no pixel in ids; expected only segments that are there"
            )

    @classmethod
    def empty(cls, size: tuple[int, int], **arguments: Any) -> Panoptic:
        """Return a picture of height, width that is void; the keyword arguments are those of the class."""
        none = np.zeros(0, np.int64)
        ids = np.zeros(size, np.int32)
        return cls(ids, none, none, none.astype(np.bool_), none.astype(np.float32), **arguments)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height, width of the source picture."""
        return self.ids.shape[0], self.ids.shape[1]

    @property
    def num_left_out(self) -> int:
        """0: every detection has all that the model gives."""
        return 0

    @property
    def num_detections(self) -> int:
        """S, the number of segments."""
        return len(self)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The rows, one by one."""
        return tuple(self._segment(row) for row in range(len(self)))

    def __len__(self) -> int:
        return len(self.segment_ids)

    def __repr__(self) -> str:
        num_things = int(self.is_thing.sum())
        height, width = self.image_size
        details = [
            f"{num_things} things",
            f"{len(self) - num_things} stuff",
            f"image {height}x{width}",
        ]
        optional = ("track_ids", "semantic", "instances")
        given = [name for name in optional if getattr(self, name) is not None]
        if given:
            details.append("with " + ", ".join(given))
        if self.num_nonfinite:
            details.append(f"{self.num_nonfinite} nonfinite dropped")
        return f"Panoptic({'; '.join(details)})"

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            self._set(name, value)  # the arrays of a copy are read-only, too

    def filter(
        self, *, score: float | None = None, labels: Sequence[int | str] | None = None
    ) -> Panoptic:
        """Return the segments with at least this score and one of these labels (number or name).

        The pixels of the others become void. `instances` are filtered alike.

        Raises:
            ValueError: if a name is not one of `label_names`.
        """
        is_kept = np.ones(len(self), np.bool_)
        if score is not None:
            is_kept &= self.scores >= score
        if labels is not None:
            is_kept &= np.isin(
                self.labels, [number_of_label(label, self.label_names) for label in labels]
            )
        found = self if is_kept.all() else self._selected(is_kept)
        if self.instances is None:
            return found
        return found._with(instances=self.instances.filter(score=score, labels=labels))

    def with_backend(self, name: str) -> Panoptic:
        """Return the same segments as the result of another backend; nothing is checked again."""
        instances = None if self.instances is None else self.instances.with_backend(name)
        return self._with(backend=name, instances=instances)

    def materialize(self) -> None:
        """Compute the masks of `instances`; all else is there already."""
        if self.instances is not None:
            self.instances.materialize()

    def records(self, image_id: int) -> list[dict[str, Any]]:
        """Return one JSON object per segment, from which the whole map can be made again.

        Keys are those of COCO results: `category_id`, `bbox` as x, y, width, height, `score`,
        `segmentation` as compressed run-length encoding; and `segment_id`, `isthing`, `area`, and
        `track_id` of segments that have one.
        """
        return [self._record(row, image_id) for row in range(len(self))]

    def to_coco_panoptic(self, image_id: int, file_name: str) -> CocoPanoptic:
        """Return the PNG of the ids and its annotation, as COCO's panoptic evaluation reads them.

        Args:
            image_id: of the picture.
            file_name: of the PNG file, such as "000000000139.png".
        """
        bgr = np.stack([self.ids >> 16, self.ids >> 8, self.ids], axis=-1).astype(np.uint8)
        is_encoded, png = cv2.imencode(".png", bgr)
        assert is_encoded, "OpenCV encodes any uint8 picture as PNG"
        left_out = {"image_id", "segmentation", "segment_id", "isthing"}
        segments = []
        for row in range(len(self)):
            record = self._record(row, image_id)
            kept = {key: value for key, value in record.items() if key not in left_out}
            kept["bbox"] = [int(value) for value in kept["bbox"]]
            segments.append({"id": int(self.segment_ids[row]), "iscrowd": 0, **kept})
        annotation = {"image_id": image_id, "file_name": file_name, "segments_info": segments}
        return CocoPanoptic(png.tobytes(), annotation)

    def to_instances(self) -> Instances:
        """Return the things as Instances; their masks do not overlap and are made when they are read."""
        things = np.flatnonzero(self.is_thing)
        masks = _SegmentMasks(self.ids, self.segment_ids[things], self.boxes[things])
        return Instances(
            self.boxes[things],
            self.scores[things],
            self.labels[things],
            masks=MaskSet(masks, count=len(things), size=self.image_size),
            track_ids=None if self.track_ids is None else self.track_ids[things],
            label_names=self.label_names,
            category_ids=self.category_ids,
            image_size=self.image_size,
            num_nonfinite=self.num_nonfinite,
            backend=self.backend,
        )

    def to_supervision(self) -> Any:
        """Return the things as `supervision.Detections`: see `Instances.to_supervision`.

        Raises:
            ModuleNotFoundError: if supervision is not installed.
        """
        return self.to_instances().to_supervision()

    def draw(self, image: Image) -> Image:
        """Return a copy of the picture with the segments in colours, outlined, and their names.

        Stuff has the colour of its class, a thing one of its own: that of its track if it has one.
        Void stays as it is.

        Raises:
            ImageError: if it is not a picture.
            ValueError: if it has another size than the picture of this result.
        """
        canvas = canvas_from_image(image, self.image_size)
        colours = [self._colour(row) for row in range(len(self))]
        rows_HW = _rows(self.ids, self.segment_ids)
        tint_all(canvas, rows_HW, colours)
        inside = _Runs.of(self.ids, self.segment_ids).places_of_names(len(self))
        for row in np.argsort(self.scores, kind="stable"):
            place = self.boxes[row] if self.is_thing[row] else inside[row]
            draw_caption(canvas, self._caption(row), place, colours[row])
        return canvas

    def label_name(self, index: int) -> str:
        """Return the name of row `index`'s label, or its number where there is no name."""
        return name_of_label(int(self.labels[index]), self.label_names)

    def _with(self, **changes: Any) -> Panoptic:
        """Return a copy with other values of fields that need no check."""
        found = copy.copy(self)
        for name, value in changes.items():
            found._set(name, value)
        return found

    def _set(self, name: str, value: Any) -> None:
        value = read_only(value) if isinstance(value, np.ndarray) else value
        object.__setattr__(self, name, value)

    def _check(self) -> None:
        if self.ids.ndim != 2:
            raise ValueError(f"ids has shape {self.ids.shape}; expected (H, W)")
        count = len(self.segment_ids) if self.segment_ids.ndim == 1 else -1
        for name in ("segment_ids", "labels", "is_thing", "scores", "track_ids"):
            array = getattr(self, name)
            if array is not None and array.shape != (count,):
                raise ValueError(
                    f"{name} has shape {array.shape}; expected (S,), S as in segment_ids"
                )
        if self.semantic is not None and self.semantic.shape != self.ids.shape:
            raise ValueError(
                f"semantic has shape {self.semantic.shape}; expected {self.ids.shape}, as ids"
            )
        outside = self.segment_ids[(self.segment_ids < 1) | (self.segment_ids > MAX_SEGMENT_ID)]
        if len(outside):
            raise ValueError(f"segment id {outside[0]} found; expected 1 to {MAX_SEGMENT_ID}")
        if len(np.unique(self.segment_ids)) != count:
            raise ValueError("segment_ids has an id twice; expected each segment once")

    def _selected(self, is_kept: Bools) -> Panoptic:
        is_kept_or_void = np.append(is_kept, False)  # row -1 is void
        ids = np.where(is_kept_or_void[_rows(self.ids, self.segment_ids)], self.ids, 0)
        return dataclasses.replace(
            self,
            ids=ids,
            segment_ids=self.segment_ids[is_kept],
            labels=self.labels[is_kept],
            is_thing=self.is_thing[is_kept],
            scores=self.scores[is_kept],
            track_ids=None if self.track_ids is None else self.track_ids[is_kept],
        )

    def _track(self, row: int) -> int | None:
        if self.track_ids is None or self.track_ids[row] < 0:
            return None
        return int(self.track_ids[row])

    def _segment(self, row: int) -> Segment:
        x1, y1, x2, y2 = self.boxes[row].tolist()
        return Segment(
            id=int(self.segment_ids[row]),
            label=int(self.labels[row]),
            name=self.label_name(row),
            is_thing=bool(self.is_thing[row]),
            score=float(self.scores[row]),
            area=int(self.areas[row]),
            box=(x1, y1, x2, y2),
            track_id=self._track(row),
        )

    def _record(self, row: int, image_id: int) -> dict[str, Any]:
        x1, y1, x2, y2 = self.boxes[row].tolist()
        crop = _SegmentMasks(self.ids, self.segment_ids, self.boxes)(row)
        record: dict[str, Any] = {
            "image_id": image_id,
            "category_id": category_of_label(int(self.labels[row]), self.category_ids),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(self.scores[row]),
            "segmentation": {
                "size": list(self.image_size),
                "counts": rle_from_crop(crop, self.image_size),
            },
            "segment_id": int(self.segment_ids[row]),
            "isthing": int(self.is_thing[row]),
            "area": int(self.areas[row]),
        }
        track = self._track(row)
        return record if track is None else {**record, "track_id": track}

    def _colour(self, row: int) -> Colour:
        if not self.is_thing[row]:
            return muted_colour_from_number(int(self.labels[row]))
        track = self._track(row)
        return colour_from_number(int(self.segment_ids[row]) if track is None else track)

    def _caption(self, row: int) -> str:
        if not self.is_thing[row]:
            return self.label_name(row)
        track = self._track(row)
        number = "" if track is None else f" #{track}"
        return f"{self.label_name(row)}{number} {self.scores[row]:.2f}"


@dataclass(frozen=True)
class _SegmentMasks:
    """Cuts the mask of row i out of the ids; an object, so that results can be pickled."""

    ids: Ids
    segment_ids: Ints
    boxes: Floats

    def __call__(self, index: int) -> MaskCrop:
        x1, y1, x2, y2 = self.boxes[index].astype(int).tolist()
        return MaskCrop(y1, x1, self.ids[y1:y2, x1:x2] == self.segment_ids[index])


@dataclass(frozen=True)
class _Runs:
    """Pixels of one segment side by side: few numbers tell areas and boxes of all segments.

    Attributes:
        rows: (R,) row of the segment in `Panoptic`.
        y, x1, x2: (R,) where the run lies; x2 is exclusive.
    """

    rows: Ints
    y: Ints
    x1: Ints
    x2: Ints

    @classmethod
    def of(cls, ids: Ids, segment_ids: Ints) -> _Runs:
        """Return the runs of all segments; those of void are left out.

        Raises:
            ValueError: if a pixel has an id that belongs to no segment.
        """
        height, width = ids.shape
        begins = np.ones((height, width), np.bool_)
        np.not_equal(ids[:, 1:], ids[:, :-1], out=begins[:, 1:])
        starts_R = np.flatnonzero(begins)
        ends_R = np.append(starts_R[1:], height * width)
        values_R = ids.ravel()[starts_R]
        is_segment_R = values_R != 0
        starts_R, ends_R = starts_R[is_segment_R], ends_R[is_segment_R]
        values_R = values_R[is_segment_R]
        order = np.argsort(segment_ids, kind="stable")
        known = segment_ids[order]
        place_R = np.searchsorted(known, values_R)
        is_known_R = place_R < len(known)
        is_known_R[is_known_R] = known[place_R[is_known_R]] == values_R[is_known_R]
        if not is_known_R.all():
            raise ValueError(
                f"ids has pixels of {values_R[~is_known_R][0]}, which is not one of segment_ids; "
                "expected 0 for void"
            )
        y, x1 = np.divmod(starts_R, max(width, 1))
        return cls(order[place_R], y, x1, x1 + ends_R - starts_R)

    def areas(self, count: int) -> Ints:
        return np.bincount(self.rows, self.x2 - self.x1, minlength=count).astype(np.int64)

    def boxes(self, count: int) -> Floats:
        low = np.full((count, 2), np.iinfo(np.int64).max)
        high = np.zeros((count, 2), np.int64)
        np.minimum.at(low, self.rows, np.stack([self.x1, self.y], axis=1))
        np.maximum.at(high, self.rows, np.stack([self.x2, self.y + 1], axis=1))
        return np.concatenate([low, high], axis=1).astype(np.float32)

    def places_of_names(self, count: int) -> Floats:
        """Return the box of a long run of each segment, the middle one: there is room for its name."""
        places = np.zeros((count, 4), np.float32)
        lengths_R = self.x2 - self.x1
        for row in range(count):
            runs = np.flatnonzero(self.rows == row)
            long = runs[lengths_R[runs] >= 0.9 * lengths_R[runs].max()]
            run = long[len(long) // 2]
            places[row] = self.x1[run], self.y[run], self.x2[run], self.y[run] + 1
        return places


def _rows(ids: Ids, segment_ids: Ints) -> npt.NDArray[np.intp]:
    """Return (H, W) the row of each pixel's segment, -1 for void."""
    if segment_ids.size and segment_ids.max() < _MAX_TABLE:
        table = np.full(int(segment_ids.max()) + 1, -1, np.intp)
        table[segment_ids] = np.arange(len(segment_ids))
        return table[ids]
    order = np.argsort(segment_ids, kind="stable")
    place = np.searchsorted(segment_ids[order], ids)
    return np.append(order, -1)[np.where(ids == 0, len(order), place)]


def _integers(name: str, values: npt.ArrayLike, dtype: type[np.signedinteger]) -> npt.NDArray[Any]:
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"{name} is {array.dtype}; expected integers")
    if array.size and not (
        np.iinfo(dtype).min <= array.min() <= array.max() <= np.iinfo(dtype).max
    ):
        raise ValueError(f"{name} has numbers beyond those of {np.dtype(dtype)}")
    return array.astype(dtype)
