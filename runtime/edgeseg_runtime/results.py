"""What a model found in a picture, in source pixels, as plain NumPy arrays."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.image import Image
from edgeseg_runtime.masks import MaskSet, read_only
from edgeseg_runtime.paste import MaskCrop
from edgeseg_runtime.rle import rle_from_crop

__all__ = ["ROW_AXES", "Instances", "Landmarks"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

ROW_AXES: Mapping[str, tuple[str | int, ...]] = {
    "boxes": (4,),
    "scores": (),
    "labels": (),
    "keypoints": ("J", 3),
    "landmarks": ("L", 2),
    "gender": (),
    "mesh": ("V", 3),
    "mask_scores": (),
    "track_ids": (),
}
"""The arrays of Instances that have one row per instance: the axes after the row's."""

_INTEGERS = ("labels", "track_ids")
_REQUIRED = ("boxes", "scores", "labels")
_DETECTIONS = (*_REQUIRED, "track_ids")  # what supervision.Detections has a place for
_COCO_KEYS = {
    "landmarks": "landmarks",
    "gender": "gender",
    "mesh": "mesh",
    "mask_scores": "mask_score",
}
_SHARED = (
    "label_names",
    "category_ids",
    "keypoint_names",
    "skeleton",
    "image_size",
    "num_nonfinite",
    "backend",
)


class Instances:
    """The instances of one picture; aligned arrays, one row per instance.

    Read-only: the arrays cannot be written into either. Copy one to change it, and pass it to
    `replace`.

    Masks are pasted when `masks` is first read; `mask_crops`, `to_coco` and `draw` never build the
    (N, H, W) array. Selecting (`result[0]`, `result[:5]`, `result[result.scores > 0.5]`) gives
    Instances again; iterating gives one-row Instances.

    Args:
        boxes: (N, 4) x1 y1 x2 y2 in source pixels.
        scores: (N,), usually in 0..1.
        labels: (N,) label numbers of the original model.
        masks: (N, H, W) bool, or a `MaskSet`, or None if the model gives none.
        keypoints: (N, J, 3) x, y in source pixels and a score, or None.
        landmarks: (N, L, 2) x, y in source pixels, or None.
        gender: (N,) probability of a man's face in 0..1, or None.
        mesh: (N, V, 3) vertices x, y in source pixels and z in the same unit, growing away from
            the camera; or None.
        mask_scores: (N,) how far the mask is trusted, for models that judge it apart; or None.
        track_ids: (N,) identities over the frames of a video, or None.
        label_names: name of label number i; empty if unknown.
        category_ids: COCO category id of label number i; empty if they are the label numbers.
        keypoint_names: name of key point or landmark number j; empty if unknown.
        skeleton: pairs of key points, by number, that `draw` connects.
        image_size: height, width of the source picture; taken from `masks` if None.
        num_nonfinite: detections dropped because a number of theirs was NaN or infinite, other than
            in a mask or a heat map; of the task "keypoints", key points set to 0 for it.
        backend: what computed it, such as "onnxruntime"; empty if unknown.

    Raises:
        ValueError: if the shapes do not fit together.
    """

    boxes: Floats
    scores: Floats
    labels: Ints
    keypoints: Floats | None
    landmarks: Floats | None
    gender: Floats | None
    mesh: Floats | None
    mask_scores: Floats | None
    track_ids: Ints | None
    label_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    keypoint_names: tuple[str, ...]
    skeleton: tuple[tuple[int, int], ...]
    image_size: tuple[int, int] | None
    num_nonfinite: int
    backend: str

    def __init__(
        self,
        boxes: npt.ArrayLike,
        scores: npt.ArrayLike,
        labels: npt.ArrayLike,
        *,
        masks: MaskSet | npt.ArrayLike | None = None,
        keypoints: npt.ArrayLike | None = None,
        landmarks: npt.ArrayLike | None = None,
        gender: npt.ArrayLike | None = None,
        mesh: npt.ArrayLike | None = None,
        mask_scores: npt.ArrayLike | None = None,
        track_ids: npt.ArrayLike | None = None,
        label_names: Sequence[str] = (),
        category_ids: Sequence[int] = (),
        keypoint_names: Sequence[str] = (),
        skeleton: Sequence[tuple[int, int]] = (),
        image_size: tuple[int, int] | None = None,
        num_nonfinite: int = 0,
        backend: str = "",
    ) -> None:
        mask_set = _mask_set(masks)
        if image_size is None and mask_set is not None:
            image_size = mask_set.size
        rows = {
            "boxes": boxes,
            "scores": scores,
            "labels": labels,
            "keypoints": keypoints,
            "landmarks": landmarks,
            "gender": gender,
            "mesh": mesh,
            "mask_scores": mask_scores,
            "track_ids": track_ids,
        }
        self.__dict__.update(
            {name: _row_array(name, values) for name, values in rows.items()},
            label_names=tuple(label_names),
            category_ids=tuple(category_ids),
            keypoint_names=tuple(keypoint_names),
            skeleton=tuple(skeleton),
            image_size=image_size,
            num_nonfinite=num_nonfinite,
            backend=backend,
            _mask_set=mask_set,
        )
        self._check()

    @classmethod
    def empty(cls, **arguments: Any) -> Instances:
        """Return Instances without a row; the keyword arguments are those of the class."""
        return cls(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64), **arguments)

    @property
    def masks(self) -> Bools | None:
        """(N, H, W) bool in source pixels, or None; pasted on first use, then kept; read-only."""
        return None if self._mask_set is None else self._mask_set.array()

    @property
    def mask_crops(self) -> Iterator[MaskCrop]:
        """One mask after the other, cut out where it can be set; nothing without masks."""
        if self._mask_set is not None:
            yield from (self._mask_set.crop(index) for index in range(len(self)))

    @property
    def has_masks(self) -> bool:
        """Whether the model gives masks, whatever the number of instances."""
        return self._mask_set is not None

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: SupportsIndex | slice | npt.ArrayLike) -> Instances:
        """Return the selected rows in the given order; an integer gives one row.

        Raises:
            IndexError: if an index is out of range, or a bool array has another length.
        """
        rows = _rows(index, len(self))
        masks = None if self._mask_set is None else self._mask_set[rows]
        return self.replace(masks=masks, **{name: self._row(name)[rows] for name in self._given})

    def replace(self, **changes: Any) -> Instances:
        """Return the same Instances but for these arguments of the class.

        Raises:
            ValueError: if the shapes no longer fit together.
        """
        arguments = {name: getattr(self, name) for name in (*ROW_AXES, *_SHARED)}
        return Instances(**{**arguments, "masks": self._mask_set, **changes})

    def with_backend(self, name: str) -> Instances:
        """Return the same Instances as the result of another backend; nothing is checked again."""
        found = copy.copy(self)
        found.__dict__["backend"] = name
        return found

    def materialize(self) -> None:
        """Paste the masks now, instead of when they are read."""
        _ = self.masks

    def __iter__(self) -> Iterator[Instances]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        names = sorted({self._name(int(label)) for label in self.labels})
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        extras = ["masks"] if self.has_masks else []
        extras += [name for name in self._given if name not in _REQUIRED]
        details = [shown] if shown else []
        if self.image_size is not None:
            details.append(f"image {self.image_size[0]}x{self.image_size[1]}")
        if extras:
            details.append("with " + ", ".join(extras))
        if self.num_nonfinite:
            details.append(f"{self.num_nonfinite} nonfinite dropped")
        return f"Instances({'; '.join([str(len(self)), *details])})"

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Instances are read-only; make new ones instead of setting {name!r}")

    def filter(
        self, *, score: float | None = None, labels: Sequence[int | str] | None = None
    ) -> Instances:
        """Return the rows with at least this score and one of these labels (number or name).

        Raises:
            ValueError: if a name is none of `label_names`.
        """
        is_kept = np.ones(len(self), np.bool_)
        if score is not None:
            is_kept &= self.scores >= score
        if labels is not None:
            is_kept &= np.isin(self.labels, [self._number(label) for label in labels])
        return self[is_kept]

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Return the rows as entries of a COCO results file.

        Boxes become x, y, width, height; masks compressed run-length encodings; key points a flat
        list of x, y, score. What COCO does not know follows under its own name: `landmarks` and
        `mesh` as lists of points, `gender`, `mask_score`.
        """
        size = list(self.image_size or ())
        entries = []
        for index, (x1, y1, x2, y2) in enumerate(self.boxes.tolist()):
            entry: dict[str, Any] = {
                "image_id": image_id,
                "category_id": self._category_id(int(self.labels[index])),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": float(self.scores[index]),
            }
            if self._mask_set is not None:
                counts = rle_from_crop(self._mask_set.crop(index), self._mask_set.size)
                entry["segmentation"] = {"size": size, "counts": counts}
            if self.keypoints is not None:
                entry["keypoints"] = self.keypoints[index].ravel().tolist()
            for name, key in _COCO_KEYS.items():
                if name in self._given:
                    entry[key] = self._row(name)[index].tolist()
            entries.append(entry)
        return entries

    def to_supervision(self) -> Any:
        """Return the rows as `supervision.Detections`, with masks; names and the rest in `data`.

        The arrays are copies, but for the masks, which stay read-only.

        Raises:
            ModuleNotFoundError: if supervision is not installed.
        """
        supervision = _import_supervision()
        rows = {name: self._row(name).copy() for name in self._given}
        extras = {name: values for name, values in rows.items() if name not in _DETECTIONS}
        names = np.array([self._name(int(label)) for label in self.labels], dtype=np.str_)
        return supervision.Detections(
            xyxy=rows["boxes"],
            mask=self.masks,
            confidence=rows["scores"],
            class_id=rows["labels"],
            tracker_id=rows.get("track_ids"),
            data={"class_name": names, **extras},
        )

    def draw(self, image: Image) -> Image:
        """Return a copy of the source picture with everything that was found drawn in.

        Raises:
            ImageError: if it is no picture.
            ValueError: if it has another size than the picture of this result.
        """
        from edgeseg_runtime.draw import draw_instances

        return draw_instances(image, self)

    def label_name(self, index: int) -> str:
        """Return the name of row `index`'s label, or its number where there is no name."""
        return self._name(int(self.labels[index]))

    _mask_set: MaskSet | None

    @property
    def _given(self) -> list[str]:
        """The names of the arrays that there are."""
        return [name for name in ROW_AXES if getattr(self, name) is not None]

    def _row(self, name: str) -> npt.NDArray[Any]:
        array = getattr(self, name)
        assert isinstance(array, np.ndarray)
        return array

    def _check(self) -> None:
        count = self.scores.shape[0] if self.scores.ndim == 1 else -1
        for name in ("scores", *self._given):
            axes = ROW_AXES[name]
            found = self._row(name).shape
            has_axes = len(found) == 1 + len(axes) and all(
                size == axis or isinstance(axis, str)
                for size, axis in zip(found[1:], axes, strict=True)
            )
            if found[:1] != (count,) or not has_axes:
                text = ", ".join(str(axis) for axis in ("N", *axes)) + ("" if axes else ",")
                raise ValueError(f"{name} has shape {found}; expected ({text}), N as in scores")
        masks = self._mask_set
        if masks is not None and (len(masks) != count or masks.size != self.image_size):
            raise ValueError(
                f"masks are {len(masks)} of {masks.size}; expected {count} of {self.image_size}"
            )

    def _name(self, label: int) -> str:
        if 0 <= label < len(self.label_names) and self.label_names[label]:
            return self.label_names[label]
        return str(label)

    def _number(self, label: int | str) -> int:
        if not isinstance(label, str):
            return label
        if label not in self.label_names:
            raise ValueError(f"there is no label {label!r}; expected one of {self.label_names}")
        return self.label_names.index(label)

    def _category_id(self, label: int) -> int:
        if 0 <= label < len(self.category_ids):
            return self.category_ids[label]
        return label


@dataclass(frozen=True, eq=False)
class Landmarks:
    """The landmarks of one object; aligned arrays, one row per point.

    Read-only: the arrays cannot be written into either.

    Attributes:
        points: (J, 2) float32 x, y in source pixels.
        scores: (J,) float32, 0 for a point that the model could not place.
        box: (4,) float32 x1 y1 x2 y2 in source pixels of the object that was looked at; None for
            the whole picture.
        keypoint_names: name of point number j; empty if unknown.
        skeleton: pairs of points, by number, that `draw` connects.
        image_size: height, width of the source picture; None if unknown.
        num_nonfinite: points set to 0 because a number of theirs was NaN or infinite.
        backend: what computed it, such as "onnxruntime"; empty if unknown.

    Raises:
        ValueError: on construction, if the shapes do not fit together.
    """

    points: Floats
    scores: Floats
    box: Floats | None = None
    keypoint_names: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    image_size: tuple[int, int] | None = None
    num_nonfinite: int = 0
    backend: str = ""

    def __post_init__(self) -> None:
        for name in ("points", "scores", "box"):
            values = getattr(self, name)
            array = None if values is None else read_only(np.asarray(values, np.float32))
            object.__setattr__(self, name, array)
        count = len(self.scores) if self.scores.ndim == 1 else -1
        if self.points.shape != (count, 2):
            raise ValueError(
                f"points has shape {self.points.shape} and scores {self.scores.shape}; "
                "expected (J, 2) and (J,)"
            )
        if self.box is not None and self.box.shape != (4,):
            raise ValueError(f"box has shape {self.box.shape}; expected (4,)")

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        details = [str(len(self))]
        if self.image_size is not None:
            details.append(f"image {self.image_size[0]}x{self.image_size[1]}")
        if self.num_nonfinite:
            details.append(f"{self.num_nonfinite} nonfinite set to 0")
        return f"Landmarks({'; '.join(details)})"

    def with_backend(self, name: str) -> Landmarks:
        """Return the same landmarks as the result of another backend."""
        return dataclasses.replace(self, backend=name)

    def materialize(self) -> None:
        """Do nothing: there is nothing left to compute."""

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Return the one entry of a COCO results file: a flat list of x, y, score as key points.

        Its score is the mean of the points' scores, its category 1.
        """
        points_J3 = np.column_stack([self.points, self.scores])
        entry: dict[str, Any] = {
            "image_id": image_id,
            "category_id": 1,
            "keypoints": points_J3.ravel().tolist(),
            "score": float(self.scores.mean()) if len(self) else 0.0,
        }
        if self.box is not None:
            x1, y1, x2, y2 = self.box.tolist()
            entry["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        return [entry]

    def to_supervision(self) -> Any:
        """Return the points as `supervision.KeyPoints` of one object.

        Raises:
            ModuleNotFoundError: if supervision is not installed.
        """
        # By position: newer versions call the third argument keypoint_confidence.
        points, scores = self.points[None].copy(), self.scores[None].copy()
        return _import_supervision().KeyPoints(points, None, scores)

    def draw(self, image: Image) -> Image:
        """Return a copy of the source picture with the points, their bones and the box.

        Raises:
            ImageError: if it is no picture.
            ValueError: if it has another size than the picture of this result.
        """
        from edgeseg_runtime.draw import draw_landmarks

        return draw_landmarks(image, self)


def _import_supervision() -> Any:
    try:
        import supervision
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "to_supervision needs supervision: pip install supervision"
        ) from error
    return supervision


def _mask_set(masks: MaskSet | npt.ArrayLike | None) -> MaskSet | None:
    if masks is None or isinstance(masks, MaskSet):
        return masks
    array = np.asarray(masks)
    if array.ndim != 3 or array.dtype != np.bool_:
        raise ValueError(f"masks is {array.dtype} of shape {array.shape}; expected bool (N, H, W)")
    return MaskSet.from_array(array)


def _row_array(name: str, values: npt.ArrayLike | None) -> npt.NDArray[Any] | None:
    if values is None:
        return None
    if name not in _INTEGERS:
        return read_only(np.asarray(values, np.float32))
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"{name} is {array.dtype}; expected integers")
    return read_only(array.astype(np.int64))


def _rows(index: SupportsIndex | slice | npt.ArrayLike, count: int) -> slice | npt.NDArray[Any]:
    """Return an index that keeps the first axis."""
    if isinstance(index, slice):
        return index
    rows = np.asarray(index)
    if rows.dtype == np.bool_:
        if rows.shape != (count,):
            raise IndexError(f"the bool index has shape {rows.shape}; expected ({count},)")
        return rows
    if rows.size == 0:
        rows = rows.astype(np.intp)
    if rows.dtype.kind not in "iu" or rows.ndim > 1:
        raise IndexError(f"cannot select by {index!r}; expected an int, a slice, bools or ints")
    rows = np.atleast_1d(rows)
    if rows.size and not (-count <= rows.min() and rows.max() < count):
        raise IndexError(f"index {index!r} is out of range for {count} instances")
    return rows
