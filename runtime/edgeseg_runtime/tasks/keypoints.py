"""Key points of one object at a time, such as the joints of a person that was found before.

Output of the model: `keypoints` (B, J, 3) x, y in pixels of the network's input, and a score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.backends import Tensors
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.picture.geometry import Box, Geometry
from edgeseg_runtime.picture.image import Image
from edgeseg_runtime.results import Instances
from edgeseg_runtime.tasks import Reader
from edgeseg_runtime.tasks.contract import (
    check_choice,
    check_keypoint_names,
    check_outputs,
    options_from_manifest,
)
from edgeseg_runtime.tasks.inputs import PictureInput
from edgeseg_runtime.tasks.points import points_in_source

__all__ = ["KeypointTask", "Options"]

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """The `postprocess` entries of a manifest.

    Attributes:
        point_rounding: "none", or "truncate" for whole source pixels, cut toward zero (Stacked
            Hourglass).
    """

    point_rounding: str = "none"


class KeypointTask:
    """The task of top-down pose models.

    Raises:
        ManifestError: if the manifest's tensors or options are not those of the task.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.options = options_from_manifest(Options, manifest)
        check_choice(manifest, "point_rounding", self.options.point_rounding, ("none", "truncate"))
        self._inputs = PictureInput(manifest)
        specs = check_outputs(manifest, {"keypoints": ("J", 3)}, required=("keypoints",))
        self._num_points = specs["keypoints"].shape[1]
        check_keypoint_names(manifest, self._num_points)

    def __repr__(self) -> str:
        size = f"{self.manifest.preprocess.height}x{self.manifest.preprocess.width}"
        return f"KeypointTask({self.manifest.name!r}, {size})"

    def preprocess(self, image: Image, box: Box | None = None) -> tuple[Tensors, Geometry]:
        """Return the model's inputs for a box of the picture and where it lies; see `inputs`.

        Raises:
            ImageError: if the picture is not (H, W, 3) uint8.
            ValueError: for a box, if the model looks at whole pictures only.
        """
        return self._inputs(image, box)

    def open_reader(self) -> Reader[Instances]:
        """Return `postprocess`: every picture is read alone."""
        return self.postprocess

    def postprocess(self, outputs: Tensors, geometry: Geometry) -> Instances:
        """Return one row: the box that was looked at, and its key points in source pixels.

        The score is the mean of the key points'. Key points with a NaN or an infinite number are
        set to 0 and counted.
        """
        found_J3 = outputs["keypoints"][0].astype(np.float32)
        points_J2, scores_J, num_nonfinite = points_in_source(
            found_J3[:, :2],
            found_J3[:, 2],
            geometry,
            truncates=self.options.point_rounding == "truncate",
        )
        height, width = geometry.source
        return self._instances(
            np.array([geometry.box or (0, 0, width, height)]),
            np.concatenate([points_J2, scores_J[:, None]], axis=1)[None],
            geometry.source,
            num_nonfinite=num_nonfinite,
        )

    def gather(
        self, results: Sequence[Instances], size: tuple[int, int], *, backend: str = ""
    ) -> Instances:
        """Return the rows of all results; of no results, Instances without a row."""
        none = np.zeros((0, self._num_points, 3))
        points = [result.keypoints for result in results if result.keypoints is not None]
        return self._instances(
            np.concatenate([np.zeros((0, 4)), *(result.boxes for result in results)]),
            np.concatenate([none, *points]),
            size,
            num_nonfinite=sum(result.num_nonfinite for result in results),
        ).with_backend(backend)

    def _instances(
        self,
        boxes_N4: Floats,
        points_NJ3: Floats,
        size: tuple[int, int],
        *,
        num_nonfinite: int,
    ) -> Instances:
        label = 1 if len(self.manifest.labels) > 1 else 0
        return Instances(
            boxes_N4,
            points_NJ3[..., 2].mean(axis=1),
            np.full(len(boxes_N4), label),
            keypoints=points_NJ3,
            label_names=self.manifest.labels,
            category_ids=self.manifest.category_ids,
            keypoint_names=self.manifest.keypoint_names,
            skeleton=self.manifest.skeleton,
            image_size=size,
            num_nonfinite=num_nonfinite,
        )
