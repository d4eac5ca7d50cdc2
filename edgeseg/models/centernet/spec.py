"""The CenterNet variants: how they are built, manifests, published figures."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgeseg.models import Family, ModelSpec, PrecisionRecipe
from edgeseg.models.building import configured
from edgeseg.models.centernet.config import PRESETS, RENAMED, pose
from edgeseg.models.labels import (
    COCO_KEYPOINTS,
    COCO_SKELETON,
    ClassRules,
)
from edgeseg_runtime.bundle.manifest import Manifest, Preprocess, TensorSpec, one_graph

if TYPE_CHECKING:
    from edgeseg.models.checkpoint import KeyTable
    from edgeseg.models.reference import ReferenceModel

DEMO: dict[str, Any] = {
    "mean": (0.408 * 255, 0.447 * 255, 0.470 * 255),
    "std": (0.289 * 255, 0.274 * 255, 0.278 * 255),
}
"""The rounded constants of the original's demonstration, an option of every COCO model."""

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

    ``kind="pose"`` implies the one class person.
    """
    from edgeseg.models.centernet.model import CenterNet

    config = {RENAMED.get(field, field): value for field, value in config.items()}
    preset = pose(PRESETS[name]) if config.get("kind") == "pose" else PRESETS[name]
    return CenterNet(name, configured(name, preset, image_size, config, ClassRules()))


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
    return tables[config.get("backbone", PRESETS[name].backbone)]


def manifest(model: ReferenceModel) -> Manifest:
    """Return what a device has to know of ``model``; artifacts are added by the exporter."""
    from edgeseg.models.centernet.model import CenterNet

    assert isinstance(model, CenterNet)
    config = model.config
    height, width = config.image_size
    num_results, num_joints = config.max_detections, config.num_joints
    is_pose = config.kind == "pose"
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
        {}
        if (side, side) == PRESETS[f"centernet_{ours}_pascal"].image_size
        else {"image_size": (side, side)},
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
    purpose="instances",
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
            purpose="keypoints",
            gflops=40.2,
            accuracy={"keypoint_AP": 0.589},
        ),
        FAMILY.spec(
            "centernet_hourglass104_pose",
            "coco_pose",
            191_255_738,
            purpose="keypoints",
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
