"""Tells where a video cuts from one scene to another."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg_runtime.picture.image import Image

SIDE = 32
"""Pictures are compared at so many rows and columns: noise and small things count for little."""
SAMPLED_SIDE = 256
"""Larger pictures are thinned out first, so that a look costs as little as at a small one."""


class SceneCuts:
    """Looks at the pictures of one video, one after the other.

    Args:
        threshold: mean difference of two successive pictures, in grey levels (0 to 255), from which on
            the second one begins a scene. Of drawn clips with a moving camera, 25 finds every cut and
            takes one frame in a hundred for another one.

    Raises:
        ValueError: the threshold is not a number of grey levels above 0.
    """

    def __init__(self, threshold: float) -> None:
        if not (math.isfinite(threshold) and 0 < threshold <= 255):
            raise ValueError(
                f"scene_cut {threshold} found, expected a mean difference of pictures in grey levels, "
                "above 0 and up to 255, such as 25"
            )
        self.threshold = threshold
        self._before: npt.NDArray[np.int16] | None = None

    def is_cut(self, image: Image) -> bool:
        """Tell whether a picture (H, W, 3) begins another scene than the one before it; the first does not."""
        step = max(1, min(image.shape[:2]) // SAMPLED_SIDE)
        thinned = np.ascontiguousarray(image[::step, ::step])
        small = cv2.resize(thinned, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.int16)
        before, self._before = self._before, small
        return before is not None and float(np.abs(small - before).mean()) >= self.threshold

    def reset(self) -> None:
        """Begin another video."""
        self._before = None
