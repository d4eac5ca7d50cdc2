"""From a picture to a result: a task and a backend, joined by a manifest."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.backends import Backend, CheckedBackend, open_backend
from edgeseg_runtime.geometry import FAR, Box
from edgeseg_runtime.image import Image, check_image
from edgeseg_runtime.manifest import Manifest
from edgeseg_runtime.results import Instances, Landmarks
from edgeseg_runtime.sources import Frame, Source
from edgeseg_runtime.tasks import RegionTask, Task, create_task

__all__ = ["Boxes", "Predictor", "StageTimes", "load"]

Boxes = npt.ArrayLike | Instances
"""(N, 4) x1 y1 x2 y2 in source pixels, or Instances that have such boxes."""

Result = TypeVar("Result")


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


class Predictor(Generic[Result]):
    """A loaded model that takes pictures; safe to use from several threads at once.

    A context manager: leaving it frees the engine.

    Args:
        manifest: what the model takes and gives.
        task: what lies between pictures and tensors.
        backend: the engine; every tensor is compared with the manifest on its way in and out.
    """

    def __init__(
        self, manifest: Manifest, task: Task[Result] | RegionTask[Result], backend: Backend
    ) -> None:
        self.manifest = manifest
        self.task = task
        if not isinstance(backend, CheckedBackend):
            backend = CheckedBackend(type(backend).__name__, backend, manifest)
        self.backend = backend

    @overload
    def __call__(self, image: Image, *, boxes: None = None) -> Result: ...

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
        return self.profile(image, boxes=boxes)[0]

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
        clock = _StageClock()
        result: Any
        if boxes is None:
            result = self._predict(self.task, image, clock)
        else:
            task, size = self._region_task(), check_image(image).shape[:2]
            found = [self._predict(task, image, clock, box) for box in _checked_boxes(boxes)]
            result = task.gather(found, (size[0], size[1]))
        result = _with_backend(result, self.backend.name)
        if paste_masks and isinstance(result, Instances):
            _ = result.masks
        clock.lap("postprocess")
        return result, clock.times()

    def _predict(
        self,
        task: Task[Result] | RegionTask[Result],
        image: Image,
        clock: _StageClock,
        *box: Box,
    ) -> Result:
        inputs, geometry = task.preprocess(image, *box)
        clock.lap("preprocess")
        outputs = self.backend.run(inputs)
        clock.lap("model")
        result = task.postprocess(outputs, geometry)
        clock.lap("postprocess")
        return result

    def _region_task(self) -> RegionTask[Result]:
        if not isinstance(self.task, RegionTask):
            raise ValueError(
                f"{self.manifest.name} finds its own boxes (task {self.manifest.task!r}); "
                "call it without boxes"
            )
        return self.task

    def warm_up(self, *, num_runs: int = 2) -> float:
        """Run on a grey picture of the network's size and return the last run's milliseconds.

        The first runs of an engine allocate and choose kernels; none of that then falls on the
        first real picture.
        """
        size = self.manifest.preprocess.height, self.manifest.preprocess.width
        image = np.full((*size, 3), 127, np.uint8)
        total_ms = 0.0
        for _ in range(num_runs):
            _, times = self.profile(image)
            total_ms = times.total_ms
        return total_ms

    def stream(
        self,
        source: Source | str | int | os.PathLike[str],
        *,
        stop: threading.Event | None = None,
    ) -> Iterator[Result]:
        """Yield the result of every frame of a source; see `stream_frames` for the frames too."""
        for _, result in self.stream_frames(source, stop=stop):
            yield result

    def stream_frames(
        self,
        source: Source | str | int | os.PathLike[str],
        *,
        stop: threading.Event | None = None,
    ) -> Iterator[tuple[Frame, Result]]:
        """Yield every frame of a source with its result.

        Args:
            source: a `Source`, or what one is made of: a picture, folder, pattern, video, camera
                number or URL. Damaged frames are skipped and counted there.
            stop: ends the stream after the current frame when it is set; so does that of a `Source`.

        Raises:
            SourceError: if there is nothing to read; at once, not on the first frame.
        """
        frames = (source if isinstance(source, Source) else Source(source)).frames(stop=stop)
        return ((frame, self(frame.image)) for frame in frames)

    def close(self) -> None:
        """Free the engine; calling it twice is allowed."""
        self.backend.close()

    def __enter__(self) -> Predictor[Result]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        manifest = self.manifest
        size = f"{manifest.preprocess.height}x{manifest.preprocess.width}"
        return (
            f"Predictor({manifest.name}, {manifest.task}, {size}, {manifest.precision}, "
            f"{self.backend.name})"
        )


def _with_backend(result: Any, name: str) -> Any:
    """Return a task's result with the name of the backend in it."""
    if isinstance(result, list):
        return [_with_backend(item, name) for item in result]
    return result.with_backend(name) if isinstance(result, Instances | Landmarks) else result


class _StageClock:
    """Adds up where the time goes; a lap ends the stage that began with the last one."""

    def __init__(self) -> None:
        self._seconds = {"preprocess": 0.0, "model": 0.0, "postprocess": 0.0}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self._seconds[stage] += now - self._last
        self._last = now

    def times(self) -> StageTimes:
        return StageTimes(**{f"{stage}_ms": 1e3 * s for stage, s in self._seconds.items()})


def _checked_boxes(boxes: Boxes) -> list[Box]:
    """Return boxes as tuples, or refuse what is none."""
    array = np.asarray(boxes.boxes if isinstance(boxes, Instances) else boxes)
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
        **options: of the backend, see `docs/engines.md`; "auto" gives each backend those that it
            knows.

    Raises:
        BundleError: if the bundle is missing, damaged or not usable by this runtime.
        BackendUnavailable: if the engine is not installed or its device is missing.
        ValueError: if there is no such backend, or it has no such option.
    """
    manifest = Manifest.load(folder, verify=verify)
    task = create_task(manifest)
    engine = open_backend(
        backend,
        Path(folder),
        manifest,
        threads=threads,
        verify=verify,
        strict=strict,
        **options,
    )
    return Predictor(manifest, task, engine)
