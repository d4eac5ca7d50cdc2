"""The YOLACT and YOLACT++ variants: configurations, published figures, manifests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgeseg.models import Family, ModelSpec, PrecisionRecipe
from edgeseg.models.building import settings_of
from edgeseg.models.labels import COCO_80, COCO_80_IDS, PASCAL_20, SHAPES, ClassRules
from edgeseg_runtime.manifest import Manifest, Preprocess, TensorSpec, one_graph

if TYPE_CHECKING:
    from edgeseg.models.checkpoint import KeyTable
    from edgeseg.models.reference import ReferenceModel

COCO: dict[str, Any] = {"labels": COCO_80, "category_ids": COCO_80_IDS}
DARKNET53 = {**COCO, "backbone": "darknet53", "mean": (0.0, 0.0, 0.0), "std": (255.0, 255.0, 255.0)}
PLUS = {**COCO, "use_maskiou": True, "use_square_anchors": False, "scales_per_level": 3}
PASCAL: dict[str, Any] = {
    "num_classes": 21,
    "labels": PASCAL_20,
    "category_ids": tuple(range(1, 21)),
    "use_square_anchors": False,
    "pred_scales": (32, 64, 128, 256, 512),
}
TINY = {
    "takes_fraction": False,
    "image_size": (192, 192),
    "num_classes": len(SHAPES),
    "labels": SHAPES[1:],
    "category_ids": tuple(range(1, len(SHAPES))),
    "backbone": "small",
    "backbone_channels": (24, 40, 64, 96),
    "fpn_channels": 64,
    "head_channels": 64,
    "proto_channels": 48,
    "mask_dim": 16,
    "pred_scales": (12, 24, 48, 96, 176),
    "nms_top_k": 50,
    "max_num_detections": 30,
}
PRESETS: dict[str, dict[str, Any]] = {
    "yolact_darknet53": DARKNET53,
    "yolact_plus_resnet101": {**PLUS, "dcn_layers": (0, 4, 23, 3), "dcn_interval": 3},
    "yolact_plus_resnet50": {**PLUS, "backbone": "resnet50", "dcn_layers": (0, 4, 6, 3)},
    "yolact_resnet101": COCO,
    "yolact_resnet50": {**COCO, "backbone": "resnet50"},
    "yolact_resnet50_pascal": {**PASCAL, "backbone": "resnet50"},
    "yolact_tiny": TINY,
}
"""Model name -> what differs from the defaults of ``YolactConfig``."""

MASK_THRESHOLD = 0.500001
"""The original sets a pixel above 0.5. Where all prototypes are 0 the probability is exactly 0.5,
and must not be set; the margin is for the rounding of the interpolation."""

PRECISION = PrecisionRecipe(
    int8=("backbone", "fpn", "prototypes", "head.hidden"),
    half_in_mixed=("fpn", "head.hidden"),
    half=("head", "mask_scorer"),
    float32=(
        "prototypes.output",  # the masks are sums of these 32
        ".conv_offset_mask",  # where deformable convolutions sample
    ),
)


def build(
    name: str, image_size: tuple[int, int] | None, config: Mapping[str, Any]
) -> ReferenceModel:
    """Return the model with random weights, see :class:`edgeseg.models.ModelSpec`.

    The sizes of the priors follow ``image_size``, as in the original's im400 and im700, unless
    ``config`` gives them.
    """
    from edgeseg.models.yolact.model import Yolact, YolactConfig

    classes = ClassRules(counts_background=True)
    settings = settings_of(name, YolactConfig, PRESETS[name], image_size, config, classes)
    if "pred_scales" not in config:
        settings["pred_scales"] = _scaled_scales(
            settings.get("pred_scales", YolactConfig.pred_scales),
            from_size=PRESETS[name].get("image_size", YolactConfig.image_size),
            to_size=settings.get("image_size", YolactConfig.image_size),
        )
    return Yolact(name, YolactConfig(**settings))


def _scaled_scales(
    scales: tuple[int, ...], *, from_size: tuple[int, int], to_size: tuple[int, int]
) -> tuple[float, ...]:
    """Return the sizes of the priors at another size of the input, in whole pixels (data/config.py)."""
    return tuple(max(scale * max(to_size) // max(from_size), 1) for scale in scales)


def key_table(name: str, config: Mapping[str, Any] = MappingProxyType({})) -> KeyTable:
    """Return the parameter names of the official checkpoint of a variant."""
    from edgeseg.models.yolact import checkpoint

    tables = {"darknet53": checkpoint.DARKNET, "small": checkpoint.OWN}
    backbone = {**PRESETS[name], **config}.get("backbone", "resnet101")
    return tables.get(backbone, checkpoint.RESNET)


def manifest(model: ReferenceModel) -> Manifest:
    """Return what a device has to know of ``model``; artifacts are added by the exporter."""
    from edgeseg.models.yolact.model import Yolact

    assert isinstance(model, Yolact)
    config = model.config
    height, width = config.image_size
    shapes = {
        "boxes": (4,),
        "scores": (),
        "labels": (),
        "masks": config.mask_size,
        "mask_scores": (),
    }
    image = TensorSpec(name="image", dtype="uint8", shape=(1, height, width, 3))
    fraction = dataclasses.replace(image, name="image_fraction")
    return Manifest(
        name=model.name,
        task="instances",
        precision="fp32",
        graphs=one_graph(
            inputs=(image, fraction) if config.takes_fraction else (image,),
            outputs=tuple(
                TensorSpec(
                    name=name,
                    dtype="int32" if name == "labels" else "float32",
                    shape=(1, config.num_results, *shapes[name]),
                )
                for name in model.outputs
            ),
        ),
        preprocess=Preprocess(height=height, width=width, resize="stretch"),
        postprocess={
            "mask_paste": "none",
            "mask_threshold": MASK_THRESHOLD,
            "drop_empty_boxes": False,
            "score_threshold": 0.0,
            "keypoints": "none",
            "box_rounding": "truncate",
        },
        labels=config.labels,
        category_ids=config.category_ids,
    )


_ORIGINS = {  # licence of code and weights, source of the figures
    "yolact": ("MIT (code), weights not stated", "dbolya/yolact README, COCO test-dev"),
    "pascal": ("MIT (code), weights not stated", "dbolya/yolact README, Pascal SBD val"),
    "edgeseg": (
        "Apache-2.0 (code and weights)",
        "benchmarks/results/yolact_tiny_bench.md, 200 pictures of shapes val",
    ),
}


FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "yolact_im400": ("yolact_resnet101", {"image_size": (400, 400)}),
    "yolact_im700": ("yolact_resnet101", {"image_size": (700, 700)}),
    "yolact_resnet50_pascal": ("yolact_resnet50_pascal", {}),
    r"yolact_resnet50_\d": ("yolact_resnet50", {}),
}
"""See :class:`edgeseg.models.ModelSpec`: the priors are not in the files."""

FAMILY = Family(
    name="yolact",
    task="instances",
    image_size=(550, 550),
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
            "yolact_resnet50", "yolact", 31_144_383,
            gflops=59.2, accuracy={"mask_AP": 0.282},
        ),
        FAMILY.spec(
            "yolact_resnet50_pascal", "pascal", 30_729_483,
            gflops=56.5, accuracy={"mask_AP50": 0.723},
        ),
        FAMILY.spec(
            "yolact_resnet101", "yolact", 50_136_511,
            gflops=82.4, accuracy={"mask_AP": 0.298},
        ),
        FAMILY.spec(
            "yolact_darknet53", "yolact", 47_762_527,
            gflops=77.4, accuracy={"mask_AP": 0.287},
        ),
        FAMILY.spec(
            "yolact_plus_resnet50", "yolact", 33_745_900,
            gflops=71.2, accuracy={"mask_AP": 0.341},
        ),
        FAMILY.spec(
            "yolact_plus_resnet101", "yolact", 52_550_582,
            gflops=94.2, accuracy={"mask_AP": 0.346},
        ),
        FAMILY.spec(
            "yolact_tiny", "edgeseg", 897_309,
            gflops=0.3, accuracy={"box_AP": 0.375, "mask_AP": 0.334},
        ),
    )
}  # fmt: skip
"""YOLACT and YOLACT++."""
