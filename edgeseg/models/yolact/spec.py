"""The YOLACT and YOLACT++ variants: how they are built, manifests, published figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgeseg.models import Family, ModelSpec, PrecisionRecipe
from edgeseg.models.building import configured
from edgeseg.models.labels import ClassRules
from edgeseg.models.yolact.config import PRESETS, YolactConfig
from edgeseg_runtime.bundle.manifest import Manifest, Preprocess, TensorSpec, one_graph

if TYPE_CHECKING:
    from edgeseg.models.checkpoint import KeyTable
    from edgeseg.models.reference import ReferenceModel

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
    from edgeseg.models.yolact.model import Yolact

    preset = PRESETS[name]
    given = {"pred_scales": scales_at(preset, image_size or config.get("image_size")), **config}
    classes = ClassRules(counts_background=True)
    return Yolact(name, configured(name, preset, image_size, given, classes))


def scales_at(preset: YolactConfig, image_size: tuple[int, int] | None) -> tuple[float, ...]:
    """Return the sizes of a variant's priors at another size of the input, in whole pixels (data/config.py)."""
    to_side, from_side = max(image_size or preset.image_size), max(preset.image_size)
    return tuple(max(scale * to_side // from_side, 1) for scale in preset.pred_scales)


def key_table(name: str, config: Mapping[str, Any] = MappingProxyType({})) -> KeyTable:
    """Return the parameter names of the official checkpoint of a variant."""
    from edgeseg.models.yolact import checkpoint

    tables = {"darknet53": checkpoint.DARKNET, "small": checkpoint.OWN}
    return tables.get(config.get("backbone", PRESETS[name].backbone), checkpoint.RESNET)


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
