"""The landmark models: how they are built, manifests, published figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgeseg.models import Family, ModelSpec, PrecisionRecipe
from edgeseg.models.building import configured
from edgeseg.models.landmarks.config import PRESETS, LandmarksConfig
from edgeseg_runtime.bundle.manifest import Manifest, Preprocess, TensorSpec, one_graph

if TYPE_CHECKING:
    from edgeseg.models.checkpoint import KeyTable
    from edgeseg.models.reference import ReferenceModel

_MARKUPS: dict[int, tuple[tuple[str, Sequence[int], bool], ...]] = {
    5: (("left_eye", range(1), False), ("right_eye", range(1, 2), False),
        ("nose", range(2, 3), False), ("left_mouth", range(3, 4), False),
        ("right_mouth", range(4, 5), False)),
    19: (("left_brow", range(3), False), ("right_brow", range(3, 6), False),
         ("left_eye", range(6, 9), False), ("right_eye", range(9, 12), False),
         ("nose", range(12, 15), False), ("mouth", range(15, 18), False),
         ("chin", range(18, 19), False)),
    29: (("left_brow", (0, 4, 2, 5), True), ("right_brow", (1, 6, 3, 7), True),
         ("left_eye", (8, 12, 10, 13), True), ("right_eye", (9, 14, 11, 15), True),
         ("left_pupil", (16,), False), ("right_pupil", (17,), False),
         ("nose", (18, 20, 19, 21), True), ("left_mouth", (22,), False),
         ("right_mouth", (23,), False), ("upper_lip", (22, 24, 23, 25), True),
         ("lower_lip", (22, 26, 23, 27), True), ("chin", (28,), False)),
    68: (("jaw", range(17), False), ("left_brow", range(17, 22), False),
         ("right_brow", range(22, 27), False), ("nose", range(27, 31), False),
         ("nostrils", range(31, 36), False), ("left_eye", range(36, 42), True),
         ("right_eye", range(42, 48), True), ("lips", range(48, 60), True),
         ("mouth", range(60, 68), True)),
    98: (("jaw", range(33), False), ("left_brow", range(33, 42), True),
         ("right_brow", range(42, 51), True), ("nose", range(51, 55), False),
         ("nostrils", range(55, 60), False), ("left_eye", range(60, 68), True),
         ("right_eye", range(68, 76), True), ("lips", range(76, 88), True),
         ("mouth", range(88, 96), True), ("left_pupil", range(96, 97), False),
         ("right_pupil", range(97, 98), False)),
}  # fmt: skip
"""Number of points -> the lines of the markup, and which of them are closed.

19: AFLW, 29: COFW, 68: 300W, 98: WFLW. Left and right as seen in the picture. A point of several lines
has the name of the first.
"""

PRECISION = PrecisionRecipe(
    int8=("stem", "stages4", "down8", "stages8", "narrow", "down16", "trunk"),
    half=("whole",),
    float32=("coordinates", "trunk.head", "trunk.heads"),
)


def build(
    name: str, image_size: tuple[int, int] | None, config: Mapping[str, Any]
) -> ReferenceModel:
    """Return the model with random weights, see :class:`edgeseg.models.ModelSpec`."""
    from edgeseg.models.landmarks.model import LandmarkHeatmaps, LandmarkRegressor

    checked = configured(name, PRESETS[name], image_size, config)
    if checked.is_regression:
        return LandmarkRegressor(name, checked)
    return LandmarkHeatmaps(name, checked)


def key_table(name: str, _config: Mapping[str, Any] = MappingProxyType({})) -> KeyTable:
    """Return the parameter names of the official checkpoint of a variant."""
    from edgeseg.models.landmarks import checkpoint

    tables = {
        "landmarks_heatmap_hrnet_w18": checkpoint.HRNET,
        "landmarks_regression_pfld": checkpoint.PFLD,
    }
    return tables.get(name, checkpoint.OWN)


def manifest(model: ReferenceModel) -> Manifest:
    """Return what a device has to know of ``model``; artifacts are added by the exporter."""
    config: LandmarksConfig = model.config
    height, width = config.image_size
    num_points = config.num_points
    return Manifest(
        name=model.name,
        task="landmarks",
        precision="fp32",
        graphs=one_graph(
            inputs=(TensorSpec(name="image", dtype="uint8", shape=(1, height, width, 3)),),
            outputs=(
                TensorSpec(name="points", dtype="float32", shape=(1, num_points, 2)),
                TensorSpec(name="scores", dtype="float32", shape=(1, num_points)),
            ),
        ),
        preprocess=Preprocess(
            height=height,
            width=width,
            resize="square_crop",
            rounding=config.crop_rounding,
            crop_margin=config.crop_margin,
        ),
        keypoint_names=point_names(num_points),
        skeleton=skeleton(num_points),
    )


def point_names(num_points: int) -> tuple[str, ...]:
    """Return a name for every point: of its line and its place in it, in a known markup."""
    names: dict[int, str] = {}
    for line, points, _ in _MARKUPS.get(num_points, (("point", range(num_points), False),)):
        for place, point in enumerate(points):
            names.setdefault(point, f"{line}_{place}" if len(points) > 1 else line)
    return tuple(names[point] for point in range(num_points))


def skeleton(num_points: int) -> tuple[tuple[int, int], ...]:
    """Return the pairs of points that a drawing connects; none for an unknown markup."""
    pairs: list[tuple[int, int]] = []
    for _, points, is_closed in _MARKUPS.get(num_points, ()):
        pairs += pairwise(points)
        if is_closed:
            pairs.append((points[-1], points[0]))
    return tuple(pairs)


_ORIGINS = {  # licence of code and weights, source of the figures
    "pfld": (
        "MIT (headers of the code); weights: WFLW's terms, research only",
        "PFLD-pytorch publishes no figures; its checkpoint was trained on WFLW",
    ),
    "hrnet": (
        "MIT (code), weights not stated",
        "README of HRNet-Facial-Landmark-Detection; WFLW test, 300W full, COFW test, AFLW full",
    ),
    "untrained": (
        "Apache-2.0 (code), no weights",
        "a structure without published weights, to be trained",
    ),
    "edgeseg": (
        "Apache-2.0 (code and weights)",
        "benchmarks/results/landmarks_*_tiny_bench.md, 670 faces of shapes val, inter-ocular",
    ),
}


FAMILY = Family(
    name="landmarks",
    purpose="landmarks",
    presets=PRESETS,
    origins=_ORIGINS,
    precision=PRECISION,
    build=build,
    key_table=key_table,
    manifest=manifest,
)

SPECS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        FAMILY.spec("landmarks_regression_pfld", "pfld", 1_264_548, gflops=0.39, accuracy={}),
        FAMILY.spec(
            "landmarks_heatmap_hrnet_w18", "hrnet", 9_662_528, gflops=4.69,
            accuracy={"WFLW_NME": 0.0460, "300W_NME": 0.0334,
                      "COFW_NME": 0.0345, "AFLW_NME": 0.0157},
        ),
        FAMILY.spec("landmarks_heatmap_hourglass", "untrained", 6_633_540, gflops=8.59, accuracy={}),
        FAMILY.spec("landmarks_regression_tiny", "edgeseg", 157_856, gflops=0.0206, accuracy={"NME": 0.086}),
        FAMILY.spec("landmarks_heatmap_tiny", "edgeseg", 592_388, gflops=0.0505, accuracy={"NME": 0.050}),
    )
}  # fmt: skip
