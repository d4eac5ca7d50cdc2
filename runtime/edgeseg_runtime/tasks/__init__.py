"""Tasks: what lies between a picture and a model's tensors, and between the tensors and a result.

Task           turns pictures into the model's inputs and opens readers; stateless
Reader         turns the outputs of one stream into results; tracks live in it
RegionTask     a task of models that look at one box of the picture at a time
TASKS          name in a manifest -> "module:callable", imported on first use
create_task    the task that a manifest asks for
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, cast

from edgeseg_runtime.backends import Tensors
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.errors import ManifestError
from edgeseg_runtime.picture.geometry import Box, Geometry
from edgeseg_runtime.picture.image import Image

__all__ = ["TASKS", "Reader", "RegionTask", "Task", "create_task"]

TASKS: dict[str, str] = {
    "instances": "edgeseg_runtime.tasks.instances:InstanceTask",
    "keypoints": "edgeseg_runtime.tasks.keypoints:KeypointTask",
    "landmarks": "edgeseg_runtime.tasks.landmarks:LandmarkTask",
    "panoptic": "edgeseg_runtime.tasks.panoptic:panoptic_task",
}

Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


class Reader(Protocol[Result_co]):
    """Reads the results of one stream, frame by frame."""

    def __call__(self, outputs: Tensors, geometry: Geometry) -> Result_co:
        """Return the result in source pixels, made from row 0 of the outputs."""
        ...


class Task(Protocol[Result_co]):
    """Built from a manifest, no other state: safe to share between threads and streams."""

    def preprocess(self, image: Image) -> tuple[Tensors, Geometry]:
        """Return the model's inputs for one picture (H, W, 3) uint8 BGR, and where it lies."""
        ...

    def open_reader(self) -> Reader[Result_co]:
        """Return the reader of a new stream."""
        ...


class RegionTask(Task[Result], Protocol[Result]):
    """A task whose model looks at one object; without a box at the whole picture."""

    def preprocess(self, image: Image, box: Box | None = None) -> tuple[Tensors, Geometry]:
        """Return the model's inputs for a box x1 y1 x2 y2 in source pixels, and where it lies."""
        ...

    def gather(self, results: Sequence[Result], size: tuple[int, int], *, backend: str = "") -> Any:
        """Return the results of several boxes, or of none, of a picture of height, width.

        Args:
            results: of each box.
            size: height and width of the picture.
            backend: what computed them.
        """
        ...


def create_task(manifest: Manifest) -> Task[Any]:
    """Return the task that a manifest asks for.

    Raises:
        ManifestError: if this runtime does not know the task, or the manifest's tensors and
            options are not those of the task.
    """
    if manifest.task not in TASKS:
        raise ManifestError(
            f"the task is {manifest.task!r}; this runtime knows {', '.join(TASKS)}. "
            "Upgrade it: pip install -U edgeseg-runtime"
        )
    module, _, name = TASKS[manifest.task].partition(":")
    create = cast("Callable[[Manifest], Task[Any]]", getattr(importlib.import_module(module), name))
    return create(manifest)
