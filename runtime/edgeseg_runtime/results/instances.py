"""The instances of one picture: boxes, scores and labels, with whatever else a model gives."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.picture.image import Image
from edgeseg_runtime.results.conversions import import_supervision
from edgeseg_runtime.results.draw import (
    Colour,
    canvas_from_image,
    colour_from_number,
    draw_box,
    draw_caption,
    draw_pixels,
    draw_points,
    line_width,
    placed_points,
    tint,
)
from edgeseg_runtime.results.draw_surfaces import check_style, draw_surface
from edgeseg_runtime.results.masks import MaskSet, read_only
from edgeseg_runtime.results.naming import category_of_label, name_of_label, number_of_label
from edgeseg_runtime.results.paste import MaskCrop
from edgeseg_runtime.results.rle import rle_from_crop
from edgeseg_runtime.results.rows import (
    OPTIONAL_FIELDS,
    ROW_FIELDS,
    check_rows,
    extra_array,
    row_array,
)
from edgeseg_runtime.results.surfaces import Surface, SurfaceSet, png_from_iuv

__all__ = ["Instances"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

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

    Masks are pasted when `masks` is first read; `mask_crops`, `records` and `draw` never build the
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
        surfaces: of persons: the part of the body that each pixel shows, and where on it; or None.
        extra: further arrays by name, (N, ...) of numbers, bools or text: what a model gives for
            each instance beyond the above, as it gives it. `records` are JSON only if all numbers
            are finite; of a model's outputs, rows with others are dropped.
        label_names: name of label number i; empty if unknown.
        category_ids: COCO category id of label number i; empty if they are the label numbers.
        keypoint_names: name of key point or landmark number j; empty if unknown.
        skeleton: pairs of key points, by number, that `draw` connects.
        image_size: height, width of the source picture; taken from `masks` if None.
        num_nonfinite: detections dropped because a number of theirs was NaN or infinite, other than
            in a mask; detections of which key points were set to 0 for it, because of their heat
            maps; of the task "keypoints", key points set to 0 for it.
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
    surfaces: SurfaceSet | None
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
        surfaces: SurfaceSet | None = None,
        extra: Mapping[str, npt.ArrayLike] = MappingProxyType({}),
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
            {field.name: row_array(field, rows[field.name]) for field in ROW_FIELDS},
            label_names=tuple(label_names),
            category_ids=tuple(category_ids),
            keypoint_names=tuple(keypoint_names),
            skeleton=tuple(skeleton),
            image_size=image_size,
            num_nonfinite=num_nonfinite,
            backend=backend,
            _extra={name: extra_array(name, values) for name, values in extra.items()},
            _mask_set=mask_set,
            surfaces=surfaces,
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

    @property
    def num_without_surface(self) -> int:
        """How many instances have no surface although the model gives them: it gives them to the best few."""
        return 0 if self.surfaces is None else int((~self.surfaces.is_there).sum())

    @property
    def num_left_out(self) -> int:
        """`num_without_surface`: nothing else is given to the best few only."""
        return self.num_without_surface

    @property
    def extra(self) -> Mapping[str, npt.NDArray[Any]]:
        """The further arrays (N, ...) by name; read-only."""
        return MappingProxyType(self._extra)

    @property
    def num_detections(self) -> int:
        """N, the number of rows."""
        return len(self)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: SupportsIndex | slice | npt.ArrayLike) -> Instances:
        """Return the selected rows in the given order; an integer gives one row.

        Raises:
            IndexError: if an index is out of range, or a bool array has another length.
        """
        rows = _rows(index, len(self))
        return self.replace(
            masks=None if self._mask_set is None else self._mask_set[rows],
            surfaces=None if self.surfaces is None else self.surfaces[rows],
            extra={name: values[rows] for name, values in self._extra.items()},
            **{name: values[rows] for name, values in self._given().items()},
        )

    def replace(self, **changes: Any) -> Instances:
        """Return the same Instances but for these arguments of the class.

        Raises:
            ValueError: if the shapes no longer fit together.
        """
        arguments = {name: getattr(self, name) for name in ("extra", *_SHARED)}
        lazy = {"masks": self._mask_set, "surfaces": self.surfaces}
        return Instances(**{**arguments, **self._given(), **lazy, **changes})

    def with_backend(self, name: str) -> Instances:
        """Return the same Instances as the result of another backend; nothing is checked again."""
        found = copy.copy(self)
        found.__dict__["backend"] = name
        return found

    def materialize(self) -> None:
        """Paste all masks, as reading `masks` does, and compute all surfaces.

        Raises:
            OutOfMemory: if N full pictures do not fit into memory.
        """
        _ = self.masks
        for _ in self.surfaces or ():
            pass

    def __iter__(self) -> Iterator[Instances]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        names = sorted({name_of_label(int(label), self.label_names) for label in self.labels})
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        extras = ["masks"] if self.has_masks else []
        extras += ["surfaces"] if self.surfaces is not None else []
        extras += [field.name for field in OPTIONAL_FIELDS if field.name in self._given()]
        extras += self._extra
        details = [shown] if shown else []
        if self.image_size is not None:
            details.append(f"image {self.image_size[0]}x{self.image_size[1]}")
        if extras:
            details.append("with " + ", ".join(extras))
        if self.num_without_surface:
            details.append(f"{self.num_without_surface} without surface")
        if self.num_nonfinite:
            details.append(f"{self.num_nonfinite} nonfinite dropped")
        return f"Instances({'; '.join([str(len(self)), *details])})"

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Instances are read-only; make new ones instead of setting {name!r}")

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(_with_read_only(state), _extra=_with_read_only(state["_extra"]))

    def filter(
        self, *, score: float | None = None, labels: Sequence[int | str] | None = None
    ) -> Instances:
        """Return the rows with at least this score and one of these labels (number or name).

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
        return self[is_kept]

    def records(self, image_id: int) -> list[dict[str, Any]]:
        """Return the rows as entries of a COCO results file.

        Boxes become x, y, width, height; masks compressed run-length encodings; key points a flat
        list of x, y, score. Of a surface there is `densepose`, as detectron2 compresses it, and its mask.
        What COCO does not know follows under its own name: `landmarks` and
        `mesh` as lists of points, `gender`, `mask_score`, `track_id`, and everything in `extra`.
        """
        return [self._record(index, image_id) for index in range(len(self))]

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Return the rows as entries of a COCO results file: see `records`."""
        return self.records(image_id)

    def to_supervision(self) -> Any:
        """Return the rows as `supervision.Detections`, with masks; names and the rest in `data`.

        The arrays are copies, but for the masks, which stay read-only.

        Raises:
            ModuleNotFoundError: if supervision is not installed.
        """
        supervision = import_supervision()
        names = np.array(
            [name_of_label(int(label), self.label_names) for label in self.labels], dtype=np.str_
        )
        rows = self._given()
        fields = [field for field in ROW_FIELDS if field.name in rows]
        slots = {field.slot: rows[field.name].copy() for field in fields if field.slot}
        others = {field.name: rows[field.name] for field in fields if not field.slot} | self._extra
        data = {"class_name": names, **{name: rows.copy() for name, rows in others.items()}}
        return supervision.Detections(mask=self.masks, data=data, **slots)

    def draw(self, image: Image, *, surfaces: str = "parts") -> Image:
        """Return a copy of the picture with masks, surfaces, boxes, points, bones, and names with scores.

        The best instance is drawn last, on top. The colour depends on the label alone, of tracked
        instances on the track.

        Args:
            image: the source picture.
            surfaces: how they are drawn: "parts", "u" or "v" in colours, "contours" for lines of
                equal u and v, "iuv" for part, u and v as blue, green and red.

        Raises:
            ImageError: if it is not a picture.
            ValueError: if it has another size than the picture of this result, or there is no such
                way of drawing.
        """
        canvas = canvas_from_image(image, self.image_size)
        check_style(surfaces)
        numbers = self.labels if self.track_ids is None else self.track_ids
        colours = [colour_from_number(int(number)) for number in numbers]
        order = np.argsort(self.scores, kind="stable")
        if self._mask_set is not None:
            for index in order:
                tint(canvas, self._mask_set.crop(index), colours[index])
        if self.surfaces is not None:
            for index in order:
                surface = self.surfaces.surface(index)
                if surface is not None:
                    draw_surface(canvas, surface, surfaces)
        for index in order:
            draw_box(canvas, self.boxes[index], colours[index])
            self._draw_points(canvas, index, colours[index])
        for index in order:
            draw_caption(canvas, self._caption(index), self.boxes[index], colours[index])
        return canvas

    def iuv(self) -> npt.NDArray[np.uint8]:
        """Return (H, W, 3) part, u and v of every pixel as bytes, 0 where there is nobody.

        Where persons overlap it is the one with the higher score. 255 is 1, and what lies outside
        of 0..1 is clipped.

        Raises:
            ValueError: if the model gives no surfaces, or the size of the picture is unknown.
        """
        if self.surfaces is None or self.image_size is None:
            raise ValueError(
                "there are no surfaces; expected those of a model such as densepose_resnet50_fpn"
                if self.surfaces is None
                else "the size of the picture is unknown; give image_size"
            )
        picture = np.zeros((*self.image_size, 3), np.uint8)
        for index in np.argsort(self.scores, kind="stable"):
            surface = self.surfaces.surface(index)
            if surface is not None:
                left, top, width, height = surface.box_xywh
                region = picture[top : top + height, left : left + width]
                iuv = np.moveaxis(surface.iuv(), 0, -1)[: region.shape[0], : region.shape[1]]
                np.copyto(region, iuv, where=iuv[..., :1] > 0)
        return picture

    def iuv_png(self) -> bytes:
        """Return `iuv` as a PNG file: red is the part, green u, blue v, as in detectron2's results.

        Raises:
            ValueError: as `iuv`.
        """
        return png_from_iuv(self.iuv())

    def label_name(self, index: int) -> str:
        """Return the name of row `index`'s label, or its number where there is no name."""
        return name_of_label(int(self.labels[index]), self.label_names)

    _extra: dict[str, npt.NDArray[Any]]
    _mask_set: MaskSet | None

    def _given(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays of `ROW_FIELDS` that there are, by name."""
        rows = {field.name: getattr(self, field.name) for field in ROW_FIELDS}
        return {name: values for name, values in rows.items() if values is not None}

    def _check(self) -> None:
        check_rows(self._given(), self._extra)
        masks, count = self._mask_set, len(self)
        if masks is not None and (len(masks) != count or masks.size != self.image_size):
            raise ValueError(
                f"masks are {len(masks)} of {masks.size}; expected {count} of {self.image_size}"
            )
        if self.surfaces is not None and len(self.surfaces) != count:
            raise ValueError(
                f"surfaces are {len(self.surfaces)}; expected {count}, one for each row"
            )

    def _record(self, index: int, image_id: int) -> dict[str, Any]:
        x1, y1, x2, y2 = self.boxes[index].tolist()
        record: dict[str, Any] = {
            "image_id": image_id,
            "category_id": category_of_label(int(self.labels[index]), self.category_ids),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(self.scores[index]),
        }
        if self._mask_set is not None:
            counts = rle_from_crop(self._mask_set.crop(index), self._mask_set.size)
            record["segmentation"] = {"size": list(self._mask_set.size), "counts": counts}
        if self.surfaces is not None:
            record |= self._surface_record(self.surfaces.surface(index))
        rows = self._given()
        for field in OPTIONAL_FIELDS:
            if field.name in rows:
                values = rows[field.name][index]
                record[field.key] = (values.ravel() if field.is_flat else values).tolist()
        return record | {name: values[index].tolist() for name, values in self._extra.items()}

    def _surface_record(self, surface: Surface | None) -> dict[str, Any]:
        """Return what a record holds of a surface; without one, the mask of no pixel."""
        record = {} if surface is None else {"densepose": surface.record()}
        if self.image_size is None:
            return record
        mask = MaskCrop(0, 0, np.zeros((0, 0), np.bool_)) if surface is None else surface.mask
        counts = rle_from_crop(mask, self.image_size)
        return record | {"segmentation": {"size": list(self.image_size), "counts": counts}}

    def _draw_points(self, canvas: Image, index: int, colour: Colour) -> None:
        """Draw the points of a row; those of a field in front lie on top."""
        rows = self._given()
        named = next((field for field in ROW_FIELDS if field.is_named and field.name in rows), None)
        for field in reversed(ROW_FIELDS):
            if field.dot is None or field.name not in rows:
                continue
            points = rows[field.name][index]
            if field.columns == "xys":
                points = placed_points(points[:, :2], points[:, 2])
            if field.dot == 0:
                draw_pixels(canvas, points[:, :2], colour)
            else:
                bones = self.skeleton if field is named else ()
                radius = field.dot * line_width(canvas)
                draw_points(canvas, points, bones, colour, radius=radius)

    def _caption(self, index: int) -> str:
        track = "" if self.track_ids is None else f" #{self.track_ids[index]}"
        caption = f"{self.label_name(index)}{track} {self.scores[index]:.2f}"
        if self.gender is None:
            return caption
        male = float(self.gender[index])
        return f"{caption} {'male' if male >= 0.5 else 'female'} {max(male, 1 - male):.2f}"


def _mask_set(masks: MaskSet | npt.ArrayLike | None) -> MaskSet | None:
    if masks is None or isinstance(masks, MaskSet):
        return masks
    array = np.asarray(masks)
    if array.ndim != 3 or array.dtype != np.bool_:
        raise ValueError(f"masks is {array.dtype} of shape {array.shape}; expected bool (N, H, W)")
    return MaskSet.from_array(array)


def _with_read_only(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is in a copy of an object: its arrays are writeable until they are made read-only."""
    return {k: read_only(v) if isinstance(v, np.ndarray) else v for k, v in state.items()}


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
