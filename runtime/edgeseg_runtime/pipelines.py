"""Predictors in a row: what one finds, the next one looks at."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np

from edgeseg_runtime.picture.image import Image
from edgeseg_runtime.predictor import Predictor
from edgeseg_runtime.results import Instances, Landmarks

__all__ = ["FacePipeline"]


class FacePipeline:
    """Finds faces with one model and places their landmarks with another.

    A context manager: leaving it frees both engines. As safe to use from several threads as its
    predictors are.

    Args:
        detector: a predictor of the task "instances".
        landmarks: a predictor of the task "landmarks" that takes boxes.
        score: faces that the detector is less sure of are left out.

    Raises:
        ValueError: if a predictor is one of another task, or takes no boxes.
    """

    def __init__(
        self,
        detector: Predictor[Instances],
        landmarks: Predictor[Landmarks],
        *,
        score: float = 0.5,
    ) -> None:
        _check_task("detector", detector, "instances")
        _check_task("landmarks", landmarks, "landmarks")
        if not landmarks.manifest.looks_at_boxes:
            raise ValueError(
                f"{landmarks.manifest.name} looks at whole pictures (resize "
                f"{landmarks.manifest.preprocess.resize!r}); expected a model with 'square_crop'"
            )
        self.detector = detector
        self.landmarks = landmarks
        self.score = score

    def __call__(self, image: Image) -> Instances:
        """Return the faces of a picture (H, W, 3) uint8 BGR, with the second model's landmarks.

        Whatever else the detector found of them stays. A detection without area is left out.

        Raises:
            ImageError: if the picture has another layout.
            BackendError: if an engine fails.
        """
        faces = self.detector(image).filter(score=self.score)
        faces = faces[(faces.boxes[:, 2:] > faces.boxes[:, :2]).all(axis=1)]
        found: list[Landmarks] = self.landmarks(image, boxes=faces)
        manifest = self.landmarks.manifest
        num_points = next(s.shape[1] for s in manifest.outputs if s.name == "points")
        points_NJ2 = [face.points for face in found]
        return faces.replace(
            landmarks=np.array(points_NJ2, np.float32).reshape(len(found), num_points, 2),
            keypoint_names=manifest.keypoint_names,
            skeleton=manifest.skeleton,
            num_nonfinite=faces.num_nonfinite + sum(face.num_nonfinite for face in found),
        )

    def close(self) -> None:
        """Free both engines; calling it twice is allowed."""
        self.detector.close()
        self.landmarks.close()

    def __enter__(self) -> FacePipeline:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"FacePipeline({self.detector!r}, {self.landmarks!r}, score={self.score:g})"


def _check_task(role: str, predictor: Predictor[Any], task: str) -> None:
    if predictor.manifest.task != task:
        raise ValueError(
            f"the {role} predictor {predictor.manifest.name} is one of the task "
            f"{predictor.manifest.task!r}; expected {task!r}"
        )
