"""The CenterNet variants: configurations, published figures, manifests."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgeseg.models import Family, ModelSpec, PrecisionRecipe
from edgeseg.models.building import settings_of
from edgeseg.models.labels import (
    COCO_80,
    COCO_80_IDS,
    COCO_KEYPOINTS,
    COCO_SKELETON,
    PASCAL_20,
    SHAPES,
    ClassRules,
)
from edgeseg_runtime.manifest import Manifest, Preprocess, TensorSpec, one_graph

if TYPE_CHECKING:
    from edgeseg.models.checkpoint import KeyTable
    from edgeseg.models.reference import ReferenceModel

COCO: dict[str, Any] = {"labels": COCO_80, "category_ids": COCO_80_IDS}
RESNET18: dict[str, Any] = {**COCO, "backbone": "resnet18"}
RESNET101: dict[str, Any] = {**COCO, "backbone": "resnet101"}
DLA34: dict[str, Any] = {**COCO, "backbone": "dla34", "head_channels": 256}
DLA34_V0: dict[str, Any] = {**COCO, "backbone": "dlav0_34", "head_channels": 256}
HOURGLASS: dict[str, Any] = {**COCO, "backbone": "hourglass104", "head_channels": 256}
POSE: dict[str, Any] = {
    "task": "pose",
    "num_classes": 1,
    "labels": ("person",),
    "category_ids": (1,),
}
PASCAL: dict[str, Any] = {
    "image_size": (384, 384),
    "num_classes": 20,
    "labels": PASCAL_20,
    "category_ids": tuple(range(1, 21)),
    # ImageNet's numbers for red, green, blue, which the original puts on blue, green, red.
    "mean": (0.485 * 255, 0.456 * 255, 0.406 * 255),
    "std": (0.229 * 255, 0.224 * 255, 0.225 * 255),
}
DEMO: dict[str, Any] = {
    "mean": (0.408 * 255, 0.447 * 255, 0.470 * 255),
    "std": (0.289 * 255, 0.274 * 255, 0.278 * 255),
}
"""The rounded constants of the original's demonstration, an option of every COCO model."""
TINY: dict[str, Any] = {
    "image_size": (224, 224),
    "num_classes": len(SHAPES) - 1,
    "labels": SHAPES[1:],
    "category_ids": tuple(range(1, len(SHAPES))),
    "backbone": "small",
    "backbone_channels": (24, 40, 64, 96),
    "head_channels": 48,
    "max_detections": 50,
}
PRESETS: dict[str, dict[str, Any]] = {
    "centernet_dla34": DLA34,
    "centernet_dla34_pascal": {**DLA34, **PASCAL},
    "centernet_dla34_pose": {**DLA34, **POSE},
    "centernet_dlav0_34": DLA34_V0,
    "centernet_hourglass104": HOURGLASS,
    "centernet_hourglass104_pose": {**HOURGLASS, **POSE},
    "centernet_resnet101_dcn": RESNET101,
    "centernet_resnet101_dcn_pascal": {**RESNET101, **PASCAL},
    "centernet_resnet18_dcn": RESNET18,
    "centernet_resnet18_dcn_pascal": {**RESNET18, **PASCAL},
    "centernet_tiny": TINY,
}
"""Model name -> what differs from the defaults of ``CenterNetConfig``."""

PRECISION = PrecisionRecipe(
    int8=("backbone", "neck", "heads"),
    half_in_mixed=("neck", "heads"),
    float32=(
        ".conv_offset_mask",  # where deformable convolutions sample
        # Scores, sizes and offsets are read from the last layers as they are.
        *(
            f"heads.{name}.predictor"
            for name in ("heatmap", "size", "offset", "joints", "joint_heatmap", "joint_offset")
        ),
    ),
)


def build(
    name: str, image_size: tuple[int, int] | None, config: Mapping[str, Any]
) -> ReferenceModel:
    """Return the model with random weights, see :class:`edgeseg.models.ModelSpec`.

    ``task="pose"`` implies the one class person.
    """
    from edgeseg.models.centernet.model import CenterNet, CenterNetConfig

    preset = {**PRESETS[name], **(POSE if config.get("task") == "pose" else {})}
    settings = settings_of(name, CenterNetConfig, preset, image_size, config, ClassRules())
    return CenterNet(name, CenterNetConfig(**settings))


def key_table(name: str, config: Mapping[str, Any] = MappingProxyType({})) -> KeyTable:
    """Return the parameter names of the official checkpoint of a variant."""
    from edgeseg.models.centernet import checkpoint

    tables = {
        "dla34": checkpoint.DLA,
        "dlav0_34": checkpoint.DLA_V0,
        "hourglass104": checkpoint.HOURGLASS,
        "resnet18": checkpoint.RESNET,
        "resnet101": checkpoint.RESNET,
        "small": checkpoint.OWN,
    }
    return tables[{**PRESETS[name], **config}["backbone"]]


def manifest(model: ReferenceModel) -> Manifest:
    """Return what a device has to know of ``model``; artifacts are added by the exporter."""
    from edgeseg.models.centernet.model import CenterNet

    assert isinstance(model, CenterNet)
    config = model.config
    height, width = config.image_size
    num_results, num_joints = config.max_detections, config.num_joints
    is_pose = config.task == "pose"
    keypoints = TensorSpec(name="keypoints", dtype="float32", shape=(1, num_results, num_joints, 3))
    has_coco_joints = is_pose and num_joints == len(COCO_KEYPOINTS) and not config.keypoint_names
    return Manifest(
        name=model.name,
        task="instances",
        precision="fp32",
        graphs=one_graph(
            inputs=(TensorSpec(name="image", dtype="uint8", shape=(1, height, width, 3)),),
            outputs=(
                TensorSpec(name="boxes", dtype="float32", shape=(1, num_results, 4)),
                TensorSpec(name="scores", dtype="float32", shape=(1, num_results)),
                TensorSpec(name="labels", dtype="int32", shape=(1, num_results)),
                *((keypoints,) if is_pose else ()),
            ),
        ),
        preprocess=Preprocess(
            height=height, width=width, resize="center" if config.keep_res else "affine"
        ),
        postprocess={
            "mask_paste": "none",
            "mask_threshold": 0.5,
            "drop_empty_boxes": False,
            "score_threshold": 0.0,
            "keypoints": "none",
        },
        labels=config.labels,
        category_ids=config.category_ids,
        keypoint_names=COCO_KEYPOINTS if has_coco_joints else config.keypoint_names,
        skeleton=COCO_SKELETON if has_coco_joints and not config.skeleton else config.skeleton,
    )


MIT = "MIT (code), weights not stated"
_ORIGINS = {  # licence of code and weights, source of the figures
    "coco": (MIT, "CenterNet MODEL_ZOO.md, COCO val2017, one scale, no flip"),
    "coco_pose": (MIT, "CenterNet MODEL_ZOO.md, COCO val2017, one scale, flip test"),
    "pascal": (MIT, "CenterNet MODEL_ZOO.md, Pascal VOC 2007 test, flip test"),
    "none": ("MIT (code), no weights", "the original has no checkpoint of it"),
    "edgeseg": (
        "Apache-2.0 (code and weights)",
        "benchmarks/results/centernet_tiny_bench.md, 200 pictures of shapes val",
    ),
}

FILES: dict[str, tuple[str, dict[str, Any]]] = {
    f"ctdet_pascal_{theirs}_{side}": (
        f"centernet_{ours}_pascal",
        {} if (side, side) == PASCAL["image_size"] else {"image_size": (side, side)},
    )
    for theirs, ours in (
        ("dla", "dla34"),
        ("resdcn18", "resnet18_dcn"),
        ("resdcn101", "resnet101_dcn"),
    )
    for side in (384, 512)
}
"""See :class:`edgeseg.models.ModelSpec`: means and sizes are not in the files."""

FAMILY = Family(
    name="centernet",
    task="instances",
    image_size=(512, 512),
    presets=PRESETS,
    origins=_ORIGINS,
    precision=PRECISION,
    build=build,
    key_table=key_table,
    files=FILES,
    manifest=manifest,
)

SPECS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        FAMILY.spec(
            "centernet_resnet18_dcn", "coco", 14_437_349, gflops=13.3, accuracy={"box_AP": 0.281}
        ),
        FAMILY.spec(
            "centernet_resnet101_dcn", "coco", 49_673_189, gflops=45.6, accuracy={"box_AP": 0.346}
        ),
        FAMILY.spec("centernet_dla34", "coco", 19_634_164, gflops=33.0, accuracy={"box_AP": 0.374}),
        FAMILY.spec("centernet_dlav0_34", "none", 17_919_748, gflops=31.1, accuracy={}),
        FAMILY.spec(
            "centernet_hourglass104", "coco", 189_492_180, gflops=263.4, accuracy={"box_AP": 0.403}
        ),
        FAMILY.spec(
            "centernet_dla34_pose",
            "coco_pose",
            20_070_618,
            task="keypoints",
            gflops=40.2,
            accuracy={"keypoint_AP": 0.589},
        ),
        FAMILY.spec(
            "centernet_hourglass104_pose",
            "coco_pose",
            191_255_738,
            task="keypoints",
            gflops=292.3,
            accuracy={"keypoint_AP": 0.640},
        ),
        FAMILY.spec(
            "centernet_resnet18_dcn_pascal",
            "pascal",
            14_433_449,
            gflops=7.5,
            accuracy={"box_AP50": 0.726},
        ),
        FAMILY.spec(
            "centernet_resnet101_dcn_pascal",
            "pascal",
            49_669_289,
            gflops=25.6,
            accuracy={"box_AP50": 0.771},
        ),
        FAMILY.spec(
            "centernet_dla34_pascal",
            "pascal",
            19_618_744,
            gflops=18.4,
            accuracy={"box_AP50": 0.793},
        ),
        FAMILY.spec("centernet_tiny", "edgeseg", 737_814, gflops=0.4, accuracy={"box_AP": 0.633}),
    )
}
