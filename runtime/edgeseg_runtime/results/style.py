"""How results are drawn: the options of `draw`, the same for every result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict

from edgeseg_runtime.picture.image import Image
from edgeseg_runtime.results.draw_surfaces import check_style

__all__ = ["COLOURS", "DrawOptions", "Style"]

COLOURS = ("class", "instance")
"""What a colour can stand for."""
MAX_LINE_WIDTH = 100


class DrawOptions(TypedDict, total=False):
    """The keyword arguments of `draw`; see `Style` for what each of them means."""

    labels: bool
    scores: bool
    colours: str | None
    keypoint_score: float | None
    line_width: int | None
    surfaces: str


@dataclass(frozen=True, kw_only=True)
class Style:
    """What is drawn of a result, and how. A result without points, say, has no use for their score.

    Attributes:
        labels: write the names of labels, with the number of the track where there is one.
        scores: write scores.
        colours: "class" for a colour for each label, "instance" for one for each object: that of its
            track, which it keeps from frame to frame, or of its place among the results. None for
            tracks where there are any, else for labels; in panoptic results for things and labels of stuff.
        keypoint_score: points with a lower score are left out, with their bones; None for those
            without any, whose score is 0 or less. Some models give logits, others probabilities.
        line_width: in pixels; None for one that suits the picture's size.
        surfaces: of persons: "parts", "u" or "v" in colours, "contours" for lines of equal u and v,
            "iuv" for part, u and v as blue, green and red.

    Raises:
        ValueError: on construction, for a value that makes no sense.
    """

    labels: bool = True
    scores: bool = True
    colours: str | None = None
    keypoint_score: float | None = None
    line_width: int | None = None
    surfaces: str = "parts"

    def __post_init__(self) -> None:
        if self.colours is not None and self.colours not in COLOURS:
            raise ValueError(
                f"colours is {self.colours!r}; expected one of {', '.join(COLOURS)}, or None"
            )
        if self.keypoint_score is not None and math.isnan(self.keypoint_score):
            raise ValueError("keypoint_score is NaN; expected a number, or None")
        if self.line_width is not None and not 1 <= self.line_width <= MAX_LINE_WIDTH:
            raise ValueError(
                f"line_width is {self.line_width}; expected 1 to {MAX_LINE_WIDTH} pixels, or None"
            )
        check_style(self.surfaces)

    def width_on(self, canvas: Image) -> int:
        """Return the width of lines on a picture, in pixels."""
        return self.line_width or max(1, round(min(canvas.shape[:2]) / 400))

    def caption(self, name: str, track_id: int | None, score: float | None) -> str:
        """Return what is written at an object; empty if nothing is to be written."""
        track = "" if track_id is None else f"#{track_id}"
        number = "" if score is None or not self.scores else f"{score:.2f}"
        words = [name, track, number] if self.labels else [number]
        return " ".join(word for word in words if word)
