"""Runs exported edgeseg bundles on a device, without torch.

import cv2, edgeseg_runtime
predictor = edgeseg_runtime.load("bundle/")
result = predictor(cv2.imread("street.jpg"))
print(result.boxes, result.scores, result.masks)
"""

from __future__ import annotations

from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.errors import EdgesegError
from edgeseg_runtime.picture.sources import Frame, Source
from edgeseg_runtime.pipelines import FacePipeline
from edgeseg_runtime.predictor import Predictor, StageTimes, load
from edgeseg_runtime.results import Instances, Landmarks, Panoptic, Result
from edgeseg_runtime.session import Probe, Session

__version__ = "0.1.0"

__all__ = [
    "EdgesegError",
    "FacePipeline",
    "Frame",
    "Instances",
    "Landmarks",
    "Manifest",
    "Panoptic",
    "Predictor",
    "Probe",
    "Result",
    "Session",
    "Source",
    "StageTimes",
    "__version__",
    "load",
]
