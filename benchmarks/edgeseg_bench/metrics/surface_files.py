"""Reads the surface of DensePose-COCO: vertices, charts, and the geodesic distances between them.

The files are those of the official evaluation. They are not edgeseg's to pass on, and large: whoever measures GPS
brings them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg_bench.datasets.base import DatasetError
from edgeseg_bench.datasets.body_surfaces import Places, geodesic, places
from edgeseg_bench.datasets.matlab import read_matlab
from edgeseg_bench.datasets.people_surfaces import DRAWN
from edgeseg_bench.metrics.surfaces import Distances, SurfaceModel

SOURCE = "https://dl.fbaipublicfiles.com/densepose/data"
VERTICES, CORNERS = "SMPL_subdiv.mat", "SMPL_SUBDIV_TRANSFORM.mat"
DISTANCES = "Pdist_matrix"
NUM_PARTS = 24
GRID_SIDE = 17
"""Points along each side of a part of the drawn surface."""
BODY_HEIGHT_M = 1.7
"""What the drawn people's unit of length, about their height, stands for."""

# Mean geodesic distances of the coarse parts, in metres, and the coarse part of each part: from
# densepose_coco_evaluation.py.
MEAN_DISTANCES = (0.0, 0.351, 0.107, 0.126, 0.237, 0.173, 0.142, 0.128, 0.150)
COARSE_PARTS = (0, 1, 1, 2, 2, 3, 3, *[4] * 4, *[5] * 4, *[6] * 4, *[7] * 4, 8, 8)

_log = logging.getLogger(__name__)


class MissingFileError(DatasetError):
    """A file that the user has to bring is not there."""


def load_surface_model(folder: str | Path) -> SurfaceModel:
    """Return the surface that DensePose-COCO is labelled on.

    Args:
        folder: with `SMPL_subdiv.mat`, `SMPL_SUBDIV_TRANSFORM.mat` and `Pdist_matrix.pkl`, or in its
            place `Pdist_matrix.npy`: the same array as NumPy saves it, which is not read as a whole.

    Raises:
        MissingFileError: a file is not there.
        DatasetError: a file is not what it should be.
    """
    folder = Path(folder)
    npy, pickled = (folder / f"{DISTANCES}.{ending}" for ending in ("npy", "pkl"))
    stored = npy if npy.is_file() else pickled
    for path in (folder / VERTICES, folder / CORNERS, stored):
        if not path.is_file():
            raise MissingFileError(
                f"There is no {path}: GPS needs the geodesic distances of DensePose, {VERTICES}, {CORNERS} and "
                f"{DISTANCES}.pkl in one folder. They do not come with edgeseg; download them from {SOURCE}/{path.name}."
            )
    names = ("Part_ID_subdiv", "U_subdiv", "V_subdiv")
    found = _numbers(read_matlab(folder / VERTICES, names), folder / VERTICES)
    corners = _numbers(read_matlab(folder / CORNERS, ["index"]), folder / CORNERS)["index"]
    distances = np.load(npy, mmap_mode="r") if stored == npy else _unpickled(pickled)
    parts = found["Part_ID_subdiv"].astype(np.int64)
    _check(folder, [found[name].size for name in names], corners, distances)
    return SurfaceModel(
        parts=parts,
        u=found["U_subdiv"],
        v=found["V_subdiv"],
        corners=corners.astype(np.int64) - 1,
        distances=distances,
        scales=np.array(MEAN_DISTANCES)[list(COARSE_PARTS)],
    )


def surface_of(ground_truth: Mapping[str, Any]) -> SurfaceModel | None:
    """Return the surface that a data set's points lie on; None, with a warning, if its files are not there.

    Args:
        ground_truth: a COCO data set whose categories say which: "drawn", or the folder of its files.

    Raises:
        DatasetError: the files are there, but not what they should be.
    """
    folders = {category.get("surface") for category in ground_truth["categories"]} - {None}
    if folders == {DRAWN}:
        return drawn_surface()
    if len(folders) != 1:
        return None
    try:
        return load_surface_model(folders.pop())
    except MissingFileError as error:
        _log.warning("GPS is left out. %s", error)
        return None


@cache
def drawn_surface() -> SurfaceModel:
    """Return the surface of the drawn people, as a grid of points on each part."""
    side = np.linspace(0, 1, GRID_SIDE)
    v, u = (grid.ravel() for grid in np.meshgrid(side, side, indexing="ij"))
    parts = np.repeat(np.arange(1, NUM_PARTS + 1), GRID_SIDE**2)
    u, v = np.tile(u, NUM_PARTS), np.tile(v, NUM_PARTS)
    return SurfaceModel(
        parts=parts,
        u=u,
        v=v,
        corners=np.arange(len(parts)),
        distances=_Drawn(places(parts, u, v)),
        scales=np.array(MEAN_DISTANCES)[list(COARSE_PARTS)] / BODY_HEIGHT_M,
    )


@dataclass(frozen=True)
class _Drawn:
    """The distances between points of the drawn surface, by the number of a pair."""

    points: Places

    def __getitem__(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        high = np.floor((1 + np.sqrt(1 + 8 * numbers.astype(np.float64))) / 2).astype(np.int64)
        low = numbers - high * (high - 1) // 2
        return geodesic(self.points.take(low), self.points.take(high))


def _numbers(variables: Mapping[str, Any], path: Path) -> dict[str, npt.NDArray[np.float64]]:
    for name, value in variables.items():
        if not isinstance(value, np.ndarray):
            raise DatasetError(f"{path}: {name} holds {type(value).__name__}, expected numbers.")
    return {name: np.asarray(value, np.float64).ravel() for name, value in variables.items()}


def _unpickled(path: Path) -> Distances:
    """Return the array of a pickle, of which nothing is executed."""
    from edgeseg.models.weight_files import CheckpointError, read_checkpoint

    try:
        content = read_checkpoint(path)
        distances: Distances = content[DISTANCES].read().numpy()
    except (CheckpointError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path} holds no array {DISTANCES!r}: {error}") from error
    return distances


def _check(
    folder: Path, counts: list[int], corners: npt.NDArray[np.float64], distances: Any
) -> None:
    """Refuse files that are not of one surface."""
    num_corners = int(corners.max(initial=0))
    expected = num_corners * (num_corners - 1) // 2
    if len({*counts, corners.size}) > 1 or corners.min(initial=1) < 1 or len(distances) < expected:
        raise DatasetError(
            f"The files in {folder} are not of one surface: {VERTICES} has {counts} vertices, {CORNERS} {corners.size} "
            f"with {num_corners} corners, which have {expected} distances, and there are {len(distances)}. Download them "
            f"again from {SOURCE}."
        )
