"""From a picture to a model's inputs, the same for every task that takes one picture.

`image` (1, H, W, 3) uint8 BGR, resized and padded as the manifest says, and further inputs of the
models that take them: `image_size` (1, 2) int32, height and width of the picture inside, and
`image_fraction` (1, H, W, 3) uint8, what the picture has above `image` in 1/256 of a grey level.
"""

from __future__ import annotations

import numpy as np

from edgeseg_runtime.backends import Tensors
from edgeseg_runtime.bundle.manifest import SAMPLED_RESIZES, Manifest
from edgeseg_runtime.picture.geometry import (
    Box,
    Geometry,
    fit_image,
    fit_image_with_fraction,
    geometry_of,
)
from edgeseg_runtime.picture.image import Image, check_image
from edgeseg_runtime.tasks.contract import describe, refuse

__all__ = ["PictureInput"]

_INPUTS = {  # name -> dtype, rank
    "image": ("uint8", 4),
    "image_size": ("int32", 2),
    "image_fraction": ("uint8", 4),
}


class PictureInput:
    """Makes the inputs of one manifest.

    Raises:
        ManifestError: if the manifest's inputs are others than these.
    """

    def __init__(self, manifest: Manifest) -> None:
        _check(manifest)
        names = {spec.name for spec in manifest.inputs}
        self._preprocess = manifest.preprocess
        self._takes_size = "image_size" in names
        self._takes_fraction = "image_fraction" in names

    def __call__(self, image: Image, box: Box | None = None) -> tuple[Tensors, Geometry]:
        """Return the inputs for a picture, or for a box of it, and where it lies in them.

        Raises:
            ImageError: if the picture is not (H, W, 3) uint8.
        """
        source = check_image(image)
        geometry = geometry_of((source.shape[0], source.shape[1]), self._preprocess, box)
        inputs: Tensors = {}
        if self._takes_fraction:
            inputs["image"], inputs["image_fraction"] = fit_image_with_fraction(
                source, geometry, self._preprocess
            )
        else:
            inputs["image"] = fit_image(source, geometry, self._preprocess)
        if self._takes_size:
            inputs["image_size"] = np.array([geometry.resized], np.int32)
        return inputs, geometry


def _check(manifest: Manifest) -> None:
    for spec in manifest.inputs:
        if (spec.dtype, len(spec.shape)) != _INPUTS.get(spec.name):
            refuse(
                manifest,
                f"input {describe(spec)}",
                "image uint8 [1, H, W, 3], image_size int32 [1, 2], image_fraction like image",
            )
    preprocess = manifest.preprocess
    specs = {spec.name: spec for spec in manifest.inputs}
    expected = (preprocess.height, preprocess.width, 3)
    for name in ("image", "image_fraction"):
        wanted = f"{name} of {list(expected)}, as preprocess says"
        if name in specs and specs[name].shape[1:] != expected:
            refuse(manifest, f"input {describe(specs[name])}", wanted)
        if name == "image" and name not in specs:
            refuse(manifest, "input no image", wanted)
    if "image_fraction" in specs and preprocess.interpolation != "linear":
        refuse(
            manifest,
            f"image_fraction with {preprocess.interpolation}",
            "it only with linear: the others round",
        )
    if "image_size" in specs and preprocess.resize in SAMPLED_RESIZES:
        refuse(
            manifest,
            f"image_size with resize {preprocess.resize}",
            "it only where the picture lies at the top left",
        )
    for spec in (*manifest.inputs, *manifest.outputs):
        if spec.shape[:1] not in {(1,), (-1,)}:
            refuse(
                manifest,
                f"{describe(spec)}, whose first axis is not a batch of 1",
                "1 or free: export with batch size 1",
            )
