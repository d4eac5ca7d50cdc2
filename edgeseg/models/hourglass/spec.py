"""The Stacked Hourglass variants: how they are built, manifests, published figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgeseg.models import Family, ModelSpec, PrecisionRecipe
from edgeseg.models.building import configured
from edgeseg.models.hourglass.config import PRESETS, HourglassConfig
from edgeseg.models.labels import MPII_KEYPOINTS, MPII_SKELETON, ClassRules
from edgeseg_runtime.bundle.manifest import Manifest, Preprocess, TensorSpec, one_graph

if TYPE_CHECKING:
    from edgeseg.models.checkpoint import KeyTable
    from edgeseg.models.reference import ReferenceModel

CLASSES = ClassRules(names_background=True, num_classes=1)

PRECISION = PrecisionRecipe(
    # Residual blocks normalise a trunk whose channels differ a thousandfold: what int8 takes from it
    # is made larger block by block. Inside a block values have been normalised already.
    int8=("hourglasses",),
    half=("stem", "features", "merge_features", "merge_heatmaps", ".conv3", ".shortcut"),
    float32=("heads",),  # a quarter pixel is decided by two neighbours of the peak
)


def build(
    name: str, image_size: tuple[int, int] | None, config: Mapping[str, Any]
) -> ReferenceModel:
    """Return the model with random weights, see :class:`edgeseg.models.ModelSpec`."""
    from edgeseg.models.hourglass.model import StackedHourglass

    return StackedHourglass(name, configured(name, PRESETS[name], image_size, config, CLASSES))


def key_table(name: str, _config: Mapping[str, Any] = MappingProxyType({})) -> KeyTable:
    """Return the parameter names of the official checkpoint of a variant."""
    from edgeseg.models.hourglass import checkpoint

    return checkpoint.OWN if name == "hourglass_tiny" else checkpoint.ORIGINAL


def manifest(model: ReferenceModel) -> Manifest:
    """Return what a device has to know of ``model``; artifacts are added by the exporter."""
    from edgeseg.models.hourglass.model import StackedHourglass

    assert isinstance(model, StackedHourglass)
    config = model.config
    height, width = config.image_size
    image = TensorSpec(name="image", dtype="uint8", shape=(1, height, width, 3))
    fraction = dataclasses.replace(image, name="image_fraction")
    is_mpii = config.num_keypoints == len(MPII_KEYPOINTS) and not config.keypoint_names
    return Manifest(
        name=model.name,
        task="keypoints",
        precision="fp32",
        graphs=one_graph(
            inputs=(image, *((fraction,) if config.takes_fraction else ())),
            outputs=(
                TensorSpec(name="keypoints", dtype="float32", shape=(1, config.num_keypoints, 3)),
            ),
        ),
        preprocess=Preprocess(
            height=height,
            width=width,
            resize="square_crop",
            rounding=config.crop_rounding,
            crop_margin=config.crop_margin,
        ),
        postprocess={"point_rounding": config.point_rounding},
        labels=config.labels,
        category_ids=config.category_ids,
        keypoint_names=MPII_KEYPOINTS if is_mpii else _names(config),
        skeleton=config.skeleton or (MPII_SKELETON if is_mpii else ()),
    )


def _names(config: HourglassConfig) -> tuple[str, ...]:
    return config.keypoint_names or tuple(
        f"keypoint_{joint}" for joint in range(config.num_keypoints)
    )


_ORIGINS = {  # licence of code and weights, source of the figures
    "princeton-vl": (
        "BSD-3-Clause (code), weights not stated",
        "README of princeton-vl/pytorch_stacked_hourglass, 2958 persons of MPII val",
    ),
    "edgeseg": (
        "Apache-2.0 (code and weights)",
        "benchmarks/results/hourglass_tiny_bench.md, 472 persons in 200 pictures of shapes val",
    ),
}


FAMILY = Family(
    name="hourglass",
    purpose="keypoints",
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
        FAMILY.spec("hourglass_stack2", "princeton-vl", 6_570_400, gflops=16.7, accuracy={"PCKh": 0.883}),
        FAMILY.spec(
            "hourglass_stack8", "princeton-vl", 25_434_112, gflops=54.9, accuracy={"PCKh": 0.902}
        ),
        FAMILY.spec(
            "hourglass_tiny", "edgeseg", 423_808, gflops=0.14,
            accuracy={"PCKh": 0.601, "keypoint_AP": 0.331},
        ),
    )
}  # fmt: skip
