"""The Mask R-CNN, Keypoint R-CNN and Panoptic FPN variants: how they are built, manifests, published figures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg.models import Family, ModelSpec, PrecisionRecipe
from edgeseg.models.building import configured, turned
from edgeseg.models.labels import ClassRules
from edgeseg.models.maskrcnn.config import (
    DETECT,
    PRESETS,
    STRIDES,
    DetectorConfig,
    MaskRCNNConfig,
)
from edgeseg_runtime.bundle.graphs import Graph, Rows, Schedule, one_graph
from edgeseg_runtime.bundle.manifest import Manifest, Preprocess, TensorSpec

if TYPE_CHECKING:
    from edgeseg.models.checkpoint import KeyTable
    from edgeseg.models.maskrcnn.model import MaskRCNN
    from edgeseg.models.reference import ReferenceModel

PRECISION = PrecisionRecipe(
    int8=("backbone", "fpn", "rpn.conv", "box_head", "mask_head", "keypoint_head", "semantic_head"),
    half_in_mixed=("fpn", "rpn.conv", "box_head", "mask_head", "keypoint_head", "semantic_head"),
    half=("PyramidAtlas", "AtlasRoiAlign"),
    # The last layers put out logits and offsets: cheap, and an eighth of a logit is too coarse.
    float32=("mask_head.predictor", "keypoint_head.predictor", "semantic_head.predictor"),
)

FREE_ROWS = -1
BUCKETS = (8, 32)
"""Rows, beside the full list, that engines of fixed shapes are built for."""
OFFICIAL_SIZES = {(800, 1344): (800, 1333)}
"""Network size -> the original's shorter and longer side of the resized picture."""


def build(
    name: str, image_size: tuple[int, int] | None, config: Mapping[str, Any]
) -> ReferenceModel:
    """Return the model with random weights, see :class:`edgeseg.models.ModelSpec`."""
    from edgeseg.models.maskrcnn.model import MaskRCNN

    preset = PRESETS[name]
    has_background = config.get("background_first", preset.background_first)
    classes = ClassRules(counts_background=has_background, names_background=has_background)
    if "stuff_labels" in config:  # the preset's ids are those of other names
        config = {"stuff_category_ids": (), **config}
    sides = sides_of(image_size or config.get("image_size", preset.image_size), config)
    return MaskRCNN(name, configured(name, preset, image_size, {**sides, **config}, classes))


def sides_of(image_size: tuple[int, int], config: Mapping[str, Any]) -> dict[str, int]:
    """Return the shorter and the longer side of the resized picture, for a size of the input."""
    shorter, longer = OFFICIAL_SIZES.get(image_size, (min(image_size), max(image_size)))
    return {"min_size": shorter, "max_size": max(longer, config.get("min_size", shorter))}


def key_table(name: str, _config: Mapping[str, Any] = MappingProxyType({})) -> KeyTable:
    """Return the parameter names of the official checkpoint of a variant."""
    from edgeseg.models.maskrcnn import checkpoint

    if name.endswith("_3x"):
        return checkpoint.DETECTRON2
    if name.endswith("_v2"):
        return checkpoint.TORCHVISION_V2
    return checkpoint.OWN if name == "maskrcnn_tiny" else checkpoint.TORCHVISION_V1


def manifest(model: ReferenceModel) -> Manifest:
    """Return what a device has to know of ``model``; artifacts are added by the exporter."""
    from edgeseg.models.maskrcnn.model import MaskRCNN

    assert isinstance(model, MaskRCNN)
    config = model.config
    num_keypoints = config.num_keypoints
    graphs = _graphs(model)
    return Manifest(
        name=model.name,
        task="panoptic" if config.stuff_labels else "instances",
        precision="fp32",
        graphs=graphs,
        schedule=Schedule(first=tuple(graphs), then=tuple(graphs)),
        preprocess=preprocess(config),
        postprocess={
            "mask_paste": "none" if num_keypoints else config.mask_paste,
            "mask_threshold": 0.5,
            "drop_empty_boxes": config.drop_empty_boxes,
            "score_threshold": 0.0,
            "keypoints": "bicubic_argmax" if num_keypoints else "none",
            **(_panoptic_options(config) if config.stuff_labels else {}),
        },
        labels=(*config.labels, *config.stuff_labels),
        category_ids=(*config.category_ids, *config.stuff_ids),
    )


def _panoptic_options(config: MaskRCNNConfig) -> dict[str, float]:
    """Return what only the panoptic task has, and its threshold: the original keeps a score equal to it."""
    below = np.nextafter(np.float32(config.panoptic_score_thresh), np.float32(-1))
    return {
        "score_threshold": max(float(below), 0.0),
        "overlap_threshold": config.overlap_threshold,
        "stuff_area": config.stuff_area,
    }


def preprocess(config: DetectorConfig) -> Preprocess:
    """Return how a picture becomes the input of a detector."""
    height, width = config.image_size
    return Preprocess(
        height=height,
        width=width,
        resize="shortest_edge",
        min_size=config.min_size,
        max_size=config.max_size,
        interpolation=config.interpolation,
        rounding=config.rounding,
    )


def detect_graph(config: DetectorConfig, *further: TensorSpec) -> Graph:
    """Return what finds the detections, and keeps the atlas for what looks at each of them.

    Args:
        config: of the detector.
        *further: what it says of the whole picture beside.
    """
    from edgeseg.ops.pyramid_atlas import atlas_layout

    height, width = config.image_size
    num_results = config.box_detections_per_img
    image = TensorSpec(name="image", dtype="uint8", shape=(1, height, width, 3))
    fraction = dataclasses.replace(image, name="image_fraction")
    layout = atlas_layout([(height // stride, width // stride) for stride in STRIDES])
    return Graph(
        inputs=(
            image,
            TensorSpec(name="image_size", dtype="int32", shape=(1, 2)),
            *((fraction,) if config.takes_fraction else ()),
        ),
        outputs=(
            TensorSpec(name="boxes", dtype="float32", shape=(1, num_results, 4)),
            TensorSpec(name="scores", dtype="float32", shape=(1, num_results)),
            TensorSpec(name="labels", dtype="int32", shape=(1, num_results)),
            *further,
            TensorSpec(
                name="atlas",
                dtype="float32",
                shape=(1, config.fpn_channels, layout.height, layout.width),
            ),
        ),
        kept=("atlas",),
    )


def staged(detect: Graph, name: str, branch: Graph) -> dict[str, Graph]:
    """Return detector and branch by name, or one graph: a row that is always there needs no free axis."""
    assert branch.rows is not None
    if branch.rows.maximum > 1:
        return {DETECT: detect, name: branch}
    return one_graph(detect.inputs, (*detect.given, *(spec.with_rows(1) for spec in branch.given)))


def branch_graph(
    detect: Graph,
    takes: Sequence[str],
    outputs: Sequence[TensorSpec],
    *,
    maximum: int,
    buckets: Sequence[int],
    counts: str = "scores",
) -> Graph:
    """Return a stage that runs once for each of the first ``maximum`` detections.

    Args:
        detect: what finds them.
        takes: its outputs that the stage takes.
        outputs: of the stage, with free rows.
        maximum: number of rows.
        buckets: numbers of rows, beside ``maximum``, that engines of fixed shapes are built for.
        counts: which of its outputs tells how many there are.
    """
    inputs = []
    for name in takes:
        spec = detect.output(name)
        if name not in detect.kept:
            spec = dataclasses.replace(spec, shape=(1, FREE_ROWS, *spec.shape[2:]))
        inputs.append(spec)
    return Graph(
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        takes={name: f"{DETECT}.{name}" for name in takes},
        rows=Rows(
            counts=counts,
            maximum=maximum,
            buckets=tuple(sorted({min(bucket, maximum) for bucket in (*buckets, maximum)})),
        ),
    )


def _graphs(model: MaskRCNN) -> dict[str, Graph]:
    """Return what finds the detections, and the stage that runs once for each of them."""
    config = model.config
    found = (
        TensorSpec(
            name="keypoint_heatmaps",
            dtype="float32",
            shape=(1, FREE_ROWS, config.num_keypoints, 56, 56),
        )
        if config.num_keypoints
        else TensorSpec(name="masks", dtype="float32", shape=(1, FREE_ROWS, 28, 28))
    )
    height, width = config.image_size
    semantic = TensorSpec(
        name="semantic_logits",
        dtype="float32",
        shape=(1, 1 + len(config.stuff_labels), height // STRIDES[0], width // STRIDES[0]),
    )
    detect = detect_graph(config, *((semantic,) if config.stuff_labels else ()))
    branch = branch_graph(
        detect,
        ("atlas", "boxes") if config.num_keypoints else ("atlas", "boxes", "labels"),
        (found,),
        maximum=config.box_detections_per_img,
        buckets=BUCKETS,
    )
    return staged(detect, model.branch, branch)


_ORIGINS = {  # licence of code and weights, source of the figures
    "torchvision": (
        "BSD-3-Clause (code), weights not stated",
        "torchvision 0.27 weight metadata, COCO val2017",
    ),
    "detectron2": (
        "Apache-2.0 (code), CC BY-SA 3.0 (weights)",
        "detectron2 MODEL_ZOO.md, COCO val2017",
    ),
    "edgeseg": (
        "Apache-2.0 (code and weights)",
        "benchmarks/results/maskrcnn_tiny_bench.md, 200 pictures of shapes val",
    ),
}


def constants(config: DetectorConfig) -> dict[str, tuple[float, ...]]:
    """Return what older checkpoints of detectron2 hold of their configuration."""
    anchors = {
        rf"anchor_generator\.cell_anchors\.{level}$": tuple(
            sign * side / 2
            for ratio in config.anchor_ratios
            for sign in (-1, 1)
            for side in (size / math.sqrt(ratio), size * math.sqrt(ratio))
        )
        for level, size in enumerate(config.anchor_sizes)
    }
    return {r"^pixel_mean$": config.mean, r"^pixel_std$": config.std, **anchors}


FAMILY = Family(
    name="maskrcnn",
    purpose="instances",
    presets=PRESETS,
    origins=_ORIGINS,
    precision=PRECISION,
    build=build,
    key_table=key_table,
    constants=constants,
    manifest=manifest,
    variants=turned,  # the originals scale the shorter side, whichever it is
)

SPECS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        FAMILY.spec(
            "maskrcnn_resnet50_fpn", "torchvision", 44_401_393,
            gflops=269.2, accuracy={"box_AP": 0.379, "mask_AP": 0.346},
        ),
        FAMILY.spec(
            "maskrcnn_resnet50_fpn_v2", "torchvision", 46_359_409,
            gflops=436.6, accuracy={"box_AP": 0.474, "mask_AP": 0.418},
        ),
        FAMILY.spec(
            "keypointrcnn_resnet50_fpn", "torchvision", 59_137_258, purpose="keypoints",
            gflops=565.1, accuracy={"box_AP": 0.546, "keypoint_AP": 0.650},
        ),
        FAMILY.spec(
            "maskrcnn_resnet50_fpn_3x", "detectron2", 44_343_216,
            gflops=264.0, accuracy={"box_AP": 0.410, "mask_AP": 0.372},
        ),
        FAMILY.spec(
            "maskrcnn_resnet101_fpn_3x", "detectron2", 63_283_120,
            gflops=343.5, accuracy={"box_AP": 0.429, "mask_AP": 0.386},
        ),
        FAMILY.spec(
            "panoptic_fpn_resnet50_3x", "detectron2", 45_973_990, purpose="panoptic",
            gflops=296.3, accuracy={"PQ": 0.415, "box_AP": 0.400, "mask_AP": 0.365},
        ),
        FAMILY.spec(
            "panoptic_fpn_resnet101_3x", "detectron2", 64_913_894, purpose="panoptic",
            gflops=375.9, accuracy={"PQ": 0.430, "box_AP": 0.424, "mask_AP": 0.385},
        ),
        FAMILY.spec(
            "maskrcnn_tiny", "edgeseg", 978_549,
            gflops=0.8, accuracy={"box_AP": 0.745, "mask_AP": 0.702},
        ),
    )
}  # fmt: skip
