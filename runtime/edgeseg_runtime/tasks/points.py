"""Points of one object, from a model's output to the source picture."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.picture.geometry import FAR, Geometry, scale_points_to_source

__all__ = ["points_in_source"]

Floats = npt.NDArray[np.float32]


def points_in_source(
    points_J2: Floats, scores_J: Floats, geometry: Geometry, *, truncates: bool = False
) -> tuple[Floats, Floats, int]:
    """Return points x, y in source pixels, their scores, and how many points are not finite.

    Those with a NaN or an infinite number are 0, with score 0.

    Args:
        points_J2: x, y in pixels of the network's input.
        scores_J: of the points.
        geometry: where the network's input lies in the source picture.
        truncates: cut to whole source pixels, toward zero.
    """
    is_finite_J = (np.abs(points_J2) < FAR).all(axis=1) & np.isfinite(scores_J)
    points_J2 = np.where(is_finite_J[:, None], points_J2, np.float32(0))
    points_J2 = scale_points_to_source(points_J2, geometry, truncates=truncates)
    return (
        np.where(is_finite_J[:, None], points_J2, np.float32(0)),
        np.where(is_finite_J, scores_J, np.float32(0)),
        int((~is_finite_J).sum()),
    )
