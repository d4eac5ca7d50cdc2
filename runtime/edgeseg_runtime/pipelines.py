"""Predictors in a row: what one finds, the next one looks at."""

from __future__ import annotations

import threading
from collections.abc import Generator
from types import TracebackType
from typing import Any

import numpy as np

from edgeseg_runtime.backends import CheckedBackend
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.picture.image import Image
from edgeseg_runtime.picture.sources import Frame, Name, Source
from edgeseg_runtime.predictor import Predictor, StageClock, StageTimes
from edgeseg_runtime.results import Instances, Landmarks
from edgeseg_runtime.session import Probe, Session
from edgeseg_runtime.streaming import OpenStreams, results_of_source, without_frames
from edgeseg_runtime.tracking import Tracker, check_trackable

__all__ = ["FacePipeline", "FaceSession"]


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
        self._streams = OpenStreams()

    @property
    def manifest(self) -> Manifest:
        """The detector's."""
        return self.detector.manifest

    @property
    def backend(self) -> CheckedBackend:
        """The detector's engine."""
        return self.detector.backend

    def kept_scale(self, size: tuple[int, int]) -> float:
        """Return how much of its scale a picture of height, width keeps; see `Predictor.kept_scale`."""
        return self.detector.kept_scale(size)

    def __call__(self, image: Image) -> Instances:
        """Return the faces of a picture (H, W, 3) uint8 BGR, with the second model's landmarks.

        Whatever else the detector found of them stays. A detection without area is left out.

        Raises:
            ImageError: if the picture has another layout.
            BackendError: if an engine fails.
        """
        faces = self._faces(self.detector(image))
        return self._with_landmarks(faces, self.landmarks(image, boxes=faces))

    def session(self, *, probe: Probe | None = None, scene_cut: float | None = None) -> FaceSession:
        """Return a new stream of pictures.

        Args:
            probe: is told every step of both models.
            scene_cut: of the detector, see `Predictor.session`.

        Raises:
            ValueError: if a predictor is closed, or the detector has no key frames.
        """
        detecting = self.detector.session(probe=probe, scene_cut=scene_cut)
        return FaceSession(self, detecting, self.landmarks.session(probe=probe))

    def profile(self, image: Image, *, paste_masks: bool = False) -> tuple[Instances, StageTimes]:
        """Return the result together with the time of each stage, over both models and all faces.

        Args:
            image: see `__call__`.
            paste_masks: count the pasting of all masks as postprocessing.
        """
        clock = StageClock()
        with self.session(probe=clock) as session:
            found = session(image)
            if paste_masks:
                found.materialize()
            clock.lap("postprocess")
        return found, clock.times()

    def warm_up(self, *, num_runs: int = 2) -> float:
        """Run both models on grey pictures; return the milliseconds of their last runs, added up.

        That is the time of a picture with one face.
        """
        return sum(p.warm_up(num_runs=num_runs) for p in (self.detector, self.landmarks))

    def stream(
        self,
        source: Source | Name,
        *,
        stop: threading.Event | None = None,
        scene_cut: float | None = None,
        tracker: Tracker[Instances] | None = None,
    ) -> Generator[Instances, None, None]:
        """Yield the result of every frame of a source; see `stream_frames`, which yields the frames too."""
        return without_frames(
            self.stream_frames(source, stop=stop, scene_cut=scene_cut, tracker=tracker)
        )

    def stream_frames(
        self,
        source: Source | Name,
        *,
        stop: threading.Event | None = None,
        probe: Probe | None = None,
        scene_cut: float | None = None,
        batch: int = 1,
        tracker: Tracker[Instances] | None = None,
    ) -> Generator[tuple[Frame, Instances], None, None]:
        """Yield every frame of a source with its result; see `Predictor.stream_frames`.

        Raises:
            SourceError: if there is nothing to read; at once, not on the first frame.
            ValueError: for a batch of more than one picture, or what else does not fit; at once, too.
        """
        if batch != 1:
            raise ValueError(
                f"batch is {batch}; expected 1: models in a row take one picture at a time"
            )
        if tracker is not None:
            check_trackable(self.manifest)
        session = self.session(probe=probe, scene_cut=scene_cut)
        return results_of_source(source, session, stop=stop, tracker=tracker, streams=self._streams)

    def _faces(self, found: Instances) -> Instances:
        """Return those that the landmark model looks at."""
        faces = found.filter(score=self.score)
        return faces[(faces.boxes[:, 2:] > faces.boxes[:, :2]).all(axis=1)]

    def _with_landmarks(self, faces: Instances, found: list[Landmarks]) -> Instances:
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
        """End its streams and free both engines; calling it twice is allowed."""
        self._streams.close()
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


class FaceSession:
    """One stream of pictures through both models; `FacePipeline.session` opens it.

    A context manager: leaving it frees the state of both.
    """

    def __init__(
        self, pipeline: FacePipeline, detecting: Session[Instances], placing: Session[Landmarks]
    ) -> None:
        self._pipeline = pipeline
        self._detecting = detecting
        self._placing = placing

    def __call__(self, image: Image) -> Instances:
        """Return the faces of the next picture; see `FacePipeline.__call__`.

        Raises:
            ImageError: if the picture has another layout.
            BackendError: if an engine fails.
            ValueError: if the session is closed, or in use by another thread.
        """
        pipeline = self._pipeline
        faces = pipeline._faces(self._detecting(image))
        found = pipeline.landmarks.predict_in(self._placing, image, faces)
        return pipeline._with_landmarks(faces, found)

    def reset(self) -> None:
        """Begin a new stream: the next picture is its first one."""
        self._detecting.reset()
        self._placing.reset()

    def close(self) -> None:
        """Free the state; calling it twice is allowed."""
        self._detecting.close()
        self._placing.close()

    def __enter__(self) -> FaceSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _check_task(role: str, predictor: Predictor[Any], task: str) -> None:
    if predictor.manifest.task != task:
        raise ValueError(
            f"the {role} predictor {predictor.manifest.name} is one of the task "
            f"{predictor.manifest.task!r}; expected {task!r}"
        )
