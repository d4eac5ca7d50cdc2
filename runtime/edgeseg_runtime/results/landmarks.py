"""The landmarks of one object: points and their scores."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.picture.image import Image
from edgeseg_runtime.results.conversions import import_supervision
from edgeseg_runtime.results.draw import (
    canvas_from_image,
    colour_from_number,
    draw_box,
    draw_points,
    line_width,
    placed_points,
)
from edgeseg_runtime.results.masks import read_only

__all__ = ["Landmarks"]

Floats = npt.NDArray[np.float32]


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

    @property
    def num_left_out(self) -> int:
        """0: every detection has all that the model gives."""
        return 0

    @property
    def num_detections(self) -> int:
        """1: these are the points of one object."""
        return 1

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        details = [str(len(self))]
        if self.image_size is not None:
            details.append(f"image {self.image_size[0]}x{self.image_size[1]}")
        if self.num_nonfinite:
            details.append(f"{self.num_nonfinite} nonfinite set to 0")
        return f"Landmarks({'; '.join(details)})"

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()  # the arrays of a copy are read-only, too

    def filter(self, *, score: float | None = None) -> Landmarks:
        """Return the same landmarks, whatever the score: the object was given, not found.

        A point's own score says how sure the model is of its place, and is in `scores`.
        """
        return self

    def with_backend(self, name: str) -> Landmarks:
        """Return the same landmarks as the result of another backend."""
        return dataclasses.replace(self, backend=name)

    def materialize(self) -> None:
        """Do nothing: all of it is computed already."""

    def records(self, image_id: int) -> list[dict[str, Any]]:
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

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Return the entry of a COCO results file: see `records`."""
        return self.records(image_id)

    def to_supervision(self) -> Any:
        """Return the points as `supervision.KeyPoints` of one object.

        Raises:
            ModuleNotFoundError: if supervision is not installed.
        """
        # By position: newer versions call the third argument keypoint_confidence.
        points, scores = self.points[None].copy(), self.scores[None].copy()
        return import_supervision().KeyPoints(points, None, scores)

    def draw(self, image: Image) -> Image:
        """Return a copy of the source picture with the points, their bones and the box.

        Raises:
            ImageError: if it is not a picture.
            ValueError: if it has another size than the picture of this result.
        """
        canvas = canvas_from_image(image, self.image_size)
        colour = colour_from_number(1)
        if self.box is not None:
            draw_box(canvas, self.box, colour)
        points = placed_points(self.points, self.scores)
        draw_points(canvas, points, self.skeleton, colour, radius=line_width(canvas))
        return canvas
