"""What a model found in a picture, in source pixels, as plain NumPy arrays.

Result         what every result can do; all that recording, benchmarks and comparisons ask of one
Instances      boxes, scores and labels, with whatever else the model gives for each of them
Landmarks      the points of one object
Panoptic       segments: to which object or region each pixel belongs
Polygon        a part of a mask: its outline and its holes
Style          how a result is drawn: the options of `draw`
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeseg_runtime.results.contract import Result
from edgeseg_runtime.results.instances import Instances
from edgeseg_runtime.results.landmarks import Landmarks
from edgeseg_runtime.results.panoptic import CocoPanoptic, Panoptic, Segment
from edgeseg_runtime.results.polygons import Polygon
from edgeseg_runtime.results.style import Style

__all__ = [
    "CocoPanoptic",
    "Instances",
    "Landmarks",
    "Panoptic",
    "Polygon",
    "Result",
    "Segment",
    "Style",
]

if TYPE_CHECKING:
    _CLASSES: tuple[type[Result], ...] = (
        Instances,
        Landmarks,
        Panoptic,
    )  # compared with the contract
