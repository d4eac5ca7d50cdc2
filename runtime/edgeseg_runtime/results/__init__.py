"""What a model found in a picture, in source pixels, as plain NumPy arrays.

Result         what every result can do; all that recording, benchmarks and comparisons ask of one
Instances      boxes, scores and labels, with whatever else the model gives for each of them
Landmarks      the points of one object
Panoptic       segments: to which object or region each pixel belongs
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeseg_runtime.results.contract import Result
from edgeseg_runtime.results.instances import Instances
from edgeseg_runtime.results.landmarks import Landmarks
from edgeseg_runtime.results.panoptic import CocoPanoptic, Panoptic, Segment

__all__ = ["CocoPanoptic", "Instances", "Landmarks", "Panoptic", "Result", "Segment"]

if TYPE_CHECKING:
    _CLASSES: tuple[type[Result], ...] = (
        Instances,
        Landmarks,
        Panoptic,
    )  # compared with the contract
