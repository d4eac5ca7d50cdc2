"""What a model found in a picture, in source pixels, as plain NumPy arrays.

Result         what every result can do; all that recording, benchmarks and comparisons ask of one
Instances      boxes, scores and labels, with whatever else the model gives for each of them
Landmarks      the points of one object
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeseg_runtime.results.contract import Result
from edgeseg_runtime.results.instances import Instances
from edgeseg_runtime.results.landmarks import Landmarks

__all__ = ["Instances", "Landmarks", "Result"]

if TYPE_CHECKING:
    _CLASSES: tuple[type[Result], ...] = (Instances, Landmarks)  # compared with the contract
