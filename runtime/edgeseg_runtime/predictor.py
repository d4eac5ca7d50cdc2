"""From a picture to a result: a task and a backend, joined by a manifest."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar, cast, overload

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.backends import Backend, CheckedBackend, Tensors, open_backend
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.pickling import Origin
from edgeseg_runtime.picture.geometry import FAR, Box, Geometry
from edgeseg_runtime.picture.image import Image, check_image
from edgeseg_runtime.picture.scene_cuts import SceneCuts
from edgeseg_runtime.picture.sources import Frame, Source
from edgeseg_runtime.results import Instances, Result
from edgeseg_runtime.session import Probe, Route, Routes, Session
from edgeseg_runtime.tasks import RegionTask, Task, create_task

__all__ = ["Boxes", "Predictor", "StageTimes", "load"]

Boxes = npt.ArrayLike | Instances
"""(N, 4) x1 y1 x2 y2 in source pixels, or Instances that have such boxes."""

Found = TypeVar("Found", bound=Result)


@dataclass(frozen=True, kw_only=True)
class StageTimes:
    """Where the time of one prediction went, in milliseconds of a monotonic clock."""

    preprocess_ms: float
    model_ms: float
    postprocess_ms: float

    @property
    def total_ms(self) -> float:
        """The whole way from the picture to the result."""
        return self.preprocess_ms + self.model_ms + self.postprocess_ms


class Predictor(Generic[Found]):
    """A loaded model that takes pictures; safe to use from several threads at once.

    A model of videos takes every picture as the first frame of its own stream; `session` and `stream`
    follow one.

    A context manager: leaving it frees the engine.

    One that `load` returned can be pickled: the other process loads the same bundle from the same
    path with the same options, and refuses another one there. Copying loads it again, too.

    Args:
        manifest: what the model takes and gives.
        task: what lies between pictures and tensors.
        backend: the engine; every tensor is compared with the manifest on its way in and out.
        open_variant: opens the same model for pictures of another shape, by the view of the
            manifest (see `Manifest.views`), when the first picture of that shape comes.
        origin: what another process loads it from; None if it cannot.
    """

    def __init__(
        self,
        manifest: Manifest,
        task: Task[Found],
        backend: Backend | CheckedBackend,
        *,
        open_variant: Callable[[Manifest], Route[Found]] | None = None,
        origin: Origin | None = None,
    ) -> None:
        self.manifest = manifest
        self._origin = origin
        self._routes = Routes(manifest, Route.of(manifest.views[0], task, backend), open_variant)
        self._lock = threading.Lock()
        self._is_open = True
        self._idle: list[Session[Found]] = []

    @property
    def task(self) -> Task[Found]:
        """What lies between pictures and tensors, for pictures of the manifest's own shape."""
        return self._routes.own.task

    @property
    def backend(self) -> CheckedBackend:
        """The engine for pictures of the manifest's own shape."""
        return self._routes.own.backend

    def session(
        self, *, probe: Probe | None = None, scene_cut: float | None = None
    ) -> Session[Found]:
        """Return a new stream of pictures; see `Session`.

        Args:
            probe: is told every step, for clocks and tests.
            scene_cut: of a model with key frames: also take one where the picture changes so much from
                one frame to the next, in grey levels (0 to 255), such as 25. None: only in its interval.

        Raises:
            ValueError: if the predictor is closed, or the model has no key frames.
        """
        if scene_cut is None:
            return Session(self._routes.choose, probe=probe)
        if self.manifest.schedule.num_kinds == 1:
            raise ValueError(
                f"scene_cut {scene_cut} found, but {self.manifest.name} has no key frames: leave it out"
            )
        return Session(self._routes.choose, probe=probe, scene_cuts=SceneCuts(scene_cut))

    def kept_scale(self, size: tuple[int, int]) -> float:
        """Return how much is left of the scale that the original gives a picture of height, width.

        1, or less where it fits into none of the bundle's shapes; small objects may then be lost.
        """
        return self._routes.kept_scale(size)

    @overload
    def __call__(self, image: Image, *, boxes: None = None) -> Found: ...

    @overload
    def __call__(self, image: Image, *, boxes: Boxes) -> Any: ...

    def __call__(self, image: Image, *, boxes: Boxes | None = None) -> Any:
        """Return what the model finds in a picture (H, W, 3) uint8, channels B, G, R.

        Args:
            image: the picture.
            boxes: what to look at, one after the other, for models of one object at a time: (N, 4)
                x1 y1 x2 y2 in source pixels, or Instances. The task "keypoints" then gives
                Instances with a row per box, the task "landmarks" a list. None for the whole
                picture.

        Raises:
            ImageError: if the picture has another layout.
            BackendError: if the engine fails, or gives NaN or infinite numbers in strict mode.
            ValueError: for boxes that are not (N, 4), finite and of some extent, or if the model
                finds its own.
        """
        with self._borrowed_session() as session:
            return self._predict(session, image, boxes)

    def profile(
        self, image: Image, *, boxes: Boxes | None = None, paste_masks: bool = False
    ) -> tuple[Any, StageTimes]:
        """Return the result together with the time of each stage, over all boxes.

        Args:
            image: see `__call__`.
            boxes: see `__call__`.
            paste_masks: count the pasting of all masks, which is otherwise left until `masks` is
                read, as postprocessing.
        """
        clock = StageClock()
        with self.session(probe=clock) as session:
            result = self._predict(session, image, boxes, paste_masks=paste_masks)
            clock.lap("postprocess")
        return result, clock.times()

    def _predict(
        self,
        session: Session[Found],
        image: Image,
        boxes: Boxes | None,
        *,
        paste_masks: bool = False,
    ) -> Any:
        if boxes is None:
            result = session(image)
            if paste_masks:
                result.materialize()
            return result
        task = self._region_task()
        size = check_image(image).shape[:2]
        found = [session(image, box=box) for box in _checked_boxes(boxes)]
        return task.gather(found, (size[0], size[1]), backend=self.backend.name)

    def _region_task(self) -> RegionTask[Found]:
        if not self.manifest.looks_at_boxes:
            raise ValueError(
                f"{self.manifest.name} looks at whole pictures (task {self.manifest.task!r}, resize "
                f"{self.manifest.preprocess.resize!r}); call it without boxes"
            )
        return cast("RegionTask[Found]", self.task)

    @contextlib.contextmanager
    def _borrowed_session(self) -> Iterator[Session[Found]]:
        """Give a session at its beginning; it and its state serve again afterwards."""
        with self._lock:
            session = self._idle.pop() if self._idle else None
        if session is None:
            session = self.session()
        try:
            yield session
        finally:
            session.reset()
            with self._lock:
                is_open = self._is_open
                if is_open:
                    self._idle.append(session)
            if not is_open:
                session.close()

    def warm_up(self, *, num_runs: int = 2) -> float:
        """Run on a grey picture of the network's size and return the last run's milliseconds.

        The first runs of an engine allocate and choose kernels; none of that then falls on the
        first real picture. A model of videos takes the runs as one clip, and runs each of its graphs.
        """
        size = self.manifest.preprocess.height, self.manifest.preprocess.width
        image = np.full((*size, 3), 127, np.uint8)
        total_ms = 0.0
        clock = StageClock()
        with self.session(probe=clock) as session:
            for _ in range(max(num_runs, self.manifest.schedule.num_kinds)):
                before = clock.times().total_ms
                session(image)
                total_ms = clock.times().total_ms - before
        return total_ms

    def stream(
        self,
        source: Source | str | int | os.PathLike[str],
        *,
        stop: threading.Event | None = None,
        scene_cut: float | None = None,
    ) -> Iterator[Found]:
        """Yield the result of every frame of a source; see `stream_frames` for the frames too."""
        for _, result in self.stream_frames(source, stop=stop, scene_cut=scene_cut):
            yield result

    def stream_frames(
        self,
        source: Source | str | int | os.PathLike[str],
        *,
        stop: threading.Event | None = None,
        probe: Probe | None = None,
        scene_cut: float | None = None,
    ) -> Iterator[tuple[Frame, Found]]:
        """Yield every frame of a source with its result, in one session.

        A model of videos takes the source as one clip, the pictures of a folder in the order of their
        names. It begins anew where the size of the pictures changes and where a camera was opened
        again; a damaged frame is passed over.

        Args:
            source: a `Source`, or what one is made of: a picture, folder, pattern, video, camera
                number or URL. Damaged frames are skipped and counted there.
            stop: ends the stream after the current frame when it is set; so does that of a `Source`.
            probe: is told every step, for clocks and tests.
            scene_cut: see `session`.

        Raises:
            SourceError: if there is nothing to read; at once, not on the first frame.
            ValueError: if there is a `scene_cut`, and the model has no key frames.
        """
        session = self.session(probe=probe, scene_cut=scene_cut)
        opened = source if isinstance(source, Source) else Source(source)
        return self._stream(opened, opened.frames(stop=stop), session)

    def _stream(
        self, source: Source, frames: Iterator[Frame], session: Session[Found]
    ) -> Iterator[tuple[Frame, Found]]:
        num_reconnects = source.num_reconnects
        with session:
            for frame in frames:
                if source.num_reconnects != num_reconnects:
                    num_reconnects = source.num_reconnects
                    session.reset()
                yield frame, session(frame.image)

    def close(self) -> None:
        """Free the engines; calling it twice is allowed."""
        with self._lock:
            self._is_open = False
            idle, self._idle = self._idle, []
        for session in idle:
            session.close()
        self._routes.close()

    def __enter__(self) -> Predictor[Found]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[[Origin], Predictor[Any]], tuple[Origin]]:
        """Return how another process loads the same.

        Raises:
            TypeError: if it does not come from `load`.
            ValueError: if it is closed.
        """
        if self._origin is None:
            raise TypeError(
                f"this predictor of {self.manifest.name} can be neither pickled nor copied: it was not loaded "
                "from a bundle. Export the model and pickle what edgeseg_runtime.load returns, or "
                "make the predictor in the other process"
            )
        if not self._is_open:
            raise ValueError("the predictor is closed; load the bundle again")
        return _load_again, (self._origin,)

    def __repr__(self) -> str:
        manifest = self.manifest
        size = f"{manifest.preprocess.height}x{manifest.preprocess.width}"
        return (
            f"Predictor({manifest.name}, {manifest.task}, {size}, {manifest.precision}, "
            f"{self.backend.name})"
        )


class StageClock(Probe):
    """Adds up where the time of a session's calls goes; a lap ends the stage that began with the last one."""

    def __init__(self) -> None:
        self._seconds = {"preprocess": 0.0, "model": 0.0, "postprocess": 0.0}
        self._last = time.perf_counter()

    def started(self) -> None:
        """Begin a picture: what lies before it counts as no stage."""
        self._last = time.perf_counter()

    def preprocessed(self, inputs: Tensors, geometry: Geometry) -> None:
        """End preprocessing."""
        self.lap("preprocess")

    def ran(self, graph: str, inputs: Tensors, outputs: Tensors, rows: int | None) -> None:
        """End a graph."""
        self.lap("model")

    def read(self, result: Any) -> None:
        """End postprocessing."""
        self.lap("postprocess")

    def lap(self, stage: str) -> None:
        """End a stage."""
        now = time.perf_counter()
        self._seconds[stage] += now - self._last
        self._last = now

    def times(self) -> StageTimes:
        """Return the sums so far."""
        return StageTimes(**{f"{stage}_ms": 1e3 * s for stage, s in self._seconds.items()})


def _checked_boxes(boxes: Boxes) -> list[Box]:
    """Return boxes as tuples, or refuse what is not a box."""
    array = np.asarray(getattr(boxes, "boxes", boxes))
    if array.size == 0 and array.shape[:1] == (0,):
        return []
    if array.ndim != 2 or array.shape[1] != 4 or array.dtype.kind not in "iuf":
        raise ValueError(
            f"boxes is {array.dtype} of shape {array.shape}; expected numbers of shape (N, 4), "
            "x1 y1 x2 y2 in pixels of the picture"
        )
    boxes_N4 = array.astype(np.float64)
    is_usable = (np.abs(boxes_N4) < FAR).all(axis=1)
    is_usable &= (boxes_N4[:, 2] > boxes_N4[:, 0]) & (boxes_N4[:, 3] > boxes_N4[:, 1])
    if not is_usable.all():
        row = int(np.flatnonzero(~is_usable)[0])
        raise ValueError(
            f"box {row} is {boxes_N4[row].tolist()}; expected finite x1 < x2 and y1 < y2. "
            "Leave such boxes out"
        )
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in boxes_N4.tolist()]


def load(
    folder: str | os.PathLike[str],
    *,
    backend: str = "auto",
    threads: int | None = None,
    verify: bool = True,
    strict: bool = False,
    score_threshold: float | None = None,
    **options: Any,
) -> Predictor[Any]:
    """Return the predictor of a bundle that `edgeseg export` wrote.

    Args:
        folder: the bundle.
        backend: "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", or "auto": TensorRT if the
            machine has it and a GPU, else ONNX Runtime, else OpenVINO. Every result names it.
        threads: threads of the engine on the CPU, or None for the engine's own choice.
        verify: compare every file with its recorded sha256 first. Switch it off only for files
            that were verified before; a damaged model gives wrong results or worse.
        strict: raise `NonFiniteOutput` when the model gives NaN or infinite numbers, in masks and
            padding too. Otherwise what they concern is left out and counted: `num_nonfinite`.
        score_threshold: only detections with a higher score are kept; a stage that runs once for each
            detection does so for these alone. None for the threshold of the export.
        **options: of the backend, see `docs/engines.md`; "auto" gives each backend those that it
            knows.

    Raises:
        BundleError: if the bundle is missing, damaged or not usable by this runtime.
        BackendUnavailable: if the engine is not installed or its device is missing.
        ValueError: if there is no such backend, or it has no such option, or a threshold does not
            fit the model.
    """
    manifest = _with_threshold(Manifest.load(folder, verify=verify), score_threshold)
    for view in manifest.views:  # what no picture has asked for yet is checked all the same
        create_task(view)

    def open_route(view: Manifest) -> Route[Any]:
        engine = open_backend(
            backend,
            Path(folder),
            view,
            threads=threads,
            verify=verify,
            strict=strict,
            **options,
        )
        return Route.of(view, create_task(view), engine)

    asked = {
        "backend": backend,
        "threads": threads,
        "verify": verify,
        "strict": strict,
        "score_threshold": score_threshold,
        **options,
    }
    origin = Origin.of(folder, asked)
    own = open_route(manifest.views[0])
    return Predictor(manifest, own.task, own.backend, open_variant=open_route, origin=origin)


def _load_again(origin: Origin) -> Predictor[Any]:
    """Return the predictor of a bundle that another process had loaded."""
    origin.check()
    return load(origin.folder, **origin.options)


def _with_threshold(manifest: Manifest, score_threshold: float | None) -> Manifest:
    """Return the manifest with another score threshold.

    Raises:
        ValueError: if the model has none, or found nothing below that of its export.
    """
    if score_threshold is None:
        return manifest
    exported = float(manifest.postprocess.get("score_threshold", 0.0))
    if manifest.task != "instances" or not exported <= score_threshold <= 1:
        raise ValueError(
            f"score_threshold is {score_threshold}; expected a number from the {exported:g} of the "
            f"export to 1, of a model of the task 'instances' (found {manifest.task!r})"
        )
    postprocess = {**manifest.postprocess, "score_threshold": float(score_threshold)}
    return dataclasses.replace(manifest, postprocess=postprocess)
