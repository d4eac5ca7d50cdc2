"""Landmarks of one object at a time, such as those of a face that was found before.

Outputs of the model: `points` (B, J, 2) x, y in pixels of the network's input, `scores` (B, J).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeseg_runtime.backends import Tensors
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.picture.geometry import Box, Geometry
from edgeseg_runtime.picture.image import Image
from edgeseg_runtime.results import Landmarks
from edgeseg_runtime.tasks import Reader
from edgeseg_runtime.tasks.contract import (
    check_keypoint_names,
    check_outputs,
    options_from_manifest,
)
from edgeseg_runtime.tasks.inputs import PictureInput
from edgeseg_runtime.tasks.points import points_in_source

__all__ = ["LandmarkTask", "Options"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """The `postprocess` entries of a manifest: there are none."""


class LandmarkTask:
    """The task of models that place the landmarks of a face.

    Raises:
        ManifestError: if the manifest's tensors or options are not those of the task.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.options = options_from_manifest(Options, manifest)
        self._inputs = PictureInput(manifest)
        axes = {"points": ("J", 2), "scores": ("J",)}
        specs = check_outputs(manifest, axes, required=("points", "scores"))
        check_keypoint_names(manifest, specs["points"].shape[1])

    def __repr__(self) -> str:
        size = f"{self.manifest.preprocess.height}x{self.manifest.preprocess.width}"
        return f"LandmarkTask({self.manifest.name!r}, {size})"

    def preprocess(self, image: Image, box: Box | None = None) -> tuple[Tensors, Geometry]:
        """Return the model's inputs for a box of the picture and where it lies; see `inputs`.

        Raises:
            ImageError: if the picture is not (H, W, 3) uint8.
            ValueError: for a box, if the model looks at whole pictures only.
        """
        return self._inputs(image, box)

    def open_reader(self) -> Reader[Landmarks]:
        """Return `postprocess`: every picture is read alone."""
        return self.postprocess

    def postprocess(self, outputs: Tensors, geometry: Geometry) -> Landmarks:
        """Return the landmarks in source pixels.

        Points with a NaN or an infinite number are set to 0, with score 0, and counted.
        """
        points_J2, scores_J, num_nonfinite = points_in_source(
            outputs["points"][0].astype(np.float32),
            outputs["scores"][0].astype(np.float32),
            geometry,
        )
        return Landmarks(
            points_J2,
            scores_J,
            None if geometry.box is None else np.array(geometry.box, np.float32),
            keypoint_names=self.manifest.keypoint_names,
            skeleton=self.manifest.skeleton,
            image_size=geometry.source,
            num_nonfinite=num_nonfinite,
        )

    def gather(
        self, results: Sequence[Landmarks], size: tuple[int, int], *, backend: str = ""
    ) -> list[Landmarks]:
        """Return the landmarks of each box, which say all of this themselves."""
        del size, backend
        return list(results)
