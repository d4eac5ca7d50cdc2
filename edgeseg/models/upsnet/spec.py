"""The UPSNet variants: how they are built, manifests, published figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg.models import Family, ModelSpec, PrecisionRecipe
from edgeseg.models.building import configured, turned
from edgeseg.models.labels import ClassRules
from edgeseg.models.maskrcnn.config import DETECT, STRIDES
from edgeseg.models.maskrcnn.spec import (
    BUCKETS,
    FREE_ROWS,
    branch_graph,
    detect_graph,
    preprocess,
    sides_of,
)
from edgeseg.models.upsnet.config import PRESETS, UPSNetConfig
from edgeseg_runtime.bundle.graphs import Graph, Schedule, TensorSpec
from edgeseg_runtime.bundle.manifest import Manifest

if TYPE_CHECKING:
    from edgeseg.models.checkpoint import KeyTable
    from edgeseg.models.reference import ReferenceModel

PRECISION = PrecisionRecipe(
    int8=("backbone", "fpn", "rpn.conv", "box_head", "mask_head", "semantic_head"),
    half_in_mixed=("fpn", "rpn.conv", "box_head", "mask_head", "semantic_head"),
    half=("PyramidAtlas", "AtlasRoiAlign"),
    float32=(
        "mask_head.predictor",  # logits, which are compared with those of the semantic head
        "semantic_head.predictor",
        ".offset",  # where deformable convolutions read: cheap
    ),
)


def build(
    name: str, image_size: tuple[int, int] | None, config: Mapping[str, Any]
) -> ReferenceModel:
    """Return the model with random weights, see :class:`edgeseg.models.ModelSpec`."""
    from edgeseg.models.upsnet.model import UPSNet

    preset = PRESETS[name]
    classes = ClassRules(counts_background=True, names_background=True)
    if "stuff_labels" in config:  # the preset's ids are those of other names
        config = {"stuff_category_ids": (), **config}
    size = image_size or config.get("image_size", preset.image_size)
    sides = {} if size == preset.image_size else sides_of(size, config)
    return UPSNet(name, configured(name, preset, image_size, {**sides, **config}, classes))


def key_table(name: str, config: Mapping[str, Any] = MappingProxyType({})) -> KeyTable:
    """Return the parameter names of the official checkpoint of a variant."""
    from edgeseg.models.upsnet import checkpoint

    is_small = config.get("backbone", PRESETS[name].backbone) == "small"
    return checkpoint.OWN if is_small else checkpoint.UPSNET


def manifest(model: ReferenceModel) -> Manifest:
    """Return what a device has to know of ``model``; artifacts are added by the exporter."""
    from edgeseg.models.upsnet.model import UPSNet

    assert isinstance(model, UPSNet)
    config = model.config
    graphs = _graphs(config)
    return Manifest(
        name=model.name,
        task="panoptic",
        precision="fp32",
        graphs=graphs,
        schedule=Schedule(first=tuple(graphs), then=tuple(graphs)),
        preprocess=preprocess(config),
        postprocess={
            "num_stuff": len(config.stuff_labels),
            "overlap_threshold": config.overlap_threshold,
            "stuff_area": config.stuff_area,
            "has_unknown": config.has_unknown,
            "score_threshold": 0.0,
            # The original sets what is above 0.5, the option what is at least this.
            "mask_threshold": float(np.nextafter(np.float32(0.5), np.float32(1))),
            "mask_paste": "expanded_box" if config.gives_instances else "none",
        },
        labels=(*config.labels, *config.stuff_labels),
        category_ids=(*config.category_ids, *config.stuff_ids),
    )


def _graphs(config: UPSNetConfig) -> dict[str, Graph]:
    """Return the detector, and what runs once for each contender and once for each detection."""
    from edgeseg.models.upsnet.model import CONTEND, MASK, PREFIX, TAKES

    height, width = config.image_size
    detect = _detector(
        detect_graph(
            config,
            TensorSpec(
                name="semantic_logits",
                dtype="float32",
                shape=(1, config.num_semantic, height // STRIDES[0], width // STRIDES[0]),
            ),
        ),
        config,
    )
    stages = {CONTEND: (PREFIX, config.max_contenders)}
    if config.gives_instances:
        stages[MASK] = ("", config.box_detections_per_img)
    return {
        DETECT: detect,
        **{
            stage: branch_graph(
                detect,
                TAKES[stage],
                (TensorSpec(name=f"{prefix}masks", dtype="float32", shape=(1, FREE_ROWS, 28, 28)),),
                maximum=maximum,
                buckets=BUCKETS,
                counts=f"{prefix}scores",
            )
            for stage, (prefix, maximum) in stages.items()
        },
    }


def _detector(detect: Graph, config: UPSNetConfig) -> Graph:
    """Return the detector's graph with the contenders, and without the detections if they are not wanted."""
    from edgeseg.models.upsnet.model import PREFIX

    instances = {name: detect.output(name) for name in ("boxes", "scores", "labels")}
    contenders = [
        dataclasses.replace(
            spec,
            name=f"{PREFIX}{name}",
            shape=(1, config.max_contenders, *spec.shape[2:]),
        )
        for name, spec in instances.items()
    ]
    others = [spec for spec in detect.outputs if spec.name not in instances]
    found = list(instances.values()) if config.gives_instances else []
    return dataclasses.replace(detect, outputs=(*contenders, *found, *others))


_ORIGINS = {  # licence of code and weights, source of the figures
    "coco": (
        "Uber Non-Commercial (the original's code), weights not stated",
        "uber-research/UPSNet README, COCO val2017",
    ),
    "coco_test": (
        "Uber Non-Commercial (the original's code), weights not stated",
        "uber-research/UPSNet README, COCO test-dev",
    ),
    "cityscapes": (
        "Uber Non-Commercial (the original's code), weights not stated",
        "uber-research/UPSNet README, Cityscapes val",
    ),
}

FAMILY = Family(
    name="upsnet",
    purpose="panoptic",
    presets=PRESETS,
    origins=_ORIGINS,
    precision=PRECISION,
    build=build,
    key_table=key_table,
    manifest=manifest,
    variants=turned,  # the original scales the shorter side, whichever it is
)

SPECS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        FAMILY.spec(
            "upsnet_resnet50_coco", "coco", 46_129_904,
            gflops=423.0, accuracy={"PQ": 0.425, "PQ_things": 0.485, "PQ_stuff": 0.334},
        ),
        FAMILY.spec(
            "upsnet_resnet101_dcn_coco", "coco_test", 66_408_204,
            gflops=508.2, accuracy={"PQ": 0.466, "PQ_things": 0.532, "PQ_stuff": 0.367},
        ),
        FAMILY.spec(
            "upsnet_resnet50_cityscapes", "cityscapes", 44_527_804,
            gflops=589.8, accuracy={"PQ": 0.593, "PQ_things": 0.546, "PQ_stuff": 0.627},
        ),
        FAMILY.spec(
            "upsnet_resnet101_cityscapes", "cityscapes", 63_519_932,
            gflops=744.9, accuracy={},
        ),
    )
}  # fmt: skip
"""UPSNet."""
