"""The DensePose R-CNN variants: how they are built, manifests, published figures."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgeseg.models import Family, ModelSpec, PrecisionRecipe
from edgeseg.models.building import configured, turned
from edgeseg.models.densepose.config import PRESETS
from edgeseg.models.labels import ClassRules
from edgeseg.models.maskrcnn.spec import (
    FREE_ROWS,
    branch_graph,
    constants,
    detect_graph,
    preprocess,
    sides_of,
    staged,
)
from edgeseg_runtime.bundle.graphs import Graph, Schedule
from edgeseg_runtime.bundle.manifest import Manifest, TensorSpec

if TYPE_CHECKING:
    from edgeseg.models.checkpoint import KeyTable
    from edgeseg.models.densepose.model import DensePose
    from edgeseg.models.reference import ReferenceModel

PRECISION = PrecisionRecipe(
    int8=("backbone", "fpn", "rpn.conv", "box_head", "decoder", "surface_head"),
    half_in_mixed=("fpn", "rpn.conv", "box_head", "decoder", "surface_head"),
    half=("PyramidAtlas", "AtlasRoiAlign"),
    # Labels are an argmax of logits that lie close together, and u and v are read as they are.
    float32=("surface_predictor",),
)

BUCKETS = (4, 16)
"""Rows, beside the full list, that engines of fixed shapes are built for."""


def build(
    name: str, image_size: tuple[int, int] | None, config: Mapping[str, Any]
) -> ReferenceModel:
    """Return the model with random weights, see :class:`edgeseg.models.ModelSpec`."""
    from edgeseg.models.densepose.model import DensePose

    preset = PRESETS[name]
    sides = sides_of(image_size or config.get("image_size", preset.image_size), config)
    settings = {**sides, **config}
    return DensePose(name, configured(name, preset, image_size, settings, ClassRules()))


def key_table(_name: str, _config: Mapping[str, Any] = MappingProxyType({})) -> KeyTable:
    """Return the parameter names of the official checkpoint of a variant."""
    from edgeseg.models.densepose import checkpoint

    return checkpoint.DENSEPOSE


def manifest(model: ReferenceModel) -> Manifest:
    """Return what a device has to know of ``model``; artifacts are added by the exporter."""
    from edgeseg.models.densepose.model import DensePose

    assert isinstance(model, DensePose)
    config = model.config
    graphs = _graphs(model)
    return Manifest(
        name=model.name,
        task="instances",
        precision="fp32",
        graphs=graphs,
        schedule=Schedule(first=tuple(graphs), then=tuple(graphs)),
        preprocess=preprocess(config),
        postprocess={
            "drop_empty_boxes": config.drop_empty_boxes,
            "score_threshold": 0.0,
        },
        labels=config.labels,
        category_ids=config.category_ids,
    )


def _graphs(model: DensePose) -> dict[str, Graph]:
    """Return what finds the persons, and the stage that runs once for each of the best."""
    from edgeseg.models.densepose.model import PREFIX, SURFACES

    config = model.config
    side = 2 * config.surface_pool
    maps = tuple(
        TensorSpec(
            name=f"{PREFIX}{name}", dtype="float32", shape=(1, FREE_ROWS, channels, side, side)
        )
        for name, channels in config.surface_maps.items()
    )
    detect = detect_graph(config)
    branch = branch_graph(
        detect, ("atlas", "boxes"), maps, maximum=model.num_surfaces, buckets=BUCKETS
    )
    return staged(detect, SURFACES, branch)


_ORIGINS = {  # licence of code and weights, source of the figures
    "detectron2": (
        "Apache-2.0 (code), CC BY-SA 3.0 (weights)",
        "detectron2 projects/DensePose/doc/DENSEPOSE_IUV.md, DensePose-COCO minival",
    ),
}

FAMILY = Family(
    name="densepose",
    purpose="surfaces",
    presets=PRESETS,
    origins=_ORIGINS,
    precision=PRECISION,
    build=build,
    key_table=key_table,
    constants=constants,
    manifest=manifest,
    variants=turned,
)


def _spec(name: str, num_parameters: int, gflops: float, accuracy: tuple[float, ...]) -> ModelSpec:
    metrics = ("box_AP", "mask_AP", "GPS_AP", "GPSm_AP")
    figures = dict(zip(metrics, accuracy, strict=True))
    return FAMILY.spec(name, "detectron2", num_parameters, gflops=gflops, accuracy=figures)


SPECS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        _spec("densepose_resnet50_fpn_legacy", 59_731_247, 441.8, (0.581, 0.582, 0.521, 0.549)),
        _spec("densepose_resnet101_fpn_legacy", 78_671_151, 521.3, (0.595, 0.593, 0.532, 0.560)),
        _spec("densepose_resnet50_fpn", 63_821_090, 1209.4, (0.612, 0.672, 0.637, 0.653)),
        _spec("densepose_resnet101_fpn", 82_760_994, 1289.0, (0.623, 0.678, 0.645, 0.662)),
        _spec("densepose_resnet50_fpn_dl", 66_055_970, 1291.6, (0.611, 0.683, 0.656, 0.667)),
        _spec("densepose_resnet101_fpn_dl", 84_995_874, 1371.2, (0.623, 0.687, 0.663, 0.676)),
        _spec("densepose_resnet50_fpn_wc1", 64_025_915, 1219.7, (0.605, 0.670, 0.642, 0.654)),
        _spec("densepose_resnet50_fpn_wc2", 64_435_565, 1240.2, (0.607, 0.669, 0.642, 0.657)),
        _spec("densepose_resnet50_fpn_dl_wc1", 66_260_795, 1301.9, (0.611, 0.681, 0.658, 0.670)),
        _spec("densepose_resnet50_fpn_dl_wc2", 66_670_445, 1322.5, (0.608, 0.679, 0.656, 0.667)),
        _spec("densepose_resnet50_fpn_wc1m", 64_042_301, 1220.5, (0.606, 0.667, 0.640, 0.654)),
        _spec("densepose_resnet50_fpn_wc2m", 64_451_951, 1241.1, (0.607, 0.669, 0.642, 0.655)),
    )
}
