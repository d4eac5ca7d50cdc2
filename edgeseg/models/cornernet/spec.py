"""The variants of CornerNet and of CenterNet with triplets: how they are built, manifests, published figures."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgeseg.models import Family, ModelSpec, PrecisionRecipe
from edgeseg.models.building import configured, turned
from edgeseg.models.cornernet.config import PRESETS
from edgeseg.models.labels import ClassRules
from edgeseg_runtime.bundle.manifest import Manifest, Preprocess, TensorSpec, one_graph

if TYPE_CHECKING:
    from edgeseg.models.checkpoint import KeyTable
    from edgeseg.models.reference import ReferenceModel

_POINTS = ("top_left", "bottom_right", "center")
PRECISION = PrecisionRecipe(
    int8=("backbone", "pools", "heads"),
    half_in_mixed=("pools", "heads"),
    # Scores, embeddings and offsets are read from the last layers as they are.
    float32=tuple(
        f"heads.{point}_{head}.predictor"
        for point in _POINTS
        for head in ("heatmap", "embedding", "offset")
    ),
)


def build(
    name: str, image_size: tuple[int, int] | None, config: Mapping[str, Any]
) -> ReferenceModel:
    """Return the model with random weights, see :class:`edgeseg.models.ModelSpec`."""
    from edgeseg.models.cornernet.model import CornerNet

    return CornerNet(name, configured(name, PRESETS[name], image_size, config, ClassRules()))


def key_table(name: str, config: Mapping[str, Any] = MappingProxyType({})) -> KeyTable:
    """Return the parameter names of the official checkpoint of a variant."""
    from edgeseg.models.cornernet import checkpoint

    if name == "cornernet_squeeze":
        return checkpoint.SQUEEZE
    num_stacks = config.get("num_stacks", PRESETS[name].num_stacks)
    return checkpoint.HOURGLASS104 if num_stacks == 2 else checkpoint.HOURGLASS52


def manifest(model: ReferenceModel) -> Manifest:
    """Return what a device has to know of ``model``; artifacts are added by the exporter."""
    from edgeseg.models.cornernet.model import CornerNet

    assert isinstance(model, CornerNet)
    config = model.config
    height, width = config.image_size
    num_rows = config.num_candidates
    has_centers = config.kind == "triplets"
    centers = TensorSpec(name="centers", dtype="float32", shape=(1, config.num_centers, 4))
    return Manifest(
        name=model.name,
        task="instances",
        precision="fp32",
        graphs=one_graph(
            inputs=(TensorSpec(name="image", dtype="uint8", shape=(1, height, width, 3)),),
            outputs=(
                *((centers,) if has_centers else ()),
                TensorSpec(name="boxes", dtype="float32", shape=(1, num_rows, 4)),
                TensorSpec(name="scores", dtype="float32", shape=(1, num_rows)),
                TensorSpec(name="labels", dtype="int32", shape=(1, num_rows)),
            ),
        ),
        preprocess=Preprocess(height=height, width=width, resize="center_odd"),
        postprocess={
            "mask_paste": "none",
            "mask_threshold": 0.5,
            "drop_empty_boxes": False,
            "score_threshold": 0.0,
            "keypoints": "none",
            "soft_nms": config.soft_nms,
            "max_detections": config.max_detections,
            "center_check": has_centers,
        },
        labels=config.labels,
        category_ids=config.category_ids,
    )


_ORIGINS = {  # licence of code and weights, source of the figures
    "cornernet": (
        "BSD-3-Clause (code), weights not stated",
        "paper of CornerNet, COCO test-dev, one scale, mirror test",
    ),
    "squeeze": (
        "BSD-3-Clause (code), weights not stated",
        "paper of CornerNet-Lite, COCO test-dev, one scale, no mirror test",
    ),
    "triplets": (
        "MIT (code), weights not stated",
        "paper of CenterNet (key-point triplets), COCO test-dev, one scale, mirror test",
    ),
}

FAMILY = Family(
    name="cornernet",
    purpose="instances",
    presets=PRESETS,
    origins=_ORIGINS,
    precision=PRECISION,
    build=build,
    key_table=key_table,
    manifest=manifest,
    variants=turned,  # the originals make the input as large as the picture
)

SPECS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        FAMILY.spec(
            "cornernet_hourglass104",
            "cornernet",
            194_367_782,
            gflops=1029.5,
            accuracy={"box_AP": 0.405},
        ),
        FAMILY.spec(
            "cornernet_squeeze", "squeeze", 28_250_150, gflops=76.8, accuracy={"box_AP": 0.344}
        ),
        FAMILY.spec(
            "centernet_triplet_hourglass52",
            "triplets",
            104_844_152,
            gflops=892.4,
            accuracy={"box_AP": 0.416},
        ),
        FAMILY.spec(
            "centernet_triplet_hourglass104",
            "triplets",
            198_881_656,
            gflops=1251.2,
            accuracy={"box_AP": 0.449},
        ),
    )
}
