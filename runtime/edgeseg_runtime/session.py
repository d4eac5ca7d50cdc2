"""From the pictures of one stream to their results: preprocess, run the graphs of the frame, read."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, TypeVar

import numpy as np

from edgeseg_runtime.backends import Backend, CheckedBackend, State, Tensors
from edgeseg_runtime.bundle.graphs import Rows
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.pickling import Unpicklable
from edgeseg_runtime.picture.geometry import Box, Geometry, kept_scale, scale_of
from edgeseg_runtime.picture.image import Image, check_image
from edgeseg_runtime.picture.scene_cuts import SceneCuts
from edgeseg_runtime.results import Result
from edgeseg_runtime.tasks import Reader, Task

__all__ = ["Probe", "Route", "Routes", "Session", "rows_found", "run_frame"]

Found = TypeVar("Found", bound=Result)


@dataclass(frozen=True, kw_only=True, eq=False)
class Route(Generic[Found]):
    """One way from a picture to a result; equal only to itself.

    Attributes:
        manifest: of one variant: says which graphs run.
        task: turns pictures into the graphs' inputs.
        backend: runs the graphs.
        open_reader: makes what turns the outputs of a stream into results; the task's own, usually.
    """

    manifest: Manifest
    task: Task[Any]
    backend: CheckedBackend
    open_reader: Callable[[], Reader[Found]]

    @classmethod
    def of(
        cls, manifest: Manifest, task: Task[Found], backend: Backend | CheckedBackend
    ) -> Route[Found]:
        """Return the usual way: a model's own task on both sides of its engine."""
        if not isinstance(backend, CheckedBackend):
            backend = CheckedBackend(type(backend).__name__, backend, manifest)
        return cls(manifest=manifest, task=task, backend=backend, open_reader=task.open_reader)


class Routes(Generic[Found]):
    """The routes of a model's variants; a picture takes the one that shrinks it least.

    Args:
        manifest: with its variants.
        own: of the manifest's own shape, already open.
        open_route: opens the route of another view of the manifest.

    Raises:
        ValueError: if the manifest has variants and nothing opens them.
    """

    def __init__(
        self,
        manifest: Manifest,
        own: Route[Found],
        open_route: Callable[[Manifest], Route[Found]] | None = None,
    ) -> None:
        if manifest.variants and open_route is None:
            raise ValueError(f"{manifest.name} has variants; give what opens them")
        self.own = own
        self._views = manifest.views
        self._open_route = open_route
        self._open: dict[int, Route[Found]] = {0: own}
        self._lock = threading.Lock()
        self._is_open = True

    def kept_scale(self, size: tuple[int, int]) -> float:
        """Return how much of its scale a picture of height, width keeps; see `geometry.kept_scale`."""
        return kept_scale(size, self._views[self._index(size)].preprocess)

    def _index(self, size: tuple[int, int]) -> int:
        scales = [scale_of(size, view.preprocess) for view in self._views]
        return scales.index(max(scales))

    def choose(self, size: tuple[int, int]) -> Route[Found]:
        """Return the route of a picture of height, width; its engine is loaded if it is the first one."""
        index = self._index(size)
        with self._lock:
            if index not in self._open:
                if not self._is_open or self._open_route is None:
                    raise ValueError("the predictor is closed; load the bundle again")
                self._open[index] = self._open_route(self._views[index])
            return self._open[index]

    def close(self) -> None:
        """Free the engines; calling it twice is allowed."""
        with self._lock:
            self._is_open = False
        for route in self._open.values():
            route.backend.close()


class Probe:
    """Is told what a session does, step by step; this one does nothing with it.

    Subclasses override what they need. The arrays belong to the session: copy what is to be kept.
    """

    def started(self) -> None:
        """A picture was given."""

    def preprocessed(self, inputs: Tensors, geometry: Geometry) -> None:
        """The picture has become the model's inputs."""

    def ran(self, graph: str, inputs: Tensors, outputs: Tensors, rows: int | None) -> None:
        """A graph has run; `rows` is None unless it is a stage with rows."""

    def read(self, result: Any) -> None:
        """The outputs have become a result."""


class Session(Unpicklable, Generic[Found]):
    """One stream of pictures through a model: its state, its reader and its place in the schedule.

    A still model finds the same in every picture, whatever came before; a video model starts anew
    at the first frame, after `reset`, after an error and when the size of the pictures changes.

    A session serves one call at a time. A context manager: leaving it frees the state.

    Args:
        choose: gives the route for a picture of height, width; what was carried from frame to frame
            does not survive a change.
        probe: is told every step.
        scene_cuts: makes the first picture of every scene a key frame, for models that have them.
    """

    def __init__(
        self,
        choose: Callable[[tuple[int, int]], Route[Found]],
        *,
        probe: Probe | None = None,
        scene_cuts: SceneCuts | None = None,
    ) -> None:
        self._choose = choose
        self._probe = probe or Probe()
        self._scene_cuts = scene_cuts
        self._lock = threading.Lock()
        self._is_open = True
        self._size: tuple[int, int] | None = None
        self._route: Route[Found] | None = None
        self._reader: Reader[Found] | None = None
        self._states: dict[Route[Found], State | None] = {}
        self._frame = 0

    def __call__(self, image: Image, *, refresh: bool = False, box: Box | None = None) -> Found:
        """Return what the model finds in the next picture of the stream.

        Args:
            image: (H, W, 3) uint8, channels B, G, R.
            refresh: make this a key frame, for models that have them; tracks survive it.
            box: x1 y1 x2 y2 in source pixels, for models that look at one object at a time.

        Raises:
            ImageError: if the picture has another layout.
            BackendError: if the engine fails.
            ValueError: if the session is closed, or in use by another thread.
        """
        if not self._lock.acquire(blocking=False):
            raise ValueError(
                "the session is in use by another thread; open one for each stream of pictures"
            )
        try:
            return self._next(check_image(image), refresh, box)
        except BaseException:
            self._forget()
            raise
        finally:
            self._lock.release()

    def reset(self) -> None:
        """Begin a new stream: the next picture is its first one."""
        with self._lock:
            self._forget()

    def close(self) -> None:
        """Free the state; calling it twice is allowed."""
        with self._lock:
            self._is_open = False
            self._forget()
            states, self._states = self._states, {}
            for state in states.values():
                if state is not None:
                    state.close()

    def __enter__(self) -> Session[Found]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _forget(self) -> None:
        """Return to the beginning; the states' memory stays, and the first graphs write it anew."""
        self._size = self._reader = self._route = None
        self._frame = 0
        if self._scene_cuts is not None:
            self._scene_cuts.reset()

    def _next(self, image: Image, refresh: bool, box: Box | None) -> Found:
        if not self._is_open:
            raise ValueError("the session is closed; open another one")
        self._probe.started()
        route, reader = self._enter((image.shape[0], image.shape[1]))
        inputs, geometry = route.task.preprocess(image, *(() if box is None else (box,)))
        self._probe.preprocessed(inputs, geometry)
        is_cut = self._scene_cuts is not None and self._scene_cuts.is_cut(image)
        frame = 0 if refresh or is_cut else self._frame
        state = self._states[route]
        outputs = run_frame(
            route.manifest, route.backend, inputs, state, frame=frame, probe=self._probe
        )
        self._frame = route.manifest.schedule.following(frame)
        result = reader(outputs, geometry).with_backend(route.backend.name)
        self._probe.read(result)
        return result

    def _enter(self, size: tuple[int, int]) -> tuple[Route[Found], Reader[Found]]:
        """Return the route of a picture and the stream's reader; another size is another stream."""
        if size != self._size or self._reader is None or self._route is None:
            self._forget()
            route = self._choose(size)
            if route not in self._states:
                self._states[route] = route.backend.open_state()
            self._route, self._reader, self._size = route, route.open_reader(), size
        return self._route, self._reader


def run_frame(
    manifest: Manifest,
    backend: Backend | CheckedBackend,
    inputs: Tensors,
    state: State | None,
    *,
    frame: int = 0,
    probe: Probe | None = None,
) -> Tensors:
    """Run the graphs of a frame and return what results are read from.

    Args:
        manifest: of one variant.
        backend: runs the graphs.
        inputs: what the picture gives them.
        state: of the stream.
        frame: number of the frame since the last key frame.
        probe: is told of every graph.
    """
    found: Tensors = {}
    threshold = float(manifest.postprocess.get("score_threshold", 0.0))
    for name in manifest.schedule.graphs(frame):
        graph = manifest.graphs[name]
        rows = None if graph.rows is None else rows_found(found, graph.rows, threshold)
        fed = {spec.name: inputs[spec.name] for spec in graph.fed}
        outputs = backend.run(fed, name, state, rows)
        if probe is not None:
            probe.ran(name, fed, outputs, rows)
        found |= outputs
    return found


def rows_found(outputs: Tensors, rows: Rows, score_threshold: float) -> int:
    """Return how many rows a stage needs: up to the last one above the threshold, in any picture."""
    is_found = (outputs[rows.counts][:, : rows.maximum] > score_threshold).any(axis=0)
    return int(np.flatnonzero(is_found)[-1]) + 1 if is_found.any() else 0
