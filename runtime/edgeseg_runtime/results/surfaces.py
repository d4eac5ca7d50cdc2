"""Surfaces of persons: which part of the body each pixel of a box shows, and where on that part it lies.

A network gives maps at its own resolution; what lies over the pixels of a picture is computed when
it is looked at, in the order of the original (detectron2, projects/DensePose, `converters`).

Shape suffixes: P persons, C channels, S side of a map, h w pixels of a box.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg_runtime.picture.geometry import FAR
from edgeseg_runtime.results.masks import read_only
from edgeseg_runtime.results.paste import MaskCrop

__all__ = ["CONFIDENCES", "Surface", "SurfaceMaps", "SurfaceSet", "png_from_iuv"]

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

CHART_CONFIDENCES = ("sigma_2", "kappa_u", "kappa_v")
"""Confidences with a map for each part, as u and v have."""
PART_CONFIDENCES = ("fine_confidence", "coarse_confidence")
"""Confidences of the parts themselves, one map each, which weigh their logits."""
CONFIDENCES = (*CHART_CONFIDENCES, *PART_CONFIDENCES)
_LEAST_CONFIDENCE = np.float32(0.01)


@dataclass(frozen=True, eq=False)
class Surface:
    """The surface of one person over the whole pixels of its box; all arrays are read-only.

    Attributes:
        left: column of the first pixel in the picture.
        top: row of the first pixel in the picture.
        parts: (h, w) uint8, number of the part (chart) that a pixel shows; 0 for the background.
        u: (h, w) where on its part the pixel lies, 0..1 but for what the network overshoots; 0 on
            the background.
        v: (h, w), likewise.
        confidences: further maps (h, w) by name. "sigma_2", "kappa_u" and "kappa_v" as the network
            gives them, before the soft-plus that makes variances of them, 0 on the background;
            "fine_confidence" and "coarse_confidence" are the weights of the parts' logits.
    """

    left: int
    top: int
    parts: Bytes
    u: Floats
    v: Floats
    confidences: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def box_xywh(self) -> tuple[int, int, int, int]:
        """The box in whole pixels: left, top, width, height."""
        height, width = self.parts.shape
        return self.left, self.top, width, height

    @property
    def mask(self) -> MaskCrop:
        """The pixels that are not background."""
        return MaskCrop(self.top, self.left, self.parts > 0)

    def iuv(self) -> Bytes:
        """Return (3, h, w) part, u and v as bytes: 255 is 1, and what lies outside of 0..1 is clipped."""
        coordinates = (np.clip(values * np.float32(255), 0, 255) for values in (self.u, self.v))
        return np.stack([self.parts, *(values.astype(np.uint8) for values in coordinates)])

    def png(self) -> bytes:
        """Return `iuv` as a PNG file: red is the part, green u, blue v.

        That is the layout of detectron2's compressed results.
        """
        return png_from_iuv(np.moveaxis(self.iuv(), 0, -1))

    def record(self) -> dict[str, Any]:
        """Return the fields of detectron2's `DensePoseChartResultCompressed`, ready for JSON."""
        height, width = self.parts.shape
        return {
            "shape_chw": [3, height, width],
            "labels_uv_str": base64.b64encode(self.png()).decode("ascii"),
        }


def png_from_iuv(iuv_HW3: Bytes) -> bytes:
    """Return a PNG file of part, u, v: red, green and blue in this order."""
    is_encoded, data = cv2.imencode(".png", np.ascontiguousarray(iuv_HW3[..., ::-1]))
    assert is_encoded
    return data.tobytes()


@dataclass(frozen=True, eq=False)
class SurfaceMaps:
    """What the network gives of P persons, over their boxes, before the original's doubling.

    Attributes:
        boxes: (P, 4) x1 y1 x2 y2 in source pixels, inside of the picture.
        coarse: (P, C, S, S) logits: the first channel is the background, all others are the person.
        fine: (P, 1 + parts, S, S) logits, the background first.
        u: (P, 1 + parts, S, S).
        v: (P, 1 + parts, S, S).
        confidences: by name, see `CONFIDENCES`; those of `CHART_CONFIDENCES` are like u and v,
            those of `PART_CONFIDENCES` (P, 1, S, S).
    """

    boxes: Floats
    coarse: Floats
    fine: Floats
    u: Floats
    v: Floats
    confidences: Mapping[str, Floats] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.boxes)

    def surface(self, index: int) -> Surface:
        """Return the surface of one person.

        The maps are doubled, and the logits of the parts weighed; then they are brought to the size
        of the box, bilinearly, and only then the parts are chosen. u and v are those of the part.
        """
        left, top, width, height = _whole_box(self.boxes[index])
        size = (height, width)
        weights = {
            name: _weights(self.confidences[name][index])
            for name in PART_CONFIDENCES
            if name in self.confidences
        }
        coarse, fine = (
            _weighed(_doubled(maps[index]), weights.get(f"{name}_confidence"))
            for name, maps in (("coarse", self.coarse), ("fine", self.fine))
        )
        parts = _largest(fine, size)
        parts[~_is_person(coarse, size)] = 0
        charts = {"u": self.u, "v": self.v}
        charts |= {k: v for k, v in self.confidences.items() if k in CHART_CONFIDENCES}
        read = {name: _of_part(maps[index], parts) for name, maps in charts.items()}
        return Surface(
            left,
            top,
            read_only(parts),
            read.pop("u"),
            read.pop("v"),
            {
                **read,
                **{name: read_only(_resized(maps[0], size)) for name, maps in weights.items()},
            },
        )


class SurfaceSet:
    """The surfaces of the instances of a picture, read-only and safe to use from several threads.

    Not every instance needs to have one: networks give them to the best few. A selection shares the
    surfaces of the set that it was taken from.

    Args:
        maps: of those that have one.
        rows: (N,) for each instance which of the maps is its own, -1 for none.
    """

    def __init__(self, maps: SurfaceMaps, rows: npt.ArrayLike) -> None:
        self._rows = np.asarray(rows, np.intp)
        if self._rows.ndim != 1 or not ((self._rows >= -1) & (self._rows < len(maps))).all():
            raise ValueError(
                f"rows are {self._rows.tolist()}; expected numbers of maps, up to {len(maps) - 1}, "
                "or -1 for none"
            )
        self._read = _Once(maps)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Any) -> SurfaceSet:
        """Return the selection of a slice, an index array or a bool array."""
        selection = SurfaceSet.__new__(SurfaceSet)
        selection._rows = self._rows[rows]
        selection._read = self._read
        return selection

    def __iter__(self) -> Iterator[Surface | None]:
        return (self.surface(index) for index in range(len(self)))

    @property
    def is_there(self) -> npt.NDArray[np.bool_]:
        """(N,) bool: which instances have a surface."""
        return self._rows >= 0

    def surface(self, index: int) -> Surface | None:
        """Return the surface of an instance, computed on the first call; None if it has none."""
        row = int(self._rows[index])
        return None if row < 0 else self._read.surface(row)


class _Once:
    """Computes every surface at most once, whichever thread asks."""

    def __init__(self, maps: SurfaceMaps) -> None:
        self._maps = maps
        self._surfaces: dict[int, Surface] = {}
        self._lock = threading.RLock()

    def surface(self, row: int) -> Surface:
        with self._lock:
            if row not in self._surfaces:
                self._surfaces[row] = self._maps.surface(row)
            return self._surfaces[row]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the lock and what can be computed again, so that results can be sent around."""
        return {"_maps": self._maps}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_maps"])  # type: ignore[misc]


def _whole_box(box: Floats) -> tuple[int, int, int, int]:
    """Return left, top, width, height by the original's rule: each of them is truncated, as a size too."""
    x1, y1, x2, y2 = box
    width, height = max(int(x2 - x1), 1), max(int(y2 - y1), 1)
    return int(x1), int(y1), width, height


def _finite(maps_CSS: npt.NDArray[Any]) -> Floats:
    """Return float32 maps in which nothing is lost by a few numbers that are none."""
    maps = maps_CSS.astype(np.float32)
    return np.nan_to_num(maps, copy=False, nan=0.0, posinf=FAR, neginf=-FAR)


def _doubled(maps_CSS: npt.NDArray[Any]) -> list[Floats]:
    """Return each channel bilinearly at twice its size."""
    return [
        cv2.resize(channel, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR).astype(np.float32)
        for channel in _finite(maps_CSS)
    ]


def _weights(maps_1SS: npt.NDArray[Any]) -> list[Floats]:
    """Return a confidence's weights: soft-plus of the doubled map, and a little more."""
    return [
        np.logaddexp(np.float32(0), channel) + _LEAST_CONFIDENCE for channel in _doubled(maps_1SS)
    ]


def _weighed(maps: list[Floats], weights: list[Floats] | None) -> list[Floats]:
    return maps if weights is None else [channel * weights[0] for channel in maps]


def _resized(channel: Floats, size: tuple[int, int]) -> Floats:
    """Return a map at the size of a box: bilinear, half-pixel centres, the border repeated."""
    height, width = size
    resized = cv2.resize(channel, (width, height), interpolation=cv2.INTER_LINEAR)
    return resized.astype(np.float32, copy=False)


def _largest(maps: list[Floats], size: tuple[int, int]) -> Bytes:
    """Return (h, w) the number of the largest channel, the first one of equals."""
    best = _resized(maps[0], size)
    parts = np.zeros(size, np.uint8)
    for number, channel in enumerate(maps[1:], 1):
        values = _resized(channel, size)
        parts[values > best] = number
        np.maximum(best, values, out=best)
    return parts


def _is_person(maps: list[Floats], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return (h, w) bool: where a channel is larger than the first one, the background."""
    background = _resized(maps[0], size)
    is_person = np.zeros(size, np.bool_)
    for channel in maps[1:]:
        is_person |= _resized(channel, size) > background
    return is_person


def _of_part(maps_CSS: npt.NDArray[Any], parts: Bytes) -> Floats:
    """Return (h, w) of each pixel the channel of its part, 0 on the background."""
    values = np.zeros(parts.shape, np.float32)
    numbers = np.flatnonzero(np.bincount(parts.ravel(), minlength=1))
    numbers = numbers[numbers > 0]
    for number, channel in zip(numbers, _doubled(maps_CSS[numbers]), strict=True):
        np.copyto(values, _resized(channel, parts.shape[:2]), where=parts == number)
    return read_only(values)
