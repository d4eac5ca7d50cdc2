"""From a picture to a result: a task and a backend, joined by a manifest."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

import numpy as np

from edgeseg_runtime.backends import Backend, CheckedBackend, open_backend
from edgeseg_runtime.image import Image
from edgeseg_runtime.manifest import Manifest
from edgeseg_runtime.results import Instances
from edgeseg_runtime.sources import Frame, Source
from edgeseg_runtime.tasks import Task, create_task

__all__ = ["Predictor", "StageTimes", "load"]

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

    def __init__(self, manifest: Manifest, task: Task[Result], backend: Backend) -> None:
        self.manifest = manifest
        self.task = task
        if not isinstance(backend, CheckedBackend):
            backend = CheckedBackend(type(backend).__name__, backend, manifest)
        self.backend = backend

    def __call__(self, image: Image) -> Result:
        """Return what the model finds in a picture (H, W, 3) uint8, channels B, G, R.

        Raises:
            ImageError: if the picture has another layout.
            BackendError: if the engine fails.
        """
        inputs, geometry = self.task.preprocess(image)
        return self.task.postprocess(self.backend.run(inputs), geometry)

    def profile(self, image: Image, *, paste_masks: bool = False) -> tuple[Result, StageTimes]:
        """Return the result together with the time of each stage.

        Args:
            image: see `__call__`.
            paste_masks: count the pasting of all masks, which is otherwise left until `masks` is
                read, as postprocessing.
        """
        start = time.perf_counter()
        inputs, geometry = self.task.preprocess(image)
        ready = time.perf_counter()
        outputs = self.backend.run(inputs)
        done = time.perf_counter()
        result = self.task.postprocess(outputs, geometry)
        if paste_masks and isinstance(result, Instances):
            _ = result.masks
        end = time.perf_counter()
        times = StageTimes(
            preprocess_ms=1e3 * (ready - start),
            model_ms=1e3 * (done - ready),
            postprocess_ms=1e3 * (end - done),
        )
        return result, times

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
            stop: ends the stream after the current frame when it is set.

        Raises:
            SourceError: if there is nothing to read; at once, not on the first frame.
        """
        frames = source if isinstance(source, Source) else Source(source, stop=stop)
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


def load(
    folder: str | os.PathLike[str],
    *,
    backend: str = "auto",
    threads: int | None = None,
    verify: bool = True,
    **options: Any,
) -> Predictor[Any]:
    """Return the predictor of a bundle that `edgeseg export` wrote.

    Args:
        folder: the bundle.
        backend: "auto", "onnxruntime", "tensorrt" or "tensorrt_rtx".
        threads: threads of the engine on the CPU, or None for the engine's own choice.
        verify: compare every file with its recorded sha256 first. Switch it off only for files
            that were verified before; a damaged model gives wrong results or worse.
        **options: passed to the backend.

    Raises:
        BundleError: if the bundle is missing, damaged or not usable by this runtime.
        BackendUnavailable: if the engine is not installed or its device is missing.
        ValueError: if there is no such backend.
    """
    manifest = Manifest.load(folder, verify=verify)
    task = create_task(manifest)
    engine = open_backend(
        backend, Path(folder), manifest, threads=threads, verify=verify, **options
    )
    return Predictor(manifest, task, engine)
