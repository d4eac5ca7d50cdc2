"""Several pictures at a time through a model, for bundles with a free batch axis."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Generic, TypeVar

import numpy as np

from edgeseg_runtime.backends import State, Tensors
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.pickling import Unpicklable
from edgeseg_runtime.picture.image import Image, check_image
from edgeseg_runtime.results import Result
from edgeseg_runtime.session import Probe, Route, run_frame

__all__ = ["BatchSession", "check_batch"]

Found = TypeVar("Found", bound=Result)


class BatchSession(Unpicklable, Generic[Found]):
    """Computes pictures together that have nothing to do with one another, and may differ in size.

    Pictures of different shapes take the variants of the bundle that suit them, each variant's
    pictures together. Serves one call at a time. A context manager: leaving it frees the memory.

    Args:
        choose: gives the route for a picture of height, width.
        probe: is told every step.
    """

    def __init__(
        self, choose: Callable[[tuple[int, int]], Route[Found]], *, probe: Probe | None = None
    ) -> None:
        self._choose = choose
        self._probe = probe or Probe()
        self._states: dict[Route[Found], State | None] = {}
        self._lock = threading.Lock()

    def __call__(self, images: Sequence[Image]) -> list[Found]:
        """Return what the model finds in each picture (H, W, 3) uint8 BGR, in their order.

        Raises:
            ImageError: if a picture has another layout.
            BackendError: if the engine fails.
        """
        with self._lock:
            checked = [check_image(image) for image in images]
            rows: dict[Route[Found], list[int]] = {}
            for row, image in enumerate(checked):
                rows.setdefault(self._choose((image.shape[0], image.shape[1])), []).append(row)
            found: dict[int, Found] = {}
            for route, own in rows.items():
                for some in _parts(own, route.backend.batch_size):
                    results = self._together(route, [checked[row] for row in some])
                    found |= dict(zip(some, results, strict=True))
            return [found[row] for row in range(len(checked))]

    def reset(self) -> None:
        """Do nothing: no picture follows another."""

    def close(self) -> None:
        """Free the memory; calling it twice is allowed."""
        with self._lock:
            states, self._states = self._states, {}
            for state in states.values():
                if state is not None:
                    state.close()

    def __enter__(self) -> BatchSession[Found]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _together(self, route: Route[Found], images: Sequence[Image]) -> list[Found]:
        """Return the results of pictures that the engine computes in one run."""
        self._probe.started()
        prepared = []
        for image in images:
            prepared.append(route.task.preprocess(image))
            self._probe.preprocessed(*prepared[-1])
        if route not in self._states:
            self._states[route] = route.backend.open_state()
        inputs = _stacked([inputs for inputs, _ in prepared], route.backend.batch_size)
        state = self._states[route]
        outputs = run_frame(route.manifest, route.backend, inputs, state, probe=self._probe)
        found = []
        for row, (_, geometry) in enumerate(prepared):
            own = {name: values[row : row + 1] for name, values in outputs.items()}
            result = route.open_reader()(own, geometry).with_backend(route.backend.name)
            self._probe.read(result)
            found.append(result)
        return found


def check_batch(manifest: Manifest) -> None:
    """Refuse a batch of pictures for a model that cannot take one.

    Raises:
        ValueError: its batch axis is not free, or a frame depends on the frames before it.
    """
    if manifest.schedule.num_kinds > 1 or manifest.is_stateful:
        raise ValueError(
            f"{manifest.name} is a model of videos, in which a frame follows the one before; it takes "
            "no batch. Give it one picture at a time, each stream in a session of its own"
        )
    if any(spec.shape[0] != -1 for spec in manifest.inputs):
        raise ValueError(
            f"{manifest.name} takes one picture at a time: its batch axis is not free. Export it with "
            "--dynamic-batch"
        )


def _parts(rows: Sequence[int], most: int | None) -> Iterator[Sequence[int]]:
    """Yield rows in parts of at most so many; in one part if None."""
    size = most or max(len(rows), 1)
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


def _stacked(inputs: Sequence[Tensors], size: int | None) -> Tensors:
    """Return the inputs of all pictures as one batch; the last one fills up an engine's fixed size."""
    filled = [*inputs, *[inputs[-1]] * ((size or 0) - len(inputs))]
    return {name: np.concatenate([one[name] for one in filled]) for name in inputs[0]}
